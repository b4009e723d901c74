//! Deliveries that are limited: each asks before it goes, and waits for as long as it is told.

use std::time::Duration;

use super::admit::delivery_with;
use super::hold::{qos, waits, worker_with};
use super::window::per_consumer_of;
use super::*;
use crate::rules::limit::{Asker, Cause, Limited, Wait};
use crate::rules::lock::{LockState, Nonce};
use crate::rules::outcome::DeliveryDecision as D;
use crate::rules::running::Ran;
use crate::rules::spec::{DeadLetter, LimitSpec, OnMaxWait};
use crate::session::Target;

fn limit(change: impl FnOnce(&mut LimitSpec)) -> LimitSpec {
    let mut limit = LimitSpec {
        times: Some(2),
        per: Some(Duration::from_secs(60)),
        ..LimitSpec::default()
    };
    change(&mut limit);
    limit
}

fn limited_by(limit: LimitSpec) -> RuleSpec {
    RuleSpec {
        unique: None,
        limits: vec![limit],
        ..spec()
    }
}

fn worker_of(spec: RuleSpec) -> Rig {
    worker_with(spec, Settings::default())
}

const PERMITTED: Limited = Limited::Permitted { waited_ms: 7 };

fn worker() -> Rig {
    worker_of(limited_by(limit(|_| ())))
}

fn wait(wait_ms: u64) -> Limited {
    wait_of(wait_ms, 0, Cause::Rate)
}

fn wait_of(wait_ms: u64, waited_ms: u64, cause: Cause) -> Limited {
    Limited::Waits(Wait {
        wait_ms,
        waited_ms,
        bucket: 0,
        cause,
    })
}

/// A question about limits.
#[derive(Debug, PartialEq, Eq)]
enum Asks {
    Place(String),
    Permission(String, Nonce),
}

impl Rig {
    fn limits_asked(&mut self) -> Vec<(Ticket, Asks)> {
        let (asks, _) = self.session.questions();
        let of_limits = asks.extract_if(.., |(_, request)| {
            matches!(request, Request::Reserve { .. } | Request::Permit { .. })
        });
        let question = |(ticket, request)| match request {
            Request::Reserve { ask } => (Ticket(ticket), Asks::Place(ask.id.to_string())),
            Request::Permit {
                ask,
                asker: Asker { delivery, .. },
            } => (Ticket(ticket), Asks::Permission(ask.id.to_string(), delivery)),
            other => panic!("not of a limit: {other:?}"),
        };
        of_limits.map(question).collect()
    }

    fn permission_asked(&mut self, id: &str) -> Ticket {
        let asked = self.limits_asked();
        let [(ticket, Asks::Permission(of, _))] = &asked[..] else {
            panic!("one question for permission: {asked:?}")
        };
        assert_eq!(of, id);
        *ticket
    }

    fn limits_say(&mut self, ticket: Ticket, limited: Limited) {
        self.session.handle_answer(ticket, Ok(Reply::Limit(limited)), self.now);
        self.park_nothing();
    }

    /// Delivers, and the store says this of its limits.
    fn comes(&mut self, tag: u64, id: &str, limited: Limited) {
        self.broker(&deliver(1, "c", tag, "t.unique", id));
        let ticket = self.permission_asked(id);
        self.limits_say(ticket, limited);
    }
}

#[test]
fn what_is_permitted_goes_and_what_is_not_is_held_until_its_time() {
    let mut rig = worker();
    rig.comes(1, "x", PERMITTED);
    assert_eq!(rig.decided(), [(D::Forwarded, "permitted")]);
    rig.comes(2, "y", wait(1_200));
    assert_eq!(rig.decided(), [(D::Held, "limit")]);
    rig.broker(&deliver(1, "c", 3, "t.other", "o"));
    assert_eq!(rig.seen(), ["c 1 x", "c 3 o"]);
    rig.later(1_199_999);
    assert!(rig.limits_asked().is_empty());
    rig.later(1);
    let ticket = rig.permission_asked("y");
    rig.limits_say(ticket, PERMITTED);
    assert_eq!(rig.seen(), ["c 4 y"]);
    assert_eq!(rig.decided(), [(D::Forwarded, "permitted")]);
    assert_eq!((rig.session.held(), rig.session.held_bytes()), ((0, None), 0));
    assert_eq!(rig.told(), [""; 0]);
}

