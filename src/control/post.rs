//! Messages that are published in place of deliveries: confirmed, mandatory, many at a time.
//!
//! One channel carries them, another declares the delay queues that they need. A broker refuses by closing a channel, and takes with it
//! all that is on its way there. So a message that may be refused goes alone: the first to each exchange, and all for a while after the
//! channel was closed and nobody can tell why. Then the refusal tells which message it means. What was refused for want of a right, a queue or an exchange is
//! refused here for a while without asking.
//!
//! It makes frames and hears answers; it touches no socket.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use super::complaints::{ACCESS_REFUSED, Complaints, NOT_FOUND};
use super::delay::Delay;
use super::publish::{Ledger, Sent};
use super::wire::{Fault, Incoming, Returned};
use crate::amqp::content::{CLASS_BASIC, ContentHeader};
use crate::amqp::encode::client::{self, Life};
use crate::amqp::encode::{self};
use crate::amqp::frame::OVERHEAD;
use crate::amqp::method::MethodId;
use crate::amqp::method::basic::{Ack, Nack, Publish};
use crate::session::{Republish, RepublishFault, Target};

/// The channel on which they are published.
pub(super) const REPUBLISHING: u16 = 4;
/// The channel on which delay queues are declared: a refusal closes it.
pub(super) const DECLARING: u16 = 5;

/// After so long a delay queue is declared again before it is used: that keeps it alive, or makes it again.
const RENEW: Duration = Duration::from_secs(300);
/// For so long what was refused is not tried again, and messages go one by one after a refusal that may mean any of several.
const WARY: Duration = Duration::from_secs(10);
/// A message that could not be sent by then is not sent any more.
const UNSENT: Duration = Duration::from_secs(15);
/// No message is added to so many octets that the socket has not taken.
const BACKLOG: usize = 1 << 20;
/// So many names of each kind are remembered.
const REMEMBERED: usize = 10_000;

/// Who waits for what becomes of a message.
pub(super) type Reply = oneshot::Sender<Result<(), RepublishFault>>;

/// A message that is handed in.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) message: Republish,
    pub(super) reply: Reply,
    /// When it was handed in.
    pub(super) at: Instant,
    /// The same in seconds since 1970.
    pub(super) at_s: u64,
    /// Its part of the bounds on number and octets.
    pub(super) room: [OwnedSemaphorePermit; 2],
}

/// A message with its way, which has not been sent.
#[derive(Debug)]
struct Letter {
    exchange: Arc<str>,
    routing_key: Arc<str>,
    /// The delay queue that it goes to.
    delay: Option<Delay>,
    header: Vec<u8>,
    body: Vec<u8>,
    waits: Waits,
}

/// Whether an operator is told that no queue took it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missed {
    Yes,
    No,
}

#[derive(Debug)]
struct Waits {
    reply: Reply,
    missed: Missed,
    at: Instant,
    _room: [OwnedSemaphorePermit; 2],
}

impl Letter {
    fn new(job: Job, prefix: &str) -> Letter {
        let missed = match job.message.target {
            Target::Caller { .. } => Missed::No,
            Target::Delay { .. } | Target::Exchange { .. } => Missed::Yes,
        };
        let (exchange, routing_key, delay) = match job.message.target {
            Target::Delay { queue, wait_ms, kind } => {
                let delay = Delay::new(prefix, &queue, wait_ms, kind, job.at_s);
                (Arc::from(""), Arc::clone(&delay.name), Some(delay))
            }
            Target::Exchange { exchange, routing_key } => (exchange, routing_key, None),
            Target::Caller { queue } => (Arc::from(""), queue, None),
        };
        Letter {
            exchange,
            routing_key,
            delay,
            header: job.message.header,
            body: job.message.body,
            waits: Waits {
                reply: job.reply,
                missed,
                at: job.at,
                _room: job.room,
            },
        }
    }

    fn fails(self, fault: RepublishFault) {
        // Whoever waited may have given up.
        let _ = self.waits.reply.send(Err(fault));
    }
}

