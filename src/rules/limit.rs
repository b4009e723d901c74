//! Limits on how often deliveries are handed over (`[[rule.limit]]`), and the vocabulary in which a session asks a store about them.
//!
//! A limit has a key of its own, which need not be that of the rule's lock; each value of it is a bucket. A delivery is in one bucket of
//! each limit of its rule. It gets a place in all of them at once, and waits until all of them permit it.
//!
//! - At most `times` hand-overs lie in any window of length `per`, by the actual times of the hand-overs.
//! - After idleness up to `burst` go at once; beyond them one goes each `per / times`.
//! - At most `concurrent` run at a time.

pub mod control;

use std::sync::Arc;
use std::time::Duration;

use super::decision::{Bypass, Call, Facts, Verdict, parts, scope, uses};
use super::digest::{Domain, digest};
use super::lock::{Digest, Nonce};
use super::outcome::UnkeyableReason;
use super::owed::Owed;
use super::running::RunNote;
use super::spec::{AcksLate, Mode, OnMaxWait};
use super::{Key, Piece, Rule, SignaturesOf};
use crate::celery::body::Body;
use crate::celery::value::Value;

/// The store keeps the time of so many hand-overs of each bucket at most.
pub const TIMES_MAX: u64 = 100_000;

/// How often something may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    /// So often at most in any window.
    pub times: u64,
    /// The length of the window, in milliseconds.
    pub per_ms: u64,
    /// So often at once after idleness.
    pub burst: u64,
}

/// One bucket of a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// Names it: virtual host, rule, limit, and the parts of the limit's key.
    pub digest: Digest,
    /// The name of the limit.
    pub limit: Arc<str>,
    /// Names the value of the limit's key in all virtual hosts, see [`control::key_digest`]; `None` if it has no key.
    pub key: Option<Digest>,
    /// How often it lets one go.
    pub rate: Option<Rate>,
    /// How many of it may run at a time.
    pub concurrent: Option<Concurrent>,
}

/// How many may run at a time. Each of them has a running lock of its own, so that it ends as every run does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Concurrent {
    /// So many at most.
    pub runs: u64,
    /// Names the running lock of the id that asks.
    pub run: Digest,
}

/// What the store is asked about: an id, and the buckets of one rule that it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// The rule that the limits are of.
    pub rule: Arc<str>,
    /// The task id.
    pub id: Arc<str>,
    /// One for each limit that counts, in the order of the limits.
    pub buckets: Vec<Bucket>,
    /// What is written beside the running locks of buckets with [`Bucket::concurrent`].
    pub note: Option<Arc<RunNote>>,
}

/// What the store found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Limited {
    /// It is handed over now, and counts.
    Permitted {
        /// For how long its id has waited, in milliseconds.
        waited_ms: u64,
    },
    /// It has a place and waits.
    Waits(Wait),
}

/// Why and for how long a delivery waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// How long until it is to ask again, in milliseconds.
    pub wait_ms: u64,
    /// For how long it has waited, in milliseconds.
    pub waited_ms: u64,
    /// Which bucket lets it wait longest: its place in [`Ask::buckets`].
    pub bucket: usize,
    /// For what.
    pub cause: Cause,
}

/// What a delivery waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Its turn, which comes then unless the limit is changed.
    Rate,
    /// The end of a run, which may come at any time.
    Runs,
}

/// A delivery that asks for permission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asker {
    /// The delivery.
    pub delivery: Nonce,
    /// The worker's node name, empty if it is not known.
    pub worker: Arc<str>,
}

/// A limit, compiled.
#[derive(Debug)]
pub struct Limit {
    /// Its name among those of its rule.
    pub name: Arc<str>,
    /// How often it lets one go.
    pub rate: Option<Rate>,
    /// How many may run at a time.
    pub concurrent: Option<u64>,
    pub(super) key: Key,
    /// How long a delivery waits at most, and what becomes of it then.
    pub max_wait: Option<(Duration, OnMaxWait)>,
    /// How long a delivery is held before it is parked.
    pub hold_max: Duration,
    /// Whether retries count.
    pub count_retries: bool,
}

/// The limits of one rule; where `continue` joins rules, each has its own.
#[derive(Debug)]
pub struct LimitSet {
    /// The rule.
    pub rule: Arc<str>,
    /// In order.
    pub limits: Vec<Arc<Limit>>,
    pub(super) signatures: SignaturesOf,
}

/// What a message is to ask the store, and by which limits: those of each rule that has any for it.
#[derive(Debug, Clone)]
pub struct Limiting {
    /// The question.
    pub ask: Arc<Ask>,
    /// The limit of each bucket.
    pub limits: Vec<Arc<Limit>>,
}

impl LimitSet {
    /// Whether the queue of a message can make a difference to a key.
    pub(super) fn asks_for_queue(&self) -> bool {
        self.limits.iter().any(|limit| limit.key.names("queue"))
    }
}

