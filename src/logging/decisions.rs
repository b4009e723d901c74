//! The decision log: one line per decision, with fixed field names, bounded per second.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::Decisions;
use super::feed::Feed;
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

/// One decision. What is not known is left out of what is shown of it.
#[derive(Debug, Clone)]
pub struct Decision {
    /// What happened: `publish`, `delivery`, `release`.
    pub event: &'static str,
    /// The rule.
    pub rule: Arc<str>,
    /// What was decided, as in the metrics.
    pub decision: &'static str,
    /// Why, as in the metrics.
    pub reason: Option<&'static str>,
    /// `enforce` or `observe`.
    pub mode: &'static str,
    /// The vhost of the connection.
    pub vhost: Option<Arc<str>>,
    /// The name of the task.
    pub task: Arc<str>,
    /// The id of the message that was decided.
    pub id: Arc<str>,
    /// The id that holds the lock.
    pub holder: Option<Arc<str>>,
    /// The key.
    pub digest: Option<Digest>,
    /// The address of the client.
    pub client: Option<SocketAddr>,
    /// The limit that a delivery waits for, or has waited for.
    pub limit: Option<LimitWait>,
}

/// What a delivery waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitWait {
    /// The limit, by its name.
    pub limit: Arc<str>,
    /// For how long as it stands, in milliseconds; of one that waits no longer, for how long it has waited.
    pub wait_ms: u64,
}

/// Decides which decisions are logged, and logs them.
#[derive(Debug)]
pub struct DecisionLog {
    decisions: AtomicU8,
    bucket: Mutex<TokenBucket>,
    feed: Arc<Feed>,
}

impl DecisionLog {
    /// Logs what `decisions` names, `per_second` lines a second at most.
    pub fn new(decisions: Decisions, per_second: u64) -> DecisionLog {
        DecisionLog {
            decisions: AtomicU8::new(decisions as u8),
            bucket: Mutex::new(TokenBucket::new(per_second, Instant::now())),
            feed: Arc::default(),
        }
    }

    /// Changes what is logged from now on.
    pub fn set(&self, decisions: Decisions, per_second: u64) {
        self.decisions.store(decisions as u8, Ordering::Relaxed);
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner).set_rate(per_second);
    }

    /// What has been decided, for whoever watches.
    pub fn feed(&self) -> &Arc<Feed> {
        &self.feed
    }

    /// Whether a decision of this kind is logged or kept at all: a cheap question before a [`Decision`] is put together.
    pub fn wants(&self, kind: DecisionKind) -> bool {
        self.feed.wants(kind) || self.logs(kind)
    }

    fn logs(&self, kind: DecisionKind) -> bool {
        let decisions = self.decisions.load(Ordering::Relaxed);
        let wanted = decisions == Decisions::All as u8 || (decisions == Decisions::Duplicates as u8 && kind == DecisionKind::Duplicate);
        wanted && tracing::enabled!(target: "oncegate::decision", tracing::Level::INFO)
    }

    /// Logs a decision, unless its kind is not wanted or this second's share is used up, and keeps it for whoever watches.
    pub fn log(&self, kind: DecisionKind, decision: Decision) {
        if self.logs(kind) {
            self.write(&decision);
        }
        if self.feed.wants(kind) {
            self.feed.push(kind, decision);
        }
    }

    fn write(&self, decision: &Decision) {
        let grant = self.bucket.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now());
        let Grant::Allowed { suppressed } = grant else { return };
        log_suppressed(suppressed);
        tracing::info!(
            target: "oncegate::decision",
            rule = &*decision.rule,
            decision = decision.decision,
            reason = decision.reason,
            mode = decision.mode,
            vhost = decision.vhost.as_deref(),
            task = &*decision.task,
            id = &*decision.id,
            holder = decision.holder.as_deref(),
            digest = decision.digest.map(tracing::field::display),
            client = decision.client.map(tracing::field::display),
            limit = decision.limit.as_ref().map(|limit| &*limit.limit),
            wait_ms = decision.limit.as_ref().map(|limit| limit.wait_ms),
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
