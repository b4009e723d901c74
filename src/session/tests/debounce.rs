//! Publishes whose run is put off until their key has been quiet, and their deliveries, which are held until they are due.

use std::time::Duration;

use super::admit::{delivery_with, worker_of};
use super::hold::qos;
use super::*;
use crate::rules::lock::{IfHeld, LockNote, Quiet};
use crate::rules::outcome::DeliveryDecision as D;
use crate::rules::running::Ran;

/// The rig's time is 2027-01-15T08:00:00Z.
const NOW_MS: u64 = 1_800_000_000_000;
const OWN: FieldValue<'_> = FieldValue::LongStr(b"2027-01-15T08:01:00.500000+00:00");
const IN_THREE: FieldValue<'_> = FieldValue::LongStr(b"2027-01-15T08:00:03.000000+00:00");
const IN_FIVE: FieldValue<'_> = FieldValue::LongStr(b"2027-01-15T08:00:05.000000+00:00");
const IN_TWO_MINUTES: FieldValue<'_> = FieldValue::LongStr(b"2027-01-15T08:02:00.000000+00:00");

fn debounced() -> RuleSpec {
    RuleSpec {
        ttl: Duration::from_mins(10),
        debounce: Some(Duration::from_secs(5)),
        ..spec()
    }
}

fn put_off(holder: Option<&str>, seconds: u64) -> Acquired {
    Acquired::PutOff {
        holder: holder.map(Arc::from),
        due_ms: NOW_MS + seconds * 1000,
    }
}

fn published(id: &str, eta: FieldValue<'_>, mandatory: bool) -> Vec<u8> {
    tried(id, eta, 0, mandatory)
}

fn tried(id: &str, eta: FieldValue<'_>, retries: i32, mandatory: bool) -> Vec<u8> {
    let mut table = headers("t.unique", id);
    for (name, value) in [("eta", eta), ("retries", FieldValue::I32(retries)), ("group", FieldValue::Void)] {
        put_entry(&mut table, name.as_bytes(), &value).expect("short names");
    }
    let method = Publish {
        exchange: b"",
        routing_key: b"q",
        mandatory,
        immediate: false,
        bits_offset: 0,
    };
    let mut out = Vec::new();
    encode::basic_publish(&mut out, 1, &method, &content(&table, id, BODY), 131_072).expect("it fits");
    out
}

fn rig(spec: RuleSpec) -> Rig {
    let mut rig = Rig::new(spec);
    rig.client(&method(1, MethodId::CONFIRM_SELECT, &[0]));
    rig.broker(&method(1, MethodId::CONFIRM_SELECT_OK, &[]));
    rig.output(Side::Broker);
    rig
}

/// The question about a publish.
fn asked(rig: &mut Rig, frames: &[u8]) -> (Ticket, Arc<LockNote>) {
    rig.client(frames);
    let (asks, _) = rig.session.questions();
    match asks.pop() {
        Some((ticket, Request::Acquire { note, .. })) => (Ticket(ticket), note),
        other => panic!("not a question: {other:?}"),
    }
}

#[test]
fn a_publish_goes_out_with_the_time_that_the_store_says() {
    for (own, wanted) in [(FieldValue::Void, IN_THREE), (OWN, OWN)] {
        let mut rig = rig(debounced());
        let (ticket, note) = asked(&mut rig, &published("a", own, false));
        let quiet = Quiet {
            period_ms: 5000,
            longest_ms: None,
        };
        assert_eq!(note.if_held, IfHeld::Debounce(quiet));
        let life_ms = if own == OWN { 660_500 } else { 605_000 };
        assert_eq!(note.life_ms, life_ms, "from its due time");
        rig.answer(ticket, put_off(None, 3));
        assert_eq!(rig.output(Side::Broker), published("a", wanted, true));
        assert_eq!(rig.decisions(), [PublishDecision::Forwarded]);
    }
}

