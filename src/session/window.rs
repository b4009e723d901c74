//! How many deliveries the broker lets out to a client: as many as the client wants, and those that are held.
//!
//! A held delivery takes a place at the broker that the client could use, so the broker is told of a wider window, by exactly the number
//! held. A window of the channel (`basic.qos` with `global`) is told anew. One of a consumer cannot be changed, so what is held of it is
//! made up for by further consumers of Oncegate's own on the same queue and channel, whose deliveries are given the client's tag: one
//! whose deliveries are all held is cancelled, as they count no longer then, and another takes its place.
//!
//! Of answers on one channel only those to the same method come in the order of the questions: `qos-ok` is matched by count, the answers
//! about consumers by their tag.

mod own;

use std::collections::VecDeque;

use super::admit::Admission;
use super::agenda::Place;
use super::channel::{Channel, Life, Up};
use super::deliver::Consumer;
use own::{Own, Step};

use super::{BrokerEnd, ClientEnd, Session, Shared};
use crate::amqp::encode;
use crate::amqp::frame::Frame;
use crate::amqp::method::basic::{Consume, Qos};
use crate::amqp::method::{MethodId, basic};

/// The window of a client that wants no limit, while a rule can hold deliveries of its queue.
pub(super) const UNLIMITED: u16 = 1_000;

/// The most by which windows change at once for the sake of what is about to be settled.
const STEP_MAX: usize = 16;

/// How long a window stays as it is once too much was held, in microseconds.
const BOUND_US: u64 = 30_000_000;

/// Whether the windows at the broker are what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// They are.
    Right,
    /// They have to be looked at.
    Unsure,
}

/// Which consumer at the broker a delivery came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Via {
    /// The client's.
    #[default]
    Client,
    /// The one of Oncegate's own with this number.
    Own(u32),
}

/// Whether further consumers may read ahead for one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ReadsAhead {
    /// None may: it needs no acknowledgement, or wants its queue for itself.
    #[default]
    No,
    /// They may.
    Yes,
}

/// What the broker lets out to one consumer of the client's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Window {
    /// Its window at the broker, 0 for none of its own.
    pub size: u16,
    /// How many that came to it are held.
    pub held: usize,
    /// How many of those are about to be settled, as they are on their way to elsewhere.
    pub leaving: usize,
    /// Whether further consumers may read ahead for it.
    pub reads_ahead: ReadsAhead,
}

/// Who has asked for something that the broker answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asker {
    Client,
    Own,
}

/// The windows of one channel.
#[derive(Debug, Default)]
pub(super) struct Windows {
    own: Vec<Own>,
    numbers: u32,
    /// The client's window for the whole channel, 0 for none.
    global: u16,
    /// The client's window for consumers that come later, 0 for none.
    each: u16,
    /// The window of the whole channel at the broker.
    told: u16,
    /// The `basic.qos` that the broker has not answered.
    asked: VecDeque<Asker>,
    /// Consumers that the client has cancelled and the broker has not.
    leaving: Vec<Vec<u8>>,
    /// When windows are looked at for being too wide, in monotonic microseconds.
    narrow_us: Option<u64>,
    /// No window is wider than by so many, until this time in monotonic microseconds.
    bound: Option<(usize, u64)>,
    changed: bool,
}

impl Windows {
    /// True if deliveries may come to consumers of Oncegate's own.
    pub(super) fn any_own(&self) -> bool {
        !self.own.is_empty()
    }

    /// True if the client has cancelled this consumer.
    pub(super) fn is_leaving(&self, tag: &[u8]) -> bool {
        self.leaving.iter().any(|leaving| leaving == tag)
    }

    /// When they are to be looked at, in monotonic microseconds.
    pub(super) fn due_us(&self) -> Option<u64> {
        let bound_us = self.bound.map(|(_, until_us)| until_us);
        self.narrow_us.into_iter().chain(bound_us).min()
    }

    /// The client is shown a delivery that came to this consumer.
    pub(super) fn shows(&mut self, source: Via) {
        if let Via::Own(number) = source
            && let Some(own) = self.own.iter_mut().find(|own| own.number == number)
        {
            own.shown += 1;
        }
    }

    fn settles(&mut self, source: Via) {
        if let Via::Own(number) = source
            && let Some(own) = self.own.iter_mut().find(|own| own.number == number)
        {
            own.shown = own.shown.saturating_sub(1);
            self.changed = true;
        }
    }

