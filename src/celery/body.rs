//! The body of a task message: arguments, and what Celery has to do after the task.

use std::borrow::Cow;

use super::value::Value;
use super::{Limits, Unreadable};
use super::{compression, json, msgpack, pickle, yaml};
use crate::amqp::content::Properties;
use crate::amqp::table::FieldValue;

/// How the bytes of a body are to be read: what stands in the properties and headers of its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Encoding<'a> {
    /// Property `content_type`.
    pub content_type: Option<&'a [u8]>,
    /// Property `content_encoding`.
    pub content_encoding: Option<&'a [u8]>,
    /// Header `compression`.
    pub compression: Option<&'a [u8]>,
}

impl<'a> Encoding<'a> {
    /// From the properties of a message.
    pub fn of(properties: &Properties<'a>) -> Result<Self, Unreadable> {
        let compression = match properties.headers {
            Some(headers) => headers
                .get(b"compression")
                .map_err(|error| Unreadable::ContentType(format!("headers: {error}").into()))?,
            None => None,
        };
        Ok(Encoding {
            content_type: properties.content_type,
            content_encoding: properties.content_encoding,
            compression: match compression {
                None | Some(FieldValue::Void) => None,
                Some(FieldValue::LongStr(name)) => Some(name),
                Some(_) => return Err(Unreadable::Compression("the header is not text".into())),
            },
        })
    }
}

/// The serializers that kombu registers (kombu, `serialization.py`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serializer {
    /// `application/json`.
    Json,
    /// `application/x-python-serialize`.
    Pickle,
    /// `application/x-msgpack`.
    Msgpack,
    /// `application/x-yaml`.
    Yaml,
}

impl Serializer {
    /// By content type. kombu compares the whole text, so a parameter such as `; charset=utf-8` makes it another type.
    pub fn from_content_type(content_type: &[u8]) -> Option<Self> {
        match content_type {
            b"application/json" => Some(Serializer::Json),
            b"application/x-python-serialize" => Some(Serializer::Pickle),
            b"application/x-msgpack" => Some(Serializer::Msgpack),
            b"application/x-yaml" => Some(Serializer::Yaml),
            _ => None,
        }
    }
}

/// What Celery does after the task, as far as it matters here: whether there is something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(clippy::struct_excessive_bools, reason = "four independent members of the message")]
pub struct Canvas {
    /// `link`: tasks called with the result.
    pub callbacks: bool,
    /// `link_error`: tasks called after a failure.
    pub errbacks: bool,
    /// Steps of a chain that follow.
    pub chain: bool,
    /// The body of a chord to which the task belongs.
    pub chord: bool,
}

impl Canvas {
    /// Whether something waits for the outcome of the task.
    pub fn any(self) -> bool {
        self.callbacks || self.errbacks || self.chain || self.chord
    }

    fn of(mapping: &Value) -> Self {
        let present = |name| get(mapping, name).is_some_and(truthy);
        Canvas {
            callbacks: present("callbacks"),
            errbacks: present("errbacks"),
            chain: present("chain"),
            chord: present("chord"),
        }
    }
}

/// The body of a task message.
#[derive(Debug, Clone, PartialEq)]
pub struct Body {
    /// Positional arguments: a list or a tuple.
    pub args: Value,
    /// Keyword arguments: a mapping.
    pub kwargs: Value,
    /// What comes after the task.
    pub canvas: Canvas,
}

/// Reads a body into arguments and canvas. Protocol 2 has a list of three, protocol 1 (and the hybrid of both) a mapping.
pub fn decode(encoding: &Encoding<'_>, body: &[u8], limits: Limits) -> Result<Body, Unreadable> {
    Body::from_value(load(encoding, body, limits)?)
}

/// Reads a body into the value that it holds, whatever kind of message it is.
pub fn load(encoding: &Encoding<'_>, body: &[u8], limits: Limits) -> Result<Value, Unreadable> {
    let (serializer, body) = open(encoding, body, limits)?;
    parse(serializer, &body, limits)
}

