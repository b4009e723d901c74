//! `/api/v1/locks`: what is locked, and freeing it.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{Problem, respond};
use super::{Admin, Answered};
use crate::config::unit::parse_duration;
use crate::rules::lock::{Digest, Running};
use crate::store::Filter;
use crate::store::operator::{self, Act, Choice};

const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1000;

/// What `GET /api/v1/locks` may be asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    rule: Option<String>,
    task: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
}

/// Whom a release must find as the holder.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReleaseQuery {
    holder: Option<String>,
}

/// Which locks a bulk release is about.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClearQuery {
    /// Only those of this rule.
    rule: Option<String>,
    /// Only those of this task.
    task: Option<String>,
    /// Only those held for longer, as in the config: `10m`.
    older_than: Option<String>,
    /// Also those whose holder runs.
    #[serde(default)]
    include_running: bool,
    /// Only say which.
    #[serde(default)]
    dry_run: bool,
}

pub(super) async fn list(State(admin): State<Arc<Admin>>, query: Result<Query<ListQuery>, QueryRejection>) -> Answered {
    let answer = async {
        let Query(query) = query?;
        let limit = query.limit.unwrap_or(LIMIT_DEFAULT).clamp(1, LIMIT_MAX);
        let filter = Filter {
            rule: query.rule,
            task: query.task,
            ..Filter::default()
        };
        let page = admin.store.list(&filter, query.cursor.as_deref(), limit).await?;
        let locks: Vec<Value> = page.locks.iter().map(operator::lock_json).collect();
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
        let locks = operator::show(&admin.store, digest).await?.to_json();
        Ok(respond(
            StatusCode::OK,
            &admin.instance,
            admin.store_reach,
            locks.ok_or_else(|| no_lock(digest))?,
        ))
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
        let freed = operator::release(&admin.store, digest, query.holder.as_deref()).await?;
        admin.count_freed(&freed);
        if freed.is_empty() {
            return Err(no_lock(digest));
        }
        let freed: Vec<Value> = freed.iter().map(operator::freed_json).collect();
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
            return Err(Problem::bad("filter_required", "name at least one of rule, task, older_than"));
        }
        let choice = query.into_choice()?;
        let cleared = operator::clear(&admin.store, &choice, |freed| admin.count_freed(freed)).await?;
        Ok(respond(
            StatusCode::OK,
            &admin.instance,
            admin.store_reach,
            cleared.to_json(choice.act),
        ))
    };
    admin.answer(answer.await)
}

impl ClearQuery {
    fn into_choice(self) -> Result<Choice, Problem> {
        let older_than = match &self.older_than {
            Some(text) => Some(
                parse_duration(text)
                    .ok_or_else(|| Problem::bad("bad_query", format!("older_than = {text:?} is not a duration such as \"10m\"")))?,
            ),
            None => None,
        };
        Ok(Choice {
            filter: Filter {
                rule: self.rule,
                task: self.task,
                ..Filter::default()
            },
            older_than,
            running: if self.include_running { Running::Include } else { Running::Skip },
            act: if self.dry_run { Act::DryRun } else { Act::Release },
        })
    }
}

fn read_digest(text: &str) -> Result<Digest, Problem> {
    Digest::from_hex(text).ok_or_else(|| Problem::bad("bad_digest", "a digest is 64 hexadecimal digits"))
}

fn no_lock(digest: Digest) -> Problem {
    Problem::not_found("no_lock", format!("nothing holds {digest}, or not the holder that was named"))
}
