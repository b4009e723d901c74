//! What must hold: at each step of the store, when a worker begins a task, and at the end.
//!
//! A task *lives* while a publish of it is on its way, a message of it is in a queue or with a worker that has not acknowledged it, or a
//! worker's process runs it. A key is *legitimately held* while its holder lives, and after that until the store has heard of the end
//! (and the settle grace, where an ack told it), the worker is found gone, or the life of the lock has passed.

use oncegate::rules::lock::{Acquired, Admitted, Digest, Extent, LockRecord, LockState, ReleaseReason, Reply, Request, Scope, Signal};

use oncegate::rules::running::Ran;
use oncegate::rules::spec::Unique;

use crate::facts::Facts;
use crate::newest::hands_over;
use crate::plan::Acks;
use crate::world::World;

impl World {
    /// Whether it may still run, or runs.
    pub fn lives(&self, task: usize) -> bool {
        self.is_on_its_way(task) || self.is_at_broker(task) || self.is_running(task)
    }

    /// One step of the store: `before` and `after` are the lock of the key that it was about.
    pub fn judge_step(
        &mut self,
        task: usize,
        digest: Digest,
        request: &Request,
        reply: &Reply,
        before: Option<&LockRecord>,
        after: Option<LockRecord>,
    ) {
        self.judge_lapse(digest, before);
        if let Request::Signal { signal, .. } = request {
            self.store_hears(task, *signal);
        }
        if let Some(before) = before
            && after.as_ref().is_none_or(|after| after.holder != before.holder)
            && !hands_over(reply)
        {
            self.judge_freed(before, reply);
        }
        match reply {
            Reply::Acquire(Acquired::Held { holder, .. }) | Reply::Admit(_, Admitted::Held { holder, .. }) => {
                self.judge_held(task, Facts::index(holder), before);
            }
            _ => {}
        }
        match after {
            Some(after) => self.facts.locks.insert(digest, after),
            None => self.facts.locks.remove(&digest),
        };
    }

    /// The lock of this key is looked at.
    pub fn judge_look(&mut self, digest: Digest) {
        let lock = self.show(digest);
        self.judge_lapse(digest, lock.as_ref());
        if let Some(lock) = lock {
            self.facts.locks.insert(digest, lock);
        }
    }

    /// The lock of this key may have lapsed since the step before.
    fn judge_lapse(&mut self, digest: Digest, before: Option<&LockRecord>) {
        let Some(lock) = self.facts.locks.get(&digest) else { return };
        if before.is_some_and(|before| before.holder == lock.holder && before.since_ms == lock.since_ms) {
            return;
        }
        let lock = lock.clone();
        self.facts.locks.remove(&digest);
        let task = Facts::index(&lock.holder);
        let row = &self.plan.rows[self.facts.tasks[task].row];
        let full = lock.expires_ms - lock.since_ms >= row.rule.ttl.as_millis() as u64;
        self.facts.note(task, format!("its lock lapsed at {:?}", lock.state));
        self.carried_lapses(task);
        let lives = self.lives(task);
        // Nobody could renew the lease.
        let away = lock.state == LockState::Leased && self.was_away(lock.expires_ms);
        let facts = &mut self.facts.tasks[task];
        facts.lapsed |= lives;
        // A message that waits for longer than the ttl, or beyond its expiry, keeps no lock; nor does one that nobody renews.
        let excused = full || away || facts.expires_ms.is_some() || facts.untold || facts.unchecked || facts.unconfirmed || facts.doubled;
        let early = lock.scope == Extent::Publish(Scope::UntilExpired) && !full && facts.reached;
        if (lives || early) && !excused {
            self.facts.fail(task, "its lock lapsed before its time");
        }
    }

