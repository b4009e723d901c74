//! Methods of class `basic`.

use super::{MethodId, bit};
use crate::amqp::table::Table;

/// `basic.publish`. A content follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publish<'a> {
    /// The exchange; empty is the default exchange.
    pub exchange: &'a [u8],
    /// The routing key.
    pub routing_key: &'a [u8],
    /// The broker returns the message if no queue takes it.
    pub mandatory: bool,
    /// Answered with 540 by `RabbitMQ`.
    pub immediate: bool,
    /// Where in the payload the octet with the two flags stands.
    pub bits_offset: usize,
}

/// The bit of `mandatory` in the octet of flags of `basic.publish`.
pub(in crate::amqp) const MANDATORY: u8 = 1;

impl<'a> Publish<'a> {
    /// From the payload of a method frame.
    #[inline]
    pub fn decode(payload: &'a [u8]) -> Option<Self> {
        let mut reader = MethodId::BASIC_PUBLISH.arguments(payload)?;
        reader.u16()?;
        let exchange = reader.short()?;
        let routing_key = reader.short()?;
        let bits_offset = payload.len() - reader.rest().len();
        let bits = reader.u8()?;
        Some(Publish {
            exchange,
            routing_key,
            mandatory: bit(bits, 0),
            immediate: bit(bits, 1),
            bits_offset,
        })
    }
}

/// `basic.deliver`. A content follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deliver<'a> {
    /// The consumer.
    pub consumer_tag: &'a [u8],
    /// The delivery tag, counted per channel from 1.
    pub delivery_tag: u64,
    /// It was delivered before, to anyone.
    pub redelivered: bool,
    /// The exchange it was published to.
    pub exchange: &'a [u8],
    /// The routing key it was published with.
    pub routing_key: &'a [u8],
    /// Where in the payload the eight octets of the delivery tag start.
    pub tag_offset: usize,
}

impl<'a> Deliver<'a> {
    /// From the payload of a method frame.
    #[inline]
    pub fn decode(payload: &'a [u8]) -> Option<Self> {
        let mut reader = MethodId::BASIC_DELIVER.arguments(payload)?;
        let consumer_tag = reader.short()?;
        let tag_offset = payload.len() - reader.rest().len();
        Some(Deliver {
            consumer_tag,
            delivery_tag: reader.u64()?,
            redelivered: bit(reader.u8()?, 0),
            exchange: reader.short()?,
            routing_key: reader.short()?,
            tag_offset,
        })
    }
}

/// `basic.get-ok`. A content follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GetOk<'a> {
    /// The delivery tag, from the same count as that of `basic.deliver`.
    pub delivery_tag: u64,
    /// It was delivered before, to anyone.
    pub redelivered: bool,
    /// The exchange it was published to.
    pub exchange: &'a [u8],
    /// The routing key it was published with.
    pub routing_key: &'a [u8],
    /// Messages left in the queue.
    pub message_count: u32,
    /// Where in the payload the eight octets of the delivery tag start.
    pub tag_offset: usize,
}

impl<'a> GetOk<'a> {
    /// From the payload of a method frame.
    pub fn decode(payload: &'a [u8]) -> Option<Self> {
        let mut reader = MethodId::BASIC_GET_OK.arguments(payload)?;
        let tag_offset = payload.len() - reader.rest().len();
        Some(GetOk {
            delivery_tag: reader.u64()?,
            redelivered: bit(reader.u8()?, 0),
            exchange: reader.short()?,
            routing_key: reader.short()?,
            message_count: reader.u32()?,
            tag_offset,
        })
    }
}

/// `basic.return`: a mandatory message that no queue took. A content follows; on a confirming channel the ack comes after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Return<'a> {
    /// The reply code, as 312.
    pub code: u16,
    /// The reply text, as `NO_ROUTE`.
    pub text: &'a [u8],
    /// The exchange it was published to.
    pub exchange: &'a [u8],
    /// The routing key it was published with.
    pub routing_key: &'a [u8],
}

impl<'a> Return<'a> {
    /// From the payload of a method frame.
    pub fn decode(payload: &'a [u8]) -> Option<Self> {
        let mut reader = MethodId::BASIC_RETURN.arguments(payload)?;
        Some(Return {
            code: reader.u16()?,
            text: reader.short()?,
            exchange: reader.short()?,
            routing_key: reader.short()?,
        })
    }
}

/// `basic.ack`: of deliveries from a client, of publishes from a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// The tag or sequence number; 0 with `multiple` means all outstanding.
    pub delivery_tag: u64,
    /// All outstanding up to the tag.
    pub multiple: bool,
}

impl Ack {
    /// From the payload of a method frame.
    #[inline]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let mut reader = MethodId::BASIC_ACK.arguments(payload)?;
        Some(Ack {
            delivery_tag: reader.u64()?,
            multiple: bit(reader.u8()?, 0),
        })
    }
}

/// `basic.nack` (an extension of `RabbitMQ`): of deliveries from a client, of publishes from a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nack {
    /// The tag or sequence number; 0 with `multiple` means all outstanding.
    pub delivery_tag: u64,
    /// All outstanding up to the tag.
    pub multiple: bool,
    /// Back to the queue; otherwise dead-lettered or dropped. Without meaning from a broker.
    pub requeue: bool,
}

