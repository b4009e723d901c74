//! Newer tasks that take their keys over: whose lock is set aside, who is not to run any more and since when, and who runs all the same.
//!
//! An id is *dead* from the step in which the store knows that the broker has the newcomer's message. It never has its key again, none of its
//! deliveries is let through, and what a worker had in its hands before runs only if the worker has not been told by then; each that does is
//! counted, once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use oncegate::amqp::frame::{self, FrameKind, Split};
use oncegate::celery::Limits;
use oncegate::celery::control::{self, Command};
use oncegate::rules::lock::{Acquired, Admitted, Begun, Committed, Digest, LockRecord, LockState, Renewed, Reply, Request};
use oncegate::rules::running::Ran;

use crate::broker::header_of;
use crate::facts::Facts;
use crate::link::Owner;
use crate::wire::Unit;
use crate::world::World;

/// Where nothing breaks, the worker that holds a dead task knows of it after the next renewal of its delivery.
const RENEWED_WITHIN_MS: u64 = 33_000;
/// And it is told before the time for which it holds it, unless that is so near.
const TOLD_BEFORE_ETA_MS: u64 = 2_500;

/// A lock that a newcomer has set aside.
struct Aside {
    newcomer: usize,
    older: usize,
    /// It lives until then at least, unless something was heard of its holder.
    until_ms: u64,
    heard: bool,
}

/// Whether the store is to tell that a dead id runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Count {
    /// With the first word of its run.
    Owed,
    /// It was told, or its run was known at its death.
    Done,
    /// Something was heard of it while its lock was set aside.
    Unknown,
}

struct Dead {
    since_ms: u64,
    /// False if its lock may have been gone before the newcomer was confirmed.
    certain: bool,
    count: Count,
}

#[derive(Default)]
pub struct Replaces {
    last: u64,
    /// The place of each among those that asked for their key.
    places: BTreeMap<usize, u64>,
    /// Those that were told to ask again.
    asking: BTreeSet<usize>,
    asides: BTreeMap<Digest, Aside>,
    dead: BTreeMap<usize, Dead>,
    killers: BTreeSet<usize>,
}

impl Replaces {
    /// The store has lost all that it held.
    pub fn forget(&mut self) {
        *self = Replaces::default();
    }

    fn place(&self, task: usize) -> u64 {
        self.places.get(&task).copied().unwrap_or(0)
    }
}

/// Whether the broker must have had the message that this is about.
fn confirms(request: &Request) -> bool {
    match request {
        Request::Commit { .. } | Request::Admit { .. } => true,
        Request::Signal { signal, .. } => signal.tells_of_message(),
        _ => false,
    }
}

/// The body of a method's content.
pub fn body_of(unit: &Unit) -> Vec<u8> {
    let (mut rest, mut body) = (unit.content(), Vec::new());
    while let Split::Frame(frame) = frame::split(rest, usize::MAX) {
        if matches!(frame.kind, FrameKind::Body) {
            body.extend_from_slice(frame.payload);
        }
        rest = &rest[frame.raw.len()..];
    }
    body
}

fn holder_of(lock: Option<&LockRecord>) -> Option<usize> {
    lock.map(|lock| Facts::index(&lock.holder))
}

impl World {
    /// Whether it has lost its key to a newer task.
    pub fn is_dead(&self, task: usize) -> bool {
        self.replaces.dead.contains_key(&task)
    }

    /// Whether an older task does not run for its sake.
    pub fn has_killed(&self, task: usize) -> bool {
        self.replaces.killers.contains(&task)
    }

    /// One step of the store, if it is about a task whose newest runs.
    pub fn judge_replace_step(
        &mut self,
        task: usize,
        digest: Digest,
        request: &Request,
        reply: &Reply,
        before: Option<&LockRecord>,
        after: Option<&LockRecord>,
    ) {
        if !self.plan.rows[self.facts.tasks[task].row].replaces() {
            return;
        }
        self.judge_aside(digest, before);
        if let (Request::Acquire { .. }, Reply::Acquire(acquired)) = (request, reply) {
            self.judge_acquired(task, digest, acquired, before);
        }
        if confirms(request) && holder_of(before) == Some(task) {
            self.confirmed(task, digest);
        }
        if let Reply::Commit(Committed::Replaced(superseded)) = reply {
            let older = Facts::index(&superseded.freed.holder);
            self.dies(
                older,
                task,
                true,
                if superseded.begun == Begun::No { Count::Owed } else { Count::Done },
            );
        }
        if let Some(aside) = self.replaces.asides.get_mut(&digest).filter(|aside| aside.older == task) {
            aside.heard |= matches!(request, Request::Signal { .. } | Request::Unpublish { .. });
        }
        self.judge_aside(digest, after);
        self.judge_dead(task, request, reply);
        let holder = holder_of(after);
        if holder != holder_of(before) && !matches!(request, Request::Acquire { .. }) {
            // It was taken without a question: before all that ask.
            self.replaces.places.remove(&task);
        }
        if let Some(dead) = holder.filter(|holder| self.replaces.dead.get(holder).is_some_and(|dead| dead.certain)) {
            self.facts.fail(dead, "has lost its key to a newer one, and holds it");
        }
    }

