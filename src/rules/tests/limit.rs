//! What a message asks of the limits of its rules.

use std::time::Duration;

use super::*;
use crate::rules::limit::{Limiting, Rate};
use crate::rules::spec::{LimitSpec, OnMaxWait};

fn limit(change: impl FnOnce(&mut LimitSpec)) -> LimitSpec {
    let mut limit = LimitSpec {
        times: Some(2),
        per: Some(Duration::from_secs(60)),
        ..LimitSpec::default()
    };
    change(&mut limit);
    limit
}

fn keyed(key: &[&str]) -> LimitSpec {
    limit(|limit| limit.key = KeySpec::List(key.iter().map(|part| (*part).to_owned()).collect()))
}

fn limited(limits: Vec<LimitSpec>) -> RuleSpec {
    RuleSpec {
        unique: None,
        params: Some("customer, day=None".to_owned()),
        limits,
        ..rule("t")
    }
}

fn limiting(message: &Message, rules: &RuleSet) -> Result<Vec<Limiting>, UnkeyableReason> {
    message.with(|facts, body| {
        let verdict = rules.decide(facts, body, NOW);
        let Some(rule) = verdict.limited() else { return Ok(Vec::new()) };
        let limiting = rule.limiting(facts, body, &"id-1".into(), &"q".into());
        limiting.map_err(|(reason, _)| reason)
    })
}

fn buckets(message: &Message, rules: &RuleSet) -> Vec<Digest> {
    let all = limiting(message, rules).expect("keys");
    all.iter().flat_map(|set| &set.ask.buckets).map(|bucket| bucket.digest).collect()
}

fn call(customer: i64) -> Message {
    message("t").args(vec![Value::Int(customer)])
}

#[test]
fn each_limit_has_a_key_of_its_own() {
    let rules = one(limited(vec![keyed(&[]), keyed(&["customer"]), keyed(&["customer", "day"])]));
    let (one, other) = (buckets(&call(1), &rules), buckets(&call(2), &rules));
    assert_eq!(one.len(), 3);
    assert_eq!(one[0], other[0], "one for the rule");
    assert_ne!(one[1], other[1]);
    assert_ne!(one[0], one[1]);
    assert_ne!(one[1], one[2]);
    let named = message("t").kwargs(vec![("customer", Value::Int(1))]);
    assert_eq!(buckets(&named, &rules), one, "however the call is written");
    let elsewhere = Message { vhost: "b", ..call(1) };
    assert!(buckets(&elsewhere, &rules).iter().all(|bucket| !one.contains(bucket)));
}

#[test]
fn limits_are_named_and_have_their_rates() {
    let rules = one(limited(vec![
        limit(|limit| limit.burst = Some(1)),
        limit(|limit| limit.name = Some("each".to_owned())),
    ]));
    let all = limiting(&call(1), &rules).expect("keys");
    let [set] = all.as_slice() else { panic!("{all:?}") };
    let names: Vec<&str> = set.limits.iter().map(|limit| &*limit.name).collect();
    assert_eq!(names, ["1", "each"]);
    let rate = |burst| Rate {
        times: 2,
        per_ms: 60_000,
        burst,
    };
    let rates: Vec<_> = set.ask.buckets.iter().map(|bucket| bucket.rate).collect();
    assert_eq!(rates, [Some(rate(1)), Some(rate(2))]);
    assert_eq!((&*set.ask.rule, &*set.ask.id), ("t", "id-1"));
    assert!(set.ask.note.is_none(), "nothing counts runs");
}

#[test]
fn runs_that_are_counted_are_told_apart_by_id() {
    let runs = limit(|limit| {
        (limit.times, limit.per, limit.concurrent) = (None, None, Some(3));
    });
    let rules = one(limited(vec![runs]));
    let run_of = |id: &str| {
        call(1).with(|facts, body| {
            let verdict = rules.decide(facts, body, NOW);
            let rule = verdict.limited().expect("limits");
            let all = rule.limiting(facts, body, &id.into(), &"q".into()).expect("keys");
            let ask = &all[0].ask;
            let note = ask.note.as_ref().expect("a note");
            assert_eq!((&*note.rule, &*note.task, &*note.queue), ("t", "t", "q"));
            ask.buckets[0].concurrent.map(|concurrent| (concurrent.runs, concurrent.run))
        })
    };
    let (one, other) = (run_of("a").expect("runs"), run_of("b").expect("runs"));
    assert_eq!(one.0, 3);
    assert_ne!(one.1, other.1);
}

