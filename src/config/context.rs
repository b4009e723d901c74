//! How a wrong value is reported: the key, the offending text at its place, and the remedy.

use super::report::{Reader, Shown};
use super::source::{Kind, Span};
use super::tree::{Node, Value};

/// What is read just now.
#[derive(Clone, Copy)]
pub(super) struct Context<'r> {
    pub reader: &'r Reader,
    /// The table's path, as it is written.
    pub table: &'r str,
    pub key: &'r str,
    pub shown: Shown,
}

impl Context<'_> {
    /// Notes that a value is wrong: `KEY = TEXT says. remedy`.
    pub fn refuse(&self, node: &Node, says: &str, remedy: &str) {
        self.refuse_from(node, 0, says, remedy);
    }

    /// As [`Context::refuse`], for a mistake that begins some bytes into a string.
    pub fn refuse_from(&self, node: &Node, offset: usize, says: &str, remedy: &str) {
        let message = sentence(&format!("{} {says}", self.name_and_text(node)), remedy);
        self.report(node, offset, &message);
    }

    /// `KEY = TEXT`, as it was written.
    pub fn name_and_text(&self, node: &Node) -> String {
        let sources = &self.reader.sources;
        let text = match (self.shown, &node.value) {
            (Shown::Hidden, _) => "***".to_owned(),
            (Shown::Plain, Value::Bare(text)) => format!("{text:?}"),
            (Shown::Plain, _) => shorten(sources.slice(node.at)),
        };
        match sources.get(node.at).map(|source| source.kind) {
            Some(Kind::Single) if !self.table.is_empty() => format!("{}.{} = {text}", self.table, self.key),
            _ => format!("{} = {text}", self.key),
        }
    }

    /// Notes an error in these words, some bytes into a string.
    pub fn report(&self, node: &Node, offset: usize, message: &str) {
        let sources = &self.reader.sources;
        let at = match node.value {
            Value::Text(_) => inside_quotes(sources.slice(node.at), node.at, offset),
            _ => node.at,
        };
        self.reader.error(Some(at), self.shown, sources.place(at), message.to_owned());
    }
}

/// `says. remedy`, where `says` may already end a sentence and the remedy may be empty.
pub(super) fn sentence(says: &str, remedy: &str) -> String {
    let stop = if says.ends_with(['.', '?', '!']) { "" } else { "." };
    if remedy.is_empty() {
        format!("{says}{stop}")
    } else {
        format!("{says}{stop} {remedy}")
    }
}

/// The first line of a text, at most 60 characters.
pub(super) fn shorten(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    if line.len() == text.len() && line.chars().count() <= 60 {
        return line.to_owned();
    }
    line.chars().take(60).chain("…".chars()).collect()
}

/// The place of a byte of a string's value within the quotes of a TOML literal. Escapes before it are stepped over.
pub(super) fn inside_quotes(literal: &str, at: Span, offset: usize) -> Span {
    let quotes = if literal.starts_with("\"\"\"") || literal.starts_with("'''") {
        3
    } else {
        1
    };
    let raw = literal.starts_with('\'');
    let mut start = quotes;
    if quotes == 3 {
        // A line break right behind the opening quotes is not part of the value.
        start += literal.get(3..).map_or(0, |rest| {
            if rest.starts_with("\r\n") {
                2
            } else {
                usize::from(rest.starts_with('\n'))
            }
        });
    }
    let mut value_bytes = 0;
    let mut characters = literal.get(start..).unwrap_or_default().chars();
    while value_bytes < offset {
        let Some(character) = characters.next() else { break };
        start += character.len_utf8();
        value_bytes += character.len_utf8();
        if character == '\\' && !raw {
            let escape = characters.next().unwrap_or_default();
            let digits = match escape {
                'u' => 4,
                'U' => 8,
                'x' => 2,
                _ => 0,
            };
            start += escape.len_utf8() + digits;
            characters.nth(digits.max(1) - 1).filter(|_| digits > 0);
        }
    }
    let end = at.end.saturating_sub(quotes).max(at.start + start.min(literal.len()));
    Span {
        start: (at.start + start).min(at.end),
        end,
        ..at
    }
}
