//! What the id of a dropped task is owed, so that whoever waits for its result hears of it.

use std::sync::Arc;

use super::Rule;
use super::spec::{Mode, ResultBy, ResultMode};

/// What the id gets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum Owed {
    /// Nothing: nobody asks for the result, the rule only observes, or there is no way to tell it.
    #[default]
    Nothing,
    /// SUCCESS with null.
    Success(Via),
    /// REVOKED, as a duplicate of the holder.
    Revoked(Via),
    /// What the holder's run gives.
    Joined(Via),
    /// The same, by its own message: that is not dropped, but waits for the end of the holder, and is handed to a worker as one that returns
    /// the holder's result.
    Carried,
}

/// How an id gets its result.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Via {
    /// It is written into the result backend.
    Backend,
    /// It is published to whoever waits for it.
    Reply(Arc<ReplyTo>),
    /// The same, if a proxy has seen the caller declare that queue: the store knows. Else nothing is owed.
    ReplyToCaller(Arc<ReplyTo>),
}

/// Where a caller of Celery's RPC backend waits for results.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplyTo {
    /// The virtual host of the message.
    pub vhost: Arc<str>,
    /// Its property `reply_to`: the queue.
    pub queue: Arc<str>,
    /// Its property `correlation_id`, if that is not the id of the task.
    pub correlation_id: Option<Arc<str>>,
}

impl Owed {
    /// What this rule owes a task whose message says this of its result (header `ignore_result`), and which is a member of a canvas or not,
    /// where results are written.
    pub fn of(rule: &Rule, ignore_result: Option<bool>, member: bool) -> Owed {
        if member && rule.carries_members() {
            return Owed::Carried;
        }
        if rule.mode != Mode::Enforce || ignore_result == Some(true) {
            return Owed::Nothing;
        }
        match rule.result {
            ResultMode::Join if rule.carries_results() => Owed::Carried,
            ResultMode::Join => Owed::Joined(Via::Backend),
            ResultMode::Revoke => Owed::Revoked(Via::Backend),
            ResultMode::Success => Owed::Success(Via::Backend),
            ResultMode::None => Owed::Nothing,
        }
    }

    /// What this rule owes a task that has waited for its limits for too long. There is no other task whose result it could get; where
    /// something waits for its outcome, or only a worker can store it, its own message tells a worker that its time has passed.
    pub fn of_overdue(rule: &Rule, ignore_result: Option<bool>, member: bool) -> Owed {
        if rule.mode != Mode::Enforce {
            return Owed::Nothing;
        }
        let is_stored_by_worker = rule.result_by == ResultBy::Worker && rule.result != ResultMode::None && ignore_result != Some(true);
        if member || is_stored_by_worker {
            return Owed::Carried;
        }
        if ignore_result == Some(true) {
            return Owed::Nothing;
        }
        match rule.result {
            ResultMode::Join | ResultMode::Revoke => Owed::Revoked(Via::Backend),
            ResultMode::Success => Owed::Success(Via::Backend),
            ResultMode::None => Owed::Nothing,
        }
    }

    /// The same where results are published: in this way, or nothing is owed.
    #[must_use]
    pub fn published(self, via: Option<Via>) -> Owed {
        if self == Owed::Carried {
            return self;
        }
        let Some(via) = via else {
            return Owed::Nothing;
        };
        match self {
            Owed::Nothing | Owed::Carried => self,
            Owed::Success(_) => Owed::Success(via),
            Owed::Revoked(_) => Owed::Revoked(via),
            Owed::Joined(_) => Owed::Joined(via),
        }
    }

    /// How the id gets what the holder's run gives, if that is owed.
    pub fn joins(&self) -> Option<&Via> {
        match self {
            Owed::Joined(via) => Some(via),
            Owed::Nothing | Owed::Success(_) | Owed::Revoked(_) | Owed::Carried => None,
        }
    }
}

impl Via {
    /// Where it is published, if it is.
    pub fn reply_to(&self) -> Option<&Arc<ReplyTo>> {
        match self {
            Via::Backend => None,
            Via::Reply(to) | Via::ReplyToCaller(to) => Some(to),
        }
    }
}

/// How the results of dropped ids are told under a configuration (`[results]`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Told {
    /// They are written into Celery's Redis result backend.
    #[default]
    Written,
    /// They are published to the callers of Celery's RPC backend, by an account of Oncegate's own.
    Published {
        /// The virtual hosts that it has one for.
        vhosts: Arc<[Arc<str>]>,
        /// To which callers.
        to: Callers,
    },
}

/// Who is taken for a caller of the RPC backend. Celery writes `reply_to` into every message, whatever the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Callers {
    /// Whoever names a queue.
    All,
    /// Who has declared that queue, as that backend does before each publish (celery, `backends/rpc.py`, `on_task_call`).
    Declaring,
}

/// A result that an id gets at once.
#[derive(Debug, Clone)]
pub struct Debt {
    /// The rule that dropped it.
    pub rule: Arc<Rule>,
    /// The id.
    pub id: Arc<str>,
    /// What it is a duplicate of; empty if of nothing.
    pub holder: Arc<str>,
    /// What it gets.
    pub outcome: Outcome,
    /// How.
    pub via: Via,
}

/// A result that needs no other task's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// SUCCESS with null.
    Success,
    /// REVOKED, as a duplicate.
    Revoked,
    /// REVOKED, as one that has waited for its limits for too long.
    Overdue,
}