/// Whether a channel is of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Channel {
    Opening,
    Open,
}

/// What becomes of a message that has not been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Now,
    /// It waits, and those behind it may go.
    Later,
    Fails(RepublishFault),
}

/// The publishing of one connection.
#[derive(Debug)]
pub(super) struct Post {
    prefix: Arc<str>,
    frame_max: usize,
    /// Frames that are to be sent.
    out: Vec<u8>,
    /// In the order in which they came.
    waiting: VecDeque<Letter>,
    sent: Ledger<Waits>,
    publishing: Channel,
    declaring: Channel,
    /// The broker reads no more.
    is_blocked: bool,
    /// What is out must be answered before anything else is sent.
    alone: bool,
    /// Until then each message goes alone.
    wary_until: Option<Instant>,
    /// The exchanges to which a message of this channel went that was not refused.
    exchanges: HashSet<Arc<str>>,
    /// The declare that is out, and when it was sent.
    asked: Option<(Arc<str>, Instant)>,
    /// The delay queues, and when they were declared.
    declared: HashMap<Arc<str>, Instant>,
    /// The delay queues and exchanges that were refused, and when.
    refused: HashMap<(MethodId, Arc<str>), Instant>,
    complaints: Complaints,
}

impl Post {
    /// On a connection that was just opened. `prefix`: what the names of delay queues begin with.
    pub(super) fn new(vhost: &Arc<str>, prefix: Arc<str>, frame_max: usize) -> Post {
        let mut post = Post {
            prefix,
            frame_max,
            out: Vec::new(),
            waiting: VecDeque::new(),
            sent: Ledger::default(),
            publishing: Channel::Opening,
            declaring: Channel::Opening,
            is_blocked: false,
            alone: false,
            wary_until: None,
            exchanges: HashSet::new(),
            asked: None,
            declared: HashMap::new(),
            refused: HashMap::new(),
            complaints: Complaints::new(Arc::clone(vhost)),
        };
        post.open_publishing();
        post.open_declaring();
        post
    }

    fn open_publishing(&mut self) {
        self.publishing = Channel::Opening;
        client::channel_open(&mut self.out, REPUBLISHING);
        encode::confirm_select(&mut self.out, REPUBLISHING, false);
    }

    fn open_declaring(&mut self) {
        self.declaring = Channel::Opening;
        client::channel_open(&mut self.out, DECLARING);
    }

