//! The content header and the basic properties; changing one header of a message without touching any other byte.

use super::coding::{EncodeError, Reader, put_long, put_short};
use super::frame::{END, Frame, FrameKind, HEADER_LEN, OVERHEAD};
use super::table::{FieldValue, Table, TableError, put_entry};

mod rewrite;

pub use rewrite::{Changes, Property, rewrite};

/// The class of every content that AMQP 0-9-1 knows.
pub const CLASS_BASIC: u16 = 60;

const CONTENT_TYPE: u16 = 1 << 15;
const CONTENT_ENCODING: u16 = 1 << 14;
const HEADERS: u16 = 1 << 13;
const DELIVERY_MODE: u16 = 1 << 12;
const PRIORITY: u16 = 1 << 11;
const CORRELATION_ID: u16 = 1 << 10;
const REPLY_TO: u16 = 1 << 9;
const EXPIRATION: u16 = 1 << 8;
const MESSAGE_ID: u16 = 1 << 7;
const TIMESTAMP: u16 = 1 << 6;
const TYPE: u16 = 1 << 5;
const USER_ID: u16 = 1 << 4;
const APP_ID: u16 = 1 << 3;
const CLUSTER_ID: u16 = 1 << 2;
/// Another word of flags follows.
const CONTINUED: u16 = 1;

/// The payload of a content header frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentHeader<'a> {
    /// The class, 60 for `basic`.
    pub class: u16,
    /// The weight, 0.
    pub weight: u16,
    /// Octets of the body, over all its frames. With 0 no body frame follows.
    pub body_size: u64,
    /// The properties.
    pub properties: Properties<'a>,
}

/// The body size of a content header, without a look at the properties: all that following a content takes.
#[inline]
pub fn body_size(payload: &[u8]) -> Option<u64> {
    let mut reader = Reader::new(payload);
    reader.u32()?;
    reader.u64()
}

impl<'a> ContentHeader<'a> {
    /// From the payload of a content header frame. `None` if it ends early.
    #[inline]
    pub fn decode(payload: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(payload);
        Some(ContentHeader {
            class: reader.u16()?,
            weight: reader.u16()?,
            body_size: reader.u64()?,
            properties: Properties::read(&mut reader)?,
        })
    }

    /// As [`ContentHeader::decode`], with the properties up to the headers; those after them are left out, and not looked at.
    #[inline]
    pub fn decode_to_headers(payload: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(payload);
        Some(ContentHeader {
            class: reader.u16()?,
            weight: reader.u16()?,
            body_size: reader.u64()?,
            properties: Properties::read_to_headers(&mut reader)?,
        })
    }
}

/// The properties of a message; each is `None` if absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Properties<'a> {
    /// MIME type of the body.
    pub content_type: Option<&'a [u8]>,
    /// MIME encoding of the body; Celery puts the character set here.
    pub content_encoding: Option<&'a [u8]>,
    /// Headers of the application.
    pub headers: Option<Table<'a>>,
    /// 1 transient, 2 persistent.
    pub delivery_mode: Option<u8>,
    /// Priority.
    pub priority: Option<u8>,
    /// What a reply refers to; Celery: the task id.
    pub correlation_id: Option<&'a [u8]>,
    /// The queue for the reply.
    pub reply_to: Option<&'a [u8]>,
    /// Time to live in milliseconds, as decimal digits.
    pub expiration: Option<&'a [u8]>,
    /// Id of the message.
    pub message_id: Option<&'a [u8]>,
    /// Seconds since 1970.
    pub timestamp: Option<u64>,
    /// Type of the message.
    pub kind: Option<&'a [u8]>,
    /// The user that published; checked by `RabbitMQ`.
    pub user_id: Option<&'a [u8]>,
    /// The application that published.
    pub app_id: Option<&'a [u8]>,
    /// Reserved.
    pub cluster_id: Option<&'a [u8]>,
}

/// Reads a value if its flag is set; ends the calling function if the value should be there and is not.
macro_rules! present {
    ($flags:expr, $flag:expr, $value:expr) => {
        if $flags & $flag == 0 { None } else { Some($value?) }
    };
}

/// The first word of property flags. Words that it announces are stepped over: the properties that they stand for come last on the
/// wire, and none is defined.
#[inline]
fn read_flags(reader: &mut Reader<'_>) -> Option<u16> {
    let flags = reader.u16()?;
    let mut word = flags;
    while word & CONTINUED != 0 {
        word = reader.u16()?;
    }
    Some(flags)
}

impl<'a> Properties<'a> {
    #[inline]
    fn read_to_headers(reader: &mut Reader<'a>) -> Option<Self> {
        let flags = read_flags(reader)?;
        Some(Properties {
            content_type: present!(flags, CONTENT_TYPE, reader.short()),
            content_encoding: present!(flags, CONTENT_ENCODING, reader.short()),
            headers: present!(flags, HEADERS, reader.long().map(Table::new)),
            ..Properties::default()
        })
    }

    #[inline]
    fn read(reader: &mut Reader<'a>) -> Option<Self> {
        let flags = read_flags(reader)?;
        Some(Properties {
            content_type: present!(flags, CONTENT_TYPE, reader.short()),
            content_encoding: present!(flags, CONTENT_ENCODING, reader.short()),
            headers: present!(flags, HEADERS, reader.long().map(Table::new)),
            delivery_mode: present!(flags, DELIVERY_MODE, reader.u8()),
            priority: present!(flags, PRIORITY, reader.u8()),
            correlation_id: present!(flags, CORRELATION_ID, reader.short()),
            reply_to: present!(flags, REPLY_TO, reader.short()),
            expiration: present!(flags, EXPIRATION, reader.short()),
            message_id: present!(flags, MESSAGE_ID, reader.short()),
            timestamp: present!(flags, TIMESTAMP, reader.u64()),
            kind: present!(flags, TYPE, reader.short()),
            user_id: present!(flags, USER_ID, reader.short()),
            app_id: present!(flags, APP_ID, reader.short()),
            cluster_id: present!(flags, CLUSTER_ID, reader.short()),
        })
    }

