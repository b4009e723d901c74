//! Random messages: written by this codec, by `amq-protocol`, or by hand where neither writes what the wire allows.

use crate::{oracle, render};
use amq_protocol::frame::{AMQPFrame, WriteContext, gen_frame, parse_frame};
use oncegate::amqp::content::{ContentHeader, Properties, splice_header};
use oncegate::amqp::encode::{self, Content};
use oncegate::amqp::frame::{self, Frame, FrameKind, HEADER_LEN, OVERHEAD, Split};
use oncegate::amqp::method::basic::{Deliver, Publish};
use oncegate::amqp::table::{FieldValue, Table};
use proptest::prelude::*;

/// A value as it stands on the wire (type octet and all), with what it must be read as.
#[derive(Debug, Clone)]
struct Wire {
    bytes: Vec<u8>,
    rendered: serde_json::Value,
    /// Whether `amq-protocol` can read it.
    portable: bool,
}

fn fixed<const N: usize>(tag: u8, octets: [u8; N], rendered: serde_json::Value) -> Wire {
    Wire {
        bytes: [&[tag], &octets[..]].concat(),
        rendered,
        portable: true,
    }
}

fn sized(tag: u8, octets: &[u8], rendered: serde_json::Value) -> Wire {
    Wire {
        bytes: [&[tag], &(octets.len() as u32).to_be_bytes()[..], octets].concat(),
        rendered,
        portable: true,
    }
}

fn scalar() -> impl Strategy<Value = Wire> {
    use serde_json::json;
    prop_oneof![
        any::<u8>().prop_map(|octet| fixed(b't', [octet], json!(octet != 0))),
        any::<i8>().prop_map(|number| fixed(b'b', number.to_be_bytes(), json!(number))),
        any::<u8>().prop_map(|number| fixed(b'B', [number], json!(number))),
        (prop_oneof![Just(b's'), Just(b'U')], any::<i16>()).prop_map(|(tag, number)| fixed(tag, number.to_be_bytes(), json!(number))),
        any::<u16>().prop_map(|number| fixed(b'u', number.to_be_bytes(), json!(number))),
        any::<i32>().prop_map(|number| fixed(b'I', number.to_be_bytes(), json!(number))),
        any::<u32>().prop_map(|number| fixed(b'i', number.to_be_bytes(), json!(number))),
        (prop_oneof![Just(b'l'), Just(b'L')], any::<i64>()).prop_map(|(tag, number)| fixed(tag, number.to_be_bytes(), json!(number))),
        any::<f32>().prop_map(|number| fixed(b'f', number.to_be_bytes(), json!(f64::from(number)))),
        any::<f64>().prop_map(|number| fixed(b'd', number.to_be_bytes(), json!(number))),
        (any::<u8>(), any::<u32>()).prop_map(|(scale, value)| {
            let mut wire = fixed(b'D', value.to_be_bytes(), json!({ "decimal": render::decimal(scale, value) }));
            wire.bytes.insert(1, scale);
            wire
        }),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(|octets| sized(b'S', &octets, render::text(&octets))),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(|octets| sized(b'x', &octets, json!({ "bytes": render::hex(&octets) }))),
        any::<u64>().prop_map(|seconds| fixed(b'T', seconds.to_be_bytes(), json!({ "seconds": seconds }))),
        Just(fixed(b'V', [], json!(null))),
    ]
}

/// Names with any octets; few of them, so that some occur twice.
fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => prop::sample::select(&["task", "id", "eta", "a", ""][..]).prop_map(|name| name.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..=255),
    ]
}

fn put_name(out: &mut Vec<u8>, name: &[u8]) {
    out.push(u8::try_from(name.len()).expect("at most 255"));
    out.extend_from_slice(name);
}

