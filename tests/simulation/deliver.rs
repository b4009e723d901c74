//! The frames of a delivery.

use oncegate::amqp::method::MethodId;

use crate::wire::{method, on_channel, short};

/// A delivery, as a broker sends it, of a message that was published by the default exchange. `content`: the frames behind the method.
pub fn deliver(channel: u16, consumer: &[u8], tag: u64, redelivered: bool, queue: &[u8], content: &[u8]) -> Vec<u8> {
    let arguments = [
        &short(consumer)[..],
        &tag.to_be_bytes(),
        &[u8::from(redelivered)],
        &short(b""),
        &short(queue),
    ]
    .concat();
    let mut frames = method(channel, MethodId::BASIC_DELIVER, &arguments);
    frames.extend(on_channel(content, channel));
    frames
}
