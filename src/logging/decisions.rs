//! The decision log: one line per decision, with fixed field names, bounded per second.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::Decisions;
use super::limit::{Grant, TokenBucket};
use crate::rules::lock::Digest;

/// Whether a decision is logged under `decisions = "duplicates"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DecisionKind {
    /// It concerns a duplicate: dropped, replaced, superseded and so on, also where a rule only observes.
    Duplicate,
    /// Anything else.
    Other,
}

/// One line of the decision log. What is not known is left out.
#[derive(Debug, Clone, Copy)]
pub struct Decision<'a> {
    /// What happened: `publish`, `delivery`, `release`.
    pub event: &'static str,
    /// The rule.
    pub rule: &'a str,
    /// What was decided, as in the metrics.
    pub decision: &'static str,
    /// Why, as in the metrics.
    pub reason: Option<&'static str>,
    /// `enforce` or `observe`.
    pub mode: &'static str,
    /// The vhost of the connection.
    pub vhost: &'a str,
    /// The name of the task.
    pub task: &'a str,
    /// The id of the message that was decided.
    pub id: &'a str,
    /// The id that holds the lock.
    pub holder: Option<&'a str>,
    /// The key.
    pub digest: Option<Digest>,
    /// The address of the client.
    pub client: &'a str,
}

/// Decides which decisions are logged, and logs them.
#[derive(Debug)]
pub struct DecisionLog {
    decisions: AtomicU8,
    bucket: Mutex<TokenBucket>,
}

impl DecisionLog {
    /// Logs what `decisions` names, `per_second` lines a second at most.
    pub fn new(decisions: Decisions, per_second: u64) -> DecisionLog {
        DecisionLog {
            decisions: AtomicU8::new(decisions as u8),
            bucket: Mutex::new(TokenBucket::new(per_second, Instant::now())),
        }
    }

    /// Changes what is logged from now on.
    pub fn set(&self, decisions: Decisions, per_second: u64) {
        self.decisions.store(decisions as u8, Ordering::Relaxed);
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner).set_rate(per_second);
    }

    /// Whether a decision of this kind is logged at all: a cheap question before a [`Decision`] is put together.
    pub fn wants(&self, kind: DecisionKind) -> bool {
        let decisions = self.decisions.load(Ordering::Relaxed);
        let wanted = decisions == Decisions::All as u8 || (decisions == Decisions::Duplicates as u8 && kind == DecisionKind::Duplicate);
        wanted && tracing::enabled!(target: "oncegate::decision", tracing::Level::INFO)
    }

    /// Logs a decision, unless its kind is not wanted or this second's share is used up.
    pub fn log(&self, kind: DecisionKind, decision: &Decision<'_>) {
        if !self.wants(kind) {
            return;
        }
        let grant = self.bucket.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now());
        let Grant::Allowed { suppressed } = grant else { return };
        log_suppressed(suppressed);
        tracing::info!(
            target: "oncegate::decision",
            rule = decision.rule,
            decision = decision.decision,
            reason = decision.reason,
            mode = decision.mode,
            vhost = decision.vhost,
            task = decision.task,
            id = decision.id,
            holder = decision.holder,
            digest = decision.digest.map(tracing::field::display),
            client = decision.client,
            "{}",
            decision.event
        );
    }

    /// Logs how many decisions were left out since the last line; the next line would say it too.
    pub fn log_suppressed(&self) {
        let suppressed = self.bucket.lock().unwrap_or_else(PoisonError::into_inner).take_suppressed();
        log_suppressed(suppressed);
    }
}

fn log_suppressed(suppressed: u64) {
    if suppressed > 0 {
        tracing::info!(target: "oncegate::decision", suppressed, "decisions left out of the log");
    }
}
