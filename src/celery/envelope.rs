//! The envelopes in which kombu puts what JSON has no form for: `{"__type__": "datetime", "__value__": "2026-01-02T03:04:05"}`.
//!
//! The worker's task sees the value, not the envelope (kombu, `utils/json.py`, `object_hook`), so the same call has equal arguments
//! whether it went as JSON or as pickle. An envelope that is not one of kombu's own stays a mapping.

use super::value::{Value, object};

/// The value in the envelope, or the mapping itself if it is no envelope.
pub(super) fn open(mut entries: Vec<(Value, Value)>) -> Value {
    if let [first, second] = entries.as_mut_slice() {
        let opened = match (first.0.as_str(), second.0.as_str()) {
            (Some("__type__"), Some("__value__")) => content(&first.1, &mut second.1),
            (Some("__value__"), Some("__type__")) => content(&second.1, &mut first.1),
            _ => None,
        };
        if let Some(value) = opened {
            return value;
        }
    }
    Value::Map(entries)
}

fn content(kind: &Value, content: &mut Value) -> Option<Value> {
    let class = match kind.as_str()? {
        "datetime" => "datetime.datetime",
        "date" => "datetime.date",
        "time" => "datetime.time",
        "decimal" => "decimal.Decimal",
        "uuid" => return uuid(content).map(|text| object("uuid.UUID", vec![Value::Str(text)])),
        "base64" => return base64(content.as_str()?).map(Value::Bytes),
        "bytes" => return take_text(content).map(|text| Value::Bytes(text.into_bytes())),
        _ => return None,
    };
    Some(object(class, vec![Value::Str(take_text(content)?)]))
}

fn take_text(value: &mut Value) -> Option<String> {
    match value {
        Value::Str(text) => Some(std::mem::take(text)),
        _ => None,
    }
}

/// `{"hex": "…"}` to the form with hyphens.
fn uuid(content: &Value) -> Option<String> {
    let Value::Map(entries) = content else { return None };
    let [(Value::Str(key), Value::Str(hex))] = entries.as_slice() else {
        return None;
    };
    let plain = key == "hex" && hex.len() == 32 && hex.bytes().all(|digit| digit.is_ascii_hexdigit());
    plain.then(|| u128::from_str_radix(hex, 16).ok().map(hyphenated)).flatten()
}

/// The usual text of a UUID.
pub(super) fn hyphenated(number: u128) -> String {
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        number >> 96,
        (number >> 80) & 0xffff,
        (number >> 64) & 0xffff,
        (number >> 48) & 0xffff,
        number & 0xffff_ffff_ffff
    )
}

/// Base64 of the standard alphabet, padded. `None` for anything else, line breaks and non-zero spare bits included.
pub(super) fn base64(text: &str) -> Option<Vec<u8>> {
    let body = text.trim_end_matches('=');
    let padding = text.len() - body.len();
    if !text.len().is_multiple_of(4) || padding > 2 {
        return None;
    }
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let mut bits = 0_u32;
    let mut pending = 0_u32;
    for octet in body.bytes() {
        let six = match octet {
            b'A'..=b'Z' => octet - b'A',
            b'a'..=b'z' => octet - b'a' + 26,
            b'0'..=b'9' => octet - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(six);
        pending += 6;
        if pending >= 8 {
            pending -= 8;
            out.push((bits >> pending) as u8);
            bits &= (1 << pending) - 1;
        }
    }
    (bits == 0).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_strict() {
        for (text, octets) in [
            ("", &b""[..]),
            ("/wA=", b"\xff\x00"),
            ("/w==", b"\xff"),
            ("AAEC", b"\0\x01\x02"),
            ("+/+/", b"\xfb\xff\xbf"),
        ] {
            assert_eq!(base64(text).as_deref(), Some(octets), "{text}");
        }
        for text in ["A", "AA", "AAA", "/wB=", "/x==", "A===", "====", "AA=A", "AA-_", "AA\n=", "AAE\n"] {
            assert_eq!(base64(text), None, "{text:?}");
        }
    }

    #[test]
    fn uuid_text() {
        assert_eq!(hyphenated(5), "00000000-0000-0000-0000-000000000005");
        assert_eq!(hyphenated(u128::MAX), "ffffffff-ffff-ffff-ffff-ffffffffffff");
    }
}
