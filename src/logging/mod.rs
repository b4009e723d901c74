//! What the proxy writes to standard error: its own events through `tracing`, and the decision log; and what it tells those who watch it decide.
//!
//! Lines are written by a thread of their own behind a bounded queue, so that a terminal or pipe that nobody reads never holds up a
//! connection; lines beyond the bound are dropped and counted. Values come from the network: control characters are escaped and long
//! values cut in both formats.

mod decisions;
mod feed;
mod format;
mod limit;
#[cfg(test)]
pub(crate) mod tests;
mod writer;

pub use decisions::{Decision, DecisionKind, DecisionLog, LimitWait};
pub use feed::{Feed, Made, Told, Watch};
pub use format::{Format, Lines, printable};
pub use limit::{Once, OncePerMinute};

use std::sync::Arc;

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;
use tracing_subscriber::{EnvFilter, Registry};

use writer::Writer;

/// Which decisions are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decisions {
    /// Those about duplicates.
    Duplicates,
    /// All of them.
    All,
    /// None.
    None,
}

/// The `[log]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// A level, or a comma-separated list of `target=level`.
    pub level: String,
    /// One line of text or one JSON object per event.
    pub format: Format,
    /// Which decisions are logged, at level info.
    pub decisions: Decisions,
    /// Most decisions logged in one second; those beyond are counted and their number logged.
    pub decisions_per_second: u64,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The level is none of the five, nor a list of `target=level`.
    #[error(
        "log.level = {0:?} is not a level: write error, warn, info, debug, trace or off, or a list such as \"info,oncegate::proxy=debug\""
    )]
    Level(String),
    /// The writing thread could not be started.
    #[error("cannot start the log writer: {0}")]
    Writer(#[from] std::io::Error),
    /// A subscriber was installed before.
    #[error("logging was set up twice")]
    Twice,
}

/// The logging of this process. Dropping it writes out what is queued.
pub struct Logging {
    filter: reload::Handle<EnvFilter, Registry>,
    lines: Arc<Lines>,
    writer: Writer,
    decisions: Arc<DecisionLog>,
}

impl Logging {
    /// Installs the subscriber for the whole process, writing to standard error.
    ///
    /// `instance` names this proxy and `config` the configuration in force, in every JSON line.
    pub fn init(settings: &Settings, instance: &str, config: &str) -> Result<Logging, LoggingError> {
        let (filter, handle) = reload::Layer::new(filter(&settings.level)?);
        let writer = Writer::start(std::io::stderr())?;
        let lines = Arc::new(Lines::new(settings.format, instance, config, writer.sink()));
        let subscriber = Registry::default().with(filter).with(LinesLayer(Arc::clone(&lines)));
        tracing::subscriber::set_global_default(subscriber).map_err(|_| LoggingError::Twice)?;
        let decisions = Arc::new(DecisionLog::new(settings.decisions, settings.decisions_per_second));
        Ok(Logging {
            filter: handle,
            lines,
            writer,
            decisions,
        })
    }

    /// Takes on what a reload changed. A wrong level changes nothing.
    pub fn reload(&self, settings: &Settings, config: &str) -> Result<(), LoggingError> {
        let filter = filter(&settings.level)?;
        self.filter
            .reload(filter)
            .map_err(|_| LoggingError::Level(settings.level.clone()))?;
        self.lines.set(settings.format, config);
        self.decisions.set(settings.decisions, settings.decisions_per_second);
        Ok(())
    }

    /// The decision log.
    pub fn decisions(&self) -> Arc<DecisionLog> {
        Arc::clone(&self.decisions)
    }

    /// Waits, for a second at most, until every line so far is written.
    pub fn flush(&self) {
        self.decisions.log_suppressed();
        self.writer.flush();
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Checks a level, so that a wrong one is refused with the configuration.
pub fn check_level(level: &str) -> Result<(), LoggingError> {
    filter(level).map(drop)
}

/// `EnvFilter` takes any single word for the name of a target; here a single word must be a level.
fn filter(level: &str) -> Result<EnvFilter, LoggingError> {
    let wrong = || LoggingError::Level(level.to_owned());
    for directive in level.split(',').map(str::trim) {
        let word = directive.rsplit('=').next().unwrap_or(directive);
        if word.is_empty() || word.parse::<LevelFilter>().is_err() {
            return Err(wrong());
        }
    }
    EnvFilter::builder().parse(level.replace(' ', "")).map_err(|_| wrong())
}

/// Hands the events of `tracing` to [`Lines`].
struct LinesLayer(Arc<Lines>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> tracing_subscriber::Layer<S> for LinesLayer {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        self.0.write_event(event);
    }
}
