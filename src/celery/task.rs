//! The headers of a task message: who it is, when it is due, where it belongs.
//!
//! Protocol 2, the default since Celery 4, has all of it in the headers (celery, `app/amqp.py`, `as_task_v2`); protocol 1 has it in
//! the body, together with the arguments (`as_task_v1`). A worker tells them apart by the header `task`; it also takes a hybrid, with
//! the header and a protocol 1 body (celery, `worker/strategy.py`).

use std::borrow::Cow;

use super::body::{Body, Encoding, get, load};
use super::instant::parse_iso8601;
use super::value::Value;
use super::{Limits, Unreadable};
use crate::amqp::content::Properties;
use crate::amqp::table::{FieldValue, Table};

/// Which message protocol of Celery a task came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Everything in the body.
    V1,
    /// Everything but arguments and canvas in the headers.
    V2,
}

/// Limits on the run time of a task, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct TimeLimit {
    /// The pool child is killed after this.
    pub hard: Option<f64>,
    /// The task gets an exception after this.
    pub soft: Option<f64>,
}

/// A task message, without its arguments.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts of a message")]
pub struct Task<'a> {
    /// Protocol of the message.
    pub protocol: Protocol,
    /// Name of the task that runs; never the `shadow` name that logs and events show.
    pub name: Cow<'a, str>,
    /// Id of the call.
    pub id: Cow<'a, str>,
    /// How often it was retried: 0 in the first message of a call, and where the message does not say.
    pub retries: u32,
    /// How many tasks have replaced themselves by this one, which goes under the id of the first.
    pub replaced_task_nesting: u32,
    /// Due time in milliseconds since 1970. A time without offset is taken as UTC.
    pub eta: Option<i64>,
    /// When it becomes worthless, in milliseconds since 1970, read as `eta` is.
    pub expires: Option<i64>,
    /// Whether it is a member of a group.
    pub group: bool,
    /// Id of the task that called it.
    pub parent_id: Option<Cow<'a, str>>,
    /// Id of the task that began the work flow.
    pub root_id: Option<Cow<'a, str>>,
    /// The process that published it, `gen<pid>@<host>`.
    pub origin: Option<Cow<'a, str>>,
    /// Limits given with the call; those of the task itself are known only to the worker.
    pub timelimit: TimeLimit,
    /// Whether the result is wanted, if the call says so.
    pub ignore_result: Option<bool>,
    /// Property `reply_to`. Celery always sets it, whatever the result backend.
    pub reply_to: Option<&'a [u8]>,
    /// Property `correlation_id`: Celery sets it to the task id.
    pub correlation_id: Option<&'a [u8]>,
    /// Property `priority`.
    pub priority: Option<u8>,
    /// Whether beat published it (header `celery_beat_task`).
    pub celery_beat_task: bool,
    /// Whether beat gave it a name (header `periodic_task_name`, written by beat schedulers).
    pub periodic_task_name: bool,
    /// The headers of the message.
    headers: Table<'a>,
}

/// The task name of a protocol 2 message. Looks at nothing but the names of the headers, and only as far as the first `task`: Celery
/// writes it once, as the second of twenty.
#[inline]
pub fn peek<'a>(properties: &Properties<'a>) -> Option<&'a [u8]> {
    match properties.headers?.first(b"task") {
        Some(FieldValue::LongStr(name)) => Some(name),
        _ => None,
    }
}

/// Reads a protocol 2 message, without its body. `None` if the message is none: it may be one of protocol 1 (see [`may_be_v1`]) or no
/// task at all.
pub fn read<'a>(properties: &Properties<'a>) -> Result<Option<Task<'a>>, Unreadable> {
    let Some(task) = read_headers(properties)? else { return Ok(None) };
    if task.id.is_empty() {
        return Err(header_error("id"));
    }
    Ok(Some(task))
}