impl Nack {
    /// From the payload of a method frame.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let mut reader = MethodId::BASIC_NACK.arguments(payload)?;
        let delivery_tag = reader.u64()?;
        let bits = reader.u8()?;
        Some(Nack {
            delivery_tag,
            multiple: bit(bits, 0),
            requeue: bit(bits, 1),
        })
    }
}

/// `basic.reject`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reject {
    /// The delivery tag.
    pub delivery_tag: u64,
    /// Back to the queue; otherwise dead-lettered or dropped.
    pub requeue: bool,
}

impl Reject {
    /// From the payload of a method frame.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let mut reader = MethodId::BASIC_REJECT.arguments(payload)?;
        Some(Reject {
            delivery_tag: reader.u64()?,
            requeue: bit(reader.u8()?, 0),
        })
    }
}

/// `basic.consume`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the wire has these flags, each independent of the others"
)]
pub struct Consume<'a> {
    /// The queue; empty means the one declared last on the channel.
    pub queue: &'a [u8],
    /// The consumer tag; empty lets the server choose it.
    pub consumer_tag: &'a [u8],
    /// Not this connection's own messages (`RabbitMQ` ignores it).
    pub no_local: bool,
    /// Deliveries count as acknowledged when they are sent.
    pub no_ack: bool,
    /// No other consumer may have the queue.
    pub exclusive: bool,
    /// No `basic.consume-ok` is wanted.
    pub nowait: bool,
    /// `x-…` arguments.
    pub arguments: Table<'a>,
}

impl<'a> Consume<'a> {
    /// From the payload of a method frame.
    pub fn decode(payload: &'a [u8]) -> Option<Self> {
        let mut reader = MethodId::BASIC_CONSUME.arguments(payload)?;
        reader.u16()?;
        let queue = reader.short()?;
        let consumer_tag = reader.short()?;
        let bits = reader.u8()?;
        Some(Consume {
            queue,
            consumer_tag,
            no_local: bit(bits, 0),
            no_ack: bit(bits, 1),
            exclusive: bit(bits, 2),
            nowait: bit(bits, 3),
            arguments: Table::new(reader.long()?),
        })
    }
}

/// `basic.consume-ok`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsumeOk<'a> {
    /// The consumer tag, also when the server chose it.
    pub consumer_tag: &'a [u8],
}

impl<'a> ConsumeOk<'a> {
    /// From the payload of a method frame.
    pub fn decode(payload: &'a [u8]) -> Option<Self> {
        let mut reader = MethodId::BASIC_CONSUME_OK.arguments(payload)?;
        Some(ConsumeOk {
            consumer_tag: reader.short()?,
        })
    }
}

/// `basic.cancel`: from a client, or from a broker whose queue went away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cancel<'a> {
    /// The consumer tag.
    pub consumer_tag: &'a [u8],
    /// No `basic.cancel-ok` is wanted.
    pub nowait: bool,
}

impl<'a> Cancel<'a> {
    /// From the payload of a method frame.
    pub fn decode(payload: &'a [u8]) -> Option<Self> {
        let mut reader = MethodId::BASIC_CANCEL.arguments(payload)?;
        Some(Cancel {
            consumer_tag: reader.short()?,
            nowait: bit(reader.u8()?, 0),
        })
    }
}

/// `basic.cancel-ok`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CancelOk<'a> {
    /// The consumer tag.
    pub consumer_tag: &'a [u8],
}

impl<'a> CancelOk<'a> {
    /// From the payload of a method frame.
    pub fn decode(payload: &'a [u8]) -> Option<Self> {
        let mut reader = MethodId::BASIC_CANCEL_OK.arguments(payload)?;
        Some(CancelOk {
            consumer_tag: reader.short()?,
        })
    }
}

/// `basic.get`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Get<'a> {
    /// The queue; empty means the one declared last on the channel.
    pub queue: &'a [u8],
    /// The message counts as acknowledged when it is sent.
    pub no_ack: bool,
}

impl<'a> Get<'a> {
    /// From the payload of a method frame.
    pub fn decode(payload: &'a [u8]) -> Option<Self> {
        let mut reader = MethodId::BASIC_GET.arguments(payload)?;
        reader.u16()?;
        Some(Get {
            queue: reader.short()?,
            no_ack: bit(reader.u8()?, 0),
        })
    }
}

/// `basic.qos`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Qos {
    /// A window in octets (`RabbitMQ` knows only 0).
    pub prefetch_size: u32,
    /// Deliveries that may be unacknowledged; 0 means no limit.
    pub prefetch_count: u16,
    /// In `RabbitMQ`: for the whole channel instead of each consumer that starts later.
    pub global: bool,
}

impl Qos {
    /// From the payload of a method frame.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let mut reader = MethodId::BASIC_QOS.arguments(payload)?;
        Some(Qos {
            prefetch_size: reader.u32()?,
            prefetch_count: reader.u16()?,
            global: bit(reader.u8()?, 0),
        })
    }
}

/// The argument of `basic.recover` and `basic.recover-async`: every unacknowledged delivery of the channel comes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recover {
    /// Back to the queue (`RabbitMQ` refuses the contrary).
    pub requeue: bool,
}

impl Recover {
    /// From the payload of a method frame that holds either method.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let mut reader = MethodId::BASIC_RECOVER
            .arguments(payload)
            .or_else(|| MethodId::BASIC_RECOVER_ASYNC.arguments(payload))?;
        Some(Recover {
            requeue: bit(reader.u8()?, 0),
        })
    }
}
