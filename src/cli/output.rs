//! What a command prints, and the code that it ends with.

use std::io::{BufRead, Write};
use std::process::ExitCode;

use clap::error::ErrorKind;
use serde_json::{Value, json};

/// The exit codes, which scripts rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// The answer is no: no lock, no rule, unknown id.
    No = 1,
    /// Wrong usage.
    Usage = 64,
    /// The broker, the store or the admin listener is not reachable, or an address is in use.
    Unavailable = 69,
    /// Try again.
    TryAgain = 75,
    /// Refused: by a missing token, or by whom was asked.
    Refused = 77,
    /// The configuration is wrong.
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why a command did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) exit: Exit,
    pub(super) code: String,
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(exit: Exit, code: &str, message: impl Into<String>) -> Failure {
        Failure {
            exit,
            code: code.to_owned(),
            message: message.into(),
        }
    }
}

/// Whether commands print for people or for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Text,
    Json,
}

/// Where a command reads answers from and prints to. What cannot be printed (a closed pipe) is left unsaid.
pub struct Output<'a> {
    input: &'a mut dyn BufRead,
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    style: Style,
}

impl<'a> Output<'a> {
    /// Standard input, output and error, or a test's own.
    pub fn new(input: &'a mut dyn BufRead, out: &'a mut dyn Write, err: &'a mut dyn Write) -> Output<'a> {
        Output {
            input,
            out,
            err,
            style: Style::Text,
        }
    }

    pub(super) fn set_json(&mut self, json: bool) {
        self.style = if json { Style::Json } else { Style::Text };
    }

    /// One JSON value, or the lines of text that say the same.
    pub(super) fn answer(&mut self, value: &Value, text: impl FnOnce(&Value) -> String) {
        let text = match self.style {
            Style::Json => format!("{value}\n"),
            Style::Text => text(value),
        };
        let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
    }

    /// A line beside the answer.
    pub(super) fn note(&mut self, text: &str) {
        if self.style == Style::Text {
            let _ = writeln!(self.err, "{text}");
        }
    }

    /// Asks, and takes only `y` and `yes` for a yes.
    pub(super) fn confirm(&mut self, question: &str) -> bool {
        let _ = write!(self.err, "{question} [y/N] ").and_then(|()| self.err.flush());
        let mut answer = String::new();
        self.input.read_line(&mut answer).is_ok() && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
    }

    pub(super) fn fail(&mut self, failure: &Failure) -> Exit {
        match self.style {
            Style::Json => {
                let error = json!({ "error": { "code": failure.code, "message": failure.message } });
                let _ = writeln!(self.out, "{error}");
            }
            Style::Text => {
                let _ = writeln!(self.err, "oncegate: {}", failure.message);
            }
        }
        failure.exit
    }

    /// What clap says of the arguments: help and version are answers, all else is wrong usage.
    pub(super) fn usage(&mut self, error: &clap::Error) -> Exit {
        let text = error.render();
        if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
            let _ = write!(self.out, "{text}");
            return Exit::Done;
        }
        let _ = write!(self.err, "{text}");
        Exit::Usage
    }
}
