//! Publishes of beats: the store is asked first whose entry of the schedule it is (`beat_lease`), and then about the key, if there is one.
//!
//! A publish that another beat has made in its stead is dropped: its producer hears that all is well. Where the store is silent, the rule's
//! `on_store_error` says what that means, as it does for a key.

use std::sync::Arc;

use super::agenda::Place;
use super::channel::Channel;
use super::confirm::Outcome;
use super::event::{Event, PublishEvent};
use super::publish::{Grant, Publish, Wait, Waiting};
use super::{Session, Shared, StoreSilent, Ticket};
use crate::rules::Rule;
use crate::rules::beat::{Entry, Turn};
use crate::rules::lock::Request;
use crate::rules::outcome::PublishDecision;

/// The reason of every decision that a beat's lease makes.
const REASON: &str = "beat_lease";

/// What a publish is of an entry, until the store has said whose that is.
#[derive(Debug)]
pub struct Beat {
    /// The entry.
    pub entry: Entry,
    /// The task.
    pub task: Arc<str>,
    /// The task id.
    pub id: Arc<str>,
    /// When the publish arrived, in monotonic microseconds.
    pub arrived_us: u64,
    /// What is to be told if it passes and makes no claim.
    pub told: Vec<Event>,
}

impl Beat {
    pub(super) fn decided(&self, decision: PublishDecision, reason: &'static str, holder: Option<Arc<str>>) -> Event {
        Event::Publish(PublishEvent {
            rule: Arc::clone(&self.entry.rule),
            decision,
            reason,
            id: Arc::clone(&self.id),
            task: Arc::clone(&self.task),
            digest: Some(self.entry.digest),
            holder,
        })
    }
}

/// A publish of a beat under an observing rule, which has gone; its claim, if it makes one, is made when its turn has come.
#[derive(Debug)]
pub(super) struct Watched {
    beat: Box<Beat>,
    grant: Option<Box<Grant>>,
}

impl Session {
    /// The store has said whose entry it is that a publish is of.
    pub(super) fn beat_answered(&mut self, ticket: Ticket, turn: Turn) {
        if ticket.observes() {
            self.shared.beat_watched(ticket, Ok(turn));
        } else if let Some(channel) = self.channels.get_mut(ticket.channel()) {
            channel.beat_answered(&mut self.shared, ticket, turn);
        }
    }
}

impl Channel {
    fn beat_answered(&mut self, shared: &mut Shared, ticket: Ticket, turn: Turn) {
        let position = ticket.position();
        let Some(Waiting::Publish { wait, publish, .. }) = self.queue.at(position).filter(|item| item.awaits_store()) else {
            return;
        };
        let Some(beat) = publish.beat.take() else { return };
        match (turn, &publish.grant) {
            (Turn::Own, Some(grant)) => {
                *wait = Wait::Answer;
                shared.ask(ticket, grant);
            }
            (Turn::Own, None) => {
                *wait = Wait::Turn;
                shared.events.extend(beat.told);
            }
            (Turn::Other { origin, .. }, _) => {
                self.take_out(shared, position, Some(Outcome::Ack));
                shared.events.push(beat.decided(PublishDecision::Dropped, REASON, Some(origin)));
            }
        }
        self.advance(shared);
        self.schedule(shared, Place::Queue(position));
    }
}

impl Publish {
    /// Asks what the store is to be asked next about it.
    pub(super) fn ask(&self, shared: &mut Shared, ticket: Ticket) {
        match (&self.beat, &self.grant) {
            (Some(beat), _) => shared.asks.push((ticket.0, beat.entry.question())),
            (None, Some(grant)) => shared.ask(ticket, grant),
            (None, None) => {}
        }
    }

    /// The rule that decides about it.
    pub(super) fn rule(&self) -> Option<&Rule> {
        let beat = || self.beat.as_ref().map(|beat| &*beat.entry.rule);
        self.grant.as_ref().map(|grant| &*grant.rule).or_else(beat)
    }

    /// When it arrived, in monotonic microseconds, if the store is asked about it.
    pub(super) fn arrived_us(&self) -> Option<u64> {
        let beat = || self.beat.as_ref().map(|beat| beat.arrived_us);
        self.grant.as_ref().map(|grant| grant.arrived_us).or_else(beat)
    }

    /// The claim that the store may have been asked about.
    pub(super) fn asked_grant(self) -> Option<Box<Grant>> {
        self.grant.filter(|_| self.beat.is_none())
    }
}

impl Shared {
    /// A publish under an observing rule goes at once. That of a beat goes without its claim, which is made if its turn has come.
    pub(super) fn observe(&mut self, publish: &mut Publish) {
        if publish.rule().is_none() {
            return;
        }
        let ticket = self.observing_ticket();
        publish.ask(self, ticket);
        if let Some(beat) = publish.beat.take() {
            let grant = publish.grant.take();
            self.watched.insert(ticket, Watched { beat, grant });
        } else if let Some(grant) = &publish.grant {
            self.observing.insert(ticket, grant.clone());
        }
    }

    /// The answer about a publish that an observing rule let pass at once. False if the question was not about a beat's.
    pub(super) fn beat_watched(&mut self, ticket: Ticket, answer: Result<Turn, StoreSilent>) -> bool {
        let Some(Watched { beat, grant }) = self.watched.remove(&ticket) else {
            return false;
        };
        match (answer, grant) {
            (Ok(Turn::Own), Some(grant)) => {
                self.ask(ticket, &grant);
                // It is on its way: nothing is waited for.
                self.tells.push(Request::Commit {
                    claim: grant.claim.clone(),
                    publish: grant.publish,
                    note: Arc::clone(&grant.note),
                });
                self.observing.insert(ticket, grant);
            }
            (Ok(Turn::Own), None) => self.events.extend(beat.told),
            (Ok(Turn::Other { origin, .. }), _) => {
                self.events.push(beat.decided(PublishDecision::Dropped, REASON, Some(origin)));
            }
            (Err(silent), _) => {
                self.events
                    .push(beat.decided(PublishDecision::ForwardedUnchecked, silent.as_str(), None));
            }
        }
        true
    }
}
