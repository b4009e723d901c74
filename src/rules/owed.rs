//! What the id of a dropped task is owed, so that whoever waits for its result hears of it.

use std::sync::Arc;

use super::Rule;
use super::spec::{Mode, ResultMode};

/// What the id gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Owed {
    /// Nothing: nobody asks for the result, the rule only observes, or no result backend can be written.
    #[default]
    Nothing,
    /// SUCCESS with null.
    Success,
    /// REVOKED, as a duplicate of the holder.
    Revoked,
    /// What the holder's run gives.
    Joined,
    /// The same, by its own message: that is not dropped, but waits for the end of the holder, and is handed to a worker as one that returns
    /// the holder's result.
    Carried,
}

impl Owed {
    /// What this rule owes a task whose message says this of its result (header `ignore_result`), and which is a member of a canvas or not.
    pub fn of(rule: &Rule, ignore_result: Option<bool>, member: bool) -> Owed {
        if member && rule.carries_members() {
            return Owed::Carried;
        }
        if rule.mode != Mode::Enforce || ignore_result == Some(true) {
            return Owed::Nothing;
        }
        match rule.result {
            ResultMode::Join if rule.carries_results() => Owed::Carried,
            ResultMode::Join => Owed::Joined,
            ResultMode::Revoke => Owed::Revoked,
            ResultMode::Success => Owed::Success,
            ResultMode::None => Owed::Nothing,
        }
    }
}

/// A result that an id gets at once.
#[derive(Debug, Clone)]
pub struct Debt {
    /// The rule that dropped it.
    pub rule: Arc<Rule>,
    /// The id.
    pub id: Arc<str>,
    /// What it is a duplicate of.
    pub holder: Arc<str>,
    /// What it gets.
    pub outcome: Outcome,
}

/// A result that needs no other task's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// SUCCESS with null.
    Success,
    /// REVOKED.
    Revoked,
}
