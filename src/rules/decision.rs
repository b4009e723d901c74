//! The one decision about a message, at publish and at delivery: unmatched, bypassed, unkeyable, or a claim to a key.

use std::borrow::Cow;
use std::sync::Arc;

use super::digest::{Domain, digest};
use super::expr::{Expr, ExprError, Scope};
use super::lock::{Digest, Extent, IfHeld, LockNote, LockRecord, Scope as LockScope};
use super::outcome::UnkeyableReason;
use super::owed::Owed;
use super::running::RunNote;
use super::show::{render, summary};
use super::spec::{AcksLate, Canvas, Mode, OnDuplicate, Override, Unique};
use super::{Key, Rule, SignaturesOf};
use crate::amqp::table::FieldValue;
use crate::celery::body::Body;
use crate::celery::task::{Protocol, Task};
use crate::celery::value::Value;

/// What is known of a message beside its body.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The task.
    pub task: &'a Task<'a>,
    /// The virtual host.
    pub vhost: &'a str,
    /// The user, where the login showed one.
    pub user: Option<&'a str>,
    /// The queues that it goes to or comes from, of which one must match; `None` if they are not known.
    pub queues: Option<&'a [Arc<str>]>,
    /// The exchange.
    pub exchange: &'a str,
    /// The routing key, without the bits of Celery's delayed delivery.
    pub routing_key: &'a str,
}

/// Why a message is forwarded untouched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bypass {
    /// The rule says so.
    Rule,
    /// A header says so, and the rule allows it.
    Header,
    /// It is a member of a group, chord or chain, or has links.
    Canvas,
}

impl Bypass {
    /// As logs name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Bypass::Rule => "rule",
            Bypass::Header => "header",
            Bypass::Canvas => "canvas",
        }
    }
}

/// The decision.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// No rule with uniqueness matches.
    Unmatched {
        /// A rule that might have matched, had the queue been known.
        queue_unknown: Option<Arc<Rule>>,
    },
    /// A rule without uniqueness matches, and has its say on other things (`retry_delays`, `beat_lease`).
    Keyless {
        /// The rule.
        rule: Arc<Rule>,
    },
    /// A rule matches and lets it pass untouched.
    Bypassed {
        /// The rule.
        rule: Arc<Rule>,
        /// Why.
        reason: Bypass,
    },
    /// `when` failed: it passes undecided.
    WhenError {
        /// The rule.
        rule: Arc<Rule>,
        /// What was wrong.
        detail: String,
    },
    /// Its key cannot be computed: it passes.
    Unkeyable {
        /// The rule.
        rule: Arc<Rule>,
        /// Why.
        reason: UnkeyableReason,
        /// What exactly was wrong.
        detail: String,
    },
    /// It claims a key.
    Claim(Claimed),
}

/// What becomes of the time at which a message expires (`expires_with_lock`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// It stays as it is: the rule does not ask for another, or its own comes first.
    Own,
    /// It is to expire with its lock: the time, in milliseconds since 1970, and what `unstarted_ms` is if that cannot be written.
    WithLock {
        /// What is to be written into the header `expires`.
        at_ms: i64,
        /// [`Claimed::unstarted_ms`] without it.
        else_unstarted_ms: Option<u64>,
    },
    /// It should expire with its lock and cannot, which is why.
    Unwritable(&'static str),
}

/// A claim to a key.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// The rule.
    pub rule: Arc<Rule>,
    /// The key.
    pub digest: Digest,
    /// What the rule lets be seen of the key.
    pub summary: Arc<str>,
    /// The virtual host of the message.
    pub vhost: Arc<str>,
    /// Which signal frees the publish lock; none if the key is locked for runs only.
    pub scope: Option<LockScope>,
    /// Whether its runs take the running lock of the key.
    pub runs_alone: bool,
    /// The full life of the publish lock from now, in milliseconds.
    pub life_ms: u64,
    /// How long from now its holder may still begin, in milliseconds, if its message expires.
    pub unstarted_ms: Option<u64>,
    /// When its message is to expire, once it is published.
    pub expiry: Expiry,
    /// What it does if its key is held.
    pub if_held: IfHeld,
    /// What its id is owed if it is dropped.
    pub owed: Owed,
}

