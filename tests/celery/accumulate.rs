//! Messages as Celery publishes them, turned into ones that return a result.
//!
//! `accumulated.jsonl` is what was written once, and what `accumulated.py` has found right by kombu's own readers.

use super::*;
use oncegate::celery::accumulate::{self, End};

const RESULTS: [&str; 3] = [
    "42",
    r#"{"a": [1, -2.5, 1e30, "\u00e9\ud83d\ude00 \"x\"", null, true], "big": 123456789012345678901234567890}"#,
    "[]",
];

/// The tasks of protocol 2 among the messages that were captured.
fn members() -> Vec<(String, Vec<u8>, Vec<u8>)> {
    captured()
        .into_iter()
        .filter(|(_, header, body, _)| {
            let encoding = Encoding::of(&properties(header)).expect("an encoding");
            matches!(body::load(&encoding, body, limits()), Ok(Value::List(parts) | Value::Tuple(parts)) if parts.len() == 3)
        })
        .map(|(name, header, body, _)| (name, header, body))
        .collect()
}

fn parts(encoding: &Encoding<'_>, body: &[u8]) -> [Value; 3] {
    match body::load(encoding, body, limits()).expect("a body") {
        Value::List(parts) | Value::Tuple(parts) => parts.try_into().expect("three parts"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn in_every_serializer_and_compression_only_the_arguments_change() {
    let mut kinds = std::collections::BTreeSet::new();
    for (name, header, original) in members() {
        let properties = properties(&header);
        let encoding = Encoding::of(&properties).expect("an encoding");
        let [_, _, embed] = parts(&encoding, &original);
        let index = (Value::Str("index".to_owned()), Value::Int(0));
        let raising = accumulate::body(&encoding, &original, End::Raises, limits()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(
            parts(&encoding, &raising),
            [Value::List(vec![]), Value::Map(vec![index.clone()]), embed.clone()],
            "{name}"
        );
        for result in RESULTS {
            let written = accumulate::body(&encoding, &original, End::Returns(result.as_bytes()), limits());
            if encoding.content_type == Some(b"application/x-msgpack") && result.contains("big") {
                // It has no integers beyond 64 bits.
                assert!(written.is_err(), "{name}");
                continue;
            }
            let written = written.unwrap_or_else(|error| panic!("{name}: {error}"));
            let value = oncegate::celery::json::parse(result.as_bytes(), limits()).expect("json");
            assert_eq!(
                parts(&encoding, &written),
                [Value::List(vec![value]), Value::Map(vec![index.clone()]), embed.clone()],
                "{name}"
            );
        }
        let kind = |octets: Option<&[u8]>| String::from_utf8_lossy(octets.unwrap_or_default()).into_owned();
        kinds.insert((kind(encoding.content_type), kind(encoding.compression)));
    }
    assert!(kinds.len() >= 12, "{kinds:?}");
}

#[test]
fn what_is_written_is_what_was_checked() {
    let rows = rows(include_str!("accumulated.jsonl"));
    let members = members();
    for row in rows {
        let (name, header, original) = members.iter().find(|(name, ..)| *name == text(&row, "name")).expect("it is there");
        let encoding = Encoding::of(&properties(header)).expect("an encoding");
        let written =
            accumulate::body(&encoding, original, End::Returns(text(&row, "result").as_bytes()), limits()).expect("it is written");
        assert_eq!(written, octets(&row["body"]), "{name}");
    }
}
