//! The lives of tasks under a seeded scheduler: producers, workers that behave like Celery's, several proxies with a session for each
//! connection, a broker, and one memory store that all of them share.
//!
//! Everything comes late, and some of it out of order, twice, or never: frames, questions, answers, what workers tell of their tasks.
//! Proxies, workers and connections die, the store goes away. Facts are kept beside ([`facts`]) and judge each step of the store
//! ([`judge`]).
//!
//! A failing seed prints its last events. `ONCEGATE_SIM_SEED=7` replays it; `ONCEGATE_SIM_SEEDS=10000` runs more.

#[path = "simulation/clock.rs"]
mod clock;
#[path = "simulation/deliver.rs"]
mod deliver;
#[path = "simulation/random.rs"]
mod random;
#[path = "simulation/seeds.rs"]
mod seeds;
#[path = "simulation/wire.rs"]
mod wire;

#[path = "lives/broker.rs"]
mod broker;
#[path = "lives/carried.rs"]
mod carried;
#[path = "lives/facts.rs"]
mod facts;
#[path = "lives/faults.rs"]
mod faults;
#[path = "lives/judge.rs"]
mod judge;
#[path = "lives/link.rs"]
mod link;
#[path = "lives/newest.rs"]
mod newest;
#[path = "lives/orphans.rs"]
mod orphans;
#[path = "lives/parked.rs"]
mod parked;
#[path = "lives/plan.rs"]
mod plan;
#[path = "lives/producer.rs"]
mod producer;
#[path = "lives/replace.rs"]
mod replace;
#[path = "lives/results.rs"]
mod results;
#[path = "lives/runs.rs"]
mod runs;
#[path = "lives/store.rs"]
mod store;
#[path = "lives/worker.rs"]
mod worker;
#[path = "lives/world.rs"]
mod world;

use plan::{Acks, Backend, Fault, Parking, Plan, row};
use seeds::each_seed;
use world::World;

use oncegate::rules::spec::{ResultMode, Unique};

/// The deaths of all that can die, and connections that end.
const DEATHS: [Fault; 6] = [
    Fault::WorkerKilled,
    Fault::WorkerDetached,
    Fault::WorkerLeaves,
    Fault::ProxyKilled,
    Fault::BrokerDrops,
    Fault::ProducerGone,
];

/// The same world in which all goes wrong that can.
fn troubled(seed: u64, plan: Plan) -> Plan {
    Plan {
        proxies: 2 + (seed % 3) as usize,
        workers: 1 + (seed % 4) as usize,
        expires_percent: 10,
        silent_percent: 1,
        faults: Fault::ALL.to_vec(),
        ..plan
    }
}

/// Every scope with both ways to acknowledge.
fn rows() -> Vec<plan::Row> {
    let scopes = [Unique::UntilStarted, Unique::UntilFinished, Unique::UntilExpired];
    let both = |scope: Unique| [Acks::Early, Acks::Late].map(|acks| (scope, acks));
    scopes
        .into_iter()
        .flat_map(both)
        .enumerate()
        .map(|(number, (scope, acks))| row(number, scope, acks))
        .collect()
}

/// Tasks whose runs exclude each other, with both ways to acknowledge, those that wait and those that are dropped.
fn exclusive() -> Vec<plan::Row> {
    let scopes = [Unique::WhileRunning, Unique::UntilStartedAndWhileRunning];
    let both = |scope: Unique| [Acks::Early, Acks::Late].map(|acks| (scope, acks));
    let rows = scopes.into_iter().flat_map(both).enumerate();
    let mut rows: Vec<plan::Row> = rows.map(|(number, (scope, acks))| row(number, scope, acks)).collect();
    rows.push(row(4, Unique::WhileRunning, Acks::Early).dropping());
    rows.push(row(5, Unique::WhileRunning, Acks::Late).dropping());
    rows
}

/// A world of such tasks, in which many wait.
fn crowd() -> Plan {
    Plan {
        rows: exclusive(),
        keys: 1,
        held_max: 24,
        consumer_timeout_ms: 40_000,
        ..Plan::default()
    }
}

/// Tasks of which the newest of a key runs.
fn newest() -> Vec<plan::Row> {
    let scopes = [Unique::UntilStarted, Unique::UntilFinished, Unique::UntilStartedAndWhileRunning];
    let both = |scope: Unique| [Acks::Early, Acks::Late].map(|acks| (scope, acks));
    let rows = scopes.into_iter().flat_map(both).enumerate();
    rows.map(|(number, (scope, acks))| row(number, scope, acks).replacing().owing(ResultMode::Join))
        .collect()
}