    /// Nothing that was out is out any more.
    pub(super) fn all_void(&mut self) {
        for own in &mut self.own {
            own.shown = 0;
        }
    }
}

/// How many of what came to the consumer of a delivery are held, and how many of those are about to be settled.
pub(super) fn tally<'t>(
    windows: &'t mut Windows,
    consumers: &'t mut [Consumer],
    admission: &Admission,
) -> Option<(&'t mut usize, &'t mut usize)> {
    if let Via::Own(number) = admission.source {
        let own = windows.own.iter_mut().find(|own| own.number == number)?;
        return Some((&mut own.held, &mut own.leaving));
    }
    let consumer = admission.consumer();
    let known = consumers.iter_mut().find(|known| known.tag == consumer)?;
    Some((&mut known.window.held, &mut known.window.leaving))
}

/// By how many at a time a window changes for the sake of what is about to be settled: a part of what the client wants.
fn step_of(size: u16) -> usize {
    usize::from(size / 2).clamp(1, STEP_MAX)
}

/// True if the broker is to let out more. What is about to be settled makes room by itself in a moment, so only where much of the window
/// is taken by it more is wanted: to tell the broker of each would cost it more than the deliveries do.
fn is_missed(missing: usize, leaving: usize, step: usize) -> bool {
    missing > leaving || missing >= step
}

impl Session {
    /// Makes the windows what they should be, as far as they can be told now.
    pub(super) fn adjust_windows(&mut self) {
        self.shared.windows = Fit::Right;
        // Between bytes that are no frames nothing can be said to the broker.
        if self.broker_end != BrokerEnd::Open || self.client_end != ClientEnd::Open || self.client_raw {
            return;
        }
        for channel in &mut self.channels.open {
            if !channel.adjust_windows(&mut self.shared) {
                self.shared.windows = Fit::Unsure;
            }
        }
    }
}

impl Channel {
    /// How much is held has changed, or what the client wants.
    pub(super) fn windows_change(&mut self, shared: &mut Shared) {
        self.windows.changed = true;
        shared.windows = Fit::Unsure;
    }

    /// The client has settled a delivery that came to this consumer.
    pub(super) fn source_settled(&mut self, shared: &mut Shared, source: Via) {
        self.windows.settles(source);
        if self.windows.changed {
            shared.windows = Fit::Unsure;
        }
    }

    /// One more delivery is held, or one less.
    pub(super) fn note_held(&mut self, admission: &Admission, change: isize) {
        if let Some((held, _)) = tally(&mut self.windows, &mut self.consumers, admission) {
            *held = held.saturating_add_signed(change);
        }
    }

    /// Too much is held: for a while no more than now is made up for.
    pub(super) fn bound_window(&mut self, shared: &mut Shared) {
        let until_us = shared.now.us + BOUND_US;
        self.windows.bound = Some((self.held.len(), until_us));
        self.windows.narrow_us = Some(shared.now.us);
        self.windows_change(shared);
        self.schedule(shared, Place::Windows);
    }

    /// The client tells of a window.
    pub(super) fn client_qos(&mut self, shared: &mut Shared, qos: Qos) {
        self.windows.asked.push_back(Asker::Client);
        if qos.global {
            (self.windows.global, self.windows.told) = (qos.prefetch_count, qos.prefetch_count);
        } else {
            self.windows.each = qos.prefetch_count;
        }
        if self.held.len() > 0 {
            self.windows_change(shared);
        }
    }

    /// The client consumes. What goes to the broker is appended: the frame, with a window around it if the client wants none.
    pub(super) fn client_consumes(&mut self, shared: &mut Shared, consume: &Consume<'_>, queue: Option<&str>, raw: &[u8]) -> Window {
        self.windows.leaving.retain(|tag| tag != consume.consumer_tag);
        // With arguments of its own it may read a stream, or be one of many that take turns by priority.
        let plain = consume.arguments.raw().is_empty() && !queue.is_some_and(|queue| shared.single_active.contains(queue));
        let alone = consume.no_ack || consume.exclusive || !plain;
        let mut window = Window {
            size: self.windows.each,
            held: 0,
            leaving: 0,
            reads_ahead: if alone { ReadsAhead::No } else { ReadsAhead::Yes },
        };
        let unlimited = self.windows.each == 0 && self.windows.global == 0;
        if self.tx || !unlimited || consume.no_ack || !shared.rules.may_hold(queue) {
            self.pass_on(shared, raw);
            return window;
        }
        window.size = UNLIMITED;
        let mut frames = Vec::new();
        self.own_qos(&mut frames, UNLIMITED, false);
        frames.extend_from_slice(raw);
        self.own_qos(&mut frames, 0, false);
        self.pass_on(shared, &frames);
        window
    }