    fn judge_acquired(&mut self, task: usize, digest: Digest, acquired: &Acquired, before: Option<&LockRecord>) {
        let replaces = &mut self.replaces;
        if holder_of(before) != Some(task) && !replaces.asking.contains(&task) {
            replaces.last += 1;
            replaces.places.insert(task, replaces.last);
        }
        match acquired {
            Acquired::Leased { .. } => replaces.asking.insert(task),
            _ => replaces.asking.remove(&task),
        };
        match acquired {
            Acquired::Replaces { holder } => {
                let older = Facts::index(holder);
                let Some(lock) = before.filter(|lock| lock.holder == *holder && lock.state == LockState::Queued) else {
                    self.facts.fail(task, format!("takes its key from t{older}, which did not wait"));
                };
                if replaces.place(task) < replaces.place(older) {
                    self.facts.fail(task, format!("takes its key from t{older}, which is newer"));
                }
                let aside = Aside {
                    newcomer: task,
                    older,
                    until_ms: lock.expires_ms,
                    heard: false,
                };
                replaces.asides.insert(digest, aside);
            }
            Acquired::Outrun { holder } => {
                let newer = Facts::index(holder);
                if replaces.place(newer) < replaces.place(task) {
                    self.facts
                        .fail(task, format!("is not to run for the sake of t{newer}, which is older"));
                }
                self.dies(task, newer, true, Count::Owed);
            }
            _ => {}
        }
    }

    /// A newcomer that has gone unconfirmed leaves its key to the one that had it.
    fn judge_aside(&mut self, digest: Digest, lock: Option<&LockRecord>) {
        let Some(aside) = self.replaces.asides.get(&digest) else { return };
        let holder = holder_of(lock);
        if holder == Some(aside.newcomer) {
            return;
        }
        let (older, newcomer) = (aside.older, aside.newcomer);
        let comes_back = !aside.heard && aside.until_ms > self.now.unix_ms;
        self.replaces.asides.remove(&digest);
        if comes_back && holder != Some(older) {
            self.facts.fail(
                older,
                format!("does not have its lock again after t{newcomer} has failed: {holder:?}"),
            );
        }
    }

    /// The broker has the message of a holder.
    fn confirmed(&mut self, task: usize, digest: Digest) {
        let Some(aside) = self.replaces.asides.remove(&digest) else {
            return;
        };
        let certain = !aside.heard && aside.until_ms > self.now.unix_ms;
        let count = if certain { Count::Owed } else { Count::Unknown };
        self.dies(aside.older, task, certain, count);
    }

    fn dies(&mut self, older: usize, newer: usize, certain: bool, count: Count) {
        if !self.facts.tasks[newer].reached {
            self.facts.fail(
                older,
                format!("is not to run for the sake of t{newer}, which the broker does not have"),
            );
        }
        self.replaces.killers.insert(newer);
        let since_ms = self.now.unix_ms;
        if let Some(dead) = self.replaces.dead.get_mut(&older) {
            dead.certain |= certain;
            if dead.count == Count::Unknown {
                dead.count = count;
            }
            return;
        }
        self.facts.note(older, format!("is dead: t{newer} is newer"));
        let dead = Dead { since_ms, certain, count };
        self.replaces.dead.insert(older, dead);
    }

    /// What the store says of a dead task.
    fn judge_dead(&mut self, task: usize, request: &Request, reply: &Reply) {
        let Some(dead) = self.replaces.dead.get_mut(&task) else { return };
        match reply {
            Reply::Admit(_, Admitted::Superseded) | Reply::Run(Ran::Superseded) | Reply::Renewed(Renewed::Superseded) => {
                dead.certain = true;
            }
            Reply::Admit(..) | Reply::Run(Ran::Runs) | Reply::Renewed(Renewed::Held | Renewed::Retaken) if dead.certain => {
                let is_run = matches!(reply, Reply::Run(_)) || matches!(request, Request::RenewRun { .. });
                if !is_run {
                    self.facts.fail(task, format!("has lost its key to a newer one: {reply:?}"));
                }
            }
            // Its lock had gone before the newcomer was confirmed.
            Reply::Admit(..) => {
                self.replaces.dead.remove(&task);
                return;
            }
            _ => {}
        }
        let Request::Signal { signal, .. } = request else { return };
        let id = &self.facts.tasks[task].id;
        let told = matches!(reply, Reply::Outlived { ran, .. } if ran.iter().any(|ran| ran.holder == *id));
        let Some(dead) = self.replaces.dead.get_mut(&task) else { return };
        match (dead.count, told) {
            (Count::Owed, false) if signal.tells_of_run() => {
                self.facts.fail(task, "runs although it is dead, and that is not told");
            }
            (Count::Done, true) => self.facts.fail(task, "is told twice to run although it is dead"),
            (_, true) => dead.count = Count::Done,
            _ => {}
        }
    }

