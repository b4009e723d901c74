//! Bytes to frames and back. Knows nothing of Celery.
//!
//! Everything here borrows from the bytes it was given, allocates nothing while reading, and answers hostile input with an error or
//! `None`. A message is never decoded and encoded again: what has to change is spliced, and every other byte stays as it came.
//!
//! - [`coding`]: big-endian numbers and the two string types.
//! - [`frame`]: protocol header, frame header, frame end.
//! - [`method`]: method ids and the arguments of the methods that a proxy looks at.
//! - [`table`]: field tables and arrays, read in place.
//! - [`content`]: content header and basic properties; changing one header of a message.
//! - [`encode`]: the frames that the proxy makes up itself.
//!
//! Sources: AMQP 0-9-1 specification; `RabbitMQ`'s errata for the types of fields (<https://www.rabbitmq.com/amqp-0-9-1-errata>).

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::unreachable
    )
)]

pub mod coding;
pub mod content;
pub mod encode;
pub mod frame;
pub mod method;
pub mod table;
