//! The rules of the running locks.

use std::sync::Arc;

use super::run::{Done, Run, RunEffect, Stage, Waiting, end_of};
use super::table::{Claims, EndedPublishes, Said};
use super::{DONE_KEPT_MS, ENDED_KEPT_MS, FORGOTTEN_MS, LONGEST_MS, Step, UNKNOWN_KEPT_MS};
use crate::rules::lock::{Claim, Digest, Extent, Freed, LockState, Nonce, ReleaseReason, Renewed, Scope, Signal, SignalVerdict};
use crate::rules::running::{IfBusy, Ran, RunNote};
use crate::rules::source::Source;

/// The place of a run that goes on and has lost its lock to another id: before all that wait.
const LOST_PLACE_MS: u64 = 0;
/// A run is renewed at a third of its life, or after so long.
const RENEWED_MS: u64 = 30_000;

impl Step<'_> {
    pub(super) fn run(&mut self, claim: &Claim, delivery: Nonce, note: &Arc<RunNote>, busy: IfBusy, worker: &Arc<str>) -> Ran {
        let life = note.life_ms.clamp(1, LONGEST_MS);
        if let Some(run) = self.table.runs.get_mut(&claim.digest, self.now)
            && run.is_of(&claim.id, delivery)
        {
            if run.goes_on() {
                run.renew(worker.clone(), self.now + life);
                self.note_run(claim, note, self.now + life);
            }
            self.leave_wait(claim);
            return Ran::Runs;
        }
        let (IfBusy::Wait { place_ms: named_ms } | IfBusy::Leave { place_ms: named_ms }) = busy;
        let leaves = matches!(busy, IfBusy::Leave { .. });
        let key = (claim.digest, claim.id.clone());
        let done = self.table.done.get_mut(&key, self.now);
        if done.is_some_and(|done| done.covers(delivery, note.retries, named_ms)) {
            self.leave_wait(claim);
            return Ran::Succeeded;
        }
        // It was admitted before, and has waited since.
        if self.table.is_superseded(&claim.id, claim.digest, self.now) {
            self.leave_wait(claim);
            return Ran::Superseded;
        }
        if let Some(run) = self.table.runs.get_mut(&claim.digest, self.now) {
            let left = run.expires_ms - self.now;
            let holder = run.holder.clone();
            if holder != claim.id && leaves {
                self.join(claim, &holder, &note.owed, Extent::Run, &note.rule, note.life_ms);
                let freed = self.leave(claim, delivery).into_iter().collect();
                return Ran::Leaves { holder, freed };
            }
            if holder != claim.id {
                return self.waits(claim, named_ms, holder, left);
            }
            if run.stage != Stage::Retried && note.retries <= run.retries {
                run.copied = true;
                return self.waits(claim, named_ms, holder, left);
            }
            return self.inherit(claim, delivery, note, worker);
        }
        if let Some(place_ms) = self.forgotten(claim, named_ms) {
            return Ran::Forgotten { place_ms };
        }
        let now = self.now;
        let ahead = self.table.waiting.get_mut(&claim.digest, now).and_then(|waiting| {
            let place_ms = if leaves {
                LOST_PLACE_MS + 1
            } else {
                waiting.place_of(&claim.id, named_ms, now)
            };
            waiting.ahead(&claim.id, place_ms, now)
        });
        match ahead {
            Some((holder, _)) if leaves => {
                self.join(claim, &holder, &note.owed, Extent::Run, &note.rule, note.life_ms);
                let freed = self.leave(claim, delivery).into_iter().collect();
                return Ran::Leaves { holder, freed };
            }
            Some((first, silence)) => return self.waits(claim, named_ms, first, silence),
            None => {}
        }
        // A question that comes behind its own end does not lock for long.
        let is_over = self.table.done.get(&key, self.now).is_some_and(|done| done.is_over(delivery));
        let life = if is_over { life.min(ENDED_KEPT_MS) } else { life };
        self.take_run(claim, delivery, note, worker, life);
        Ran::Runs
    }

    /// The next run of the id that has the lock takes it.
    fn inherit(&mut self, claim: &Claim, delivery: Nonce, note: &Arc<RunNote>, worker: &Arc<str>) -> Ran {
        let Some(former) = self.table.runs.remove(&claim.digest, self.now) else {
            return Ran::Runs;
        };
        self.note_over(claim.digest, &claim.id, Some(former.delivery), ENDED_KEPT_MS);
        self.take_run(claim, delivery, note, worker, note.life_ms.clamp(1, LONGEST_MS));
        if let Some(run) = self.table.runs.get_mut(&claim.digest, self.now) {
            run.copied = former.copied;
            if former.stage == Stage::Retried {
                // A redelivery of what was retried is not to be taken for the retry, which then would take the lock from it.
                run.retries = note.retries.max(former.retries.saturating_add(1));
            }
        }
        Ran::Runs
    }

    pub(super) fn renew_run(&mut self, claim: &Claim, delivery: Nonce, note: &Arc<RunNote>, worker: &Arc<str>) -> Renewed {
        let life = note.life_ms.clamp(1, LONGEST_MS);
        let run = self.table.runs.get_mut(&claim.digest, self.now);
        let lost = run.as_ref().is_some_and(|run| run.holder != claim.id);
        if let Some(run) = run.filter(|run| run.holder == claim.id) {
            let retried = run.stage == Stage::Retried;
            // What is unsettled where the ack ends a run goes on: it may have been an earlier one that was retried.
            if run.delivery != delivery || run.told || retried && !run.note.acks_late {
                return Renewed::Gone;
            }
            let worker = if retried { &run.worker } else { worker };
            run.renew(worker.clone(), self.now + life);
            self.note_run(claim, note, self.now + life);
            return Renewed::Held;
        }
        let key = (claim.digest, claim.id.clone());
        let done = self.table.done.get_mut(&key, self.now);
        if let Some(done) = done.filter(|done| done.is_over(delivery)) {
            // Who has not heard of the end by now renews again.
            done.until_ms = done.until_ms.max(self.now + life);
            return Renewed::Gone;
        }
        let ended = self.table.ended(&claim.id, self.now);
        if ended.is_some_and(|ended| ended.by(|said| said.verdict == SignalVerdict::Ends && note.hears.hears(said.source), None)) {
            return Renewed::Gone;
        }
        if lost {
            // It may be of one that has ended, whose proxy did not hear of it and brought it back when the store had forgotten all.
            self.place(claim, Some(LOST_PLACE_MS), (life / 3).min(RENEWED_MS));
            self.note_run(claim, note, self.now + life);
            return Renewed::Lost;
        }
        self.take_run(claim, delivery, note, worker, life);
        if let Some(waiting) = self.table.waiting.get_mut(&claim.digest, self.now) {
            waiting.is_remembered();
        }
        Renewed::Retaken
    }

    /// The id was published under the key as this retry.
    pub(super) fn republished(&mut self, claim: &Claim, retries: u32) {
        let now = self.now;
        let run = self.table.runs.get_mut(&claim.digest, now).filter(|run| run.holder == claim.id);
        if let Some(run) = run
            && run.republished(retries, now)
        {
            let (note, until) = (run.note.clone(), run.expires_ms);
            self.note_run(claim, &note, until);
        }
    }

    pub(super) fn leave_run(&mut self, claim: &Claim, delivery: Nonce) -> Vec<Freed> {
        self.leave_wait(claim);
        let run = self.table.runs.get(&claim.digest, self.now);
        if !run.is_some_and(|run| run.is_of(&claim.id, delivery) && run.stage != Stage::Retried) {
            return Vec::new();
        }
        self.note_over(claim.digest, &claim.id, Some(delivery), ENDED_KEPT_MS);
        self.free_run(claim.digest, ReleaseReason::Ended).into_iter().collect()
    }

    /// An operator frees it, if `holder` (or, without one, anybody) has it.
    pub(super) fn release_run(&mut self, digest: Digest, holder: Option<&str>) -> Option<Freed> {
        let run = self.table.runs.get(&digest, self.now)?;
        if holder.is_some_and(|holder| *run.holder != *holder) {
            return None;
        }
        // Its worker may go on: no renewal is to bring back what was freed.
        let kept_ms = ENDED_KEPT_MS.max(run.expires_ms - self.now);
        let (holder, delivery) = (run.holder.clone(), run.delivery);
        self.note_over(digest, &holder, Some(delivery), kept_ms);
        self.free_run(digest, ReleaseReason::Admin)
    }

    /// What a signal does to one running lock; what is told if it goes.
    pub(super) fn signal_run(
        &mut self,
        digest: Digest,
        id: &Arc<str>,
        (settlement, signal, source): (Nonce, Signal, Source),
        worker: &Arc<str>,
    ) -> Option<Freed> {
        let again = self.publishes_again(digest, id);
        let Some(run) = self.table.runs.get_mut(&digest, self.now).filter(|run| run.holder == *id) else {
            end_of(signal)?;
            // A run that had lost its lock waits no longer; a copy that waits keeps its place, which it names.
            if let Some(waiting) = self.table.waiting.get_mut(&digest, self.now) {
                waiting.leave(id);
            }
            if signal != Signal::Orphaned {
                let which = (signal == Signal::Rejected).then_some(settlement);
                self.note_over(digest, id, which, ENDED_KEPT_MS);
                self.table.forget_id(id, &digest, Claims::Run, self.now);
            }
            return None;
        };
        let (told, delivery, retries, copied) = (run.told, run.delivery, run.retries, run.copied);
        match run.signal((settlement, signal, source), worker, again, self.now) {
            RunEffect::None => None,
            RunEffect::Lives => {
                let (until, rule) = (self.now + run.note.life_ms.clamp(1, LONGEST_MS), run.note.rule.clone());
                self.table.note_claim(id, digest, Claims::Run, &rule, until, self.now);
                None
            }
            RunEffect::Settles => {
                let freed = (!told).then(|| run.freed(digest, ReleaseReason::Ended, self.now));
                let until = run.expires_ms;
                self.note_over(digest, id, Some(delivery), ENDED_KEPT_MS);
                self.table.shorten_id(id, until);
                freed
            }
            RunEffect::Ends(reason) => {
                let (now, life_ms) = (self.now, run.note.life_ms.min(LONGEST_MS));
                // A worker that is given up may still have its message, which is renewed.
                let crashed = reason == ReleaseReason::Crash;
                let kept_ms = if crashed { ENDED_KEPT_MS.max(life_ms) } else { ENDED_KEPT_MS };
                self.note_over(digest, id, Some(delivery), kept_ms);
                if reason == ReleaseReason::Success
                    && copied
                    && let Some(done) = self.table.done.get_mut(&(digest, id.clone()), now)
                {
                    done.succeeded(retries, now);
                    done.until_ms = done.until_ms.max(now + DONE_KEPT_MS);
                }
                self.free_run(digest, reason)
            }
        }
    }

    /// Whether the id has published again under the key: of what its publish lock counts, one is this run until its start is known, or
    /// for as long as its delivery stands for it.
    fn publishes_again(&mut self, digest: Digest, id: &Arc<str>) -> bool {
        let run = self.table.runs.get(&digest, self.now);
        let starts = run.is_none_or(|run| run.stage != Stage::Started);
        let delivery = run.map(|run| run.delivery);
        self.table.lock_for(&digest, id, self.now).is_some_and(|lock| {
            let own = usize::from(starts || delivery.is_some_and(|delivery| lock.is_in_flight(delivery)));
            let follows = lock.state != LockState::Cooldown && lock.note.scope != Scope::UntilExpired;
            lock.holder == *id && follows && lock.in_flight() > own
        })
    }

    fn take_run(&mut self, claim: &Claim, delivery: Nonce, note: &Arc<RunNote>, worker: &Arc<str>, life_ms: u64) {
        let run = Run {
            holder: claim.id.clone(),
            delivery,
            note: note.clone(),
            proxy: self.proxy.clone(),
            worker: worker.clone(),
            stage: Stage::Handed,
            told: false,
            copied: false,
            retries: note.retries,
            since_ms: self.now,
            expires_ms: self.now + life_ms,
        };
        self.table.runs.insert(claim.digest, run, self.now);
        self.note_run(claim, note, self.now + life_ms);
        self.leave_wait(claim);
    }

    fn note_run(&mut self, claim: &Claim, note: &RunNote, until_ms: u64) {
        self.table
            .note_claim(&claim.id, claim.digest, Claims::Run, &note.rule, until_ms, self.now);
    }

    /// Frees it; nothing is told of one whose going was told before.
    fn free_run(&mut self, digest: Digest, reason: ReleaseReason) -> Option<Freed> {
        let run = self.table.runs.remove(&digest, self.now)?;
        self.table.forget_id(&run.holder, &digest, Claims::Run, self.now);
        (!run.told).then(|| run.freed(digest, reason, self.now))
    }

    fn note_over(&mut self, digest: Digest, id: &Arc<str>, delivery: Option<Nonce>, kept_ms: u64) {
        let (key, until_ms) = ((digest, id.clone()), self.now + kept_ms);
        if let Some(done) = self.table.done.get_mut(&key, self.now) {
            done.note_over(delivery);
            done.until_ms = done.until_ms.max(until_ms);
        } else {
            let mut done = Done::default();
            done.note_over(delivery);
            done.until_ms = until_ms;
            self.table.done.insert(key, done, self.now);
        }
    }

    fn leave_wait(&mut self, claim: &Claim) {
        if let Some(waiting) = self.table.waiting.get_mut(&claim.digest, self.now) {
            waiting.leave(&claim.id);
        }
    }

    fn waits(&mut self, claim: &Claim, named_ms: Option<u64>, holder: Arc<str>, expires_in_ms: u64) -> Ran {
        Ran::Waits {
            holder,
            place_ms: self.place(claim, named_ms, 0),
            expires_in_ms,
        }
    }

    /// The place of one that is to wait because the store has forgotten who runs, if it has: nobody has the lock, and that one waits for
    /// it was not known.
    fn forgotten(&mut self, claim: &Claim, named_ms: Option<u64>) -> Option<u64> {
        let now = self.now;
        if named_ms.is_some() && self.table.waiting.get(&claim.digest, now).is_none() {
            let waiting = Waiting::new(now + FORGOTTEN_MS, now);
            self.table.waiting.insert(claim.digest, waiting, now);
        }
        let waiting = self.table.waiting.get(&claim.digest, now)?;
        waiting.is_forgotten(now).then(|| self.place(claim, named_ms, 0))
    }

    /// Notes that it waits, and is heard of again within this time; gives its place.
    fn place(&mut self, claim: &Claim, named_ms: Option<u64>, again_ms: u64) -> u64 {
        let now = self.now;
        if self.table.waiting.get(&claim.digest, now).is_none() {
            self.table.waiting.insert(claim.digest, Waiting::new(0, now), now);
        }
        let waiting = self.table.waiting.get_mut(&claim.digest, now);
        waiting.map_or(now, |waiting| {
            let place_ms = waiting.place_of(&claim.id, named_ms, now);
            waiting.note(&claim.id, place_ms, again_ms, now);
            place_ms
        })
    }

    /// The publish lock of an id that is not to run goes, and does not come back with a late commit.
    fn leave(&mut self, claim: &Claim, delivery: Nonce) -> Option<Freed> {
        self.leave_wait(claim);
        let lock = self.table.lock_for(&claim.digest, &claim.id, self.now);
        let Some(lock) = lock.filter(|lock| lock.holder == claim.id) else {
            self.note_left(&claim.id, EndedPublishes::Any, UNKNOWN_KEPT_MS);
            return None;
        };
        if lock.state == LockState::Cooldown || lock.note.scope == Scope::UntilExpired {
            return None;
        }
        let (told, settled) = (lock.was_told(), lock.leave(delivery));
        self.note_left(&claim.id, EndedPublishes::These(settled), ENDED_KEPT_MS);
        self.free(claim.digest, &claim.id, ReleaseReason::Ended).filter(|_| !told)
    }

    fn note_left(&mut self, id: &Arc<str>, publishes: EndedPublishes, kept_ms: u64) {
        let said = Said {
            verdict: SignalVerdict::Ends,
            source: Source::Other,
        };
        self.table.note_ended(id, said, publishes, self.now + kept_ms, self.now);
    }
}
