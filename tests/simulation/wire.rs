//! Frames as both peers write and read them.

use oncegate::amqp::content::{ContentHeader, Properties};
use oncegate::amqp::encode::{self, Content};
use oncegate::amqp::frame::{self, FrameKind, Split};
use oncegate::amqp::method::MethodId;
use oncegate::amqp::method::basic::Publish;
use oncegate::amqp::table::{FieldValue, Table, put_entry};

pub fn method(channel: u16, id: MethodId, arguments: &[u8]) -> Vec<u8> {
    let mut raw = vec![1];
    raw.extend_from_slice(&channel.to_be_bytes());
    raw.extend_from_slice(&(arguments.len() as u32 + 4).to_be_bytes());
    raw.extend_from_slice(&id.class.to_be_bytes());
    raw.extend_from_slice(&id.method.to_be_bytes());
    raw.extend_from_slice(arguments);
    raw.push(frame::END);
    raw
}

/// A task message.
pub struct TaskMessage<'a> {
    pub task: &'a str,
    pub id: &'a str,
    /// The headers beside its language, name and id.
    pub headers: &'a [(&'a str, FieldValue<'a>)],
    /// The property, in milliseconds.
    pub expiration: Option<&'a str>,
    /// The JSON body.
    pub body: &'a [u8],
}

/// A publish of a task message; `frame_max` cuts it into frames.
pub fn publish(channel: u16, message: &TaskMessage, exchange: &str, routing_key: &str, mandatory: bool, frame_max: usize) -> Vec<u8> {
    let text = |text: &'static str| FieldValue::LongStr(text.as_bytes());
    let named = [
        ("lang", text("py")),
        ("task", FieldValue::LongStr(message.task.as_bytes())),
        ("id", FieldValue::LongStr(message.id.as_bytes())),
    ];
    let mut table = Vec::new();
    for (name, value) in named.iter().chain(message.headers) {
        put_entry(&mut table, name.as_bytes(), value).expect("short names");
    }
    let properties = Properties {
        content_type: Some(b"application/json"),
        content_encoding: Some(b"utf-8"),
        headers: Some(Table::new(&table)),
        correlation_id: Some(message.id.as_bytes()),
        expiration: message.expiration.map(str::as_bytes),
        ..Properties::default()
    };
    let publish = Publish {
        exchange: exchange.as_bytes(),
        routing_key: routing_key.as_bytes(),
        mandatory,
        immediate: false,
        bits_offset: 0,
    };
    let content = Content {
        properties,
        body: message.body,
    };
    let mut out = Vec::new();
    encode::basic_publish(&mut out, channel, &publish, &content, frame_max).expect("it fits");
    out
}

/// A whole method, with its content if it has one.
pub struct Unit {
    pub channel: u16,
    pub method: MethodId,
    /// All its frames.
    pub raw: Vec<u8>,
    /// The `correlation_id` of its content.
    pub id: Option<String>,
}

impl Unit {
    /// The payload of the method frame.
    pub fn payload(&self) -> &[u8] {
        match frame::split(&self.raw, usize::MAX) {
            Split::Frame(frame) => frame.payload,
            other => panic!("a unit begins with a frame: {other:?}"),
        }
    }

    /// The frames behind the method.
    pub fn content(&self) -> &[u8] {
        &self.raw[self.payload().len() + frame::OVERHEAD..]
    }
}

/// Reads one direction as strictly as the broker: whatever interrupts a content is an error.
#[derive(Default)]
pub struct Reader {
    buffer: Vec<u8>,
    open: std::collections::HashMap<u16, (Unit, Option<u64>)>,
}

impl Reader {
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Unit> {
        self.buffer.extend_from_slice(bytes);
        let buffer = std::mem::take(&mut self.buffer);
        let mut rest = &buffer[..];
        let mut units = Vec::new();
        loop {
            match frame::split(rest, usize::MAX) {
                Split::Frame(frame) => {
                    rest = &rest[frame.raw.len()..];
                    units.extend(self.frame(&frame));
                }
                Split::Incomplete { .. } => break,
                Split::Malformed(error) => panic!("not a frame: {error}"),
            }
        }
        self.buffer = rest.to_vec();
        units
    }

    /// Whether a content on this channel has begun and not ended.
    pub fn inside(&self, channel: u16) -> bool {
        self.open.contains_key(&channel)
    }

    fn frame(&mut self, frame: &frame::Frame<'_>) -> Option<Unit> {
        let channel = frame.channel;
        match frame.kind {
            FrameKind::Heartbeat => return None,
            FrameKind::Method => {
                let method = frame.method_id().expect("a method has an id");
                if let Some((unit, _)) = self.open.get(&channel) {
                    panic!("{method} on channel {channel} inside the content of {} {:?}", unit.method, unit.id);
                }
                let unit = Unit {
                    channel,
                    method,
                    raw: frame.raw.to_vec(),
                    id: None,
                };
                if !method.carries_content() {
                    return Some(unit);
                }
                self.open.insert(channel, (unit, None));
                return None;
            }
            FrameKind::Header => {
                let Some((unit, left @ None)) = self.open.get_mut(&channel) else {
                    panic!(
                        "a content header out of place on channel {channel}: {:?}",
                        String::from_utf8_lossy(frame.raw)
                    );
                };
                let header = ContentHeader::decode(frame.payload).expect("a content header");
                unit.raw.extend_from_slice(frame.raw);
                unit.id = header.properties.correlation_id.map(|id| String::from_utf8_lossy(id).into_owned());
                *left = Some(header.body_size);
            }
            FrameKind::Body => {
                let Some((unit, Some(left))) = self.open.get_mut(&channel) else {
                    panic!("a body out of place on channel {channel}: {:?}", String::from_utf8_lossy(frame.raw));
                };
                unit.raw.extend_from_slice(frame.raw);
                *left = left.checked_sub(frame.payload.len() as u64).expect("not more than announced");
            }
            FrameKind::Other(kind) => panic!("a frame of kind {kind}"),
        }
        match self.open.get(&channel) {
            Some((_, Some(0))) => self.open.remove(&channel).map(|(unit, _)| unit),
            _ => None,
        }
    }
}

/// A short string as an argument.
pub fn short(text: &[u8]) -> Vec<u8> {
    let mut out = vec![text.len() as u8];
    out.extend_from_slice(text);
    out
}

/// Frames of a content on another channel.
pub fn on_channel(content: &[u8], channel: u16) -> Vec<u8> {
    let mut out = content.to_vec();
    let mut at = 0;
    while let Split::Frame(frame) = frame::split(&content[at..], usize::MAX) {
        out[at + 1..at + 3].copy_from_slice(&channel.to_be_bytes());
        at += frame.raw.len();
    }
    out
}

/// The content of a publish: its frames behind the method.
pub fn content_of(publish: &[u8]) -> &[u8] {
    match frame::split(publish, usize::MAX) {
        Split::Frame(frame) => &publish[frame.raw.len()..],
        other => panic!("a publish begins with a frame: {other:?}"),
    }
}
