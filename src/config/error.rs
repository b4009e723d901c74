//! What is said of a wrong config: every error with its place, the offending text and the remedy.

use std::fmt;
use std::ops::Range;

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteError, MietteSpanContents, SourceCode, SourceSpan, SpanContents};

/// Where an error lies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In a file.
    File {
        /// The path as it was given.
        path: String,
        /// The line, from 1.
        line: usize,
        /// The column in characters, from 1.
        column: usize,
    },
    /// An environment variable, a command-line flag, or a file as a whole.
    Named(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File { path, line, column } => write!(f, "{path}:{line}:{column}"),
            Place::Named(name) => f.write_str(name),
        }
    }
}

/// One thing that is wrong. Prints as `rules.toml:12:8: key = "customer_id" is a constant: … Write …`.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{place}: {message}")]
pub struct ConfigError {
    /// Where.
    pub place: Place,
    /// The offending text, what is wrong with it, and what would be right.
    pub message: String,
    /// The text around it; absent where it may hold a secret.
    pub(super) snippet: Option<Snippet>,
}

/// One line of a file and the range in it that is wrong. Only the one line: a neighbouring one may hold a secret.
#[derive(Debug, Clone)]
pub(super) struct Snippet {
    name: String,
    line: String,
    /// The number of lines before it.
    number: usize,
    range: Range<usize>,
}

impl Snippet {
    /// The line in which a range of a file's text begins; of the range, what lies on that line.
    pub fn new(name: &str, text: &str, range: Range<usize>) -> Snippet {
        let before = text.get(..range.start).unwrap_or_default();
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = text.get(start..).and_then(|rest| rest.lines().next()).unwrap_or_default();
        let range = range.start - start..range.end.saturating_sub(start).min(line.len());
        Snippet {
            name: name.to_owned(),
            line: line.to_owned(),
            number: before.matches('\n').count(),
            range,
        }
    }
}

/// The line of the error with the offending text marked; a diagnostic of its own so that the plain first line stays as it is.
#[derive(Debug, thiserror::Error)]
#[error("here")]
struct Marked(Snippet);

impl miette::Diagnostic for Marked {
    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&self.0)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let length = self.0.range.len().max(1);
        Some(Box::new(std::iter::once(LabeledSpan::new(None, self.0.range.start, length))))
    }
}

impl SourceCode for Snippet {
    fn read_span<'a>(&'a self, _: &SourceSpan, _: usize, _: usize) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let bytes = self.line.as_bytes();
        let contents = MietteSpanContents::new_named(self.name.clone(), bytes, (0..bytes.len()).into(), self.number, 0, 1);
        Ok(Box::new(contents))
    }
}

/// Everything that is wrong with a config, in the order of the text. Never empty.
#[derive(Debug, Clone, thiserror::Error)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl ConfigErrors {
    /// For a terminal: each error's plain line, followed by the line of the file with the offending text marked.
    pub fn render(&self, colour: Colour) -> String {
        let theme = match colour {
            Colour::On => GraphicalTheme::unicode(),
            Colour::Off => GraphicalTheme::unicode_nocolor(),
        };
        let handler = GraphicalReportHandler::new_themed(theme).with_links(false);
        let mut out = String::new();
        for error in &self.0 {
            out.push_str(&error.to_string());
            out.push('\n');
            let Some(snippet) = &error.snippet else { continue };
            let marked = Marked(snippet.clone());
            let mut drawing = String::new();
            if handler.render_report(&mut drawing, &marked).is_ok() {
                // The first lines repeat the headline, which has just been printed in full.
                for line in drawing.lines().skip_while(|line| !line.contains('╭')) {
                    out.push_str(line);
                    out.push('\n');
                }
            }
        }
        out
    }
}

/// Whether to draw in colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// With ANSI colours.
    On,
    /// Plain text.
    Off,
}

/// Something that is allowed and probably not meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Where.
    pub place: Place,
    /// The rule it is about, if it is about one.
    pub rule: Option<String>,
    /// What, and the remedy.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}
