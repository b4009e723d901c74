//! The locks of deliveries: they are renewed for as long as the client has not settled them, and all at once when the store may have
//! forgotten them.

use std::sync::Arc;

use super::agenda::Place;
use super::event::{Event, Run};
use super::{Now, Session, Shared};
use crate::rules::lock::{Alive, Claim, Digest, LockNote, Nonce, Request, Scope};

/// Locks are renewed at least so often, in microseconds, however long they live.
const RENEWAL_MAX_US: u64 = 30_000_000;
/// When the store is back, so many locks of a connection are renewed at a time, or more where there are very many.
const AT_A_TIME: usize = 256;
/// The time between two such lots, in microseconds.
const LOT_US: u64 = 20_000;
/// There are at most so many lots, so that all is done two seconds after the first.
const LOTS: usize = 100;

/// The lock of a delivery.
#[derive(Debug)]
pub(super) struct Hold {
    pub claim: Claim,
    pub delivery: Nonce,
    pub note: Arc<LockNote>,
    /// When the delivery was judged, in monotonic microseconds: the times in the note count from then.
    pub judged_us: u64,
    renewed_us: u64,
    /// When it is to be renewed though its time has not come.
    hastened_us: Option<u64>,
}

impl Hold {
    /// That of a delivery that is judged now.
    pub(super) fn new(shared: &mut Shared, digest: Digest, id: Arc<str>, note: LockNote) -> Hold {
        Hold {
            claim: Claim { digest, id },
            delivery: shared.nonce(),
            note: Arc::new(note),
            judged_us: shared.now.us,
            renewed_us: shared.now.us,
            hastened_us: None,
        }
    }

    /// The store has answered the question about the delivery, and knows it by this key.
    pub(super) fn answered(&mut self, digest: Digest, now_us: u64) {
        self.claim.digest = digest;
        self.renewed_us = now_us;
    }

    /// When it is to be renewed, in monotonic microseconds: after a third of its life.
    pub(super) fn renewal_us(&self) -> u64 {
        let third = (self.note.life_ms.saturating_mul(1000) / 3).clamp(1, RENEWAL_MAX_US);
        let usual_us = self.renewed_us.saturating_add(third);
        self.hastened_us.map_or(usual_us, |hastened| hastened.min(usual_us))
    }

    /// Whether its task may begin no more, if it has not.
    fn is_too_late(&self, now_us: u64) -> bool {
        let unstarted_us = self.note.unstarted_ms.map(|unstarted| unstarted.saturating_mul(1000));
        unstarted_us.is_some_and(|unstarted| now_us >= self.judged_us.saturating_add(unstarted))
    }

    /// The note, with its times counted from now.
    pub(super) fn note_at(&self, now_us: u64) -> Arc<LockNote> {
        let Some(unstarted) = self.note.unstarted_ms else {
            return Arc::clone(&self.note);
        };
        let passed_ms = now_us.saturating_sub(self.judged_us) / 1000;
        Arc::new(LockNote {
            unstarted_ms: Some(unstarted.saturating_sub(passed_ms)),
            ..LockNote::clone(&self.note)
        })
    }
}

impl Session {
    /// The store can be asked again, and may be another than before, or have forgotten: every lock that is known to be alive is renewed
    /// at once, as far as that leaves the store time for others.
    pub fn handle_store_back(&mut self, now: Now) {
        self.shared.now = now;
        let channels = &mut self.channels.open;
        let count: usize = channels.iter_mut().map(|channel| channel.deliveries.holds_mut().count()).sum();
        let at_a_time = AT_A_TIME.max(count.div_ceil(LOTS));
        let mut number = 0;
        for channel in channels {
            let mut tags = Vec::new();
            for (tag, hold) in channel.deliveries.holds_mut() {
                hold.hastened_us = Some(now.us + (number / at_a_time) as u64 * LOT_US);
                tags.push(tag);
                number += 1;
            }
            for tag in tags {
                channel.schedule(&mut self.shared, Place::Delivered(tag));
            }
        }
        if number > 0 {
            self.handle_timeout(now);
        }
    }
}

impl Shared {
    /// The client still has the delivery that holds this lock.
    pub(super) fn renew_hold(&mut self, hold: &mut Hold) {
        hold.renewed_us = self.now.us;
        hold.hastened_us = None;
        let running = self.witness.has_begun(&hold.claim.id);
        // A task that may not begin any more keeps no lock.
        if !running && hold.is_too_late(self.now.us) {
            return;
        }
        self.tells.push(Request::Renew {
            claim: hold.claim.clone(),
            delivery: hold.delivery,
            note: hold.note_at(self.now.us),
            alive: if running { Alive::Begun } else { Alive::Delivered },
            worker: Arc::clone(&self.worker),
        });
    }

    /// The client has acknowledged the delivery that holds this lock. Where that does not end the task, a worker runs it from now on.
    pub(super) fn runs_on(&mut self, hold: Hold) {
        if hold.note.scope != Scope::UntilFinished || hold.note.acks_late || self.worker.is_empty() {
            return;
        }
        self.events.push(Event::Runs(Run {
            claim: hold.claim,
            delivery: hold.delivery,
            note: hold.note,
            worker: Arc::clone(&self.worker),
        }));
    }
}
