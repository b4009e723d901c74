//! What the ids of dropped tasks are owed.

use super::admit::{held_by, worker_of};
use super::*;
use crate::rules::owed::{Outcome, Owed, Via};
use crate::rules::spec::{OnDuplicate, ResultMode};

fn rule(result: ResultMode) -> RuleSpec {
    RuleSpec { result, ..spec() }
}

impl Rig {
    /// The results that were told to be written since the last call: the id, the holder, the result.
    fn owed(&mut self) -> Vec<(String, String, Outcome)> {
        let events = std::mem::take(self.session.events());
        let debts = events.into_iter().filter_map(|event| match event {
            Event::Owed(debt) => Some((debt.id.to_string(), debt.holder.to_string(), debt.outcome)),
            _ => None,
        });
        debts.collect()
    }
}

fn debt(id: &str, outcome: Outcome) -> (String, String, Outcome) {
    (id.to_owned(), "a".to_owned(), outcome)
}

#[test]
fn a_dropped_publish_is_owed_what_the_rule_says() {
    for (result, expected) in [
        (ResultMode::Revoke, vec![debt("b", Outcome::Revoked)]),
        (ResultMode::Success, vec![debt("b", Outcome::Success)]),
        // The store has noted that it waits.
        (ResultMode::Join, vec![]),
        (ResultMode::None, vec![]),
    ] {
        let mut rig = Rig::new(rule(result));
        let ticket = rig.publish_asked("b");
        rig.answer(ticket, held("a"));
        assert_eq!(rig.owed(), expected, "{result:?}");
        let ticket = rig.publish_asked("c");
        rig.answer(ticket, Acquired::Taken);
        assert_eq!(rig.owed(), [], "{result:?}");
    }
}

#[test]
fn a_producer_that_hears_of_it_is_owed_nothing() {
    let mut rig = Rig::new(RuleSpec {
        on_duplicate: OnDuplicate::Reject,
        ..rule(ResultMode::Revoke)
    });
    // It can only be dropped: the producer waits for no confirms.
    let ticket = rig.publish_asked("b");
    rig.answer(ticket, held("a"));
    assert_eq!(rig.owed(), [debt("b", Outcome::Revoked)]);
    rig.client(&method(1, MethodId::CONFIRM_SELECT, &[0]));
    rig.broker(&method(1, MethodId::CONFIRM_SELECT_OK, &[]));
    let ticket = rig.publish_asked("c");
    rig.answer(ticket, held("a"));
    assert_eq!(rig.client_got().last().map(String::as_str), Some("basic.nack 1"));
    assert_eq!(rig.owed(), []);
}

/// What the store is told at the acquire of `b` that its id is owed, on a channel that confirms.
fn asked_of(rig: &mut Rig, before: &[&str]) -> (Ticket, Owed) {
    rig.client(&method(1, MethodId::CONFIRM_SELECT, &[0]));
    rig.broker(&method(1, MethodId::CONFIRM_SELECT_OK, &[]));
    for id in before {
        rig.publish_asked(id);
    }
    rig.client(&publish(1, "t.unique", "b", false));
    let (asks, _) = rig.session.questions();
    match asks.pop() {
        Some((ticket, Request::Acquire { note, .. })) => (Ticket(ticket), note.owed.clone()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_producer_that_hears_of_it_waits_for_no_result() {
    for (on_duplicate, expected) in [
        (OnDuplicate::Drop, Owed::Joined(Via::Backend)),
        (OnDuplicate::Reject, Owed::Nothing),
        (OnDuplicate::Raise, Owed::Nothing),
    ] {
        let mut rig = Rig::new(RuleSpec {
            on_duplicate,
            ..rule(ResultMode::Join)
        });
        let (ticket, owed) = asked_of(&mut rig, &[]);
        assert_eq!(owed, expected, "{on_duplicate:?}");
        rig.answer(ticket, held("a"));
        assert_eq!(rig.told(), [""; 0], "{on_duplicate:?}");
    }
}

#[test]
fn a_producer_that_cannot_be_told_waits_for_the_result() {
    let raise = |result| {
        Rig::new(RuleSpec {
            on_duplicate: OnDuplicate::Raise,
            ..rule(result)
        })
    };
    // The channel has another publish on its way, so it cannot be closed for this one.
    let mut rig = raise(ResultMode::Join);
    let (ticket, owed) = asked_of(&mut rig, &["x"]);
    assert_eq!(owed, Owed::Nothing);
    rig.answer(ticket, held("a"));
    assert_eq!(rig.told(), ["b joins a"]);
    let mut rig = raise(ResultMode::Revoke);
    let (ticket, _) = asked_of(&mut rig, &["x"]);
    rig.answer(ticket, held("a"));
    assert_eq!((rig.told(), rig.owed()), (vec![], vec![debt("b", Outcome::Revoked)]));
}

#[test]
fn an_observing_rule_owes_nothing() {
    let mut rig = Rig::new(RuleSpec {
        mode: crate::rules::spec::Mode::Observe,
        ..rule(ResultMode::Revoke)
    });
    let ticket = rig.publish_asked("b");
    rig.answer(ticket, held("a"));
    assert_eq!(rig.owed(), []);
}

#[test]
fn a_delivery_found_late_is_owed_the_same() {
    let mut rig = worker_of(rule(ResultMode::Revoke));
    let ticket = rig.delivery_asked(1, "b");
    rig.admit(ticket, held_by("a"));
    assert_eq!(rig.owed(), [debt("b", Outcome::Revoked)]);
    assert_eq!(rig.broker_got(), ["basic.ack 1"]);
}

#[test]
fn who_ignores_the_result_is_owed_nothing() {
    for (ignores, owed) in [
        (FieldValue::Bool(true), Owed::Nothing),
        (FieldValue::Bool(false), Owed::Joined(Via::Backend)),
        // A call by name, which does not know.
        (FieldValue::Void, Owed::Joined(Via::Backend)),
    ] {
        let mut rig = Rig::new(rule(ResultMode::Join));
        let mut table = headers("t.unique", "b");
        put_entry(&mut table, b"ignore_result", &ignores).expect("a short name");
        let out = publish_of(&content(&table, "b", BODY));
        rig.client(&out);
        let (asks, _) = rig.session.questions();
        let notes: Vec<Owed> = asks
            .iter()
            .filter_map(|(_, request)| match request {
                Request::Acquire { note, .. } => Some(note.owed.clone()),
                _ => None,
            })
            .collect();
        assert_eq!(notes, [owed], "{ignores:?}");
    }
}
