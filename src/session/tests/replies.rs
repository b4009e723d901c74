//! Where results are published to the callers of Celery's RPC backend.

use super::*;
use crate::rules::owed::{Callers, Outcome, Owed, ReplyTo, Told, Via};
use crate::rules::spec::ResultMode;

fn telling(result: ResultMode, vhost: &str, to: Callers) -> Rig {
    let rules = RuleSet::compile(vec![RuleSpec { result, ..spec() }], &[]).expect("the rule is right");
    let vhosts = [Arc::from(vhost)].into();
    Rig::under(rules.telling(Told::Published { vhosts, to }), Settings::default())
}

fn called<'a>(table: &'a [u8], correlation_id: &'a str, reply_to: &'a str) -> Content<'a> {
    let mut content = content(table, correlation_id, BODY);
    content.properties.reply_to = (!reply_to.is_empty()).then_some(reply_to.as_bytes());
    content
}

/// What the store is told that the id `b` is owed, published with these properties.
fn owed(rig: &mut Rig, correlation_id: &str, reply_to: &str) -> Owed {
    let table = headers("t.unique", "b");
    let frames = publish_of(&called(&table, correlation_id, reply_to));
    rig.client(&frames);
    let (asks, _) = rig.session.questions();
    match asks.pop() {
        Some((_, Request::Acquire { note, .. })) => note.owed.clone(),
        other => panic!("{other:?}"),
    }
}

/// The caller's queue is declared as Celery's RPC backend does it; `bits`: 8 for one that goes with its last consumer.
fn declares(rig: &mut Rig, queue: &str, bits: u8) {
    let name = [&[queue.len() as u8], queue.as_bytes()].concat();
    rig.client(&method(
        1,
        MethodId::QUEUE_DECLARE,
        &[&[0, 0], &*name, &[bits, 0, 0, 0, 0]].concat(),
    ));
    rig.broker(&method(1, MethodId::QUEUE_DECLARE_OK, &[&*name, &[0; 8]].concat()));
}

fn joins(queue: &str, correlation_id: Option<&str>) -> Owed {
    Owed::Joined(Via::Reply(Arc::new(ReplyTo {
        vhost: "/".into(),
        queue: queue.into(),
        correlation_id: correlation_id.map(Into::into),
    })))
}

#[test]
fn a_caller_is_told_where_it_waits() {
    let mut rig = telling(ResultMode::Join, "/", Callers::All);
    assert_eq!(owed(&mut rig, "b", "q1"), joins("q1", None));
    assert_eq!(owed(&mut rig, "c", "q1"), joins("q1", Some("c")));
    assert_eq!(owed(&mut rig, "b", ""), Owed::Nothing);
    let mut rig = telling(ResultMode::None, "/", Callers::All);
    assert_eq!(owed(&mut rig, "b", "q1"), Owed::Nothing);
}

#[test]
fn without_an_account_for_the_virtual_host_nothing_is_owed() {
    let mut rig = telling(ResultMode::Join, "shop", Callers::All);
    assert_eq!(owed(&mut rig, "b", "q1"), Owed::Nothing);
}

#[test]
fn a_caller_that_has_not_declared_its_queue_uses_another_backend() {
    let mut rig = telling(ResultMode::Join, "/", Callers::Declaring);
    assert_eq!(owed(&mut rig, "b", "q1"), Owed::Nothing);
    declares(&mut rig, "q2", 8);
    declares(&mut rig, "q3", 0);
    assert_eq!(owed(&mut rig, "b", "q1"), Owed::Nothing);
    assert_eq!(owed(&mut rig, "b", "q2"), joins("q2", None));
    // That one lasts: it is not declared for results.
    assert_eq!(owed(&mut rig, "b", "q3"), Owed::Nothing);
    // Only so many are remembered.
    for number in 0..1_000 {
        declares(&mut rig, &format!("queue-{number}"), 8);
    }
    assert_eq!(owed(&mut rig, "b", "q2"), Owed::Nothing);
    assert_eq!(owed(&mut rig, "b", "queue-0"), joins("queue-0", None));
    declares(&mut rig, "q2", 8);
    assert_eq!(owed(&mut rig, "b", "q2"), joins("q2", None));
}

