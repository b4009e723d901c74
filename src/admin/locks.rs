//! `/api/v1/locks`: what is locked, and freeing it.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{Problem, respond};
use super::{Admin, Answered};
use crate::config::unit::parse_duration;
use crate::rules::lock::{Digest, Freed, LockRecord, LockState, Reply, Request};
use crate::store::{Client, Filter, Unavailable};

const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1000;
/// How many digests the answer to a bulk release names.
const RELEASED_SHOWN: usize = 1000;

/// What `GET /api/v1/locks` may be asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    rule: Option<String>,
    task: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
}

/// Which locks a bulk release is about.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClearQuery {
    /// Only those of this rule.
    pub rule: Option<String>,
    /// Only those of this task.
    pub task: Option<String>,
    /// Only those held for longer, as in the config: `10m`.
    pub older_than: Option<String>,
    /// Also those whose holder runs.
    #[serde(default)]
    pub include_running: bool,
    /// Only say which.
    #[serde(default)]
    pub dry_run: bool,
}

/// Whom a release must find as the holder.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReleaseQuery {
    holder: Option<String>,
}

/// What a bulk release did, or with `dry_run` would do.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Cleared {
    /// How many locks were freed.
    pub released: u64,
    /// How many were left because their holder runs.
    pub skipped_running: u64,
    /// The first of those that were freed.
    pub digests: Vec<Digest>,
}

/// Why a bulk release could not be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClearError {
    /// Nothing was given to choose by: that would be every lock.
    #[error("name at least one of rule, task, older_than")]
    FilterRequired,
    /// `older_than` is not a duration.
    #[error("older_than = {0:?} is not a duration such as \"10m\"")]
    OlderThan(String),
    /// The store did not answer; what had been freed until then stays freed.
    #[error(transparent)]
    Store(#[from] Unavailable),
}

pub(super) async fn list(State(admin): State<Arc<Admin>>, query: Result<Query<ListQuery>, QueryRejection>) -> Answered {
    let answer = async {
        let Query(query) = query?;
        let limit = query.limit.unwrap_or(LIMIT_DEFAULT).clamp(1, LIMIT_MAX);
        let filter = Filter {
            rule: query.rule,
            task: query.task,
        };
        let page = admin.store.list(&filter, query.cursor.as_deref(), limit).await?;
        let locks: Vec<Value> = page.locks.iter().map(lock_json).collect();
        Ok(respond(
            StatusCode::OK,
            &admin.instance,
            admin.store_reach,
            json!({ "locks": locks, "cursor": page.cursor }),
        ))
    };
    admin.answer(answer.await)
}

pub(super) async fn show(State(admin): State<Arc<Admin>>, Path(digest): Path<String>) -> Answered {
    let answer = async {
        let digest = read_digest(&digest)?;
        let lock = show_lock(&admin.store, digest).await?.ok_or_else(|| no_lock(digest))?;
        Ok(respond(StatusCode::OK, &admin.instance, admin.store_reach, lock_json(&lock)))
    };
    admin.answer(answer.await)
}

pub(super) async fn release(
    State(admin): State<Arc<Admin>>,
    Path(digest): Path<String>,
    query: Result<Query<ReleaseQuery>, QueryRejection>,
) -> Answered {
    let answer = async {
        let Query(query) = query?;
        let digest = read_digest(&digest)?;
        let freed = release_lock(&admin.store, digest, query.holder.as_deref()).await?;
        admin.count_freed(&freed);
        if freed.is_empty() {
            return Err(no_lock(digest));
        }
        let freed: Vec<Value> = freed.iter().map(freed_json).collect();
        Ok(respond(
            StatusCode::OK,
            &admin.instance,
            admin.store_reach,
            json!({ "released": freed.len(), "locks": freed }),
        ))
    };
    admin.answer(answer.await)
}

pub(super) async fn clear(State(admin): State<Arc<Admin>>, query: Result<Query<ClearQuery>, QueryRejection>) -> Answered {
    let answer = async {
        let Query(query) = query?;
        if query.rule.is_none() && query.task.is_none() && query.older_than.is_none() {
            return Err(ClearError::FilterRequired.into());
        }
        let cleared = clear_locks(&admin.store, &query, |freed| admin.count_freed(freed)).await?;
        Ok(cleared_response(&admin, &query, &cleared))
    };
    admin.answer(answer.await)
}

