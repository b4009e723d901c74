//! The stores: one suite of scenarios for all of them, and what only Redis can do wrong.

/// Each scenario as one test per store.
macro_rules! scenarios {
    ($($name:ident)*) => {
        mod memory {
            $(#[tokio::test]
            async fn $name() {
                super::$name(&crate::world::World::memory()).await;
            })*
        }
        mod redis {
            $(#[tokio::test]
            async fn $name() {
                let world = crate::world::World::redis();
                super::$name(&world).await;
                world.check().await;
            })*
        }
    };
}

#[path = "store/beat.rs"]
mod beat;
#[path = "store/completion.rs"]
mod completion;
#[path = "store/debounce.rs"]
mod debounce;
#[path = "store/failures.rs"]
mod failures;
#[path = "store/join.rs"]
mod join;
#[path = "store/kept.rs"]
mod kept;
#[path = "store/last.rs"]
mod last;
#[path = "store/life.rs"]
mod life;
#[path = "store/likeness.rs"]
mod likeness;
#[path = "store/limit.rs"]
mod limit;
#[path = "store/limit_control.rs"]
mod limit_control;
#[path = "store/memory.rs"]
mod memory;
#[path = "store/notes.rs"]
mod notes;
#[path = "store/overlap.rs"]
mod overlap;
#[path = "store/parking.rs"]
mod parking;
#[path = "store/records.rs"]
mod records;
#[path = "store/replace.rs"]
mod replace;
#[path = "store/results.rs"]
mod results;
#[path = "store/running.rs"]
mod running;
#[path = "store/scenarios.rs"]
mod scenarios;
#[path = "store/twin.rs"]
mod twin;
#[path = "store/world.rs"]
mod world;
