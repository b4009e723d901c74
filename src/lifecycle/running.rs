//! Tasks that run and whose messages are acknowledged: no delivery tells any more that they are alive, and their locks must live on.
//!
//! A session tells that a worker has acknowledged a task early ([`crate::session::Event::Runs`]). The tasks that it cannot tell of, since
//! another proxy saw the ack and is gone, are found among the locks that `orphans` looks at. Every order to the store passes here
//! ([`Runs::hears`]), so that what ends a task, or gives it back for a retry, ends its tracking before the store knows it.
//!
//! - The lock is renewed at a third of its life, or each half minute, while its worker is seen, by its mailbox or its heartbeats; and at
//!   once when the store is back ([`crate::store::Client::connects`]). A renewal takes a lock that is missing, and never steals one.
//! - A running lock is that of one delivery, so it is renewed by that, and only by the process that saw its ack: of another it lives for its
//!   `running_ttl`. What ends another delivery of its id, or comes from another worker, does not end its tracking. One whose lock another
//!   id has is renewed on, which makes it the next, and its worker is asked soon.
//! - Each half minute, and when the store is back, the worker is asked which of its tasks it knows: the word of an end may have gone lost,
//!   or nobody tells one. What it does not know twice, five seconds apart, has ended, how nobody knows: the lock is freed as that of an
//!   orphan, unless the rule frees it only for one outcome. A worker that is younger than the task has its `orphan_grace` first.
//! - A worker that does not answer is believed to run its tasks for as long as it is there: a `solo` worker answers nothing meanwhile.
//! - A worker that is gone renews nothing, and `orphans` looks after its locks.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::nodes::{Node, Nodes, Presence, Question};
use crate::rules::RuleSet;
use crate::rules::lock::{Alive, Claim, Extent, LockRecord, LockState, Nonce, ReleaseOn, Renewed, Reply, Request, Scope, Signal};
use crate::rules::source::Source;
use crate::rules::spec::RuleSpec;
use crate::session::{Kept, Run, TasksKnown};
use crate::store::{Client, Store};

/// How often it is seen what is due.
const EVERY: Duration = Duration::from_millis(250);
/// Locks are renewed at least so often, however long they live.
const RENEWAL_MAX_MS: u64 = 30_000;
/// How often a worker is asked.
const CHECK_MS: u64 = 30_000;
/// How long an answer is waited for, and how long after an answer that does not know a task the same is asked again.
const ANSWER_MS: u64 = 5_000;
/// How many tasks one question is about.
const ASKED_ABOUT: usize = 100;
/// So many locks are renewed at a time, or more where there are very many.
const AT_A_TIME: usize = 1_000;
/// So many times are enough for all of them.
const LOTS: usize = 8;
/// So many tasks are tracked; the locks of others end with their ttl.
const TRACKED: usize = 100_000;
/// Ends that were heard before their starts are remembered for this long, twice at most, and so many.
const EARLY_MS: u64 = 5_000;
const EARLY_KEPT: usize = 20_000;
/// The clocks of proxy and store may differ by this much.
const SKEW_MS: u64 = 10_000;
/// What the tickets of the questions of this module begin with.
const TICKETS: &str = "run-";

/// A task that is tracked, under one key.
#[derive(Debug)]
struct Tracked {
    run: Run,
    node: Node,
    /// Not later than this it has begun.
    began_ms: u64,
    renewed_ms: u64,
    /// It is to be renewed though its time has not come.
    hastened: bool,
    /// Its worker does not know it any more: its lock is left to its life.
    over: bool,
    /// When its worker is to be asked about it.
    check_ms: u64,
    /// How often on end its worker has said that it does not know it.
    unknown: u32,
}

impl Tracked {
    /// Known since then at the latest, and not renewed yet.
    fn new(run: Run, began_ms: u64, now_ms: u64) -> Tracked {
        Tracked {
            node: Node {
                vhost: Arc::clone(run.kept.vhost()),
                name: Arc::clone(&run.worker),
            },
            run,
            began_ms,
            renewed_ms: now_ms,
            hastened: false,
            over: false,
            check_ms: now_ms + CHECK_MS,
            unknown: 0,
        }
    }

