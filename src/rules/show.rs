//! Keys and values as people read them: in summaries, and in the text that a template makes.

use std::borrow::Cow;
use std::sync::Arc;

use super::Rule;
use super::digest::encoded;
use super::spec::Summary;
use crate::celery::value::Value;

/// The most octets of a key that a summary shows.
const SUMMARY_MAX: usize = 200;

/// What locks and logs show of a key, as much of it as the rule allows.
pub(super) fn summary(rule: &Rule, names: &[&str], parts: &[Cow<'_, Value>]) -> Arc<str> {
    match rule.summary {
        Summary::None => Arc::from(""),
        Summary::Names => Arc::from(names.join(", ")),
        Summary::Full => {
            let mut text = String::new();
            for (name, part) in names.iter().zip(parts) {
                if !text.is_empty() {
                    text.push_str(", ");
                }
                text.push_str(name);
                text.push('=');
                show(part, &mut text);
                if text.len() > SUMMARY_MAX {
                    let cut = (0..=SUMMARY_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
                    text.truncate(cut);
                    text.push('\u{2026}');
                    break;
                }
            }
            Arc::from(text)
        }
    }
}

/// A value in a template: text as it is, everything else as it is shown.
pub(super) fn render(value: &Value, out: &mut String) {
    match value {
        Value::Str(text) => out.push_str(text),
        other => show(other, out),
    }
}

/// A value as Python would write it. Stops early once a summary is full.
pub(super) fn show(value: &Value, out: &mut String) {
    use std::fmt::Write as _;
    let items = |items: &[Value], open: char, close: char, out: &mut String| {
        out.push(open);
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                out.push_str(", ");
            }
            show(item, out);
        }
        out.push(close);
    };
    // Writing to a string cannot fail.
    let _ = match value {
        Value::Null => write!(out, "None"),
        Value::Bool(truth) => write!(out, "{}", if *truth { "True" } else { "False" }),
        Value::Int(number) => write!(out, "{number}"),
        Value::BigInt(digits) => write!(out, "{digits}"),
        // Adding nought makes -0.0 the 0.0 that it is equal to.
        Value::Float(number) => write!(out, "{:?}", number + 0.0),
        Value::Str(text) => write!(out, "'{}'", text.escape_debug()),
        Value::Bytes(bytes) => write!(out, "b'{}'", bytes.escape_ascii()),
        Value::List(list) => {
            items(list, '[', ']', out);
            Ok(())
        }
        Value::Tuple(list) => {
            items(list, '(', ')', out);
            Ok(())
        }
        // The order of the wire differs from process to process and means nothing; a template must not depend on it.
        Value::Set(list) => {
            let mut sorted = list.clone();
            sorted.sort_by_cached_key(|item| encoded(&[item]));
            items(&sorted, '{', '}', out);
            Ok(())
        }
        Value::Map(entries) => {
            out.push('{');
            let mut sorted: Vec<_> = entries.iter().collect();
            sorted.sort_by_cached_key(|(key, _)| encoded(&[key]));
            for (index, (key, item)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                show(key, out);
                out.push_str(": ");
                show(item, out);
            }
            out.push('}');
            Ok(())
        }
        Value::Object { class, parts } => {
            out.push_str(class);
            items(parts, '(', ')', out);
            Ok(())
        }
    };
}
