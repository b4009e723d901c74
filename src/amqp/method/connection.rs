//! Methods of class `connection`.

use super::MethodId;
use crate::amqp::table::{FieldValue, Table, TableError};

/// `connection.start`: the server offers its version, its properties and SASL mechanisms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start<'a> {
    /// Protocol version, 0 then 9.
    pub version: (u8, u8),
    /// What the server says of itself: `product`, `version`, `capabilities`, ….
    pub server_properties: Table<'a>,
    /// SASL mechanisms, separated by spaces.
    pub mechanisms: &'a [u8],
    /// Locales, separated by spaces.
    pub locales: &'a [u8],
}

impl<'a> Start<'a> {
    /// From the payload of a method frame.
    pub fn decode(payload: &'a [u8]) -> Option<Self> {
        let mut reader = MethodId::CONNECTION_START.arguments(payload)?;
        Some(Start {
            version: (reader.u8()?, reader.u8()?),
            server_properties: Table::new(reader.long()?),
            mechanisms: reader.long()?,
            locales: reader.long()?,
        })
    }
}

/// `connection.start-ok`: the client introduces itself and answers with its first SASL response.
///
/// It has no `Debug`, because the response holds a password in most mechanisms.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct StartOk<'a> {
    /// What the client says of itself: `product`, `connection_name`, `capabilities`, ….
    pub client_properties: Table<'a>,
    /// The SASL mechanism, as `PLAIN`.
    pub mechanism: &'a [u8],
    /// The SASL response; for `PLAIN` it is `\0user\0password`.
    pub response: &'a [u8],
    /// The locale.
    pub locale: &'a [u8],
}

impl<'a> StartOk<'a> {
    /// From the payload of a method frame.
    pub fn decode(payload: &'a [u8]) -> Option<Self> {
        let mut reader = MethodId::CONNECTION_START_OK.arguments(payload)?;
        Some(StartOk {
            client_properties: Table::new(reader.long()?),
            mechanism: reader.short()?,
            response: reader.long()?,
            locale: reader.short()?,
        })
    }

    /// Whether the client announced a capability, as `connection.blocked`, `authentication_failure_close`, `consumer_cancel_notify`,
    /// `basic.nack` or `publisher_confirms`.
    pub fn has_capability(&self, name: &[u8]) -> Result<bool, TableError> {
        match self.client_properties.get(b"capabilities")? {
            Some(FieldValue::Table(capabilities)) => Ok(capabilities.get(name)? == Some(FieldValue::Bool(true))),
            _ => Ok(false),
        }
    }
}

/// The limits of a connection: the arguments of `connection.tune` and `connection.tune-ok`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tune {
    /// The highest channel number; 0 means no limit.
    pub channel_max: u16,
    /// The largest frame in octets, its [`OVERHEAD`](crate::amqp::frame::OVERHEAD) included; 0 means no limit.
    pub frame_max: u32,
    /// Seconds between heartbeats; 0 means none.
    pub heartbeat: u16,
}

impl Tune {
    /// From the payload of a method frame that holds `connection.tune` (from the server).
    pub fn decode(payload: &[u8]) -> Option<Self> {
        Self::decode_as(MethodId::CONNECTION_TUNE, payload)
    }

    /// From the payload of a method frame that holds `connection.tune-ok` (from the client): the values that hold from then on.
    pub fn decode_ok(payload: &[u8]) -> Option<Self> {
        Self::decode_as(MethodId::CONNECTION_TUNE_OK, payload)
    }

    fn decode_as(id: MethodId, payload: &[u8]) -> Option<Self> {
        let mut reader = id.arguments(payload)?;
        Some(Tune {
            channel_max: reader.u16()?,
            frame_max: reader.u32()?,
            heartbeat: reader.u16()?,
        })
    }
}

/// `connection.open`: the client chooses a virtual host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open<'a> {
    /// The virtual host.
    pub vhost: &'a [u8],
}

impl<'a> Open<'a> {
    /// From the payload of a method frame.
    pub fn decode(payload: &'a [u8]) -> Option<Self> {
        let mut reader = MethodId::CONNECTION_OPEN.arguments(payload)?;
        let vhost = reader.short()?;
        // Two reserved arguments: `capabilities` and `insist`.
        reader.short()?;
        reader.u8()?;
        Some(Open { vhost })
    }
}

/// The arguments of `connection.close` and `channel.close`: why one side closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Close<'a> {
    /// The reply code, 200 for an orderly close.
    pub code: u16,
    /// The reply text.
    pub text: &'a [u8],
    /// The method that failed; 0.0 when no method did.
    pub cause: MethodId,
}

impl<'a> Close<'a> {
    /// From the payload of a method frame that holds `connection.close`.
    pub fn decode(payload: &'a [u8]) -> Option<Self> {
        Self::decode_as(MethodId::CONNECTION_CLOSE, payload)
    }

    pub(super) fn decode_as(id: MethodId, payload: &'a [u8]) -> Option<Self> {
        let mut reader = id.arguments(payload)?;
        Some(Close {
            code: reader.u16()?,
            text: reader.short()?,
            cause: MethodId {
                class: reader.u16()?,
                method: reader.u16()?,
            },
        })
    }
}

/// `connection.blocked`: the server stopped reading from publishers (an extension of `RabbitMQ`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocked<'a> {
    /// Why, as `low on memory`.
    pub reason: &'a [u8],
}

impl<'a> Blocked<'a> {
    /// From the payload of a method frame.
    pub fn decode(payload: &'a [u8]) -> Option<Self> {
        let mut reader = MethodId::CONNECTION_BLOCKED.arguments(payload)?;
        Some(Blocked { reason: reader.short()? })
    }
}

/// `connection.update-secret`: the client renews its credentials (an extension of `RabbitMQ`).
///
/// It has no `Debug`, because it holds a secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct UpdateSecret<'a> {
    /// The new secret.
    pub new_secret: &'a [u8],
    /// Why.
    pub reason: &'a [u8],
}

impl<'a> UpdateSecret<'a> {
    /// From the payload of a method frame.
    pub fn decode(payload: &'a [u8]) -> Option<Self> {
        let mut reader = MethodId::CONNECTION_UPDATE_SECRET.arguments(payload)?;
        Some(UpdateSecret {
            new_secret: reader.long()?,
            reason: reader.short()?,
        })
    }
}