/// Reads a message of either protocol, or a hybrid of both, with its body. `None` if it is no task.
pub fn read_with_body<'a>(properties: &Properties<'a>, body: &[u8], limits: Limits) -> Result<Option<(Task<'a>, Body)>, Unreadable> {
    let task = read_headers(properties)?;
    if task.is_none() && !may_be_v1(properties, body) {
        return Ok(None);
    }
    let value = load(&Encoding::of(properties)?, body, limits)?;
    let task = match task {
        None => match Task::from_v1(properties, &value)? {
            Some(task) => task,
            None => return Ok(None),
        },
        Some(mut task) => {
            task.complete(&value)?;
            if task.id.is_empty() {
                return Err(header_error("id"));
            }
            task
        }
    };
    Ok(Some((task, Body::from_value(value)?)))
}

/// Reads a protocol 1 message. `None` if the body is not that of a task.
pub fn read_v1<'a>(properties: &Properties<'a>, body: &[u8], limits: Limits) -> Result<Option<(Task<'a>, Body)>, Unreadable> {
    let value = load(&Encoding::of(properties)?, body, limits)?;
    let Some(task) = Task::from_v1(properties, &value)? else {
        return Ok(None);
    };
    Ok(Some((task, Body::from_value(value)?)))
}

/// Whether a message without the header `task` can be a task of protocol 1: a cheap look at the body for the key `task`.
///
/// Results, events and remote control messages have no such key, and need not be parsed. `body` may be the beginning of a body; Celery
/// itself writes the key first.
pub fn may_be_v1(properties: &Properties<'_>, body: &[u8]) -> bool {
    if peek(properties).is_some() {
        return false;
    }
    let Ok(encoding) = Encoding::of(properties) else { return false };
    if encoding.compression.is_some() {
        return true;
    }
    let contains = |needle: &[u8]| body.windows(needle.len()).any(|window| window == needle);
    match encoding.content_type {
        Some(b"application/json") => {
            let first = body.iter().find(|octet| !octet.is_ascii_whitespace());
            first == Some(&b'{') && contains(b"\"task\"")
        }
        Some(b"application/x-msgpack") => matches!(body.first(), Some(0x80..=0x8f | 0xde | 0xdf)) && contains(b"task"),
        Some(b"application/x-yaml" | b"application/x-python-serialize") => contains(b"task"),
        _ => false,
    }
}

fn header_error(name: &str) -> Unreadable {
    Unreadable::ContentType(format!("{name} is missing or not what it should be").into())
}

/// The headers that say something about a task; `None` if absent or null.
#[derive(Default)]
struct Found<'a> {
    task: Option<FieldValue<'a>>,
    id: Option<FieldValue<'a>>,
    retries: Option<FieldValue<'a>>,
    replaced_task_nesting: Option<FieldValue<'a>>,
    eta: Option<FieldValue<'a>>,
    expires: Option<FieldValue<'a>>,
    group: Option<FieldValue<'a>>,
    parent_id: Option<FieldValue<'a>>,
    root_id: Option<FieldValue<'a>>,
    origin: Option<FieldValue<'a>>,
    timelimit: Option<FieldValue<'a>>,
    ignore_result: Option<FieldValue<'a>>,
    celery_beat_task: Option<FieldValue<'a>>,
    periodic_task_name: Option<FieldValue<'a>>,
}

impl<'a> Found<'a> {
    /// Walks the table once. Of several entries of one name the last counts.
    fn walk(headers: Table<'a>) -> Result<Self, Unreadable> {
        let mut found = Found::default();
        for entry in &headers {
            let entry = entry.map_err(|error| Unreadable::ContentType(format!("headers: {error}").into()))?;
            let slot = match entry.name {
                b"task" => &mut found.task,
                b"id" => &mut found.id,
                b"retries" => &mut found.retries,
                b"replaced_task_nesting" => &mut found.replaced_task_nesting,
                b"eta" => &mut found.eta,
                b"expires" => &mut found.expires,
                b"group" => &mut found.group,
                b"parent_id" => &mut found.parent_id,
                b"root_id" => &mut found.root_id,
                b"origin" => &mut found.origin,
                b"timelimit" => &mut found.timelimit,
                b"ignore_result" => &mut found.ignore_result,
                b"celery_beat_task" => &mut found.celery_beat_task,
                b"periodic_task_name" => &mut found.periodic_task_name,
                _ => continue,
            };
            *slot = Some(entry.value).filter(|value| *value != FieldValue::Void);
        }
        Ok(found)
    }
}