#[test]
fn of_a_delivery_it_shows_later_whether_anybody_waits() {
    let rules = RuleSet::compile(vec![spec()], &[]).expect("the rule is right");
    let told = Told::Published {
        vhosts: [Arc::from("/")].into(),
        to: Callers::Declaring,
    };
    let mut rig = Rig::under(rules.telling(told), Settings::default());
    rig.admits_all = false;
    rig.consumes(1, "c", false);
    let table = headers("t.unique", "b");
    let frames = delivery_of(1, false, &called(&table, "b", "q1"));
    rig.broker(&frames);
    let (asks, _) = rig.session.questions();
    match asks.pop() {
        Some((_, Request::Admit { note, .. })) => assert_eq!(note.owed, joins("q1", None)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_needs_no_other_result_is_owed_at_once() {
    let mut rig = telling(ResultMode::Revoke, "/", Callers::All);
    let table = headers("t.unique", "b");
    let frames = publish_of(&called(&table, "b", "q1"));
    rig.client(&frames);
    let ticket = rig.asked()[0].0;
    rig.answer(ticket, held("a"));
    let events = std::mem::take(rig.session.events());
    let debts = events.into_iter().filter_map(|event| match event {
        Event::Owed(debt) => Some(debt),
        _ => None,
    });
    let debts: Vec<_> = debts.collect();
    assert_eq!(debts.len(), 1);
    assert_eq!(debts[0].outcome, Outcome::Revoked);
    assert_eq!(debts[0].via.reply_to().map(|to| &*to.queue), Some("q1"));
}

/// What is told of a result of `a` that a worker publishes.
fn told(rig: &mut Rig, properties: Properties<'_>, body: &str) -> Vec<String> {
    let properties = Properties {
        correlation_id: Some(b"a"),
        ..properties
    };
    rig.client(&message("", "reply-queue", properties, body));
    rig.told()
}

fn json() -> Properties<'static> {
    Properties {
        content_type: Some(b"application/json"),
        content_encoding: Some(b"utf-8"),
        ..Properties::default()
    }
}

fn body(status: &str, result: &str) -> String {
    format!(r#"{{"task_id": "a", "status": "{status}", "result": "{result}", "traceback": null, "children": []}}"#)
}

#[test]
fn results_are_told_before_what_they_end() {
    let mut rig = telling(ResultMode::Join, "/", Callers::Declaring);
    for (status, expected) in [
        ("SUCCESS", &["result a Final", "signal a Succeeded"][..]),
        ("FAILURE", &["result a Final", "signal a Failed"]),
        ("REVOKED", &["result a Provisional", "signal a RevokeAsked"]),
        ("STARTED", &["signal a Started"]),
        ("RETRY", &["signal a Retried"]),
        ("PROGRESS", &[]),
    ] {
        assert_eq!(told(&mut rig, json(), &body(status, "x")), expected, "{status}");
    }
    // 64 KiB in all, and only what can be passed on.
    let most = "x".repeat((64 << 10) - body("SUCCESS", "").len());
    assert_eq!(told(&mut rig, json(), &body("SUCCESS", &most))[0], "result a Final");
    assert_eq!(told(&mut rig, json(), &body("SUCCESS", &(most + "x"))), ["signal a Succeeded"]);
    let yaml = Properties {
        content_type: Some(b"application/x-yaml"),
        ..json()
    };
    assert_eq!(
        told(&mut rig, yaml, "{status: SUCCESS, task_id: a, result: 1}"),
        ["signal a Succeeded"]
    );
}

#[test]
fn results_are_not_told_where_nobody_can_get_them() {
    let mut rig = telling(ResultMode::Revoke, "/", Callers::All);
    assert_eq!(told(&mut rig, json(), &body("SUCCESS", "x")), ["signal a Succeeded"]);
    let mut rig = Rig::new(spec());
    assert_eq!(told(&mut rig, json(), &body("SUCCESS", "x")), ["signal a Succeeded"]);
}
