//! Running locks: which run has the lock of its key, when it may lose it, and that no two runs of one key overlap.
//!
//! A run is a task and the delivery that brought it. Runs of one key may overlap only if all but one of them have lost their locks, or
//! never got one, as is documented; each such loss is of one run, and is judged when it happens.

use std::collections::{BTreeMap, BTreeSet};

use oncegate::rules::lock::{Digest, LockRecord, LockState, Nonce, ReleaseReason, Renewed, Reply, Request, Signal};
use oncegate::rules::running::{IfBusy, Ran};
use oncegate::session;

use crate::facts::Facts;
use crate::link::{Answer, Link, Order, Owner};
use crate::plan::Acks;
use crate::store::Heard;
use crate::worker::{Life, Worker};
use crate::world::World;

/// The task, and the delivery that brought it.
pub type Name = (usize, Nonce);

/// A proxy whose store is back has renewed what runs within this time.
const KNOWN_AGAIN_MS: u64 = 5_000;
/// How often a follower renews, and how often it asks the worker; and how soon again after an answer that does not know the task.
const FOLLOW_MS: u64 = 30_000;
const AGAIN_MS: u64 = 5_000;

/// A delivery whose run the store was asked about.
pub struct Asked {
    name: Name,
    ticket: u64,
    answer: Answered,
}

/// What the connection knows of a run that it has asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answered {
    NotYet,
    Runs,
    /// It is not to go to its worker yet, or never.
    Otherwise,
    /// The store does not answer.
    Silence,
}

impl Asked {
    pub fn of(order: &Order) -> Option<Asked> {
        let Order::Ask(ticket, Request::Run { claim, delivery, .. }) = order else {
            return None;
        };
        Some(Asked {
            name: (Facts::index(&claim.id), *delivery),
            ticket: *ticket,
            answer: Answered::NotYet,
        })
    }
}

impl Link {
    /// The session hears an answer.
    pub fn run_answered(&mut self, ticket: u64, answer: &Answer) {
        if let Some(asked) = self.asked.iter_mut().find(|asked| asked.ticket == ticket) {
            asked.answer = match answer {
                Ok(Reply::Run(Ran::Runs)) => Answered::Runs,
                Ok(_) => Answered::Otherwise,
                Err(_) => Answered::Silence,
            };
        }
    }

    /// Which delivery of this task goes to its worker: deliveries go in the order in which they came.
    fn goes(&mut self, task: usize, checked: bool) -> Option<Name> {
        let fits = |asked: &Asked| match asked.answer {
            Answered::Runs => checked,
            Answered::NotYet | Answered::Silence => !checked,
            Answered::Otherwise => false,
        };
        let index = self.asked.iter().position(|asked| asked.name.0 == task && fits(asked))?;
        Some(self.asked.remove(index).name)
    }
}

/// A delivery that is on its way to its worker.
pub struct Handed {
    pub task: usize,
    pub name: Option<Name>,
}

/// A task that was acknowledged early, as the proxy that saw the ack follows it.
pub struct Followed {
    proxy: usize,
    run: session::Run,
    renewed_ms: u64,
    check_ms: u64,
    unknown: u32,
}

impl Followed {
    fn name(&self) -> Name {
        (Facts::index(&self.run.claim.id), self.run.delivery)
    }
}

/// How a run lost its lock.
#[derive(Debug, Clone, Copy)]
enum Loss {
    /// Its time passed.
    Lapse,
    /// A step of the store freed it.
    Freed(ReleaseReason, LockState),
    /// Another run took it.
    Taken(usize),
}

