//! Results of tasks, as the RPC and the Redis backend pass them on (celery, `backends/base.py`, `rpc.py`, `redis.py`).
//!
//! Both write the same mapping: `{"status": "SUCCESS", "result": 3, "traceback": null, "children": [], "task_id": "…", …}`. The RPC
//! backend publishes it to the default exchange, routing key `reply_to` of the task's message, correlation id the task's. The Redis
//! backend sets the key `celery-task-meta-ID` and publishes the same bytes to a channel of that name.

mod given;

use std::borrow::Cow;

use serde::Deserialize;

pub use given::{Given, quoted};

use super::body::{self, Encoding, Serializer, get};
use super::{Limits, Unreadable, compression, instant, json, task};
use crate::amqp::content::Properties;

/// State of a task in a result backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Not known, or waiting.
    Pending,
    /// A worker began it (setting `task_track_started`).
    Started,
    /// It will run again. A cold shutdown writes this too, although nothing runs it again then.
    Retry,
    /// It returned.
    Success,
    /// It raised, or its process died.
    Failure,
    /// It was revoked or has expired. Any worker that does not run it writes this when it hears of a revoke, even while another does.
    Revoked,
    /// One of the states of an application, or one that Celery itself never waits for: `RECEIVED`, `REJECTED`, `IGNORED`.
    Other,
}

impl Status {
    /// By its name.
    pub fn from_name(name: &str) -> Self {
        match name {
            "PENDING" => Status::Pending,
            "STARTED" => Status::Started,
            "RETRY" => Status::Retry,
            "SUCCESS" => Status::Success,
            "FAILURE" => Status::Failure,
            "REVOKED" => Status::Revoked,
            _ => Status::Other,
        }
    }

    /// Whether a caller that waits for the result gets it now. The others leave it waiting.
    pub fn is_ready(self) -> bool {
        matches!(self, Status::Success | Status::Failure | Status::Revoked)
    }
}

/// The result of a task, or word of its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskResult<'a> {
    /// Id of the task.
    pub id: Cow<'a, str>,
    /// Its state.
    pub status: Status,
    /// When it ended, by its worker's clock, in milliseconds since 1970: `date_done`, which Celery sets for SUCCESS, FAILURE and REVOKED
    /// only.
    pub done_ms: Option<i64>,
    /// The whole as JSON, without compression; `None` if another serializer wrote it.
    pub json: Option<Cow<'a, [u8]>>,
}

/// The members that are looked at. The others are stepped over, however large and deep.
#[derive(Deserialize)]
struct Meta<'a> {
    #[serde(borrow)]
    status: Cow<'a, str>,
    #[serde(borrow, default)]
    task_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    date_done: Option<Cow<'a, str>>,
}

/// What can be known of a result without its value.
struct Known<'a> {
    status: Status,
    id: Option<Cow<'a, str>>,
    done_ms: Option<i64>,
}

/// Whether a message with these properties, to the default exchange, may be a result. Cheap: to be called before [`read_rpc`].
pub fn may_be_rpc(properties: &Properties<'_>) -> bool {
    properties.correlation_id.is_some() && properties.content_type.is_some() && task::peek(properties).is_none()
}

/// Reads a message to the default exchange. `None` if it can be read and is no result.
pub fn read_rpc<'a>(properties: &Properties<'a>, message: &'a [u8], limits: Limits) -> Result<Option<TaskResult<'a>>, Unreadable> {
    let correlation_id = properties.correlation_id.and_then(|id| std::str::from_utf8(id).ok());
    let (serializer, body) = body::open(&Encoding::of(properties)?, message, limits)?;
    finish(serializer, body, correlation_id, limits)
}

/// Reads what the Redis backend stores and publishes for the task `id` (see [`id_of_key`]). `None` if it can be read and is no result.
///
/// The serializer is the application's `result_serializer`, which nothing names; it shows in the first octets.
pub fn read_stored<'a>(id: &'a str, stored: &'a [u8], limits: Limits) -> Result<Option<TaskResult<'a>>, Unreadable> {
    if stored.len() > limits.max_message {
        return Err(Unreadable::TooLarge("the result".into()));
    }
    let value = match stored.strip_prefix(COMPRESSED) {
        None => Cow::Borrowed(stored),
        Some(rest) => {
            let mut parts = rest.splitn(2, |octet| *octet == 0);
            let name = parts.next().unwrap_or_default();
            compression::open(Some(name), parts.next().unwrap_or_default(), limits)?
        }
    };
    finish(serializer_of(&value), value, Some(id), limits)
}

/// What stands before a result that is compressed (setting `result_compression`, since Celery 5.7): then comes the name of the
/// compression, a zero, and the compressed value.
const COMPRESSED: &[u8] = b"\0celery-compressed\0";

