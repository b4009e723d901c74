//! Reads tables key by key: a value is typed, its absence gives the default, and what nobody asked for is unknown.

use serde_json::{Map, Value as Json, json};

use super::context::{Context, sentence};
use super::error::Place;
use super::not_built;
use super::report::{Reader, Shown, header_of};
use super::setting::{Setting, quoted, read_choice, read_items};
use super::source::Span;
use super::suggest::nearest;
use super::tree::{Entry, Node, Table, Value, is_tables};

/// Reads the keys of one table.
pub(super) struct TableReader<'r> {
    reader: &'r Reader,
    /// The path of the table as it is written: `proxy.tls`, `rule`, `admin.token`, empty for the top level.
    path: &'r str,
    /// The path under which its keys are known, where it differs: the keys of `defaults` are those of `rule`.
    known_as: &'r str,
    own: Option<&'r Table>,
    /// Where a key is looked for that the table itself does not have.
    fallback: Option<&'r Table>,
    /// Where the table was written.
    at: Option<Span>,
    asked: Vec<&'static str>,
    /// The keys whose text may hold a password.
    hidden: Vec<&'static str>,
    shown: Map<String, Json>,
}

impl<'r> TableReader<'r> {
    /// Reads a table that may be absent.
    pub fn new(reader: &'r Reader, path: &'r str, own: Option<&'r Table>, at: Option<Span>) -> TableReader<'r> {
        TableReader {
            reader,
            path,
            known_as: path,
            own,
            fallback: None,
            at,
            asked: Vec::new(),
            hidden: Vec::new(),
            shown: Map::new(),
        }
    }

    /// The same keys are known under another table's path.
    pub fn known_as(mut self, path: &'r str) -> TableReader<'r> {
        self.known_as = path;
        self
    }

    /// A key that the table does not have is looked for here.
    pub fn with_fallback(mut self, fallback: Option<&'r Table>) -> TableReader<'r> {
        self.fallback = fallback;
        self
    }

    /// The load that this belongs to.
    pub fn reader(&self) -> &'r Reader {
        self.reader
    }

    /// The entry of a key, which is known from now on.
    pub fn entry(&mut self, key: &'static str) -> Option<&'r Entry> {
        if !self.asked.contains(&key) {
            self.asked.push(key);
            self.reader.know(join(self.known_as, key));
        }
        self.find(key)
    }

    /// Whether a key was written, in this table or in its fallback.
    pub fn has(&self, key: &str) -> bool {
        self.node(key).is_some()
    }

    /// The node of a key that was written.
    pub fn node(&self, key: &str) -> Option<&'r Node> {
        self.find(key).map(|entry| &entry.node)
    }

    fn find(&self, key: &str) -> Option<&'r Entry> {
        let own = self.own.and_then(|table| table.get(key));
        own.or_else(|| self.fallback.and_then(|table| table.get(key)))
    }

    /// How a value of this key is read or reported.
    pub fn context<'k>(&self, key: &'k str, shown: Shown) -> Context<'k>
    where
        'r: 'k,
    {
        let is_own = self.own.is_some_and(|table| table.get(key).is_some());
        let table = if is_own || self.fallback.is_none() { self.path } else { "defaults" };
        Context {
            reader: self.reader,
            table,
            key,
            shown,
        }
    }

    /// A value, or its default.
    pub fn get<T: Setting>(&mut self, key: &'static str, default: T) -> T {
        let value = self.read(key, Shown::Plain, T::read);
        if let Some(value) = value.as_ref().filter(|value| **value != default) {
            self.refuse_unbuilt(key, &value.show());
        }
        let value = value.unwrap_or(default);
        self.shown.insert(key.to_owned(), value.show());
        value
    }

    /// A value without a default.
    pub fn optional<T: Setting>(&mut self, key: &'static str) -> Option<T> {
        self.optional_shown(key, Shown::Plain)
    }

    /// A value without a default that may hold a password.
    pub fn optional_hidden<T: Setting>(&mut self, key: &'static str) -> Option<T> {
        self.hidden.push(key);
        self.optional_shown(key, Shown::Hidden)
    }