#[derive(Default)]
pub struct Runs {
    /// Who has the lock of each key, and the lock.
    holders: BTreeMap<Digest, (Name, LockRecord)>,
    /// The connection of each delivery that was asked about.
    links: BTreeMap<Name, usize>,
    /// Why a run that may go on has no lock.
    unlocked: BTreeMap<Name, &'static str>,
    /// The tasks that were published, or given to a worker, without a decision.
    unchecked: BTreeSet<usize>,
    /// The tasks that had been retried when the store was emptied: of that it may hear late, and it knows of none of their runs.
    retries_forgotten: BTreeSet<usize>,
    /// The runs of which the store has forgotten, and when it was there again.
    forgotten: BTreeMap<Digest, Name>,
    back_ms: u64,
    /// From when to when nobody reached the store.
    aways: Vec<(u64, u64)>,
    followed: Vec<Followed>,
    /// Those that were acknowledged early, as a proxy knows.
    acknowledged: BTreeSet<Name>,
    /// How often a worker of that name has begun a task.
    begun: BTreeMap<(usize, String), u32>,
}

impl World {
    fn show_run(&self, digest: Digest) -> Option<LockRecord> {
        match self.memory.execute(&Request::ShowRun { digest }) {
            Reply::Lock(lock) => lock.map(|lock| *lock),
            other => panic!("{other:?} is no answer to that"),
        }
    }

    /// The running locks that are there now.
    pub fn present_runs(&self) -> Vec<LockRecord> {
        self.runs.holders.keys().filter_map(|digest| self.show_run(*digest)).collect()
    }

    /// A connection asks for a running lock.
    pub fn run_asked(&mut self, at: usize, asked: Asked) {
        self.runs.links.insert(asked.name, at);
        let Some(link) = self.links.get_mut(&at) else { return };
        match link.asked.iter_mut().find(|known| known.name == asked.name) {
            Some(known) => *known = asked,
            None => link.asked.push(asked),
        }
    }

    /// A connection gives back a delivery, or the lock that it was given late.
    pub fn run_left(&mut self, at: usize, name: Name) {
        if let Some(link) = self.links.get_mut(&at) {
            link.asked.retain(|asked| asked.name != name);
        }
    }

    /// Nothing was decided about a message of this task.
    pub fn run_unchecked(&mut self, task: usize) {
        self.runs.unchecked.insert(task);
    }

    /// A delivery goes to its worker. One that nothing was decided about has no lock.
    pub fn run_handed(&mut self, at: usize, task: usize, checked: bool) {
        let Some(link) = self.links.get_mut(&at) else { return };
        let name = link.goes(task, checked);
        link.handed.push(Handed { task, name });
        if !checked {
            self.run_unchecked(task);
        }
        if let Some(name) = name.filter(|_| !checked) {
            self.runs.unlocked.insert(name, "unchecked");
        }
    }

    /// The step that the store is about to do finds what has lapsed since.
    pub fn judge_run_lapse(&mut self, digest: Digest) -> Option<LockRecord> {
        let before = self.show_run(digest);
        if let Some((name, lock)) = self.runs.holders.get(&digest).cloned() {
            let same = |before: &LockRecord| before.holder == lock.holder && before.since_ms == lock.since_ms;
            if !before.as_ref().is_some_and(same) {
                self.runs.holders.remove(&digest);
                self.run_loses(name, Loss::Lapse);
            }
        }
        before
    }