    /// A step has freed this lock.
    fn judge_freed(&mut self, lock: &LockRecord, reply: &Reply) {
        let task = Facts::index(&lock.holder);
        let lives = self.lives(task);
        let (Reply::Released(freed) | Reply::Run(Ran::Leaves { freed, .. })) = reply else {
            self.facts.fail(task, "its lock went without a reason");
        };
        if matches!(reply, Reply::Run(_)) {
            return;
        }
        // Of both locks of a key, that of the run is told first.
        let reason = freed.last().map_or(ReleaseReason::Ended, |freed| freed.reason);
        let facts = &self.facts.tasks[task];
        let copies = facts.doubled || facts.untold || facts.unchecked;
        let right = match reason {
            ReleaseReason::Started => lock.scope == Extent::Publish(Scope::UntilStarted) && (facts.begun > 0 || facts.acked),
            ReleaseReason::Success | ReleaseReason::Failure => facts.ended > 0,
            ReleaseReason::Ended => facts.ended > 0 && (!lives || copies),
            ReleaseReason::Revoked => facts.revoked,
            ReleaseReason::Expired => facts.expires_ms.is_some_and(|ms| ms <= self.now.unix_ms),
            ReleaseReason::Crash => !lives || copies,
            ReleaseReason::Unconfirmed => !lives || facts.unconfirmed || copies || self.is_forgotten(task),
            // What was on its way when the purge was asked for may have missed it.
            ReleaseReason::Purged => self.plan.purges(),
            ReleaseReason::Lapsed | ReleaseReason::Returned | ReleaseReason::Replaced | ReleaseReason::Admin => false,
        };
        if !right || lock.scope == Extent::Publish(Scope::UntilExpired) && reason != ReleaseReason::Unconfirmed {
            self.facts.fail(task, format!("its lock was freed early: {reason:?}"));
        }
        if lives && lock.scope != Extent::Publish(Scope::UntilStarted) {
            self.facts.tasks[task].lapsed = true;
        }
    }

    /// The store has heard something that ends a lock.
    fn store_hears(&mut self, task: usize, signal: Signal) {
        let row = &self.plan.rows[self.facts.tasks[task].row];
        let ends = matches!(
            signal,
            Signal::Succeeded | Signal::Failed | Signal::Revoked | Signal::Rejected | Signal::Expired
        );
        let starts = matches!(signal, Signal::Acked | Signal::Started);
        let scope = row.scope;
        let heard = match scope {
            Unique::UntilStarted | Unique::UntilStartedAndWhileRunning => ends || starts,
            Unique::UntilFinished => ends || signal == Signal::Acked && row.acks == Acks::Late,
            _ => false,
        };
        if heard {
            self.facts.tasks[task].heard_ms = Some(self.now.unix_ms);
        }
    }

    /// Whether the store has heard of the end, for so long that a lock ought to be gone.
    fn is_heard(&self, task: usize, scope: Extent) -> bool {
        let facts = &self.facts.tasks[task];
        let grace_ms = self.plan.rows[facts.row].rule.settle_grace.as_millis() as u64;
        let over_ms = match scope {
            Extent::Publish(Scope::UntilStarted) => Some(facts.begun_ms),
            _ => facts.ended_ms,
        };
        let Some(heard_ms) = facts.heard_ms else { return false };
        facts.came_ms < heard_ms && over_ms.is_some_and(|over_ms| over_ms <= heard_ms && heard_ms + grace_ms < self.now.unix_ms)
    }

    /// A publish or delivery was found to be a duplicate of this holder.
    fn judge_held(&mut self, task: usize, holder: usize, lock: Option<&LockRecord>) {
        let Some(lock) = lock.filter(|lock| lock.scope != Extent::Publish(Scope::UntilExpired)) else {
            return;
        };
        let facts = &self.facts.tasks[holder];
        if !facts.reached {
            self.facts
                .fail(task, format!("is a duplicate of t{holder}, which the broker does not have"));
        }
        let started = lock.scope == Extent::Publish(Scope::UntilStarted) && facts.came_ms < facts.begun_ms;
        let over = started || !self.lives(holder);
        let late = facts.retried && (facts.expired || facts.purged);
        if over && !late && !facts.untold && !facts.unchecked && !facts.doubled && self.is_heard(holder, lock.scope) {
            self.facts
                .fail(task, format!("is a duplicate of t{holder}, of whose end the store has heard"));
        }
    }

