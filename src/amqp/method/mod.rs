//! Methods: their ids, and the arguments of those that a proxy looks at, borrowed from the payload of a method frame.
//!
//! A decoder answers `None` when the payload is another method or ends early. Octets after the last argument are let through, as are
//! reserved bits and the reserved `ticket`: the broker judges them. Names are octets, not UTF-8.

pub mod basic;
pub mod channel;
pub mod connection;
pub mod exchange;
pub mod queue;

use super::coding::Reader;
use std::fmt;

/// Class and method number: the first four octets of the payload of a method frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MethodId {
    /// The class, as 60 for `basic`.
    pub class: u16,
    /// The method within the class, as 40 for `publish`.
    pub method: u16,
}

macro_rules! method_ids {
    ($($name:ident = $class:literal, $method:literal, $text:literal;)*) => {
        impl MethodId {
            $(
                #[doc = concat!("`", $text, "`.")]
                pub const $name: MethodId = MethodId { class: $class, method: $method };
            )*

            /// The name in the specification, as `basic.publish`; `None` if neither AMQP 0-9-1 nor `RabbitMQ` has such a method.
            pub fn name(self) -> Option<&'static str> {
                match (self.class, self.method) {
                    $(($class, $method) => Some($text),)*
                    _ => None,
                }
            }
        }

        #[cfg(test)]
        const ALL: &[MethodId] = &[$(MethodId::$name),*];
    };
}

method_ids! {
    CONNECTION_START = 10, 10, "connection.start";
    CONNECTION_START_OK = 10, 11, "connection.start-ok";
    CONNECTION_SECURE = 10, 20, "connection.secure";
    CONNECTION_SECURE_OK = 10, 21, "connection.secure-ok";
    CONNECTION_TUNE = 10, 30, "connection.tune";
    CONNECTION_TUNE_OK = 10, 31, "connection.tune-ok";
    CONNECTION_OPEN = 10, 40, "connection.open";
    CONNECTION_OPEN_OK = 10, 41, "connection.open-ok";
    CONNECTION_CLOSE = 10, 50, "connection.close";
    CONNECTION_CLOSE_OK = 10, 51, "connection.close-ok";
    CONNECTION_BLOCKED = 10, 60, "connection.blocked";
    CONNECTION_UNBLOCKED = 10, 61, "connection.unblocked";
    CONNECTION_UPDATE_SECRET = 10, 70, "connection.update-secret";
    CONNECTION_UPDATE_SECRET_OK = 10, 71, "connection.update-secret-ok";
    CHANNEL_OPEN = 20, 10, "channel.open";
    CHANNEL_OPEN_OK = 20, 11, "channel.open-ok";
    CHANNEL_FLOW = 20, 20, "channel.flow";
    CHANNEL_FLOW_OK = 20, 21, "channel.flow-ok";
    CHANNEL_CLOSE = 20, 40, "channel.close";
    CHANNEL_CLOSE_OK = 20, 41, "channel.close-ok";
    ACCESS_REQUEST = 30, 10, "access.request";
    ACCESS_REQUEST_OK = 30, 11, "access.request-ok";
    EXCHANGE_DECLARE = 40, 10, "exchange.declare";
    EXCHANGE_DECLARE_OK = 40, 11, "exchange.declare-ok";
    EXCHANGE_DELETE = 40, 20, "exchange.delete";
    EXCHANGE_DELETE_OK = 40, 21, "exchange.delete-ok";
    EXCHANGE_BIND = 40, 30, "exchange.bind";
    EXCHANGE_BIND_OK = 40, 31, "exchange.bind-ok";
    EXCHANGE_UNBIND = 40, 40, "exchange.unbind";
    EXCHANGE_UNBIND_OK = 40, 51, "exchange.unbind-ok";
    QUEUE_DECLARE = 50, 10, "queue.declare";
    QUEUE_DECLARE_OK = 50, 11, "queue.declare-ok";
    QUEUE_BIND = 50, 20, "queue.bind";
    QUEUE_BIND_OK = 50, 21, "queue.bind-ok";
    QUEUE_PURGE = 50, 30, "queue.purge";
    QUEUE_PURGE_OK = 50, 31, "queue.purge-ok";
    QUEUE_DELETE = 50, 40, "queue.delete";
    QUEUE_DELETE_OK = 50, 41, "queue.delete-ok";
    QUEUE_UNBIND = 50, 50, "queue.unbind";
    QUEUE_UNBIND_OK = 50, 51, "queue.unbind-ok";
    BASIC_QOS = 60, 10, "basic.qos";
    BASIC_QOS_OK = 60, 11, "basic.qos-ok";
    BASIC_CONSUME = 60, 20, "basic.consume";
    BASIC_CONSUME_OK = 60, 21, "basic.consume-ok";
    BASIC_CANCEL = 60, 30, "basic.cancel";
    BASIC_CANCEL_OK = 60, 31, "basic.cancel-ok";
    BASIC_PUBLISH = 60, 40, "basic.publish";
    BASIC_RETURN = 60, 50, "basic.return";
    BASIC_DELIVER = 60, 60, "basic.deliver";
    BASIC_GET = 60, 70, "basic.get";
    BASIC_GET_OK = 60, 71, "basic.get-ok";
    BASIC_GET_EMPTY = 60, 72, "basic.get-empty";
    BASIC_ACK = 60, 80, "basic.ack";
    BASIC_REJECT = 60, 90, "basic.reject";
    BASIC_RECOVER_ASYNC = 60, 100, "basic.recover-async";
    BASIC_RECOVER = 60, 110, "basic.recover";
    BASIC_RECOVER_OK = 60, 111, "basic.recover-ok";
    BASIC_NACK = 60, 120, "basic.nack";
    CONFIRM_SELECT = 85, 10, "confirm.select";
    CONFIRM_SELECT_OK = 85, 11, "confirm.select-ok";
    TX_SELECT = 90, 10, "tx.select";
    TX_SELECT_OK = 90, 11, "tx.select-ok";
    TX_COMMIT = 90, 20, "tx.commit";
    TX_COMMIT_OK = 90, 21, "tx.commit-ok";
    TX_ROLLBACK = 90, 30, "tx.rollback";
    TX_ROLLBACK_OK = 90, 31, "tx.rollback-ok";
}

impl MethodId {
    /// The id at the beginning of the payload of a method frame.
    #[inline]
    pub fn of_payload(payload: &[u8]) -> Option<Self> {
        let (&[c1, c0, m1, m0], _) = payload.split_first_chunk::<4>()?;
        Some(MethodId {
            class: u16::from_be_bytes([c1, c0]),
            method: u16::from_be_bytes([m1, m0]),
        })
    }

    /// Whether a content header and, unless it announces a body of zero octets, body frames follow on the channel.
    #[inline]
    pub fn carries_content(self) -> bool {
        matches!(
            self,
            MethodId::BASIC_PUBLISH | MethodId::BASIC_DELIVER | MethodId::BASIC_GET_OK | MethodId::BASIC_RETURN
        )
    }

    /// Reads the arguments behind this id in `payload`.
    #[inline]
    fn arguments(self, payload: &[u8]) -> Option<Reader<'_>> {
        let mut reader = Reader::new(payload);
        (reader.u16()? == self.class && reader.u16()? == self.method).then_some(reader)
    }
}

impl fmt::Display for MethodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{}.{}", self.class, self.method),
        }
    }
}

/// Whether bit `index` (0 is the first argument) of an octet of packed booleans is set.
#[inline]
fn bit(octet: u8, index: u8) -> bool {
    octet & (1 << index) != 0
}

#[cfg(test)]
mod tests;