#[test]
fn a_refusal_at_its_time_tells_a_later_one() {
    let mut rig = worker();
    rig.comes(1, "x", wait(500));
    for _ in 0..3 {
        rig.later(500_000);
        let ticket = rig.permission_asked("x");
        rig.limits_say(ticket, wait(500));
    }
    assert_eq!(rig.decided(), [(D::Held, "limit")], "told once");
    rig.later(500_000);
    let ticket = rig.permission_asked("x");
    rig.limits_say(ticket, PERMITTED);
    assert_eq!(rig.seen(), ["c 1 x"]);
}

#[test]
fn before_its_time_a_task_asks_for_no_permission() {
    let mut rig = worker();
    let eta = FieldValue::LongStr(b"2027-01-15T08:00:03+00:00");
    assert_eq!(rig.now.unix_ms, 1_800_000_000_000, "that is 08:00:00");
    rig.broker(&delivery_with(1, "x", false, &[("eta", eta)]));
    assert!(rig.limits_asked().is_empty());
    assert_eq!(rig.decided(), [(D::Held, "eta")]);
    rig.later(2_999_999);
    assert!(rig.limits_asked().is_empty());
    rig.later(1);
    let ticket = rig.permission_asked("x");
    rig.limits_say(ticket, PERMITTED);
    assert_eq!(rig.seen(), ["c 1 x"]);
}

#[test]
fn the_same_delivery_asks_by_the_same_name() {
    let mut rig = worker();
    rig.broker(&deliver(1, "c", 1, "t.unique", "x"));
    let (ticket, first) = rig.limits_asked().remove(0);
    rig.limits_say(ticket, wait(100));
    rig.later(100_000);
    let (_, second) = rig.limits_asked().remove(0);
    assert_eq!(first, second);
    rig.broker(&deliver(1, "c", 2, "t.unique", "x"));
    assert_ne!(rig.limits_asked().remove(0).1, first, "another delivery of the id");
}

#[test]
fn what_has_long_to_wait_asks_meanwhile_whether_others_have_gone() {
    let mut rig = worker();
    rig.comes(1, "x", wait(4_000));
    rig.later(2_000_000);
    let ticket = rig.permission_asked("x");
    rig.limits_say(ticket, wait(1_000));
    rig.later(1_000_000);
    rig.permission_asked("x");
}

#[test]
fn what_waits_longer_than_it_may_be_held_is_parked_for_that_long() {
    let mut rig = worker();
    rig.broker(&deliver(1, "c", 1, "t.unique", "x"));
    let ticket = rig.permission_asked("x");
    rig.session.handle_answer(ticket, Ok(Reply::Limit(wait(60_000))), rig.now);
    let (asks, _) = rig.session.questions();
    let Some((ticket, Request::Park { note, .. })) = asks.pop() else {
        panic!("it is to be parked")
    };
    assert_eq!(note.life_ms, 60_000 + 86_400_000);
    rig.session.handle_answer(Ticket(ticket), Ok(Reply::Done), rig.now);
    let (ticket, republish) = rig.session.republishes().pop().expect("a copy");
    assert!(matches!(republish.target, Target::Delay { wait_ms: 60_000, .. }), "{republish:?}");
    rig.session.handle_republished(ticket, Ok(()), rig.now);
    let (asks, _) = rig.session.questions();
    let Some((ticket, Request::MarkParked { .. })) = asks.pop() else {
        panic!("the store is told that the broker has it")
    };
    rig.session.handle_answer(Ticket(ticket), Ok(Reply::Done), rig.now);
    assert_eq!(rig.decided(), [(D::Held, "limit"), (D::Parked, "limit")]);
    assert_eq!(rig.told(), [""; 0], "its place stays");
    assert_eq!(rig.session.held().0, 0);
}

/// A worker whose window is of each consumer, and what is told of windows.
fn worker_by_consumer(size: u16) -> Rig {
    let mut rig = per_consumer_of(limited_by(limit(|_| ())), size);
    rig.parks = true;
    rig
}

impl Rig {
    /// One comes that has long to wait: the ticket of its parking.
    fn begins_to_park(&mut self, tag: u64, id: &str) -> Ticket {
        self.broker(&deliver(1, "c", tag, "t.unique", id));
        let ticket = self.permission_asked(id);
        self.session.handle_answer(ticket, Ok(Reply::Limit(wait(60_000))), self.now);
        self.parking()
    }

