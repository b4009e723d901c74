//! What becomes of the decisions that are to be published (`events.exchange`).

use prometheus::{IntCounter, IntCounterVec, Registry};

use super::labels::EventDrop;
use super::{counters, register};

/// Decisions that are to be published.
#[derive(Debug)]
pub struct EventMetrics {
    /// Those that a broker has taken.
    pub published: IntCounter,
    dropped: IntCounterVec,
}

impl EventMetrics {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<EventMetrics> {
        let dropped = counters(
            registry,
            "oncegate_events_dropped_total",
            "Decisions that could not be published to events.exchange.",
            &["reason"],
        )?;
        // A rate over a series that begins with its first loss would not show it.
        for reason in EventDrop::ALL {
            dropped.with_label_values(&[reason.as_str()]);
        }
        let published = IntCounter::new("oncegate_events_published_total", "Decisions published to events.exchange.")?;
        Ok(EventMetrics {
            published: register(registry, published)?,
            dropped,
        })
    }

    /// Counts those that are lost.
    pub fn count_dropped(&self, reason: EventDrop, count: u64) {
        if count > 0 {
            self.dropped.with_label_values(&[reason.as_str()]).inc_by(count);
        }
    }
}
