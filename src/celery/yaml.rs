//! YAML as `PyYAML`'s `safe_load` reads it, built from parser events without recursion.
//!
//! Plain scalars are those of YAML 1.1 (`yaml/scalar.rs`). Refused is what `safe_load` refuses, and also aliases, anchors and merge keys: none
//! of them is needed to say what a task's arguments are, and each can mean more than it shows.

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};

use super::envelope::base64;
use super::value::{Value, keep_last};
use super::{Limits, MAX_DEPTH, Unreadable};

mod scalar;
mod write;

pub(super) use write::accumulate;

/// Reads a stream of one document.
pub fn parse(body: &[u8], limits: Limits) -> Result<Value, Unreadable> {
    let text = std::str::from_utf8(body).map_err(|_| refuse("it is not utf-8"))?;
    // YAML 1.1 has these as line breaks and YAML 1.2 does not; `PyYAML` writes them as escapes.
    if text.contains(['\u{85}', '\u{2028}', '\u{2029}', '\u{feff}']) {
        return Err(refuse("a character that PyYAML does not write"));
    }
    let mut builder = Builder {
        open: Vec::new(),
        root: None,
        values_left: limits.max_values,
    };
    let mut documents = 0;
    for event in Parser::new_from_str(text) {
        let (event, _) = event.map_err(|error| refuse(&error.to_string()))?;
        if let Event::DocumentStart(_) = event {
            documents += 1;
            if documents > 1 {
                return Err(refuse("more than one document"));
            }
        }
        builder.take(event)?;
    }
    builder.root.ok_or_else(|| refuse("it is empty"))
}

fn refuse(what: &str) -> Unreadable {
    Unreadable::ContentType(format!("yaml: {what}").into())
}

/// A list or mapping whose end was not seen yet.
enum Open {
    List(Vec<Value>),
    Map(Entries),
    Set(Entries),
}

#[derive(Default)]
struct Entries {
    done: Vec<(Value, Value)>,
    key: Option<Value>,
}

impl Entries {
    fn add(&mut self, value: Value) {
        match self.key.take() {
            None => self.key = Some(value),
            Some(key) => self.done.push((key, value)),
        }
    }

    /// The entries, if each key has its value.
    fn close(mut self) -> Result<Vec<(Value, Value)>, Unreadable> {
        if self.key.is_some() {
            return Err(refuse("a key without a value"));
        }
        keep_last(&mut self.done);
        Ok(self.done)
    }
}

struct Builder {
    open: Vec<Open>,
    root: Option<Value>,
    values_left: usize,
}

impl Builder {
    fn take(&mut self, event: Event<'_>) -> Result<(), Unreadable> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => Ok(()),
            Event::Alias(_) => Err(refuse("an alias")),
            Event::Scalar(text, style, anchor, tag) => {
                no_anchor(anchor)?;
                let value = scalar_value(&text, style, tag.as_deref())?;
                self.add(value)
            }
            Event::SequenceStart(anchor, tag) => {
                no_anchor(anchor)?;
                match core_tag(tag.as_deref())? {
                    None | Some("seq") => self.enter(Open::List(Vec::new())),
                    Some(_) => Err(refuse("a tag")),
                }
            }
            Event::MappingStart(anchor, tag) => {
                no_anchor(anchor)?;
                match core_tag(tag.as_deref())? {
                    None | Some("map") => self.enter(Open::Map(Entries::default())),
                    Some("set") => self.enter(Open::Set(Entries::default())),
                    Some(_) => Err(refuse("a tag")),
                }
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let value = match self.open.pop() {
                    Some(Open::List(items)) => Value::List(items),
                    Some(Open::Map(entries)) => Value::Map(entries.close()?),
                    Some(Open::Set(entries)) => Value::Set(entries.close()?.into_iter().map(|(key, _)| key).collect()),
                    None => return Err(refuse("an end without a beginning")),
                };
                self.place(value)
            }
        }
    }

    fn enter(&mut self, container: Open) -> Result<(), Unreadable> {
        if self.open.len() >= MAX_DEPTH {
            return Err(Unreadable::TooLarge("nested too deep".into()));
        }
        self.spend()?;
        self.open.push(container);
        Ok(())
    }

    fn spend(&mut self) -> Result<(), Unreadable> {
        self.values_left = self
            .values_left
            .checked_sub(1)
            .ok_or_else(|| Unreadable::TooLarge("too many values".into()))?;
        Ok(())
    }

    fn add(&mut self, value: Value) -> Result<(), Unreadable> {
        self.spend()?;
        self.place(value)
    }

    fn place(&mut self, value: Value) -> Result<(), Unreadable> {
        match self.open.last_mut() {
            Some(Open::List(items)) => items.push(value),
            Some(Open::Map(entries) | Open::Set(entries)) => entries.add(value),
            None if self.root.is_none() => self.root = Some(value),
            None => return Err(refuse("more than one value")),
        }
        Ok(())
    }
}

fn no_anchor(anchor: usize) -> Result<(), Unreadable> {
    if anchor == 0 { Ok(()) } else { Err(refuse("an anchor")) }
}

/// What stands behind `!!`. Every other tag is an application's own.
fn core_tag(tag: Option<&Tag>) -> Result<Option<&str>, Unreadable> {
    match tag {
        None => Ok(None),
        Some(tag) if tag.is_yaml_core_schema() => Ok(Some(&tag.suffix)),
        Some(_) => Err(refuse("a tag")),
    }
}

fn scalar_value(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, Unreadable> {
    let resolved = match core_tag(tag)? {
        None if style == ScalarStyle::Plain => scalar::plain(text),
        None | Some("str") => Some(Value::Str(text.to_owned())),
        Some("binary") => {
            let compact: String = text.split_ascii_whitespace().collect();
            base64(&compact).map(Value::Bytes)
        }
        Some(kind @ ("bool" | "int" | "float" | "null" | "timestamp")) => scalar::tagged(kind, text),
        Some(_) => return Err(refuse("a tag")),
    };
    resolved.ok_or_else(|| refuse("a scalar that has no certain value"))
}

#[cfg(test)]
mod tests;
