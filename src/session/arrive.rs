//! What the broker sends on one channel, up to its turn.
//!
//! A delivery that a rule may concern is read in full, as a publish is, and the store is asked about it. Behind an open question wait all
//! later frames of the broker on that channel, as they came, and are handled when their turn comes; but deliveries among them are read
//! and asked about at once, so that a window of messages costs one wait, not one for each.
//!
//! What ends a channel or gives everything back to the queues does not wait: the deliveries before it are void then.

use super::admit::Admission;
use super::channel::{Channel, Collect, Life};
use super::collect::room_for;
use super::seek::{Sought, may_be_copy};
use super::{Shared, Ticket};
use crate::amqp::content::ContentHeader;
use crate::amqp::frame::{self, Frame, FrameKind, Split};
use crate::amqp::method::{MethodId, basic};
use crate::celery::task;

/// How far a delivery that may have to be asked about has come.
#[derive(Debug)]
pub(super) enum Arriving {
    /// There is none.
    Idle,
    /// The method has come, the content header is next.
    Method(Vec<u8>),
    /// It is read in full first.
    Collecting(Box<Collect>),
}

/// What waits for its turn to go to the client.
#[derive(Debug)]
pub(super) enum Arrival {
    /// A delivery that the store was asked about.
    Delivery(Box<Admission>),
    /// A delivery that may have been parked.
    Sought(Box<Sought>),
    /// Frames that came after it.
    Frames(Vec<u8>),
}

impl Arrival {
    pub(super) fn size(&self) -> usize {
        match self {
            Arrival::Delivery(admission) => admission.frames.len(),
            Arrival::Sought(sought) => sought.size(),
            Arrival::Frames(frames) => frames.len(),
        }
    }

    /// When something is due for it, in monotonic microseconds.
    pub(super) fn due_us(&self) -> Option<u64> {
        match self {
            Arrival::Delivery(admission) => admission.due_us(),
            Arrival::Sought(_) | Arrival::Frames(_) => None,
        }
    }

    fn is_open(&self) -> bool {
        match self {
            Arrival::Delivery(admission) => admission.is_open(),
            Arrival::Sought(sought) => sought.is_open(),
            Arrival::Frames(_) => false,
        }
    }
}

impl Channel {
    /// True if nothing that the broker sends waits for its turn.
    #[inline]
    pub(super) fn arrives_freely(&self) -> bool {
        self.arrivals.is_empty() && matches!(self.arriving, Arriving::Idle)
    }

    /// A frame of the broker on this channel.
    pub(super) fn broker_frame(&mut self, shared: &mut Shared, frame: &Frame<'_>) {
        if self.broker_is_refused(shared, frame) || self.answers_own(shared, frame) {
            return;
        }
        match frame.kind {
            FrameKind::Method => {
                // A method where the rest of a content is due: what has come goes on as it is, and the client judges.
                self.pass_arriving(shared);
                match frame.method_id() {
                    Some(MethodId::BASIC_DELIVER) if self.asks(shared) => {
                        self.arriving = Arriving::Method(frame.raw.to_vec());
                        return;
                    }
                    Some(MethodId::CHANNEL_CLOSE | MethodId::CHANNEL_CLOSE_OK | MethodId::BASIC_RECOVER_OK) => {
                        self.forget_arrivals(shared);
                        self.forget_held(shared);
                    }
                    Some(MethodId::BASIC_CONSUME_OK) => {
                        if let Some(ok) = basic::ConsumeOk::decode(frame.payload) {
                            self.consumer_named(ok.consumer_tag);
                        }
                    }
                    _ => {}
                }
            }
            FrameKind::Header => {
                if let Arriving::Method(method) = std::mem::replace(&mut self.arriving, Arriving::Idle) {
                    return self.arriving_header(shared, method, frame);
                }
            }
            FrameKind::Body if matches!(self.arriving, Arriving::Collecting(_)) => return self.arriving_body(shared, frame),
            FrameKind::Body | FrameKind::Heartbeat | FrameKind::Other(_) => {}
        }
        if self.arrivals.is_empty() {
            self.take_turn(shared, frame);
        } else {
            self.wait_for_turn(shared, frame.raw);
        }
    }

    /// True if deliveries on this channel may be asked about.
    fn asks(&self, shared: &Shared) -> bool {
        shared.rules.admits()
            && shared.asks_deliveries
            && !shared.draining
            && !self.tx
            && self.life == Life::Open
            && self.deliveries.will_be_ours()
    }

