//! A lease is renewed at each third of it while its publish is on its way: a lease lapses only with its proxy.

use super::*;

/// A third of a lease of 10 s, rounded up.
const THIRD_US: u64 = 3_333_334;

/// A publish of a large message that concerns no rule, without the end of its body.
fn unfinished() -> (Vec<u8>, Vec<u8>) {
    let whole = publish(1, "t.other", "x", false);
    let (head, tail) = whole.split_at(whole.len() - BODY.len() - frame::OVERHEAD);
    (head.to_vec(), tail.to_vec())
}

#[test]
fn the_lease_is_renewed_while_the_broker_is_silent() {
    let mut rig = Rig::new(spec());
    let a = rig.publish_asked("a");
    rig.answer(a, Acquired::Taken);
    rig.later(3_000_000);
    assert_eq!(rig.told(), [""; 0]);
    rig.later(400_000);
    assert_eq!(rig.told(), ["renew a"]);
    rig.later(3_400_000);
    assert_eq!(rig.told(), ["renew a"]);
    rig.broker(&ack(1, 1, false));
    assert_eq!(rig.told(), ["commit a"]);
    rig.later(3_400_000);
    assert_eq!(rig.told(), [""; 0]);
}

#[test]
fn the_lease_of_a_returned_message_is_not_renewed() {
    let mut rig = Rig::new(spec());
    let a = rig.publish_asked("a");
    rig.answer(a, Acquired::Taken);
    rig.broker(&returned(1, "a"));
    assert_eq!(rig.told(), ["unpublish a returned"]);
    rig.later(4_000_000);
    assert_eq!(rig.told(), [""; 0]);
}

#[test]
fn the_lease_is_renewed_while_its_publish_waits_for_its_turn() {
    let mut rig = Rig::new(spec());
    let a = rig.publish_asked("a");
    let b = rig.publish_asked("b");
    rig.answer(b, Acquired::Taken);
    rig.later(THIRD_US - 100);
    assert_eq!(rig.told(), [""; 0]);
    rig.later(100);
    assert_eq!(rig.told(), ["renew b"]);
    rig.later(THIRD_US);
    assert_eq!(rig.told(), ["renew b"]);
    rig.later(2_000_000);
    rig.answer(a, held("z"));
    assert_eq!(rig.broker_got().last().map(String::as_str), Some("basic.publish mandatory b"));
    rig.later(1_300_000);
    assert_eq!(rig.told(), [""; 0]);
    rig.later(100_000);
    assert_eq!(rig.told(), ["renew b"], "as due as before it was sent");
    rig.broker(&ack(1, 1, false));
    assert_eq!(rig.told(), ["commit b"]);
    rig.later(3 * THIRD_US);
    assert_eq!(rig.told(), [""; 0]);
}

#[test]
fn the_lease_is_renewed_while_its_publish_waits_for_the_end_of_a_content() {
    let (head, tail) = unfinished();
    let mut rig = Rig::new(spec());
    let b = rig.publish_asked("b");
    let c = rig.publish_asked("c");
    rig.answer(b, leased("a"));
    rig.answer(c, leased("a"));
    rig.client(&head);
    rig.answer(b, Acquired::Taken);
    rig.later(1_000_000);
    rig.answer(c, Acquired::Taken);
    rig.broker_got();
    rig.later(THIRD_US - 1_000_000);
    assert_eq!(rig.told(), ["renew b"]);
    rig.later(1_000_000);
    assert_eq!(rig.told(), ["renew c"]);
    rig.client(&tail);
    rig.later(THIRD_US - 1_000_000);
    assert_eq!(rig.told(), ["renew b"]);
    rig.broker(&ack(1, 2, true));
    assert_eq!(rig.told(), ["commit b", "commit c"], "x went before anybody counted");
    rig.later(3 * THIRD_US);
    assert_eq!(rig.told(), [""; 0]);
}

#[test]
fn the_lease_of_an_observed_publish_that_waits_for_its_turn_is_renewed() {
    let watched = RuleSpec {
        name: Some("watched".to_owned()),
        task: vec!["t.watched".to_owned()],
        mode: Mode::Observe,
        ..spec()
    };
    let rules = RuleSet::compile(vec![spec(), watched], &[]).expect("the rules are right");
    let mut rig = Rig::new(spec());
    rig.session.handle_rules(Arc::new(rules));
    rig.publish_asked("a");
    rig.client(&publish(1, "t.watched", "b", false));
    assert_eq!(rig.broker_got(), [""; 0]);
    rig.later(THIRD_US);
    assert_eq!(rig.told(), ["renew b"]);
}

#[test]
fn each_lease_is_renewed_when_it_is_due_and_no_other() {
    let short = RuleSpec {
        name: Some("short".to_owned()),
        task: vec!["t.short".to_owned()],
        lease: std::time::Duration::from_secs(3),
        ..spec()
    };
    let rules = RuleSet::compile(vec![spec(), short], &[]).expect("the rules are right");
    let mut rig = Rig::new(spec());
    rig.session.handle_rules(Arc::new(rules));
    let started = rig.now.us;
    for number in 0..300 {
        let task = if number % 3 == 0 { "t.short" } else { "t.unique" };
        rig.client(&publish(1, task, &format!("{number}"), false));
        let (ticket, _) = rig.asked().remove(0);
        rig.answer(ticket, Acquired::Taken);
        rig.later(1_000);
    }
    rig.broker(&method(0, MethodId::CONNECTION_BLOCKED, b"\x06memory"));
    // Every second one is confirmed, out of order: the broker has spoken on it.
    for number in (0..300).rev().filter(|number| number % 2 == 1) {
        rig.broker(&ack(1, number + 1, false));
    }
    rig.told();
    let mut renewed = Vec::new();
    while rig.now.us < started + 10_000_000 {
        rig.now.us = rig.session.poll_timeout();
        rig.session.handle_timeout(rig.now);
        let at = rig.now.us - started;
        renewed.extend(rig.told().into_iter().map(|order| (order, at)));
    }
    let mut expected = Vec::new();
    for number in (0..300).step_by(2) {
        let third = if number % 3 == 0 { 1_000_000 } else { 10_000_000 / 3 };
        let due = (1..).map(|round| number * 1_000 + round * third);
        expected.extend(due.take_while(|at| *at < 10_000_000).map(|at| (format!("renew {number}"), at)));
    }
    let late = |entries: &mut Vec<(String, u64)>| {
        entries.retain(|(_, at)| *at < 9_900_000);
        entries.sort();
    };
    late(&mut renewed);
    late(&mut expected);
    assert_eq!(renewed, expected);
}

#[test]
fn what_the_broker_has_spoken_on_is_not_remembered() {
    let mut rig = Rig::new(spec());
    let first = rig.publish_asked("first");
    rig.answer(first, Acquired::Taken);
    for number in 2..5_000 {
        let ticket = rig.publish_asked("other");
        rig.answer(ticket, Acquired::Taken);
        rig.broker(&ack(1, number, false));
    }
    let remembered = |rig: &mut Rig| rig.session.channels.get_mut(1).map(|channel| channel.agenda.remembered());
    assert!(remembered(&mut rig).is_some_and(|entries| entries < 100), "one publish is open");
    rig.broker(&ack(1, 1, false));
    rig.later(THIRD_US);
    assert_eq!(remembered(&mut rig), Some(0), "an idle channel holds no memory");
}
