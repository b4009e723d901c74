//! What becomes of decisions beside metrics and log lines.
//!
//! - [`publish`]: they are messages for other programs.
//! - [`record`]: they are written down for who asks later.
//!
//! Both take them from the feed ([`crate::logging::Feed`]) that all read who watch. No message waits for either.

pub mod publish;
pub mod record;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

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
    writing: JoinHandle<()>,
}

/// How long the end waits for the last decisions to be written down.
const AT_END: Duration = Duration::from_secs(1);

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
        let writing = tokio::spawn(task.run(settings));
        Events {
            published,
            recorded,
            writing,
        }
    }

    /// Writes down what is left, for a second at most.
    pub async fn finish(self) {
        let Events { recorded, writing, .. } = self;
        drop(recorded);
        // What the store has not taken by then is lost.
        let _ = timeout(AT_END, writing).await;
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