    /// True if this delivery may have to be asked about. Without acknowledgement it could not be settled unrun.
    pub(super) fn asks_about(&self, shared: &Shared, deliver: &basic::Deliver<'_>, header: &ContentHeader<'_>) -> bool {
        let may_admit = || match task::peek(&header.properties) {
            Some(name) => shared.rules.may_admit(name),
            // A task of protocol 1 shows itself only by its body.
            None => header.properties.content_type.is_some(),
        };
        self.asks(shared) && (may_admit() || may_be_copy(deliver, header)) && self.surely_acknowledges(self.resolve(deliver.consumer_tag).1)
    }

    fn arriving_header(&mut self, shared: &mut Shared, mut frames: Vec<u8>, frame: &Frame<'_>) {
        let header = ContentHeader::decode(frame.payload);
        let left = header.as_ref().map_or(0, |header| header.body_size);
        let deliver = frames.get(frame::HEADER_LEN..).and_then(basic::Deliver::decode);
        let asks = match (&deliver, &header) {
            (Some(deliver), Some(header)) => self.asks_about(shared, deliver, header),
            _ => false,
        };
        let header_at = frames.len();
        frames.extend_from_slice(frame.raw);
        if !asks || left > shared.settings.max_message as u64 {
            return self.pass_in(shared, &frames);
        }
        shared.held_bytes += frames.len();
        let body_at = frames.len();
        frames.reserve_exact(room_for(left));
        self.arriving = Arriving::Collecting(Box::new(Collect {
            frames,
            header_at,
            body_at,
            body_frames: 0,
            left,
        }));
        if left == 0 {
            self.delivery_complete(shared);
        }
    }

    fn arriving_body(&mut self, shared: &mut Shared, frame: &Frame<'_>) {
        let Arriving::Collecting(collect) = &mut self.arriving else {
            return;
        };
        shared.held_bytes += frame.raw.len();
        collect.frames.extend_from_slice(frame.raw);
        collect.body_frames += 1;
        let Some(left) = collect.left.checked_sub(frame.payload.len() as u64) else {
            // More octets than the header announced.
            return self.pass_arriving(shared);
        };
        collect.left = left;
        if left == 0 {
            self.delivery_complete(shared);
        }
    }

    /// A delivery has been read in full.
    fn delivery_complete(&mut self, shared: &mut Shared) {
        let Arriving::Collecting(collect) = std::mem::replace(&mut self.arriving, Arriving::Idle) else {
            return;
        };
        shared.held_bytes -= collect.frames.len();
        let judged = self.judge_delivery(shared, &collect, None);
        let collect = match Sought::of(shared, *collect, judged.as_ref()) {
            Ok(sought) => return self.seek(shared, sought),
            Err(collect) => collect,
        };
        match judged {
            Some(judged) => {
                let admission = self.framed(judged, collect);
                self.ask_about(shared, admission);
            }
            None => self.pass_in(shared, &collect.frames),
        }
    }

    /// What has come of a delivery goes on in its turn, and its rest as it comes.
    fn pass_arriving(&mut self, shared: &mut Shared) {
        match std::mem::replace(&mut self.arriving, Arriving::Idle) {
            Arriving::Idle => {}
            Arriving::Method(frames) => self.pass_in(shared, &frames),
            Arriving::Collecting(collect) => {
                shared.held_bytes -= collect.frames.len();
                self.pass_in(shared, &collect.frames);
            }
        }
    }

    /// A delivery that is being read in full goes on unread, as one above `max_message` does.
    pub(super) fn stop_arriving(&mut self, shared: &mut Shared) {
        // Behind others it would not leave the memory.
        if self.arrivals.is_empty() && matches!(self.arriving, Arriving::Collecting(_)) {
            self.pass_arriving(shared);
        }
    }

    fn pass_in(&mut self, shared: &mut Shared, frames: &[u8]) {
        if self.arrivals.is_empty() {
            self.take_turns(shared, frames);
        } else {
            self.wait_for_turn(shared, frames);
        }
    }

    fn wait_for_turn(&mut self, shared: &mut Shared, frames: &[u8]) {
        shared.held_bytes += frames.len();
        if let Some(Arrival::Frames(bytes)) = self.arrivals.back_mut() {
            bytes.extend_from_slice(frames);
        } else {
            self.arrivals.push(Arrival::Frames(frames.to_vec()));
        }
    }

