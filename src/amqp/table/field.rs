//! The values of field tables and arrays: their types on the wire, one octet each, and what follows it.

use super::{Array, Table, TableError};
use crate::amqp::coding::{EncodeError, Reader, put_long};

/// One value of a table or array. Strings, tables and arrays are borrowed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FieldValue<'a> {
    /// `t`.
    Bool(bool),
    /// `b`.
    I8(i8),
    /// `B`.
    U8(u8),
    /// `s`, and `U` of the specification.
    I16(i16),
    /// `u`.
    U16(u16),
    /// `I`.
    I32(i32),
    /// `i`.
    U32(u32),
    /// `l` and `L`.
    I64(i64),
    /// `f`.
    F32(f32),
    /// `d`.
    F64(f64),
    /// `D`: `value` / 10^`scale`.
    Decimal {
        /// Digits after the point.
        scale: u8,
        /// All digits. `RabbitMQ` reads them without a sign, the specification with one.
        value: u32,
    },
    /// `S`: octets, mostly UTF-8.
    LongStr(&'a [u8]),
    /// `x`: octets.
    Bytes(&'a [u8]),
    /// `A`.
    Array(Array<'a>),
    /// `T`: seconds since 1970.
    Timestamp(u64),
    /// `F`.
    Table(Table<'a>),
    /// `V`: no value.
    Void,
}

impl<'a> FieldValue<'a> {
    /// The octets of a long string or byte array.
    pub fn as_octets(&self) -> Option<&'a [u8]> {
        match self {
            FieldValue::LongStr(octets) | FieldValue::Bytes(octets) => Some(octets),
            _ => None,
        }
    }

    /// The text of a long string or byte array in UTF-8.
    pub fn as_str(&self) -> Option<&'a str> {
        self.as_octets().and_then(|octets| std::str::from_utf8(octets).ok())
    }

    /// The number, whatever integer type carries it.
    pub fn as_i64(&self) -> Option<i64> {
        match *self {
            FieldValue::I8(number) => Some(number.into()),
            FieldValue::U8(number) => Some(number.into()),
            FieldValue::I16(number) => Some(number.into()),
            FieldValue::U16(number) => Some(number.into()),
            FieldValue::I32(number) => Some(number.into()),
            FieldValue::U32(number) => Some(number.into()),
            FieldValue::I64(number) => Some(number),
            _ => None,
        }
    }

    /// Reads a type octet and the value behind it.
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, TableError> {
        let tag = reader.u8().ok_or(TableError::Truncated)?;
        let value = match tag {
            b't' => reader.u8().map(|octet| FieldValue::Bool(octet != 0)),
            b'b' => reader.u8().map(|octet| FieldValue::I8(octet as i8)),
            b'B' => reader.u8().map(FieldValue::U8),
            b's' | b'U' => reader.u16().map(|number| FieldValue::I16(number as i16)),
            b'u' => reader.u16().map(FieldValue::U16),
            b'I' => reader.u32().map(|number| FieldValue::I32(number as i32)),
            b'i' => reader.u32().map(FieldValue::U32),
            b'l' | b'L' => reader.u64().map(|number| FieldValue::I64(number as i64)),
            b'f' => reader.u32().map(|bits| FieldValue::F32(f32::from_bits(bits))),
            b'd' => reader.u64().map(|bits| FieldValue::F64(f64::from_bits(bits))),
            b'D' => reader
                .u8()
                .zip(reader.u32())
                .map(|(scale, value)| FieldValue::Decimal { scale, value }),
            b'S' => reader.long().map(FieldValue::LongStr),
            b'x' => reader.long().map(FieldValue::Bytes),
            b'A' => reader.long().map(|raw| FieldValue::Array(Array { raw })),
            b'T' => reader.u64().map(FieldValue::Timestamp),
            b'F' => reader.long().map(|raw| FieldValue::Table(Table { raw })),
            b'V' => Some(FieldValue::Void),
            unknown => return Err(TableError::UnknownType(unknown)),
        };
        value.ok_or(TableError::Truncated)
    }

    /// Appends type octet and value.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        fn fixed<const N: usize>(out: &mut Vec<u8>, tag: u8, octets: [u8; N]) {
            out.push(tag);
            out.extend_from_slice(&octets);
        }
        fn sized(out: &mut Vec<u8>, tag: u8, octets: &[u8]) -> Result<(), EncodeError> {
            out.push(tag);
            put_long(out, octets)
        }
        match *self {
            FieldValue::Bool(truth) => fixed(out, b't', [u8::from(truth)]),
            FieldValue::I8(number) => fixed(out, b'b', number.to_be_bytes()),
            FieldValue::U8(number) => fixed(out, b'B', number.to_be_bytes()),
            FieldValue::I16(number) => fixed(out, b's', number.to_be_bytes()),
            FieldValue::U16(number) => fixed(out, b'u', number.to_be_bytes()),
            FieldValue::I32(number) => fixed(out, b'I', number.to_be_bytes()),
            FieldValue::U32(number) => fixed(out, b'i', number.to_be_bytes()),
            FieldValue::I64(number) => fixed(out, b'l', number.to_be_bytes()),
            FieldValue::F32(number) => fixed(out, b'f', number.to_be_bytes()),
            FieldValue::F64(number) => fixed(out, b'd', number.to_be_bytes()),
            FieldValue::Timestamp(seconds) => fixed(out, b'T', seconds.to_be_bytes()),
            FieldValue::Void => out.push(b'V'),
            FieldValue::Decimal { scale, value } => {
                fixed(out, b'D', [scale]);
                out.extend_from_slice(&value.to_be_bytes());
            }
            FieldValue::LongStr(octets) => return sized(out, b'S', octets),
            FieldValue::Bytes(octets) => return sized(out, b'x', octets),
            FieldValue::Array(array) => return sized(out, b'A', array.raw),
            FieldValue::Table(table) => return sized(out, b'F', table.raw),
        }
        Ok(())
    }
}

/// Octets of a value of this type after its type octet; `None` if the value carries its length itself.
#[inline]
fn fixed_len(tag: u8) -> Result<Option<usize>, TableError> {
    Ok(Some(match tag {
        b'S' | b'F' | b'A' | b'x' => return Ok(None),
        b'V' => 0,
        b't' | b'b' | b'B' => 1,
        b's' | b'u' | b'U' => 2,
        b'I' | b'i' | b'f' => 4,
        b'D' => 5,
        b'l' | b'L' | b'd' | b'T' => 8,
        unknown => return Err(TableError::UnknownType(unknown)),
    }))
}

/// Steps over a type octet and the value behind it.
#[inline]
pub(super) fn skip_value(reader: &mut Reader<'_>) -> Result<(), TableError> {
    let tag = reader.u8().ok_or(TableError::Truncated)?;
    let skipped = match fixed_len(tag)? {
        Some(length) => reader.take(length),
        None => reader.long(),
    };
    skipped.map(|_| ()).ok_or(TableError::Truncated)
}
