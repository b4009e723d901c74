//! Publishes that are kept: their key is only leased to another, whose outcome decides about them, while their channel goes on.

use std::collections::BTreeMap;

use super::answer::granted;
use super::channel::Channel;
use super::confirm::Outcome;
use super::publish::Publish;
use super::{Shared, StoreSilent, Ticket};
use crate::rules::lock::{Acquired, ReleaseReason};
use crate::rules::outcome::PublishDecision;

impl Channel {
    /// How the wait of a kept duplicate ended.
    pub(super) fn kept_answered(
        &mut self,
        shared: &mut Shared,
        ticket: Ticket,
        mut publish: Publish,
        answer: Result<Acquired, StoreSilent>,
    ) {
        match answer {
            Ok(Acquired::Held { holder, .. }) => {
                shared.decided(&publish, PublishDecision::Dropped, "duplicate", Some(holder));
                self.ledger.settle(publish.client, Outcome::Ack);
            }
            Ok(Acquired::Leased { .. }) => {
                shared.held_bytes += publish.frames.len();
                self.kept.insert(ticket, publish);
            }
            Ok(acquired) => {
                granted(shared, &mut publish, &acquired);
                self.send_kept(shared, publish);
            }
            Err(silent) => {
                shared.decided(&publish, PublishDecision::ForwardedUnchecked, silent.as_str(), None);
                self.send_kept(shared, publish);
            }
        }
    }

    /// Forgets the kept publishes whose confirm the client does not wait for any more. One that it sent before it asked for confirms
    /// counts as sent, and is decided.
    pub(super) fn forget_kept_unconfirmed(&mut self, shared: &mut Shared) {
        let (plain, unconfirmed) = std::mem::take(&mut self.kept)
            .into_iter()
            .partition(|(_, publish)| publish.client == 0);
        self.kept = plain;
        shared.forget(unconfirmed, Vec::new());
    }

    /// Forgets all kept publishes, those that may go and have not gone included.
    pub(super) fn forget_kept(&mut self, shared: &mut Shared) {
        shared.forget(std::mem::take(&mut self.kept), std::mem::take(&mut self.after_publish));
    }

    /// Sends a publish that was kept, out of its turn, at the next content boundary.
    pub(super) fn send_kept(&mut self, shared: &mut Shared, publish: Publish) {
        if self.inside_publish() {
            shared.held_bytes += publish.frames.len();
            self.after_publish.push(publish);
        } else {
            self.send(shared, publish);
        }
    }

    pub(super) fn send_all_kept(&mut self, shared: &mut Shared) {
        for (ticket, publish) in std::mem::take(&mut self.kept) {
            shared.cancelled.push(ticket);
            shared.held_bytes -= publish.frames.len();
            shared.decided(&publish, PublishDecision::ForwardedUnchecked, "channel_closing", None);
            self.send(shared, publish);
        }
    }
}

impl Shared {
    /// These publishes will never be sent: what the store has given them goes back, and it asks no more for those that it keeps.
    fn forget(&mut self, kept: BTreeMap<Ticket, Publish>, ready: Vec<Publish>) {
        let kept = kept.into_iter().map(|(ticket, publish)| (Some(ticket), publish));
        for (ticket, publish) in kept.chain(ready.into_iter().map(|publish| (None, publish))) {
            self.held_bytes -= publish.frames.len();
            self.cancelled.extend(ticket);
            if let Some(grant) = publish.grant {
                self.unpublish(&grant, ReleaseReason::Unconfirmed);
            }
        }
    }
}
