//! Lines as a store holds them: without what all of them have, and without the id that they are found by. There may be a million.

use serde_json::{Map, Value};

/// The members of a decision, of which the line holds the values. New ones go to the end: proxies of two versions may read each other's.
const NAMES: [&str; 12] = [
    "ts", "event", "rule", "decision", "reason", "mode", "vhost", "task", "holder", "digest", "client", "instance",
];

/// What a packed line begins with; no JSON does.
const MARK: char = '\u{1}';

/// The line as it is held: packed, if it is a decision about this id that comes out again as it is.
pub(in crate::store) fn pack(id: &str, line: &str) -> String {
    packed(id, line)
        .filter(|packed| unpack(id, packed) == line)
        .unwrap_or_else(|| line.to_owned())
}

fn packed(id: &str, line: &str) -> Option<String> {
    let mut members: Map<String, Value> = serde_json::from_str(line).ok()?;
    let own = members.remove("id")?;
    let mut values = NAMES.map(|name| members.remove(name).unwrap_or_default()).to_vec();
    while values.last().is_some_and(Value::is_null) {
        values.pop();
    }
    (own == id && members.is_empty()).then(|| format!("{MARK}{}", Value::from(values)))
}

/// The line that was packed so.
pub(in crate::store) fn unpack(id: &str, held: &str) -> String {
    let values = held
        .strip_prefix(MARK)
        .and_then(|packed| serde_json::from_str::<Vec<Value>>(packed).ok());
    let Some(values) = values else { return held.to_owned() };
    let known = NAMES.iter().zip(values).filter(|(_, value)| !value.is_null());
    let mut members: Map<String, Value> = known.map(|(name, value)| ((*name).to_owned(), value)).collect();
    members.insert("id".to_owned(), id.into());
    Value::from(members).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_is_packed_and_comes_out_as_it_was() {
        let line = r#"{"decision":"dropped","digest":"00ff","event":"publish","holder":"a","id":"b","instance":"p1","mode":"enforce","reason":"duplicate","rule":"r","task":"t","ts":"2026-11-21T20:06:37.400Z","vhost":"/"}"#;
        let held = pack("b", line);
        assert_eq!(
            held,
            "\u{1}[\"2026-11-21T20:06:37.400Z\",\"publish\",\"r\",\"dropped\",\"duplicate\",\"enforce\",\"/\",\"t\",\"a\",\"00ff\",null,\"p1\"]"
        );
        assert_eq!(unpack("b", &held), line);
    }

    #[test]
    fn what_would_come_out_otherwise_stays() {
        for line in [
            r#"{"id":"a","rule":"r"}"#,
            r#"{"id":"b", "rule":"r"}"#,
            r#"{"id":"b","more":"x"}"#,
            r#"{"id":"b","rule":null}"#,
            r#"{"rule":"r"}"#,
            "[1]",
            "text",
            "",
            "\u{1}[",
            "\u{1}[]",
        ] {
            let held = pack("b", line);
            assert_eq!(held, line);
        }
        for line in [r#"{"id":"a","rule":"r"}"#, "[1]", "text", "", "\u{1}["] {
            assert_eq!(unpack("b", line), line);
        }
    }
}