    /// What a step of the store has done to the running lock of its key.
    pub fn judge_run_step(&mut self, task: usize, digest: Digest, request: &Request, reply: &Reply, before: Option<&LockRecord>) {
        let after = self.show_run(digest);
        let holder = self.runs.holders.get(&digest).map(|(name, _)| *name);
        let now = match (request, reply) {
            (Request::Run { delivery, .. }, Reply::Run(Ran::Runs))
            | (Request::RenewRun { delivery, .. }, Reply::Renewed(Renewed::Held | Renewed::Retaken)) => Some((task, *delivery)),
            _ => holder.filter(|_| after.is_some()),
        };
        if let Some(former) = holder.filter(|former| now != Some(*former)) {
            if let Request::Signal { worker, .. } = request
                && before.is_some_and(|before| !before.worker.is_empty() && !worker.is_empty() && before.worker != *worker)
            {
                self.facts.fail(former.0, format!("{worker} ends a run that is not its own"));
            }
            let state = before.map_or(LockState::Queued, |before| before.state);
            let loss = match (reply, now) {
                (Reply::Released(freed), _) => {
                    let reason = freed.iter().find(|freed| *freed.holder == *self.facts.tasks[former.0].id);
                    Loss::Freed(reason.map_or(ReleaseReason::Ended, |freed| freed.reason), state)
                }
                (_, Some((by, _))) => Loss::Taken(by),
                _ => self.facts.fail(former.0, "its running lock went without a reason"),
            };
            self.run_loses(former, loss);
        }
        match (now, after) {
            (Some(name), Some(lock)) => {
                if holder != Some(name) {
                    self.run_takes(name, digest, request);
                }
                self.runs.holders.insert(digest, (name, lock));
            }
            _ => drop(self.runs.holders.remove(&digest)),
        }
        self.judge_ran(task, reply);
    }

    fn judge_ran(&mut self, task: usize, reply: &Reply) {
        match reply {
            Reply::Run(Ran::Succeeded) if self.facts.tasks[task].ended == 0 => {
                self.facts.fail(task, "is told that it has succeeded, and it has not");
            }
            Reply::Run(Ran::Leaves { holder, .. }) => {
                let holder = Facts::index(holder);
                if !self.facts.tasks[holder].reached {
                    self.facts
                        .fail(task, format!("leaves for t{holder}, which the broker does not have"));
                }
            }
            _ => {}
        }
    }

    fn run_takes(&mut self, name: Name, digest: Digest, request: &Request) {
        // One that was handed over while the store did not answer is renewed all the same.
        let overlapped = self.runs.unlocked.remove(&name).is_some() || !self.runs.links.contains_key(&name);
        let Some(forgotten) = self.runs.forgotten.remove(&digest).filter(|forgotten| *forgotten != name) else {
            return;
        };
        // One that comes after the store was emptied knows of nobody; nor does the store, until the run is renewed.
        let comes = matches!(
            request,
            Request::Run {
                busy: IfBusy::Wait { place_ms: None } | IfBusy::Leave { place_ms: None },
                ..
            }
        );
        let comes = comes && self.now.unix_ms <= self.runs.back_ms + KNOWN_AGAIN_MS;
        // Its proxy has not heard of its end, and the store has forgotten it.
        let over = matches!(request, Request::RenewRun { .. }) && !self.is_in_progress(name);
        let right = comes || overlapped || over || !self.is_known(forgotten);
        if !right && self.is_in_progress(forgotten) {
            self.facts
                .fail(name.0, format!("gets the lock of t{}, which the store has forgotten", forgotten.0));
        }
        if right {
            self.runs.unlocked.insert(forgotten, "forgotten");
        }
    }

    /// Whether somebody renews the lock of this run.
    fn is_known(&self, name: Name) -> bool {
        let present = |name: &str| self.workers.iter().any(|worker| worker.name == name && worker.link.is_some());
        let mut followed = self.runs.followed.iter().filter(|followed| followed.name() == name);
        followed.any(|followed| present(&followed.run.worker)) || !self.is_cut_off(name) && !self.runs.acknowledged.contains(&name)
    }

    fn is_in_progress(&self, name: Name) -> bool {
        // One that leaves takes no more.
        let takes = |owner| matches!(owner, Owner::Worker(index) if self.workers[index].life == Life::Up);
        let mut handed = self.links.values().filter(|link| takes(link.owner)).flat_map(|link| &link.handed);
        handed.any(|handed| handed.name == Some(name)) || self.workers.iter().any(|worker| worker.names().any(|other| other == name))
    }

