//! What the store's answers do to the publishes that wait for them.

use super::channel::Channel;
use super::confirm::Outcome;
use super::publish::{Publish, Wait, Waiting};
use super::{Session, Shared, StoreSilent, Ticket};
use crate::rules::lock::{Acquired, ReleaseReason, Request};
use crate::rules::outcome::PublishDecision;
use crate::rules::spec::OnStoreError;

/// How often a publish that waits for a silent store asks again, in microseconds.
const RETRY_US: u64 = 100_000;

impl Session {
    /// The store's answer to a question, or that there is none.
    ///
    /// A question may be answered twice: first that the key is leased to another, later how that ended.
    pub(super) fn answer(&mut self, ticket: Ticket, answer: Result<Acquired, StoreSilent>) {
        if ticket.observes() {
            return self.shared.observed(ticket, answer);
        }
        if let Some((claim, publish)) = self.shared.abandoned.remove(&ticket) {
            if let Ok(Acquired::Leased { .. }) = answer {
                self.shared.cancelled.push(ticket);
            }
            // An acquire that lets its publish pass counts it, also when its id held the lock before; a silence may have hidden that.
            let counted = matches!(
                answer,
                Ok(Acquired::Taken | Acquired::Reentry { .. }) | Err(StoreSilent::Timeout | StoreSilent::Unreachable)
            );
            if counted {
                self.shared.tells.push(Request::Unpublish {
                    claim,
                    publish,
                    reason: ReleaseReason::Unconfirmed,
                });
            }
            return;
        }
        let leased = matches!(answer, Ok(Acquired::Leased { .. }));
        let channel = self.channels.get_mut(ticket.channel());
        let kept = channel.is_some_and(|channel| {
            channel.answered(&mut self.shared, ticket, answer);
            channel.kept.contains_key(&ticket)
        });
        // The store goes on asking for a key that is leased, until it is told that nobody waits.
        if leased && !kept {
            self.shared.cancelled.push(ticket);
        }
    }
}

impl Channel {
    fn answered(&mut self, shared: &mut Shared, ticket: Ticket, answer: Result<Acquired, StoreSilent>) {
        if let Some(publish) = self.kept.remove(&ticket) {
            shared.held_bytes -= publish.frames.len();
            self.kept_answered(shared, ticket, publish, answer);
            self.advance(shared);
            return;
        }
        let position = ticket.position();
        let Some(item) = self.queue.at(position) else { return };
        if !matches!(item, Waiting::Publish { wait, .. } if *wait != Wait::Turn) {
            return;
        }
        let Waiting::Publish { wait, publish, .. } = item else { return };
        let acquired = match answer {
            Ok(acquired) => acquired,
            Err(silent) => {
                let next = silent_store(shared, publish, *wait, silent, self.ledger.client_confirms());
                match next {
                    Silence::Wait(again) => *wait = again,
                    Silence::Forward => {
                        *wait = Wait::Turn;
                        shared.decided(publish, PublishDecision::ForwardedUnchecked, silent.as_str(), None);
                    }
                    Silence::Reject => {
                        shared.decided(publish, PublishDecision::Rejected, silent.as_str(), None);
                        // The silence may have hidden that the lock was taken.
                        if let Some(grant) = &publish.grant {
                            shared.unpublish(grant, ReleaseReason::Unconfirmed);
                        }
                        self.take_out(shared, position, Some(Outcome::Nack));
                    }
                }
                self.advance(shared);
                return;
            }
        };
        match acquired {
            Acquired::Taken | Acquired::Reentry { .. } => {
                *wait = Wait::Turn;
                granted(shared, publish, &acquired);
            }
            Acquired::Held { holder, .. } => {
                shared.decided(publish, PublishDecision::Dropped, "duplicate", Some(holder));
                self.take_out(shared, position, Some(Outcome::Ack));
            }
            Acquired::Leased { .. } => {
                if let Some(publish) = self.take_out(shared, position, None) {
                    shared.held_bytes += publish.frames.len();
                    self.kept.insert(ticket, publish);
                }
            }
        }
        self.advance(shared);
    }

    /// Takes a publish out of the queue; with an outcome, it is settled towards the client.
    fn take_out(&mut self, shared: &mut Shared, position: u64, outcome: Option<Outcome>) -> Option<Publish> {
        let item = self.queue.at(position)?;
        shared.held_bytes -= item.size();
        let Waiting::Publish { publish, .. } = std::mem::replace(item, Waiting::Gone) else {
            return None;
        };
        if let Some(outcome) = outcome {
            self.ledger.settle(publish.client, outcome);
        }
        Some(publish)
    }

