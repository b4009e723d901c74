use super::*;
use crate::amqp::encode::{self, Content};
use crate::amqp::method::basic::Deliver;
use crate::amqp::table::{Table, put_entry};

fn table(entries: &[(&str, FieldValue<'_>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in entries {
        put_entry(&mut out, name.as_bytes(), value).expect("short names");
    }
    out
}

fn text(text: &str) -> FieldValue<'_> {
    FieldValue::LongStr(text.as_bytes())
}

/// The frames of a delivery, and where its content header begins.
fn delivery(entries: &[(&str, FieldValue<'_>)], more: Properties<'_>, body: &[u8], frame_max: usize) -> (Vec<u8>, usize) {
    let table = table(entries);
    let properties = Properties {
        headers: Some(Table::new(&table)),
        ..more
    };
    let mut frames = Vec::new();
    let deliver = Deliver {
        consumer_tag: b"c",
        delivery_tag: 1,
        redelivered: false,
        exchange: b"",
        routing_key: b"q",
        tag_offset: 0,
    };
    encode::basic_deliver(&mut frames, 1, &deliver, &Content { properties, body }, frame_max).expect("it fits");
    let Split::Frame(method) = frame::split(&frames, usize::MAX) else {
        panic!("a frame")
    };
    let header_at = method.raw.len();
    (frames, header_at)
}

fn content(entries: &[(&str, FieldValue<'_>)], body: &[u8], frame_max: usize) -> Vec<u8> {
    let (frames, header_at) = delivery(entries, Properties::default(), body, frame_max);
    frames[header_at..].to_vec()
}

fn names(payload: &[u8]) -> Vec<String> {
    let header = ContentHeader::decode(payload).expect("a content header");
    let headers = header.properties.headers.expect("headers");
    let name = |entry: crate::amqp::table::Entry<'_>| String::from_utf8_lossy(entry.name).into_owned();
    headers.iter().map(|entry| name(entry.expect("an entry"))).collect()
}

const WAY: [(&str, FieldValue<'static>); 9] = [
    ("x-death", FieldValue::Void),
    ("x-first-death-queue", FieldValue::Void),
    ("x-last-death-reason", FieldValue::Void),
    ("x-delivery-count", FieldValue::I64(3)),
    ("x-acquired-count", FieldValue::I64(3)),
    ("CC", FieldValue::Void),
    ("BCC", FieldValue::Void),
    ("x-mine", FieldValue::Bool(true)),
    ("x-deathly", FieldValue::Void),
];

#[test]
fn a_fingerprint_is_a_fixed_format() {
    let entries = [
        ("task", text("t")),
        ("retries", FieldValue::I32(2)),
        ("eta", text("2027-01-15T08:00:00")),
    ];
    let of = content(&entries, b"body", 0);
    // In Python: sha256(pack(">Q", 1) + b"x" + b"\1" + pack(">Q", 2) + b"\2" + pack(">Q", 19) + b"2027-01-15T08:00:00" + b"\2" + pack(">Q", 1)
    // + b"V" + b"body").
    assert_eq!(fingerprint(&of, "x"), Some(Fingerprint(0xa11d_baa9_307d_3393)));
}

#[test]
fn it_tells_messages_of_one_id_apart_and_no_copies() {
    let base = [("retries", FieldValue::I32(0)), ("eta", FieldValue::Void)];
    let first = fingerprint(&content(&base, b"body", 0), "x");
    assert!(first.is_some());
    let same: [&[(&str, FieldValue<'_>)]; 4] = [
        &[
            ("x-oncegate-park", text("7")),
            ("x-death", FieldValue::Void),
            ("retries", FieldValue::I64(0)),
        ],
        &[
            ("expires", FieldValue::Void),
            ("eta", FieldValue::Void),
            ("retries", FieldValue::U8(0)),
        ],
        &[("retries", FieldValue::I32(0))],
        &[("retries", FieldValue::I32(0)), ("lang", text("py"))],
    ];
    for entries in same {
        assert_eq!(fingerprint(&content(entries, b"body", 0), "x"), first, "{entries:?}");
        assert_eq!(fingerprint(&content(entries, b"body", 10), "x"), first, "in several frames");
    }
    let other: [&[(&str, FieldValue<'_>)]; 4] = [
        &[("retries", FieldValue::I32(1))],
        &[("retries", FieldValue::I32(0)), ("eta", text("2027"))],
        &[("retries", FieldValue::I32(0)), ("expires", text("2027"))],
        &[],
    ];
    for entries in other {
        assert_ne!(fingerprint(&content(entries, b"body", 0), "x"), first, "{entries:?}");
    }
    assert_ne!(fingerprint(&content(&base, b"bodx", 0), "x"), first);
    assert_ne!(fingerprint(&content(&base, b"body", 0), "y"), first);
    assert_eq!(fingerprint(b"\x02\0", "x"), None);
}

#[test]
fn a_parked_copy_has_its_token_and_nothing_of_its_way() {
    let more = Properties {
        content_type: Some(b"application/json"),
        delivery_mode: Some(2),
        priority: Some(5),
        correlation_id: Some(b"x"),
        expiration: Some(b"60000"),
        user_id: Some(b"guest"),
        ..Properties::default()
    };
    let entries = [&WAY[..], &[(("x-oncegate-park"), text("old"))]].concat();
    let (frames, header_at) = delivery(&entries, more, b"a body in frames", 12);
    let token = Token("0123456789abcdef".into());
    let copy = parked(&frames[header_at..], &token, Some(1_500)).expect("it can be copied");
    assert_eq!(copy.body, b"a body in frames");
    assert_eq!(names(&copy.header), ["x-mine", "x-deathly", "x-oncegate-park"]);
    let header = ContentHeader::decode(&copy.header).expect("a content header");
    assert_eq!(token_of(&header.properties), Some(token.clone()));
    let expected = Properties {
        headers: header.properties.headers,
        expiration: Some(b"1500"),
        user_id: None,
        ..more
    };
    assert_eq!((header.body_size, header.properties), (16, expected));
    for (left_ms, expiration) in [(None, &b"60000"[..]), (Some(0), b"1")] {
        let copy = parked(&frames[header_at..], &token, left_ms).expect("it can be copied");
        let header = ContentHeader::decode(&copy.header).expect("a content header");
        assert_eq!(header.properties.expiration, Some(expiration));
    }
}

#[test]
fn a_worker_sees_nothing_of_the_way_of_a_copy() {
    let entries = [&WAY[..], &[("x-oncegate-park", text("1"))]].concat();
    let (frames, header_at) = delivery(&entries, Properties::default(), b"body in frames", 12);
    let unmarked = unmarked(&frames, header_at).expect("it can be changed");
    let kept = [&WAY[3..]].concat();
    let (expected, _) = delivery(&kept, Properties::default(), b"body in frames", 12);
    assert_eq!(unmarked, expected, "and all else is as it came");
}

#[test]
fn a_dead_lettered_copy_says_why() {
    let more = Properties {
        expiration: Some(b"60000"),
        user_id: Some(b"guest"),
        ..Properties::default()
    };
    let (frames, header_at) = delivery(&WAY, more, b"body", 0);
    let why = DeadLettered {
        reason: "running",
        holder: "h",
        rule: "r",
        queue: "q",
        at_ms: 1_800_000_000_000,
    };
    let copy = dead_lettered(&frames[header_at..], &why).expect("it can be copied");
    let header = ContentHeader::decode(&copy.header).expect("a content header");
    assert_eq!((header.properties.expiration, header.properties.user_id), (None, None));
    let headers = header.properties.headers.expect("headers");
    let said = ["reason", "holder", "rule", "queue", "time"].map(|name| {
        let value = headers.get(format!("x-oncegate-{name}").as_bytes()).expect("readable");
        value.and_then(|value| value.as_str()).unwrap_or_default()
    });
    assert_eq!(said, ["running", "h", "r", "q", "2027-01-15T08:00:00.000000+00:00"]);
    assert_eq!(names(&copy.header)[..2], ["x-mine", "x-deathly"]);
}

#[test]
fn only_a_short_text_is_a_token() {
    let long = "x".repeat(65);
    for value in [FieldValue::I32(5), text(""), text(&long), FieldValue::LongStr(&[0xff])] {
        let table = table(&[("x-oncegate-park", value)]);
        let properties = Properties {
            headers: Some(Table::new(&table)),
            ..Properties::default()
        };
        assert_eq!(token_of(&properties), None, "{value:?}");
    }
}