/// Takes a body out of its compression, and says what it is written in.
pub(super) fn open<'a>(encoding: &Encoding<'_>, body: &'a [u8], limits: Limits) -> Result<(Serializer, Cow<'a, [u8]>), Unreadable> {
    if body.len() > limits.max_message {
        return Err(Unreadable::TooLarge("the body".into()));
    }
    let content_type = encoding.content_type.unwrap_or(b"application/data");
    let serializer = Serializer::from_content_type(content_type)
        .ok_or_else(|| Unreadable::ContentType(format!("content type {:?}", String::from_utf8_lossy(content_type)).into()))?;
    if let Some(charset) = encoding.content_encoding {
        let known: [&[u8]; 5] = [b"utf-8", b"utf8", b"us-ascii", b"ascii", b"binary"];
        if !charset.is_empty() && !known.iter().any(|name| charset.eq_ignore_ascii_case(name)) {
            return Err(Unreadable::ContentType(
                format!("content encoding {:?}", String::from_utf8_lossy(charset)).into(),
            ));
        }
    }
    Ok((serializer, compression::open(encoding.compression, body, limits)?))
}

/// Reads what a serializer wrote.
pub(super) fn parse(serializer: Serializer, body: &[u8], limits: Limits) -> Result<Value, Unreadable> {
    match serializer {
        Serializer::Json => json::parse(body, limits),
        Serializer::Pickle => pickle::parse(body, limits),
        Serializer::Msgpack => msgpack::parse(body, limits),
        Serializer::Yaml => yaml::parse(body, limits),
    }
}

impl Body {
    /// From the value of a whole body.
    pub fn from_value(value: Value) -> Result<Self, Unreadable> {
        let (args, kwargs, canvas) = match value {
            Value::List(parts) | Value::Tuple(parts) => {
                let [args, kwargs, embed]: [Value; 3] = parts
                    .try_into()
                    .map_err(|_| Unreadable::ContentType("the body is not [args, kwargs, embed]".into()))?;
                if !matches!(embed, Value::Map(_) | Value::Null) {
                    return Err(Unreadable::ContentType("the third part of the body is not a mapping".into()));
                }
                (args, kwargs, Canvas::of(&embed))
            }
            mapping @ Value::Map(_) => {
                let canvas = Canvas::of(&mapping);
                let [args, kwargs] = take(mapping, ["args", "kwargs"]);
                (
                    args.unwrap_or(Value::List(Vec::new())),
                    kwargs.unwrap_or(Value::Map(Vec::new())),
                    canvas,
                )
            }
            _ => return Err(Unreadable::ContentType("the body is neither a list nor a mapping".into())),
        };
        if !matches!(args, Value::List(_) | Value::Tuple(_)) {
            return Err(Unreadable::ContentType("args is not a list".into()));
        }
        if !matches!(kwargs, Value::Map(_)) {
            return Err(Unreadable::ContentType("kwargs is not a mapping".into()));
        }
        Ok(Body { args, kwargs, canvas })
    }
}

/// The value under a text key of a mapping.
pub(super) fn get<'v>(mapping: &'v Value, name: &str) -> Option<&'v Value> {
    let Value::Map(entries) = mapping else { return None };
    entries.iter().find(|(key, _)| key.as_str() == Some(name)).map(|(_, value)| value)
}

/// Takes the values under text keys out of a mapping.
fn take<const N: usize>(mapping: Value, names: [&str; N]) -> [Option<Value>; N] {
    let mut taken = [const { None }; N];
    let Value::Map(entries) = mapping else { return taken };
    for (key, value) in entries {
        for (slot, name) in taken.iter_mut().zip(names) {
            if key.as_str() == Some(name) {
                *slot = Some(value);
                break;
            }
        }
    }
    taken
}

/// Whether Python's `bool()` says so, for what stands in the canvas.
pub(super) fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => *truth,
        Value::Int(number) => *number != 0,
        Value::Float(number) => *number != 0.0,
        Value::BigInt(_) | Value::Object { .. } => true,
        Value::Str(text) => !text.is_empty(),
        Value::Bytes(octets) => !octets.is_empty(),
        Value::List(items) | Value::Tuple(items) | Value::Set(items) => !items.is_empty(),
        Value::Map(entries) => !entries.is_empty(),
    }
}
