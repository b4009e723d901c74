//! What the ids of dropped tasks are owed.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::Shared;
use super::admit::{Admission, Way};
use super::event::Event;
use super::publish::Grant;
use crate::amqp::content::Properties;
use crate::celery::result::{Status, TaskResult};
use crate::rules::Rule;
use crate::rules::lock::{Request, Weight};
use crate::rules::owed::{Callers, Debt, Outcome, Owed, ReplyTo, Told, Via};

/// So many queues of one connection are known as those of callers; each is declared anew before each publish.
const CALLERS_MAX: usize = 1_000;

/// For how long the result of a holder is kept whose duplicates may wait to be handed over with it, in milliseconds.
const CARRIED_MS: u64 = 3_600_000;

/// The reason that logs give where a delivery has waited for its limits for too long.
pub(super) const OVERDUE: &str = "max_wait";

/// How often the store is told that a queue is a caller's, in microseconds: it forgets after a day.
const TOLD_EVERY_US: u64 = 3_600_000_000;

/// The largest result that is kept for others, in octets.
const RESULT_MAX: usize = 64 << 10;

/// The queues of callers of Celery's RPC backend: declared on this connection, and such as the broker takes away by itself.
#[derive(Debug, Default)]
pub(super) struct ReplyQueues {
    /// Each with when the store was told of it last, if it was.
    names: HashMap<Arc<str>, Option<u64>>,
    /// In the order of their coming.
    order: VecDeque<Arc<str>>,
}

impl ReplyQueues {
    /// When the store was told of this queue last.
    fn declared(&mut self, queue: &Arc<str>) -> &mut Option<u64> {
        if !self.names.contains_key(queue) {
            self.order.push_back(Arc::clone(queue));
            if self.order.len() > CALLERS_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.names.remove(&oldest);
            }
        }
        self.names.entry(Arc::clone(queue)).or_default()
    }
}

/// Where the caller is whose message it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    /// At this connection, if it has declared the queue; else the store knows whether another connection has.
    Here,
    /// Elsewhere: whether there is a queue shows when the result is published.
    Elsewhere,
}

impl Shared {
    /// What the id of a message with these properties is owed, by how results are told.
    pub(super) fn owed_to(&self, owed: &Owed, properties: &Properties<'_>, id: &str, caller: Caller) -> Owed {
        let Told::Published { vhosts, to } = self.rules.told() else {
            return owed.clone();
        };
        if *owed == Owed::Carried {
            return Owed::Carried;
        }
        if *owed == Owed::Nothing || !vhosts.contains(&self.vhost) {
            return Owed::Nothing;
        }
        let text = |octets: Option<&[u8]>| {
            octets
                .and_then(|octets| std::str::from_utf8(octets).ok())
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
        };
        let via = text(properties.reply_to).map(|queue| {
            let seen = *to == Callers::All || caller == Caller::Elsewhere || self.reply_queues.names.contains_key(&*queue);
            let to = Arc::new(ReplyTo {
                vhost: Arc::clone(&self.vhost),
                queue: queue.into(),
                correlation_id: text(properties.correlation_id)
                    .filter(|correlation_id| correlation_id != id)
                    .map(Arc::from),
            });
            if seen { Via::Reply(to) } else { Via::ReplyToCaller(to) }
        });
        owed.clone().published(via)
    }

    /// A queue is declared here that the broker takes away by itself: results may go to it, from any proxy.
    pub(super) fn caller_declares(&mut self, queue: &Arc<str>) {
        let Told::Published {
            vhosts,
            to: Callers::Declaring,
        } = self.rules.told()
        else {
            return;
        };
        let tells = vhosts.contains(&self.vhost) && self.rules.tells_callers();
        let now_us = self.now.us;
        let told_us = self.reply_queues.declared(queue);
        if tells && told_us.is_none_or(|us| us + TOLD_EVERY_US <= now_us) {
            *told_us = Some(now_us);
            self.tells.push(Request::Caller {
                vhost: Arc::clone(&self.vhost),
                queue: Arc::clone(queue),
            });
        }
    }

