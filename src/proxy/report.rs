//! From the facts of a session to metrics and log lines.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::hub::{Hub, Seat};
use super::observer::report_freed;
use super::upstream::DialError;
use crate::lifecycle::nodes::Node;
use crate::logging::{Decision, DecisionKind, LimitWait};
use crate::metrics::{ClosedBy, Direction, Metrics, Mode, Peer, RuleMetrics};
use crate::rules::Rule;
use crate::rules::outcome::{DeliveryDecision, ExceptionReason, PublishDecision};
use crate::rules::spec;
use crate::session::{CloseReason, DeliveryEvent, Event, JOINED, PublishEvent, Session, Side};

/// Reports what happens on one connection.
pub struct Reporter {
    hub: Arc<Hub>,
    peer: SocketAddr,
    rules: HashMap<Arc<str>, Arc<RuleMetrics>>,
    channels: usize,
    /// How many deliveries are held, and since when the first of them, in monotonic microseconds.
    held: (usize, Option<u64>),
    /// The number of the connection.
    number: u64,
    /// The workers whose mailboxes are consumed on the connection, and its number.
    workers: Vec<(Node, u64)>,
}

impl Drop for Reporter {
    fn drop(&mut self) {
        for (node, connection) in &self.workers {
            self.hub.nodes().detach(node, *connection);
        }
        self.hub.metrics().channels.sub(self.channels as i64);
        self.hub.metrics().held.change(self.number, self.held.0, 0, None);
    }
}

impl Reporter {
    /// A reporter for a client at this address.
    pub fn new(hub: &Arc<Hub>, number: u64, peer: SocketAddr) -> Reporter {
        Reporter {
            hub: Arc::clone(hub),
            peer,
            rules: HashMap::new(),
            channels: 0,
            held: (0, None),
            number,
            workers: Vec::new(),
        }
    }

    fn metrics(&self) -> &Metrics {
        self.hub.metrics()
    }

    /// Bytes read from a side.
    pub fn bytes_in(&self, side: Side, count: usize) {
        self.metrics().traffic(peer(side), Direction::In).bytes.inc_by(count as u64);
    }

    /// Bytes written to a side.
    pub fn bytes_out(&self, side: Side, count: usize) {
        self.metrics().traffic(peer(side), Direction::Out).bytes.inc_by(count as u64);
    }

    /// No broker could be reached for this client.
    pub fn upstream_failed(&self, error: &DialError) {
        tracing::error!(client = %self.peer, %error, "the client is turned away");
    }

    /// Counts and logs what the session has told since the last call.
    pub fn report(&mut self, session: &mut Session, seat: &Seat) {
        let counts = session.take_counts();
        let metrics = self.hub.metrics();
        for (counter, count) in [
            (&metrics.traffic(Peer::Client, Direction::In).frames, counts.frames_from_client),
            (&metrics.traffic(Peer::Broker, Direction::In).frames, counts.frames_from_broker),
            (&metrics.traffic(Peer::Client, Direction::Out).frames, counts.frames_to_client),
            (&metrics.traffic(Peer::Broker, Direction::Out).frames, counts.frames_to_broker),
            (&metrics.publishes_unmatched, counts.unmatched_publishes),
            (&metrics.deliveries_unmatched, counts.unmatched_deliveries),
        ] {
            // The threads share these counters: each look at one costs the others theirs.
            if count > 0 {
                counter.inc_by(count);
            }
        }
        for us in counts.added_us {
            metrics.publish_added_seconds.observe(f64::from(us) / 1e6);
        }
        let (held, oldest_us) = session.held();
        if (held, oldest_us) != self.held {
            metrics
                .held
                .change(self.number, self.held.0, held, oldest_us.map(|us| self.hub.time_of(us)));
            self.held = (held, oldest_us);
        }
        let channels = session.channel_count();
        if channels != self.channels {
            metrics.channels.add(channels as i64 - self.channels as i64);
            self.channels = channels;
        }
        if session.events().is_empty() {
            return;
        }
        let vhost = Arc::clone(session.vhost());
        for event in std::mem::take(session.events()) {
            self.event(event, &vhost, seat);
        }
    }

    fn rule(&mut self, rule: &Rule) -> Arc<RuleMetrics> {
        if let Some(metrics) = self.rules.get(&rule.name) {
            return Arc::clone(metrics);
        }
        let metrics = self.hub.metrics().rule(&rule.name);
        self.rules.insert(Arc::clone(&rule.name), Arc::clone(&metrics));
        metrics
    }