    /// The store has decided about a delivery.
    pub fn let_through(&mut self, at: usize, request: &Request, reply: Option<&Reply>) {
        let (Request::Admit { claim, delivery, .. } | Request::Run { claim, delivery, .. }, Some(link)) =
            (request, self.links.get_mut(&at))
        else {
            return;
        };
        let name = (Facts::index(&claim.id), *delivery);
        match reply {
            Some(Reply::Admit(_, Admitted::Holds | Admitted::Passes)) => link.passed.insert(name),
            Some(Reply::Admit(..) | Reply::Run(Ran::Superseded)) => link.passed.remove(&name),
            _ => false,
        };
    }

    /// A delivery goes to its worker as one that the store let through.
    pub fn judge_let_through(&mut self, at: usize, task: usize) {
        if !self.plan.rows[self.facts.tasks[task].row].replaces() {
            return;
        }
        let Some(link) = self.links.get_mut(&at) else { return };
        let Some(name) = link.passed.iter().find(|name| name.0 == task).copied() else {
            self.facts.fail(
                task,
                format!("goes to its worker (link {at}), and the store did not let it through"),
            );
        };
        link.passed.remove(&name);
    }

    /// A worker begins a task, and was not told that it is dead.
    pub fn judge_dead_begins(&mut self, task: usize, eta_ms: u64) {
        let Some(dead) = self.replaces.dead.get(&task).filter(|dead| dead.certain) else {
            return;
        };
        let for_ms = self.now.unix_ms - dead.since_ms;
        self.facts.note(task, format!("begins although it is dead for {for_ms} ms"));
        let late = for_ms > RENEWED_WITHIN_MS || eta_ms > dead.since_ms + TOLD_BEFORE_ETA_MS;
        if late && self.plan.is_calm() && self.plan.silent_percent == 0 {
            self.facts
                .fail(task, format!("begins, and is dead for {for_ms} ms; its time was {eta_ms}"));
        }
    }

    /// What a proxy does when the store has done what it told.
    pub fn told(&mut self, proxy: usize, request: &Request, reply: &Reply) {
        match (request, reply) {
            (_, Reply::Commit(Committed::Replaced(superseded))) if superseded.begun == Begun::No => {
                let worker = Arc::clone(&superseded.worker);
                self.revoke_at(proxy, &worker, &superseded.freed.holder);
            }
            (Request::Renew { claim, worker, .. }, Reply::Renewed(Renewed::Superseded)) => {
                self.revoke_at(proxy, worker, &claim.id);
            }
            _ => {}
        }
    }

    /// Tells this worker, if its mailbox is consumed through this proxy, never to run this task.
    fn revoke_at(&mut self, proxy: usize, worker: &Arc<str>, id: &Arc<str>) {
        let workers = &self.workers;
        let is_its = |owner| matches!(owner, Owner::Worker(index) if workers[index].name == **worker);
        let mut links = self.links.iter().filter(|(_, link)| link.proxy == proxy && is_its(link.owner));
        let Some(at) = links.next().map(|(at, _)| *at) else { return };
        self.facts.note(Facts::index(id), format!("is revoked at {worker} (link {at})"));
        if let Some(link) = self.links.get_mut(&at) {
            link.session.handle_revoke(worker, std::slice::from_ref(id), self.now);
        }
        self.collect(at);
    }

    /// A worker reads what is in its mailbox.
    pub fn worker_reads_letter(&mut self, index: usize, unit: &Unit) {
        let header = header_of(unit.content());
        let letter = control::read(&header.properties, &body_of(unit), Limits::new(65_536)).expect("a letter");
        if let Command::Revoke { ids, .. } = letter.command {
            for task in ids.iter().map(|id| Facts::index(id)) {
                self.facts.note(task, format!("its revoke is heard by worker {index}"));
                self.workers[index].revoked.insert(task);
            }
        }
    }
}
