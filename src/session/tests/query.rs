//! Questions that are put into a worker's mailbox, and the answers that go no further.

use super::*;
use crate::session::TasksKnown;

const PREFIX: &str = "oncegate.reply.secret.";

fn rig() -> Rig {
    let settings = Settings {
        reply_prefix: PREFIX.into(),
        enable_events: crate::rules::spec::EnableEvents::False,
        ..Settings::default()
    };
    let mut rig = Rig::with(spec(), settings);
    rig.client(&consume_mailbox());
    rig
}

/// With the mailbox's consumer running.
fn worker() -> Rig {
    let mut rig = rig();
    rig.broker(&method(1, MethodId::BASIC_CONSUME_OK, b"\x02t1"));
    assert_eq!(rig.client_got(), ["basic.consume-ok"]);
    rig.output(Side::Broker);
    rig.session.events().clear();
    rig
}

fn consume_mailbox() -> Vec<u8> {
    let mut arguments = b"\0\0\x13w@one.celery.pidbox\x02t1".to_vec();
    arguments.push(0b10);
    arguments.extend_from_slice(&[0, 0, 0, 0]);
    method(1, MethodId::BASIC_CONSUME, &arguments)
}

fn query(rig: &mut Rig, node: &str, ids: &[&str]) {
    let ids: Vec<Arc<str>> = ids.iter().map(|id| Arc::from(*id)).collect();
    rig.session.handle_query(node, &ids, "t7", rig.now);
}

fn reply(exchange: &str, routing_key: &str, body: &str) -> Vec<u8> {
    let mut table = Vec::new();
    put_entry(&mut table, b"ticket", &FieldValue::LongStr(b"t7")).expect("a short name");
    let properties = Properties {
        content_type: Some(b"application/json"),
        content_encoding: Some(b"utf-8"),
        headers: Some(Table::new(&table)),
        ..Properties::default()
    };
    let method = Publish {
        exchange: exchange.as_bytes(),
        routing_key: routing_key.as_bytes(),
        mandatory: false,
        immediate: false,
        bits_offset: 0,
    };
    let content = Content {
        properties,
        body: body.as_bytes(),
    };
    let mut out = Vec::new();
    encode::basic_publish(&mut out, 1, &method, &content, 131_072).expect("it fits");
    out
}

