//! Methods of the classes `channel` and `confirm`.

use super::connection::Close;
use super::{MethodId, bit};

impl<'a> Close<'a> {
    /// From the payload of a method frame that holds `channel.close`.
    pub fn decode_channel(payload: &'a [u8]) -> Option<Self> {
        Self::decode_as(MethodId::CHANNEL_CLOSE, payload)
    }
}

/// The argument of `channel.flow` and `channel.flow-ok`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// Whether the peer may send (or sends) content.
    pub active: bool,
}

impl Flow {
    /// From the payload of a method frame that holds `channel.flow`.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let mut reader = MethodId::CHANNEL_FLOW.arguments(payload)?;
        Some(Flow {
            active: bit(reader.u8()?, 0),
        })
    }
}

/// `confirm.select`: publishes on this channel are confirmed from now on (an extension of `RabbitMQ`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfirmSelect {
    /// No `confirm.select-ok` is wanted.
    pub nowait: bool,
}

impl ConfirmSelect {
    /// From the payload of a method frame.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let mut reader = MethodId::CONFIRM_SELECT.arguments(payload)?;
        Some(ConfirmSelect {
            nowait: bit(reader.u8()?, 0),
        })
    }
}
