//! The types that a setting can have, and how each is read from a node.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::account::{BrokerUrl, parse_broker_url};
use super::address::{
    AddressFault, HostPort, Listen, RedisUrl, StoreUrl, Upstream, parse_host_and_port, parse_listen, parse_results_url, parse_store_url,
    parse_upstream,
};
use super::context::{Context, shorten};
use super::suggest::nearest;
use super::tree::{Node, Value};
use super::unit::{Secret, parse_duration, parse_size, show_duration, show_size};

/// A type that a setting can have.
pub(super) trait Setting: Sized + PartialEq {
    /// Reads a node; what is wrong with it goes to `cx`, and then there is no value.
    fn read(node: &Node, cx: &Context<'_>) -> Option<Self>;
    /// The value as `/api/v1/config` shows it, without secrets.
    fn show(&self) -> Json;
}

/// Words as they are written in a list.
pub(super) fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ")
}

/// Reads one of a few words.
pub(super) fn read_choice<T: Copy>(node: &Node, cx: &Context<'_>, words: &[(&'static str, T)]) -> Option<T> {
    let names: Vec<&'static str> = words.iter().map(|(word, _)| *word).collect();
    let text = match &node.value {
        Value::Text(text) | Value::Bare(text) => text.as_str(),
        // `true` and `false` stand beside words in a few keys.
        Value::Bool(true) => "true",
        Value::Bool(false) => "false",
        other => {
            cx.refuse(
                node,
                &format!("is {} where a word is meant", other.kind()),
                &format!("Write one of {}.", quoted(&names)),
            );
            return None;
        }
    };
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
        return Some(*value);
    }
    let remedy = match nearest(text, &names) {
        Some(near) => format!("Did you mean {near:?}? Known are {}.", quoted(&names)),
        None => format!("Write one of {}.", quoted(&names)),
    };
    cx.refuse(node, "is not known", &remedy);
    None
}

/// The items of a list; a bare text is split at its commas.
pub(super) fn read_items(node: &Node, cx: &Context<'_>, what: &str) -> Option<Vec<Node>> {
    match &node.value {
        Value::List(items) => Some(items.clone()),
        Value::Bare(text) => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            Some(
                parts
                    .map(|part| Node {
                        at: node.at,
                        value: Value::Bare(part.to_owned()),
                    })
                    .collect(),
            )
        }
        other => {
            let remedy = format!("Write {} = [{}].", cx.key, shorten(cx.reader.sources.slice(node.at)));
            cx.refuse(node, &format!("is {} where {what} is meant", other.kind()), &remedy);
            None
        }
    }
}

/// The text of a string.
pub(super) fn read_text<'n>(node: &'n Node, cx: &Context<'_>, what: &str, example: &str) -> Option<&'n str> {
    if let Value::Text(text) | Value::Bare(text) = &node.value {
        return Some(text);
    }
    cx.refuse(
        node,
        &format!("is {} where {what} is meant", node.value.kind()),
        &format!("Write {} = \"{example}\".", cx.key),
    );
    None
}

impl<T: Setting> Setting for Vec<T> {
    fn read(node: &Node, cx: &Context<'_>) -> Option<Vec<T>> {
        let items = read_items(node, cx, "a list")?;
        let read: Vec<T> = items.iter().filter_map(|item| T::read(item, cx)).collect();
        (read.len() == items.len()).then_some(read)
    }

    fn show(&self) -> Json {
        self.iter().map(Setting::show).collect()
    }
}

impl Setting for String {
    fn read(node: &Node, cx: &Context<'_>) -> Option<String> {
        read_text(node, cx, "a string", "…").map(str::to_owned)
    }

    fn show(&self) -> Json {
        json!(self)
    }
}

impl Setting for bool {
    fn read(node: &Node, cx: &Context<'_>) -> Option<bool> {
        match &node.value {
            Value::Bool(truth) => Some(*truth),
            Value::Bare(text) if text == "true" => Some(true),
            Value::Bare(text) if text == "false" => Some(false),
            other => {
                cx.refuse(
                    node,
                    &format!("is {} where a boolean is meant", other.kind()),
                    &format!("Write {} = true or false.", cx.key),
                );
                None
            }
        }
    }

    fn show(&self) -> Json {
        json!(self)
    }
}

impl Setting for u64 {
    fn read(node: &Node, cx: &Context<'_>) -> Option<u64> {
        let number = match &node.value {
            Value::Integer(number) => u64::try_from(*number).ok(),
            Value::Bare(text) => text.parse().ok(),
            other => {
                cx.refuse(
                    node,
                    &format!("is {} where a whole number is meant", other.kind()),
                    &format!("Write {} = 100.", cx.key),
                );
                return None;
            }
        };
        if number.is_none() {
            cx.refuse(node, "is not a whole number from 0", &format!("Write {} = 100.", cx.key));
        }
        number
    }

    fn show(&self) -> Json {
        json!(self)
    }
}

