//! Protocol 1: what the body of a message says of its task (celery, `app/amqp.py`, `as_task_v1`), and what of that a hybrid has.

use std::borrow::Cow;

use super::{OWN_APP_ID, Protocol, Task, TimeLimit, header_error};
use crate::amqp::content::Properties;
use crate::celery::Unreadable;
use crate::celery::body::get;
use crate::celery::instant::parse_iso8601;
use crate::celery::value::Value;

impl<'a> Task<'a> {
    /// From a protocol 1 body.
    pub(super) fn from_v1(properties: &Properties<'a>, body: &Value) -> Result<Option<Self>, Unreadable> {
        if properties.app_id == Some(OWN_APP_ID) {
            return Ok(None);
        }
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
    pub(super) fn complete(&mut self, body: &Value) -> Result<(), Unreadable> {
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
