//! The tables of which nothing, or little, is built.

use super::context::Context;
use super::reader::TableReader;
use super::report::{Reader, Shown};
use super::rule::words;
use super::secrets::read_secret;
use super::setting::read_text;
use super::source::Span;
use super::tables::open;
use super::tree::{Table, Value};
use super::unit::Secret;
use crate::rules::spec::EnableEvents;

/// `[control]`: whether workers are told to publish task events.
pub(super) fn read_control(root: &mut TableReader<'_>) -> EnableEvents {
    let mut control = open(root, "control", "control");
    read_broker_url(&mut control);
    let enable_events = control.choice(
        "enable_events",
        EnableEvents::Auto,
        &words(EnableEvents::NAMES, EnableEvents::from_name),
    );
    let vhosts = open(&mut control, "vhosts", "control.vhosts");
    for entry in vhosts.entries() {
        match &entry.node.value {
            Value::Table(table) => read_vhost(root.reader(), Some(table), Some(entry.name_at)),
            other => {
                let message = format!(
                    "{} is {} where a table is meant. Write [control.vhosts.{:?}].",
                    entry.name,
                    other.kind(),
                    entry.name
                );
                root.reader().error_at(entry.name_at, message);
            }
        }
    }
    let shown = control.finish();
    root.show("control", shown);
    enable_events
}

/// The tables of which nothing is built: typed, so that a mistake in them is told as such.
pub(super) fn read_unbuilt_tables(root: &mut TableReader<'_>) {
    let mut park = open(root, "park", "park");
    park.get("prefix", "oncegate.park".to_owned());
    let shown = park.finish();
    root.show("park", shown);

    let mut events = open(root, "events", "events");
    events.optional::<String>("exchange");
    let shown = events.finish();
    root.show("events", shown);
}

pub(super) fn read_vhost(reader: &Reader, table: Option<&Table>, at: Option<Span>) {
    let mut table = TableReader::new(reader, "control.vhosts.*", table, at);
    read_broker_url(&mut table);
    table.finish();
}

/// The URL of the proxy's own broker account.
fn read_broker_url(table: &mut TableReader<'_>) {
    read_secret::<Secret>(table, "url", "url_file");
    let wrong = table.node("url").filter(|node| match &node.value {
        Value::Text(text) | Value::Bare(text) => !text.starts_with("amqp://") && !text.starts_with("amqps://"),
        _ => false,
    });
    if let Some(node) = wrong {
        let cx = Context {
            reader: table.reader(),
            table: "control",
            key: "url",
            shown: Shown::Hidden,
        };
        if read_text(node, &cx, "a URL", "amqp://…").is_some() {
            cx.refuse(
                node,
                "is not the URL of a broker",
                "Write url = \"amqp://USER:PASSWORD@HOST:5672/VHOST\".",
            );
        }
    }
}
