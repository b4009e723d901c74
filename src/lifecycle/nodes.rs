//! Which workers are there, as far as the connections of this process tell, and the way to ask them.
//!
//! A worker is there while a connection consumes its mailbox; one whose mailbox is not seen, while its heartbeats come within
//! `BEATS_MISSED` of its intervals. It is known by virtual host and node name, so one that was started anew under the same name, or has
//! reconnected, is the same node: what tells the two apart is since when the present one is there.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::control::Workers;
use crate::session::{Pulse, TasksKnown};
use crate::store::{Clock, SystemClock};

/// A worker whose mailbox is not seen is there while no more heartbeats than these are missing.
const BEATS_MISSED: u64 = 3;
/// Celery's own interval of heartbeats, in milliseconds (celery, `worker/heartbeat.py`).
const BEAT_MS: u64 = 2_000;
/// Beats are kept of so many nodes: their names come from what clients publish.
const BEATING_KEPT: usize = 10_000;
/// Answers are kept until they are taken, and so many at most.
const ANSWERS_KEPT: usize = 10_000;

/// Names a worker.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node {
    /// The virtual host.
    pub vhost: Arc<str>,
    /// The node name, `celery@host`.
    pub name: Arc<str>,
}

impl Node {
    /// The name of the note that tells all proxies that it is there.
    pub fn note(&self) -> String {
        // Without a colon of its own the virtual host cannot be taken for a part of the node name.
        format!("node:{}:{}", self.vhost.replace('%', "%25").replace(':', "%3A"), self.name)
    }
}

/// A question to a worker: which of these tasks it knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Comes back with the answer; unguessable.
    pub ticket: Arc<str>,
    /// The node name.
    pub node: Arc<str>,
    /// The ids of the tasks.
    pub ids: Arc<[Arc<str>]>,
}

/// What is put into the mailbox of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Letter {
    /// A question.
    Question(Question),
    /// Tasks that it is never to run; what runs goes on.
    Revoke {
        /// The node name.
        node: Arc<str>,
        /// The ids of the tasks.
        ids: Arc<[Arc<str>]>,
    },
}

/// Hands a letter to a connection. The connection may be gone, or the worker silent: then no answer comes.
pub type Ask = Box<dyn Fn(Letter) + Send + Sync>;

/// How a worker is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Its mailbox is consumed on a connection of this process, since then at the latest: it can be asked.
    Here {
        /// In milliseconds since the Unix epoch.
        since_ms: u64,
    },
    /// Only its heartbeats are heard.
    Beating {
        /// Since when, in milliseconds since the Unix epoch.
        since_ms: u64,
    },
}

impl Presence {
    /// Since when, in milliseconds since the Unix epoch.
    pub fn since_ms(self) -> u64 {
        match self {
            Presence::Here { since_ms } | Presence::Beating { since_ms } => since_ms,
        }
    }
}

/// A connection that consumes the mailbox of a node.
struct Attached {
    connection: u64,
    since_ms: u64,
    ask: Ask,
}

/// The heartbeats of a node.
struct Beats {
    since_ms: u64,
    last_ms: u64,
    /// The time between two, in milliseconds.
    interval: u64,
    /// Whether they come over a connection of this process.
    passes: bool,
}

impl Beats {
    fn beats_at(&self, now_ms: u64) -> bool {
        now_ms <= self.last_ms + BEATS_MISSED * self.interval
    }
}

#[derive(Default)]
struct Seen {
    attached: HashMap<Node, Vec<Attached>>,
    beating: HashMap<Node, Beats>,
    answers: Vec<TasksKnown>,
}

/// The workers that this process sees.
pub struct Nodes {
    clock: Arc<dyn Clock>,
    reply_prefix: Arc<str>,
    seen: Mutex<Seen>,
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nodes").finish_non_exhaustive()
    }
}

impl Default for Nodes {
    fn default() -> Nodes {
        Nodes::new(Arc::new(SystemClock::default()))
    }
}

