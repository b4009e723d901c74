//! The look for locks whose worker is gone, as `src/lifecycle/orphans.rs` takes it: by notes of workers, and by asking them.
//!
//! All proxies are one here, since each looks after the workers that it sees, and the step that frees a lock is the store's.

use std::collections::BTreeMap;
use std::sync::Arc;

use oncegate::rules::lock::{Digest, LockRecord, LockState, Signal};

use crate::facts::Facts;
use crate::world::World;

/// Between two looks.
pub const EVERY_MS: u64 = 5_000;
/// The life of a note.
const NOTE_MS: u64 = 15_000;
/// How far clocks may differ.
const SKEW_MS: u64 = 10_000;
/// How long an answer is waited for, and until the same is asked again after an answer that knows the task.
const ANSWER_MS: u64 = 5_000;
const AGAIN_MS: u64 = 60_000;

/// A lock whose worker is younger than it.
struct Doubt {
    since_ms: u64,
    due_ms: u64,
    unknown: u32,
}

#[derive(Default)]
pub struct Orphans {
    next_ms: u64,
    /// When each worker was last connected, and since when it is found absent.
    seen_ms: BTreeMap<String, u64>,
    absent: BTreeMap<String, u64>,
    doubts: BTreeMap<(Digest, Arc<str>), Doubt>,
    away: bool,
    counts_from_ms: u64,
}

impl World {
    pub fn look_for_orphans(&mut self) {
        let now_ms = self.now.unix_ms;
        for worker in self.workers.iter().filter(|worker| worker.link.is_some()) {
            self.orphans.seen_ms.insert(worker.name.clone(), now_ms);
        }
        if now_ms < self.orphans.next_ms {
            return;
        }
        self.orphans.next_ms = now_ms + EVERY_MS;
        if self.now.us < self.down_until_us {
            self.orphans.away = true;
            self.orphans.absent.clear();
            return;
        }
        if std::mem::take(&mut self.orphans.away) {
            self.orphans.counts_from_ms = now_ms + NOTE_MS;
        }
        for lock in self.present_locks().into_iter().chain(self.present_runs()) {
            let follows = lock.follows_its_task();
            let waits = matches!(lock.state, LockState::Queued | LockState::Running);
            if follows && waits && lock.in_flight == 0 && !lock.worker.is_empty() && self.is_orphaned(&lock) {
                self.hears(Facts::index(&lock.holder), Signal::Orphaned, &lock.worker, 300);
            }
        }
    }

    fn is_orphaned(&mut self, lock: &LockRecord) -> bool {
        let now_ms = self.now.unix_ms;
        let holder = Facts::index(&lock.holder);
        let grace_ms = self.plan.rows[self.facts.tasks[holder].row].rule.orphan_grace.as_millis() as u64;
        let orphans = &mut self.orphans;
        let worker = self.workers.iter().find(|worker| worker.name == *lock.worker);
        let Some(worker) = worker.filter(|worker| worker.link.is_some()) else {
            let seen_ms = orphans.seen_ms.get(&*lock.worker).copied().unwrap_or(0);
            if now_ms < seen_ms + NOTE_MS || now_ms < orphans.counts_from_ms {
                return false;
            }
            let since_ms = *orphans.absent.entry(lock.worker.to_string()).or_insert(now_ms);
            return now_ms > since_ms && now_ms - since_ms >= grace_ms;
        };
        orphans.absent.remove(&worker.name);
        let key = (lock.digest, Arc::clone(&lock.holder));
        if worker.since_ms + SKEW_MS <= lock.since_ms {
            orphans.doubts.remove(&key);
            return false;
        }
        let fresh = || Doubt {
            since_ms: worker.since_ms,
            due_ms: worker.since_ms + grace_ms,
            unknown: 0,
        };
        let doubt = orphans.doubts.entry(key).or_insert_with(fresh);
        if doubt.since_ms != worker.since_ms {
            *doubt = fresh();
        }
        if doubt.unknown >= 2 {
            return true;
        }
        if now_ms >= doubt.due_ms {
            if worker.knows(holder) {
                (doubt.unknown, doubt.due_ms) = (0, now_ms + AGAIN_MS);
            } else {
                (doubt.unknown, doubt.due_ms) = (doubt.unknown + 1, now_ms + ANSWER_MS);
            }
        }
        false
    }
}
