//! The windows at the broker: the client's, and what is held.

use super::hold::{qos, running, worker_with};
use super::*;
use crate::amqp::method::basic::{Consume, Qos};
use crate::rules::running::Ran;

/// A worker with a window of this size for each of its consumers.
fn per_consumer(size: u16) -> Rig {
    let mut rig = per_consumer_of(running(), size);
    rig.admits_all = false;
    rig
}

/// The same with this rule; deliveries are admitted.
pub(super) fn per_consumer_of(spec: RuleSpec, size: u16) -> Rig {
    let mut rig = Rig::with(spec, Settings::default());
    rig.client(&qos(size, false));
    rig.broker(&method(1, MethodId::BASIC_QOS_OK, &[]));
    rig.consumes(1, "c", false);
    rig.broker_got();
    rig.client_got();
    rig
}

fn tagged(id: MethodId, tag: &str) -> Vec<u8> {
    let mut arguments = vec![tag.len() as u8];
    arguments.extend_from_slice(tag.as_bytes());
    method(1, id, &arguments)
}

impl Rig {
    /// What the broker was told of windows and consumers, as lines; the tags of Oncegate's own are given back beside.
    pub(super) fn windows(&mut self) -> (Vec<String>, Vec<String>) {
        let bytes = self.output(Side::Broker);
        let mut rest = &bytes[..];
        let (mut lines, mut tags) = (Vec::new(), Vec::new());
        while let Split::Frame(frame) = frame::split(rest, usize::MAX) {
            rest = &rest[frame.raw.len()..];
            if let Some(qos) = Qos::decode(frame.payload) {
                lines.push(format!("qos {}{}", qos.prefetch_count, if qos.global { " global" } else { "" }));
            } else if let Some(consume) = Consume::decode(frame.payload) {
                let tag = String::from_utf8(consume.consumer_tag.to_vec()).expect("text");
                lines.push(format!("consume {}", if tag.starts_with("oncegate.") { "own" } else { &tag }));
                assert_eq!(consume.queue, b"q");
                tags.push(tag);
            } else if let Some(cancel) = Cancel::decode(frame.payload) {
                let tag = String::from_utf8(cancel.consumer_tag.to_vec()).expect("text");
                lines.push(format!("cancel {}", if tag.starts_with("oncegate.") { "own" } else { &tag }));
                tags.push(tag);
            } else if let Some(ack) = Ack::decode(frame.payload) {
                lines.push(format!("ack {}", ack.delivery_tag));
            } else if let Some(nack) = Nack::decode(frame.payload) {
                lines.push(format!("nack {}", nack.delivery_tag));
            } else {
                lines.push(frame.method_id().and_then(MethodId::name).unwrap_or("content").to_owned());
            }
        }
        (lines, tags)
    }

    /// The broker answers the questions that go around a consumer of Oncegate's own.
    pub(super) fn answers_own(&mut self, tag: &str) {
        self.broker(&method(1, MethodId::BASIC_QOS_OK, &[]));
        self.broker(&method(1, MethodId::BASIC_QOS_OK, &[]));
        self.broker(&tagged(MethodId::BASIC_CONSUME_OK, tag));
    }
}

#[test]
fn the_window_of_a_channel_is_wider_by_what_is_held() {
    let mut rig = worker_with(running(), Settings::default());
    rig.waits(1, "x");
    assert_eq!(rig.windows().0, ["qos 9 global"]);
    rig.waits(2, "y");
    assert_eq!(rig.windows().0, ["qos 10 global"]);
    // The client's own question has its one answer, whatever came between.
    rig.client(&qos(16, true));
    assert_eq!(rig.windows().0, ["qos 16 global", "qos 18 global"]);
    for _ in 0..2 {
        rig.broker(&method(1, MethodId::BASIC_QOS_OK, &[]));
        assert_eq!(rig.client_got(), [""; 0]);
    }
    rig.broker(&method(1, MethodId::BASIC_QOS_OK, &[]));
    assert_eq!(rig.client_got(), ["basic.qos-ok"]);
    rig.broker(&method(1, MethodId::BASIC_QOS_OK, &[]));
    assert_eq!(rig.client_got(), [""; 0]);
    rig.polled(|_| Ran::Runs);
    assert_eq!(rig.windows().0.last().map(|line| &**line), Some("qos 16 global"));
}

