//! Every counter, gauge and histogram, with its fixed name and labels, fed by the edge and served by the admin listener.
//!
//! Labels are bounded: rules, reasons, directions; never keys, ids or queues. A handle is an atomic behind an `Arc`: the hot path takes
//! it once and hashes no label. The series of a rule that vanishes at a reload stay, unmoving, until the process ends: a counter that
//! disappears and returns would look like a reset. A series that nothing feeds is not exported.

mod events;
mod held;
mod labels;
mod process;
mod rule;
#[cfg(test)]
mod tests;

pub use events::{EventMetrics, RecordMetrics};
pub use held::HeldMetrics;
pub use labels::{CloseReason, ClosedBy, Direction, EventDrop, Mode, Peer, RejectReason, StoreOp, Unrecorded};
pub use rule::RuleMetrics;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use process::ProcessMetrics;
use rule::RuleFamilies;

use crate::rules::outcome::{DeliveryDecision, PublishDecision};

/// 25 µs to 5 s: what a store question may add to a publish.
const ADDED_SECONDS: &[f64] = &[
    0.000_025, 0.000_05, 0.000_1, 0.000_2, 0.000_4, 0.000_8, 0.001_6, 0.003_2, 0.006_4, 0.0128, 0.0256, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];
/// 100 ms to 30 days: the life of a lock.
const HELD_SECONDS: &[f64] = &[
    0.1,
    0.5,
    1.0,
    5.0,
    10.0,
    30.0,
    60.0,
    300.0,
    900.0,
    3600.0,
    14_400.0,
    86_400.0,
    604_800.0,
    2_592_000.0,
];

/// The result backend as a dependency.
const RESULTS: &str = "results";

/// All metrics of this process.
pub struct Metrics {
    registry: Registry,
    process: ProcessMetrics,
    rule_families: RuleFamilies,
    rules: Mutex<HashMap<String, Arc<RuleMetrics>>>,
    traffic: [[Traffic; Direction::COUNT]; Peer::COUNT],
    store: Vec<StoreOpMetrics>,
    rejected: IntCounterVec,
    closed: IntCounterVec,
    upstream_up: IntGaugeVec,
    control_up: IntGaugeVec,
    config_info: IntGaugeVec,
    store_info: IntGaugeVec,
    locks: IntGaugeVec,
    circuit: IntGaugeVec,
    mode_override: IntGaugeVec,
    reloads_ok: IntCounter,
    reloads_failed: IntCounter,
    last_reload_ok: IntGauge,

    /// Publishes that no rule matched.
    pub publishes_unmatched: IntCounter,
    /// Deliveries that no rule matched.
    pub deliveries_unmatched: IntCounter,
    /// What the decision about a publish added to its way through the proxy, in seconds.
    pub publish_added_seconds: Histogram,
    /// Client connections that are open.
    pub connections: IntGauge,
    /// `max_connections`.
    pub connections_limit: IntGauge,
    /// Channels that are open, over all connections.
    pub channels: IntGauge,
    /// Deliveries that are held, over all connections.
    pub held: HeldMetrics,
    /// What became of the decisions that are to be published.
    pub events: Arc<EventMetrics>,
    /// What became of the decisions that are to be written down.
    pub records: Arc<RecordMetrics>,
    /// 1 while the store answers.
    pub store_up: IntGauge,
    /// 1 while the circuit breaker keeps questions from the store.
    pub store_circuit_open: IntGauge,
}

/// Bytes and frames of one socket in one direction.
pub struct Traffic {
    /// Bytes, as on the socket (within TLS: the plain text).
    pub bytes: IntCounter,
    /// AMQP frames.
    pub frames: IntCounter,
}

/// What one kind of store question takes.
pub struct StoreOpMetrics {
    /// From the question to its answer, in seconds; a timeout counts with the time that was waited.
    pub seconds: Histogram,
    /// Questions that failed or timed out.
    pub errors: IntCounter,
}

