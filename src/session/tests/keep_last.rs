//! Publishes that wait for the end of another of their key, and their deliveries, which are held until then.

use super::admit::{delivery_with, worker_of};
use super::hold::qos;
use super::*;
use crate::rules::lock::IfHeld;
use crate::rules::outcome::DeliveryDecision as D;
use crate::rules::spec::OnDuplicate;

fn keeping() -> RuleSpec {
    RuleSpec {
        on_duplicate: OnDuplicate::KeepLast,
        ..spec()
    }
}

fn kept() -> Acquired {
    Acquired::Kept { holder: "a".into() }
}

fn waits() -> Admitted {
    Admitted::Waits {
        holder: "a".into(),
        since_ms: 1_800_000_000_000,
    }
}

#[test]
fn the_question_says_so_and_one_that_waits_goes_out_and_is_committed() {
    let mut rig = Rig::new(keeping());
    rig.client(&publish(1, "t.unique", "b", false));
    let (asks, _) = rig.session.questions();
    let Some((ticket, Request::Acquire { note, .. })) = asks.pop() else {
        panic!("a question")
    };
    assert_eq!(note.if_held, IfHeld::KeepLast);
    rig.answer(Ticket(ticket), kept());
    assert_eq!(rig.broker_got(), ["confirm.select", "basic.publish mandatory b"]);
    assert_eq!(rig.decisions(), [PublishDecision::Kept]);
    rig.broker(&method(1, MethodId::CONFIRM_SELECT_OK, &[]));
    rig.broker(&ack(1, 1, false));
    assert_eq!(rig.told(), ["commit b"]);
}

#[test]
fn one_that_fails_or_is_never_sent_leaves_its_place() {
    let mut rig = Rig::new(keeping());
    let ticket = rig.publish_asked("b");
    rig.answer(ticket, kept());
    rig.broker(&method(1, MethodId::CONFIRM_SELECT_OK, &[]));
    rig.broker(&returned(1, "b"));
    rig.broker(&ack(1, 1, false));
    assert_eq!(rig.told(), ["unpublish b returned"]);
    let ticket = rig.publish_asked("c");
    rig.broker(&method(1, MethodId::CHANNEL_CLOSE, &[0; 7]));
    rig.answer(ticket, kept());
    assert_eq!(rig.told(), ["unpublish c unconfirmed"]);
}

#[test]
fn one_that_is_outrun_counts_alike() {
    let mut rig = Rig::new(keeping());
    let ticket = rig.publish_asked("b");
    rig.answer(ticket, leased("other"));
    rig.answer(ticket, Acquired::Outrun { holder: "c".into() });
    assert_eq!(rig.broker_got(), ["basic.publish b"]);
    assert_eq!(rig.decisions(), [PublishDecision::Kept]);
    assert!(rig.told().is_empty());
}

#[test]
fn an_observing_rule_counts_alike() {
    for answer in [kept(), leased("a")] {
        let mut rig = Rig::new(RuleSpec {
            mode: Mode::Observe,
            ..keeping()
        });
        let ticket = rig.publish_asked("b");
        assert_eq!(rig.broker_got(), ["basic.publish b"]);
        rig.answer(ticket, answer);
        assert_eq!(rig.decisions(), [PublishDecision::Kept]);
    }
}

/// A worker whose node is known, and that gets a delivery which waits.
fn holding(spec: RuleSpec) -> Rig {
    let mut rig = worker_of(spec);
    rig.client(&qos(8, true));
    rig.broker(&method(1, MethodId::BASIC_QOS_OK, &[]));
    rig.session.shared.worker = "w@one".into();
    rig.client_got();
    let ticket = rig.delivery_asked(1, "b");
    rig.admit(ticket, waits());
    assert_eq!(rig.seen(), [""; 0]);
    assert_eq!(rig.admitted(), [(D::Held, "running")]);
    rig
}

fn acks(rig: &mut Rig) -> Vec<String> {
    let mut got = rig.broker_got();
    got.retain(|line| line.starts_with("basic.ack"));
    got
}

fn asked_again(rig: &mut Rig) -> Ticket {
    rig.later(1_000_000);
    let [(ticket, id, _)] = &rig.admissions()[..] else {
        panic!("one question")
    };
    assert_eq!(id, "b");
    *ticket
}

#[test]
fn a_delivery_that_waits_is_held_and_goes_when_the_other_has_ended() {
    let mut rig = holding(keeping());
    for _ in 0..3 {
        let ticket = asked_again(&mut rig);
        rig.admit(ticket, waits());
        assert_eq!(rig.seen(), [""; 0]);
    }
    let ticket = asked_again(&mut rig);
    rig.admit(ticket, Admitted::Holds);
    assert_eq!(rig.seen(), ["c 1 b"]);
    assert_eq!(rig.admitted(), [(D::Forwarded, "holds")]);
}

#[test]
fn what_comes_behind_it_goes_on() {
    let mut rig = holding(keeping());
    rig.broker(&delivery_with(2, "x", false, &[]));
    let [(ticket, ..)] = rig.admissions()[..] else {
        panic!("one question")
    };
    rig.admit(ticket, Admitted::Holds);
    assert_eq!(rig.seen(), ["c 2 x"]);
}

#[test]
fn one_that_is_superseded_while_it_waits_is_acknowledged_unrun() {
    let mut rig = holding(keeping());
    let ticket = asked_again(&mut rig);
    rig.admit(ticket, Admitted::Leased { holder: "c".into() });
    rig.later(100_000);
    let [(ticket, ..)] = rig.admissions()[..] else {
        panic!("one question")
    };
    rig.admit(ticket, Admitted::Outdated { newer: "c".into() });
    assert_eq!((rig.seen(), acks(&mut rig)), (vec![], vec!["basic.ack 1".to_owned()]));
    assert_eq!(rig.admitted(), [(D::Superseded, "outdated")]);
}

#[test]
fn the_place_of_one_that_waits_is_renewed_for_no_worker() {
    let mut rig = holding(RuleSpec {
        ttl: std::time::Duration::from_secs(1),
        ..keeping()
    });
    rig.later(400_000);
    let (_, tells) = rig.session.questions();
    let workers = tells.drain(..).filter_map(|order| match order {
        Request::Renew { worker, .. } => Some(worker.to_string()),
        _ => None,
    });
    assert_eq!(workers.collect::<Vec<_>>(), [""]);
}

#[test]
fn a_store_that_is_silent_for_long_lets_it_go() {
    let mut rig = holding(RuleSpec {
        store_wait: std::time::Duration::from_secs(3),
        ..keeping()
    });
    for second in 0..5 {
        let asked = rig.admissions();
        for (ticket, ..) in asked {
            rig.no_answer(ticket);
        }
        if second < 3 {
            assert_eq!(rig.seen(), [""; 0], "{second}");
        }
        rig.later(1_000_000);
    }
    assert_eq!(rig.admitted(), [(D::ForwardedUnchecked, "store_timeout")]);
}
