//! One channel: what each frame on it means, in both directions, and in which state that leaves it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::confirm::{Ledger, Outcome, UnknownTag};
use super::deliver::{Consumer, Deliveries, Pass};
use super::event::{Event, PublishEvent};
use super::publish::{Grant, Publish, Queue, Wait, Waiting};
use super::{Shared, Ticket};
use crate::amqp::encode;
use crate::amqp::frame::{Frame, FrameKind};
use crate::amqp::method::{MethodId, basic, queue};
use crate::rules::lock::{ReleaseReason, Request, Signal};
use crate::rules::outcome::PublishDecision;

/// Which close handshake a channel is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// None: frames mean what they say.
    Open,
    /// The client has sent `channel.close`; the broker's `close-ok` ends the channel.
    ClientClosing,
    /// The broker has sent `channel.close` and ignores all but the client's `close-ok`, which ends the channel.
    BrokerClosing,
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
    pub(super) queue: Queue,
    pub(super) kept: BTreeMap<Ticket, Publish>,
    /// Kept publishes that may go, once the content that is on its way to the broker has ended.
    pub(super) after_publish: Vec<Publish>,
    pub(super) deliveries: Deliveries,
    pub(super) consumers: Vec<Consumer>,
    /// For each `basic.get` that the broker has not answered: whether its message needs no acknowledgement.
    pub(super) gets: VecDeque<bool>,
    /// Frames of Oncegate's own that wait for the end of the broker's content.
    pub(super) after_content: Vec<u8>,
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
            after_publish: Vec::new(),
            deliveries: Deliveries::default(),
            consumers: Vec::new(),
            gets: VecDeque::new(),
            after_content: Vec::new(),
        }
    }

    /// True if no publish waits, is kept, or has a claim that the broker has not spoken on.
    pub fn settled(&self) -> bool {
        self.queue.is_empty() && self.kept.is_empty() && self.after_publish.is_empty() && self.ledger.open_grants() == 0
    }

    /// A frame of the client on this channel.
    pub(super) fn client_frame(&mut self, shared: &mut Shared, frame: &Frame<'_>) {
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
            Some(MethodId::BASIC_RECOVER | MethodId::BASIC_RECOVER_ASYNC) if !self.tx => self.deliveries.clear(),
            Some(MethodId::CONFIRM_SELECT) => {
                self.ledger.client_selects();
                if self.queue.is_empty() {
                    self.ledger.broker_counts();
                }
            }
            Some(MethodId::TX_SELECT) => self.tx = true,
            Some(MethodId::CHANNEL_CLOSE) => return self.client_closes(shared, frame),
            Some(MethodId::BASIC_CONSUME) => {
                if let Some(consume) = basic::Consume::decode(frame.payload) {
                    self.consumers.push(Consumer {
                        tag: consume.consumer_tag.to_vec(),
                        no_ack: consume.no_ack,
                    });
                }
            }
            // Deliveries come until the broker answers; where it does not answer, there is no better time than now.
            Some(MethodId::BASIC_CANCEL) => {
                if let Some(cancel) = basic::Cancel::decode(frame.payload).filter(|cancel| cancel.nowait) {
                    self.cancelled(cancel.consumer_tag);
                }
            }
            Some(MethodId::BASIC_GET) => {
                if let Some(get) = basic::Get::decode(frame.payload) {
                    self.gets.push_back(get.no_ack);
                }
            }
            Some(MethodId::QUEUE_BIND) => {
                if let Some(bind) = queue::Bind::decode(frame.payload) {
                    shared.bindings.add(bind.exchange, bind.routing_key, bind.queue);
                }
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

    /// Forwards frames in their turn.
    pub(super) fn pass_on(&mut self, shared: &mut Shared, frames: &[u8]) {
        if self.queue.is_empty() {
            shared.to_broker.extend_from_slice(frames);
            return;
        }
        shared.held_bytes += frames.len();
        if let Some(Waiting::Frames(bytes)) = self.queue.back_mut() {
            bytes.extend_from_slice(frames);
        } else {
            self.queue.push(Waiting::Frames(frames.to_vec()));
        }
    }

    fn client_settles(&mut self, shared: &mut Shared, frame: &Frame<'_>) {
        let Some((tag, multiple, how)) = settlement(frame) else {
            return self.pass_on(shared, frame.raw);
        };
        if self.tx {
            return self.pass_on(shared, frame.raw);
        }
        let pass = match how {
            Some(signal) => self.deliveries.settle(tag, multiple, |id| shared.signal(id, signal)),
            None => self.deliveries.requeue(tag, multiple),
        };
        match pass {
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
        self.life = Life::ClientClosing;
        if self.ledger.client_confirms() {
            self.forget_kept_unconfirmed(shared);
        }
        let until_us = shared.now.us + shared.settings.lease_us;
        shared.wake_at(until_us);
        shared.held_bytes += frame.raw.len();
        self.queue.push(Waiting::Close {
            frame: frame.raw.to_vec(),
            until_us,
        });
        self.advance(shared);
    }

    /// Forgets the kept publishes whose confirm the client does not wait for any more. One that it sent before it asked for confirms
    /// counts as sent, and is decided.
    pub(super) fn forget_kept_unconfirmed(&mut self, shared: &mut Shared) {
        let (plain, unconfirmed) = std::mem::take(&mut self.kept)
            .into_iter()
            .partition(|(_, publish)| publish.client == 0);
        self.kept = unconfirmed;
        self.forget_kept(shared);
        self.kept = plain;
    }

    pub(super) fn forget_kept(&mut self, shared: &mut Shared) {
        for (ticket, publish) in std::mem::take(&mut self.kept) {
            shared.held_bytes -= publish.frames.len();
            // The store asks no more for it then; what it was given just before goes back.
            shared.cancelled.push(ticket);
            if let Some(grant) = publish.grant {
                shared.unpublish(&grant, ReleaseReason::Unconfirmed);
            }
        }
    }

    pub(super) fn forget_ready(&mut self, shared: &mut Shared) {
        for publish in std::mem::take(&mut self.after_publish) {
            shared.held_bytes -= publish.frames.len();
            if let Some(grant) = publish.grant {
                shared.unpublish(&grant, ReleaseReason::Unconfirmed);
            }
        }
    }

    /// Sends whatever has reached its turn, and the confirms that are due.
    pub(super) fn advance(&mut self, shared: &mut Shared) {
        while let Some(front) = self.queue.front() {
            match front {
                Waiting::Publish { wait: Wait::Turn, .. } | Waiting::Passing { .. } | Waiting::Frames(_) | Waiting::Gone => {}
                Waiting::Publish { .. } => break,
                Waiting::Close { until_us, .. } => {
                    if (self.ledger.open_grants() > 0 || !self.kept.is_empty()) && shared.now.us < *until_us {
                        break;
                    }
                    self.send_all_kept(shared);
                }
            }
            let Some(item) = self.queue.pop() else { break };
            shared.held_bytes -= item.size();
            match item {
                Waiting::Publish { publish, .. } => self.send(shared, publish),
                Waiting::Passing { frames, client } => {
                    shared.to_broker.extend_from_slice(&frames);
                    self.ledger.sent(client, None);
                }
                Waiting::Frames(frames) => {
                    self.frames_leave(&frames);
                    shared.to_broker.extend_from_slice(&frames);
                }
                Waiting::Close { frame, .. } => shared.to_broker.extend_from_slice(&frame),
                Waiting::Gone => {}
            }
        }
        self.write_confirms(shared);
    }

    /// True while the broker has been sent the beginning of a publish and not yet its end.
    fn inside_publish(&self) -> bool {
        // What waits behind others has not begun to leave.
        matches!(self.up, Up::Passing(_)) && self.queue.is_empty()
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

    /// The client's content has ended: what waited for that goes.
    pub(super) fn publish_ends(&mut self, shared: &mut Shared) {
        for publish in std::mem::take(&mut self.after_publish) {
            shared.held_bytes -= publish.frames.len();
            self.send(shared, publish);
        }
    }

    /// A `confirm.select` that waited counts from where it leaves.
    fn frames_leave(&mut self, frames: &[u8]) {
        if self.ledger.client_confirms() && !self.ledger.counting() {
            let mut rest = frames;
            while let crate::amqp::frame::Split::Frame(frame) = crate::amqp::frame::split(rest, usize::MAX) {
                if frame.method_id() == Some(MethodId::CONFIRM_SELECT) {
                    self.ledger.broker_counts();
                }
                rest = rest.get(frame.raw.len()..).unwrap_or_default();
            }
        }
    }

    fn send_all_kept(&mut self, shared: &mut Shared) {
        for (ticket, publish) in std::mem::take(&mut self.kept) {
            shared.cancelled.push(ticket);
            shared.held_bytes -= publish.frames.len();
            shared.decided(&publish, PublishDecision::ForwardedUnchecked, "channel_closing", None);
            self.send(shared, publish);
        }
    }

    /// Writes a publish to the broker, whole, and notes what its confirm will settle.
    pub(super) fn send(&mut self, shared: &mut Shared, publish: Publish) {
        let Publish {
            mut frames,
            client,
            bits_at,
            grant,
        } = publish;
        let Some(mut grant) = grant else {
            shared.to_broker.extend_from_slice(&frames);
            self.ledger.sent(client, None);
            return;
        };
        shared.counts.added_us.push((shared.now.us - grant.arrived_us) as u32);
        grant.leased_us = shared.now.us;
        if !grant.observes() {
            if !self.ledger.counting() && shared.settings.upstream_confirms {
                encode::confirm_select(&mut shared.to_broker, self.number, true);
                self.ledger.broker_counts();
            }
            if self.ledger.counting() && frames.get(bits_at).is_some_and(|bits| bits & 1 == 0) {
                if let Some(bits) = frames.get_mut(bits_at) {
                    *bits |= 1;
                }
                grant.own_mandatory = true;
            }
        }
        shared.to_broker.extend_from_slice(&frames);
        if self.ledger.counting() {
            shared.wake_at(grant.leased_us + grant.lease_us() / 3);
            self.ledger.sent(client, Some(grant));
        } else {
            shared.tells.push(Request::Commit {
                claim: grant.claim,
                publish: grant.publish,
                note: grant.note,
            });
        }
    }

    /// Writes the confirms that are due to the client, at a content boundary.
    pub(super) fn write_confirms(&mut self, shared: &mut Shared) {
        if !self.ledger.has_confirms() {
            return;
        }
        if matches!(self.down, Down::Idle) {
            self.ledger.write_confirms(self.number, &mut shared.to_client);
        } else {
            self.ledger.write_confirms(self.number, &mut self.after_content);
        }
    }

    /// The broker's word on one publish or several. True if the frame may go on to the client as it is.
    pub(super) fn broker_confirms(&mut self, shared: &mut Shared, tag: u64, multiple: bool, outcome: Outcome) -> Result<bool, UnknownTag> {
        if !self.ledger.counting() {
            return Ok(true);
        }
        let before = self.ledger.open_grants();
        self.ledger
            .resolve(tag, multiple, outcome, |grant| shared.broker_spoke(grant, outcome))?;
        let verbatim = self.ledger.aligned();
        if verbatim {
            self.ledger.told();
        }
        if before > 0 && !self.queue.is_empty() {
            self.advance(shared);
        }
        Ok(verbatim)
    }

    /// The channel is lost: what the broker has not spoken on is unconfirmed, what waits is gone.
    pub(super) fn lost(&mut self, shared: &mut Shared) {
        for grant in self.ledger.take_grants() {
            shared.unpublish(&grant, ReleaseReason::Unconfirmed);
        }
        while let Some(item) = self.queue.pop() {
            shared.held_bytes -= item.size();
            match item {
                Waiting::Publish {
                    ticket: Some(ticket),
                    publish,
                    wait,
                } if wait != Wait::Turn => shared.abandon(ticket, publish.grant),
                Waiting::Publish { publish, .. } => {
                    if let Some(grant) = publish.grant {
                        shared.unpublish(&grant, ReleaseReason::Unconfirmed);
                    }
                }
                // The client asked to close; the broker answers that even now.
                Waiting::Close { frame, .. } => shared.to_broker.extend_from_slice(&frame),
                Waiting::Passing { .. } | Waiting::Frames(_) | Waiting::Gone => {}
            }
        }
        self.forget_kept(shared);
        self.forget_ready(shared);
        if let Up::Collecting(collect) = std::mem::replace(&mut self.up, Up::Idle) {
            shared.held_bytes -= collect.frames.len();
        }
        self.deliveries.clear();
    }

    /// The broker has closed the channel and ignores its contents, and yet reads them as frames: the rest of one that has begun will
    /// pass as it comes, so its beginning must have gone before it.
    pub(super) fn pass_what_has_begun(&mut self, shared: &mut Shared) {
        match std::mem::replace(&mut self.up, Up::Idle) {
            Up::Method(frames) => shared.to_broker.extend_from_slice(&frames),
            Up::Collecting(collect) => {
                shared.held_bytes -= collect.frames.len();
                shared.to_broker.extend_from_slice(&collect.frames);
            }
            Up::Passing(_) => {
                if let Some(Waiting::Passing { frames, .. }) = self.queue.back_mut() {
                    shared.to_broker.extend_from_slice(frames);
                }
            }
            Up::Idle => {}
        }
    }

    /// Renews the leases of publishes that still wait for the broker.
    pub(super) fn renew_leases(&mut self, shared: &mut Shared) {
        let now = shared.now.us;
        // A renewal takes a lock that is missing: one for a message that came back would stay.
        for grant in self.ledger.grants_mut().filter(|grant| !grant.returned) {
            if now >= grant.leased_us + grant.lease_us() / 3 {
                grant.leased_us = now;
                shared.tells.push(Request::RenewLease {
                    claim: grant.claim.clone(),
                    publish: grant.publish,
                    note: Arc::clone(&grant.note),
                });
            }
            shared.wake_at(grant.leased_us + grant.lease_us() / 3);
        }
    }

    /// A client's ack on its short way. True if it passes as it is.
    pub(super) fn quick_ack(&mut self, shared: &mut Shared, frame: &Frame<'_>) -> bool {
        if self.tx || self.deliveries.any_hidden() {
            return false;
        }
        let Some(ack) = basic::Ack::decode(frame.payload) else {
            return false;
        };
        self.deliveries
            .settle(ack.delivery_tag, ack.multiple, |id| shared.signal(id, Signal::Acked));
        true
    }

    /// True if a frame that needs no look may pass without waiting for anything.
    pub(super) fn passes_freely(&self) -> bool {
        self.life == Life::Open && matches!(self.up, Up::Idle) && self.queue.is_empty()
    }

    /// Notes a delivery that passes to the client.
    pub(super) fn delivered(
        &mut self,
        shared: &mut Shared,
        consumer: Option<&[u8]>,
        tag: u64,
        no_ack: Option<bool>,
        task: Option<Arc<str>>,
    ) {
        if self.tx {
            return;
        }
        let no_ack = no_ack.unwrap_or_else(|| consumer.is_some_and(|tag| self.no_ack(tag)));
        if !no_ack {
            self.deliveries.shown(tag, task);
        } else if let Some(id) = task {
            shared.signal(id, Signal::DeliveredNoAck);
        }
    }

    /// True if this consumer of the client's gets its deliveries without acknowledgement.
    pub(super) fn no_ack(&self, tag: &[u8]) -> bool {
        match self.consumers.iter().find(|consumer| consumer.tag == tag) {
            Some(consumer) => consumer.no_ack,
            // The broker has chosen a tag and was asked not to tell it.
            None => self.consumers.iter().any(|consumer| consumer.no_ack && consumer.tag.is_empty()),
        }
    }

    /// A consumer is gone; another of the same tag may already have been asked for.
    pub(super) fn cancelled(&mut self, tag: &[u8]) {
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

/// A client's `multiple` settlement with another tag, and with or without `multiple`.
fn settling(frame: &Frame<'_>, tag: u64, multiple: bool) -> Vec<u8> {
    let mut rewritten = frame.raw.to_vec();
    // Frame header 7, class and method 4, then the tag of eight octets, and the octet whose first bit is `multiple`.
    if let Some(octets) = rewritten.get_mut(11..19) {
        octets.copy_from_slice(&tag.to_be_bytes());
    }
    if let Some(bits) = rewritten.get_mut(19).filter(|_| !multiple) {
        *bits &= !1;
    }
    rewritten
}

impl Grant {
    /// The lease in microseconds.
    pub(super) fn lease_us(&self) -> u64 {
        self.note.lease_ms * 1000
    }
}

impl Shared {
    /// The broker has spoken on a claim's publish.
    fn broker_spoke(&mut self, grant: Box<Grant>, outcome: Outcome) {
        match outcome {
            _ if grant.returned => {}
            Outcome::Ack => self.tells.push(Request::Commit {
                claim: grant.claim,
                publish: grant.publish,
                note: grant.note,
            }),
            Outcome::Nack => self.unpublish(&grant, ReleaseReason::Unconfirmed),
        }
    }

    /// The broker does not have this claim's message.
    pub(super) fn unpublish(&mut self, grant: &Grant, reason: ReleaseReason) {
        self.tells.push(Request::Unpublish {
            claim: grant.claim.clone(),
            publish: grant.publish,
            reason,
        });
    }

    /// A worker settled a delivery of this id.
    fn signal(&mut self, id: Arc<str>, signal: Signal) {
        let settlement = self.nonce();
        self.tells.push(Request::Signal { id, signal, settlement });
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
        }
    }
}
