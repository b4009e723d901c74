//! Held deliveries on their way to elsewhere: parked in a delay queue, or dead-lettered.
//!
//! A copy is published by Oncegate's own account, and the original is acknowledged once the broker has confirmed that. To park takes three
//! steps, of which each waits for the one before:
//!
//! ```text
//!  noting ──store──▶ sending ──broker──▶ marking ──store──▶ the original is acknowledged
//!     │ silent          │ fails             │ silent: as if it had answered
//!     └─────────────────┴──▶ it stays held, and is tried again after a pause
//! ```
//!
//! Meanwhile the store is not asked whether it may run. Whatever ends its holding in between (a cancel, the end of the channel, a drain)
//! gives it back to its queue, and the outcome of the step is not waited for: the store knows how far it had come, and is asked when the
//! original comes again.
//!
//! A message that waits for its time stays away for as long as that takes. One that waits for a run is looked at again after at most half
//! of the time that it has waited so far, and after 32 seconds at most.

use std::sync::Arc;

use super::admit::Admission;
use super::agenda::Place;
use super::channel::Channel;
use super::copies::{self, DeadLettered};
use super::dead_letter;
use super::event::Event;
use super::hold::{Held, Stay, Until};
use super::republish::{QueueKind, Republish, RepublishFault, Target};
use super::{Now, Session, Shared, StoreSilent, Ticket};
use crate::amqp::frame::Frame;
use crate::amqp::method::{MethodId, queue};
use crate::amqp::table::FieldValue;
use crate::rules::lock::{Reply, Request};
use crate::rules::outcome::{DeliveryDecision, ExceptionReason};
use crate::rules::park::{Fingerprint, ParkNote, ParkState, Seen, Token};
use crate::rules::spec::OnRunning;

/// The shortest time in a delay queue, in milliseconds.
const WAIT_MIN_MS: u64 = 1_000;

/// The longest time that a message that waits for a run stays away, in milliseconds.
const WAIT_MAX_MS: u64 = 32_000;

/// What is written of a copy lives for so much longer than the copy is to stay away, in milliseconds: a day.
const NOTE_MS: u64 = 86_400_000;

/// The pause after the first attempt that has failed, in microseconds; each further one takes twice as long.
const PAUSE_US: u64 = 30_000_000;

/// The pause where too much was on its way, in microseconds.
const FULL_US: u64 = 1_000_000;

/// The longest pause, in microseconds.
const PAUSE_MAX_US: u64 = 480_000_000;

/// The most quorum queues of one connection that are remembered.
const QUORUM_MAX: usize = 10_000;

/// Which copy a delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// The newest.
    This,
    /// An older one, or the original.
    Other,
}

impl Which {
    /// What a delivery that was seen so is, where this is the newest copy.
    pub(super) fn of(seen: &Seen, newest: &Token) -> Which {
        match seen {
            Seen::Copy(token) if token == newest => Which::This,
            _ => Which::Other,
        }
    }
}

/// The newest copy of a message that the store may know of.
#[derive(Debug, Clone)]
pub(super) struct Newest {
    pub token: Token,
    pub fingerprint: Fingerprint,
    /// Which one is here.
    pub which: Which,
}

/// What is known of a delivery as one that may be parked, or was.
#[derive(Debug)]
pub(super) struct Parking {
    /// The queue that it came from, if that is known.
    pub queue: Option<Arc<str>>,
    pub kind: QueueKind,
    /// When the task becomes worthless, in milliseconds since the Unix epoch.
    pub expires_ms: Option<u64>,
    /// Its newest copy, if there is one.
    pub newest: Option<Newest>,
}

/// A step on the way to elsewhere.
#[derive(Debug)]
pub(super) enum Leaving {
    /// The store is asked to note the copy.
    Noting(Token),
    /// The copy is on its way to the broker.
    Sending,
    /// The store is told that the broker has it.
    Marking,
    /// The copy is on its way to where it is dead-lettered.
    DeadLetter {
        /// Why.
        reason: &'static str,
        /// The end of the wait, in monotonic microseconds.
        until_us: u64,
    },
}

impl Leaving {
    /// True while the store has a question of it to answer.
    pub(super) fn asks(&self) -> bool {
        matches!(self, Leaving::Noting(_) | Leaving::Marking)
    }
}

impl Session {
    /// Messages that are to be published anew; each gets one answer by [`Session::handle_republished`].
    pub fn republishes(&mut self) -> &mut Vec<(Ticket, Republish)> {
        &mut self.shared.republishes
    }

    /// What became of a message that was to be published anew.
    pub fn handle_republished(&mut self, ticket: Ticket, outcome: Result<(), RepublishFault>, now: Now) {
        self.shared.now = now;
        if let Some(channel) = self.channels.get_mut(ticket.channel()) {
            if !ticket.holds() {
                channel.dead_lettered(&mut self.shared, ticket, outcome);
                return self.settle();
            }
            channel.republished(&mut self.shared, ticket.position(), outcome);
        }
        self.settle();
    }
}

