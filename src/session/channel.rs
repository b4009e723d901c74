//! One channel: what each frame on it means, in both directions, and in which state that leaves it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::agenda::Agenda;
use super::arrive::{Arrival, Arriving};
use super::confirm::Ledger;
use super::dead_letter::DeadLetters;
use super::declare::Declarations;
use super::deliver::{Consumer, Deliveries, Known, Pass, Standing};
use super::event::Event;
use super::hear::{Mailbox, Told};
use super::hold::HeldList;
use super::kept::Kept;
use super::publish::{Publish, Queue, Waiting};
use super::refuse::Refused;
use super::window::{Via, Windows};
use super::{Shared, Ticket};
use crate::amqp::frame::{Frame, FrameKind};
use crate::amqp::method::{MethodId, basic};
use crate::celery::control::Ask;
use crate::rules::lock::Signal;
use crate::rules::park::ParkState;
use crate::rules::source::Source;

/// Which close handshake a channel is in.
#[derive(Debug, PartialEq, Eq)]
pub enum Life {
    /// None: frames mean what they say.
    Open,
    /// The client has sent `channel.close`; the broker's `close-ok` ends the channel.
    ClientClosing,
    /// The broker has sent `channel.close` and ignores all but the client's `close-ok`, which ends the channel.
    BrokerClosing,
    /// Oncegate closes it on both legs.
    Refused(Box<Refused>),
    /// The handshake is complete: the number is free again, and the client has sent these frames for its next channel.
    Followed(Vec<u8>),
    /// The handshake is complete: the number is free again.
    Gone,
}

/// Where the client is inside a publish.
#[derive(Debug)]
pub(super) enum Up {
    /// Between contents.
    Idle,
    /// The method has come, the content header is next.
    Method(Vec<u8>),
    /// A publish that a rule may concern is read in full first.
    Collecting(Box<Collect>),
    /// The rest of the body goes as it comes.
    Passing(u64),
}

/// A publish as far as it has come.
#[derive(Debug)]
pub(super) struct Collect {
    pub frames: Vec<u8>,
    pub header_at: usize,
    pub body_at: usize,
    pub body_frames: usize,
    pub left: u64,
}

/// Where the broker is inside a content.
#[derive(Debug)]
pub(super) enum Down {
    /// Between contents.
    Idle,
    /// The method has come, the content header is next.
    Method(Vec<u8>),
    /// The rest of the body goes as it comes.
    Passing(u64),
    /// The rest of the body is not for the client.
    Swallowing(u64),
}

/// One channel.
#[derive(Debug)]
pub struct Channel {
    pub(super) number: u16,
    pub(super) life: Life,
    pub(super) up: Up,
    pub(super) down: Down,
    /// From `tx.select` on the channel is transparent both ways.
    pub(super) tx: bool,
    pub(super) ledger: Ledger,
    pub(super) queue: Queue<Waiting>,
    pub(super) kept: BTreeMap<Ticket, Kept>,
    pub(super) dead_letters: DeadLetters,
    /// Kept publishes that may go, once the content that is on its way to the broker has ended.
    pub(super) after_publish: Queue<Publish>,
    pub(super) deliveries: Deliveries,
    pub(super) consumers: Vec<Consumer>,
    /// For each `basic.get` that the broker has not answered: whether its message needs no acknowledgement.
    pub(super) gets: VecDeque<bool>,
    /// Frames of Oncegate's own that wait for the end of the broker's content.
    pub(super) after_content: Vec<u8>,
    /// The delivery that the broker is sending, if it may have to be asked about.
    pub(super) arriving: Arriving,
    /// What the broker has sent and the client has not, in order: deliveries that were asked about, and what came after them.
    pub(super) arrivals: Queue<Arrival>,
    /// What is neither shown to the client nor settled for now.
    pub(super) held: HeldList,
    pub(super) windows: Windows,
    /// Acknowledgements of Oncegate's own that wait for the end of the client's content.
    pub(super) own_acks: Vec<u8>,
    /// Its client is gone: all that was out has been given back to its queue, also what was still on its way, or will return with the
    /// connection, as nothing more can be said behind a publish that is half out.
    pub(super) given_back: bool,
    pub(super) declarations: Declarations,
    pub(super) agenda: Agenda,
}

