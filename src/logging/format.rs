//! From an event to one line, as text or JSON.

use std::fmt::{self, Write};
use std::sync::{PoisonError, RwLock};
use std::time::SystemTime;

use time::OffsetDateTime;
use time::macros::format_description;
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

use super::writer::Sink;

/// Characters that one value may take in a line; the rest is cut.
const VALUE_MAX: usize = 1024;
/// Characters that the event itself may take: it can be the report of a wrong configuration.
const EVENT_MAX: usize = 8192;

/// The names that every JSON line has of itself: an event's own field of such a name is left out, since no name may stand twice.
const OWN_NAMES: [&str; 6] = ["ts", "level", "event", "target", "instance", "config"];

/// The format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Readable text.
    Text,
    /// One JSON object a line.
    Json,
}

/// Writes events as lines.
pub struct Lines {
    instance: String,
    settings: RwLock<(Format, String)>,
    sink: Sink,
}

/// What an event's field holds.
enum Value {
    Text(String),
    /// A number or boolean, as it is written in JSON.
    Literal(String),
}

/// One event, taken apart.
struct Record {
    level: Level,
    /// Set for events of other crates.
    target: Option<&'static str>,
    event: String,
    fields: Vec<(&'static str, Value)>,
}

impl Lines {
    pub(super) fn new(format: Format, instance: &str, config: &str, sink: Sink) -> Lines {
        Lines {
            instance: instance.to_owned(),
            settings: RwLock::new((format, config.to_owned())),
            sink,
        }
    }

    pub(super) fn set(&self, format: Format, config: &str) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = (format, config.to_owned());
    }

    pub(super) fn write_event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let foreign = !metadata.target().starts_with("oncegate");
        let mut record = Record {
            level: *metadata.level(),
            target: foreign.then(|| metadata.target()),
            event: String::new(),
            fields: Vec::with_capacity(12),
        };
        event.record(&mut record);
        let now = timestamp();
        let settings = self.settings.read().unwrap_or_else(PoisonError::into_inner);
        let line = match &*settings {
            (Format::Text, _) => record.to_text(&now),
            (Format::Json, config) => record.to_json(&now, &self.instance, config),
        };
        drop(settings);
        self.sink.put(line);
    }
}

/// UTC, RFC 3339, milliseconds.
fn timestamp() -> String {
    timestamp_of(SystemTime::now())
}

pub(super) fn timestamp_of(at: SystemTime) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    OffsetDateTime::from(at).format(format).unwrap_or_default()
}

impl Visit for Record {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.event),
            name => self.fields.push((name, Value::Text(value.to_owned()))),
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.fields.push((field.name(), Value::Literal(value.to_string())));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.fields.push((field.name(), Value::Literal(value.to_string())));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        let text = value.to_string();
        let value = if value.is_finite() {
            Value::Literal(text)
        } else {
            Value::Text(text)
        };
        self.fields.push((field.name(), value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.fields.push((field.name(), Value::Literal(value.to_string())));
    }
}

impl Record {
    fn to_text(&self, now: &str) -> String {
        let mut line = format!("{now} {:<5} ", self.level.as_str());
        escape(&mut line, &self.event, EVENT_MAX, Quotes::Plain);
        for (name, value) in &self.fields {
            let _ = write!(line, " {name}=");
            match value {
                Value::Literal(literal) => line.push_str(literal),
                Value::Text(text) if is_plain(text) => line.push_str(text),
                Value::Text(text) => push_quoted(&mut line, text, VALUE_MAX),
            }
        }
        if let Some(target) = self.target {
            let _ = write!(line, " target={target}");
        }
        line.push('\n');
        line
    }

    fn to_json(&self, now: &str, instance: &str, config: &str) -> String {
        let level = self.level.as_str().to_ascii_lowercase();
        let mut line = format!(r#"{{"ts":"{now}","level":"{level}","event":"#);
        push_quoted(&mut line, &self.event, EVENT_MAX);
        for (name, value) in self.fields.iter().filter(|(name, _)| !OWN_NAMES.contains(name)) {
            let _ = write!(line, r#","{name}":"#);
            match value {
                Value::Literal(literal) => line.push_str(literal),
                Value::Text(text) => push_quoted(&mut line, text, VALUE_MAX),
            }
        }
        for (name, value) in [("target", self.target.unwrap_or("")), ("instance", instance), ("config", config)] {
            if !value.is_empty() {
                let _ = write!(line, r#","{name}":"#);
                push_quoted(&mut line, value, VALUE_MAX);
            }
        }
        line.push_str("}\n");
        line
    }
}

/// Text from the network as it may be shown on a terminal: control characters escaped, long text cut.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    escape(&mut shown, text, VALUE_MAX, Quotes::Plain);
    shown
}

/// Text that needs no quotes: nothing in it ends a value or a line.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.len() <= VALUE_MAX && text.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '"' | '\\' | '='))
}

fn push_quoted(line: &mut String, text: &str, max: usize) {
    line.push('"');
    escape(line, text, max, Quotes::Escaped);
    line.push('"');
}

/// Whether the text will stand between quotes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quotes {
    Escaped,
    Plain,
}

/// Escapes as JSON does, and besides it every character that could move a terminal's cursor, end a line or turn its direction.
fn escape(line: &mut String, text: &str, max: usize, quotes: Quotes) {
    for (index, c) in text.chars().enumerate() {
        if index == max {
            line.push('…');
            return;
        }
        match c {
            '"' | '\\' if quotes == Quotes::Plain => line.push(c),
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            c if c.is_control() || is_format_character(c) => {
                let _ = write!(line, "\\u{:04x}", u32::from(c));
            }
            c => line.push(c),
        }
    }
}

/// Line and paragraph separators, and the characters that override the direction of text: all within four hex digits.
fn is_format_character(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}
