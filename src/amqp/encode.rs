//! The frames that the proxy makes up itself. Every function appends whole frames.
//!
//! [`client`] has those with which a client opens a connection and prepares what it uses.

pub mod client;

use super::coding::{EncodeError, cut_to_short, put_short};
use super::content::{CLASS_BASIC, Properties};
use super::frame::{END, Frame, FrameKind, HEADER_LEN, OVERHEAD};
use super::method::MethodId;
use super::method::basic::{Ack, Consume, Deliver, GetOk, MANDATORY, Nack, Publish, Qos, Reject};

/// Appends a frame whose payload `fill` writes. On error nothing is appended.
fn frame(
    out: &mut Vec<u8>,
    kind: FrameKind,
    channel: u16,
    fill: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let start = out.len();
    out.push(kind.octet());
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    let filled = fill(out).and_then(|()| {
        let size = out.len() - start - HEADER_LEN;
        u32::try_from(size).map_err(|_| EncodeError::LongString(size))
    });
    match filled {
        Ok(size) => {
            if let Some(field) = out.get_mut(start + 3..start + HEADER_LEN) {
                field.copy_from_slice(&size.to_be_bytes());
            }
            out.push(END);
            Ok(())
        }
        Err(error) => {
            out.truncate(start);
            Err(error)
        }
    }
}

/// Appends a method frame with arguments of a size known to fit.
fn method<const N: usize>(out: &mut Vec<u8>, channel: u16, id: MethodId, arguments: [&[u8]; N]) {
    let size: usize = 4 + arguments.iter().map(|part| part.len()).sum::<usize>();
    out.push(FrameKind::Method.octet());
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend_from_slice(&(size as u32).to_be_bytes());
    out.extend_from_slice(&id.class.to_be_bytes());
    out.extend_from_slice(&id.method.to_be_bytes());
    for part in arguments {
        out.extend_from_slice(part);
    }
    out.push(END);
}

/// Packs booleans into one octet, the first in the lowest bit.
fn bits<const N: usize>(flags: [bool; N]) -> u8 {
    flags.iter().rev().fold(0, |octet, flag| (octet << 1) | u8::from(*flag))
}

/// A heartbeat.
pub fn heartbeat(out: &mut Vec<u8>) {
    out.extend_from_slice(&[FrameKind::Heartbeat.octet(), 0, 0, 0, 0, 0, 0, END]);
}

/// `basic.ack`.
pub fn basic_ack(out: &mut Vec<u8>, channel: u16, ack: Ack) {
    method(
        out,
        channel,
        MethodId::BASIC_ACK,
        [&ack.delivery_tag.to_be_bytes(), &[bits([ack.multiple])]],
    );
}

/// `basic.nack`.
pub fn basic_nack(out: &mut Vec<u8>, channel: u16, nack: Nack) {
    let flags = bits([nack.multiple, nack.requeue]);
    method(out, channel, MethodId::BASIC_NACK, [&nack.delivery_tag.to_be_bytes(), &[flags]]);
}

/// `basic.reject`.
pub fn basic_reject(out: &mut Vec<u8>, channel: u16, reject: Reject) {
    method(
        out,
        channel,
        MethodId::BASIC_REJECT,
        [&reject.delivery_tag.to_be_bytes(), &[bits([reject.requeue])]],
    );
}

/// `basic.recover`.
pub fn basic_recover(out: &mut Vec<u8>, channel: u16, requeue: bool) {
    method(out, channel, MethodId::BASIC_RECOVER, [&[bits([requeue])]]);
}

/// `confirm.select`.
pub fn confirm_select(out: &mut Vec<u8>, channel: u16, nowait: bool) {
    method(out, channel, MethodId::CONFIRM_SELECT, [&[bits([nowait])]]);
}

/// `confirm.select-ok`.
pub fn confirm_select_ok(out: &mut Vec<u8>, channel: u16) {
    method(out, channel, MethodId::CONFIRM_SELECT_OK, []);
}

/// `channel.close`. `cause` is the method that failed, if one did. The text is cut to 255 octets.
pub fn channel_close(out: &mut Vec<u8>, channel: u16, code: u16, text: &str, cause: Option<MethodId>) {
    close(out, channel, MethodId::CHANNEL_CLOSE, code, text, cause);
}

/// `channel.close-ok`.
pub fn channel_close_ok(out: &mut Vec<u8>, channel: u16) {
    method(out, channel, MethodId::CHANNEL_CLOSE_OK, []);
}

