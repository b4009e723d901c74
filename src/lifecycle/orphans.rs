//! Locks whose worker is gone: a worker that is killed tells nobody, and what it ran early-acked is lost for good.
//!
//! Every proxy looks at the locks every five seconds, a page at a time, and keeps a note in the store, for fifteen, of itself and of each
//! worker that it sees ([`super::nodes`]). A lock may be orphaned if it follows its task, names a worker, and counts no message of its
//! holder in flight: a message that was not acknowledged went back to its queue with the worker's connection, and its lock with it. Of a
//! message that no proxy has carried to its worker the settlement is not seen: there the count is not looked at, unless the rule says that
//! its tasks acknowledge late, which sends it back to its queue.
//!
//! | the worker of the lock | what is done |
//! |---|---|
//! | seen by no proxy, for `orphan_grace` on end | the lock is freed, reason `crash` |
//! | – but Oncegate has an account there (`[control]`) | it is asked first: freed if it does not answer twice and has no mailbox at the broker, or does not know the task twice |
//! | – and the connection of that account is down | kept, if no proxy has carried its task: nobody hears it |
//! | seen by another proxy | nothing: that one looks after it |
//! | here, since before the lock was taken | nothing: it tells the end itself |
//! | here, but only since after the lock was taken (it was started anew, or has reconnected) | after `orphan_grace` it is asked |
//! | – and knows the task | kept; asked again a minute later |
//! | – and does not know it, twice, five seconds apart | freed, reason `crash` |
//! | – and does not answer | kept while it is connected, and asked again: a `solo` worker answers nothing while it runs a task |
//! | only its heartbeats are heard | kept: it lives, and cannot be asked; with `[control]` it is asked as if it were here |
//!
//! So a lock goes at the latest `orphan_grace`, the fifteen seconds of a note, two looks and two questions after its worker; more, where
//! there are more than ten thousand locks, by the time in which all of them are looked at. While the store is away no absence counts, nor
//! for the life of a note after it has come back: others may not have written theirs yet. A connection that Oncegate itself closes starts
//! no clock of its own: its worker is as absent as any other until it is back, for which it has the grace.
//!
//! That several proxies may free the same lock needs no agreement: the signal counts only while the lock names that worker and no message
//! of the holder is in flight, in one step of the store, and the second finds nothing.
//!
//! Left to the ttl: a lock written by a version that noted no virtual host; a worker started anew under the same name that passes no
//! mailbox through a proxy (remote control is off). A `solo` worker that runs one task for longer than the AMQP heartbeat allows loses its
//! connection, and is gone as far as anybody can tell.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::nodes::{Node, Nodes, Presence, Question};
use super::running::Runs;
use super::spread;
use crate::control::{Control, Say};
use crate::rules::RuleSet;
use crate::rules::lock::{Digest, LockRecord, LockState, Nonce, Request, Scope, Signal};
use crate::rules::source::Source;
use crate::rules::spec::{AcksLate, RuleSpec};
use crate::session::TasksKnown;
use crate::store::{Client, Filter, Store, Unavailable};

/// How often notes are written and locks are looked at.
const EVERY: Duration = Duration::from_secs(5);
/// The life of a note.
const NOTE_LIFE: Duration = Duration::from_secs(15);
/// How many locks one look is about.
const LOOKED_AT: usize = 10_000;
/// How many tasks one question is about.
const ASKED_ABOUT: usize = 100;
/// How long an answer is waited for, and how long after an answer that does not know a task the same is asked again.
const ANSWER_MS: u64 = 5_000;
/// How long after an answer that knows a task, or after two silences, the same is asked again.
const AGAIN_MS: u64 = 60_000;
/// The clocks of proxy and store may differ by this much; a worker that is asked for nothing is no harm.
const SKEW_MS: u64 = 10_000;
/// How many locks are remembered to be in doubt.
const DOUBTS_KEPT: usize = 100_000;
/// What the tickets of the questions of this module begin with.
const TICKETS: &str = "orphan-";

