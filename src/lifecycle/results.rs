//! What Celery's Redis result backend says of tasks: for workers that do not pass through this proxy, and for the outcome of all.
//!
//! The backend sets the key `celery-task-meta-ID` and publishes the same bytes to a channel of that name (celery, `backends/redis.py`). A
//! publication is a hint that may be lost, so the holders of locks are also looked up, at once after each connect and from then on at
//! intervals. One connection serves both; without it nothing but these signals is missing. A look that is not answered ends it, so that
//! one that is lost unseen is found out.
//!
//! A record may be older than the lock, from an earlier run of the same id. It counts if it ended after the lock was taken, by the clock
//! of its worker, or if there was none when the same lock was looked at before.
//!
//! Bounded: in the locks of one look and in those whose holder is remembered to have no record; records beyond `max_message` are passed
//! over.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, IntoConnectionInfo, ProtocolVersion, PushInfo, PushKind, RedisError, RedisResult, Value};
use tokio::sync::{Notify, watch};

use super::spread;
use crate::celery::Limits;
use crate::celery::result::{self, TaskResult};
use crate::config::address::RedisUrl;
use crate::metrics::Metrics;
use crate::rules::lock::{LockRecord, LockState, Nonce, Request, Scope, Signal};
use crate::rules::source::Source;
use crate::store::{Client, Filter, Store};

/// How many locks one look is about.
const LOOKED_AT: usize = 10_000;
/// How many records are asked for at once.
const BATCH: usize = 500;
/// How many locks are remembered whose holder has no record.
const REMEMBERED: usize = 100_000;
/// How long the backend may take to accept a connection, and to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The pauses between attempts to connect.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Which result backend to follow, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where it is.
    pub url: RedisUrl,
    /// Celery's `global_keyprefix`.
    pub key_prefix: String,
    /// The largest record that is read, in bytes.
    pub max_message: usize,
    /// How often the holders of locks are looked up.
    pub look_every: Duration,
}

/// Follows what the settings say until their sender is gone.
pub(super) async fn run(store: Store, metrics: Arc<Metrics>, mut settings: watch::Receiver<Option<Settings>>) {
    loop {
        let current = settings.borrow_and_update().clone();
        let following = async {
            match current {
                Some(settings) => Follower::new(settings, store.client(), Arc::clone(&metrics)).run().await,
                None => std::future::pending().await,
            }
        };
        let changed = tokio::select! {
            changed = settings.changed() => changed,
            never = following => match never {},
        };
        metrics.forget_results();
        if changed.is_err() {
            return;
        }
    }
}

/// Why the backend is not followed at the moment.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Redis(#[from] RedisError),
    #[error("the connection was lost")]
    Lost,
}

/// Follows one backend.
struct Follower {
    settings: Settings,
    ear: Ear,
    metrics: Arc<Metrics>,
    /// The pause before the next attempt to connect.
    pause: Duration,
    /// Where the next look begins; `None`: at the start.
    cursor: Option<String>,
    unrecorded: Unrecorded,
    /// The trouble that was logged last; `None` if it is connected.
    logged: Option<String>,
}

impl Follower {
    fn new(settings: Settings, store: Client, metrics: Arc<Metrics>) -> Follower {
        let ear = Ear {
            prefix: result::key_prefix(&settings.key_prefix).into(),
            limits: Limits::new(settings.max_message),
            store,
        };
        Follower {
            settings,
            ear,
            metrics,
            pause: FIRST_PAUSE,
            cursor: None,
            unrecorded: Unrecorded::default(),
            logged: None,
        }
    }

