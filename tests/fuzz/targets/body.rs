//! Any bytes as a message: each serializer behind each compression, and whole messages of both protocols.
//!
//! The first octet says what the rest is: with bit 7 a content header of the length in the next two octets and then the body, else a
//! body alone, whose serializer is in bits 0 and 1 and whose compression in bits 2 to 4.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oncegate::amqp::content::ContentHeader;
use oncegate::celery::body::{self, Body, Encoding};
use oncegate::celery::value::Value;
use oncegate::celery::{Limits, Unreadable, task};
use oncegate::rules::lock::Digest;
use oncegate::rules::{Domain, digest};

/// Small, so that what grows beyond a limit is found fast.
const LIMITS: Limits = Limits {
    max_message: 1 << 16,
    max_values: 10_000,
};

const CONTENT_TYPES: [&[u8]; 4] = [
    b"application/json",
    b"application/x-python-serialize",
    b"application/x-msgpack",
    b"application/x-yaml",
];

const COMPRESSIONS: [Option<&[u8]>; 8] = [
    None,
    Some(b"gzip"),
    Some(b"bzip2"),
    Some(b"xz"),
    Some(b"zstd"),
    Some(b"brotli"),
    Some(b""),
    None,
];

/// The key of all arguments.
fn key(body: &Body) -> Digest {
    digest(Domain::Computed, false, "/", "", [&body.args, &body.kwargs].into_iter())
}

/// A body is what its documentation says, and reads the same twice.
fn check(first: Result<Body, Unreadable>, second: Result<Body, Unreadable>) {
    match (first, second) {
        (Ok(first), Ok(second)) => {
            assert!(matches!(first.args, Value::List(_) | Value::Tuple(_)), "{first:?}");
            assert!(matches!(first.kwargs, Value::Map(_)), "{first:?}");
            assert_eq!(key(&first), key(&second));
            assert_eq!(first.canvas, second.canvas);
        }
        (Err(first), Err(second)) => assert_eq!(first, second),
        (first, second) => panic!("{first:?} and {second:?}"),
    }
}

fn message(data: &[u8]) {
    let Some((size, rest)) = data.split_first_chunk::<2>() else {
        return;
    };
    let size = usize::from(u16::from_be_bytes(*size)).min(rest.len());
    let (header, body) = rest.split_at(size);
    let Some(header) = ContentHeader::decode(header) else { return };
    let properties = &header.properties;
    let peeked = task::peek(properties);
    let _ = task::read(properties);
    match task::read_with_body(properties, body, LIMITS) {
        Ok(Some((task, content))) => {
            assert!(!task.id.is_empty());
            if peeked.is_none() {
                assert!(task::may_be_v1(properties, body), "nothing hints at a task that can be read");
                let v1 = task::read_v1(properties, body, LIMITS);
                assert!(matches!(v1, Ok(Some(_))), "{v1:?}");
            }
            check(
                Ok(content),
                Encoding::of(properties).and_then(|encoding| body::decode(&encoding, body, LIMITS)),
            );
        }
        Ok(None) => assert!(peeked.is_none_or(|name| name.is_empty()), "a message with a task's name is none"),
        Err(_) => {}
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    if kind & 0x80 != 0 {
        return message(data);
    }
    let encoding = Encoding {
        content_type: Some(CONTENT_TYPES[usize::from(kind & 3)]),
        content_encoding: None,
        compression: COMPRESSIONS[usize::from(kind >> 2 & 7)],
    };
    check(body::decode(&encoding, data, LIMITS), body::decode(&encoding, data, LIMITS));
});
