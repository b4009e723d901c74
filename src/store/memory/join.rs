//! Ids that wait for the result of a holder; see [`crate::store::join`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::{LONGEST_MS, Memory, Step};
use crate::rules::lock::{Claim, Digest, Extent, LockState, Scope, SignalVerdict};
use crate::rules::owed::Owed;
use crate::store::join::{
    AT_ONCE, Awaits, Group, JOINED_MAX, JOINS_KEPT_MS, Joined, LOOKED_AT_MS, MORE_MAX, PER_GROUP, Stage, WORKED_ON_MS,
};

/// Those that wait for one holder.
#[derive(Debug)]
struct Waiting {
    /// The rules that dropped them.
    ids: HashMap<Arc<str>, Arc<str>>,
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
}

impl Step<'_> {
    /// The id is dropped for this holder, and may wait for its result. `life_ms` is that of the lock.
    pub(super) fn join(&mut self, claim: &Claim, holder: &Arc<str>, owed: Owed, extent: Extent, rule: &Arc<str>, life_ms: u64) {
        if owed != Owed::Joined {
            return;
        }
        let now = self.now;
        let groups = &mut self.table.joins.groups;
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
        let waiting = groups.entry(group).or_insert_with(|| Waiting {
            ids: HashMap::new(),
            extent,
            until_ms: now + life_ms.clamp(1, LONGEST_MS),
            ended_ms: None,
            look_at_ms: now,
            expires_ms: now + JOINS_KEPT_MS,
        });
        waiting.ids.insert(Arc::clone(&claim.id), Arc::clone(rule));
    }

    /// Who waits for the result of one id waits for that of another from now on.
    pub(super) fn move_joins(&mut self, digest: Digest, from: &Arc<str>, to: &Arc<str>) {
        for awaits in [Awaits::Result, Awaits::Nothing] {
            let group = |holder: &Arc<str>| Group {
                digest,
                holder: Arc::clone(holder),
                awaits,
            };
            let groups = &mut self.table.joins.groups;
            let Some(waiting) = groups.remove(&group(from)) else { continue };
            if let Some(others) = groups.get_mut(&group(to)) {
                others.ids.extend(waiting.ids);
            } else {
                let (ended_ms, look_at_ms) = (None, self.now);
                let waiting = Waiting {
                    ended_ms,
                    look_at_ms,
                    ..waiting
                };
                groups.insert(group(to), waiting);
            }
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

    fn joins_due(&mut self, at_once: usize) -> Vec<(Group, Stage)> {
        let now = self.now;
        let groups = &mut self.table.joins.groups;
        groups.retain(|_, waiting| waiting.expires_ms > now && !waiting.ids.is_empty());
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
            told.push((group, stage));
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

    pub(in crate::store) fn joins_due(&self) -> Vec<(Group, Stage)> {
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
            some.map(|(id, rule)| Joined {
                id: Arc::clone(id),
                rule: Arc::clone(rule),
            })
            .collect()
        })
    }

    pub(in crate::store) fn joins_done(&self, group: &Group, ids: &[Arc<str>]) {
        self.step(|step| {
            let groups = &mut step.table.joins.groups;
            let Some(waiting) = groups.get_mut(group) else { return };
            for id in ids {
                waiting.ids.remove(id);
            }
            if waiting.ids.is_empty() {
                groups.remove(group);
            }
        });
    }
}
