//! `[[rule]]`, `[defaults]` and `[signatures]`: from tables to rule specs, and from what is wrong with a spec back to its place.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::rules::RuleSet;
use crate::rules::spec::{
    AcksLate, Canvas, Completion, CompletionSource, DeadLetter, Key, LimitSpec, Mode, OnDuplicate, OnMaxWait, OnRunning, OnStoreError,
    Outcome, Override, ResultMode, RuleSpec, SpecError, Summary, Unique,
};

use super::context::Context;
use super::not_built;
use super::reader::{Reader, Shown, TableReader};
use super::setting::{Setting, read_items, read_text};
use super::source::Span;
use super::tables::{open, positive};
use super::tree::{Node, Table, Value};
use super::unit::show_duration;

/// One rule as it was written.
struct Written<'r> {
    spec: RuleSpec,
    /// Whether each of its keys was read; of a rule with a wrong key nothing more can be said.
    is_read: bool,
    own: &'r Table,
    defaults: Option<&'r Table>,
    at: Span,
}

impl<'r> Written<'r> {
    /// Its table, to report what is wrong with a key.
    fn table(&self, reader: &'r Reader) -> TableReader<'r> {
        TableReader::new(reader, "rule", Some(self.own), Some(self.at)).with_fallback(self.defaults)
    }
}

/// Reads `[defaults]` and every `[[rule]]`.
fn read_rules<'r>(root: &mut TableReader<'r>) -> Vec<Written<'r>> {
    let reader = root.reader();
    let (defaults, at) = root.table("defaults");
    let mut table = TableReader::new(reader, "defaults", defaults, at).known_as("rule");
    read_settings(&mut table, &mut RuleSpec::default());
    let shown = table.finish();
    root.show("defaults", shown);

    let mut rules = Vec::new();
    let mut shown = Vec::new();
    for (own, at) in root.tables("rule") {
        let errors = reader.error_count();
        let is_bypass = matches!(own.get("bypass").map(|entry| &entry.node.value), Some(Value::Bool(true)));
        // A bypass rule does nothing that a default could be about.
        let defaults = defaults.filter(|_| !is_bypass);
        let mut table = TableReader::new(reader, "rule", Some(own), Some(at)).with_fallback(defaults);
        let mut spec = read_matchers(&mut table);
        read_settings(&mut table, &mut spec);
        spec.given = Some(own.entries.iter().map(|entry| entry.name.clone()).collect::<BTreeSet<_>>());
        shown.push(table.finish());
        rules.push(Written {
            spec,
            is_read: reader.error_count() == errors,
            own,
            defaults,
            at,
        });
    }
    root.show("rule", shown.into());
    rules
}

/// Asks for every key of a rule once.
pub(super) fn read_every_key(reader: &Reader) {
    let mut table = TableReader::new(reader, "rule", None, None);
    let mut spec = read_matchers(&mut table);
    read_settings(&mut table, &mut spec);
    read_limit(&mut TableReader::new(reader, "rule.limit", None, None));
}