    /// The worker of this run, or its proxy, has lost the connection over which it came.
    fn is_cut_off(&self, name: Name) -> bool {
        let link = self.runs.links.get(&name).and_then(|at| self.links.get(at));
        !link.is_some_and(|link| matches!(link.owner, Owner::Worker(_)) && !link.up.eof && link.broker.open)
    }

    /// A run that may go on loses its lock: rightly, or the world ends here.
    fn run_loses(&mut self, name: Name, loss: Loss) {
        let task = name.0;
        let facts = &self.facts.tasks[task];
        let owner = self.runs.links.get(&name).and_then(|at| Some(self.links.get(at)?.owner));
        let again = self.workers.iter().enumerate().any(|(index, worker)| {
            if owner != Some(Owner::Worker(index)) && !worker.names().any(|other| other == name) {
                return false;
            }
            let begun = self.runs.begun.get(&(task, worker.name.clone())).copied().unwrap_or(0);
            begun > u32::from(worker.running().any(|(_, of)| of == Some(name)))
        });
        let right = match loss {
            Loss::Lapse => self.is_cut_off(name).then_some("its worker is cut off, and nobody renews it"),
            Loss::Freed(ReleaseReason::Crash, _) => self.is_cut_off(name).then_some("its worker was gone"),
            // What it was delivered over is gone, and another may have it.
            Loss::Freed(ReleaseReason::Ended, _) if self.is_cut_off(name) => Some("its connection was gone"),
            Loss::Freed(ReleaseReason::Revoked, LockState::Queued) => {
                facts.revoked.then_some("it was revoked, and not known to have begun")
            }
            // The copy that was not to run any more came back to the worker that runs the first.
            Loss::Freed(ReleaseReason::Expired, _) if self.is_dead(task) => facts.doubled.then_some("another copy of it was superseded"),
            // What is told of a task names its worker, and no more.
            Loss::Freed(_, _) => (again && (facts.doubled || facts.republished || self.runs.unchecked.contains(&task)))
                .then_some("its worker has run another copy of it, which is told late"),
            Loss::Taken(by) => (by == task && facts.retried && facts.doubled).then_some("another copy of it was retried"),
        };
        let Some(right) = right else {
            if self.is_in_progress(name) {
                self.facts.fail(task, format!("runs, and loses its running lock: {loss:?}"));
            }
            return;
        };
        self.facts.note(task, format!("loses its running lock: {loss:?}, {right}"));
        self.runs.unlocked.insert(name, right);
    }

    /// A worker begins a task whose runs exclude each other.
    pub fn judge_run_begins(&mut self, index: usize, task: usize) {
        let worker = self.workers[index].name.clone();
        *self.runs.begun.entry((task, worker)).or_default() += 1;
        let (row, key) = (self.facts.tasks[task].row, self.facts.tasks[task].key);
        if !self.plan.rows[row].excludes() {
            return;
        }
        let runs = self.workers.iter().flat_map(Worker::running);
        let of_key: Vec<(usize, Option<Name>)> = runs
            .filter(|(other, _)| self.facts.tasks[*other].row == row && self.facts.tasks[*other].key == key)
            .collect();
        if of_key.len() < 2 {
            return;
        }
        let digest = of_key.iter().find_map(|(other, _)| self.facts.tasks[*other].digest);
        let holder = digest.and_then(|digest| {
            self.judge_run_lapse(digest);
            self.runs.holders.get(&digest).map(|(name, _)| *name)
        });
        for (other, name) in of_key {
            let excused = name.is_none_or(|name| holder == Some(name) || self.runs.unlocked.contains_key(&name));
            let forgotten = name.is_some() && digest.and_then(|digest| self.runs.forgotten.get(&digest).copied()) == name;
            if !excused && !forgotten {
                self.facts
                    .fail(task, format!("overlaps, and t{other} {name:?} has no lock; holder {holder:?}"));
            }
        }
    }

