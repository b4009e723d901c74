//! Ids that wait for the result of a holder; see [`crate::store::join`].

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::lapsing::Lapses;
use super::table::Claims;
use super::{LONGEST_MS, Memory, Step};
use crate::rules::lock::{Claim, Digest, Extent, LockState, ReleaseOn, Request, Scope, SignalVerdict, Weight};
use crate::rules::owed::{Owed, ReplyTo, Via};
use crate::rules::source::Source;
use crate::store::join::{
    AT_ONCE, Awaits, CALLERS_KEPT_MS, CALLERS_MAX, Due, Group, JOINED_MAX, JOINS_KEPT_MS, Joined, Kept, LOOKED_AT_MS, MORE_MAX, PER_GROUP,
    RESULT_BRIEFLY_KEPT_MS, RESULT_KEPT_MS, Stage, WORKED_ON_MS,
};

/// One that waits.
#[derive(Debug)]
struct Entry {
    rule: Arc<str>,
    reply_to: Option<Arc<ReplyTo>>,
}

/// Those that wait for one holder.
#[derive(Debug)]
struct Waiting {
    ids: HashMap<Arc<str>, Entry>,
    /// What the holder's lock spans.
    extent: Extent,
    /// Until when the end of a holder without a lock is waited for.
    until_ms: u64,
    /// Since when the holder is known to have ended.
    ended_ms: Option<u64>,
    look_at_ms: u64,
    expires_ms: u64,
}

/// All that wait.
#[derive(Debug, Default)]
pub(super) struct Joins {
    groups: HashMap<Group, Waiting>,
    /// The groups that wait for a holder's result.
    awaited: HashMap<Arc<str>, Vec<Group>>,
}

impl Joins {
    fn forget(&mut self, group: &Group) -> Option<Waiting> {
        let waiting = self.groups.remove(group);
        if let Some(groups) = self.awaited.get_mut(&group.holder) {
            groups.retain(|awaiting| awaiting != group);
            if groups.is_empty() {
                self.awaited.remove(&group.holder);
            }
        }
        waiting
    }
}

/// A queue: its virtual host and its name.
type QueueOf = (Arc<str>, Arc<str>);

/// Queues of which callers are known to wait for results.
#[derive(Debug, Default)]
pub(super) struct CallersKnown {
    /// Each with until when that is known.
    until_ms: HashMap<QueueOf, u64>,
    order: BTreeSet<(u64, QueueOf)>,
}

impl CallersKnown {
    fn declared(&mut self, vhost: &Arc<str>, queue: &Arc<str>, now: u64) {
        let (name, until_ms) = ((Arc::clone(vhost), Arc::clone(queue)), now + CALLERS_KEPT_MS);
        if let Some(former_ms) = self.until_ms.insert(name.clone(), until_ms) {
            self.order.remove(&(former_ms, name.clone()));
        }
        self.order.insert((until_ms, name));
        while self.order.first().is_some_and(|(ends_ms, _)| *ends_ms <= now) || self.order.len() > CALLERS_MAX {
            let Some((_, oldest)) = self.order.pop_first() else { return };
            self.until_ms.remove(&oldest);
        }
    }

    fn knows(&self, to: &ReplyTo, now: u64) -> bool {
        let name = (Arc::clone(&to.vhost), Arc::clone(&to.queue));
        self.until_ms.get(&name).is_some_and(|until_ms| now < *until_ms)
    }
}

/// A result that a worker has published.
#[derive(Debug)]
pub(super) struct KeptResult {
    json: Arc<[u8]>,
    until_ms: u64,
}

impl Lapses for KeptResult {
    fn lives_until(&self) -> u64 {
        self.until_ms
    }
}

