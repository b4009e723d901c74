//! One tree out of many texts: the main file, what it includes, the environment, the flags; each beats the one before.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobMatcher};
use sha2::{Digest as _, Sha256};
use toml::de::DeTable;

use super::context::{Context, sentence};
use super::error::Place;
use super::file::{self, Fault};
use super::report::{Reader, Shown};
use super::setting::{Setting as _, read_items};
use super::source::{Kind, Span, place_after};
use super::tree::{self, Node, Table, Value};
use super::{Environment, Flags};

/// What every variable begins with.
pub(super) const PREFIX: &str = "ONCEGATE_";

/// What to read.
pub(super) struct Layers<'a> {
    pub main: Main<'a>,
    pub environment: &'a Environment,
    pub flags: &'a Flags,
}

/// The main file.
pub(super) enum Main<'a> {
    /// There is none.
    None,
    File(PathBuf),
    Text {
        name: &'a str,
        text: &'a str,
    },
}

/// What was read.
pub(super) struct Layered {
    pub file: Option<PathBuf>,
    pub root: Table,
    /// The files that were included.
    pub included: Vec<PathBuf>,
    /// The directories in which a pattern was looked for.
    pub included_from: Vec<PathBuf>,
    pub sha256: String,
    /// Whether every file could be read. Of a tree with holes in it no more is said: much of that would be about the holes.
    pub is_whole: bool,
}

impl Layered {
    fn take(&mut self, main: Option<Table>) {
        self.is_whole = main.is_some();
        self.root = main.unwrap_or_default();
    }
}

/// Reads all layers; what is wrong goes to the reader.
pub(super) fn read(layers: &Layers<'_>, reader: &mut Reader) -> Layered {
    let mut layered = Layered {
        file: None,
        root: Table::default(),
        included: Vec::new(),
        included_from: Vec::new(),
        sha256: String::new(),
        is_whole: true,
    };
    match &layers.main {
        Main::None => {}
        Main::Text { name, text } => layered.take(parse(name, text, Path::new(""), reader)),
        Main::File(path) => {
            layered.file = Some(path.clone());
            layered.take(parse_file(path, None, reader));
        }
    }
    include(&mut layered, reader);
    overlay_environment(&mut layered.root, layers.environment, reader);
    overlay_flags(&mut layered.root, layers.flags, reader);
    layered.sha256 = sha256(reader);
    layered
}

/// SHA-256 over all texts in the order of reading, each with its length before it; names of files count for nothing.
fn sha256(reader: &Reader) -> String {
    let mut hasher = Sha256::new();
    for source in reader.sources.iter() {
        let name = if source.kind == Kind::Single { source.name.as_str() } else { "" };
        for part in [name, &source.text] {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part.as_bytes());
        }
    }
    hasher.finalize().iter().fold(String::with_capacity(64), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Reads a file; `named` is the element of `include` that names it.
fn parse_file(path: &Path, named: Option<&Node>, reader: &mut Reader) -> Option<Table> {
    let name = path.display().to_string();
    let fault = match file::read(path) {
        Ok(text) => return parse(&name, &text, path.parent().unwrap_or(Path::new("")), reader),
        Err(fault) => fault,
    };
    let remedy = match (&fault, named) {
        (Fault::Missing(_), _) => "Write the path of a config file, or make one.",
        (Fault::Directory, Some(_)) => "Write DIRECTORY/*.toml for the files in it.",
        (Fault::Directory | Fault::TooLarge, _) => "Write the path of a config file.",
        (Fault::NotUtf8(_), _) => "Save it as UTF-8.",
        (Fault::Io(_), _) => "Let the user that runs oncegate read it.",
    };
    match (&fault, named) {
        (Fault::NotUtf8(before), _) => {
            let message = sentence(&fault.says(), remedy);
            reader.error(None, Shown::Hidden, place_after(&name, before), message);
        }
        (_, Some(node)) => including(reader).refuse(node, &format!("names {name}: {}", fault.says()), remedy),
        (_, None) => reader.error(None, Shown::Hidden, Place::Named(name), sentence(&fault.says(), remedy)),
    }
    None
}

/// How a value of `include` is reported.
fn including(reader: &Reader) -> Context<'_> {
    Context {
        reader,
        table: "",
        key: "include",
        shown: Shown::Plain,
    }
}

