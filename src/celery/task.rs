//! The headers of a task message: who it is, when it is due, where it belongs.
//!
//! Protocol 2, the default since Celery 4, has all of it in the headers (celery, `app/amqp.py`, `as_task_v2`); protocol 1 has it in
//! the body, together with the arguments (`as_task_v1`). A worker tells them apart by the header `task`; it also takes a hybrid, with
//! the header and a protocol 1 body (celery, `worker/strategy.py`).

mod headers;
mod v1;

use std::borrow::Cow;

use super::body::{Body, Encoding, load};
use super::{Limits, Unreadable};
use crate::amqp::content::Properties;
use crate::amqp::table::{FieldValue, Table};
use headers::read_headers;

/// Property `app_id` of the messages with which Oncegate tells what it has decided. Their bodies name a task and its id, as those of
/// protocol 1 do, and are none.
pub const OWN_APP_ID: &[u8] = b"oncegate";

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
    if peek(properties).is_some() || properties.app_id == Some(OWN_APP_ID) {
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
}
