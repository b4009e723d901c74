//! What the memory store holds of runs: the running lock of a key, those that wait for it, and what ended runs leave behind.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::lapsing::Lapses;
use super::{LONGEST_MS, OVER_KEPT, PASSED_OVER, UNSEEN_MS, WAIT_KEPT_MS, WAITERS_KEPT};
use crate::rules::lock::{Digest, Extent, Freed, LockRecord, LockState, Nonce, ReleaseReason, Signal};
use crate::rules::running::RunNote;
use crate::rules::source::Source;

/// How far a run has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// A worker has it.
    Handed,
    /// A worker runs it.
    Started,
    /// It has ended in a retry: the id keeps the lock, and no worker is named.
    Retried,
}

/// What a signal does to a run.
pub(super) enum RunEffect {
    /// It stays.
    None,
    /// It goes now.
    Ends(ReleaseReason),
    /// It goes after the settle grace, which it has been given.
    Settles,
    /// It has its full life again.
    Lives,
}

/// A running lock.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) holder: Arc<str>,
    pub(super) delivery: Nonce,
    pub(super) note: Arc<RunNote>,
    pub(super) proxy: Arc<str>,
    pub(super) worker: Arc<str>,
    pub(super) stage: Stage,
    /// That it goes was told when the settle grace began.
    pub(super) told: bool,
    /// A second copy has asked.
    pub(super) copied: bool,
    /// A copy that says more is of a run to come.
    pub(super) retries: u32,
    pub(super) since_ms: u64,
    pub(super) expires_ms: u64,
}

impl Lapses for Run {
    fn lives_until(&self) -> u64 {
        self.expires_ms
    }
}

impl Run {
    pub(super) fn is_of(&self, id: &str, delivery: Nonce) -> bool {
        *self.holder == *id && self.delivery == delivery
    }

    /// Whether the run goes on, as far as is known.
    pub(super) fn goes_on(&self) -> bool {
        !self.told && self.stage != Stage::Retried
    }

    /// Its delivery was asked about again: it is alive.
    pub(super) fn renew(&mut self, worker: Arc<str>, until_ms: u64) {
        if !worker.is_empty() {
            self.worker = worker;
        }
        self.expires_ms = self.expires_ms.max(until_ms);
    }

    fn lives(&mut self, now: u64) -> RunEffect {
        self.expires_ms = self.expires_ms.max(now + self.note.life_ms.clamp(1, LONGEST_MS));
        RunEffect::Lives
    }

    /// The id keeps the lock until its next run.
    fn retried(&mut self, now: u64) -> RunEffect {
        self.told = false;
        self.stage = Stage::Retried;
        self.worker = "".into();
        self.lives(now)
    }

    /// The id was published as this retry: whether this run ends in it.
    pub(super) fn republished(&mut self, retries: u32, now: u64) -> bool {
        let ends = self.stage != Stage::Retried && retries > self.note.retries;
        if ends {
            self.retried(now);
        }
        ends
    }

    fn started(&mut self, worker: &Arc<str>, now: u64) -> RunEffect {
        self.stage = Stage::Started;
        if self.worker.is_empty() {
            self.worker = worker.clone();
        }
        self.lives(now)
    }

    /// Whether a signal is about this run. A settlement names its delivery; another signal may name its worker.
    fn is_meant(&self, settlement: Nonce, signal: Signal, worker: &str) -> bool {
        match signal {
            _ if signal.settles() => settlement == self.delivery,
            Signal::Orphaned => !worker.is_empty() && *self.worker == *worker && settlement.names(self.delivery),
            // A worker that has not begun it will not.
            Signal::RevokeAsked => self.stage != Stage::Started,
            Signal::Purged => false,
            _ => worker.is_empty() || self.worker.is_empty() || *self.worker == *worker,
        }
    }

