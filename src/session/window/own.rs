//! Consumers of Oncegate's own, which read ahead for one of the client's past what is held of it.

use super::{Fit, ReadsAhead, Via, Window, is_missed, step_of};
use crate::amqp::encode;
use crate::amqp::frame::{Frame, HEADER_LEN};
use crate::amqp::method::basic::{Consume, Deliver};
use crate::amqp::method::{MethodId, queue};
use crate::amqp::table::{FieldValue, Table};
use crate::session::Shared;
use crate::session::agenda::Place;
use crate::session::channel::Channel;
use crate::session::deliver::Standing;

/// The most deliveries that one consumer of Oncegate's own makes up for.
const OWN_MAX: u16 = 32;

/// No consumer is added for the sake of what is about to be settled once others let out so many beside the client's: the client may get as
/// many more than it asked for if all that comes next is for it.
const LEAVING_MAX: usize = 256;

/// How often windows that have become too wide are made narrower, in microseconds.
const NARROW_US: u64 = 1_000_000;

/// How soon they are where the client has got what came to them, in microseconds: it has more than it asked for.
const NARROW_SOON_US: u64 = 50_000;

/// The most queues of one connection that are remembered to have one consumer at a time.
const SINGLE_ACTIVE_MAX: usize = 10_000;

/// How far a consumer of Oncegate's own is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The broker has been asked for it.
    Asked,
    /// As `Asked`, and it is to be cancelled when the broker has answered: a cancel before that would cost the channel.
    Unwanted,
    /// The broker sends to it.
    Running,
    /// The broker has answered, and it is to be cancelled.
    Answered,
    /// It is cancelled; what is on its way to it still comes.
    Cancelled,
    /// Nothing comes to it any more.
    Gone,
}

impl Step {
    /// True if its window counts.
    pub(super) fn is_live(self) -> bool {
        matches!(self, Step::Asked | Step::Running)
    }
}

/// A consumer of Oncegate's own.
#[derive(Debug)]
pub(super) struct Own {
    pub(super) number: u32,
    pub(super) tag: Vec<u8>,
    pub(super) client_tag: Vec<u8>,
    pub(super) size: u16,
    pub(super) step: Step,
    /// How many that came to it are held.
    pub(super) held: usize,
    /// How many of those are about to be settled.
    pub(super) leaving: usize,
    /// How many that came to it the client has and has not settled.
    pub(super) shown: usize,
}

impl Own {
    /// It is not wanted any more.
    pub(super) fn leave(&mut self) {
        self.step = match self.step {
            Step::Asked => Step::Unwanted,
            Step::Running => Step::Answered,
            step => step,
        };
    }
}

impl Channel {
    /// The client cancels a consumer: those that read ahead for it go too, and what is held for it goes back behind its cancel.
    pub(in crate::session) fn consumer_leaves(&mut self, shared: &mut Shared, tag: &[u8]) {
        if self.windows.own.iter().any(|own| own.client_tag == tag) {
            self.windows_change(shared);
        }
        for own in self.windows.own.iter_mut().filter(|own| own.client_tag == tag) {
            own.leave();
        }
        let has_held = self.held.len() > 0 || !self.arrivals.is_empty();
        if has_held && !self.windows.is_leaving(tag) {
            self.windows.leaving.push(tag.to_vec());
        }
        self.cancel_unwanted(shared);
        self.give_back_held_of(shared, tag);
    }

    /// A consumer of the client's is gone.
    pub(in crate::session) fn consumer_left(&mut self, shared: &mut Shared, tag: &[u8]) {
        self.windows.leaving.retain(|leaving| leaving != tag);
        if self.held.len() > 0 || self.windows.any_own() {
            for own in self.windows.own.iter_mut().filter(|own| own.client_tag == tag) {
                own.leave();
            }
            self.windows_change(shared);
            self.give_back_held_of(shared, tag);
        }
    }