impl Channel {
    pub(super) fn new(number: u16, first_position: u64) -> Channel {
        Channel {
            number,
            life: Life::Open,
            up: Up::Idle,
            down: Down::Idle,
            tx: false,
            ledger: Ledger::default(),
            queue: Queue::starting_at(first_position),
            kept: BTreeMap::new(),
            dead_letters: DeadLetters::new(),
            after_publish: Queue::starting_at(0),
            deliveries: Deliveries::default(),
            consumers: Vec::new(),
            gets: VecDeque::new(),
            after_content: Vec::new(),
            arriving: Arriving::Idle,
            arrivals: Queue::starting_at(first_position),
            held: HeldList::default(),
            windows: Windows::default(),
            own_acks: Vec::new(),
            given_back: false,
            declarations: Declarations::default(),
            agenda: Agenda::default(),
        }
    }

    /// True if no publish waits, is kept, or dead-lettered, or has a claim that the broker has not spoken on.
    pub fn settled(&self) -> bool {
        let waits = !self.queue.is_empty() || !self.kept.is_empty() || !self.after_publish.is_empty() || !self.dead_letters.is_empty();
        !waits && self.ledger.open_grants() == 0
    }

    /// A frame of the client on this channel.
    pub(super) fn client_frame(&mut self, shared: &mut Shared, frame: &Frame<'_>) {
        if self.client_is_refused(shared, frame) {
            return;
        }
        if self.life == Life::BrokerClosing || self.life == Life::Gone {
            shared.to_broker.extend_from_slice(frame.raw);
            if frame.method_id() == Some(MethodId::CHANNEL_CLOSE_OK) {
                self.life = Life::Gone;
            }
            return;
        }
        match frame.kind {
            FrameKind::Method => self.client_method(shared, frame),
            FrameKind::Header => self.client_header(shared, frame),
            FrameKind::Body => self.client_body(shared, frame),
            FrameKind::Heartbeat | FrameKind::Other(_) => self.pass_on(shared, frame.raw),
        }
    }

    fn client_method(&mut self, shared: &mut Shared, frame: &Frame<'_>) {
        self.abort_content(shared);
        let id = frame.method_id();
        match id {
            Some(MethodId::BASIC_PUBLISH) => {
                self.up = Up::Method(frame.raw.to_vec());
                return;
            }
            Some(MethodId::BASIC_ACK | MethodId::BASIC_NACK | MethodId::BASIC_REJECT) => return self.client_settles(shared, frame),
            Some(MethodId::BASIC_RECOVER) if !self.tx => {
                self.client_recovers(shared);
                self.deliveries.recover();
            }
            Some(MethodId::BASIC_RECOVER_ASYNC) if !self.tx => {
                self.client_recovers(shared);
                self.deliveries.recover_unanswered();
            }
            Some(MethodId::CONFIRM_SELECT) => {
                self.ledger.client_selects();
                if self.queue.is_empty() {
                    self.ledger.broker_counts();
                }
            }
            Some(MethodId::TX_SELECT) if !self.tx => return self.client_starts_transactions(shared, frame),
            Some(MethodId::CHANNEL_CLOSE) => return self.client_closes(shared, frame),
            Some(MethodId::BASIC_CONSUME) => {
                if let Some(consume) = basic::Consume::decode(frame.payload) {
                    let mailbox = Mailbox::of_queue(consume.queue).filter(|_| consume.no_ack);
                    if let Some(mailbox) = &mailbox {
                        shared.worker = Arc::clone(&mailbox.node);
                        let node = Arc::clone(&mailbox.node);
                        shared.events.push(Event::Mailbox { node });
                    }
                    let queue = self.queue_meant(consume.queue);
                    let window = self.client_consumes(shared, &consume, queue.as_deref(), frame.raw);
                    self.consumers.push(Consumer {
                        window,
                        tag: consume.consumer_tag.to_vec(),
                        queue,
                        no_ack: consume.no_ack,
                        standing: if consume.nowait { Standing::Running } else { Standing::Asked },
                        mailbox: mailbox.map(Box::new),
                    });
                    return;
                }
            }
            // Deliveries come until the broker answers; where it does not answer, there is no better time than now.
            Some(MethodId::BASIC_CANCEL) => {
                if let Some(cancel) = basic::Cancel::decode(frame.payload) {
                    self.pass_on(shared, frame.raw);
                    self.consumer_leaves(shared, cancel.consumer_tag);
                    if cancel.nowait {
                        self.client_cancels(cancel.consumer_tag);
                    }
                    return;
                }
            }
            Some(MethodId::BASIC_QOS) => {
                if let Some(qos) = basic::Qos::decode(frame.payload) {
                    self.client_qos(shared, qos);
                }
            }
            Some(MethodId::BASIC_GET) => {
                if let Some(get) = basic::Get::decode(frame.payload) {
                    self.gets.push_back(get.no_ack);
                }
            }
            Some(MethodId { class: 40 | 50, .. }) => {
                shared.note_single_active(frame);
                shared.note_quorum(frame);
                self.client_declares(shared, frame);
            }
            _ => {}
        }
        self.pass_on(shared, frame.raw);
    }

