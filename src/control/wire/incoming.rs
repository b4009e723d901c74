//! What comes over a connection, whole.

use std::collections::HashMap;

use super::Fault;
use crate::amqp::content::body_size;
use crate::amqp::frame::{Frame, FrameKind};
use crate::amqp::method::MethodId;
use crate::amqp::method::basic::{Deliver, Return};
use crate::amqp::method::connection::Close;

/// A message that came.
#[derive(Debug)]
pub(in crate::control) struct Delivery {
    pub(in crate::control) consumer_tag: Vec<u8>,
    pub(in crate::control) tag: u64,
    pub(in crate::control) routing_key: Vec<u8>,
    /// The payload of its content header.
    pub(in crate::control) header: Vec<u8>,
    /// `None` if it is longer than is kept.
    pub(in crate::control) body: Option<Vec<u8>>,
}

/// A published message that no queue took. Its body is not kept.
#[derive(Debug)]
pub(in crate::control) struct Returned {
    pub(in crate::control) channel: u16,
    pub(in crate::control) exchange: Vec<u8>,
    pub(in crate::control) routing_key: Vec<u8>,
    /// The payload of its content header.
    pub(in crate::control) header: Vec<u8>,
}

/// What comes.
#[derive(Debug)]
pub(in crate::control) enum Incoming {
    Delivery(Delivery),
    Returned(Returned),
    /// The broker has closed a channel.
    ChannelClosed {
        channel: u16,
        fault: Fault,
    },
    /// The answer to a call, or a method that is no answer to one.
    Answer {
        channel: u16,
        id: MethodId,
        payload: Vec<u8>,
    },
}

/// A message whose content is on its way.
struct Partial {
    message: Message,
    /// How much of the body is missing; `None` before the header.
    missing: Option<u64>,
}

enum Message {
    Delivery(Delivery),
    Returned(Returned),
}

/// The messages whose contents are on their way, by channel: those of different channels may come interleaved.
#[derive(Default)]
pub(super) struct Partials(HashMap<u16, Partial>);

impl Partials {
    fn begin(&mut self, channel: u16, message: Message) {
        self.0.insert(channel, Partial { message, missing: None });
    }

    fn of(&mut self, channel: u16) -> Result<&mut Partial, Fault> {
        self.0.get_mut(&channel).ok_or(Fault::NotAmqp)
    }

    fn finished(&mut self, channel: u16) -> Option<Incoming> {
        self.0.get(&channel).filter(|partial| partial.missing == Some(0))?;
        Some(match self.0.remove(&channel)?.message {
            Message::Delivery(delivery) => Incoming::Delivery(delivery),
            Message::Returned(returned) => Incoming::Returned(returned),
        })
    }
}

/// Takes a frame: what has come whole with it. A body above `max_message` octets is not kept.
pub(super) fn take_frame(frame: &Frame<'_>, partials: &mut Partials, max_message: usize) -> Result<Option<Incoming>, Fault> {
    match frame.kind {
        FrameKind::Method => take_method(frame, partials),
        FrameKind::Header => {
            let waiting = partials.of(frame.channel)?;
            let size = body_size(frame.payload).ok_or(Fault::NotAmqp)?;
            waiting.missing = Some(size);
            match &mut waiting.message {
                Message::Delivery(delivery) => {
                    frame.payload.clone_into(&mut delivery.header);
                    if size > max_message as u64 {
                        delivery.body = None;
                    }
                }
                Message::Returned(returned) => frame.payload.clone_into(&mut returned.header),
            }
            Ok(partials.finished(frame.channel))
        }
        FrameKind::Body => {
            let waiting = partials.of(frame.channel)?;
            let missing = waiting.missing.as_mut().ok_or(Fault::NotAmqp)?;
            *missing = missing.checked_sub(frame.payload.len() as u64).ok_or(Fault::NotAmqp)?;
            if let Message::Delivery(Delivery { body: Some(body), .. }) = &mut waiting.message {
                body.extend_from_slice(frame.payload);
            }
            Ok(partials.finished(frame.channel))
        }
        FrameKind::Heartbeat => Ok(None),
        FrameKind::Other(_) => Err(Fault::NotAmqp),
    }
}

fn take_method(frame: &Frame<'_>, partials: &mut Partials) -> Result<Option<Incoming>, Fault> {
    let id = frame.method_id().ok_or(Fault::NotAmqp)?;
    match id {
        MethodId::CONNECTION_CLOSE => Err(Close::decode(frame.payload).map_or(Fault::NotAmqp, |close| Fault::refused(&close))),
        MethodId::CHANNEL_CLOSE => {
            let close = Close::decode_channel(frame.payload).ok_or(Fault::NotAmqp)?;
            partials.0.remove(&frame.channel);
            Ok(Some(Incoming::ChannelClosed {
                channel: frame.channel,
                fault: Fault::refused(&close),
            }))
        }
        MethodId::BASIC_DELIVER => {
            let deliver = Deliver::decode(frame.payload).ok_or(Fault::NotAmqp)?;
            let delivery = Delivery {
                consumer_tag: deliver.consumer_tag.to_vec(),
                tag: deliver.delivery_tag,
                routing_key: deliver.routing_key.to_vec(),
                header: Vec::new(),
                body: Some(Vec::new()),
            };
            partials.begin(frame.channel, Message::Delivery(delivery));
            Ok(None)
        }
        MethodId::BASIC_RETURN => {
            let returned = Return::decode(frame.payload).ok_or(Fault::NotAmqp)?;
            let returned = Returned {
                channel: frame.channel,
                exchange: returned.exchange.to_vec(),
                routing_key: returned.routing_key.to_vec(),
                header: Vec::new(),
            };
            partials.begin(frame.channel, Message::Returned(returned));
            Ok(None)
        }
        MethodId::BASIC_CANCEL => Err(Fault::Cancelled),
        _ => Ok(Some(Incoming::Answer {
            channel: frame.channel,
            id,
            payload: frame.payload.to_vec(),
        })),
    }
}
