//! Deliveries whose key runs elsewhere: held until they may run, while what comes behind them goes on.

use super::*;
use crate::rules::lock::Freed;
use crate::rules::outcome::{DeliveryDecision, ExceptionReason};
use crate::rules::running::{IfBusy, Ran};
use crate::rules::spec::OnRunning;

pub(super) fn running() -> RuleSpec {
    RuleSpec {
        unique: Some(Unique::WhileRunning),
        ..spec()
    }
}

/// A worker whose consumer `c` has been answered, with a window of eight for the channel.
pub(super) fn worker_with(spec: RuleSpec, settings: Settings) -> Rig {
    let mut rig = Rig::with(spec, settings);
    rig.admits_all = false;
    rig.client(&qos(8, true));
    rig.broker(&method(1, MethodId::BASIC_QOS_OK, &[]));
    rig.consumes(1, "c", false);
    rig.broker_got();
    rig.client_got();
    rig
}

fn worker() -> Rig {
    worker_with(running(), Settings::default())
}

pub(super) fn qos(count: u16, global: bool) -> Vec<u8> {
    let [high, low] = count.to_be_bytes();
    method(1, MethodId::BASIC_QOS, &[0, 0, 0, 0, high, low, u8::from(global)])
}

pub(super) fn waits(holder: &str, place_ms: u64) -> Ran {
    Ran::Waits {
        holder: holder.into(),
        place_ms,
        expires_in_ms: 60_000,
    }
}