/// `[signatures]`: the task's name or pattern, and its signature.
fn read_signatures(root: &mut TableReader<'_>) -> Vec<(String, String)> {
    let reader = root.reader();
    let (own, at) = root.table("signatures");
    let table = TableReader::new(reader, "signatures", own, at);
    let mut signatures = Vec::new();
    for entry in table.entries() {
        match &entry.node.value {
            Value::Text(signature) => signatures.push((entry.name.clone(), signature.clone())),
            Value::Table(_) => {
                let message = format!(
                    "{} is split at its dot. Write the whole name of the task in quotes: \"{0}.…\" = \"…\".",
                    entry.name
                );
                reader.error_at(entry.name_at, message);
            }
            other => {
                let message = format!(
                    "{} is {} where a signature is meant. Write {:?} = \"a, b=1\".",
                    entry.name,
                    other.kind(),
                    entry.name
                );
                reader.error_at(entry.name_at, message);
            }
        }
    }
    root.show(
        "signatures",
        signatures
            .iter()
            .map(|(task, signature)| (task.clone(), json!(signature)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
    );
    signatures
}

/// The values that users type, with their names.
fn words<T>(names: &[&'static str], from_name: fn(&str) -> Option<T>) -> Vec<(&'static str, T)> {
    names.iter().filter_map(|name| Some((*name, from_name(name)?))).collect()
}

/// The keys before `mode`: which messages, and what then.
fn read_matchers(table: &mut TableReader<'_>) -> RuleSpec {
    let mut globs = |key| table.get(key, Globs(Vec::new())).0;
    let (task, queue, exchange) = (globs("task"), globs("queue"), globs("exchange"));
    let (routing_key, vhost, user) = (globs("routing_key"), globs("vhost"), globs("user"));
    RuleSpec {
        name: table.optional("name"),
        task,
        queue,
        exchange,
        routing_key,
        vhost,
        user,
        when: table.optional("when"),
        and_next: table.get("continue", false),
        bypass: table.get("bypass", false),
        ..RuleSpec::default()
    }
}

/// The keys from `mode` on, which `[defaults]` has too.
fn read_settings(table: &mut TableReader<'_>, spec: &mut RuleSpec) {
    let normal = RuleSpec::default();
    spec.mode = table.choice("mode", normal.mode, &words(Mode::NAMES, Mode::from_name));
    spec.unique = table.optional_choice("unique", &words(Unique::NAMES, Unique::from_name));
    spec.params = table.optional("params");
    spec.key = read_key(table, Key::All);
    spec.namespace = table.optional("namespace");
    read_lives(table, spec, &normal);
    spec.on_duplicate = table.choice(
        "on_duplicate",
        normal.on_duplicate,
        &words(OnDuplicate::NAMES, OnDuplicate::from_name),
    );
    spec.on_running = table.choice("on_running", normal.on_running, &words(OnRunning::NAMES, OnRunning::from_name));
    spec.debounce = optional_positive(table, "debounce");
    spec.debounce_max = optional_positive(table, "debounce_max");
    spec.release_on = table.choices("release_on", normal.release_on, &words(Outcome::NAMES, Outcome::from_name));
    spec.cooldown = optional_positive(table, "cooldown");
    spec.result = table.choice("result", normal.result, &words(ResultMode::NAMES, ResultMode::from_name));
    spec.canvas = table.choice("canvas", normal.canvas, &words(Canvas::NAMES, Canvas::from_name));
    spec.acks_late = table.choice("acks_late", normal.acks_late, &words(AcksLate::NAMES, AcksLate::from_name));
    spec.completion = read_completion(table);
    spec.dead_letter = read_dead_letter(table);
    spec.expires_with_lock = table.get("expires_with_lock", false);
    spec.retry_delays = table.get("retry_delays", Vec::new());
    spec.beat_lease = optional_positive(table, "beat_lease");
    spec.beat_origins = table.get("beat_origins", Globs(Vec::new())).0;
    spec.on_store_error = table.choice(
        "on_store_error",
        normal.on_store_error,
        &words(OnStoreError::NAMES, OnStoreError::from_name),
    );
    spec.store_wait = table.get("store_wait", normal.store_wait);
    spec.summary = table.choice("summary", normal.summary, &words(Summary::NAMES, Summary::from_name));
    spec.allow_overrides = table.choices("allow_overrides", Vec::new(), &words(Override::NAMES, Override::from_name));
    spec.limits = read_limits(table);
}

fn read_lives(table: &mut TableReader<'_>, spec: &mut RuleSpec, normal: &RuleSpec) {
    spec.ttl = positive(table, "ttl", normal.ttl);
    spec.running_ttl = positive(table, "running_ttl", normal.running_ttl);
    spec.max_ttl = optional_positive(table, "max_ttl");
    spec.lease = positive(table, "lease", normal.lease);
    spec.orphan_grace = table.get("orphan_grace", normal.orphan_grace);
    spec.settle_grace = table.get("settle_grace", normal.settle_grace);
    spec.hold_max = positive(table, "hold_max", normal.hold_max);
}

fn optional_positive(table: &mut TableReader<'_>, key: &'static str) -> Option<Duration> {
    let duration: Option<Duration> = table.optional(key);
    if duration.is_some_and(|duration| duration.is_zero()) {
        table.refuse(key, "is no time at all", &format!("Write a longer one, or leave {key} out."));
    }
    duration
}

/// One glob, or a list of them.
#[derive(PartialEq)]
struct Globs(Vec<String>);

impl Setting for Globs {
    fn read(node: &Node, cx: &Context<'_>) -> Option<Globs> {
        match &node.value {
            Value::Text(glob) => Some(Globs(vec![glob.clone()])),
            _ => Vec::read(node, cx).map(Globs),
        }
    }

    fn show(&self) -> Json {
        json!(self.0)
    }
}

/// A list of expressions, or a template. A variable is a template if it has `{{`, else a list.
fn read_key(table: &mut TableReader<'_>, default: Key) -> Key {
    let key = table.read("key", Shown::Plain, |node, cx| match &node.value {
        Value::Text(template) => Some(Key::Template(template.clone())),
        Value::Bare(template) if template.contains("{{") => Some(Key::Template(template.clone())),
        Value::List(_) | Value::Bare(_) => Vec::read(node, cx).map(Key::List),
        other => {
            let remedy = "Write a list of expressions such as key = [\"customer_id\"], or a template such as key = \"{{ customer_id }}\".";
            cx.refuse(node, &format!("is {} where a list is meant", other.kind()), remedy);
            None
        }
    });
    let key = key.flatten().unwrap_or(default);
    let shown = match &key {
        Key::All => Json::Null,
        Key::List(parts) => json!(parts),
        Key::Template(template) => json!(template),
    };
    table.show("key", shown);
    key
}

fn read_completion(table: &mut TableReader<'_>) -> Completion {
    let sources = words(CompletionSource::NAMES, CompletionSource::from_name);
    let is_auto = matches!(table.node("completion").map(|node| &node.value), Some(Value::Text(text) | Value::Bare(text)) if text == "auto");
    if is_auto || !table.has("completion") {
        table.entry("completion");
        table.show("completion", json!("auto"));
        return Completion::Auto;
    }
    let given = table.choices("completion", Vec::new(), &sources);
    if given.is_empty() {
        table.refuse(
            "completion",
            "names no signal",
            "Write completion = \"auto\", or a list of \"ack\", \"events\", \"rpc\", \"redis\".",
        );
    }
    Completion::Only(given)
}

fn read_dead_letter(table: &mut TableReader<'_>) -> Option<DeadLetter> {
    let mut inner = open(table, "dead_letter", "rule.dead_letter");
    let exchange = inner.get("exchange", String::new());
    let routing_key: Option<String> = inner.optional("routing_key");
    if !table.has("dead_letter") {
        table.show("dead_letter", Json::Null);
        return None;
    }
    if routing_key.is_none() && !inner.has("routing_key") {
        inner.refuse_table(
            "dead_letter has no routing_key",
            "Write dead_letter = { exchange = \"\", routing_key = \"duplicates\" }.",
        );
    }
    let shown = inner.finish();
    table.refuse_unbuilt("dead_letter", &Json::Null);
    table.show("dead_letter", shown);
    routing_key.map(|routing_key| DeadLetter { exchange, routing_key })
}

fn read_limits(table: &mut TableReader<'_>) -> Vec<LimitSpec> {
    let reader = table.reader();
    let mut limits = Vec::new();
    let mut shown = Vec::new();
    for (own, at) in table.tables("limit") {
        let mut limit = TableReader::new(reader, "rule.limit", Some(own), Some(at));
        limits.push(read_limit(&mut limit));
        shown.push(limit.finish());
        if not_built::working_values("rule.limit").is_some() {
            reader.error_at(
                Span { end: at.start, ..at },
                "[[rule.limit]] is not available in this version. Leave it out.".to_owned(),
            );
        }
    }
    table.show("limit", shown.into());
    limits
}

fn read_limit(table: &mut TableReader<'_>) -> LimitSpec {
    let rate = table.read("rate", Shown::Plain, |node, cx| {
        let text = read_text(node, cx, "a rate", "2/m")?;
        let rate = parse_rate(text);
        if rate.is_none() {
            cx.refuse(
                node,
                "is not a rate",
                "Write a whole number from 1, a slash, and one of s, m, h, d, such as \"2/m\".",
            );
        }
        rate
    });
    let rate = rate.flatten();
    table.show(
        "rate",
        rate.map_or(Json::Null, |(times, per)| json!(format!("{times} per {}", show_duration(per)))),
    );
    for key in ["times", "per"] {
        if rate.is_some() && table.has(key) {
            table.refuse(
                key,
                "says again what rate says",
                &format!("Keep rate, or times and per: leave {key} or rate out."),
            );
        }
    }
    let times: Option<u64> = table.optional("times");
    let per = optional_positive(table, "per");
    LimitSpec {
        name: table.optional("name"),
        times: rate.map(|(times, _)| times).or(times),
        per: rate.map(|(_, per)| per).or(per),
        burst: table.optional("burst"),
        concurrent: table.optional("concurrent"),
        key: read_key(table, Key::List(Vec::new())),
        max_wait: optional_positive(table, "max_wait"),
        on_max_wait: table.optional_choice("on_max_wait", &words(OnMaxWait::NAMES, OnMaxWait::from_name)),
        hold_max: optional_positive(table, "hold_max"),
        count_retries: table.get("count_retries", true),
    }
}

/// `2/m`: how often, in which time.
fn parse_rate(text: &str) -> Option<(u64, Duration)> {
    let (times, unit) = text.split_once('/')?;
    let seconds = match unit.trim() {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    let times = times.trim().parse().ok().filter(|times| *times > 0)?;
    Some((times, Duration::from_secs(seconds)))
}

/// What is allowed in a rule and probably not meant.
fn warn(reader: &Reader, rule: &Written<'_>) {
    let spec = &rule.spec;
    let name = spec.name.clone().or_else(|| spec.task.first().cloned()).unwrap_or_default();
    let table = rule.table(reader);
    let at = |key: &str| table.node(key).map_or(rule.at, |node| node.at);
    let matches_all = spec
        .task
        .iter()
        .any(|glob| glob.chars().all(|character| character == '*') && !glob.is_empty());
    if matches_all && spec.mode == Mode::Enforce && !spec.bypass {
        let message = format!("rule {name:?} matches every task and enforces. Write mode = \"observe\" first, or name the tasks.");
        reader.warn(at("task"), Some(&name), message);
    }
    if spec.unique == Some(Unique::UntilFinished) && spec.acks_late != AcksLate::True && spec.mode != Mode::Off && !spec.bypass {
        let ttl = show_duration(spec.ttl);
        let message = format!(
            "rule {name:?}: the end of a task is learnt from a late ack alone, and acks_late is {:?}: its locks go by ttl ({ttl}). \
             Write acks_late = true if the task acknowledges late, else choose ttl so that it covers a run.",
            spec.acks_late.as_str()
        );
        reader.warn(at("unique"), Some(&name), message);
    }
}

/// The items of a list that was written, to point at one of them.
fn element(table: &TableReader<'_>, key: &str, index: usize) -> Option<Node> {
    let node = table.node(key)?;
    let cx = Context {
        reader: table.reader(),
        table: "rule",
        key,
        shown: Shown::Plain,
    };
    match node.value {
        Value::List(_) => read_items(node, &cx, "a list")?.get(index).cloned(),
        _ => None,
    }
}

/// Reads all rules and makes one set of them; what the set refuses is told at the place of the key.
pub(super) fn read_set(root: &mut TableReader<'_>) -> Arc<RuleSet> {
    let reader = root.reader();
    let rules = read_rules(root);
    let signatures = read_signatures(root);
    for rule in &rules {
        warn(reader, rule);
    }
    let specs = rules.iter().map(|rule| rule.spec.clone()).collect();
    match RuleSet::compile(specs, &signatures) {
        Ok(set) => Arc::new(set),
        Err(errors) => {
            for error in errors {
                refuse(root, &rules, &error);
            }
            Arc::default()
        }
    }
}

/// Tells what is wrong with a spec at its place.
fn refuse(root: &TableReader<'_>, rules: &[Written<'_>], error: &SpecError) {
    let reader = root.reader();
    let offset = error.offset.unwrap_or_default();
    // Of a rule with a value that was refused the default was compiled, of which nothing need be said.
    let Some(rule) = rules.get(error.rule).filter(|rule| rule.is_read) else {
        return;
    };
    let table = rule.table(reader);
    match error.element.and_then(|index| element(&table, error.key, index)) {
        Some(node) => table
            .context(error.key, Shown::Plain)
            .refuse_from(&node, offset, &error.message, &error.remedy),
        None => table.refuse_from(error.key, offset, &error.message, &error.remedy),
    }
}
