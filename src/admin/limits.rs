//! `/api/v1/limits`: what limits let go, and what operators set of them for all proxies at once.

use std::collections::{BTreeMap, BTreeSet};
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
use crate::rules::limit::control::{KeyValue, SET_MAX, Setting, Target, What, rate_set};
use crate::rules::limit::{Limit, Rate, TIMES_MAX};
use crate::rules::question::read_json;
use crate::store::limits::{self, Asked, Done, KEPT, Known, Wanted};
use crate::store::operator::time_json;

/// How often the store is asked what is set, for the metrics.
const EVERY: Duration = Duration::from_secs(1);
/// Of how many values of a key it is counted who waits.
const COUNTED: usize = 200;

/// What `GET /api/v1/limits` may be asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    /// Only those of this rule.
    rule: Option<String>,
    /// Of which virtual host it is counted what waits and has gone.
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
    async fn show_limits(&self, limits: &[Found], vhost: &str) -> Result<Vec<Value>, Problem> {
        let Some(first) = limits.first() else { return Ok(Vec::new()) };
        let bare = self.store.limits(&first.rule, &[]).await?;
        let mut asked = Vec::new();
        let mut shown: Vec<Shown<'_>> = limits.iter().map(|found| Shown::new(found, &bare, vhost, &mut asked)).collect();
        let known = self.store.limits(&first.rule, &asked).await?;
        for limit in &mut shown {
            limit.counts(&known);
        }
        Ok(shown.iter().map(|limit| limit.to_json(&known)).collect())
    }

    async fn answer_with(&self, found: Found, change: Changed) -> Result<Response, Problem> {
        let shown = self.show_limits(&[found], "/").await?;
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
        let vhost = query.vhost.as_deref().unwrap_or("/");
        let mut shown = Vec::new();
        for of_rule in found.chunk_by(|one, other| one.rule == other.rule) {
            shown.extend(admin.show_limits(of_rule, vhost).await?);
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

fn is_rate(what: What) -> bool {
    matches!(what, What::Rate { .. })
}

fn is_pause(what: What) -> bool {
    matches!(what, What::Paused(_))
}

fn says(what: What) -> String {
    match what {
        What::Paused(true) => "paused".to_owned(),
        What::Paused(false) => "resumed".to_owned(),
        What::Rate { times, per_ms } => format!("{times} per {per_ms} ms"),
    }
}

/// Of what is set, that which holds for a limit or for one value of its key, and whether it is set for that itself.
fn in_force<'a>(known: &'a Known, target: &Target, kind: fn(What) -> bool) -> (Option<&'a Setting>, bool) {
    let of = |target: &Target| {
        let mut set = known.set.iter();
        set.find(|set| kind(set.what) && set.target.limit == target.limit && same_key(&set.target, target))
    };
    let own = of(target);
    let whole = Target {
        limit: Arc::clone(&target.limit),
        key: None,
    };
    (own.or_else(|| of(&whole)), own.is_some())
}

fn same_key(one: &Target, other: &Target) -> bool {
    let digest = |target: &Target| target.key.as_ref().map(|key| key.digest);
    digest(one) == digest(other)
}

/// A limit, or one value of its key, as it is shown.
struct Side {
    target: Target,
    /// Its place among what the store is asked.
    asked: Option<usize>,
    counts: Option<limits::Bucket>,
}

/// A limit as it is shown.
struct Shown<'a> {
    found: &'a Found,
    whole: Side,
    keys: Vec<Side>,
}

