//! Duplicates that wait for the end of their holder, and go to the worker as tasks that return its result.

use super::admit::{held_by, worker_with};
use super::*;
use crate::amqp::content::ContentHeader;
use crate::celery::body::{self, Encoding};
use crate::celery::value::Value;
use crate::celery::{Limits, task};
use crate::rules::lock::Fate;
use crate::rules::outcome::{DeliveryDecision, ExceptionReason};
use crate::rules::spec::{Canvas, OnDuplicate, ResultBy};
use crate::session::Fetched;

const CHORD: &str = r#"[[1], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": {"task": "t.total"}}]"#;

fn dedupe() -> RuleSpec {
    RuleSpec {
        canvas: Canvas::Dedupe,
        ..spec()
    }
}

fn worker() -> Rig {
    let settings = Settings {
        reply_prefix: "oncegate.reply.secret.".into(),
        ..Settings::default()
    };
    let mut rig = worker_with(dedupe(), settings);
    rig.client_got();
    rig
}

fn table(id: &str, more: &[(&str, FieldValue<'_>)]) -> Vec<u8> {
    let mut table = headers("t.unique", id);
    let text = |text: &'static str| FieldValue::LongStr(text.as_bytes());
    let all = [
        ("group", text("g1")),
        ("eta", text("2100-01-01T00:00:00+00:00")),
        ("expires", FieldValue::Void),
    ];
    for (name, value) in all.iter().chain(more) {
        put_entry(&mut table, name.as_bytes(), value).expect("short names");
    }
    table
}

/// A delivery of a member of a chord.
fn member(tag: u64, id: &str, redelivered: bool, body: &str) -> Vec<u8> {
    let table = table(id, &[]);
    delivery_of(tag, redelivered, &content(&table, id, body.as_bytes()))
}

fn ended(since_ms: u64) -> Admitted {
    Admitted::Ended {
        holder: "a".into(),
        fate: Fate::Ended { since_ms },
    }
}

/// The content of the only delivery in these bytes: its tag, header and body.
fn only_delivery(bytes: &[u8]) -> (u64, Vec<u8>, Vec<u8>) {
    let (mut rest, mut payloads) = (bytes, Vec::new());
    while let Split::Frame(frame) = frame::split(rest, usize::MAX) {
        if frame.kind != frame::FrameKind::Heartbeat {
            payloads.push(frame.payload.to_vec());
        }
        rest = &rest[frame.raw.len()..];
    }
    let [method, header, body @ ..] = payloads.as_slice() else {
        panic!("{} frames", payloads.len())
    };
    let tag = Deliver::decode(method).expect("a delivery").delivery_tag;
    let body = body.concat();
    assert_eq!(ContentHeader::decode(header).expect("a header").body_size, body.len() as u64);
    (tag, header.clone(), body)
}

impl Rig {
    /// A member is delivered, and the store says this of it.
    fn member_is(&mut self, tag: u64, id: &str, admitted: Admitted) {
        self.broker(&member(tag, id, false, CHORD));
        let asked = self.admissions();
        assert_eq!(asked.iter().map(|(_, id, _)| id.as_str()).collect::<Vec<_>>(), [id]);
        self.admit(asked[0].0, admitted);
    }

    /// A second later the store says this of the one that is held.
    fn then(&mut self, admitted: Admitted) {
        self.later(1_000_000);
        let mut asked = self.admissions();
        if asked.is_empty() {
            // It could not be parked.
            self.later(1);
            asked = self.admissions();
        }
        assert_eq!(asked.len(), 1, "one is held");
        self.admit(asked[0].0, admitted);
    }

    /// The result of the holder is asked for.
    fn fetch(&mut self, fetched: &Fetched) {
        let mut asked = std::mem::take(self.session.fetches());
        let (ticket, fetch) = asked.pop().expect("it is asked for");
        assert_eq!((&*fetch.holder, asked.len()), ("a", 0));
        self.session.handle_fetched(ticket, fetched, self.now);
    }

    /// What the broker has been told but for the reading ahead.
    fn acks(&mut self) -> Vec<String> {
        let mut lines = self.broker_got();
        lines.retain(|line| line != "basic.qos" && line != "basic.consume");
        lines
    }

    fn deliveries(&mut self) -> Vec<(DeliveryDecision, &'static str)> {
        let events = self.session.events().drain(..);
        let decided = events.filter_map(|event| match event {
            Event::Admission(delivery) => Some((delivery.decision, delivery.reason)),
            _ => None,
        });
        decided.collect()
    }

    fn joins(&mut self, value: &str) -> (u64, Vec<u8>, Vec<u8>) {
        self.fetch(&Fetched::Value(value.as_bytes().into()));
        only_delivery(&self.output(Side::Client))
    }
}

#[test]
fn a_duplicate_member_is_forwarded_and_holds_nothing() {
    for on_duplicate in [OnDuplicate::Drop, OnDuplicate::Reject, OnDuplicate::Raise, OnDuplicate::Replace] {
        let mut rig = Rig::new(RuleSpec { on_duplicate, ..dedupe() });
        rig.client(&method(1, MethodId::CONFIRM_SELECT, &[0]));
        rig.broker(&method(1, MethodId::CONFIRM_SELECT_OK, &[]));
        rig.output(Side::Broker);
        let table = table("b", &[]);
        let bytes = publish_of(&content(&table, "b", CHORD.as_bytes()));
        rig.client(&bytes);
        let ticket = rig.asked()[0].0;
        assert_eq!(rig.output(Side::Broker), b"");
        rig.answer(ticket, held("a"));
        assert_eq!(rig.output(Side::Broker), bytes, "{on_duplicate:?}");
        assert_eq!(rig.decisions(), [PublishDecision::Forwarded]);
        assert!(rig.session.questions().1.is_empty());
    }
}

#[test]
fn it_waits_and_returns_its_holders_result() {
    let mut rig = worker();
    rig.member_is(1, "b", held_by("a"));
    assert_eq!(rig.deliveries(), [(DeliveryDecision::Held, "holder")]);
    rig.then(held_by("a"));
    rig.then(ended(0));
    assert_eq!(rig.client_got(), [""; 0]);
    let (tag, header, octets) = rig.joins(r#"{"x": [1]}"#);
    assert_eq!(rig.deliveries(), [(DeliveryDecision::Joined, "joined")]);
    assert_eq!(tag, 1);
    let properties = ContentHeader::decode(&header).expect("a header").properties;
    let read = task::read(&properties).expect("readable").expect("a task");
    assert_eq!(
        (&*read.name, &*read.id, read.eta, read.group),
        ("celery.accumulate", "b", None, true)
    );
    let headers = properties.headers.expect("headers");
    let text = |name: &[u8]| headers.get(name).ok().flatten().and_then(|value| value.as_str().map(str::to_owned));
    assert_eq!(text(b"shadow").as_deref(), Some("t.unique"));
    assert_eq!(text(b"kwargsrepr").as_deref(), Some("{'index': 0}"));
    let expected = CHORD.replace("[[1], {},", r#"[[{"x": [1]}], {"index": 0},"#);
    assert_eq!(String::from_utf8_lossy(&octets), expected);
    let encoding = Encoding::of(&properties).expect("an encoding");
    assert!(matches!(body::load(&encoding, &octets, Limits::new(1 << 20)), Ok(Value::List(parts)) if parts.len() == 3));
    // Its acknowledgement settles the delivery that the broker has.
    rig.client(&ack(1, 1, false));
    assert_eq!(rig.acks(), ["basic.ack 1"]);
    assert!(
        rig.session
            .questions()
            .1
            .iter()
            .all(|order| !matches!(order, Request::Renew { .. }))
    );
}

#[test]
fn a_holder_that_ended_before_is_asked_about_at_once() {
    let mut rig = worker();
    rig.member_is(1, "b", ended(3_600_000));
    let (_, _, octets) = rig.joins("null");
    assert!(octets.starts_with(br#"[[null], {"index": 0}, "#));
}

#[test]
fn others_go_on_meanwhile() {
    let mut rig = worker();
    rig.member_is(1, "b", held_by("a"));
    rig.member_is(2, "c", Admitted::Holds);
    assert_eq!(only_delivery(&rig.output(Side::Client)).0, 2);
    rig.then(ended(0));
    assert_eq!(rig.joins("1").0, 3);
    rig.client(&ack(1, 3, false));
    assert_eq!(rig.acks(), ["basic.ack 1"]);
}

#[test]
fn without_a_result_it_goes_out_expired() {
    let cases = [
        (vec![], Some(Fate::Failed), "holder_failed"),
        (vec![Fetched::Failed], None, "holder_failed"),
        (vec![Fetched::Revoked], None, "holder_failed"),
        (vec![Fetched::Nothing; 6], None, "result_unknown"),
    ];
    for (fetches, fate, reason) in cases {
        let mut rig = worker();
        rig.member_is(1, "b", held_by("a"));
        rig.deliveries();
        if let Some(fate) = fate {
            rig.then(Admitted::Ended { holder: "a".into(), fate });
        }
        for (second, fetched) in fetches.iter().enumerate() {
            assert!(rig.client_got().iter().all(|line| line == "Heartbeat"));
            rig.then(ended(second as u64 * 1_000));
            rig.fetch(fetched);
        }
        assert_eq!(rig.deliveries(), [(DeliveryDecision::Joined, reason)]);
        let (_, header, octets) = only_delivery(&rig.output(Side::Client));
        let properties = ContentHeader::decode(&header).expect("a header").properties;
        let read = task::read(&properties).expect("readable").expect("a task");
        assert_eq!(&*read.name, "t.unique");
        assert!(read.expires.is_some_and(|expires| expires < 1_600_000_000_000), "{reason}");
        assert_eq!(octets, CHORD.as_bytes());
    }
}

#[test]
fn one_that_only_is_said_to_be_revoked_may_run_on() {
    let mut rig = worker();
    let begun = || Admitted::Ended {
        holder: "a".into(),
        fate: Fate::Begun,
    };
    rig.member_is(1, "b", begun());
    rig.fetch(&Fetched::Revoked);
    for _ in 0..10 {
        rig.then(begun());
        rig.fetch(&Fetched::Nothing);
    }
    rig.then(begun());
    assert!(rig.joins("5").2.starts_with(b"[[5], "));
}

#[test]
fn where_the_holder_is_gone_without_a_word_it_runs_itself() {
    for (admitted, reason) in [(Admitted::Holds, "holds"), (Admitted::Passes, "passes")] {
        let mut rig = worker();
        rig.member_is(1, "b", held_by("a"));
        rig.deliveries();
        let renews = admitted == Admitted::Holds;
        rig.then(admitted);
        assert_eq!(rig.deliveries(), [(DeliveryDecision::Forwarded, reason)]);
        assert_eq!(rig.output(Side::Client), member(1, "b", false, CHORD));
        rig.lives(31_000_000);
        let orders = rig.session.questions().1;
        assert_eq!(orders.iter().any(|order| matches!(order, Request::Renew { .. })), renews);
    }
}

#[test]
fn while_it_waits_nothing_is_renewed() {
    let mut rig = worker();
    rig.member_is(1, "b", held_by("a"));
    for _ in 0..40 {
        rig.then(held_by("a"));
        rig.client(&[8, 0, 0, 0, 0, 0, 0, frame::END]);
        rig.broker(&[8, 0, 0, 0, 0, 0, 0, frame::END]);
    }
    assert!(rig.session.questions().1.is_empty());
}

#[test]
fn a_silent_store_lets_it_run() {
    let mut rig = worker();
    rig.member_is(1, "b", held_by("a"));
    for _ in 0..12 {
        rig.later(1_000_000);
        for (ticket, ..) in rig.admissions() {
            rig.no_answer(ticket);
        }
    }
    assert!(rig.output(Side::Client).ends_with(&member(1, "b", false, CHORD)));
}

#[test]
fn one_that_cannot_be_rewritten_runs() {
    let mut rig = worker();
    let hybrid = r#"{"args": [1], "kwargs": {}, "chord": {"task": "t.total"}}"#;
    rig.broker(&member(1, "b", false, hybrid));
    let ticket = rig.admissions()[0].0;
    rig.admit(ticket, held_by("a"));
    assert_eq!(rig.output(Side::Client), member(1, "b", false, hybrid));
    let counted = rig.session.events().drain(..).any(|event| {
        matches!(
            event,
            Event::Exception {
                reason: ExceptionReason::NotJoined,
                ..
            }
        )
    });
    assert!(counted);
}

#[test]
fn a_redelivery_is_looked_for_among_the_parked_and_asked_about_the_same() {
    let mut rig = worker();
    rig.broker(&member(1, "b", true, CHORD));
    let (asks, _) = rig.session.questions();
    let (ticket, request) = asks.pop().expect("it is looked for");
    assert!(matches!(request, Request::FindParked { .. }));
    rig.session
        .handle_answer(Ticket(ticket), Ok(Reply::Parked(crate::rules::park::Found::Unknown)), rig.now);
    let asked = rig.admissions();
    assert!(asked[0].2, "it was delivered before");
    rig.admit(asked[0].0, ended(0));
    assert!(rig.joins("1").2.starts_with(b"[[1], "));
}

#[test]
fn what_is_no_member_is_dropped_or_carried_as_the_results_are() {
    let mut rig = worker();
    let ticket = rig.delivery_asked(1, "b");
    rig.admit(ticket, held_by("a"));
    assert_eq!(rig.acks(), ["basic.ack 1"]);
    let spec = RuleSpec {
        result_by: ResultBy::Worker,
        ..spec()
    };
    let mut rig = worker_with(spec, Settings::default());
    let ticket = rig.delivery_asked(1, "b");
    rig.admit(ticket, held_by("a"));
    assert_eq!(
        rig.deliveries(),
        [(DeliveryDecision::Forwarded, "unfit")],
        "its headers do not say when it expires"
    );
    rig.client_got();
    rig.broker(&super::admit::delivery_with(2, "c", false, &[("expires", FieldValue::Void)]));
    let ticket = rig.admissions()[0].0;
    rig.admit(ticket, held_by("a"));
    assert_eq!(rig.deliveries(), [(DeliveryDecision::Held, "holder")]);
}

#[test]
fn a_worker_reads_what_only_it_can_read() {
    let mut rig = worker();
    rig.member_is(1, "b", held_by("a"));
    rig.member_is(2, "c", held_by("a"));
    rig.later(1_000_000);
    for (ticket, ..) in rig.admissions() {
        rig.admit(ticket, ended(1_500));
    }
    let fetches = std::mem::take(rig.session.fetches());
    let token = fetches[0].1.token.clone();
    assert!(fetches.iter().all(|(_, fetch)| fetch.token == token) && token.len() == 32);
    for (ticket, _) in fetches {
        rig.session.handle_fetched(ticket, &Fetched::Unread, rig.now);
    }
    // One message for both, which the broker knows nothing of.
    let (tag, header, octets) = only_delivery(&rig.output(Side::Client));
    assert_eq!(tag, 1);
    let properties = ContentHeader::decode(&header).expect("a header").properties;
    assert_eq!(task::peek(&properties), Some(&b"celery.chord_unlock"[..]));
    let text = String::from_utf8_lossy(&octets);
    assert!(text.contains(r#""result":[[["a",null],null]]"#), "{text}");
    rig.client(&ack(1, 1, false));
    assert_eq!(rig.acks(), [""; 0]);
    let routing_key = format!("oncegate.value.{token}");
    assert!(text.contains(&routing_key));
    let table = headers("celery.accumulate", "oncegate-x");
    let answer = content(&table, "oncegate-x", b"[[[{\"v\": 1}]], {}, {}]");
    rig.client(&message("amq.direct", &routing_key, answer.properties, "[[[{\"v\": 1}]], {}, {}]"));
    assert_eq!(rig.acks(), [""; 0]);
    let values: Vec<_> = std::mem::take(rig.session.events())
        .into_iter()
        .filter_map(|event| match event {
            Event::Value(value) => Some((value.name.to_string(), value.value.to_vec())),
            _ => None,
        })
        .collect();
    assert_eq!(values, [(crate::session::name_of_token(&token), b"{\"v\": 1}".to_vec())]);
    // What the client settles up to a tag settles what it has seen.
    rig.member_is(3, "d", Admitted::Holds);
    assert_eq!(only_delivery(&rig.output(Side::Client)).0, 3);
    rig.client(&ack(1, 3, true));
    assert_eq!(rig.acks(), ["basic.ack 3"]);
}

#[test]
fn a_worker_that_does_not_answer_leaves_them_without_a_result() {
    let mut rig = worker();
    rig.member_is(1, "b", ended(2_000));
    rig.fetch(&Fetched::Unread);
    assert_eq!(only_delivery(&rig.output(Side::Client)).0, 1);
    for _ in 0..20 {
        rig.then(ended(2_000));
        rig.fetch(&Fetched::Unread);
        rig.client(&[8, 0, 0, 0, 0, 0, 0, frame::END]);
        rig.broker(&[8, 0, 0, 0, 0, 0, 0, frame::END]);
    }
    // It may have much to do before.
    assert!(rig.client_got().iter().all(|line| line == "Heartbeat"));
    rig.client(&ack(1, 1, false));
    rig.deliveries();
    for _ in 0..5 {
        rig.then(ended(2_000));
        rig.fetch(&Fetched::Unread);
    }
    assert_eq!(rig.deliveries(), [(DeliveryDecision::Joined, "result_unknown")]);
}

#[test]
fn what_others_publish_under_such_a_key_passes() {
    let mut rig = worker();
    let table = headers("celery.accumulate", "x");
    for (exchange, routing_key) in [
        ("amq.direct", "oncegate.value.short"),
        ("other", "oncegate.value.0123456789abcdef0123456789abcdef"),
        ("amq.direct", "oncegate.value.0123456789abcdef0123456789abcdeg"),
    ] {
        let bytes = message(exchange, routing_key, content(&table, "x", b"").properties, "[[[1]], {}, {}]");
        rig.client(&bytes);
        assert_eq!(rig.output(Side::Broker), bytes, "{exchange} {routing_key}");
    }
}
