//! Settings before they have types: TOML, environment and flags as one tree in which every node knows where it was written.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::source::Span;

/// A value and its place. The span of a TOML string covers its quotes.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub at: Span,
    pub value: Value,
}

/// What was written.
#[derive(Debug, Clone)]
pub(super) enum Value {
    /// A TOML string.
    Text(String),
    /// The text of an environment variable or a flag, whose type is that of the key it is for.
    Bare(String),
    Integer(i64),
    /// An integer beyond 64 bits, a float or a date.
    Other(&'static str),
    Bool(bool),
    List(Vec<Node>),
    Table(Table),
}

impl Value {
    /// The kind, with its article, as an error names it.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Text(_) | Value::Bare(_) => "a string",
            Value::Integer(_) => "a number",
            Value::Other(kind) => kind,
            Value::Bool(_) => "a boolean",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
        }
    }
}

/// A table; the names in it are unique.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    pub entries: Vec<Entry>,
}

/// One key of a table.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub name: String,
    /// Where the name was written.
    pub name_at: Span,
    pub node: Node,
}

impl Table {
    /// The entry of a name.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    /// Removes the entry of a name.
    pub fn remove(&mut self, name: &str) {
        self.entries.retain(|entry| entry.name != name);
    }

    /// Sets one value by its path; what was there gives way. `at` is the place of the whole.
    pub fn set(&mut self, path: &[String], at: Span, node: Node) {
        let Some((name, rest)) = path.split_first() else { return };
        if rest.is_empty() {
            self.remove(name);
            self.entries.push(Entry {
                name: name.clone(),
                name_at: at,
                node,
            });
            return;
        }
        let found = self
            .entries
            .iter()
            .position(|entry| entry.name == *name && matches!(entry.node.value, Value::Table(_)));
        let index = found.unwrap_or_else(|| {
            self.remove(name);
            let empty = Node {
                at,
                value: Value::Table(Table::default()),
            };
            self.entries.push(Entry {
                name: name.clone(),
                name_at: at,
                node: empty,
            });
            self.entries.len() - 1
        });
        if let Some(Entry {
            node: Node {
                value: Value::Table(table),
                ..
            },
            ..
        }) = self.entries.get_mut(index)
        {
            table.set(rest, at, node);
        }
    }

    /// Takes over what another file sets: tables grow together, lists of tables follow one another. A key that both set is given to
    /// `clash` with both entries, and stays as it was.
    pub fn merge(&mut self, other: Table, clash: &mut dyn FnMut(&Entry, &Entry)) {
        for entry in other.entries {
            let Some(own) = self.entries.iter_mut().find(|own| own.name == entry.name) else {
                self.entries.push(entry);
                continue;
            };
            let both = match (&mut own.node.value, entry.node.value) {
                (Value::Table(own), Value::Table(other)) => {
                    own.merge(other, clash);
                    continue;
                }
                (Value::List(own), Value::List(other)) if is_tables(own) && is_tables(&other) => {
                    own.extend(other);
                    continue;
                }
                (_, value) => Entry {
                    node: Node { at: entry.node.at, value },
                    ..entry
                },
            };
            clash(own, &both);
        }
    }
}

/// True for what `[[name]]` makes.
pub(super) fn is_tables(list: &[Node]) -> bool {
    list.iter().all(|node| matches!(node.value, Value::Table(_)))
}

/// The tree of a parsed TOML document. The depth is bounded by the TOML parser.
pub(super) fn table(document: &DeTable<'_>, source: usize) -> Table {
    let entries = document.iter().map(|(name, value)| Entry {
        name: name.get_ref().to_string(),
        name_at: span(name.span(), source),
        node: node(value, source),
    });
    let mut entries: Vec<Entry> = entries.collect();
    entries.sort_by_key(|entry| entry.name_at);
    Table { entries }
}

fn node(value: &Spanned<DeValue<'_>>, source: usize) -> Node {
    let at = span(value.span(), source);
    let value = match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(digits) => match i64::from_str_radix(digits.as_str(), digits.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Other("a number beyond 64 bits"),
        },
        DeValue::Float(_) => Value::Other("a number with a fraction"),
        DeValue::Boolean(truth) => Value::Bool(*truth),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Array(items) => Value::List(items.iter().map(|item| node(item, source)).collect()),
        DeValue::Table(inner) => Value::Table(table(inner, source)),
    };
    Node { at, value }
}

fn span(range: std::ops::Range<usize>, source: usize) -> Span {
    Span {
        source,
        start: range.start,
        end: range.end,
    }
}