/// Frees what is orphaned until the sender of the rules is gone. `instance` is the name of this process, as locks show it.
pub(super) async fn run(store: Store, runs: Arc<Runs>, control: Control, instance: Arc<str>, mut rules: watch::Receiver<Arc<RuleSet>>) {
    let mut watcher = Watcher {
        store: store.client(),
        nodes: Arc::clone(runs.nodes()),
        runs,
        control,
        note: format!("proxy:{instance}"),
        orphans: Orphans::default(),
        cursor: None,
    };
    loop {
        let current = Arc::clone(&rules.borrow_and_update());
        watcher.look(&current).await;
        let pause = tokio::time::sleep(spread(EVERY));
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => break,
                changed = rules.changed() => if changed.is_err() { return },
            }
        }
    }
}

/// What the store, the workers and the judgement are brought together by.
struct Watcher {
    store: Client,
    nodes: Arc<Nodes>,
    runs: Arc<Runs>,
    /// The way to workers that are not connected to this process.
    control: Control,
    /// The name of the note about this process.
    note: String,
    orphans: Orphans,
    /// Where the next look begins; `None`: at the start.
    cursor: Option<String>,
}

impl Watcher {
    async fn look(&mut self, rules: &RuleSet) {
        if let Err(why) = self.try_look(rules).await {
            self.orphans.store_is_away();
            tracing::debug!(%why, "the store does not tell which locks may be orphaned");
        }
    }

    async fn try_look(&mut self, rules: &RuleSet) -> Result<(), Unavailable> {
        let present = self.nodes.present();
        self.store.announce(&self.notes(&present), NOTE_LIFE).await?;
        for answer in self.nodes.take_answers(TICKETS) {
            self.orphans.answered(&answer, self.nodes.now_ms());
        }
        // Their locks end by time alone.
        if !rules.follows_tasks() {
            return Ok(());
        }
        if self.cursor.is_none() {
            self.orphans.begin_pass();
        }
        let page = self.store.list(&Filter::default(), self.cursor.as_deref(), LOOKED_AT).await?;
        let locks: Vec<LockRecord> = page.locks.into_iter().filter(|lock| may_be_orphaned(lock, rules)).collect();
        for lock in locks.iter().filter(|lock| present.contains_key(&worker_of(lock))) {
            self.runs.adopt(lock, rules);
        }
        let sights = self.sights(&present, &locks).await?;
        self.cursor = page.cursor;
        self.judge(rules, &locks, &sights);
        if self.cursor.is_none() {
            self.orphans.end_pass();
        }
        Ok(())
    }

    fn notes(&self, present: &HashMap<Node, Presence>) -> Vec<(String, String)> {
        let mut notes = vec![(self.note.clone(), self.nodes.now_ms().to_string())];
        notes.extend(
            present
                .iter()
                .map(|(node, presence)| (node.note(), presence.since_ms().to_string())),
        );
        notes
    }

    /// How the workers of these locks, and those that were absent before, are seen now.
    async fn sights(&self, present: &HashMap<Node, Presence>, locks: &[LockRecord]) -> Result<HashMap<Node, Sight>, Unavailable> {
        let asked: HashSet<Node> = locks.iter().map(worker_of).chain(self.orphans.absent()).collect();
        let mut sights = HashMap::new();
        let mut elsewhere = Vec::new();
        for node in asked {
            match present.get(&node) {
                Some(Presence::Here { since_ms }) => drop(sights.insert(node, Sight::Here { since_ms: *since_ms })),
                Some(Presence::Beating { since_ms }) => {
                    let asked = Sight::Here { since_ms: *since_ms };
                    let sight = if self.control.reaches(&node.vhost) {
                        asked
                    } else {
                        Sight::Elsewhere
                    };
                    sights.insert(node, sight);
                }
                None => elsewhere.push(node),
            }
        }
        let names: Vec<String> = elsewhere.iter().map(Node::note).collect();
        let notes = self.store.announced(&names).await?;
        for (node, note) in elsewhere.into_iter().zip(notes) {
            let sight = match note {
                Some(_) => Sight::Elsewhere,
                None if self.control.reaches(&node.vhost) => Sight::Unseen,
                None => Sight::Absent,
            };
            sights.insert(node, sight);
        }
        Ok(sights)
    }