    fn parking(&mut self) -> Ticket {
        let (asks, _) = self.session.questions();
        let Some((ticket, Request::Park { .. })) = asks.pop() else {
            panic!("it is to be parked")
        };
        Ticket(ticket)
    }

    fn is_parked(&mut self, ticket: Ticket) {
        self.session.handle_answer(ticket, Ok(Reply::Done), self.now);
        let (ticket, _) = self.session.republishes().pop().expect("a copy");
        self.session.handle_republished(ticket, Ok(()), self.now);
        let (asks, _) = self.session.questions();
        let (ticket, _) = asks.pop().expect("it is marked");
        self.session.handle_answer(Ticket(ticket), Ok(Reply::Done), self.now);
    }
}

#[test]
fn behind_one_that_waits_long_the_next_are_held_from_their_coming() {
    let mut rig = worker();
    rig.parks = true;
    let first = rig.begins_to_park(1, "x");
    rig.is_parked(first);
    assert_eq!(rig.decided(), [(D::Held, "limit"), (D::Parked, "limit")]);
    // Nothing waits behind them for the store's answer.
    rig.broker(&deliver(1, "c", 2, "t.unique", "y"));
    rig.broker(&deliver(1, "c", 3, "t.unique", "z"));
    rig.broker(&deliver(1, "c", 4, "t.other", "o"));
    assert_eq!(rig.seen(), ["c 4 o"]);
    assert_eq!(rig.decided(), [(D::Held, "limit"); 2]);
    let asked = rig.limits_asked();
    let [(of_y, Asks::Permission(y, _)), (of_z, Asks::Permission(z, _))] = &asked[..] else {
        panic!("two questions in order: {asked:?}")
    };
    assert_eq!((&**y, &**z), ("y", "z"));
    // The store decides all the same.
    rig.session.handle_answer(*of_z, Ok(Reply::Limit(wait(60_000))), rig.now);
    let parking = rig.parking();
    rig.session.handle_answer(*of_y, Ok(Reply::Limit(PERMITTED)), rig.now);
    assert_eq!(rig.seen(), ["c 5 y"]);
    rig.is_parked(parking);
    assert_eq!(rig.decided(), [(D::Forwarded, "permitted"), (D::Parked, "limit")]);
    // What was permitted tells that the next may be.
    rig.broker(&deliver(1, "c", 5, "t.unique", "w"));
    assert_eq!(rig.decided(), [], "it may go");
    let ticket = rig.permission_asked("w");
    rig.session.handle_answer(ticket, Ok(Reply::Limit(wait(2_000))), rig.now);
    // A short wait tells nothing.
    rig.broker(&deliver(1, "c", 6, "t.unique", "v"));
    assert_eq!(rig.decided(), [(D::Held, "limit")]);
    rig.permission_asked("v");
    assert_eq!(rig.session.held().0, 1);
}

#[test]
fn what_was_foreseen_is_forgotten_when_its_time_has_come() {
    let mut rig = worker();
    rig.parks = true;
    let first = rig.begins_to_park(1, "x");
    rig.is_parked(first);
    rig.decided();
    rig.waits_for(56_000_000);
    rig.broker(&deliver(1, "c", 2, "t.unique", "y"));
    assert_eq!(rig.decided(), [], "it waits no longer than it may be held");
    rig.permission_asked("y");
}

#[test]
fn where_the_store_is_silent_what_was_foreseen_stays_held() {
    let mut rig = worker();
    rig.parks = true;
    let first = rig.begins_to_park(1, "x");
    rig.is_parked(first);
    rig.broker(&deliver(1, "c", 2, "t.unique", "y"));
    let ticket = rig.permission_asked("y");
    rig.session.handle_answer(ticket, Err(StoreSilent::Timeout), rig.now);
    rig.later(1_000_000);
    let ticket = rig.permission_asked("y");
    rig.session.handle_answer(ticket, Ok(Reply::Limit(PERMITTED)), rig.now);
    assert_eq!(rig.seen(), ["c 2 y"]);
    assert_eq!(rig.session.held().0, 0);
}