impl Claimed {
    /// What is written beside the publish lock, if there is one.
    pub fn note(&self, task: Arc<str>, queue: Arc<str>) -> Option<LockNote> {
        Some(LockNote {
            rule: Arc::clone(&self.rule.name),
            task,
            summary: Arc::clone(&self.summary),
            vhost: Arc::clone(&self.vhost),
            queue,
            scope: self.scope?,
            shadow: self.rule.mode == Mode::Observe,
            life_ms: self.life_ms,
            unstarted_ms: self.unstarted_ms,
            lease_ms: self.rule.lease.as_millis() as u64,
            settle_grace_ms: self.rule.settle_grace.as_millis() as u64,
            acks_late: self.rule.acks_late == AcksLate::True,
            hears: self.rule.hears,
            release_on: self.rule.release_on,
            cooldown_ms: self.rule.cooldown.as_millis() as u64,
            if_held: self.if_held,
            owed: self.owed.clone(),
        })
    }

    /// What is written beside the running lock, if its runs take one.
    pub fn run_note(&self, task: Arc<str>, queue: Arc<str>, retries: u32) -> Option<RunNote> {
        self.runs_alone.then(|| RunNote {
            rule: Arc::clone(&self.rule.name),
            task,
            summary: Arc::clone(&self.summary),
            vhost: Arc::clone(&self.vhost),
            queue,
            life_ms: self.rule.running_ttl.as_millis() as u64,
            settle_grace_ms: self.rule.settle_grace.as_millis() as u64,
            acks_late: self.rule.acks_late == AcksLate::True,
            hears: self.rule.hears,
            retries,
            owed: self.owed.clone(),
        })
    }
}

impl Rule {
    /// What a publish does that finds its key held.
    pub fn if_held(&self) -> IfHeld {
        match (self.debounce, self.on_duplicate) {
            (Some(quiet), _) => IfHeld::Debounce(quiet),
            (None, OnDuplicate::Replace) => IfHeld::Replace,
            (None, OnDuplicate::KeepLast) => IfHeld::KeepLast,
            (None, _) => IfHeld::Yield,
        }
    }

    /// What is written beside the lock of a task that runs and is acknowledged, as far as the lock itself and the rule tell; `None` if
    /// such tasks end with their acknowledgement.
    pub fn note_of_running(&self, lock: &LockRecord) -> Option<LockNote> {
        let Extent::Publish(scope) = lock.scope else { return None };
        (self.acks_late != AcksLate::True).then(|| LockNote {
            rule: Arc::clone(&self.name),
            task: Arc::clone(&lock.task),
            summary: Arc::clone(&lock.summary),
            vhost: Arc::clone(&lock.vhost),
            queue: Arc::clone(&lock.queue),
            scope,
            shadow: lock.shadow,
            life_ms: self.ttl.as_millis() as u64,
            unstarted_ms: None,
            lease_ms: self.lease.as_millis() as u64,
            settle_grace_ms: self.settle_grace.as_millis() as u64,
            acks_late: false,
            hears: self.hears,
            release_on: self.release_on,
            cooldown_ms: self.cooldown.as_millis() as u64,
            owed: Owed::Nothing,
            if_held: self.if_held(),
        })
    }
}

/// The arguments of a call, named where there is a signature.
pub(super) struct Call<'a> {
    named: Vec<(&'a str, Cow<'a, Value>)>,
    /// Why the call does not fit the signature.
    unbound: Option<String>,
}

impl<'a> Call<'a> {
    /// Binds a call; `names` says whether anything asks for arguments by name.
    pub(super) fn new(signatures: &'a SignaturesOf, task: &str, names: bool, body: &'a Body) -> Call<'a> {
        let Some(params) = signatures.of(task).filter(|_| names) else {
            return Call {
                named: Vec::new(),
                unbound: None,
            };
        };
        let (Value::List(args) | Value::Tuple(args), Value::Map(kwargs)) = (&body.args, &body.kwargs) else {
            return Call {
                named: Vec::new(),
                unbound: Some("the arguments are no list and mapping".to_owned()),
            };
        };
        match params.bind(args, kwargs) {
            Ok(values) => Call {
                named: params.names().zip(values).collect(),
                unbound: None,
            },
            Err(error) => Call {
                named: Vec::new(),
                unbound: Some(format!("the call does not fit params: {error}")),
            },
        }
    }
}

