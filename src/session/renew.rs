//! The locks of deliveries: they are renewed for as long as the client has not settled them, and all at once when the store may have
//! forgotten them.

use std::sync::Arc;

use super::agenda::Place;
use super::channel::Channel;
use super::event::{Event, Kept, Run};
use super::{Now, Session, Shared};
use crate::rules::lock::{Alive, Claim, Digest, LockNote, Nonce, Request, Scope};
use crate::rules::running::RunNote;

/// So long before the time of a delivery that a newer publish may replace its lock is renewed once more, in microseconds: a worker that
/// holds it until then is told in time if that has happened elsewhere.
const BEFORE_ETA_US: u64 = 2_000_000;
/// Locks are renewed at least so often, in microseconds, however long they live.
const RENEWAL_MAX_US: u64 = 30_000_000;
/// When the store is back, so many locks of a connection are renewed at a time, or more where there are very many.
const AT_A_TIME: usize = 256;
/// The time between two such lots, in microseconds.
const LOT_US: u64 = 20_000;
/// There are at most so many lots, so that all is done two seconds after the first.
const LOTS: usize = 100;

/// The locks of a delivery.
#[derive(Debug)]
pub(super) struct Hold {
    pub claim: Claim,
    pub delivery: Nonce,
    /// The publish lock, if its key has one.
    pub lock: Option<Arc<LockNote>>,
    /// The running lock, if its run takes one.
    pub run: Option<Arc<RunNote>>,
    /// The running locks that limits have given it.
    pub limited: Vec<(Claim, Arc<RunNote>)>,
    /// When the delivery was judged, in monotonic microseconds: the times in the note count from then.
    pub judged_us: u64,
    renewed_us: u64,
    /// When it is to be renewed though its time has not come.
    hastened_us: Option<u64>,
    /// When it is to be renewed for its time, which comes soon after.
    before_eta_us: Option<u64>,
}

impl Hold {
    /// That of a delivery that is judged now.
    pub(super) fn new(shared: &mut Shared, digest: Digest, id: Arc<str>, lock: Option<Arc<LockNote>>) -> Hold {
        Hold {
            claim: Claim { digest, id },
            delivery: shared.nonce(),
            lock,
            run: None,
            limited: Vec::new(),
            judged_us: shared.now.us,
            renewed_us: shared.now.us,
            hastened_us: None,
            before_eta_us: None,
        }
    }

    /// A worker holds the delivery until then, in milliseconds since the Unix epoch, and a newer one may replace it meanwhile.
    pub(super) fn waits_until(&mut self, eta_ms: u64, now: Now) {
        let left_us = eta_ms.saturating_sub(now.unix_ms).saturating_mul(1000);
        self.before_eta_us = now.us.saturating_add(left_us).checked_sub(BEFORE_ETA_US);
    }

    /// The store has answered the question about the delivery, and knows it by this key.
    pub(super) fn answered(&mut self, digest: Digest, now_us: u64) {
        self.claim.digest = digest;
        self.renewed_us = now_us;
    }

    /// When it is to be renewed, in monotonic microseconds: after a third of its life.
    pub(super) fn renewal_us(&self) -> Option<u64> {
        let run_ms = self.run.as_ref().map(|note| note.life_ms);
        let limited_ms = self.limited.iter().map(|(_, note)| note.life_ms);
        let lives = self.lock.as_ref().map(|note| note.life_ms).into_iter().chain(run_ms);
        let life_ms = lives.chain(limited_ms).min()?;
        let third = (life_ms.saturating_mul(1000) / 3).clamp(1, RENEWAL_MAX_US);
        let usual_us = self.renewed_us.saturating_add(third);
        let before_eta_us = self.before_eta_us.filter(|us| *us > self.renewed_us);
        [self.hastened_us, before_eta_us].into_iter().flatten().chain([usual_us]).min()
    }

    /// Whether its task may begin no more, if it has not.
    fn is_too_late(&self, now_us: u64) -> bool {
        let within_ms = self.lock.as_ref().and_then(|note| note.unstarted_ms);
        let unstarted_us = within_ms.map(|within| within.saturating_mul(1000));
        unstarted_us.is_some_and(|unstarted| now_us >= self.judged_us.saturating_add(unstarted))
    }

