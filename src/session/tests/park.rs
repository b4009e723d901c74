//! Held deliveries that are parked or dead-lettered, and parked messages that come back.

use super::hold::{qos, running, waits, worker_with};
use super::*;
use crate::amqp::content::ContentHeader;
use crate::rules::outcome::{DeliveryDecision as D, ExceptionReason};
use crate::rules::park::{Found, ParkNote, Parked, Seen, Token};
use crate::rules::running::{IfBusy, Ran};
use crate::rules::spec::{DeadLetter, OnRunning};
use crate::session::{QueueKind, Republish, Target};
use std::time::Duration;

const HEARTBEAT: [u8; 8] = [8, 0, 0, 0, 0, 0, 0, frame::END];
const TOKEN_HEADER: &str = "x-oncegate-park";

/// A worker whose deliveries wait for five seconds at most before they are parked.
fn worker() -> Rig {
    worker_of(running())
}

fn worker_of(spec: RuleSpec) -> Rig {
    let mut rig = worker_with(spec, Settings::default());
    rig.parks = true;
    rig
}

fn waiting() -> Ran {
    waits("other", 1_800_000_000_000)
}

/// A delivery with these headers beside the task and the id.
struct Delivery<'a> {
    tag: u64,
    id: &'a str,
    task: &'a str,
    redelivered: bool,
    more: Vec<(&'a str, FieldValue<'a>)>,
}

fn delivery<'a>(tag: u64, id: &'a str, more: &[(&'a str, FieldValue<'a>)]) -> Delivery<'a> {
    Delivery {
        tag,
        id,
        task: "t.unique",
        redelivered: false,
        more: more.to_vec(),
    }
}

impl Delivery<'_> {
    fn frames(&self) -> Vec<u8> {
        let mut table = headers(self.task, self.id);
        for (name, value) in &self.more {
            put_entry(&mut table, name.as_bytes(), value).expect("short names");
        }
        let method = Deliver {
            consumer_tag: b"c",
            delivery_tag: self.tag,
            redelivered: self.redelivered,
            exchange: b"",
            routing_key: b"q",
            tag_offset: 0,
        };
        let mut out = Vec::new();
        encode::basic_deliver(&mut out, 1, &method, &content(&table, self.id, BODY), 131_072).expect("it fits");
        out
    }
}

fn text(text: &str) -> FieldValue<'_> {
    FieldValue::LongStr(text.as_bytes())
}

impl Rig {
    fn asks_of(&mut self, is_meant: fn(&Request) -> bool) -> Vec<(Ticket, Request)> {
        let (asks, _) = self.session.questions();
        let meant = asks.extract_if(.., |(_, request)| is_meant(request));
        meant.map(|(ticket, request)| (Ticket(ticket), request)).collect()
    }

    /// The copies that the store is asked to note: ticket, task id, token, note.
    fn notes(&mut self) -> Vec<(Ticket, String, Token, Arc<ParkNote>)> {
        let asks = self.asks_of(|request| matches!(request, Request::Park { .. }));
        let note = |(ticket, request)| match request {
            Request::Park { id, token, note } => (ticket, id.to_string(), token, note),
            other => panic!("not a note: {other:?}"),
        };
        asks.into_iter().map(note).collect()
    }

    fn note(&mut self) -> (Ticket, Token, Arc<ParkNote>) {
        let [(ticket, _, token, note)] = &self.notes()[..] else {
            panic!("one note")
        };
        (*ticket, token.clone(), Arc::clone(note))
    }

    /// The questions whether a delivery was parked: ticket, task id, and as what it was seen.
    fn sought(&mut self) -> Vec<(Ticket, String, Seen)> {
        let asks = self.asks_of(|request| matches!(request, Request::FindParked { .. }));
        let one = |(ticket, request)| match request {
            Request::FindParked { id, seen, .. } => (ticket, id.to_string(), seen),
            other => panic!("not a search: {other:?}"),
        };
        asks.into_iter().map(one).collect()
    }

    fn reply(&mut self, ticket: Ticket, reply: Reply) {
        self.session.handle_answer(ticket, Ok(reply), self.now);
    }

    fn sending(&mut self) -> (Ticket, Republish) {
        let mut all = std::mem::take(self.session.republishes());
        let one = all.pop().expect("a message to publish");
        assert!(all.is_empty(), "one message");
        one
    }

    fn published(&mut self, ticket: Ticket, outcome: Result<(), RepublishFault>) {
        self.session.handle_republished(ticket, outcome, self.now);
    }

    fn marking(&mut self) -> Ticket {
        let asks = self.asks_of(|request| matches!(request, Request::MarkParked { .. }));
        let [(ticket, _)] = &asks[..] else { panic!("one mark: {asks:?}") };
        *ticket
    }

    /// Time passes, and both peers are heard; the store says that all that are held wait on.
    pub(super) fn waits_for(&mut self, us: u64) {
        let end = self.now.us + us;
        while self.now.us < end {
            self.later((end - self.now.us).min(1_000_000));
            for (ticket, ..) in self.runs_asked() {
                self.ran(ticket, waiting());
            }
            self.client(&HEARTBEAT);
            self.broker(&HEARTBEAT);
            self.session.questions().1.retain(|order| !matches!(order, Request::Renew { .. }));
        }
    }