    fn optional_shown<T: Setting>(&mut self, key: &'static str, shown: Shown) -> Option<T> {
        let value = self.read(key, shown, T::read);
        if let Some(value) = &value {
            self.refuse_unbuilt(key, &value.show());
        }
        self.shown.insert(key.to_owned(), value.as_ref().map_or(Json::Null, Setting::show));
        value
    }

    /// One of a few words, or its default.
    pub fn choice<T: Copy + PartialEq>(&mut self, key: &'static str, default: T, words: &[(&'static str, T)]) -> T {
        let word = |value: T| words.iter().find(|(_, known)| *known == value).map_or("", |(word, _)| word);
        let value = self.optional_choice_raw(key, words);
        if let Some(value) = value.filter(|value| *value != default) {
            self.refuse_unbuilt(key, &json!(word(value)));
        }
        let value = value.unwrap_or(default);
        self.shown.insert(key.to_owned(), json!(word(value)));
        value
    }

    /// One of a few words, without a default.
    pub fn optional_choice<T: Copy + PartialEq>(&mut self, key: &'static str, words: &[(&'static str, T)]) -> Option<T> {
        let value = self.optional_choice_raw(key, words);
        let word = value
            .and_then(|value| words.iter().find(|(_, known)| *known == value))
            .map(|(word, _)| json!(word));
        if let Some(word) = &word {
            self.refuse_unbuilt(key, word);
        }
        self.shown.insert(key.to_owned(), word.unwrap_or(Json::Null));
        value
    }

    fn optional_choice_raw<T: Copy>(&mut self, key: &'static str, words: &[(&'static str, T)]) -> Option<T> {
        self.read(key, Shown::Plain, |node, cx| read_choice(node, cx, words))
    }

    /// A list of a few words, or its default; sorted, each word once.
    pub fn choices<T: Copy + Ord>(&mut self, key: &'static str, default: Vec<T>, words: &[(&'static str, T)]) -> Vec<T> {
        let value = self.read(key, Shown::Plain, |node, cx| {
            let items = read_items(node, cx, "a list of words")?;
            let read: Vec<T> = items.iter().filter_map(|item| read_choice(item, cx, words)).collect();
            (read.len() == items.len()).then_some(read)
        });
        let sorted = |mut values: Vec<T>| {
            values.sort();
            values.dedup();
            values
        };
        let (value, default) = (value.map(sorted), sorted(default));
        let word = |value: &T| words.iter().find(|(_, known)| known == value).map_or("", |(word, _)| word);
        let show = |values: &[T]| Json::from(values.iter().map(word).collect::<Vec<_>>());
        if let Some(value) = value.as_ref().filter(|value| **value != default) {
            self.refuse_unbuilt(key, &show(value));
        }
        let value = value.unwrap_or(default);
        self.shown.insert(key.to_owned(), show(&value));
        value
    }

    /// Reads a key by other means; `None` if it is absent or wrong.
    pub fn read<T>(&mut self, key: &'static str, shown: Shown, read: impl Fn(&Node, &Context<'_>) -> Option<T>) -> Option<T> {
        let entry = self.entry(key)?;
        read(&entry.node, &self.context(key, shown))
    }

    /// Shows a value that was read by other means.
    pub fn show(&mut self, key: &'static str, value: Json) {
        self.shown.insert(key.to_owned(), value);
    }

    /// Refuses a value whose behaviour is not built, by name.
    pub fn refuse_unbuilt(&mut self, key: &'static str, value: &Json) {
        let Some(working) = not_built::working_values(&join(self.known_as, key)) else {
            return;
        };
        if value.as_str().is_some_and(|value| working.contains(&value)) {
            return;
        }
        let remedy = match working {
            [] => format!("Leave {key} out."),
            [one] => format!("Write \"{one}\" or leave {key} out."),
            many => format!("Write one of {} or leave {key} out.", quoted(many)),
        };
        self.refuse(key, "is not available in this version", &remedy);
    }

    /// Notes that the value of a key is wrong in its surroundings. A key that was not written is reported at its table.
    pub fn refuse(&self, key: &str, says: &str, remedy: &str) {
        self.refuse_from(key, 0, says, remedy);
    }

    /// As [`TableReader::refuse`], for a mistake that begins some bytes into a string.
    pub fn refuse_from(&self, key: &str, offset: usize, says: &str, remedy: &str) {
        let cx = self.context(key, if self.hidden.contains(&key) { Shown::Hidden } else { Shown::Plain });
        match self.node(key) {
            Some(node) => cx.refuse_from(node, offset, says, remedy),
            None => self.refuse_table(&format!("{key} {says}"), remedy),
        }
    }

    /// Notes that something is wrong with the table as a whole.
    pub fn refuse_table(&self, says: &str, remedy: &str) {
        let message = sentence(says, remedy);
        match self.at {
            Some(at) => self.reader.error_at(Span { end: at.start, ..at }, message),
            None => self
                .reader
                .error(None, Shown::Plain, Place::Named(format!("[{}]", self.path)), message),
        }
    }

    /// A table within this one, and where it was written.
    pub fn table(&mut self, key: &'static str) -> (Option<&'r Table>, Option<Span>) {
        let Some(entry) = self.entry(key) else { return (None, self.at) };
        if let Value::Table(table) = &entry.node.value {
            return (Some(table), Some(entry.name_at));
        }
        self.not_a_table(key, &entry.node);
        (None, self.at)
    }

    fn not_a_table(&self, key: &str, node: &Node) {
        let path = join(self.path, key);
        self.refuse(
            key,
            &format!("is {} where a table is meant", node.value.kind()),
            &format!("Write [{path}] and its keys below."),
        );
    }

    /// The tables of a list of tables, each with its place.
    pub fn tables(&mut self, key: &'static str) -> Vec<(&'r Table, Span)> {
        let Some(entry) = self.entry(key) else { return Vec::new() };
        let path = join(self.path, key);
        let Value::List(items) = &entry.node.value else {
            let remedy = format!("Write [[{path}]], once for each.");
            if let Value::Table(_) = entry.node.value {
                let says = format!("[{path}] is one table where a list of tables is meant");
                self.reader.error_at(entry.name_at, sentence(&says, &remedy));
            } else {
                self.refuse(
                    key,
                    &format!("is {} where a list of tables is meant", entry.node.value.kind()),
                    &remedy,
                );
            }
            return Vec::new();
        };
        let mut tables = Vec::new();
        for item in items {
            if let Value::Table(table) = &item.value {
                tables.push((table, item.at));
            } else {
                let cx = self.context(key, Shown::Plain);
                cx.refuse(item, "is not a table", &format!("Write [[{path}]], once for each."));
            }
        }
        tables
    }

    /// All entries of the table itself, for tables whose names are the user's own.
    pub fn entries(&self) -> &'r [Entry] {
        self.own.map_or(&[], |table| &table.entries)
    }

    /// Reports the keys that nobody asked for, and gives what was read, to be shown.
    pub fn finish(self) -> Json {
        for entry in self.entries() {
            if !self.asked.contains(&entry.name.as_str()) {
                self.refuse_unknown(entry);
            }
        }
        Json::Object(self.shown)
    }

    fn refuse_unknown(&self, entry: &Entry) {
        let name = entry.name.as_str();
        let near = nearest(name, &self.asked);
        let header = match &entry.node.value {
            Value::Table(_) if self.path.is_empty() => Some(("[", "]")),
            Value::List(items) if self.path.is_empty() && is_tables(items) => Some(("[[", "]]")),
            _ => None,
        };
        let message = if let Some((open, close)) = header {
            let remedy = match near {
                Some(near) => format!("Did you mean {}?", header_of(near)),
                None => format!("Known are {}.", self.asked.join(", ")),
            };
            format!("unknown table {open}{name}{close}. {remedy}")
        } else {
            let place = if self.path.is_empty() {
                String::new()
            } else {
                format!(" in {}", header_of(self.path))
            };
            let elsewhere = self.reader.tables_with(name);
            let remedy = match near {
                Some(near) => format!("Did you mean {near:?}?"),
                None if !elsewhere.is_empty() => format!("It belongs in {}.", elsewhere.join(" or ")),
                None => format!("Known are {}.", self.asked.join(", ")),
            };
            format!("unknown key {name:?}{place}. {remedy}")
        };
        self.reader.error_at(entry.name_at, message);
    }
}

/// `table.key`, or the key alone at the top level.
pub(super) fn join(table: &str, key: &str) -> String {
    if table.is_empty() {
        key.to_owned()
    } else {
        format!("{table}.{key}")
    }
}
