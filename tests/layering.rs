//! The modules of the crate form layers, and an arrow points only downward. The pure modules touch nothing of the world.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The layers, the lowest first; within one no module uses another.
const LAYERS: &[&[&str]] = &[
    &["amqp"],
    &["celery"],
    &["rules"],
    &["session", "store", "config", "metrics", "logging"],
    &["tls"],
    &["lifecycle", "control", "results", "events", "admin", "cli"],
    &["proxy", "shutdown"],
    &["run"],
];
/// The sideways arrows: `check --connect` opens the connection that the proxy opens, and decisions are published over it; attempts are spread
/// alike.
const SIDEWAYS: &[(&str, &str)] = &[
    ("lifecycle", "control"),
    ("cli", "control"),
    ("results", "control"),
    ("events", "control"),
];
const PURE: &[&str] = &["amqp", "celery", "rules", "session"];
/// What a pure module never names: crates, and paths within `std`.
const IMPURE: &[&[&str]] = &[
    &["tokio"],
    &["redis"],
    &["tracing"],
    &["prometheus"],
    &["rand"],
    &["uuid"],
    &["lapin"],
    &["socket2"],
    &["std", "net"],
    &["std", "fs"],
    &["std", "thread"],
    &["Instant", "now"],
    &["SystemTime"],
    &["OffsetDateTime", "now_utc"],
    &["OffsetDateTime", "now_local"],
];

/// One source file and the module it belongs to.
struct Source {
    path: PathBuf,
    /// The module path, from the crate's root: `["store", "redis"]` for `src/store/redis.rs`.
    module: Vec<String>,
    text: String,
}

