//! The vocabulary of running locks: what a session asks of a store before a delivery is handed over, and what a store answers.
//!
//! A running lock is held by one run: a delivery that was handed to a worker. It is taken at the hand-over, since a worker that has a
//! message may begin it at any moment, and lasts until the run has ended. Beside the publish lock of the same key it is a lock of its own.

use std::sync::Arc;

use super::lock::Freed;
use super::owed::Owed;
use super::source::Hears;

/// What is written beside a running lock when it is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunNote {
    /// The name of the rule.
    pub rule: Arc<str>,
    /// The name of the task.
    pub task: Arc<str>,
    /// What the rule's `summary` lets be seen of the key.
    pub summary: Arc<str>,
    /// The virtual host of the message.
    pub vhost: Arc<str>,
    /// The queue that was consumed, if it is known.
    pub queue: Arc<str>,
    /// The full life, from now; renewed while the run is known to go on.
    pub life_ms: u64,
    /// Where the ack is the only signal of an end: how long after it the lock goes.
    pub settle_grace_ms: u64,
    /// True where an ack of this task means that the run has ended (`acks_late`).
    pub acks_late: bool,
    /// The sources whose starts and ends count.
    pub hears: Hears,
    /// How often the task was retried before this message: a copy that says more is of a run to come, not of the one that has the lock.
    pub retries: u32,
    /// What the id is owed if it is dropped.
    pub owed: Owed,
}

/// What is to be done with a delivery whose key runs elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfBusy {
    /// It waits: the store notes it among those that wait for the key, and it is asked about again.
    Wait {
        /// Its place, as the store has told it before; none at the first question.
        place_ms: Option<u64>,
    },
    /// It will not run: a publish lock that its id holds goes in the same step. A second copy of the id that runs is told to wait all the
    /// same: it may be the only one left.
    Leave {
        /// Its place if it is such a copy, as the store has told it before.
        place_ms: Option<u64>,
    },
}

/// What the question for a running lock found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ran {
    /// The run has the lock: hand it over.
    Runs,
    /// Another run has the lock, or others have waited longer for it.
    Waits {
        /// The task id that runs, or waits before this one.
        holder: Arc<str>,
        /// The place among those that wait, to be named at the next question: since when it waits, in milliseconds since the Unix
        /// epoch, on the store's clock.
        place_ms: u64,
        /// How long until the lock lapses by itself, in milliseconds.
        expires_in_ms: u64,
    },
    /// Nobody has the lock as far as the store knows, but it knows of nobody who waits either, although this delivery does: it has
    /// forgotten, and a run that goes on is about to renew its lock. For a few seconds nobody gets it.
    Forgotten {
        /// As of one that waits.
        place_ms: u64,
    },
    /// Another run has the lock, and this delivery was not to wait. The publish lock of its id has gone.
    Leaves {
        /// The task id that runs.
        holder: Arc<str>,
        /// That publish lock; none if its id held none.
        freed: Vec<Freed>,
    },
    /// It is a second copy of a run that has succeeded meanwhile: it is not to run again.
    Succeeded,
    /// The id has lost its publish lock to a newer one, or was revoked, while this delivery waited: it is not to run.
    Superseded,
}