    /// The note of the publish lock, with its times counted from now.
    pub(super) fn note_at(&self, now_us: u64) -> Option<Arc<LockNote>> {
        self.lock.as_ref().map(|note| self.aged(note, now_us))
    }

    /// This note, with its times counted from now.
    pub(super) fn aged(&self, note: &Arc<LockNote>, now_us: u64) -> Arc<LockNote> {
        let Some(unstarted) = note.unstarted_ms else {
            return Arc::clone(note);
        };
        let passed_ms = now_us.saturating_sub(self.judged_us) / 1000;
        Arc::new(LockNote {
            unstarted_ms: Some(unstarted.saturating_sub(passed_ms)),
            ..LockNote::clone(note)
        })
    }
}

impl Session {
    /// The store can be asked again, and may be another than before, or have forgotten: every lock that is known to be alive is renewed
    /// at once, as far as that leaves the store time for others.
    pub fn handle_store_back(&mut self, now: Now) {
        self.shared.now = now;
        let channels = &mut self.channels.open;
        let count: usize = channels.iter_mut().map(|channel| channel.holds_mut().count()).sum();
        let at_a_time = AT_A_TIME.max(count.div_ceil(LOTS));
        let mut number = 0;
        for channel in channels {
            let mut places = Vec::new();
            for (place, hold) in channel.holds_mut() {
                hold.hastened_us = Some(now.us + (number / at_a_time) as u64 * LOT_US);
                places.push(place);
                number += 1;
            }
            for place in places {
                channel.schedule(&mut self.shared, place);
            }
        }
        if number > 0 {
            self.handle_timeout(now);
        }
    }
}

impl Channel {
    /// The locks of all deliveries that the client has not settled, and of those that are held.
    fn holds_mut(&mut self) -> impl Iterator<Item = (Place, &mut Hold)> {
        let shown = self.deliveries.holds_mut().map(|(tag, hold)| (Place::Delivered(tag), hold));
        let held = self.held.holds_mut().map(|(number, hold)| (Place::Held(number), hold));
        shown.chain(held.filter(|(_, hold)| hold.lock.is_some()))
    }
}

impl Shared {
    /// The delivery that holds these locks is with the client, which is this worker, or held.
    pub(super) fn renew_hold(&mut self, hold: &mut Hold, worker: &Arc<str>) {
        hold.renewed_us = self.now.us;
        hold.hastened_us = None;
        let running = self.witness.has_begun(&hold.claim.id);
        if let Some(note) = &hold.run {
            self.tells.push(Request::RenewRun {
                claim: hold.claim.clone(),
                delivery: hold.delivery,
                note: Arc::clone(note),
                worker: Arc::clone(worker),
            });
        }
        for (claim, note) in &hold.limited {
            self.tells.push(Request::RenewRun {
                claim: claim.clone(),
                delivery: hold.delivery,
                note: Arc::clone(note),
                worker: Arc::clone(&self.worker),
            });
        }
        // A task that may not begin any more keeps no publish lock.
        let too_late = !running && hold.is_too_late(self.now.us);
        let Some(note) = hold.note_at(self.now.us).filter(|_| !too_late) else {
            return;
        };
        self.tells.push(Request::Renew {
            claim: hold.claim.clone(),
            delivery: hold.delivery,
            note,
            alive: if running { Alive::Begun } else { Alive::Delivered },
            worker: Arc::clone(worker),
        });
    }

    /// The client has acknowledged the delivery that holds these locks. Where that does not end the task, a worker runs it from now on.
    pub(super) fn runs_on(&mut self, hold: Hold) {
        if self.worker.is_empty() {
            return;
        }
        let lock = hold.lock.filter(|note| note.scope == Scope::UntilFinished && !note.acks_late);
        let run = hold.run.filter(|note| !note.acks_late);
        for kept in lock.map(Kept::Lock).into_iter().chain(run.map(Kept::Run)) {
            self.events.push(Event::Runs(Run {
                claim: hold.claim.clone(),
                delivery: hold.delivery,
                kept,
                worker: Arc::clone(&self.worker),
            }));
        }
        for (claim, note) in hold.limited.into_iter().filter(|(_, note)| !note.acks_late) {
            self.events.push(Event::Runs(Run {
                claim,
                delivery: hold.delivery,
                kept: Kept::Run(note),
                worker: Arc::clone(&self.worker),
            }));
        }
    }
}