    /// A delivery that waits for a run is about to be parked.
    fn parks(&mut self, tag: u64, id: &str) -> (Ticket, Token, Arc<ParkNote>) {
        let ticket = self.run_asked_by("c", tag, id);
        self.ran(ticket, waiting());
        self.waits_for(5_000_000);
        self.broker_got();
        self.decided();
        self.note()
    }

    /// It is, up to this message.
    fn sends(&mut self, tag: u64, id: &str) -> (Token, Ticket, Republish) {
        let (ticket, token, _) = self.parks(tag, id);
        self.reply(ticket, Reply::Done);
        let (ticket, republish) = self.sending();
        (token, ticket, republish)
    }

    /// What the broker was told of deliveries.
    fn settled(&mut self) -> Vec<String> {
        let mut lines = self.broker_got();
        lines.retain(|line| line.starts_with("basic.ack") || line.starts_with("basic.nack"));
        lines
    }

    fn nothing_is_left(&mut self) {
        assert_eq!((self.session.held(), self.session.held_bytes()), ((0, None), 0));
        assert!(self.session.shared.abandoned_runs.is_empty());
        assert!(self.session.republishes().is_empty());
    }
}

fn parked(token: &str) -> Found {
    Found::Parked(Parked {
        token: Token(token.into()),
        digest: Digest([9; 32]),
        rule: "r".into(),
        place_ms: Some(77),
    })
}

#[test]
fn what_waits_too_long_is_noted_published_marked_and_acknowledged() {
    let mut rig = worker();
    let (ticket, token, note) = rig.parks(1, "x");
    assert_eq!((&*note.rule, note.place_ms), ("r", Some(1_800_000_000_000)));
    assert_eq!(note.life_ms, 2_500 + 86_400_000, "half of what it has waited, and a day");
    rig.waits_for(3_000_000);
    assert!(rig.session.republishes().is_empty(), "nothing before the store knows of it");
    assert!(rig.runs_asked().is_empty(), "and it is not asked whether it may run");
    rig.reply(ticket, Reply::Done);
    let (ticket, republish) = rig.sending();
    let target = Target::Delay {
        queue: "q".into(),
        wait_ms: 4_000,
        kind: QueueKind::Classic,
    };
    assert_eq!((republish.target, &*republish.body), (target, BODY));
    let header = ContentHeader::decode(&republish.header).expect("a content header");
    let headers = header.properties.headers.expect("headers");
    assert_eq!(headers.get(TOKEN_HEADER.as_bytes()), Ok(Some(text(&token.0))));
    assert_eq!(rig.broker_got(), [""; 0], "nothing before the broker has it");
    rig.published(ticket, Ok(()));
    let ticket = rig.marking();
    assert_eq!(rig.broker_got(), [""; 0]);
    rig.reply(ticket, Reply::Done);
    assert_eq!(rig.broker_got(), ["basic.ack 1", "basic.qos"]);
    assert_eq!(rig.decided(), [(D::Parked, "running")]);
    assert_eq!(rig.told(), ["leaves x"], "nobody waits behind it");
    rig.nothing_is_left();
    rig.waits_for(40_000_000);
    assert!(rig.notes().is_empty() && rig.client_got().iter().all(|line| line == "Heartbeat"));
}

#[test]
fn the_mark_may_fail_and_the_original_goes_all_the_same() {
    for answer in [Err(StoreSilent::Timeout), Ok(Reply::Lock(None))] {
        let mut rig = worker();
        let (_, ticket, _) = rig.sends(1, "x");
        rig.published(ticket, Ok(()));
        let ticket = rig.marking();
        rig.session.handle_answer(ticket, answer, rig.now);
        assert_eq!(rig.broker_got()[0], "basic.ack 1");
        rig.nothing_is_left();
    }
}

