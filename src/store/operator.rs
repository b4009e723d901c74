//! What operators do with locks, whether they come through a running proxy or straight to the store.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::{Client, Filter, Unavailable};
use crate::rules::lock::{Claim, Cooled, Digest, Freed, LockNote, LockRecord, LockState, Reply, Request, Running};

/// Locks that are asked for at once.
const PAGE: usize = 1000;
/// Of how many keys the locks are shown for one id.
const KEYS_SHOWN: usize = 50;
/// How many digests the answer to a bulk release names.
const RELEASED_SHOWN: usize = 1000;

/// Which locks a bulk release is about.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Only those of this rule or task.
    pub filter: Filter,
    /// Only those held for at least this long.
    pub older_than: Option<Duration>,
    /// What becomes of those whose holder runs.
    pub running: Running,
    /// Whether locks are freed at all.
    pub act: Act,
}

/// Whether a bulk release is carried out.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// It is.
    #[default]
    Release,
    /// It only says what it would free.
    DryRun,
}

/// What a bulk release did, or in a dry run would do.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Cleared {
    /// How many locks were freed.
    pub released: u64,
    /// How many were left because their holder runs.
    pub skipped_running: u64,
    /// The first of those that were freed.
    pub digests: Vec<Digest>,
}

impl Cleared {
    /// The fields of the answer.
    pub fn to_json(&self, act: Act) -> Value {
        let digests: Vec<String> = self.digests.iter().map(|digest| digest.to_hex()).collect();
        json!({
            "released": self.released,
            "skipped_running": self.skipped_running,
            "dry_run": act == Act::DryRun,
            "digests": digests,
        })
    }
}

/// The locks of a key.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Locks {
    /// The publish lock.
    pub publish: Option<Box<LockRecord>>,
    /// The running lock.
    pub run: Option<Box<LockRecord>>,
}

impl Locks {
    /// The publish lock, and in its field `run` the running lock; where there is no publish lock, the running lock. `None` if there is
    /// neither.
    pub fn to_json(&self) -> Option<Value> {
        let Some(publish) = &self.publish else {
            return self.run.as_deref().map(lock_json);
        };
        let mut json = lock_json(publish);
        if let Some(run) = &self.run {
            json["run"] = lock_json(run);
        }
        Some(json)
    }
}

/// The locks of a key.
pub async fn show(store: &Client, digest: Digest) -> Result<Locks, Unavailable> {
    Ok(Locks {
        publish: ask_lock(store, Request::Show { digest }).await?,
        run: ask_lock(store, Request::ShowRun { digest }).await?,
    })
}

async fn ask_lock(store: &Client, request: Request) -> Result<Option<Box<LockRecord>>, Unavailable> {
    match store.ask(request).await? {
        Reply::Lock(lock) => Ok(lock),
        _ => Ok(None),
    }
}

/// Frees the locks of a key, also of a holder that runs, that `holder` (or, without one, anybody) holds.
pub async fn release(store: &Client, digest: Digest, holder: Option<&str>) -> Result<Vec<Freed>, Unavailable> {
    free(store, digest, holder, Running::Include).await
}

async fn free(store: &Client, digest: Digest, holder: Option<&str>, running: Running) -> Result<Vec<Freed>, Unavailable> {
    let request = Request::Release {
        digest,
        holder: holder.map(Arc::from),
        running,
    };
    match store.ask(request).await? {
        Reply::Released(freed) => Ok(freed),
        _ => Ok(Vec::new()),
    }
}

/// Locks the key of `claim` for the cooldown of `note`, unless a task holds it. One that rests already rests for that long from now.
pub async fn cool(store: &Client, claim: Claim, note: LockNote) -> Result<Cooled, Unavailable> {
    let request = Request::Cool {
        claim,
        note: Arc::new(note),
    };
    match store.ask(request).await? {
        Reply::Cooled(cooled) => Ok(cooled),
        other => Err(Unavailable::Refused(format!("an answer to another question: {other:?}").into())),
    }
}