/// `connection.close`. `cause` is the method that failed, if one did. The text is cut to 255 octets.
pub fn connection_close(out: &mut Vec<u8>, code: u16, text: &str, cause: Option<MethodId>) {
    close(out, 0, MethodId::CONNECTION_CLOSE, code, text, cause);
}

/// `connection.close-ok`.
pub fn connection_close_ok(out: &mut Vec<u8>) {
    method(out, 0, MethodId::CONNECTION_CLOSE_OK, []);
}

fn close(out: &mut Vec<u8>, channel: u16, id: MethodId, code: u16, text: &str, cause: Option<MethodId>) {
    let text = cut_to_short(text).as_bytes();
    let cause = cause.unwrap_or(MethodId { class: 0, method: 0 });
    let code = code.to_be_bytes();
    let (class, method_number) = (cause.class.to_be_bytes(), cause.method.to_be_bytes());
    method(out, channel, id, [&code, &[text.len() as u8], text, &class, &method_number]);
}

/// `basic.cancel`.
pub fn basic_cancel(out: &mut Vec<u8>, channel: u16, consumer_tag: &[u8], nowait: bool) -> Result<(), EncodeError> {
    frame(out, FrameKind::Method, channel, |out| {
        put_id(out, MethodId::BASIC_CANCEL);
        put_short(out, consumer_tag)?;
        out.push(bits([nowait]));
        Ok(())
    })
}

/// `basic.qos`.
pub fn basic_qos(out: &mut Vec<u8>, channel: u16, qos: Qos) {
    method(
        out,
        channel,
        MethodId::BASIC_QOS,
        [
            &qos.prefetch_size.to_be_bytes(),
            &qos.prefetch_count.to_be_bytes(),
            &[bits([qos.global])],
        ],
    );
}

/// `basic.consume`. On error nothing is appended.
pub fn basic_consume(out: &mut Vec<u8>, channel: u16, consume: &Consume<'_>) -> Result<(), EncodeError> {
    frame(out, FrameKind::Method, channel, |out| {
        put_id(out, MethodId::BASIC_CONSUME);
        out.extend_from_slice(&[0, 0]);
        put_short(out, consume.queue)?;
        put_short(out, consume.consumer_tag)?;
        out.push(bits([consume.no_local, consume.no_ack, consume.exclusive, consume.nowait]));
        let table = consume.arguments.raw();
        let size = u32::try_from(table.len()).map_err(|_| EncodeError::LongString(table.len()))?;
        out.extend_from_slice(&size.to_be_bytes());
        out.extend_from_slice(table);
        Ok(())
    })
}

/// The frames of a delivery with another delivery tag. `false` if they do not begin with `basic.deliver` or `basic.get-ok`; then nothing
/// changes.
pub fn set_delivery_tag(raw: &mut [u8], tag: u64) -> bool {
    let payload = raw.get(HEADER_LEN..).unwrap_or_default();
    let offset = Deliver::decode(payload)
        .map(|deliver| deliver.tag_offset)
        .or_else(|| GetOk::decode(payload).map(|get| get.tag_offset));
    let octets = offset.and_then(|offset| raw.get_mut(HEADER_LEN + offset..)?.get_mut(..8));
    match octets {
        Some(octets) => {
            octets.copy_from_slice(&tag.to_be_bytes());
            true
        }
        None => false,
    }
}

/// The frames of a delivery with another consumer tag; `None` if they do not begin with `basic.deliver`, or the tag does not fit.
pub fn retagged(raw: &[u8], consumer_tag: &[u8]) -> Option<Vec<u8>> {
    let super::frame::Split::Frame(first) = super::frame::split(raw, usize::MAX) else {
        return None;
    };
    let deliver = Deliver::decode(first.payload)?;
    let mut out = Vec::with_capacity(raw.len() + consumer_tag.len());
    frame(&mut out, FrameKind::Method, first.channel, |out| {
        put_id(out, MethodId::BASIC_DELIVER);
        put_short(out, consumer_tag)?;
        out.extend_from_slice(first.payload.get(deliver.tag_offset..).unwrap_or_default());
        Ok(())
    })
    .ok()?;
    out.extend_from_slice(raw.get(first.raw.len()..)?);
    Some(out)
}

fn put_id(out: &mut Vec<u8>, id: MethodId) {
    out.extend_from_slice(&id.class.to_be_bytes());
    out.extend_from_slice(&id.method.to_be_bytes());
}

/// Where the size of the body stands in the payload of a content header: after class (2) and weight (2).
const BODY_SIZE_OFFSET: usize = 4;

