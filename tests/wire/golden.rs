//! Dialogues of real clients with a real broker: every frame is split and decoded as the other decoder did it when it was captured.

use crate::render;
use oncegate::amqp::content::{self, ContentHeader};
use oncegate::amqp::encode;
use oncegate::amqp::frame::{self, Frame, FrameKind, PROTOCOL_HEADER, ProtocolHeader, Split};
use oncegate::amqp::method::MethodId;
use oncegate::amqp::method::basic::{Ack, Cancel, Deliver, Nack, Publish, Recover, Reject};
use oncegate::amqp::method::connection::{Close, StartOk};
use oncegate::amqp::table::{FieldValue, Table};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;

/// One captured frame.
pub struct Golden {
    /// File and line, for messages.
    pub place: String,
    /// `client` or `server`.
    pub sender: String,
    /// The name of the method or of the kind of frame.
    pub name: String,
    pub channel: u16,
    /// What the other decoder read.
    pub fields: Value,
    pub bytes: Vec<u8>,
}

/// Every captured frame, in the order of the files.
pub fn all() -> Vec<Golden> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire/golden");
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .expect("the folder")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    paths.iter().flat_map(|path| read(path)).collect()
}

fn read(path: &Path) -> Vec<Golden> {
    let text = std::fs::read_to_string(path).expect("a golden file");
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("##")).collect();
    let frames = lines.chunks(2).enumerate().map(|(number, pair)| {
        let [described, hex] = pair else {
            panic!("{}: a description without a frame", path.display())
        };
        let parts: Vec<&str> = described.splitn(5, ' ').collect();
        let ["#", sender, name, channel, fields] = parts[..] else {
            panic!("{}: {described}", path.display())
        };
        Golden {
            place: format!("{} frame {number} {name}", path.file_stem().unwrap_or_default().display()),
            sender: sender.to_owned(),
            name: name.to_owned(),
            channel: channel.parse().expect("a channel"),
            fields: serde_json::from_str(fields).expect("JSON"),
            bytes: unhex(hex),
        }
    });
    frames.collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("ASCII"));
    digits.map(|pair| u8::from_str_radix(pair, 16).expect("hex")).collect()
}

/// The captured frames without the protocol headers.
pub fn frames() -> Vec<Golden> {
    all().into_iter().filter(|golden| golden.name != "protocol-header").collect()
}

fn whole(golden: &Golden) -> Frame<'_> {
    match frame::split(&golden.bytes, 131_072) {
        Split::Frame(frame) => frame,
        other => panic!("{}: {other:?}", golden.place),
    }
}

#[test]
fn the_captures_cover_clients_brokers_and_methods() {
    let frames = all();
    let names: BTreeSet<(&str, &str)> = frames.iter().map(|golden| (golden.sender.as_str(), golden.name.as_str())).collect();
    let expected = [
        ("client", "basic.publish"),
        ("client", "basic.nack"),
        ("client", "connection.start-ok"),
        ("client", "connection.update-secret"),
        ("client", "tx.rollback"),
        ("server", "basic.ack"),
        ("server", "basic.cancel"),
        ("server", "basic.deliver"),
        ("server", "basic.get-ok"),
        ("server", "basic.return"),
        ("server", "channel.close"),
        ("server", "connection.blocked"),
        ("server", "connection.close"),
        ("server", "heartbeat"),
    ];
    for name in expected {
        assert!(names.contains(&name), "no {name:?}");
    }
}

#[test]
fn every_frame_is_split_whole_byte_by_byte_and_with_trailing_bytes() {
    for golden in frames() {
        let frame = whole(&golden);
        let name = match frame.kind {
            FrameKind::Method => frame.method_id().and_then(MethodId::name).expect("a known method"),
            FrameKind::Header => "header",
            FrameKind::Body => "body",
            FrameKind::Heartbeat => "heartbeat",
            FrameKind::Other(octet) => panic!("{}: type {octet}", golden.place),
        };
        assert_eq!((name, frame.channel), (golden.name.as_str(), golden.channel), "{}", golden.place);
        assert_eq!(frame.raw, golden.bytes, "{}", golden.place);
        for end in 0..golden.bytes.len() {
            let needed = if end < frame::HEADER_LEN {
                frame::HEADER_LEN
            } else {
                golden.bytes.len()
            };
            assert_eq!(
                frame::split(&golden.bytes[..end], 131_072),
                Split::Incomplete { needed },
                "{} {end}",
                golden.place
            );
        }
        let trailing = [&golden.bytes[..], &[1, 0xCE, 0xff]].concat();
        assert_eq!(frame::split(&trailing, 131_072), Split::Frame(frame), "{}", golden.place);
    }
}