#[test]
fn what_replaces_is_counted_as_debounced_and_what_comes_again_as_such() {
    for (holder, decision) in [("older", PublishDecision::Debounced), ("a", PublishDecision::Reentry)] {
        let mut rig = rig(debounced());
        let (ticket, _) = asked(&mut rig, &published("a", FieldValue::Void, false));
        rig.answer(ticket, put_off(Some(holder), 120));
        assert_eq!(rig.output(Side::Broker), published("a", IN_TWO_MINUTES, true));
        assert_eq!(rig.decisions(), [decision]);
        rig.broker(&ack(1, 1, false));
        assert_eq!(rig.told(), ["commit a"]);
    }
}

#[test]
fn one_that_had_to_wait_gets_its_time_then() {
    let mut rig = rig(debounced());
    let (ticket, _) = asked(&mut rig, &published("a", FieldValue::Void, false));
    rig.answer(ticket, leased("older"));
    assert_eq!(rig.broker_got(), [""; 0]);
    rig.later(1_000_000);
    rig.answer(ticket, put_off(Some("older"), 120));
    assert_eq!(rig.output(Side::Broker), published("a", IN_TWO_MINUTES, true));
    assert_eq!(rig.session.held_bytes(), 0);
}

#[test]
fn without_the_store_it_waits_as_long_as_if_it_were_alone() {
    let mut rig = rig(debounced());
    let (ticket, _) = asked(&mut rig, &published("a", FieldValue::Void, false));
    rig.silence(ticket);
    assert_eq!(rig.output(Side::Broker), published("a", IN_FIVE, true));
    assert_eq!(rig.decisions(), [PublishDecision::ForwardedUnchecked]);
}

#[test]
fn a_retry_keeps_its_own_time() {
    let mut rig = rig(debounced());
    let (ticket, _) = asked(&mut rig, &tried("a", OWN, 1, false));
    rig.answer(ticket, Acquired::Reentry { holds: true });
    assert_eq!(rig.output(Side::Broker), tried("a", OWN, 1, true));
}

#[test]
fn one_whose_time_cannot_be_written_replaces_and_runs_at_once() {
    let mut rig = rig(debounced());
    // Without a header to write it into.
    let (ticket, note) = asked(&mut rig, &publish(1, "t.unique", "a", false));
    assert_eq!(note.if_held, IfHeld::Replace);
    let kept = rig.session.events().iter().any(|event| matches!(event, Event::DueKept { .. }));
    assert!(kept);
    rig.answer(ticket, Acquired::Replaces { holder: "older".into() });
    assert_eq!(rig.output(Side::Broker), publish(1, "t.unique", "a", true));
    assert!(rig.decisions().contains(&PublishDecision::Replaced));
}

#[test]
fn one_whose_header_has_no_room_replaces_and_runs_at_once() {
    let mut rig = rig(debounced());
    let came = published("a", FieldValue::Void, false);
    let Split::Frame(method) = frame::split(&came, usize::MAX) else {
        panic!("a frame")
    };
    let Split::Frame(header) = frame::split(&came[method.raw.len()..], usize::MAX) else {
        panic!("a frame")
    };
    rig.session.shared.frame_max = header.raw.len();
    let (_, note) = asked(&mut rig, &came);
    assert_eq!((note.if_held, note.life_ms), (IfHeld::Replace, 600_000));
}

#[test]
fn an_observing_rule_changes_nothing_and_counts() {
    let observing = RuleSpec {
        mode: Mode::Observe,
        ..debounced()
    };
    for (answer, decision) in [
        (put_off(None, 3), PublishDecision::Forwarded),
        (put_off(Some("older"), 3), PublishDecision::Debounced),
        (put_off(Some("a"), 3), PublishDecision::Reentry),
        (leased("older"), PublishDecision::Debounced),
    ] {
        let mut rig = rig(observing.clone());
        let (ticket, _) = asked(&mut rig, &published("a", FieldValue::Void, false));
        assert_eq!(rig.output(Side::Broker), published("a", FieldValue::Void, false));
        rig.answer(ticket, answer);
        assert_eq!(rig.decisions(), [decision]);
    }
}

/// The acknowledgements that the broker was sent.
fn acks(rig: &mut Rig) -> Vec<String> {
    let mut got = rig.broker_got();
    got.retain(|line| line.starts_with("basic.ack"));
    got
}

