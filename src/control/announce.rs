//! Messages that tell what was decided: confirmed, so that what is lost is counted, and in transit in bounded number. Nobody waits for them.
//!
//! Their exchange is asked for before the first of them, and made if it is not there, since whoever asks for these messages means to have
//! them. What the broker refuses is said once, and tried again after a while: meanwhile all of them are dropped.
//!
//! It makes frames and hears answers; it touches no socket.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::complaints::{ACCESS_REFUSED, NOT_FOUND, RIGHTS, SEE_LOG};
use super::wire::{Fault, Incoming};
use crate::amqp::content::Properties;
use crate::amqp::encode::client::{self, Declare};
use crate::amqp::encode::{self, Content};
use crate::amqp::method::MethodId;
use crate::amqp::method::basic::{Ack, Nack, Publish};
use crate::celery::task::OWN_APP_ID;
use crate::metrics::{EventDrop, EventMetrics};

/// The channel on which they are published: a missing exchange closes it.
pub(super) const ANNOUNCING: u16 = 6;
/// The kind of the exchange, where there is none yet.
pub(super) const KIND: &[u8] = b"topic";

/// So many are taken at a time.
pub(super) const TAKEN: usize = 64;
/// So many may be without the broker's answer: what it cannot take is not sent, so that it does not slow down the whole connection.
const UNANSWERED: usize = 500;
/// None is added to so many octets that the socket has not taken: what is published in place of deliveries goes before.
const BACKLOG: usize = 1 << 16;
/// For so long what was refused is not tried again.
const WARY: Duration = Duration::from_secs(10);
/// A message that nobody has read when the broker restarts has lost its worth.
const TRANSIENT: u8 = 1;

/// A message that tells what was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Where it goes.
    pub exchange: Arc<str>,
    /// For the bindings of that exchange.
    pub routing_key: String,
    /// JSON.
    pub body: Vec<u8>,
    /// When it was decided, in seconds since 1970.
    pub at_s: u64,
}

/// How far the channel is.
#[derive(Debug)]
enum Stage {
    /// Nothing was sent yet.
    Shut,
    /// It is being opened, to ask in this way for the exchange.
    Opening(Declare),
    /// It is asked for an exchange.
    Asked(Declare, Arc<str>),
    /// Messages to this exchange can be published.
    Ready(Arc<str>),
    /// It was refused, and is not tried until then.
    Refused(Instant),
}

/// The messages of one connection.
#[derive(Debug)]
pub(super) struct Announcer {
    vhost: Arc<str>,
    metrics: Arc<EventMetrics>,
    frame_max: usize,
    /// Frames that are to be sent.
    out: Vec<u8>,
    waiting: VecDeque<Notice>,
    stage: Stage,
    /// The number of the last message on the channel, and those that the broker has not answered.
    last: u64,
    unanswered: BTreeSet<u64>,
    /// What the broker was last said to refuse.
    said: Option<(Arc<str>, u16)>,
}

impl Announcer {
    /// On a connection that was just opened.
    pub(super) fn new(vhost: &Arc<str>, metrics: Arc<EventMetrics>, frame_max: usize) -> Announcer {
        Announcer {
            vhost: Arc::clone(vhost),
            metrics,
            frame_max,
            out: Vec::new(),
            waiting: VecDeque::new(),
            stage: Stage::Shut,
            last: 0,
            unanswered: BTreeSet::new(),
            said: None,
        }
    }