    fn judge(&mut self, rules: &RuleSet, locks: &[LockRecord], sights: &HashMap<Node, Sight>) {
        let now_ms = self.nodes.now_ms();
        let graces: HashMap<&str, u64> = rules
            .rules()
            .iter()
            .map(|rule| (&*rule.name, rule.orphan_grace.as_millis() as u64))
            .collect();
        // A lock outlives the rule that took it.
        let usual_ms = RuleSpec::default().orphan_grace.as_millis() as u64;
        self.orphans.see(sights, now_ms);
        let mut doubtful: HashMap<Node, Vec<Doubtful>> = HashMap::new();
        for lock in locks {
            let node = worker_of(lock);
            let Some(sight) = sights.get(&node) else { continue };
            let grace_ms = graces.get(&*lock.rule).copied().unwrap_or(usual_ms);
            match self.orphans.judge(lock, *sight, grace_ms, now_ms) {
                Verdict::Keep => {}
                Verdict::Ask => doubtful.entry(node).or_default().push(Doubtful::of(lock)),
                Verdict::Crashed => self.free(lock),
            }
        }
        for (node, locks) in doubtful {
            for locks in locks.chunks(ASKED_ABOUT) {
                let question = self
                    .orphans
                    .ask(&node, locks, format!("{TICKETS}{}", uuid::Uuid::new_v4().simple()).into(), now_ms);
                if let Err(question) = self.nodes.ask(&node, question) {
                    let say = Say::QueryTask {
                        ids: question.ids,
                        ticket: question.ticket,
                    };
                    self.control.say(&node.vhost, vec![question.node], say);
                }
            }
        }
    }

    fn free(&self, lock: &LockRecord) {
        tracing::info!(
            worker = &*lock.worker,
            vhost = &*lock.vhost,
            rule = &*lock.rule,
            task = &*lock.task,
            id = &*lock.holder,
            "the worker of a lock is gone, or does not know its task"
        );
        self.store.tell(Request::Signal {
            id: Arc::clone(&lock.holder),
            // It is no settlement.
            settlement: Nonce(0),
            signal: Signal::Orphaned,
            source: Source::Other,
            worker: Arc::clone(&lock.worker),
        });
    }
}

fn worker_of(lock: &LockRecord) -> Node {
    Node {
        vhost: Arc::clone(&lock.vhost),
        name: Arc::clone(&lock.worker),
    }
}

/// Whether nobody but the worker that the lock names can still end it.
fn may_be_orphaned(lock: &LockRecord, rules: &RuleSet) -> bool {
    let follows = matches!(lock.scope, Scope::UntilStarted | Scope::UntilFinished);
    let waits = matches!(lock.state, LockState::Queued | LockState::Running);
    // No settlement is seen of what no proxy has carried; where tasks acknowledge late, the broker has it again and it runs elsewhere.
    let acks_late = || {
        rules
            .rules()
            .iter()
            .any(|rule| *rule.name == *lock.rule && rule.acks_late == AcksLate::True)
    };
    let nowhere_else = lock.in_flight == 0 || (!lock.carried && !acks_late());
    follows && waits && !lock.worker.is_empty() && !lock.vhost.is_empty() && nowhere_else
}

/// How the worker of a lock is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sight {
    /// No proxy sees it, and what passes none is not heard.
    Absent,
    /// No proxy sees it, and it can be asked.
    Unseen,
    /// It lives, and this process cannot ask it.
    Elsewhere,
    /// It is connected to this process, or heard by it, and can be asked.
    Here {
        /// Since when, in milliseconds since the Unix epoch.
        since_ms: u64,
    },
}

/// What it says that a worker does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Silence {
    /// Nothing: a `solo` worker answers nothing while it runs a task.
    Keeps,
    /// That it is gone.
    Frees,
}

/// What becomes of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It stays.
    Keep,
    /// Its worker is to be asked.
    Ask,
    /// It goes.
    Crashed,
}

/// Names a lock in doubt.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Doubtful {
    digest: Digest,
    holder: Arc<str>,
}

impl Doubtful {
    fn of(lock: &LockRecord) -> Doubtful {
        Doubtful {
            digest: lock.digest,
            holder: Arc::clone(&lock.holder),
        }
    }
}