/// Tasks whose dropped ids get a result.
fn owing() -> Vec<plan::Row> {
    let rows = [
        row(0, Unique::UntilStarted, Acks::Early).owing(ResultMode::Join),
        row(1, Unique::UntilFinished, Acks::Early).owing(ResultMode::Join),
        row(2, Unique::UntilFinished, Acks::Late).owing(ResultMode::Join),
        row(3, Unique::UntilExpired, Acks::Early).owing(ResultMode::Join),
        row(4, Unique::WhileRunning, Acks::Late).dropping().owing(ResultMode::Join),
        row(5, Unique::UntilFinished, Acks::Early).owing(ResultMode::Revoke),
        row(6, Unique::UntilFinished, Acks::Late).owing(ResultMode::Success),
        row(7, Unique::UntilFinished, Acks::Late).replacing().owing(ResultMode::Join),
        row(8, Unique::UntilStartedAndWhileRunning, Acks::Early).owing(ResultMode::Join),
    ];
    rows.into()
}

/// A world of duplicates that wait for their holders.
fn canvas(seed: u64) -> Plan {
    Plan {
        rows: carried::carried(),
        keys: 1,
        proxies: 1 + (seed % 3) as usize,
        workers: 1 + (seed / 2 % 3) as usize,
        backend: if seed.is_multiple_of(3) {
            Backend::Workers
        } else {
            Backend::Anybody
        },
        parking: match seed % 4 {
            0 => Parking::Never,
            1 => Parking::Fails,
            _ => Parking::Works,
        },
        ..Plan::default()
    }
}

fn run(name: &str, seeds: u64, plan: impl Fn(u64) -> Plan) {
    each_seed(name, seeds, |seed| World::new(seed, plan(seed)).run());
}

#[test]
fn signals_out_of_order_twice_or_lost_free_each_lock_and_none_early() {
    run("signals", 15, |_| Plan {
        rows: rows(),
        ..Plan::default()
    });
}

#[test]
fn acks_alone_free_the_locks_of_what_acks_late() {
    run("acks_alone", 15, |_| Plan {
        rows: vec![row(0, Unique::UntilFinished, Acks::Late), row(1, Unique::UntilStarted, Acks::Early)],
        lost_percent: 100,
        ..Plan::default()
    });
}

#[test]
fn revoked_expired_and_purged_tasks_leave_no_lock() {
    run("ends", 15, |_| Plan {
        rows: rows(),
        expires_percent: 30,
        faults: vec![Fault::Revoke, Fault::Purge],
        ..Plan::default()
    });
}

#[test]
fn workers_that_die_detach_or_leave_hold_no_lock() {
    run("workers", 15, |_| Plan {
        rows: rows(),
        faults: vec![Fault::WorkerKilled, Fault::WorkerDetached, Fault::WorkerLeaves],
        ..Plan::default()
    });
}

#[test]
fn proxies_and_connections_that_die_lose_nothing_that_was_confirmed() {
    run("proxies", 15, |_| Plan {
        rows: rows(),
        faults: vec![Fault::ProxyKilled, Fault::BrokerDrops, Fault::ProducerGone],
        ..Plan::default()
    });
}

#[test]
fn a_store_that_goes_away_loses_nothing_that_was_confirmed() {
    run("store", 15, |_| Plan {
        rows: rows(),
        faults: vec![Fault::StoreAway],
        silent_percent: 3,
        ..Plan::default()
    });
}

#[test]
fn runs_of_one_key_do_not_overlap() {
    run("runs", 15, |_| crowd());
}

#[test]
fn runs_do_not_overlap_when_they_are_revoked_expire_and_are_purged() {
    run("runs_end", 15, |_| Plan {
        expires_percent: 20,
        faults: vec![Fault::Revoke, Fault::Purge],
        ..crowd()
    });
}

#[test]
fn runs_do_not_overlap_when_workers_die_detach_or_leave() {
    run("runs_workers", 15, |_| Plan {
        faults: vec![Fault::WorkerKilled, Fault::WorkerDetached, Fault::WorkerLeaves],
        ..crowd()
    });
}

#[test]
fn runs_do_not_overlap_when_proxies_and_connections_die() {
    run("runs_proxies", 15, |seed| Plan {
        proxies: 2 + (seed % 3) as usize,
        faults: vec![Fault::ProxyKilled, Fault::BrokerDrops, Fault::ProducerGone],
        ..crowd()
    });
}

#[test]
fn runs_do_not_overlap_beside_a_store_that_goes_away_or_forgets() {
    run("runs_store", 15, |seed| Plan {
        proxies: 2 + (seed % 3) as usize,
        workers: 3,
        faults: vec![Fault::StoreAway, Fault::StoreEmptied],
        silent_percent: 1,
        ..crowd()
    });
}

#[test]
fn runs_do_not_overlap_whatever_happens() {
    let mut faults = Fault::ALL.to_vec();
    faults.push(Fault::StoreEmptied);
    run("runs_all", 15, |seed| Plan {
        faults: faults.clone(),
        ..troubled(seed, crowd())
    });
}

