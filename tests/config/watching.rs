//! Reload, and the watch that asks for it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use oncegate::config::reload::{ReloadError, WithoutRules, needs_restart, reload};
use oncegate::config::watch::{Changed, watch};
use oncegate::config::{self, Config, Environment, Flags};
use tokio::sync::mpsc::Receiver;

use crate::Directory;

const RULE: &str = "[[rule]]\ntask = \"a\"\nunique = \"until_started\"\n";

/// The same for another task.
fn rule(task: &str) -> String {
    RULE.replace("\"a\"", &format!("\"{task}\""))
}

fn load(path: &Path) -> Config {
    config::load(Some(path), &Environment::new(), &Flags::default()).unwrap()
}

/// Waits for a change; the time is only the end of a test that fails.
fn changed(changes: &mut Receiver<Changed>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let change = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), changes.recv()).await });
    assert_eq!(change.expect("in time"), Some(Changed));
}

#[test]
fn a_wrong_config_is_refused_and_so_is_an_empty_one() {
    let directory = Directory::new();
    let path = directory.write("oncegate.toml", RULE);
    let old = load(&path);
    let again = |empty| reload(&old, &Environment::new(), &Flags::default(), empty);

    fs::write(&path, "[[rule]]\ntask = 3\n").unwrap();
    assert!(matches!(again(WithoutRules::Refused), Err(ReloadError::Wrong(_))));

    fs::write(&path, "").unwrap();
    let said = again(WithoutRules::Refused).unwrap_err().to_string();
    assert_eq!(
        said,
        "the config has no rules and 1 are in effect. Start oncegate with --allow-empty if that is meant."
    );
    assert!(again(WithoutRules::Allowed).unwrap().config.rules.is_empty());

    fs::write(&path, "[store]\nprefix = \"x\"\n".to_owned() + RULE).unwrap();
    assert_eq!(again(WithoutRules::Refused).unwrap().needs_restart, ["store.prefix"]);
}

#[test]
fn a_warning_is_new_once() {
    let directory = Directory::new();
    let idle = "[[rule]]\ntask = \"idle\"\n";
    let path = directory.write("oncegate.toml", RULE);
    let mut config = load(&path);
    let mut next = |text: &str| {
        fs::write(&path, text).unwrap();
        let reloaded = reload(&config, &Environment::new(), &Flags::default(), WithoutRules::Refused).unwrap();
        config = reloaded.config;
        let new: Vec<String> = reloaded.new_warnings.iter().map(ToString::to_string).collect();
        (new, config.warnings.len())
    };
    let (new, count) = next(&(RULE.to_owned() + idle));
    assert!(new.len() == 1 && new[0].contains("rule \"idle\" decides nothing"), "{new:?}");
    assert_eq!(count, 1);
    // The same again, lines further down, is not news, but it is still true.
    assert_eq!(next(&format!("\n\n{RULE}{idle}")), (vec![], 1));
    // Another rule's is, also beside the old one.
    let other = idle.replace("idle", "other");
    let (new, count) = next(&format!("{RULE}{idle}{other}"));
    assert!(new.len() == 1 && new[0].contains("rule \"other\" decides nothing"), "{new:?}");
    assert_eq!(count, 2);
    // What was put right and comes back is news again.
    assert_eq!(next(RULE), (vec![], 0));
    assert_eq!(next(&(RULE.to_owned() + idle)).0.len(), 1);
}

#[test]
fn what_needs_a_restart_is_named() {
    let config = |text: &str| config::load_text("o.toml", text, &Environment::new(), &Flags::default()).unwrap();
    let old = config("");
    let live = "[log]\nlevel = \"debug\"\ndecisions = \"all\"\n[proxy]\nmax_message = \"1MiB\"\ndrain_timeout = \"1m\"\n".to_owned() + RULE;
    assert_eq!(needs_restart(&old, &config(&live)), [""; 0]);
    let text = "[proxy]\nlisten = [\"127.0.0.1:1\"]\nupstream_policy = \"first\"\n[store]\nurl = \"redis://a\"\n[admin]\nlisten = \"127.0.0.1:2\"\n";
    assert_eq!(
        needs_restart(&old, &config(text)),
        ["proxy.listen", "proxy.upstream_policy", "store.url", "admin.listen"]
    );
}

#[test]
fn a_changed_file_is_told() {
    let directory = Directory::new();
    let path = directory.write("oncegate.toml", RULE);
    let (_watch, mut changes) = watch(&load(&path)).unwrap();
    fs::write(&path, rule("b")).unwrap();
    changed(&mut changes);
    // A rename over the file, as editors do.
    let other = directory.write("oncegate.toml.new", &rule("c"));
    fs::rename(other, &path).unwrap();
    changed(&mut changes);
}

#[test]
fn a_change_between_load_and_watch_is_told() {
    let directory = Directory::new();
    let path = directory.write("oncegate.toml", RULE);
    let config = load(&path);
    fs::write(&path, rule("b")).unwrap();
    let (watch, mut changes) = watch(&config).unwrap();
    changed(&mut changes);

    let config = load(&path);
    fs::write(&path, rule("c")).unwrap();
    watch.set(&config);
    changed(&mut changes);
}

#[test]
fn a_new_file_of_an_include_pattern_is_told() {
    let directory = Directory::new();
    fs::create_dir(directory.path().join("rules.d")).unwrap();
    let path = directory.write("oncegate.toml", "include = [\"rules.d/*.toml\"]\n");
    let (_watch, mut changes) = watch(&load(&path)).unwrap();
    directory.write("rules.d/a.toml", RULE);
    changed(&mut changes);
    assert_eq!(load(&path).rules.specs().len(), 1);
}

/// A mounted `ConfigMap`: the file is a symlink through `..data`, which is replaced by a rename.
#[test]
fn a_swapped_symlink_is_told() {
    let directory = Directory::new();
    directory.write("..2026_1/oncegate.toml", RULE);
    symlink("..2026_1", directory.path().join("..data")).unwrap();
    let path = directory.path().join("oncegate.toml");
    symlink("..data/oncegate.toml", &path).unwrap();
    let (_watch, mut changes) = watch(&load(&path)).unwrap();

    directory.write("..2026_2/oncegate.toml", &rule("b"));
    symlink("..2026_2", directory.path().join("..data_tmp")).unwrap();
    fs::rename(directory.path().join("..data_tmp"), directory.path().join("..data")).unwrap();
    changed(&mut changes);
    assert_eq!(load(&path).rules.specs()[0].task, ["b"]);
}

/// A certificate is part of what is watched, and a touched file is no change.
#[test]
fn certificates_are_watched_by_content() {
    let directory = Directory::new();
    let (cert, key) = (directory.write("tls/cert.pem", "1"), directory.write("tls/key.pem", "1"));
    let text = "[proxy]\nlisten = [\"amqps://127.0.0.1:0\"]\n[proxy.tls]\ncert = \"tls/cert.pem\"\nkey = \"tls/key.pem\"\n";
    let path = directory.write("oncegate.toml", text);
    let (watch, mut changes) = watch(&load(&path)).unwrap();
    fs::write(&key, "1").unwrap();
    fs::write(&cert, "2").unwrap();
    changed(&mut changes);
    drop(watch);
    // The thread ends with the watch, and with it the channel.
    assert_eq!(changes.blocking_recv(), None);
}
