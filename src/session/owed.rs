//! What the ids of dropped tasks are owed.

use std::sync::Arc;

use super::Shared;
use super::admit::{Admission, Way};
use super::event::Event;
use super::publish::Grant;
use crate::rules::Rule;
use crate::rules::lock::Request;
use crate::rules::owed::{Debt, Outcome, Owed};

impl Shared {
    /// A delivery goes this way, which may be that it was dropped.
    pub(super) fn owes_for(&mut self, admission: &Admission, way: &Way) {
        let (owed, holder) = match way {
            Way::Dropped(holder) | Way::Outdated(holder) => (admission.hold.lock.as_ref().map(|note| note.owed), holder),
            Way::Busy(holder, _) => (admission.run.as_ref().map(|run| run.note.owed), holder),
            _ => return,
        };
        self.owes(owed.unwrap_or_default(), &admission.rule, &admission.hold.claim.id, holder);
    }

    /// A delivery does not run, whether or not its copy is where it is dead-lettered.
    pub(super) fn owes_for_dead_letter(&mut self, admission: &Admission, holder: &Arc<str>) {
        // Both notes are of one message and one rule.
        let lock = admission.hold.lock.as_ref().map(|note| note.owed);
        let owed = lock.or(admission.run.as_ref().map(|run| run.note.owed));
        self.owes(owed.unwrap_or_default(), &admission.rule, &admission.hold.claim.id, holder);
    }

    /// A publish was dropped of which the store did not know that its id would wait for the holder's result.
    pub(super) fn joins(&mut self, grant: &Grant, holder: &Arc<str>) {
        if grant.owed != Owed::Joined || grant.note.owed == Owed::Joined {
            return;
        }
        let mut note = Arc::clone(&grant.note);
        Arc::make_mut(&mut note).owed = Owed::Joined;
        self.tells.push(Request::Join {
            claim: grant.claim.clone(),
            holder: Arc::clone(holder),
            note,
        });
    }

    /// A task was dropped for this holder.
    pub(super) fn owes(&mut self, owed: Owed, rule: &Arc<Rule>, id: &Arc<str>, holder: &Arc<str>) {
        let outcome = match owed {
            Owed::Nothing | Owed::Joined | Owed::Carried => return,
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