    /// Something was learnt of the holder. `again`: it has published again under this key.
    pub(super) fn signal(
        &mut self,
        (settlement, signal, source): (Nonce, Signal, Source),
        worker: &Arc<str>,
        again: bool,
        now: u64,
    ) -> RunEffect {
        if !self.is_meant(settlement, signal, worker) {
            return RunEffect::None;
        }
        let signal = match signal {
            _ if signal.is_heard(source, self.note.hears) => signal,
            // From a source that does not count, a start shows nevertheless that the worker has begun.
            Signal::Acked if !self.note.acks_late => Signal::Started,
            Signal::DeliveredNoAck | Signal::Started => Signal::Started,
            _ => return RunEffect::None,
        };
        let acks_late = signal == Signal::AckedLate || signal == Signal::Acked && self.note.acks_late;
        if let Some(reason) = end_of(signal) {
            return RunEffect::Ends(reason);
        }
        match signal {
            Signal::RevokeAsked => RunEffect::Ends(ReleaseReason::Revoked),
            _ if self.stage == Stage::Retried => RunEffect::None,
            // A retry that says of itself that it is none has no number to be known by.
            Signal::Retried if self.note.retries == 0 => self.retried(now),
            // It may be told late of an earlier one; this one's is known by its number when it is published.
            Signal::Retried => RunEffect::None,
            // Per run, started never follows ended.
            _ if self.told => RunEffect::None,
            _ if acks_late && again => self.retried(now),
            _ if acks_late => {
                self.expires_ms = self.expires_ms.min(now + self.note.settle_grace_ms.min(LONGEST_MS));
                self.told = true;
                RunEffect::Settles
            }
            _ => self.started(worker, now),
        }
    }

    pub(super) fn freed(&self, digest: Digest, reason: ReleaseReason, now: u64) -> Freed {
        Freed {
            digest,
            holder: self.holder.clone(),
            rule: self.note.rule.clone(),
            task: self.note.task.clone(),
            vhost: self.note.vhost.clone(),
            reason,
            held_ms: now.saturating_sub(self.since_ms),
            shadow: false,
        }
    }

    pub(super) fn record(&self, digest: Digest) -> LockRecord {
        LockRecord {
            digest,
            holder: self.holder.clone(),
            state: if self.stage == Stage::Started {
                LockState::Running
            } else {
                LockState::Queued
            },
            rule: self.note.rule.clone(),
            task: self.note.task.clone(),
            summary: self.note.summary.clone(),
            worker: self.worker.clone(),
            proxy: self.proxy.clone(),
            vhost: self.note.vhost.clone(),
            queue: self.note.queue.clone(),
            since_ms: self.since_ms,
            expires_ms: self.expires_ms,
            scope: Extent::Run,
            in_flight: 0,
            carried: true,
            shadow: false,
        }
    }
}

/// Why the running lock goes with this signal, if it does.
pub(super) fn end_of(signal: Signal) -> Option<ReleaseReason> {
    match signal {
        Signal::Rejected => Some(ReleaseReason::Ended),
        Signal::Succeeded => Some(ReleaseReason::Success),
        Signal::Failed => Some(ReleaseReason::Failure),
        Signal::Revoked => Some(ReleaseReason::Revoked),
        Signal::Expired => Some(ReleaseReason::Expired),
        Signal::Crashed | Signal::Orphaned => Some(ReleaseReason::Crash),
        Signal::Acked
        | Signal::AckedLate
        | Signal::DeliveredNoAck
        | Signal::Started
        | Signal::Retried
        | Signal::RevokeAsked
        | Signal::Purged => None,
    }
}

/// Who waits for the running lock of a key.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    places: BTreeSet<(u64, Arc<str>)>,
    /// The place of each, and when it is to be seen again.
    seen: HashMap<Arc<str>, (u64, u64)>,
    /// Until when nobody gets the lock: who waited was forgotten.
    forgotten_until_ms: u64,
    until_ms: u64,
}

impl Lapses for Waiting {
    fn lives_until(&self) -> u64 {
        self.until_ms
    }
}

