//! Publishes that take their key over from an older one, and what becomes of that one at its delivery.

use super::admit::worker_of;
use super::*;
use crate::rules::lock::IfHeld;
use crate::rules::outcome::DeliveryDecision;
use crate::rules::running::Ran;
use crate::rules::spec::OnDuplicate;

fn replacing() -> RuleSpec {
    RuleSpec {
        on_duplicate: OnDuplicate::Replace,
        ..spec()
    }
}

fn replaces(holder: &str) -> Acquired {
    Acquired::Replaces { holder: holder.into() }
}

/// The decisions since the last call, with reason and holder.
fn decided(rig: &mut Rig) -> Vec<(PublishDecision, &'static str, Option<String>)> {
    let events = rig.session.events().drain(..);
    events
        .filter_map(|event| match event {
            Event::Publish(publish) => Some((publish.decision, publish.reason, publish.holder.map(|holder| holder.to_string()))),
            _ => None,
        })
        .collect()
}

#[test]
fn the_question_says_that_it_replaces() {
    for (spec, wanted) in [(replacing(), IfHeld::Replace), (spec(), IfHeld::Yield)] {
        let mut rig = Rig::new(spec);
        rig.client(&publish(1, "t.unique", "b", false));
        let (asks, _) = rig.session.questions();
        let [(_, Request::Acquire { note, .. })] = asks.as_slice() else {
            panic!("not a question: {asks:?}")
        };
        assert_eq!(note.if_held, wanted);
    }
}

#[test]
fn one_that_replaces_goes_out_and_is_committed() {
    let mut rig = Rig::new(replacing());
    let b = rig.publish_asked("b");
    rig.answer(b, replaces("a"));
    assert_eq!(rig.broker_got(), ["confirm.select", "basic.publish mandatory b"]);
    assert_eq!(decided(&mut rig), [(PublishDecision::Replaced, "replaces", Some("a".to_owned()))]);
    rig.broker(&method(1, MethodId::CONFIRM_SELECT_OK, &[]));
    rig.broker(&ack(1, 1, false));
    assert_eq!(rig.told(), ["commit b"]);
}

#[test]
fn one_that_replaces_and_fails_gives_the_lock_back() {
    let mut rig = Rig::new(replacing());
    let b = rig.publish_asked("b");
    rig.answer(b, replaces("a"));
    rig.broker(&method(1, MethodId::CONFIRM_SELECT_OK, &[]));
    rig.broker(&returned(1, "b"));
    rig.broker(&ack(1, 1, false));
    assert_eq!(rig.told(), ["unpublish b returned"]);
}

#[test]
fn one_whose_client_is_gone_before_the_answer_gives_the_lock_back() {
    let mut rig = Rig::new(replacing());
    rig.client(&method(1, MethodId::CONFIRM_SELECT, &[1]));
    let b = rig.publish_asked("b");
    rig.broker(&method(1, MethodId::CHANNEL_CLOSE, &[0; 7]));
    rig.answer(b, replaces("a"));
    assert_eq!(rig.told(), ["unpublish b unconfirmed"]);
}

#[test]
fn one_that_is_outrun_goes_out_without_a_lock() {
    let mut rig = Rig::new(replacing());
    let b = rig.publish_asked("b");
    rig.answer(b, leased("a"));
    assert_eq!(rig.broker_got(), [""; 0]);
    rig.answer(b, Acquired::Outrun { holder: "c".into() });
    assert_eq!(rig.broker_got(), ["basic.publish b"]);
    assert_eq!(
        decided(&mut rig),
        [(PublishDecision::Forwarded, "superseded", Some("c".to_owned()))]
    );
    rig.later(5_000_000);
    assert!(rig.told().is_empty(), "it has nothing to renew or commit");
}

#[test]
fn one_that_finds_its_key_running_is_dropped() {
    let mut rig = Rig::new(replacing());
    let b = rig.publish_asked("b");
    rig.answer(b, held("a"));
    assert_eq!(rig.broker_got(), [""; 0]);
    assert_eq!(rig.decisions(), [PublishDecision::Dropped]);
}

