//! How many deliveries are held, and for how long.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use prometheus::{Gauge, IntGauge};

/// What the connections hold.
pub struct HeldMetrics {
    messages: IntGauge,
    oldest_seconds: Gauge,
    /// For each connection that holds something, by its number, since when.
    oldest: Mutex<HashMap<u64, Instant>>,
}

impl HeldMetrics {
    pub(super) fn new(messages: IntGauge, oldest_seconds: Gauge) -> HeldMetrics {
        HeldMetrics {
            messages,
            oldest_seconds,
            oldest: Mutex::default(),
        }
    }

    /// A connection holds another number of deliveries than before, the first of them since this time.
    pub fn change(&self, connection: u64, before: usize, now: usize, oldest: Option<Instant>) {
        self.messages.add(now as i64 - before as i64);
        let mut all = self.oldest.lock().unwrap_or_else(PoisonError::into_inner);
        match oldest {
            Some(oldest) => all.insert(connection, oldest),
            None => all.remove(&connection),
        };
    }

    /// Counts the time that has passed.
    pub(super) fn refresh(&self) {
        let all = self.oldest.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = all.values().min().map_or(0.0, |oldest| oldest.elapsed().as_secs_f64());
        self.oldest_seconds.set(seconds);
    }
}
