//! What the codec decodes, as JSON in the words of the golden files.

use oncegate::amqp::content::Properties;
use oncegate::amqp::method::MethodId;
use oncegate::amqp::method::basic::{
    Ack, Cancel, CancelOk, Consume, ConsumeOk, Deliver, Get, GetOk, Nack, Publish, Qos, Recover, Reject, Return,
};
use oncegate::amqp::method::channel::{ConfirmSelect, Flow};
use oncegate::amqp::method::connection::{Blocked, Close, Open, Start, StartOk, Tune, UpdateSecret};
use oncegate::amqp::method::queue::{Bind, Declare, DeclareOk, Delete, Dropped, Purge};
use oncegate::amqp::table::{FieldValue, Table};
use serde_json::{Map, Value, json};

pub fn hex(octets: &[u8]) -> String {
    use std::fmt::Write;
    octets.iter().fold(String::new(), |mut text, octet| {
        write!(text, "{octet:02x}").expect("a string takes everything");
        text
    })
}

pub fn text(octets: &[u8]) -> Value {
    match std::str::from_utf8(octets) {
        Ok(text) => json!(text),
        Err(_) => json!({ "hex": hex(octets) }),
    }
}

pub fn value(value: &FieldValue<'_>) -> Value {
    match *value {
        FieldValue::Bool(truth) => json!(truth),
        FieldValue::F32(number) => json!(f64::from(number)),
        FieldValue::F64(number) => json!(number),
        FieldValue::Decimal { scale, value } => json!({ "decimal": decimal(scale, value) }),
        FieldValue::LongStr(octets) => text(octets),
        FieldValue::Bytes(octets) => json!({ "bytes": hex(octets) }),
        FieldValue::Array(array) => array.iter().map(|item| self::value(&item.expect("a value"))).collect(),
        FieldValue::Timestamp(seconds) => json!({ "seconds": seconds }),
        FieldValue::Table(nested) => table(nested),
        FieldValue::Void => Value::Null,
        ref integer => json!(integer.as_i64().expect("every other type is an integer")),
    }
}

/// `314` with scale 2 as `3.14`.
pub fn decimal(scale: u8, value: u32) -> String {
    let digits = format!("{value:0width$}", width = usize::from(scale) + 1);
    let (whole, fraction) = digits.split_at(digits.len() - usize::from(scale));
    if fraction.is_empty() {
        whole.to_owned()
    } else {
        format!("{whole}.{fraction}")
    }
}

pub fn table(table: Table<'_>) -> Value {
    let entries = table.iter().map(|entry| {
        let entry = entry.expect("an entry");
        (String::from_utf8_lossy(entry.name).into_owned(), value(&entry.value))
    });
    Value::Object(entries.collect::<Map<_, _>>())
}

pub fn properties(properties: &Properties<'_>) -> Value {
    let mut rendered = Map::new();
    let strings = [
        ("content_type", properties.content_type),
        ("content_encoding", properties.content_encoding),
        ("correlation_id", properties.correlation_id),
        ("reply_to", properties.reply_to),
        ("expiration", properties.expiration),
        ("message_id", properties.message_id),
        ("message_type", properties.kind),
        ("user_id", properties.user_id),
        ("app_id", properties.app_id),
        ("cluster_id", properties.cluster_id),
    ];
    rendered.extend(
        strings
            .into_iter()
            .filter_map(|(name, octets)| Some((name.to_owned(), text(octets?)))),
    );
    let numbers = [("delivery_mode", properties.delivery_mode), ("priority", properties.priority)];
    rendered.extend(
        numbers
            .into_iter()
            .filter_map(|(name, number)| Some((name.to_owned(), json!(number?)))),
    );
    rendered.extend(
        properties
            .timestamp
            .map(|seconds| ("timestamp".to_owned(), json!({ "seconds": seconds }))),
    );
    rendered.extend(properties.headers.map(|headers| ("headers".to_owned(), table(headers))));
    Value::Object(rendered)
}

/// The fields of a method that the codec decodes; `None` for the methods that it only names.
pub fn method(id: MethodId, payload: &[u8]) -> Option<Value> {
    match id.class {
        10 => connection(id, payload),
        20 | 85 => channel(id, payload),
        50 => queue(id, payload),
        60 => basic(id, payload),
        _ => None,
    }
}

