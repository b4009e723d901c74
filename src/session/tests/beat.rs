//! Publishes of beats: first whose entry it is, then the key.

use std::time::Duration;

use super::*;
use crate::rules::beat::Turn;

fn leased() -> RuleSpec {
    RuleSpec {
        beat_lease: Some(Duration::from_secs(15)),
        ..spec()
    }
}

fn alone() -> RuleSpec {
    RuleSpec { unique: None, ..leased() }
}

/// A publish of a beat.
fn tick(id: &str) -> Vec<u8> {
    let mut table = headers("t.unique", id);
    put_entry(&mut table, b"origin", &FieldValue::LongStr(b"gen1@a")).expect("short");
    put_entry(&mut table, b"celery_beat_task", &FieldValue::Bool(true)).expect("short");
    publish_of(&content(&table, id, BODY))
}

fn other() -> Turn {
    Turn::Other {
        origin: "gen1@b".into(),
        expires_in_ms: 1000,
    }
}

/// What was asked since the last call.
fn asked(rig: &mut Rig) -> Vec<(Ticket, String)> {
    let (asks, _) = rig.session.questions();
    asks.drain(..)
        .map(|(ticket, request)| match request {
            Request::BeatLease { origin, life_ms, .. } => (Ticket(ticket), format!("beat {origin} {life_ms}")),
            Request::Acquire { claim, .. } => (Ticket(ticket), format!("acquire {}", claim.id)),
            other => panic!("not of a publish: {other:?}"),
        })
        .collect()
}

fn only(rig: &mut Rig, wanted: &str) -> Ticket {
    let asked = asked(rig);
    assert_eq!(asked.iter().map(|(_, what)| what.as_str()).collect::<Vec<_>>(), [wanted]);
    asked[0].0
}

fn publish_tick(rig: &mut Rig, id: &str) -> Ticket {
    rig.client(&tick(id));
    only(rig, "beat gen1@a 15000")
}

fn turn(rig: &mut Rig, ticket: Ticket, turn: Turn) {
    rig.session.handle_answer(ticket, Ok(Reply::Beat(turn)), rig.now);
}

/// What was decided since the last call, with the reasons and holders.
fn decided(rig: &mut Rig) -> Vec<String> {
    let events = rig.session.events().drain(..);
    let lines = events.filter_map(|event| match event {
        Event::Publish(publish) => Some(format!(
            "{} {} {}",
            publish.decision.as_str(),
            publish.reason,
            publish.holder.as_deref().unwrap_or("-")
        )),
        _ => None,
    });
    lines.collect()
}

fn confirming(spec: RuleSpec) -> Rig {
    let mut rig = Rig::new(spec);
    rig.client(&method(1, MethodId::CONFIRM_SELECT, &[0]));
    rig.broker(&method(1, MethodId::CONFIRM_SELECT_OK, &[]));
    rig.output(Side::Broker);
    rig.output(Side::Client);
    rig
}

#[test]
fn its_own_passes_as_it_came() {
    let mut rig = Rig::new(alone());
    let ticket = publish_tick(&mut rig, "a");
    assert_eq!(rig.output(Side::Broker), b"", "nothing leaves before the answer");
    turn(&mut rig, ticket, Turn::Own);
    assert_eq!(rig.output(Side::Broker), tick("a"));
    assert_eq!(decided(&mut rig), ["forwarded keyless -"]);
    assert_eq!(rig.told(), [""; 0]);
}

#[test]
fn that_of_another_is_dropped_and_its_producer_hears_that_all_is_well() {
    let mut rig = Rig::new(alone());
    let ticket = publish_tick(&mut rig, "a");
    turn(&mut rig, ticket, other());
    assert_eq!((rig.broker_got(), rig.client_got()), (vec![], vec![]));
    assert_eq!(decided(&mut rig), ["dropped beat_lease gen1@b"]);
    for spec in [alone(), leased()] {
        let mut rig = confirming(spec);
        let first = publish_tick(&mut rig, "a");
        rig.client(&publish(1, "t.other", "x", false));
        turn(&mut rig, first, other());
        assert_eq!(rig.broker_got(), ["basic.publish x"]);
        rig.broker(&ack(1, 1, false));
        assert_eq!(rig.client_got(), ["basic.ack 1", "basic.ack 2"]);
        assert_eq!(asked(&mut rig), [], "the key is not asked for");
        assert_eq!(rig.told(), [""; 0]);
    }
}

#[test]
fn the_key_is_asked_for_after_the_entry_and_the_turn_is_kept() {
    let mut rig = Rig::new(leased());
    let first = publish_tick(&mut rig, "a");
    rig.client(&publish(1, "t.other", "x", false));
    let second = publish_tick(&mut rig, "b");
    turn(&mut rig, second, Turn::Own);
    assert_eq!(only(&mut rig, "acquire b"), second);
    rig.answer(second, Acquired::Taken);
    assert_eq!(rig.broker_got(), [""; 0], "the first waits");
    turn(&mut rig, first, Turn::Own);
    assert_eq!(only(&mut rig, "acquire a"), first);
    rig.answer(first, held("z"));
    assert_eq!(rig.broker_got(), ["basic.publish x", "confirm.select", "basic.publish mandatory b"]);
    assert_eq!(decided(&mut rig), ["forwarded acquired -", "dropped duplicate z"]);
}

