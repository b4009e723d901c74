//! The stores: one suite of scenarios for all of them, and what only Redis can do wrong.

#[path = "store/scenarios.rs"]
mod scenarios;
#[path = "store/world.rs"]
mod world;