impl Metrics {
    /// Registers everything under its fixed name.
    ///
    /// Fails only if two metrics were given one name, which a test rules out.
    pub fn new() -> prometheus::Result<Metrics> {
        let registry = Registry::new();
        let r = &registry;
        let families = rule_families(r)?;
        let reloads = counters(
            r,
            "oncegate_config_reloads_total",
            "Reloads of the configuration, by result.",
            &["result"],
        )?;
        let build = gauges(
            r,
            "oncegate_build_info",
            "Always 1; the version and revision of this build.",
            &["version", "revision"],
        )?;
        build
            .with_label_values(&[env!("CARGO_PKG_VERSION"), option_env!("ONCEGATE_REVISION").unwrap_or("unknown")])
            .set(1);
        let circuit = gauges(
            r,
            "oncegate_circuit_open",
            "1 while questions are kept from the dependency.",
            &["dependency"],
        )?;
        let added = HistogramOpts::new("oncegate_publish_added_seconds", "What a decision added to a publish, in seconds.");
        Ok(Metrics {
            process: ProcessMetrics::register(r)?,
            traffic: traffic(r)?,
            store: store_ops(r)?,
            rejected: counters(r, "oncegate_connections_rejected_total", "Client connections refused.", &["reason"])?,
            closed: counters(
                r,
                "oncegate_connections_closed_total",
                "Client connections that ended.",
                &["by", "reason"],
            )?,
            upstream_up: gauges(
                r,
                "oncegate_upstream_up",
                "1 if the last dial of this upstream succeeded.",
                &["upstream"],
            )?,
            control_up: gauges(
                r,
                "oncegate_control_up",
                "1 while Oncegate's own connection in this virtual host stands.",
                &["vhost"],
            )?,
            config_info: gauges(
                r,
                "oncegate_config_info",
                "Always 1; the SHA-256 of the configuration in force.",
                &["sha256"],
            )?,
            store_info: gauges(r, "oncegate_store_info", "Always 1; the kind of store in use.", &["type"])?,
            locks: gauges(
                r,
                "oncegate_locks",
                "Locks in the store, over all proxies, by state.",
                &["rule", "state"],
            )?,
            reloads_ok: reloads.with_label_values(&["success"]),
            reloads_failed: reloads.with_label_values(&["failure"]),
            last_reload_ok: gauge(
                r,
                "oncegate_config_last_reload_successful",
                "1 if the last load or reload succeeded.",
            )?,
            publishes_unmatched: families.publishes.with_label_values(&["", PublishDecision::Unmatched.as_str(), ""]),
            deliveries_unmatched: families
                .deliveries
                .with_label_values(&["", DeliveryDecision::Unmatched.as_str(), ""]),
            publish_added_seconds: register(r, Histogram::with_opts(added.buckets(ADDED_SECONDS.to_vec()))?)?,
            connections: gauge(r, "oncegate_connections", "Client connections that are open.")?,
            connections_limit: gauge(r, "oncegate_connections_limit", "Most client connections that may be open.")?,
            channels: gauge(r, "oncegate_channels", "Channels that are open.")?,
            held: HeldMetrics::new(
                gauge(r, "oncegate_held_messages", "Deliveries that are held.")?,
                register(
                    r,
                    Gauge::new(
                        "oncegate_held_oldest_seconds",
                        "How long the delivery that is held longest is held, in seconds.",
                    )?,
                )?,
            ),
            events: Arc::new(EventMetrics::register(r)?),
            records: Arc::new(RecordMetrics::register(r)?),
            store_up: gauge(r, "oncegate_store_up", "1 while the store answers.")?,
            store_circuit_open: circuit.with_label_values(&["store"]),
            circuit,
            mode_override: mode_override(r)?,
            rule_families: families,
            rules: Mutex::new(HashMap::new()),
            registry,
        })
    }

