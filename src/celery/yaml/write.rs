//! Values as YAML in its flow style, which `safe_load` reads; see [`crate::celery::accumulate`].

use std::fmt::Write;

use super::super::accumulate::unwritable;
use super::super::value::Value;
use super::super::{Limits, Unreadable};

/// `PyYAML` looks no further than 1,024 characters for the colon behind a key.
const KEY_MAX: usize = 1_000;

pub(in crate::celery) fn accumulate(body: &[u8], arguments: Vec<Value>, limits: Limits) -> Result<Vec<u8>, Unreadable> {
    let Value::List(parts) = super::parse(body, limits)? else {
        return Err(super::refuse("it is not [args, kwargs, embed]"));
    };
    let [_, _, embed]: [Value; 3] = parts.try_into().map_err(|_| super::refuse("it is not [args, kwargs, embed]"))?;
    let kwargs = Value::Map(vec![(Value::Str("index".to_owned()), Value::Int(0))]);
    let mut out = String::with_capacity(body.len() + 64);
    write(&mut out, &Value::List(vec![Value::List(arguments), kwargs, embed]))?;
    out.push('\n');
    Ok(out.into_bytes())
}

/// Calls itself for what is inside, which was read within a bound.
fn write(out: &mut String, value: &Value) -> Result<(), Unreadable> {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(truth) => out.push_str(if *truth { "true" } else { "false" }),
        Value::Int(number) => drop(write!(out, "{number}")),
        Value::BigInt(digits) => out.push_str(digits),
        Value::Float(number) => float(out, *number),
        Value::Str(text) => quoted(out, text),
        Value::List(items) | Value::Tuple(items) => {
            out.push('[');
            for (place, item) in items.iter().enumerate() {
                out.push_str(if place == 0 { "" } else { ", " });
                write(out, item)?;
            }
            out.push(']');
        }
        Value::Map(entries) => {
            out.push('{');
            for (place, (key, value)) in entries.iter().enumerate() {
                out.push_str(if place == 0 { "" } else { ", " });
                let before = out.len();
                write(out, key)?;
                if out.len() - before > KEY_MAX {
                    return Err(super::refuse("a key that is too long"));
                }
                out.push_str(": ");
                write(out, value)?;
            }
            out.push('}');
        }
        Value::Bytes(_) | Value::Set(_) | Value::Object { .. } => return Err(unwritable("yaml", value)),
    }
    Ok(())
}

/// YAML 1.1 takes only what has a point for a float, and only a signed exponent for one.
fn float(out: &mut String, number: f64) {
    if number.is_nan() {
        return out.push_str(".nan");
    }
    if number.is_infinite() {
        return out.push_str(if number > 0.0 { ".inf" } else { "-.inf" });
    }
    let text = format!("{number:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    out.push_str(mantissa);
    out.push_str(if mantissa.contains('.') { "e" } else { ".0e" });
    out.push_str(if exponent.starts_with('-') { "" } else { "+" });
    out.push_str(exponent);
}

fn quoted(out: &mut String, text: &str) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => {
                out.push('\\');
                out.push(letter);
            }
            ' '..='~' => out.push(letter),
            _ => drop(write!(out, "\\U{:08x}", u32::from(letter))),
        }
    }
    out.push('"');
}
