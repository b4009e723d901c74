//! Changing several things of a content header at once, without touching any other byte.

use super::{
    APP_ID, CLUSTER_ID, CONTENT_ENCODING, CONTENT_TYPE, CORRELATION_ID, DELIVERY_MODE, EXPIRATION, FLAGS_OFFSET, HEADERS, MESSAGE_ID,
    PRIORITY, REPLY_TO, SpliceError, TIMESTAMP, TYPE, USER_ID, read_flags,
};
use crate::amqp::coding::{EncodeError, Reader, put_long, put_short};
use crate::amqp::table::{FieldValue, Table, put_entry};

/// How a property stands on the wire.
#[derive(Clone, Copy)]
enum Shape {
    Short,
    Table,
    Octets(usize),
}

/// The properties in the order of the wire.
const LAYOUT: [(u16, Shape); 14] = [
    (CONTENT_TYPE, Shape::Short),
    (CONTENT_ENCODING, Shape::Short),
    (HEADERS, Shape::Table),
    (DELIVERY_MODE, Shape::Octets(1)),
    (PRIORITY, Shape::Octets(1)),
    (CORRELATION_ID, Shape::Short),
    (REPLY_TO, Shape::Short),
    (EXPIRATION, Shape::Short),
    (MESSAGE_ID, Shape::Short),
    (TIMESTAMP, Shape::Octets(8)),
    (TYPE, Shape::Short),
    (USER_ID, Shape::Short),
    (APP_ID, Shape::Short),
    (CLUSTER_ID, Shape::Short),
];

/// What becomes of a property.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Property<'a> {
    /// It stays as it is.
    #[default]
    Keep,
    /// It goes, if it is there.
    Drop,
    /// It is this, whether it was there or not: at most 255 octets.
    Set(&'a [u8]),
}

/// What changes in a content header.
#[derive(Debug, Clone, Copy)]
pub struct Changes<'a> {
    /// Tells by its name which header goes.
    pub drops: fn(&[u8]) -> bool,
    /// The headers that are set: entries of their names go, and these come last.
    pub sets: &'a [(&'a [u8], FieldValue<'a>)],
    /// `expiration`.
    pub expiration: Property<'a>,
    /// `user_id`.
    pub user_id: Property<'a>,
}

/// The payload of a content header with these changes, and otherwise its bytes in their order.
pub fn rewrite(payload: &[u8], changes: &Changes<'_>) -> Result<Vec<u8>, SpliceError> {
    let mut reader = Reader::new(payload);
    reader.take(FLAGS_OFFSET).ok_or(SpliceError::Malformed)?;
    let mut flags = read_flags(&mut reader).ok_or(SpliceError::Malformed)?;
    let mut out = Vec::with_capacity(payload.len() + 64);
    out.extend_from_slice(before(payload, &reader));
    for (flag, shape) in LAYOUT {
        let raw = if flags & flag == 0 {
            &[]
        } else {
            let from = reader;
            skip(&mut reader, shape).ok_or(SpliceError::Malformed)?;
            before(from.rest(), &reader)
        };
        let change = match flag {
            HEADERS => {
                if put_headers(&mut out, raw, changes)? {
                    flags |= HEADERS;
                }
                continue;
            }
            EXPIRATION => changes.expiration,
            USER_ID => changes.user_id,
            _ => Property::Keep,
        };
        match change {
            Property::Keep => out.extend_from_slice(raw),
            Property::Drop => flags &= !flag,
            Property::Set(text) => {
                put_short(&mut out, text)?;
                flags |= flag;
            }
        }
    }
    out.extend_from_slice(reader.rest());
    if let Some(word) = out.get_mut(FLAGS_OFFSET..FLAGS_OFFSET + 2) {
        word.copy_from_slice(&flags.to_be_bytes());
    }
    if u32::try_from(out.len()).is_err() {
        return Err(EncodeError::LongString(out.len()).into());
    }
    Ok(out)
}

/// What this reader has read of `bytes`, at which it started.
fn before<'a>(bytes: &'a [u8], reader: &Reader<'_>) -> &'a [u8] {
    bytes.get(..bytes.len() - reader.rest().len()).unwrap_or_default()
}

fn skip(reader: &mut Reader<'_>, shape: Shape) -> Option<()> {
    match shape {
        Shape::Short => reader.short(),
        Shape::Table => reader.long(),
        Shape::Octets(count) => reader.take(count),
    }
    .map(|_| ())
}