#[test]
fn for_what_is_about_to_be_parked_windows_change_by_many_at_once() {
    let mut rig = worker_by_consumer(6);
    let told = |rig: &mut Rig| {
        rig.broker_got()
            .iter()
            .filter(|line| *line != "basic.ack")
            .cloned()
            .collect::<Vec<_>>()
    };
    let first = rig.begins_to_park(1, "a");
    let mut parking = vec![first];
    for (tag, id) in [(2, "b"), (3, "c")] {
        assert!(rig.broker_got().is_empty(), "it makes room by itself");
        rig.broker(&deliver(1, "c", tag, "t.unique", id));
        let ticket = rig.permission_asked(id);
        rig.session.handle_answer(ticket, Ok(Reply::Limit(wait(60_000))), rig.now);
        parking.push(rig.parking());
    }
    assert_eq!(
        told(&mut rig),
        ["basic.qos", "basic.consume", "basic.qos"],
        "half of the window is taken"
    );
    for ticket in parking {
        rig.is_parked(ticket);
    }
    assert!(
        rig.broker_got().iter().all(|line| line.starts_with("basic.ack")),
        "it stays for those that come"
    );
    rig.broker(&method(1, MethodId::BASIC_QOS_OK, &[]));
    rig.broker(&method(1, MethodId::BASIC_QOS_OK, &[]));
    // What cannot be parked is made up for at once.
    let mut rig = worker_by_consumer(6);
    rig.parks = false;
    let ticket = rig.begins_to_park(1, "a");
    rig.session.handle_answer(ticket, Err(StoreSilent::Timeout), rig.now);
    assert_eq!(rig.broker_got(), ["basic.qos", "basic.consume", "basic.qos"]);
}

#[test]
fn while_something_is_being_parked_no_consumer_goes() {
    let mut rig = worker_by_consumer(2);
    let first = rig.begins_to_park(1, "a");
    let (lines, tags) = rig.windows();
    assert_eq!(lines, ["qos 1", "consume own", "qos 2"]);
    rig.answers_own(&tags[0]);
    rig.is_parked(first);
    rig.broker(&deliver(1, "c", 2, "t.unique", "b"));
    let ticket = rig.permission_asked("b");
    rig.session.handle_answer(ticket, Ok(Reply::Limit(wait(60_000))), rig.now);
    let second = rig.parking();
    rig.broker(&deliver(1, "c", 3, "t.unique", "c"));
    let ticket = rig.permission_asked("c");
    rig.session.handle_answer(ticket, Ok(Reply::Limit(wait(60_000))), rig.now);
    let third = rig.parking();
    rig.is_parked(second);
    rig.windows();
    rig.later(1_000_000);
    assert_eq!(rig.windows().0, [""; 0], "the next take its place");
    rig.is_parked(third);
    rig.later(1_000_000);
    assert_eq!(rig.windows().0.last().map(|line| &**line), Some("cancel own"));
}

#[test]
fn what_could_not_be_parked_is_held_and_goes_at_its_time() {
    let mut rig = worker();
    rig.broker(&deliver(1, "c", 1, "t.unique", "x"));
    let ticket = rig.permission_asked("x");
    rig.limits_say(ticket, wait(8_000));
    rig.park_nothing();
    assert_eq!(rig.session.held().0, 1);
    for left in [4_000, 2_000, 1_000] {
        rig.later(left * 1_000);
        let ticket = rig.permission_asked("x");
        rig.limits_say(ticket, wait(left));
    }
    rig.later(1_000_000);
    let ticket = rig.permission_asked("x");
    rig.limits_say(ticket, PERMITTED);
    assert_eq!(rig.seen(), ["c 1 x"]);
}

#[test]
fn who_goes_back_to_its_queue_lets_others_go_first() {
    let mut rig = worker();
    rig.comes(1, "x", wait(3_000));
    rig.client(&method(1, MethodId::BASIC_CANCEL, b"\x01c\0"));
    assert_eq!(rig.told(), ["leaves limits x"]);
    assert!(rig.broker_got().iter().any(|line| line.starts_with("basic.nack")));

    // One whose answer is on its way when it goes leaves once more behind it.
    let mut rig = worker();
    rig.broker(&deliver(1, "c", 1, "t.unique", "y"));
    let ticket = rig.permission_asked("y");
    rig.client(&method(1, MethodId::CHANNEL_CLOSE, &[0, 200, 0, 0, 0, 0, 0]));
    rig.broker(&method(1, MethodId::CHANNEL_CLOSE_OK, &[]));
    rig.limits_say(ticket, PERMITTED);
    let told = rig.told();
    assert_eq!(told.last().map(String::as_str), Some("leaves limits y"), "{told:?}");
}