impl Waiting {
    pub(super) fn new(forgotten_until_ms: u64, now: u64) -> Waiting {
        Waiting {
            forgotten_until_ms,
            until_ms: now + WAIT_KEPT_MS,
            ..Waiting::default()
        }
    }

    /// The place of this id: the first of what it names, what is noted, and now.
    pub(super) fn place_of(&self, id: &str, named_ms: Option<u64>, now: u64) -> u64 {
        let noted = self.seen.get(id).map_or(now, |(place, _)| *place);
        named_ms.unwrap_or(now).min(noted)
    }

    /// Whether nobody gets the lock now.
    pub(super) fn is_forgotten(&self, now: u64) -> bool {
        self.forgotten_until_ms > now
    }

    /// The run that goes on has its lock again.
    pub(super) fn is_remembered(&mut self) {
        self.forgotten_until_ms = 0;
    }

    /// Notes that it waits, and is heard of again within this time; of too many the last are not noted.
    pub(super) fn note(&mut self, id: &Arc<str>, place: u64, again_ms: u64, now: u64) {
        if !self.seen.contains_key(id) && self.seen.len() >= WAITERS_KEPT {
            return;
        }
        self.leave(id);
        self.places.insert((place, id.clone()));
        self.seen.insert(id.clone(), (place, now + again_ms));
        self.until_ms = now + WAIT_KEPT_MS;
    }

    pub(super) fn leave(&mut self, id: &Arc<str>) {
        if let Some((place, _)) = self.seen.remove(id) {
            self.places.remove(&(place, id.clone()));
        }
    }

    /// Who waits before this place, and how long it may still keep silent. Who was not seen lately is passed over and forgotten.
    pub(super) fn ahead(&mut self, id: &str, place: u64, now: u64) -> Option<(Arc<str>, u64)> {
        for _ in 0..PASSED_OVER {
            let (before, first) = self.places.first()?.clone();
            if *first == *id {
                return None;
            }
            let seen_until = self.seen.get(&first).map_or(0, |(_, seen)| seen + UNSEEN_MS);
            if seen_until > now {
                return ((before, &*first) < (place, id)).then(|| (first, seen_until - now));
            }
            self.leave(&first);
        }
        None
    }
}

/// What ended runs of one id leave behind under one key.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// Their deliveries; none where it is not known which.
    over: Vec<Option<Nonce>>,
    success: Option<Success>,
    pub(super) until_ms: u64,
}

/// A run that succeeded while a copy of it was about.
#[derive(Debug)]
struct Success {
    at_ms: u64,
    retries: u32,
    /// The copy that was told.
    to: Option<Nonce>,
}

impl Lapses for Done {
    fn lives_until(&self) -> u64 {
        self.until_ms
    }
}

impl Done {
    pub(super) fn is_over(&self, delivery: Nonce) -> bool {
        self.over.iter().any(|over| over.is_none_or(|over| over == delivery))
    }

    /// No renewal brings the run of this delivery back; of any, if it is not known which.
    pub(super) fn note_over(&mut self, delivery: Option<Nonce>) {
        if self.over.contains(&delivery) {
            return;
        }
        if self.over.len() >= OVER_KEPT {
            self.over.remove(0);
        }
        self.over.push(delivery);
    }

    pub(super) fn succeeded(&mut self, retries: u32, now: u64) {
        self.success = Some(Success {
            at_ms: now,
            retries,
            to: None,
        });
    }

    /// Whether this is a copy of the run that has succeeded. One that waited then has a place from before; of those without a place, since
    /// they come back from elsewhere, the first is meant.
    pub(super) fn covers(&mut self, delivery: Nonce, retries: u32, place_ms: Option<u64>) -> bool {
        let Some(success) = self.success.as_mut().filter(|success| retries <= success.retries) else {
            return false;
        };
        let covered = match place_ms {
            Some(place_ms) => place_ms <= success.at_ms || success.to == Some(delivery),
            None => success.to.is_none_or(|to| to == delivery),
        };
        if covered {
            success.to.get_or_insert(delivery);
        }
        covered
    }
}
