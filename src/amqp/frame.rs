//! Frames: seven octets of header (type, channel, size), the payload, and the end octet.

use super::method::MethodId;

/// Octets before the payload: type (1), channel (2), payload size (4).
pub const HEADER_LEN: usize = 7;
/// The octet that ends every frame.
pub const END: u8 = 0xCE;
/// Octets of a frame that are not payload. `frame_max` counts them too.
pub const OVERHEAD: usize = HEADER_LEN + 1;
/// Octets of a protocol header.
pub const PROTOCOL_HEADER_LEN: usize = 8;
/// The protocol header of AMQP 0-9-1, which a server also sends before it hangs up on any other.
pub const PROTOCOL_HEADER: [u8; PROTOCOL_HEADER_LEN] = *b"AMQP\x00\x00\x09\x01";

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// A method (1).
    Method,
    /// A content header (2).
    Header,
    /// A piece of a content body (3).
    Body,
    /// A heartbeat (8).
    Heartbeat,
    /// A type that AMQP 0-9-1 does not define.
    Other(u8),
}

impl FrameKind {
    /// From the type octet.
    #[inline]
    pub fn from_octet(octet: u8) -> Self {
        match octet {
            1 => FrameKind::Method,
            2 => FrameKind::Header,
            3 => FrameKind::Body,
            8 => FrameKind::Heartbeat,
            other => FrameKind::Other(other),
        }
    }

    /// The type octet.
    #[inline]
    pub fn octet(self) -> u8 {
        match self {
            FrameKind::Method => 1,
            FrameKind::Header => 2,
            FrameKind::Body => 3,
            FrameKind::Heartbeat => 8,
            FrameKind::Other(other) => other,
        }
    }
}

/// One whole frame, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it carries.
    pub kind: FrameKind,
    /// The channel; 0 is the connection itself.
    pub channel: u16,
    /// What is between header and end octet.
    pub payload: &'a [u8],
    /// The whole frame as it came, end octet included.
    pub raw: &'a [u8],
}

impl Frame<'_> {
    /// Which method this is; `None` for other kinds of frame and for a payload without room for an id.
    #[inline]
    pub fn method_id(&self) -> Option<MethodId> {
        match self.kind {
            FrameKind::Method => MethodId::of_payload(self.payload),
            _ => None,
        }
    }
}

/// Why bytes are not a frame. `RabbitMQ` answers both with 501 (`FRAME_ERROR`) and closes the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The header announces more payload than allowed.
    #[error("a frame with a payload of {size} octets exceeds the limit of {limit}")]
    TooLarge {
        /// The payload size announced.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// The octet after the payload is not 0xCE.
    #[error("a frame ends with {0:#04x} instead of 0xce")]
    BadEnd(u8),
}

/// What the beginning of a buffer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split<'a> {
    /// A whole frame; the next one starts `raw.len()` octets further on.
    Frame(Frame<'a>),
    /// Not all of a frame yet.
    Incomplete {
        /// How many octets the buffer must hold before another attempt can tell more: the length of the whole frame once its header
        /// is there, [`HEADER_LEN`] before.
        needed: usize,
    },
    /// Not a frame, whatever may follow.
    Malformed(FrameError),
}

/// Takes one frame from the beginning of `input`. `max_payload` limits the payload (without the [`OVERHEAD`]).
///
/// The size is judged as soon as the header is there, so that a hostile length is never waited for.
#[inline]
pub fn split(input: &[u8], max_payload: usize) -> Split<'_> {
    let Some((&[kind, channel_high, channel_low, s3, s2, s1, s0], _)) = input.split_first_chunk::<HEADER_LEN>() else {
        return Split::Incomplete { needed: HEADER_LEN };
    };
    let size = u32::from_be_bytes([s3, s2, s1, s0]) as usize;
    if size > max_payload {
        return Split::Malformed(FrameError::TooLarge { size, limit: max_payload });
    }
    let needed = size.saturating_add(OVERHEAD);
    let Some(raw) = input.get(..needed) else {
        return Split::Incomplete { needed };
    };
    let Some((&end, before)) = raw.split_last() else {
        return Split::Incomplete { needed };
    };
    if end != END {
        return Split::Malformed(FrameError::BadEnd(end));
    }
    Split::Frame(Frame {
        kind: FrameKind::from_octet(kind),
        channel: u16::from_be_bytes([channel_high, channel_low]),
        payload: before.get(HEADER_LEN..).unwrap_or_default(),
        raw,
    })
}