    /// Appends flags and values. For messages that are made here; a message that came in is spliced instead.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        out.extend_from_slice(&[0, 0]);
        let mut flags = 0;
        let mut short = |out: &mut Vec<u8>, flag: u16, text: Option<&[u8]>| {
            let Some(text) = text else { return Ok(()) };
            flags |= flag;
            put_short(out, text)
        };
        short(out, CONTENT_TYPE, self.content_type)?;
        short(out, CONTENT_ENCODING, self.content_encoding)?;
        if let Some(headers) = self.headers {
            put_long(out, headers.raw())?;
        }
        out.extend(self.delivery_mode);
        out.extend(self.priority);
        short(out, CORRELATION_ID, self.correlation_id)?;
        short(out, REPLY_TO, self.reply_to)?;
        short(out, EXPIRATION, self.expiration)?;
        short(out, MESSAGE_ID, self.message_id)?;
        out.extend(self.timestamp.into_iter().flat_map(u64::to_be_bytes));
        short(out, TYPE, self.kind)?;
        short(out, USER_ID, self.user_id)?;
        short(out, APP_ID, self.app_id)?;
        short(out, CLUSTER_ID, self.cluster_id)?;
        for (flag, present) in [
            (HEADERS, self.headers.is_some()),
            (DELIVERY_MODE, self.delivery_mode.is_some()),
            (PRIORITY, self.priority.is_some()),
            (TIMESTAMP, self.timestamp.is_some()),
        ] {
            flags |= if present { flag } else { 0 };
        }
        if let Some(word) = out.get_mut(start..start + 2) {
            word.copy_from_slice(&flags.to_be_bytes());
        }
        Ok(())
    }
}

/// Why a header of a message could not be changed. The message has to stay as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SpliceError {
    /// The frame is not a content header, or ends early.
    #[error("the frame is not a content header that can be read")]
    Malformed,
    /// The header table cannot be read.
    #[error("the headers cannot be read: {0}")]
    Table(#[from] TableError),
    /// The new name or value does not fit in its length.
    #[error("the header cannot be written: {0}")]
    Encode(#[from] EncodeError),
    /// The frame would exceed `frame_max`; a content header cannot be split.
    #[error("the content header would take {size} octets, and the limit is {frame_max}")]
    TooLarge {
        /// Octets of the whole new frame.
        size: usize,
        /// The limit.
        frame_max: usize,
    },
}

/// Gives a content header frame a header `name` with `value`, replacing each entry of that name, or appending one to the headers.
///
/// The new frame has a new frame size and table size, and otherwise the bytes of `frame` in their order. `frame_max` is that of the
/// connection: octets of a whole frame, 0 for no limit.
pub fn splice_header(frame: &Frame<'_>, name: &[u8], value: &FieldValue<'_>, frame_max: usize) -> Result<Vec<u8>, SpliceError> {
    if frame.kind != FrameKind::Header {
        return Err(SpliceError::Malformed);
    }
    let place = HeadersPlace::find(frame.payload).ok_or(SpliceError::Malformed)?;
    let mut entries = Vec::with_capacity(place.entries.len() + name.len() + 64);
    let mut replaced = false;
    for entry in &Table::new(place.entries) {
        let entry = entry?;
        if entry.name == name {
            put_entry(&mut entries, name, value)?;
            replaced = true;
        } else {
            entries.extend_from_slice(entry.raw);
        }
    }
    if !replaced {
        put_entry(&mut entries, name, value)?;
    }
    let size = OVERHEAD + place.before.len() + 4 + entries.len() + place.after.len();
    if frame_max != 0 && size > frame_max {
        return Err(SpliceError::TooLarge { size, frame_max });
    }
    let payload_size = u32::try_from(size - OVERHEAD).map_err(|_| EncodeError::LongString(size))?;
    let mut out = Vec::with_capacity(size);
    out.push(frame.kind.octet());
    out.extend_from_slice(&frame.channel.to_be_bytes());
    out.extend_from_slice(&payload_size.to_be_bytes());
    out.extend_from_slice(place.before);
    put_long(&mut out, &entries)?;
    out.extend_from_slice(place.after);
    out.push(END);
    if let Some(octet) = out.get_mut(HEADER_LEN + FLAGS_OFFSET) {
        *octet |= HEADERS.to_be_bytes()[0];
    }
    Ok(out)
}

/// Where the flags stand in the payload of a content header: after class (2), weight (2) and body size (8).
const FLAGS_OFFSET: usize = 12;

/// The payload of a content header in three parts: up to the header table, its entries, and what comes after.
struct HeadersPlace<'a> {
    before: &'a [u8],
    entries: &'a [u8],
    after: &'a [u8],
}

impl<'a> HeadersPlace<'a> {
    fn find(payload: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(payload);
        reader.take(FLAGS_OFFSET)?;
        let flags = read_flags(&mut reader)?;
        present!(flags, CONTENT_TYPE, reader.short());
        present!(flags, CONTENT_ENCODING, reader.short());
        let (before, _) = payload.split_at_checked(payload.len() - reader.rest().len())?;
        let entries = present!(flags, HEADERS, reader.long()).unwrap_or_default();
        Some(HeadersPlace {
            before,
            entries,
            after: reader.rest(),
        })
    }
}

#[cfg(test)]
mod tests;
