//! Messages that wait for the end of a holder instead of being dropped.
//!
//! Of each it is known whose duplicate it is. When the lock of a holder that somebody waits for goes by a word of the holder, that is
//! remembered; one that lapsed, was never published, or was freed by an operator leaves nothing, and those that waited are decided anew.
//!
//! The end of a holder whose lock has gone by its start is waited for as long as a lock lives: its worker may be gone without a word.

use std::sync::Arc;

use super::lapsing::Lapses;
use super::{DEAD_KEPT_MS, LONGEST_MS, Step};
use crate::rules::lock::{Admitted, Claim, Digest, Fate, LockNote, LockState, ReleaseReason, Signal};
use crate::rules::owed::Owed;

/// Of whom a message is a duplicate.
#[derive(Debug)]
pub(super) struct Twin {
    holder: Arc<str>,
    until_ms: u64,
}

/// What became of a holder that somebody waits for.
#[derive(Debug)]
pub(super) struct Known {
    fate: Fate,
    at_ms: u64,
    /// For how long the end of one that has begun is waited for.
    awaited_ms: u64,
    until_ms: u64,
}

impl Known {
    /// What is known of it now.
    fn fate(&self, now: u64) -> Fate {
        let ended_ms = match self.fate {
            Fate::Failed => return Fate::Failed,
            Fate::Ended { .. } => self.at_ms,
            Fate::Begun => self.at_ms.saturating_add(self.awaited_ms),
        };
        if self.fate == Fate::Begun && now < ended_ms {
            return Fate::Begun;
        }
        Fate::Ended {
            since_ms: now.saturating_sub(ended_ms),
        }
    }
}

impl Lapses for Twin {
    fn lives_until(&self) -> u64 {
        self.until_ms
    }
}

impl Lapses for Known {
    fn lives_until(&self) -> u64 {
        self.until_ms
    }
}

/// Whether a duplicate with this note waits for its holder.
pub(super) fn waits(note: &LockNote) -> bool {
    note.owed == Owed::Carried && !note.shadow
}

fn fate_of(reason: ReleaseReason) -> Option<Fate> {
    match reason {
        ReleaseReason::Started => Some(Fate::Begun),
        ReleaseReason::Success | ReleaseReason::Ended => Some(Fate::Ended { since_ms: 0 }),
        ReleaseReason::Failure | ReleaseReason::Revoked | ReleaseReason::Expired | ReleaseReason::Crash | ReleaseReason::Purged => {
            Some(Fate::Failed)
        }
        ReleaseReason::Lapsed | ReleaseReason::Unconfirmed | ReleaseReason::Returned | ReleaseReason::Replaced | ReleaseReason::Admin => {
            None
        }
    }
}

impl Step<'_> {
    fn kept_until(&self, life_ms: u64) -> u64 {
        self.now + life_ms.clamp(1, LONGEST_MS) + DEAD_KEPT_MS
    }

    /// Of whom the message of this id is a duplicate.
    pub(super) fn twin_of(&self, claim: &Claim) -> Option<Arc<str>> {
        let key = (claim.digest, claim.id.clone());
        self.table.twins.get(&key, self.now).map(|twin| twin.holder.clone())
    }

    /// It waits for this holder from now on.
    pub(super) fn note_twin(&mut self, claim: &Claim, holder: &Arc<str>, note: &LockNote) {
        let twin = Twin {
            holder: holder.clone(),
            until_ms: self.kept_until(note.life_ms),
        };
        self.table.twins.insert((claim.digest, claim.id.clone()), twin, self.now);
        let Some(lock) = self.table.lock(&claim.digest, self.now) else {
            return;
        };
        lock.twins = lock.twins.saturating_add(1);
        // Nothing more may be heard of it.
        if lock.has_ended() && self.table.fates.get(&(claim.digest, holder.clone()), self.now).is_none() {
            self.note_fate(claim.digest, holder, ReleaseReason::Ended, note.life_ms);
        }
    }

    /// A holder of whose end somebody waits has its lock anew.
    pub(super) fn waited_again(&mut self, claim: &Claim) {
        if self.table.fates.get(&(claim.digest, claim.id.clone()), self.now).is_none() {
            return;
        }
        if let Some(lock) = self.table.lock(&claim.digest, self.now) {
            lock.twins = lock.twins.max(1);
        }
    }

    /// The lock of a holder that somebody waits for goes, or rests.
    pub(super) fn note_fate(&mut self, digest: Digest, holder: &Arc<str>, reason: ReleaseReason, life_ms: u64) {
        let Some(fate) = fate_of(reason) else { return };
        let known = Known {
            fate,
            at_ms: self.now,
            awaited_ms: life_ms.clamp(1, LONGEST_MS),
            until_ms: self.kept_until(life_ms),
        };
        self.table.fates.insert((digest, holder.clone()), known, self.now);
    }

    /// Something was learnt of an id that has no lock: whether it is one that somebody waits for, and that had begun.
    pub(super) fn hears_of_begun(&mut self, digest: Digest, holder: &Arc<str>, signal: Signal) -> bool {
        let now = self.now;
        let known = self.table.fates.get_mut(&(digest, holder.clone()), now);
        let Some(known) = known.filter(|known| known.fate == Fate::Begun) else {
            return false;
        };
        let fate = match signal {
            Signal::Succeeded | Signal::Rejected => Fate::Ended { since_ms: 0 },
            Signal::Failed | Signal::Revoked | Signal::Expired | Signal::Crashed => Fate::Failed,
            _ => return true,
        };
        (known.fate, known.at_ms) = (fate, now);
        true
    }

    /// The admission of a message that may wait; `None` if it is decided anew.
    pub(super) fn admit_twin(&mut self, claim: &Claim) -> Option<Admitted> {
        let (now, twin) = (self.now, self.twin_of(claim)?);
        let holds = |lock: &mut super::lock::Lock| lock.holder == claim.id && lock.state != LockState::Cooldown;
        if self.table.lock(&claim.digest, now).is_some_and(holds) || self.table.is_superseded(&claim.id, claim.digest, now) {
            return None;
        }
        let mut rests = false;
        if let Some(lock) = self.table.lock(&claim.digest, now).filter(|lock| lock.holder == twin) {
            rests = lock.state == LockState::Cooldown;
            if !rests {
                return Some(Admitted::Held {
                    holder: twin,
                    state: lock.state,
                    expires_in_ms: lock.expires_ms.saturating_sub(now),
                });
            }
        }
        if self.table.is_aside(&claim.digest, &twin, now) {
            return Some(Admitted::Held {
                holder: twin,
                state: LockState::Queued,
                expires_in_ms: 0,
            });
        }
        let known = self.table.fates.get(&(claim.digest, twin.clone()), now);
        let fate = match known.map(|known| known.fate(now)) {
            Some(fate) => fate,
            None if rests => Fate::Ended { since_ms: now },
            None => {
                self.table.twins.remove(&(claim.digest, claim.id.clone()), now);
                return None;
            }
        };
        Some(Admitted::Ended { holder: twin, fate })
    }
}
