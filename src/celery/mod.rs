//! Celery's messages: from AMQP properties and bodies to what they mean. Knows nothing of rules.
//!
//! - [`task`]: the headers of a task message, of both protocols.
//! - [`body`]: arguments and canvas of a task, through whatever serializer and compression; [`json`], [`msgpack`], [`yaml`],
//!   [`pickle`] and [`compression`] do the work.
//! - [`accumulate`]: a task turned into one that only returns a result.
//! - [`value`]: what arguments are made of.
//! - [`event`]: what workers tell about themselves and their tasks.
//! - [`control`]: what workers are told, and what they answer.
//! - [`result`]: what becomes of a task, as result backends have it.
//! - [`queue`]: what the name of a queue says.
//! - [`routing`]: routing keys of native delayed delivery.
//! - [`instant`]: the times in headers.
//!
//! All input is hostile: depth, size and number of values are bounded, nothing is executed, and what cannot be read with certainty is
//! [`Unreadable`], never guessed. One property carries the rest: two bodies that mean different arguments never give equal values.

use std::borrow::Cow;

pub mod accumulate;
pub mod body;
pub mod compression;
pub mod control;
mod envelope;
pub mod event;
pub mod instant;
mod integer;
pub mod json;
pub mod msgpack;
pub mod pickle;
pub mod queue;
pub mod result;
pub mod routing;
pub mod task;
pub mod value;
pub mod yaml;

/// Why a message cannot be read. It is forwarded as it came.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// The content type or encoding is none of Celery's own, or the body or a header is not what it should be.
    #[error("{0}")]
    ContentType(Cow<'static, str>),
    /// The body is a pickle that cannot be read without running code, or is no pickle.
    #[error("pickle: {0}")]
    Pickle(Cow<'static, str>),
    /// The compression is unknown, or the data is not what it promises.
    #[error("compression: {0}")]
    Compression(Cow<'static, str>),
    /// The body is beyond a limit of size, depth or number of values.
    #[error("too large: {0}")]
    TooLarge(Cow<'static, str>),
}

impl Unreadable {
    /// The value of the label `reason` in `oncegate_messages_unkeyable_total`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Unreadable::ContentType(_) => "content_type",
            Unreadable::Pickle(_) => "pickle",
            Unreadable::Compression(_) => "compression",
            Unreadable::TooLarge(_) => "too_large",
        }
    }
}

/// How much a body may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Octets of a body, also of what it becomes when it is decompressed or when a pickle's shared parts are written out.
    pub max_message: usize,
    /// Values in a body, each element, key and member counted.
    pub max_values: usize,
}

impl Limits {
    /// A million values: about 60 MB of memory while the message is looked at.
    const MAX_VALUES: usize = 1_000_000;

    /// Limits for bodies of at most `max_message` octets.
    pub fn new(max_message: usize) -> Self {
        Limits {
            max_message,
            max_values: Self::MAX_VALUES,
        }
    }
}

/// The deepest nesting of a body: far beyond any arguments that people write, and harmless for the stack.
pub const MAX_DEPTH: usize = 128;