    fn own_qos(&mut self, out: &mut Vec<u8>, prefetch_count: u16, global: bool) {
        let qos = Qos {
            prefetch_size: 0,
            prefetch_count,
            global,
        };
        encode::basic_qos(out, self.number, qos);
        self.windows.asked.push_back(Asker::Own);
    }

    /// True if a frame of the broker's answers Oncegate: it goes no further.
    pub(super) fn answers_own(&mut self, shared: &mut Shared, frame: &Frame<'_>) -> bool {
        let Some(id) = frame.method_id() else { return false };
        if id == MethodId::BASIC_QOS_OK {
            return self.windows.asked.pop_front() == Some(Asker::Own);
        }
        if !self.windows.any_own() {
            return false;
        }
        let tag = match id {
            MethodId::BASIC_CONSUME_OK => basic::ConsumeOk::decode(frame.payload).map(|ok| ok.consumer_tag),
            MethodId::BASIC_CANCEL_OK => basic::CancelOk::decode(frame.payload).map(|ok| ok.consumer_tag),
            MethodId::BASIC_CANCEL => basic::Cancel::decode(frame.payload).map(|cancel| cancel.consumer_tag),
            _ => None,
        };
        let Some(own) = self.windows.own.iter_mut().find(|own| Some(&*own.tag) == tag) else {
            return false;
        };
        own.step = match own.step {
            _ if id != MethodId::BASIC_CONSUME_OK => Step::Gone,
            Step::Asked => Step::Running,
            Step::Unwanted => Step::Answered,
            step => step,
        };
        self.windows_change(shared);
        true
    }

    /// True if nothing of Oncegate's own can be said to the broker on this channel now.
    fn is_mute(&self) -> bool {
        self.given_back || self.tx || self.life != Life::Open || !self.queue.is_empty() || matches!(self.up, Up::Passing(_))
    }

    /// Makes the windows what they should be. False if that has to wait.
    pub(super) fn adjust_windows(&mut self, shared: &mut Shared) -> bool {
        if !self.windows.changed || self.given_back || self.tx || self.life != Life::Open {
            return true;
        }
        if self.is_mute() {
            return false;
        }
        self.windows.changed = false;
        if self.windows.bound.is_some_and(|(_, until_us)| shared.now.us >= until_us) {
            self.windows.bound = None;
        }
        self.adjust_global(shared);
        let arrivals = self.arrivals.is_empty();
        let done = |own: &Own| own.step == Step::Gone && own.held == 0 && own.shown == 0 && arrivals;
        self.windows.own.retain(|own| !done(own));
        for own in &mut self.windows.own {
            // What is held no longer counts against a consumer that is cancelled.
            if own.step == Step::Running && own.held >= usize::from(own.size) && own.leaving == 0 {
                own.step = Step::Answered;
            }
        }
        if !shared.draining {
            for index in 0..self.consumers.len() {
                self.adjust_consumer(shared, index);
            }
        }
        self.cancel_unwanted(shared);
        true
    }

    /// How many held deliveries may be made up for at most.
    fn bound(&self, shared: &Shared) -> usize {
        let most = shared.settings.held_max;
        match self.windows.bound {
            Some((bound, _)) => bound.min(most),
            None => most,
        }
    }

    fn adjust_global(&mut self, shared: &mut Shared) {
        if self.windows.global == 0 || shared.draining {
            return;
        }
        let window = usize::from(self.windows.global);
        // The bound is on all that is held, and what the client is to have may come to be held too.
        let wider = self.held.len().min(self.bound(shared).saturating_sub(window));
        let wanted = u16::try_from(window + wider).unwrap_or(u16::MAX);
        let (leaving, step) = (self.held.leaving(), step_of(self.windows.global));
        let differs = match wanted.checked_sub(self.windows.told).map(usize::from) {
            Some(missing) => is_missed(missing, leaving, step),
            None => leaving == 0 || usize::from(self.windows.told - wanted) >= step,
        };
        if differs {
            self.windows.told = wanted;
            let mut frame = Vec::new();
            self.own_qos(&mut frame, wanted, true);
            shared.to_broker.append(&mut frame);
        }
    }
}
