//! Methods of class `queue`.

use super::{MethodId, bit};
use crate::amqp::table::Table;

/// `queue.declare`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the wire has these flags, each independent of the others"
)]
pub struct Declare<'a> {
    /// The queue; empty lets the server name it.
    pub queue: &'a [u8],
    /// Only ask whether it exists.
    pub passive: bool,
    /// It survives a restart of the broker.
    pub durable: bool,
    /// It belongs to this connection.
    pub exclusive: bool,
    /// It goes away after its last consumer.
    pub auto_delete: bool,
    /// No `queue.declare-ok` is wanted.
    pub nowait: bool,
    /// `x-…` arguments.
    pub arguments: Table<'a>,
}

impl<'a> Declare<'a> {
    /// From the payload of a method frame.
    pub fn decode(payload: &'a [u8]) -> Option<Self> {
        let mut reader = MethodId::QUEUE_DECLARE.arguments(payload)?;
        reader.u16()?;
        let queue = reader.short()?;
        let bits = reader.u8()?;
        Some(Declare {
            queue,
            passive: bit(bits, 0),
            durable: bit(bits, 1),
            exclusive: bit(bits, 2),
            auto_delete: bit(bits, 3),
            nowait: bit(bits, 4),
            arguments: Table::new(reader.long()?),
        })
    }
}

/// `queue.declare-ok`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeclareOk<'a> {
    /// The queue, also when the server named it.
    pub queue: &'a [u8],
    /// Messages ready for delivery.
    pub message_count: u32,
    /// Consumers.
    pub consumer_count: u32,
}

impl<'a> DeclareOk<'a> {
    /// From the payload of a method frame.
    pub fn decode(payload: &'a [u8]) -> Option<Self> {
        let mut reader = MethodId::QUEUE_DECLARE_OK.arguments(payload)?;
        Some(DeclareOk {
            queue: reader.short()?,
            message_count: reader.u32()?,
            consumer_count: reader.u32()?,
        })
    }
}

/// The arguments of `queue.bind` and `queue.unbind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bind<'a> {
    /// The queue; empty means the one declared last on the channel.
    pub queue: &'a [u8],
    /// The exchange.
    pub exchange: &'a [u8],
    /// The routing key.
    pub routing_key: &'a [u8],
    /// No answer is wanted. `queue.unbind` always gets one.
    pub nowait: bool,
    /// Arguments, as those of a headers exchange.
    pub arguments: Table<'a>,
}

impl<'a> Bind<'a> {
    /// From the payload of a method frame that holds `queue.bind`.
    pub fn decode(payload: &'a [u8]) -> Option<Self> {
        let mut reader = MethodId::QUEUE_BIND.arguments(payload)?;
        reader.u16()?;
        Some(Bind {
            queue: reader.short()?,
            exchange: reader.short()?,
            routing_key: reader.short()?,
            nowait: bit(reader.u8()?, 0),
            arguments: Table::new(reader.long()?),
        })
    }

    /// From the payload of a method frame that holds `queue.unbind`.
    pub fn decode_unbind(payload: &'a [u8]) -> Option<Self> {
        let mut reader = MethodId::QUEUE_UNBIND.arguments(payload)?;
        reader.u16()?;
        Some(Bind {
            queue: reader.short()?,
            exchange: reader.short()?,
            routing_key: reader.short()?,
            nowait: false,
            arguments: Table::new(reader.long()?),
        })
    }
}

/// `queue.purge`: drops every message that is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Purge<'a> {
    /// The queue; empty means the one declared last on the channel.
    pub queue: &'a [u8],
    /// No `queue.purge-ok` is wanted.
    pub nowait: bool,
}

impl<'a> Purge<'a> {
    /// From the payload of a method frame.
    pub fn decode(payload: &'a [u8]) -> Option<Self> {
        let mut reader = MethodId::QUEUE_PURGE.arguments(payload)?;
        reader.u16()?;
        Some(Purge {
            queue: reader.short()?,
            nowait: bit(reader.u8()?, 0),
        })
    }
}

/// `queue.delete`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delete<'a> {
    /// The queue; empty means the one declared last on the channel.
    pub queue: &'a [u8],
    /// Only if it has no consumers.
    pub if_unused: bool,
    /// Only if it has no messages.
    pub if_empty: bool,
    /// No `queue.delete-ok` is wanted.
    pub nowait: bool,
}

impl<'a> Delete<'a> {
    /// From the payload of a method frame.
    pub fn decode(payload: &'a [u8]) -> Option<Self> {
        let mut reader = MethodId::QUEUE_DELETE.arguments(payload)?;
        reader.u16()?;
        let queue = reader.short()?;
        let bits = reader.u8()?;
        Some(Delete {
            queue,
            if_unused: bit(bits, 0),
            if_empty: bit(bits, 1),
            nowait: bit(bits, 2),
        })
    }
}

/// The argument of `queue.purge-ok` and `queue.delete-ok`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dropped {
    /// How many messages went.
    pub message_count: u32,
}

impl Dropped {
    /// From the payload of a method frame that holds `queue.purge-ok`.
    pub fn decode_purge_ok(payload: &[u8]) -> Option<Self> {
        let mut reader = MethodId::QUEUE_PURGE_OK.arguments(payload)?;
        Some(Dropped {
            message_count: reader.u32()?,
        })
    }

    /// From the payload of a method frame that holds `queue.delete-ok`.
    pub fn decode_delete_ok(payload: &[u8]) -> Option<Self> {
        let mut reader = MethodId::QUEUE_DELETE_OK.arguments(payload)?;
        Some(Dropped {
            message_count: reader.u32()?,
        })
    }
}