#[test]
fn one_that_cannot_be_parked_stays_held_and_is_tried_again() {
    let faults = [
        None,
        Some(RepublishFault::NotAvailable),
        Some(RepublishFault::Refused),
        Some(RepublishFault::Returned),
        Some(RepublishFault::Nacked),
        Some(RepublishFault::Unknown),
    ];
    for fault in faults {
        let mut rig = worker();
        let (first, token, _) = rig.parks(1, "x");
        let fails = |rig: &mut Rig, ticket: Ticket| match fault {
            None => rig.silence(ticket),
            Some(fault) => {
                rig.reply(ticket, Reply::Done);
                let (ticket, _) = rig.sending();
                rig.published(ticket, Err(fault));
            }
        };
        fails(&mut rig, first);
        let reason = fault.map_or("store_timeout", RepublishFault::as_str);
        let told = |event: &Event| matches!(event, Event::NotParked { reason: why, .. } if *why == reason);
        assert_eq!(rig.session.events().iter().filter(|event| told(event)).count(), 1, "{fault:?}");
        // It may have become free meanwhile.
        rig.later(0);
        let asked = rig.runs_asked();
        assert_eq!(asked.len(), 1, "{fault:?}");
        rig.ran(asked[0].0, waiting());
        rig.waits_for(29_000_000);
        assert!(rig.notes().is_empty(), "{fault:?}: after half a minute");
        assert_eq!((rig.session.held().0, rig.settled()), (1, vec![]));
        rig.waits_for(2_000_000);
        let (second, newer, _) = rig.note();
        assert_ne!(token, newer, "{fault:?}");
        fails(&mut rig, second);
        rig.waits_for(59_000_000);
        assert!(rig.notes().is_empty(), "{fault:?}: each pause is longer");
        rig.waits_for(2_000_000);
        let (third, newest, _) = rig.note();
        rig.reply(third, Reply::Done);
        let (third, _) = rig.sending();
        rig.published(third, Err(RepublishFault::Unknown));
        rig.later(1_000_000);
        let [(ticket, ..)] = rig.runs_asked()[..] else {
            panic!("a question")
        };
        rig.ran(ticket, Ran::Runs);
        assert_eq!(rig.seen().last().map(|line| &**line), Some("c 1 x"));
        rig.told();
        // The broker may have its copy: that must not run too.
        rig.client(&ack(1, 1, false));
        assert_eq!(rig.told(), [format!("done x {}", newest.0), "signal x Acked".to_owned()]);
    }
}

#[test]
fn where_too_much_is_on_its_way_it_is_tried_again_soon() {
    let mut rig = worker();
    for (tag, id) in [(1, "x"), (2, "y")] {
        rig.waits(tag, id);
    }
    rig.waits_for(5_000_000);
    for (ticket, ..) in rig.notes() {
        rig.reply(ticket, Reply::Done);
    }
    let first = std::mem::take(rig.session.republishes());
    for ((ticket, _), outcome) in first.into_iter().zip([Err(RepublishFault::Full), Ok(())]) {
        rig.published(ticket, outcome);
    }
    let ticket = rig.marking();
    rig.reply(ticket, Reply::Done);
    for _ in 0..3 {
        rig.waits_for(1_500_000);
        let (ticket, ..) = rig.note();
        rig.reply(ticket, Reply::Done);
        let (ticket, _) = rig.sending();
        rig.published(ticket, Err(RepublishFault::Full));
    }
    assert_eq!(rig.session.held().0, 1, "no pause is longer than that before it");
}

#[test]
fn while_nothing_can_be_published_only_one_is_tried_at_a_time() {
    let mut rig = worker();
    for (tag, id) in [(1, "x"), (2, "y"), (3, "z")] {
        rig.waits(tag, id);
    }
    rig.waits_for(5_000_000);
    let notes = rig.notes();
    assert_eq!(notes.len(), 3);
    for (ticket, ..) in notes {
        rig.reply(ticket, Reply::Done);
    }
    for (ticket, _) in std::mem::take(rig.session.republishes()) {
        rig.published(ticket, Err(RepublishFault::NotAvailable));
    }
    rig.waits_for(31_000_000);
    let (ticket, ..) = rig.note();
    rig.reply(ticket, Reply::Done);
    let (ticket, _) = rig.sending();
    rig.published(ticket, Ok(()));
    let ticket = rig.marking();
    rig.reply(ticket, Reply::Done);
    rig.waits_for(31_000_000);
    assert_eq!(rig.notes().len(), 2, "the others follow");
}

#[test]
fn at_half_of_the_consumer_timeout_it_goes_back_if_it_cannot_be_parked() {
    let mut rig = worker_of(RuleSpec {
        hold_max: Duration::from_secs(10_000),
        ..running()
    });
    rig.waits(1, "x");
    rig.waits_for(899_000_000);
    assert!(rig.notes().is_empty());
    rig.broker_got();
    rig.waits_for(1_000_000);
    let (ticket, ..) = rig.note();
    rig.waits_for(5_000_000);
    assert_eq!(rig.settled(), [""; 0], "that is waited for");
    rig.reply(ticket, Reply::Done);
    let (ticket, _) = rig.sending();
    rig.published(ticket, Err(RepublishFault::Nacked));
    rig.later(0);
    assert_eq!(rig.broker_got()[0], "basic.nack 1");
    rig.nothing_is_left();
}

#[test]
fn a_question_that_is_open_is_answered_first() {
    let mut rig = worker();
    let ticket = rig.run_asked_by("c", 1, "x");
    rig.ran(ticket, waiting());
    rig.waits_for(4_000_000);
    rig.later(999_000);
    rig.later(1_000);
    let asked = rig.runs_asked();
    assert_eq!((asked.len(), rig.notes().len()), (1, 0));
    rig.later(500_000);
    assert!(rig.notes().is_empty());
    rig.ran(asked[0].0, waiting());
    let (ticket, ..) = rig.note();
    rig.reply(ticket, Reply::Done);
    rig.sending();
}

