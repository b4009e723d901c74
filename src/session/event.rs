//! What a session tells of: the facts behind metrics and logs.

use std::sync::Arc;

use crate::rules::Rule;
use crate::rules::lock::{Claim, Digest, Freed, LockNote, Nonce, ReleaseOn, Signal};
use crate::rules::outcome::{DeliveryDecision, ExceptionReason, PublishDecision, UnkeyableReason};
use crate::rules::owed::Debt;
use crate::rules::running::RunNote;
use crate::rules::source::{Hears, Source};

use super::Side;

/// A fact that a metric counts and a log line may show.
#[derive(Debug, Clone)]
pub enum Event {
    /// A publish that a rule matched has been decided.
    Publish(PublishEvent),
    /// A message that a rule matched could not be keyed; it was forwarded.
    Unkeyable {
        /// The rule.
        rule: Arc<Rule>,
        /// The `reason` label of `oncegate_messages_unkeyable_total`.
        reason: UnkeyableReason,
        /// What exactly was wrong.
        detail: String,
        /// The task.
        task: Arc<str>,
        /// The task id, empty if it could not be read.
        id: Arc<str>,
    },
    /// A delivery that the store was asked about has been decided.
    Admission(DeliveryEvent),
    /// A delivery of a task that a rule matches passed to a worker, and no question was asked about it.
    Delivered {
        /// The rule.
        rule: Arc<Rule>,
    },
    /// A lock was freed with the answer to a question.
    Freed(Freed),
    /// The id of a task that was dropped gets a result.
    Owed(Debt),
    /// The result of a task that others wait for.
    Value(super::read::Value),
    /// A delivery that was held went back to its queue.
    GivenBack {
        /// The rule.
        rule: Arc<Rule>,
        /// The task.
        task: Arc<str>,
        /// The task id.
        id: Arc<str>,
        /// Why.
        reason: &'static str,
    },
    /// A limit has let a delivery go.
    Permitted {
        /// The rule that the limit is of.
        rule: Arc<str>,
        /// The limit: of several the one that let it wait last.
        limit: Arc<str>,
        /// For how long it has waited, in milliseconds.
        waited_ms: u64,
    },
    /// The key of a limit could not be computed: the delivery is not limited.
    Unlimited {
        /// The rule.
        rule: Arc<Rule>,
        /// Why.
        reason: UnkeyableReason,
        /// What exactly was wrong.
        detail: String,
        /// The task.
        task: Arc<str>,
        /// The task id.
        id: Arc<str>,
    },
    /// A parked message has come back.
    Unparked {
        /// The rule.
        rule: Arc<Rule>,
    },
    /// A held delivery could not be parked: it stays held.
    NotParked {
        /// The rule.
        rule: Arc<Rule>,
        /// The task.
        task: Arc<str>,
        /// The task id.
        id: Arc<str>,
        /// Why.
        reason: &'static str,
    },
    /// A delivery whose key runs could not be dead-lettered: it is dropped.
    NotDeadLettered {
        /// The rule.
        rule: Arc<Rule>,
        /// The task.
        task: Arc<str>,
        /// The task id.
        id: Arc<str>,
        /// Why.
        reason: &'static str,
    },
    /// A queue was purged or deleted: the messages that lay in it are gone.
    Emptied {
        /// The queue.
        queue: Arc<str>,
        /// When the client asked for it, in monotonic microseconds.
        at_us: u64,
    },
    /// Something out of the ordinary.
    Exception {
        /// The rule, if one is concerned.
        rule: Option<Arc<Rule>>,
        /// What.
        reason: ExceptionReason,
    },
    /// A message should expire with its lock and is forwarded as it came.
    ExpiryKept {
        /// The rule.
        rule: Arc<Rule>,
        /// Why.
        why: &'static str,
        /// The task.
        task: Arc<str>,
        /// The task id.
        id: Arc<str>,
    },
    /// A retry should be due when its rule says and is forwarded as it came.
    DueKept {
        /// The rule.
        rule: Arc<Rule>,
        /// Why.
        why: &'static str,
        /// The task.
        task: Arc<str>,
        /// The task id.
        id: Arc<str>,
    },
    /// Many tasks of this rule were acknowledged, and none was ever heard to end.
    EndsUnheard {
        /// The rule.
        rule: Arc<Rule>,
    },
    /// The client is a worker whose mailbox is consumed on this connection from now on.
    Mailbox {
        /// The node name.
        node: Arc<str>,
    },
    /// A worker, of this connection or another, tells of itself.
    Pulse {
        /// The node name.
        node: Arc<str>,
        /// What it tells.
        pulse: Pulse,
    },
    /// A worker has acknowledged a task before it runs it: no delivery tells any more that it is alive.
    Runs(Run),
    /// A worker has answered a question.
    TasksKnown(TasksKnown),
    /// The client is logged in.
    Opened,
    /// The connection ends.
    Closed {
        /// Who ended it.
        by: Side,
        /// Why.
        reason: CloseReason,
    },
}

/// What a worker tells of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pulse {
    /// It has begun.
    Online {
        /// How often it will tell that it lives, in milliseconds, if it says so.
        every_ms: Option<u64>,
    },
    /// It lives.
    Heartbeat {
        /// How often it tells so, in milliseconds, if it says so.
        every_ms: Option<u64>,
    },
    /// It shuts down. Tasks that run may go on.
    Offline,
}

