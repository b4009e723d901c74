//! The files that are shipped: the list of defaults, and the examples.

use std::fs;
use std::path::Path;

use oncegate::config::{self, Config, Environment, Flags};

use crate::Directory;

const REFERENCE: &str = include_str!("../../config/oncegate.toml");

#[test]
fn reference_file_is_the_defaults() {
    let reference = config::load_text("oncegate.toml", REFERENCE, &Environment::new(), &Flags::default()).unwrap();
    assert_eq!(reference.shown(), Config::default().shown());
    assert_eq!(reference.warnings, []);
}

/// Each key stands in its table, live or as a comment, with a comment of its own.
#[test]
fn reference_file_names_every_key_with_a_comment() {
    let mut table = String::new();
    let mut named = Vec::new();
    for line in REFERENCE.lines() {
        let text = line.trim_start_matches('#').trim();
        if let Some(header) = text.strip_prefix('[').filter(|_| !text.contains('=')) {
            let header = header.trim_start_matches('[').split(']').next().unwrap();
            table = header.replace("\"jobs\"", "*").replace("defaults", "rule") + ".";
            continue;
        }
        if let Some((key, value)) = text
            .split_once(" = ")
            .filter(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        {
            named.push(format!("{table}{key}"));
            assert!(line.starts_with('#') || value.contains('#'), "no comment: {line}");
        }
        if text.contains("dead_letter = {") {
            named.extend(["rule.dead_letter.exchange".to_owned(), "rule.dead_letter.routing_key".to_owned()]);
        }
    }
    for key in config::known_keys() {
        let is_table = config::known_keys().iter().any(|other| other.starts_with(&format!("{key}.")));
        let is_settings = ["defaults", "rule", "signatures", "rule.limit", "admin.token", "control.vhosts"].contains(&key.as_str());
        assert!(
            is_table || is_settings || named.contains(&key),
            "{key} is not in config/oncegate.toml"
        );
    }
    for key in named {
        assert!(config::known_keys().contains(&key), "{key} in config/oncegate.toml is not known");
    }
}

/// Every key that is commented out is right as it stands, or refused as not available: no other mistake.
#[test]
fn commented_lines_of_the_reference_file_are_right() {
    let live: String = REFERENCE.lines().map(|line| uncomment(line) + "\n").collect();
    let errors = config::load_text("oncegate.toml", &live, &Environment::new(), &Flags::default()).unwrap_err();
    for error in &errors.0 {
        let expected = [
            "is not available in this version",
            "cannot be read",
            "are both set",
            "says again what rate says",
        ];
        assert!(expected.iter().any(|text| error.message.contains(text)), "{error}");
    }
}

/// A commented setting, live. What stands in the first column and is prose stays a comment.
fn uncomment(line: &str) -> String {
    let Some(text) = line.strip_prefix("# ") else {
        return line.to_owned();
    };
    let is_key = text
        .split_once(" = ")
        .is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || "_\".".contains(c)));
    if is_key || text.starts_with('[') {
        text.to_owned()
    } else {
        line.to_owned()
    }
}

#[test]
fn examples_load() {
    let directory = Directory::new();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples");
    let mut count = 0;
    for name in ["server.pem", "server.key", "ca.pem", "read-token", "operate-token"] {
        directory.write(&format!("tls/{name}"), "a token\n");
    }
    directory.write("tls/store-url", "rediss://oncegate:s3cret@cache.internal:6379/3\n");
    for entry in fs::read_dir(examples).unwrap() {
        let source = entry.unwrap().path();
        let name = source.file_name().unwrap().to_str().unwrap().to_owned();
        let path = directory.write(&name, &fs::read_to_string(&source).unwrap());
        let config = config::load(Some(&path), &Environment::new(), &Flags::default()).unwrap_or_else(|errors| panic!("{errors}"));
        assert!(!config.rules.is_empty(), "{name}");
        // Whether its producers wait for confirms no file says.
        let warnings: Vec<_> = config.warnings.iter().map(ToString::to_string).collect();
        assert!(
            warnings.iter().all(|warning| warning.contains("confirm_publish")),
            "{name}: {warnings:?}"
        );
        assert!(!config.shown().to_string().contains("s3cret"));
        count += 1;
    }
    assert!(count >= 9);
}