#[test]
fn a_wait_for_a_run_grows_up_to_half_a_minute() {
    for (waited_ms, wait_ms) in [(0, 1_000), (9_000, 4_500), (1_000_000, 32_000)] {
        let mut rig = worker();
        let ticket = rig.run_asked_by("c", 1, "x");
        let since = rig.now.unix_ms + 5_000 - waited_ms;
        rig.ran(ticket, waits("other", since));
        for _ in 0..5 {
            rig.later(1_000_000);
            for (ticket, ..) in rig.runs_asked() {
                rig.ran(ticket, waits("other", since));
            }
        }
        let (ticket, ..) = rig.note();
        rig.reply(ticket, Reply::Done);
        let (_, republish) = rig.sending();
        assert!(
            matches!(republish.target, Target::Delay { wait_ms: told, .. } if told == wait_ms),
            "{republish:?}"
        );
    }
}

#[test]
fn a_time_that_is_far_off_parks_at_once() {
    let mut rig = worker();
    rig.broker(&delivery(1, "x", &[("eta", text("2027-01-15T08:10:00+00:00"))]).frames());
    let (ticket, _, note) = rig.note();
    assert_eq!(note.place_ms, None);
    rig.reply(ticket, Reply::Done);
    let (ticket, republish) = rig.sending();
    assert!(matches!(republish.target, Target::Delay { wait_ms: 600_000, .. }));
    rig.published(ticket, Ok(()));
    let ticket = rig.marking();
    rig.reply(ticket, Reply::Done);
    assert_eq!(rig.decided(), [(D::Held, "eta"), (D::Parked, "eta")]);
    assert_eq!(rig.told(), [""; 0], "it has no place");
    // One that is near is waited for.
    rig.broker(&delivery(2, "y", &[("eta", text("2027-01-15T08:00:04+00:00"))]).frames());
    assert!(rig.notes().is_empty());
    rig.waits_for(4_000_000);
    assert!(rig.notes().is_empty());
}

#[test]
fn what_has_expired_or_whose_queue_is_not_known_is_not_parked() {
    let mut rig = worker();
    rig.broker(&delivery(1, "x", &[("expires", text("2027-01-15T08:00:03+00:00"))]).frames());
    let [(ticket, ..)] = rig.runs_asked()[..] else {
        panic!("a question")
    };
    rig.ran(ticket, waiting());
    rig.waits_for(30_000_000);
    assert!(rig.notes().is_empty());

    // A queue of which the broker chooses the name, declared on another connection.
    let mut rig = worker();
    rig.client(&method(1, MethodId::BASIC_CONSUME, b"\0\0\0\x01d\0\0\0\0\0"));
    rig.broker(&method(1, MethodId::BASIC_CONSUME_OK, b"\x01d"));
    rig.client_got();
    rig.waits_by("d", 1, "x");
    rig.waits_for(30_000_000);
    assert!(rig.notes().is_empty());
}

#[test]
fn what_is_left_of_its_life_goes_along() {
    let mut rig = worker();
    rig.broker(&delivery(1, "x", &[("expires", text("2027-01-15T08:00:30+00:00"))]).frames());
    let [(ticket, ..)] = rig.runs_asked()[..] else {
        panic!("a question")
    };
    rig.ran(ticket, waiting());
    rig.waits_for(5_000_000);
    let (ticket, ..) = rig.note();
    rig.reply(ticket, Reply::Done);
    let (_, republish) = rig.sending();
    let header = ContentHeader::decode(&republish.header).expect("a content header");
    assert_eq!(header.properties.expiration, Some(&b"25000"[..]));
}

#[test]
fn a_quorum_queue_is_known_by_its_declaration_and_by_its_count() {
    let mut rig = worker();
    rig.broker(&delivery(1, "x", &[("x-delivery-count", FieldValue::I64(1))]).frames());
    let mut arguments = Vec::new();
    put_entry(&mut arguments, b"x-queue-type", &text("quorum")).expect("it fits");
    let mut declare = b"\0\0\x01q\x02".to_vec();
    declare.extend_from_slice(&(arguments.len() as u32).to_be_bytes());
    declare.extend_from_slice(&arguments);
    rig.client(&method(1, MethodId::QUEUE_DECLARE, &declare));
    rig.broker(&delivery(2, "y", &[]).frames());
    for (ticket, ..) in rig.runs_asked() {
        rig.ran(ticket, waiting());
    }
    rig.waits_for(5_000_000);
    for (ticket, ..) in rig.notes() {
        rig.reply(ticket, Reply::Done);
    }
    let kind = |republish: &Republish| {
        matches!(
            republish.target,
            Target::Delay {
                kind: QueueKind::Quorum,
                ..
            }
        )
    };
    let sent = std::mem::take(rig.session.republishes());
    assert_eq!(sent.iter().filter(|(_, republish)| kind(republish)).count(), 2);
}

