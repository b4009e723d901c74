//! Whose entry of a schedule a publish is of.

use std::time::Duration;

use super::*;
use crate::rules::beat::Entry;

const BEAT: &str = "gen7@beat-1";

fn leased(spec: RuleSpec) -> RuleSpec {
    RuleSpec {
        beat_lease: Some(Duration::from_secs(15)),
        beat_origins: vec!["gen*@beat-*".to_owned()],
        ..spec
    }
}

fn alone() -> RuleSpec {
    RuleSpec {
        unique: None,
        ..leased(rule("t"))
    }
}

fn from(origin: &'static str) -> Message {
    message("t").header("origin", text(origin)).args(vec![Value::Int(1)])
}

fn entry(message: &Message, rules: &RuleSet) -> Option<Entry> {
    message.with(|facts, body| rules.decide_publish(facts, body, NOW)).entry
}

#[test]
fn beats_are_known_by_their_headers_or_their_origin() {
    let rules = one(alone());
    let found = entry(&from(BEAT), &rules).expect("its origin matches");
    assert_eq!((&*found.origin, found.life_ms, &*found.rule.name), (BEAT, 15_000, "t"));
    for name in ["celery_beat_task", "periodic_task_name"] {
        let told = from("gen7@elsewhere").header(name, FieldValue::Bool(true));
        assert_eq!(
            entry(&told, &rules).map(|found| found.digest),
            Some(found.digest),
            "{name}: whose it is, is no part of the entry"
        );
    }
    assert!(entry(&from("gen7@elsewhere"), &rules).is_none());
    assert!(
        entry(&message("t").header("celery_beat_task", FieldValue::Bool(true)), &rules).is_none(),
        "no beat to have it"
    );
    let without = RuleSpec {
        beat_origins: vec![],
        ..alone()
    };
    assert!(entry(&from(BEAT), &one(without)).is_none(), "no pattern is not any pattern");
}

#[test]
fn what_tasks_publish_is_no_entry() {
    let rules = one(alone());
    let told = || from(BEAT).header("celery_beat_task", FieldValue::Bool(true));
    assert!(entry(&told().header("retries", FieldValue::I32(1)), &rules).is_none());
    assert!(entry(&told().header("replaced_task_nesting", FieldValue::I32(1)), &rules).is_none());
    assert!(entry(&told().header("parent_id", text("id-0")), &rules).is_none());
    assert!(entry(&told().header("parent_id", FieldValue::Void), &rules).is_some());
}

#[test]
fn an_entry_is_virtual_host_task_and_all_arguments() {
    let specs = || vec![leased(rule("t")), leased(rule("u"))];
    let rules = set(specs());
    let of = |message: &Message| entry(message, &rules).expect("an entry").digest;
    let known = of(&from(BEAT));
    assert_eq!(known, of(&from("gen8@beat-2")));
    let mut tuple = from(BEAT);
    tuple.body.args = Value::Tuple(vec![Value::Int(1)]);
    assert_eq!(known, of(&tuple), "however they are written");
    let mut elsewhere = from(BEAT);
    elsewhere.vhost = "other";
    for other in [
        from(BEAT).args(vec![Value::Int(2)]),
        from(BEAT).kwargs(vec![("a", Value::Int(1))]),
        message("u").header("origin", text(BEAT)).args(vec![Value::Int(1)]),
        elsewhere,
    ] {
        assert_ne!(known, of(&other));
    }
    let by_key = RuleSpec {
        key: KeySpec::List(vec![]),
        namespace: Some("all".to_owned()),
        ..leased(rule("t"))
    };
    assert_eq!(
        entry(&from(BEAT), &one(by_key)).expect("an entry").digest,
        known,
        "the key is another matter"
    );
    let observing = specs().into_iter().map(|spec| RuleSpec {
        mode: Mode::Observe,
        ..spec
    });
    assert_ne!(entry(&from(BEAT), &set(observing.collect())).expect("an entry").digest, known);
    assert_ne!(from(BEAT).digest(&rules), known, "an entry is no key");
}

#[test]
fn members_of_canvas_are_entries_too_and_what_is_bypassed_is_none() {
    let member = from(BEAT).header("group", text("g"));
    assert!(entry(&member, &one(leased(rule("t")))).is_some());
    let bypass = RuleSpec { bypass: true, ..alone() };
    assert!(entry(&from(BEAT), &one(bypass)).is_none());
    let allowing = RuleSpec {
        allow_overrides: vec![spec::Override::Bypass],
        ..alone()
    };
    assert!(entry(&from(BEAT).header("x-oncegate", text("bypass")), &one(allowing)).is_none());
}

#[test]
fn a_rule_may_have_nothing_else() {
    let rules = one(alone());
    let publishing = from(BEAT).with(|facts, body| rules.decide_publish(facts, body, NOW));
    assert!(matches!(publishing.verdict, Verdict::Keyless { .. }));
    assert!(matches!(from(BEAT).decide(&one(leased(rule("t")))), Verdict::Claim(_)));
}
