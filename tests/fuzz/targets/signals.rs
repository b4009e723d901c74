//! Any bytes as what workers and controllers say: events, control messages, their replies, results.
//!
//! The first octet says what the rest is: its serializer is in bits 0 and 1, its compression in bits 2 to 4.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oncegate::amqp::content::Properties;
use oncegate::amqp::table::{FieldValue, Table, put_entry};
use oncegate::celery::value::Value;
use oncegate::celery::{Limits, control, event, json, result};

/// Small, so that what grows beyond a limit is found fast.
const LIMITS: Limits = Limits {
    max_message: 1 << 16,
    max_values: 20_000,
};

const CONTENT_TYPES: [&[u8]; 4] = [
    b"application/json",
    b"application/x-python-serialize",
    b"application/x-msgpack",
    b"application/x-yaml",
];

const COMPRESSIONS: [&[u8]; 8] = [b"", b"gzip", b"bzip2", b"xz", b"zstd", b"brotli", b"", b""];

/// The status of a result, as the reader of whole values has it.
fn status(body: &[u8]) -> Option<result::Status> {
    let Ok(Value::Map(entries)) = json::parse(body, LIMITS) else {
        return None;
    };
    let (_, status) = entries.iter().find(|(name, _)| name.as_str() == Some("status"))?;
    status.as_str().map(result::Status::from_name)
}

fn results(properties: &Properties<'_>, body: &[u8]) {
    if let Ok(Some(read)) = result::read_rpc(properties, body, LIMITS) {
        assert!(!read.id.is_empty());
        if let Some(whole) = &read.json
            && let Some(status) = status(whole)
        {
            assert_eq!(status, read.status);
        }
    }
    if let Ok(Some(read)) = result::read_stored("id", body, LIMITS) {
        assert!(!read.id.is_empty());
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, body)) = data.split_first() else { return };
    let mut headers = Vec::new();
    let compression = COMPRESSIONS[usize::from(kind >> 2 & 7)];
    if !compression.is_empty() {
        put_entry(&mut headers, b"compression", &FieldValue::LongStr(compression)).expect("short names");
    }
    let properties = Properties {
        content_type: Some(CONTENT_TYPES[usize::from(kind & 3)]),
        headers: Some(Table::new(&headers)),
        correlation_id: Some(b"id"),
        ..Properties::default()
    };
    if let Ok(read) = event::read(&properties, body, LIMITS) {
        assert!(read.events.len() + read.ignored <= event::MAX_EVENTS);
        assert!(
            read.events
                .iter()
                .all(|event| !matches!(&event.kind, event::Kind::Task { id, .. } if id.is_empty()))
        );
    }
    assert_eq!(control::read(&properties, body, LIMITS), control::read(&properties, body, LIMITS));
    assert_eq!(
        control::read_reply(&properties, body, LIMITS),
        control::read_reply(&properties, body, LIMITS)
    );
    results(&properties, body);
});
