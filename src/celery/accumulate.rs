//! A task message turned into one of `celery.accumulate`, which returns what it is given: a worker that runs it stores that as the task's
//! result, in whatever backend it has, counts the chord, goes on with the chain and calls the links.
//!
//! `celery.accumulate` is part of every application (celery, `app/builtins.py`). Called with one argument and `index=0` it returns that
//! argument; with none it raises `IndexError`, so that what the task has for its failure is called. The third part of the body, which says what comes after the task, stays octet for octet wherever the serializer lets it be cut
//! out; in a pickle the program that builds it does.

use std::borrow::Cow;

use super::body::{Encoding, Serializer, open};
use super::compression::{self, Compression};
use super::value::Value;
use super::{Limits, Unreadable, json, msgpack, pickle, yaml};
use crate::amqp::content::Properties;
use crate::amqp::encode::Content;
use crate::amqp::table::{FieldValue, Table, put_entry};

/// The name of the task.
pub const TASK: &str = "celery.accumulate";

/// What logs and events show of its arguments.
pub const KWARGS_REPR: &str = "{'index': 0}";

/// How the task ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End<'a> {
    /// It returns this, given as the JSON that a result backend has.
    Returns(&'a [u8]),
    /// It raises.
    Raises,
}

/// The body of a task message with other arguments: the task ends so, and what comes after it is the same. In the serializer and the
/// compression of the body.
pub fn body(encoding: &Encoding<'_>, body: &[u8], end: End<'_>, limits: Limits) -> Result<Vec<u8>, Unreadable> {
    let (serializer, plain) = open(encoding, body, limits)?;
    let result = match end {
        End::Returns(result) => result.trim_ascii(),
        End::Raises => b"",
    };
    let arguments = || match end {
        End::Returns(_) => json::parse(result, limits).map(|value| vec![value]),
        End::Raises => Ok(Vec::new()),
    };
    let written = match serializer {
        Serializer::Json => {
            let [_, _, embed] = json::items(&plain)?;
            [b"[[", result, b"], {\"index\": 0}, ", embed, b"]"].concat()
        }
        Serializer::Msgpack => msgpack::accumulate(&plain, arguments()?.first(), limits)?,
        Serializer::Pickle => pickle::accumulate(&plain, arguments()?, limits)?,
        Serializer::Yaml => yaml::accumulate(&plain, arguments()?, limits)?,
    };
    match encoding.compression {
        None => Ok(written),
        Some(name) => match Compression::from_header(name) {
            Some(kind) => compression::compress(kind, &written),
            None => Err(Unreadable::Compression("an unknown name".into())),
        },
    }
}

/// A message that has a worker read the result of a task, wherever that is, and call `celery.accumulate` with it.
///
/// `celery.chord_unlock` joins a group of one, and calls its callback with the list of results. It is told not to try again.
#[derive(Debug, Clone, Copy)]
pub struct Read<'a> {
    /// The id of the message.
    pub id: &'a str,
    /// The task whose result is read.
    pub holder: &'a str,
    /// Where to the call is published.
    pub exchange: &'a str,
    /// Its routing key.
    pub routing_key: &'a str,
    /// A queue that the application knows: it declares the one of a call before it publishes that.
    pub queue: &'a str,
}

/// [`Read`] as a message.
#[derive(Debug)]
pub struct ReadMessage {
    headers: Vec<u8>,
    body: Vec<u8>,
    id: String,
}

impl Read<'_> {
    /// `None` if a name is too long.
    pub fn message(&self) -> Option<ReadMessage> {
        let text = |text: &'static str| FieldValue::LongStr(text.as_bytes());
        let id = FieldValue::LongStr(self.id.as_bytes());
        let entries = [
            ("lang", text("py")),
            ("task", text("celery.chord_unlock")),
            ("id", id),
            ("shadow", text("oncegate.read_result")),
            ("eta", FieldValue::Void),
            ("expires", FieldValue::Void),
            ("group", FieldValue::Void),
            ("group_index", FieldValue::Void),
            ("retries", FieldValue::I32(0)),
            ("root_id", id),
            ("parent_id", FieldValue::Void),
            ("argsrepr", text("()")),
            ("kwargsrepr", text("{}")),
            ("ignore_result", FieldValue::Bool(true)),
        ];
        let mut headers = Vec::new();
        for (name, value) in entries {
            put_entry(&mut headers, name.as_bytes(), &value).ok()?;
        }
        let call = serde_json::json!({
            "task": TASK,
            "args": [],
            "kwargs": {},
            "options": {
                "task_id": self.id,
                "queue": self.queue,
                "exchange": self.exchange,
                "routing_key": self.routing_key,
                "serializer": "json",
                "ignore_result": true,
                "add_to_parent": false,
            },
            "subtask_type": null,
            "immutable": false,
        });
        let body = serde_json::json!([
            [self.id, call],
            {"max_retries": 0, "result": [[[self.holder, null], null]]},
            {"callbacks": null, "errbacks": null, "chain": null, "chord": null},
        ]);
        Some(ReadMessage {
            headers,
            body: body.to_string().into_bytes(),
            id: self.id.to_owned(),
        })
    }
}