impl Nodes {
    /// No workers yet.
    pub fn new(clock: Arc<dyn Clock>) -> Nodes {
        Nodes {
            clock,
            reply_prefix: format!("oncegate.reply.{}.", uuid::Uuid::new_v4().simple()).into(),
            seen: Mutex::default(),
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // Each entry stands alone: a panic elsewhere cannot have left it half changed.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time by which presence is told, in milliseconds since the Unix epoch; never less than before.
    pub fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// What the routing keys of all answers to this process begin with.
    pub fn reply_prefix(&self) -> &Arc<str> {
        &self.reply_prefix
    }

    /// A connection consumes the mailbox of a node from now on.
    pub fn attach(&self, node: Node, connection: u64, ask: Ask) {
        let since_ms = self.now_ms();
        let mut seen = self.seen();
        let attached = seen.attached.entry(node).or_default();
        attached.retain(|attached| attached.connection != connection);
        attached.push(Attached { connection, since_ms, ask });
    }

    /// A connection is gone, and with it the mailbox of this node.
    pub fn detach(&self, node: &Node, connection: u64) {
        let mut seen = self.seen();
        if let Some(attached) = seen.attached.get_mut(node) {
            attached.retain(|attached| attached.connection != connection);
            if attached.is_empty() {
                seen.attached.remove(node);
                // They came from the worker whose mailbox is gone.
                seen.beating.remove(node);
            }
        }
    }

    /// A worker tells of itself, on a connection of this process.
    pub fn pulse(&self, node: Node, pulse: Pulse) {
        self.beats(node, pulse, true);
    }

    fn beats(&self, node: Node, pulse: Pulse, passes: bool) {
        let now_ms = self.now_ms();
        let mut seen = self.seen();
        let (interval, online) = match pulse {
            Pulse::Online { every_ms } => (every_ms, true),
            Pulse::Heartbeat { every_ms } => (every_ms, false),
            Pulse::Offline => {
                seen.beating.remove(&node);
                return;
            }
        };
        let interval = interval.unwrap_or(BEAT_MS).max(1);
        if let Some(beats) = seen.beating.get_mut(&node) {
            if online || !beats.beats_at(now_ms) {
                beats.since_ms = now_ms;
            }
            (beats.last_ms, beats.interval, beats.passes) = (now_ms, interval, passes);
            return;
        }
        if seen.beating.len() >= BEATING_KEPT {
            seen.beating.retain(|_, beats| beats.beats_at(now_ms));
        }
        if seen.beating.len() < BEATING_KEPT {
            let beats = Beats {
                since_ms: now_ms,
                last_ms: now_ms,
                interval,
                passes,
            };
            seen.beating.insert(node, beats);
        }
    }

    /// The workers that are there. Of one that has reconnected while its old connection lingers, the new one counts.
    pub fn present(&self) -> HashMap<Node, Presence> {
        let now_ms = self.now_ms();
        let mut seen = self.seen();
        seen.beating.retain(|_, beats| beats.beats_at(now_ms));
        let beating = seen.beating.iter().map(|(node, beats)| {
            let since_ms = beats.since_ms;
            (node.clone(), Presence::Beating { since_ms })
        });
        let mut present: HashMap<Node, Presence> = beating.collect();
        for (node, attached) in &seen.attached {
            let since_ms = attached.iter().map(|attached| attached.since_ms).max().unwrap_or(now_ms);
            present.insert(node.clone(), Presence::Here { since_ms });
        }
        present
    }

    /// Puts a question to a worker, on the newest of its connections. The question comes back if there is none.
    pub fn ask(&self, node: &Node, question: Question) -> Result<(), Question> {
        let seen = self.seen();
        match seen.attached.get(node).and_then(|attached| attached.last()) {
            Some(newest) => {
                (newest.ask)(Letter::Question(question));
                Ok(())
            }
            None => Err(question),
        }
    }

    /// Tells a worker never to run these tasks, on the newest of its connections. False if there is none.
    pub fn revoke(&self, node: &Node, ids: Arc<[Arc<str>]>) -> bool {
        let seen = self.seen();
        let newest = seen.attached.get(node).and_then(|attached| attached.last());
        if let Some(newest) = newest {
            let node = Arc::clone(&node.name);
            (newest.ask)(Letter::Revoke { node, ids });
        }
        newest.is_some()
    }

    /// A worker has answered.
    pub fn answered(&self, answer: TasksKnown) {
        let mut seen = self.seen();
        if seen.answers.len() < ANSWERS_KEPT {
            seen.answers.push(answer);
        }
    }

    /// The answers since the last call to questions whose tickets begin like this.
    pub fn take_answers(&self, tickets: &str) -> Vec<TasksKnown> {
        let mut seen = self.seen();
        let taken = seen.answers.extract_if(.., |answer| answer.ticket.starts_with(tickets));
        taken.collect()
    }
}

impl Workers for Nodes {
    fn is_carried(&self, vhost: &Arc<str>, node: &Arc<str>) -> bool {
        let node = Node {
            vhost: Arc::clone(vhost),
            name: Arc::clone(node),
        };
        let seen = self.seen();
        // A worker that starts tells of itself before it consumes its mailbox.
        let passes = |beats: &Beats| beats.passes && beats.beats_at(self.now_ms());
        seen.attached.contains_key(&node) || seen.beating.get(&node).is_some_and(passes)
    }

    fn pulse(&self, vhost: &Arc<str>, node: Arc<str>, pulse: Pulse) {
        let vhost = Arc::clone(vhost);
        self.beats(Node { vhost, name: node }, pulse, false);
    }

    fn answered(&self, answer: TasksKnown) {
        Nodes::answered(self, answer);
    }
}
