//! What the ids of dropped tasks get: a result backend, the workers and proxies that write it, and a joiner for each proxy, as
//! `src/results` has them.
//!
//! A dropped id is owed what its rule says, by the holders that it was dropped for: their result, or that there is none; REVOKED; or SUCCESS.
//! It gets that once: what a proxy writes is never written over what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use oncegate::rules::lock::{Acquired, Admitted, Reply, Request};
use oncegate::rules::owed::{Debt, Outcome};
use oncegate::rules::running::Ran;
use oncegate::rules::spec::{ResultMode, Unique};
use oncegate::store::join::{Awaits, Group, Stage};
use oncegate::store::{Client, Store, Unobserved};

use crate::carried::Value;
use crate::facts::Facts;
use crate::plan::Backend;
use crate::world::World;

/// For how long the result of a holder that has ended is waited for.
const AWAITED: Duration = Duration::from_secs(5);
/// A worker has written its result so long after the end of a run at the latest, and a proxy what it owes.
const WRITES_US: u64 = 2_000_000;
/// Between two looks of a joiner.
const LOOKS_EVERY_US: u64 = 250_000;

/// What a worker writes of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    Retry,
    Success,
    Failure,
    Revoked,
}

/// What stands in the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Record {
    /// Of a run of the task itself.
    Own(Stored),
    /// What this holder's run gave.
    Joined(usize, Stored),
    /// That of this holder, or of what became of it, nothing is known.
    Unknown(usize),
    Plain(Outcome),
}

/// Something that is about to be written.
struct Write {
    due_us: u64,
    /// With whom it is lost; none for a worker's.
    proxy: Option<usize>,
    task: usize,
    record: Record,
    /// What a run has returned.
    value: Option<Value>,
}

/// What a joiner is about to do.
enum Step {
    Look,
    LookAt(Group, Stage),
    Give(Group, Record),
    Done(Group, Vec<Arc<str>>),
}

#[derive(Default)]
struct Joiner {
    /// The last is next.
    steps: Vec<Step>,
    next_us: u64,
}

#[derive(Default)]
pub struct Results {
    records: BTreeMap<usize, Record>,
    /// Those of which the first was not that of a run of theirs: who waited for them may have been given it.
    given_first: BTreeSet<usize>,
    writes: Vec<Write>,
    joiners: Vec<Joiner>,
    /// For whom each was dropped, as the store has said.
    holders: BTreeMap<usize, BTreeSet<usize>>,
    /// Since when somebody waits for each holder.
    waited_ms: BTreeMap<usize, u64>,
    /// What these were owed was lost with a proxy, or with the store.
    lost: BTreeSet<usize>,
}

impl Results {
    pub fn new(proxies: usize) -> Results {
        Results {
            joiners: (0..proxies).map(|_| Joiner::default()).collect(),
            ..Results::default()
        }
    }

    /// The store has lost all that it held.
    pub fn forget(&mut self, facts: &Facts) {
        let dropped = facts.tasks.iter().enumerate().filter(|(_, facts)| facts.dropped);
        self.lost.extend(dropped.map(|(task, _)| task));
        self.lost.extend(self.holders.keys());
    }
}

/// The memory store answers at once.
fn now<T>(answer: impl Future<Output = T>) -> T {
    match pin!(answer).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => panic!("a memory store answers at once"),
    }
}

impl World {
    fn joins(&self) -> Client {
        Store::memory(Arc::clone(&self.memory), Arc::new(Unobserved)).client()
    }

    fn owes_results(&self, task: usize) -> ResultMode {
        self.plan.rows[self.facts.tasks[task].row].rule.result
    }

    /// A worker stores the result of a run, and what that has returned.
    pub fn stores(&mut self, task: usize, stored: Stored, value: Option<Value>) {
        if self.owes_results(task) != ResultMode::None || self.carries_at_all(task) {
            self.writes(None, task, Record::Own(stored), value);
        }
    }

