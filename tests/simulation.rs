//! Whole connections under a seeded scheduler: clients, sessions, a model of the broker, and the memory store, whose answers come back
//! late, out of order, or not at all. A shadow model judges every step.
//!
//! A failing seed prints itself. `ONCEGATE_SIM_SEED=7` replays one; `ONCEGATE_SIM_SEEDS=10000` runs more.

#[path = "simulation/broker.rs"]
mod broker;
#[path = "simulation/client.rs"]
mod client;
#[path = "simulation/clock.rs"]
mod clock;
#[path = "simulation/connection.rs"]
mod connection;
#[path = "simulation/consumer.rs"]
mod consumer;
#[path = "simulation/deliveries.rs"]
mod deliveries;
#[path = "simulation/mirror.rs"]
mod mirror;
#[path = "simulation/plan.rs"]
mod plan;
#[path = "simulation/questions.rs"]
mod questions;
#[path = "simulation/queue.rs"]
mod queue;
#[path = "simulation/random.rs"]
mod random;
#[path = "simulation/seeds.rs"]
mod seeds;
#[path = "simulation/shadow.rs"]
mod shadow;
#[path = "simulation/wire.rs"]
mod wire;
#[path = "simulation/world.rs"]
mod world;

use plan::{Confirms, End, Plan, observing, on_store_error, rule, until_started};
use world::World;

use oncegate::rules::spec::OnStoreError;

/// Runs a plan for each seed.
fn each_seed(name: &str, seeds: u64, plan: impl Fn(u64) -> Plan) {
    seeds::each_seed(name, seeds, |seed| World::new(seed, plan(seed)).run());
}

#[test]
fn any_interleaving_keeps_the_invariants() {
    each_seed("any_interleaving_keeps_the_invariants", 200, |seed| Plan {
        connections: 2 + (seed % 3) as usize,
        publishes: 150,
        keys: 3 + (seed % 40) as u32,
        ..Plan::default()
    });
}

#[test]
fn a_store_that_often_fails_keeps_the_invariants() {
    each_seed("a_store_that_often_fails_keeps_the_invariants", 100, |seed| Plan {
        connections: 3,
        publishes: 120,
        keys: 3 + (seed % 10) as u32,
        silent_percent: 30,
        ..Plan::default()
    });
}

#[test]
fn memory_per_connection_is_bounded() {
    each_seed("memory_per_connection_is_bounded", 80, |seed| Plan {
        connections: 2,
        publishes: 150,
        keys: 2 + (seed % 5) as u32,
        memory: 3_000,
        ..Plan::default()
    });
}

#[test]
fn sixty_thousand_confirmed_publishes_half_of_them_duplicates_get_one_confirm_each() {
    each_seed("sixty_thousand", 1, |_| Plan {
        connections: 3,
        publishes: 20_000,
        keys: 15_000,
        unmatched_percent: 0,
        confirms: Confirms::First,
        lossy_per_mille: 1,
        // A store that did one thing per move would have thousands of publishes wait, and their renewals would be most of what it does.
        store_batch: 16,
        ..Plan::default()
    });
}

/// Clients that also consume, with locks that their acks free.
fn consuming(seed: u64) -> Plan {
    Plan {
        connections: 2 + (seed % 3) as usize,
        publishes: 80,
        keys: 5 + (seed % 60) as u32,
        consume: true,
        rules: vec![if seed.is_multiple_of(2) { until_started(0) } else { rule(0) }],
        ..Plan::default()
    }
}

#[test]
fn deliveries_are_settled_by_workers_alone() {
    each_seed("deliveries", 40, consuming);
}

#[test]
fn a_drain_loses_nothing_and_ends() {
    each_seed("drain", 80, |seed| Plan {
        end: if seed.is_multiple_of(3) { End::DrainTimeout } else { End::Drain },
        ..consuming(seed)
    });
}

#[test]
fn an_observing_rule_changes_no_frame() {
    each_seed("observing", 20, |seed| Plan {
        rules: vec![observing(0)],
        silent_percent: 10,
        ..consuming(seed)
    });
}

#[test]
fn a_store_that_goes_and_returns_is_waited_for_as_the_rule_says() {
    each_seed("outages", 40, |seed| Plan {
        outages: true,
        consume: seed % 4 < 2,
        rules: vec![on_store_error(
            0,
            if seed.is_multiple_of(2) {
                OnStoreError::Wait
            } else {
                OnStoreError::Reject
            },
        )],
        ..consuming(seed)
    });
}

#[test]
fn one_rule_set_decides_each_publish() {
    each_seed("reload", 40, |seed| Plan {
        outages: true,
        rules: vec![
            rule(0),
            until_started(1),
            on_store_error(2, OnStoreError::Wait),
            on_store_error(3, OnStoreError::Reject),
            observing(4),
        ],
        ..consuming(seed)
    });
}