    /// As it is when the store may have forgotten it, or somebody else has renewed it until now.
    fn hasten(&mut self, now_ms: u64) {
        self.hastened = !self.over;
        self.check_ms = now_ms;
    }

    fn is_due(&self, now_ms: u64) -> bool {
        let third = (self.run.kept.life_ms() / 3).min(RENEWAL_MAX_MS);
        !self.over && (self.hastened || now_ms >= self.renewed_ms.saturating_add(third))
    }

    /// True if its lock has lapsed, as far as this process has kept it.
    fn has_lapsed(&self, now_ms: u64) -> bool {
        now_ms > self.renewed_ms.saturating_add(self.run.kept.life_ms())
    }

    fn renewal(&self) -> Request {
        let (claim, delivery) = (self.run.claim.clone(), self.run.delivery);
        let worker = Arc::clone(&self.run.worker);
        match &self.run.kept {
            Kept::Lock(note) => Request::Renew {
                claim,
                delivery,
                note: Arc::clone(note),
                alive: Alive::Acknowledged,
                worker,
            },
            Kept::Run(note) => Request::RenewRun {
                claim,
                delivery,
                note: Arc::clone(note),
                worker,
            },
        }
    }
}

/// Ends without a start.
#[derive(Debug, Default)]
struct Early {
    now: HashSet<Arc<str>>,
    before: HashSet<Arc<str>>,
    turned_ms: u64,
}

impl Early {
    fn turn(&mut self, now_ms: u64) {
        if now_ms >= self.turned_ms + 2 * EARLY_MS {
            self.now.clear();
        }
        if now_ms >= self.turned_ms + EARLY_MS || self.now.len() >= EARLY_KEPT {
            self.before = std::mem::take(&mut self.now);
            self.turned_ms = now_ms;
        }
    }

    fn note(&mut self, id: &Arc<str>, now_ms: u64) {
        self.turn(now_ms);
        self.now.insert(Arc::clone(id));
    }

    fn has(&mut self, id: &str, now_ms: u64) -> bool {
        self.turn(now_ms);
        self.now.contains(id) || self.before.contains(id)
    }
}

/// A question that was asked.
#[derive(Debug)]
struct Asked {
    node: Node,
    ids: Arc<[Arc<str>]>,
    at_ms: u64,
}

#[derive(Debug, Default)]
struct State {
    tracked: HashMap<Arc<str>, Vec<Tracked>>,
    count: usize,
    early: Early,
    questions: HashMap<Arc<str>, Asked>,
}

/// The tasks that run as far as this process knows.
#[derive(Default)]
pub struct Runs {
    nodes: Arc<Nodes>,
    state: Mutex<State>,
}

impl fmt::Debug for Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runs").finish_non_exhaustive()
    }
}

impl Runs {
    /// No tasks yet, of these workers.
    pub fn new(nodes: &Arc<Nodes>) -> Runs {
        Runs {
            nodes: Arc::clone(nodes),
            state: Mutex::default(),
        }
    }

