//! Keys of which the newest task wins: after a quiet time, or after the end of the one that runs.
//!
//! A task that another has superseded does not begin any more: what a worker has of it is revoked there. And the one that has superseded it is not
//! lost: of a burst the last one runs, and so does what waits.

use std::collections::BTreeMap;
use std::time::Duration;

use oncegate::rules::lock::{Acquired, Admitted, Committed, Reply};
use oncegate::rules::spec::{OnDuplicate, Unique};

use crate::facts::Facts;
use crate::link::Owner;
use crate::plan::{Acks, Row, row};
use crate::world::World;

#[derive(Default)]
pub struct Newest {
    /// By whom each task was superseded.
    superseded: BTreeMap<usize, usize>,
}

impl Row {
    fn debounced(mut self, quiet_ms: u64, longest_ms: u64) -> Row {
        self.rule.debounce = Some(Duration::from_millis(quiet_ms));
        self.rule.debounce_max = Some(Duration::from_millis(longest_ms));
        self
    }

    /// Whether what waits may have expired when its turn comes.
    pub fn keeps(&self) -> bool {
        self.rule.on_duplicate == OnDuplicate::KeepLast
    }

    /// Whether a publish may wait for the one before.
    fn takes_turns(&self) -> bool {
        self.keeps() || self.rule.debounce.is_some()
    }

    fn keeping_last(mut self) -> Row {
        self.rule.on_duplicate = OnDuplicate::KeepLast;
        self
    }
}

/// Tasks whose runs are put off, with every scope that can be.
pub fn debounced() -> Vec<Row> {
    vec![
        row(0, Unique::UntilStarted, Acks::Early).debounced(3_000, 12_000),
        row(1, Unique::UntilStarted, Acks::Late).debounced(1_500, 4_000),
        row(2, Unique::UntilFinished, Acks::Early).debounced(3_000, 12_000),
        row(3, Unique::UntilStartedAndWhileRunning, Acks::Late).debounced(3_000, 12_000),
    ]
}

/// Tasks of which one waits.
pub fn kept() -> Vec<Row> {
    vec![
        row(0, Unique::UntilFinished, Acks::Early).keeping_last(),
        row(1, Unique::UntilFinished, Acks::Late).keeping_last(),
    ]
}

/// Whether this answer gives the lock of one to another.
pub fn hands_over(reply: &Reply) -> bool {
    matches!(
        reply,
        Reply::Acquire(Acquired::Replaces { .. } | Acquired::PutOff { holder: Some(_), .. })
    )
}

impl World {
    /// What a step of the store says of older tasks.
    pub fn judge_newer(&mut self, task: usize, reply: &Reply) {
        // Of those that are replaced at once, more is known.
        if self.plan.rows[self.facts.tasks[task].row].replaces() {
            return;
        }
        let (older, newer) = match reply {
            Reply::Commit(Committed::Replaced(superseded)) => (Facts::index(&superseded.freed.holder), task),
            Reply::Acquire(Acquired::Outrun { holder }) => (task, Facts::index(holder)),
            Reply::Admit(_, Admitted::Outdated { newer }) => (task, Facts::index(newer)),
            _ => return,
        };
        if self.newest.superseded.contains_key(&older) {
            return;
        }
        let (of, by) = (&self.facts.tasks[older], &self.facts.tasks[newer]);
        if (of.row, of.key) != (by.row, by.key) || older == newer {
            self.facts.fail(older, format!("is superseded by t{newer}, which is another's"));
        }
        self.facts.note(older, format!("is superseded by t{newer}"));
        self.facts.tasks[older].dropped = true;
        self.newest.superseded.insert(older, newer);
        // The proxy that has heard of it revokes it where it is.
        if let Reply::Commit(Committed::Replaced(superseded)) = reply {
            self.worker_hears_revoke(&superseded.worker, older);
        }
    }

    /// A worker begins a task.
    pub fn judge_begins_newest(&mut self, task: usize) {
        let Some(newer) = self.newest.superseded.get(&task) else { return };
        let facts = &self.facts.tasks[task];
        if !facts.unchecked && !facts.handed_unchecked && !facts.doubled {
            self.facts.fail(task, format!("begins, and t{newer} has superseded it"));
        }
    }

    /// Its publish waited for the lease of another when its producer went, who hears no confirm any more.
    pub fn is_forgotten(&self, task: usize) -> bool {
        let facts = &self.facts.tasks[task];
        let mut writing = self.links.values().filter(|link| link.writing.contains(&task));
        let is_turned = self.plan.rows[facts.row].takes_turns();
        is_turned && !facts.reached && writing.all(|link| link.owner == Owner::Nobody)
    }

    /// Nothing moves any more: who has superseded another is not lost.
    pub fn judge_newest(&self) {
        for (older, newer) in &self.newest.superseded {
            let facts = &self.facts.tasks[*newer];
            let accounted = facts.begun > 0 || facts.dropped || facts.revoked || facts.purged || facts.expired;
            if !accounted {
                self.facts.fail(*newer, format!("has superseded t{older}, and never ran"));
            }
        }
    }
}

/// What was freed, of a reply that also tells that superseded tasks ran.
pub fn without_outlived(reply: &Reply) -> Option<Reply> {
    match reply {
        Reply::Outlived { freed, .. } => Some(Reply::Released(freed.clone())),
        _ => None,
    }
}
