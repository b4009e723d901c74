//! The values that task arguments are made of, whatever serializer carried them.

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
    /// An instance of a class that is not one of the above: `module.qualname`, what it was built from, and its state.
    Object {
        /// `module.qualname` of the class or of the function that rebuilds it.
        class: String,
        /// Constructor arguments and state, as a list.
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