/// A message to send: what follows `basic.publish` and `basic.deliver`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Content<'a> {
    /// The properties.
    pub properties: Properties<'a>,
    /// The body.
    pub body: &'a [u8],
}

/// `basic.publish` with its content. `frame_max` is that of the connection: octets of a whole frame, 0 for no limit. On error nothing
/// is appended. [`Publish::bits_offset`] is not used.
pub fn basic_publish(
    out: &mut Vec<u8>,
    channel: u16,
    publish: &Publish<'_>,
    content: &Content<'_>,
    frame_max: usize,
) -> Result<(), EncodeError> {
    with_content(out, channel, content, frame_max, |out| put_publish(out, publish))
}

/// As [`basic_publish`], with a content header that is there: `header` is its payload, in which only the size of the body is set. It must
/// be one that [`ContentHeader::decode`](super::content::ContentHeader::decode) takes, and fit into a frame.
pub fn basic_publish_with_header(
    out: &mut Vec<u8>,
    channel: u16,
    publish: &Publish<'_>,
    header: &[u8],
    body: &[u8],
    frame_max: usize,
) -> Result<(), EncodeError> {
    let put_header = |out: &mut Vec<u8>| {
        let start = out.len();
        out.extend_from_slice(header);
        if let Some(size) = out.get_mut(start + BODY_SIZE_OFFSET..start + BODY_SIZE_OFFSET + 8) {
            size.copy_from_slice(&(body.len() as u64).to_be_bytes());
        }
        Ok(())
    };
    with_header(out, channel, body, frame_max, |out| put_publish(out, publish), put_header)
}

fn put_publish(out: &mut Vec<u8>, publish: &Publish<'_>) -> Result<(), EncodeError> {
    put_id(out, MethodId::BASIC_PUBLISH);
    out.extend_from_slice(&[0, 0]);
    put_short(out, publish.exchange)?;
    put_short(out, publish.routing_key)?;
    out.push(bits([publish.mandatory, publish.immediate]));
    Ok(())
}

/// `basic.deliver` with its content; as [`basic_publish`]. [`Deliver::tag_offset`] is not used.
pub fn basic_deliver(
    out: &mut Vec<u8>,
    channel: u16,
    deliver: &Deliver<'_>,
    content: &Content<'_>,
    frame_max: usize,
) -> Result<(), EncodeError> {
    with_content(out, channel, content, frame_max, |out| {
        put_id(out, MethodId::BASIC_DELIVER);
        put_short(out, deliver.consumer_tag)?;
        out.extend_from_slice(&deliver.delivery_tag.to_be_bytes());
        out.push(bits([deliver.redelivered]));
        put_short(out, deliver.exchange)?;
        put_short(out, deliver.routing_key)
    })
}

fn with_content(
    out: &mut Vec<u8>,
    channel: u16,
    content: &Content<'_>,
    frame_max: usize,
    arguments: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    with_header(out, channel, content.body, frame_max, arguments, |out| {
        out.extend_from_slice(&CLASS_BASIC.to_be_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&(content.body.len() as u64).to_be_bytes());
        content.properties.encode(out)
    })
}

fn with_header(
    out: &mut Vec<u8>,
    channel: u16,
    body: &[u8],
    frame_max: usize,
    arguments: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
    header: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let start = out.len();
    let written = frame(out, FrameKind::Method, channel, arguments).and_then(|()| frame(out, FrameKind::Header, channel, header));
    if written.is_err() {
        out.truncate(start);
        return written;
    }
    let most = if frame_max == 0 {
        u32::MAX as usize - OVERHEAD
    } else {
        frame_max.saturating_sub(OVERHEAD).max(1)
    };
    for piece in body.chunks(most) {
        frame(out, FrameKind::Body, channel, |out| {
            out.extend_from_slice(piece);
            Ok(())
        })?;
    }
    Ok(())
}

/// Sets `mandatory` in a frame that holds `basic.publish`. `false` if it holds anything else; then nothing changes.
#[must_use]
pub fn set_mandatory(raw: &mut [u8]) -> bool {
    let offset = match super::frame::split(raw, usize::MAX) {
        super::frame::Split::Frame(Frame {
            kind: FrameKind::Method,
            payload,
            ..
        }) => Publish::decode(payload).map(|publish| HEADER_LEN + publish.bits_offset),
        _ => None,
    };
    match offset.and_then(|offset| raw.get_mut(offset)) {
        Some(octet) => {
            *octet |= MANDATORY;
            true
        }
        None => false,
    }
}

#[cfg(test)]
mod tests;
