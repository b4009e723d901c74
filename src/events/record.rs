//! Decisions for who asks later why a task was dropped: what was decided about duplicates is written to the store under the id of the
//! message.
//!
//! It is taken from the feed a few times a second and written in batches, so that a decision itself costs nothing more. What comes faster
//! than the store is to be given it, or while it does not answer, is left out and counted.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::config::Config;
use crate::logging::{Feed, Made};
use crate::metrics::{RecordMetrics, Unrecorded};
use crate::store::{Client, Keep, Record};

/// How often decisions are written, and how many at a time.
const EVERY: Duration = Duration::from_millis(200);
const AT_ONCE: usize = 1_000;

/// What this configuration keeps; `None`: nothing.
pub fn settings(config: &Config) -> Option<Keep> {
    let keep = Keep {
        life: config.decisions.keep,
        most: config.decisions.max,
    };
    (keep.most > 0).then_some(keep)
}

/// Writes down the decisions of this process.
pub struct Recorder {
    /// The decisions.
    pub feed: Arc<Feed>,
    /// Where they are written.
    pub store: Client,
    /// What is counted.
    pub metrics: Arc<RecordMetrics>,
    /// The name of this process.
    pub instance: String,
}

impl Recorder {
    /// Writes while the settings say so, until their sender is gone, and then what is left.
    pub async fn run(self, mut settings: watch::Receiver<Option<Keep>>) {
        let mut tick = interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let keep = *settings.borrow_and_update();
            self.feed.collect(keep.is_some());
            let Some(keep) = keep else {
                if settings.changed().await.is_err() {
                    return;
                }
                continue;
            };
            tokio::select! {
                _ = tick.tick() => drop(self.write(keep).await),
                changed = settings.changed() => if changed.is_err() {
                    while self.write(keep).await > 0 {}
                    return;
                }
            }
        }
    }

    /// Writes what has been decided since the last time, or a part of it: how many decisions.
    async fn write(&self, keep: Keep) -> usize {
        let (decisions, missed) = self.feed.take_collected(AT_ONCE);
        self.metrics.count_unrecorded(Unrecorded::Overflow, missed);
        if decisions.is_empty() {
            return 0;
        }
        let records: Vec<Record> = decisions.iter().map(|made| self.record(made)).collect();
        let count = records.len() as u64;
        match self.store.record(&records, keep).await {
            Ok(()) => self.metrics.recorded.inc_by(count),
            Err(why) => {
                self.metrics.count_unrecorded(Unrecorded::Store, count);
                tracing::debug!(%why, count, "decisions were not written down");
            }
        }
        decisions.len()
    }

    fn record(&self, made: &Made) -> Record {
        Record {
            id: Arc::clone(&made.decision.id),
            line: made.to_json(&self.instance).to_string(),
        }
    }
}

#[cfg(test)]
mod tests;
