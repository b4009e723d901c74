//! The values that task arguments are made of, whatever serializer carried them.

use std::collections::HashSet;
use std::hash::{Hash, Hasher};

/// One decoded value of a task's `args` or `kwargs`.
///
/// Two values that Python tells apart are two different `Value`s: an integer is not a float, a tuple is not a list, and an object
/// keeps its class name.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `None`.
    Null,
    /// `True` or `False`.
    Bool(bool),
    /// An integer of 64 bits.
    Int(i64),
    /// An integer beyond 64 bits, in decimal digits with an optional leading `-`, without leading zeros.
    BigInt(String),
    /// A floating-point number, NaN and the infinities included.
    Float(f64),
    /// Text.
    Str(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A list.
    List(Vec<Value>),
    /// A tuple (pickle only: the other serializers turn tuples into lists).
    Tuple(Vec<Value>),
    /// A set or frozenset, in the order of the wire.
    Set(Vec<Value>),
    /// A mapping, in the order of the wire. A key that occurs twice keeps its last value.
    Map(Vec<(Value, Value)>),
    /// An instance of a class that is not one of the above: its class, what it was built from, and its state.
    ///
    /// | `class` | `parts` |
    /// |---|---|
    /// | `datetime.datetime`, `datetime.date`, `datetime.time` | text as `isoformat()` writes it; a time zone that is not a mere offset as a second part; `fold` of 1 as the last |
    /// | `datetime.timedelta` | days, seconds, microseconds |
    /// | `decimal.Decimal` | text |
    /// | `uuid.UUID` | text with hyphens |
    /// | `collections.OrderedDict` | list of (key, value) in its order |
    /// | `bytearray` | bytes |
    /// | `complex` | real and imaginary part |
    /// | `msgpack.ExtType` | code, bytes |
    /// | any other | how it is made (`"new"` or `"call"`, or `"global"` for a class or function itself), then, but for `"global"`: arguments as a tuple, keyword arguments as a mapping, states as a list, items appended as a list, entries set as a list of tuples |
    Object {
        /// `module.qualname` of the class or of the function that rebuilds it; `module:qualname` if the qualname has a dot.
        class: String,
        /// What it was built from.
        parts: Vec<Value>,
    },
}

impl Value {
    /// The text, if this is text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::Str(text) => Some(text),
            _ => None,
        }
    }
}

/// An object of a class.
pub(super) fn object(class: &str, parts: Vec<Value>) -> Value {
    Value::Object {
        class: class.to_owned(),
        parts,
    }
}

/// Drops every entry whose key comes again later.
pub(super) fn keep_last(entries: &mut Vec<(Value, Value)>) {
    // Comparing a few short keys is cheaper than hashing them.
    const FEW: usize = 12;
    if entries.len() <= FEW {
        let mut rest = entries.as_slice();
        let mut again = false;
        while let Some(((key, _), later)) = rest.split_first() {
            again |= later.iter().any(|(other, _)| other == key);
            rest = later;
        }
        if !again {
            return;
        }
    }
    let mut seen = HashSet::with_capacity(entries.len());
    let mut kept: Vec<bool> = entries.iter().rev().map(|(key, _)| seen.insert(Key(key))).collect();
    drop(seen);
    // `kept` is in reverse: its last element is that of the first entry.
    entries.retain(|_| kept.pop().unwrap_or(true));
}

/// A value as a key of a mapping: floats are equal if their bits are.
struct Key<'a>(&'a Value);

impl PartialEq for Key<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self.0, other.0) {
            (Value::Float(left), Value::Float(right)) => left.to_bits() == right.to_bits(),
            (left, right) => left == right,
        }
    }
}

impl Eq for Key<'_> {}

impl Hash for Key<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash_value(self.0, state);
    }
}

/// Calls itself as deep as the value is nested, which the readers bound.
fn hash_value<H: Hasher>(value: &Value, state: &mut H) {
    std::mem::discriminant(value).hash(state);
    match value {
        Value::Null => {}
        Value::Bool(truth) => truth.hash(state),
        Value::Int(number) => number.hash(state),
        // Zero and minus zero are equal within a tuple.
        Value::Float(number) => (number + 0.0).to_bits().hash(state),
        Value::Str(text) | Value::BigInt(text) => text.hash(state),
        Value::Bytes(octets) => octets.hash(state),
        Value::List(items) | Value::Tuple(items) | Value::Set(items) => hash_all(items, state),
        Value::Map(entries) => {
            entries.len().hash(state);
            for (key, value) in entries {
                hash_value(key, state);
                hash_value(value, state);
            }
        }
        Value::Object { class, parts } => {
            class.hash(state);
            hash_all(parts, state);
        }
    }
}

fn hash_all<H: Hasher>(values: &[Value], state: &mut H) {
    values.len().hash(state);
    for value in values {
        hash_value(value, state);
    }
}
