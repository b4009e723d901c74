//! The limits of a rule.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::super::SignaturesOf;
use super::super::limit::{Limit, LimitSet, Rate, TIMES_MAX};
use super::super::spec::{LimitSpec, OnMaxWait, RuleSpec, SpecError};
use super::{fault, is_proper_name, key};

/// So many may be counted as running at a time.
const CONCURRENT_MAX: u64 = 10_000;

/// Compiles the limits of one rule; their faults go to `errors`.
pub(super) fn limits(
    index: usize,
    rule: &Arc<str>,
    spec: &RuleSpec,
    signatures: &SignaturesOf,
    known: &BTreeSet<&str>,
    errors: &mut Vec<SpecError>,
) -> Vec<Arc<LimitSet>> {
    let mut limits = Vec::with_capacity(spec.limits.len());
    let mut names = BTreeMap::new();
    for (place, limit) in spec.limits.iter().enumerate() {
        let mut faults = Vec::new();
        let name = name(index, place, limit, &mut names, &mut faults);
        check(index, limit, spec, &mut faults);
        let key = key(index, &limit.key, known, &mut faults);
        for mut fault in faults {
            fault.limit = Some(place);
            fault.message = fault
                .message
                .replace("every call would be a duplicate", "all calls would share one limit");
            errors.push(fault);
        }
        let Some(key) = key else { continue };
        limits.push(Arc::new(Limit {
            name,
            rate: rate(limit),
            concurrent: limit.concurrent,
            key,
            max_wait: limit.max_wait.zip(limit.on_max_wait),
            hold_max: limit.hold_max.unwrap_or(spec.hold_max),
            count_retries: limit.count_retries,
        }));
    }
    if limits.is_empty() {
        return Vec::new();
    }
    vec![Arc::new(LimitSet {
        rule: Arc::clone(rule),
        limits,
        signatures: signatures.clone(),
    })]
}

fn rate(limit: &LimitSpec) -> Option<Rate> {
    let (times, per) = limit.times.zip(limit.per)?;
    Some(Rate {
        times,
        per_ms: u64::try_from(per.as_millis()).unwrap_or(u64::MAX),
        burst: limit.burst.unwrap_or(times),
    })
}

fn name(index: usize, place: usize, limit: &LimitSpec, names: &mut BTreeMap<String, usize>, faults: &mut Vec<SpecError>) -> Arc<str> {
    let name = limit.name.clone().unwrap_or_else(|| (place + 1).to_string());
    if !is_proper_name(&name) {
        let message = format!("name = \"{name}\" has characters that a name cannot have");
        faults.push(fault(index, "name", message, "Use A-Z a-z 0-9 _ . and - only."));
    }
    if let Some(first) = names.insert(name.clone(), place) {
        let message = format!(
            "name = \"{name}\" is the name of two limits of the rule, number {} and number {}",
            first + 1,
            place + 1
        );
        let remedy = "Give each limit a name of its own; one without is named after its position.";
        faults.push(fault(index, "name", message, remedy));
    }
    Arc::from(name)
}

fn check(index: usize, limit: &LimitSpec, spec: &RuleSpec, faults: &mut Vec<SpecError>) {
    let mut refuse = |key, message: String, remedy: &str| faults.push(fault(index, key, message, remedy));
    match (limit.times, limit.per) {
        (Some(times), Some(_)) if times > TIMES_MAX => refuse(
            "times",
            format!("times = {times} is above {TIMES_MAX}: the time of each is kept"),
            "Write both times and per smaller: 1000000 per 1d is 11 per second.",
        ),
        (Some(0), Some(_)) => refuse("times", "times is none at all".to_owned(), "Write at least 1."),
        (Some(_), Some(per)) if per < Duration::from_millis(1) => {
            refuse("per", "per is no time at all".to_owned(), "Write a longer one.");
        }
        (Some(_), Some(_)) => {}
        (None, None) if limit.concurrent.is_some() => {}
        _ => refuse(
            "times",
            "the limit limits nothing".to_owned(),
            "Write rate = \"2/m\", or times and per, or concurrent = 1.",
        ),
    }
    if limit.burst.is_some_and(|burst| burst == 0 || Some(burst) > limit.times) {
        let message = "burst is not between 1 and times, which no window may exceed".to_owned();
        refuse("burst", message, "Write a smaller burst, or leave it out.");
    }
    if let Some(runs) = limit.concurrent.filter(|runs| *runs == 0 || *runs > CONCURRENT_MAX) {
        let message = format!("concurrent = {runs} is not between 1 and {CONCURRENT_MAX}");
        refuse("concurrent", message, "Write concurrent = 1, or another number in this range.");
    }
    if limit.on_max_wait == Some(OnMaxWait::DeadLetter) && spec.dead_letter.is_none() {
        let message = "on_max_wait = \"dead_letter\" has nowhere to go".to_owned();
        let remedy = "Write dead_letter = { exchange = \"\", routing_key = \"limited\" } in the rule.";
        refuse("on_max_wait", message, remedy);
    }
}
