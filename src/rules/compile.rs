//! From what users write to rules that decide, with every fault named.

mod limit;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::expr::{Expr, NAMES};
use super::lock::{Quiet, ReleaseOn};
use super::matcher::{Glob, Globs};
use super::params::Params;
use super::source::Hears;
use super::spec::{Key as KeySpec, Mode, Outcome, RuleSpec, SpecError};
use super::{Key, Piece, Rule, SignaturesOf, When};

/// Task names with their signatures, as `[signatures]` gives them.
pub type Signatures = Vec<(String, String)>;

/// How a signature is written.
pub(super) const SIGNATURE: &str = "Write the signature as in Python, without self: customer_id, region='eu', *, force=False.";

/// Compiles one rule; its faults go to `errors`.
pub(super) fn rule(index: usize, spec: &RuleSpec, signatures: &BTreeMap<String, Arc<Params>>, errors: &mut Vec<SpecError>) -> Option<Rule> {
    let before = errors.len();
    let name = name(index, spec, errors);
    let tasks = globs(index, "task", &spec.task, errors);
    if spec.task.is_empty()
        && [&spec.queue, &spec.exchange, &spec.routing_key, &spec.vhost, &spec.user]
            .iter()
            .all(|globs| globs.is_empty())
        && spec.when.is_none()
    {
        errors.push(fault(
            index,
            "task",
            "the rule matches nothing in particular",
            "Write task = \"…\", or another matcher such as queue = \"…\".",
        ));
    }
    combinations(index, spec, errors);
    let params = spec.params.as_ref().and_then(|text| match Params::parse(text) {
        Ok(params) => Some(Arc::new(params)),
        Err(error) => {
            let mut fault = fault(index, "params", error.message, SIGNATURE);
            fault.offset = Some(error.offset);
            errors.push(fault);
            None
        }
    });
    let by_task: BTreeMap<String, Arc<Params>> = signatures
        .iter()
        .filter(|(task, _)| tasks.is_match(task))
        .map(|(task, params)| (task.clone(), Arc::clone(params)))
        .collect();
    let signatures = SignaturesOf { own: params, by_task };
    let mut known: BTreeSet<&str> = NAMES.iter().copied().collect();
    match &signatures.own {
        Some(params) => known.extend(params.names()),
        None => known.extend(signatures.by_task.values().flat_map(|params| params.names())),
    }
    let when = spec
        .when
        .as_ref()
        .and_then(|text| expression(index, "when", None, text, &known, errors));
    let key = key(index, &spec.key, &known, errors);
    let name: Arc<str> = Arc::from(name);
    let limits = limit::limits(index, &name, spec, &signatures, &known, errors);
    let mut matchers = |name, patterns: &[String]| globs(index, name, patterns, errors);
    let rule = Rule {
        index,
        name,
        queue: matchers("queue", &spec.queue),
        exchange: matchers("exchange", &spec.exchange),
        routing_key: matchers("routing_key", &spec.routing_key),
        vhost: matchers("vhost", &spec.vhost),
        user: matchers("user", &spec.user),
        task: tasks,
        when: when.map(|expression| {
            Arc::new(When {
                expression,
                signatures: signatures.clone(),
            })
        }),
        and_next: spec.and_next,
        bypass: spec.bypass,
        mode: spec.mode,
        unique: spec.unique,
        signatures,
        key: key?,
        namespace: spec.namespace.as_deref().map(Arc::from),
        ttl: spec.ttl,
        max_ttl: spec.max_ttl.unwrap_or(spec.ttl),
        running_ttl: spec.running_ttl,
        lease: spec.lease,
        settle_grace: spec.settle_grace,
        orphan_grace: spec.orphan_grace,
        canvas: spec.canvas,
        acks_late: spec.acks_late,
        hears: Hears::of(&spec.completion),
        expires_with_lock: spec.expires_with_lock,
        retry_delays: spec.retry_delays.clone(),
        beat_lease: spec.beat_lease,
        beat_origins: matchers("beat_origins", &spec.beat_origins),
        release_on: release_on(&spec.release_on),
        cooldown: spec.cooldown.unwrap_or_default(),
        debounce: spec.debounce.map(|period| Quiet {
            period_ms: milliseconds(period).max(1),
            longest_ms: spec.debounce_max.map(milliseconds),
        }),
        on_duplicate: spec.on_duplicate,
        on_running: spec.on_running,
        result: spec.result,
        result_by: spec.result_by,
        dead_letter: spec.dead_letter.clone(),
        hold_max: spec.hold_max,
        on_store_error: spec.on_store_error,
        store_wait: spec.store_wait,
        summary: spec.summary,
        overrides: spec.allow_overrides.clone(),
        limits,
    };
    (errors.len() == before && spec.mode != Mode::Off).then_some(rule)
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn release_on(outcomes: &[Outcome]) -> ReleaseOn {
    match outcomes {
        [Outcome::Success] => ReleaseOn::Success,
        [Outcome::Failure] => ReleaseOn::Failure,
        _ => ReleaseOn::Both,
    }
}

/// Refuses settings that contradict each other, or that would free every lock at once.
fn combinations(index: usize, spec: &RuleSpec, errors: &mut Vec<SpecError>) {
    let mut refuse = |key, message: String, remedy| errors.push(fault(index, key, message, remedy));
    for (key, duration) in [("ttl", spec.ttl), ("lease", spec.lease)] {
        if duration.as_millis() == 0 {
            let message = format!("{key} is nought: every lock would lapse at once");
            refuse(key, message, "Write a duration such as \"10s\".");
        }
    }
    if spec.max_ttl.is_some_and(|max_ttl| max_ttl < spec.ttl) {
        let message = "max_ttl is shorter than ttl".to_owned();
        refuse("max_ttl", message, "Write a max_ttl of at least ttl, or leave it out.");
    }
    if spec.namespace.as_deref() == Some("") {
        let message = "namespace is empty".to_owned();
        refuse("namespace", message, "Write a name, or leave it out for the task name.");
    }
    if spec.bypass && spec.and_next {
        let message = "a rule with bypass = true stops, so it cannot continue".to_owned();
        refuse("continue", message, "Leave one of the two out.");
    }
}

/// Whether metrics and keys of the store can have it.
fn is_proper_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '.' | '-'))
}

