//! The copies of deliveries that are published anew: how they are made, known again, and shown to a worker as what they were.
//!
//! A copy is the message as it came, but for a few headers and properties. It goes out by another account than that of its producer, so
//! `user_id` goes, which the broker checks; `CC` and `BCC`, which would send it elsewhere too; and what the broker has noted of its way
//! (`x-death` and the like), by which it would take the way through a delay queue for a cycle.

use std::sync::LazyLock;

use memchr::memmem::Finder;
use sha2::{Digest as _, Sha256};

use crate::amqp::content::{Changes, ContentHeader, Properties, Property, rewrite};
use crate::amqp::frame::{self, END, Frame, FrameKind, Split};
use crate::amqp::table::FieldValue;
use crate::celery::instant::write_iso8601;
use crate::rules::park::{Fingerprint, Token};

/// The header with which a parked copy names itself.
const TOKEN: &[u8] = b"x-oncegate-park";

/// The longest token that is looked at, in octets: Oncegate's own have 16.
const TOKEN_MAX: usize = 64;

/// The token that a message carries.
pub(super) fn token_of(properties: &Properties<'_>) -> Option<Token> {
    static NAME: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(TOKEN));
    let headers = properties.headers?;
    // Mostly there is none, which takes less than a walk through the headers.
    NAME.find(headers.raw())?;
    let text = headers.first(TOKEN)?.as_str()?;
    (!text.is_empty() && text.len() <= TOKEN_MAX).then(|| Token(text.into()))
}

/// What the broker writes into a message that leaves a queue for another.
fn is_of_its_way(name: &[u8]) -> bool {
    name == b"x-death" || name.starts_with(b"x-first-death-") || name.starts_with(b"x-last-death-")
}

/// What a copy does without.
fn is_not_copied(name: &[u8]) -> bool {
    is_of_its_way(name) || matches!(name, b"x-delivery-count" | b"x-acquired-count" | b"CC" | b"BCC")
}

/// The content header and the octets after it, of frames from there on.
fn split_content(content: &[u8]) -> Option<(Frame<'_>, &[u8])> {
    let Split::Frame(header) = frame::split(content, usize::MAX) else {
        return None;
    };
    let body = content.get(header.raw.len()..)?;
    (header.kind == FrameKind::Header).then_some((header, body))
}

/// What the frames of a body carry.
fn payloads(mut body: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let Split::Frame(frame) = frame::split(body, usize::MAX) else {
            return None;
        };
        body = body.get(frame.raw.len()..).unwrap_or_default();
        Some(frame.payload)
    })
}

/// Tells this message apart from others of its id: the first eight octets of a SHA-256 over the id, the headers `retries`, `eta` and
/// `expires`, and the body. `content`: the frames from the content header on.
pub(super) fn fingerprint(content: &[u8], id: &str) -> Option<Fingerprint> {
    let (header, body) = split_content(content)?;
    let header = ContentHeader::decode(header.payload)?;
    let names: [&[u8]; 3] = [b"retries", b"eta", b"expires"];
    let values = match header.properties.headers {
        Some(headers) => headers.get_many(names).ok()?,
        None => [None; 3],
    };
    let mut hash = Sha256::new();
    hash.update((id.len() as u64).to_be_bytes());
    hash.update(id);
    for value in values {
        hash_value(&mut hash, value);
    }
    for payload in payloads(body) {
        hash.update(payload);
    }
    let digest: [u8; 32] = hash.finalize().into();
    let first = digest.first_chunk()?;
    Some(Fingerprint(u64::from_be_bytes(*first)))
}

/// A broker may write a number in another type than it came in, and leave out what is null.
fn hash_value(hash: &mut Sha256, value: Option<FieldValue<'_>>) {
    let value = value.unwrap_or(FieldValue::Void);
    if let Some(number) = value.as_i64() {
        hash.update([1]);
        hash.update(number.to_be_bytes());
        return;
    }
    let mut octets = Vec::new();
    match value.as_octets() {
        Some(text) => octets.extend_from_slice(text),
        // What cannot be written could not be read either.
        None => drop(value.encode(&mut octets)),
    }
    hash.update([2]);
    hash.update((octets.len() as u64).to_be_bytes());
    hash.update(&octets);
}

/// The frames of a delivery that carries a token, without what parking has added to it; `None` if they cannot be read.
pub(super) fn unmarked(frames: &[u8], header_at: usize) -> Option<Vec<u8>> {
    let (method, content) = frames.split_at_checked(header_at)?;
    let (header, body) = split_content(content)?;
    let payload = rewrite(
        header.payload,
        &Changes {
            drops: |name| name == TOKEN || is_of_its_way(name),
            sets: &[],
            expiration: Property::Keep,
            user_id: Property::Keep,
        },
    )
    .ok()?;
    let mut out = Vec::with_capacity(frames.len());
    out.extend_from_slice(method);
    out.push(header.kind.octet());
    out.extend_from_slice(&header.channel.to_be_bytes());
    out.extend_from_slice(&u32::try_from(payload.len()).ok()?.to_be_bytes());
    out.extend_from_slice(&payload);
    out.push(END);
    out.extend_from_slice(body);
    Some(out)
}

/// A message to publish: the payload of its content header, and its body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Copy {
    pub header: Vec<u8>,
    pub body: Vec<u8>,
}

fn copy(content: &[u8], changes: &Changes<'_>) -> Option<Copy> {
    let (header, body) = split_content(content)?;
    Some(Copy {
        header: rewrite(header.payload, changes).ok()?,
        body: payloads(body).collect::<Vec<_>>().concat(),
    })
}

/// The copy that is parked. It expires when the task does, if that has a time: `left_ms` from now. A time to live that it has beside that
/// stays as it is. `content`: the frames from the content header on.
pub(super) fn parked(content: &[u8], token: &Token, left_ms: Option<u64>) -> Option<Copy> {
    let left = left_ms.map(|left| left.max(1).to_string());
    copy(
        content,
        &Changes {
            drops: is_not_copied,
            sets: &[(TOKEN, FieldValue::LongStr(token.0.as_bytes()))],
            expiration: left.as_ref().map_or(Property::Keep, |left| Property::Set(left.as_bytes())),
            user_id: Property::Drop,
        },
    )
}

/// Why a delivery is dead-lettered: what its copy says of that.
#[derive(Debug, Clone, Copy)]
pub(super) struct DeadLettered<'a> {
    pub reason: &'a str,
    pub holder: &'a str,
    pub rule: &'a str,
    /// The queue that it came from, empty if unknown.
    pub queue: &'a str,
    /// Now, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}

/// The copy that is dead-lettered: it stays until somebody takes it, as it does where the broker dead-letters.
pub(super) fn dead_lettered(content: &[u8], why: &DeadLettered<'_>) -> Option<Copy> {
    let time = write_iso8601(i64::try_from(why.at_ms).ok()?)?;
    let text = |text: &'static str| text.as_bytes();
    let sets = [
        (text("x-oncegate-reason"), FieldValue::LongStr(why.reason.as_bytes())),
        (text("x-oncegate-holder"), FieldValue::LongStr(why.holder.as_bytes())),
        (text("x-oncegate-rule"), FieldValue::LongStr(why.rule.as_bytes())),
        (text("x-oncegate-queue"), FieldValue::LongStr(why.queue.as_bytes())),
        (text("x-oncegate-time"), FieldValue::LongStr(time.as_bytes())),
    ];
    copy(
        content,
        &Changes {
            drops: is_not_copied,
            sets: &sets,
            expiration: Property::Drop,
            user_id: Property::Drop,
        },
    )
}

#[cfg(test)]
mod tests;