/// Appends the header table; `raw` is the old one with its length, or nothing. False if there is none and none is needed.
fn put_headers(out: &mut Vec<u8>, raw: &[u8], changes: &Changes<'_>) -> Result<bool, SpliceError> {
    let old = Reader::new(raw).long();
    if old.is_none() && changes.sets.is_empty() {
        return Ok(false);
    }
    let mut entries = Vec::with_capacity(raw.len() + 64);
    for entry in &Table::new(old.unwrap_or_default()) {
        let entry = entry?;
        let is_set = changes.sets.iter().any(|(name, _)| *name == entry.name);
        if !is_set && !(changes.drops)(entry.name) {
            entries.extend_from_slice(entry.raw);
        }
    }
    for (name, value) in changes.sets {
        put_entry(&mut entries, name, value)?;
    }
    put_long(out, &entries)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amqp::content::{ContentHeader, Properties};

    /// Class 60, weight 0, body size 7.
    const CLASS_TO_SIZE: &[u8] = b"\x00\x3c\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07";
    const NOTHING: Changes<'static> = Changes {
        drops: |_| false,
        sets: &[],
        expiration: Property::Keep,
        user_id: Property::Keep,
    };

    fn rewritten(after_size: &[u8], changes: &Changes<'_>) -> Vec<u8> {
        let before = [CLASS_TO_SIZE, after_size].concat();
        let after = rewrite(&before, changes).expect("it can be changed");
        after.strip_prefix(CLASS_TO_SIZE).expect("class, weight and size stay").to_vec()
    }

    #[test]
    fn headers_go_and_come_and_the_rest_stays() {
        let before =
            b"\xbf\x90\x02ct\x00\x00\x00\x0f\x01aU\x00\x01\x01bV\x01kB\x01\x01cV\x02\x05\x02id\x01r\x04\x31\x30\x30\x30\x01m\x02us";
        let changes = Changes {
            drops: |name| name == b"b",
            sets: &[(b"k", FieldValue::LongStr(b"new")), (b"z", FieldValue::Void)],
            expiration: Property::Set(b"7"),
            user_id: Property::Drop,
        };
        assert_eq!(
            rewritten(before, &changes),
            b"\xbf\x80\x02ct\x00\x00\x00\x15\x01aU\x00\x01\x01cV\x01kS\x00\x00\x00\x03new\x01zV\x02\x05\x02id\x01r\x01\x37\x01m"
        );
        assert_eq!(rewritten(before, &NOTHING), before);
    }

    #[test]
    fn what_was_not_there_is_made() {
        let changes = Changes {
            sets: &[(b"k", FieldValue::U8(5))],
            expiration: Property::Set(b"1"),
            user_id: Property::Drop,
            ..NOTHING
        };
        assert_eq!(
            rewritten(b"\x10\x08\x02\x01i", &changes),
            b"\x31\x08\x00\x00\x00\x04\x01kB\x05\x02\x01\x31\x01i"
        );
        assert_eq!(rewritten(b"\x00\x00", &changes), b"\x21\x00\x00\x00\x00\x04\x01kB\x05\x01\x31");
        let drops = Changes {
            drops: |_| true,
            ..NOTHING
        };
        assert_eq!(rewritten(b"\x00\x00", &drops), b"\x00\x00", "no table is made for nothing");
        assert_eq!(rewritten(b"\x20\x00\x00\x00\x00\x03\x01kV", &drops), b"\x20\x00\x00\x00\x00\x00");
    }

    #[test]
    fn further_words_of_flags_and_what_they_stand_for_stay() {
        let changes = Changes {
            expiration: Property::Drop,
            ..NOTHING
        };
        assert_eq!(
            rewritten(b"\x81\x01\x80\x01\x80\x00\x02ct\x03100\x07unknown", &changes),
            b"\x80\x01\x80\x01\x80\x00\x02ct\x07unknown"
        );
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let all = Properties {
            content_type: Some(b"ct"),
            headers: Some(Table::new(b"\x01kV")),
            timestamp: Some(9),
            user_id: Some(b"u"),
            ..Properties::default()
        };
        let mut payload = CLASS_TO_SIZE.to_vec();
        all.encode(&mut payload).expect("it fits");
        for end in 0..payload.len() {
            assert_eq!(rewrite(&payload[..end], &NOTHING), Err(SpliceError::Malformed), "cut to {end}");
        }
        let broken = [CLASS_TO_SIZE, b"\x20\x00\x00\x00\x00\x03\x01kz"].concat();
        assert!(matches!(rewrite(&broken, &NOTHING), Err(SpliceError::Table(_))));
        let long = [b'x'; 256];
        let changes = Changes {
            expiration: Property::Set(&long),
            ..NOTHING
        };
        assert!(matches!(rewrite(&payload, &changes), Err(SpliceError::Encode(_))));
        let changes = Changes {
            sets: &[(b"x", FieldValue::LongStr(b"text"))],
            user_id: Property::Drop,
            ..NOTHING
        };
        let after = rewrite(&payload, &changes).expect("it can be changed");
        let header = ContentHeader::decode(&after).expect("a content header");
        assert_eq!(
            (header.body_size, header.properties.user_id, header.properties.timestamp),
            (7, None, Some(9))
        );
        let headers = header.properties.headers.expect("headers");
        assert_eq!(headers.get(b"x"), Ok(Some(FieldValue::LongStr(b"text"))));
    }
}