    /// A session tells that a worker has acknowledged a task that runs on.
    pub fn follows(&mut self, at: usize, run: session::Run) {
        let Some(link) = self.links.get(&at) else { return };
        if !matches!(run.kept, session::Kept::Run(_)) {
            return;
        }
        let followed = Followed {
            proxy: link.proxy,
            run,
            renewed_ms: self.now.unix_ms,
            check_ms: self.now.unix_ms + FOLLOW_MS,
            unknown: 0,
        };
        self.runs.acknowledged.insert(followed.name());
        self.runs.followed.push(followed);
    }

    /// What a proxy tells the store it has heard itself.
    pub fn follower_hears(&mut self, proxy: usize, request: &Request) {
        let Request::Signal {
            id,
            settlement,
            signal,
            source,
            worker,
        } = request
        else {
            return;
        };
        let goes_on = matches!(
            signal,
            Signal::Acked | Signal::DeliveredNoAck | Signal::Started | Signal::RevokeAsked | Signal::Purged
        );
        let now_ms = self.now.unix_ms;
        self.runs.followed.retain_mut(|followed| {
            let run = &followed.run;
            let ended = run.claim.id == *id && run.is_ended_by(*settlement, *signal, *source, worker);
            if goes_on || followed.proxy != proxy || !ended {
                return true;
            }
            // It may be told late of an earlier try.
            let may_go_on = *signal == Signal::Retried && matches!(&run.kept, session::Kept::Run(note) if note.retries > 0);
            (followed.renewed_ms, followed.check_ms) = (0, now_ms);
            may_go_on
        });
    }

    /// A renewal was of no use.
    pub fn follower_answered(&mut self, request: &Request, reply: &Reply) {
        if let (Request::RenewRun { claim, delivery, .. }, Reply::Renewed(Renewed::Gone)) = (request, reply) {
            self.runs
                .followed
                .retain(|followed| followed.run.claim.id != claim.id || followed.run.delivery != *delivery);
        }
        if let (Request::RenewRun { claim, delivery, .. }, Reply::Renewed(Renewed::Lost)) = (request, reply) {
            let again_ms = self.now.unix_ms + AGAIN_MS;
            let name = (Facts::index(&claim.id), *delivery);
            for followed in self.runs.followed.iter_mut().filter(|followed| followed.name() == name) {
                followed.check_ms = followed.check_ms.min(again_ms);
            }
        }
    }

    pub fn follower_dies(&mut self, proxy: usize) {
        self.runs.followed.retain(|followed| followed.proxy != proxy);
    }

    /// The store can be asked again by this proxy.
    pub fn follower_renews_all(&mut self, proxy: usize) {
        let now_ms = self.now.unix_ms;
        for followed in self.runs.followed.iter_mut().filter(|followed| followed.proxy == proxy) {
            (followed.renewed_ms, followed.check_ms) = (0, now_ms);
        }
    }

    /// What is due of tasks that were acknowledged early: their locks are renewed, and their workers asked.
    pub fn follow(&mut self) {
        let now_ms = self.now.unix_ms;
        let mut orders = Vec::new();
        let workers = &self.workers;
        let rows = &self.plan.rows;
        let tasks = &self.facts.tasks;
        self.runs.followed.retain_mut(|followed| {
            let Some(worker) = workers
                .iter()
                .find(|worker| worker.name == *followed.run.worker && worker.link.is_some())
            else {
                return true;
            };
            let (task, run) = (followed.name().0, &followed.run);
            if now_ms >= followed.renewed_ms + FOLLOW_MS
                && let session::Kept::Run(note) = &run.kept
            {
                followed.renewed_ms = now_ms;
                let request = Request::RenewRun {
                    claim: run.claim.clone(),
                    delivery: run.delivery,
                    note: note.clone(),
                    worker: run.worker.clone(),
                };
                orders.push((followed.proxy, request));
            }
            let grace_ms = rows[tasks[task].row].rule.orphan_grace.as_millis() as u64;
            if now_ms < followed.check_ms.max(worker.since_ms + grace_ms) {
                return true;
            }
            if worker.knows(task) {
                (followed.unknown, followed.check_ms) = (0, now_ms + FOLLOW_MS);
                return true;
            }
            (followed.unknown, followed.check_ms) = (followed.unknown + 1, now_ms + AGAIN_MS);
            if followed.unknown >= 2 {
                let request = Request::Signal {
                    id: run.claim.id.clone(),
                    settlement: run.orphan(),
                    signal: Signal::Orphaned,
                    source: oncegate::rules::source::Source::Other,
                    worker: run.worker.clone(),
                };
                orders.push((followed.proxy, request));
            }
            followed.unknown < 2
        });
        // What one proxy tells of itself does not overtake itself; without a connection renewals are not kept.
        for (proxy, request) in orders {
            if !self.is_down(proxy) {
                self.follower_hears(proxy, &request);
                self.execute(&request);
            } else if !matches!(request, Request::RenewRun { .. }) {
                let due_us = self.now.us;
                self.heard.push(Heard { due_us, proxy, request });
            }
        }
    }