#[test]
fn what_is_held_at_once_is_told_at_once() {
    let mut rig = worker_with(running(), Settings::default());
    let mut bytes = Vec::new();
    for tag in 1..=5 {
        bytes.extend_from_slice(&deliver(1, "c", tag, "t.unique", &format!("x{tag}")));
    }
    rig.broker(&bytes);
    let asked = rig.runs_asked();
    let publish = publish(1, "t.other", "o", false);
    let cut = publish.len() - 12;
    rig.client(&publish[..cut]);
    rig.broker_got();
    for (ticket, ..) in asked {
        rig.ran(
            ticket,
            Ran::Waits {
                holder: "w".into(),
                place_ms: 1,
                expires_in_ms: 1,
            },
        );
    }
    assert_eq!(rig.windows().0, [""; 0], "not inside a content");
    rig.client(&publish[cut..]);
    let bytes = rig.output(Side::Broker);
    assert_eq!(bytes[0], 3, "first the body");
    assert!(bytes.ends_with(&qos(13, true)), "one for all");
}

#[test]
fn windows_stay_within_the_bound() {
    let mut rig = worker_with(
        running(),
        Settings {
            held_max: 10,
            ..Settings::default()
        },
    );
    for tag in 1..=4 {
        rig.waits(tag, &format!("x{tag}"));
    }
    assert_eq!(rig.windows().0.last().map(|line| &**line), Some("qos 10 global"));
}

#[test]
fn other_consumers_make_up_for_what_is_held_of_one() {
    let mut rig = per_consumer(2);
    rig.waits(1, "x");
    let (lines, tags) = rig.windows();
    assert_eq!(lines, ["qos 1", "consume own", "qos 2"]);
    rig.answers_own(&tags[0]);
    assert_eq!(rig.client_got(), [""; 0], "the client knows nothing of it");
    // What comes to it is the client's.
    rig.broker(&deliver(1, &tags[0], 2, "t.other", "o"));
    assert_eq!(rig.seen(), ["c 2 o"]);
    rig.client(&ack(1, 2, false));
    assert_eq!(rig.windows().0, ["ack 2"]);
}

#[test]
fn a_consumer_whose_deliveries_are_all_held_gives_way_to_another() {
    let mut rig = per_consumer(1);
    rig.waits(1, "x");
    let (_, tags) = rig.windows();
    rig.answers_own(&tags[0]);
    rig.waits_by(&tags[0], 2, "y");
    let (lines, more) = rig.windows();
    assert_eq!(lines, ["qos 1", "consume own", "qos 1", "cancel own"]);
    assert_eq!(more[1], tags[0]);
    rig.answers_own(&more[0]);
    rig.broker(&tagged(MethodId::BASIC_CANCEL_OK, &tags[0]));
    assert_eq!(rig.client_got(), [""; 0]);
    // What is held of it runs when its time comes.
    rig.polled(|id| {
        if id == "y" {
            return Ran::Runs;
        }
        Ran::Waits {
            holder: "y".into(),
            place_ms: 1,
            expires_in_ms: 1,
        }
    });
    assert_eq!(rig.seen(), ["c 2 y"]);
}

#[test]
fn what_is_too_wide_becomes_narrower() {
    let mut rig = per_consumer(1);
    rig.waits(1, "x");
    let (_, tags) = rig.windows();
    rig.answers_own(&tags[0]);
    rig.polled(|_| Ran::Runs);
    rig.windows();
    rig.later(1_000_000);
    let (lines, cancelled) = rig.windows();
    assert_eq!((lines, cancelled), (vec!["cancel own".to_owned()], vec![tags[0].clone()]));
    // On its way before that.
    rig.broker(&deliver(1, &tags[0], 2, "t.other", "o"));
    assert_eq!(rig.seen(), ["c 1 x", "c 2 o"]);
}

#[test]
fn a_consumer_that_the_broker_has_not_answered_is_not_cancelled() {
    let mut rig = per_consumer(1);
    rig.waits(1, "x");
    let (_, tags) = rig.windows();
    rig.polled(|_| Ran::Runs);
    rig.later(1_000_000);
    assert_eq!(rig.windows().0, [""; 0]);
    rig.answers_own(&tags[0]);
    assert_eq!(rig.windows().0, ["cancel own"]);
}