#[test]
fn whole_dialogues_are_walked_without_a_byte_lost() {
    let frames = frames();
    let stream: Vec<u8> = frames.iter().flat_map(|golden| golden.bytes.iter().copied()).collect();
    let mut rest = &stream[..];
    for golden in &frames {
        let Split::Frame(frame) = frame::split(rest, 131_072) else {
            panic!("{}", golden.place)
        };
        assert_eq!(frame.raw, golden.bytes, "{}", golden.place);
        rest = &rest[frame.raw.len()..];
    }
    assert!(rest.is_empty());
}

#[test]
fn every_protocol_header_is_known() {
    let headers: Vec<Golden> = all().into_iter().filter(|golden| golden.name == "protocol-header").collect();
    assert!(headers.len() >= 10);
    for header in headers {
        assert_eq!(header.bytes, PROTOCOL_HEADER, "{}", header.place);
        assert_eq!(frame::parse_protocol_header(&header.bytes), ProtocolHeader::Amqp091);
    }
}

/// Methods without a decoder: nothing but their name matters to a proxy.
const ONLY_NAMED: &[&str] = &[
    "basic.get-empty",
    "basic.qos-ok",
    "basic.recover-ok",
    "channel.close-ok",
    "channel.flow-ok",
    "channel.open",
    "channel.open-ok",
    "confirm.select-ok",
    "connection.close-ok",
    "connection.open-ok",
    "connection.unblocked",
    "connection.update-secret-ok",
    "exchange.bind",
    "exchange.bind-ok",
    "exchange.declare",
    "exchange.declare-ok",
    "exchange.delete",
    "exchange.delete-ok",
    "exchange.unbind",
    "exchange.unbind-ok",
    "queue.bind-ok",
    "queue.unbind-ok",
    "tx.commit",
    "tx.commit-ok",
    "tx.rollback",
    "tx.rollback-ok",
    "tx.select",
    "tx.select-ok",
];

#[test]
fn every_method_has_the_fields_that_the_other_decoder_read() {
    for golden in frames() {
        let frame = whole(&golden);
        let Some(id) = frame.method_id() else { continue };
        let Some(ours) = render::method(id, frame.payload) else {
            assert!(ONLY_NAMED.contains(&golden.name.as_str()), "{} was not decoded", golden.place);
            continue;
        };
        for (name, value) in ours.as_object().expect("an object") {
            assert_eq!(Some(value), golden.fields.get(name), "{}: {name}", golden.place);
        }
        let missed: Vec<&String> = golden
            .fields
            .as_object()
            .expect("an object")
            .keys()
            .filter(|name| ours.get(*name).is_none())
            .collect();
        assert!(
            missed
                .iter()
                .all(|name| ["ticket", "capabilities", "insist"].contains(&name.as_str())),
            "{} lacks {missed:?}",
            golden.place
        );
        for end in 0..frame.payload.len() {
            assert_eq!(
                render::method(id, &frame.payload[..end]),
                None,
                "{} cut to {end} octets",
                golden.place
            );
        }
        let trailing = [frame.payload, &[0xCE, 1, 2]].concat();
        assert_eq!(render::method(id, &trailing), Some(ours), "{} with trailing octets", golden.place);
    }
}

#[test]
fn every_content_header_has_the_properties_that_the_other_decoder_read() {
    let mut seen = 0;
    for golden in frames().iter().filter(|golden| golden.name == "header") {
        let frame = whole(golden);
        let header = ContentHeader::decode(frame.payload).expect("a content header");
        let mut expected = golden.fields["properties"].clone();
        if header.properties.cluster_id.is_none() {
            // The other decoder makes an empty string of an absent cluster id.
            expected.as_object_mut().expect("an object").remove("cluster_id");
        }
        assert_eq!(render::properties(&header.properties), expected, "{}", golden.place);
        assert_eq!(json!(header.body_size), golden.fields["body_size"], "{}", golden.place);
        assert_eq!((header.class, header.weight), (60, 0));
        assert_eq!(content::body_size(frame.payload), Some(header.body_size));
        for end in 0..frame.payload.len() {
            assert_eq!(
                ContentHeader::decode(&frame.payload[..end]),
                None,
                "{} cut to {end} octets",
                golden.place
            );
        }
        let mut again = frame.payload[..12].to_vec();
        header.properties.encode(&mut again).expect("it was on a wire before");
        assert_eq!(again, frame.payload, "{}", golden.place);
        if let Some(headers) = header.properties.headers {
            assert_eq!(headers.check(8), Ok(()), "{}", golden.place);
        }
        seen += 1;
    }
    assert!(seen >= 60, "{seen} content headers");
}

