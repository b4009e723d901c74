//! Values to and from minijinja, and headers to values.
//!
//! What minijinja has no type for goes through it sealed: it can be compared, passed on and written, and comes out as it went in. So
//! two values that Python tells apart stay apart.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use minijinja::value::{DynObject, Object, ObjectRepr, Tuple, Value as Jinja, ValueKind};

use super::ExprError;
use crate::amqp::table::{FieldValue, MAX_DEPTH, Table};
use crate::celery::value::Value;
use crate::rules::digest::encoded;
use crate::rules::show::show;

/// A value that minijinja has no type for.
struct Sealed(Value);

impl Object for Sealed {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn is_true(self: &Arc<Self>) -> bool {
        match &self.0 {
            Value::Bytes(octets) => !octets.is_empty(),
            Value::Set(items) => !items.is_empty(),
            Value::Map(entries) => !entries.is_empty(),
            _ => true,
        }
    }

    fn custom_cmp(self: &Arc<Self>, other: &DynObject) -> Option<Ordering> {
        let other = other.downcast_ref::<Sealed>()?;
        Some(encoded(&[&self.0]).cmp(&encoded(&[&other.0])))
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        show(&self.0, &mut text);
        f.write_str(&text)
    }
}

/// A value as minijinja sees it. The depth of a value is bounded by whoever decoded it.
pub(super) fn to_jinja(value: &Value) -> Jinja {
    match value {
        Value::Null => Jinja::from(()),
        Value::Bool(truth) => Jinja::from(*truth),
        Value::Int(number) => Jinja::from(*number),
        Value::BigInt(digits) => match digits.parse::<i128>() {
            Ok(number) => Jinja::from(number),
            Err(_) => Jinja::from_object(Sealed(value.clone())),
        },
        Value::Float(number) => Jinja::from(*number),
        Value::Str(text) => Jinja::from(text.as_str()),
        Value::List(items) => Jinja::from(items.iter().map(to_jinja).collect::<Vec<_>>()),
        Value::Tuple(items) => Jinja::from_object(Tuple::new(items.iter().map(to_jinja).collect())),
        // minijinja takes 1, 1.0 and true for one key, so only mappings of names go as mappings.
        Value::Map(entries) if entries.iter().all(|(key, _)| key.as_str().is_some()) => {
            Jinja::from_pairs(entries.iter().map(|(key, value)| (to_jinja(key), to_jinja(value))))
        }
        Value::Bytes(_) | Value::Set(_) | Value::Map(_) | Value::Object { .. } => Jinja::from_object(Sealed(value.clone())),
    }
}

/// What an expression gave, as a value.
pub(super) fn from_jinja(value: &Jinja) -> Result<Value, ExprError> {
    let fault = |what: &str| ExprError::Failed(format!("the expression gives {what}, which is no part of a key"));
    let items = |value: &Jinja| -> Result<Vec<Value>, ExprError> {
        value
            .try_iter()
            .map_err(|error| ExprError::Failed(error.to_string()))?
            .map(|item| from_jinja(&item))
            .collect()
    };
    Ok(match value.kind() {
        ValueKind::None => Value::Null,
        ValueKind::Bool => Value::Bool(value.is_true()),
        ValueKind::Number if value.is_integer() => match value.as_i64() {
            Some(number) => Value::Int(number),
            None => Value::BigInt(value.to_string()),
        },
        ValueKind::Number => Value::Float(f64::try_from(value.clone()).map_err(|_| fault("a number"))?),
        ValueKind::String => Value::Str(value.as_str().unwrap_or_default().to_owned()),
        ValueKind::Bytes => Value::Bytes(value.as_bytes().unwrap_or_default().to_vec()),
        ValueKind::Seq if value.is_tuple() => Value::Tuple(items(value)?),
        ValueKind::Seq | ValueKind::Iterable => Value::List(items(value)?),
        ValueKind::Map => {
            let keys: Vec<_> = value.try_iter().map_err(|error| ExprError::Failed(error.to_string()))?.collect();
            let mut entries = Vec::with_capacity(keys.len());
            for key in keys {
                let item = value.get_item(&key).map_err(|error| ExprError::Failed(error.to_string()))?;
                entries.push((from_jinja(&key)?, from_jinja(&item)?));
            }
            Value::Map(entries)
        }
        ValueKind::Undefined => return Err(fault("nothing")),
        other => match value.downcast_object_ref::<Sealed>() {
            Some(sealed) => sealed.0.clone(),
            None => return Err(fault(&other.to_string())),
        },
    })
}

/// The header table as a mapping; what is broken is left out.
pub(super) fn table(headers: Table<'_>) -> Value {
    table_at(headers, MAX_DEPTH)
}

/// A header as a value.
pub(super) fn field(value: &FieldValue<'_>) -> Value {
    field_at(value, MAX_DEPTH)
}

fn table_at(table: Table<'_>, depth: usize) -> Value {
    let entries = table.iter().map_while(Result::ok);
    Value::Map(
        entries
            .map(|entry| (text_or_bytes(entry.name), field_at(&entry.value, depth)))
            .collect(),
    )
}

/// The recursion is bounded by `depth`.
fn field_at(value: &FieldValue<'_>, depth: usize) -> Value {
    let Some(depth) = depth.checked_sub(1) else {
        return Value::Null;
    };
    match value {
        FieldValue::Bool(truth) => Value::Bool(*truth),
        FieldValue::F32(number) => Value::Float(f64::from(*number)),
        FieldValue::F64(number) => Value::Float(*number),
        FieldValue::LongStr(octets) => text_or_bytes(octets),
        FieldValue::Bytes(octets) => Value::Bytes(octets.to_vec()),
        FieldValue::Array(array) => Value::List(array.iter().map_while(Result::ok).map(|item| field_at(&item, depth)).collect()),
        FieldValue::Table(inner) => table_at(*inner, depth),
        FieldValue::Timestamp(seconds) => object("amqp.timestamp", &[*seconds]),
        FieldValue::Decimal { scale, value } => object("amqp.decimal", &[u64::from(*scale), u64::from(*value)]),
        whole => whole.as_i64().map_or(Value::Null, Value::Int),
    }
}

fn object(class: &str, numbers: &[u64]) -> Value {
    Value::Object {
        class: class.to_owned(),
        parts: numbers.iter().map(|number| Value::BigInt(number.to_string())).collect(),
    }
}

fn text_or_bytes(octets: &[u8]) -> Value {
    match std::str::from_utf8(octets) {
        Ok(text) => Value::Str(text.to_owned()),
        Err(_) => Value::Bytes(octets.to_vec()),
    }
}