impl Admission {
    /// True if it can be parked now.
    pub(super) fn is_parkable(&self, now: Now) -> bool {
        let parking = &self.parking;
        parking.queue.is_some() && parking.expires_ms.is_none_or(|expires| expires > now.unix_ms)
    }

    /// True if its copy goes elsewhere where its key runs.
    pub(super) fn is_dead_lettered(&self) -> bool {
        self.rule.on_running == OnRunning::DeadLetter && self.rule.dead_letter.is_some()
    }

    /// For how long it is to stay away, in milliseconds.
    fn wait_ms(&self, now: Now) -> u64 {
        if let (None, Some(ahead_ms)) = (&self.carry, self.eta_ahead(now)) {
            return ahead_ms.max(WAIT_MIN_MS);
        }
        if let Some(left_ms) = self.waiting().and_then(|waiting| waiting.left_ms(now.us)) {
            return left_ms.max(WAIT_MIN_MS);
        }
        let waited_ms = match (self.waiting(), self.place_ms()) {
            (Some(waiting), _) => waiting.waited_ms(now.us),
            (None, place_ms) => place_ms.map_or(0, |since| now.unix_ms.saturating_sub(since)),
        };
        (waited_ms / 2).clamp(WAIT_MIN_MS, WAIT_MAX_MS)
    }

    /// Since when it waits for another, in milliseconds since the Unix epoch, on the store's clock.
    fn place_ms(&self) -> Option<u64> {
        match (&self.carry, &self.run) {
            (Some(carry), _) => carry.since_ms,
            (None, Some(run)) => run.place_ms,
            (None, None) => self.since_ms,
        }
    }

    pub(super) fn content(&self) -> &[u8] {
        self.frames.get(self.header_at..).unwrap_or_default()
    }

    /// The same for the original and its copies.
    fn fingerprint(&self) -> Option<Fingerprint> {
        match &self.parking.newest {
            Some(newest) => Some(newest.fingerprint),
            None => copies::fingerprint(self.content(), &self.hold.claim.id),
        }
    }

    fn park_note(&self, now: Now) -> Option<ParkNote> {
        Some(ParkNote {
            fingerprint: self.fingerprint()?,
            digest: self.hold.claim.digest,
            rule: Arc::clone(&self.rule.name),
            place_ms: self.place_ms(),
            life_ms: self.wait_ms(now).saturating_add(NOTE_MS),
        })
    }

    /// The copy for the delay queue.
    fn parked(&self, token: &Token, now: Now) -> Option<Republish> {
        let queue = self.parking.queue.clone()?;
        let left_ms = self.parking.expires_ms.map(|expires| expires.saturating_sub(now.unix_ms));
        let copy = copies::parked(self.content(), token, left_ms)?;
        Some(Republish {
            header: copy.header,
            body: copy.body,
            target: Target::Delay {
                queue,
                wait_ms: self.wait_ms(now),
                kind: self.parking.kind,
            },
        })
    }

    /// The copy for the address of its rule.
    fn dead_letter(&self, reason: &str, holder: &str, now: Now) -> Option<Republish> {
        let why = DeadLettered {
            reason,
            holder,
            rule: &self.rule.name,
            queue: self.parking.queue.as_deref().unwrap_or_default(),
            at_ms: now.unix_ms,
        };
        dead_letter::copy_of(self.content(), &self.rule, &why)
    }
}

impl Channel {
    /// Begins to park a held delivery.
    pub(super) fn park(&mut self, shared: &mut Shared, number: u64) {
        let now = shared.now;
        let ticket = Ticket::of_held(number, self.number);
        self.set_stay(shared, number, Stay::Stays);
        let Some(held) = self.held.get_mut(number) else { return };
        if shared.parks_from_us > now.us {
            held.park_us = shared.parks_from_us;
            return self.schedule(shared, Place::Held(number));
        }
        // A delay queue keeps it longer than that.
        let left_ms = held.admission.waiting().and_then(|waiting| waiting.left_ms(now.us));
        if left_ms.is_some_and(|left| left < WAIT_MIN_MS) && held.back_us() > now.us + 2 * WAIT_MIN_MS * 1000 {
            held.park_us = now.us + WAIT_MIN_MS * 1000;
            return self.schedule(shared, Place::Held(number));
        }
        let note = held.admission.park_note(now).filter(|_| held.admission.is_parkable(now));
        let Some(note) = note else {
            held.park_us = u64::MAX;
            return self.schedule(shared, Place::Held(number));
        };
        if shared.parks_from_us > 0 {
            // This one tries for all.
            shared.parks_from_us = now.us + PAUSE_US;
        }
        let token = Token(format!("{:016x}", shared.nonce().0).into());
        held.until = Until::Leaving(Leaving::Noting(token.clone()));
        let request = Request::Park {
            id: Arc::clone(&held.admission.hold.claim.id),
            token,
            note: Arc::new(note),
        };
        shared.asks.push((ticket.0, request));
        self.set_stay(shared, number, Stay::Leaves);
        self.schedule(shared, Place::Held(number));
    }