#[test]
fn where_nothing_can_read_ahead_what_takes_the_window_is_parked_at_once() {
    let mut rig = worker();
    rig.client(&qos(0, true));
    rig.broker(&method(1, MethodId::BASIC_QOS_OK, &[]));
    rig.client(&qos(2, false));
    rig.broker(&method(1, MethodId::BASIC_QOS_OK, &[]));
    // Exclusive.
    rig.client(&method(1, MethodId::BASIC_CONSUME, b"\0\0\x01q\x01e\x04\0\0\0\0"));
    rig.broker(&method(1, MethodId::BASIC_CONSUME_OK, b"\x01e"));
    rig.client_got();
    rig.waits_by("e", 1, "x");
    assert!(rig.notes().is_empty());
    rig.waits_by("e", 2, "y");
    assert_eq!(rig.notes().len(), 1);
}

/// How far a delivery has come on its way into a delay queue.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    Noting,
    Sending,
    Marking,
}

/// What ends the holding, and what the broker is told of the delivery then.
type End = (fn(&mut Rig), &'static [&'static str]);

const ENDS: [End; 7] = [
    (|rig| rig.client(&method(1, MethodId::BASIC_CANCEL, b"\x01c\0")), &["basic.nack 1"]),
    (
        |rig| rig.broker(&method(1, MethodId::BASIC_CANCEL, b"\x01c\x01")),
        &["basic.nack 1"],
    ),
    (|rig| rig.drain(0), &["basic.nack 1"]),
    (|rig| rig.client(&method(1, MethodId::CHANNEL_CLOSE, &[0, 200, 0, 0, 0, 0, 0])), &[]),
    (|rig| rig.broker(&method(1, MethodId::CHANNEL_CLOSE, &[1, 150, 0, 0, 0, 0, 0])), &[]),
    (|rig| rig.client(&method(1, MethodId::BASIC_RECOVER, &[1])), &[]),
    (|rig| rig.session.handle_eof(Side::Client, rig.now), &[]),
];

#[test]
fn whatever_ends_its_holding_gives_it_back_at_each_step() {
    for step in [Step::Noting, Step::Sending, Step::Marking] {
        for (number, (end, nacks)) in ENDS.into_iter().enumerate() {
            let mut rig = worker();
            let (note, ..) = rig.parks(1, "x");
            let mut ticket = note;
            if step != Step::Noting {
                rig.reply(ticket, Reply::Done);
                (ticket, _) = rig.sending();
            }
            if step == Step::Marking {
                rig.published(ticket, Ok(()));
                ticket = rig.marking();
            }
            rig.session.cancelled().clear();
            end(&mut rig);
            let got = rig.broker_got();
            let settles = |line: &&String| line.starts_with("basic.nack 1") || line.starts_with("basic.ack");
            let settled: Vec<_> = got.iter().filter(settles).collect();
            assert_eq!(settled, nacks, "{step:?} {number}: {got:?}");
            assert_eq!(rig.told(), ["leaves x"], "{step:?} {number}");
            let asked = step != Step::Sending;
            assert_eq!(rig.session.cancelled().contains(&ticket), asked, "{step:?} {number}");
            // What comes of it now is nobody's.
            match step {
                Step::Noting | Step::Marking => rig.reply(ticket, Reply::Done),
                Step::Sending => rig.published(ticket, Ok(())),
            }
            let late = rig.broker_got().into_iter().filter(|line| line.starts_with("basic.ack")).count();
            assert_eq!(late, 0, "{step:?} {number}");
            assert!(rig.notes().is_empty() && rig.told().is_empty(), "{step:?} {number}");
            rig.nothing_is_left();
        }
    }
}

#[test]
fn its_tag_is_settled_once_among_those_of_others() {
    let mut rig = worker();
    rig.broker(&deliver(1, "c", 1, "t.other", "a"));
    rig.waits(2, "x");
    rig.broker(&deliver(1, "c", 3, "t.other", "b"));
    rig.waits_for(5_000_000);
    rig.broker_got();
    let (ticket, ..) = rig.note();
    rig.reply(ticket, Reply::Done);
    let (ticket, _) = rig.sending();
    rig.published(ticket, Ok(()));
    let ticket = rig.marking();
    // A word for all settles what the client has seen, and nothing else.
    rig.client(&ack(1, 3, true));
    assert_eq!(rig.broker_got(), ["basic.ack 1", "basic.ack 3"]);
    rig.broker(&deliver(1, "c", 4, "t.other", "d"));
    // Inside a publish of the client's nothing is said to the broker.
    let publish = publish(1, "t.other", "p", false);
    let cut = publish.len() - 8;
    rig.client(&publish[..cut]);
    rig.broker_got();
    rig.reply(ticket, Reply::Done);
    assert_eq!(rig.broker_got(), [""; 0]);
    rig.client(&publish[cut..]);
    let rest = rig.output(Side::Broker);
    let Split::Frame(body) = frame::split(&rest, usize::MAX) else {
        panic!("the end of the publish")
    };
    assert_eq!(lines(&rest[body.raw.len()..]), ["basic.ack 2", "basic.qos"]);
    rig.client(&ack(1, 0, true));
    assert_eq!(rig.broker_got(), ["basic.ack 4 multiple"]);
    rig.nothing_is_left();
}