    /// The workers.
    pub fn nodes(&self) -> &Arc<Nodes> {
        &self.nodes
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each entry stands alone: a panic elsewhere cannot have left it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker has acknowledged a task, and runs it from now on.
    pub fn began(&self, run: Run) {
        let now_ms = self.nodes.now_ms();
        let mut state = self.state();
        // The end of a short task comes on another connection, and may have been read first.
        if !state.early.has(&run.claim.id, now_ms) {
            state.track(Tracked::new(run, now_ms, now_ms));
        }
    }

    /// A lock that the store shows: a task that runs on a worker that is seen here is tracked, if it is not yet.
    pub(super) fn adopt(&self, lock: &LockRecord, rules: &RuleSet) {
        let follows = lock.state == LockState::Running && lock.scope == Extent::Publish(Scope::UntilFinished) && lock.in_flight == 0;
        let rule = rules.rules().iter().find(|rule| rule.name == lock.rule);
        let Some(note) = rule.filter(|_| follows).and_then(|rule| rule.note_of_running(lock)) else {
            return;
        };
        let now_ms = self.nodes.now_ms();
        let mut state = self.state();
        let claim = Claim {
            digest: lock.digest,
            id: Arc::clone(&lock.holder),
        };
        if state.early.has(&claim.id, now_ms) || state.tracks(&claim) {
            return;
        }
        let run = Run {
            claim,
            // It is no delivery of this process.
            delivery: Nonce(0),
            kept: Kept::Lock(Arc::new(note)),
            worker: Arc::clone(&lock.worker),
        };
        let mut adopted = Tracked::new(run, lock.since_ms.saturating_sub(SKEW_MS), now_ms);
        adopted.hasten(now_ms);
        state.track(adopted);
    }

    /// An order that is given to the store.
    pub fn hears(&self, order: &Request) {
        let Request::Signal {
            id,
            settlement,
            signal,
            source,
            worker,
        } = order
        else {
            return;
        };
        let ends = |run: &Run| run.is_ended_by(*settlement, *signal, *source, worker);
        match signal {
            Signal::Retried => {
                let now_ms = self.nodes.now_ms();
                self.state().retried(id, ends, now_ms);
            }
            Signal::AckedLate
            | Signal::Rejected
            | Signal::Succeeded
            | Signal::Failed
            | Signal::Revoked
            | Signal::Expired
            | Signal::Crashed
            | Signal::Orphaned => {
                let now_ms = self.nodes.now_ms();
                let mut state = self.state();
                if !state.forget(id, ends) {
                    state.early.note(id, now_ms);
                }
            }
            Signal::Acked | Signal::DeliveredNoAck | Signal::Started | Signal::RevokeAsked | Signal::Purged => {}
        }
    }

    /// The store has done an order.
    pub fn heard(&self, order: &Request, reply: &Reply) {
        match (order, reply) {
            (Request::Renew { claim, .. }, Reply::Renewed(Renewed::Gone | Renewed::Superseded)) => {
                self.state().forget_lock(claim, |run| matches!(run.kept, Kept::Lock(_)));
            }
            (Request::RenewRun { claim, delivery, .. }, Reply::Renewed(Renewed::Gone)) => {
                let meant = |run: &Run| matches!(run.kept, Kept::Run(_)) && run.delivery == *delivery;
                self.state().forget_lock(claim, meant);
            }
            (Request::RenewRun { claim, delivery, .. }, Reply::Renewed(Renewed::Lost)) => {
                let now_ms = self.nodes.now_ms();
                self.state().loses(claim, *delivery, now_ms);
            }
            _ => {}
        }
    }

    /// The store can be asked again, and may have forgotten all: what runs is renewed at once. Its end may have been told to a store that
    /// has forgotten that too.
    fn store_is_back(&self) {
        let now_ms = self.nodes.now_ms();
        for tracked in self.state().tracked.values_mut().flatten() {
            tracked.hasten(now_ms);
        }
    }

    /// What is due: locks to renew, workers to ask.
    fn look(&self, store: &Client, rules: &RuleSet) {
        let now_ms = self.nodes.now_ms();
        for answer in self.nodes.take_answers(TICKETS) {
            let ended = self.state().answered(&answer, now_ms);
            for run in &ended {
                free(store, run);
            }
        }
        if !self.state().is_anything_due(now_ms) {
            return;
        }
        let present = self.nodes.present();
        let renewals = self.state().renewals(&present, now_ms);
        for renewal in renewals {
            store.tell(renewal);
        }
        let doubts = self.state().doubts(&present, rules, now_ms);
        for (node, ids) in doubts {
            for ids in ids.chunks(ASKED_ABOUT) {
                let ticket: Arc<str> = format!("{TICKETS}{}", uuid::Uuid::new_v4().simple()).into();
                let question = self.state().ask(&node, ids.into(), ticket, now_ms);
                // One that has left meanwhile does not answer, and is looked at again.
                let _ = self.nodes.ask(&node, question);
            }
        }
    }
}

/// Keeps the locks of what runs until the sender of the rules is gone.
pub(super) async fn run(store: Store, runs: Arc<Runs>, mut rules: watch::Receiver<Arc<RuleSet>>) {
    let store = store.client();
    let mut connects = store.connects();
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut current = Arc::clone(&rules.borrow_and_update());
    loop {
        tokio::select! {
            _ = every.tick() => {}
            changed = rules.changed() => {
                if changed.is_err() {
                    return;
                }
                current = Arc::clone(&rules.borrow_and_update());
            }
        }
        if connects.has_changed().unwrap_or(false) {
            connects.mark_unchanged();
            runs.store_is_back();
        }
        runs.look(&store, &current);
    }
}

/// A task has ended, and nobody has told how.
fn free(store: &Client, run: &Run) {
    tracing::info!(
        worker = &*run.worker,
        vhost = &**run.kept.vhost(),
        rule = &**run.kept.rule(),
        task = &**run.kept.task(),
        id = &*run.claim.id,
        "a worker does not know a task any more whose end nobody has told"
    );
    store.tell(Request::Signal {
        id: Arc::clone(&run.claim.id),
        // Of a running lock it names the run: the next one of its id may have come to the same worker meanwhile.
        settlement: run.orphan(),
        signal: Signal::Orphaned,
        source: Source::Other,
        worker: Arc::clone(&run.worker),
    });
}

impl State {
    fn is_anything_due(&self, now_ms: u64) -> bool {
        let due = |tracked: &Tracked| tracked.is_due(now_ms) || tracked.check_ms <= now_ms || tracked.has_lapsed(now_ms);
        self.tracked.values().flatten().any(due)
    }