    fn take_turn(&mut self, shared: &mut Shared, frame: &Frame<'_>) {
        if self.broker_frame_in_turn(shared, frame).is_err() {
            shared.unknown_confirm = true;
        }
    }

    pub(super) fn take_turns(&mut self, shared: &mut Shared, mut frames: &[u8]) {
        while let Split::Frame(frame) = frame::split(frames, usize::MAX) {
            self.take_turn(shared, &frame);
            frames = frames.get(frame.raw.len()..).unwrap_or_default();
        }
    }

    /// Handles whatever has reached its turn.
    pub(super) fn advance_arrivals(&mut self, shared: &mut Shared) {
        while self.arrivals.front().is_some_and(|front| !front.is_open())
            && let Some(arrival) = self.arrivals.pop()
        {
            shared.held_bytes -= arrival.size();
            match arrival {
                Arrival::Delivery(admission) => self.admission_ends(shared, admission),
                Arrival::Sought(sought) => self.search_ends(shared, &sought),
                Arrival::Frames(frames) => self.take_turns(shared, &frames),
            }
        }
    }

    /// The deliveries that wait are void, or go back with the channel; what came after them has its turn.
    pub(super) fn forget_arrivals(&mut self, shared: &mut Shared) {
        while !self.arrivals.is_empty() {
            let ticket = Ticket::of_delivery(self.arrivals.next_position() - self.arrivals.len() as u64, self.number);
            let Some(arrival) = self.arrivals.pop() else { break };
            shared.held_bytes -= arrival.size();
            match arrival {
                Arrival::Delivery(admission) => {
                    if admission.is_open() {
                        shared.cancelled.push(ticket);
                        shared.abandon_run(ticket, &admission);
                    }
                    shared.leave(&admission);
                }
                Arrival::Sought(sought) => {
                    if sought.is_open() {
                        shared.cancelled.push(ticket);
                    }
                }
                Arrival::Frames(frames) => self.take_turns(shared, &frames),
            }
        }
        self.pass_arriving(shared);
    }

    /// Oncegate hands out no more work: the deliveries that wait go back to their queue.
    pub(super) fn withhold_arrivals(&mut self, shared: &mut Shared) {
        for (position, arrival) in self.arrivals.iter_mut() {
            let ticket = Ticket::of_delivery(position, self.number);
            if arrival.is_open() {
                shared.cancelled.push(ticket);
            }
            match arrival {
                Arrival::Delivery(admission) => {
                    if admission.is_open() {
                        shared.abandon_run(ticket, admission);
                    }
                    admission.withhold();
                }
                // It is kept from the client as any other that comes from now on.
                Arrival::Sought(sought) => sought.pass(),
                Arrival::Frames(_) => {}
            }
        }
        self.advance_arrivals(shared);
        self.pass_arriving(shared);
    }

    /// All deliveries that wait go to the client without a decision.
    pub(super) fn let_arrivals_go(&mut self, shared: &mut Shared, reason: &'static str) {
        while self.let_oldest_arrival_go(shared, reason) {}
        self.pass_arriving(shared);
    }

    /// Gives up the wait of the delivery that waits longest. True if there was one.
    pub(super) fn let_oldest_arrival_go(&mut self, shared: &mut Shared, reason: &'static str) -> bool {
        let mut arrivals = self.arrivals.iter_mut();
        let Some((position, arrival)) = arrivals.find(|(_, arrival)| arrival.is_open()) else {
            return false;
        };
        match arrival {
            Arrival::Delivery(admission) => admission.go_unchecked(reason),
            Arrival::Sought(sought) => sought.pass(),
            Arrival::Frames(_) => {}
        }
        drop(arrivals);
        shared.cancelled.push(Ticket::of_delivery(position, self.number));
        self.advance_arrivals(shared);
        true
    }

    /// Since when the oldest delivery of this channel waits.
    pub(super) fn oldest_arrival_us(&self) -> Option<u64> {
        match self.arrivals.front()? {
            Arrival::Delivery(admission) => Some(admission.hold.judged_us),
            Arrival::Sought(sought) => Some(sought.since_us),
            Arrival::Frames(_) => None,
        }
    }

    /// The admission at this position, if its question is open.
    pub(super) fn open_admission(&mut self, position: u64) -> Option<&mut Admission> {
        match self.arrivals.at(position)? {
            Arrival::Delivery(admission) => Some(admission)
                .filter(|admission| admission.is_open())
                .map(|admission| &mut **admission),
            Arrival::Sought(_) | Arrival::Frames(_) => None,
        }
    }
}