    /// Which consumer this tag of the broker's is, and the client's tag for it.
    pub(in crate::session) fn resolve<'t>(&'t self, tag: &'t [u8]) -> (Via, &'t [u8]) {
        match self.windows.own.iter().find(|own| own.tag == tag) {
            Some(own) => (Via::Own(own.number), &own.client_tag),
            None => (Via::Client, tag),
        }
    }

    /// A `basic.deliver` with what follows it, with the client's tag for its consumer.
    pub(in crate::session) fn for_client(&self, frames: Vec<u8>) -> (Via, Vec<u8>) {
        if !self.windows.any_own() {
            return (Via::Client, frames);
        }
        let deliver = frames.get(HEADER_LEN..).and_then(Deliver::decode);
        let Some((source @ Via::Own(_), tag)) = deliver.map(|deliver| self.resolve(deliver.consumer_tag)) else {
            return (Via::Client, frames);
        };
        let retagged = encode::retagged(&frames, tag);
        (source, retagged.unwrap_or(frames))
    }

    /// Makes up for what is held of one consumer of the client's: by exactly as many as are held.
    pub(super) fn adjust_consumer(&mut self, shared: &mut Shared, index: usize) {
        let Some(consumer) = self.consumers.get(index) else { return };
        let Window {
            size,
            held,
            mut leaving,
            reads_ahead,
        } = consumer.window;
        let wants = size > 0 && reads_ahead == ReadsAhead::Yes && consumer.standing == Standing::Running && !consumer.tag.is_empty();
        let (mut taken, mut there) = (held, 0);
        for own in self.windows.own.iter().filter(|own| own.client_tag == consumer.tag) {
            if own.step.is_live() {
                there += usize::from(own.size);
                taken += own.held;
                leaving += own.leaving;
            } else {
                // The client has it beside its window.
                taken = taken.saturating_sub(own.shown);
            }
        }
        let wanted = if wants { taken } else { 0 };
        if wanted > there {
            let missing = wanted - there;
            let many = if there < LEAVING_MAX { step_of(size) } else { usize::MAX };
            if !is_missed(missing, leaving, many) {
                return;
            }
            let room = self.bound(shared).saturating_sub(self.held.len());
            let size = missing.min(room).min(usize::from(OWN_MAX)) as u16;
            if size > 0 {
                self.read_ahead(shared, index, size);
                self.windows.changed = missing > usize::from(size);
            }
        } else if wanted < there {
            self.narrow(shared, index, there - wanted, leaving);
        }
        if self.windows.changed {
            shared.windows = Fit::Unsure;
        }
    }

    /// Starts a consumer of Oncegate's own beside one of the client's.
    fn read_ahead(&mut self, shared: &mut Shared, index: usize, size: u16) {
        let Some(consumer) = self.consumers.get(index) else { return };
        let Some(queue) = consumer.queue.clone() else { return };
        let client_tag = consumer.tag.clone();
        self.windows.numbers += 1;
        let number = self.windows.numbers;
        let tag = format!("oncegate.{:016x}.{number}", shared.nonce().0).into_bytes();
        let mut frames = Vec::new();
        self.own_qos(&mut frames, size, false);
        let consume = Consume {
            queue: queue.as_bytes(),
            consumer_tag: &tag,
            no_local: false,
            no_ack: false,
            exclusive: false,
            nowait: false,
            arguments: Table::new(&[]),
        };
        // The tag is short, and the queue's name has come in one that was.
        let _ = encode::basic_consume(&mut frames, self.number, &consume);
        let each = self.windows.each;
        self.own_qos(&mut frames, each, false);
        shared.to_broker.append(&mut frames);
        self.windows.own.push(Own {
            number,
            tag,
            client_tag,
            size,
            step: Step::Asked,
            held: 0,
            leaving: 0,
            shown: 0,
        });
    }

    /// The consumers beside one of the client's let out too many: the smallest go, once a second. While `leaving` are on their way to
    /// elsewhere and the client has got nothing that it did not ask for, the next take their places, and none goes: a quorum queue counts
    /// what is on its way to a consumer that goes as returned.
    fn narrow(&mut self, shared: &mut Shared, index: usize, mut by: usize, leaving: usize) {
        let now_us = shared.now.us;
        let Some(consumer) = self.consumers.get(index) else { return };
        let shown = |own: &Own| own.client_tag == consumer.tag && own.shown > 0;
        let is_too_wide = self.windows.own.iter().any(shown);
        let soonest_us = now_us + if is_too_wide { NARROW_SOON_US } else { NARROW_US };
        let due_us = match self.windows.narrow_us {
            Some(us) if us > now_us || is_too_wide || leaving == 0 => us.min(soonest_us),
            _ => soonest_us,
        };
        self.windows.narrow_us = Some(due_us);
        if due_us > now_us {
            return self.schedule(shared, Place::Windows);
        }
        self.windows.narrow_us = None;
        let of_it = |own: &&mut Own| own.client_tag == consumer.tag && own.step.is_live();
        let mut own: Vec<&mut Own> = self.windows.own.iter_mut().filter(of_it).collect();
        own.sort_by_key(|own| own.size);
        for own in own {
            if by == 0 {
                break;
            }
            by = by.saturating_sub(usize::from(own.size));
            own.leave();
        }
        // What was taken away too much is made up for.
        self.windows_change(shared);
    }

    /// Cancels the consumers of Oncegate's own that are not wanted any more and that the broker has answered.
    pub(super) fn cancel_unwanted(&mut self, shared: &mut Shared) {
        let frames = self.cancels();
        if !frames.is_empty() {
            self.pass_on(shared, &frames);
        }
    }

    /// The client is gone: none is wanted, whatever waits.
    pub(in crate::session) fn leave_own(&mut self, shared: &mut Shared) {
        for own in &mut self.windows.own {
            own.leave();
        }
        let frames = self.cancels();
        shared.to_broker.extend_from_slice(&frames);
    }

    fn cancels(&mut self) -> Vec<u8> {
        let mut frames = Vec::new();
        for own in self.windows.own.iter_mut().filter(|own| own.step == Step::Answered) {
            own.step = Step::Cancelled;
            // The tag is short.
            let _ = encode::basic_cancel(&mut frames, self.number, &own.tag, false);
        }
        frames
    }

    /// Oncegate hands out no more work: none of its own consumers is wanted.
    pub(in crate::session) fn stop_reading_ahead(&mut self, shared: &mut Shared) {
        for own in &mut self.windows.own {
            own.leave();
        }
        self.cancel_unwanted(shared);
    }
}

impl Shared {
    /// The client declares a queue: of some a second consumer would get nothing, or once more what the first one has.
    pub(in crate::session) fn note_single_active(&mut self, frame: &Frame<'_>) {
        if frame.method_id() != Some(MethodId::QUEUE_DECLARE) || self.single_active.len() >= SINGLE_ACTIVE_MAX {
            return;
        }
        let Some(declare) = queue::Declare::decode(frame.payload) else {
            return;
        };
        let argument = |name: &[u8]| declare.arguments.first(name);
        let takes_turns = matches!(argument(b"x-single-active-consumer"), Some(FieldValue::Bool(true)));
        let is_stream = matches!(argument(b"x-queue-type"), Some(FieldValue::LongStr(b"stream")));
        if (takes_turns || is_stream)
            && let Ok(name) = std::str::from_utf8(declare.queue)
        {
            self.single_active.insert(name.into());
        }
    }
}
