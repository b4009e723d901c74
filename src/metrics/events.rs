//! What becomes of the decisions that are to be published (`events.exchange`) and written down (`[decisions]`).

use prometheus::{IntCounter, IntCounterVec, Registry};

use super::labels::{EventDrop, Unrecorded};
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

/// Decisions that are to be written down.
#[derive(Debug)]
pub struct RecordMetrics {
    /// Those that the store has taken.
    pub recorded: IntCounter,
    unrecorded: IntCounterVec,
}

impl RecordMetrics {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<RecordMetrics> {
        let unrecorded = counters(
            registry,
            "oncegate_decisions_unrecorded_total",
            "Decisions that could not be written down for `oncegate why`.",
            &["reason"],
        )?;
        for reason in Unrecorded::ALL {
            unrecorded.with_label_values(&[reason.as_str()]);
        }
        let recorded = IntCounter::new("oncegate_decisions_recorded_total", "Decisions written down for `oncegate why`.")?;
        Ok(RecordMetrics {
            recorded: register(registry, recorded)?,
            unrecorded,
        })
    }

    /// Counts those that are not on record.
    pub fn count_unrecorded(&self, reason: Unrecorded, count: u64) {
        if count > 0 {
            self.unrecorded.with_label_values(&[reason.as_str()]).inc_by(count);
        }
    }
}