#[test]
fn its_publish_lock_is_renewed_while_it_is_parked() {
    let mut rig = worker_of(RuleSpec {
        unique: Some(Unique::UntilStartedAndWhileRunning),
        ttl: Duration::from_secs(9),
        ..spec()
    });
    rig.broker(&deliver(1, "c", 1, "t.unique", "x"));
    let admissions = rig.admissions();
    rig.admit(admissions[0].0, Admitted::Holds);
    let ticket = rig.runs_asked()[0].0;
    rig.ran(ticket, waiting());
    rig.waits_for(5_000_000);
    let (ticket, _, note) = rig.note();
    assert_eq!(note.digest, Digest([7; 32]), "as the store knows it");
    rig.reply(ticket, Reply::Done);
    let (ticket, _) = rig.sending();
    for _ in 0..4 {
        rig.later(1_000_000);
    }
    assert_eq!(rig.told(), ["alive x None"; 2], "each three seconds");
    rig.published(ticket, Ok(()));
}

#[test]
fn a_copy_that_comes_back_is_decided_under_its_record_and_shown_as_what_it_was() {
    let mut rig = worker();
    let more = [
        ("x-death", FieldValue::Void),
        ("x-first-death-queue", text("d")),
        (TOKEN_HEADER, text("t1")),
    ];
    rig.broker(&delivery(1, "x", &more).frames());
    assert!(rig.runs_asked().is_empty(), "first the store is asked what it is");
    let [(ticket, id, Seen::Copy(token))] = &rig.sought()[..] else {
        panic!("a search for a copy")
    };
    assert_eq!((&**id, &*token.0), ("x", "t1"));
    rig.reply(*ticket, Reply::Parked(parked("t1")));
    assert!(matches!(&rig.session.events()[..], [Event::Unparked { rule }] if &*rule.name == "r"));
    let (asks, _) = rig.session.questions();
    let Some((ticket, Request::Run { claim, busy, .. })) = asks.pop() else {
        panic!("a question for its run")
    };
    assert_eq!(claim.digest, Digest([9; 32]));
    assert_eq!(busy, IfBusy::Wait { place_ms: Some(77) });
    rig.ran(Ticket(ticket), Ran::Runs);
    assert_eq!(rig.told(), ["handed x t1"]);
    let shown = rig.output(Side::Client);
    assert_eq!(shown, delivery(1, "x", &[]).frames(), "as it was before it was parked");
    rig.client(&ack(1, 1, false));
    assert_eq!(rig.told(), ["done x t1", "signal x Acked"]);
}

#[test]
fn a_copy_is_done_when_it_is_rejected_and_not_when_it_is_given_back() {
    for (requeue, told) in [(false, vec!["done x t1", "signal x Rejected"]), (true, vec!["leaves x"])] {
        let mut rig = worker();
        rig.broker(&delivery(1, "x", &[(TOKEN_HEADER, text("t1"))]).frames());
        let ticket = rig.sought()[0].0;
        rig.reply(ticket, Reply::Parked(parked("t1")));
        let ticket = rig.runs_asked()[0].0;
        rig.ran(ticket, Ran::Runs);
        rig.told();
        rig.client(&nack(1, 1, requeue));
        assert_eq!(rig.told(), told);
    }
}

#[test]
fn a_copy_waits_and_is_parked_again_with_a_newer_token() {
    let mut rig = worker();
    rig.broker(&delivery(1, "x", &[(TOKEN_HEADER, text("t1"))]).frames());
    let ticket = rig.sought()[0].0;
    rig.reply(ticket, Reply::Parked(parked("t1")));
    let [(ticket, _, place)] = rig.runs_asked()[..] else {
        panic!("a question")
    };
    assert_eq!(place, Some(77));
    rig.ran(ticket, waiting());
    rig.waits_for(5_000_000);
    let (ticket, token, note) = rig.note();
    assert_eq!(note.digest, Digest([9; 32]));
    rig.reply(ticket, Reply::Done);
    let (ticket, republish) = rig.sending();
    let header = ContentHeader::decode(&republish.header).expect("a content header");
    let headers = header.properties.headers.expect("headers");
    let tokens = headers
        .iter()
        .filter(|entry| entry.is_ok_and(|entry| entry.name == TOKEN_HEADER.as_bytes()));
    assert_eq!(tokens.count(), 1);
    assert_eq!(headers.get(TOKEN_HEADER.as_bytes()), Ok(Some(text(&token.0))));
    // The broker may have the newer one: what is here is not that, and its hand-over says nothing of it.
    rig.published(ticket, Err(RepublishFault::Unknown));
    rig.later(0);
    let ticket = rig.runs_asked()[0].0;
    rig.ran(ticket, Ran::Runs);
    assert_eq!(rig.told(), [""; 0]);
    rig.client(&ack(1, 1, false));
    assert_eq!(rig.told()[0], format!("done x {}", token.0));
}

