//! The few AMQP 0-9-1 frames that a load generator and a null broker exchange.
//!
//! Deliberately independent of the `oncegate` crate: a mistake shared by both sides would hide itself.
//! Layouts are those of the AMQP 0-9-1 specification, section 4.2 and the generated class definitions.

use std::io::{self, Read};

use anyhow::{Result, bail};

/// What a client sends first.
pub const PROTOCOL_HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";
/// Frame type of a method.
pub const METHOD: u8 = 1;
/// Frame type of a content header.
pub const HEADER: u8 = 2;
/// Frame type of a piece of body.
pub const BODY: u8 = 3;
/// The octet that ends every frame.
const FRAME_END: u8 = 0xCE;
/// The largest frame that both sides offer in their tune methods.
pub const FRAME_MAX: u32 = 131_072;
/// Room for one unfinished frame and a good read behind it.
pub const SCRATCH: usize = 512 * 1024;

/// Class and method number in one word, as they stand on the wire.
pub mod method {
    #![allow(missing_docs, reason = "the names are the specification's")]

    const fn word(class: u16, method: u16) -> u32 {
        (class as u32) << 16 | method as u32
    }

    pub const CONNECTION_START: u32 = word(10, 10);
    pub const CONNECTION_START_OK: u32 = word(10, 11);
    pub const CONNECTION_TUNE: u32 = word(10, 30);
    pub const CONNECTION_TUNE_OK: u32 = word(10, 31);
    pub const CONNECTION_OPEN: u32 = word(10, 40);
    pub const CONNECTION_OPEN_OK: u32 = word(10, 41);
    pub const CONNECTION_CLOSE: u32 = word(10, 50);
    pub const CONNECTION_CLOSE_OK: u32 = word(10, 51);
    pub const CHANNEL_OPEN: u32 = word(20, 10);
    pub const CHANNEL_OPEN_OK: u32 = word(20, 11);
    pub const CHANNEL_CLOSE: u32 = word(20, 40);
    pub const CHANNEL_CLOSE_OK: u32 = word(20, 41);
    pub const EXCHANGE_DECLARE: u32 = word(40, 10);
    pub const EXCHANGE_DECLARE_OK: u32 = word(40, 11);
    pub const QUEUE_DECLARE: u32 = word(50, 10);
    pub const QUEUE_DECLARE_OK: u32 = word(50, 11);
    pub const QUEUE_BIND: u32 = word(50, 20);
    pub const QUEUE_BIND_OK: u32 = word(50, 21);
    pub const QUEUE_PURGE: u32 = word(50, 30);
    pub const QUEUE_PURGE_OK: u32 = word(50, 31);
    pub const BASIC_QOS: u32 = word(60, 10);
    pub const BASIC_QOS_OK: u32 = word(60, 11);
    pub const BASIC_CONSUME: u32 = word(60, 20);
    pub const BASIC_CONSUME_OK: u32 = word(60, 21);
    pub const BASIC_CANCEL: u32 = word(60, 30);
    pub const BASIC_CANCEL_OK: u32 = word(60, 31);
    pub const BASIC_PUBLISH: u32 = word(60, 40);
    pub const BASIC_RETURN: u32 = word(60, 50);
    pub const BASIC_DELIVER: u32 = word(60, 60);
    pub const BASIC_ACK: u32 = word(60, 80);
    pub const BASIC_REJECT: u32 = word(60, 90);
    pub const BASIC_NACK: u32 = word(60, 120);
    pub const CONFIRM_SELECT: u32 = word(85, 10);
    pub const CONFIRM_SELECT_OK: u32 = word(85, 11);
}

/// One frame, borrowed from the bytes it was read from.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// [`METHOD`], [`HEADER`], [`BODY`], or 8 for a heartbeat.
    pub kind: u8,
    /// Channel number, 0 for the connection.
    pub channel: u16,
    /// What stands between the length and the end octet.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Class and method number of a method frame.
    pub fn method(&self) -> Option<u32> {
        if self.kind != METHOD {
            return None;
        }
        self.payload.first_chunk().map(|word| u32::from_be_bytes(*word))
    }

    /// The arguments of a method frame.
    pub fn arguments(&self) -> Arguments<'a> {
        Arguments(self.payload.get(4..).unwrap_or_default())
    }

    /// The body size that a content header announces, in bytes.
    pub fn body_size(&self) -> u64 {
        let size = self.payload.get(4..).and_then(|rest| rest.first_chunk());
        size.map_or(0, |size| u64::from_be_bytes(*size))
    }

    /// The code and text of a close method, for an error message.
    pub fn close_reason(&self) -> String {
        let mut arguments = self.arguments();
        let code = arguments.short();
        format!("{code} {}", String::from_utf8_lossy(arguments.short_string()))
    }
}

/// Reads method arguments one after the other. What is missing reads as zero or empty.
pub struct Arguments<'a>(&'a [u8]);

impl<'a> Arguments<'a> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let Some((head, rest)) = self.0.split_first_chunk() else {
            self.0 = &[];
            return [0; N];
        };
        self.0 = rest;
        *head
    }

    /// An octet, or the bits packed into one.
    pub fn octet(&mut self) -> u8 {
        u8::from_be_bytes(self.take())
    }

    /// A 16-bit number.
    pub fn short(&mut self) -> u16 {
        u16::from_be_bytes(self.take())
    }

    /// A 32-bit number.
    pub fn long(&mut self) -> u32 {
        u32::from_be_bytes(self.take())
    }

    /// A 64-bit number.
    pub fn longlong(&mut self) -> u64 {
        u64::from_be_bytes(self.take())
    }

    /// A string of up to 255 bytes.
    pub fn short_string(&mut self) -> &'a [u8] {
        let length = usize::from(self.octet());
        let (text, rest) = self.0.split_at_checked(length).unwrap_or_default();
        self.0 = rest;
        text
    }
}