/// What one rule says of a message that its matchers take. `None`: its `when` is false.
pub(super) fn judge(rule: &Arc<Rule>, facts: &Facts<'_>, body: &Body, now_ms: u64) -> Option<Verdict> {
    if let Some(when) = &rule.when {
        let call = Call::new(&when.signatures, &facts.task.name, uses(&when.expression, &when.signatures), body);
        let scope = scope(&when.signatures, facts, body, &call);
        match holds(&when.expression, &scope) {
            Ok(true) => {}
            Ok(false) => return None,
            Err(detail) => {
                return Some(Verdict::WhenError {
                    rule: Arc::clone(rule),
                    detail: call.unbound.unwrap_or(detail),
                });
            }
        }
    }
    Some(verdict(rule, facts, body, now_ms))
}

pub(super) fn uses(expression: &Expr, signatures: &SignaturesOf) -> bool {
    expression.names().iter().any(|name| signatures.has(name))
}

pub(super) fn scope<'a>(signatures: &'a SignaturesOf, facts: &'a Facts<'a>, body: &'a Body, call: &'a Call<'a>) -> Scope<'a> {
    Scope {
        facts,
        args: &body.args,
        kwargs: &body.kwargs,
        named: &call.named,
        signatures,
    }
}

fn holds(when: &Expr, scope: &Scope<'_>) -> Result<bool, String> {
    // The short form for celery-unique's users: an ETA, and not that of a retry.
    if when.text() == "eta" {
        return Ok(scope.facts.task.eta.is_some() && scope.facts.task.retries == 0);
    }
    when.holds(scope).map_err(|error| text_of(&error))
}

fn verdict(rule: &Arc<Rule>, facts: &Facts<'_>, body: &Body, now_ms: u64) -> Verdict {
    let bypassed = |reason| Verdict::Bypassed {
        rule: Arc::clone(rule),
        reason,
    };
    if rule.bypass {
        return bypassed(Bypass::Rule);
    }
    if rule.unique.is_none() && !rule.amends() {
        return Verdict::Unmatched { queue_unknown: None };
    }
    let allows = |what| rule.overrides.contains(&what);
    if allows(Override::Bypass) && given_text(facts.task, "x-oncegate").is_some_and(|text| text == "bypass") {
        return bypassed(Bypass::Header);
    }
    if rule.unique.is_none() {
        return Verdict::Keyless { rule: Arc::clone(rule) };
    }
    let member = is_member(facts, body);
    if member && (rule.canvas == Canvas::Bypass || !rule.carries_members()) {
        return bypassed(Bypass::Canvas);
    }
    let shadow = rule.mode == Mode::Observe;
    let namespace = rule.namespace.as_deref().unwrap_or(&facts.task.name);
    let made = match given_key(rule, facts.task) {
        Some(Ok(part)) => {
            let digest = digest(Domain::Given, shadow, facts.vhost, namespace, std::iter::once(&part));
            Ok((digest, summary(rule, &["x-oncegate-key"], &[Cow::Owned(part)])))
        }
        Some(Err(detail)) => Err((UnkeyableReason::Expression, detail)),
        None => {
            let named = match &rule.key {
                Key::All => true,
                Key::List(expressions) => expressions.iter().any(|expression| uses(expression, &rule.signatures)),
                Key::Template(pieces) => pieces
                    .iter()
                    .any(|piece| matches!(piece, super::Piece::Expr(expression) if uses(expression, &rule.signatures))),
            };
            let call = Call::new(&rule.signatures, &facts.task.name, named, body);
            let scope = scope(&rule.signatures, facts, body, &call);
            parts(&rule.key, &rule.signatures, body, &call, &scope).map(|(names, parts)| {
                let digest = digest(Domain::Computed, shadow, facts.vhost, namespace, parts.iter().map(|part| &**part));
                (digest, summary(rule, &names, &parts))
            })
        }
    };
    let (digest, summary) = match made {
        Ok(made) => made,
        Err((reason, detail)) => {
            return Verdict::Unkeyable {
                rule: Arc::clone(rule),
                reason,
                detail,
            };
        }
    };
    match claimed(rule, digest, summary, facts, member, now_ms) {
        Some(claimed) => Verdict::Claim(claimed),
        None => Verdict::Unmatched { queue_unknown: None },
    }
}

