//! The only place with policy: which rule a message falls under, and what its unique key is.
//!
//! `spec` (what users write) → `compile` → [`RuleSet`] (immutable) → [`RuleSet::decide`] → [`Verdict`]. `params` binds a call to its
//! signature, `expr` takes values from it, `digest` turns them into the name of a lock.

pub mod beat;
mod compile;
mod decision;
mod digest;
mod expr;
pub mod limit;
pub mod lock;
mod matcher;
pub mod modes;
pub mod outcome;
pub mod owed;
mod params;
pub mod park;
pub mod question;
pub mod running;
mod show;
pub mod source;
pub mod spec;
#[cfg(test)]
mod tests;
mod timing;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

pub use compile::Signatures;
pub use decision::{Bypass, Claimed, Expiry, Facts, Verdict};
pub use digest::{Domain, digest};
pub use timing::{Due, Publishing};

use expr::Expr;
use limit::LimitSet;
use lock::{Digest, IfHeld, Quiet, ReleaseOn};
use matcher::Globs;
use owed::Told;
use params::Params;
use source::{Hears, Source};
use spec::{
    AcksLate, Canvas, DeadLetter, EnableEvents, Mode, OnDuplicate, OnRunning, OnStoreError, Override, ResultBy, ResultMode, RuleSpec,
    SpecError, Summary, Unique,
};

use crate::celery::body::Body;

/// Up to this many names, comparing them all is faster than hashing one.
const FEW: usize = 8;

/// What the parts of a key are.
#[derive(Debug)]
enum Key {
    All,
    List(Vec<Expr>),
    Template(Vec<Piece>),
}

impl Key {
    /// Whether one of its expressions names this.
    fn names(&self, wanted: &str) -> bool {
        let names = |expression: &Expr| expression.names().iter().any(|name| name == wanted);
        match self {
            Key::All => false,
            Key::List(expressions) => expressions.iter().any(names),
            Key::Template(pieces) => pieces
                .iter()
                .any(|piece| matches!(piece, Piece::Expr(expression) if names(expression))),
        }
    }
}

/// A piece of a template.
#[derive(Debug)]
enum Piece {
    Text(String),
    Expr(Expr),
}

/// `when`, with the signatures of the rule that it was written in.
#[derive(Debug)]
struct When {
    expression: Expr,
    signatures: SignaturesOf,
}

/// The signatures that a rule knows.
#[derive(Debug, Clone, Default)]
struct SignaturesOf {
    /// `params`.
    own: Option<Arc<Params>>,
    /// From `[signatures]`, by task, where the rule has no `params`.
    by_task: BTreeMap<String, Arc<Params>>,
}

impl SignaturesOf {
    fn of(&self, task: &str) -> Option<&Params> {
        self.own.as_deref().or_else(|| self.by_task.get(task).map(|params| &**params))
    }

    /// Whether a name is a parameter, of whatever task.
    fn has(&self, name: &str) -> bool {
        match &self.own {
            Some(params) => params.has(name),
            None => self.by_task.values().any(|params| params.has(name)),
        }
    }
}

/// One rule, or several that `continue` joins, compiled.
#[derive(Debug)]
pub struct Rule {
    /// Its place in the configuration, from 0.
    pub index: usize,
    /// Its name.
    pub name: Arc<str>,
    task: Globs,
    queue: Globs,
    exchange: Globs,
    routing_key: Globs,
    vhost: Globs,
    user: Globs,
    when: Option<Arc<When>>,
    and_next: bool,
    bypass: bool,
    /// Whether it acts or only looks. Rules that are off are not in a [`RuleSet`].
    pub mode: Mode,
    /// Its lock scope.
    pub unique: Option<Unique>,
    signatures: SignaturesOf,
    key: Key,
    namespace: Option<Arc<str>>,
    ttl: Duration,
    max_ttl: Duration,
    running_ttl: Duration,
    /// The two-phase lease, and how long a delivery waits until it is dead-lettered.
    pub lease: Duration,
    settle_grace: Duration,
    /// How long a worker that was lost may come back before its locks are freed.
    pub orphan_grace: Duration,
    canvas: Canvas,
    /// Whether its tasks acknowledge after their run.
    pub acks_late: AcksLate,
    /// Which signals start and end its locks (`completion`).
    pub hears: Hears,
    expires_with_lock: bool,
    retry_delays: Vec<Duration>,
    beat_lease: Option<Duration>,
    beat_origins: Globs,
    release_on: ReleaseOn,
    cooldown: Duration,
    /// How long a key must be quiet before its newest task runs.
    debounce: Option<Quiet>,
    /// What becomes of a duplicate.
    pub on_duplicate: OnDuplicate,
    /// What becomes of a delivery whose key runs elsewhere.
    pub on_running: OnRunning,
    /// What the id of a dropped task gets.
    pub result: ResultMode,
    /// Who brings that.
    result_by: ResultBy,
    /// Where to a message is dead-lettered.
    pub dead_letter: Option<DeadLetter>,
    /// For how long a delivery is held here before it is parked.
    pub hold_max: Duration,
    /// What a publish does while the store is silent.
    pub on_store_error: OnStoreError,
    /// How long a publish waits for a silent store, where it waits.
    pub store_wait: Duration,
    summary: Summary,
    overrides: Vec<Override>,
    /// Its limits; with them those of the rules that `continue` joins with it.
    limits: Vec<Arc<LimitSet>>,
}