fn answer(key: &str) -> Vec<u8> {
    reply("", key, r#"{"w@one": {"a": ["active", {"acknowledged": true}]}}"#)
}

fn known(rig: &mut Rig) -> Vec<TasksKnown> {
    let events = rig.session.events().drain(..);
    events
        .filter_map(|event| match event {
            Event::TasksKnown(known) => Some(known),
            _ => None,
        })
        .collect()
}

fn key() -> String {
    format!("{PREFIX}t7")
}

#[test]
fn a_mailbox_is_told_of() {
    let mut rig = rig();
    let told = rig
        .session
        .events()
        .drain(..)
        .filter(|event| matches!(event, Event::Mailbox { node } if **node == *"w@one"));
    assert_eq!(told.count(), 1);
}

#[test]
fn a_question_is_put_into_the_mailbox() {
    let mut rig = worker();
    query(&mut rig, "w@one", &["a", "b"]);
    let frames = rig.output(Side::Client);
    assert_eq!(lines(&frames), ["basic.deliver "]);
    let text = String::from_utf8_lossy(&frames);
    for part in [
        r#""method":"query_task""#,
        r#""destination":["w@one"]"#,
        r#""ids":["a","b"]"#,
        r#""routing_key":"oncegate.reply.secret.t7""#,
        r#""exchange":"""#,
        r#""ticket":"t7""#,
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(rig.broker_got(), [""; 0]);
    query(&mut rig, "w@one", &["a"]);
    assert_eq!(rig.client_got(), ["basic.deliver "], "as often as it is asked");
}

#[test]
fn a_question_for_which_there_is_no_mailbox_is_not_put() {
    let mut rig = worker();
    query(&mut rig, "w@two", &["a"]);
    assert_eq!(rig.client_got(), [""; 0], "another worker");
    let mut rig = super::query::rig();
    query(&mut rig, "w@one", &["a"]);
    assert_eq!(rig.client_got(), [""; 0], "the broker has not answered the consumer");
    let mut rig = worker();
    rig.client(&method(1, MethodId::CHANNEL_CLOSE, &[0; 7]));
    query(&mut rig, "w@one", &["a"]);
    assert_eq!(rig.client_got(), [""; 0], "the channel closes");
}

#[test]
fn a_question_waits_for_the_end_of_the_brokers_content() {
    let mut rig = worker();
    let delivery = deliver(1, "t1", 1, "t.other", "x");
    let (head, tail) = delivery.split_at(delivery.len() - 20);
    rig.broker(head);
    query(&mut rig, "w@one", &["a"]);
    rig.broker(tail);
    assert_eq!(rig.client_got(), ["basic.deliver x", "basic.deliver "]);
}

#[test]
fn many_ids_take_several_frames() {
    let mut rig = worker();
    let ids: Vec<String> = (0..1_000).map(|number| format!("6b1ace26-ad74-437f-938c-{number:012}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    query(&mut rig, "w@one", &ids);
    let frames = rig.output(Side::Client);
    assert_eq!(lines(&frames), ["basic.deliver "]);
    let mut rest = frames.as_slice();
    while let Split::Frame(frame) = frame::split(rest, 4096) {
        rest = &rest[frame.raw.len()..];
    }
    assert!(rest.is_empty(), "a frame is larger than every client takes");
}

#[test]
fn an_answer_goes_no_further() {
    let mut rig = Rig::with(
        spec(),
        Settings {
            reply_prefix: PREFIX.into(),
            ..Settings::default()
        },
    );
    rig.client(&answer(&key()));
    assert_eq!(rig.broker_got(), [""; 0]);
    assert_eq!(rig.client_got(), [""; 0]);
    let wanted = TasksKnown {
        ticket: "t7".into(),
        node: "w@one".into(),
        known: vec!["a".into()],
    };
    assert_eq!(known(&mut rig), [wanted]);
    rig.client(&reply("", &key(), r#"{"w@one": {}}"#));
    let wanted = TasksKnown {
        ticket: "t7".into(),
        node: "w@one".into(),
        known: vec![],
    };
    assert_eq!(known(&mut rig), [wanted]);
}

#[test]
fn an_answer_is_confirmed_in_its_turn() {
    let mut rig = worker();
    rig.client(&method(1, MethodId::CONFIRM_SELECT, &[0]));
    rig.broker(&method(1, MethodId::CONFIRM_SELECT_OK, &[]));
    rig.client(&publish(1, "t.other", "x", false));
    rig.output(Side::Client);
    rig.output(Side::Broker);
    rig.client(&answer(&key()));
    assert_eq!(rig.client_got(), ["basic.ack 2"]);
    rig.client(&publish(1, "t.other", "y", false));
    assert_eq!(rig.broker_got(), ["basic.publish y"], "the broker has had two");
    rig.broker(&ack(1, 1, false));
    rig.broker(&ack(1, 2, false));
    assert_eq!(rig.client_got(), ["basic.ack 1", "basic.ack 3"]);
}

#[test]
fn an_answer_that_cannot_be_read_says_nothing_and_goes_no_further() {
    for body in [
        "",
        "[",
        "[1]",
        r#"{"w@one": {"error": "KeyError('x')"}}"#,
        r#"{"w@one": {"ok": "done"}}"#,
    ] {
        let mut rig = worker();
        rig.client(&reply("", &key(), body));
        assert_eq!(rig.broker_got(), [""; 0], "{body}");
        assert_eq!(known(&mut rig), [], "{body}");
    }
}

#[test]
fn what_is_not_an_answer_to_this_process_passes() {
    for (exchange, key) in [("", "oncegate.reply.other.t7"), ("shop", &*key()), ("", "reply-queue")] {
        let mut rig = worker();
        let frames = reply(exchange, key, r#"{"w@one": {}}"#);
        rig.client(&frames);
        assert_eq!(rig.output(Side::Broker), frames, "{exchange} {key}");
        assert_eq!(known(&mut rig), []);
    }
}

#[test]
fn workers_tell_of_themselves() {
    use crate::session::Pulse;
    let events = r#"[{"type": "worker-online", "hostname": "w@one", "freq": 2.0}, {"type": "worker-heartbeat", "hostname": "w@one", "freq": 1.5},
        {"type": "worker-heartbeat", "hostname": "w@one"}, {"type": "worker-offline", "hostname": "w@one"}]"#;
    let mut rig = worker();
    let frames = reply("celeryev", "worker.heartbeat", events);
    rig.client(&frames);
    assert_eq!(rig.output(Side::Broker), frames);
    let pulses: Vec<Pulse> = rig
        .session
        .events()
        .drain(..)
        .filter_map(|event| match event {
            Event::Pulse { node, pulse } if *node == *"w@one" => Some(pulse),
            _ => None,
        })
        .collect();
    let wanted = [
        Pulse::Online { every_ms: Some(2_000) },
        Pulse::Heartbeat { every_ms: Some(1_500) },
        Pulse::Heartbeat { every_ms: None },
        Pulse::Offline,
    ];
    assert_eq!(pulses, wanted);
}
