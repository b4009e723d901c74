//! The methods with which a client opens a connection, and declares, binds and consumes a queue.

use super::{bits, frame, method, put_id};
use crate::amqp::coding::{EncodeError, put_long, put_short};
use crate::amqp::frame::FrameKind;
use crate::amqp::method::MethodId;
use crate::amqp::method::connection::{StartOk, Tune};
use crate::amqp::table::Table;

/// Appends a method frame with arguments of any size. On error nothing is appended.
fn checked(
    out: &mut Vec<u8>,
    channel: u16,
    id: MethodId,
    arguments: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    frame(out, FrameKind::Method, channel, |out| {
        put_id(out, id);
        arguments(out)
    })
}

/// The reserved `ticket` with which most methods of the classes `exchange`, `queue` and `basic` begin.
const TICKET: [u8; 2] = [0, 0];

/// `connection.start-ok`.
pub fn start_ok(out: &mut Vec<u8>, start_ok: &StartOk<'_>) -> Result<(), EncodeError> {
    checked(out, 0, MethodId::CONNECTION_START_OK, |out| {
        put_long(out, start_ok.client_properties.raw())?;
        put_short(out, start_ok.mechanism)?;
        put_long(out, start_ok.response)?;
        put_short(out, start_ok.locale)
    })
}

/// `connection.tune-ok`.
pub fn tune_ok(out: &mut Vec<u8>, tune: Tune) {
    let limits = [
        &tune.channel_max.to_be_bytes()[..],
        &tune.frame_max.to_be_bytes(),
        &tune.heartbeat.to_be_bytes(),
    ];
    method(out, 0, MethodId::CONNECTION_TUNE_OK, limits);
}

/// `connection.open`.
pub fn open(out: &mut Vec<u8>, vhost: &[u8]) -> Result<(), EncodeError> {
    checked(out, 0, MethodId::CONNECTION_OPEN, |out| {
        put_short(out, vhost)?;
        // Two reserved arguments: `capabilities` and `insist`.
        out.extend_from_slice(&[0, 0]);
        Ok(())
    })
}

/// `channel.open`.
pub fn channel_open(out: &mut Vec<u8>, channel: u16) {
    method(out, channel, MethodId::CHANNEL_OPEN, [&[0]]);
}

/// Whether a declare makes what is missing, or only asks whether it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Declare {
    /// It makes it.
    Active,
    /// It asks.
    Passive,
}

/// `exchange.declare` of a durable exchange.
pub fn exchange_declare(out: &mut Vec<u8>, channel: u16, name: &[u8], kind: &[u8], declare: Declare) -> Result<(), EncodeError> {
    checked(out, channel, MethodId::EXCHANGE_DECLARE, |out| {
        out.extend_from_slice(&TICKET);
        put_short(out, name)?;
        put_short(out, kind)?;
        // passive, durable, auto-delete, internal, no-wait
        out.push(bits([declare == Declare::Passive, true, false, false, false]));
        put_long(out, &[])
    })
}

/// How long a queue lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// It outlives the broker's restarts.
    Durable,
    /// It belongs to the connection, and goes with it.
    Exclusive,
}

/// `queue.declare`.
pub fn queue_declare(out: &mut Vec<u8>, channel: u16, name: &[u8], life: Life, arguments: Table<'_>) -> Result<(), EncodeError> {
    checked(out, channel, MethodId::QUEUE_DECLARE, |out| {
        out.extend_from_slice(&TICKET);
        put_short(out, name)?;
        // passive, durable, exclusive, auto-delete, no-wait
        let own = life == Life::Exclusive;
        out.push(bits([false, !own, own, own, false]));
        put_long(out, arguments.raw())
    })
}

/// `queue.declare` that only asks whether the queue is there.
pub fn queue_passive(out: &mut Vec<u8>, channel: u16, name: &[u8]) -> Result<(), EncodeError> {
    checked(out, channel, MethodId::QUEUE_DECLARE, |out| {
        out.extend_from_slice(&TICKET);
        put_short(out, name)?;
        out.push(bits([true]));
        put_long(out, &[])
    })
}

/// `queue.bind`.
pub fn queue_bind(out: &mut Vec<u8>, channel: u16, queue: &[u8], exchange: &[u8], routing_key: &[u8]) -> Result<(), EncodeError> {
    checked(out, channel, MethodId::QUEUE_BIND, |out| {
        out.extend_from_slice(&TICKET);
        put_short(out, queue)?;
        put_short(out, exchange)?;
        put_short(out, routing_key)?;
        out.push(bits([false]));
        put_long(out, &[])
    })
}

/// `basic.qos` for each consumer of the channel that comes after it.
pub fn basic_qos(out: &mut Vec<u8>, channel: u16, prefetch_count: u16) {
    let arguments = [&[0; 4][..], &prefetch_count.to_be_bytes(), &[bits([false])]];
    method(out, channel, MethodId::BASIC_QOS, arguments);
}

/// `tx.select`.
pub fn tx_select(out: &mut Vec<u8>, channel: u16) {
    method(out, channel, MethodId::TX_SELECT, []);
}

/// `tx.rollback`.
pub fn tx_rollback(out: &mut Vec<u8>, channel: u16) {
    method(out, channel, MethodId::TX_ROLLBACK, []);
}

/// Whether the broker waits for acknowledgements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// It keeps what is not acknowledged.
    Wanted,
    /// It forgets what it has sent.
    None,
}