/// Whether a rule's matchers take a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Match {
    Yes,
    No(&'static str),
    /// It asks for the queue, which is not known.
    QueueUnknown,
}

impl Rule {
    /// Whether the end of a holder is known, so that a message can wait for it.
    fn knows_ends(&self) -> bool {
        matches!(
            self.unique,
            Some(Unique::UntilStarted | Unique::UntilFinished | Unique::UntilStartedAndWhileRunning)
        )
    }

    /// Whether a duplicate that is a member of a canvas waits for its holder.
    pub fn carries_members(&self) -> bool {
        self.canvas == Canvas::Dedupe && self.knows_ends()
    }

    /// Whether a duplicate's own message brings it the result of its holder.
    pub fn carries_results(&self) -> bool {
        self.result_by == ResultBy::Worker && self.result == ResultMode::Join && self.mode == Mode::Enforce && self.knows_ends()
    }

    /// Whether some duplicate waits for its holder.
    pub fn carries(&self) -> bool {
        self.carries_members() || self.carries_results()
    }

    /// An observing rule changes no frame, so it asks workers for nothing.
    fn needs_events(&self) -> bool {
        match self.unique {
            _ if self.mode == Mode::Observe || !self.hears.hears(Source::Events) => false,
            _ if self.carries() => true,
            Some(Unique::UntilStarted) => self.acks_late != AcksLate::False || self.limits_runs(),
            Some(Unique::UntilFinished | Unique::WhileRunning | Unique::UntilStartedAndWhileRunning) => true,
            Some(Unique::UntilExpired) | None => self.limits_runs(),
        }
    }

    /// Whether it is learnt when its tasks acknowledge.
    pub fn learns_acks(&self) -> bool {
        self.acks_late == AcksLate::Auto
    }

    /// Whether its locks wait for an end that no ack is known to tell.
    pub fn waits_for_ends(&self) -> bool {
        let acks_tell = self.acks_late == AcksLate::True && self.hears.hears(Source::Ack);
        let until_the_end = matches!(
            self.unique,
            Some(Unique::UntilFinished | Unique::WhileRunning | Unique::UntilStartedAndWhileRunning)
        );
        (until_the_end || self.limits_runs()) && self.mode == Mode::Enforce && !acks_tell
    }

    /// Whether the queue of a message can make a difference.
    fn asks_for_queue(&self) -> bool {
        let in_key = self.key.names("queue");
        let names = |expression: &Expr| expression.names().iter().any(|name| name == "queue");
        let in_limit = self.limits.iter().any(|set| set.asks_for_queue());
        !self.queue.is_any() || in_key || in_limit || self.when.as_ref().is_some_and(|when| names(&when.expression))
    }

    /// Whether a delivery may be held until it may run.
    pub fn holds(&self) -> bool {
        self.may_hold() && self.mode == Mode::Enforce
    }

    /// The same whatever its mode.
    fn may_hold(&self) -> bool {
        let runs = matches!(self.unique, Some(Unique::WhileRunning | Unique::UntilStartedAndWhileRunning));
        runs || self.is_limited() || self.carries() || self.holds_until_due() || self.keeps_last()
    }

    /// Whether a delivery is held while another of its key has the publish lock.
    pub fn keeps_last(&self) -> bool {
        self.if_held() == IfHeld::KeepLast && self.unique.is_some()
    }

    /// Whether a delivery is held until its due time although its run takes no running lock: it may be outdated by then.
    pub fn holds_until_due(&self) -> bool {
        self.debounce.is_some() && self.unique.is_some()
    }