/// Whether something waits for the outcome of the task: it is in a group, a chord or a chain, or has links.
pub(super) fn is_member(facts: &Facts<'_>, body: &Body) -> bool {
    facts.task.group || body.canvas.any()
}

/// The claim of a message to this key under this rule; `None` if the rule does without uniqueness. `member`: see [`is_member`].
pub(super) fn claimed(
    rule: &Arc<Rule>,
    digest: Digest,
    summary: Arc<str>,
    facts: &Facts<'_>,
    member: bool,
    now_ms: u64,
) -> Option<Claimed> {
    let unique = rule.unique?;
    let lock_scope = lock_scope(unique);
    let eta = facts.task.eta.map_or(0, |eta| u64::try_from(eta).unwrap_or(0));
    let life_ms = ttl_ms(rule, facts).saturating_add(eta.saturating_sub(now_ms));
    // A start just before the end becomes known a moment after it.
    let grace = rule.settle_grace.as_millis() as u64;
    let until = |expires: Option<i64>| {
        let expires = expires.filter(|_| lock_scope != Some(LockScope::UntilExpired))?;
        Some(u64::try_from(expires).unwrap_or(0).saturating_sub(now_ms).saturating_add(grace))
    };
    let owed = Owed::of(rule, facts.task.ignore_result, member);
    let mut expiry = expiry(rule, facts.task, life_ms, now_ms);
    let mut unstarted_ms = until(facts.task.expires);
    if let Expiry::WithLock { at_ms, else_unstarted_ms } = &mut expiry {
        *else_unstarted_ms = std::mem::replace(&mut unstarted_ms, until(Some(*at_ms)));
    }
    Some(Claimed {
        rule: Arc::clone(rule),
        digest,
        summary,
        vhost: Arc::from(facts.vhost),
        scope: lock_scope,
        runs_alone: matches!(unique, Unique::WhileRunning | Unique::UntilStartedAndWhileRunning),
        life_ms,
        unstarted_ms,
        expiry,
        if_held: match owed {
            // What waits for its holder does not take its place.
            Owed::Carried => IfHeld::Yield,
            _ => rule.if_held(),
        },
        owed,
    })
}

/// When a message that is published now is to expire: no later than its own time, and early enough that a run that begins last is over
/// before the lock has lived its full life.
fn expiry(rule: &Rule, task: &Task<'_>, life_ms: u64, now_ms: u64) -> Expiry {
    if !rule.expires_with_lock || rule.mode != Mode::Enforce {
        return Expiry::Own;
    }
    let end_ms = i64::try_from(now_ms.saturating_add(life_ms)).unwrap_or(i64::MAX);
    // The cast saturates; a limit that is no number limits nothing.
    let hard_ms = task.timelimit.hard.map_or(0, |seconds| (seconds.max(0.0) * 1000.0).ceil() as i64);
    let at_ms = end_ms.saturating_sub(hard_ms);
    if task.expires.is_some_and(|own| own <= at_ms) {
        return Expiry::Own;
    }
    if at_ms <= i64::try_from(now_ms).unwrap_or(i64::MAX) {
        return Expiry::Unwritable("its hard time limit is no shorter than the life of its lock: it could never run");
    }
    if task.protocol == Protocol::V1 || !matches!(task.headers().get(b"expires"), Ok(Some(_))) {
        return Expiry::Unwritable("its time of expiry stands in its body (protocol 1)");
    }
    Expiry::WithLock {
        at_ms,
        else_unstarted_ms: None,
    }
}

fn lock_scope(unique: Unique) -> Option<LockScope> {
    match unique {
        Unique::UntilStarted | Unique::UntilStartedAndWhileRunning => Some(LockScope::UntilStarted),
        Unique::UntilFinished => Some(LockScope::UntilFinished),
        Unique::UntilExpired => Some(LockScope::UntilExpired),
        Unique::WhileRunning => None,
    }
}