/// Splits the first whole frame off `bytes`; `None` while it is not whole.
pub fn split(bytes: &[u8]) -> Result<Option<(Frame<'_>, &[u8])>> {
    let Some((&[kind, c0, c1, l0, l1, l2, l3], rest)) = bytes.split_first_chunk::<7>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([l0, l1, l2, l3]);
    if length > FRAME_MAX {
        bail!("a frame of {length} bytes");
    }
    let Some((payload, rest)) = rest.split_at_checked(length as usize) else {
        return Ok(None);
    };
    match rest.split_first() {
        None => Ok(None),
        Some((&FRAME_END, rest)) => {
            let channel = u16::from_be_bytes([c0, c1]);
            Ok(Some((Frame { kind, channel, payload }, rest)))
        }
        Some((other, _)) => bail!("a frame ends with {other:#04x}"),
    }
}

/// What one read from a socket gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// Some bytes; there may be more.
    Some,
    /// Nothing more at present.
    Dry,
    /// The peer has gone.
    Eof,
}

/// Bytes of one connection that do not make a frame yet. The big buffer is shared by all connections.
#[derive(Debug, Default)]
pub struct Inbox {
    held: Vec<u8>,
}

impl Inbox {
    /// Reads once and hands every whole frame to `on_frame`.
    pub fn read(
        &mut self,
        source: &mut impl Read,
        scratch: &mut [u8],
        mut on_frame: impl FnMut(Frame<'_>) -> Result<()>,
    ) -> Result<Progress> {
        let held = self.held.len();
        let Some((front, room)) = scratch.split_at_mut_checked(held) else {
            bail!("{held} bytes without a whole frame");
        };
        let count = match source.read(room) {
            Ok(0) => return Ok(Progress::Eof),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Progress::Dry),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(Progress::Some),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(Progress::Eof),
            Err(error) => return Err(error.into()),
        };
        front.copy_from_slice(&self.held);
        let mut bytes = scratch.get(..held + count).unwrap_or_default();
        while let Some((frame, rest)) = split(bytes)? {
            on_frame(frame)?;
            bytes = rest;
        }
        self.held.clear();
        self.held.extend_from_slice(bytes);
        Ok(Progress::Some)
    }
}

/// Appends a frame whose payload `fill` writes.
pub fn push(out: &mut Vec<u8>, kind: u8, channel: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    let length_at = out.len();
    out.extend_from_slice(&[0; 4]);
    fill(out);
    let length = (out.len() - length_at - 4) as u32;
    out[length_at..length_at + 4].copy_from_slice(&length.to_be_bytes());
    out.push(FRAME_END);
}

/// Appends a method frame whose arguments `fill` writes.
pub fn push_method(out: &mut Vec<u8>, channel: u16, method: u32, fill: impl FnOnce(&mut Vec<u8>)) {
    push(out, METHOD, channel, |out| {
        out.extend_from_slice(&method.to_be_bytes());
        fill(out);
    });
}

/// Appends basic.ack.
pub fn push_ack(out: &mut Vec<u8>, channel: u16, tag: u64, multiple: bool) {
    push_method(out, channel, method::BASIC_ACK, |out| {
        out.extend_from_slice(&tag.to_be_bytes());
        out.push(u8::from(multiple));
    });
}

/// Appends a string of up to 255 bytes.
///
/// # Panics
/// When it is longer: all of them are this program's own.
pub fn put_short_string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(u8::try_from(text.len()).expect("a short string of at most 255 bytes"));
    out.extend_from_slice(text);
}

/// Appends a string with a 32-bit length.
pub fn put_long_string(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(&(text.len() as u32).to_be_bytes());
    out.extend_from_slice(text);
}

/// Appends a field table whose entries `fill` writes.
pub fn put_table(out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let length_at = out.len();
    out.extend_from_slice(&[0; 4]);
    fill(out);
    let length = (out.len() - length_at - 4) as u32;
    out[length_at..length_at + 4].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_whole_however_they_are_cut() {
        let mut wire = Vec::new();
        push_ack(&mut wire, 3, 77, true);
        push(&mut wire, BODY, 3, |out| out.extend_from_slice(b"abc"));
        for cut in 1..wire.len() {
            let mut inbox = Inbox::default();
            let mut scratch = vec![0; 256];
            let mut seen = Vec::new();
            for part in [&wire[..cut], &wire[cut..]] {
                let mut source = part;
                let progress = inbox.read(&mut source, &mut scratch, |frame| {
                    seen.push((frame.kind, frame.channel, frame.payload.to_vec()));
                    Ok(())
                });
                assert_eq!(progress.unwrap(), Progress::Some);
            }
            assert_eq!(seen.len(), 2, "cut at {cut}");
            assert_eq!(seen[1], (BODY, 3, b"abc".to_vec()));
            let frame = Frame {
                kind: seen[0].0,
                channel: 3,
                payload: &seen[0].2,
            };
            assert_eq!(frame.method(), Some(method::BASIC_ACK));
            let mut arguments = frame.arguments();
            assert_eq!((arguments.longlong(), arguments.octet()), (77, 1));
        }
    }

    #[test]
    fn a_wrong_end_octet_is_an_error() {
        let mut wire = Vec::new();
        push_ack(&mut wire, 1, 1, false);
        *wire.last_mut().unwrap() = 0;
        assert!(split(&wire).is_err());
    }
}