    /// The virtual hosts that it is for, if it names them and no patterns.
    pub fn vhosts(&self) -> Option<impl Iterator<Item = &str>> {
        self.vhost.plain()
    }

    /// True if the life of its locks depends on what workers do.
    pub fn follows_tasks(&self) -> bool {
        self.unique.is_some_and(|unique| unique != Unique::UntilExpired) || self.limits_runs()
    }

    /// True if its deliveries are decided about.
    fn decides_deliveries(&self) -> bool {
        self.follows_tasks() || self.is_limited()
    }

    fn matches(&self, facts: &Facts<'_>) -> Match {
        let plain: [(&'static str, bool); 5] = [
            ("task", self.task.is_task(&facts.task.name)),
            ("exchange", self.exchange.is_match(facts.exchange)),
            ("routing_key", self.routing_key.is_match(facts.routing_key)),
            ("vhost", self.vhost.is_match(facts.vhost)),
            (
                "user",
                self.user.is_any() || facts.user.is_some_and(|user| self.user.is_match(user)),
            ),
        ];
        if let Some((name, _)) = plain.iter().find(|(_, matched)| !matched) {
            return Match::No(name);
        }
        match facts.queues {
            _ if self.queue.is_any() => Match::Yes,
            None => Match::QueueUnknown,
            Some(queues) if queues.iter().any(|queue| self.queue.is_match(queue)) => Match::Yes,
            Some(_) => Match::No("queue"),
        }
    }
}

/// Why a rule did or did not decide about a message, for `explain`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The rule's name.
    pub rule: Arc<str>,
    /// What was found.
    pub outcome: String,
}

/// All rules of a configuration, in order. One immutable set decides about a message from beginning to end.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts of a configuration")]
pub struct RuleSet {
    specs: Vec<RuleSpec>,
    signatures: BTreeMap<String, Arc<Params>>,
    rules: Vec<Arc<Rule>>,
    /// The tasks that rules name in full.
    named: HashSet<Box<str>>,
    /// True if a rule takes tasks by pattern, or by other matchers alone.
    patterns: bool,
    /// True if the life of an enforcing rule's lock may depend on what workers do, or its deliveries are limited.
    admits: bool,
    /// True if a rule asks for the queue of a message.
    queues: bool,
    /// How the results of dropped ids are told.
    told: Told,
    /// Rules that `continue` has joined, by their places.
    joined: RwLock<HashMap<Vec<usize>, Arc<Rule>>>,
}

impl RuleSet {
    /// Compiles what users wrote; all faults at once if there are any.
    pub fn compile(specs: Vec<RuleSpec>, signatures: &[(String, String)]) -> Result<RuleSet, Vec<SpecError>> {
        let mut errors = Vec::new();
        let mut parsed = BTreeMap::new();
        for (index, (task, text)) in signatures.iter().enumerate() {
            match Params::parse(text) {
                Ok(params) => {
                    parsed.insert(task.clone(), Arc::new(params));
                }
                Err(error) => errors.push(SpecError {
                    rule: 0,
                    limit: None,
                    key: "signatures",
                    element: Some(index),
                    offset: Some(error.offset),
                    message: error.message,
                    remedy: compile::SIGNATURE.to_owned(),
                }),
            }
        }
        compile::names(&specs, &mut errors);
        RuleSet::of(specs, parsed, errors)
    }

    /// `errors`: the faults that were found before.
    fn of(specs: Vec<RuleSpec>, signatures: BTreeMap<String, Arc<Params>>, mut errors: Vec<SpecError>) -> Result<RuleSet, Vec<SpecError>> {
        let rules: Vec<_> = specs
            .iter()
            .enumerate()
            .filter_map(|(index, spec)| compile::rule(index, spec, &signatures, &mut errors))
            .map(Arc::new)
            .collect();
        if !errors.is_empty() {
            return Err(errors);
        }
        let mut named = HashSet::new();
        let mut patterns = false;
        for rule in &rules {
            match rule.task.plain() {
                Some(exact) => named.extend(exact.map(Box::from)),
                None => patterns = true,
            }
        }
        let decides = rules.iter().any(|rule| rule.decides_deliveries());
        Ok(RuleSet {
            // `continue` may join the mode of one rule with the scope of another.
            admits: decides && rules.iter().any(|rule| rule.mode == Mode::Enforce),
            specs,
            signatures,
            queues: rules.iter().any(|rule| rule.asks_for_queue()),
            rules,
            named,
            patterns,
            told: Told::default(),
            joined: RwLock::default(),
        })
    }