    /// What stands in the backend of this task, if a worker has written it.
    pub fn result_of(&self, task: usize) -> Option<Stored> {
        match self.results.records.get(&task) {
            Some(Record::Own(stored)) => Some(*stored),
            _ => None,
        }
    }

    /// A session tells that a dropped id gets a result.
    pub fn owes(&mut self, at: usize, debt: &Debt) {
        let proxy = self.links.get(&at).map(|link| link.proxy);
        let task = Facts::index(&debt.id);
        let owed = match self.owes_results(task) {
            ResultMode::Revoke => Some(Outcome::Revoked),
            ResultMode::Success => Some(Outcome::Success),
            ResultMode::Join | ResultMode::None => None,
        };
        if owed != Some(debt.outcome) {
            self.facts
                .fail(task, format!("gets what its rule does not say: {:?}", debt.outcome));
        }
        self.dropped_for(task, Facts::index(&debt.holder));
        self.writes(proxy, task, Record::Plain(debt.outcome), None);
    }

    fn writes(&mut self, proxy: Option<usize>, task: usize, record: Record, value: Option<Value>) {
        // Where only workers read it, nobody looks again: it is there when the end of the run is told.
        let takes_us = match self.plan.backend {
            Backend::Anybody => self.random.next() % WRITES_US,
            Backend::Workers => 0,
        };
        let due_us = self.now.us + takes_us;
        // What one worker or proxy writes of a task does not overtake itself.
        let before = self
            .results
            .writes
            .iter()
            .filter(|write| write.task == task)
            .map(|write| write.due_us);
        let due_us = before.max().unwrap_or(0).max(due_us);
        let write = Write {
            due_us,
            proxy,
            task,
            record,
            value,
        };
        self.results.writes.push(write);
        self.write_results();
    }

    /// What is due is written.
    pub fn write_results(&mut self) {
        let now_us = self.now.us;
        while let Some(index) = self.results.writes.iter().position(|write| write.due_us <= now_us) {
            let write = self.results.writes.remove(index);
            self.write_result(write.task, write.record);
            if matches!(write.record, Record::Own(_)) {
                self.carried.writes(write.task, write.value, self.now.unix_ms);
            }
        }
    }

    fn write_result(&mut self, task: usize, record: Record) {
        let own = matches!(record, Record::Own(_));
        if own || !self.results.records.contains_key(&task) {
            self.facts.note(task, format!("its result is {record:?}"));
            if !own {
                self.results.given_first.insert(task);
            }
            self.results.records.insert(task, record);
        }
    }

    /// The store says of whom a task is a duplicate.
    pub fn dropped_by_store(&mut self, task: usize, request: &Request, reply: &Reply) {
        let joins = match request {
            Request::Join { holder, .. } => Some(holder),
            _ => None,
        };
        let held = match reply {
            Reply::Acquire(Acquired::Held { holder, .. })
            | Reply::Admit(_, Admitted::Held { holder, .. })
            | Reply::Run(Ran::Leaves { holder, .. }) => Some(holder),
            _ => None,
        };
        if let Some(holder) = joins.or(held) {
            self.dropped_for(task, Facts::index(holder));
        }
    }

    fn dropped_for(&mut self, task: usize, holder: usize) {
        self.results.holders.entry(task).or_default().insert(holder);
        self.results.waited_ms.entry(holder).or_insert(self.now.unix_ms);
    }

    /// What a proxy owed is lost with it. What its joiner had begun, another does.
    pub fn joiner_dies(&mut self, proxy: usize) {
        let (lost, kept) = std::mem::take(&mut self.results.writes)
            .into_iter()
            .partition(|write| write.proxy == Some(proxy));
        self.results.writes = kept;
        for write in lost {
            self.facts.note(write.task, "what it was owed is lost with its proxy");
            self.results.lost.insert(write.task);
        }
        let next_us = self.now.us + LOOKS_EVERY_US;
        self.results.joiners[proxy] = Joiner {
            steps: Vec::new(),
            next_us,
        };
    }