/// The worker of each question about a delivery, and its ticket.
fn admissions(rig: &mut Rig) -> Vec<(Ticket, String)> {
    let (asks, _) = rig.session.questions();
    let of_deliveries = asks.extract_if(.., |(_, request)| matches!(request, Request::Admit { .. }));
    let admission = |(ticket, request)| match request {
        Request::Admit { worker, .. } => (Ticket(ticket), worker.to_string()),
        other => panic!("not of a delivery: {other:?}"),
    };
    of_deliveries.map(admission).collect()
}

/// A worker whose node is known, of an early delivery that the store has admitted.
fn holding(spec: RuleSpec) -> Rig {
    let mut rig = worker_of(spec);
    rig.client(&qos(8, true));
    rig.broker(&method(1, MethodId::BASIC_QOS_OK, &[]));
    rig.session.shared.worker = "w@one".into();
    rig.client_got();
    rig.broker_got();
    rig.broker(&delivery_with(1, "a", false, &[("eta", IN_FIVE)]));
    let [(ticket, worker)] = &admissions(&mut rig)[..] else {
        panic!("one question")
    };
    assert_eq!(worker, "", "no worker has it");
    rig.admit(*ticket, Admitted::Holds);
    assert_eq!(rig.seen(), [""; 0]);
    assert_eq!(rig.admitted(), [(D::Held, "eta")]);
    rig
}

#[test]
fn an_early_delivery_is_held_until_it_is_due_and_asked_about_again() {
    let mut rig = holding(debounced());
    rig.later(1_000_000);
    let [(ticket, worker)] = &admissions(&mut rig)[..] else {
        panic!("one question")
    };
    assert_eq!(worker, "");
    rig.admit(*ticket, Admitted::Holds);
    rig.later(900_000);
    assert_eq!(admissions(&mut rig), [], "ever more seldom");
    rig.later(100_000);
    let [(ticket, _)] = admissions(&mut rig)[..] else {
        panic!("one question")
    };
    rig.admit(ticket, Admitted::Holds);
    rig.later(2_000_000);
    let [(ticket, _)] = admissions(&mut rig)[..] else {
        panic!("one question")
    };
    rig.admit(ticket, Admitted::Holds);
    assert_eq!(rig.seen(), [""; 0]);
    rig.later(1_000_000);
    let [(ticket, worker)] = &admissions(&mut rig)[..] else {
        panic!("one question")
    };
    assert_eq!(worker, "w@one");
    rig.admit(*ticket, Admitted::Holds);
    assert_eq!(rig.seen(), ["c 1 a"]);
    assert_eq!(rig.admitted(), [(D::Forwarded, "holds")]);
}

#[test]
fn a_held_delivery_that_is_outdated_is_acknowledged_unrun() {
    let mut rig = holding(debounced());
    rig.later(1_000_000);
    let [(ticket, _)] = admissions(&mut rig)[..] else {
        panic!("one question")
    };
    rig.admit(ticket, Admitted::Outdated { newer: "b".into() });
    assert_eq!((rig.seen(), acks(&mut rig)), (vec![], vec!["basic.ack 1".to_owned()]));
    assert_eq!(rig.admitted(), [(D::Superseded, "outdated")]);
    rig.later(10_000_000);
    assert_eq!(admissions(&mut rig), []);
}

#[test]
fn a_held_delivery_that_is_revoked_goes_to_the_worker_which_tells_so() {
    let mut rig = holding(debounced());
    rig.later(1_000_000);
    let [(ticket, _)] = admissions(&mut rig)[..] else {
        panic!("one question")
    };
    rig.admit(ticket, Admitted::Superseded);
    assert_eq!(rig.admitted(), [(D::Superseded, "superseded")]);
}

#[test]
fn an_outdated_delivery_is_acknowledged_at_once() {
    let mut rig = worker_of(debounced());
    let ticket = rig.delivery_asked(1, "a");
    rig.admit(ticket, Admitted::Outdated { newer: "b".into() });
    assert_eq!((rig.seen(), acks(&mut rig)), (vec![], vec!["basic.ack 1".to_owned()]));
    assert_eq!(rig.admitted(), [(D::Superseded, "outdated")]);
}