impl Step<'_> {
    /// A request about ids that wait, or about what they wait for.
    pub(super) fn joins(&mut self, request: &Request) {
        match request {
            Request::Join { claim, holder, note } => {
                self.join(claim, holder, &note.owed, Extent::Publish(note.scope), &note.rule, note.life_ms);
            }
            Request::Caller { vhost, queue } => self.table.callers.declared(vhost, queue, self.now),
            Request::Result {
                id,
                weight,
                json,
                least_ms,
            } => self.result(id, *weight, json, *least_ms),
            _ => {}
        }
    }

    /// The id is dropped for this holder, and may wait for its result. `life_ms` is that of the lock.
    pub(super) fn join(&mut self, claim: &Claim, holder: &Arc<str>, owed: &Owed, extent: Extent, rule: &Arc<str>, life_ms: u64) {
        let Some(via) = owed.joins() else { return };
        let now = self.now;
        if let Via::ReplyToCaller(to) = via
            && !self.table.callers.knows(to, now)
        {
            return;
        }
        let Joins { groups, awaited } = &mut self.table.joins;
        let mut group = Group {
            digest: claim.digest,
            holder: Arc::clone(holder),
            awaits: Awaits::Result,
        };
        let is_full = |waiting: &Waiting| waiting.ids.len() >= JOINED_MAX && !waiting.ids.contains_key(&claim.id);
        if groups.get(&group).is_some_and(is_full) {
            group.awaits = Awaits::Nothing;
            if groups.get(&group).is_some_and(|waiting| waiting.ids.len() >= MORE_MAX) {
                return;
            }
        }
        let waiting = groups.entry(group.clone()).or_insert_with(|| {
            awaited.entry(Arc::clone(holder)).or_default().push(group);
            Waiting {
                ids: HashMap::new(),
                extent,
                until_ms: now + life_ms.clamp(1, LONGEST_MS),
                ended_ms: None,
                look_at_ms: now,
                expires_ms: now + JOINS_KEPT_MS,
            }
        });
        let entry = Entry {
            rule: Arc::clone(rule),
            reply_to: via.reply_to().cloned(),
        };
        waiting.ids.insert(Arc::clone(&claim.id), entry);
    }

    /// Who waits for the result of this id waits no longer than it must. True if somebody waits.
    pub(super) fn joins_are_due(&mut self, id: &Arc<str>) -> bool {
        let Joins { groups, awaited } = &mut self.table.joins;
        let Some(awaiting) = awaited.get(id) else { return false };
        for group in awaiting {
            if let Some(waiting) = groups.get_mut(group) {
                waiting.look_at_ms = self.now;
            }
        }
        true
    }

    /// A worker has published a result. It is kept while others wait for it, or may come and wait: while the holder has its lock, and for
    /// longer if that stays beyond this end, or has not heard of it.
    fn result(&mut self, id: &Arc<str>, weight: Weight, json: &Arc<[u8]>, least_ms: u64) {
        let now = self.now;
        let mut life_ms = if self.joins_are_due(id) { RESULT_KEPT_MS } else { 0 }.max(least_ms);
        let claims = self.table.claims(id, now).iter().filter(|claimed| claimed.what == Claims::Publish);
        let digests: Vec<Digest> = claims.map(|claimed| claimed.digest).collect();
        for digest in digests {
            let lock = self.table.lock_for(&digest, id, now).filter(|lock| lock.holder == *id);
            life_ms = life_ms.max(lock.map_or(0, |lock| {
                if lock.note.scope == Scope::UntilExpired || lock.note.release_on != ReleaseOn::Both {
                    lock.expires_ms - now
                } else if lock.note.cooldown_ms > 0 {
                    lock.note.cooldown_ms.min(LONGEST_MS) + RESULT_KEPT_MS
                } else if lock.note.hears.hears(Source::Rpc) {
                    RESULT_BRIEFLY_KEPT_MS
                } else {
                    RESULT_KEPT_MS
                }
            }));
        }
        let results = &mut self.table.results;
        if life_ms == 0 || weight == Weight::Provisional && results.get(id, now).is_some() {
            return;
        }
        let kept = KeptResult {
            json: Arc::clone(json),
            until_ms: now + life_ms,
        };
        results.insert(Arc::clone(id), kept, now);
    }

    /// Who waits for the result of one id waits for that of another from now on.
    pub(super) fn move_joins(&mut self, digest: Digest, from: &Arc<str>, to: &Arc<str>) {
        for awaits in [Awaits::Result, Awaits::Nothing] {
            let group = |holder: &Arc<str>| Group {
                digest,
                holder: Arc::clone(holder),
                awaits,
            };
            let (former, group) = (group(from), group(to));
            let joins = &mut self.table.joins;
            let Some(waiting) = joins.forget(&former) else { continue };
            if let Some(others) = joins.groups.get_mut(&group) {
                others.ids.extend(waiting.ids);
                continue;
            }
            joins.awaited.entry(Arc::clone(to)).or_default().push(group.clone());
            let (ended_ms, look_at_ms) = (None, self.now);
            let waiting = Waiting {
                ended_ms,
                look_at_ms,
                ..waiting
            };
            joins.groups.insert(group, waiting);
        }
    }

    fn stage(&mut self, group: &Group, extent: Extent, until_ms: u64) -> Option<Stage> {
        let (digest, now): (Digest, u64) = (group.digest, self.now);
        let held = match extent {
            Extent::Run => self
                .table
                .runs
                .get(&digest, now)
                .map(|run| (run.holder.clone(), LockState::Running)),
            // That of an older one may be set aside in a newer one's, for a lease.
            Extent::Publish(_) => self
                .table
                .lock_for(&digest, &group.holder, now)
                .map(|lock| (lock.holder.clone(), lock.state)),
        };
        let own = held.filter(|(holder, _)| *holder == group.holder).map(|(_, state)| state);
        match (own, extent) {
            (Some(LockState::Cooldown), _) => None,
            (Some(_), Extent::Publish(Scope::UntilExpired)) => Some(Stage::Keeps),
            (Some(_), _) => Some(Stage::Holds),
            (None, Extent::Publish(Scope::UntilStarted)) if now < until_ms => {
                let ended = self.table.ended(&group.holder, now);
                let is_over = ended.is_some_and(|ended| ended.by(|said| said.verdict == SignalVerdict::Ends, None));
                (!is_over).then_some(Stage::Runs)
            }
            (None, _) => None,
        }
    }

    fn joins_due(&mut self, at_once: usize) -> Vec<Due> {
        let now = self.now;
        let over = self.table.joins.groups.iter().filter(|(_, waiting)| waiting.expires_ms <= now);
        for group in over.map(|(group, _)| group.clone()).collect::<Vec<_>>() {
            self.table.joins.forget(&group);
        }
        let groups = &self.table.joins.groups;
        let again = now + LOOKED_AT_MS.max(groups.len() as u64 / PER_GROUP);
        let mut due: Vec<(u64, Group)> = groups
            .iter()
            .filter(|(_, waiting)| waiting.look_at_ms <= now)
            .map(|(group, waiting)| (waiting.look_at_ms, group.clone()))
            .collect();
        due.sort_unstable();
        due.truncate(at_once);
        let mut told = Vec::with_capacity(due.len());
        for (_, group) in due {
            let terms = self
                .table
                .joins
                .groups
                .get(&group)
                .map(|waiting| (waiting.extent, waiting.until_ms));
            let Some((extent, until_ms)) = terms else { continue };
            let stage = self.stage(&group, extent, until_ms);
            let Some(waiting) = self.table.joins.groups.get_mut(&group) else {
                continue;
            };
            waiting.look_at_ms = again;
            if stage.is_some() {
                waiting.expires_ms = now + JOINS_KEPT_MS;
                waiting.ended_ms = None;
            }
            let stage = stage.unwrap_or_else(|| {
                let since_ms = *waiting.ended_ms.get_or_insert(now);
                Stage::Ended {
                    since: Duration::from_millis(now.saturating_sub(since_ms)),
                }
            });
            let kept = match self.table.results.get(&group.holder, now) {
                Some(_) => Kept::Yes,
                None => Kept::No,
            };
            told.push(Due { group, stage, kept });
        }
        told
    }
}