    async fn run(mut self) -> Infallible {
        loop {
            self.metrics.set_results_up(false);
            let Err(trouble) = self.follow().await;
            self.metrics.set_results_up(false);
            self.on_trouble(&trouble);
            tokio::time::sleep(spread(self.pause)).await;
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Follows until the connection is lost.
    async fn follow(&mut self) -> Result<Infallible, Trouble> {
        let lost = Arc::new(Notify::new());
        let mut connection = self.connect(&lost).await?;
        // Before the first look, so that nothing falls between the two.
        connection.psubscribe(pattern(&self.ear.prefix)).await?;
        self.on_connected();
        loop {
            tokio::select! {
                biased;
                () = lost.notified() => return Err(Trouble::Lost),
                looked = self.look(&mut connection) => looked?,
            }
            // It works, and is not merely accepted to be thrown out again.
            self.pause = FIRST_PAUSE;
            tokio::select! {
                () = lost.notified() => return Err(Trouble::Lost),
                () = tokio::time::sleep(spread(self.settings.look_every)) => {}
            }
        }
    }

    /// Publications are read on the connection's own task, which reads no further meanwhile: what cannot be kept up with waits at the
    /// server, within its bounds, and then costs the connection.
    async fn connect(&self, lost: &Arc<Notify>) -> Result<MultiplexedConnection, RedisError> {
        let (ear, lost) = (self.ear.clone(), Arc::clone(lost));
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(TIMEOUT))
            .set_response_timeout(Some(TIMEOUT))
            .set_push_sender(move |push: PushInfo| -> Result<(), Infallible> {
                match push.kind {
                    PushKind::PMessage => ear.hear(&push.data),
                    PushKind::Disconnection => lost.notify_one(),
                    _ => {}
                }
                Ok(())
            });
        let info = self.settings.url.url.expose().into_connection_info()?;
        // Only this version of the protocol has publications beside answers.
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let client = redis::Client::open(info.set_redis_settings(settings))?;
        client.get_multiplexed_async_connection_with_config(&config).await
    }

    fn on_connected(&mut self) {
        self.metrics.set_results_up(true);
        self.logged = None;
        tracing::info!(backend = %self.settings.url, "the result backend is connected");
    }

    fn on_trouble(&mut self, trouble: &Trouble) {
        let trouble = trouble.to_string();
        if self.logged.as_ref() != Some(&trouble) {
            tracing::warn!(backend = %self.settings.url, trouble, "the result backend is not connected: task states are not read from it");
            self.logged = Some(trouble);
        }
    }

    /// Looks up the holders of the next locks. A store that does not answer is no fault of the backend's.
    async fn look(&mut self, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
        let () = redis::cmd("PING").exec_async(connection).await?;
        let page = match self.ear.store.list(&Filter::default(), self.cursor.as_deref(), LOOKED_AT).await {
            Ok(page) => page,
            Err(why) => {
                tracing::debug!(%why, "the locks whose holders are to be looked up cannot be listed");
                return Ok(());
            }
        };
        if self.cursor.is_none() {
            self.unrecorded.begin();
        }
        self.cursor = page.cursor;
        let waiting: Vec<LockRecord> = page.locks.into_iter().filter(waits_for_a_signal).collect();
        for batch in waiting.chunks(BATCH) {
            self.look_up(connection, batch).await?;
        }
        Ok(())
    }

    /// Asks for sizes first: most holders have no record, and together the records must fit into memory.
    async fn look_up(&mut self, connection: &mut MultiplexedConnection, locks: &[LockRecord]) -> Result<(), RedisError> {
        let mut sizes = redis::pipe();
        for lock in locks {
            sizes.cmd("STRLEN").arg(self.key(lock));
        }
        let sizes: Vec<RedisResult<usize>> = sizes.ignore_errors().query_async(connection).await?;
        let (mut group, mut group_size) = (Vec::new(), 0);
        for (lock, size) in locks.iter().zip(sizes) {
            let size = match size {
                Ok(size) => size,
                // Somebody else's key.
                Err(error) if error.code() == Some("WRONGTYPE") => continue,
                Err(error) => return Err(error),
            };
            if size == 0 || self.unrecorded.has(lock) {
                self.unrecorded.note(lock);
            }
            if (1..=self.settings.max_message).contains(&size) {
                if group_size + size > self.settings.max_message {
                    self.read(connection, &group).await?;
                    (group, group_size) = (Vec::new(), 0);
                }
                group.push(lock);
                group_size += size;
            }
        }
        self.read(connection, &group).await
    }

    async fn read(&self, connection: &mut MultiplexedConnection, locks: &[&LockRecord]) -> Result<(), RedisError> {
        if locks.is_empty() {
            return Ok(());
        }
        let mut records = redis::cmd("MGET");
        for lock in locks {
            records.arg(self.key(lock));
        }
        let records: Vec<Option<Vec<u8>>> = records.query_async(connection).await?;
        for (lock, record) in locks.iter().zip(records) {
            let Some(record) = record else { continue };
            // What cannot be read is no record of Celery's, or one that only its own application can read.
            let Ok(Some(read)) = result::read_stored(&lock.holder, &record, self.ear.limits) else {
                continue;
            };
            if let Some(signal) = what_it_says(lock, &read, self.unrecorded.has(lock)) {
                self.ear.tell(Arc::clone(&lock.holder), signal);
            }
        }
        Ok(())
    }

    fn key(&self, lock: &LockRecord) -> String {
        format!("{}{}", self.ear.prefix, lock.holder)
    }
}

/// Hears publications, and tells the store.
#[derive(Clone)]
struct Ear {
    /// What the names of keys and channels begin with.
    prefix: Arc<str>,
    limits: Limits,
    store: Client,
}

impl Ear {
    /// A publication: the pattern, the channel, the message.
    fn hear(&self, parts: &[Value]) {
        let [_, Value::BulkString(channel), Value::BulkString(message)] = parts else {
            return;
        };
        if let Some(id) = result::id_of_key(&self.prefix, channel)
            && let Ok(Some(read)) = result::read_stored(id, message, self.limits)
            && let Some(signal) = Signal::of_result(read.status)
        {
            self.tell(Arc::from(&*read.id), signal);
        }
    }

