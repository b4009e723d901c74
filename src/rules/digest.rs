//! The canonical encoding of a unique key, and its digest. This is a fixed format: locks outlive the process that computed them.
//!
//! ```text
//! key      = domain:1  text(vhost)  text(namespace)  count:4  value*
//! text     = length:4  octets
//! value    = 00 null | 01 false | 02 true
//!          | 'i' text(decimal digits, "-" before a negative number)      integers of any size
//!          | 'f' bits:8                                                  IEEE 754; -0.0 as 0.0, every NaN as 7ff8000000000000
//!          | 's' text | 'b' text                                         text, bytes
//!          | 'l' count:4 value* | 't' count:4 value*                     list, tuple
//!          | 'e' count:4 value*                                          set, by ascending encoding
//!          | 'm' count:4 (value value)*                                  mapping, by ascending encoding of the key
//!          | 'o' text(class) count:4 value*                              object
//! domain   = 1 computed key, 2 key given by header, 3 entry of a schedule (the task in place of the namespace); plus 128 for the shadow locks of observing rules
//! ```
//!
//! Lengths and counts are big-endian. The digest is the SHA-256 of the whole. Every value has one encoding and no encoding is the
//! beginning of another, so two keys are equal exactly if all their parts are.

use sha2::{Digest as _, Sha256};

use super::lock::Digest;
use crate::celery::value::Value;

/// Where a key came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Domain {
    /// Computed from the message.
    Computed,
    /// Given by the producer in a header.
    Given,
    /// An entry of a schedule.
    Beat,
}

/// The digest of a key.
pub fn digest<'a>(domain: Domain, shadow: bool, vhost: &str, namespace: &str, parts: impl ExactSizeIterator<Item = &'a Value>) -> Digest {
    let mut bytes = Vec::with_capacity(256);
    let domain = match domain {
        Domain::Computed => 1,
        Domain::Given => 2,
        Domain::Beat => 3,
    };
    bytes.push(if shadow { domain + 128 } else { domain });
    put_text(&mut bytes, vhost.as_bytes());
    put_text(&mut bytes, namespace.as_bytes());
    put_count(&mut bytes, parts.len());
    for part in parts {
        encode(part, &mut bytes);
    }
    Digest(Sha256::digest(&bytes).into())
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&(count as u32).to_be_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    put_count(out, text.len());
    out.extend_from_slice(text);
}

/// Appends the encoding of a value. The depth of a value is bounded by whoever decoded it.
pub fn encode(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(0),
        Value::Bool(truth) => out.push(1 + u8::from(*truth)),
        Value::Int(number) => {
            out.push(b'i');
            put_text(out, number.to_string().as_bytes());
        }
        Value::BigInt(digits) => {
            out.push(b'i');
            put_text(out, digits.as_bytes());
        }
        Value::Float(number) => {
            out.push(b'f');
            let canonical = if number.is_nan() {
                0x7ff8_0000_0000_0000
            } else if *number == 0.0 {
                0
            } else {
                number.to_bits()
            };
            out.extend_from_slice(&canonical.to_be_bytes());
        }
        Value::Str(text) => {
            out.push(b's');
            put_text(out, text.as_bytes());
        }
        Value::Bytes(bytes) => {
            out.push(b'b');
            put_text(out, bytes);
        }
        Value::List(items) => put_sequence(b'l', items, out),
        Value::Tuple(items) => put_sequence(b't', items, out),
        Value::Set(items) => {
            out.push(b'e');
            put_count(out, items.len());
            put_sorted(items.iter().map(|item| encoded(&[item])).collect(), out);
        }
        Value::Map(entries) => {
            out.push(b'm');
            put_count(out, entries.len());
            put_sorted(entries.iter().map(|(key, value)| encoded(&[key, value])).collect(), out);
        }
        Value::Object { class, parts } => {
            out.push(b'o');
            put_text(out, class.as_bytes());
            put_count(out, parts.len());
            for part in parts {
                encode(part, out);
            }
        }
    }
}

fn put_sequence(tag: u8, items: &[Value], out: &mut Vec<u8>) {
    out.push(tag);
    put_count(out, items.len());
    for item in items {
        encode(item, out);
    }
}

pub(super) fn encoded(values: &[&Value]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for value in values {
        encode(value, &mut bytes);
    }
    bytes
}

