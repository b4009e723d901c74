//! `/api/v1/limits`: what limits let go, and what operators set of them for all proxies at once.

mod follow;
mod shown;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::access::Caller;
use super::answer::{Problem, respond};
use super::rules::Body;
use super::{Admin, Answered, Changed};
use crate::config::unit::parse_duration;
use crate::rules::limit::control::{KeyValue, SET_MAX, Target, What, rate_set};
use crate::rules::limit::{Limit, Rate, TIMES_MAX};
use crate::rules::question::read_json;
use crate::store::limits::{Done, KEPT, Known, Wanted};
pub use follow::follow_limits;
use shown::{Shown, in_force, is_rate, says};

/// What `GET /api/v1/limits` may be asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    /// Only those of this rule.
    rule: Option<String>,
    /// In which virtual host it is counted what waits and has gone for a bucket: without it in `/` and those of `[control]`.
    vhost: Option<String>,
}

/// Which value of the key a reset is about.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ResetQuery {
    /// In JSON.
    key: Option<String>,
}

/// What `PATCH` may say, and of it `DELETE` the key.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    times: Option<u64>,
    /// Seconds, or a duration as in the configuration.
    per: Option<Value>,
    paused: Option<bool>,
    key: Option<Value>,
    /// Seconds, or a duration as in the configuration.
    expires_in: Option<Value>,
}

/// A limit of the configuration in force.
struct Found {
    rule: Arc<str>,
    limit: Arc<Limit>,
}

impl Admin {
    /// The limits of every rule, or of one, in the order of the configuration.
    fn found_limits(&self, rule: Option<&str>) -> Vec<Found> {
        let current = self.current.load();
        let rules = current.config.rules.rules().iter();
        let limits = rules.filter(|known| rule.is_none_or(|rule| *known.name == *rule)).flat_map(|rule| {
            rule.own_limits().map(|limit| Found {
                rule: Arc::clone(&rule.name),
                limit: Arc::clone(limit),
            })
        });
        limits.collect()
    }

    fn found_limit(&self, rule: &str, limit: &str) -> Result<Found, Problem> {
        let found = self.found_limits(Some(rule)).into_iter().find(|found| *found.limit.name == *limit);
        found.ok_or_else(|| Problem::not_found("no_limit", format!("no rule {rule:?} in force has a limit {limit:?}")))
    }

    fn known_rule_with_limits(&self, rule: Option<&str>) -> Result<Vec<Found>, Problem> {
        let found = self.found_limits(rule);
        let known = |rule: &str| self.current.load().config.rules.rules().iter().any(|known| *known.name == *rule);
        match rule {
            Some(rule) if found.is_empty() && !known(rule) => {
                Err(Problem::not_found("no_rule", format!("no rule in force is named {rule:?}")))
            }
            _ => Ok(found),
        }
    }

    /// These limits, all of one rule, as they are shown.
    async fn show_limits(&self, limits: &[Found], vhosts: &[Arc<str>]) -> Result<Vec<Value>, Problem> {
        let Some(first) = limits.first() else { return Ok(Vec::new()) };
        let bare = self.store.limits(&first.rule, &[]).await?;
        let mut asked = Vec::new();
        let mut shown: Vec<Shown<'_>> = limits.iter().map(|found| Shown::new(found, &bare, vhosts, &mut asked)).collect();
        let known = self.store.limits(&first.rule, &asked).await?;
        for limit in &mut shown {
            limit.counts(&known);
        }
        Ok(shown.iter().map(|limit| limit.to_json(&known)).collect())
    }

    /// The virtual hosts that the configuration tells of.
    fn vhosts(&self) -> Vec<Arc<str>> {
        let current = self.current.load();
        let of_control = current.config.control.accounts.iter().map(|account| Arc::clone(&account.vhost));
        let all: BTreeSet<Arc<str>> = of_control.chain([Arc::from("/")]).collect();
        all.into_iter().collect()
    }

