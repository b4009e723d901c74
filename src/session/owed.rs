//! What the ids of dropped tasks are owed.

use std::sync::Arc;

use super::Shared;
use super::event::Event;
use crate::rules::Rule;
use crate::rules::owed::{Debt, Outcome, Owed};

impl Shared {
    /// A task was dropped for this holder.
    pub(super) fn owes(&mut self, owed: Owed, rule: &Arc<Rule>, id: &Arc<str>, holder: &Arc<str>) {
        let outcome = match owed {
            Owed::Nothing | Owed::Joined => return,
            Owed::Success => Outcome::Success,
            Owed::Revoked => Outcome::Revoked,
        };
        self.events.push(Event::Owed(Debt {
            rule: Arc::clone(rule),
            id: Arc::clone(id),
            holder: Arc::clone(holder),
            outcome,
        }));
    }
}
