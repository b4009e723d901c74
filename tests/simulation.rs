//! Whole connections under a seeded scheduler: clients, sessions, a model of the broker, and the memory store, whose answers come back
//! late, out of order, or not at all. A shadow model judges every step.
//!
//! A failing seed prints itself. `ONCEGATE_SIM_SEED=7` replays one; `ONCEGATE_SIM_SEEDS=10000` runs more.

#[path = "simulation/broker.rs"]
mod broker;
#[path = "simulation/client.rs"]
mod client;
#[path = "simulation/random.rs"]
mod random;
#[path = "simulation/shadow.rs"]
mod shadow;
#[path = "simulation/wire.rs"]
mod wire;
#[path = "simulation/world.rs"]
mod world;

use world::{Plan, World};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs each seed, and says which one failed.
fn each_seed(name: &str, seeds: u64, plan: impl Fn(u64) -> Plan) {
    let seeds = match number("ONCEGATE_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ONCEGATE_SIM_SEEDS").unwrap_or(seeds),
    };
    for seed in seeds {
        let plan = plan(seed);
        let result = std::panic::catch_unwind(|| World::new(seed, plan).run());
        if let Err(panic) = result {
            eprintln!("{name}: replay with ONCEGATE_SIM_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn any_interleaving_keeps_the_invariants() {
    each_seed("any_interleaving_keeps_the_invariants", 300, |seed| Plan {
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
        always_confirm: true,
        lossy_per_mille: 1,
        ..Plan::default()
    });
}
