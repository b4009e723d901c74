//! Duplicates of publishes whose copy goes to the dead-letter address of their rule.
//!
//! The copy goes out by Oncegate's own account. The client hears that all is well once the broker has the copy, or once that has failed: a
//! duplicate is dropped either way, and a failure is counted.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::agenda::Place;
use super::channel::Channel;
use super::confirm::Outcome;
use super::copies::{self, DeadLettered};
use super::event::Event;
use super::publish::{Grant, Publish};
use super::republish::{Republish, RepublishFault, Target};
use super::{Now, Shared, Ticket};
use crate::amqp::frame::{self, Split};
use crate::rules::Rule;
use crate::rules::outcome::{ExceptionReason, PublishDecision};

/// A duplicate whose copy is on its way.
#[derive(Debug)]
pub(super) struct Waiting {
    /// The publish, without its frames.
    publish: Publish,
    holder: Arc<str>,
    /// The end of the wait, in monotonic microseconds.
    pub until_us: u64,
}

/// The duplicates of one channel whose copies are on their way.
pub(super) type DeadLetters = BTreeMap<Ticket, Waiting>;

/// The copy of a message that goes to the dead-letter address of its rule; `None` if that names no address, or the message cannot be read.
/// `content`: its frames from the content header on.
pub(super) fn copy_of(content: &[u8], rule: &Rule, why: &DeadLettered<'_>) -> Option<Republish> {
    let address = rule.dead_letter.as_ref()?;
    let copy = copies::dead_lettered(content, why)?;
    Some(Republish {
        header: copy.header,
        body: copy.body,
        target: Target::Exchange {
            exchange: Arc::from(&*address.exchange),
            routing_key: Arc::from(&*address.routing_key),
        },
    })
}

fn copy_of_publish(publish: &Publish, grant: &Grant, holder: &str, now: Now) -> Option<Republish> {
    let Split::Frame(method) = frame::split(&publish.frames, usize::MAX) else {
        return None;
    };
    let why = DeadLettered {
        reason: "duplicate",
        holder,
        rule: &grant.rule.name,
        queue: &grant.note.queue,
        at_ms: now.unix_ms,
    };
    copy_of(publish.frames.get(method.raw.len()..)?, &grant.rule, &why)
}

impl Channel {
    /// Sends the copy of a duplicate, whose question had this ticket.
    pub(super) fn dead_letter_publish(&mut self, shared: &mut Shared, ticket: Ticket, publish: Publish, holder: Arc<str>) {
        let Some(grant) = &publish.grant else {
            return self.ledger.settle(publish.client, Outcome::Ack);
        };
        let republish = copy_of_publish(&publish, grant, &holder, shared.now);
        let waiting = Waiting {
            until_us: shared.now.us.saturating_add(grant.note.lease_ms.saturating_mul(1000)),
            publish: Publish {
                frames: Vec::new(),
                ..publish
            },
            holder,
        };
        match republish {
            Some(republish) => {
                shared.republishes.push((ticket, republish));
                self.dead_letters.insert(ticket, waiting);
                self.schedule(shared, Place::DeadLetter(ticket));
            }
            None => self.dead_letter_is(shared, &waiting, Err(RepublishFault::Refused.as_str())),
        }
    }

    /// What became of the copy of a duplicate.
    pub(super) fn dead_lettered(&mut self, shared: &mut Shared, ticket: Ticket, outcome: Result<(), RepublishFault>) {
        if let Some(waiting) = self.dead_letters.remove(&ticket) {
            self.dead_letter_is(shared, &waiting, outcome.map_err(RepublishFault::as_str));
            self.advance(shared);
        }
    }

    /// The lease has passed, and nothing is known of the copy.
    pub(super) fn dead_letter_is_late(&mut self, shared: &mut Shared, ticket: Ticket) {
        if self
            .dead_letters
            .get(&ticket)
            .is_some_and(|waiting| waiting.until_us <= shared.now.us)
        {
            self.dead_lettered(shared, ticket, Err(RepublishFault::Unknown));
        }
    }

    /// The channel is gone: its client hears nothing, and what is on its way goes on.
    pub(super) fn forget_dead_letters(&mut self, shared: &mut Shared) {
        for waiting in std::mem::take(&mut self.dead_letters).into_values() {
            self.dead_letter_is(shared, &waiting, Err("channel_lost"));
        }
    }

    fn dead_letter_is(&mut self, shared: &mut Shared, waiting: &Waiting, outcome: Result<(), &'static str>) {
        let Waiting { publish, holder, .. } = waiting;
        let decision = match (outcome, &publish.grant) {
            (Err(reason), Some(grant)) => {
                let rule = Arc::clone(&grant.rule);
                shared.events.push(Event::Exception {
                    rule: Some(Arc::clone(&rule)),
                    reason: ExceptionReason::DeadLetterFailed,
                });
                shared.events.push(Event::NotDeadLettered {
                    rule,
                    task: Arc::clone(&grant.note.task),
                    id: Arc::clone(&grant.claim.id),
                    reason,
                });
                PublishDecision::Dropped
            }
            _ => PublishDecision::DeadLettered,
        };
        shared.decided(publish, decision, "duplicate", Some(Arc::clone(holder)));
        if let Some(grant) = &publish.grant {
            shared.owes(&grant.owed, &grant.rule, &grant.claim.id, holder);
        }
        self.ledger.settle(publish.client, Outcome::Ack);
    }
}