fn put_sorted(mut encodings: Vec<Vec<u8>>, out: &mut Vec<u8>) {
    encodings.sort_unstable();
    for encoding in encodings {
        out.extend_from_slice(&encoding);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(text: &str) -> Value {
        Value::Str(text.to_owned())
    }

    /// Computed by `tests/digest/reference.py`, which shares no code with this.
    #[test]
    fn golden_digests() {
        let golden = include_str!("../../tests/digest/golden.txt");
        let cases: Vec<(Domain, bool, &str, &str, Vec<Value>)> = vec![
            (Domain::Computed, false, "/", "reports.generate", vec![]),
            (Domain::Computed, false, "/", "reports.generate", vec![Value::Int(1)]),
            (Domain::Computed, true, "/", "reports.generate", vec![Value::Int(1)]),
            (Domain::Given, false, "/", "reports.generate", vec![text("1")]),
            (
                Domain::Computed,
                false,
                "prod",
                "t",
                vec![Value::Null, Value::Bool(true), Value::Float(1.5), text("\u{e9}")],
            ),
            (
                Domain::Computed,
                false,
                "/",
                "t",
                vec![Value::Map(vec![
                    (text("b"), Value::List(vec![Value::Int(-1)])),
                    (
                        text("a"),
                        Value::Tuple(vec![Value::BigInt("123456789012345678901234567890".to_owned())]),
                    ),
                ])],
            ),
            (
                Domain::Computed,
                false,
                "/",
                "t",
                vec![Value::Set(vec![Value::Int(2), Value::Int(1)]), Value::Bytes(vec![0, 255])],
            ),
            (
                Domain::Computed,
                false,
                "/",
                "t",
                vec![Value::Object {
                    class: "decimal.Decimal".to_owned(),
                    parts: vec![text("1.10")],
                }],
            ),
            (
                Domain::Beat,
                false,
                "/",
                "reports.generate",
                vec![Value::List(vec![Value::Int(1)]), Value::Map(vec![])],
            ),
        ];
        let computed: Vec<String> = cases
            .iter()
            .map(|(domain, shadow, vhost, namespace, parts)| digest(*domain, *shadow, vhost, namespace, parts.iter()).to_hex())
            .collect();
        assert_eq!(computed, golden.lines().collect::<Vec<_>>());
    }

    #[test]
    fn what_python_tells_apart_is_encoded_apart() {
        let values = [
            Value::Null,
            Value::Bool(false),
            Value::Bool(true),
            Value::Int(1),
            Value::Float(1.0),
            text("1"),
            text(""),
            Value::Bytes(b"1".to_vec()),
            Value::List(vec![]),
            Value::List(vec![Value::Int(1)]),
            Value::List(vec![Value::List(vec![]), Value::Int(1)]),
            Value::List(vec![Value::List(vec![Value::Int(1)])]),
            Value::Tuple(vec![Value::Int(1)]),
            Value::Set(vec![Value::Int(1)]),
            Value::Map(vec![]),
            Value::Map(vec![(text("1"), Value::Null)]),
            Value::Map(vec![(Value::Int(1), Value::Null)]),
            Value::Object {
                class: "a".to_owned(),
                parts: vec![Value::Int(1)],
            },
            Value::Object {
                class: "b".to_owned(),
                parts: vec![Value::Int(1)],
            },
        ];
        for (i, a) in values.iter().enumerate() {
            for (j, b) in values.iter().enumerate() {
                assert_eq!(encoded(&[a]) == encoded(&[b]), i == j, "{a:?} and {b:?}");
            }
        }
    }

    #[test]
    fn equal_values_have_one_encoding() {
        let pairs = [
            (Value::Float(0.0), Value::Float(-0.0)),
            (Value::Float(f64::NAN), Value::Float(-f64::NAN)),
            (Value::Int(7), Value::BigInt("7".to_owned())),
            (
                Value::Map(vec![(text("a"), Value::Int(1)), (text("b"), Value::Int(2))]),
                Value::Map(vec![(text("b"), Value::Int(2)), (text("a"), Value::Int(1))]),
            ),
            (Value::Set(vec![text("x"), text("y")]), Value::Set(vec![text("y"), text("x")])),
        ];
        for (a, b) in pairs {
            assert_eq!(encoded(&[&a]), encoded(&[&b]), "{a:?} and {b:?}");
        }
    }

    /// Every kind of value, nested.
    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            (-3_i64..3).prop_map(Value::Int),
            any::<i64>().prop_map(Value::Int),
            (-3_i8..3).prop_map(|number| Value::Float(f64::from(number))),
            "[a1]{0,2}".prop_map(Value::Str),
            prop::collection::vec(0_u8..3, 0..3).prop_map(Value::Bytes),
        ];
        leaf.prop_recursive(3, 10, 3, |inner| {
            let items = || prop::collection::vec(inner.clone(), 0..3);
            prop_oneof![
                items().prop_map(Value::List),
                items().prop_map(Value::Tuple),
                inner.clone().prop_map(|item| Value::Set(vec![item])),
                (inner.clone(), inner.clone()).prop_map(|entry| Value::Map(vec![entry])),
                ("[ab]{1,2}", items()).prop_map(|(class, parts)| Value::Object { class, parts }),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn distinct_values_have_distinct_encodings(a in values(), b in values()) {
            // The values hold no -0.0, NaN or second order of a set or mapping, so that equal means the same.
            prop_assert_eq!(encoded(&[&a]) == encoded(&[&b]), a == b);
        }

        #[test]
        fn no_encoding_is_the_beginning_of_another(a in values(), b in values()) {
            let (a_octets, b_octets) = (encoded(&[&a]), encoded(&[&b]));
            prop_assert!(a == b || !b_octets.starts_with(&a_octets));
        }

        #[test]
        fn parts_do_not_run_together(a in prop::collection::vec(values(), 0..3), b in prop::collection::vec(values(), 0..3)) {
            let of = |parts: &[Value]| digest(Domain::Computed, false, "/", "t", parts.iter());
            prop_assert_eq!(of(&a) == of(&b), a == b);
        }
    }
}
