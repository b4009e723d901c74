//! What is heard of tasks beside the settlements of the session's own deliveries.

use super::*;
use crate::rules::spec::{AcksLate, EnableEvents};

fn json() -> Properties<'static> {
    Properties {
        content_type: Some(b"application/json"),
        content_encoding: Some(b"utf-8"),
        ..Properties::default()
    }
}

fn result(id: &str) -> Properties<'_> {
    Properties {
        correlation_id: Some(id.as_bytes()),
        ..json()
    }
}

fn spec_of(unique: Unique) -> RuleSpec {
    RuleSpec {
        unique: Some(unique),
        ..spec()
    }
}

/// What a session with such a rule tells the store about a publish, which passes as it came.
fn heard_by(spec: RuleSpec, frames: &[u8]) -> Vec<String> {
    let mut rig = Rig::new(spec);
    rig.client(frames);
    assert_eq!(rig.output(Side::Broker), frames, "it passes as it came");
    assert_eq!(rig.asked(), []);
    rig.told()
}

fn heard(frames: &[u8]) -> Vec<String> {
    heard_by(spec(), frames)
}

const EVENTS: &str = r#"[
    {"type": "task-received", "uuid": "a", "hostname": "w@one"}, {"type": "task-started", "uuid": "a", "hostname": "w@one"},
    {"type": "task-succeeded", "uuid": "a", "hostname": "w@one"}, {"type": "task-failed", "uuid": "b", "hostname": "w@one"},
    {"type": "task-retried", "uuid": "c", "hostname": "w@one"}, {"type": "task-rejected", "uuid": "d", "hostname": "w@one", "requeue": true},
    {"type": "task-revoked", "uuid": "e", "hostname": "w@one", "expired": true}, {"type": "task-cancelled", "uuid": "g", "hostname": "w@one"},
    {"type": "task-revoked", "uuid": "f", "hostname": "w@one", "expired": false, "terminated": true}]"#;

#[test]
fn events_are_signals() {
    let told = heard(&message("celeryev", "task.multi", json(), EVENTS));
    let wanted = [
        "signal a Started",
        "signal a Succeeded",
        "signal b Failed",
        "signal c Retried",
        "signal e Expired",
        "signal f Revoked",
    ];
    assert_eq!(told, wanted);
}

#[test]
fn a_signal_names_the_worker_of_its_event() {
    let mut rig = Rig::new(spec());
    rig.client(&message("celeryev", "task.multi", json(), EVENTS));
    let (_, tells) = rig.session.questions();
    for tell in tells.drain(..) {
        assert!(matches!(&tell, Request::Signal { worker, .. } if **worker == *"w@one"), "{tell:?}");
    }
}

#[test]
fn events_that_cannot_be_read_pass() {
    for body in ["", "[", "{}", "[1, 2]", r#"{"type": "task-started"}"#] {
        assert_eq!(heard(&message("celeryev", "task.multi", json(), body)), [""; 0], "{body}");
    }
    let other = message("shop", "task.multi", json(), EVENTS);
    assert_eq!(heard(&other), [""; 0], "another exchange");
}

