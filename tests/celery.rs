//! Messages as Celery 5.7 publishes them, and pickles as Python writes them, against what Python reads from them.
//!
//! The files of the directory `celery` are written by `celery/generate.py`.

use oncegate::amqp::content::{ContentHeader, Properties};
use oncegate::celery::body::{self, Body, Encoding};
use oncegate::celery::task::{self, Protocol, Task};
use oncegate::celery::value::Value;
use oncegate::celery::{Limits, pickle};
use serde_json::{Value as Json, json};

#[path = "celery/accumulate.rs"]
mod accumulate;
#[path = "celery/describe.rs"]
mod describe;
#[path = "celery/hostile.rs"]
mod hostile;
#[path = "celery/messages.rs"]
mod messages;
#[path = "celery/pickles.rs"]
mod pickles;

/// The limits that the default of `max_message` gives.
fn limits() -> Limits {
    Limits::new(16 << 20)
}

fn rows(file: &str) -> Vec<Json> {
    let rows: Vec<Json> = file
        .lines()
        .map(|line| serde_json::from_str(line).expect("a row is JSON"))
        .collect();
    assert!(rows.len() > 20);
    rows
}

fn octets(hex: &Json) -> Vec<u8> {
    let hex = hex.as_str().expect("hex is text");
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex digits"))
        .collect()
}

fn text<'j>(row: &'j Json, name: &str) -> &'j str {
    row[name].as_str().unwrap_or_else(|| panic!("{name} is text"))
}

/// The messages that were captured, each with its name, content header, body and what is expected of it.
fn captured() -> Vec<(String, Vec<u8>, Vec<u8>, Json)> {
    rows(include_str!("celery/messages.jsonl"))
        .into_iter()
        .map(|row| (text(&row, "name").to_owned(), octets(&row["header"]), octets(&row["body"]), row))
        .collect()
}

fn properties(content_header: &[u8]) -> Properties<'_> {
    ContentHeader::decode(content_header).expect("a content header").properties
}

#[path = "celery/remote.rs"]
mod remote;
#[path = "celery/signals.rs"]
mod signals;
#[path = "celery/yaml.rs"]
mod yaml;