    /// A worker begins a task. True if it holds its key, or nobody does.
    pub fn judge_begin(&mut self, _worker: usize, task: usize, again: bool) -> bool {
        self.judge_begins_newest(task);
        let facts = &self.facts.tasks[task];
        let (row, key) = (facts.row, facts.key);
        let lock = facts.digest.and_then(|digest| self.show(digest));
        let held = lock.as_ref().is_some_and(|lock| *lock.holder == *facts.id);
        let follows = lock
            .as_ref()
            .is_some_and(|lock| lock.scope == Extent::Publish(Scope::UntilFinished));
        // Never a duplicate, and so no sign of a lock that went early: what was begun or published before, or not asked about.
        let excused = |task: usize| {
            let facts = &self.facts.tasks[task];
            let unchecked = facts.unchecked || facts.handed_unchecked;
            let excused = unchecked || facts.lapsed || facts.doubled || facts.untold || facts.revoked || facts.unconfirmed;
            excused || self.is_dead(task)
        };
        if again || excused(task) || !follows {
            return held;
        }
        let other = self.running_holders().find(|other| {
            let facts = &self.facts.tasks[*other];
            *other != task && facts.row == row && facts.key == key && !excused(*other)
        });
        if let Some(other) = other {
            self.facts.fail(task, format!("begins while t{other} runs"));
        }
        held
    }

    /// Nothing moves any more, and nobody publishes.
    pub fn judge_tasks(&mut self) {
        for (task, facts) in self.facts.tasks.iter().enumerate() {
            let comes = facts.begun > 0 || self.was_handed(task);
            let accounted = comes || facts.dropped || facts.revoked || facts.purged || facts.expired || self.is_dead(task);
            // Where nothing breaks, a publish without confirms is as good as one with them.
            let owed = facts.confirmed || self.plan.is_calm() || self.has_killed(task);
            if owed && !accounted {
                self.facts.fail(task, "was confirmed and never ran");
            }
            if self.lives(task) {
                self.facts.fail(task, "is still there");
            }
        }
    }

    /// All that ends locks by what happens had its time.
    pub fn judge_locks(&mut self) {
        for lock in self.present_locks() {
            let task = Facts::index(&lock.holder);
            let facts = &self.facts.tasks[task];
            // One that was with a worker before its queue was purged is nobody's to free, nor is one that the broker confirmed later.
            let unpurged = facts.purged && (facts.delivered || facts.passed_over);
            // Nobody tells of what expires in its queue after a run, and a retry of one copy may be heard when another has just ended.
            let missed = unpurged || facts.begun > 0 && facts.expired || facts.retried && facts.doubled;
            // What was decided without the store may be committed after all that was told of its end.
            if lock.scope == Extent::Publish(Scope::UntilExpired) || facts.untold || facts.unchecked || missed {
                continue;
            }
            let worker = self.workers.iter().find(|worker| worker.name == *lock.worker);
            // Its worker lives, and what it said was lost.
            // So has one that waited for another while it was revoked.
            let unrun = facts.expired && self.plan.rows[facts.row].keeps() || facts.revoked && self.is_carried(task);
            let unheard = (facts.begun > 0 || unrun) && !self.is_heard(task, lock.scope);
            let same_worker = worker.is_some_and(|worker| worker.started_ms <= lock.since_ms && worker.since_ms <= lock.since_ms + 10_000);
            if !(unheard && same_worker && self.plan.lost_percent > 0) {
                self.facts
                    .fail(task, format!("is over, and its lock is still there: {:?}, {lock:?}", lock.state));
            }
        }
    }

    /// The life of each lock has passed.
    pub fn judge_lapses(&mut self) {
        if let Some(lock) = self.present_locks().first() {
            let task = Facts::index(&lock.holder);
            self.facts.fail(task, format!("its lock outlives its life: {lock:?}"));
        }
    }

    /// The locks that are there now.
    pub fn present_locks(&self) -> Vec<LockRecord> {
        let locks = self.facts.locks.keys().filter_map(|digest| self.show(*digest));
        locks.filter(|lock| lock.state != LockState::Cooldown).collect()
    }
}