    /// A method where the rest of a content is due: what has come goes on as it is, and the broker judges.
    fn abort_content(&mut self, shared: &mut Shared) {
        match std::mem::replace(&mut self.up, Up::Idle) {
            Up::Idle => {}
            Up::Passing(_) => self.publish_ends(shared),
            Up::Method(frames) => self.pass_on(shared, &frames),
            Up::Collecting(collect) => {
                shared.held_bytes -= collect.frames.len();
                self.pass_on(shared, &collect.frames);
            }
        }
    }

    fn client_settles(&mut self, shared: &mut Shared, frame: &Frame<'_>) {
        let Some((tag, multiple, how)) = settlement(frame) else {
            return self.pass_on(shared, frame.raw);
        };
        if self.tx && self.deliveries.is_plain() {
            return self.pass_on(shared, frame.raw);
        }
        // A word for all that waits would meet all that comes meanwhile, what is kept back, and what waits for its admission.
        let plain = self.deliveries.is_plain() && self.arrives_freely();
        let names_last = shared.draining || !self.queue.is_empty() || shared.rules.admits() || !plain;
        let (tx, mut from_own) = (self.tx, Vec::new());
        let each = |known: Known| {
            if let Via::Own(_) = known.source {
                from_own.push(known.source);
            }
            if !tx {
                shared.settled(known, how);
            }
        };
        let pass = if multiple && tag == 0 {
            self.deliveries.settle_all(names_last, each)
        } else {
            self.deliveries.settle(tag, multiple, each)
        };
        for source in from_own {
            self.source_settled(shared, source);
        }
        match pass {
            Pass::Verbatim if multiple => self.pass_on(shared, &settling(frame, tag, true)),
            Pass::Verbatim => self.pass_on(shared, frame.raw),
            Pass::Swallow => {}
            Pass::UpTo(tag) => self.pass_on(shared, &settling(frame, tag, true)),
            Pass::Singly(tags) => {
                for tag in tags {
                    self.pass_on(shared, &settling(frame, tag, false));
                }
            }
        }
    }

    fn client_closes(&mut self, shared: &mut Shared, frame: &Frame<'_>) {
        self.forget_arrivals(shared);
        self.forget_held(shared);
        self.life = Life::ClientClosing;
        if self.ledger.client_confirms() {
            self.forget_kept_unconfirmed(shared);
        }
        let (frame, until_us) = (frame.raw.to_vec(), shared.now.us + shared.settings.lease_us);
        self.wait_in_turn(shared, Waiting::Close { frame, until_us });
    }

    fn client_starts_transactions(&mut self, shared: &mut Shared, frame: &Frame<'_>) {
        self.let_arrivals_go(shared, "tx_select");
        self.give_back_all_held(shared, "tx_select");
        self.tx = true;
        let (frame, until_us) = (frame.raw.to_vec(), shared.now.us + shared.settings.lease_us);
        self.wait_in_turn(shared, Waiting::Transaction { frame, until_us });
    }