    /// The store has answered a step, or it does not.
    pub(super) fn leaving_answered(&mut self, shared: &mut Shared, number: u64, answer: &Result<Reply, StoreSilent>) {
        let now = shared.now;
        let ticket = Ticket::of_held(number, self.number);
        let Some(held) = self.held.get_mut(number) else { return };
        let Until::Leaving(step) = &held.until else { return };
        let token = match step {
            Leaving::Noting(token) => token.clone(),
            // The broker has the copy, whatever the store knows of it.
            Leaving::Marking => return self.parked(shared, number),
            Leaving::Sending | Leaving::DeadLetter { .. } => return,
        };
        let silent = match answer {
            Ok(Reply::Done) => None,
            // A reply of another kind says nothing of the question.
            Ok(_) => Some(StoreSilent::Unreachable),
            Err(silent) => Some(*silent),
        };
        if let Some(silent) = silent {
            return self.stays_held(shared, number, silent.as_str());
        }
        let (Some(fingerprint), Some(republish)) = (held.admission.fingerprint(), held.admission.parked(&token, now)) else {
            return self.stays_held(shared, number, "unreadable");
        };
        // Of what is here the broker may have a copy from now on.
        held.admission.parking.newest = Some(Newest {
            token,
            fingerprint,
            which: Which::Other,
        });
        held.until = Until::Leaving(Leaving::Sending);
        shared.republishes.push((ticket, republish));
        self.schedule(shared, Place::Held(number));
    }

    fn republished(&mut self, shared: &mut Shared, number: u64, outcome: Result<(), RepublishFault>) {
        let ticket = Ticket::of_held(number, self.number);
        let Some(held) = self.held.get_mut(number) else { return };
        match (&held.until, outcome) {
            (Until::Leaving(Leaving::Sending), Ok(())) => {
                shared.parks_from_us = 0;
                held.until = Until::Leaving(Leaving::Marking);
                if let Some(request) = held.admission.parked_to(ParkState::Sent) {
                    shared.asks.push((ticket.0, request));
                }
                self.schedule(shared, Place::Held(number));
            }
            (Until::Leaving(Leaving::Sending), Err(fault)) => {
                if matches!(fault, RepublishFault::NotAvailable | RepublishFault::Refused) {
                    shared.parks_from_us = shared.now.us + PAUSE_US;
                }
                self.stays_held(shared, number, fault.as_str());
                if let (RepublishFault::Full, Some(held)) = (fault, self.held.get_mut(number)) {
                    // It was this one's turn no more than that of others.
                    held.pause_us = 0;
                    held.park_us = shared.now.us + FULL_US;
                    self.schedule(shared, Place::Held(number));
                }
            }
            (Until::Leaving(Leaving::DeadLetter { .. }), outcome) => self.dead_letter_ends(shared, number, outcome),
            _ => {}
        }
    }

    /// It could not be parked: it stays, and is tried again after a while.
    fn stays_held(&mut self, shared: &mut Shared, number: u64, reason: &'static str) {
        let now = shared.now;
        let Some(held) = self.held.get_mut(number) else { return };
        held.until = Until::Poll(held.asks_us(now));
        held.pause_us = (held.pause_us * 2).clamp(PAUSE_US, PAUSE_MAX_US);
        held.park_us = now.us.saturating_add(held.pause_us);
        shared.events.push(Event::NotParked {
            rule: Arc::clone(&held.admission.rule),
            task: Arc::clone(&held.admission.task),
            id: Arc::clone(&held.admission.hold.claim.id),
            reason,
        });
        self.set_stay(shared, number, Stay::Stays);
        self.schedule(shared, Place::Held(number));
    }

    /// The broker has the copy: the original goes.
    fn parked(&mut self, shared: &mut Shared, number: u64) {
        let Some(held) = self.take_left(shared, number) else { return };
        let admission = &held.admission;
        let reason = admission.held_for(shared.now);
        shared.admission(admission, DeliveryDecision::Parked, reason, held.holder.clone());
        // Nobody is to wait for its run behind it. Its place in its limits was told when it comes back.
        shared.leave_run(admission);
    }

