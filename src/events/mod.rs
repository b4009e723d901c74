//! What becomes of decisions beside metrics and log lines.
//!
//! - [`publish`]: they are messages for other programs.
//! - [`record`]: they are written down for who asks later.
//!
//! Both take them from the feed ([`crate::logging::Feed`]) that all read who watch. No message waits for either.

pub mod publish;
pub mod record;

use std::sync::Arc;

use tokio::sync::watch;

use crate::config::Config;
use crate::control::Control;
use crate::logging::Feed;
use crate::metrics::Metrics;
use crate::store::{Client, Keep};
use publish::Publisher;
use record::Recorder;

/// What becomes of the decisions of this process. It ends when this is dropped.
#[derive(Debug)]
pub struct Events {
    published: watch::Sender<Option<publish::Settings>>,
    recorded: watch::Sender<Option<Keep>>,
}

impl Events {
    /// Starts the tasks, on the present runtime. Nothing is published or written down yet. `instance` is the name of this process.
    pub fn start(feed: &Arc<Feed>, control: &Control, store: Client, metrics: &Metrics, instance: &str) -> Events {
        let (published, settings) = watch::channel(None);
        let task = Publisher {
            feed: Arc::clone(feed),
            control: control.clone(),
            metrics: Arc::clone(&metrics.events),
            instance: instance.to_owned(),
        };
        tokio::spawn(task.run(settings));
        let (recorded, settings) = watch::channel(None);
        let task = Recorder {
            feed: Arc::clone(feed),
            store,
            metrics: Arc::clone(&metrics.records),
            instance: instance.to_owned(),
        };
        tokio::spawn(task.run(settings));
        Events { published, recorded }
    }

    /// Does what this configuration says, from now on.
    pub fn configure(&self, config: &Config) {
        let settings = publish::settings(config);
        self.published.send_if_modified(|current| {
            let differs = *current != settings;
            *current = settings;
            differs
        });
        self.recorded.send_replace(record::settings(config));
    }
}