    /// The handles of one rule, always the same ones for the same name.
    pub fn rule(&self, name: &str) -> Arc<RuleMetrics> {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rule) = rules.get(name) {
            return Arc::clone(rule);
        }
        let rule = Arc::new(RuleMetrics::new(name, self.rule_families.clone()));
        rules.insert(name.to_owned(), Arc::clone(&rule));
        rule
    }

    /// The byte and frame counters of one socket in one direction.
    pub fn traffic(&self, peer: Peer, direction: Direction) -> &Traffic {
        &self.traffic[peer as usize][direction as usize]
    }

    /// The handles of one kind of store question.
    pub fn store_op(&self, op: StoreOp) -> &StoreOpMetrics {
        &self.store[op as usize]
    }

    /// Counts one store question and what it took.
    pub fn count_store_op(&self, op: StoreOp, took: Duration, answered: bool) {
        let metrics = self.store_op(op);
        metrics.seconds.observe(took.as_secs_f64());
        if !answered {
            metrics.errors.inc();
        }
    }

    /// Counts a client's connection that was refused.
    pub fn count_rejected(&self, reason: RejectReason) {
        self.rejected.with_label_values(&[reason.as_str()]).inc();
    }

    /// Counts a client's connection that ended.
    pub fn count_closed(&self, by: ClosedBy, reason: CloseReason) {
        self.closed.with_label_values(&[by.as_str(), reason.as_str()]).inc();
    }

    /// Notes whether the last dial of an upstream (`host:port`, as configured) succeeded.
    pub fn set_upstream_up(&self, upstream: &str, up: bool) {
        self.upstream_up.with_label_values(&[upstream]).set(i64::from(up));
    }

    /// Notes whether the control connection of a virtual host stands.
    pub fn set_control_up(&self, vhost: &str, up: bool) {
        self.control_up.with_label_values(&[vhost]).set(i64::from(up));
    }

    /// Notes that a virtual host has no control connection any more.
    pub fn forget_control(&self, vhost: &str) {
        // It is not there if it was never tried.
        let _ = self.control_up.remove_label_values(&[vhost]);
    }

    /// Forgets upstreams that the configuration no longer names.
    pub fn keep_upstreams(&self, upstreams: &[&str]) {
        for family in self.upstream_up.collect() {
            for metric in family.get_metric() {
                let gone = metric.get_label().iter().find(|label| !upstreams.contains(&label.value()));
                if let Some(label) = gone {
                    // It was listed a moment ago; if another thread was faster, it is gone as wished.
                    let _ = self.upstream_up.remove_label_values(&[label.value()]);
                }
            }
        }
    }

    /// Notes the configuration in force, once it has been loaded: at the start, and at each reload that succeeds.
    pub fn set_config(&self, sha256: &str) {
        self.config_info.reset();
        self.config_info.with_label_values(&[sha256]).set(1);
        self.last_reload_ok.set(1);
    }

    /// Counts a reload. The first load at the start is none.
    pub fn count_reload(&self, succeeded: bool) {
        let counter = if succeeded { &self.reloads_ok } else { &self.reloads_failed };
        counter.inc();
        self.last_reload_ok.set(i64::from(succeeded));
    }

    /// Notes the kind of store in use: `memory`, `redis`, `sentinel` or `cluster`.
    pub fn set_store_type(&self, kind: &str) {
        self.store_info.reset();
        self.store_info.with_label_values(&[kind]).set(1);
    }

    /// Notes whether the result backend that is to be followed is connected.
    pub fn set_results_up(&self, up: bool) {
        self.circuit.with_label_values(&[RESULTS]).set(i64::from(!up));
    }

    /// Notes the modes that are set above those of the configuration, by rule.
    pub fn set_modes<'a>(&self, modes: impl IntoIterator<Item = (&'a str, &'a str)>) {
        self.mode_override.reset();
        for (rule, mode) in modes {
            self.mode_override.with_label_values(&[rule, mode]).set(1);
        }
    }

    /// Notes that no result backend is followed any more.
    pub fn forget_results(&self) {
        // It is not there if none was followed before.
        let _ = self.circuit.remove_label_values(&[RESULTS]);
    }

    /// Replaces what `oncegate_locks` shows: how many locks the store holds, by rule and state.
    pub fn set_locks<'a>(&self, counts: impl IntoIterator<Item = (&'a str, &'a str, u64)>) {
        self.locks.reset();
        for (rule, state, count) in counts {
            self.locks.with_label_values(&[rule, state]).set(count as i64);
        }
    }

    /// All series in the Prometheus text format, with `process_*` read anew.
    pub fn render(&self) -> prometheus::Result<String> {
        self.process.refresh();
        self.held.refresh();
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> prometheus::Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
    register(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
    register(registry, IntGaugeVec::new(Opts::new(name, help), labels)?)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntGauge> {
    register(registry, IntGauge::new(name, help)?)
}

fn rule_families(registry: &Registry) -> prometheus::Result<RuleFamilies> {
    let held = HistogramOpts::new("oncegate_lock_held_seconds", "How long locks were held, in seconds.");
    let waits = HistogramOpts::new(
        "oncegate_limit_wait_seconds",
        "How long deliveries waited for a limit before they were handed over, in seconds.",
    );
    let decision = &["rule", "decision", "mode"];
    let reason = &["rule", "reason"];
    Ok(RuleFamilies {
        publishes: counters(registry, "oncegate_publishes_total", "Publishes, by decision.", decision)?,
        deliveries: counters(registry, "oncegate_deliveries_total", "Deliveries, by decision.", decision)?,
        released: counters(registry, "oncegate_locks_released_total", "Locks freed, by reason.", reason)?,
        unkeyable: counters(registry, "oncegate_messages_unkeyable_total", "Messages without a key.", reason)?,
        cooldowns: counters(
            registry,
            "oncegate_cooldowns_total",
            "Keys that an operator locked by hand.",
            &["rule"],
        )?,
        joined: counters(
            registry,
            "oncegate_results_joined_total",
            "Dropped ids that were given the result of their holder, by result backend.",
            &["rule", "backend"],
        )?,
        parked: counters(
            registry,
            "oncegate_messages_parked_total",
            "Messages moved to a delay queue.",
            &["rule"],
        )?,
        unparked: counters(
            registry,
            "oncegate_messages_unparked_total",
            "Parked messages that came back.",
            &["rule"],
        )?,
        exceptions: counters(
            registry,
            "oncegate_exceptions_total",
            "What a rule could not keep, by reason.",
            reason,
        )?,
        held: register(registry, HistogramVec::new(held.buckets(HELD_SECONDS.to_vec()), &["rule"])?)?,
        limit_times: gauges(
            registry,
            "oncegate_limit_times",
            "How many deliveries a limit lets go in its time.",
            &["rule", "limit"],
        )?,
        limit_paused: gauges(
            registry,
            "oncegate_limit_paused",
            "1 while an operator has paused a limit as a whole.",
            &["rule", "limit"],
        )?,
        limit_wait: register(
            registry,
            HistogramVec::new(waits.buckets(HELD_SECONDS.to_vec()), &["rule", "limit"])?,
        )?,
    })
}

fn mode_override(registry: &Registry) -> prometheus::Result<IntGaugeVec> {
    let help = "1 while a mode is set above that of the configuration; rule * is all of them.";
    gauges(registry, "oncegate_mode_override", help, &["rule", "mode"])
}

fn traffic(registry: &Registry) -> prometheus::Result<[[Traffic; Direction::COUNT]; Peer::COUNT]> {
    let labels = &["peer", "direction"];
    let bytes = counters(registry, "oncegate_network_bytes_total", "Bytes read and written.", labels)?;
    let frames = counters(registry, "oncegate_frames_total", "AMQP frames read and written.", labels)?;
    let one = |peer: Peer, direction: Direction| Traffic {
        bytes: bytes.with_label_values(&[peer.as_str(), direction.as_str()]),
        frames: frames.with_label_values(&[peer.as_str(), direction.as_str()]),
    };
    let both = |peer| [one(peer, Direction::In), one(peer, Direction::Out)];
    Ok([both(Peer::Client), both(Peer::Broker)])
}

fn store_ops(registry: &Registry) -> prometheus::Result<Vec<StoreOpMetrics>> {
    let options = HistogramOpts::new("oncegate_store_request_duration_seconds", "What a store question took, in seconds.");
    let seconds = register(registry, HistogramVec::new(options.buckets(ADDED_SECONDS.to_vec()), &["op"])?)?;
    let errors = counters(
        registry,
        "oncegate_store_errors_total",
        "Store questions that failed or timed out.",
        &["op"],
    )?;
    let one = |op: &StoreOp| StoreOpMetrics {
        seconds: seconds.with_label_values(&[op.as_str()]),
        errors: errors.with_label_values(&[op.as_str()]),
    };
    Ok(StoreOp::ALL.iter().map(one).collect())
}