    /// Takes a delivery out whose copy is elsewhere, and acknowledges it.
    fn take_left(&mut self, shared: &mut Shared, number: u64) -> Option<Held> {
        if let Some(held) = self.held.get_mut(number) {
            // No answer is waited for.
            held.until = Until::Poll(u64::MAX);
        }
        let held = self.take_held(shared, number)?;
        self.deliveries.unheld(held.admission.tag);
        self.ack_unrun(shared, held.admission.tag);
        Some(held)
    }

    /// A held delivery is not to run, and its copy goes elsewhere.
    pub(super) fn dead_letter(&mut self, shared: &mut Shared, number: u64, reason: &'static str, holder: Arc<str>) {
        let now = shared.now;
        let ticket = Ticket::of_held(number, self.number);
        let Some(held) = self.held.get_mut(number) else { return };
        // Its publish lock has gone.
        held.admission.hold.lock = None;
        let republish = held.admission.dead_letter(reason, &holder, now);
        held.holder = Some(holder);
        let lease_us = u64::try_from(held.admission.rule.lease.as_micros()).unwrap_or(u64::MAX);
        held.until = Until::Leaving(Leaving::DeadLetter {
            reason,
            until_us: now.us.saturating_add(lease_us),
        });
        match republish {
            Some(republish) => {
                shared.republishes.push((ticket, republish));
                self.schedule(shared, Place::Held(number));
            }
            // What is not published anew has no headers that can be read.
            None => self.dead_letter_ends(shared, number, Err(RepublishFault::Refused)),
        }
    }

    /// A copy is where it is dead-lettered, or it is not: the delivery does not run either way.
    pub(super) fn dead_letter_ends(&mut self, shared: &mut Shared, number: u64, outcome: Result<(), RepublishFault>) {
        let reason = match self.held.get_mut(number).map(|held| &held.until) {
            Some(Until::Leaving(Leaving::DeadLetter { reason, .. })) => *reason,
            _ => return,
        };
        let Some(held) = self.take_left(shared, number) else { return };
        let admission = &held.admission;
        let decision = match outcome {
            Ok(()) => DeliveryDecision::DeadLettered,
            Err(fault) => {
                shared.events.push(Event::Exception {
                    rule: Some(Arc::clone(&admission.rule)),
                    reason: ExceptionReason::DeadLetterFailed,
                });
                shared.events.push(Event::NotDeadLettered {
                    rule: Arc::clone(&admission.rule),
                    task: Arc::clone(&admission.task),
                    id: Arc::clone(&admission.hold.claim.id),
                    reason: fault.as_str(),
                });
                DeliveryDecision::Dropped
            }
        };
        shared.admission(admission, decision, reason, held.holder.clone());
        if let Some(holder) = &held.holder {
            shared.owes_for_dead_letter(admission, holder);
        }
        shared.not_to_run(admission);
    }
}

impl Admission {
    /// The order that its newest copy has come so far, if there is one.
    pub(super) fn parked_to(&self, state: ParkState) -> Option<Request> {
        let newest = self.parking.newest.as_ref()?;
        Some(newest.to(&self.hold.claim.id, state))
    }
}

impl Newest {
    /// The order that it has come so far.
    pub(super) fn to(&self, id: &Arc<str>, state: ParkState) -> Request {
        Request::MarkParked {
            id: Arc::clone(id),
            token: self.token.clone(),
            fingerprint: self.fingerprint,
            state,
        }
    }
}

impl Shared {
    /// A delivery is acknowledged unrun: no other copy of it is to run either.
    pub(super) fn not_to_run(&mut self, admission: &Admission) {
        self.tells.extend(admission.parked_to(ParkState::Done));
    }

    /// A delivery goes to the client.
    pub(super) fn note_handed(&mut self, admission: &Admission) {
        let is_newest = |newest: &Newest| newest.which == Which::This;
        if admission.parking.newest.as_ref().is_some_and(is_newest) {
            self.tells.extend(admission.parked_to(ParkState::Handed));
        }
    }

    /// What is known of this queue.
    pub(super) fn kind_of(&self, queue: Option<&Arc<str>>, returns: Option<u64>) -> QueueKind {
        let declared = queue.is_some_and(|queue| self.quorum.contains(&**queue));
        // Only quorum queues count that.
        if declared || returns.is_some() {
            QueueKind::Quorum
        } else {
            QueueKind::Classic
        }
    }

    /// The client declares a queue.
    pub(super) fn note_quorum(&mut self, frame: &Frame<'_>) {
        if frame.method_id() != Some(MethodId::QUEUE_DECLARE) || self.quorum.len() >= QUORUM_MAX {
            return;
        }
        let Some(declare) = queue::Declare::decode(frame.payload) else {
            return;
        };
        if declare.arguments.first(b"x-queue-type") == Some(FieldValue::LongStr(b"quorum"))
            && let Ok(name) = std::str::from_utf8(declare.queue)
        {
            self.quorum.insert(name.into());
        }
    }
}