#[test]
fn the_last_of_a_burst_runs_and_nothing_that_it_has_superseded() {
    run("debounce", 15, |seed| Plan {
        rows: newest::debounced(),
        keys: 1,
        proxies: 1 + (seed % 3) as usize,
        workers: 1 + (seed % 3) as usize,
        ..Plan::default()
    });
}

#[test]
fn the_last_of_a_burst_runs_whatever_happens() {
    run("debounce_all", 15, |seed| {
        troubled(
            seed,
            Plan {
                rows: newest::debounced(),
                keys: 1,
                ..Plan::default()
            },
        )
    });
}

#[test]
fn what_waits_runs_after_the_end_of_the_other_and_nothing_that_it_has_superseded() {
    run("keep_last", 15, |seed| Plan {
        rows: newest::kept(),
        keys: 1,
        proxies: 1 + (seed % 3) as usize,
        workers: 1 + (seed % 3) as usize,
        ..Plan::default()
    });
}

#[test]
fn what_waits_is_not_lost_whatever_happens() {
    run("keep_last_all", 15, |seed| {
        troubled(
            seed,
            Plan {
                rows: newest::kept(),
                keys: 1,
                ..Plan::default()
            },
        )
    });
}

#[test]
fn all_at_once() {
    run("all", 15, |seed| Plan {
        silent_percent: 2,
        ..troubled(
            seed,
            Plan {
                rows: rows(),
                ..Plan::default()
            },
        )
    });
}

#[test]
fn the_newest_of_a_key_runs_and_none_that_it_replaced() {
    run("newest", 15, |_| Plan {
        rows: newest(),
        keys: 1,
        ..Plan::default()
    });
}

#[test]
fn none_that_was_replaced_runs_when_it_was_revoked_expired_or_purged() {
    run("newest_end", 15, |_| Plan {
        rows: newest(),
        keys: 1,
        expires_percent: 20,
        faults: vec![Fault::Revoke, Fault::Purge],
        ..Plan::default()
    });
}

#[test]
fn none_that_was_replaced_runs_when_workers_proxies_and_connections_die() {
    run("newest_die", 15, |seed| Plan {
        rows: newest(),
        keys: 1,
        proxies: 2 + (seed % 3) as usize,
        faults: DEATHS.to_vec(),
        ..Plan::default()
    });
}

#[test]
fn none_that_was_replaced_runs_whatever_happens() {
    run("newest_all", 15, |seed| Plan {
        silent_percent: 2,
        ..troubled(
            seed,
            Plan {
                rows: newest(),
                keys: 1,
                ..Plan::default()
            },
        )
    });
}

#[test]
fn every_dropped_id_gets_one_result() {
    run("results", 15, |_| Plan {
        rows: owing(),
        ..Plan::default()
    });
}

#[test]
fn every_dropped_id_gets_one_result_when_workers_proxies_and_connections_die() {
    run("results_die", 15, |seed| Plan {
        rows: owing(),
        proxies: 2 + (seed % 3) as usize,
        faults: DEATHS.to_vec(),
        ..Plan::default()
    });
}

#[test]
fn every_dropped_id_gets_one_result_whatever_happens() {
    run("results_all", 15, |seed| Plan {
        silent_percent: 2,
        ..troubled(
            seed,
            Plan {
                rows: owing(),
                ..Plan::default()
            },
        )
    });
}

#[test]
fn what_waits_for_its_holder_gets_its_result() {
    run("carried", 15, canvas);
}

#[test]
fn what_waits_for_its_holder_gets_one_outcome_when_tasks_are_revoked_expire_and_are_purged() {
    run("carried_end", 15, |seed| Plan {
        expires_percent: 20,
        faults: vec![Fault::Revoke, Fault::Purge],
        ..canvas(seed)
    });
}

#[test]
fn what_waits_for_its_holder_gets_one_outcome_when_workers_proxies_and_connections_die() {
    run("carried_die", 15, |seed| Plan {
        proxies: 2 + (seed % 3) as usize,
        faults: DEATHS.to_vec(),
        ..canvas(seed)
    });
}

#[test]
fn what_waits_for_its_holder_gets_one_outcome_beside_a_store_that_goes_away_or_forgets() {
    run("carried_store", 15, |seed| Plan {
        proxies: 2 + (seed % 3) as usize,
        faults: vec![Fault::StoreAway, Fault::StoreEmptied],
        silent_percent: 1,
        ..canvas(seed)
    });
}

#[test]
fn what_waits_for_its_holder_gets_one_outcome_whatever_happens() {
    let mut faults = Fault::ALL.to_vec();
    faults.push(Fault::StoreEmptied);
    run("carried_all", 15, |seed| Plan {
        faults: faults.clone(),
        ..troubled(seed, canvas(seed))
    });
}
