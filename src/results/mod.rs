//! What the ids of dropped tasks get, so that `.get()` on them returns.
//!
//! An id that gets what its holder gets waits for that in the store ([`crate::store::join`]); when the holder has ended, its result is
//! written for all that wait. For the others a session tells of a task that was dropped and whose rule owes its id a result that needs no other task's
//! ([`crate::session::Event::Owed`]). Either is written into Celery's Redis result backend, or published to the caller of Celery's RPC backend, as
//! a worker would, in the background: no message waits for it. What cannot be told at once is left to the store, from where any process goes on
//! with it. Nothing is written over: a dropped id that has a result keeps it.
//!
//! Bounded: in the results that wait to be written, and in how long each is tried. What is given up is counted and logged.

mod backend;
mod joiner;
mod publisher;
mod reader;
mod writer;

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use crate::config::Config;
use crate::config::address::RedisUrl;
use crate::control::Control;
use crate::logging::OncePerMinute;
use crate::metrics::Metrics;
use crate::rules::outcome::ExceptionReason;
use crate::rules::owed::{Debt, Outcome, Via};
use crate::session::{Fetch, Fetched, Value};
use crate::store::Store;

/// How many results wait to be written at most.
const WAITING_MAX: usize = 100_000;

/// How results are told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Settings {
    /// The result backend that is written, if one is.
    written: Option<BackendSettings>,
    /// Whether results are published to callers.
    published: bool,
}

/// The result backend that is written, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
struct BackendSettings {
    /// Where it is.
    url: RedisUrl,
    /// Celery's `global_keyprefix`.
    key_prefix: String,
    /// How long a result lives.
    expires: Duration,
    /// The largest result that is passed on, in octets.
    max_message: usize,
}

impl Settings {
    /// What this configuration says.
    fn of(config: &Config) -> Settings {
        Settings {
            written: config.results.as_ref().map(|results| BackendSettings {
                url: results.url.clone(),
                key_prefix: results.key_prefix.clone(),
                expires: results.expires,
                max_message: config.proxy.max_message,
            }),
            published: config.rules.tells_callers(),
        }
    }
}

/// A result that is to be written.
#[derive(Debug)]
struct Order {
    rule: Arc<str>,
    id: Arc<str>,
    holder: Arc<str>,
    outcome: Outcome,
    via: Via,
    since: Instant,
}

/// Takes the results that are owed, and writes them.
pub struct Results {
    orders: mpsc::Sender<Order>,
    settings: watch::Sender<Settings>,
    /// Until the thread has it.
    waiting: Mutex<Option<(mpsc::Receiver<Order>, mpsc::Receiver<reader::Question>)>>,
    questions: mpsc::Sender<reader::Question>,
    failures: Arc<Failures>,
    /// How many are neither written nor given up.
    owing: Arc<AtomicUsize>,
}

impl std::fmt::Debug for Results {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Results")
            .field("settings", &*self.settings.borrow())
            .finish_non_exhaustive()
    }
}

impl Results {
    /// Nothing is written before [`Results::start`] and [`Results::configure`].
    pub fn new(metrics: Arc<Metrics>) -> Results {
        let (orders, waiting) = mpsc::channel(WAITING_MAX);
        let (questions, asked) = mpsc::channel(reader::QUESTIONS_MAX);
        Results {
            orders,
            settings: watch::channel(Settings::default()).0,
            waiting: Mutex::new(Some((waiting, asked))),
            questions,
            owing: Arc::default(),
            failures: Arc::new(Failures {
                metrics,
                lines: OncePerMinute::default(),
            }),
        }
    }

    /// Starts the thread, once.
    pub fn start(&self, store: &Store, control: &Control) -> io::Result<()> {
        let Some((orders, asked)) = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(());
        };
        let (store, control) = (store.clone(), control.clone());
        let owing = Arc::clone(&self.owing);
        let (settings, failures) = (self.settings.subscribe(), Arc::clone(&self.failures));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("results".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::spawn(joiner::run(
                    store.client(),
                    control.clone(),
                    settings.clone(),
                    Arc::clone(&failures),
                ));
                tokio::spawn(reader::run(store.client(), asked, settings.clone(), Arc::clone(&failures)));
                writer::run(orders, store.client(), control, settings, failures, owing).await;
            });
        })?;
        Ok(())
    }

    /// Writes as this configuration says, from now on.
    pub fn configure(&self, config: &Config) {
        self.set(Settings::of(config));
    }

    fn set(&self, settings: Settings) {
        self.settings.send_if_modified(|current| {
            let differs = *current != settings;
            *current = settings;
            differs
        });
    }

    /// Keeps a result for those that wait for it, if it is small enough. While the store is slow only so many wait to be kept.
    pub fn keep(&self, value: Value) {
        if value.value.len() > reader::KEPT_MAX {
            tracing::debug!(name = &*value.name, octets = value.value.len(), "a result is too large to be kept");
        } else if self.questions.try_send(reader::Question::Keep(value)).is_err() {
            self.failures.waits("too many results wait to be kept");
        }
    }

    /// What the result backend has of this task; [`Fetched::Silent`] if too much is asked for already.
    pub fn fetch(&self, fetch: Fetch) -> impl Future<Output = Fetched> + use<> {
        let (answer, fetched) = oneshot::channel();
        let asked = self.questions.try_send(reader::Question::Fetch(fetch, answer)).is_ok();
        async move {
            match fetched.await {
                Ok(fetched) if asked => fetched,
                _ => Fetched::Silent,
            }
        }
    }

    /// Waits until nothing is owed any more. While the backend is away this does not end for a while: bound it.
    pub async fn flush(&self) {
        while self.owing.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// This id gets a result. Cheap: it is written in the background.
    pub fn owe(&self, debt: Debt) {
        let order = Order {
            rule: Arc::clone(&debt.rule.name),
            id: debt.id,
            holder: debt.holder,
            outcome: debt.outcome,
            via: debt.via,
            since: Instant::now(),
        };
        self.owing.fetch_add(1, Ordering::Relaxed);
        if let Err(refused) = self.orders.try_send(order) {
            self.owing.fetch_sub(1, Ordering::Relaxed);
            let order = refused.into_inner();
            self.failures
                .count(&order.rule, &order.id, "too many results wait to be written", 1);
        }
    }
}

/// Counts and logs results that are not written.
struct Failures {
    metrics: Arc<Metrics>,
    lines: OncePerMinute,
}

impl Failures {
    /// The ids that wait for a holder's result wait on.
    fn waits(&self, why: &str) {
        if let Some(suppressed) = self.lines.allow("") {
            tracing::warn!(
                why,
                suppressed,
                "the ids that wait for the results of other tasks wait on; such lines are written once a minute"
            );
        }
    }

    fn count(&self, rule: &str, id: &str, why: &str, count: u64) {
        let metrics = self.metrics.rule(rule);
        for _ in 0..count {
            metrics.count_exception(ExceptionReason::ResultFailed);
        }
        if let Some(suppressed) = self.lines.allow(rule) {
            tracing::warn!(
                rule,
                id,
                why,
                suppressed,
                "the result of a dropped task is not written, and whoever waits for it waits on; such lines are written once a minute for a rule"
            );
        }
    }
}