#[test]
fn rpc_results_are_signals() {
    let states = [
        ("SUCCESS", vec!["signal a Succeeded"]),
        ("FAILURE", vec!["signal a Failed"]),
        ("RETRY", vec!["signal a Retried"]),
        ("STARTED", vec!["signal a Started"]),
        ("REVOKED", vec!["signal a RevokeAsked"]),
        ("PROGRESS", vec![]),
    ];
    for (state, wanted) in states {
        let body = format!(r#"{{"task_id": "a", "status": "{state}", "result": 3, "traceback": null, "children": []}}"#);
        assert_eq!(heard(&message("", "reply-queue", result("a"), &body)), wanted, "{state}");
    }
}

#[test]
fn a_revoke_on_its_way_is_a_signal() {
    let body = r#"{"method": "revoke", "arguments": {"task_id": ["a", "b"], "terminate": false}, "destination": null}"#;
    let revoke = message("celery.pidbox", "", json(), body);
    assert_eq!(heard(&revoke), ["signal a RevokeAsked", "signal b RevokeAsked"]);
    let ping = message("celery.pidbox", "", json(), r#"{"method": "ping", "arguments": {}}"#);
    assert_eq!(heard(&ping), [""; 0]);
}

#[test]
fn nothing_is_heard_where_no_lock_follows_tasks() {
    let events = message("celeryev", "task.multi", json(), EVENTS);
    assert_eq!(heard_by(spec_of(Unique::UntilExpired), &events), [""; 0]);
}

#[test]
fn a_task_of_protocol_1_is_no_result() {
    let mut rig = Rig::new(spec());
    let body = r#"{"task": "t.unique", "id": "a", "args": [1], "kwargs": {}}"#;
    rig.client(&message("", "q", result("a"), body));
    assert_eq!(rig.asked().len(), 1);
}

fn consume_ok() -> Vec<u8> {
    method(1, MethodId::BASIC_CONSUME_OK, b"\x02t1")
}

#[test]
fn a_worker_is_told_to_publish_events_when_its_mailbox_is_there() {
    let mut rig = Rig::new(spec());
    rig.client(&consume_mailbox());
    assert_eq!(rig.client_got(), [""; 0], "the broker has not answered");
    rig.broker(&consume_ok());
    let frames = rig.output(Side::Client);
    assert_eq!(lines(&frames), ["basic.consume-ok", "basic.deliver "]);
    let text = String::from_utf8_lossy(&frames);
    assert!(text.contains(r#""method":"enable_events""#), "{text}");
    assert!(text.contains(r#""destination":["w@one"]"#), "{text}");
    rig.session.handle_rules(rules(spec()));
    assert_eq!(rig.client_got(), [""; 0], "once");
}

fn rules(spec: RuleSpec) -> Arc<RuleSet> {
    Arc::new(RuleSet::compile(vec![spec], &[]).expect("the rule is right"))
}

/// Whether a worker is told to publish events.
fn told_to_publish_events(spec: RuleSpec, enable_events: EnableEvents) -> bool {
    let settings = Settings {
        enable_events,
        ..Settings::default()
    };
    let mut rig = Rig::with(spec, settings);
    rig.client(&consume_mailbox());
    rig.broker(&consume_ok());
    rig.client_got().len() == 2
}

#[test]
fn events_are_asked_for_where_a_rule_needs_them() {
    let early = RuleSpec {
        acks_late: AcksLate::False,
        ..spec_of(Unique::UntilStarted)
    };
    let observing = RuleSpec {
        mode: Mode::Observe,
        ..spec()
    };
    let cases = [
        (spec_of(Unique::UntilFinished), true),
        (spec_of(Unique::UntilStarted), true),
        (early, false),
        (spec_of(Unique::UntilExpired), false),
        (observing, false),
    ];
    for (spec, needed) in cases {
        assert_eq!(told_to_publish_events(spec.clone(), EnableEvents::Auto), needed, "{spec:?}");
        assert!(told_to_publish_events(spec.clone(), EnableEvents::True));
        assert!(!told_to_publish_events(spec, EnableEvents::False));
    }
}

#[test]
fn rules_that_come_later_are_told_later_and_not_inside_a_content() {
    let mut rig = Rig::new(spec_of(Unique::UntilExpired));
    rig.client(&consume_mailbox());
    rig.broker(&consume_ok());
    assert_eq!(rig.client_got(), ["basic.consume-ok"]);
    let delivery = deliver(1, "t1", 1, "t.other", "x");
    let (head, tail) = delivery.split_at(delivery.len() - 20);
    rig.broker(head);
    rig.session.handle_rules(rules(spec()));
    rig.broker(tail);
    assert_eq!(rig.client_got(), ["basic.deliver x", "basic.deliver "]);
}

#[test]
fn the_acks_of_a_worker_name_it() {
    let mut rig = Rig::new(spec());
    rig.client(&consume_mailbox());
    rig.broker(&consume_ok());
    rig.client(&consume(1, "c", false));
    rig.broker(&deliver(1, "c", 1, "t.unique", "a"));
    rig.client(&ack(1, 1, false));
    let (_, tells) = rig.session.questions();
    assert!(
        matches!(tells.as_slice(), [Request::Signal { worker, signal: Signal::Acked, .. }] if **worker == *"w@one"),
        "{tells:?}"
    );
}