#[test]
fn a_silent_store_means_what_the_rule_says() {
    for spec in [alone(), leased()] {
        let mut rig = Rig::new(spec);
        let ticket = publish_tick(&mut rig, "a");
        rig.silence(ticket);
        assert!(rig.broker_got().last().is_some_and(|line| line.ends_with(" a")), "it is forwarded");
        assert_eq!(decided(&mut rig), ["forwarded_unchecked store_timeout -"]);
        assert_eq!(asked(&mut rig), []);
    }
    for spec in [alone(), leased()] {
        let mut rig = confirming(RuleSpec {
            on_store_error: OnStoreError::Reject,
            ..spec
        });
        let ticket = publish_tick(&mut rig, "a");
        rig.silence(ticket);
        assert_eq!((rig.broker_got(), rig.client_got()), (vec![], vec!["basic.nack 1".to_owned()]));
        assert_eq!(decided(&mut rig), ["rejected store_timeout -"]);
    }
}

#[test]
fn where_the_rule_waits_the_same_question_is_asked_again() {
    for spec in [alone(), leased()] {
        let waiting = RuleSpec {
            on_store_error: OnStoreError::Wait,
            store_wait: Duration::from_secs(1),
            ..spec
        };
        let mut rig = Rig::new(waiting.clone());
        let ticket = publish_tick(&mut rig, "a");
        rig.silence(ticket);
        assert_eq!(rig.broker_got(), [""; 0]);
        rig.later(200_000);
        assert_eq!(only(&mut rig, "beat gen1@a 15000"), ticket);
        turn(&mut rig, ticket, other());
        assert_eq!(decided(&mut rig), ["dropped beat_lease gen1@b"]);

        let mut rig = Rig::new(waiting);
        let ticket = publish_tick(&mut rig, "a");
        rig.silence(ticket);
        rig.later(1_100_000);
        assert!(rig.broker_got().last().is_some_and(|line| line.ends_with(" a")));
        assert_eq!(decided(&mut rig), ["forwarded_unchecked store_wait -"]);
    }
}

#[test]
fn at_the_bound_on_memory_it_goes_unchecked() {
    let settings = Settings {
        connection_memory: 0,
        ..Settings::default()
    };
    let mut rig = Rig::with(alone(), settings);
    rig.client(&tick("a"));
    assert_eq!(rig.broker_got(), ["basic.publish a"]);
    assert_eq!(decided(&mut rig), ["forwarded_unchecked memory -"]);
    let ticket = only(&mut rig, "beat gen1@a 15000");
    turn(&mut rig, ticket, other());
    assert_eq!((rig.broker_got(), decided(&mut rig)), (vec![], vec![]), "the answer comes too late");
}

#[test]
fn what_is_lost_with_its_channel_claims_nothing() {
    for spec in [alone(), leased()] {
        let mut rig = Rig::new(spec);
        let ticket = publish_tick(&mut rig, "a");
        rig.broker(&method(1, MethodId::CHANNEL_CLOSE, &[1, 148, 0, 0, 0, 0, 0]));
        assert_eq!(*rig.session.cancelled(), [ticket]);
        turn(&mut rig, ticket, Turn::Own);
        assert_eq!(asked(&mut rig), []);
        assert_eq!(rig.told(), [""; 0]);
        assert_eq!(rig.session.held_bytes(), 0);
    }
}

#[test]
fn what_passes_without_a_key_is_told_once_it_passes() {
    let unkeyable = RuleSpec {
        key: crate::rules::spec::Key::List(vec!["args[3]".to_owned()]),
        ..leased()
    };
    let mut rig = Rig::new(unkeyable);
    let told = |rig: &mut Rig| {
        rig.session
            .events()
            .drain(..)
            .map(|event| matches!(event, Event::Unkeyable { .. }))
            .collect::<Vec<_>>()
    };
    let ticket = publish_tick(&mut rig, "a");
    assert_eq!(told(&mut rig), [false; 0]);
    turn(&mut rig, ticket, Turn::Own);
    assert_eq!(told(&mut rig), [true]);
    let ticket = publish_tick(&mut rig, "b");
    turn(&mut rig, ticket, other());
    assert_eq!(told(&mut rig), [false], "only that it is dropped");
    assert_eq!(rig.broker_got(), ["basic.publish a"]);
}

#[test]
fn an_observing_rule_lets_it_pass_and_counts() {
    let observing = |spec| RuleSpec {
        mode: Mode::Observe,
        ..spec
    };
    for (answer, wanted) in [(Turn::Own, "forwarded keyless -"), (other(), "dropped beat_lease gen1@b")] {
        let mut rig = Rig::new(observing(alone()));
        let ticket = publish_tick(&mut rig, "a");
        assert_eq!(rig.output(Side::Broker), tick("a"), "at once");
        turn(&mut rig, ticket, answer);
        assert_eq!(decided(&mut rig), [wanted]);
    }
    let mut rig = Rig::new(observing(leased()));
    let ticket = publish_tick(&mut rig, "a");
    assert_eq!(rig.output(Side::Broker), tick("a"));
    turn(&mut rig, ticket, Turn::Own);
    assert_eq!(only(&mut rig, "acquire a"), ticket);
    assert_eq!(rig.told(), ["commit a"]);
    rig.answer(ticket, Acquired::Taken);
    assert_eq!(decided(&mut rig), ["forwarded acquired -"]);
    let ticket = publish_tick(&mut rig, "b");
    turn(&mut rig, ticket, other());
    assert_eq!((asked(&mut rig), rig.told()), (vec![], vec![]), "it would not have come to its key");
    let ticket = publish_tick(&mut rig, "c");
    rig.silence(ticket);
    assert_eq!(
        decided(&mut rig),
        ["dropped beat_lease gen1@b", "forwarded_unchecked store_timeout -"]
    );
}

#[test]
fn other_publishes_are_not_asked_about() {
    let mut rig = Rig::new(alone());
    rig.client(&publish(1, "t.unique", "a", false));
    assert_eq!(asked(&mut rig), []);
    assert_eq!(rig.broker_got(), ["basic.publish a"]);
    assert_eq!(decided(&mut rig), ["forwarded keyless -"]);
}
