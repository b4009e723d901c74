//! What is not understood, or concerns no rule, is forwarded byte-identical, however it is cut.

use super::*;

/// A run of frames of every kind that passes as it is.
fn passing() -> Vec<u8> {
    let mut bytes = method(1, MethodId { class: 77, method: 7 }, b"unknown");
    bytes.extend(publish(1, "t.other", "x", false));
    bytes.extend(publish(3, "t.other", "y", true));
    bytes.extend(method(1, MethodId::QUEUE_DECLARE, b"\0\0\x01q\0\0\0\0\0"));
    // A publish whose content never comes, and one with no body.
    bytes.extend(method(1, MethodId::BASIC_PUBLISH, b"\0\0\0\x01q\0"));
    bytes.extend(method(1, MethodId::BASIC_QOS, &[0, 0, 0, 0, 0, 4, 0]));
    bytes
}

#[test]
fn every_cut_gives_the_same_bytes() {
    let bytes = passing();
    for cut in 0..=bytes.len() {
        let mut rig = Rig::new(spec());
        rig.client(&bytes[..cut]);
        rig.client(&bytes[cut..]);
        assert_eq!(rig.output(Side::Broker), bytes, "cut at {cut}");
    }
}

#[test]
fn byte_by_byte_gives_the_same_bytes_and_the_same_decisions() {
    let mut bytes = passing();
    let unique = publish(1, "t.unique", "a", false);
    bytes.extend_from_slice(&unique);
    let mut rig = Rig::new(spec());
    for byte in &bytes {
        rig.client(&[*byte]);
    }
    let asked = rig.asked();
    assert_eq!(asked.len(), 1);
    rig.answer(asked[0].0, Acquired::Reentry { holds: false });
    assert_eq!(rig.output(Side::Broker), bytes);
}

#[test]
fn deliveries_pass_byte_identical_at_every_cut() {
    let mut bytes = deliver(1, "c", 1, "t.unique", "a");
    bytes.extend(deliver(1, "c", 2, "t.other", "b"));
    bytes.extend(returned(1, "nobody's"));
    for cut in 0..=bytes.len() {
        let mut rig = Rig::new(spec());
        rig.client(&consume(1, "c", false));
        rig.broker(&bytes[..cut]);
        rig.broker(&bytes[cut..]);
        assert_eq!(rig.output(Side::Client), bytes, "cut at {cut}");
    }
}

/// Reads as the edge does: what passes as it lies is written after what is pending.
fn read(rig: &mut Rig, from: Side, bytes: &[u8], room: usize) -> Vec<u8> {
    let mut buffer = vec![0xff; room];
    let begun = rig.session.unread(from, &mut buffer);
    buffer.extend_from_slice(bytes);
    let passed = rig.session.handle_read(from, &buffer[room - begun..], rig.now).to_vec();
    rig.admit_all();
    let mut out = rig.output(from.other());
    out.extend(passed);
    out
}

#[test]
fn what_is_written_from_where_it_was_read_is_the_same_at_every_cut() {
    let mut up = passing();
    up.extend(ack(1, 2, false));
    let down = [
        deliver(1, "c", 1, "t.unique", "a"),
        deliver(1, "c", 2, "t.other", "b"),
        ack(1, 1, false),
        deliver(1, "c", 3, "t.other", "c"),
    ]
    .concat();
    for (from, bytes, frames) in [(Side::Client, up, 11), (Side::Broker, down, 10)] {
        for room in [0, 20, 1000] {
            for cut in 0..=bytes.len() {
                let mut rig = Rig::new(spec());
                rig.client(&consume(1, "c", false));
                rig.output(Side::Broker);
                rig.session.take_counts();
                let mut out = read(&mut rig, from, &bytes[..cut], room);
                out.extend(read(&mut rig, from, &bytes[cut..], room));
                assert_eq!(out, bytes, "{from:?} cut at {cut}, room for {room}");
                let counts = rig.session.take_counts();
                let (read, written) = match from {
                    Side::Client => (counts.frames_from_client, counts.frames_to_broker),
                    Side::Broker => (counts.frames_from_broker, counts.frames_to_client),
                };
                assert_eq!((read, written), (frames, frames), "{from:?} cut at {cut}, room for {room}");
            }
        }
    }
}

#[test]
fn nothing_passes_ahead_of_an_answer_that_may_come_first() {
    let mut rig = Rig::new(spec());
    let first = publish(1, "t.unique", "a", false);
    let behind = publish(3, "t.other", "b", false);
    let both = [&first[..], &behind].concat();
    let passed = rig.session.handle_read(Side::Client, &both, rig.now);
    assert!(passed.is_empty(), "a question is open");
    assert_eq!(rig.output(Side::Broker), behind);
}

#[test]
fn nothing_passes_ahead_of_oncegate_s_goodbye() {
    let mut rig = Rig::new(spec());
    rig.client(&consume(1, "c", false));
    rig.broker(&deliver(1, "c", 1, "t.other", "a"));
    rig.session.handle_drain(0, Neighbours::Idle, rig.now);
    rig.output(Side::Broker);
    rig.output(Side::Client);
    let last = ack(1, 1, false);
    let passed = rig.session.handle_read(Side::Client, &last, rig.now);
    assert!(passed.is_empty(), "with this ack the drain is over");
    assert_eq!(rig.broker_got(), ["basic.ack 1"]);
    assert_eq!(rig.client_got(), ["connection.close"]);
}

