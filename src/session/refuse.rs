//! What the producer of a duplicate hears: that all is well, a nack, or a channel error that names the holder.
//!
//! A channel error is told of one publish alone: a client raises it from whatever it waits for. So it is told only where that is certain,
//! and where nothing else is lost with the channel; elsewhere the duplicate is dropped.
//!
//! Both legs of the channel are closed by Oncegate then. A client answers with `close-ok` and may open a channel of the same number at once
//! (py-amqp does), while the broker still closes the old one, and would end the connection (504). What the client sends meanwhile is kept
//! until the broker has answered.

use std::sync::Arc;

use super::channel::{Channel, Down, Life, Up};
use super::confirm::Outcome;
use super::event::Event;
use super::publish::{Grant, Origin, Publish, Waiting};
use super::{Session, Shared, Side, Ticket};
use crate::amqp::encode;
use crate::amqp::frame::{Frame, FrameKind};
use crate::amqp::method::MethodId;
use crate::rules::outcome::{ExceptionReason, PublishDecision};
use crate::rules::owed::Owed;
use crate::rules::spec::OnDuplicate;

/// The reply code of the channel error: `PRECONDITION_FAILED`. Celery's producers do not repeat a publish that ends so.
const PRECONDITION_FAILED: u16 = 406;

/// At most so many octets of a holder's id are shown: a reply text has 255.
const ID_SHOWN: usize = 180;

/// Whether a peer has answered Oncegate's `channel.close`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Due,
    Came,
}

/// A channel that Oncegate closes on both legs.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    client: Answer,
    broker: Answer,
    /// What the client has sent since its answer: it is meant for the next channel of this number.
    next: Vec<u8>,
}

impl Grant {
    /// The producer may hear that the publish is refused, if it has this confirm number: then nobody is to get a result for its id, least
    /// of all one who publishes it again.
    pub(super) fn may_be_refused(&mut self, client: u64) {
        let refuses = match self.rule.on_duplicate {
            OnDuplicate::Raise => self.origin == Origin::Caller,
            OnDuplicate::Reject => true,
            _ => false,
        };
        if refuses && client != 0 && !matches!(self.owed, Owed::Nothing | Owed::Carried) {
            Arc::make_mut(&mut self.note).owed = Owed::Nothing;
        }
    }
}

/// What a rule answers to a duplicate, as far as it is known before the channel is looked at.
pub(super) fn decision(rule: &crate::rules::Rule) -> PublishDecision {
    match rule.on_duplicate {
        OnDuplicate::Raise => PublishDecision::Raised,
        OnDuplicate::Reject => PublishDecision::Rejected,
        OnDuplicate::DeadLetter => PublishDecision::DeadLettered,
        _ => PublishDecision::Dropped,
    }
}

impl Channel {
    /// A publish, which has been taken out of all that waits, is a duplicate.
    pub(super) fn duplicate(&mut self, shared: &mut Shared, ticket: Ticket, publish: Publish, holder: Arc<str>, expires_in_ms: u64) {
        let Some(grant) = &publish.grant else {
            return self.ledger.settle(publish.client, Outcome::Ack);
        };
        let decision = match decision(&grant.rule) {
            PublishDecision::DeadLettered => return self.dead_letter_publish(shared, ticket, publish, holder),
            PublishDecision::Raised if self.may_raise(&publish, grant) => PublishDecision::Raised,
            PublishDecision::Rejected if publish.client != 0 => PublishDecision::Rejected,
            PublishDecision::Dropped => PublishDecision::Dropped,
            _ => {
                shared.events.push(Event::Exception {
                    rule: Some(Arc::clone(&grant.rule)),
                    reason: ExceptionReason::RaiseFallback,
                });
                PublishDecision::Dropped
            }
        };
        shared.decided(&publish, decision, "duplicate", Some(Arc::clone(&holder)));
        if decision == PublishDecision::Dropped {
            shared.owes(&grant.owed, &grant.rule, &grant.claim.id, &holder);
            shared.joins(grant, &holder);
        }
        match decision {
            PublishDecision::Raised => self.raise(shared, &holder, expires_in_ms),
            PublishDecision::Rejected => self.ledger.settle(publish.client, Outcome::Nack),
            _ => self.ledger.settle(publish.client, Outcome::Ack),
        }
    }