#[test]
fn nothing_reads_ahead_for_a_consumer_that_has_its_queue_for_itself() {
    let alone = [
        method(1, MethodId::BASIC_CONSUME, b"\0\0\x01q\x01d\x04\0\0\0\0"),
        method(1, MethodId::BASIC_CONSUME, b"\0\0\x01q\x01d\0\0\0\0\x0c\x0ax-priorityb\x01"),
    ];
    for consume in alone {
        let mut rig = per_consumer(1);
        rig.client(&consume);
        rig.broker(&tagged(MethodId::BASIC_CONSUME_OK, "d"));
        rig.windows();
        rig.waits_by("d", 1, "x");
        assert_eq!(rig.windows().0, [""; 0]);
    }
    let mut rig = Rig::new(running());
    rig.admits_all = false;
    let mut declare = b"\0\0\x01q\0".to_vec();
    declare.extend_from_slice(&27u32.to_be_bytes());
    declare.extend_from_slice(b"\x18x-single-active-consumert\x01");
    rig.client(&method(1, MethodId::QUEUE_DECLARE, &declare));
    rig.client(&qos(1, false));
    rig.consumes(1, "c", false);
    rig.windows();
    rig.waits(1, "x");
    assert_eq!(rig.windows().0, [""; 0]);
}

#[test]
fn a_client_that_wants_no_limit_has_one() {
    let mut rig = Rig::new(running());
    rig.client(&consume(1, "c", false));
    assert_eq!(rig.windows().0, ["qos 1000", "consume c", "qos 0"]);
    rig.broker(&method(1, MethodId::BASIC_QOS_OK, &[]));
    rig.broker(&method(1, MethodId::BASIC_QOS_OK, &[]));
    rig.broker(&tagged(MethodId::BASIC_CONSUME_OK, "c"));
    assert_eq!(rig.client_got(), ["basic.consume-ok"]);
    rig.client(&consume(1, "n", true));
    assert_eq!(rig.windows().0, ["consume n"], "nothing of it is held");

    for other in [
        spec(),
        RuleSpec {
            queue: vec!["elsewhere".to_owned()],
            ..running()
        },
    ] {
        let mut rig = Rig::new(other);
        rig.client(&consume(1, "c", false));
        assert_eq!(rig.windows().0, ["consume c"], "nothing can be held");
    }
}

#[test]
fn when_the_client_cancels_so_does_oncegate() {
    let mut rig = per_consumer(2);
    rig.waits(1, "x");
    let (_, tags) = rig.windows();
    rig.answers_own(&tags[0]);
    rig.client(&tagged(MethodId::BASIC_CANCEL, "c")[..0]);
    let mut arguments = b"\x01c".to_vec();
    arguments.push(0);
    rig.client(&method(1, MethodId::BASIC_CANCEL, &arguments));
    assert_eq!(rig.windows().0, ["cancel c", "cancel own", "nack 1"]);
    rig.broker(&tagged(MethodId::BASIC_CANCEL_OK, "c"));
    rig.broker(&tagged(MethodId::BASIC_CANCEL_OK, &tags[0]));
    assert_eq!(rig.client_got(), ["basic.cancel-ok"]);
}

#[test]
fn a_drain_and_a_client_that_is_gone_end_reading_ahead() {
    let mut rig = per_consumer(2);
    rig.waits(1, "x");
    let (_, tags) = rig.windows();
    rig.answers_own(&tags[0]);
    rig.drain(0);
    assert_eq!(rig.windows().0, ["cancel c", "cancel own", "nack 1"]);
    rig.broker(&deliver(1, &tags[0], 2, "t.other", "o"));
    assert_eq!(rig.windows().0, ["nack 2"]);

    let mut rig = per_consumer(2);
    rig.waits(1, "x");
    let (_, tags) = rig.windows();
    rig.answers_own(&tags[0]);
    rig.client(&publish(1, "t.unique", "p", false));
    rig.session.questions().0.clear();
    rig.session.handle_eof(Side::Client, rig.now);
    let (lines, _) = rig.windows();
    assert!(
        lines.iter().all(|line| !line.starts_with("qos") && !line.starts_with("consume")),
        "{lines:?}"
    );
}
