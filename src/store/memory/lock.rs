//! One lock of the memory store, and the holder's messages that it counts.

use std::sync::Arc;

use crate::rules::lock::{Digest, Freed, LockNote, LockRecord, LockState, Nonce, ReleaseReason, Scope, Signal};

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
    /// It goes now; these publishes are over.
    Frees { reason: ReleaseReason, settled: Vec<Nonce> },
    /// It goes after the settle grace, which it has been given.
    Settles { settled: Vec<Nonce> },
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
    pub(super) since_ms: u64,
    publishes: Vec<(Nonce, Stage)>,
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
        let first = if state == LockState::Leased {
            Stage::Open
        } else {
            Stage::Confirmed
        };
        Lock {
            holder,
            state,
            expires_ms,
            indexed: 0,
            note,
            proxy,
            since_ms,
            publishes: vec![(publish, first)],
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
        self.note.scope == Scope::UntilFinished && self.note.acks_late
    }

    fn stage(&mut self, publish: Nonce) -> Option<&mut Stage> {
        self.publishes
            .iter_mut()
            .find(|(nonce, _)| *nonce == publish)
            .map(|(_, stage)| stage)
    }

    /// Counts a publish, unless it is counted already.
    pub(super) fn publish(&mut self, publish: Nonce) {
        if self.stage(publish).is_none() {
            self.push(publish, Stage::Open);
        }
    }

    /// The broker has this publish.
    pub(super) fn confirm(&mut self, publish: Nonce) {
        match self.stage(publish) {
            Some(stage @ Stage::Open) => *stage = Stage::Confirmed,
            Some(_) => {}
            None => self.push(publish, Stage::Confirmed),
        }
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

    /// A worker settled a message of the holder.
    pub(super) fn signal(&mut self, settlement: Nonce, signal: Signal, now: u64) -> SignalEffect {
        if self.note.scope == Scope::UntilExpired || self.publishes.iter().any(|(_, stage)| *stage == Stage::Settled(settlement)) {
            return SignalEffect::None;
        }
        if let Some((_, stage)) = self.publishes.iter_mut().find(|(_, stage)| !matches!(stage, Stage::Settled(_))) {
            *stage = Stage::Settled(settlement);
        }
        let settled = || {
            self.publishes
                .iter()
                .filter(|(_, stage)| matches!(stage, Stage::Settled(_)))
                .map(|(nonce, _)| *nonce)
                .collect()
        };
        match (self.note.scope, signal) {
            (_, Signal::Rejected) => SignalEffect::Frees {
                reason: ReleaseReason::Ended,
                settled: settled(),
            },
            (Scope::UntilStarted, _) => SignalEffect::Frees {
                reason: ReleaseReason::Started,
                settled: settled(),
            },
            (_, Signal::Acked) if self.ends_by_ack() && self.in_flight() == 0 => {
                let settled = settled();
                self.expires_ms = self.expires_ms.min(now + self.note.settle_grace_ms);
                SignalEffect::Settles { settled }
            }
            _ => SignalEffect::None,
        }
    }

    pub(super) fn freed(&self, digest: Digest, reason: ReleaseReason, now: u64) -> Freed {
        Freed {
            digest,
            holder: self.holder.clone(),
            rule: self.note.rule.clone(),
            task: self.note.task.clone(),
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
            worker: "".into(),
            proxy: self.proxy.clone(),
            queue: self.note.queue.clone(),
            since_ms: self.since_ms,
            expires_ms: self.expires_ms,
            scope: self.note.scope,
            in_flight: self.in_flight() as u32,
            shadow: self.note.shadow,
        }
    }
}