fn parse(name: &str, text: &str, base: &Path, reader: &mut Reader) -> Option<Table> {
    let whole = reader.sources.add(name.to_owned(), Kind::File, text, base);
    let (document, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Some(tree::table(document.get_ref(), whole.source));
    }
    let mut lines = BTreeSet::new();
    for error in errors {
        let range = error.span().unwrap_or(text.len()..text.len());
        let at = Span {
            source: whole.source,
            start: range.start,
            end: range.end,
        };
        let before = text.get(..range.start).unwrap_or(text);
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        // What the parser says of the rest of a line is about its own confusion.
        if !lines.insert(start) {
            continue;
        }
        let line = text.get(start..).unwrap_or_default().lines().next().unwrap_or_default().trim();
        // Only the key is shown: the rest of the line may hold a password.
        let key: String = line.split('=').next().unwrap_or_default().trim().escape_debug().collect();
        let remedy = match error.message() {
            message if message.contains("duplicate key") => "Keep one of them.",
            message if message.contains("quoted") => "Texts, durations and sizes take quotes, such as ttl = \"10s\".",
            _ => "Write key = value: texts in quotes, lists in [ ], tables as [name].",
        };
        reader.error(
            Some(at),
            Shown::Hidden,
            reader.sources.place(at),
            sentence(&format!("{key}: not TOML: {}", error.message()), remedy),
        );
    }
    None
}

/// The remedy for a pattern without a match, which may be meant.
const NO_FILE: &str = "Paths are relative to the config file; leave it out if no file is meant.";

fn include(layered: &mut Layered, reader: &mut Reader) {
    let Some(entry) = layered.root.get("include") else { return };
    let node = entry.node.clone();
    let Some(patterns) = read_items(&node, &including(reader), "a list") else {
        return;
    };
    let mut paths = Vec::new();
    for pattern in &patterns {
        let cx = including(reader);
        let Some(path) = PathBuf::read(pattern, &cx) else { continue };
        match expand(&path, &mut layered.included_from) {
            Ok(found) if found.is_empty() => {
                let message = sentence(&format!("{} names no file", cx.name_and_text(pattern)), NO_FILE);
                reader.warn(pattern.at, None, message);
            }
            Ok(found) => paths.extend(found.into_iter().map(|path| (path, pattern))),
            Err((says, remedy)) => cx.refuse(pattern, &says, remedy),
        }
    }
    let mut read: Vec<PathBuf> = Vec::new();
    for (path, pattern) in paths {
        if read.contains(&path) || layered.file.as_ref() == Some(&path) {
            continue;
        }
        if let Some(mut table) = parse_file(&path, Some(pattern), reader) {
            if let Some(nested) = table.get("include") {
                let message = "include stands in an included file, where it is not read. Write it in the main file.";
                reader.error_at(nested.name_at, message.to_owned());
                table.remove("include");
            }
            layered.root.merge(table, &mut |own, other| {
                let first = reader.sources.place(own.name_at);
                let message = format!("{} is set already at {first}. Set it in one place.", other.name);
                reader.error_at(other.name_at, message);
            });
        } else {
            layered.is_whole = false;
        }
        read.push(path);
    }
    layered.included = read;
}

/// The files that a pattern names, in lexical order. Only a path without wildcards has to exist.
fn expand(pattern: &Path, looked_into: &mut Vec<PathBuf>) -> Result<Vec<PathBuf>, (String, &'static str)> {
    let is_wild = |part: &str| part.contains(['*', '?', '[', '{']);
    let mut found = vec![PathBuf::new()];
    let parts: Vec<_> = pattern.components().collect();
    for (index, part) in parts.iter().enumerate() {
        let text = part.as_os_str().to_string_lossy();
        if !is_wild(&text) {
            for path in &mut found {
                path.push(part);
            }
            continue;
        }
        let matcher = matcher(&text)?;
        let mut next = Vec::new();
        for directory in found {
            next.extend(list(&directory, &matcher, index + 1 == parts.len()));
            looked_into.push(directory);
        }
        next.sort();
        found = next;
    }
    if pattern.components().any(|part| is_wild(&part.as_os_str().to_string_lossy())) {
        // A link to nowhere stays, to be refused: its rules are missed.
        return Ok(found.into_iter().filter(|path| path.is_file() || !path.exists()).collect());
    }
    Ok(found)
}

fn matcher(part: &str) -> Result<GlobMatcher, (String, &'static str)> {
    let remedy = "Write a path such as \"rules.d/*.toml\".";
    if part.contains("**") {
        return Err(("has a **, which is not understood".to_owned(), remedy));
    }
    let glob = GlobBuilder::new(part).literal_separator(true).build();
    glob.map(|glob| glob.compile_matcher())
        .map_err(|error| (format!("is not a pattern: {}", error.kind()), remedy))
}

/// What of a directory matches; hidden files (an editor's, or the `..data` of a mounted `ConfigMap`) do not.
fn list(directory: &Path, matcher: &GlobMatcher, files: bool) -> Vec<PathBuf> {
    let here = if directory.as_os_str().is_empty() {
        Path::new(".")
    } else {
        directory
    };
    let Ok(entries) = fs::read_dir(here) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok().map(|entry| entry.file_name()));
    let visible = names.filter(|name| !name.to_string_lossy().starts_with('.') && matcher.is_match(Path::new(name)));
    visible
        .map(|name| directory.join(name))
        .filter(|path| files || path.is_dir())
        .collect()
}