#[test]
fn bodies_add_up_to_what_the_content_header_says() {
    let mut expected: std::collections::HashMap<(String, u16), u64> = std::collections::HashMap::new();
    for golden in frames() {
        let key = (
            format!("{} {}", golden.place.split(' ').next().unwrap_or_default(), golden.sender),
            golden.channel,
        );
        let frame = whole(&golden);
        match frame.kind {
            FrameKind::Header => {
                let size = content::body_size(frame.payload).expect("a content header");
                assert!(expected.insert(key, size).is_none_or(|left| left == 0), "{}", golden.place);
            }
            FrameKind::Body => {
                let left = expected.get_mut(&key).expect("a content header before");
                *left = left.checked_sub(frame.payload.len() as u64).expect("no more than announced");
            }
            _ => {}
        }
    }
    assert!(expected.values().all(|left| *left == 0));
}

/// Encodes a decoded method again; `None` for those that the proxy never makes up.
fn encode_again(id: MethodId, channel: u16, payload: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    match id {
        MethodId::BASIC_ACK => encode::basic_ack(&mut out, channel, Ack::decode(payload)?),
        MethodId::BASIC_NACK => encode::basic_nack(&mut out, channel, Nack::decode(payload)?),
        MethodId::BASIC_REJECT => encode::basic_reject(&mut out, channel, Reject::decode(payload)?),
        MethodId::BASIC_RECOVER => encode::basic_recover(&mut out, channel, Recover::decode(payload)?.requeue),
        MethodId::BASIC_CANCEL => {
            let Cancel { consumer_tag, nowait } = Cancel::decode(payload)?;
            encode::basic_cancel(&mut out, channel, consumer_tag, nowait).expect("a short tag");
        }
        MethodId::CONFIRM_SELECT => encode::confirm_select(&mut out, channel, payload[4] == 1),
        MethodId::CONFIRM_SELECT_OK => encode::confirm_select_ok(&mut out, channel),
        MethodId::CHANNEL_CLOSE => {
            let Close { code, text, cause } = Close::decode_channel(payload)?;
            encode::channel_close(&mut out, channel, code, std::str::from_utf8(text).expect("UTF-8"), Some(cause));
        }
        MethodId::CHANNEL_CLOSE_OK => encode::channel_close_ok(&mut out, channel),
        MethodId::CONNECTION_CLOSE => {
            let Close { code, text, cause } = Close::decode(payload)?;
            encode::connection_close(&mut out, code, std::str::from_utf8(text).expect("UTF-8"), Some(cause));
        }
        MethodId::CONNECTION_CLOSE_OK => encode::connection_close_ok(&mut out),
        _ => return None,
    }
    Some(out)
}

#[test]
fn the_frames_that_the_proxy_makes_are_those_of_clients_and_brokers() {
    let mut made = BTreeSet::new();
    for golden in frames() {
        let frame = whole(&golden);
        let again = match frame.kind {
            FrameKind::Method => frame.method_id().and_then(|id| encode_again(id, frame.channel, frame.payload)),
            FrameKind::Heartbeat => {
                let mut out = Vec::new();
                encode::heartbeat(&mut out);
                Some(out)
            }
            _ => None,
        };
        if let Some(again) = again {
            assert_eq!(again, golden.bytes, "{}", golden.place);
            made.insert(golden.name);
        }
    }
    assert_eq!(made.len(), 12, "{made:?}");
}

#[test]
fn whole_messages_are_made_as_clients_and_brokers_make_them() {
    let frames = frames();
    let mut made = 0;
    for (index, golden) in frames.iter().enumerate() {
        let method = whole(golden);
        if !matches!(method.method_id(), Some(MethodId::BASIC_PUBLISH | MethodId::BASIC_DELIVER)) {
            continue;
        }
        let contents: Vec<Frame<'_>> = frames[index + 1..]
            .iter()
            .filter(|other| other.sender == golden.sender)
            .map(whole)
            .take_while(|frame| matches!(frame.kind, FrameKind::Header | FrameKind::Body))
            .collect();
        let [header, bodies @ ..] = &contents[..] else {
            panic!("{}: no content", golden.place)
        };
        let properties = ContentHeader::decode(header.payload).expect("a content header").properties;
        let body: Vec<u8> = bodies.iter().flat_map(|frame| frame.payload.iter().copied()).collect();
        let content = encode::Content { properties, body: &body };
        let frame_max = bodies.iter().map(|frame| frame.raw.len()).max().unwrap_or(4096);
        let mut out = Vec::new();
        let encoded = if let Some(publish) = Publish::decode(method.payload) {
            encode::basic_publish(&mut out, method.channel, &publish, &content, frame_max)
        } else {
            let deliver = Deliver::decode(method.payload).expect("a delivery");
            encode::basic_deliver(&mut out, method.channel, &deliver, &content, frame_max)
        };
        assert_eq!(encoded, Ok(()));
        let expected = [&[method], &contents[..]].concat();
        let expected: Vec<u8> = expected.iter().flat_map(|frame| frame.raw.iter().copied()).collect();
        assert!(out == expected, "{} differs", golden.place);
        made += 1;
    }
    assert!(made >= 60, "{made} messages");
}

