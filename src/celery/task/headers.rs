//! Protocol 2: what the headers of a message say of its task (celery, `app/amqp.py`, `as_task_v2`).

use std::borrow::Cow;

use super::{Protocol, Task, TimeLimit, header_error};
use crate::amqp::content::Properties;
use crate::amqp::table::{FieldValue, Table};
use crate::celery::Unreadable;
use crate::celery::instant::parse_iso8601;

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

/// The task that the headers describe; `None` if they have no `task`.
pub(super) fn read_headers<'a>(properties: &Properties<'a>) -> Result<Option<Task<'a>>, Unreadable> {
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