    /// True if a channel error can only be meant for this publish, and takes nothing else with it.
    fn may_raise(&self, publish: &Publish, grant: &Grant) -> bool {
        let waits_alone = self.queue.iter().all(|item| matches!(item, Waiting::Gone))
            && self.kept.is_empty()
            && self.after_publish.is_empty()
            && self.dead_letters.is_empty();
        publish.client != 0
            && grant.origin == Origin::Caller
            && self.life == Life::Open
            && !self.tx
            && waits_alone
            && self.ledger.owes_only(publish.client)
            && self.consumers.is_empty()
            && self.gets.is_empty()
            && !self.deliveries.any_open()
            && self.arrivals.is_empty()
            && matches!((&self.up, &self.down), (Up::Idle, Down::Idle))
    }

    /// Closes the channel on both legs, and tells the client why.
    fn raise(&mut self, shared: &mut Shared, holder: &str, expires_in_ms: u64) {
        self.write_confirms(shared);
        let text = format!(
            "oncegate: duplicate of {}, expires in {} s",
            shown(holder),
            expires_in_ms.div_ceil(1000)
        );
        let (number, cause) = (self.number, Some(MethodId::BASIC_PUBLISH));
        encode::channel_close(&mut shared.to_client, number, PRECONDITION_FAILED, &text, cause);
        encode::channel_close(&mut shared.to_broker, number, 200, "oncegate: a duplicate was refused", None);
        self.lost(shared);
        self.life = Life::Refused(Box::new(Refused {
            client: Answer::Due,
            broker: Answer::Due,
            next: Vec::new(),
        }));
    }

    /// A frame of the client on a channel that is refused. True if the channel is.
    pub(super) fn client_is_refused(&mut self, shared: &mut Shared, frame: &Frame<'_>) -> bool {
        let Life::Refused(refused) = &mut self.life else { return false };
        let method = frame.method_id().filter(|_| frame.kind == FrameKind::Method);
        match (refused.client, method) {
            (Answer::Due, Some(MethodId::CHANNEL_CLOSE_OK)) => refused.client = Answer::Came,
            // Both sides close at once: each is answered.
            (Answer::Due, Some(MethodId::CHANNEL_CLOSE)) => encode::channel_close_ok(&mut shared.to_client, self.number),
            // A client that had closed by itself need not answer.
            (Answer::Due, Some(MethodId::CHANNEL_OPEN)) | (Answer::Came, _) => {
                refused.client = Answer::Came;
                refused.next.extend_from_slice(frame.raw);
                shared.held_bytes += frame.raw.len();
            }
            // It was on its way when the client was told, and fails with its channel.
            (Answer::Due, _) => {}
        }
        self.refusal_ends();
        true
    }

    /// A frame of the broker on a channel that is refused. True if the channel is.
    pub(super) fn broker_is_refused(&mut self, shared: &mut Shared, frame: &Frame<'_>) -> bool {
        let Life::Refused(refused) = &mut self.life else { return false };
        match frame.method_id().filter(|_| frame.kind == FrameKind::Method) {
            Some(MethodId::CHANNEL_CLOSE_OK) => refused.broker = Answer::Came,
            Some(MethodId::CHANNEL_CLOSE) => encode::channel_close_ok(&mut shared.to_broker, self.number),
            _ => {}
        }
        self.refusal_ends();
        true
    }

    fn refusal_ends(&mut self) {
        if let Life::Refused(refused) = &mut self.life
            && (refused.client, refused.broker) == (Answer::Came, Answer::Came)
        {
            self.life = match std::mem::take(&mut refused.next) {
                next if next.is_empty() => Life::Gone,
                next => Life::Followed(next),
            };
        }
    }
}

impl Shared {
    /// What was kept for the next channel is lost with the connection.
    pub(super) fn forget_next(&mut self, life: &Life) {
        if let Life::Refused(refused) = life {
            self.held_bytes -= refused.next.len();
        }
    }
}

impl Session {
    /// What the client has sent for the next channel of a number is read now that the broker has closed the one before.
    pub(super) fn reads_next_channel(&mut self, next: &[u8]) {
        self.shared.held_bytes -= next.len();
        let counted = self.shared.counts.frames_from_client;
        let (_, passed) = self.walk(Side::Client, next);
        self.forward(Side::Client, passed.bytes);
        // They were counted when they came.
        self.shared.counts.frames_from_client = counted;
    }
}

/// An id without what a reply text cannot hold.
fn shown(id: &str) -> &str {
    let end = (0..=ID_SHOWN.min(id.len())).rev().find(|end| id.is_char_boundary(*end));
    end.and_then(|end| id.get(..end)).unwrap_or_default()
}