    /// The same rules where the results of dropped ids are told so.
    #[must_use]
    pub fn telling(mut self, told: Told) -> RuleSet {
        self.told = told;
        self
    }

    /// How the results of dropped ids are told.
    pub fn told(&self) -> &Told {
        &self.told
    }

    /// True if results are published to callers.
    pub fn tells_callers(&self) -> bool {
        let tells = |rule: &Arc<Rule>| rule.result != ResultMode::None;
        matches!(self.told, Told::Published { .. }) && self.rules.iter().any(tells)
    }

    /// True if the results that workers publish may be those that others wait for.
    pub fn joins_replies(&self) -> bool {
        let joins = |rule: &Arc<Rule>| rule.result == ResultMode::Join;
        matches!(self.told, Told::Published { .. }) && self.rules.iter().any(joins)
    }

    /// True if nothing can match.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// True if the life of a lock depends on what workers do: what they publish of it is worth reading.
    pub fn follows_tasks(&self) -> bool {
        let follows = |rule: &Arc<Rule>| rule.follows_tasks();
        self.rules.iter().any(follows)
    }

    /// True if deliveries of some task are decided about: an enforcing rule has locks whose life depends on what workers do, or limits.
    pub fn admits(&self) -> bool {
        self.admits
    }

    /// Whether deliveries of a task of this name may be decided about: a cheap look, before anything else of a message is read.
    pub fn may_admit(&self, task: &[u8]) -> bool {
        if !self.admits || !self.may_match(task) {
            return false;
        }
        let Ok(task) = std::str::from_utf8(task) else { return false };
        let mut taking = self.rules.iter().filter(|rule| rule.task.is_task(task));
        let (mut follows, mut enforces) = (false, false);
        taking.any(|rule| {
            follows |= rule.decides_deliveries();
            enforces |= rule.mode == Mode::Enforce;
            follows && enforces
        })
    }

    /// Whether deliveries of this queue may be held: the name may not be known.
    pub fn may_hold(&self, queue: Option<&str>) -> bool {
        let takes = |rule: &Rule| rule.may_hold() && queue.is_none_or(|queue| rule.queue.is_any() || rule.queue.is_match(queue));
        // `continue` may join the mode of one rule with the scope of another.
        self.admits && self.rules.iter().any(|rule| takes(rule))
    }

    /// True if a rule needs task events: an early ack says nothing of the end, a late one nothing of the start and of the outcome.
    pub fn needs_events(&self) -> bool {
        self.rules.iter().any(|rule| rule.needs_events())
    }

    /// Whether workers are to be told to publish task events.
    pub fn wants_events(&self, enable: EnableEvents) -> bool {
        match enable {
            EnableEvents::Auto => self.needs_events(),
            EnableEvents::True => true,
            EnableEvents::False => false,
        }
    }

    /// The rules that are in force, in order.
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// What users wrote, rules that are off included.
    pub fn specs(&self) -> &[RuleSpec] {
        &self.specs
    }

    /// Whether some rule may take a task of this name: a cheap look, before anything else of a message is read.
    pub fn may_match(&self, task: &[u8]) -> bool {
        if self.named.len() <= FEW {
            if self.named.iter().any(|name| name.as_bytes() == task) {
                return true;
            }
            if !self.patterns {
                return false;
            }
        }
        let Ok(task) = std::str::from_utf8(task) else { return false };
        self.named.contains(task) || (self.patterns && self.rules.iter().any(|rule| rule.task.is_task(task)))
    }

    /// The first rule that takes a task of this name, whatever its other matchers say: for counting what could not be decided.
    pub fn first_for_task(&self, task: &[u8]) -> Option<Arc<Rule>> {
        let task = std::str::from_utf8(task).ok()?;
        self.rules.iter().find(|rule| rule.task.is_task(task)).cloned()
    }

    /// Whether some rule asks for the queue of a message, as a matcher or in an expression.
    pub fn asks_for_queue(&self) -> bool {
        self.queues
    }

    /// The decision about a message. `now_ms`: milliseconds since the Unix epoch.
    pub fn decide(&self, facts: &Facts<'_>, body: &Body, now_ms: u64) -> Verdict {
        self.walk(facts, body, now_ms, |_, _| ())
    }

    /// The decision about a message, and how it came about.
    pub fn explain(&self, facts: &Facts<'_>, body: &Body, now_ms: u64) -> (Verdict, Vec<Step>) {
        let mut steps = Vec::new();
        let verdict = self.walk(facts, body, now_ms, |rule, outcome| {
            steps.push(Step {
                rule: Arc::clone(&rule.name),
                outcome,
            });
        });
        (verdict, steps)
    }