#[test]
fn retries_count_unless_the_limit_says_otherwise() {
    let rules = one(limited(vec![limit(|limit| limit.count_retries = false), keyed(&["customer"])]));
    let again = call(1).header("retries", FieldValue::I32(1));
    assert_eq!(buckets(&again, &rules), buckets(&call(1), &rules)[1..]);
}

#[test]
fn the_limits_of_joined_rules_add_up_and_each_counts_for_its_own() {
    let first = RuleSpec {
        name: Some("all".to_owned()),
        task: vec!["*".to_owned()],
        and_next: true,
        ..limited(vec![keyed(&[])])
    };
    let second = RuleSpec {
        unique: Some(Unique::UntilFinished),
        ..limited(vec![keyed(&["customer"])])
    };
    let rules = RuleSet::compile(vec![first, second], &[]).expect("right rules");
    let all = limiting(&call(1), &rules).expect("keys");
    let of: Vec<&str> = all.iter().map(|set| &*set.ask.rule).collect();
    assert_eq!(of, ["all", "t"]);
    let alone = message("other").args(vec![Value::Int(1)]);
    assert_eq!(buckets(&alone, &rules), [all[0].ask.buckets[0].digest]);
}

#[test]
fn who_is_bypassed_for_its_key_alone_is_limited() {
    let unique = RuleSpec {
        unique: Some(Unique::UntilFinished),
        ..limited(vec![keyed(&[])])
    };
    let rules = one(unique.clone());
    let member = call(1).header("group", text("g"));
    assert_eq!(buckets(&member, &rules), buckets(&call(1), &rules));
    let observed = one(RuleSpec {
        mode: Mode::Observe,
        ..unique.clone()
    });
    assert!(buckets(&call(1), &observed).is_empty());
    let bypassed = one(RuleSpec { bypass: true, ..unique });
    assert!(buckets(&call(1), &bypassed).is_empty());
}

#[test]
fn a_key_that_cannot_be_had_limits_nothing() {
    let rules = one(limited(vec![keyed(&[]), keyed(&["customer"])]));
    assert_eq!(limiting(&message("t"), &rules).err(), Some(UnkeyableReason::MissingArgument));
}

#[test]
fn faults_are_told_with_their_limit() {
    let faults = |limits: Vec<LimitSpec>| {
        let errors = RuleSet::compile(vec![limited(limits)], &[]).expect_err("wrong");
        let told = errors.iter().map(|error| (error.limit, error.key, error.message.clone()));
        told.collect::<Vec<_>>()
    };
    let told = faults(vec![keyed(&[]), keyed(&["'x'"])]);
    let constant = "`'x'` in key is a constant: all calls would share one limit.".to_owned();
    assert_eq!(told, [(Some(1), "key", constant)]);
    let same = |name: &str| limit(|limit| limit.name = Some(name.to_owned()));
    assert!(
        faults(vec![limit(|_| ()), same("1")])[0]
            .2
            .starts_with("name = \"1\" is the name of two limits of the rule")
    );
    assert_eq!(faults(vec![same("a b")])[0].1, "name");
    for (key, wrong) in [
        ("burst", limit(|limit| limit.burst = Some(3))),
        ("times", limit(|limit| limit.times = Some(0))),
        ("times", limit(|limit| limit.times = Some(1_000_000))),
        ("times", limit(|limit| limit.per = None)),
        ("concurrent", limit(|limit| limit.concurrent = Some(0))),
        (
            "on_max_wait",
            limit(|limit| (limit.max_wait, limit.on_max_wait) = (Some(Duration::from_secs(1)), Some(OnMaxWait::DeadLetter))),
        ),
    ] {
        assert_eq!(faults(vec![wrong])[0].1, key);
    }
}