    /// Whether messages are sent, as far as the broker is concerned.
    pub(super) fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// The frames that are to be sent now.
    pub(super) fn frames(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Takes a message.
    pub(super) fn hand_in(&mut self, job: Job) {
        let letter = Letter::new(job, &self.prefix);
        // What would end the connection is not sent: a header that cannot be read, or one that fits into no frame.
        let is_basic = ContentHeader::decode(&letter.header).is_some_and(|header| header.class == CLASS_BASIC && header.weight == 0);
        if !is_basic || (self.frame_max != 0 && letter.header.len() + OVERHEAD > self.frame_max) {
            self.complaints.headers(letter.header.len());
            letter.fails(RepublishFault::Refused);
        } else {
            self.waiting.push_back(letter);
        }
    }

    /// Sends what can be sent. `backlog`: how many octets the socket has not taken.
    pub(super) fn proceed(&mut self, now: Instant, backlog: usize) {
        let mut left = VecDeque::new();
        while let Some(letter) = self.waiting.pop_front() {
            if letter.waits.reply.is_closed() {
                continue;
            }
            if !self.is_free(backlog) {
                left.push_back(letter);
                break;
            }
            match self.turn(&letter, now) {
                Turn::Now if self.goes_alone(&letter, now) && !self.sent.is_empty() => {
                    // Those behind it would make it wait for ever.
                    left.push_back(letter);
                    break;
                }
                Turn::Now => self.publish(letter, now),
                Turn::Later => left.push_back(letter),
                Turn::Fails(fault) => letter.fails(fault),
            }
        }
        left.append(&mut self.waiting);
        self.waiting = left;
    }

    fn is_free(&mut self, backlog: usize) -> bool {
        self.alone &= !self.sent.is_empty();
        self.publishing == Channel::Open && !self.is_blocked && !self.alone && backlog + self.out.len() < BACKLOG
    }

    fn goes_alone(&self, letter: &Letter, now: Instant) -> bool {
        !self.exchanges.contains(&letter.exchange) || self.wary_until.is_some_and(|until| now < until)
    }

    fn is_refused(&self, what: MethodId, name: &Arc<str>, now: Instant) -> bool {
        let refused = self.refused.get(&(what, Arc::clone(name)));
        refused.is_some_and(|at| now < *at + WARY)
    }

    fn turn(&mut self, letter: &Letter, now: Instant) -> Turn {
        if self.is_refused(MethodId::BASIC_PUBLISH, &letter.exchange, now) {
            return Turn::Fails(RepublishFault::Refused);
        }
        let Some(delay) = &letter.delay else { return Turn::Now };
        if self.declared.get(&delay.name).is_some_and(|at| now < *at + RENEW) {
            return Turn::Now;
        }
        if self.is_refused(MethodId::QUEUE_DECLARE, &delay.name, now) {
            return Turn::Fails(RepublishFault::Refused);
        }
        if self.declaring == Channel::Open && self.asked.is_none() {
            if delay.declare(&mut self.out, DECLARING, Life::Durable).is_err() {
                self.complaints.declare(&delay.name, &Fault::TooLong);
                return Turn::Fails(RepublishFault::Refused);
            }
            self.asked = Some((Arc::clone(&delay.name), now));
        }
        Turn::Later
    }

    fn publish(&mut self, letter: Letter, now: Instant) {
        self.alone = self.goes_alone(&letter, now);
        let publish = Publish {
            exchange: letter.exchange.as_bytes(),
            routing_key: letter.routing_key.as_bytes(),
            mandatory: true,
            immediate: false,
            bits_offset: 0,
        };
        let written =
            encode::basic_publish_with_header(&mut self.out, REPUBLISHING, &publish, &letter.header, &letter.body, self.frame_max);
        if written.is_err() {
            letter.fails(RepublishFault::Refused);
            return;
        }
        self.sent.push(Sent {
            exchange: letter.exchange,
            routing_key: letter.routing_key,
            header: letter.header,
            fault: None,
            waits: letter.waits,
        });
    }

    /// Looks after what has become due: what could not be sent in time, and what nobody waits for.
    pub(super) fn look(&mut self, now: Instant) {
        let waiting = std::mem::take(&mut self.waiting);
        let (late, waiting) = waiting
            .into_iter()
            .partition::<VecDeque<_>, _>(|letter| now >= letter.waits.at + UNSENT);
        self.waiting = waiting;
        for letter in late {
            letter.fails(RepublishFault::NotAvailable);
        }
        self.sent.forget(|waits| waits.reply.is_closed());
        self.refused.retain(|_, at| now < *at + WARY);
        self.declared.retain(|_, at| now < *at + RENEW);
    }

    /// Hears what comes: gives back what does not concern it.
    pub(super) fn hear(&mut self, incoming: Incoming, now: Instant) -> Result<Option<Incoming>, Fault> {
        match incoming {
            Incoming::Returned(returned) if returned.channel == REPUBLISHING => {
                self.came_back(&returned);
                Ok(None)
            }
            Incoming::ChannelClosed {
                channel: REPUBLISHING,
                fault,
            } => self.publishing_closed(fault, now).map(|()| None),
            Incoming::ChannelClosed { channel: DECLARING, fault } => self.declaring_closed(fault, now).map(|()| None),
            Incoming::Answer { channel, id, payload } if [REPUBLISHING, DECLARING, 0].contains(&channel) => {
                self.answered(channel, id, &payload).map(|()| None)
            }
            other => Ok(Some(other)),
        }
    }

    fn came_back(&mut self, returned: &Returned) {
        self.sent.returned(&returned.exchange, &returned.routing_key, &returned.header);
    }

    fn answered(&mut self, channel: u16, id: MethodId, payload: &[u8]) -> Result<(), Fault> {
        match id {
            MethodId::CONFIRM_SELECT_OK => self.publishing = Channel::Open,
            // On the other channel more is asked for than that.
            MethodId::CHANNEL_OPEN_OK if channel == DECLARING => self.declaring = Channel::Open,
            MethodId::QUEUE_DECLARE_OK => {
                if let Some((name, at)) = self.asked.take() {
                    self.complaints.forget(&name);
                    remember(&mut self.declared, name, at);
                }
            }
            MethodId::BASIC_ACK => {
                let ack = Ack::decode(payload).ok_or(Fault::NotAmqp)?;
                self.settle(ack.delivery_tag, ack.multiple, None);
            }
            MethodId::BASIC_NACK => {
                let nack = Nack::decode(payload).ok_or(Fault::NotAmqp)?;
                self.settle(nack.delivery_tag, nack.multiple, Some(RepublishFault::Nacked));
            }
            MethodId::CONNECTION_BLOCKED => self.is_blocked = true,
            MethodId::CONNECTION_UNBLOCKED => self.is_blocked = false,
            _ => {}
        }
        Ok(())
    }

    fn settle(&mut self, number: u64, multiple: bool, answer: Option<RepublishFault>) {
        for sent in self.sent.settle(number, multiple) {
            if self.exchanges.len() >= REMEMBERED {
                self.exchanges.clear();
            }
            self.exchanges.insert(Arc::clone(&sent.exchange));
            let fault = answer.or(sent.fault);
            if let Some(fault) = fault {
                // It may be a delay queue that went.
                self.declared.remove(&sent.routing_key);
                if fault != RepublishFault::Returned || sent.waits.missed == Missed::Yes {
                    self.complaints.message(&sent.exchange, &sent.routing_key, fault);
                }
            }
            let _ = sent.waits.reply.send(fault.map_or(Ok(()), Err));
        }
    }

    fn publishing_closed(&mut self, fault: Fault, now: Instant) -> Result<(), Fault> {
        if self.publishing == Channel::Opening {
            return Err(fault);
        }
        let lost = self.sent.close();
        let answer = if let [sent] = lost.as_slice() {
            self.exchanges.remove(&sent.exchange);
            if matches!(fault.code(), Some(ACCESS_REFUSED | NOT_FOUND)) {
                remember(&mut self.refused, (MethodId::BASIC_PUBLISH, Arc::clone(&sent.exchange)), now);
            }
            RepublishFault::Refused
        } else {
            self.exchanges.clear();
            self.wary_until = Some(now + WARY);
            RepublishFault::Unknown
        };
        self.complaints.refusal(lost.first().map(|sent| &sent.exchange), &fault);
        for sent in lost {
            let _ = sent.waits.reply.send(Err(answer));
        }
        self.open_publishing();
        Ok(())
    }

    fn declaring_closed(&mut self, fault: Fault, now: Instant) -> Result<(), Fault> {
        if self.declaring == Channel::Opening {
            return Err(fault);
        }
        if let Some((name, _)) = self.asked.take() {
            self.complaints.declare(&name, &fault);
            remember(&mut self.refused, (MethodId::QUEUE_DECLARE, name), now);
        }
        self.open_declaring();
        Ok(())
    }

    /// The connection is gone.
    pub(super) fn end(&mut self) {
        for sent in self.sent.close() {
            let _ = sent.waits.reply.send(Err(RepublishFault::Unknown));
        }
        for letter in self.waiting.drain(..) {
            letter.fails(RepublishFault::NotAvailable);
        }
    }
}

/// Notes when something was, in a table that does not grow without end.
fn remember<K: std::hash::Hash + Eq>(table: &mut HashMap<K, Instant>, key: K, at: Instant) {
    if table.len() >= 2 * REMEMBERED {
        table.clear();
    }
    table.insert(key, at);
}

#[cfg(test)]
mod tests;
