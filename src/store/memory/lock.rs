//! One lock of the memory store, and the holder's messages that it counts.

use std::sync::Arc;

use super::LONGEST_MS;
use crate::rules::lock::{
    Digest, Extent, Freed, LockNote, LockRecord, LockState, Nonce, ReleaseOn, ReleaseReason, Scope, Signal, SignalVerdict,
};
use crate::rules::source::Source;

/// How many publishes of a holder are remembered.
const PUBLISHES_KEPT: usize = 16;

/// Where a publish of the holder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Forwarded; the broker has not answered.
    Open,
    /// The broker has it.
    Confirmed,
    /// A worker settled it, or the broker did not take it; by which request.
    Settled(Nonce),
}

/// What a signal does to a lock.
pub(super) enum SignalEffect {
    /// It stays.
    None,
    /// It goes now; these publishes are over, [`None`] one that is not known here.
    Frees {
        reason: ReleaseReason,
        settled: Vec<Option<Nonce>>,
    },
    /// It goes, and its id is not to run any more.
    Supersedes {
        reason: ReleaseReason,
        settled: Vec<Option<Nonce>>,
    },
    /// It goes after the settle grace, which it has been given.
    Settles { settled: Vec<Option<Nonce>> },
    /// It has its full life again.
    Lives,
}

#[derive(Debug)]
pub(super) struct Lock {
    pub(super) holder: Arc<str>,
    pub(super) state: LockState,
    pub(super) expires_ms: u64,
    /// Where the table's index has it.
    pub(super) indexed: u64,
    pub(super) note: Arc<LockNote>,
    proxy: Arc<str>,
    worker: Arc<str>,
    /// A worker has had the message in its hands.
    delivered: bool,
    /// A proxy has carried the message to a worker.
    carried: bool,
    /// How many messages were noted that wait for the end of the holder.
    pub(super) twins: u32,
    /// That it goes was told when the settle grace began.
    told: bool,
    pub(super) since_ms: u64,
    publishes: Vec<(Nonce, Stage)>,
    /// Those of them that are deliveries, each in place of a publish that is not known here.
    deliveries: Vec<Nonce>,
    /// The place of its holder among the publishes that replace each other; 0 for one before all.
    pub(super) place: u64,
    /// The lock that this one is to replace.
    pub(super) aside: Option<Box<Lock>>,
    /// The lock of the one that waits for the end of this one.
    pub(super) last: Option<Box<Lock>>,
    /// The burst whose newest task holds it, until that has begun.
    pub(super) burst: Option<Burst>,
    /// When the message went to a worker last.
    pub(super) handed_ms: Option<u64>,
}

/// Publishes of one key that follow each other before one of them has run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Burst {
    /// When the first of them came.
    pub(super) first_ms: u64,
    /// When the newest is due.
    pub(super) due_ms: u64,
}

impl Lock {
    pub(super) fn new(
        holder: Arc<str>,
        state: LockState,
        note: Arc<LockNote>,
        proxy: Arc<str>,
        since_ms: u64,
        expires_ms: u64,
        publish: Nonce,
    ) -> Lock {
        let first = match state {
            LockState::Leased => Stage::Open,
            LockState::Queued => Stage::Confirmed,
            // One that begins as running has its message settled; to one that was locked by hand there is none.
            LockState::Running | LockState::Cooldown => Stage::Settled(publish),
        };
        Lock {
            holder,
            state,
            expires_ms,
            indexed: 0,
            note,
            proxy,
            worker: "".into(),
            delivered: false,
            carried: false,
            twins: 0,
            told: false,
            since_ms,
            publishes: vec![(publish, first)],
            deliveries: Vec::new(),
            place: 0,
            aside: None,
            last: None,
            burst: None,
            handed_ms: None,
        }
    }

    /// How many of the holder's messages are neither settled nor withdrawn.
    pub(super) fn in_flight(&self) -> usize {
        self.publishes
            .iter()
            .filter(|(_, stage)| !matches!(stage, Stage::Settled(_)))
            .count()
    }

    /// Lets the lock live until then, unless it lives longer.
    pub(super) fn prolong(&mut self, until_ms: u64) {
        self.expires_ms = self.expires_ms.max(until_ms);
    }