#[test]
fn a_store_that_is_silent_lets_none_go() {
    let mut rig = worker();
    rig.broker(&deliver(1, "c", 1, "t.unique", "x"));
    let ticket = rig.permission_asked("x");
    rig.session.handle_answer(ticket, Err(StoreSilent::Timeout), rig.now);
    for _ in 0..30 {
        rig.later(1_000_000);
        for (ticket, _) in rig.limits_asked() {
            rig.session.handle_answer(ticket, Err(StoreSilent::CircuitOpen), rig.now);
        }
        rig.park_nothing();
        let heartbeat = [8, 0, 0, 0, 0, 0, 0, frame::END];
        rig.client(&heartbeat);
        rig.broker(&heartbeat);
    }
    assert_eq!(rig.session.held().0, 1);
    assert_eq!(rig.seen(), [""; 0]);
    rig.later(1_000_000);
    let ticket = rig.permission_asked("x");
    rig.limits_say(ticket, PERMITTED);
    assert_eq!(rig.seen(), ["c 1 x"]);
    assert_eq!(
        rig.decided().last(),
        Some(&(D::ForwardedUnchecked, "store_timeout")),
        "of its key nothing is known"
    );
}

#[test]
fn with_a_running_lock_it_has_a_place_then_the_lock_then_permission() {
    let spec = RuleSpec {
        unique: Some(Unique::WhileRunning),
        ..limited_by(limit(|_| ()))
    };
    let mut rig = worker_of(spec);
    rig.broker(&deliver(1, "c", 1, "t.unique", "x"));
    assert!(rig.runs_asked().is_empty());
    let asked = rig.limits_asked();
    let [(ticket, Asks::Place(_))] = asked[..] else {
        panic!("a place first: {asked:?}")
    };
    rig.limits_say(ticket, wait(0));
    let (ticket, ..) = rig.runs_asked().remove(0);
    rig.ran(ticket, Ran::Runs);
    let ticket = rig.permission_asked("x");
    rig.limits_say(ticket, wait(700));
    assert_eq!(rig.told(), ["leaves x"], "the lock is not kept for the time of the wait");
    assert_eq!(rig.decided(), [(D::Held, "limit")]);
    rig.later(700_000);
    assert!(rig.limits_asked().is_empty());
    let (ticket, ..) = rig.runs_asked().remove(0);
    rig.ran(ticket, waits("other", 71));
    rig.later(1_000_000);
    let (ticket, ..) = rig.runs_asked().remove(0);
    rig.ran(ticket, Ran::Runs);
    let ticket = rig.permission_asked("x");
    rig.limits_say(ticket, PERMITTED);
    assert_eq!(rig.seen(), ["c 1 x"]);
    assert_eq!(rig.decided(), [(D::Forwarded, "runs")]);
    assert_eq!(rig.told(), [""; 0]);
}

#[test]
fn a_duplicate_takes_no_place() {
    let spec = RuleSpec {
        unique: Some(Unique::UntilFinished),
        ..limited_by(limit(|_| ()))
    };
    let mut rig = worker_of(spec);
    rig.broker(&deliver(1, "c", 1, "t.unique", "x"));
    assert!(rig.limits_asked().is_empty());
    let (ticket, ..) = rig.admissions().remove(0);
    rig.admit(
        ticket,
        Admitted::Held {
            holder: "other".into(),
            state: LockState::Queued,
            expires_in_ms: 1,
        },
    );
    assert!(rig.limits_asked().is_empty());
    rig.broker(&deliver(1, "c", 2, "t.unique", "y"));
    let (ticket, ..) = rig.admissions().remove(0);
    rig.admit(ticket, Admitted::Holds);
    let ticket = rig.permission_asked("y");
    rig.limits_say(ticket, PERMITTED);
    assert_eq!(rig.seen(), ["c 2 y"]);
}

