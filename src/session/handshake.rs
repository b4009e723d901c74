//! Channel 0: the handshake, which is relayed as it is, and what Oncegate must know of it.

use std::sync::Arc;

use super::event::{CloseReason, Event};
use super::walk::FRAME_MAX;
use super::{BrokerEnd, ClientEnd, Phase, Session, Side};
use crate::amqp::encode;
use crate::amqp::frame::{Frame, FrameKind};
use crate::amqp::method::{MethodId, connection};
use crate::amqp::table::Table;

impl Session {
    /// A frame of the client on channel 0.
    pub(super) fn client_connection_frame(&mut self, frame: &Frame<'_>) {
        if frame.kind == FrameKind::Heartbeat {
            return;
        }
        match frame.method_id() {
            Some(MethodId::CONNECTION_START_OK) => {
                if let Some(start) = connection::StartOk::decode(frame.payload) {
                    self.shared.user = user_of(start.mechanism, start.response);
                }
            }
            Some(MethodId::CONNECTION_TUNE_OK) => {
                if let Some(tune) = connection::Tune::decode_ok(frame.payload) {
                    self.heartbeat_us = u64::from(tune.heartbeat) * 1_000_000;
                    // 0 means no limit; what remains is the bound on memory.
                    self.shared.frame_max = if tune.frame_max == 0 { FRAME_MAX } else { tune.frame_max as usize };
                }
            }
            Some(MethodId::CONNECTION_OPEN) => {
                if let Some(open) = connection::Open::decode(frame.payload) {
                    self.shared.vhost = Arc::from(String::from_utf8_lossy(open.vhost));
                }
            }
            Some(MethodId::CONNECTION_CLOSE) => {
                self.client_asks_to_close(frame.raw);
                return;
            }
            Some(MethodId::CONNECTION_CLOSE_OK) if matches!(self.client_end, ClientEnd::Told { .. }) => {
                self.client_left();
                return;
            }
            _ => {}
        }
        self.shared.to_broker.extend_from_slice(frame.raw);
    }

    /// A frame of the broker on channel 0.
    pub(super) fn broker_connection_frame(&mut self, frame: &Frame<'_>) {
        if frame.kind == FrameKind::Heartbeat {
            return;
        }
        match frame.method_id() {
            Some(MethodId::CONNECTION_OPEN_OK) => {
                self.phase = Phase::Running;
                self.shared.events.push(Event::Opened);
            }
            Some(MethodId::CONNECTION_CLOSE) => {
                self.lose_channels();
                if self.client_end == ClientEnd::Open {
                    self.close_reason = Some((Side::Broker, CloseReason::Normal));
                    self.client_end = ClientEnd::BrokerCloses;
                } else if self.answers_broker() {
                    encode::connection_close_ok(&mut self.shared.to_broker);
                    self.broker_end = BrokerEnd::Done;
                    return;
                }
            }
            Some(MethodId::CONNECTION_CLOSE_OK) => {
                self.lose_channels();
                if matches!(self.broker_end, BrokerEnd::Closing { .. }) {
                    // What came just before answers Oncegate too.
                    self.shared.to_client.clear();
                    self.broker_end = BrokerEnd::Done;
                    return;
                }
                self.broker_end = BrokerEnd::Done;
                self.client_end = ClientEnd::Done;
            }
            Some(MethodId::CONNECTION_BLOCKED) => self.blocked = true,
            Some(MethodId::CONNECTION_UNBLOCKED) => {
                self.blocked = false;
                // The client's silence counts from here.
                self.client.last_read_us = self.shared.now.us;
            }
            _ => {}
        }
        self.shared.to_client.extend_from_slice(frame.raw);
    }
}

impl Session {
    /// True if no client is there to answer the broker's `connection.close`: it is gone, or has been told to go.
    fn answers_broker(&self) -> bool {
        matches!(self.client_end, ClientEnd::Told { .. } | ClientEnd::Left { .. } | ClientEnd::Done)
    }
}

/// The user name in a SASL response, where the mechanism shows it.
fn user_of(mechanism: &[u8], response: &[u8]) -> Option<Arc<str>> {
    let name = match mechanism {
        // RFC 4616: authorization identity, NUL, authentication identity, NUL, password.
        b"PLAIN" => response.split(|octet| *octet == 0).nth(1)?,
        b"AMQPLAIN" => Table::new(response).get(b"LOGIN").ok()??.as_octets()?,
        _ => return None,
    };
    std::str::from_utf8(name).ok().map(Arc::from)
}
