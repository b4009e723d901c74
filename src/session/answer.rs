//! What the store's answers do to the publishes that wait for them.

use std::sync::Arc;

use super::agenda::Place;
use super::channel::Channel;
use super::confirm::Outcome;
use super::event::{Event, PublishEvent};
use super::kept::Kept;
use super::publish::{Grant, Publish, Wait, Waiting};
use super::{Session, Shared, StoreSilent, Ticket, refuse};
use crate::rules::lock::{Acquired, ReleaseReason, Request};
use crate::rules::outcome::PublishDecision;
use crate::rules::owed::Owed;
use crate::rules::spec::OnStoreError;

/// How often a publish that waits for a silent store asks again, in microseconds.
const RETRY_US: u64 = 100_000;

impl Session {
    /// The store's answer to a question, or that there is none.
    ///
    /// A question may be answered twice: first that the key is leased to another, later how that ended.
    pub(super) fn answer(&mut self, ticket: Ticket, answer: Result<Acquired, StoreSilent>) {
        if ticket.observes() {
            let is_of_beat = answer.as_ref().is_err_and(|silent| self.shared.beat_watched(ticket, Err(*silent)));
            if !is_of_beat {
                self.shared.observed(ticket, answer);
            }
            return;
        }
        if let Some((claim, publish)) = self.shared.abandoned.remove(&ticket) {
            if let Ok(Acquired::Leased { .. }) = answer {
                self.shared.cancelled.push(ticket);
            }
            // An acquire that lets its publish pass counts it, also when its id held the lock before; a silence may have hidden that.
            let counted = matches!(
                answer,
                Ok(Acquired::Taken
                    | Acquired::Replaces { .. }
                    | Acquired::PutOff { .. }
                    | Acquired::Kept { .. }
                    | Acquired::Reentry { .. })
                    | Err(StoreSilent::Timeout | StoreSilent::Unreachable)
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
        if let Some(kept) = self.kept.remove(&ticket) {
            shared.held_bytes -= kept.publish.frames.len();
            self.kept_answered(shared, ticket, kept, answer);
            self.advance(shared);
            return;
        }
        let position = ticket.position();
        let Some(Waiting::Publish { wait, publish, .. }) = self.queue.at(position) else {
            return;
        };
        if *wait == Wait::Turn {
            return;
        }
        match answer {
            Ok(Acquired::Held { holder, .. }) if publish.is_carried() => {
                *wait = Wait::Turn;
                shared.carries(publish, holder);
            }
            Ok(Acquired::Held { holder, expires_in_ms, .. }) => {
                if let Some(publish) = self.take_out(shared, position, None) {
                    self.duplicate(shared, ticket, publish, holder, expires_in_ms);
                }
            }
            Ok(Acquired::Leased { .. }) => {
                if let Some(publish) = self.take_out(shared, position, None) {
                    self.keep(
                        shared,
                        ticket,
                        Kept {
                            publish,
                            wait: Wait::Answer,
                        },
                    );
                }
            }
            Ok(acquired) => {
                *wait = Wait::Turn;
                shared.granted(publish, &acquired);
            }
            Err(silent) => match shared.silent(publish, *wait, silent) {
                Silence::Wait(again) => *wait = again,
                Silence::Forward => *wait = Wait::Turn,
                Silence::Reject => {
                    self.take_out(shared, position, Some(Outcome::Nack));
                }
            },
        }
        self.advance(shared);
        self.schedule(shared, Place::Queue(position));
    }

    /// Takes a publish out of the queue; with an outcome, it is settled towards the client.
    pub(super) fn take_out(&mut self, shared: &mut Shared, position: u64, outcome: Option<Outcome>) -> Option<Publish> {
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

    /// Gives up the wait of the oldest publish that waits, to free memory. True if there was one.
    pub(super) fn let_oldest_go(&mut self, shared: &mut Shared) -> bool {
        if let Some((ticket, Kept { mut publish, .. })) = self.kept.pop_first() {
            shared.cancelled.push(ticket);
            shared.held_bytes -= publish.frames.len();
            shared.goes(&mut publish, PublishDecision::ForwardedUnchecked, "memory");
            self.send_kept(shared, publish);
            self.advance(shared);
            return true;
        }
        let oldest = self.queue.iter_mut().find_map(|(position, item)| match item {
            Waiting::Publish { wait, publish, .. } if *wait != Wait::Turn => Some((position, wait, publish)),
            _ => None,
        });
        let Some((position, wait, publish)) = oldest else { return false };
        *wait = Wait::Turn;
        shared.goes(publish, PublishDecision::ForwardedUnchecked, "memory");
        self.advance(shared);
        self.schedule(shared, Place::Queue(position));
        true
    }
}

/// What a silent store means for one publish.
pub(super) enum Silence {
    /// It goes.
    Forward,
    /// It is refused.
    Reject,
    /// It waits so.
    Wait(Wait),
}

impl Shared {
    /// The store lets a publish go.
    pub(super) fn granted(&mut self, publish: &mut Publish, acquired: &Acquired) {
        match acquired {
            Acquired::Reentry { holds } => {
                self.goes(publish, PublishDecision::Reentry, "reentry");
                // Without the lock there is nothing to commit.
                if !holds {
                    publish.grant = None;
                }
            }
            Acquired::Replaces { holder } => self.replaces(publish, holder, PublishDecision::Replaced),
            Acquired::Kept { holder } => {
                self.leases(publish);
                self.decided(publish, PublishDecision::Kept, "waits", Some(Arc::clone(holder)));
            }
            Acquired::PutOff { holder, due_ms } => self.put_off(publish, holder.as_ref(), *due_ms),
            Acquired::Outrun { holder } => {
                self.decided(publish, publish.outrun(), "superseded", Some(Arc::clone(holder)));
                // It has nothing to commit.
                publish.grant = None;
            }
            _ => self.goes(publish, PublishDecision::Forwarded, "acquired"),
        }
    }

    /// The store is silent about a publish: its rule says what that means.
    pub(super) fn silent(&mut self, publish: &mut Publish, wait: Wait, silent: StoreSilent) -> Silence {
        let policy = publish.rule().map(|rule| (rule.on_store_error, rule.store_wait));
        let (until_us, now) = match (policy, wait) {
            (None | Some((OnStoreError::Forward, _)), _) => {
                self.goes(publish, PublishDecision::ForwardedUnchecked, silent.as_str());
                return Silence::Forward;
            }
            // A publish without a number of the client's has no confirm to refuse it with.
            (Some((OnStoreError::Reject, _)), _) if publish.client != 0 => {
                self.decided(publish, PublishDecision::Rejected, silent.as_str(), None);
                // The silence may have hidden that the lock was taken.
                if let Some(grant) = &publish.grant {
                    self.unpublish(grant, ReleaseReason::Unconfirmed);
                }
                return Silence::Reject;
            }
            (_, Wait::Store { until_us, .. }) => (until_us, self.now.us),
            (Some((_, store_wait)), _) => (self.now.us + store_wait.as_micros() as u64, self.now.us),
        };
        Silence::Wait(Wait::Store {
            again_us: Some((now + RETRY_US).min(until_us)),
            until_us,
        })
    }

    /// Something is due for a publish that waits: its question is repeated, its wait has lasted long enough, or its lease is renewed.
    pub(super) fn wait_is_due(&mut self, ticket: Option<Ticket>, wait: &mut Wait, publish: &mut Publish) {
        match *wait {
            Wait::Store { until_us, .. } if self.now.us >= until_us => {
                *wait = Wait::Turn;
                self.goes(publish, PublishDecision::ForwardedUnchecked, "store_wait");
            }
            Wait::Store { until_us, .. } => {
                *wait = Wait::Store { again_us: None, until_us };
                if let Some(ticket) = ticket {
                    publish.ask(self, ticket);
                }
            }
            Wait::Turn => {
                if let Some(grant) = &mut publish.grant {
                    self.renew(grant);
                }
            }
            Wait::Answer => {}
        }
    }

    /// A publish waits no longer for the store: its lease counts from here.
    pub(super) fn goes(&mut self, publish: &mut Publish, decision: PublishDecision, reason: &'static str) {
        self.leases(publish);
        self.decided(publish, decision, reason, None);
    }

    /// The same for one that takes the lock over from this holder.
    fn replaces(&mut self, publish: &mut Publish, holder: &Arc<str>, decision: PublishDecision) {
        self.leases(publish);
        self.decided(publish, decision, "replaces", Some(Arc::clone(holder)));
    }

    /// The same for one whose run is put off.
    fn put_off(&mut self, publish: &mut Publish, holder: Option<&Arc<str>>, due_ms: u64) {
        if let Some(grant) = &mut publish.grant {
            grant.due_ms = Some(due_ms);
        }
        match holder {
            None => self.goes(publish, PublishDecision::Forwarded, "acquired"),
            Some(holder) if publish.is_of(holder) => self.goes(publish, PublishDecision::Reentry, "reentry"),
            Some(holder) => self.replaces(publish, holder, PublishDecision::Debounced),
        }
    }

    /// A publish is a duplicate of this holder, and goes out to wait for it: it has no lock to commit.
    pub(super) fn carries(&mut self, publish: &mut Publish, holder: Arc<str>) {
        self.decided(publish, PublishDecision::Forwarded, "carried", Some(holder));
        publish.grant = None;
    }

    fn leases(&self, publish: &mut Publish) {
        if let Some(grant) = &mut publish.grant {
            grant.leased_us = self.now.us;
        }
    }

    /// The publish of this grant is still on its way to the broker's word.
    pub(super) fn renew(&mut self, grant: &mut Grant) {
        grant.leased_us = self.now.us;
        self.tells.push(Request::RenewLease {
            claim: grant.claim.clone(),
            publish: grant.publish,
            note: Arc::clone(&grant.note),
        });
    }

    /// The answer about a publish that an observing rule let pass at once: it is only counted.
    fn observed(&mut self, ticket: Ticket, answer: Result<Acquired, StoreSilent>) {
        let Some(grant) = self.observing.remove(&ticket) else { return };
        let (duplicate, reason) = match grant.owed {
            Owed::Carried => (PublishDecision::Forwarded, "carried"),
            _ => (refuse::decision(&grant.rule), "duplicate"),
        };
        let publish = Publish {
            frames: Vec::new(),
            client: 0,
            bits_at: 0,
            grant: Some(grant),
            beat: None,
        };
        match answer {
            Ok(Acquired::Taken | Acquired::PutOff { holder: None, .. }) => {
                self.decided(&publish, PublishDecision::Forwarded, "acquired", None);
            }
            Ok(Acquired::Reentry { .. }) => self.decided(&publish, PublishDecision::Reentry, "reentry", None),
            Ok(Acquired::Outrun { holder }) => self.decided(&publish, publish.outrun(), "superseded", Some(holder)),
            Ok(Acquired::Replaces { holder }) => self.decided(&publish, PublishDecision::Replaced, "replaces", Some(holder)),
            Ok(Acquired::PutOff { holder: Some(holder), .. }) if publish.is_of(&holder) => {
                self.decided(&publish, PublishDecision::Reentry, "reentry", None);
            }
            Ok(Acquired::PutOff { holder: Some(holder), .. }) => {
                self.decided(&publish, PublishDecision::Debounced, "replaces", Some(holder));
            }
            Ok(Acquired::Kept { holder }) => self.decided(&publish, PublishDecision::Kept, "waits", Some(holder)),
            Ok(Acquired::Leased { holder }) if publish.keeps_last() => {
                self.decided(&publish, PublishDecision::Kept, "waits", Some(holder));
            }
            // It would wait for the other, and replace it.
            Ok(Acquired::Leased { holder }) if publish.replaces() => {
                let decision = if publish.is_put_off() {
                    PublishDecision::Debounced
                } else {
                    PublishDecision::Replaced
                };
                self.decided(&publish, decision, "replaces", Some(holder));
            }
            Ok(Acquired::Held { holder, .. } | Acquired::Leased { holder }) => {
                self.decided(&publish, duplicate, reason, Some(holder));
            }
            Err(silent) => self.decided(&publish, PublishDecision::ForwardedUnchecked, silent.as_str(), None),
        }
        self.cancelled.push(ticket);
    }

    /// A question whose publish is gone: should the answer be that the lock was taken, it is given back.
    pub(super) fn abandon(&mut self, ticket: Ticket, grant: Option<Box<Grant>>) {
        self.cancelled.push(ticket);
        if let Some(grant) = grant {
            self.abandoned.insert(ticket, (grant.claim, grant.publish));
        }
    }

    /// Counts and logs what became of a publish.
    pub(super) fn decided(&mut self, publish: &Publish, decision: PublishDecision, reason: &'static str, holder: Option<Arc<str>>) {
        if let Some(grant) = &publish.grant {
            self.events.push(Event::Publish(PublishEvent {
                rule: Arc::clone(&grant.rule),
                decision,
                reason,
                id: Arc::clone(&grant.claim.id),
                task: Arc::clone(&grant.note.task),
                digest: Some(grant.claim.digest),
                holder,
            }));
        } else if let Some(beat) = &publish.beat {
            self.events.push(beat.decided(decision, reason, holder));
        }
    }
}