#[test]
fn a_limit_may_end_the_wait() {
    let of = |then| {
        limited_by(limit(|limit| {
            (limit.max_wait, limit.on_max_wait) = (Some(Duration::from_secs(10)), Some(then));
        }))
    };
    let mut rig = worker_of(of(OnMaxWait::Deliver));
    rig.comes(1, "x", wait_of(900, 9_500, Cause::Rate));
    rig.later(500_000);
    let ticket = rig.permission_asked("x");
    rig.limits_say(ticket, wait_of(400, 10_000, Cause::Rate));
    assert_eq!(rig.seen(), ["c 1 x"]);
    assert_eq!(rig.told(), ["leaves limits x"]);

    let mut rig = worker_of(of(OnMaxWait::Drop));
    rig.comes(1, "x", wait_of(400, 10_000, Cause::Rate));
    assert_eq!(rig.decided(), [(D::Dropped, "max_wait")]);
    assert_eq!(rig.broker_got(), ["basic.ack 1"]);

    let mut rig = worker_of(RuleSpec {
        dead_letter: Some(DeadLetter {
            exchange: String::new(),
            routing_key: "late".to_owned(),
        }),
        ..of(OnMaxWait::DeadLetter)
    });
    rig.broker(&deliver(1, "c", 1, "t.unique", "x"));
    let ticket = rig.permission_asked("x");
    rig.session
        .handle_answer(ticket, Ok(Reply::Limit(wait_of(400, 10_000, Cause::Rate))), rig.now);
    let (ticket, republish) = rig.session.republishes().pop().expect("a copy");
    assert!(matches!(republish.target, Target::Exchange { .. }));
    rig.session.handle_republished(ticket, Ok(()), rig.now);
    assert_eq!(rig.decided(), [(D::DeadLettered, "max_wait")]);
    assert!(rig.broker_got().contains(&"basic.ack 1".to_owned()));
}

#[test]
fn what_has_waited_for_too_long_is_owed_a_result() {
    use crate::rules::owed::Outcome;
    use crate::rules::spec::ResultMode;
    for (result, then, expected) in [
        (ResultMode::Join, OnMaxWait::Drop, Some(Outcome::Overdue)),
        (ResultMode::Revoke, OnMaxWait::DeadLetter, Some(Outcome::Overdue)),
        (ResultMode::Success, OnMaxWait::Drop, Some(Outcome::Success)),
        (ResultMode::None, OnMaxWait::DeadLetter, None),
    ] {
        let mut rig = worker_of(RuleSpec {
            result,
            dead_letter: Some(DeadLetter {
                exchange: String::new(),
                routing_key: "late".to_owned(),
            }),
            ..limited_by(limit(|limit| {
                (limit.max_wait, limit.on_max_wait) = (Some(Duration::from_secs(10)), Some(then));
            }))
        });
        rig.broker(&deliver(1, "c", 1, "t.unique", "x"));
        let ticket = rig.permission_asked("x");
        rig.session
            .handle_answer(ticket, Ok(Reply::Limit(wait_of(400, 10_000, Cause::Rate))), rig.now);
        if let Some((ticket, _)) = rig.session.republishes().pop() {
            rig.session.handle_republished(ticket, Ok(()), rig.now);
        }
        let events = std::mem::take(rig.session.events());
        let debts = events.into_iter().filter_map(|event| match event {
            Event::Owed(debt) => Some((debt.id.to_string(), debt.holder.to_string(), debt.outcome)),
            _ => None,
        });
        let expected = expected.map(|outcome| ("x".to_owned(), String::new(), outcome));
        assert_eq!(debts.collect::<Vec<_>>(), Vec::from_iter(expected), "{result:?} {then:?}");
    }
}

#[test]
fn a_run_that_is_counted_is_renewed_and_leaves() {
    let mut rig = worker_of(limited_by(limit(|limit| {
        (limit.times, limit.per, limit.concurrent) = (None, None, Some(2));
    })));
    rig.comes(1, "x", PERMITTED);
    rig.comes(2, "y", wait_of(1_000, 0, Cause::Runs));
    assert_eq!(rig.seen(), ["c 1 x"]);
    for _ in 0..6 {
        rig.later(5_000_000);
        for (ticket, _) in rig.limits_asked() {
            rig.limits_say(ticket, wait_of(1_000, 0, Cause::Runs));
        }
        let heartbeat = [8, 0, 0, 0, 0, 0, 0, frame::END];
        rig.client(&heartbeat);
        rig.broker(&heartbeat);
    }
    assert_eq!(rig.told(), ["runs on x"]);
    rig.limits_asked();
    rig.client(&nack(1, 1, true));
    assert_eq!(rig.told(), ["leaves x"]);
}