/// A task that a worker runs, and the lock that it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The key and the task id.
    pub claim: Claim,
    /// The delivery that brought it.
    pub delivery: Nonce,
    /// The lock, by what is written beside it if it is taken anew.
    pub kept: Kept,
    /// The worker's node name.
    pub worker: Arc<str>,
}

/// A lock that lives on while a task runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// The publish lock.
    Lock(Arc<LockNote>),
    /// The running lock.
    Run(Arc<RunNote>),
}

/// Which tasks a worker knows, of those that it was asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TasksKnown {
    /// The question.
    pub ticket: Box<str>,
    /// The node name, as the worker gives it.
    pub node: Arc<str>,
    /// The ids of the tasks that it knows.
    pub known: Vec<Box<str>>,
}

/// What became of one publish.
#[derive(Debug, Clone)]
pub struct PublishEvent {
    /// The rule that decided.
    pub rule: Arc<Rule>,
    /// What became of it.
    pub decision: PublishDecision,
    /// Why.
    pub reason: &'static str,
    /// The task id.
    pub id: Arc<str>,
    /// The task name.
    pub task: Arc<str>,
    /// The key.
    pub digest: Option<Digest>,
    /// The holder, where the publish is a duplicate.
    pub holder: Option<Arc<str>>,
}

/// What became of one delivery.
#[derive(Debug, Clone)]
pub struct DeliveryEvent {
    /// The rule that decided.
    pub rule: Arc<Rule>,
    /// What became of it.
    pub decision: DeliveryDecision,
    /// Why.
    pub reason: &'static str,
    /// The task id.
    pub id: Arc<str>,
    /// The task name.
    pub task: Arc<str>,
    /// The key.
    pub digest: Digest,
    /// The holder, where the delivery is a duplicate.
    pub holder: Option<Arc<str>>,
    /// The limit that it waits for, and for how long as it stands, in milliseconds; of one that waits no longer, for how long it has waited.
    pub limit: Option<(Arc<str>, u64)>,
}

/// Why a connection ended: the `reason` label of `oncegate_connections_closed_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// `connection.close` and `close-ok`.
    Normal,
    /// The socket ended without `connection.close`.
    Eof,
    /// Nothing was heard for two heartbeat intervals.
    HeartbeatTimeout,
    /// The client did not log in in time.
    HandshakeTimeout,
    /// The bytes are not AMQP.
    Protocol,
    /// Oncegate shuts down.
    Drain,
}

impl Kept {
    /// The name of the rule.
    pub fn rule(&self) -> &Arc<str> {
        match self {
            Kept::Lock(note) => &note.rule,
            Kept::Run(note) => &note.rule,
        }
    }

    /// The name of the task.
    pub fn task(&self) -> &Arc<str> {
        match self {
            Kept::Lock(note) => &note.task,
            Kept::Run(note) => &note.task,
        }
    }

    /// The virtual host of the message.
    pub fn vhost(&self) -> &Arc<str> {
        match self {
            Kept::Lock(note) => &note.vhost,
            Kept::Run(note) => &note.vhost,
        }
    }

    /// The full life, from a renewal on, in milliseconds.
    pub fn life_ms(&self) -> u64 {
        match self {
            Kept::Lock(note) => note.life_ms,
            Kept::Run(note) => note.life_ms,
        }
    }

    /// The sources whose starts and ends count.
    pub fn hears(&self) -> Hears {
        match self {
            Kept::Lock(note) => note.hears,
            Kept::Run(note) => note.hears,
        }
    }

    /// Which outcomes free it.
    pub fn release_on(&self) -> ReleaseOn {
        match self {
            Kept::Lock(note) => note.release_on,
            Kept::Run(_) => ReleaseOn::Both,
        }
    }
}

impl Run {
    /// By what the word names it that its worker is gone, or does not know it any more: nought if it is not one delivery's.
    pub fn orphan(&self) -> Nonce {
        match self.kept {
            Kept::Lock(_) => Nonce(0),
            Kept::Run(_) => self.delivery,
        }
    }

    /// Whether something that was learnt of the task is of this run, and frees this lock or leaves it to the next run. A running lock
    /// is of one delivery, and of one worker.
    pub fn is_ended_by(&self, settlement: Nonce, signal: Signal, source: Source, worker: &str) -> bool {
        let of_it = match self.kept {
            Kept::Lock(_) => true,
            Kept::Run(_) if signal.settles() => settlement == self.delivery,
            Kept::Run(_) if signal == Signal::Orphaned && !settlement.names(self.delivery) => false,
            Kept::Run(_) => worker.is_empty() || *worker == *self.worker,
        };
        of_it && signal.is_heard(source, self.kept.hears())
    }
}

impl CloseReason {
    /// The label value.
    pub fn as_str(self) -> &'static str {
        match self {
            CloseReason::Normal => "normal",
            CloseReason::Eof => "eof",
            CloseReason::HeartbeatTimeout => "heartbeat_timeout",
            CloseReason::HandshakeTimeout => "handshake_timeout",
            CloseReason::Protocol => "protocol",
            CloseReason::Drain => "drain",
        }
    }
}