    /// Asks again for the publishes whose store was silent, and lets go those that have waited long enough.
    pub(super) fn retry_store(&mut self, shared: &mut Shared) {
        for (position, item) in self.queue.iter_mut() {
            let Waiting::Publish {
                ticket: Some(ticket),
                wait,
                publish,
            } = item
            else {
                continue;
            };
            let Wait::Store { retry_us, until_us } = *wait else { continue };
            if shared.now.us >= until_us {
                *wait = Wait::Turn;
                shared.decided(publish, PublishDecision::ForwardedUnchecked, "store_wait", None);
            } else if shared.now.us >= retry_us {
                *wait = Wait::Store {
                    retry_us: until_us,
                    until_us,
                };
                debug_assert_eq!(ticket.position(), position, "a ticket names its place in the queue");
                if let Some(grant) = &publish.grant {
                    shared.ask(*ticket, grant);
                }
                shared.wake_at(until_us);
            } else {
                shared.wake_at(retry_us.min(until_us));
            }
        }
    }

    /// Gives up the wait of the oldest publish that waits, to free memory. True if there was one.
    pub(super) fn let_oldest_go(&mut self, shared: &mut Shared) -> bool {
        if let Some((ticket, publish)) = self.kept.pop_first() {
            shared.cancelled.push(ticket);
            shared.held_bytes -= publish.frames.len();
            shared.decided(&publish, PublishDecision::ForwardedUnchecked, "memory", None);
            self.send_kept(shared, publish);
            return true;
        }
        let oldest = self.queue.iter_mut().find_map(|(_, item)| match item {
            Waiting::Publish { wait, publish, .. } if *wait != Wait::Turn => Some((wait, publish)),
            _ => None,
        });
        let Some((wait, publish)) = oldest else { return false };
        *wait = Wait::Turn;
        shared.decided(publish, PublishDecision::ForwardedUnchecked, "memory", None);
        self.advance(shared);
        true
    }
}

/// What a silent store means for one publish.
enum Silence {
    Forward,
    Reject,
    Wait(Wait),
}

fn silent_store(shared: &mut Shared, publish: &Publish, wait: Wait, _silent: StoreSilent, confirms: bool) -> Silence {
    let Some(grant) = &publish.grant else { return Silence::Forward };
    let policy = grant.rule.on_store_error;
    if policy == OnStoreError::Forward {
        return Silence::Forward;
    }
    if policy == OnStoreError::Reject && confirms {
        return Silence::Reject;
    }
    let until_us = match wait {
        Wait::Store { until_us, .. } => until_us,
        Wait::Answer | Wait::Turn => shared.now.us + grant.rule.store_wait.as_micros() as u64,
    };
    let retry_us = (shared.now.us + RETRY_US).min(until_us);
    shared.wake_at(retry_us);
    Silence::Wait(Wait::Store { retry_us, until_us })
}

/// The store lets a publish go.
pub(super) fn granted(shared: &mut Shared, publish: &mut Publish, acquired: &Acquired) {
    match acquired {
        Acquired::Reentry { holds } => {
            shared.decided(publish, PublishDecision::Reentry, "reentry", None);
            // Without the lock there is nothing to commit.
            if !holds {
                publish.grant = None;
            }
        }
        _ => shared.decided(publish, PublishDecision::Forwarded, "acquired", None),
    }
}

impl Shared {
    /// The answer about a publish that an observing rule let pass at once: it is only counted.
    fn observed(&mut self, ticket: Ticket, answer: Result<Acquired, StoreSilent>) {
        let Some(grant) = self.observing.remove(&ticket) else { return };
        let publish = Publish {
            frames: Vec::new(),
            client: 0,
            bits_at: 0,
            grant: Some(grant),
        };
        match answer {
            Ok(Acquired::Taken) => self.decided(&publish, PublishDecision::Forwarded, "acquired", None),
            Ok(Acquired::Reentry { .. }) => self.decided(&publish, PublishDecision::Reentry, "reentry", None),
            Ok(Acquired::Held { holder, .. } | Acquired::Leased { holder }) => {
                self.decided(&publish, PublishDecision::Dropped, "duplicate", Some(holder));
            }
            Err(silent) => self.decided(&publish, PublishDecision::ForwardedUnchecked, silent.as_str(), None),
        }
        self.cancelled.push(ticket);
    }
}
