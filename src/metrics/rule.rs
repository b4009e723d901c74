//! The metrics of one rule: children found by index, made at first use.

use std::sync::OnceLock;

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec};

use super::labels::Mode;
use crate::rules::lock::ReleaseReason;
use crate::rules::outcome::{DeliveryDecision, ExceptionReason, PublishDecision, UnkeyableReason};

const RELEASE_REASONS: usize = ReleaseReason::Admin as usize + 1;

/// The metric families that carry a `rule` label, shared by the handles of all rules.
#[derive(Clone)]
pub(super) struct RuleFamilies {
    pub(super) publishes: IntCounterVec,
    pub(super) deliveries: IntCounterVec,
    pub(super) released: IntCounterVec,
    pub(super) unkeyable: IntCounterVec,
    pub(super) exceptions: IntCounterVec,
    pub(super) cooldowns: IntCounterVec,
    pub(super) joined: IntCounterVec,
    pub(super) parked: IntCounterVec,
    pub(super) unparked: IntCounterVec,
    pub(super) held: HistogramVec,
    pub(super) limit_times: IntGaugeVec,
    pub(super) limit_paused: IntGaugeVec,
    pub(super) limit_wait: HistogramVec,
}

/// The counters of one rule. A series appears when it is first counted, or at zero by [`RuleMetrics::announce`].
pub struct RuleMetrics {
    rule: String,
    families: RuleFamilies,
    publishes: [[OnceLock<IntCounter>; PublishDecision::COUNT]; Mode::COUNT],
    deliveries: [[OnceLock<IntCounter>; DeliveryDecision::COUNT]; Mode::COUNT],
    released: [OnceLock<IntCounter>; RELEASE_REASONS],
    unkeyable: [OnceLock<IntCounter>; UnkeyableReason::COUNT],
    exceptions: [OnceLock<IntCounter>; ExceptionReason::COUNT],
    cooldowns: OnceLock<IntCounter>,
    parked: OnceLock<IntCounter>,
    unparked: OnceLock<IntCounter>,
    held: OnceLock<Histogram>,
}

impl RuleMetrics {
    pub(super) fn new(rule: &str, families: RuleFamilies) -> RuleMetrics {
        RuleMetrics {
            rule: rule.to_owned(),
            families,
            publishes: Default::default(),
            deliveries: Default::default(),
            released: Default::default(),
            unkeyable: Default::default(),
            exceptions: Default::default(),
            cooldowns: OnceLock::new(),
            parked: OnceLock::new(),
            unparked: OnceLock::new(),
            held: OnceLock::new(),
        }
    }

    /// Shows the two decisions that every rule makes at zero, so that a rate over them is right from the first message on.
    pub fn announce(&self, mode: Mode) {
        self.publish(PublishDecision::Forwarded, mode);
        self.publish(PublishDecision::Dropped, mode);
    }

    /// Counts a publish.
    pub fn count_publish(&self, decision: PublishDecision, mode: Mode) {
        self.publish(decision, mode).inc();
    }

    /// Counts a delivery.
    pub fn count_delivery(&self, decision: DeliveryDecision, mode: Mode) {
        let child = &self.deliveries[mode as usize][decision as usize];
        child
            .get_or_init(|| {
                self.families
                    .deliveries
                    .with_label_values(&[&self.rule, decision.as_str(), mode.as_str()])
            })
            .inc();
    }

    /// Counts a lock that was freed, and for how long it was held.
    pub fn count_released(&self, reason: ReleaseReason, held_ms: u64) {
        let child = &self.released[reason as usize];
        child
            .get_or_init(|| self.families.released.with_label_values(&[&self.rule, reason.as_str()]))
            .inc();
        let held = self.held.get_or_init(|| self.families.held.with_label_values(&[&self.rule]));
        held.observe(held_ms as f64 / 1000.0);
    }

    /// Counts a message whose key could not be computed. The publish itself is counted with [`PublishDecision::Unkeyable`].
    pub fn count_unkeyable(&self, reason: UnkeyableReason) {
        let child = &self.unkeyable[reason as usize];
        child
            .get_or_init(|| self.families.unkeyable.with_label_values(&[&self.rule, reason.as_str()]))
            .inc();
    }

    /// Counts what went another way than the rule promises.
    pub fn count_exception(&self, reason: ExceptionReason) {
        let child = &self.exceptions[reason as usize];
        child
            .get_or_init(|| self.families.exceptions.with_label_values(&[&self.rule, reason.as_str()]))
            .inc();
    }

    /// Counts dropped ids that were given their holder's result in this kind of backend.
    pub fn count_joined(&self, backend: &str, count: u64) {
        self.families.joined.with_label_values(&[&self.rule, backend]).inc_by(count);
    }

    /// Counts a key that was locked by hand.
    pub fn count_cooldown(&self) {
        let child = self
            .cooldowns
            .get_or_init(|| self.families.cooldowns.with_label_values(&[&self.rule]));
        child.inc();
    }

    /// Counts a message that was moved to a delay queue.
    pub fn count_parked(&self) {
        let child = self.parked.get_or_init(|| self.families.parked.with_label_values(&[&self.rule]));
        child.inc();
    }

    /// Shows whether a limit is paused, and how often it lets a delivery go in its time if it has a rate.
    pub fn show_limit(&self, limit: &str, paused: bool, times: Option<u64>) {
        let labels = [self.rule.as_str(), limit];
        self.families.limit_paused.with_label_values(&labels).set(i64::from(paused));
        if let Some(times) = times {
            let times = i64::try_from(times).unwrap_or(i64::MAX);
            self.families.limit_times.with_label_values(&labels).set(times);
        } else {
            // It is not there if it never had one.
            let _ = self.families.limit_times.remove_label_values(&labels);
        }
    }

    /// Shows nothing of a limit any more that the configuration does not have.
    pub fn forget_limit(&self, limit: &str) {
        let labels = [self.rule.as_str(), limit];
        // They are not there if it had none.
        let _ = self.families.limit_paused.remove_label_values(&labels);
        let _ = self.families.limit_times.remove_label_values(&labels);
    }

    /// Counts a delivery that a limit has let go, and for how long it has waited.
    pub fn count_permitted(&self, limit: &str, waited_ms: u64) {
        let wait = self.families.limit_wait.with_label_values(&[&self.rule, limit]);
        wait.observe(waited_ms as f64 / 1000.0);
    }

    /// Counts a parked message that has come back.
    pub fn count_unparked(&self) {
        let child = self
            .unparked
            .get_or_init(|| self.families.unparked.with_label_values(&[&self.rule]));
        child.inc();
    }

    fn publish(&self, decision: PublishDecision, mode: Mode) -> &IntCounter {
        let child = &self.publishes[mode as usize][decision as usize];
        child.get_or_init(|| {
            self.families
                .publishes
                .with_label_values(&[&self.rule, decision.as_str(), mode.as_str()])
        })
    }
}
