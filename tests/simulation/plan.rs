//! What one run is made of.

use std::time::Duration;

use oncegate::rules::spec::{AcksLate, Mode, OnStoreError, RuleSpec, Unique};

/// The lease of every rule where a plan says no other, in microseconds.
const LEASE_US: u64 = 2_000_000;

/// How a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The clients go by themselves.
    Clients,
    /// The clients would stay, and Oncegate drains until nothing is in hand.
    Drain,
    /// It drains, and its time runs out.
    DrainTimeout,
}

/// When channels ask for confirms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirms {
    /// In the middle of their publishes, or never.
    AtAnyTime,
    /// Before their first publish, and no peer goes before its time.
    First,
}

/// What one run is made of.
pub struct Plan {
    pub connections: usize,
    /// Publishes of each connection.
    pub publishes: usize,
    pub keys: u32,
    pub unmatched_percent: u64,
    pub silent_percent: u64,
    /// How many things the store does in one move, and how many of its answers come in with one.
    pub store_batch: usize,
    /// How often a client closes a channel, or publishes to an exchange that is not there.
    pub lossy_per_mille: u64,
    pub confirms: Confirms,
    pub memory: usize,
    /// The lease of every rule, in microseconds.
    pub lease_us: u64,
    /// Each a set of one rule for the task `t.unique`. The first holds at the beginning; where there are more, they change all the time.
    pub rules: Vec<RuleSpec>,
    /// Whether the clients also consume.
    pub consume: bool,
    pub end: End,
    /// Whether the store is away for a while, again and again.
    pub outages: bool,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            connections: 3,
            publishes: 100,
            keys: 10,
            unmatched_percent: 30,
            silent_percent: 3,
            store_batch: 1,
            lossy_per_mille: 15,
            confirms: Confirms::AtAnyTime,
            memory: 1 << 20,
            lease_us: LEASE_US,
            rules: vec![rule(0)],
            consume: false,
            end: End::Clients,
            outages: false,
        }
    }
}

/// The rule of the set with this number, of a namespace of its own.
pub fn rule(set: usize) -> RuleSpec {
    RuleSpec {
        name: Some(format!("r{set}")),
        namespace: Some(format!("n{set}")),
        task: vec!["t.unique".to_owned()],
        unique: Some(Unique::UntilFinished),
        acks_late: AcksLate::True,
        settle_grace: Duration::from_millis(200),
        store_wait: Duration::from_millis(500),
        ..RuleSpec::default()
    }
}

/// A rule whose locks a worker's ack frees at once.
pub fn until_started(set: usize) -> RuleSpec {
    RuleSpec {
        unique: Some(Unique::UntilStarted),
        ..rule(set)
    }
}

/// A rule that only observes.
pub fn observing(set: usize) -> RuleSpec {
    RuleSpec {
        mode: Mode::Observe,
        ..rule(set)
    }
}

/// A rule with this answer to a silent store.
pub fn on_store_error(set: usize, on_store_error: OnStoreError) -> RuleSpec {
    RuleSpec {
        on_store_error,
        ..rule(set)
    }
}
