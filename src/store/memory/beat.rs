//! The entries of schedules, and whose they are; the same rules as in `scripts/beat.lua`.

use std::sync::Arc;

use super::lapsing::Lapses;
use super::{LONGEST_MS, Step};
use crate::rules::beat::Turn;
use crate::rules::lock::Digest;

/// Whose an entry is, and until when.
pub(super) struct Owner {
    origin: Arc<str>,
    until_ms: u64,
}

impl Lapses for Owner {
    fn lives_until(&self) -> u64 {
        self.until_ms
    }
}

impl Step<'_> {
    /// An entry is the beat's that asks, unless it is another's.
    pub(super) fn beat_lease(&mut self, digest: Digest, origin: &Arc<str>, life_ms: u64) -> Turn {
        let until_ms = self.now + life_ms.clamp(1, LONGEST_MS);
        match self.table.beats.get_mut(&digest, self.now) {
            Some(owner) if owner.origin == *origin => owner.until_ms = until_ms,
            Some(owner) => {
                return Turn::Other {
                    origin: Arc::clone(&owner.origin),
                    expires_in_ms: owner.until_ms - self.now,
                };
            }
            None => {
                let origin = Arc::clone(origin);
                self.table.beats.insert(digest, Owner { origin, until_ms }, self.now);
            }
        }
        Turn::Own
    }
}
