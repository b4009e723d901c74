//! Entries of a schedule that several beats publish: the beat that came first has an entry for a while (`beat_lease`).
//!
//! Celery's beat names itself by the header `origin`, `gen<pid>@<host>`, as every producer does; since Celery 5.7 it also writes the header
//! `celery_beat_task` (celery, `beat.py`, `apply_async`). Other schedulers write `periodic_task_name`.

use std::sync::Arc;

use super::Rule;
use super::decision::Facts;
use super::digest::{Domain, digest};
use super::lock::{Digest, Request};
use super::spec::Mode;
use crate::celery::body::Body;
use crate::celery::value::Value;

/// One entry of a schedule, as a beat publishes it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The rule.
    pub rule: Arc<Rule>,
    /// Names the entry: virtual host, task, and all arguments.
    pub digest: Digest,
    /// The beat.
    pub origin: Arc<str>,
    /// For how long the entry is the beat's, in milliseconds from its publish.
    pub life_ms: u64,
}

impl Entry {
    /// The entry that a publish is of; `None` if it is no beat's, or the rule has no lease for it.
    pub(super) fn of(rule: &Arc<Rule>, facts: &Facts<'_>, body: &Body) -> Option<Entry> {
        let lease = rule.beat_lease?;
        let task = facts.task;
        let origin = task.origin.as_deref().filter(|origin| !origin.is_empty())?;
        let of_beat =
            task.celery_beat_task || task.periodic_task_name || (!rule.beat_origins.is_any() && rule.beat_origins.is_match(origin));
        // What tasks publish, be it again, carries their headers on.
        let by_task = task.retries > 0 || task.replaced_task_nesting > 0 || task.parent_id.is_some();
        if !of_beat || by_task {
            return None;
        }
        let args = match &body.args {
            Value::Tuple(items) => &Value::List(items.clone()),
            other => other,
        };
        let shadow = rule.mode == Mode::Observe;
        Some(Entry {
            rule: Arc::clone(rule),
            digest: digest(Domain::Beat, shadow, facts.vhost, &task.name, [args, &body.kwargs].into_iter()),
            origin: Arc::from(origin),
            life_ms: lease.as_millis() as u64,
        })
    }

    /// What the store is asked about it.
    pub fn question(&self) -> Request {
        Request::BeatLease {
            digest: self.digest,
            origin: Arc::clone(&self.origin),
            life_ms: self.life_ms,
        }
    }
}

/// Whose an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// The beat's that asks, from now on for the whole lease.
    Own,
    /// Another beat's.
    Other {
        /// Which.
        origin: Arc<str>,
        /// How long until it is nobody's, unless that beat publishes it again.
        expires_in_ms: u64,
    },
}
