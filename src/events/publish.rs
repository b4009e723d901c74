//! Decisions for other programs: each one, as `watch` shows it, is published to an exchange of the virtual host that it was made in.
//!
//! Nothing waits for that. Decisions come from the feed that everybody reads who watches, and go to Oncegate's own connection of that
//! virtual host; where they come faster than the broker takes them some are left out, and counted.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use tokio::sync::watch;
use tokio_stream::StreamExt;

use crate::amqp::coding::SHORT_MAX;
use crate::config::Config;
use crate::control::{Control, Notice};
use crate::logging::{Decision, Feed, Made, Once, Told};
use crate::metrics::{EventDrop, EventMetrics};

/// What is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The exchange.
    pub exchange: Arc<str>,
    /// The virtual hosts in which Oncegate has an account of its own.
    pub vhosts: Vec<Arc<str>>,
}

/// What this configuration says: `None` if nothing is published.
pub fn settings(config: &Config) -> Option<Settings> {
    let exchange = config.events.exchange.clone()?;
    let vhosts = config.control.accounts.iter().map(|account| Arc::clone(&account.vhost)).collect();
    Some(Settings { exchange, vhosts })
}

/// Publishes the decisions of this process.
#[derive(Debug)]
pub struct Publisher {
    /// The decisions.
    pub feed: Arc<Feed>,
    /// The connections.
    pub control: Control,
    /// What is counted.
    pub metrics: Arc<EventMetrics>,
    /// The name of this process.
    pub instance: String,
}

impl Publisher {
    /// Publishes what is decided while the settings say so, until their sender is gone.
    pub async fn run(self, mut settings: watch::Receiver<Option<Settings>>) {
        loop {
            let wanted = settings.borrow_and_update().clone();
            let done = match wanted {
                Some(wanted) => {
                    tokio::select! {
                        changed = settings.changed() => changed,
                        () = self.publish_all(&wanted) => return,
                    }
                }
                None => settings.changed().await,
            };
            if done.is_err() {
                return;
            }
        }
    }

    /// Ends with the feed.
    async fn publish_all(&self, settings: &Settings) {
        let mut decisions = self.feed.watch();
        let unserved = Once::default();
        while let Some(told) = decisions.next().await {
            match told {
                Told::Made(made) => self.publish(settings, &made, &unserved),
                Told::Missed(missed) => self.metrics.count_dropped(EventDrop::Overflow, missed),
            }
        }
    }

    fn publish(&self, settings: &Settings, made: &Made, unserved: &Once) {
        let Some(vhost) = made.decision.vhost.as_deref() else { return };
        if !settings.vhosts.iter().any(|served| **served == *vhost) {
            if unserved.allow(vhost) {
                tracing::warn!(
                    vhost,
                    "the decisions of this virtual host are not published (events.exchange): Oncegate has no account of its own there \
                     ([control])"
                );
            }
            return;
        }
        let notice = Notice {
            exchange: Arc::clone(&settings.exchange),
            routing_key: routing_key(&made.decision),
            body: made.to_json(&self.instance).to_string().into_bytes(),
            at_s: made.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        };
        if let Err(reason) = self.control.announce(vhost, notice) {
            self.metrics.count_dropped(reason, 1);
        }
    }
}

/// `RULE.DECISION`; of a rule whose name is too long for that, what fits of it.
fn routing_key(decision: &Decision) -> String {
    let rule = &decision.rule;
    let room = SHORT_MAX - 1 - decision.decision.len().min(SHORT_MAX - 1);
    let end = (0..=room.min(rule.len()))
        .rev()
        .find(|end| rule.is_char_boundary(*end))
        .unwrap_or_default();
    format!("{}.{}", rule.get(..end).unwrap_or_default(), decision.decision)
}

#[cfg(test)]
mod tests;