    /// A client's ack on its short way. True if it passes as it is.
    pub(super) fn quick_ack(&mut self, shared: &mut Shared, frame: &Frame<'_>) -> bool {
        if self.tx || !self.deliveries.is_plain() || self.windows.any_own() {
            return false;
        }
        let Some(ack) = basic::Ack::decode(frame.payload).filter(|ack| ack.delivery_tag != 0) else {
            return false;
        };
        self.deliveries
            .settle(ack.delivery_tag, ack.multiple, |known| shared.settled(known, Some(Signal::Acked)));
        true
    }

    /// True if a frame that needs no look may pass without waiting for anything.
    pub(super) fn passes_freely(&self) -> bool {
        self.life == Life::Open && matches!(self.up, Up::Idle) && self.queue.is_empty()
    }

    /// Notes a delivery that passes to the client; its tag for the client.
    pub(super) fn delivered(
        &mut self,
        shared: &mut Shared,
        consumer: Option<&[u8]>,
        broker: u64,
        no_ack: Option<bool>,
        task: Option<Arc<str>>,
        source: Via,
    ) -> u64 {
        let tag = self.deliveries.number(broker);
        // What a transaction settles is known while the broker has other tags for it.
        if self.tx && tag == broker && self.deliveries.is_plain() {
            return tag;
        }
        let no_ack = no_ack.unwrap_or_else(|| consumer.is_some_and(|tag| self.no_ack(tag)));
        if !no_ack {
            let known = Known {
                task,
                source,
                ..Known::default()
            };
            self.windows.shows(source);
            self.deliveries.shown(tag, broker, known);
        } else if let Some(id) = task.filter(|_| !self.tx) {
            let worker = Arc::clone(&shared.worker);
            shared.tell_signal(id, Signal::DeliveredNoAck, Source::Ack, worker, None);
        }
        tag
    }

    /// The client wants everything back in its queue.
    fn client_recovers(&mut self, shared: &mut Shared) {
        self.forget_arrivals(shared);
        self.forget_held(shared);
        self.windows.all_void();
        for hold in self.deliveries.holds() {
            shared.given_up(hold);
        }
    }

    /// Tells a worker whose mailbox is consumed here to publish task events, if they are wanted: once, when its consumer is there, or
    /// later when rules come that want them.
    pub(super) fn enable_events(&mut self, shared: &mut Shared) {
        if !shared.wants_events() || self.life != Life::Open {
            return;
        }
        let mut frames = Vec::new();
        for consumer in self.consumers.iter_mut().filter(|consumer| consumer.standing == Standing::Running) {
            let Some(mailbox) = consumer.mailbox.as_mut().filter(|mailbox| mailbox.told == Told::Nothing) else {
                continue;
            };
            mailbox.told = Told::Events;
            frames.extend(
                mailbox
                    .tell(Ask::EnableEvents, None, self.number, &consumer.tag)
                    .unwrap_or_default(),
            );
        }
        self.put_in(shared, &frames);
    }

    /// Gives the client contents of Oncegate's own, at the next boundary of the broker's.
    pub(super) fn put_in(&mut self, shared: &mut Shared, frames: &[u8]) {
        match self.down {
            Down::Idle => shared.to_client.extend_from_slice(frames),
            Down::Method(_) | Down::Passing(_) | Down::Swallowing(_) => self.after_content.extend_from_slice(frames),
        }
    }

    /// True if this consumer of the client's gets its deliveries without acknowledgement.
    pub(super) fn no_ack(&self, tag: &[u8]) -> bool {
        match self.consumers.iter().find(|consumer| consumer.tag == tag) {
            Some(consumer) => consumer.no_ack,
            // The broker has chosen a tag and was asked not to tell it. One that it is still to name sends nothing before.
            None => self
                .consumers
                .iter()
                .any(|consumer| consumer.no_ack && consumer.tag.is_empty() && consumer.standing == Standing::Running),
        }
    }

