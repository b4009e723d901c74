//! A text that tells values apart, the same that `describe` of generate.py writes.

use std::fmt::Write;

use super::Value;

pub fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(truth) => truth.to_string(),
        Value::Int(number) => number.to_string(),
        Value::BigInt(digits) => digits.clone(),
        Value::Float(number) if number.is_nan() => "fnan".to_owned(),
        Value::Float(number) => format!("f{:016x}", number.to_bits()),
        Value::Str(text) => ascii_json(text),
        Value::Bytes(octets) => octets.iter().fold("b".to_owned(), |text, octet| text + &format!("{octet:02x}")),
        Value::List(items) => format!("[{}]", all(items).join(",")),
        Value::Tuple(items) => format!("({})", all(items).join(",")),
        Value::Set(items) => format!("<{}>", sorted(all(items))),
        Value::Map(entries) => {
            let entries = entries.iter().map(|(key, value)| describe(key) + ":" + &describe(value)).collect();
            format!("{{{}}}", sorted(entries))
        }
        Value::Object { class, parts } => format!("@{class}({})", all(parts).join(",")),
    }
}

fn all(values: &[Value]) -> Vec<String> {
    values.iter().map(describe).collect()
}

fn sorted(mut texts: Vec<String>) -> String {
    texts.sort();
    texts.join(",")
}

/// JSON text in ASCII, as Python writes it.
fn ascii_json(text: &str) -> String {
    let mut out = String::from("\"");
    for unit in text.encode_utf16() {
        match unit {
            0x22 => out.push_str("\\\""),
            0x5c => out.push_str("\\\\"),
            0x08 => out.push_str("\\b"),
            0x09 => out.push_str("\\t"),
            0x0a => out.push_str("\\n"),
            0x0c => out.push_str("\\f"),
            0x0d => out.push_str("\\r"),
            0x20..=0x7e => out.push(char::from(unit as u8)),
            other => {
                let _ = write!(out, "\\u{other:04x}");
            }
        }
    }
    out + "\""
}