/// The eight octets with which a client opens a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProtocolHeader {
    /// Fewer than eight octets, and so far they could become an AMQP protocol header.
    Incomplete,
    /// AMQP 0-9-1: `AMQP 0 0 9 1`, or `AMQP 1 1 0 9`, which `RabbitMQ` takes for the same.
    Amqp091,
    /// Another version of AMQP, another protocol, or noise.
    Other,
}

/// Judges the first bytes from a client.
pub fn parse_protocol_header(input: &[u8]) -> ProtocolHeader {
    const NAME: &[u8] = b"AMQP";
    const LEGACY: &[u8] = b"AMQP\x01\x01\x00\x09";
    match input.get(..PROTOCOL_HEADER_LEN) {
        Some(header) if header == PROTOCOL_HEADER || header == LEGACY => ProtocolHeader::Amqp091,
        None if input.iter().zip(NAME).all(|(a, b)| a == b) => ProtocolHeader::Incomplete,
        _ => ProtocolHeader::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEARTBEAT: [u8; 8] = [8, 0, 0, 0, 0, 0, 0, END];

    #[test]
    fn a_frame_is_split_whole_with_trailing_bytes_and_byte_by_byte() {
        let bytes = [1, 0x12, 0x34, 0, 0, 0, 4, 0, 60, 0, 40, END, 9, 9];
        for end in 0..12 {
            let needed = if end < HEADER_LEN { HEADER_LEN } else { 12 };
            assert_eq!(split(&bytes[..end], 4), Split::Incomplete { needed }, "{end} octets");
        }
        for end in 12..=14 {
            let Split::Frame(frame) = split(&bytes[..end], 4) else {
                panic!("no frame in {end} octets")
            };
            assert_eq!((frame.kind, frame.channel), (FrameKind::Method, 0x1234));
            assert_eq!(frame.payload, [0, 60, 0, 40]);
            assert_eq!(frame.raw, &bytes[..12]);
            assert_eq!(frame.method_id(), Some(MethodId::BASIC_PUBLISH));
        }
    }

    #[test]
    fn the_size_is_judged_before_the_payload_is_there() {
        let too_large = Split::Malformed(FrameError::TooLarge { size: 5, limit: 4 });
        assert_eq!(split(&[1, 0, 0, 0, 0, 0, 5], 4), too_large);
        let hostile = split(&[1, 0, 0, 0xff, 0xff, 0xff, 0xff], usize::MAX);
        assert_eq!(
            hostile,
            Split::Incomplete {
                needed: u32::MAX as usize + OVERHEAD
            }
        );
    }

    #[test]
    fn the_end_octet_is_required() {
        let mut bytes = HEARTBEAT;
        bytes[7] = 0;
        assert_eq!(split(&bytes, 4096), Split::Malformed(FrameError::BadEnd(0)));
        let Split::Frame(frame) = split(&HEARTBEAT, 0) else {
            panic!("no frame")
        };
        assert_eq!(
            (frame.kind, frame.payload, frame.method_id()),
            (FrameKind::Heartbeat, &[][..], None)
        );
    }

    #[test]
    fn every_type_octet_is_kept() {
        for octet in 0..=u8::MAX {
            assert_eq!(FrameKind::from_octet(octet).octet(), octet);
        }
    }

    #[test]
    fn protocol_headers() {
        let cases: &[(&[u8], ProtocolHeader)] = &[
            (b"", ProtocolHeader::Incomplete),
            (b"AM", ProtocolHeader::Incomplete),
            (b"AMQP\x00\x00\x09", ProtocolHeader::Incomplete),
            (b"AMQP\x00\x00\x09\x01", ProtocolHeader::Amqp091),
            (b"AMQP\x00\x00\x09\x01rest", ProtocolHeader::Amqp091),
            (b"AMQP\x01\x01\x00\x09", ProtocolHeader::Amqp091),
            (b"AMQP\x00\x01\x00\x00", ProtocolHeader::Other),
            (b"AMQP\x03\x01\x00\x00", ProtocolHeader::Other),
            (b"AMQP\x01\x01\x08\x00", ProtocolHeader::Other),
            (b"GET", ProtocolHeader::Other),
            (b"GET / HTTP/1.1", ProtocolHeader::Other),
            (b"\x16\x03\x01", ProtocolHeader::Other),
        ];
        for (input, expected) in cases {
            assert_eq!(parse_protocol_header(input), *expected, "{input:?}");
        }
    }
}
