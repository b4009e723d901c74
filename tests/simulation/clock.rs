//! The store's clock, which the scheduler sets.

use std::sync::atomic::{AtomicU64, Ordering};

use oncegate::store::Clock;

pub struct ManualClock(AtomicU64);

impl ManualClock {
    pub fn new(unix_ms: u64) -> ManualClock {
        ManualClock(AtomicU64::new(unix_ms))
    }

    pub fn set(&self, unix_ms: u64) {
        self.0.store(unix_ms, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