#[test]
fn a_window_of_a_client_without_one_is_bounded_where_a_limit_may_hold() {
    let mut rig = Rig::with(limited_by(limit(|_| ())), Settings::default());
    rig.admits_all = false;
    rig.client(&qos(0, true));
    rig.broker(&method(1, MethodId::BASIC_QOS_OK, &[]));
    rig.consumes(1, "c", false);
    assert!(
        rig.broker_got().iter().any(|line| line.starts_with("basic.qos")),
        "the broker is told of a window"
    );
}

#[test]
fn a_place_is_given_up_by_what_does_not_run() {
    let spec = RuleSpec {
        unique: Some(Unique::WhileRunning),
        ..limited_by(limit(|_| ()))
    };
    let mut rig = worker_of(spec);
    rig.broker(&deliver(1, "c", 1, "t.unique", "x"));
    let (ticket, _) = rig.limits_asked().remove(0);
    rig.limits_say(ticket, wait(0));
    let (ticket, ..) = rig.runs_asked().remove(0);
    rig.ran(ticket, Ran::Succeeded);
    assert_eq!(rig.told(), ["leaves limits x"]);
    assert_eq!(rig.broker_got(), ["basic.ack 1"]);
}

impl Rig {
    /// The limits that decisions name, with what they say of the wait.
    fn limits_named(&mut self) -> Vec<(D, Option<(String, u64)>)> {
        let events = std::mem::take(self.session.events());
        let named = events.into_iter().filter_map(|event| match event {
            Event::Admission(delivery) => {
                let limit = delivery.limit.map(|(limit, wait_ms)| (limit.to_string(), wait_ms));
                Some((delivery.decision, limit))
            }
            _ => None,
        });
        named.collect()
    }
}

#[test]
fn a_decision_names_its_limit_and_its_wait() {
    let mut rig = worker_of(limited_by(limit(|limit| {
        (limit.max_wait, limit.on_max_wait) = (Some(Duration::from_secs(10)), Some(OnMaxWait::Drop));
    })));
    rig.comes(1, "x", wait(1_200));
    rig.comes(2, "y", wait_of(400, 10_000, Cause::Rate));
    rig.later(1_200_000);
    let ticket = rig.permission_asked("x");
    rig.limits_say(ticket, PERMITTED);
    let of = |decision, wait_ms| (decision, Some(("1".to_owned(), wait_ms)));
    assert_eq!(
        rig.limits_named(),
        [of(D::Held, 1_200), of(D::Dropped, 10_000), of(D::Forwarded, 7)]
    );
}

#[test]
fn what_is_parked_for_long_comes_back_sooner_since_its_limit_may_be_changed() {
    let mut rig = worker();
    rig.broker(&deliver(1, "c", 1, "t.unique", "x"));
    let ticket = rig.permission_asked("x");
    rig.session.handle_answer(ticket, Ok(Reply::Limit(wait(3_600_000))), rig.now);
    let (ticket, _) = rig.session.questions().0.pop().expect("it is to be parked");
    rig.session.handle_answer(Ticket(ticket), Ok(Reply::Done), rig.now);
    let (_, republish) = rig.session.republishes().pop().expect("a copy");
    assert!(matches!(republish.target, Target::Delay { wait_ms: 600_000, .. }), "{republish:?}");
}

#[test]
fn what_is_held_for_long_asks_again_since_its_limit_may_be_changed() {
    let mut rig = worker_of(limited_by(limit(|limit| limit.hold_max = Some(Duration::from_secs(7_200)))));
    rig.comes(1, "x", wait(600_000));
    for _ in 0..3 {
        rig.waits_for(29_999_999);
        assert!(rig.limits_asked().is_empty());
        rig.later(1);
        let ticket = rig.permission_asked("x");
        rig.limits_say(ticket, wait(600_000));
    }
    assert_eq!(rig.told(), [""; 0]);
}