    /// Whether the ack is the signal that ends this lock.
    pub(super) fn ends_by_ack(&self) -> bool {
        self.note.scope == Scope::UntilFinished && self.note.acks_late && self.note.hears.hears(Source::Ack)
    }

    fn stage(&mut self, publish: Nonce) -> Option<&mut Stage> {
        self.publishes
            .iter_mut()
            .find(|(nonce, _)| *nonce == publish)
            .map(|(_, stage)| stage)
    }

    /// Whether this publish is settled already, or withdrawn.
    pub(super) fn is_over(&self, publish: Nonce) -> bool {
        let mut publishes = self.publishes.iter();
        publishes.any(|(nonce, stage)| *nonce == publish && matches!(stage, Stage::Settled(_)))
    }

    /// Whether this publish is counted.
    pub(super) fn counts(&self, publish: Nonce) -> bool {
        self.publishes.iter().any(|(nonce, _)| *nonce == publish)
    }

    /// Counts a publish, unless it is counted already.
    pub(super) fn publish(&mut self, publish: Nonce) {
        self.told = false;
        if self.stage(publish).is_none() {
            self.push(publish, Stage::Open);
        }
    }

    /// The broker has this publish.
    pub(super) fn confirm(&mut self, publish: Nonce) {
        match self.stage(publish) {
            Some(stage @ Stage::Open) => *stage = Stage::Confirmed,
            Some(_) => {}
            None => match self.unknown() {
                // A delivery of it came first.
                Some((nonce, _)) => *nonce = publish,
                None => self.push(publish, Stage::Confirmed),
            },
        }
    }

    /// The oldest delivery that stands in place of a publish.
    fn unknown(&mut self) -> Option<&mut (Nonce, Stage)> {
        let deliveries = &self.deliveries;
        self.publishes.iter_mut().find(|(nonce, _)| deliveries.contains(nonce))
    }

    /// Whether nothing that it counts can be this publish.
    pub(super) fn is_unknown(&mut self, publish: Nonce) -> bool {
        self.stage(publish).is_none() && self.unknown().is_none()
    }

    /// Whether this message is counted, and neither settled nor withdrawn.
    pub(super) fn is_in_flight(&self, nonce: Nonce) -> bool {
        let mut publishes = self.publishes.iter();
        publishes.any(|(known, stage)| *known == nonce && !matches!(stage, Stage::Settled(_)))
    }

    /// The broker does not have this publish. False if it was not counted.
    pub(super) fn withdraw(&mut self, publish: Nonce) -> bool {
        match self.stage(publish) {
            Some(stage) if !matches!(stage, Stage::Settled(_)) => {
                *stage = Stage::Settled(publish);
                true
            }
            _ => false,
        }
    }

    fn push(&mut self, publish: Nonce, stage: Stage) {
        if self.publishes.len() >= PUBLISHES_KEPT {
            let oldest = self
                .publishes
                .iter()
                .position(|(_, stage)| matches!(stage, Stage::Settled(_)))
                .unwrap_or(0);
            self.publishes.remove(oldest);
        }
        self.publishes.push((publish, stage));
    }

    /// This delivery, if it is counted, is so in place of a publish that is not known here.
    pub(super) fn stands_for_a_publish(&mut self, delivery: Nonce) {
        if self.stage(delivery).is_some() && !self.deliveries.contains(&delivery) {
            self.deliveries
                .retain(|other| self.publishes.iter().any(|(nonce, _)| nonce == other));
            self.deliveries.push(delivery);
        }
    }

    /// A worker has the holder's message in its hands, by this delivery.
    pub(super) fn deliver(&mut self, delivery: Nonce, worker: &Arc<str>, until_ms: u64) {
        if self.in_flight() == 0 {
            self.push(delivery, Stage::Confirmed);
        }
        self.stands_for_a_publish(delivery);
        if self.state == LockState::Leased {
            self.state = LockState::Queued;
        }
        self.told = false;
        self.prolong(until_ms);
        self.reached(worker);
    }

    /// A worker has or had the message.
    pub(super) fn reached(&mut self, worker: &Arc<str>) {
        self.delivered = true;
        self.carried = true;
        self.note_worker(worker);
    }