fn table_of(entries: &[(Vec<u8>, Wire)]) -> Wire {
    let mut bytes = Vec::new();
    let mut rendered = serde_json::Map::new();
    for (name, item) in entries {
        put_name(&mut bytes, name);
        bytes.extend_from_slice(&item.bytes);
        rendered.insert(String::from_utf8_lossy(name).into_owned(), item.rendered.clone());
    }
    let portable = entries
        .iter()
        .all(|(name, item)| std::str::from_utf8(name).is_ok() && item.portable);
    Wire {
        portable,
        ..sized(b'F', &bytes, rendered.into())
    }
}

fn value() -> impl Strategy<Value = Wire> {
    scalar().prop_recursive(4, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(|items| {
                let bytes: Vec<u8> = items.iter().flat_map(|item| item.bytes.iter().copied()).collect();
                let rendered: Vec<_> = items.iter().map(|item| item.rendered.clone()).collect();
                Wire {
                    portable: items.iter().all(|item| item.portable),
                    ..sized(b'A', &bytes, rendered.into())
                }
            }),
            prop::collection::vec((name(), inner), 0..6).prop_map(|entries| table_of(&entries)),
        ]
    })
}

fn entries() -> impl Strategy<Value = Vec<(Vec<u8>, Wire)>> {
    prop::collection::vec((name(), value()), 0..8)
}

fn short() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..=255),
        "[a-z.]{0,20}".prop_map(String::into_bytes)
    ]
}

/// Every property of a message, owned.
#[derive(Debug, Clone)]
struct Owned {
    strings: Vec<Option<Vec<u8>>>,
    octets: [Option<u8>; 2],
    timestamp: Option<u64>,
    headers: Option<Wire>,
}

impl Owned {
    fn borrowed(&self) -> Properties<'_> {
        let string = |index: usize| self.strings[index].as_deref();
        Properties {
            content_type: string(0),
            content_encoding: string(1),
            headers: self.headers.as_ref().map(|headers| Table::new(&headers.bytes[5..])),
            delivery_mode: self.octets[0],
            priority: self.octets[1],
            correlation_id: string(2),
            reply_to: string(3),
            expiration: string(4),
            message_id: string(5),
            timestamp: self.timestamp,
            kind: string(6),
            user_id: string(7),
            app_id: string(8),
            cluster_id: string(9),
        }
    }

    fn portable(&self) -> bool {
        let text = self.strings.iter().flatten().all(|octets| std::str::from_utf8(octets).is_ok());
        text && self.headers.as_ref().is_none_or(|headers| headers.portable)
    }
}

fn properties() -> impl Strategy<Value = Owned> {
    (
        prop::collection::vec(prop::option::of(short()), 10),
        any::<[Option<u8>; 2]>(),
        any::<Option<u64>>(),
        prop::option::of(entries().prop_map(|entries| table_of(&entries))),
    )
        .prop_map(|(strings, octets, timestamp, headers)| Owned {
            strings,
            octets,
            timestamp,
            headers,
        })
}

fn split_all(stream: &[u8]) -> Vec<Frame<'_>> {
    let mut frames = Vec::new();
    let mut rest = stream;
    while !rest.is_empty() {
        let Split::Frame(frame) = frame::split(rest, usize::MAX) else {
            panic!("no frame: {rest:?}")
        };
        frames.push(frame);
        rest = &rest[frame.raw.len()..];
    }
    frames
}

/// Octets of which a frame is likely to come about.
fn frame_octet() -> impl Strategy<Value = u8> {
    prop_oneof![Just(0_u8), Just(1), Just(2), Just(frame::END), any::<u8>()]
}