    fn event(&mut self, event: Event, vhost_name: &Arc<str>, seat: &Seat) {
        let vhost = &**vhost_name;
        match event {
            Event::Publish(publish) => self.publish(&publish, vhost_name),
            Event::Unkeyable {
                rule,
                reason,
                detail,
                task,
                id,
            } => {
                let metrics = self.rule(&rule);
                metrics.count_unkeyable(reason);
                metrics.count_publish(PublishDecision::Unkeyable, mode(&rule));
                if let Some(suppressed) = self.hub.unreadable().allow(&rule.name) {
                    tracing::warn!(rule = &*rule.name, reason = reason.as_str(), detail, vhost, task = &*task, id = &*id, client = %self.peer,
                        suppressed, "a message has no key and is forwarded; such lines are written once a minute for a rule");
                }
            }
            Event::Admission(delivery) => self.delivery(&delivery, vhost_name),
            Event::Delivered { rule } => self.rule(&rule).count_delivery(DeliveryDecision::Forwarded, mode(&rule)),
            Event::Freed(freed) => report_freed(self.hub.metrics(), self.hub.log(), &freed),
            Event::Value(value) => self.hub.results().keep(value),
            Event::Owed(debt) => self.hub.results().owe(debt),
            Event::GivenBack { rule, task, id, reason } => {
                tracing::info!(rule = &*rule.name, reason, vhost, task = &*task, id = &*id, client = %self.peer,
                    "a delivery that was held goes back to its queue");
            }
            Event::Permitted { rule, limit, waited_ms } => self.hub.metrics().rule(&rule).count_permitted(&limit, waited_ms),
            Event::Unlimited {
                rule,
                reason,
                detail,
                task,
                id,
            } => {
                self.rule(&rule).count_unkeyable(reason);
                if let Some(suppressed) = self.hub.unreadable().allow(&rule.name) {
                    tracing::warn!(rule = &*rule.name, reason = reason.as_str(), detail, vhost, task = &*task, id = &*id, client = %self.peer,
                        suppressed, "a delivery has no key for a limit and is not limited; such lines are written once a minute for a rule");
                }
            }
            Event::Unparked { rule } => self.rule(&rule).count_unparked(),
            Event::NotParked { rule, task, id, reason } => {
                if let Some(suppressed) = self.hub.unparkable().allow(&rule.name) {
                    tracing::warn!(rule = &*rule.name, reason, vhost, task = &*task, id = &*id, client = %self.peer, suppressed,
                        "a delivery could not be parked and stays held; such lines are written once a minute for a rule");
                }
            }
            Event::NotDeadLettered { rule, task, id, reason } => {
                if let Some(suppressed) = self.hub.unparkable().allow(&rule.name) {
                    tracing::warn!(rule = &*rule.name, reason, vhost, task = &*task, id = &*id, client = %self.peer, suppressed,
                        "a delivery whose key runs could not be dead-lettered and is dropped; such lines are written once a minute for a \
                         rule");
                }
            }
            Event::Emptied { queue, at_us } => self.hub.queue_emptied(vhost, queue, at_us),
            Event::Exception { rule, reason } => {
                if let Some(rule) = rule {
                    self.rule(&rule).count_exception(reason);
                    if reason == ExceptionReason::DeliveryLimit {
                        tracing::warn!(rule = &*rule.name, reason = reason.as_str(), vhost, client = %self.peer,
                            "a delivery that waits for a run is handed over: its queue would drop it if it went back again");
                    }
                }
            }
            Event::EndsUnheard { rule } => ends_unheard(&rule),
            Event::ExpiryKept { rule, why, task, id } => {
                if let Some(suppressed) = self.hub.unexpiring().allow(&rule.name) {
                    tracing::warn!(rule = &*rule.name, reason = why, vhost, task = &*task, id = &*id, client = %self.peer, suppressed,
                        "a message does not expire with its lock (expires_with_lock) and is forwarded as it came; such lines are written \
                         once a minute for a rule");
                }
            }
            Event::DueKept { rule, why, task, id } => {
                if self.hub.undelayed().allow(&rule.name) {
                    tracing::warn!(rule = &*rule.name, reason = why, vhost, task = &*task, id = &*id, client = %self.peer,
                        "a message keeps its own due time (retry_delays, debounce) and is forwarded as it came; this is written once for a rule");
                }
            }
            Event::Mailbox { node } => self.mailbox(node_of(vhost_name, node), seat),
            Event::Pulse { node, pulse } => self.hub.nodes().pulse(node_of(vhost_name, node), pulse),
            Event::Runs(run) => self.hub.runs().began(run),
            Event::TasksKnown(answer) => self.hub.nodes().answered(answer),
            Event::Opened => tracing::debug!(client = %self.peer, vhost, "the client is logged in"),
            Event::Closed { by, reason } => self.closed(by, reason, vhost),
        }
    }

    fn mailbox(&mut self, node: Node, seat: &Seat) {
        if let Some(ask) = seat.ask() {
            self.hub.nodes().attach(node.clone(), seat.number(), ask);
            self.workers.push((node, seat.number()));
        }
    }