fn read_headers<'a>(properties: &Properties<'a>) -> Result<Option<Task<'a>>, Unreadable> {
    let Some(headers) = properties.headers else { return Ok(None) };
    let found = Found::walk(headers)?;
    if found.task.is_none() {
        return Ok(None);
    }
    Ok(Some(Task {
        protocol: Protocol::V2,
        name: text(found.task, "task")?.ok_or_else(|| header_error("task"))?,
        id: text(found.id, "id")?.unwrap_or_default(),
        retries: count(found.retries),
        replaced_task_nesting: count(found.replaced_task_nesting),
        eta: instant(found.eta, "eta")?,
        expires: instant(found.expires, "expires")?,
        group: found.group.is_some(),
        parent_id: text(found.parent_id, "parent_id")?,
        root_id: text(found.root_id, "root_id")?,
        origin: text(found.origin, "origin")?,
        timelimit: time_limit(found.timelimit),
        ignore_result: match found.ignore_result {
            Some(FieldValue::Bool(truth)) => Some(truth),
            other => other.and_then(|value| value.as_i64()).map(|number| number != 0),
        },
        reply_to: properties.reply_to,
        correlation_id: properties.correlation_id,
        priority: properties.priority,
        celery_beat_task: found.celery_beat_task.is_some(),
        periodic_task_name: found.periodic_task_name.is_some(),
        headers,
    }))
}

fn text<'a>(value: Option<FieldValue<'a>>, name: &str) -> Result<Option<Cow<'a, str>>, Unreadable> {
    match value {
        None => Ok(None),
        Some(value) => value
            .as_str()
            .map(|text| Some(Cow::Borrowed(text)))
            .ok_or_else(|| header_error(name)),
    }
}

fn count(value: Option<FieldValue<'_>>) -> u32 {
    let number = value.and_then(|value| value.as_i64()).unwrap_or(0);
    u32::try_from(number.max(0)).unwrap_or(u32::MAX)
}

/// A time in ISO 8601, or an AMQP timestamp as other clients may write it.
fn instant(value: Option<FieldValue<'_>>, name: &str) -> Result<Option<i64>, Unreadable> {
    let milliseconds = match value {
        None => return Ok(None),
        Some(FieldValue::Timestamp(seconds)) => i64::try_from(seconds).ok().and_then(|seconds| seconds.checked_mul(1000)),
        Some(value) => value.as_str().and_then(parse_iso8601),
    };
    milliseconds.map(Some).ok_or_else(|| header_error(name))
}

fn time_limit(value: Option<FieldValue<'_>>) -> TimeLimit {
    let Some(FieldValue::Array(array)) = value else {
        return TimeLimit::default();
    };
    let mut seconds = array.iter().map(|value| match value {
        Ok(FieldValue::F64(seconds)) => Some(seconds),
        Ok(value) => value.as_i64().map(|seconds| seconds as f64),
        Err(_) => None,
    });
    TimeLimit {
        hard: seconds.next().flatten(),
        soft: seconds.next().flatten(),
    }
}