#[test]
fn arrows_point_only_downward() {
    let mut wrong = Vec::new();
    for source in sources() {
        let Some(from) = source.module.first() else { continue };
        let Some(from_layer) = layer(from) else {
            wrong.push(format!("{}: the module `{from}` belongs to no layer", source.path.display()));
            continue;
        };
        for to in used_modules(&source) {
            let down = layer(&to).is_some_and(|to_layer| to_layer < from_layer);
            if to != *from && !down && !SIDEWAYS.contains(&(from.as_str(), to.as_str())) {
                wrong.push(format!("{}: {from} uses {to}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_core_cannot_touch_the_world() {
    let mut wrong = Vec::new();
    for source in sources() {
        let pure = source.module.first().is_some_and(|module| PURE.contains(&module.as_str()));
        if !pure || source.module.iter().any(|module| module == "tests") {
            continue;
        }
        for path in paths(&without_tests(&source.text)) {
            for impure in IMPURE {
                if path.windows(impure.len()).any(|window| window == *impure) && names_the_world(&path, impure) {
                    wrong.push(format!("{}: {}", source.path.display(), path.join("::")));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A crate is named by the first segment; anything else anywhere.
fn names_the_world(path: &[String], impure: &[&str]) -> bool {
    let is_crate = impure.len() == 1 && impure[0].starts_with(char::is_lowercase);
    !is_crate || (path.len() > 1 && path[0] == impure[0])
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// Everything below `src` but `lib.rs` and `main.rs`, which see all.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut directories = vec![root.clone()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("src is readable") {
            let path = entry.expect("src is readable").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let relative = path.strip_prefix(&root).expect("below src").with_extension("");
                let mut module: Vec<String> = relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
                if module.last().is_some_and(|last| last == "mod") {
                    module.pop();
                }
                if !matches!(module.iter().map(String::as_str).collect::<Vec<_>>()[..], ["lib" | "main"]) {
                    let text = fs::read_to_string(&path).expect("UTF-8");
                    found.push(Source {
                        path,
                        module,
                        text: code_only(&text),
                    });
                }
            }
        }
    }
    assert!(found.len() > 5, "the sources are found");
    found
}

/// The top-level modules that a file names, by `crate::` or by climbing to the root.
fn used_modules(source: &Source) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for path in paths(&source.text) {
        let climbed = path.iter().take_while(|segment| *segment == "super").count();
        let named = match path.first().map(String::as_str) {
            Some("crate") => path.get(1),
            Some("super") if climbed >= source.module.len() => path.get(climbed),
            _ => None,
        };
        let Some(named) = named else { continue };
        let own_child = climbed > 0 && source.path.parent().is_some_and(|directory| has_module(directory, named));
        if layer(named).is_some() && !own_child {
            used.insert(named.clone());
        }
    }
    used
}

fn has_module(directory: &Path, name: &str) -> bool {
    directory.join(name).is_dir() || directory.join(format!("{name}.rs")).is_file()
}

/// The text with comments and the contents of string and character literals blanked.
fn code_only(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = raw_string(rest) {
            length
        } else if first == '"' {
            quoted(rest)
        } else if let Some(length) = character(rest) {
            length
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        code.push(' ');
        rest = &rest[skipped..];
    }
    code
}

fn raw_string(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix('r')?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let start = 1 + hashes + 1;
    Some(rest[start..].find(&end).map_or(rest.len(), |at| start + at + end.len()))
}

fn quoted(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// A character literal, which a lifetime is not.
fn character(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix('\'')?;
    if after.starts_with('\\') {
        return after.get(2..)?.find('\'').map(|end| end + 4);
    }
    let first = after.chars().next()?;
    after[first.len_utf8()..].starts_with('\'').then_some(first.len_utf8() + 2)
}

/// The text without the items that only tests have.
fn without_tests(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("#[cfg(test)]") {
        kept.push_str(&rest[..at]);
        rest = &rest[at..];
        rest = &rest[item_end(rest)..];
    }
    kept + rest
}

/// Where an item ends: at its semicolon, or at the brace that closes its block.
fn item_end(item: &str) -> usize {
    let mut depth = 0;
    for (at, c) in item.char_indices() {
        match c {
            ';' if depth == 0 => return at + 1,
            '{' => depth += 1,
            '}' if depth == 1 => return at + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    item.len()
}

#[test]
fn only_the_tests_themselves_are_left_out() {
    let text = "a(); #[cfg(test)] mod tests; b(); #[cfg(test)] mod more { fn c() { d() } } e(); #[cfg(test)] use x::{y, z}; f();";
    assert_eq!(without_tests(text), "a();  b();  e(); ; f();");
}

/// Every path in the code, with the groups of `use` taken apart. A single word is a path of one segment.
fn paths(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut prefixes: Vec<Vec<String>> = Vec::new();
    let mut current: Vec<String> = Vec::new();
    let mut joined = false;
    for token in tokens(code) {
        match token.as_str() {
            "::" => joined = true,
            "{" if joined => {
                prefixes.push(std::mem::take(&mut current));
                joined = false;
            }
            "{" => {
                flush(&mut current, &prefixes, &mut found);
                prefixes.push(Vec::new());
            }
            "}" => {
                flush(&mut current, &prefixes, &mut found);
                prefixes.pop();
            }
            word if word.starts_with(|c: char| c.is_alphanumeric() || c == '_') => {
                if !joined {
                    flush(&mut current, &prefixes, &mut found);
                }
                current.push(word.to_owned());
                joined = false;
            }
            _ => {
                flush(&mut current, &prefixes, &mut found);
                joined = false;
            }
        }
    }
    flush(&mut current, &prefixes, &mut found);
    found
}

/// Ends a path: what stands before the braces that it is in belongs to it, up to the innermost block.
fn flush(current: &mut Vec<String>, prefixes: &[Vec<String>], found: &mut Vec<Vec<String>>) {
    if current.is_empty() {
        return;
    }
    let block = prefixes.iter().rposition(Vec::is_empty).map_or(0, |at| at + 1);
    let mut path: Vec<String> = prefixes[block..].concat();
    path.append(current);
    found.push(path);
}

fn tokens(code: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut in_word = false;
    let mut chars = code.chars().peekable();
    while let Some(c) = chars.next() {
        let word = c.is_alphanumeric() || c == '_';
        if word && in_word {
            tokens.last_mut().expect("a word began").push(c);
        } else if c == ':' && chars.next_if_eq(&':').is_some() {
            tokens.push("::".to_owned());
        } else if !c.is_whitespace() {
            tokens.push(c.to_string());
        }
        in_word = word;
    }
    tokens
}

#[test]
fn paths_are_found_as_rust_reads_them() {
    let code = code_only(
        "use crate::{store::Client, rules::{lock::Digest, self}}; // crate::proxy\n\
         let a = \"crate::admin\"; let b = r#\"crate::cli \" \"#; let c = '\"'; fn f<'a>() { tracing::info!(x); crate::metrics::M } \
         use std::{net::TcpStream, time::{Instant, SystemTime}};",
    );
    let paths: Vec<String> = paths(&code).iter().map(|path| path.join("::")).collect();
    for expected in [
        "crate::store::Client",
        "crate::rules::lock::Digest",
        "crate::rules::self",
        "tracing::info",
        "crate::metrics::M",
        "std::net::TcpStream",
        "std::time::SystemTime",
    ] {
        assert!(paths.iter().any(|path| path == expected), "{expected} in {paths:?}");
    }
    for hidden in ["crate::proxy", "crate::admin", "crate::cli"] {
        assert!(!paths.iter().any(|path| path.starts_with(hidden)), "{hidden} in {paths:?}");
    }
}