    /// Whether a run of this task has lost its lock, as is documented.
    pub fn has_lost_run(&self, task: usize) -> bool {
        self.runs.unlocked.keys().any(|name| name.0 == task)
    }

    /// The store will be there again at this time.
    pub fn runs_wait_until(&mut self, back_ms: u64) {
        self.runs.back_ms = back_ms;
        self.runs.aways.push((self.now.unix_ms, back_ms));
    }

    /// Whether the store was away at this time, or a moment before.
    pub fn was_away(&self, ms: u64) -> bool {
        self.runs
            .aways
            .iter()
            .any(|(from_ms, back_ms)| *from_ms <= ms && ms <= back_ms + 2_000)
    }

    /// The store has lost all that it held.
    pub fn empty_store(&mut self) {
        self.facts.note_all("the store is empty");
        self.memory = self.new_memory();
        self.replaces.forget();
        self.results.forget(&self.facts);
        self.carried.forget();
        let retried = self.facts.tasks.iter().enumerate().filter(|(_, facts)| facts.retried);
        self.runs.retries_forgotten.extend(retried.map(|(task, _)| task));
        let holders = std::mem::take(&mut self.runs.holders);
        for (digest, (name, _)) in holders {
            if self.is_in_progress(name) || !self.is_cut_off(name) {
                self.runs.forgotten.insert(digest, name);
            }
        }
        // Publish locks that were lost are taken anew, or are not: whose, other tests see.
        self.facts.locks.clear();
        for task in &mut self.facts.tasks {
            task.unchecked = true;
        }
    }

    /// All that ends running locks had its time.
    pub fn judge_run_locks(&mut self) {
        for lock in self.present_runs() {
            let task = Facts::index(&lock.holder);
            let facts = &self.facts.tasks[task];
            let early = self.plan.rows[facts.row].acks == Acks::Early;
            // A retry that never comes leaves the lock to its life, and so does one that begins while the store does not answer.
            let retry_lost = facts.purged || facts.expired || facts.revoked || facts.dropped || facts.untold || facts.unconfirmed;
            let unseen = self.runs.unchecked.contains(&task);
            let may_wait = unseen || facts.retried && (retry_lost || facts.doubled || self.runs.retries_forgotten.contains(&task));
            let waits_for_retry = lock.worker.is_empty() && may_wait;
            if !waits_for_retry {
                self.facts.fail(
                    task,
                    format!("is over (early {early}), and its running lock is still there: {lock:?}"),
                );
            }
        }
    }

    /// The life of each running lock has passed.
    pub fn judge_run_lapses(&mut self) {
        if let Some(lock) = self.present_runs().first() {
            let task = Facts::index(&lock.holder);
            self.facts.fail(task, format!("its running lock outlives its life: {lock:?}"));
        }
    }
}