impl Rule {
    /// Its own limits.
    pub fn own_limits(&self) -> impl Iterator<Item = &Arc<Limit>> {
        let own = self.limits.iter().filter(|set| set.rule == self.name);
        own.flat_map(|set| &set.limits)
    }
}

impl Limit {
    /// What it is of a message.
    fn bucket(&self, set: &LimitSet, facts: &Facts<'_>, body: &Body, id: &Arc<str>) -> Result<Bucket, (UnkeyableReason, String)> {
        let named = match &self.key {
            Key::All => true,
            Key::List(expressions) => expressions.iter().any(|expression| uses(expression, &set.signatures)),
            Key::Template(pieces) => pieces
                .iter()
                .any(|piece| matches!(piece, Piece::Expr(expression) if uses(expression, &set.signatures))),
        };
        let call = Call::new(&set.signatures, &facts.task.name, named, body);
        let scope = scope(&set.signatures, facts, body, &call);
        let (_, parts) = parts(&self.key, &set.signatures, body, &call, &scope)?;
        let bucket = self.bucket_digest(&set.rule, facts.vhost, parts.iter().map(|part| &**part));
        let id = Value::Str(id.to_string());
        Ok(Bucket {
            digest: bucket,
            limit: Arc::clone(&self.name),
            key: (!parts.is_empty()).then(|| control::key_digest(&set.rule, &self.name, parts.iter().map(|part| &**part))),
            rate: self.rate,
            concurrent: self.concurrent.map(|runs| Concurrent {
                runs,
                run: digest(Domain::LimitedRun, false, facts.vhost, &bucket.to_hex(), std::iter::once(&id)),
            }),
        })
    }
}

impl Limit {
    /// The bucket of these parts of its key, in a virtual host.
    pub(super) fn bucket_digest<'a>(&self, rule: &str, vhost: &str, parts: impl ExactSizeIterator<Item = &'a Value>) -> Digest {
        digest(Domain::Limit, false, vhost, &format!("{rule}/{}", self.name), parts)
    }
}

impl Verdict {
    /// The rule whose limits a message falls under. What is bypassed for the sake of a canvas, or has no key, is limited all the same.
    pub fn limited(&self) -> Option<&Arc<Rule>> {
        let rule = match self {
            Verdict::Unmatched { .. } | Verdict::WhenError { .. } => return None,
            Verdict::Bypassed { reason, .. } if *reason != Bypass::Canvas => return None,
            Verdict::Bypassed { rule, .. } | Verdict::Keyless { rule } | Verdict::Unkeyable { rule, .. } => rule,
            Verdict::Claim(claimed) => &claimed.rule,
        };
        (rule.mode == Mode::Enforce && !rule.limits.is_empty()).then_some(rule)
    }
}

impl Rule {
    /// Its limits, with those of the rules that `continue` joins with it.
    pub fn limits(&self) -> impl Iterator<Item = &Arc<Limit>> {
        self.limits.iter().flat_map(|set| &set.limits)
    }

    /// Whether its deliveries are limited.
    pub fn is_limited(&self) -> bool {
        !self.limits.is_empty()
    }

    /// Whether one of its limits is about how many run at a time.
    pub fn limits_runs(&self) -> bool {
        self.limits().any(|limit| limit.concurrent.is_some())
    }

    /// What a message that falls under this rule is to ask, rule by rule. `Err`: the key of a limit cannot be computed.
    pub fn limiting(
        &self,
        facts: &Facts<'_>,
        body: &Body,
        id: &Arc<str>,
        queue: &Arc<str>,
    ) -> Result<Vec<Limiting>, (UnkeyableReason, String)> {
        let counts = |limit: &&Arc<Limit>| limit.count_retries || facts.task.retries == 0;
        let mut all = Vec::new();
        for set in &self.limits {
            let limits: Vec<_> = set.limits.iter().filter(counts).cloned().collect();
            let buckets = limits.iter().map(|limit| limit.bucket(set, facts, body, id));
            let buckets = buckets.collect::<Result<Vec<_>, _>>()?;
            if buckets.is_empty() {
                continue;
            }
            let runs = buckets.iter().any(|bucket| bucket.concurrent.is_some());
            let ask = Ask {
                rule: Arc::clone(&set.rule),
                id: Arc::clone(id),
                buckets,
                note: runs.then(|| Arc::new(self.limited_run_note(set, facts, queue))),
            };
            all.push(Limiting {
                ask: Arc::new(ask),
                limits,
            });
        }
        Ok(all)
    }

    fn limited_run_note(&self, set: &LimitSet, facts: &Facts<'_>, queue: &Arc<str>) -> RunNote {
        RunNote {
            rule: Arc::clone(&set.rule),
            task: Arc::from(&*facts.task.name),
            summary: Arc::from(""),
            vhost: Arc::from(facts.vhost),
            queue: Arc::clone(queue),
            life_ms: self.running_ttl.as_millis() as u64,
            settle_grace_ms: self.settle_grace.as_millis() as u64,
            acks_late: self.acks_late == AcksLate::True,
            hears: self.hears,
            retries: facts.task.retries,
            owed: Owed::Nothing,
        }
    }
}