    fn tracks(&self, claim: &Claim) -> bool {
        let tracked = self.tracked.get(&claim.id);
        tracked.is_some_and(|tracked| tracked.iter().any(|tracked| tracked.run.claim == *claim))
    }

    fn track(&mut self, new: Tracked) {
        let tracked = self.tracked.entry(Arc::clone(&new.run.claim.id)).or_default();
        if let Some(known) = tracked.iter_mut().find(|tracked| tracked.run.claim == new.run.claim) {
            *known = new;
        } else if self.count < TRACKED {
            self.count += 1;
            tracked.push(new);
        } else if tracked.is_empty() {
            self.tracked.remove(&new.run.claim.id);
        }
    }

    /// Those runs of an id end in a retry. Of the lock of a later try that may be told late of an earlier one: the store knows, and the
    /// worker.
    fn retried(&mut self, id: &str, ends: impl Fn(&Run) -> bool, now_ms: u64) {
        let may_go_on = |run: &Run| matches!(&run.kept, Kept::Run(note) if note.retries > 0);
        self.forget(id, |run| ends(run) && !may_go_on(run));
        for tracked in self.tracked.get_mut(id).into_iter().flatten().filter(|tracked| ends(&tracked.run)) {
            tracked.hasten(now_ms);
        }
    }

    /// Forgets those runs of an id. False if none was known.
    fn forget(&mut self, id: &str, goes: impl Fn(&Run) -> bool) -> bool {
        let Some(tracked) = self.tracked.get_mut(id) else { return false };
        let before = tracked.len();
        tracked.retain(|tracked| !goes(&tracked.run));
        self.count -= before - tracked.len();
        if tracked.is_empty() {
            self.tracked.remove(id);
        }
        true
    }

    fn forget_lock(&mut self, claim: &Claim, meant: impl Fn(&Run) -> bool) {
        if let Some(tracked) = self.tracked.get_mut(&claim.id) {
            let before = tracked.len();
            tracked.retain(|tracked| tracked.run.claim != *claim || !meant(&tracked.run));
            self.count -= before - tracked.len();
            if tracked.is_empty() {
                self.tracked.remove(&claim.id);
            }
        }
    }

    /// Another id has the lock of this run: it may have ended, or a run that had ended has taken it while the store knew of neither.
    fn loses(&mut self, claim: &Claim, delivery: Nonce, now_ms: u64) {
        let Some(tracked) = self.tracked.get_mut(&claim.id) else { return };
        let meant = |tracked: &Tracked| tracked.run.claim == *claim && tracked.run.delivery == delivery;
        if tracked.iter().any(meant)
            && let Some(first) = tracked.first_mut()
        {
            first.check_ms = first.check_ms.min(now_ms + ANSWER_MS);
        }
    }