/// The key that the producer gave, where the rule lets it. One that cannot be used is no key at all: the computed one may well be that
/// of another call.
fn given_key(rule: &Rule, task: &Task<'_>) -> Option<Result<Value, String>> {
    if !rule.overrides.contains(&Override::Key) || task.given("x-oncegate-key").is_none() {
        return None;
    }
    let text = given_text(task, "x-oncegate-key").filter(|text| !text.is_empty());
    Some(text.map(Value::Str).ok_or_else(|| "x-oncegate-key is empty or no text".to_owned()))
}

/// The ttl, or what the producer gave in its place, within `max_ttl`.
fn ttl_ms(rule: &Rule, facts: &Facts<'_>) -> u64 {
    let milliseconds = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let ttl = milliseconds(rule.ttl);
    if !rule.overrides.contains(&Override::Ttl) {
        return ttl;
    }
    let seconds = facts.task.given("x-oncegate-ttl").and_then(|value| match value {
        FieldValue::F64(seconds) => Some(seconds),
        FieldValue::F32(seconds) => Some(f64::from(seconds)),
        other => other
            .as_i64()
            .map(|seconds| seconds as f64)
            .or_else(|| other.as_str()?.trim().parse().ok()),
    });
    match seconds.filter(|seconds| seconds.is_finite() && *seconds >= 0.001) {
        // The cast saturates.
        Some(seconds) => ((seconds * 1000.0) as u64).min(milliseconds(rule.max_ttl)),
        None => ttl,
    }
}

fn given_text(task: &Task<'_>, name: &str) -> Option<String> {
    match task.given(name)? {
        FieldValue::LongStr(octets) => std::str::from_utf8(octets).ok().map(str::to_owned),
        other => other.as_i64().map(|number| number.to_string()),
    }
}

pub(super) type Parts<'a> = (Vec<&'a str>, Vec<Cow<'a, Value>>);

/// The parts of the key, with the names under which a summary shows them.
pub(super) fn parts<'a>(
    key: &'a Key,
    signatures: &'a SignaturesOf,
    body: &'a Body,
    call: &'a Call<'a>,
    scope: &Scope<'a>,
) -> Result<Parts<'a>, (UnkeyableReason, String)> {
    let failed = |error: ExprError| match (&error, &call.unbound) {
        (ExprError::Missing(_), Some(unbound)) => (UnkeyableReason::MissingArgument, unbound.clone()),
        (ExprError::Missing(_), None) => (UnkeyableReason::MissingArgument, text_of(&error)),
        (ExprError::Failed(_), _) => (UnkeyableReason::Expression, text_of(&error)),
    };
    match key {
        Key::All if signatures.of(&scope.facts.task.name).is_some() => match &call.unbound {
            Some(unbound) => Err((UnkeyableReason::MissingArgument, unbound.clone())),
            None => Ok(call.named.iter().map(|(name, value)| (*name, value.clone())).unzip()),
        },
        Key::All => Ok((vec!["args", "kwargs"], vec![scope.sequence(), Cow::Borrowed(&body.kwargs)])),
        Key::List(expressions) => {
            let values = expressions
                .iter()
                .map(|expression| expression.value(scope))
                .collect::<Result<_, _>>()
                .map_err(failed)?;
            Ok((expressions.iter().map(Expr::text).collect(), values))
        }
        Key::Template(pieces) => {
            let mut text = String::new();
            for piece in pieces {
                match piece {
                    super::Piece::Text(literal) => text.push_str(literal),
                    super::Piece::Expr(expression) => {
                        let value = expression.value(scope).map_err(failed)?;
                        render(&value, &mut text);
                    }
                }
            }
            Ok((vec!["key"], vec![Cow::Owned(Value::Str(text))]))
        }
    }
}

fn text_of(error: &ExprError) -> String {
    match error {
        ExprError::Missing(name) => format!("`{name}` is not among the arguments"),
        ExprError::Failed(detail) => detail.clone(),
    }
}
