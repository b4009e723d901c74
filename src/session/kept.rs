//! Publishes that are kept: their key is only leased to another, whose outcome decides about them, while their channel goes on.

use std::collections::BTreeMap;

use super::agenda::Place;
use super::answer::Silence;
use super::channel::Channel;
use super::confirm::Outcome;
use super::publish::{Publish, Wait};
use super::{Shared, StoreSilent, Ticket};
use crate::rules::lock::{Acquired, ReleaseReason};
use crate::rules::outcome::PublishDecision;

/// A kept publish.
#[derive(Debug)]
pub(super) struct Kept {
    pub publish: Publish,
    /// What for: the store's answer, as long as it asks for the publish, or the store itself.
    pub wait: Wait,
}

impl Channel {
    /// Keeps a publish.
    pub(super) fn keep(&mut self, shared: &mut Shared, ticket: Ticket, kept: Kept) {
        shared.held_bytes += kept.publish.frames.len();
        self.kept.insert(ticket, kept);
        self.schedule(shared, Place::Kept(ticket));
    }

    /// How the wait of a kept duplicate goes on, or ends.
    pub(super) fn kept_answered(&mut self, shared: &mut Shared, ticket: Ticket, kept: Kept, answer: Result<Acquired, StoreSilent>) {
        let Kept { mut publish, wait } = kept;
        match answer {
            Ok(Acquired::Held { holder, .. }) if publish.is_carried() => {
                shared.carries(&mut publish, holder);
                self.send_kept(shared, publish);
            }
            Ok(Acquired::Held { holder, expires_in_ms, .. }) => self.duplicate(shared, ticket, publish, holder, expires_in_ms),
            Ok(Acquired::Leased { .. }) => self.keep(
                shared,
                ticket,
                Kept {
                    publish,
                    wait: Wait::Answer,
                },
            ),
            Ok(acquired) => {
                shared.granted(&mut publish, &acquired);
                self.send_kept(shared, publish);
            }
            Err(silent) => match shared.silent(&mut publish, wait, silent) {
                Silence::Wait(wait) => self.keep(shared, ticket, Kept { publish, wait }),
                Silence::Forward => self.send_kept(shared, publish),
                Silence::Reject => self.ledger.settle(publish.client, Outcome::Nack),
            },
        }
    }

    /// Something is due for a kept publish.
    pub(super) fn kept_is_due(&mut self, shared: &mut Shared, ticket: Ticket) {
        let Some(kept) = self.kept.get_mut(&ticket) else { return };
        shared.wait_is_due(Some(ticket), &mut kept.wait, &mut kept.publish);
        if kept.wait == Wait::Turn
            && let Some(Kept { publish, .. }) = self.kept.remove(&ticket)
        {
            shared.held_bytes -= publish.frames.len();
            self.send_kept(shared, publish);
        }
    }

    /// Forgets the kept publishes whose confirm the client does not wait for any more. One that it sent before it asked for confirms
    /// counts as sent, and is decided.
    pub(super) fn forget_kept_unconfirmed(&mut self, shared: &mut Shared) {
        let (plain, unconfirmed) = std::mem::take(&mut self.kept)
            .into_iter()
            .partition(|(_, kept)| kept.publish.client == 0);
        self.kept = plain;
        shared.forget(unconfirmed);
    }

    /// Forgets all kept publishes, those that may go and have not gone included.
    pub(super) fn forget_kept(&mut self, shared: &mut Shared) {
        shared.forget(std::mem::take(&mut self.kept));
        while let Some(publish) = self.after_publish.pop() {
            shared.forget_one(publish);
        }
    }

    /// Sends a publish that was kept, out of its turn, at the next content boundary.
    pub(super) fn send_kept(&mut self, shared: &mut Shared, publish: Publish) {
        if self.inside_publish() {
            let position = self.after_publish.next_position();
            shared.held_bytes += publish.frames.len();
            self.after_publish.push(publish);
            self.schedule(shared, Place::AfterPublish(position));
        } else {
            self.send(shared, publish);
        }
    }

    /// Sends all kept publishes before a frame that must come after them and can wait no longer.
    pub(super) fn send_all_kept(&mut self, shared: &mut Shared, reason: &'static str) {
        for (ticket, Kept { mut publish, .. }) in std::mem::take(&mut self.kept) {
            shared.cancelled.push(ticket);
            shared.held_bytes -= publish.frames.len();
            shared.goes(&mut publish, PublishDecision::ForwardedUnchecked, reason);
            self.send(shared, publish);
        }
    }
}

impl Shared {
    /// These kept publishes will never be sent.
    fn forget(&mut self, kept: BTreeMap<Ticket, Kept>) {
        for (ticket, Kept { publish, wait }) in kept {
            if matches!(wait, Wait::Store { again_us: None, .. }) {
                // A question of this session's own is out, and its answer will come.
                self.held_bytes -= publish.frames.len();
                self.abandon(ticket, publish.grant);
            } else {
                // The store asks no more for it; what it was given just before goes back.
                self.cancelled.push(ticket);
                self.forget_one(publish);
            }
        }
    }

    /// This publish will never be sent: what the store has given it goes back.
    fn forget_one(&mut self, publish: Publish) {
        self.held_bytes -= publish.frames.len();
        if let Some(grant) = publish.grant {
            self.unpublish(&grant, ReleaseReason::Unconfirmed);
        }
    }
}
