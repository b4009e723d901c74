//! Parked messages under a seeded scheduler: workers behind sessions, a broker with a delay queue, and one memory store.
//!
//! Answers of the store and outcomes of publishing come late; connections die at any step, and what was on its way to the broker arrives or
//! not; the broker's word on a copy is lost. Every task must run, runs of one key must not overlap, and a worker must see no trace of
//! parking. Where nothing breaks every task runs exactly once.
//!
//! Tasks under limits have a world of their own: the workers of two proxies, windows of either kind, and a store that may be silent for a
//! while. Its model knows what workers see and when the store has permitted it.
//!
//! A failing seed is told. `ONCEGATE_SIM_SEED=7` replays it; `ONCEGATE_SIM_SEEDS=10000` runs more.

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

#[path = "parking/limited/mod.rs"]
mod limited;
#[path = "parking/world.rs"]
mod world;

use limited::plan::Course;
use seeds::each_seed;
use world::{Plan, World};

#[test]
fn where_nothing_breaks_every_task_runs_exactly_once() {
    each_seed("calm", 40, |seed| World::new(seed, Plan { breaks: false }).run());
}

#[test]
fn whatever_breaks_every_task_runs_and_runs_of_a_key_do_not_overlap() {
    each_seed("breaking", 80, |seed| World::new(seed, Plan { breaks: true }).run());
}

#[test]
fn limits_let_as_many_go_as_they_may_and_others_do_not_wait() {
    each_seed("prompt", 60, |seed| limited::World::new(seed, Course::Prompt).run());
}

#[test]
fn limits_hold_however_late_everything_comes() {
    each_seed("late", 60, |seed| limited::World::new(seed, Course::Late).run());
}

#[test]
fn limits_hold_whatever_breaks_and_every_task_runs() {
    each_seed("limited and breaking", 60, |seed| limited::World::new(seed, Course::Breaking).run());
}
