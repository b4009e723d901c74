//! Results that no worker has written: what a task gets that was dropped for another.
//!
//! A caller that waits takes what it finds under `task_id`, so each id needs its own text; all else is the same for all
//! (celery, `backends/asynchronous.py`, `on_state_change`). REVOKED needs an exception, else `get()` fails in a way of its own
//! (`backends/base.py`, `exception_to_python`).

use std::fmt::Write as _;

use serde_json::json;

use crate::celery::instant;

/// Names, in a result, the task whose result it is. Celery passes it over.
const HOLDER: &str = "duplicate_of";

/// A result, but for the id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// What stands before the id.
    pub head: Vec<u8>,
    /// What stands behind it.
    pub tail: Vec<u8>,
}

impl Given {
    /// SUCCESS with null, for a duplicate of `holder`, or of nothing if that is empty. `now_ms`: milliseconds since 1970.
    pub fn success(holder: &str, now_ms: i64) -> Given {
        Given::of("SUCCESS", "null", holder, now_ms)
    }

    /// REVOKED, for a duplicate of `holder`; `get()` raises `TaskRevokedError` with this text.
    pub fn revoked(text: &str, holder: &str, now_ms: i64) -> Given {
        let exception = json!({
            "exc_type": "TaskRevokedError",
            "exc_message": [text],
            "exc_module": "celery.exceptions",
        });
        Given::of("REVOKED", &exception.to_string(), holder, now_ms)
    }

