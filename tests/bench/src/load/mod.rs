//! The load generator: one thread, non-blocking sockets, frames encoded once and patched in place.

pub mod consume;
pub mod idle;
pub mod latency;
pub mod ledger;
pub mod publish;

use std::time::Duration;

/// When a measured run ends.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// After that time, and when all that was sent is settled.
    Elapsed(Duration),
    /// After that many messages on each connection.
    Count(u64),
}

/// What a run did.
#[derive(Debug, Clone, Copy)]
pub struct Tally {
    /// Messages settled.
    pub messages: u64,
    /// From the first byte to the last settlement.
    pub elapsed: Duration,
}

impl Tally {
    /// Messages per second.
    pub fn rate(&self) -> f64 {
        self.messages as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}