fn cleared_response(admin: &Admin, query: &ClearQuery, cleared: &Cleared) -> Response {
    respond(StatusCode::OK, &admin.instance, admin.store_reach, cleared_json(query, cleared))
}

/// A bulk release as JSON.
pub fn cleared_json(query: &ClearQuery, cleared: &Cleared) -> Value {
    let digests: Vec<String> = cleared.digests.iter().map(|digest| digest.to_hex()).collect();
    json!({
        "released": cleared.released,
        "skipped_running": cleared.skipped_running,
        "dry_run": query.dry_run,
        "digests": digests,
    })
}

/// The lock of a key, if there is one.
pub async fn show_lock(store: &Client, digest: Digest) -> Result<Option<Box<LockRecord>>, Unavailable> {
    match store.ask(Request::Show { digest }).await? {
        Reply::Lock(lock) => Ok(lock),
        _ => Ok(None),
    }
}

/// Frees the lock of a key, if `holder` (or, without one, anybody) holds it.
pub async fn release_lock(store: &Client, digest: Digest, holder: Option<&str>) -> Result<Vec<Freed>, Unavailable> {
    match store
        .ask(Request::Release {
            digest,
            holder: holder.map(Arc::from),
        })
        .await?
    {
        Reply::Released(freed) => Ok(freed),
        _ => Ok(Vec::new()),
    }
}

/// Frees every lock that `query` chooses, each only if its holder is still the one that was listed. Without any filter: all.
///
/// Age is told by this machine's clock against the store's.
pub async fn clear_locks(store: &Client, query: &ClearQuery, mut on_freed: impl FnMut(&[Freed])) -> Result<Cleared, ClearError> {
    let older_than = match &query.older_than {
        Some(text) => Some(parse_duration(text).ok_or_else(|| ClearError::OlderThan(text.clone()))?),
        None => None,
    };
    let now_ms = now_ms();
    let filter = Filter {
        rule: query.rule.clone(),
        task: query.task.clone(),
    };
    let mut cleared = Cleared::default();
    let mut cursor = None;
    loop {
        let page = store.list(&filter, cursor.as_deref(), LIMIT_MAX).await?;
        for lock in &page.locks {
            let age_ms = now_ms.saturating_sub(lock.since_ms);
            if older_than.is_some_and(|least| u128::from(age_ms) < least.as_millis()) {
                continue;
            }
            if lock.state == LockState::Running && !query.include_running {
                cleared.skipped_running += 1;
                continue;
            }
            if !query.dry_run {
                let freed = release_lock(store, lock.digest, Some(&lock.holder)).await?;
                on_freed(&freed);
                if freed.is_empty() {
                    continue;
                }
            }
            cleared.released += 1;
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
pub(super) fn expires_in(lock: &LockRecord) -> u64 {
    lock.expires_ms.saturating_sub(now_ms()).div_ceil(1000)
}

/// RFC 3339, UTC, milliseconds; null beyond the year 9999.
fn time_json(epoch_ms: u64) -> Value {
    let format = time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    let time = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(epoch_ms) * 1_000_000);
    time.ok().and_then(|time| time.format(format).ok()).map_or(Value::Null, Value::from)
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

fn read_digest(text: &str) -> Result<Digest, Problem> {
    Digest::from_hex(text).ok_or_else(|| Problem::bad("bad_digest", "a digest is 64 hexadecimal digits"))
}

fn no_lock(digest: Digest) -> Problem {
    Problem::not_found("no_lock", format!("nothing holds {digest}, or not the holder that was named"))
}

impl From<ClearError> for Problem {
    fn from(error: ClearError) -> Problem {
        match error {
            ClearError::FilterRequired => Problem::bad("filter_required", error.to_string()),
            ClearError::OlderThan(_) => Problem::bad("bad_query", error.to_string()),
            ClearError::Store(why) => why.into(),
        }
    }
}