    /// True if what comes to this consumer of the client's surely needs an acknowledgement. The answers that would tell two consumers of
    /// one tag apart may wait for their turn, and one that was cancelled without an answer is not remembered.
    pub(super) fn surely_acknowledges(&self, tag: &[u8]) -> bool {
        let unnamed = |consumer: &&Consumer| consumer.tag.is_empty() && consumer.standing == Standing::Running;
        let mut of_tag = self.consumers.iter().filter(|consumer| consumer.tag == tag).peekable();
        if of_tag.peek().is_some() {
            return of_tag.all(|consumer| !consumer.no_ack);
        }
        let mut unnamed = self.consumers.iter().filter(unnamed).peekable();
        unnamed.peek().is_some() && unnamed.all(|consumer| !consumer.no_ack)
    }

    /// The client cancels a consumer and wants no answer. The answer to its `basic.consume` may still be due.
    fn client_cancels(&mut self, tag: &[u8]) {
        let meant = |consumer: &Consumer| consumer.tag == tag && consumer.standing != Standing::Left;
        let Some(index) = self.consumers.iter().position(meant) else {
            return;
        };
        if let Some(consumer) = self
            .consumers
            .get_mut(index)
            .filter(|consumer| consumer.standing == Standing::Asked)
        {
            consumer.standing = Standing::Left;
        } else {
            self.consumers.remove(index);
        }
    }

    /// A consumer is gone; another of the same tag may already have been asked for.
    pub(super) fn cancelled(&mut self, shared: &mut Shared, tag: &[u8]) {
        self.consumer_left(shared, tag);
        if let Some(index) = self.consumers.iter().position(|consumer| consumer.tag == tag) {
            self.consumers.remove(index);
        }
    }
}

/// What a client's settlement says: the tag, whether it is for all up to it, and the signal, none for a requeue.
fn settlement(frame: &Frame<'_>) -> Option<(u64, bool, Option<Signal>)> {
    match frame.method_id()? {
        MethodId::BASIC_ACK => basic::Ack::decode(frame.payload).map(|ack| (ack.delivery_tag, ack.multiple, Some(Signal::Acked))),
        MethodId::BASIC_NACK => {
            basic::Nack::decode(frame.payload).map(|nack| (nack.delivery_tag, nack.multiple, (!nack.requeue).then_some(Signal::Rejected)))
        }
        _ => basic::Reject::decode(frame.payload).map(|reject| (reject.delivery_tag, false, (!reject.requeue).then_some(Signal::Rejected))),
    }
}

/// A client's settlement with another tag, and, if it can be `multiple`, with or without that.
fn settling(frame: &Frame<'_>, tag: u64, multiple: bool) -> Vec<u8> {
    let mut rewritten = frame.raw.to_vec();
    // Frame header 7, class and method 4, then the tag of eight octets, and the octet whose first bit is `multiple`.
    if let Some(octets) = rewritten.get_mut(11..19) {
        octets.copy_from_slice(&tag.to_be_bytes());
    }
    // In `basic.reject` that is `requeue`.
    let can_be_multiple = frame.method_id() != Some(MethodId::BASIC_REJECT);
    if let Some(bits) = rewritten.get_mut(19).filter(|_| !multiple && can_be_multiple) {
        *bits &= !1;
    }
    rewritten
}

impl Shared {
    /// The worker at the other end settled a delivery; without a signal it gave it back.
    pub(super) fn settled(&mut self, known: Known, how: Option<Signal>) {
        if let Some(holder) = known.reads {
            return self.reading_taken(&holder);
        }
        match (known.task, how) {
            (Some(id), Some(signal)) => {
                let worker = Arc::clone(&self.worker);
                self.tells.extend(known.parked.map(|newest| newest.to(&id, ParkState::Done)));
                let signal = if signal == Signal::Acked { self.judge_ack(&id) } else { signal };
                self.tell_signal(id, signal, Source::Ack, worker, known.asked);
                if let Some(hold) = known.hold.filter(|_| signal == Signal::Acked) {
                    self.runs_on(*hold);
                }
            }
            (_, None) => {
                if let Some(hold) = &known.hold {
                    self.given_up(hold);
                }
            }
            (None, Some(_)) => {}
        }
    }
}