proptest! {
    #[test]
    fn tables_of_every_type_are_read(entries in entries()) {
        let wire = table_of(&entries);
        let raw = &wire.bytes[5..];
        let table = Table::new(raw);
        prop_assert_eq!(render::table(table), wire.rendered);
        prop_assert_eq!(table.check(5), Ok(()));
        let read: Vec<_> = table.iter().map(|entry| entry.expect("readable")).collect();
        prop_assert_eq!(read.len(), entries.len());
        for (entry, (name, item)) in read.iter().zip(&entries) {
            prop_assert_eq!(entry.name, &name[..]);
            prop_assert!(entry.raw.ends_with(&item.bytes));
            let last = entries.iter().rev().find(|(other, _)| other == name).expect("it is there");
            let found = table.get(name).expect("readable").expect("it is there");
            prop_assert_eq!(render::value(&found), last.1.rendered.clone());
        }
        prop_assert_eq!(table.get(b"x-never-there"), Ok(None));
    }

    #[test]
    fn a_cut_table_is_an_error_or_a_shorter_table(entries in entries(), cut in any::<prop::sample::Index>()) {
        let wire = table_of(&entries);
        let raw = &wire.bytes[5..];
        let end = cut.index(raw.len() + 1);
        let table = Table::new(&raw[..end]);
        let starts_entry = Table::new(raw).iter().scan(0, |at, entry| {
            *at += entry.expect("readable").raw.len();
            Some(*at)
        });
        let whole = end == 0 || starts_entry.into_iter().any(|at| at == end);
        prop_assert_eq!(table.check(5).is_ok(), whole);
        prop_assert_eq!(table.get(b"task").is_ok(), whole);
        prop_assert_eq!(table.iter().all(|entry| entry.is_ok()), whole);
    }

    #[test]
    fn any_bytes_are_a_table_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let table = Table::new(&bytes);
        let iterated: Result<Vec<_>, _> = table.iter().collect();
        prop_assert_eq!(table.get(b"a").is_ok(), iterated.is_ok());
        if table.check(64).is_ok() {
            prop_assert!(iterated.is_ok());
        }
    }

    #[test]
    fn messages_are_made_and_read(
        properties in properties(),
        body in prop::collection::vec(any::<u8>(), 0..300),
        exchange in short(),
        routing_key in short(),
        flags in any::<[bool; 2]>(),
        channel in any::<u16>(),
        frame_max in 9_usize..200,
    ) {
        let publish = Publish {
            exchange: &exchange,
            routing_key: &routing_key,
            mandatory: flags[0],
            immediate: flags[1],
            bits_offset: 4 + 2 + 1 + exchange.len() + 1 + routing_key.len(),
        };
        let content = Content { properties: properties.borrowed(), body: &body };
        let mut out = Vec::new();
        encode::basic_publish(&mut out, channel, &publish, &content, frame_max).expect("short strings");
        let frames = split_all(&out);
        let (method, header) = (frames[0], frames[1]);
        prop_assert_eq!(Publish::decode(method.payload), Some(publish));
        let decoded = ContentHeader::decode(header.payload).expect("a content header");
        prop_assert_eq!(decoded.properties, content.properties);
        prop_assert_eq!(decoded.body_size, body.len() as u64);
        let pieces: Vec<u8> = frames[2..].iter().flat_map(|frame| frame.payload.iter().copied()).collect();
        prop_assert_eq!(&pieces, &body);
        prop_assert_eq!(frames.len() - 2, body.len().div_ceil(frame_max - OVERHEAD));
        for frame in &frames[2..] {
            prop_assert!(frame.raw.len() <= frame_max);
            prop_assert_eq!(frame.kind, FrameKind::Body);
        }
        prop_assert!(frames.iter().all(|frame| frame.channel == channel));

        let mut mandatory = method.raw.to_vec();
        prop_assert!(encode::set_mandatory(&mut mandatory));
        let changed = Publish::decode(split_all(&mandatory)[0].payload).expect("a publish");
        prop_assert_eq!(changed, Publish { mandatory: true, ..publish });
        mandatory[HEADER_LEN + publish.bits_offset] = method.payload[publish.bits_offset];
        prop_assert_eq!(&mandatory[..], method.raw);
    }

    #[test]
    fn deliveries_are_made_and_read(tag in short(), delivery_tag in any::<u64>(), redelivered in any::<bool>(), key in short()) {
        let deliver = Deliver {
            consumer_tag: &tag,
            delivery_tag,
            redelivered,
            exchange: b"",
            routing_key: &key,
            tag_offset: 4 + 1 + tag.len(),
        };
        let mut out = Vec::new();
        let content = Content { properties: Properties::default(), body: b"" };
        encode::basic_deliver(&mut out, 1, &deliver, &content, 0).expect("short strings");
        let frames = split_all(&out);
        prop_assert_eq!(frames.len(), 2);
        prop_assert_eq!(Deliver::decode(frames[0].payload), Some(deliver));
        prop_assert_eq!(&frames[0].payload[deliver.tag_offset..][..8], &delivery_tag.to_be_bytes()[..]);
    }

    #[test]
    fn amq_protocol_agrees_on_what_it_can_read(properties in properties(), body_size in any::<u64>()) {
        let mut payload = [&[0, 60, 0, 0][..], &body_size.to_be_bytes()[..]].concat();
        properties.borrowed().encode(&mut payload).expect("short strings");
        let bytes = [&[2, 0, 7][..], &(payload.len() as u32).to_be_bytes()[..], &payload, &[frame::END]].concat();
        let ours = ContentHeader::decode(&payload).expect("a content header");
        let theirs = parse_frame(&bytes[..]);
        prop_assert_eq!(theirs.is_ok(), properties.portable());
        if let Ok((_, theirs @ AMQPFrame::Header(..))) = theirs {
            let AMQPFrame::Header(_, header) = &theirs else { unreachable!("matched above") };
            oracle::agree_on_properties(&ours, &header.properties, "random");
            prop_assert_eq!(header.body_size, ours.body_size);
            // And the other way: what amq-protocol writes, we read.
            let written = gen_frame(&theirs)(WriteContext::from(Vec::new())).expect("it is in memory").write;
            let again = ContentHeader::decode(split_all(&written)[0].payload).expect("a content header");
            oracle::agree_on_properties(&again, &header.properties, "random, written by amq-protocol");
        }
    }

    #[test]
    fn a_splice_changes_one_name(properties in properties(), name in name(), number in any::<i64>()) {
        let content = Content { properties: properties.borrowed(), body: b"body" };
        let publish = Publish { exchange: b"", routing_key: b"", mandatory: false, immediate: false, bits_offset: 0 };
        let mut out = Vec::new();
        encode::basic_publish(&mut out, 1, &publish, &content, 0).expect("short strings");
        let frame = split_all(&out)[1];
        let value = FieldValue::I64(number);
        let spliced = splice_header(&frame, &name, &value, 0).expect("small");
        let new = split_all(&spliced)[0];
        let before = ContentHeader::decode(frame.payload).expect("a content header").properties;
        let after = ContentHeader::decode(new.payload).expect("a content header").properties;
        let headers = after.headers.expect("headers");
        prop_assert_eq!(Properties { headers: None, ..after }, Properties { headers: None, ..before });
        prop_assert_eq!(headers.get(&name), Ok(Some(value)));
        let old: Vec<_> = before.headers.iter().flatten().map(|entry| entry.expect("readable")).collect();
        let new: Vec<_> = headers.iter().map(|entry| entry.expect("readable")).collect();
        let inserted = usize::from(!old.iter().any(|entry| entry.name == name));
        prop_assert_eq!(new.len(), old.len() + inserted);
        for (old, new) in old.iter().zip(&new) {
            prop_assert_eq!(old.name, new.name);
            prop_assert!(old.raw == new.raw || old.name == name);
        }
    }

    #[test]
    fn any_bytes_are_split_without_loss(bytes in prop::collection::vec(frame_octet(), 0..80)) {
        let mut rest = &bytes[..];
        loop {
            match frame::split(rest, 16) {
                Split::Frame(frame) => rest = &rest[frame.raw.len()..],
                Split::Incomplete { needed } => {
                    prop_assert!(needed > rest.len() && needed <= 16 + OVERHEAD);
                    break;
                }
                Split::Malformed(_) => break,
            }
        }
    }
}