    fn tell(&self, id: Arc<str>, signal: Signal) {
        self.store.tell(Request::Signal {
            id,
            // None of these signals is a settlement.
            settlement: Nonce(0),
            signal,
            source: Source::Redis,
            worker: "".into(),
        });
    }
}

/// The pattern of all channels whose names begin with `prefix`: of `h?llo`, `h[ae]llo` and `h*llo` only what is escaped is meant as it is
/// (Redis, `PSUBSCRIBE`).
fn pattern(prefix: &str) -> String {
    let mut pattern = String::with_capacity(prefix.len() + 1);
    for character in prefix.chars() {
        if "*?[]\\".contains(character) {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern + "*"
}

/// Whether what a worker does with the holder frees the lock or changes its state.
fn waits_for_a_signal(lock: &LockRecord) -> bool {
    let follows = matches!(lock.scope, Scope::UntilStarted | Scope::UntilFinished);
    follows && matches!(lock.state, LockState::Queued | LockState::Running)
}

/// What a record says of the holder of a lock. `is_new`: there was none when this lock was looked at before.
fn what_it_says(lock: &LockRecord, record: &TaskResult<'_>, is_new: bool) -> Option<Signal> {
    let ended_since = record.done_ms.is_some_and(|done| done >= lock.since_ms as i64);
    if *record.id != *lock.holder || !(is_new || ended_since) {
        return None;
    }
    match Signal::of_result(record.status)? {
        // Each of these gives the lock its full life anew, and a record stays when its worker is gone.
        Signal::Started if lock.state == LockState::Running => None,
        Signal::Retried => None,
        signal => Some(signal),
    }
}

/// The locks whose holders once had no record, of those that were seen in this pass over all locks and in the one before.
#[derive(Debug, Default)]
struct Unrecorded {
    now: HashSet<(Arc<str>, u64)>,
    before: HashSet<(Arc<str>, u64)>,
}

impl Unrecorded {
    /// A new pass begins.
    fn begin(&mut self) {
        self.before = std::mem::take(&mut self.now);
    }

    fn note(&mut self, lock: &LockRecord) {
        if self.now.len() < REMEMBERED {
            self.now.insert((Arc::clone(&lock.holder), lock.since_ms));
        }
    }

    fn has(&self, lock: &LockRecord) -> bool {
        let lock = (Arc::clone(&lock.holder), lock.since_ms);
        self.now.contains(&lock) || self.before.contains(&lock)
    }
}