#[test]
fn bytes_that_are_no_frame_go_to_the_broker_behind_what_waits() {
    let mut rig = Rig::new(spec());
    rig.publish_asked("a");
    rig.client(b"\x01\0\x01\0\0\0\x01xBAD and more");
    let out = rig.output(Side::Broker);
    assert!(out.ends_with(b"\x01\0\x01\0\0\0\x01xBAD and more"));
    assert!(out.len() > 40, "the publish that waited went first");
    rig.client(b"garbage");
    assert_eq!(rig.output(Side::Broker), b"garbage");
}

#[test]
fn another_protocol_is_tunnelled() {
    let rules = RuleSet::compile(vec![spec()], &[]).expect("the rule is right");
    let now = Now::default();
    let mut rig = Rig {
        session: Session::new(Arc::new(Settings::default()), Arc::new(rules), 0, now),
        now,
        admits_all: true,
        parks: false,
    };
    rig.client(b"AMQP\x03\x01\0\0");
    rig.client(b"anything");
    assert_eq!(rig.output(Side::Broker), b"AMQP\x03\x01\0\0anything");
    rig.broker(b"something");
    assert_eq!(rig.output(Side::Client), b"something");
}

#[test]
fn a_body_above_max_message_streams_through_and_is_counted() {
    let mut rig = Rig::with(
        spec(),
        Settings {
            max_message: 10,
            ..Settings::default()
        },
    );
    let bytes = publish(1, "t.unique", "a", false);
    rig.client(&bytes);
    assert_eq!(rig.output(Side::Broker), bytes);
    assert!(matches!(
        rig.session.events().as_slice(),
        [Event::Unkeyable {
            reason: crate::rules::outcome::UnkeyableReason::TooLarge,
            ..
        }]
    ));
}

#[test]
fn a_publish_in_the_middle_of_which_the_broker_closes_the_channel_passes_whole() {
    for task in ["t.unique", "t.other"] {
        let bytes = publish(1, task, "a", false);
        for cut in 0..=bytes.len() {
            let mut rig = Rig::new(spec());
            let mut close = Vec::new();
            encode::channel_close(&mut close, 1, 404, "", None);
            rig.client(&bytes[..cut]);
            let whole = !rig.asked().is_empty();
            rig.broker(&close);
            rig.client(&bytes[cut..]);
            let expected: &[u8] = if whole { &[] } else { &bytes };
            assert_eq!(rig.output(Side::Broker), expected, "{task} cut at {cut}");
            assert_eq!(rig.session.held_bytes(), 0);
        }
    }
}

#[test]
fn frames_are_counted_on_all_four_ways() {
    let mut rig = Rig::new(spec());
    rig.session.take_counts();
    rig.client(&publish(1, "t.other", "x", false));
    rig.client(&consume(1, "c", false));
    rig.broker(&deliver(1, "c", 1, "t.other", "x"));
    rig.output(Side::Broker);
    rig.output(Side::Client);
    let counts = rig.session.take_counts();
    let frames = (
        counts.frames_from_client,
        counts.frames_to_broker,
        counts.frames_from_broker,
        counts.frames_to_client,
    );
    assert_eq!(frames, (4, 4, 3, 3));
    assert_eq!((counts.unmatched_publishes, counts.unmatched_deliveries), (1, 1));
}

#[test]
fn publishes_that_are_still_coming_in_keep_to_the_memory_bound() {
    let mut rig = Rig::with(
        spec(),
        Settings {
            connection_memory: 300,
            ..Settings::default()
        },
    );
    let (mut sent, mut got) = (Vec::new(), Vec::new());
    let bytes: Vec<_> = (1..=4).map(|number| publish(number, "t.unique", "a", false)).collect();
    for bytes in &bytes {
        let head = &bytes[..bytes.len() - BODY.len() - frame::OVERHEAD];
        rig.client(head);
        sent.extend_from_slice(head);
        assert!(rig.session.held_bytes() <= 300);
        got.extend(rig.output(Side::Broker));
    }
    assert!(!got.is_empty() && got.len() < sent.len());
    for bytes in &bytes {
        rig.client(&bytes[bytes.len() - BODY.len() - frame::OVERHEAD..]);
    }
    got.extend(rig.output(Side::Broker));
    for (ticket, _) in rig.asked() {
        rig.answer(ticket, Acquired::Reentry { holds: false });
    }
    got.extend(rig.output(Side::Broker));
    let publishes = lines(&got).iter().filter(|line| line.starts_with("basic.publish")).count();
    assert_eq!(publishes, 4, "all of them arrive");
    let bodies = got.windows(BODY.len()).filter(|window| *window == BODY).count();
    assert_eq!(bodies, 4, "and whole");
}

#[test]
fn the_broker_s_confirms_count_though_the_client_sends_garbage() {
    let mut rig = Rig::new(spec());
    let a = rig.publish_asked("a");
    rig.answer(a, Acquired::Taken);
    rig.client(b"\x01\0\x01\0\0\0\x01xBAD");
    rig.broker(&ack(1, 1, false));
    assert_eq!(rig.told(), ["commit a"]);
    assert_eq!(rig.client_got(), [""; 0], "the client asked for no confirms");
}