/// What is known of a lock whose worker is younger than it, or unseen.
#[derive(Debug)]
struct Doubt {
    /// Since when the worker is there to which the rest belongs.
    since_ms: u64,
    /// When to ask, once the grace is over.
    due_ms: u64,
    /// How often on end the worker has said that it does not know the task.
    unknown: u32,
    /// How often on end it has said nothing.
    silent: u32,
    /// When it was asked, if it has not answered.
    asked_ms: Option<u64>,
    pass: Pass,
}

/// A worker that no proxy sees.
#[derive(Debug, Clone, Copy)]
struct Absence {
    since_ms: u64,
    sight: Sight,
    pass: Pass,
}

/// When something was last come across.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pass(u64);

/// A question that was asked.
#[derive(Debug)]
struct Asked {
    node: Node,
    locks: Vec<Doubtful>,
    at_ms: u64,
}

/// Judges locks by what is seen of their workers. It knows no clock of its own.
#[derive(Debug, Default)]
struct Orphans {
    absent: HashMap<Node, Absence>,
    doubts: HashMap<Doubtful, Doubt>,
    questions: HashMap<Arc<str>, Asked>,
    /// Counts the passes over all locks.
    pass: u64,
    /// The store was away when it was last asked.
    away: bool,
    /// Before this no absence counts.
    counts_from_ms: u64,
}

impl Orphans {
    /// The store does not answer: what is absent meanwhile, or was before, may be there.
    fn store_is_away(&mut self) {
        self.away = true;
        self.absent.clear();
    }

    /// A pass over all locks begins.
    fn begin_pass(&mut self) {
        self.pass += 1;
    }

    /// All locks were looked at: what none of them named is forgotten.
    fn end_pass(&mut self) {
        let now = Pass(self.pass);
        self.absent.retain(|_, absence| absence.pass == now);
        self.doubts.retain(|_, doubt| doubt.pass == now);
    }

    /// The workers that were absent when last seen.
    fn absent(&self) -> impl Iterator<Item = Node> {
        self.absent.keys().cloned()
    }

    /// How workers are seen now. Absence counts from the first time that nobody sees them.
    fn see(&mut self, sights: &HashMap<Node, Sight>, now_ms: u64) {
        if std::mem::take(&mut self.away) {
            self.counts_from_ms = now_ms + NOTE_LIFE.as_millis() as u64;
        }
        self.absent
            .retain(|node, _| sights.get(node).is_none_or(|sight| matches!(sight, Sight::Absent | Sight::Unseen)));
        self.questions.retain(|_, asked| now_ms < asked.at_ms + 2 * ANSWER_MS);
    }

    fn judge(&mut self, lock: &LockRecord, sight: Sight, grace_ms: u64, now_ms: u64) -> Verdict {
        match sight {
            Sight::Elsewhere => Verdict::Keep,
            // It may never have passed a proxy, and nothing else is heard of it now.
            Sight::Absent if !lock.carried => Verdict::Keep,
            Sight::Absent => self.judge_absent(lock, grace_ms, now_ms),
            Sight::Unseen => self.judge_unseen(lock, grace_ms, now_ms),
            Sight::Here { since_ms } => self.judge_here(lock, since_ms, grace_ms, now_ms),
        }
    }

    fn judge_absent(&mut self, lock: &LockRecord, grace_ms: u64, now_ms: u64) -> Verdict {
        match self.absence(lock, Sight::Absent, now_ms) {
            // Never at first sight, however short the grace: a note may have lapsed a moment before it is written anew.
            Some(since_ms) if now_ms > since_ms && now_ms - since_ms >= grace_ms => Verdict::Crashed,
            _ => Verdict::Keep,
        }
    }

    /// It may live all the same, if it publishes no heartbeats: it is asked, and gone if it says nothing.
    fn judge_unseen(&mut self, lock: &LockRecord, grace_ms: u64, now_ms: u64) -> Verdict {
        match self.absence(lock, Sight::Unseen, now_ms) {
            Some(since_ms) => self.judge_asked(lock, since_ms, grace_ms, Silence::Frees, now_ms),
            None => Verdict::Keep,
        }
    }

