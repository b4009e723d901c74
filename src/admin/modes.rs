//! `/api/v1/mode`: modes that operators set above those of the configuration, on all proxies, each with its end.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Extension;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::access::Caller;
use super::answer::{Problem, respond};
use super::rules::Body;
use super::{Admin, Answered};
use crate::config::unit::parse_duration;
use crate::rules::spec::Mode;
use crate::store::modes::{self, ALL, ModeOverride, now_ms};

/// How long a mode is set if nothing else is said, and the longest, in seconds.
const USUAL: f64 = 3_600.0;
const LONGEST: f64 = 30.0 * 24.0 * 3_600.0;
/// The longest reason, in octets.
const REASON_MAX: usize = 500;

/// What `PUT /api/v1/mode` may say.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    mode: String,
    rule: Option<String>,
    /// Seconds, or a duration as in the configuration.
    expires_in: Option<Value>,
    reason: Option<String>,
}

/// What a reset may say.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ResetQuery {
    rule: Option<String>,
}

impl Admin {
    /// The rules of the configuration, and the name for all of them.
    fn rule_names(&self) -> BTreeSet<Arc<str>> {
        let current = self.current.load();
        let rules = current.config.rules.modes().map(|(name, _)| Arc::from(name));
        rules.chain([Arc::from(ALL)]).collect()
    }

    fn known_rule(&self, rule: Option<&str>) -> Result<Arc<str>, Problem> {
        let Some(rule) = rule else { return Ok(Arc::from(ALL)) };
        let known = self.rule_names().into_iter().find(|name| **name == *rule && rule != ALL);
        known.ok_or_else(|| Problem::not_found("no_rule", format!("no rule is named {rule:?}")))
    }
}

/// What is set, by the store, and what of it this proxy follows.
pub(super) async fn show(State(admin): State<Arc<Admin>>) -> Answered {
    let answer = async {
        let names: Vec<Arc<str>> = admin.rule_names().into_iter().collect();
        let set = modes::read(&admin.store, &names).await?;
        let overrides: Vec<Value> = set.iter().map(ModeOverride::to_json).collect();
        let rules: Vec<Value> = admin
            .current
            .load()
            .config
            .rules
            .modes()
            .map(|(name, mode)| json!({ "rule": name, "mode": mode.as_str() }))
            .collect();
        let fields = json!({ "overrides": overrides, "off_here": admin.state.modes().is_off, "rules": rules });
        Ok(respond(StatusCode::OK, &admin.instance, admin.store_reach, fields))
    };
    admin.answer(answer.await)
}

pub(super) async fn set(State(admin): State<Arc<Admin>>, Extension(caller): Extension<Caller>, Body(body): Body) -> Answered {
    let answer = async {
        let wanted: Wanted = serde_json::from_slice(&body).map_err(|error| Problem::bad("bad_body", error.to_string()))?;
        let mode = Mode::from_name(&wanted.mode);
        let mode = mode.ok_or_else(|| Problem::bad("bad_mode", "mode is one of \"off\", \"observe\", \"enforce\""))?;
        let rule = admin.known_rule(wanted.rule.as_deref())?;
        let seconds = seconds_of(wanted.expires_in.as_ref())?;
        let reason = wanted.reason.unwrap_or_default();
        if reason.len() > REASON_MAX {
            return Err(Problem::bad("bad_reason", format!("reason is longer than {REASON_MAX} octets")));
        }
        let since_ms = now_ms();
        let set = ModeOverride {
            rule,
            mode,
            reason,
            by: caller.name,
            since_ms,
            // The bounds leave no room for an overflow.
            until_ms: since_ms + (seconds * 1_000.0) as u64,
        };
        modes::set(&admin.store, &set).await?;
        Ok(respond(StatusCode::OK, &admin.instance, admin.store_reach, set.to_json()))
    };
    admin.answer(answer.await)
}

pub(super) async fn reset(State(admin): State<Arc<Admin>>, query: Result<Query<ResetQuery>, QueryRejection>) -> Answered {
    let answer = async {
        let Query(query) = query?;
        let names: Vec<Arc<str>> = match &query.rule {
            Some(rule) => vec![admin.known_rule(Some(rule))?],
            None => admin.rule_names().into_iter().collect(),
        };
        let set = modes::read(&admin.store, &names).await?;
        let rules: Vec<Arc<str>> = set.iter().map(|set| Arc::clone(&set.rule)).collect();
        modes::reset(&admin.store, &rules).await?;
        let overrides: Vec<Value> = set.iter().map(ModeOverride::to_json).collect();
        Ok(respond(
            StatusCode::OK,
            &admin.instance,
            admin.store_reach,
            json!({ "reset": overrides }),
        ))
    };
    admin.answer(answer.await)
}

/// A mode never stays for ever: somebody would forget it.
fn seconds_of(expires_in: Option<&Value>) -> Result<f64, Problem> {
    let seconds = match expires_in {
        None | Some(Value::Null) => Some(USUAL),
        Some(Value::Number(number)) => number.as_f64(),
        Some(Value::String(text)) => parse_duration(text).map(|duration| duration.as_secs_f64()),
        Some(_) => None,
    };
    // The comparison also refuses what is no number.
    let seconds = seconds.filter(|seconds| *seconds > 0.0 && *seconds <= LONGEST);
    seconds.ok_or_else(|| {
        Problem::bad(
            "bad_expires_in",
            "expires_in is a number of seconds or a duration such as \"30m\": above 0, and 30d at most",
        )
    })
}