    fn walk(&self, facts: &Facts<'_>, body: &Body, now_ms: u64, mut step: impl FnMut(&Rule, String)) -> Verdict {
        let mut queue_unknown = None;
        let mut joined: Vec<usize> = Vec::new();
        let mut last = None;
        for (place, rule) in self.rules.iter().enumerate() {
            match rule.matches(facts) {
                Match::Yes => {}
                Match::No(matcher) => {
                    step(rule, format!("{matcher} does not match"));
                    continue;
                }
                Match::QueueUnknown => {
                    step(rule, "it asks for the queue, which is not known here".to_owned());
                    queue_unknown.get_or_insert_with(|| Arc::clone(rule));
                    continue;
                }
            }
            joined.push(place);
            let deciding = if joined.len() > 1 {
                self.join(&joined, rule)
            } else {
                Arc::clone(rule)
            };
            // The condition of each rule is its own; a joined rule has the last one's.
            let Some(verdict) = decision::judge(&deciding, facts, body, now_ms) else {
                step(rule, "when is false".to_owned());
                joined.pop();
                continue;
            };
            step(
                rule,
                if rule.and_next {
                    "matches, and the next one counts too".to_owned()
                } else {
                    "matches and decides".to_owned()
                },
            );
            let settled = matches!(verdict, Verdict::Bypassed { reason: Bypass::Rule, .. } | Verdict::WhenError { .. });
            if !rule.and_next || settled {
                return verdict;
            }
            last = Some(verdict);
        }
        match last {
            Some(Verdict::Unmatched { .. }) | None => Verdict::Unmatched { queue_unknown },
            Some(verdict) => verdict,
        }
    }

    /// The rule of this name; where `continue` joins it with others, as most of them were seen to make it.
    pub fn named(&self, name: &str) -> Option<Arc<Rule>> {
        let is_meant = |rule: &Arc<Rule>| *rule.name == *name;
        let joined = self.joined.read().unwrap_or_else(PoisonError::into_inner);
        let of_name = joined.iter().filter(|(_, rule)| is_meant(rule));
        let longest = of_name.max_by_key(|(places, _)| (places.len(), *places));
        let rule = longest.map(|(_, rule)| rule);
        rule.or_else(|| self.rules.iter().find(|rule| is_meant(rule))).cloned()
    }

    /// The claim of a message whose rule and key were decided before, whatever the matchers say now; `None` if that rule is gone, or
    /// does without uniqueness now.
    pub fn claim_again(&self, rule: &str, digest: Digest, facts: &Facts<'_>, body: &Body, now_ms: u64) -> Option<Claimed> {
        let (rule, summary) = match self.decide(facts, body, now_ms) {
            Verdict::Claim(claimed) if *claimed.rule.name == *rule => (claimed.rule, claimed.summary),
            _ => (self.named(rule)?, Arc::from("")),
        };
        decision::claimed(&rule, digest, summary, facts, decision::is_member(facts, body), now_ms)
    }

    /// The rule that several make together, of which `rule` is the last: earlier keys win, limits add up.
    fn join(&self, places: &[usize], rule: &Arc<Rule>) -> Arc<Rule> {
        if let Some(joined) = self.joined.read().unwrap_or_else(PoisonError::into_inner).get(places) {
            return Arc::clone(joined);
        }
        let spec_of = |place: &usize| self.rules.get(*place).and_then(|rule| self.specs.get(rule.index));
        let mut specs: Vec<_> = places.iter().filter_map(spec_of).collect();
        let joined = specs.pop().and_then(|last| {
            let mut spec = last.clone();
            for earlier in specs.iter().rev() {
                spec.override_with(earlier);
            }
            spec.name = places
                .first()
                .and_then(|place| self.rules.get(*place))
                .map(|first| first.name.to_string());
            // Each part compiled by itself, with names of its own, so the whole does.
            spec.when = None;
            compile::rule(rule.index, &spec, &self.signatures, &mut Vec::new())
        });
        let joined = joined.map_or_else(
            || Arc::clone(rule),
            |mut joined| {
                joined.when.clone_from(&rule.when);
                // Each limit counts for the rule that it was written in.
                let parts = places.iter().filter_map(|place| self.rules.get(*place));
                joined.limits = parts.flat_map(|part| part.limits.iter().cloned()).collect();
                Arc::new(joined)
            },
        );
        self.joined
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(places.to_vec(), Arc::clone(&joined));
        joined
    }
}