    async fn answer_with(&self, found: Found, change: Changed) -> Result<Response, Problem> {
        let shown = self.show_limits(&[found], &self.vhosts()).await?;
        let fields = shown.into_iter().next().unwrap_or_default();
        let mut response = respond(StatusCode::OK, &self.instance, self.store_reach, fields);
        response.extensions_mut().insert(change);
        Ok(response)
    }
}

pub(super) async fn list(State(admin): State<Arc<Admin>>, query: Result<Query<ListQuery>, QueryRejection>) -> Answered {
    let answer = async {
        let Query(query) = query?;
        let found = admin.known_rule_with_limits(query.rule.as_deref())?;
        let vhosts = query
            .vhost
            .as_deref()
            .map_or_else(|| admin.vhosts(), |vhost| vec![Arc::from(vhost)]);
        let mut shown = Vec::new();
        for of_rule in found.chunk_by(|one, other| one.rule == other.rule) {
            shown.extend(admin.show_limits(of_rule, &vhosts).await?);
        }
        let fields = json!({ "limits": shown });
        Ok(respond(StatusCode::OK, &admin.instance, admin.store_reach, fields))
    };
    admin.answer(answer.await)
}

pub(super) async fn set(
    State(admin): State<Arc<Admin>>,
    Extension(caller): Extension<Caller>,
    Path((rule, limit)): Path<(String, String)>,
    Body(body): Body,
) -> Answered {
    let answer = async {
        let found = admin.found_limit(&rule, &limit)?;
        let change = read_change(&body)?;
        let target = found.target(change.key.as_ref())?;
        let life = change.life()?;
        let mut whats: Vec<What> = change.paused.map(What::Paused).into_iter().collect();
        if change.times.is_some() || change.per.is_some() {
            let known = admin.store.limits(&found.rule, &[]).await?;
            whats.push(change.rate(found.rate(&known, &target))?);
        }
        if whats.is_empty() {
            return Err(Problem::bad("bad_body", "name at least one of times, per, paused"));
        }
        let by: Arc<str> = caller.name.into();
        let wanted = whats.iter().map(|what| Wanted {
            target: target.clone(),
            what: *what,
            life,
            by: Arc::clone(&by),
        });
        let wanted: Vec<Wanted> = wanted.collect();
        if admin.store.set_limits(&found.rule, &wanted).await? == Done::TooMany {
            let message = format!("so much is set for the limits of rule {rule} ({SET_MAX}) that nothing can be added");
            return Err(Problem::new(StatusCode::CONFLICT, "too_many", message));
        }
        let changed = found.changed(&target, life, &whats.iter().map(|what| says(*what)).collect::<Vec<_>>());
        admin.answer_with(found, changed).await
    };
    admin.answer(answer.await)
}

pub(super) async fn reset(
    State(admin): State<Arc<Admin>>,
    Path((rule, limit)): Path<(String, String)>,
    query: Result<Query<ResetQuery>, QueryRejection>,
    Body(body): Body,
) -> Answered {
    let answer = async {
        let Query(query) = query?;
        let found = admin.found_limit(&rule, &limit)?;
        let change = if body.is_empty() { Change::default() } else { read_change(&body)? };
        if change.times.is_some() || change.per.is_some() || change.paused.is_some() || change.expires_in.is_some() {
            return Err(Problem::bad(
                "bad_body",
                "DELETE takes back all that is set: its body names nothing but key",
            ));
        }
        let in_query = query.key.as_deref().map(serde_json::from_str::<Value>).transpose();
        let in_query = in_query.map_err(|error| Problem::bad("bad_key", format!("key is no JSON: {error}")))?;
        let target = found.target(change.key.or(in_query).as_ref())?;
        admin.store.reset_limit(&found.rule, &target).await?;
        let changed = found.changed(&target, None, &["as configured".to_owned()]);
        admin.answer_with(found, changed).await
    };
    admin.answer(answer.await)
}

