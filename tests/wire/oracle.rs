//! The captured frames once more, against `amq-protocol`.

use crate::{golden, render};
use amq_protocol::frame::{AMQPFrame, parse_frame};
use amq_protocol::protocol::{AMQPClass, basic, channel, connection};
use amq_protocol::types::{AMQPValue, FieldTable};
use oncegate::amqp::content::ContentHeader;
use oncegate::amqp::frame::{self, Frame, Split};
use oncegate::amqp::method::basic::{Ack, Consume, Deliver, GetOk, Nack, Publish, Qos, Reject, Return};
use oncegate::amqp::method::connection::{Close, Tune};
use oncegate::amqp::table::Table;
use serde_json::{Map, Value, json};

pub fn value(value: &AMQPValue) -> Value {
    match value {
        AMQPValue::Boolean(truth) => json!(truth),
        AMQPValue::ShortShortInt(number) => json!(number),
        AMQPValue::ShortShortUInt(number) => json!(number),
        AMQPValue::ShortInt(number) => json!(number),
        AMQPValue::ShortUInt(number) => json!(number),
        AMQPValue::LongInt(number) => json!(number),
        AMQPValue::LongUInt(number) => json!(number),
        AMQPValue::LongLongInt(number) => json!(number),
        AMQPValue::Float(number) => json!(f64::from(*number)),
        AMQPValue::Double(number) => json!(number),
        AMQPValue::DecimalValue(decimal) => json!({ "decimal": render::decimal(decimal.scale, decimal.value) }),
        AMQPValue::ShortString(text) => json!(text.as_str()),
        AMQPValue::LongString(text) => render::text(text.as_bytes()),
        AMQPValue::FieldArray(array) => array.as_slice().iter().map(self::value).collect(),
        AMQPValue::Timestamp(seconds) => json!({ "seconds": seconds }),
        AMQPValue::FieldTable(nested) => table(nested),
        AMQPValue::ByteArray(octets) => json!({ "bytes": render::hex(octets.as_slice()) }),
        AMQPValue::Void => Value::Null,
    }
}

pub fn table(table: &FieldTable) -> Value {
    Value::Object(
        table
            .inner()
            .iter()
            .map(|(name, item)| (name.as_str().to_owned(), value(item)))
            .collect::<Map<_, _>>(),
    )
}

fn agree_on_a_table(ours: Table<'_>, theirs: &FieldTable, place: &str) {
    assert_eq!(render::table(ours), table(theirs), "{place}");
}

fn agree_on_a_close(ours: &Close<'_>, theirs: (u16, &str, u16, u16), place: &str) {
    assert_eq!(
        (ours.code, ours.text, ours.cause.class, ours.cause.method),
        (theirs.0, theirs.1.as_bytes(), theirs.2, theirs.3),
        "{place}"
    );
}

/// Compares the fields of the methods that matter most; `true` if this was one of them.
fn agree_on_basic(method: &basic::AMQPMethod, payload: &[u8], place: &str) -> bool {
    match method {
        basic::AMQPMethod::Publish(theirs) => {
            let ours = Publish::decode(payload).expect("a publish");
            let names = (theirs.exchange.as_str().as_bytes(), theirs.routing_key.as_str().as_bytes());
            assert_eq!((ours.exchange, ours.routing_key), names, "{place}");
            assert_eq!((ours.mandatory, ours.immediate), (theirs.mandatory, theirs.immediate), "{place}");
        }
        basic::AMQPMethod::Deliver(theirs) => {
            let ours = Deliver::decode(payload).expect("a delivery");
            let names = (theirs.exchange.as_str().as_bytes(), theirs.routing_key.as_str().as_bytes());
            assert_eq!((ours.exchange, ours.routing_key), names, "{place}");
            assert_eq!(ours.consumer_tag, theirs.consumer_tag.as_str().as_bytes(), "{place}");
            assert_eq!(
                (ours.delivery_tag, ours.redelivered),
                (theirs.delivery_tag, theirs.redelivered),
                "{place}"
            );
        }
        basic::AMQPMethod::GetOk(theirs) => {
            let ours = GetOk::decode(payload).expect("get-ok");
            assert_eq!(
                (ours.delivery_tag, ours.message_count),
                (theirs.delivery_tag, theirs.message_count),
                "{place}"
            );
        }
        basic::AMQPMethod::Return(theirs) => {
            let ours = Return::decode(payload).expect("a return");
            assert_eq!(
                (ours.code, ours.text),
                (theirs.reply_code, theirs.reply_text.as_str().as_bytes()),
                "{place}"
            );
        }
        basic::AMQPMethod::Ack(theirs) => {
            let ours = Ack::decode(payload).expect("an ack");
            assert_eq!(
                (ours.delivery_tag, ours.multiple),
                (theirs.delivery_tag, theirs.multiple),
                "{place}"
            );
        }
        basic::AMQPMethod::Nack(theirs) => {
            let ours = Nack::decode(payload).expect("a nack");
            let flags = (theirs.multiple, theirs.requeue);
            assert_eq!(
                (ours.delivery_tag, (ours.multiple, ours.requeue)),
                (theirs.delivery_tag, flags),
                "{place}"
            );
        }
        basic::AMQPMethod::Reject(theirs) => {
            let ours = Reject::decode(payload).expect("a reject");
            assert_eq!((ours.delivery_tag, ours.requeue), (theirs.delivery_tag, theirs.requeue), "{place}");
        }
        basic::AMQPMethod::Qos(theirs) => {
            let ours = Qos::decode(payload).expect("qos");
            assert_eq!(
                (ours.prefetch_count, ours.global),
                (theirs.prefetch_count, theirs.global),
                "{place}"
            );
        }
        basic::AMQPMethod::Consume(theirs) => {
            let ours = Consume::decode(payload).expect("consume");
            assert_eq!(ours.queue, theirs.queue.as_str().as_bytes(), "{place}");
            let flags = (theirs.no_local, theirs.no_ack, theirs.exclusive, theirs.nowait);
            assert_eq!((ours.no_local, ours.no_ack, ours.exclusive, ours.nowait), flags, "{place}");
            agree_on_a_table(ours.arguments, &theirs.arguments, place);
        }
        _ => return false,
    }
    true
}

