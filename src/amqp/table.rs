//! Field tables and field arrays, read in place.
//!
//! A table is a run of entries: a short string (the name), an octet (the type), a value. Nested tables and arrays carry their length,
//! so that looking for a name steps over them however deep they are. Types follow `RabbitMQ`'s `rabbit_binary_parser`, with `U` of
//! the specification added; see <https://www.rabbitmq.com/amqp-0-9-1-errata>.

use super::coding::{EncodeError, Reader, put_long, put_short};

/// Why a table cannot be read (further).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// A name or value is longer than what is left of the table.
    #[error("a field table ends within an entry")]
    Truncated,
    /// A type octet that neither `RabbitMQ` nor the specification knows; its length is unknown too.
    #[error("a field has the unknown type {0:#04x}")]
    UnknownType(u8),
    /// Tables and arrays are nested deeper than allowed.
    #[error("field tables are nested deeper than {0}")]
    TooDeep(usize),
}

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
    fn read(reader: &mut Reader<'a>) -> Result<Self, TableError> {
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
fn skip_value(reader: &mut Reader<'_>) -> Result<(), TableError> {
    let tag = reader.u8().ok_or(TableError::Truncated)?;
    let skipped = match fixed_len(tag)? {
        Some(length) => reader.take(length),
        None => reader.long(),
    };
    skipped.map(|_| ()).ok_or(TableError::Truncated)
}

/// One entry of a table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Entry<'a> {
    /// The name.
    pub name: &'a [u8],
    /// The value.
    pub value: FieldValue<'a>,
    /// The entry as it came: name, type and value.
    pub raw: &'a [u8],
}

/// The entries of a table, without the length before them. Nothing was checked yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Table<'a> {
    raw: &'a [u8],
}

impl<'a> Table<'a> {
    /// A table over its entries (without the length before them).
    #[inline]
    pub fn new(raw: &'a [u8]) -> Self {
        Table { raw }
    }

    /// The entries as they came.
    #[inline]
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// The value of `name`, `None` if the table has no such entry.
    ///
    /// Of several entries of one name the last counts, as it does for Python clients, which make a dictionary of the table. So the
    /// whole table is walked, and an entry that cannot be read makes the answer an error wherever it stands.
    #[inline]
    pub fn get(&self, name: &[u8]) -> Result<Option<FieldValue<'a>>, TableError> {
        let [found] = self.get_many([name])?;
        Ok(found)
    }

    /// The value of the first entry of this name; looks no further. `None` also if the table cannot be read up to there.
    ///
    /// This is for a cheap first look. Where a table has a name twice, [`get`](Table::get) tells what clients take.
    #[inline]
    pub fn first(&self, name: &[u8]) -> Option<FieldValue<'a>> {
        let mut reader = Reader::new(self.raw);
        while !reader.is_empty() {
            if reader.short()? == name {
                return FieldValue::read(&mut reader).ok();
            }
            skip_value(&mut reader).ok()?;
        }
        None
    }

    /// The values of several names in one walk; for each the same as [`get`](Table::get).
    #[inline]
    pub fn get_many<const N: usize>(&self, names: [&[u8]; N]) -> Result<[Option<FieldValue<'a>>; N], TableError> {
        let mut found = [None; N];
        let mut reader = Reader::new(self.raw);
        while !reader.is_empty() {
            let entry_name = reader.short().ok_or(TableError::Truncated)?;
            let at_value = reader;
            skip_value(&mut reader)?;
            for (slot, name) in found.iter_mut().zip(names) {
                if *name == *entry_name {
                    *slot = Some(at_value);
                }
            }
        }
        let mut values = [None; N];
        for (value, slot) in values.iter_mut().zip(found) {
            if let Some(mut at_value) = slot {
                *value = Some(FieldValue::read(&mut at_value)?);
            }
        }
        Ok(values)
    }

    /// The entries in the order of the wire. The first error ends the walk.
    pub fn iter(&self) -> Entries<'a> {
        Entries {
            reader: Reader::new(self.raw),
        }
    }

    /// Checks that every entry, nested ones included, can be read, and that tables and arrays nest at most `depth_limit` deep (this
    /// table is depth 1, and [`MAX_DEPTH`] is the highest limit).
    pub fn check(&self, depth_limit: usize) -> Result<(), TableError> {
        check(self.raw, Shape::Table, depth_limit)
    }
}