/// The serializer of a mapping of at least four members.
fn serializer_of(value: &[u8]) -> Serializer {
    match value {
        [b'{' | b' ' | b'\n', ..] => Serializer::Json,
        [0x80, 2..=5, ..] => Serializer::Pickle,
        [0x81..=0x8f | 0xde | 0xdf, ..] => Serializer::Msgpack,
        _ => Serializer::Yaml,
    }
}

fn finish<'a>(
    serializer: Serializer,
    body: Cow<'a, [u8]>,
    id: Option<&'a str>,
    limits: Limits,
) -> Result<Option<TaskResult<'a>>, Unreadable> {
    let json = serializer == Serializer::Json;
    let (known, body): (Option<Known<'a>>, Cow<'a, [u8]>) = match body {
        Cow::Borrowed(body) => (known(serializer, body, limits)?, Cow::Borrowed(body)),
        Cow::Owned(body) => {
            let known = known(serializer, &body, limits)?;
            (known.map(into_owned), Cow::Owned(body))
        }
    };
    Ok(known.and_then(|known| {
        Some(TaskResult {
            id: known.id.or(id.map(Cow::Borrowed)).filter(|id| !id.is_empty())?,
            status: known.status,
            done_ms: known.done_ms,
            json: json.then_some(body),
        })
    }))
}

fn into_owned<'a>(known: Known<'_>) -> Known<'a> {
    Known {
        status: known.status,
        id: known.id.map(|id| Cow::Owned(id.into_owned())),
        done_ms: known.done_ms,
    }
}

fn known(serializer: Serializer, body: &[u8], limits: Limits) -> Result<Option<Known<'_>>, Unreadable> {
    if serializer == Serializer::Json {
        let text = std::str::from_utf8(body).map_err(|_| Unreadable::ContentType("the json is not utf-8".into()))?;
        if !text.trim_start().starts_with('{') {
            return Ok(None);
        }
        // What Python writes and JSON forbids, such as NaN, is left to the reader below.
        if let Ok(meta) = serde_json::from_str::<Meta<'_>>(text) {
            return Ok(Some(Known {
                status: Status::from_name(&meta.status),
                id: meta.task_id,
                done_ms: meta.date_done.as_deref().and_then(instant::parse_iso8601),
            }));
        }
    }
    let meta = body::parse(serializer, body, limits)?;
    let text = |name| get(&meta, name).and_then(|value| value.as_str());
    Ok(text("status").map(|status| Known {
        status: Status::from_name(status),
        id: text("task_id").map(|id| Cow::Owned(id.to_owned())),
        done_ms: text("date_done").and_then(instant::parse_iso8601),
    }))
}

/// The value of a task that has succeeded, in what the Redis and the RPC backend pass on as JSON; `None` if there is none.
pub fn value_of(json: &[u8]) -> Option<&[u8]> {
    json::member(json, "result").ok().flatten()
}

/// What the keys of the Redis backend begin with, after the `global_keyprefix` of the application.
const KEY: &str = "celery-task-meta-";

/// What all keys of an application's results begin with. `global_keyprefix` is that of its setting `result_backend_transport_options`,
/// or empty. Celery puts `_` behind one that does not end in `:`, `_`, `-` or `.`.
pub fn key_prefix(global_keyprefix: &str) -> String {
    let joint = if global_keyprefix.is_empty() || global_keyprefix.ends_with([':', '_', '-', '.']) {
        ""
    } else {
        "_"
    };
    format!("{global_keyprefix}{joint}{KEY}")
}

