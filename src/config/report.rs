//! What a load has found: errors, warnings, files, and the keys that exist.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;

use super::error::{ConfigError, Place, Snippet, Warning};
use super::source::{Kind, Sources, Span};

/// One load: its texts, and what was found wrong so far.
#[derive(Debug, Default)]
pub(super) struct Reader {
    pub sources: Sources,
    errors: RefCell<Vec<(Option<Span>, ConfigError)>>,
    warnings: RefCell<Vec<Warning>>,
    known: RefCell<BTreeSet<String>>,
    files: RefCell<Vec<PathBuf>>,
}

/// Whether the text at a place may be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// Yes.
    Plain,
    /// No: it may hold a password.
    Hidden,
}

impl Reader {
    /// Notes an error. The same text at the same place is noted once.
    pub fn error(&self, at: Option<Span>, shown: Shown, place: Place, message: String) {
        let mut errors = self.errors.borrow_mut();
        if errors.iter().any(|(_, known)| known.place == place && known.message == message) {
            return;
        }
        let source = at.and_then(|at| Some((self.sources.get(at)?, at)));
        let snippet = source.filter(|(source, _)| source.kind == Kind::File && shown == Shown::Plain);
        let snippet = snippet.map(|(source, at)| Snippet::new(&source.name, &source.text, at.range()));
        errors.push((at, ConfigError { place, message, snippet }));
    }

    /// Notes an error at a place.
    pub fn error_at(&self, at: Span, message: String) {
        self.error(Some(at), Shown::Plain, self.sources.place(at), message);
    }

    /// Notes a warning at a place.
    pub fn warn(&self, at: Span, rule: Option<&str>, message: String) {
        let warning = Warning {
            place: self.sources.place(at),
            rule: rule.map(str::to_owned),
            message,
        };
        let mut warnings = self.warnings.borrow_mut();
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }

    /// Notes that a key exists.
    pub fn know(&self, path: String) {
        self.known.borrow_mut().insert(path);
    }

    /// Notes a file that the config names.
    pub fn note_file(&self, path: PathBuf) {
        self.files.borrow_mut().push(path);
    }

    /// The files that the config names.
    pub fn files(&self) -> Vec<PathBuf> {
        self.files.borrow().clone()
    }

    /// The headers of the tables that have a key of this name, as far as they have been read.
    pub fn tables_with(&self, key: &str) -> Vec<String> {
        let known = self.known.borrow();
        let tables = known
            .iter()
            .filter_map(|path| path.rsplit_once('.').filter(|(_, last)| *last == key));
        tables.map(|(table, _)| header_of(table)).collect()
    }

    /// How many errors there are so far.
    pub fn error_count(&self) -> usize {
        self.errors.borrow().len()
    }

    /// All errors in the order of the texts, all warnings, and the path of every key that was asked for.
    pub fn into_parts(self) -> (Vec<ConfigError>, Vec<Warning>, BTreeSet<String>) {
        let mut errors = self.errors.into_inner();
        errors.sort_by_key(|(at, _)| *at);
        (
            errors.into_iter().map(|(_, error)| error).collect(),
            self.warnings.into_inner(),
            self.known.into_inner(),
        )
    }
}

/// The header under which the keys of a table stand.
pub(super) fn header_of(path: &str) -> String {
    if matches!(path, "rule" | "rule.limit" | "admin.token") {
        format!("[[{path}]]")
    } else {
        format!("[{path}]")
    }
}
