//! `[[rule]]`, `[defaults]` and `[signatures]`: from tables to rule specs, and from what is wrong with a spec back to its place.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::amqp::coding::SHORT_MAX;
use crate::rules::RuleSet;
use crate::rules::spec::{
    AcksLate, Canvas, Completion, CompletionSource, DeadLetter, Key, Mode, OnDuplicate, OnRunning, OnStoreError, Outcome, Override,
    ResultBy, ResultMode, RuleSpec, SpecError, Summary, Unique,
};

use super::check::{Offered, check_rule, warn};
use super::context::{Context, sentence};
use super::limit::{read_limit, read_limits};
use super::reader::TableReader;
use super::report::{Reader, Shown};
use super::setting::{Setting, read_items};
use super::source::Span;
use super::tables::{open, positive};
use super::tree::{Node, Table, Value};
use super::{Unanswered, WhyUnanswered};
use crate::rules::owed::Told;

/// One rule as it was written.
pub(super) struct Written<'r> {
    pub spec: RuleSpec,
    /// Whether each of its keys was read; of a rule with a wrong key nothing more can be said.
    pub is_read: bool,
    own: &'r Table,
    defaults: Option<&'r Table>,
    pub at: Span,
}

impl<'r> Written<'r> {
    /// Its table, to report what is wrong with a key.
    pub fn table(&self, reader: &'r Reader) -> TableReader<'r> {
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
        check_rule(&table, &spec);
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

/// One line of `[signatures]`.
struct Signature<'r> {
    task: String,
    text: String,
    node: &'r Node,
}

/// `[signatures]`: the task's name, and its signature.
fn read_signatures<'r>(root: &mut TableReader<'r>) -> Vec<Signature<'r>> {
    let reader = root.reader();
    let (own, at) = root.table("signatures");
    let table = TableReader::new(reader, "signatures", own, at);
    let mut signatures = Vec::new();
    for entry in table.entries() {
        match &entry.node.value {
            Value::Text(signature) => {
                signatures.push(Signature {
                    task: entry.name.clone(),
                    text: signature.clone(),
                    node: &entry.node,
                });
            }
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
    let shown = signatures.iter().map(|signature| (signature.task.clone(), json!(signature.text)));
    root.show("signatures", shown.collect::<serde_json::Map<_, _>>().into());
    signatures
}

/// The values that users type, with their names.
pub(super) fn words<T>(names: &[&'static str], from_name: fn(&str) -> Option<T>) -> Vec<(&'static str, T)> {
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

pub(super) fn optional_positive(table: &mut TableReader<'_>, key: &'static str) -> Option<Duration> {
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
pub(super) fn read_key(table: &mut TableReader<'_>, default: Key) -> Key {
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
    let key = key.unwrap_or(default);
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
    for (key, name) in [("exchange", Some(&exchange)), ("routing_key", routing_key.as_ref())] {
        if name.is_some_and(|name| name.len() > SHORT_MAX) {
            inner.refuse(key, "is longer than 255 octets, which AMQP cannot name", "Write a shorter one.");
        }
    }
    let shown = inner.finish();
    table.show("dead_letter", shown);
    routing_key.map(|routing_key| DeadLetter { exchange, routing_key })
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
/// Also the rules whose dropped ids may get no result that should.
pub(super) fn read_set(root: &mut TableReader<'_>, offered: Offered<'_>, told: Told) -> (Arc<RuleSet>, Option<Unanswered>) {
    let reader = root.reader();
    let mut rules = read_rules(root);
    let signatures = read_signatures(root);
    warn(reader, &rules, offered);
    let mut unanswered = None;
    if offered.carried {
        for rule in rules.iter_mut().filter(|rule| offered.carries(&rule.spec)) {
            rule.spec.result_by = ResultBy::Worker;
        }
    }
    if let Some(why) = offered.unanswered {
        let mut names = Vec::new();
        for rule in rules.iter_mut().filter(|rule| rule.spec.result_by != ResultBy::Worker) {
            let asked = rule.spec.result;
            if why != WhyUnanswered::OnlyRpc {
                rule.spec.result = ResultMode::None;
            }
            let drops = rule.spec.unique.is_some() && rule.spec.mode == Mode::Enforce && !rule.spec.bypass;
            if asked != ResultMode::None && drops {
                names.push(rule.spec.name.clone().or(rule.spec.task.first().cloned()).unwrap_or_default());
            }
        }
        unanswered = (!names.is_empty()).then_some(Unanswered { rules: names, why });
    }
    let specs = rules.iter().map(|rule| rule.spec.clone()).collect();
    let texts: Vec<_> = signatures
        .iter()
        .map(|signature| (signature.task.clone(), signature.text.clone()))
        .collect();
    let set = match RuleSet::compile(specs, &texts) {
        Ok(set) => Arc::new(set.telling(told)),
        Err(errors) => {
            for error in errors {
                refuse(reader, &rules, &signatures, &error);
            }
            Arc::default()
        }
    };
    (set, unanswered)
}

/// Tells what is wrong with a spec at its place.
fn refuse(reader: &Reader, rules: &[Written<'_>], signatures: &[Signature<'_>], error: &SpecError) {
    let offset = error.offset.unwrap_or_default();
    // The message names the key itself, or it says what is wrong with the text of the key.
    let says = |cx: &Context<'_>, node: &Node| {
        if error.message.starts_with(&format!("{} = ", error.key)) {
            error.message.clone()
        } else {
            format!("{}: {}", cx.name_and_text(node), error.message)
        }
    };
    if error.key == "signatures" {
        let Some(signature) = error.element.and_then(|index| signatures.get(index)) else {
            return;
        };
        let cx = Context {
            reader,
            table: "signatures",
            key: &format!("{:?}", signature.task),
            shown: Shown::Plain,
        };
        return cx.report(signature.node, offset, &sentence(&says(&cx, signature.node), &error.remedy));
    }
    // Of a rule with a value that was refused the default was compiled, of which nothing need be said.
    let Some(rule) = rules.get(error.rule).filter(|rule| rule.is_read) else {
        return;
    };
    let mut table = rule.table(reader);
    if let Some(limit) = error.limit {
        let Some((own, at)) = table.tables("limit").into_iter().nth(limit) else {
            return;
        };
        table = TableReader::new(reader, "rule.limit", Some(own), Some(at));
    }
    let element = error.element.and_then(|index| element(&table, error.key, index));
    let cx = table.context(error.key, Shown::Plain);
    match element.as_ref().or(table.node(error.key)) {
        Some(node) => cx.report(node, offset, &sentence(&says(&cx, node), &error.remedy)),
        None => table.refuse_table(&error.message, &error.remedy),
    }
}