    /// The renewals that are due, of workers that are seen. A lock that has lapsed meanwhile is nothing to renew.
    fn renewals(&mut self, present: &HashMap<Node, Presence>, now_ms: u64) -> Vec<Request> {
        let at_a_time = AT_A_TIME.max(self.count.div_ceil(LOTS));
        let (mut due, mut lapsed) = (Vec::new(), Vec::new());
        for tracked in self.tracked.values_mut().flatten() {
            if due.len() >= at_a_time {
                break;
            }
            if tracked.is_due(now_ms) && present.contains_key(&tracked.node) {
                (tracked.renewed_ms, tracked.hastened) = (now_ms, false);
                due.push(tracked.renewal());
            } else if tracked.has_lapsed(now_ms) {
                lapsed.push((tracked.run.claim.clone(), tracked.run.delivery));
            }
        }
        for (claim, delivery) in lapsed {
            self.forget_lock(&claim, |run| run.delivery == delivery);
        }
        due
    }

    /// The tasks that their workers are to be asked about, and can be.
    fn doubts(&mut self, present: &HashMap<Node, Presence>, rules: &RuleSet, now_ms: u64) -> HashMap<Node, Vec<Arc<str>>> {
        self.questions.retain(|_, asked| now_ms < asked.at_ms + ANSWER_MS);
        let mut doubts: HashMap<Node, Vec<Arc<str>>> = HashMap::new();
        for (id, tracked) in &mut self.tracked {
            let Some(first) = tracked.first_mut().filter(|first| first.check_ms <= now_ms && !first.over) else {
                continue;
            };
            let Some(Presence::Here { since_ms }) = present.get(&first.node) else {
                continue;
            };
            if *since_ms > first.began_ms && now_ms < since_ms + grace_ms(rules, first.run.kept.rule()) {
                continue;
            }
            first.check_ms = now_ms + CHECK_MS;
            doubts.entry(first.node.clone()).or_default().push(Arc::clone(id));
        }
        doubts
    }

    /// A question about these tasks, which is asked now.
    fn ask(&mut self, node: &Node, ids: Arc<[Arc<str>]>, ticket: Arc<str>, now_ms: u64) -> Question {
        let asked = Asked {
            node: node.clone(),
            ids: Arc::clone(&ids),
            at_ms: now_ms,
        };
        self.questions.insert(Arc::clone(&ticket), asked);
        Question {
            ticket,
            node: Arc::clone(&node.name),
            ids,
        }
    }

    /// A worker has answered: the tasks that have ended, for all that it knows. What was not asked, or not of it, says nothing.
    fn answered(&mut self, answer: &TasksKnown, now_ms: u64) -> Vec<Run> {
        if self
            .questions
            .get(&*answer.ticket)
            .is_none_or(|asked| asked.node.name != answer.node)
        {
            return Vec::new();
        }
        let Some(asked) = self.questions.remove(&*answer.ticket) else {
            return Vec::new();
        };
        let known: HashSet<&str> = answer.known.iter().map(|id| &**id).collect();
        let mut ended = Vec::new();
        for id in &*asked.ids {
            let Some(tracked) = self.tracked.get_mut(id) else { continue };
            // One that has begun anew since then is another run.
            let same = |first: &&mut Tracked| first.node == asked.node && first.began_ms <= asked.at_ms;
            let Some(first) = tracked.first_mut().filter(same) else { continue };
            if known.contains(&**id) {
                first.unknown = 0;
                continue;
            }
            first.unknown += 1;
            first.check_ms = now_ms + ANSWER_MS;
            if first.unknown < 2 {
                continue;
            }
            // What is known of the end satisfies no rule that waits for one outcome: the ttl remains.
            let any_outcome = |tracked: &&Tracked| tracked.run.kept.release_on() == ReleaseOn::Both;
            ended.extend(tracked.iter().filter(any_outcome).map(|tracked| tracked.run.clone()));
            for tracked in tracked {
                tracked.over = true;
            }
        }
        ended
    }
}

fn grace_ms(rules: &RuleSet, name: &str) -> u64 {
    let rule = rules.rules().iter().find(|rule| *rule.name == *name);
    // A lock outlives the rule that took it.
    let grace = rule.map_or_else(|| RuleSpec::default().orphan_grace, |rule| rule.orphan_grace);
    grace.as_millis() as u64
}