    /// True if the holder is known to have ended.
    pub(super) fn has_ended(&self) -> bool {
        self.state == LockState::Cooldown || self.told
    }

    /// Gives the full life anew.
    fn live(&mut self, now: u64) {
        self.told = false;
        self.prolong(now + self.note.life_ms.clamp(1, LONGEST_MS));
    }

    /// The worker that has or had the message, empty if it is not known.
    pub(super) fn worker(&self) -> &Arc<str> {
        &self.worker
    }

    fn note_worker(&mut self, worker: &Arc<str>) {
        if !worker.is_empty() {
            self.worker = worker.clone();
        }
    }

    /// The key rests until then.
    pub(super) fn rest(&mut self, until_ms: u64) {
        self.state = LockState::Cooldown;
        self.expires_ms = until_ms;
    }

    /// Something was learnt of the holder.
    pub(super) fn signal(&mut self, settlement: Nonce, signal: Signal, source: Source, worker: &Arc<str>, now: u64) -> SignalEffect {
        if self.note.scope == Scope::UntilExpired || self.state == LockState::Cooldown {
            return SignalEffect::None;
        }
        if signal.settles() {
            if !self.settle(settlement) {
                return SignalEffect::None;
            }
            self.carried = true;
        }
        // Per run, started never follows ended.
        if self.told && signal.verdict() == SignalVerdict::Starts {
            return SignalEffect::None;
        }
        if !signal.is_heard(source, self.note.hears) {
            return self.overheard(signal, worker, now);
        }
        let runs = self.state == LockState::Running;
        match signal {
            Signal::Rejected => self.frees(ReleaseReason::Ended),
            Signal::Revoked => self.frees(ReleaseReason::Revoked),
            Signal::Crashed => self.frees(ReleaseReason::Crash),
            Signal::Orphaned if self.worker == *worker && (self.in_flight() == 0 || !self.carried) => self.frees(ReleaseReason::Crash),
            Signal::Acked | Signal::AckedLate | Signal::DeliveredNoAck | Signal::Started if self.note.scope == Scope::UntilStarted => {
                if signal == Signal::Started {
                    // It tells of one message, as an ack does, and the lock counts none of its others any more.
                    self.settle(settlement);
                }
                self.frees(ReleaseReason::Started)
            }
            Signal::Acked if self.ends_by_ack() => self.late_ack(now),
            Signal::AckedLate => self.late_ack(now),
            Signal::Acked | Signal::DeliveredNoAck | Signal::Started => self.runs(worker, now),
            // The retry's own message was counted, and has ended: its word comes late.
            Signal::Retried if self.told && self.publishes.len() > 1 => SignalEffect::None,
            Signal::Retried if self.note.scope == Scope::UntilFinished => {
                self.state = LockState::Queued;
                self.burst = None;
                self.live(now);
                SignalEffect::Lives
            }
            Signal::Succeeded => self.outcome(ReleaseReason::Success, ReleaseOn::Success, now),
            Signal::Failed => self.outcome(ReleaseReason::Failure, ReleaseOn::Failure, now),
            Signal::Expired if runs => self.frees(ReleaseReason::Expired),
            Signal::Expired => self.supersedes(ReleaseReason::Expired),
            // One that has ended is not revoked.
            Signal::RevokeAsked if !runs && !self.told => self.supersedes(ReleaseReason::Revoked),
            Signal::Purged if !runs && !self.delivered => self.frees(ReleaseReason::Purged),
            Signal::Retried | Signal::RevokeAsked | Signal::Purged | Signal::Orphaned => SignalEffect::None,
        }
    }

    /// A start or an end from a source that does not count. A lock that lasts until the end shows nevertheless that a worker has begun,
    /// which spares it from a revoke that is asked of all.
    fn overheard(&mut self, signal: Signal, worker: &Arc<str>, now: u64) -> SignalEffect {
        let begins = match signal {
            Signal::Acked => !self.note.acks_late,
            Signal::DeliveredNoAck | Signal::Started => true,
            _ => false,
        };
        if begins && self.note.scope == Scope::UntilFinished {
            return self.runs(worker, now);
        }
        SignalEffect::None
    }