fn agree_on_method(class: &AMQPClass, payload: &[u8], place: &str) -> bool {
    match class {
        AMQPClass::Basic(method) => return agree_on_basic(method, payload, place),
        AMQPClass::Connection(connection::AMQPMethod::Close(theirs)) => {
            let ours = Close::decode(payload).expect("a close");
            agree_on_a_close(
                &ours,
                (theirs.reply_code, theirs.reply_text.as_str(), theirs.class_id, theirs.method_id),
                place,
            );
        }
        AMQPClass::Channel(channel::AMQPMethod::Close(theirs)) => {
            let ours = Close::decode_channel(payload).expect("a close");
            agree_on_a_close(
                &ours,
                (theirs.reply_code, theirs.reply_text.as_str(), theirs.class_id, theirs.method_id),
                place,
            );
        }
        AMQPClass::Connection(connection::AMQPMethod::Tune(theirs)) => {
            let ours = Tune::decode(payload).expect("a tune");
            let limits = (theirs.channel_max, theirs.frame_max, theirs.heartbeat);
            assert_eq!((ours.channel_max, ours.frame_max, ours.heartbeat), limits, "{place}");
        }
        _ => return false,
    }
    true
}

pub fn agree_on_properties(header: &ContentHeader<'_>, theirs: &basic::AMQPProperties, place: &str) {
    let ours = &header.properties;
    let strings = [
        (ours.content_type, theirs.content_type()),
        (ours.content_encoding, theirs.content_encoding()),
        (ours.correlation_id, theirs.correlation_id()),
        (ours.reply_to, theirs.reply_to()),
        (ours.expiration, theirs.expiration()),
        (ours.message_id, theirs.message_id()),
        (ours.kind, theirs.kind()),
        (ours.user_id, theirs.user_id()),
        (ours.app_id, theirs.app_id()),
        (ours.cluster_id, theirs.cluster_id()),
    ];
    for (ours, theirs) in strings {
        assert_eq!(ours, theirs.as_ref().map(|text| text.as_str().as_bytes()), "{place}");
    }
    assert_eq!(
        (ours.delivery_mode, ours.priority),
        (*theirs.delivery_mode(), *theirs.priority()),
        "{place}"
    );
    assert_eq!(ours.timestamp, *theirs.timestamp(), "{place}");
    match (ours.headers, theirs.headers()) {
        (Some(ours), Some(theirs)) => agree_on_a_table(ours, theirs, place),
        (ours, theirs) => assert_eq!(ours.is_some(), theirs.is_some(), "{place}"),
    }
}

fn whole(bytes: &[u8]) -> Frame<'_> {
    match frame::split(bytes, usize::MAX) {
        Split::Frame(frame) => frame,
        other => panic!("no frame: {other:?}"),
    }
}

#[test]
fn amq_protocol_reads_the_captured_frames_alike() {
    let mut compared = 0;
    for golden in golden::frames() {
        let ours = whole(&golden.bytes);
        let (rest, theirs) = parse_frame(&golden.bytes[..]).expect("amq-protocol can read what real peers send");
        assert!(rest.is_empty(), "{}", golden.place);
        assert_eq!(theirs.channel_id(), ours.channel, "{}", golden.place);
        let agreed = match &theirs {
            AMQPFrame::Method(_, class) => agree_on_method(class, ours.payload, &golden.place),
            AMQPFrame::Header(_, header) => {
                let ours = ContentHeader::decode(ours.payload).expect("a content header");
                assert_eq!(
                    (ours.class, ours.body_size),
                    (header.class_id, header.body_size),
                    "{}",
                    golden.place
                );
                agree_on_properties(&ours, &header.properties, &golden.place);
                true
            }
            AMQPFrame::Body(_, body) => {
                assert_eq!(ours.payload, body, "{}", golden.place);
                true
            }
            _ => false,
        };
        compared += usize::from(agreed);
    }
    assert!(compared >= 250, "{compared} frames compared");
}