/// A delivery with these headers beside the task and the id.
fn delivery_with(tag: u64, id: &str, more: &[(&str, FieldValue<'_>)]) -> Vec<u8> {
    let mut table = headers("t.unique", id);
    for (name, value) in more {
        put_entry(&mut table, name.as_bytes(), value).expect("short names");
    }
    delivery_of(tag, false, &content(&table, id, BODY))
}

impl Rig {
    /// The questions for running locks since the last call: ticket, task id, and the place.
    pub(super) fn runs_asked(&mut self) -> Vec<(Ticket, String, Option<u64>)> {
        let (asks, _) = self.session.questions();
        let of_runs = asks.extract_if(.., |(_, request)| matches!(request, Request::Run { .. }));
        let run = |(ticket, request)| match request {
            Request::Run {
                claim,
                busy: IfBusy::Wait { place_ms },
                ..
            } => (Ticket(ticket), claim.id.to_string(), place_ms),
            other => panic!("not of a run that waits: {other:?}"),
        };
        of_runs.map(run).collect()
    }

    pub(super) fn ran(&mut self, ticket: Ticket, ran: Ran) {
        self.session.handle_answer(ticket, Ok(Reply::Run(ran)), self.now);
        self.park_nothing();
    }

    /// Delivers through this consumer, and gives the ticket of the one question about it.
    pub(super) fn run_asked_by(&mut self, consumer: &str, tag: u64, id: &str) -> Ticket {
        self.broker(&deliver(1, consumer, tag, "t.unique", id));
        let asked = self.runs_asked();
        assert_eq!(asked.len(), 1, "one question for one delivery");
        assert_eq!(asked[0].1, id);
        asked[0].0
    }

    fn run_asked(&mut self, tag: u64, id: &str) -> Ticket {
        self.run_asked_by("c", tag, id)
    }

    /// Delivers, and the store says that it runs.
    fn begins(&mut self, tag: u64, id: &str) {
        let ticket = self.run_asked(tag, id);
        self.ran(ticket, Ran::Runs);
    }

    /// Delivers, and the store says that another runs.
    pub(super) fn waits(&mut self, tag: u64, id: &str) {
        self.waits_by("c", tag, id);
    }

    pub(super) fn waits_by(&mut self, consumer: &str, tag: u64, id: &str) {
        let ticket = self.run_asked_by(consumer, tag, id);
        self.ran(ticket, waits("other", 70 + tag));
    }

    /// After a second the store says of all that are held what it says of each.
    pub(super) fn polled(&mut self, mut says: impl FnMut(&str) -> Ran) {
        self.later(1_000_000);
        for (ticket, id, _) in self.runs_asked() {
            let ran = says(&id);
            self.ran(ticket, ran);
        }
    }

    /// Time passes, and both peers are heard; the store says that all that are held wait on.
    fn waits_on(&mut self, us: u64) {
        let end = self.now.us + us;
        while self.now.us < end {
            self.later((end - self.now.us).min(1_000_000));
            for (ticket, ..) in self.runs_asked() {
                self.ran(ticket, waits("other", 1));
            }
            let heartbeat = [8, 0, 0, 0, 0, 0, 0, frame::END];
            self.client(&heartbeat);
            self.broker(&heartbeat);
            self.session.questions().1.retain(|order| !matches!(order, Request::Renew { .. }));
        }
    }

    pub(super) fn decided(&mut self) -> Vec<(DeliveryDecision, &'static str)> {
        let events = self.session.events().drain(..);
        events
            .filter_map(|event| match event {
                Event::Admission(delivery) => Some((delivery.decision, delivery.reason)),
                _ => None,
            })
            .collect()
    }

    /// What the client was sent: deliveries with their consumer, tag and task id.
    pub(super) fn seen(&mut self) -> Vec<String> {
        let bytes = self.output(Side::Client);
        let mut rest = &bytes[..];
        let mut seen = Vec::new();
        while let Split::Frame(frame) = frame::split(rest, usize::MAX) {
            rest = &rest[frame.raw.len()..];
            if let Some(deliver) = Deliver::decode(frame.payload) {
                let consumer = String::from_utf8_lossy(deliver.consumer_tag);
                seen.push(format!("{consumer} {}", deliver.delivery_tag));
            } else if frame.kind == frame::FrameKind::Header {
                let header = crate::amqp::content::ContentHeader::decode(frame.payload).expect("a header");
                let id = String::from_utf8_lossy(header.properties.correlation_id.unwrap_or_default());
                if let Some(last) = seen.last_mut() {
                    last.extend([" ", &id]);
                }
            }
        }
        seen
    }
}

#[test]
fn a_delivery_takes_its_running_lock_before_it_goes() {
    let mut rig = worker();
    let ticket = rig.run_asked(1, "x");
    assert_eq!(rig.client_got(), [""; 0]);
    rig.ran(ticket, Ran::Runs);
    assert_eq!(rig.seen(), ["c 1 x"]);
    assert_eq!(rig.decided(), [(DeliveryDecision::Forwarded, "runs")]);
    rig.client(&ack(1, 1, false));
    assert_eq!(rig.told(), ["signal x Acked"]);
    assert_eq!(rig.broker_got(), ["basic.ack 1"]);
}

#[test]
fn the_settlement_names_the_delivery_that_runs() {
    let mut rig = worker();
    rig.broker(&deliver(1, "c", 1, "t.unique", "x"));
    let (asks, _) = rig.session.questions();
    let Some((ticket, Request::Run { delivery, .. })) = asks.pop() else {
        panic!("a question for a run")
    };
    rig.ran(Ticket(ticket), Ran::Runs);
    rig.client(&ack(1, 1, false));
    let (_, tells) = rig.session.questions();
    let Some(Request::Signal { settlement, .. }) = tells.pop() else {
        panic!("a signal")
    };
    assert_eq!(settlement, delivery);
}

#[test]
fn what_the_client_has_is_renewed_and_what_it_gives_back_leaves() {
    let mut rig = worker();
    rig.begins(1, "x");
    rig.begins(2, "y");
    rig.client_got();
    for _ in 0..6 {
        rig.later(5_000_000);
        rig.client(&[8, 0, 0, 0, 0, 0, 0, frame::END]);
        rig.broker(&[8, 0, 0, 0, 0, 0, 0, frame::END]);
    }
    assert_eq!(rig.told(), ["runs on x", "runs on y"]);
    rig.client(&nack(1, 1, true));
    assert_eq!(rig.told(), ["leaves x"]);
    rig.client(&nack(1, 2, false));
    assert_eq!(rig.told(), ["signal y Rejected"]);
}

#[test]
fn with_both_locks_it_is_admitted_first() {
    let mut rig = worker_with(
        RuleSpec {
            unique: Some(Unique::UntilStartedAndWhileRunning),
            ..spec()
        },
        Settings::default(),
    );
    rig.broker(&deliver(1, "c", 1, "t.unique", "x"));
    assert!(rig.runs_asked().is_empty());
    let admissions = rig.admissions();
    rig.admit(admissions[0].0, Admitted::Holds);
    assert_eq!(rig.client_got(), [""; 0]);
    let asked = rig.runs_asked();
    assert_eq!(asked[0].0, admissions[0].0);
    rig.ran(asked[0].0, Ran::Runs);
    assert_eq!(rig.decided(), [(DeliveryDecision::Forwarded, "holds")]);
    assert_eq!(rig.seen(), ["c 1 x"]);

    rig.broker(&deliver(1, "c", 2, "t.unique", "y"));
    let admissions = rig.admissions();
    rig.admit(
        admissions[0].0,
        Admitted::Held {
            holder: "x".into(),
            state: LockState::Queued,
            expires_in_ms: 1,
        },
    );
    assert!(rig.runs_asked().is_empty(), "a duplicate does not run");
    assert_eq!(rig.broker_got(), ["basic.ack 2"]);
}

#[test]
fn what_waits_is_held_and_what_comes_behind_it_goes_on() {
    let mut rig = worker();
    rig.waits(1, "x");
    assert_eq!(rig.session.held().0, 1);
    assert_eq!(rig.decided(), [(DeliveryDecision::Held, "running")]);
    rig.broker(&deliver(1, "c", 2, "t.other", "o"));
    assert_eq!(rig.seen(), ["c 2 o"]);
    rig.polled(|_| waits("other", 71));
    rig.later(999_999);
    assert!(rig.runs_asked().is_empty());
    rig.later(1);
    let [(ticket, id, place)] = &rig.runs_asked()[..] else {
        panic!("one question a second")
    };
    assert_eq!((&**id, *place), ("x", Some(71)));
    rig.ran(*ticket, Ran::Runs);
    assert_eq!(rig.seen(), ["c 3 x"]);
    assert_eq!(rig.decided(), [(DeliveryDecision::Forwarded, "runs")]);
    assert_eq!((rig.session.held(), rig.session.held_bytes()), ((0, None), 0));
    assert_eq!(rig.told(), [""; 0], "it has not left");
    assert!(rig.session.shared.abandoned_runs.is_empty());
    // Its tag is above all before it; at the broker it has its own.
    rig.broker_got();
    rig.client(&ack(1, 3, false));
    assert_eq!(rig.broker_got(), ["basic.ack 1"]);
    rig.client(&ack(1, 2, false));
    assert_eq!(rig.broker_got(), ["basic.ack 2"]);
}

#[test]
fn a_multiple_settles_exactly_what_the_client_has_seen() {
    let mut rig = worker();
    rig.broker(&deliver(1, "c", 1, "t.other", "a"));
    rig.waits(2, "x");
    rig.broker(&deliver(1, "c", 3, "t.other", "b"));
    rig.waits(4, "y");
    rig.broker(&deliver(1, "c", 5, "t.other", "d"));
    rig.broker_got();
    rig.client(&ack(1, 3, true));
    assert_eq!(rig.broker_got(), ["basic.ack 1", "basic.ack 3"]);
    rig.polled(|id| if id == "x" { Ran::Runs } else { waits("x", 74) });
    assert_eq!(rig.seen(), ["c 1 a", "c 3 b", "c 5 d", "c 6 x"]);
    rig.broker(&deliver(1, "c", 6, "t.other", "e"));
    assert_eq!(rig.seen(), ["c 7 e"]);
    rig.broker_got();
    rig.client(&ack(1, 0, true));
    assert_eq!(rig.broker_got(), ["basic.ack 2", "basic.ack 5", "basic.ack 6"], "y is held");
    rig.client(&ack(1, 0, true));
    assert_eq!(rig.broker_got(), [""; 0]);
}

#[test]
fn a_basic_get_has_tags_of_the_same_count() {
    let mut rig = worker();
    rig.waits(1, "x");
    rig.broker(&deliver(1, "c", 2, "t.other", "o"));
    rig.polled(|_| Ran::Runs);
    assert_eq!(rig.seen(), ["c 2 o", "c 3 x"]);
    rig.client(&method(1, MethodId::BASIC_GET, b"\0\0\x01q\0"));
    let mut get = method(1, MethodId::BASIC_GET_OK, &[0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 1, b'q', 0, 0, 0, 0]);
    let all = deliver(1, "c", 3, "t.other", "g");
    let Split::Frame(first) = frame::split(&all, usize::MAX) else {
        panic!("a frame")
    };
    get.extend_from_slice(&all[first.raw.len()..]);
    rig.broker(&get);
    let bytes = rig.output(Side::Client);
    let Split::Frame(first) = frame::split(&bytes, usize::MAX) else {
        panic!("a frame")
    };
    let get = crate::amqp::method::basic::GetOk::decode(first.payload).expect("a get-ok");
    assert_eq!(get.delivery_tag, 4);
    rig.broker_got();
    rig.client(&ack(1, 4, false));
    assert_eq!(rig.broker_got(), ["basic.ack 3"]);
}

#[test]
fn nothing_goes_to_the_client_inside_a_content() {
    let mut rig = worker();
    rig.waits(1, "x");
    rig.later(1_000_000);
    let [(ticket, ..)] = rig.runs_asked()[..] else {
        panic!("a question")
    };
    let other = deliver(1, "c", 2, "t.other", "o");
    let cut = other.len() - BODY.len() - 8;
    rig.broker(&other[..cut]);
    assert_eq!(rig.seen(), ["c 2 o"]);
    rig.ran(ticket, Ran::Runs);
    assert_eq!(rig.client_got(), [""; 0]);
    rig.broker(&other[cut..]);
    let bytes = rig.output(Side::Client);
    assert_eq!(bytes[0], 3, "first the body");
    assert_eq!(lines(&bytes[8 + BODY.len()..]), ["basic.deliver x"]);
    // A content of which only the method has come has no tag yet, and gets one above that of what went before it.
    rig.waits(3, "y");
    rig.later(1_000_000);
    let [(ticket, ..)] = rig.runs_asked()[..] else {
        panic!("a question")
    };
    let other = deliver(1, "c", 4, "t.other", "o");
    let Split::Frame(first) = frame::split(&other, usize::MAX) else {
        panic!("a frame")
    };
    let cut = first.raw.len();
    rig.broker(&other[..cut]);
    rig.ran(ticket, Ran::Runs);
    rig.broker(&other[cut..]);
    let seen = rig.seen();
    let tags: Vec<u64> = seen.iter().filter_map(|line| line.split(' ').nth(1)?.parse().ok()).collect();
    assert!(tags.is_sorted(), "{seen:?}");
    assert_eq!(seen.len(), 2);
}

#[test]
fn dropped_and_succeeded_copies_are_acknowledged_unrun() {
    let mut rig = worker_with(
        RuleSpec {
            on_running: OnRunning::Drop,
            ..running()
        },
        Settings::default(),
    );
    rig.broker(&deliver(1, "c", 1, "t.unique", "x"));
    let (asks, _) = rig.session.questions();
    let Some((
        ticket,
        Request::Run {
            busy: IfBusy::Leave { place_ms: None },
            ..
        },
    )) = asks.pop()
    else {
        panic!("a question for a run that does not wait")
    };
    let freed = Freed {
        digest: Digest([7; 32]),
        holder: "x".into(),
        rule: "r".into(),
        task: "t.unique".into(),
        vhost: "".into(),
        reason: crate::rules::lock::ReleaseReason::Ended,
        held_ms: 5,
        shadow: false,
    };
    rig.ran(
        Ticket(ticket),
        Ran::Leaves {
            holder: "w".into(),
            freed: vec![freed.clone()],
        },
    );
    assert!(matches!(&rig.session.events()[..], [.., Event::Freed(told), Event::Admission(_)] if *told == freed));
    assert_eq!(rig.decided(), [(DeliveryDecision::Dropped, "running")]);
    assert_eq!(rig.broker_got(), ["basic.ack 1"]);

    let mut rig = worker();
    rig.waits(1, "x");
    rig.decided();
    rig.broker_got();
    rig.polled(|_| Ran::Succeeded);
    assert_eq!(rig.decided(), [(DeliveryDecision::Dropped, "succeeded")]);
    assert_eq!(rig.broker_got(), ["basic.ack 1", "basic.qos"]);
    assert_eq!((rig.client_got(), rig.told()), (vec![], vec![]));
}

#[test]
fn what_waits_for_a_forgotten_run_waits_on() {
    let mut rig = worker();
    rig.waits(1, "x");
    let ticket = rig.run_asked(2, "y");
    rig.ran(ticket, Ran::Forgotten { place_ms: 90 });
    rig.decided();
    rig.polled(|id| match id {
        "x" => Ran::Forgotten { place_ms: 71 },
        _ => Ran::Runs,
    });
    assert_eq!(
        (rig.decided(), rig.seen()),
        (vec![(DeliveryDecision::Forwarded, "runs")], vec!["c 2 y".to_owned()])
    );
    rig.later(1_000_000);
    let asked = rig.runs_asked();
    assert_eq!(asked[0].2, Some(71), "its place is named");
    rig.ran(asked[0].0, Ran::Runs);
    assert_eq!(rig.seen(), ["c 3 x"]);
}

#[test]
fn a_second_copy_that_is_not_to_wait_names_its_place_all_the_same() {
    let spec = RuleSpec {
        on_running: OnRunning::Drop,
        ..running()
    };
    let mut rig = worker_with(spec, Settings::default());
    rig.broker(&deliver(1, "c", 1, "t.unique", "x"));
    for named in [None, Some(71), Some(71)] {
        let (asks, _) = rig.session.questions();
        let (ticket, question) = asks.pop().expect("a question");
        let Request::Run { busy, .. } = question else {
            panic!("not of a run: {question:?}")
        };
        assert_eq!(busy, IfBusy::Leave { place_ms: named });
        rig.ran(Ticket(ticket), waits("x", 71));
        rig.later(1_000_000);
    }
}

#[test]
fn a_silent_store_lets_pass_and_what_is_held_waits_a_little_longer() {
    let mut rig = worker();
    let ticket = rig.run_asked(1, "x");
    rig.silence(ticket);
    assert_eq!(rig.decided(), [(DeliveryDecision::ForwardedUnchecked, "store_timeout")]);
    assert_eq!(rig.seen(), ["c 1 x"]);
    rig.waits(2, "y");
    rig.decided();
    let wait_s = spec().store_wait.as_secs();
    for second in 0..=wait_s {
        assert_eq!(rig.decided(), [], "{second}");
        rig.later(1_000_000);
        let [(ticket, ..)] = rig.runs_asked()[..] else {
            panic!("a question")
        };
        rig.silence(ticket);
        rig.client(&[8, 0, 0, 0, 0, 0, 0, frame::END]);
        rig.broker(&[8, 0, 0, 0, 0, 0, 0, frame::END]);
    }
    assert_eq!(rig.decided(), [(DeliveryDecision::ForwardedUnchecked, "store_timeout")]);
    assert_eq!(rig.seen(), ["c 2 y"]);
}

#[test]
fn before_its_time_a_task_is_held_and_takes_no_lock() {
    let mut rig = worker();
    let eta = FieldValue::LongStr(b"2027-01-15T08:00:30+00:00");
    assert_eq!(rig.now.unix_ms, 1_800_000_000_000, "that is 08:00:00");
    rig.broker(&delivery_with(1, "x", &[("eta", eta)]));
    assert!(rig.runs_asked().is_empty());
    assert_eq!(rig.decided(), [(DeliveryDecision::Held, "eta")]);
    rig.waits_on(29_999_000);
    assert_eq!(rig.seen(), [""; 0]);
    rig.later(1_000);
    let [(ticket, ..)] = rig.runs_asked()[..] else {
        panic!("a question")
    };
    rig.ran(ticket, Ran::Runs);
    assert_eq!(rig.seen(), ["c 1 x"]);
}

#[test]
fn half_of_the_consumer_timeout_is_the_longest_that_anything_is_held() {
    let mut rig = worker();
    rig.waits(1, "x");
    rig.broker_got();
    rig.waits_on(899_000_000);
    assert_eq!(rig.broker_got().iter().filter(|line| line.contains("nack")).count(), 0);
    rig.waits_on(2_000_000);
    assert!(rig.broker_got().contains(&"basic.nack 1".to_owned()));
    assert_eq!(rig.told(), ["leaves x"]);
    assert_eq!(rig.session.held().0, 0);
}

#[test]
fn what_its_queue_would_drop_is_handed_over_instead() {
    let mut rig = worker();
    rig.broker(&delivery_with(1, "x", &[("x-delivery-count", FieldValue::I64(10))]));
    let [(ticket, ..)] = rig.runs_asked()[..] else {
        panic!("a question")
    };
    rig.ran(ticket, waits("other", 1));
    rig.session.events().clear();
    rig.waits_on(901_000_000);
    let limit = |event: &Event| {
        matches!(
            event,
            Event::Exception {
                reason: ExceptionReason::DeliveryLimit,
                ..
            }
        )
    };
    assert_eq!(rig.session.events().iter().filter(|event| limit(event)).count(), 1);
    assert_eq!(rig.decided(), [(DeliveryDecision::ForwardedUnchecked, "delivery_limit")]);
    assert_eq!(rig.seen(), ["c 1 x"]);
}

#[test]
fn at_the_bounds_the_oldest_goes_back() {
    let size = deliver(1, "c", 1, "t.unique", "x").len();
    for settings in [
        Settings {
            held_max: 2,
            ..Settings::default()
        },
        Settings {
            connection_memory: 2 * size + size / 2,
            ..Settings::default()
        },
    ] {
        let mut rig = worker_with(running(), settings);
        rig.waits(1, "x");
        rig.waits(2, "y");
        rig.broker_got();
        let ticket = rig.run_asked(3, "z");
        rig.ran(ticket, waits("other", 3));
        let got = rig.broker_got();
        assert_eq!(
            got.last().map(|line| &**line),
            Some("basic.nack 1"),
            "behind a smaller window: {got:?}"
        );
        assert_eq!(rig.told(), ["leaves x"]);
        assert_eq!((rig.session.held().0, rig.client_got()), (2, vec![]));
    }
}

#[test]
fn a_drain_gives_back_what_is_held() {
    let mut rig = worker();
    rig.begins(1, "w");
    rig.waits(2, "x");
    rig.client_got();
    rig.broker_got();
    rig.drain(0);
    assert_eq!(rig.broker_got(), ["basic.cancel", "basic.nack 2"]);
    assert_eq!(rig.told(), ["leaves x"]);
    rig.later(2_000_000);
    assert!(rig.runs_asked().is_empty());
    rig.client(&ack(1, 1, false));
    assert_eq!(rig.broker_got(), ["basic.ack 1"]);
    assert_eq!(rig.client_got(), ["connection.close"]);
}

#[test]
fn a_channel_that_closes_takes_everything_back() {
    let closes = [
        (Side::Client, method(1, MethodId::CHANNEL_CLOSE, &[0, 200, 0, 0, 0, 0, 0])),
        (Side::Client, method(1, MethodId::BASIC_RECOVER, &[1])),
        (Side::Client, method(1, MethodId::BASIC_RECOVER_ASYNC, &[1])),
        (Side::Broker, method(1, MethodId::CHANNEL_CLOSE, &[1, 150, 0, 0, 0, 0, 0])),
        (Side::Client, Vec::new()),
        (Side::Broker, Vec::new()),
    ];
    for (side, bytes) in closes {
        let mut rig = worker();
        rig.waits(1, "x");
        rig.waits(2, "y");
        rig.later(1_000_000);
        let open = rig.runs_asked();
        rig.ran(open[1].0, waits("other", 2));
        rig.broker_got();
        if bytes.is_empty() {
            rig.session.handle_eof(side, rig.now);
        } else if side == Side::Client {
            rig.client(&bytes);
        } else {
            rig.broker(&bytes);
        }
        assert_eq!(rig.told(), ["leaves x", "leaves y"], "{side:?} {bytes:?}");
        assert_eq!((rig.session.held().0, rig.session.held_bytes()), (0, 0));
        // The store may have let it run meanwhile.
        rig.ran(open[0].0, Ran::Runs);
        assert_eq!(rig.told(), ["leaves x"]);
        assert!(rig.session.shared.abandoned_runs.is_empty());
        let nacked = rig.broker_got().into_iter().filter(|line| line.starts_with("basic.nack")).count();
        assert_eq!(nacked, 0, "the broker takes it back itself");
    }
}

#[test]
fn a_recovery_gives_back_what_the_client_has_too() {
    let mut rig = worker();
    rig.begins(1, "w");
    rig.waits(2, "x");
    rig.client(&method(1, MethodId::BASIC_RECOVER, &[1]));
    assert_eq!(rig.told(), ["leaves x", "leaves w"]);
}

#[test]
fn what_is_held_for_a_consumer_goes_back_behind_its_cancel() {
    let mut rig = worker();
    rig.waits(1, "x");
    let open = rig.run_asked(2, "y");
    rig.broker_got();
    rig.client(&method(1, MethodId::BASIC_CANCEL, b"\x01c\0"));
    assert_eq!(rig.broker_got(), ["basic.cancel", "basic.nack 1", "basic.qos"]);
    // What was on its way to be held is not held any more.
    rig.ran(open, waits("other", 2));
    assert_eq!(rig.broker_got(), ["basic.nack 2"]);
    assert_eq!(rig.told(), ["leaves x", "leaves y"]);
    assert_eq!(rig.session.held().0, 0);
}

#[test]
fn a_run_that_ends_here_is_followed_at_once() {
    let mut rig = worker();
    rig.begins(1, "w");
    let ticket = rig.run_asked(2, "x");
    rig.ran(ticket, waits("w", 2));
    rig.client(&ack(1, 1, false));
    rig.told();
    rig.later(20_000);
    let asked = rig.runs_asked();
    assert_eq!(asked.len(), 1, "it is not waited for the second to be over");
}

#[test]
fn a_transaction_begins_with_nothing_held() {
    let mut rig = worker();
    rig.waits(1, "x");
    rig.broker_got();
    rig.client(&method(1, MethodId::TX_SELECT, &[]));
    let got = rig.broker_got();
    assert_eq!(got, ["basic.nack 1", "tx.select"]);
    assert_eq!(rig.told(), ["leaves x"]);
}

#[test]
fn its_publish_lock_lives_while_a_delivery_is_held() {
    let mut rig = worker_with(
        RuleSpec {
            unique: Some(Unique::UntilStartedAndWhileRunning),
            ..spec()
        },
        Settings::default(),
    );
    rig.broker(&deliver(1, "c", 1, "t.unique", "x"));
    let admissions = rig.admissions();
    rig.admit(admissions[0].0, Admitted::Holds);
    let ticket = rig.runs_asked()[0].0;
    rig.ran(ticket, waits("other", 1));
    for _ in 0..31 {
        rig.polled(|_| waits("other", 1));
        rig.client(&[8, 0, 0, 0, 0, 0, 0, frame::END]);
        rig.broker(&[8, 0, 0, 0, 0, 0, 0, frame::END]);
    }
    assert_eq!(rig.told(), ["alive x None"]);
}

#[test]
fn a_retry_tells_its_number_where_runs_exclude_each_other() {
    let both = Some(Unique::UntilStartedAndWhileRunning);
    let observing = RuleSpec {
        mode: Mode::Observe,
        ..running()
    };
    for (spec, retries, told) in [
        (running(), 2, vec!["republished a 2"]),
        (RuleSpec { unique: both, ..running() }, 1, vec!["republished a 1"]),
        (running(), 0, vec![]),
        (spec(), 1, vec![]),
        (observing, 1, vec![]),
    ] {
        let mut rig = Rig::new(spec);
        rig.client(&super::due::publish_retry(retries, FieldValue::Void, "", false));
        assert_eq!(rig.told(), told);
    }
}
