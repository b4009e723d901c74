//! The texts that settings come from, and places within them.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::Place;

/// What kind of text a setting was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A TOML file.
    File,
    /// An environment variable or a command-line flag: its whole text is one value.
    Single,
}

/// One text.
#[derive(Debug)]
pub(super) struct Source {
    /// The path as it was given, the variable, or the flag.
    pub name: String,
    pub kind: Kind,
    pub text: Arc<str>,
    /// What relative paths in this text are relative to.
    pub base: PathBuf,
}

/// A range of bytes of one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span {
    pub source: usize,
    pub start: usize,
    pub end: usize,
}

impl Span {
    /// The same place, as a range of its source's bytes.
    pub fn range(self) -> Range<usize> {
        self.start..self.end
    }
}

/// All texts of one load, in the order in which they were read.
#[derive(Debug, Default)]
pub(super) struct Sources(Vec<Source>);

impl Sources {
    /// Adds a text and gives the span that covers it.
    pub fn add(&mut self, name: String, kind: Kind, text: &str, base: &Path) -> Span {
        self.0.push(Source {
            name,
            kind,
            text: Arc::from(text),
            base: base.to_owned(),
        });
        Span {
            source: self.0.len() - 1,
            start: 0,
            end: text.len(),
        }
    }

    /// All texts.
    pub fn iter(&self) -> impl Iterator<Item = &Source> {
        self.0.iter()
    }

    /// The source of a span.
    pub fn get(&self, span: Span) -> Option<&Source> {
        self.0.get(span.source)
    }

    /// The text that a span covers.
    pub fn slice(&self, span: Span) -> &str {
        self.get(span).and_then(|source| source.text.get(span.range())).unwrap_or_default()
    }

    /// Where a span begins, as an error names it.
    pub fn place(&self, span: Span) -> Place {
        let Some(source) = self.get(span) else {
            return Place::Named(String::new());
        };
        if source.kind == Kind::Single {
            return Place::Named(source.name.clone());
        }
        place_after(&source.name, source.text.get(..span.start).unwrap_or(&source.text))
    }
}

/// The place in a file that follows this text.
pub(super) fn place_after(name: &str, before: &str) -> Place {
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Place::File {
        path: name.to_owned(),
        line: before.matches('\n').count() + 1,
        column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
    }
}