/// The tables whose keys a variable can set.
const SETTABLE: [&str; 12] = [
    "proxy",
    "proxy.tls",
    "proxy.upstream_tls",
    "control",
    "store",
    "results",
    "park",
    "events",
    "admin",
    "admin.tls",
    "log",
    "decisions",
];

fn overlay_environment(root: &mut Table, environment: &Environment, reader: &mut Reader) {
    for (name, value) in environment {
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        let path: Vec<String> = rest.split("__").map(str::to_ascii_lowercase).collect();
        let table = path.get(..path.len() - 1).unwrap_or_default().join(".");
        let is_top_level = matches!(rest, "WATCH_CONFIG" | "INCLUDE");
        if path.len() == 1 && !is_top_level {
            // Kubernetes sets ONCEGATE_PORT and its like beside a Service of that name, and some variables are the commands' own.
            warn_of_single_underscore(name, rest, reader);
            continue;
        }
        if rest == "INCLUDE" {
            reader.error(
                None,
                Shown::Hidden,
                Place::Named(name.clone()),
                "include is read from the main file alone. Write it there.".to_owned(),
            );
            continue;
        }
        if path.len() > 1 && table != "defaults" && !SETTABLE.contains(&table.as_str()) {
            let message = match table.as_str() {
                "rule" | "rule.limit" | "admin.token" | "signatures" => {
                    let header = if table == "signatures" {
                        "[signatures]".to_owned()
                    } else {
                        format!("[[{table}]]")
                    };
                    format!("{header} cannot be set by a variable. Write it in a config file.")
                }
                _ => {
                    let variable = |table: &str| format!("{PREFIX}{}__…", table.to_ascii_uppercase().replace('.', "__"));
                    let remedy = match super::suggest::nearest(&table, &SETTABLE) {
                        Some(near) => format!("Did you mean {}?", variable(near)),
                        None => format!("Known are {}.", SETTABLE.map(variable).join(", ")),
                    };
                    format!("unknown table [{table}]. {remedy}")
                }
            };
            reader.error(None, Shown::Hidden, Place::Named(name.clone()), message);
            continue;
        }
        set(root, &path, name, value, reader);
    }
}

/// One underscore where two are meant is the likeliest slip, and would otherwise pass in silence.
fn warn_of_single_underscore(name: &str, rest: &str, reader: &mut Reader) {
    let variable = |key: &str, between: &str| key.to_ascii_uppercase().replace('.', between);
    let keys = super::known_keys();
    let Some(key) = keys.iter().find(|key| key.contains('.') && variable(key, "_") == rest) else {
        return;
    };
    let at = reader.sources.add(name.to_owned(), Kind::Single, "", Path::new(""));
    let right = variable(key, "__");
    reader.warn(at, None, format!("is not a setting and is ignored. Did you mean {PREFIX}{right}?"));
}

fn overlay_flags(root: &mut Table, flags: &Flags, reader: &mut Reader) {
    let listen = (!flags.listen.is_empty()).then(|| flags.listen.join(","));
    let upstream = (!flags.upstream.is_empty()).then(|| flags.upstream.join(","));
    let values = [
        ("--listen", ["proxy", "listen"], listen.as_ref()),
        ("--upstream", ["proxy", "upstream"], upstream.as_ref()),
        ("--store", ["store", "url"], flags.store.as_ref()),
        ("--admin-listen", ["admin", "listen"], flags.admin_listen.as_ref()),
    ];
    for (flag, path, value) in values {
        if let Some(value) = value {
            set(root, &path.map(str::to_owned), flag, value, reader);
        }
    }
}

fn set(root: &mut Table, path: &[String], name: &str, value: &str, reader: &mut Reader) {
    let at = reader.sources.add(name.to_owned(), Kind::Single, value, Path::new(""));
    // A secret is given in one of two ways; the way of the higher layer is the one that counts.
    if let Some((key, table)) = path.split_last() {
        let other = key.strip_suffix("_file").map_or_else(|| format!("{key}_file"), str::to_owned);
        if let Some(table) = table_at(root, table) {
            table.remove(&other);
        }
    }
    root.set(
        path,
        at,
        Node {
            at,
            value: Value::Bare(value.to_owned()),
        },
    );
}

fn table_at<'t>(root: &'t mut Table, path: &[String]) -> Option<&'t mut Table> {
    let mut table = root;
    for name in path {
        let entry = table.entries.iter_mut().find(|entry| entry.name == *name)?;
        let Value::Table(inner) = &mut entry.node.value else { return None };
        table = inner;
    }
    Some(table)
}