#[test]
fn capabilities_are_read_from_each_client() {
    let mut seen = 0;
    for golden in frames().iter().filter(|golden| golden.name == "connection.start-ok") {
        let frame = whole(golden);
        let start_ok = StartOk::decode(frame.payload).expect("start-ok");
        let expected = &golden.fields["client_properties"]["capabilities"];
        for name in [
            "connection.blocked",
            "consumer_cancel_notify",
            "authentication_failure_close",
            "basic.nack",
            "publisher_confirms",
        ] {
            let expected = expected.get(name) == Some(&Value::Bool(true));
            assert_eq!(start_ok.has_capability(name.as_bytes()), Ok(expected), "{} {name}", golden.place);
        }
        assert_eq!(start_ok.has_capability(b"no.such.thing"), Ok(false));
        if start_ok.mechanism == b"AMQPLAIN" {
            let login = Table::new(start_ok.response).get_many([b"LOGIN", b"PASSWORD"]);
            assert_eq!(login, Ok([Some(FieldValue::LongStr(b"guest")); 2]), "{}", golden.place);
        } else {
            assert_eq!(
                (start_ok.mechanism, start_ok.response),
                (&b"PLAIN"[..], &b"\0guest\0guest"[..]),
                "{}",
                golden.place
            );
        }
        seen += 1;
    }
    assert!(seen >= 10, "{seen} clients");
}

#[test]
fn a_celery_task_shows_its_name_and_id() {
    let mut tasks = 0;
    for golden in frames()
        .iter()
        .filter(|golden| golden.name == "header" && golden.sender == "client")
    {
        let header = ContentHeader::decode(whole(golden).payload).expect("a content header");
        let Some(headers) = header.properties.headers else { continue };
        let [name, id, eta, missing] = headers.get_many([b"task", b"id", b"eta", b"x-missing"]).expect("a readable table");
        let Some(name) = name else { continue };
        assert!(
            name.as_str().is_some_and(|name| name.starts_with("tasks.")),
            "{}: {name:?}",
            golden.place
        );
        assert_eq!(
            id.and_then(|id| id.as_octets()),
            header.properties.correlation_id,
            "{}",
            golden.place
        );
        let expected_eta = &golden.fields["properties"]["headers"]["eta"];
        assert_eq!(eta.and_then(|eta| eta.as_str()), expected_eta.as_str(), "{}", golden.place);
        assert_eq!(missing, None);
        assert_eq!(headers.get(b"task"), Ok(Some(name)));
        tasks += 1;
    }
    assert!(tasks >= 10, "{tasks} tasks");
}

#[test]
fn one_header_is_changed_and_every_other_byte_stays() {
    let mut changed = 0;
    for golden in frames().iter().filter(|golden| golden.name == "header") {
        let frame = whole(golden);
        let before = golden.fields["properties"]["headers"].clone();
        for name in ["eta", "x-oncegate-park"] {
            let value = FieldValue::LongStr(b"2026-12-24T00:00:00+00:00");
            let spliced = content::splice_header(&frame, name.as_bytes(), &value, 0).expect("small");
            let Split::Frame(new) = frame::split(&spliced, 131_072) else {
                panic!("{}", golden.place)
            };
            assert_eq!((new.raw.len(), new.channel, new.kind), (spliced.len(), frame.channel, frame.kind));
            let header = ContentHeader::decode(new.payload).expect("a content header");
            let mut expected = if before.is_null() { json!({}) } else { before.clone() };
            expected[name] = render::value(&value);
            assert_eq!(
                render::table(header.properties.headers.expect("headers")),
                expected,
                "{}",
                golden.place
            );
            // Putting the old value back gives the old bytes.
            let Some(old) = ContentHeader::decode(frame.payload).and_then(|header| header.properties.headers) else {
                continue;
            };
            if let Some(old) = old.get(name.as_bytes()).expect("readable") {
                assert_eq!(
                    content::splice_header(&new, name.as_bytes(), &old, 0).expect("small"),
                    golden.bytes,
                    "{}",
                    golden.place
                );
                changed += 1;
            }
            let refused = content::splice_header(&frame, name.as_bytes(), &value, spliced.len() - 1);
            let size = spliced.len();
            assert_eq!(refused, Err(content::SpliceError::TooLarge { size, frame_max: size - 1 }));
            assert_eq!(content::splice_header(&frame, name.as_bytes(), &value, size), Ok(spliced));
        }
    }
    assert!(changed >= 10, "{changed} messages with an eta");
}
