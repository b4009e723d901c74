//! Ids of dropped tasks that wait for the result of the task that they are duplicates of.
//!
//! The store notes them in the step that says duplicate (an acquire, an admission or a run that is told to leave, whose note has
//! [`crate::rules::owed::Owed::Joined`]). What they get is not the store's business: [`crate::results`] asks which of them are to be looked
//! at, and says when they have it. Several processes may work at once; what one has asked for, the others are not told for a while.

use std::sync::Arc;
use std::time::Duration;

use crate::rules::lock::Digest;
use crate::rules::owed::{Outcome, ReplyTo};

/// So many ids wait for one holder's result; of more it is only noted that they were dropped.
pub(super) const JOINED_MAX: usize = 10_000;
/// So many of those at most; nothing is noted of any further.
pub(super) const MORE_MAX: usize = 100_000;
/// For how long they are kept after their holder has ended, or while no process looks at them.
pub(super) const JOINS_KEPT_MS: u64 = 24 * 3_600_000;
/// So many groups, and ids of one group, are told at once.
pub(super) const AT_ONCE: usize = 500;
/// How often a group is looked at, in milliseconds; with many groups less often, by this many of them for a millisecond.
pub(super) const LOOKED_AT_MS: u64 = 500;
pub(super) const PER_GROUP: u64 = 4;
/// For how long the result of a holder that has ended is kept for those that wait, in milliseconds.
pub(super) const RESULT_KEPT_MS: u64 = 60_000;
/// The same where the signal that comes with the result frees the holder's lock: another may be dropped for it in between.
pub(super) const RESULT_BRIEFLY_KEPT_MS: u64 = 5_000;
/// For how long a group is left to the process that works on it.
pub(super) const WORKED_ON_MS: u64 = 5_000;

/// For how long a queue is known as a caller's after it was declared. Celery has it declared before each publish, and a session tells of it
/// once an hour; an unused one lives for a day in Celery (`result_expires`).
pub(super) const CALLERS_KEPT_MS: u64 = 25 * 3_600_000;
/// So many of them at most; the oldest go.
pub(super) const CALLERS_MAX: usize = 100_000;

/// What a group waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Awaits {
    /// The holder's result.
    Result,
    /// Nothing: too many wait for the holder, or they are owed REVOKED at once.
    Nothing,
    /// Nothing: they are owed SUCCESS with null at once.
    Success,
    /// Nothing, and there is no holder: they have waited for their limits for too long.
    Overdue,
}

/// The key of what is owed at once, which is of no lock.
const NO_KEY: Digest = Digest([0; 32]);

impl Group {
    /// Those that are owed this at once, as duplicates of this holder.
    pub fn owed(outcome: Outcome, holder: &Arc<str>) -> Group {
        Group {
            digest: NO_KEY,
            holder: Arc::clone(holder),
            awaits: match outcome {
                Outcome::Revoked => Awaits::Nothing,
                Outcome::Success => Awaits::Success,
                Outcome::Overdue => Awaits::Overdue,
            },
        }
    }
}

/// Whether the store takes what is owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It does: any process goes on with it.
    Yes,
    /// It ends with this process, or has too much already.
    No,
}

/// How far the holder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It has its lock, and has not ended.
    Holds,
    /// It has its lock, which it keeps beyond its end.
    Keeps,
    /// It has lost its lock when it began, or has not begun.
    Runs,
    /// It has ended, as far as anybody will hear.
    Ended {
        /// For how long that is known.
        since: Duration,
    },
}

/// The ids that wait for one holder.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Group {
    /// The key.
    pub digest: Digest,
    /// The holder.
    pub holder: Arc<str>,
    /// What for.
    pub awaits: Awaits,
}

/// A group that is to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// The group.
    pub group: Group,
    /// How far its holder is.
    pub stage: Stage,
    /// Whether a result is kept that the holder's worker has published.
    pub kept: Kept,
}

/// Whether something is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It is not.
    No,
    /// It is.
    Yes,
}

/// One that waits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Joined {
    /// Its id.
    pub id: Arc<str>,
    /// The name of the rule that dropped it.
    pub rule: Arc<str>,
    /// Where its result is published, if it is not written into a backend.
    pub reply_to: Option<Arc<ReplyTo>>,
}