    /// Counts a settlement. False if it was counted before.
    fn settle(&mut self, settlement: Nonce) -> bool {
        if self.publishes.iter().any(|(_, stage)| *stage == Stage::Settled(settlement)) {
            return false;
        }
        if let Some((_, stage)) = self.publishes.iter_mut().find(|(_, stage)| !matches!(stage, Stage::Settled(_))) {
            *stage = Stage::Settled(settlement);
        }
        true
    }

    /// The delivery is not to run: the message that it brings is over. Which publishes are.
    pub(super) fn leave(&mut self, delivery: Nonce) -> Vec<Option<Nonce>> {
        self.settle(delivery);
        self.settled()
    }

    /// The publishes that are over.
    fn settled(&self) -> Vec<Option<Nonce>> {
        self.publishes
            .iter()
            .filter(|(_, stage)| matches!(stage, Stage::Settled(_)))
            .map(|(nonce, _)| self.publish_of(*nonce))
            .collect()
    }

    fn runs(&mut self, worker: &Arc<str>, now: u64) -> SignalEffect {
        self.state = LockState::Running;
        self.delivered = true;
        self.note_worker(worker);
        self.live(now);
        SignalEffect::Lives
    }

    fn late_ack(&mut self, now: u64) -> SignalEffect {
        if self.in_flight() > 0 {
            return SignalEffect::None;
        }
        self.expires_ms = self.expires_ms.min(now + self.note.settle_grace_ms);
        self.told = true;
        SignalEffect::Settles { settled: self.settled() }
    }

    fn outcome(&mut self, reason: ReleaseReason, needs: ReleaseOn, now: u64) -> SignalEffect {
        let releases = self.note.release_on == ReleaseOn::Both || self.note.release_on == needs;
        let rest_ms = match reason {
            _ if self.note.scope == Scope::UntilStarted => 0,
            _ if !releases => self.note.life_ms,
            ReleaseReason::Success => self.note.cooldown_ms,
            _ => 0,
        };
        if rest_ms == 0 {
            return self.frees(reason);
        }
        self.rest(now + rest_ms.min(LONGEST_MS));
        SignalEffect::Lives
    }

    /// The end of all of the holder's messages.
    fn over(&self) -> Vec<Option<Nonce>> {
        self.publishes.iter().map(|(nonce, _)| self.publish_of(*nonce)).collect()
    }

    /// The publish that this is; none for a delivery whose publish is not known.
    fn publish_of(&self, nonce: Nonce) -> Option<Nonce> {
        (!self.deliveries.contains(&nonce)).then_some(nonce)
    }

    fn frees(&self, reason: ReleaseReason) -> SignalEffect {
        let settled = match reason {
            // These tell of one message; the id may have others under way.
            ReleaseReason::Started | ReleaseReason::Ended => self.settled(),
            _ => self.over(),
        };
        SignalEffect::Frees { reason, settled }
    }

    fn supersedes(&self, reason: ReleaseReason) -> SignalEffect {
        SignalEffect::Supersedes {
            reason,
            settled: self.over(),
        }
    }

    /// Whether a worker has had the message in its hands.
    pub(super) fn was_delivered(&self) -> bool {
        self.delivered
    }

    /// Whether a worker has had this publish in its hands: the broker has it, whatever became of its confirm.
    pub(super) fn is_delivery_of(&self, publish: Nonce) -> bool {
        self.delivered && matches!(self.publishes[..], [(only, Stage::Open | Stage::Confirmed)] if only == publish)
    }

    /// Whether its going was told before.
    pub(super) fn was_told(&self) -> bool {
        self.told
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
            shadow: self.note.shadow,
        }
    }

    pub(super) fn record(&self, digest: Digest) -> LockRecord {
        LockRecord {
            digest,
            holder: self.holder.clone(),
            state: self.state,
            rule: self.note.rule.clone(),
            task: self.note.task.clone(),
            summary: self.note.summary.clone(),
            worker: self.worker.clone(),
            proxy: self.proxy.clone(),
            vhost: self.note.vhost.clone(),
            queue: self.note.queue.clone(),
            since_ms: self.since_ms,
            expires_ms: self.expires_ms,
            scope: Extent::Publish(self.note.scope),
            in_flight: self.in_flight() as u32,
            carried: self.carried,
            shadow: self.note.shadow,
        }
    }
}