impl ReadMessage {
    /// Properties and body.
    pub fn content(&self) -> Content<'_> {
        Content {
            properties: Properties {
                content_type: Some(b"application/json"),
                content_encoding: Some(b"utf-8"),
                headers: Some(Table::new(&self.headers)),
                delivery_mode: Some(1),
                correlation_id: Some(self.id.as_bytes()),
                ..Properties::default()
            },
            body: &self.body,
        }
    }
}

/// The result in the call of [`Read`].
pub fn given(properties: &Properties<'_>, octets: &[u8], limits: Limits) -> Result<Vec<u8>, Unreadable> {
    let (serializer, plain) = open(&Encoding::of(properties)?, octets, limits)?;
    if serializer != Serializer::Json {
        return Err(Unreadable::ContentType("it is not json".into()));
    }
    let [args, _, _] = json::items(&plain)?;
    let [results] = json::items(args)?;
    let [result] = json::items(results)?;
    // What is handed on is one value.
    json::parse(result, limits).map(|_| result.to_vec())
}

/// Whether [`body`] can write such a body, whatever the result.
pub fn fits(encoding: &Encoding<'_>, octets: &[u8], limits: Limits) -> bool {
    body(encoding, octets, End::Returns(b"null"), limits).is_ok()
}

/// A value that the serializer of a body has no place for.
pub(super) fn unwritable(serializer: &str, value: &Value) -> Unreadable {
    let what: Cow<'_, str> = match value {
        Value::Object { class, .. } => class.as_str().into(),
        Value::Set(_) => "a set".into(),
        Value::BigInt(_) => "so large an integer".into(),
        _ => "such a value".into(),
    };
    Unreadable::ContentType(format!("{serializer}: {what} cannot be written").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        max_message: 1 << 16,
        max_values: 1_000,
    };

    fn json(content: &[u8], result: &str) -> Result<String, Unreadable> {
        let encoding = Encoding {
            content_type: Some(b"application/json"),
            content_encoding: Some(b"utf-8"),
            compression: None,
        };
        body(&encoding, content, End::Returns(result.as_bytes()), LIMITS).map(|octets| String::from_utf8_lossy(&octets).into_owned())
    }

    #[test]
    fn what_comes_after_the_task_stays_octet_for_octet() {
        let embed = r#"{"chain": [{"a" : "]}\\\"," , "b":[ 1,2 ]}], "chord":null}"#;
        let original = format!(r#" [[1, "],["], {{"x": [[]]}} , {embed} ] "#);
        assert_eq!(
            json(original.as_bytes(), " [NaN, \"}\"] "),
            Ok(format!(r#"[[[NaN, "}}"]], {{"index": 0}}, {embed}]"#))
        );
    }

    #[test]
    fn what_is_no_task_of_three_parts_does_not_fit() {
        for content in [
            "",
            "[",
            "[]",
            "[1, 2]",
            "[1, 2, 3, 4]",
            "[1, 2, 3",
            "{\"args\": []}",
            "[1,,3]",
            "[[1, {}, {}]",
            "[\"a, {}, {}]",
        ] {
            assert!(json(content.as_bytes(), "1").is_err(), "{content}");
        }
    }

    #[test]
    fn a_worker_gives_the_result_as_it_has_it() {
        let properties = Properties {
            content_type: Some(b"application/json"),
            content_encoding: Some(b"utf-8"),
            ..Properties::default()
        };
        let read = |body: &str| given(&properties, body.as_bytes(), LIMITS).map(|octets| String::from_utf8_lossy(&octets).into_owned());
        assert_eq!(read(r#"[[[{"a": [1, 2]}]], {}, {}]"#), Ok(r#"{"a": [1, 2]}"#.to_owned()));
        assert_eq!(read("[[[null]], {}, {}]"), Ok("null".to_owned()));
        for wrong in [
            "[[[1, 2]], {}, {}]",
            "[[[1], 2], {}, {}]",
            "[[[]], {}, {}]",
            "[[1], {}, {}]",
            "{}",
            "",
            "[[[x]], {}, {}]",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