fn connection(id: MethodId, payload: &[u8]) -> Option<Value> {
    Some(match id {
        MethodId::CONNECTION_START => {
            let Start {
                version,
                server_properties,
                mechanisms,
                locales,
            } = Start::decode(payload)?;
            json!({
                "version_major": version.0, "version_minor": version.1, "server_properties": table(server_properties),
                "mechanisms": text(mechanisms), "locales": text(locales),
            })
        }
        MethodId::CONNECTION_START_OK => {
            let StartOk {
                client_properties,
                mechanism,
                response,
                locale,
            } = StartOk::decode(payload)?;
            json!({
                "client_properties": table(client_properties), "mechanism": text(mechanism), "response": text(response),
                "locale": text(locale),
            })
        }
        MethodId::CONNECTION_TUNE => tune(Tune::decode(payload)?),
        MethodId::CONNECTION_TUNE_OK => tune(Tune::decode_ok(payload)?),
        MethodId::CONNECTION_OPEN => json!({ "virtual_host": text(Open::decode(payload)?.vhost) }),
        MethodId::CONNECTION_CLOSE => close(Close::decode(payload)?),
        MethodId::CONNECTION_BLOCKED => json!({ "reason": text(Blocked::decode(payload)?.reason) }),
        MethodId::CONNECTION_UPDATE_SECRET => {
            let UpdateSecret { new_secret, reason } = UpdateSecret::decode(payload)?;
            json!({ "new_secret": text(new_secret), "reason": text(reason) })
        }
        _ => return None,
    })
}

fn tune(
    Tune {
        channel_max,
        frame_max,
        heartbeat,
    }: Tune,
) -> Value {
    json!({ "channel_max": channel_max, "frame_max": frame_max, "heartbeat": heartbeat })
}

fn close(
    Close {
        code,
        text: reply_text,
        cause,
    }: Close<'_>,
) -> Value {
    json!({ "reply_code": code, "reply_text": text(reply_text), "class_id": cause.class, "method_id": cause.method })
}

fn channel(id: MethodId, payload: &[u8]) -> Option<Value> {
    Some(match id {
        MethodId::CHANNEL_CLOSE => close(Close::decode_channel(payload)?),
        MethodId::CHANNEL_FLOW => json!({ "active": Flow::decode(payload)?.active }),
        MethodId::CONFIRM_SELECT => json!({ "nowait": ConfirmSelect::decode(payload)?.nowait }),
        _ => return None,
    })
}

fn queue(id: MethodId, payload: &[u8]) -> Option<Value> {
    Some(match id {
        MethodId::QUEUE_DECLARE => {
            let Declare {
                queue,
                passive,
                durable,
                exclusive,
                auto_delete,
                nowait,
                arguments,
            } = Declare::decode(payload)?;
            json!({
                "queue": text(queue), "passive": passive, "durable": durable, "exclusive": exclusive, "auto_delete": auto_delete,
                "nowait": nowait, "arguments": table(arguments),
            })
        }
        MethodId::QUEUE_DECLARE_OK => {
            let DeclareOk {
                queue,
                message_count,
                consumer_count,
            } = DeclareOk::decode(payload)?;
            json!({ "queue": text(queue), "message_count": message_count, "consumer_count": consumer_count })
        }
        MethodId::QUEUE_BIND => {
            let Bind {
                queue,
                exchange,
                routing_key,
                nowait,
                arguments,
            } = Bind::decode(payload)?;
            json!({
                "queue": text(queue), "exchange": text(exchange), "routing_key": text(routing_key), "nowait": nowait,
                "arguments": table(arguments),
            })
        }
        MethodId::QUEUE_UNBIND => {
            let Bind {
                queue,
                exchange,
                routing_key,
                nowait: _,
                arguments,
            } = Bind::decode_unbind(payload)?;
            json!({ "queue": text(queue), "exchange": text(exchange), "routing_key": text(routing_key), "arguments": table(arguments) })
        }
        MethodId::QUEUE_PURGE => {
            let Purge { queue, nowait } = Purge::decode(payload)?;
            json!({ "queue": text(queue), "nowait": nowait })
        }
        MethodId::QUEUE_DELETE => {
            let Delete {
                queue,
                if_unused,
                if_empty,
                nowait,
            } = Delete::decode(payload)?;
            json!({ "queue": text(queue), "if_unused": if_unused, "if_empty": if_empty, "nowait": nowait })
        }
        MethodId::QUEUE_PURGE_OK => json!({ "message_count": Dropped::decode_purge_ok(payload)?.message_count }),
        MethodId::QUEUE_DELETE_OK => json!({ "message_count": Dropped::decode_delete_ok(payload)?.message_count }),
        _ => return None,
    })
}