    fn of(status: &str, result: &str, holder: &str, now_ms: i64) -> Given {
        let mut head = format!(r#"{{"status": "{status}", "result": {result}, "traceback": null, "children": [], "date_done": "#);
        let done = instant::write_iso8601(now_ms).map_or_else(|| "null".to_owned(), |done| format!("{done:?}"));
        let _ = write!(head, r#"{done}, "task_id": "#);
        Given {
            head: head.into_bytes(),
            tail: behind(holder, b"}"),
        }
    }

    /// What a worker has written in JSON for `holder`; `None` if it does not name its task exactly once.
    pub fn joined(json: &[u8], holder: &str) -> Option<Given> {
        let (from, to) = place_of_id(json)?;
        Some(Given {
            head: json.get(..from)?.to_vec(),
            tail: behind(holder, json.get(to..)?),
        })
    }

    /// The whole, for this id.
    pub fn for_id(&self, id: &str) -> Vec<u8> {
        [&self.head, quoted(id).as_bytes(), &self.tail].concat()
    }

    /// How many octets it has, without the id.
    pub fn size(&self) -> usize {
        self.head.len() + self.tail.len()
    }
}

fn behind(holder: &str, rest: &[u8]) -> Vec<u8> {
    let mut tail = Vec::new();
    if !holder.is_empty() {
        tail.extend_from_slice(format!(r#", "{HOLDER}": {}"#, quoted(holder)).as_bytes());
    }
    tail.extend_from_slice(rest);
    tail
}

/// A text in JSON.
pub fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Where the value of the member `task_id` of an object begins and ends.
///
/// The text has been read before, so it is an object; it may have what Python writes and JSON forbids, such as `NaN`.
fn place_of_id(json: &[u8]) -> Option<(usize, usize)> {
    let mut found = None;
    let (mut depth, mut at) = (0_usize, 0);
    // The last string of the object itself, and whether the value of `task_id` comes now.
    let (mut name, mut begins) = (None, None);
    while let Some(octet) = json.get(at) {
        match octet {
            b'"' => {
                let end = end_of_string(json, at)?;
                if depth == 1 {
                    name = json.get(at..end);
                }
                at = end;
                continue;
            }
            b':' if depth == 1 && begins.is_none() && name == Some(b"\"task_id\"") => {
                let blanks = json.get(at + 1..)?.iter().take_while(|octet| octet.is_ascii_whitespace()).count();
                begins = Some(at + 1 + blanks);
            }
            b',' | b'}' if depth == 1 => {
                if let Some(from) = begins.take() {
                    let blanks = json
                        .get(from..at)?
                        .iter()
                        .rev()
                        .take_while(|octet| octet.is_ascii_whitespace())
                        .count();
                    if found.replace((from, at - blanks)).is_some() {
                        return None;
                    }
                }
                name = None;
                depth -= usize::from(*octet == b'}');
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        at += 1;
    }
    found
}

/// Behind the string that begins here.
fn end_of_string(json: &[u8], from: usize) -> Option<usize> {
    let mut at = from + 1;
    loop {
        match json.get(at)? {
            b'\\' => at += 2,
            b'"' => return Some(at + 1),
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Status, read_stored};
    use super::*;
    use crate::celery::Limits;

    const NOW: i64 = 1_800_000_000_000;

    fn read(given: &Given, id: &str) -> (Status, String, serde_json::Value) {
        let text = given.for_id(id);
        let read = read_stored("other", &text, Limits::new(1 << 20))
            .expect("readable")
            .expect("a result");
        let value = serde_json::from_slice(&text).expect("JSON");
        (read.status, read.id.into_owned(), value)
    }

    #[test]
    fn what_celery_takes() {
        let (status, id, value) = read(&Given::revoked("duplicate of a\"b", "a\"b", NOW), "c\\d");
        assert_eq!((status, id.as_str()), (Status::Revoked, "c\\d"));
        assert_eq!(
            value,
            json!({
                "status": "REVOKED",
                "result": {"exc_type": "TaskRevokedError", "exc_message": ["duplicate of a\"b"], "exc_module": "celery.exceptions"},
                "traceback": null,
                "children": [],
                "date_done": "2027-01-15T08:00:00.000000+00:00",
                "task_id": "c\\d",
                "duplicate_of": "a\"b",
            })
        );
        let (status, _, value) = read(&Given::success("a", NOW), "é");
        assert_eq!(
            (status, &value["result"], &value["task_id"]),
            (Status::Success, &json!(null), &json!("é"))
        );
    }

    #[test]
    fn the_holders_result_under_another_id() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        for (json, expected) in [
            (
                r#"{"status": "SUCCESS", "result": {"task_id": "no", "x": [{"task_id": 1}]}, "task_id": "a", "parent_id": null}"#,
                r#"{"status": "SUCCESS", "result": {"task_id": "no", "x": [{"task_id": 1}]}, "task_id": "b", "duplicate_of": "a", "parent_id": null}"#,
            ),
            (r#"{"task_id":"a"}"#, r#"{"task_id":"b", "duplicate_of": "a"}"#),
            (
                r#"{ "task_id" : "\"a,}" , "result" : NaN }"#,
                r#"{ "task_id" : "b", "duplicate_of": "a" , "result" : NaN }"#,
            ),
            (
                r#"{"result": "task_id", "task_id": null}"#,
                r#"{"result": "task_id", "task_id": "b", "duplicate_of": "a"}"#,
            ),
            (
                r#"{"result": "\"task_id\": \\", "task_id": "a"}"#,
                r#"{"result": "\"task_id\": \\", "task_id": "b", "duplicate_of": "a"}"#,
            ),
        ] {
            let given = Given::joined(json.as_bytes(), "a").expect(json);
            assert_eq!(String::from_utf8_lossy(&given.for_id("b")), expected, "{json}");
        }
        let json = format!(r#"{{"result": {deep}, "task_id": "a"}}"#);
        assert!(Given::joined(json.as_bytes(), "a").is_some());
        for json in [
            r#"{"status": "SUCCESS"}"#,
            r#"{"task_id": "a", "task_id": "b"}"#,
            r#"{"result": {"task_id": "a"}}"#,
            r#"["task_id", "a"]"#,
            r#"{"task_id": "a"#,
            "}",
            "",
        ] {
            assert_eq!(Given::joined(json.as_bytes(), "a"), None, "{json}");
        }
    }
}