/// Frees every lock that `choice` names, each only if its holder is still the one that was listed. Without any filter: all.
///
/// Age is told by this machine's clock against the store's.
pub async fn clear(store: &Client, choice: &Choice, mut on_freed: impl FnMut(&[Freed])) -> Result<Cleared, Unavailable> {
    let now_ms = now_ms();
    let mut cleared = Cleared::default();
    let mut cursor = None;
    loop {
        let page = store.list(&choice.filter, cursor.as_deref(), PAGE).await?;
        for lock in &page.locks {
            let age_ms = now_ms.saturating_sub(lock.since_ms);
            if choice.older_than.is_some_and(|least| u128::from(age_ms) < least.as_millis()) {
                continue;
            }
            if lock.runs() && choice.running == Running::Skip {
                cleared.skipped_running += 1;
                continue;
            }
            if choice.act == Act::Release {
                let freed = free(store, lock.digest, Some(&lock.holder), choice.running).await?;
                on_freed(&freed);
                // The running lock of the same holder goes with its publish lock, and is found gone when its turn comes.
                cleared.released += freed.len() as u64;
                if freed.is_empty() {
                    // It went by itself, or has begun to run since it was listed.
                    let now = show(store, lock.digest).await?.publish;
                    let runs = now.is_some_and(|now| now.holder == lock.holder && now.state == LockState::Running);
                    cleared.skipped_running += u64::from(runs);
                    continue;
                }
            } else {
                cleared.released += 1;
            }
            if cleared.digests.len() < RELEASED_SHOWN {
                cleared.digests.push(lock.digest);
            }
        }
        cursor = page.cursor;
        if cursor.is_none() {
            return Ok(cleared);
        }
    }
}

/// What is on record of an id.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Known {
    /// What was decided about it, the oldest first, as it was written down.
    pub decisions: Vec<Value>,
    /// The locks of the keys that it is noted for, its own or another's.
    pub locks: Vec<Value>,
}

/// What is on record of an id. Of many keys some are left out.
pub async fn task(store: &Client, id: &str) -> Result<Known, Unavailable> {
    let lines = store.recorded(id).await?;
    let mut decisions: Vec<Value> = lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    decisions.dedup();
    let mut digests = store.claimed(id).await?;
    digests.sort_unstable_by_key(|digest| digest.0);
    digests.dedup();
    let mut locks = Vec::new();
    for digest in digests.into_iter().take(KEYS_SHOWN) {
        let Locks { publish, run } = show(store, digest).await?;
        locks.extend([publish, run].into_iter().flatten().map(|lock| lock_json(&lock)));
    }
    Ok(Known { decisions, locks })
}

/// A lock as JSON, with the field names of the store.
pub fn lock_json(lock: &LockRecord) -> Value {
    json!({
        "digest": lock.digest.to_hex(),
        "holder": &*lock.holder,
        "state": lock.state.as_str(),
        "rule": &*lock.rule,
        "task": &*lock.task,
        "summary": &*lock.summary,
        "unique": lock.scope.as_str(),
        "worker": &*lock.worker,
        "proxy": &*lock.proxy,
        "vhost": &*lock.vhost,
        "queue": &*lock.queue,
        "since": time_json(lock.since_ms),
        "expires": time_json(lock.expires_ms),
        "expires_in": expires_in(lock),
        "in_flight": lock.in_flight,
        "shadow": lock.shadow,
    })
}

/// A freed lock as JSON.
pub fn freed_json(freed: &Freed) -> Value {
    json!({
        "digest": freed.digest.to_hex(),
        "holder": &*freed.holder,
        "rule": &*freed.rule,
        "task": &*freed.task,
        "held_seconds": freed.held_ms as f64 / 1000.0,
        "shadow": freed.shadow,
    })
}

/// Seconds until a lock lapses by itself, rounded up.
pub fn expires_in(lock: &LockRecord) -> u64 {
    lock.expires_ms.saturating_sub(now_ms()).div_ceil(1000)
}

/// RFC 3339, UTC, milliseconds; null beyond the year 9999.
pub fn time_json(epoch_ms: u64) -> Value {
    let format = time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    let time = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(epoch_ms) * 1_000_000);
    time.ok().and_then(|time| time.format(format).ok()).map_or(Value::Null, Value::from)
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
