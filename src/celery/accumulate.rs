//! A task message turned into one of `celery.accumulate`, which returns what it is given: a worker that runs it stores that as the task's
//! result, in whatever backend it has, counts the chord, goes on with the chain and calls the links.
//!
//! `celery.accumulate` is part of every application (celery, `app/builtins.py`). Called with one argument and `index=0` it returns that
//! argument. The third part of the body, which says what comes after the task, stays octet for octet wherever the serializer lets it be cut
//! out; in a pickle the program that builds it does.

use std::borrow::Cow;

use super::body::{Encoding, Serializer, open};
use super::compression::{self, Compression};
use super::value::Value;
use super::{Limits, Unreadable, json, msgpack, pickle, yaml};

/// The name of the task.
pub const TASK: &str = "celery.accumulate";

/// What logs and events show of its arguments.
pub const KWARGS_REPR: &str = "{'index': 0}";

/// The body of a task message with other arguments: the task returns `result`, given as the JSON that a result backend has, and what comes
/// after the task is the same. In the serializer and the compression of the body.
pub fn body(encoding: &Encoding<'_>, body: &[u8], result: &[u8], limits: Limits) -> Result<Vec<u8>, Unreadable> {
    let (serializer, plain) = open(encoding, body, limits)?;
    let value = || json::parse(result, limits);
    let written = match serializer {
        Serializer::Json => {
            let [_, _, embed] = json::items(&plain)?;
            [b"[[", result.trim_ascii(), b"], {\"index\": 0}, ", embed, b"]"].concat()
        }
        Serializer::Msgpack => msgpack::accumulate(&plain, &value()?, limits)?,
        Serializer::Pickle => pickle::accumulate(&plain, &value()?, limits)?,
        Serializer::Yaml => yaml::accumulate(&plain, value()?, limits)?,
    };
    match encoding.compression {
        None => Ok(written),
        Some(name) => match Compression::from_header(name) {
            Some(kind) => compression::compress(kind, &written),
            None => Err(Unreadable::Compression("an unknown name".into())),
        },
    }
}

/// Whether [`body`] can write such a body, whatever the result.
pub fn fits(encoding: &Encoding<'_>, octets: &[u8], limits: Limits) -> bool {
    body(encoding, octets, b"null", limits).is_ok()
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
mod tests;
