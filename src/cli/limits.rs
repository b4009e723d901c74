//! `limits`: what limits let go, and what is set of them for all proxies.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};

use super::args::{LimitsCommand, SetAside};
use super::http::{Proxy, encode};
use super::output::{Exit, Failure, Output};
use super::process::plain;
use crate::config::unit::{parse_rate, show_duration};
use crate::logging::printable;

const PATH: &str = "/api/v1/limits";

pub(super) fn limits(command: LimitsCommand, output: &mut Output<'_>) -> Result<Exit, Failure> {
    match command {
        LimitsCommand::List { proxy, rule } => {
            let query: Vec<(&str, &str)> = rule.as_deref().map(|rule| ("rule", rule)).into_iter().collect();
            let answer = Proxy::new(&proxy)?.get(PATH, &query)?;
            output.answer(&answer, list_text);
            Ok(Exit::Done)
        }
        LimitsCommand::Pause { which, aside } => change(&which, &aside, &json!({ "paused": true }), output),
        LimitsCommand::Resume { which, aside } => change(&which, &aside, &json!({ "paused": false }), output),
        LimitsCommand::Set { which, rate, aside } => {
            let Some((times, per)) = parse_rate(&rate) else {
                return Err(usage(format!(
                    "--rate {rate}: write a whole number from 1, a slash, and s, m, h or d"
                )));
            };
            change(&which, &aside, &json!({ "times": times, "per": per.as_secs() }), output)
        }
        LimitsCommand::Reset { which, key, proxy } => {
            let key = read_key(key.as_deref())?;
            let proxy = Proxy::new(&proxy)?;
            let found = named(&proxy, &which)?;
            only_with_key(&found, key.as_ref(), &which)?;
            let body = key.map_or_else(|| json!({}), |key| json!({ "key": key }));
            each(&found, output, |path| proxy.delete_with(path, &body))
        }
    }
}

fn change(which: &str, aside: &SetAside, wanted: &Value, output: &mut Output<'_>) -> Result<Exit, Failure> {
    let key = read_key(aside.key.as_deref())?;
    let proxy = Proxy::new(&aside.proxy)?;
    let found = named(&proxy, which)?;
    only_with_key(&found, key.as_ref(), which)?;
    let mut body = wanted.clone();
    if let Some(key) = key {
        body["key"] = key;
    }
    if let Some(duration) = &aside.duration {
        body["expires_in"] = duration.as_str().into();
    }
    each(&found, output, |path| proxy.patch(path, &body))
}

/// Asks the same of each of these limits, one after the other.
fn each(found: &[Value], output: &mut Output<'_>, ask: impl Fn(&str) -> Result<Value, Failure>) -> Result<Exit, Failure> {
    let mut answers = Vec::new();
    for limit in found {
        let name = |name: &str| encode(limit[name].as_str().unwrap_or_default());
        answers.push(ask(&format!("{PATH}/{}/{}", name("rule"), name("limit")))?);
    }
    output.answer(&json!({ "limits": answers }), list_text);
    Ok(Exit::Done)
}

/// The limit `RULE/LIMIT`, or all limits of the rule `RULE`, whose name may have a slash itself.
fn named(proxy: &Proxy, which: &str) -> Result<Vec<Value>, Failure> {
    let mut answer = proxy.get(PATH, &[])?;
    let all = answer["limits"].as_array_mut().map(std::mem::take).unwrap_or_default();
    let text = |limit: &Value, name: &str| limit[name].as_str().unwrap_or_default().to_owned();
    let is_one = |limit: &Value| format!("{}/{}", text(limit, "rule"), text(limit, "limit")) == which;
    if let Some(one) = all.iter().find(|limit| is_one(limit)) {
        return Ok(vec![one.clone()]);
    }
    let found: Vec<Value> = all.into_iter().filter(|limit| limit["rule"] == which).collect();
    if found.is_empty() {
        let message = format!("no limit {which}, and no rule of that name with limits, is in force");
        return Err(Failure::new(Exit::No, "no_limit", message));
    }
    Ok(found)
}

/// The limits of a rule have different keys.
fn only_with_key(found: &[Value], key: Option<&Value>, which: &str) -> Result<(), Failure> {
    if key.is_some() && found.len() > 1 {
        return Err(usage(format!(
            "rule {which} has {} limits: name RULE/LIMIT beside --key",
            found.len()
        )));
    }
    Ok(())
}

fn read_key(key: Option<&str>) -> Result<Option<Value>, Failure> {
    let read = key.map(serde_json::from_str::<Value>).transpose();
    read.map_err(|error| {
        usage(format!(
            "--key is no JSON: {error}. Write --key '\"acme\"', --key 17, or a list of all parts"
        ))
    })
}

fn usage(message: String) -> Failure {
    Failure::new(Exit::Usage, "usage", message)
}

fn list_text(list: &Value) -> String {
    let mut text = String::new();
    for limit in list["limits"].as_array().into_iter().flatten() {
        let name = format!("{}/{}", plain(&limit["rule"]), plain(&limit["limit"]));
        let _ = writeln!(
            text,
            "{name}  {}  {} waiting{}",
            state(limit),
            plain(&limit["waiting"]),
            gone(limit)
        );
        for key in limit["keys"].as_array().into_iter().flatten() {
            let waiting = key["waiting"]
                .as_u64()
                .map(|waiting| format!("  {waiting} waiting"))
                .unwrap_or_default();
            let _ = writeln!(
                text,
                "  key {}  {}{waiting}{}",
                printable(&key["key"].to_string()),
                state(key),
                gone(key)
            );
        }
    }
    if text.is_empty() {
        return "no limits\n".to_owned();
    }
    text
}

fn state(side: &Value) -> String {
    let mut parts = Vec::new();
    if let Some(rate) = rate_of(side) {
        let configured = rate_of(&side["configured"]).filter(|configured| *configured != rate);
        let configured = configured.map(|configured| format!("configured {configured}"));
        let more: Vec<String> = configured.into_iter().chain(set(&side["rate_set"])).collect();
        let more = if more.is_empty() {
            String::new()
        } else {
            format!(" ({})", more.join(", "))
        };
        parts.push(rate + &more);
    }
    if let Some(runs) = side["concurrent"].as_u64() {
        parts.push(format!("{runs} at a time"));
    }
    let set = set(&side["pause_set"]).map(|set| format!(" ({set})")).unwrap_or_default();
    if side["paused"] == true {
        parts.push(format!("PAUSED{set}"));
    } else if !set.is_empty() {
        parts.push(format!("not paused{set}"));
    }
    parts.join("  ")
}

fn rate_of(side: &Value) -> Option<String> {
    let (times, per) = (side["times"].as_u64()?, side["per"].as_f64()?);
    Some(format!("{times} per {}", show_duration(Duration::try_from_secs_f64(per).ok()?)))
}

fn gone(side: &Value) -> String {
    side["given"]
        .as_u64()
        .filter(|_| side["times"].is_u64())
        .map(|given| format!("  {given} gone in its time"))
        .unwrap_or_default()
}

/// Who has set it, and until when.
fn set(setting: &Value) -> Option<String> {
    setting.as_object()?;
    let until = match &setting["until"] {
        Value::Null => "until it is taken back".to_owned(),
        until => format!("until {}", plain(until)),
    };
    Some(format!("{until}, set by {} at {}", plain(&setting["by"]), plain(&setting["since"])))
}