impl Memory {
    fn step<T>(&self, does: impl FnOnce(&mut Step<'_>) -> T) -> T {
        let now = self.clock.now_ms();
        does(&mut Step {
            table: &mut self.table(),
            now,
            proxy: &self.proxy,
        })
    }

    pub(in crate::store) fn are_callers(&self, queues: &[&ReplyTo]) -> Vec<bool> {
        self.step(|step| queues.iter().map(|to| step.table.callers.knows(to, step.now)).collect())
    }

    pub(in crate::store) fn joins_due(&self) -> Vec<Due> {
        self.step(|step| step.joins_due(AT_ONCE))
    }

    pub(in crate::store) fn joined(&self, group: &Group) -> Vec<Joined> {
        self.step(|step| {
            let now = step.now;
            let Some(waiting) = step.table.joins.groups.get_mut(group) else {
                return Vec::new();
            };
            waiting.look_at_ms = now + WORKED_ON_MS;
            let some = waiting.ids.iter().take(AT_ONCE);
            some.map(|(id, entry)| Joined {
                id: Arc::clone(id),
                rule: Arc::clone(&entry.rule),
                reply_to: entry.reply_to.clone(),
            })
            .collect()
        })
    }

    pub(in crate::store) fn joins_done(&self, group: &Group, ids: &[Arc<str>]) {
        self.step(|step| {
            let joins = &mut step.table.joins;
            let Some(waiting) = joins.groups.get_mut(group) else { return };
            for id in ids {
                waiting.ids.remove(id);
            }
            if waiting.ids.is_empty() {
                joins.forget(group);
            }
        });
    }

    /// See [`crate::store::Client::kept_result`].
    pub fn kept_result(&self, holder: &Arc<str>) -> Option<Arc<[u8]>> {
        self.step(|step| step.table.results.get(holder, step.now).map(|kept| Arc::clone(&kept.json)))
    }
}