/// `basic.consume`.
pub fn basic_consume(out: &mut Vec<u8>, channel: u16, queue: &[u8], consumer_tag: &[u8], acks: Acks) -> Result<(), EncodeError> {
    checked(out, channel, MethodId::BASIC_CONSUME, |out| {
        out.extend_from_slice(&TICKET);
        put_short(out, queue)?;
        put_short(out, consumer_tag)?;
        // no-local, no-ack, exclusive, no-wait
        out.push(bits([false, acks == Acks::None, false, false]));
        put_long(out, &[])
    })
}

#[cfg(test)]
mod tests {
    use amq_protocol::frame::{AMQPFrame, parse_frame};
    use amq_protocol::protocol::{AMQPClass, basic, channel, connection, exchange, queue};

    use super::*;
    use crate::amqp::table::{FieldValue, put_entry};

    fn read(write: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>) -> (u16, AMQPClass) {
        let mut out = Vec::new();
        write(&mut out).expect("fits");
        match parse_frame(&out[..]).expect("a frame") {
            ([], AMQPFrame::Method(channel, class)) => (channel, class),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_handshake_is_what_another_library_reads() {
        let mut properties = Vec::new();
        put_entry(&mut properties, b"product", &FieldValue::LongStr(b"Oncegate")).expect("fits");
        let hello = StartOk {
            client_properties: Table::new(&properties),
            mechanism: b"PLAIN",
            response: b"\0me\0secret",
            locale: b"en_US",
        };
        let (0, AMQPClass::Connection(connection::AMQPMethod::StartOk(said))) = read(|out| start_ok(out, &hello)) else {
            panic!("another method")
        };
        assert_eq!((said.mechanism.as_str(), said.locale.as_str()), ("PLAIN", "en_US"));
        assert_eq!(said.response.as_bytes(), b"\0me\0secret");
        assert!(said.client_properties.contains_key("product"));
        let tune = Tune {
            channel_max: 2047,
            frame_max: 131_072,
            heartbeat: 30,
        };
        let (0, AMQPClass::Connection(connection::AMQPMethod::TuneOk(said))) = read(|out| {
            tune_ok(out, tune);
            Ok(())
        }) else {
            panic!("another method")
        };
        assert_eq!((said.channel_max, said.frame_max, said.heartbeat), (2047, 131_072, 30));
        let (0, AMQPClass::Connection(connection::AMQPMethod::Open(said))) = read(|out| open(out, b"/")) else {
            panic!("another method")
        };
        assert_eq!(said.virtual_host.as_str(), "/");
    }

    #[test]
    fn what_a_queue_needs_is_what_another_library_reads() {
        let opened = read(|out| {
            channel_open(out, 3);
            Ok(())
        });
        assert!(matches!(opened, (3, AMQPClass::Channel(channel::AMQPMethod::Open(_)))));
        for (declare, passive) in [(Declare::Passive, true), (Declare::Active, false)] {
            let (1, AMQPClass::Exchange(exchange::AMQPMethod::Declare(said))) =
                read(|out| exchange_declare(out, 1, b"celeryev", b"topic", declare))
            else {
                panic!("another method")
            };
            assert_eq!((said.exchange.as_str(), said.kind.as_str()), ("celeryev", "topic"));
            assert_eq!(
                (said.passive, said.durable, said.auto_delete, said.internal),
                (passive, true, false, false)
            );
        }
        for (life, own) in [(Life::Durable, false), (Life::Exclusive, true)] {
            let mut arguments = Vec::new();
            put_entry(&mut arguments, b"x-expires", &FieldValue::I32(5)).expect("fits");
            let (1, AMQPClass::Queue(queue::AMQPMethod::Declare(said))) =
                read(|out| queue_declare(out, 1, b"q", life, Table::new(&arguments)))
            else {
                panic!("another method")
            };
            assert_eq!(
                (said.passive, said.durable, said.exclusive, said.auto_delete),
                (false, !own, own, own)
            );
            assert!(said.arguments.contains_key("x-expires"));
        }
        let (1, AMQPClass::Queue(queue::AMQPMethod::Declare(said))) = read(|out| queue_passive(out, 1, b"q")) else {
            panic!("another method")
        };
        assert_eq!(
            (said.queue.as_str(), said.passive, said.durable, said.exclusive),
            ("q", true, false, false)
        );
        let (1, AMQPClass::Queue(queue::AMQPMethod::Bind(said))) = read(|out| queue_bind(out, 1, b"q", b"x", b"task.#")) else {
            panic!("another method")
        };
        assert_eq!(
            (said.queue.as_str(), said.exchange.as_str(), said.routing_key.as_str()),
            ("q", "x", "task.#")
        );
    }

    #[test]
    fn what_a_consumer_needs_is_what_another_library_reads() {
        let (1, AMQPClass::Basic(basic::AMQPMethod::Qos(said))) = read(|out| {
            basic_qos(out, 1, 500);
            Ok(())
        }) else {
            panic!("another method")
        };
        assert_eq!((said.prefetch_count, said.global), (500, false));
        for (acks, no_ack) in [(Acks::Wanted, false), (Acks::None, true)] {
            let (1, AMQPClass::Basic(basic::AMQPMethod::Consume(said))) = read(|out| basic_consume(out, 1, b"q", b"tag", acks)) else {
                panic!("another method")
            };
            assert_eq!((said.no_ack, said.exclusive, said.nowait), (no_ack, false, false));
            assert_eq!((said.queue.as_str(), said.consumer_tag.as_str()), ("q", "tag"));
        }
    }
}
