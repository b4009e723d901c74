//! From what the store does to metrics and log lines.

use std::sync::Arc;
use std::time::Duration;

use crate::lifecycle::nodes::Node;
use crate::lifecycle::revokes::Revokes;
use crate::lifecycle::running::Runs;
use crate::logging::{Decision, DecisionKind, DecisionLog};
use crate::metrics::{Metrics, StoreOp};
use crate::rules::lock::{Begun, Committed, Freed, Renewed, Reply, Request, Superseded};
use crate::rules::outcome::ExceptionReason;
use crate::store::{Circuit, GivenUp, Observer, Op, Unavailable};

/// Counts and logs what the store does.
pub struct StoreObserver {
    metrics: Arc<Metrics>,
    log: Arc<DecisionLog>,
    runs: Arc<Runs>,
    revokes: Revokes,
}

impl StoreObserver {
    /// An observer that feeds these.
    pub fn new(metrics: Arc<Metrics>, log: Arc<DecisionLog>, runs: Arc<Runs>, revokes: Revokes) -> StoreObserver {
        StoreObserver {
            metrics,
            log,
            runs,
            revokes,
        }
    }

    /// A newer id has the lock: the older one is not to run any more.
    fn superseded(&self, superseded: &Superseded) {
        let Superseded {
            freed,
            vhost,
            worker,
            begun,
        } = superseded;
        report_freed(&self.metrics, &self.log, freed);
        // What only observes kills nothing.
        if freed.shadow {
            return;
        }
        match begun {
            Begun::Yes => self.superseded_ran(&freed.rule, &freed.holder),
            Begun::No if worker.is_empty() => {}
            Begun::No => {
                let node = Node {
                    vhost: Arc::clone(vhost),
                    name: Arc::clone(worker),
                };
                self.revokes.revoke(&node, &freed.holder);
            }
        }
    }

    fn superseded_ran(&self, rule: &str, id: &str) {
        self.metrics.rule(rule).count_exception(ExceptionReason::SupersededRan);
        tracing::warn!(
            rule,
            id,
            "a superseded task runs all the same: a worker had begun it, or holds it past every proxy"
        );
    }
}

/// Counts and logs that a lock was freed.
pub fn report_freed(metrics: &Metrics, log: &DecisionLog, freed: &Freed) {
    let mode = if freed.shadow { "observe" } else { "enforce" };
    metrics.rule(&freed.rule).count_released(freed.reason, freed.held_ms);
    if !log.wants(DecisionKind::Other) {
        return;
    }
    log.log(
        DecisionKind::Other,
        Decision {
            event: "release",
            rule: Arc::clone(&freed.rule),
            decision: "released",
            reason: Some(freed.reason.as_str()),
            mode,
            vhost: Some(Arc::clone(&freed.vhost)).filter(|vhost| !vhost.is_empty()),
            task: Arc::clone(&freed.task),
            id: Arc::clone(&freed.holder),
            holder: Some(Arc::clone(&freed.holder)),
            digest: Some(freed.digest),
            client: None,
            limit: None,
        },
    );
}

impl Observer for StoreObserver {
    fn on_request(&self, op: Op, took: Duration) {
        self.metrics.count_store_op(label(op), took, true);
    }

    fn on_error(&self, op: Op, _why: &Unavailable) {
        self.metrics.store_op(label(op)).errors.inc();
    }

    fn on_tell(&self, request: &Request) {
        self.runs.hears(request);
    }

    fn on_told(&self, request: &Request, reply: &Reply) {
        self.runs.heard(request, reply);
        match (request, reply) {
            (_, Reply::Released(freed)) => freed.iter().for_each(|freed| report_freed(&self.metrics, &self.log, freed)),
            (_, Reply::Commit(Committed::Replaced(superseded))) => self.superseded(superseded),
            (Request::Renew { claim, note, worker, .. }, Reply::Renewed(Renewed::Superseded)) if !worker.is_empty() => {
                let node = Node {
                    vhost: Arc::clone(&note.vhost),
                    name: Arc::clone(worker),
                };
                self.revokes.revoke(&node, &claim.id);
            }
            (_, Reply::Outlived { freed, ran }) => {
                for freed in freed {
                    report_freed(&self.metrics, &self.log, freed);
                }
                for ran in ran {
                    self.superseded_ran(&ran.rule, &ran.holder);
                }
            }
            // What an observing rule lets pass may well be a duplicate.
            (Request::Commit { claim, note, .. }, Reply::Commit(Committed::Lost { holder })) if !note.shadow => {
                self.metrics.rule(&note.rule).count_exception(ExceptionReason::Lost);
                tracing::warn!(rule = &*note.rule, task = &*note.task, id = &*claim.id, holder = &**holder, digest = %claim.digest,
                    "a message went to the broker while another id held its key");
            }
            _ => {}
        }
    }

    fn on_given_up(&self, request: &Request, why: GivenUp) {
        // Who has the lock renews it again, at the latest when the store is back.
        if matches!(request, Request::Renew { .. } | Request::RenewRun { .. }) {
            return;
        }
        if let Request::Result { id, .. } = request {
            tracing::debug!(
                id = &**id,
                ?why,
                "the result of a task was not told to the store: of those that wait for it the outcome is unknown"
            );
            return;
        }
        // It is told again.
        if matches!(request, Request::Caller { .. }) {
            return;
        }
        let rule = match request {
            Request::Commit { note, .. } => Some(&note.rule),
            _ => None,
        };
        self.metrics
            .rule(rule.map_or("", |rule| rule))
            .count_exception(ExceptionReason::ReleaseGivenUp);
        tracing::warn!(?why, "an order to the store was given up; its lock ends with its life");
    }

    fn on_up(&self, up: bool) {
        self.metrics.store_up.set(i64::from(up));
        if up {
            tracing::info!("the store is connected");
        } else {
            tracing::warn!("the store is not connected");
        }
    }

    fn on_circuit(&self, circuit: Circuit) {
        self.metrics.store_circuit_open.set(i64::from(circuit != Circuit::Closed));
        tracing::warn!(?circuit, "the store's circuit breaker has changed");
    }

    fn on_new_server(&self, run_id: &str) {
        tracing::warn!(run_id, "the store is another process than before: what it held may be gone");
    }
}

fn label(op: Op) -> StoreOp {
    match op {
        Op::Acquire => StoreOp::Acquire,
        Op::Commit => StoreOp::Commit,
        Op::RenewLease => StoreOp::RenewLease,
        Op::Join => StoreOp::Join,
        Op::Result => StoreOp::Result,
        Op::Caller => StoreOp::Caller,
        Op::Unpublish => StoreOp::Unpublish,
        Op::Signal => StoreOp::Signal,
        Op::Admit => StoreOp::Admit,
        Op::Renew => StoreOp::Renew,
        Op::Run => StoreOp::Run,
        Op::RenewRun => StoreOp::RenewRun,
        Op::LeaveRun => StoreOp::LeaveRun,
        Op::BeatLease => StoreOp::BeatLease,
        Op::Reserve => StoreOp::Reserve,
        Op::Permit => StoreOp::Permit,
        Op::LeaveLimit => StoreOp::LeaveLimit,
        Op::Park => StoreOp::Park,
        Op::MarkParked => StoreOp::MarkParked,
        Op::FindParked => StoreOp::FindParked,
        Op::Cool => StoreOp::Cool,
        Op::Release => StoreOp::Release,
        Op::Show => StoreOp::Show,
    }
}