#[test]
fn an_original_that_comes_again_is_looked_for() {
    let mut rig = worker();
    let again = |tag| Delivery {
        redelivered: true,
        ..delivery(tag, "x", &[])
    };
    rig.broker(&again(1).frames());
    let [(ticket, id, Seen::Original)] = &rig.sought()[..] else {
        panic!("a search for an original")
    };
    assert_eq!(&**id, "x");
    rig.reply(*ticket, Reply::Parked(parked("t1")));
    assert!(rig.session.events().is_empty(), "no copy has come back");
    let ticket = rig.runs_asked()[0].0;
    rig.ran(ticket, Ran::Runs);
    assert_eq!(rig.told(), [""; 0], "the copy was not handed over");
    rig.client(&ack(1, 1, false));
    assert_eq!(rig.told(), ["done x t1", "signal x Acked"]);
    // Its copy is with the broker.
    rig.broker(&again(2).frames());
    let ticket = rig.sought()[0].0;
    rig.broker_got();
    rig.decided();
    rig.reply(ticket, Reply::Parked(Found::Over));
    assert_eq!(rig.broker_got(), ["basic.ack 2"]);
    assert_eq!(rig.decided(), [(D::Dropped, "parked")]);
    assert_eq!(rig.told(), [""; 0]);
    // One that was never parked, or of which the store says nothing, is as any other.
    for (tag, answer) in [(3, Ok(Reply::Parked(Found::Unknown))), (4, Err(StoreSilent::Timeout))] {
        rig.broker(&again(tag).frames());
        let ticket = rig.sought()[0].0;
        rig.session.handle_answer(ticket, answer, rig.now);
        let ticket = rig.runs_asked()[0].0;
        rig.ran(ticket, Ran::Runs);
        rig.client(&ack(1, tag, false));
        assert_eq!(rig.told(), ["signal x Acked"]);
    }
}

#[test]
fn what_takes_no_running_lock_is_never_looked_for() {
    let mut rig = worker_of(spec());
    let again = Delivery {
        redelivered: true,
        ..delivery(1, "x", &[])
    };
    rig.broker(&again.frames());
    assert_eq!((rig.sought().len(), rig.admissions().len()), (0, 1));
}

#[test]
fn a_copy_that_no_rule_takes_now_is_decided_under_the_rule_of_its_record() {
    let copy = Delivery {
        task: "t.other",
        ..delivery(1, "x", &[(TOKEN_HEADER, text("t1"))])
    };
    let mut rig = worker();
    rig.broker(&copy.frames());
    let ticket = rig.sought()[0].0;
    rig.reply(ticket, Reply::Parked(parked("t1")));
    let ticket = rig.runs_asked()[0].0;
    rig.ran(ticket, Ran::Runs);
    assert_eq!((rig.seen(), rig.told()), (vec!["c 1 x".to_owned()], vec!["handed x t1".to_owned()]));
    // The rule is gone, or the record is: it passes, without a trace of its way.
    let gone = Found::Parked(Parked {
        token: Token("t1".into()),
        digest: Digest([9; 32]),
        rule: "gone".into(),
        place_ms: None,
    });
    for found in [gone, Found::Unknown] {
        let mut rig = worker();
        rig.broker(&copy.frames());
        let ticket = rig.sought()[0].0;
        rig.reply(ticket, Reply::Parked(found));
        assert!(rig.runs_asked().is_empty());
        let plain = Delivery {
            more: Vec::new(),
            ..delivery(1, "x", &[])
        };
        let plain = Delivery { task: "t.other", ..plain };
        assert_eq!(rig.output(Side::Client), plain.frames());
    }
    let mut rig = worker();
    rig.broker(&copy.frames());
    let ticket = rig.sought()[0].0;
    rig.reply(ticket, Reply::Parked(Found::Over));
    assert_eq!((rig.broker_got(), rig.client_got()), (vec!["basic.ack 1".to_owned()], vec![]));
}

#[test]
fn what_comes_behind_a_search_waits_for_its_turn() {
    let mut rig = worker();
    rig.broker(&delivery(1, "x", &[(TOKEN_HEADER, text("t1"))]).frames());
    rig.broker(&deliver(1, "c", 2, "t.other", "o"));
    assert_eq!(rig.client_got(), [""; 0]);
    let ticket = rig.sought()[0].0;
    rig.reply(ticket, Reply::Parked(Found::Unknown));
    assert_eq!(rig.client_got(), [""; 0]);
    let ticket = rig.runs_asked()[0].0;
    rig.ran(ticket, Ran::Runs);
    assert_eq!(rig.seen(), ["c 1 x", "c 2 o"]);
    assert_eq!(rig.session.held_bytes(), 0);
}

#[test]
fn a_search_ends_with_its_channel_with_a_drain_and_at_the_bound() {
    let copy = delivery(1, "x", &[(TOKEN_HEADER, text("t1"))]).frames();
    for (number, (end, _)) in ENDS.into_iter().enumerate().filter(|(number, _)| *number >= 2) {
        let mut rig = worker();
        rig.broker(&copy);
        let ticket = rig.sought()[0].0;
        end(&mut rig);
        assert!(rig.session.cancelled().contains(&ticket), "{number}");
        rig.reply(ticket, Reply::Parked(parked("t1")));
        assert!(rig.runs_asked().is_empty() && rig.seen().is_empty(), "{number}");
        assert_eq!(rig.session.held_bytes(), 0, "{number}");
        let given_back = rig.broker_got().contains(&"basic.nack 1".to_owned());
        assert_eq!(given_back, number == 2, "a drain gives it back, all others have taken it back");
    }
    let mut rig = worker_with(
        running(),
        Settings {
            connection_memory: copy.len() / 2,
            ..Settings::default()
        },
    );
    rig.broker(&copy);
    assert_eq!((rig.seen(), rig.session.held_bytes()), (vec!["c 1 x".to_owned()], 0));
}