fn read_change(body: &[u8]) -> Result<Change, Problem> {
    serde_json::from_slice(body).map_err(|error| Problem::bad("bad_body", error.to_string()))
}

/// A span of time: a number of seconds, or a duration as in the configuration.
fn span(name: &str, value: &Value) -> Result<Duration, Problem> {
    let seconds = match value {
        Value::Number(number) => number.as_f64().filter(|seconds| *seconds <= KEPT.as_secs_f64()),
        Value::String(text) => parse_duration(text).map(|duration| duration.as_secs_f64()),
        _ => None,
    };
    // The comparison also refuses what is no number.
    let seconds = seconds.filter(|seconds| *seconds >= 0.001 && *seconds <= KEPT.as_secs_f64());
    seconds.map(Duration::from_secs_f64).ok_or_else(|| {
        let message = format!("{name} is a number of seconds or a duration such as \"30m\": from a millisecond to 400 days");
        Problem::bad(if name == "per" { "bad_rate" } else { "bad_expires_in" }, message)
    })
}

impl Change {
    fn life(&self) -> Result<Option<Duration>, Problem> {
        self.expires_in.as_ref().map(|value| span("expires_in", value)).transpose()
    }

    /// The rate that is wanted; what is not said of it is as it is now.
    fn rate(&self, now: Option<Rate>) -> Result<What, Problem> {
        let per_ms = match &self.per {
            Some(per) => Some(span("per", per)?.as_millis() as u64),
            None => now.map(|rate| rate.per_ms),
        };
        let (Some(times), Some(per_ms)) = (self.times.or(now.map(|rate| rate.times)), per_ms) else {
            return Err(Problem::bad("bad_rate", "the limit has no rate: name both times and per"));
        };
        if times == 0 || times > TIMES_MAX {
            let message = format!("times is between 1 and {TIMES_MAX}; to let nothing go, pause the limit");
            return Err(Problem::bad("bad_rate", message));
        }
        Ok(What::Rate { times, per_ms })
    }
}

impl Found {
    fn target(&self, key: Option<&Value>) -> Result<Target, Problem> {
        let key = match key {
            None | Some(Value::Null) => None,
            Some(key) => {
                let shown = self.plainest(key).to_string();
                let digest = self.parts(&shown).map(|parts| self.limit.key_digest(&self.rule, &parts));
                let digest = digest.map_err(|message| Problem::bad("bad_key", message))?;
                let shown = shown.into();
                Some(KeyValue { digest, shown })
            }
        };
        let limit = Arc::clone(&self.limit.name);
        Ok(Target { limit, key })
    }

    /// The same value of its key is always shown in the same way.
    fn plainest<'a>(&self, key: &'a Value) -> &'a Value {
        match key.as_array().map(Vec::as_slice) {
            Some([part]) if !part.is_array() && self.limit.key_texts().len() == 1 => part,
            _ => key,
        }
    }

    /// The parts of a value of its key, read as those of a message are.
    fn parts(&self, shown: &str) -> Result<Vec<crate::celery::value::Value>, String> {
        let value = read_json(shown.as_bytes()).map_err(|error| error.to_string())?;
        self.limit.key_parts(value).map_err(|error| error.to_string())
    }

    /// The rate of the limit, or of one value of its key, as it is now.
    fn rate(&self, known: &Known, target: &Target) -> Option<Rate> {
        let (set, _) = in_force(known, target, is_rate);
        match set.map(|set| set.what) {
            Some(What::Rate { times, per_ms }) => Some(rate_set(times, per_ms, self.limit.rate)),
            _ => self.limit.rate,
        }
    }

    fn changed(&self, target: &Target, life: Option<Duration>, whats: &[String]) -> Changed {
        Changed {
            rule: Arc::clone(&self.rule),
            digest: target.key.as_ref().map(|key| key.digest),
            seconds: life.map(|life| life.as_secs_f64()),
            limit: Some((Arc::clone(&self.limit.name), whats.join(", "))),
        }
    }
}