    /// Since when the worker of a lock is absent in this way, if its absence counts. It counts anew when workers can be heard and asked again
    /// after a while: they may have been cut off from the broker as well.
    fn absence(&mut self, lock: &LockRecord, sight: Sight, now_ms: u64) -> Option<u64> {
        if now_ms < self.counts_from_ms {
            return None;
        }
        let pass = Pass(self.pass);
        let fresh = Absence {
            since_ms: now_ms,
            sight,
            pass,
        };
        let absence = self.absent.entry(worker_of(lock)).or_insert(fresh);
        if absence.sight != sight {
            *absence = fresh;
        }
        absence.pass = pass;
        Some(absence.since_ms)
    }

    fn judge_here(&mut self, lock: &LockRecord, since_ms: u64, grace_ms: u64, now_ms: u64) -> Verdict {
        if since_ms + SKEW_MS <= lock.since_ms {
            self.doubts.remove(&Doubtful::of(lock));
            return Verdict::Keep;
        }
        self.judge_asked(lock, since_ms, grace_ms, Silence::Keeps, now_ms)
    }

    fn judge_asked(&mut self, lock: &LockRecord, since_ms: u64, grace_ms: u64, silence: Silence, now_ms: u64) -> Verdict {
        let key = Doubtful::of(lock);
        if self.doubts.len() >= DOUBTS_KEPT && !self.doubts.contains_key(&key) {
            return Verdict::Keep;
        }
        let pass = Pass(self.pass);
        let fresh = || Doubt {
            since_ms,
            due_ms: 0,
            unknown: 0,
            silent: 0,
            asked_ms: None,
            pass,
        };
        let doubt = self.doubts.entry(key).or_insert_with(fresh);
        if doubt.since_ms != since_ms {
            *doubt = fresh();
        }
        doubt.pass = pass;
        if doubt.unknown >= 2 {
            return Verdict::Crashed;
        }
        if let Some(asked_ms) = doubt.asked_ms {
            if now_ms < asked_ms + ANSWER_MS {
                return Verdict::Keep;
            }
            doubt.asked_ms = None;
            doubt.silent += 1;
            if doubt.silent >= 2 && silence == Silence::Frees {
                return Verdict::Crashed;
            }
            doubt.due_ms = if doubt.silent < 2 { now_ms } else { now_ms + AGAIN_MS };
        }
        // The grace of the rules as they are now, whatever it was when the worker came.
        if now_ms < doubt.due_ms.max(since_ms.saturating_add(grace_ms)) {
            Verdict::Keep
        } else {
            Verdict::Ask
        }
    }

    /// A question about these locks, which is asked now.
    fn ask(&mut self, node: &Node, locks: &[Doubtful], ticket: Arc<str>, now_ms: u64) -> Question {
        for lock in locks {
            if let Some(doubt) = self.doubts.get_mut(lock) {
                doubt.asked_ms = Some(now_ms);
            }
        }
        let asked = Asked {
            node: node.clone(),
            locks: locks.to_vec(),
            at_ms: now_ms,
        };
        self.questions.insert(Arc::clone(&ticket), asked);
        Question {
            ticket,
            node: Arc::clone(&node.name),
            ids: locks.iter().map(|lock| Arc::clone(&lock.holder)).collect(),
        }
    }

    /// A worker has answered. What was not asked, or not of it, says nothing.
    fn answered(&mut self, answer: &TasksKnown, now_ms: u64) {
        if self
            .questions
            .get(&*answer.ticket)
            .is_none_or(|asked| asked.node.name != answer.node)
        {
            return;
        }
        let Some(asked) = self.questions.remove(&*answer.ticket) else {
            return;
        };
        let known: HashSet<&str> = answer.known.iter().map(|id| &**id).collect();
        for lock in &asked.locks {
            let Some(doubt) = self.doubts.get_mut(lock).filter(|doubt| doubt.since_ms <= asked.at_ms) else {
                continue;
            };
            (doubt.asked_ms, doubt.silent) = (None, 0);
            if known.contains(&*lock.holder) {
                doubt.unknown = 0;
                doubt.due_ms = now_ms + AGAIN_MS;
            } else {
                doubt.unknown += 1;
                doubt.due_ms = now_ms + ANSWER_MS;
            }
        }
    }
}