/// The task's id in a key, or channel, that begins with `prefix` (see [`key_prefix`]).
pub fn id_of_key<'a>(prefix: &str, key: &'a [u8]) -> Option<&'a str> {
    let id = std::str::from_utf8(key).ok()?.strip_prefix(prefix)?;
    (!id.is_empty()).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        max_message: 1 << 20,
        max_values: 100,
    };

    fn stored(value: &[u8]) -> Result<Option<(Status, String)>, Unreadable> {
        read_stored("key", value, LIMITS).map(|read| read.map(|read| (read.status, read.id.into_owned())))
    }

    #[test]
    fn only_status_and_id_are_looked_at() {
        let deep = format!(
            r#"{{"result": {}, "status": "SUCCESS"}}"#,
            "[".repeat(200_000) + &"]".repeat(200_000)
        );
        let many = format!(r#"{{"result": [{}0], "status": "SUCCESS"}}"#, "0, ".repeat(1000));
        for (value, status, id) in [
            (r#"{"status": "SUCCESS", "result": 3, "task_id": "a"}"#, Status::Success, "a"),
            (r#" {"task_id": "a", "status": "FAILURE"} "#, Status::Failure, "a"),
            (r#"{"status": "SUCCESS"}"#, Status::Success, "key"),
            (r#"{"status": "SUCCESS", "task_id": null}"#, Status::Success, "key"),
            (r#"{"status": "SUCCESS", "task_id": 5}"#, Status::Success, "key"),
            (r#"{"\u0073tatus": "REVOK\u0045D", "task_id": "\u00e9"}"#, Status::Revoked, "é"),
            (
                r#"{"status": "SUCCESS", "result": [NaN, -Infinity], "task_id": "a"}"#,
                Status::Success,
                "a",
            ),
            (r#"{"status": "STARTED", "status": "RETRY", "task_id": "a"}"#, Status::Retry, "a"),
            (r#"{"status": "PENDING", "result": "\ud800"}"#, Status::Pending, "key"),
            (r#"{"status": "PROGRESS", "result": {"status": "SUCCESS"}}"#, Status::Other, "key"),
            (&deep, Status::Success, "key"),
            (&many, Status::Success, "key"),
        ] {
            let shown: String = value.chars().take(80).collect();
            assert_eq!(stored(value.as_bytes()), Ok(Some((status, id.to_owned()))), "{shown}");
        }
        assert!(Status::Failure.is_ready() && !Status::Retry.is_ready() && !Status::Other.is_ready());
    }

    #[test]
    fn the_time_of_the_end() {
        for (value, done_ms) in [
            (
                r#"{"status": "SUCCESS", "date_done": "1970-01-02T00:00:01.5+00:00"}"#,
                Some(86_401_500),
            ),
            // Celery before 5.4: UTC without an offset.
            (
                r#"{"status": "FAILURE", "date_done": "1970-01-02T00:00:01.500999"}"#,
                Some(86_401_500),
            ),
            (
                r#"{"status": "REVOKED", "date_done": "1970-01-02T02:00:01+02:00", "result": NaN}"#,
                Some(86_401_000),
            ),
            (r#"{"status": "STARTED", "date_done": null}"#, None),
            (r#"{"status": "SUCCESS"}"#, None),
            (r#"{"status": "SUCCESS", "date_done": 5}"#, None),
            (r#"{"status": "SUCCESS", "date_done": "yesterday"}"#, None),
        ] {
            let read = read_stored("key", value.as_bytes(), LIMITS).map(|read| read.map(|read| read.done_ms));
            assert_eq!(read, Ok(Some(done_ms)), "{value}");
        }
    }

    #[test]
    fn what_is_no_result() {
        for value in [r#"{"result": 3}"#, "{}", r#"{"status": 1}"#, r#"{"status": null}"#] {
            assert_eq!(stored(value.as_bytes()), Ok(None), "{value}");
        }
        let properties = |content_type| Properties {
            content_type: Some(content_type),
            correlation_id: Some(b"id"),
            ..Properties::default()
        };
        for body in [&br#"["SUCCESS", "a"]"#[..], b"\"SUCCESS\"", b"3", b""] {
            let read = read_rpc(&properties(b"application/json"), body, LIMITS);
            assert_eq!(read, Ok(None), "{}", String::from_utf8_lossy(body));
        }
        assert_eq!(read_stored("", br#"{"status": "SUCCESS"}"#, LIMITS), Ok(None));
        assert!(matches!(
            read_rpc(&properties(b"text/plain"), b"{}", LIMITS),
            Err(Unreadable::ContentType(_))
        ));
        for value in [
            &br#"{"status": "SUCCESS""#[..],
            b"{\"status\": \"SUCCESS\", \"task_id\": \"\xff\"}",
            b"{\"status\": \"SUCCESS\"} x",
            b"\x80\x04.",
            b"\x81\xa6",
        ] {
            assert!(stored(value).is_err(), "{}", String::from_utf8_lossy(value));
        }
    }

    #[test]
    fn compressed_values_have_bounds() {
        assert!(matches!(stored(b"\0celery-compressed\0lz4\0abc"), Err(Unreadable::Compression(_))));
        assert!(matches!(stored(b"\0celery-compressed\0"), Err(Unreadable::Compression(_))));
        assert!(matches!(
            stored(b"\0celery-compressed\0application/x-gzip\0abc"),
            Err(Unreadable::Compression(_))
        ));
        assert!(matches!(stored(&vec![b' '; LIMITS.max_message + 1]), Err(Unreadable::TooLarge(_))));
    }

    #[test]
    fn keys() {
        for (prefix, begins) in [
            ("", "celery-task-meta-"),
            ("shop", "shop_celery-task-meta-"),
            ("shop_", "shop_celery-task-meta-"),
            ("shop:", "shop:celery-task-meta-"),
            ("shop-", "shop-celery-task-meta-"),
            ("shop.", "shop.celery-task-meta-"),
        ] {
            assert_eq!(key_prefix(prefix), begins);
        }
        let prefix = key_prefix("shop");
        assert_eq!(id_of_key(&prefix, b"shop_celery-task-meta-a-1"), Some("a-1"));
        for key in [
            &b"celery-task-meta-a"[..],
            b"shop_celery-task-meta-",
            b"shop_celery-taskset-meta-a",
            b"shop_celery-task-meta-\xff",
            b"",
        ] {
            assert_eq!(id_of_key(&prefix, key), None, "{}", String::from_utf8_lossy(key));
        }
    }
}
