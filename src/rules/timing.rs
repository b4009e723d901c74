//! What a rule says of a publish beside its key: when it is due (`retry_delays`, `debounce`), and whose entry of a schedule it is
//! (`beat_lease`).

use std::sync::Arc;

use super::beat::Entry;
use super::decision::{Bypass, Claimed, Facts, Verdict, claimed, is_member};
use super::spec::Mode;
use super::{Rule, RuleSet};
use crate::celery::body::Body;
use crate::celery::routing;
use crate::celery::task::Protocol;

/// What becomes of the time at which a publish is due (`retry_delays`, `debounce`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// It stays as it is: the rule does not ask for another, or the message's own is later, or none of those that the rule is about.
    Own,
    /// It is to be written into the header `eta`, in place of the one that Celery always writes: milliseconds since 1970. Of a claim
    /// that is put off ([`Quiet`](super::lock::Quiet)) the store says the right one later.
    At(i64),
    /// It should be another and cannot, which is why.
    Unwritable(&'static str),
}

/// The decision about a publish.
#[derive(Debug, Clone)]
pub struct Publishing {
    /// That about its key; the life of its lock counts from [`Publishing::due`].
    pub verdict: Verdict,
    /// When it is due.
    pub due: Due,
    /// The entry of a schedule that it is of, if a beat publishes it.
    pub entry: Option<Entry>,
}

impl RuleSet {
    /// The decision about a message that is being published. `now_ms`: milliseconds since the Unix epoch.
    ///
    /// If the time at which it is due cannot be written, that of [`RuleSet::decide`] holds.
    pub fn decide_publish(&self, facts: &Facts<'_>, body: &Body, now_ms: u64) -> Publishing {
        let mut verdict = self.decide(facts, body, now_ms);
        let mut due = verdict.amending().map_or(Due::Own, |rule| due(rule, facts, now_ms));
        if let (Due::Own, Verdict::Claim(claim)) = (due, &mut verdict) {
            due = put_off(claim, facts, now_ms);
        }
        if let (Due::At(at_ms), Verdict::Claim(claim)) = (due, &mut verdict) {
            let mut task = facts.task.clone();
            task.eta = Some(at_ms);
            let facts = Facts { task: &task, ..*facts };
            if let Some(timed) = claimed(
                &claim.rule,
                claim.digest,
                Arc::clone(&claim.summary),
                &facts,
                is_member(&facts, body),
                now_ms,
            ) {
                *claim = timed;
            }
        }
        let entry = verdict.amending().and_then(|rule| Entry::of(rule, facts, body));
        Publishing { verdict, due, entry }
    }
}

impl Rule {
    /// Whether it has a say on other things than keys.
    pub(super) fn amends(&self) -> bool {
        !self.retry_delays.is_empty() || self.beat_lease.is_some() || !self.limits.is_empty()
    }
}

impl Verdict {
    /// The rule whose word on other things than the key counts for this message. What a rule or header bypasses is forwarded untouched; the
    /// bypass of canvas is one of keys alone.
    pub fn amending(&self) -> Option<&Arc<Rule>> {
        match self {
            Verdict::Claim(claimed) => Some(&claimed.rule),
            Verdict::Keyless { rule }
            | Verdict::Unkeyable { rule, .. }
            | Verdict::Bypassed {
                rule,
                reason: Bypass::Canvas,
            } => Some(rule),
            Verdict::Unmatched { .. } | Verdict::Bypassed { .. } | Verdict::WhenError { .. } => None,
        }
    }
}

/// When a publish is due: the n-th retry after the n-th delay, and every later one after the last.
fn due(rule: &Rule, facts: &Facts<'_>, now_ms: u64) -> Due {
    let Some(before) = facts.task.retries.checked_sub(1).filter(|_| rule.mode == Mode::Enforce) else {
        return Due::Own;
    };
    let Some(delay) = rule.retry_delays.get(before as usize).or(rule.retry_delays.last()) else {
        return Due::Own;
    };
    if let Some(why) = unwritable(facts) {
        return Due::Unwritable(why);
    }
    let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
    Due::At(i64::try_from(now_ms.saturating_add(delay_ms)).unwrap_or(i64::MAX))
}

/// Until when the first run of a task is put off, if no publish has come before it. A message whose time cannot be written runs at once,
/// in place of the one before it.
fn put_off(claim: &mut Claimed, facts: &Facts<'_>, now_ms: u64) -> Due {
    let ran_before = facts.task.retries > 0 || facts.task.replaced_task_nesting > 0;
    let Some(quiet) = claim.if_held.quiet().filter(|_| claim.rule.mode == Mode::Enforce && !ran_before) else {
        return Due::Own;
    };
    if let Some(why) = unwritable(facts) {
        claim.if_held = claim.if_held.at_once();
        return Due::Unwritable(why);
    }
    let at_ms = i64::try_from(quiet.due_ms(now_ms, now_ms)).unwrap_or(i64::MAX);
    if facts.task.eta.is_some_and(|own| own >= at_ms) {
        return Due::Own;
    }
    Due::At(at_ms)
}

/// Why the due time of a message cannot be written, if it cannot.
fn unwritable(facts: &Facts<'_>) -> Option<&'static str> {
    if routing::is_delay_exchange(facts.exchange.as_bytes()) {
        return Some("its delay stands in its routing key (Celery's native delayed delivery)");
    }
    if facts.task.protocol == Protocol::V1 || !matches!(facts.task.headers().get(b"eta"), Ok(Some(_))) {
        return Some("its due time stands in its body (protocol 1)");
    }
    None
}