/// The name: the task pattern if it has no glob.
fn name(index: usize, spec: &RuleSpec, errors: &mut Vec<SpecError>) -> String {
    match (&spec.name, spec.task.as_slice()) {
        (Some(name), _) => {
            if !is_proper_name(name) {
                errors.push(fault(
                    index,
                    "name",
                    format!("name = \"{name}\" has characters that a name cannot have"),
                    "Use A-Z a-z 0-9 _ . and - only.",
                ));
            }
            name.clone()
        }
        (None, [task]) if is_proper_name(task) => task.clone(),
        _ => {
            errors.push(fault(
                index,
                "name",
                "the rule has no name",
                "Only a rule with one task without a glob is named after it: write name = \"…\".",
            ));
            String::new()
        }
    }
}

/// Refuses a name that an earlier rule has.
pub(super) fn names(specs: &[RuleSpec], errors: &mut Vec<SpecError>) {
    let mut known: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, spec) in specs.iter().enumerate() {
        let name = spec.name.as_deref().or(match spec.task.as_slice() {
            [task] => Some(task.as_str()),
            _ => None,
        });
        let Some(name) = name else { continue };
        if let Some(first) = known.insert(name, index) {
            let message = format!(
                "two rules are named \"{name}\": the {} and the {} in order",
                ordinal(first),
                ordinal(index)
            );
            errors.push(fault(
                index,
                "name",
                message,
                "Give each rule a name of its own: metrics and locks are told apart by it.",
            ));
        }
    }
}

fn ordinal(index: usize) -> String {
    match index + 1 {
        1 => "first".to_owned(),
        2 => "second".to_owned(),
        3 => "third".to_owned(),
        number => format!("{number}th"),
    }
}