impl<'a> Shown<'a> {
    fn new(found: &'a Found, known: &Known, vhost: &str, asked: &mut Vec<Asked>) -> Shown<'a> {
        let mut side = |target: Target, parts: Option<Vec<crate::celery::value::Value>>| {
            let place = parts.map(|parts| {
                let digest = found.limit.bucket_of(&found.rule, vhost, &parts);
                let rate = found.rate(known, &target);
                asked.push(Asked { digest, rate });
                asked.len() - 1
            });
            Side {
                target,
                asked: place,
                counts: None,
            }
        };
        let limit = Arc::clone(&found.limit.name);
        let keyless = found.limit.key_texts().is_empty().then(Vec::new);
        let whole = side(Target { limit, key: None }, keyless);
        let of_keys = known.set.iter().filter(|set| set.is_of(&found.limit.name));
        let of_keys = of_keys.filter_map(|set| Some((set.target.key.as_ref()?.shown.clone(), set.target.clone())));
        let of_keys: BTreeMap<Arc<str>, Target> = of_keys.collect();
        let keys = of_keys.into_iter().enumerate().map(|(number, (shown, target))| {
            let parts = found.parts(&shown).ok().filter(|_| number < COUNTED);
            side(target, parts)
        });
        let keys = keys.collect();
        Shown { found, whole, keys }
    }

    fn counts(&mut self, known: &Known) {
        for side in self.keys.iter_mut().chain([&mut self.whole]) {
            side.counts = side.asked.and_then(|asked| known.buckets.get(asked)).copied();
        }
    }

    fn to_json(&self, known: &Known) -> Value {
        let limit = &self.found.limit;
        let mut json = self.side(&self.whole, known);
        let configured = limit.rate;
        json["rule"] = (*self.found.rule).into();
        json["limit"] = (*limit.name).into();
        json["key"] = limit.key_texts().into();
        json["configured"] = json!({
            "times": configured.map(|rate| rate.times),
            "per": configured.map(|rate| seconds(rate.per_ms)),
            "burst": configured.map(|rate| rate.burst),
            "concurrent": limit.concurrent,
        });
        json["concurrent"] = limit.concurrent.into();
        json["waiting"] = known.waiting.into();
        json["keys"] = self
            .keys
            .iter()
            .map(|side| {
                let mut json = self.side(side, known);
                let shown = side.target.key.as_ref().map_or("null", |key| &*key.shown);
                json["key"] = serde_json::from_str(shown).unwrap_or_else(|_| shown.into());
                json["waiting"] = side.counts.map(|counts| counts.waiting).into();
                json
            })
            .collect();
        json
    }

    fn side(&self, side: &Side, known: &Known) -> Value {
        let ((pause, own_pause), (rate, own_rate)) = (in_force(known, &side.target, is_pause), in_force(known, &side.target, is_rate));
        let now = self.found.rate(known, &side.target);
        let own = [pause.filter(|_| own_pause), rate.filter(|_| own_rate)];
        let ends = own.iter().flatten().filter_map(|set| set.until_ms).min();
        let shown = |set: Option<&Setting>| {
            set.map(|set| {
                json!({
                    "by": &*set.by,
                    "since": time_json(set.since_ms),
                    "until": set.until_ms.map(time_json),
                    "expires_in": set.until_ms.map(|until_ms| left(until_ms, known.now_ms)),
                })
            })
        };
        json!({
            "times": now.map(|rate| rate.times),
            "per": now.map(|rate| seconds(rate.per_ms)),
            "burst": now.map(|rate| rate.burst),
            "paused": pause.is_some_and(|set| set.what == What::Paused(true)),
            "pause_set": shown(own[0]),
            "rate_set": shown(own[1]),
            "expires_in": ends.map(|until_ms| left(until_ms, known.now_ms)),
            "given": side.counts.map(|counts| counts.given),
        })
    }
}

fn left(until_ms: u64, now_ms: u64) -> u64 {
    until_ms.saturating_sub(now_ms).div_ceil(1_000)
}

/// A whole number where it is one.
fn seconds(ms: u64) -> Value {
    if ms.is_multiple_of(1_000) {
        (ms / 1_000).into()
    } else {
        (ms as f64 / 1_000.0).into()
    }
}

/// Shows again and again in the metrics what holds for each limit, and says in the log what is set anew, for as long as the process lives.
/// While the store does not answer, what it said last is shown.
pub async fn follow_limits(admin: Arc<Admin>) {
    let mut known: BTreeMap<Arc<str>, Known> = BTreeMap::new();
    let mut shown: BTreeSet<(Arc<str>, Arc<str>)> = BTreeSet::new();
    loop {
        let limits = admin.found_limits(None);
        let rules: BTreeSet<Arc<str>> = limits.iter().map(|found| Arc::clone(&found.rule)).collect();
        known.retain(|rule, _| rules.contains(rule));
        for rule in &rules {
            let Ok(mut now) = admin.store.limits(rule, &[]).await else {
                continue;
            };
            now.set
                .sort_by(|one, other| (one.target.limit.as_ref(), one.since_ms).cmp(&(other.target.limit.as_ref(), other.since_ms)));
            tell(rule, known.get(rule), &now);
            known.insert(Arc::clone(rule), now);
        }
        let mut current = BTreeSet::new();
        for found in &limits {
            let Some(known) = known.get(&found.rule) else { continue };
            let target = Target {
                limit: Arc::clone(&found.limit.name),
                key: None,
            };
            let paused = in_force(known, &target, is_pause).0.is_some();
            let times = found.rate(known, &target).map(|rate| rate.times);
            admin.metrics.rule(&found.rule).show_limit(&found.limit.name, paused, times);
            current.insert((Arc::clone(&found.rule), Arc::clone(&found.limit.name)));
        }
        for (rule, limit) in shown.difference(&current) {
            admin.metrics.rule(rule).forget_limit(limit);
        }
        shown = current;
        tokio::time::sleep(EVERY).await;
    }
}

/// Says what is other than before.
fn tell(rule: &str, before: Option<&Known>, now: &Known) {
    let before = before.map_or(&[][..], |known| known.set.as_slice());
    for set in now.set.iter().filter(|set| !before.contains(set)) {
        let seconds = set.until_ms.map(|until_ms| until_ms.saturating_sub(set.since_ms) / 1_000);
        let key = set.target.key.as_ref().map(|key| key.digest.to_hex());
        let (limit, what, by) = (&*set.target.limit, says(set.what), &*set.by);
        tracing::warn!(rule, limit, key, what, seconds, by, "a limit is set above the configuration");
    }
    let goes_on = |ended: &Setting| {
        let same = |set: &&Setting| {
            set.target.limit == ended.target.limit && same_key(&set.target, &ended.target) && is_rate(set.what) == is_rate(ended.what)
        };
        now.set.iter().any(|set| same(&set))
    };
    for ended in before.iter().filter(|ended| !goes_on(ended)) {
        let key = ended.target.key.as_ref().map(|key| key.digest.to_hex());
        let (limit, what) = (&*ended.target.limit, says(ended.what));
        tracing::warn!(rule, limit, key, what, "what was set of a limit holds no more");
    }
}