impl<'a> Task<'a> {
    /// All headers of the message, in the order of the wire.
    pub fn headers(&self) -> Table<'a> {
        self.headers
    }

    /// A header, by name. `None` also if it is null.
    pub fn header(&self, name: &str) -> Option<FieldValue<'a>> {
        self.headers
            .get(name.as_bytes())
            .ok()
            .flatten()
            .filter(|value| *value != FieldValue::Void)
    }

    /// A stamp, by name: what `Signature.stamp(name=value)` left in the table `stamps`. A list of one is its element.
    pub fn stamp(&self, name: &str) -> Option<FieldValue<'a>> {
        let FieldValue::Table(stamps) = self.header("stamps")? else {
            return None;
        };
        let value = stamps.get(name.as_bytes()).ok().flatten()?;
        let value = match value {
            FieldValue::Array(array) => {
                let mut values = array.iter();
                let first = values.next()?.ok()?;
                if values.next().is_some() {
                    return Some(value);
                }
                first
            }
            other => other,
        };
        Some(value).filter(|value| *value != FieldValue::Void)
    }

    /// What the caller gave under a name: a header, else a stamp.
    pub fn given(&self, name: &str) -> Option<FieldValue<'a>> {
        self.header(name).or_else(|| self.stamp(name))
    }

    /// From a protocol 1 body.
    fn from_v1(properties: &Properties<'a>, body: &Value) -> Result<Option<Self>, Unreadable> {
        let Some(name) = get(body, "task") else { return Ok(None) };
        if get(body, "id").is_none() && get(body, "args").is_none() {
            return Ok(None);
        }
        let mut task = Task {
            protocol: Protocol::V1,
            name: Cow::Owned(name.as_str().ok_or_else(|| header_error("task"))?.to_owned()),
            id: Cow::default(),
            retries: 0,
            replaced_task_nesting: 0,
            eta: None,
            expires: None,
            group: false,
            parent_id: None,
            root_id: None,
            origin: None,
            timelimit: TimeLimit::default(),
            ignore_result: None,
            reply_to: properties.reply_to,
            correlation_id: properties.correlation_id,
            priority: properties.priority,
            celery_beat_task: false,
            periodic_task_name: false,
            headers: properties.headers.unwrap_or_default(),
        };
        task.celery_beat_task = task.header("celery_beat_task").is_some();
        task.periodic_task_name = task.header("periodic_task_name").is_some();
        task.complete(body)?;
        if task.id.is_empty() {
            return Err(header_error("id"));
        }
        Ok(Some(task))
    }

    /// Fills in from a protocol 1 body what the headers do not say. A header goes before the body, as in Celery's `hybrid_to_proto2`.
    fn complete(&mut self, body: &Value) -> Result<(), Unreadable> {
        let Value::Map(_) = body else { return Ok(()) };
        let member = |name: &str| match self.protocol {
            Protocol::V2 if matches!(self.headers.get(name.as_bytes()), Ok(Some(_))) => None,
            _ => get(body, name).filter(|value| **value != Value::Null),
        };
        let text = |name: &str| match member(name) {
            None => Ok(None),
            Some(value) => value
                .as_str()
                .map(|text| Some(Cow::Owned(text.to_owned())))
                .ok_or_else(|| header_error(name)),
        };
        let time = |name: &str| match member(name) {
            None => Ok(None),
            Some(value) => due_time(value).map(Some).ok_or_else(|| header_error(name)),
        };
        let id = text("id")?;
        let parent_id = text("parent_id")?;
        let root_id = text("root_id")?;
        let origin = text("origin")?;
        let eta = time("eta")?;
        let expires = time("expires")?;
        let retries = member("retries").map(|value| match value {
            Value::Int(number) => u32::try_from((*number).max(0)).unwrap_or(u32::MAX),
            _ => 0,
        });
        let timelimit = member("timelimit").map(|value| {
            let mut seconds = match value {
                Value::List(pair) | Value::Tuple(pair) => pair.iter().map(seconds_of).collect(),
                _ => Vec::new(),
            }
            .into_iter();
            TimeLimit {
                hard: seconds.next().flatten(),
                soft: seconds.next().flatten(),
            }
        });
        let group = member("group").is_some() || (self.protocol == Protocol::V1 && member("taskset").is_some());
        self.id = id.unwrap_or_else(|| std::mem::take(&mut self.id));
        self.parent_id = parent_id.or_else(|| self.parent_id.take());
        self.root_id = root_id.or_else(|| self.root_id.take());
        self.origin = origin.or_else(|| self.origin.take());
        self.eta = eta.or(self.eta);
        self.expires = expires.or(self.expires);
        self.retries = retries.unwrap_or(self.retries);
        self.timelimit = timelimit.unwrap_or(self.timelimit);
        self.group |= group;
        Ok(())
    }
}

fn seconds_of(value: &Value) -> Option<f64> {
    match value {
        Value::Int(seconds) => Some(*seconds as f64),
        Value::Float(seconds) => Some(*seconds),
        _ => None,
    }
}

/// A time in a body: text, or the object that a serializer with a type for it makes.
fn due_time(value: &Value) -> Option<i64> {
    match value {
        Value::Str(text) => parse_iso8601(text),
        Value::Object { class, parts } if class == "datetime.datetime" => match parts.as_slice() {
            [Value::Str(text)] => parse_iso8601(text),
            _ => None,
        },
        _ => None,
    }
}