#[test]
fn an_observing_rule_counts_what_it_would_replace() {
    let mut rig = Rig::new(RuleSpec {
        mode: Mode::Observe,
        ..replacing()
    });
    for answer in [replaces("a"), leased("a")] {
        let b = rig.publish_asked("b");
        rig.answer(b, answer);
        assert_eq!(decided(&mut rig), [(PublishDecision::Replaced, "replaces", Some("a".to_owned()))]);
        assert_eq!(rig.broker_got(), ["basic.publish b"]);
    }
}

#[test]
fn an_older_one_waits_at_its_delivery_until_the_newer_is_safe_and_is_killed() {
    let mut rig = worker_of(replacing());
    let mut wait = |answers: Vec<Admitted>| {
        let mut ticket = rig.delivery_asked(1, "a");
        let last = answers.len() - 1;
        for (at, answer) in answers.into_iter().enumerate() {
            assert_eq!(rig.client_got(), [""; 0]);
            rig.admit(ticket, answer);
            if at < last {
                rig.later(100_000);
                ticket = rig.admissions()[0].0;
            }
        }
        rig.admitted()
    };
    let newer = || Admitted::Leased { holder: "b".into() };
    let killed = wait(vec![newer(), newer(), Admitted::Superseded]);
    assert_eq!(killed, [(DeliveryDecision::Superseded, "superseded")]);
}

#[test]
fn a_delivery_that_waits_for_a_run_is_killed_when_it_hears_that_it_is_superseded() {
    let mut rig = super::hold::worker_with(
        RuleSpec {
            unique: Some(Unique::WhileRunning),
            ..spec()
        },
        Settings::default(),
    );
    rig.waits(1, "a");
    rig.client_got();
    rig.later(1_000_000);
    let asked = rig.runs_asked();
    rig.ran(asked[0].0, Ran::Superseded);
    // The test's message has no time that could be set into the past.
    assert_eq!(rig.client_got(), [""; 0]);
    assert!(rig.broker_got().contains(&"basic.ack 1".to_owned()));
}

#[test]
fn a_lock_is_renewed_shortly_before_the_time_of_a_delivery_that_may_be_replaced() {
    for (spec, wanted) in [(replacing(), 1), (spec(), 0)] {
        let mut rig = worker_of(spec);
        // Ten seconds after the rig's time.
        let eta = FieldValue::LongStr(b"2027-01-15T08:00:10+00:00");
        rig.broker(&super::admit::delivery_with(1, "a", false, &[("eta", eta)]));
        let ticket = rig.admissions()[0].0;
        rig.admit(ticket, Admitted::Holds);
        rig.lives(7_500_000);
        assert_eq!(rig.told(), [""; 0]);
        rig.lives(1_000_000);
        assert_eq!(rig.told().len(), wanted);
        rig.lives(5_000_000);
        assert_eq!(rig.told(), [""; 0], "once");
    }
}

/// A worker's connection, its mailbox consumed.
fn mailbox() -> Rig {
    let settings = Settings {
        enable_events: crate::rules::spec::EnableEvents::False,
        ..Settings::default()
    };
    let mut rig = Rig::with(replacing(), settings);
    rig.client(&consume_mailbox());
    rig.broker(&method(1, MethodId::BASIC_CONSUME_OK, b"\x02t1"));
    rig.client_got();
    rig.output(Side::Broker);
    rig
}

#[test]
fn a_revoke_is_put_into_the_mailbox_and_wants_no_answer() {
    let mut rig = mailbox();
    let ids: Vec<Arc<str>> = vec!["a".into(), "b".into()];
    rig.session.handle_revoke("w@one", &ids, rig.now);
    let frames = rig.output(Side::Client);
    assert_eq!(lines(&frames), ["basic.deliver "]);
    let text = String::from_utf8_lossy(&frames);
    for part in [r#""method":"revoke""#, r#""destination":["w@one"]"#, r#""task_id":["a","b"]"#] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("routing_key"), "{text}");
    assert_eq!(rig.broker_got(), [""; 0]);
    rig.session.handle_revoke("w@two", &ids, rig.now);
    assert_eq!(rig.client_got(), [""; 0], "another worker");
}