fn basic(id: MethodId, payload: &[u8]) -> Option<Value> {
    Some(match id {
        MethodId::BASIC_PUBLISH => {
            let Publish {
                exchange,
                routing_key,
                mandatory,
                immediate,
                bits_offset: _,
            } = Publish::decode(payload)?;
            json!({
                "exchange": text(exchange), "routing_key": text(routing_key), "mandatory": mandatory, "immediate": immediate,
            })
        }
        MethodId::BASIC_DELIVER => {
            let Deliver {
                consumer_tag,
                delivery_tag,
                redelivered,
                exchange,
                routing_key,
                tag_offset: _,
            } = Deliver::decode(payload)?;
            json!({
                "consumer_tag": text(consumer_tag), "delivery_tag": delivery_tag, "redelivered": redelivered,
                "exchange": text(exchange), "routing_key": text(routing_key),
            })
        }
        MethodId::BASIC_GET_OK => {
            let GetOk {
                delivery_tag,
                redelivered,
                exchange,
                routing_key,
                message_count,
                tag_offset: _,
            } = GetOk::decode(payload)?;
            json!({
                "delivery_tag": delivery_tag, "redelivered": redelivered, "exchange": text(exchange),
                "routing_key": text(routing_key), "message_count": message_count,
            })
        }
        MethodId::BASIC_RETURN => {
            let Return {
                code,
                text: reply_text,
                exchange,
                routing_key,
            } = Return::decode(payload)?;
            json!({
                "reply_code": code, "reply_text": text(reply_text), "exchange": text(exchange), "routing_key": text(routing_key),
            })
        }
        MethodId::BASIC_CONSUME => {
            let Consume {
                queue,
                consumer_tag,
                no_local,
                no_ack,
                exclusive,
                nowait,
                arguments,
            } = Consume::decode(payload)?;
            json!({
                "queue": text(queue), "consumer_tag": text(consumer_tag), "no_local": no_local, "no_ack": no_ack,
                "exclusive": exclusive, "nowait": nowait, "arguments": table(arguments),
            })
        }
        _ => return basic_small(id, payload),
    })
}

fn basic_small(id: MethodId, payload: &[u8]) -> Option<Value> {
    Some(match id {
        MethodId::BASIC_ACK => {
            let Ack { delivery_tag, multiple } = Ack::decode(payload)?;
            json!({ "delivery_tag": delivery_tag, "multiple": multiple })
        }
        MethodId::BASIC_NACK => {
            let Nack {
                delivery_tag,
                multiple,
                requeue,
            } = Nack::decode(payload)?;
            json!({ "delivery_tag": delivery_tag, "multiple": multiple, "requeue": requeue })
        }
        MethodId::BASIC_REJECT => {
            let Reject { delivery_tag, requeue } = Reject::decode(payload)?;
            json!({ "delivery_tag": delivery_tag, "requeue": requeue })
        }
        MethodId::BASIC_CONSUME_OK => json!({ "consumer_tag": text(ConsumeOk::decode(payload)?.consumer_tag) }),
        MethodId::BASIC_CANCEL => {
            let Cancel { consumer_tag, nowait } = Cancel::decode(payload)?;
            json!({ "consumer_tag": text(consumer_tag), "nowait": nowait })
        }
        MethodId::BASIC_CANCEL_OK => json!({ "consumer_tag": text(CancelOk::decode(payload)?.consumer_tag) }),
        MethodId::BASIC_GET => {
            let Get { queue, no_ack } = Get::decode(payload)?;
            json!({ "queue": text(queue), "no_ack": no_ack })
        }
        MethodId::BASIC_QOS => {
            let Qos {
                prefetch_size,
                prefetch_count,
                global,
            } = Qos::decode(payload)?;
            json!({ "prefetch_size": prefetch_size, "prefetch_count": prefetch_count, "global_": global })
        }
        MethodId::BASIC_RECOVER | MethodId::BASIC_RECOVER_ASYNC => json!({ "requeue": Recover::decode(payload)?.requeue }),
        _ => return None,
    })
}