#[test]
fn a_held_delivery_waits_for_a_newer_one_that_is_only_leased() {
    let mut rig = holding(debounced());
    rig.later(1_000_000);
    for _ in 0..3 {
        let [(ticket, _)] = admissions(&mut rig)[..] else {
            panic!("one question")
        };
        rig.admit(ticket, Admitted::Leased { holder: "b".into() });
        assert_eq!((rig.seen(), acks(&mut rig)), (vec![], vec![]));
        rig.later(100_000);
    }
    let [(ticket, _)] = admissions(&mut rig)[..] else {
        panic!("one question")
    };
    rig.admit(ticket, Admitted::Outdated { newer: "b".into() });
    assert_eq!(acks(&mut rig), ["basic.ack 1"]);
}

#[test]
fn the_lock_of_a_held_delivery_is_renewed_for_no_worker() {
    let mut rig = holding(RuleSpec {
        ttl: Duration::from_secs(1),
        ..debounced()
    });
    rig.later(2_500_000);
    let (_, tells) = rig.session.questions();
    let workers = tells.drain(..).filter_map(|order| match order {
        Request::Renew { worker, .. } => Some(worker.to_string()),
        _ => None,
    });
    assert_eq!(workers.collect::<Vec<_>>(), [""]);
}

#[test]
fn a_silent_store_lets_a_held_delivery_go_once_it_is_due() {
    let mut rig = holding(RuleSpec {
        store_wait: Duration::from_secs(1),
        ..debounced()
    });
    for _ in 0..40 {
        rig.later(250_000);
        for (ticket, _) in admissions(&mut rig) {
            rig.no_answer(ticket);
        }
        if rig.now.unix_ms < NOW_MS + 5000 {
            assert_eq!(rig.seen(), [""; 0]);
        }
    }
    assert_eq!(rig.admitted(), [(D::ForwardedUnchecked, "store_timeout")]);
}

#[test]
fn a_delivery_whose_time_came_with_the_answer_is_asked_about_for_its_worker() {
    let mut rig = worker_of(debounced());
    rig.session.shared.worker = "w@one".into();
    rig.broker(&delivery_with(1, "a", false, &[("eta", IN_FIVE)]));
    let [(ticket, _)] = admissions(&mut rig)[..] else {
        panic!("one question")
    };
    rig.later(6_000_000);
    rig.admit(ticket, Admitted::Holds);
    rig.later(1_000_000);
    let [(ticket, worker)] = &admissions(&mut rig)[..] else {
        panic!("one question")
    };
    assert_eq!(worker, "w@one");
    rig.admit(*ticket, Admitted::Holds);
    assert_eq!(rig.seen(), ["c 1 a"]);
}

#[test]
fn a_run_that_excludes_others_takes_its_lock_once_it_is_due() {
    let mut rig = holding(RuleSpec {
        unique: Some(Unique::UntilStartedAndWhileRunning),
        ..debounced()
    });
    rig.later(5_000_000);
    let [(ticket, _)] = admissions(&mut rig)[..] else {
        panic!("one question")
    };
    rig.admit(ticket, Admitted::Holds);
    let asked = rig.runs_asked();
    rig.ran(asked[0].0, super::hold::waits("other", 7));
    assert_eq!(rig.seen(), [""; 0]);
    rig.later(1_000_000);
    let asked = rig.runs_asked();
    rig.ran(asked[0].0, Ran::Superseded);
    rig.later(1_000_000);
    let [(ticket, _)] = admissions(&mut rig)[..] else {
        panic!("one question")
    };
    rig.admit(ticket, Admitted::Outdated { newer: "b".into() });
    assert_eq!((rig.seen(), acks(&mut rig)), (vec![], vec!["basic.ack 1".to_owned()]));
}

#[test]
fn a_rule_that_does_not_put_off_shows_an_early_delivery() {
    let mut rig = worker_of(spec());
    rig.broker(&delivery_with(1, "a", false, &[("eta", IN_FIVE)]));
    let [(ticket, _)] = admissions(&mut rig)[..] else {
        panic!("one question")
    };
    rig.admit(ticket, Admitted::Holds);
    assert_eq!(rig.seen(), ["c 1 a"]);
}
