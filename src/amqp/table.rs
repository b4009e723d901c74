//! Field tables and field arrays, read in place.
//!
//! A table is a run of entries: a short string (the name), an octet (the type), a value. Nested tables and arrays carry their length,
//! so that looking for a name steps over them however deep they are. Types follow `RabbitMQ`'s `rabbit_binary_parser`, with `U` of
//! the specification added; see <https://www.rabbitmq.com/amqp-0-9-1-errata>.

mod field;

use super::coding::{EncodeError, Reader, put_short};
pub use field::FieldValue;
use field::skip_value;

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