    /// A worker publishes the result of a task: others may wait for it.
    pub(super) fn tell_result(&mut self, id: &Arc<str>, result: &TaskResult<'_>) {
        let weight = match result.status {
            Status::Success | Status::Failure => Weight::Final,
            Status::Revoked => Weight::Provisional,
            Status::Pending | Status::Started | Status::Retry | Status::Other => return,
        };
        let is_carried = result.status == Status::Success && self.rules.follows_tasks() && self.witness.carries(id);
        if let Some(json) = result.json.as_deref()
            && json.len() <= RESULT_MAX
            && (is_carried || self.rules.joins_replies())
        {
            self.tells.push(Request::Result {
                id: Arc::clone(id),
                weight,
                json: json.into(),
                least_ms: if is_carried { CARRIED_MS } else { 0 },
            });
        }
    }

    /// A delivery goes this way, which may be that it was dropped.
    pub(super) fn owes_for(&mut self, admission: &Admission, way: &Way) {
        if let Way::Overdue(_) = way {
            return self.owes_for_wait(admission, &admission.owed_overdue());
        }
        let (owed, holder) = match way {
            Way::Dropped(holder) | Way::Outdated(holder) => (admission.hold.lock.as_ref().map(|note| &note.owed), holder),
            Way::Busy(holder, _) => (admission.run.as_ref().map(|run| &run.note.owed), holder),
            _ => return,
        };
        self.owes(
            &owed.cloned().unwrap_or_default(),
            &admission.rule,
            &admission.hold.claim.id,
            holder,
        );
    }

    /// A delivery has waited for its limits for too long, and is owed this.
    fn owes_for_wait(&mut self, admission: &Admission, owed: &Owed) {
        let (outcome, via) = match owed {
            Owed::Nothing | Owed::Joined(_) | Owed::Carried => return,
            Owed::Success(via) => (Outcome::Success, via),
            Owed::Revoked(via) => (Outcome::Overdue, via),
        };
        self.events.push(Event::Owed(Debt {
            rule: Arc::clone(&admission.rule),
            id: Arc::clone(&admission.hold.claim.id),
            holder: "".into(),
            outcome,
            via: via.clone(),
        }));
    }

    /// A delivery does not run, whether or not its copy is where it is dead-lettered, and its id is owed this.
    pub(super) fn owes_for_dead_letter(&mut self, admission: &Admission, reason: &str, owed: &Owed, holder: &Arc<str>) {
        if reason == OVERDUE {
            self.owes_for_wait(admission, owed);
        } else {
            self.owes(owed, &admission.rule, &admission.hold.claim.id, holder);
        }
    }

    /// A publish was dropped of which the store did not know that its id would wait for the holder's result.
    pub(super) fn joins(&mut self, grant: &Grant, holder: &Arc<str>) {
        if grant.owed.joins().is_none() || grant.note.owed == grant.owed {
            return;
        }
        let mut note = Arc::clone(&grant.note);
        Arc::make_mut(&mut note).owed = grant.owed.clone();
        self.tells.push(Request::Join {
            claim: grant.claim.clone(),
            holder: Arc::clone(holder),
            note,
        });
    }

    /// A task was dropped for this holder.
    pub(super) fn owes(&mut self, owed: &Owed, rule: &Arc<Rule>, id: &Arc<str>, holder: &Arc<str>) {
        let (outcome, via) = match owed {
            Owed::Nothing | Owed::Joined(_) | Owed::Carried => return,
            Owed::Success(via) => (Outcome::Success, via),
            Owed::Revoked(via) => (Outcome::Revoked, via),
        };
        self.events.push(Event::Owed(Debt {
            rule: Arc::clone(rule),
            id: Arc::clone(id),
            holder: Arc::clone(holder),
            outcome,
            via: via.clone(),
        }));
    }
}