    /// Whether more are to be handed in.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < TAKEN
    }

    /// Takes messages.
    pub(super) fn hand_in(&mut self, notices: impl IntoIterator<Item = Notice>) {
        self.waiting.extend(notices);
    }

    /// The frames that are to be sent now.
    pub(super) fn frames(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Sends what can be sent. `is_blocked`: the broker reads nothing; `backlog`: how many octets the socket has not taken.
    pub(super) fn proceed(&mut self, now: Instant, is_blocked: bool, backlog: usize) {
        while let Some(first) = self.waiting.front() {
            match &self.stage {
                Stage::Refused(until) if now < *until => return self.drop_waiting(EventDrop::Refused),
                _ if is_blocked => return,
                Stage::Shut | Stage::Refused(_) => return self.open(Declare::Passive),
                Stage::Opening(_) | Stage::Asked(..) => return,
                // Another exchange than before.
                Stage::Ready(exchange) if *exchange != first.exchange => return self.ask(Declare::Passive),
                Stage::Ready(_) if self.unanswered.len() >= UNANSWERED || backlog + self.out.len() >= BACKLOG => return,
                Stage::Ready(_) => self.publish_first(),
            }
        }
    }

    fn open(&mut self, ask: Declare) {
        self.stage = Stage::Opening(ask);
        self.last = 0;
        client::channel_open(&mut self.out, ANNOUNCING);
        encode::confirm_select(&mut self.out, ANNOUNCING, false);
    }

    /// Asks for the exchange of the first message. Without a message there is nothing to ask for.
    fn ask(&mut self, declare: Declare) {
        let exchange = self.waiting.front().map(|first| Arc::clone(&first.exchange)).unwrap_or_default();
        let is_unfit =
            exchange.is_empty() || client::exchange_declare(&mut self.out, ANNOUNCING, exchange.as_bytes(), KIND, declare).is_err();
        if is_unfit {
            // To a name that does not fit into the protocol nothing can be published.
            self.drop_waiting(EventDrop::Refused);
            self.stage = Stage::Ready(Arc::default());
        } else {
            self.stage = Stage::Asked(declare, exchange);
        }
    }

    fn publish_first(&mut self) {
        let Some(notice) = self.waiting.pop_front() else { return };
        let publish = Publish {
            exchange: notice.exchange.as_bytes(),
            routing_key: notice.routing_key.as_bytes(),
            mandatory: false,
            immediate: false,
            bits_offset: 0,
        };
        let content = Content {
            properties: Properties {
                content_type: Some(b"application/json"),
                content_encoding: Some(b"utf-8"),
                delivery_mode: Some(TRANSIENT),
                timestamp: Some(notice.at_s),
                app_id: Some(OWN_APP_ID),
                ..Properties::default()
            },
            body: &notice.body,
        };
        match encode::basic_publish(&mut self.out, ANNOUNCING, &publish, &content, self.frame_max) {
            Ok(()) => {
                self.last += 1;
                self.unanswered.insert(self.last);
            }
            Err(_) => self.metrics.count_dropped(EventDrop::Refused, 1),
        }
    }

    /// Hears what comes: gives back what does not concern it.
    pub(super) fn hear(&mut self, incoming: Incoming, now: Instant) -> Result<Option<Incoming>, Fault> {
        match incoming {
            Incoming::ChannelClosed {
                channel: ANNOUNCING,
                fault,
            } => self.closed(fault, now).map(|()| None),
            Incoming::Answer {
                channel: ANNOUNCING,
                id,
                payload,
            } => self.answered(id, &payload).map(|()| None),
            other => Ok(Some(other)),
        }
    }

    fn answered(&mut self, id: MethodId, payload: &[u8]) -> Result<(), Fault> {
        match id {
            MethodId::CONFIRM_SELECT_OK => {
                if let Stage::Opening(declare) = self.stage {
                    self.ask(declare);
                }
            }
            MethodId::EXCHANGE_DECLARE_OK => {
                if let Stage::Asked(_, exchange) = &self.stage {
                    self.stage = Stage::Ready(Arc::clone(exchange));
                }
            }
            MethodId::BASIC_ACK => {
                let ack = Ack::decode(payload).ok_or(Fault::NotAmqp)?;
                let published = self.settle(ack.delivery_tag, ack.multiple);
                self.metrics.published.inc_by(published);
                self.said = None;
            }
            MethodId::BASIC_NACK => {
                let nack = Nack::decode(payload).ok_or(Fault::NotAmqp)?;
                let lost = self.settle(nack.delivery_tag, nack.multiple);
                self.metrics.count_dropped(EventDrop::Refused, lost);
            }
            _ => {}
        }
        Ok(())
    }

    /// The broker answers a number, or with `multiple` all up to it (0: all that are out): how many were waiting for that.
    fn settle(&mut self, number: u64, multiple: bool) -> u64 {
        if !multiple {
            return u64::from(self.unanswered.remove(&number));
        }
        let first_left = if number == 0 { u64::MAX } else { number.saturating_add(1) };
        let left = self.unanswered.split_off(&first_left);
        std::mem::replace(&mut self.unanswered, left).len() as u64
    }

    /// The broker has refused something. A message to an exchange that has gone means that it is to be made again.
    fn closed(&mut self, fault: Fault, now: Instant) -> Result<(), Fault> {
        let is_missing = fault.code() == Some(NOT_FOUND);
        let lost = std::mem::take(&mut self.unanswered).len() as u64;
        self.metrics.count_dropped(EventDrop::Refused, lost);
        match &self.stage {
            Stage::Shut | Stage::Refused(_) | Stage::Opening(_) => return Err(fault),
            Stage::Asked(Declare::Passive, _) if is_missing => self.open(Declare::Active),
            Stage::Ready(_) if is_missing => self.open(Declare::Passive),
            Stage::Asked(_, exchange) | Stage::Ready(exchange) => {
                let exchange = Arc::clone(exchange);
                self.complain(exchange, &fault);
                self.stage = Stage::Refused(now + WARY);
                self.drop_waiting(EventDrop::Refused);
            }
        }
        Ok(())
    }

    fn complain(&mut self, exchange: Arc<str>, fault: &Fault) {
        let code = fault.code().unwrap_or_default();
        let remedy = if code == ACCESS_REFUSED { RIGHTS } else { SEE_LOG };
        let said = Some((exchange, code));
        if self.said == said {
            return;
        }
        tracing::warn!(vhost = &*self.vhost, exchange = said.as_ref().map(|(exchange, _)| &**exchange), why = %fault, remedy, "the broker refuses decisions (events.exchange); they are dropped and counted, and tried again every 10 s");
        self.said = said;
    }

    fn drop_waiting(&mut self, reason: EventDrop) {
        self.metrics.count_dropped(reason, self.waiting.len() as u64);
        self.waiting.clear();
    }

    /// The connection is gone.
    pub(super) fn end(&mut self) {
        self.drop_waiting(EventDrop::Unavailable);
        let lost = std::mem::take(&mut self.unanswered).len() as u64;
        self.metrics.count_dropped(EventDrop::Unavailable, lost);
    }
}

#[cfg(test)]
mod tests;