    fn publish(&mut self, publish: &PublishEvent, vhost: &Arc<str>) {
        let rule = &publish.rule;
        self.rule(rule).count_publish(publish.decision, mode(rule));
        let kind = match publish.decision {
            PublishDecision::Forwarded | PublishDecision::Bypassed | PublishDecision::Reentry | PublishDecision::Unmatched => {
                DecisionKind::Other
            }
            _ => DecisionKind::Duplicate,
        };
        if !self.hub.log().wants(kind) {
            return;
        }
        self.hub.log().log(
            kind,
            Decision {
                event: "publish",
                rule: Arc::clone(&rule.name),
                decision: publish.decision.as_str(),
                reason: Some(publish.reason),
                mode: mode(rule).as_str(),
                vhost: Some(Arc::clone(vhost)),
                task: Arc::clone(&publish.task),
                id: Arc::clone(&publish.id),
                holder: publish.holder.clone(),
                digest: publish.digest,
                client: Some(self.peer),
                limit: None,
            },
        );
    }

    fn delivery(&mut self, delivery: &DeliveryEvent, vhost: &Arc<str>) {
        let rule = &delivery.rule;
        let metrics = self.rule(rule);
        metrics.count_delivery(delivery.decision, mode(rule));
        if delivery.decision == DeliveryDecision::Parked {
            metrics.count_parked();
        }
        if delivery.decision == DeliveryDecision::Joined && delivery.reason == JOINED {
            metrics.count_joined("worker", 1);
        }
        let kind = match delivery.decision {
            DeliveryDecision::Forwarded => DecisionKind::Other,
            _ => DecisionKind::Duplicate,
        };
        if !self.hub.log().wants(kind) {
            return;
        }
        self.hub.log().log(
            kind,
            Decision {
                event: "delivery",
                rule: Arc::clone(&rule.name),
                decision: delivery.decision.as_str(),
                reason: Some(delivery.reason),
                mode: mode(rule).as_str(),
                vhost: Some(Arc::clone(vhost)),
                task: Arc::clone(&delivery.task),
                id: Arc::clone(&delivery.id),
                holder: delivery.holder.clone(),
                digest: Some(delivery.digest),
                client: Some(self.peer),
                limit: delivery.limit.as_ref().map(|(limit, wait_ms)| LimitWait {
                    limit: Arc::clone(limit),
                    wait_ms: *wait_ms,
                }),
            },
        );
    }

    fn closed(&self, by: Side, reason: CloseReason, vhost: &str) {
        use crate::metrics::CloseReason as Label;
        let label = match reason {
            CloseReason::Normal => Label::Closed,
            CloseReason::Eof => Label::Eof,
            CloseReason::HeartbeatTimeout => Label::Heartbeat,
            CloseReason::HandshakeTimeout => Label::HandshakeTimeout,
            CloseReason::Protocol => Label::Protocol,
            CloseReason::Drain => Label::Drained,
        };
        let by = match (by, reason) {
            (_, CloseReason::Drain | CloseReason::HandshakeTimeout) => ClosedBy::Oncegate,
            (Side::Client, _) => ClosedBy::Client,
            (Side::Broker, _) => ClosedBy::Broker,
        };
        self.metrics().count_closed(by, label);
        if reason == CloseReason::Normal || reason == CloseReason::Eof {
            tracing::debug!(client = %self.peer, vhost, by = by.as_str(), reason = label.as_str(), "a connection has ended");
        } else {
            tracing::info!(client = %self.peer, vhost, by = by.as_str(), reason = label.as_str(), "a connection has ended");
        }
    }
}

/// Once for a rule, until the configuration changes.
fn ends_unheard(rule: &Rule) {
    tracing::warn!(
        rule = &*rule.name,
        completion = rule.hears.names(),
        "many tasks of this rule were acknowledged, and none was heard to end: its locks go late, when their worker is asked for its tasks, or by ttl. Let the workers publish task events \
         (worker -E, or control.enable_events with gossip or heartbeat on), set results.url to Celery's Redis result backend, use Celery's \
         rpc result backend, or write acks_late = true if the tasks acknowledge after their run; completion must list what tells the end"
    );
}

fn node_of(vhost: &Arc<str>, name: Arc<str>) -> Node {
    let vhost = Arc::clone(vhost);
    Node { vhost, name }
}

fn peer(side: Side) -> Peer {
    match side {
        Side::Client => Peer::Client,
        Side::Broker => Peer::Broker,
    }
}

fn mode(rule: &Rule) -> Mode {
    if rule.mode == spec::Mode::Observe {
        Mode::Observe
    } else {
        Mode::Enforce
    }
}