impl<'a> IntoIterator for &Table<'a> {
    type Item = Result<Entry<'a>, TableError>;
    type IntoIter = Entries<'a>;

    fn into_iter(self) -> Entries<'a> {
        self.iter()
    }
}

/// Walks a table; see [`Table::iter`].
#[derive(Debug, Clone)]
pub struct Entries<'a> {
    reader: Reader<'a>,
}

impl<'a> Entries<'a> {
    fn read(&mut self) -> Result<Entry<'a>, TableError> {
        let before = self.reader.rest();
        let name = self.reader.short().ok_or(TableError::Truncated)?;
        let value = FieldValue::read(&mut self.reader)?;
        let length = before.len() - self.reader.rest().len();
        Ok(Entry {
            name,
            value,
            raw: before.get(..length).unwrap_or_default(),
        })
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, TableError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.reader.is_empty() {
            return None;
        }
        let entry = self.read();
        if entry.is_err() {
            self.reader = Reader::new(&[]);
        }
        Some(entry)
    }
}

/// The values of an array, without the length before them. Nothing was checked yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Array<'a> {
    raw: &'a [u8],
}

impl<'a> Array<'a> {
    /// An array over its values (without the length before them).
    #[inline]
    pub fn new(raw: &'a [u8]) -> Self {
        Array { raw }
    }

    /// The values as they came.
    #[inline]
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// The values in order. The first error ends the walk.
    pub fn iter(&self) -> Values<'a> {
        Values {
            reader: Reader::new(self.raw),
        }
    }
}

impl<'a> IntoIterator for &Array<'a> {
    type Item = Result<FieldValue<'a>, TableError>;
    type IntoIter = Values<'a>;

    fn into_iter(self) -> Values<'a> {
        self.iter()
    }
}

/// Walks an array; see [`Array::iter`].
#[derive(Debug, Clone)]
pub struct Values<'a> {
    reader: Reader<'a>,
}

impl<'a> Iterator for Values<'a> {
    type Item = Result<FieldValue<'a>, TableError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.reader.is_empty() {
            return None;
        }
        let value = FieldValue::read(&mut self.reader);
        if value.is_err() {
            self.reader = Reader::new(&[]);
        }
        Some(value)
    }
}

/// Appends one entry of a table.
pub fn put_entry(out: &mut Vec<u8>, name: &[u8], value: &FieldValue<'_>) -> Result<(), EncodeError> {
    put_short(out, name)?;
    value.encode(out)
}

/// The deepest nesting that [`Table::check`] can accept.
pub const MAX_DEPTH: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Table,
    Array,
}

/// Walks everything with a stack of bounded size instead of recursion: what is left of each container that is open.
fn check(raw: &[u8], shape: Shape, depth_limit: usize) -> Result<(), TableError> {
    let depth_limit = depth_limit.min(MAX_DEPTH);
    let mut open = [(Reader::new(&[]), Shape::Table); MAX_DEPTH];
    let mut depth = 0;
    let mut entering = Some((Reader::new(raw), shape));
    loop {
        if let Some(container) = entering.take() {
            match open.get_mut(depth) {
                Some(slot) if depth < depth_limit => *slot = container,
                _ => return Err(TableError::TooDeep(depth_limit)),
            }
            depth += 1;
        }
        let Some((reader, shape)) = depth.checked_sub(1).and_then(|top| open.get_mut(top)) else {
            return Ok(());
        };
        if reader.is_empty() {
            depth -= 1;
            continue;
        }
        if *shape == Shape::Table {
            reader.short().ok_or(TableError::Truncated)?;
        }
        match FieldValue::read(reader)? {
            FieldValue::Table(table) => entering = Some((Reader::new(table.raw), Shape::Table)),
            FieldValue::Array(array) => entering = Some((Reader::new(array.raw), Shape::Array)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