    pub fn joiner_works(&self, proxy: usize) -> bool {
        !self.results.joiners[proxy].steps.is_empty()
    }

    /// It is time to look at who waits.
    pub fn joiners_look(&mut self) {
        if self.plan.rows.iter().all(|row| row.rule.result == ResultMode::None) {
            return;
        }
        for joiner in &mut self.results.joiners {
            if joiner.steps.is_empty() && self.now.us >= joiner.next_us {
                joiner.steps.push(Step::Look);
            }
        }
    }

    /// A joiner takes its next step. While the store is away it gives up, and begins anew some time later.
    pub fn joiner_acts(&mut self, proxy: usize) {
        let Some(step) = self.results.joiners[proxy].steps.pop() else {
            return;
        };
        let silent = self.random.percent(self.plan.silent_percent);
        if self.is_down(proxy) || silent {
            self.results.joiners[proxy] = Joiner {
                steps: Vec::new(),
                next_us: self.now.us + 4 * LOOKS_EVERY_US,
            };
            return;
        }
        let more = self.joiner_step(step);
        let joiner = &mut self.results.joiners[proxy];
        joiner.steps.extend(more);
        if joiner.steps.is_empty() {
            joiner.next_us = self.now.us + LOOKS_EVERY_US;
        }
    }

    fn joiner_step(&mut self, step: Step) -> Vec<Step> {
        let client = self.joins();
        match step {
            Step::Look => {
                let due = now(client.joins_due()).expect("it answers");
                due.into_iter().map(|due| Step::LookAt(due.group, due.stage)).collect()
            }
            Step::LookAt(group, stage) => match self.given(&group, stage) {
                Some(record) => vec![Step::Give(group, record)],
                None => Vec::new(),
            },
            Step::Give(group, record) => {
                let joined = now(client.joined(&group)).expect("it answers");
                let ids: Vec<Arc<str>> = joined.into_iter().map(|joined| joined.id).collect();
                for id in &ids {
                    self.join_ends(Facts::index(id), Facts::index(&group.holder), record);
                }
                if ids.is_empty() {
                    return vec![Step::Done(group, ids)];
                }
                vec![Step::Give(group.clone(), record), Step::Done(group, ids)]
            }
            Step::Done(group, ids) => {
                now(client.joins_done(&group, &ids)).expect("it answers");
                Vec::new()
            }
        }
    }

    /// What those get that wait for this holder, if it is time.
    fn given(&mut self, group: &Group, stage: Stage) -> Option<Record> {
        let holder = Facts::index(&group.holder);
        assert_eq!(group.awaits, Awaits::Result, "there are not so many");
        let passed_on = match self.results.records.get(&holder) {
            Some(Record::Own(stored @ (Stored::Success | Stored::Failure)) | Record::Joined(_, stored)) => Some(*stored),
            Some(Record::Plain(Outcome::Success)) => Some(Stored::Success),
            Some(Record::Own(Stored::Revoked) | Record::Plain(Outcome::Revoked) | Record::Unknown(_))
                if matches!(stage, Stage::Keeps | Stage::Ended { .. }) =>
            {
                Some(Stored::Revoked)
            }
            _ => None,
        };
        if let Some(stored) = passed_on {
            return Some(Record::Joined(holder, stored));
        }
        if !matches!(stage, Stage::Ended { since } if since >= AWAITED) {
            return None;
        }
        self.judge_look(group.digest);
        self.judge_unknown(holder);
        Some(Record::Unknown(holder))
    }