/// How a number with a unit is spoken of where it is wrong.
struct Quantity {
    what: &'static str,
    /// The unit that a bare number probably meant.
    unit: &'static str,
    unit_name: &'static str,
    units: &'static str,
    /// The first of them is what is written where there is no text at all.
    examples: &'static [&'static str],
}

impl Quantity {
    fn read<T>(&self, node: &Node, cx: &Context<'_>, parse: fn(&str) -> Option<T>) -> Option<T> {
        let Quantity { what, units, .. } = self;
        if let Value::Integer(number) = &node.value {
            let remedy = format!("Write {} = \"{number}{}\" for {} ({units}).", cx.key, self.unit, self.unit_name);
            cx.refuse(node, "has no unit", &remedy);
            return None;
        }
        let text = read_text(node, cx, what, self.examples.first().unwrap_or(&""))?;
        let read = parse(text);
        if read.is_none() {
            let examples = self
                .examples
                .iter()
                .map(|example| format!("\"{example}\""))
                .collect::<Vec<_>>()
                .join(" or ");
            let remedy = format!("Write a whole number and one of {units}, such as {examples}.");
            cx.refuse(node, &format!("is not {what}"), &remedy);
        }
        read
    }
}

impl Setting for Duration {
    fn read(node: &Node, cx: &Context<'_>) -> Option<Duration> {
        let duration = Quantity {
            what: "a duration",
            unit: "s",
            unit_name: "seconds",
            units: "ms, s, m, h, d",
            examples: &["10s", "5m"],
        };
        duration.read(node, cx, parse_duration)
    }

    fn show(&self) -> Json {
        json!(show_duration(*self))
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size(pub usize);

impl Setting for Size {
    fn read(node: &Node, cx: &Context<'_>) -> Option<Size> {
        let size = Quantity {
            what: "a size",
            unit: "B",
            unit_name: "bytes",
            units: "B, KiB, MiB, GiB",
            examples: &["16MiB"],
        };
        size.read(node, cx, parse_size).map(Size)
    }

    fn show(&self) -> Json {
        json!(show_size(self.0))
    }
}

/// A path in a file is relative to that file; one in a variable or a flag, to the working directory.
impl Setting for PathBuf {
    fn read(node: &Node, cx: &Context<'_>) -> Option<PathBuf> {
        let text = read_text(node, cx, "a path", "/etc/oncegate/…")?;
        if text.is_empty() {
            cx.refuse(node, "is no path", &format!("Write a path, or leave {} out.", cx.key));
            return None;
        }
        let base = cx.reader.sources.get(node.at).map(|source| source.base.as_path());
        Some(base.map_or_else(|| PathBuf::from(text), |base| base.join(text)))
    }

    fn show(&self) -> Json {
        json!(self.display().to_string())
    }
}

impl Setting for Secret {
    fn read(node: &Node, cx: &Context<'_>) -> Option<Secret> {
        read_text(node, cx, "a string", "…").map(Secret::new)
    }

    fn show(&self) -> Json {
        json!("***")
    }
}

/// Reads a string with one of the address parsers.
fn read_address<T>(node: &Node, cx: &Context<'_>, example: &str, parse: fn(&str) -> Result<T, AddressFault>) -> Option<T> {
    let text = read_text(node, cx, "an address", example)?;
    parse(text).map_err(|fault| cx.refuse(node, &fault.says, &fault.remedy)).ok()
}

impl Setting for Listen {
    fn read(node: &Node, cx: &Context<'_>) -> Option<Listen> {
        read_address(node, cx, "127.0.0.1:5673", parse_listen)
    }

    fn show(&self) -> Json {
        json!(self.to_string())
    }
}

impl Setting for HostPort {
    fn read(node: &Node, cx: &Context<'_>) -> Option<HostPort> {
        read_address(node, cx, "127.0.0.1:9672", parse_host_and_port)
    }

    fn show(&self) -> Json {
        json!(self.to_string())
    }
}

impl Setting for Upstream {
    fn read(node: &Node, cx: &Context<'_>) -> Option<Upstream> {
        read_address(node, cx, "amqp://127.0.0.1:5672", parse_upstream)
    }

    fn show(&self) -> Json {
        json!(self.to_string())
    }
}

/// The address of the result backend.
impl Setting for RedisUrl {
    fn read(node: &Node, cx: &Context<'_>) -> Option<RedisUrl> {
        read_address(node, cx, "redis://127.0.0.1:6379/1", parse_results_url)
    }

    fn show(&self) -> Json {
        json!(self.to_string())
    }
}

impl Setting for StoreUrl {
    fn read(node: &Node, cx: &Context<'_>) -> Option<StoreUrl> {
        read_address(node, cx, "redis://127.0.0.1:6379/3", parse_store_url)
    }

    fn show(&self) -> Json {
        json!(self.to_string())
    }
}

/// An account of the proxy's own.
impl Setting for BrokerUrl {
    fn read(node: &Node, cx: &Context<'_>) -> Option<BrokerUrl> {
        read_address(node, cx, "amqp://USER:PASSWORD@127.0.0.1:5672/", parse_broker_url)
    }

    fn show(&self) -> Json {
        json!(self.to_string())
    }
}