fn dead_lettering() -> RuleSpec {
    RuleSpec {
        on_running: OnRunning::DeadLetter,
        dead_letter: Some(DeadLetter {
            exchange: "x.dead".to_owned(),
            routing_key: "k".to_owned(),
        }),
        ..running()
    }
}

impl Rig {
    /// Delivers, and another runs.
    fn busy(&mut self, tag: u64, id: &str) -> (Ticket, Republish) {
        self.broker(&deliver(1, "c", tag, "t.unique", id));
        let asks = self.asks_of(|request| {
            matches!(
                request,
                Request::Run {
                    busy: IfBusy::Leave { .. },
                    ..
                }
            )
        });
        let [(ticket, _)] = &asks[..] else {
            panic!("one that does not wait")
        };
        self.ran(
            *ticket,
            Ran::Leaves {
                holder: "w".into(),
                freed: Vec::new(),
            },
        );
        self.sending()
    }
}

#[test]
fn a_delivery_whose_key_runs_is_dead_lettered() {
    let mut rig = worker_of(dead_lettering());
    let (ticket, republish) = rig.busy(1, "x");
    let target = Target::Exchange {
        exchange: "x.dead".into(),
        routing_key: "k".into(),
    };
    assert_eq!((republish.target, &*republish.body), (target, BODY));
    let header = ContentHeader::decode(&republish.header).expect("a content header");
    let headers = header.properties.headers.expect("headers");
    assert_eq!(headers.get(b"x-oncegate-holder"), Ok(Some(text("w"))));
    assert_eq!(headers.get(b"x-oncegate-queue"), Ok(Some(text("q"))));
    assert_eq!((rig.session.held().0, rig.broker_got()), (1, vec!["basic.qos".to_owned()]));
    rig.published(ticket, Ok(()));
    assert_eq!(rig.broker_got(), ["basic.ack 1", "basic.qos"]);
    assert_eq!(rig.decided(), [(D::DeadLettered, "running")]);
    assert_eq!((rig.client_got(), rig.told()), (vec![], vec![]));
    rig.nothing_is_left();
}

#[test]
fn what_cannot_be_dead_lettered_within_the_lease_is_dropped_and_counted() {
    for fault in [Some(RepublishFault::Nacked), None] {
        let mut rig = worker_of(dead_lettering());
        let (ticket, _) = rig.busy(1, "x");
        if let Some(fault) = fault {
            rig.published(ticket, Err(fault));
        } else {
            rig.waits_for(9_000_000);
            assert_eq!(rig.session.held().0, 1);
            rig.waits_for(1_000_000);
        }
        let failed = |event: &Event| {
            matches!(
                event,
                Event::Exception {
                    reason: ExceptionReason::DeadLetterFailed,
                    ..
                }
            )
        };
        assert_eq!(rig.session.events().iter().filter(|event| failed(event)).count(), 1);
        assert_eq!(rig.decided(), [(D::Dropped, "running")]);
        assert!(rig.broker_got().contains(&"basic.ack 1".to_owned()));
        rig.published(ticket, Ok(()));
        assert_eq!((rig.decided(), rig.broker_got()), (vec![], vec![]));
        rig.nothing_is_left();
    }
}

#[test]
fn a_dead_letter_on_its_way_goes_back_with_its_consumer_and_its_channel() {
    for (number, (end, nacks)) in ENDS.into_iter().enumerate() {
        let mut rig = worker_of(dead_lettering());
        let (ticket, _) = rig.busy(1, "x");
        end(&mut rig);
        let got = rig.broker_got();
        let settled: Vec<_> = got.iter().filter(|line| line.contains("ack 1")).collect();
        assert_eq!(settled, nacks, "{number}: {got:?}");
        rig.published(ticket, Ok(()));
        assert!(!rig.broker_got().iter().any(|line| line.starts_with("basic.ack")), "{number}");
        rig.nothing_is_left();
    }
}

#[test]
fn a_copy_that_is_dropped_unrun_is_done() {
    let mut rig = worker();
    rig.broker(&delivery(1, "x", &[(TOKEN_HEADER, text("t1"))]).frames());
    let ticket = rig.sought()[0].0;
    rig.reply(ticket, Reply::Parked(parked("t1")));
    let ticket = rig.runs_asked()[0].0;
    rig.ran(ticket, Ran::Succeeded);
    assert_eq!(
        (rig.broker_got(), rig.told()),
        (vec!["basic.ack 1".to_owned()], vec!["done x t1".to_owned()])
    );
}