    /// A holder whose lock goes early, as is documented, is taken to have ended; so is one that has lost its connection to the store.
    pub fn may_outlive_its_lock(&self, holder: usize) -> bool {
        let facts = &self.facts.tasks[holder];
        let excused = facts.lapsed || facts.unchecked || facts.untold || facts.unconfirmed || facts.doubled || facts.revoked;
        excused || facts.expires_ms.is_some() || self.is_dead(holder) || self.has_lost_run(holder)
    }

    /// Those that wait for this holder are told that nothing is known of it.
    fn judge_unknown(&self, holder: usize) {
        let facts = &self.facts.tasks[holder];
        let excused = self.may_outlive_its_lock(holder);
        // The end of one that has lost its lock by its start is waited for as long as a lock lives.
        let rule = &self.plan.rows[facts.row].rule;
        let waited_ms = self.now.unix_ms - self.results.waited_ms.get(&holder).copied().unwrap_or(0);
        let by_start = matches!(rule.unique, Some(Unique::UntilStarted | Unique::UntilStartedAndWhileRunning));
        let excused = excused || by_start && waited_ms >= rule.ttl.as_millis() as u64;
        let unwritten = self.results.writes.iter().any(|write| write.task == holder);
        if (self.lives(holder) || unwritten) && !excused {
            self.facts.fail(
                holder,
                "has not ended, and those that wait for it are told that its outcome is unknown",
            );
        }
    }

    /// A joiner writes what an id was waiting for.
    fn join_ends(&mut self, task: usize, holder: usize, record: Record) {
        if self.owes_results(task) != ResultMode::Join {
            self.facts.fail(task, format!("gets {record:?}, which its rule does not say"));
        }
        let told = self.results.holders.get(&task).is_some_and(|holders| holders.contains(&holder));
        if !told {
            self.facts.fail(task, format!("gets {record:?}, and is no duplicate of t{holder}"));
        }
        self.write_result(task, record);
    }

    /// All that writes results had its time.
    pub fn judge_results(&mut self) {
        for (task, facts) in self.facts.tasks.iter().enumerate() {
            let record = self.results.records.get(&task).copied();
            let owes = self.owes_results(task) != ResultMode::None;
            if owes
                && self.is_dead(task)
                && !facts.dropped
                && facts.begun == 0
                && !facts.purged
                && !facts.expired
                && record != Some(Record::Own(Stored::Revoked))
            {
                self.facts.fail(task, format!("was replaced, and its result is {record:?}"));
            }
            let lost = self.results.lost.contains(&task) || facts.untold || facts.unchecked;
            let is_dropped = facts.dropped && facts.begun == 0 && !self.is_dead(task);
            if !is_dropped || lost || facts.revoked || facts.expires_ms.is_some() {
                continue;
            }
            let right = match (self.owes_results(task), record) {
                (ResultMode::None, None)
                | (ResultMode::Revoke, Some(Record::Plain(Outcome::Revoked)))
                | (ResultMode::Success, Some(Record::Plain(Outcome::Success)))
                | (ResultMode::Join, Some(Record::Unknown(_))) => true,
                (ResultMode::Join, Some(Record::Joined(holder, stored))) => self.was_given(holder, stored),
                _ => false,
            };
            if !right {
                let holders = self.results.holders.get(&task);
                self.facts
                    .fail(task, format!("was dropped for {holders:?}, and its result is {record:?}"));
            }
        }
        let waiting = now(self.joins().joins_due()).expect("it answers");
        if let Some(due) = waiting.first() {
            self.facts
                .fail(Facts::index(&due.group.holder), "is over, and others wait for its result");
        }
    }

    /// Whether this is what became of a holder, once or at last.
    fn was_given(&self, holder: usize, stored: Stored) -> bool {
        let facts = &self.facts.tasks[holder];
        match self.results.records.get(&holder) {
            // One that ran more than once has had more than one result.
            Some(Record::Own(own)) => *own == stored || facts.begun > 1 || facts.ended > 1 || self.results.given_first.contains(&holder),
            Some(_) => true,
            None => false,
        }
    }
}
