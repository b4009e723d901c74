//! Files that are named and give no text: each is refused where it is named, and none is passed over.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use oncegate::config::{self, Config, Environment, Flags};

use crate::Directory;

const RULE: &str = "[[rule]]\ntask = \"a\"\nunique = \"until_started\"\n";

/// What is said of the config in this directory, with the directory's path as `D`.
fn said(directory: &Directory, path: &Path) -> Result<Config, String> {
    let here = directory.path().display().to_string();
    config::load(Some(path), &Environment::new(), &Flags::default()).map_err(|errors| errors.to_string().replace(&here, "D"))
}

fn refused(directory: &Directory, text: &str) -> String {
    let path = directory.write("o.toml", text);
    said(directory, &path).expect_err(text)
}

#[test]
fn a_config_that_is_no_text_is_refused() {
    let directory = Directory::new();
    let path = directory.write("o.toml", "");
    fs::write(&path, b"[proxy]\nlisten = [\"\xff\"]\n").unwrap();
    assert_eq!(
        said(&directory, &path).unwrap_err(),
        "D/o.toml:2:12: is not UTF-8. Save it as UTF-8."
    );
    assert_eq!(
        said(&directory, directory.path()).unwrap_err(),
        "D: is a directory. Write the path of a config file."
    );
    // A file without an end is not read to its end.
    assert_eq!(
        said(&directory, Path::new("/dev/zero")).unwrap_err(),
        "/dev/zero: holds more than 16MiB. Write the path of a config file."
    );
}

#[test]
fn an_included_file_that_cannot_be_read_is_told_where_it_is_named() {
    let directory = Directory::new();
    fs::create_dir(directory.path().join("rules.d")).unwrap();
    symlink("/nonexistent", directory.path().join("rules.d/gone.toml")).unwrap();
    let cases = [
        (
            "include = [\"missing.toml\"]\n",
            "D/o.toml:1:13: include = \"missing.toml\" names D/missing.toml: there is no such file. Write the path of a config file, or make one.",
        ),
        (
            "include = [\"rules.d\"]\n",
            "D/o.toml:1:13: include = \"rules.d\" names D/rules.d: is a directory. Write DIRECTORY/*.toml for the files in it.",
        ),
        // Its rules would be missed.
        (
            "include = [\"rules.d/*.toml\"]\n",
            "D/o.toml:1:13: include = \"rules.d/*.toml\" names D/rules.d/gone.toml: there is no such file. Write the path of a config file, or make one.",
        ),
        (
            "include = \"rules.d/*.toml\"\n",
            "D/o.toml:1:12: include = \"rules.d/*.toml\" is a string where a list is meant. Write include = [\"rules.d/*.toml\"].",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(refused(&directory, &(text.to_owned() + RULE)), expected);
    }
}

#[test]
fn a_pattern_without_a_match_is_warned_of() {
    let directory = Directory::new();
    let path = directory.write("o.toml", &("include = [\"rules.d/*.toml\"]\n".to_owned() + RULE));
    let warnings = said(&directory, &path).unwrap().warnings;
    let warnings: Vec<String> = warnings.iter().map(|warning| warning.message.clone()).collect();
    assert_eq!(
        warnings,
        ["include = \"rules.d/*.toml\" names no file. Paths are relative to the config file; leave it out if no file is meant."]
    );
    directory.write("rules.d/a.toml", "[[rule]]\ntask = \"b\"\nunique = \"until_started\"\n");
    assert_eq!(said(&directory, &path).unwrap().warnings, []);
}

/// A token that was dropped in silence would leave the admin listener open to everyone.
#[test]
fn a_secret_that_is_no_text_is_refused() {
    let directory = Directory::new();
    fs::write(directory.path().join("secret"), b"\xff\xfe").unwrap();
    let remedy = "Write the path of a file that holds the secret as text.";
    assert_eq!(
        refused(
            &directory,
            "[admin]\nlisten = \"0.0.0.0:9672\"\n[[admin.token]]\nname = \"ops\"\nfile = \"secret\"\nrole = \"operate\"\n"
        ),
        format!("D/o.toml:5:9: file = \"secret\" is not UTF-8. {remedy}")
    );
    assert_eq!(
        refused(&directory, "[store]\nurl_file = \"secret\"\n"),
        format!("D/o.toml:2:13: url_file = \"secret\" is not UTF-8. {remedy}")
    );
    assert_eq!(
        refused(&directory, "[store]\nurl_file = \"/dev/zero\"\n"),
        format!("D/o.toml:2:13: url_file = \"/dev/zero\" holds more than 16MiB. {remedy}")
    );
}

#[test]
fn one_mistake_of_syntax_is_told_once_a_line() {
    let directory = Directory::new();
    let said = refused(&directory, "[proxy]\nlisten = [\"127.0.0.1:1\"\nx = 1\n");
    assert_eq!(said.lines().count(), 1, "{said}");
    let said = refused(&directory, "\u{7}bell = 1\n");
    assert!(said.starts_with("D/o.toml:1:1: \\u{7}bell: not TOML: "), "{said}");
    assert!(!said.contains('\u{7}'));
}
