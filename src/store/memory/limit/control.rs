//! What operators set of limits; the same as in `scripts/limits.lua`.

use std::sync::Arc;

use crate::rules::limit::control::{SET_MAX, Setting, Target, What};
use crate::store::limits::{Asked, Bucket, Done, Known, Wanted};
use crate::store::memory::table::Table;
use crate::store::memory::{LONGEST_MS, Memory};

fn is_same(one: &Target, other: &Target) -> bool {
    let digest = |target: &Target| target.key.as_ref().map(|key| key.digest);
    one.limit == other.limit && digest(one) == digest(other)
}

fn is_same_kind(one: What, other: What) -> bool {
    matches!(one, What::Paused(_)) == matches!(other, What::Paused(_))
}

/// Sets one thing in place of what it was before. Only what a limit that is paused does not let go needs to be let go apart.
fn set(all: &mut Vec<Setting>, wanted: &Wanted, now: u64) {
    let mut until_ms = wanted.life.map(|life| now + (life.as_millis() as u64).clamp(1, LONGEST_MS));
    all.retain(|set| !is_same(&set.target, &wanted.target) || !is_same_kind(set.what, wanted.what));
    if matches!(wanted.what, What::Paused(_)) && wanted.target.key.is_none() {
        all.retain(|set| !(set.is_of(&wanted.target.limit) && set.is_exception()));
    }
    if wanted.what == What::Paused(false) {
        let whole = all
            .iter()
            .find(|set| set.is_of(&wanted.target.limit) && set.target.key.is_none() && set.what == What::Paused(true));
        let Some(whole) = whole.filter(|_| wanted.target.key.is_some()) else {
            return;
        };
        until_ms = until_ms.into_iter().chain(whole.until_ms).min();
    }
    all.push(Setting {
        target: wanted.target.clone(),
        what: wanted.what,
        by: Arc::clone(&wanted.by),
        since_ms: now,
        until_ms,
    });
}

impl Memory {
    /// What is set for the limits of a rule, without what is over.
    fn with_set<T>(&self, rule: &Arc<str>, change: impl FnOnce(&mut Vec<Setting>, &mut Table, u64) -> T) -> T {
        let now = self.now_ms();
        let mut table = self.table();
        let mut all = table.limits_set.remove(rule).unwrap_or_default();
        all.retain(|set| set.holds(now));
        let done = change(&mut all, &mut table, now);
        if !all.is_empty() {
            table.limits_set.insert(Arc::clone(rule), all);
        }
        done
    }

    /// See [`crate::store::Client::set_limits`].
    pub(in crate::store) fn set_limits(&self, rule: &Arc<str>, wanted: &[Wanted]) -> Done {
        self.with_set(rule, |all, _, now| {
            if all.len() + wanted.len() > SET_MAX {
                return Done::TooMany;
            }
            for wanted in wanted {
                set(all, wanted, now);
            }
            Done::Set
        })
    }

    /// See [`crate::store::Client::reset_limit`].
    pub(in crate::store) fn reset_limit(&self, rule: &Arc<str>, target: &Target) -> u64 {
        self.with_set(rule, |all, _, _| {
            let before = all.len();
            all.retain(|set| {
                let excepted = target.key.is_none() && set.is_of(&target.limit) && set.is_exception();
                !is_same(&set.target, target) && !excepted
            });
            (before - all.len()) as u64
        })
    }

    /// See [`crate::store::Client::limits`].
    pub(in crate::store) fn known_limits(&self, rule: &Arc<str>, asked: &[Asked]) -> Known {
        self.with_set(rule, |all, table, now| {
            let buckets = asked.iter().map(|asked| {
                let Some(pace) = table.paces.get(&asked.digest, now) else {
                    return Bucket::default();
                };
                Bucket {
                    waiting: pace.queue.len() as u64,
                    given: asked.rate.map_or(0, |rate| pace.given(&rate, now)),
                }
            });
            Known {
                now_ms: now,
                set: all.clone(),
                waiting: table.waiters.get(rule, now).map_or(0, |waiters| waiters.len() as u64),
                buckets: buckets.collect(),
            }
        })
    }
}