fn globs(index: usize, key: &'static str, patterns: &[String], errors: &mut Vec<SpecError>) -> Globs {
    let mut globs = Vec::with_capacity(patterns.len());
    for (element, pattern) in patterns.iter().enumerate() {
        match Glob::compile(pattern) {
            Ok(glob) => globs.push(glob),
            Err(message) => {
                let mut fault = fault(
                    index,
                    key,
                    message,
                    "A pattern is text in which * stands for any characters and ? for one.",
                );
                fault.element = Some(element);
                errors.push(fault);
            }
        }
    }
    Globs::new(globs)
}

fn key(index: usize, spec: &KeySpec, known: &BTreeSet<&str>, errors: &mut Vec<SpecError>) -> Option<Key> {
    match spec {
        KeySpec::All => Some(Key::All),
        KeySpec::List(texts) => {
            let mut expressions = Vec::with_capacity(texts.len());
            for (element, text) in texts.iter().enumerate() {
                let Some(expression) = expression(index, "key", Some(element), text, known, errors) else {
                    continue;
                };
                if expression.names().is_empty() {
                    let message = format!("`{text}` in key is a constant: every call would be a duplicate.");
                    let mut constant = fault(
                        index,
                        "key",
                        message,
                        "Name an argument in each element; for one key per task write key = [].",
                    );
                    constant.element = Some(element);
                    errors.push(constant);
                } else {
                    expressions.push(expression);
                }
            }
            Some(Key::List(expressions))
        }
        KeySpec::Template(text) => template(index, text, known, errors).map(Key::Template),
    }
}

fn constant(index: usize, text: &str) -> SpecError {
    fault(
        index,
        "key",
        format!("key = {text:?} is a constant: every call would be a duplicate."),
        format!("Write key = [\"{text}\"] or \"{{{{ {text} }}}}\"; for one per task write key = []."),
    )
}

fn template(index: usize, text: &str, known: &BTreeSet<&str>, errors: &mut Vec<SpecError>) -> Option<Vec<Piece>> {
    if !text.contains("{{") {
        errors.push(constant(index, text));
        return None;
    }
    if text.contains("{%") || text.contains("{#") {
        errors.push(fault(
            index,
            "key",
            format!("key = {text:?}: a template has only {{{{ }}}}, no statements and no comments"),
            "Write an expression, such as {{ 'a' if kwargs.a else 'b' }}.",
        ));
        return None;
    }
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut names = 0;
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((inside, after)) = after.split_once("}}") else {
            errors.push(fault(
                index,
                "key",
                format!("key = {text:?}: a {{{{ has no }}}}"),
                "Close each {{ with }}.",
            ));
            return None;
        };
        if !before.is_empty() {
            pieces.push(Piece::Text(before.to_owned()));
        }
        let expression = expression(index, "key", None, inside, known, errors)?;
        names += expression.names().len();
        pieces.push(Piece::Expr(expression));
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    if names == 0 {
        errors.push(constant(index, text));
        return None;
    }
    Some(pieces)
}

fn expression(
    index: usize,
    key: &'static str,
    element: Option<usize>,
    text: &str,
    known: &BTreeSet<&str>,
    errors: &mut Vec<SpecError>,
) -> Option<Expr> {
    let place = |mut fault: SpecError| {
        fault.element = element;
        fault
    };
    let expression = match Expr::compile(text) {
        Ok(expression) => expression,
        Err(detail) => {
            errors.push(place(fault(
                index,
                key,
                format!("`{text}` is no expression: {detail}"),
                "Write names of arguments, such as customer_id or kwargs.customer_id.",
            )));
            return None;
        }
    };
    let unknown: Vec<_> = expression.names().iter().filter(|name| !known.contains(name.as_str())).collect();
    for name in &unknown {
        let message = format!("`{name}` in `{text}` is neither a parameter nor a name that Oncegate gives");
        let remedy = format!(
            "Write params = \"{name}\" with the task's signature, or kwargs.{name} or args[0]; the names given are {}.",
            NAMES.join(", ")
        );
        let mut fault = place(fault(index, key, message, remedy));
        fault.offset = text.find(name.as_str());
        errors.push(fault);
    }
    unknown.is_empty().then_some(expression)
}

fn fault(rule: usize, key: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> SpecError {
    SpecError {
        rule,
        limit: None,
        key,
        element: None,
        offset: None,
        message: message.into(),
        remedy: remedy.into(),
    }
}
