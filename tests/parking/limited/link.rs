//! A worker behind a session, and its channel at the broker.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use oncegate::amqp::encode;
use oncegate::amqp::frame::{self, Split};
use oncegate::amqp::method::MethodId;
use oncegate::amqp::method::basic::{Ack, Cancel, Consume, Nack, Qos};
use oncegate::amqp::table::{FieldValue, put_entry};
use oncegate::rules::RuleSet;
use oncegate::rules::lock::{Reply, Request};
use oncegate::session::{Now, Republish, RepublishFault, Session, Settings, Side, StoreSilent, Ticket};

use super::plan::Worker;
use crate::deliver::deliver;
use crate::wire::{Reader, method, short};

/// A message at the broker.
#[derive(Clone)]
pub struct Message {
    pub task: usize,
    /// Its frames behind the method.
    pub content: Vec<u8>,
    pub redelivered: bool,
}

/// A message that a session wants published, and then its outcome.
pub enum Publishing {
    Asked(Ticket, Republish),
    Ended(Ticket, Result<(), RepublishFault>),
}

/// What a worker runs.
pub struct Run {
    pub tag: u64,
    pub task: usize,
    pub retries: u32,
    pub end_ms: u64,
}

/// A consumer at the broker.
struct Consumer {
    tag: Vec<u8>,
    /// 0 for no window of its own.
    size: u16,
    unacked: usize,
    live: bool,
}

/// What the broker knows of the channel.
#[derive(Default)]
struct Channel {
    global: u16,
    each: u16,
    consumers: Vec<Consumer>,
    next_tag: u64,
    unacked: BTreeMap<u64, (usize, Message)>,
}

/// One worker's connection.
pub struct Link {
    /// Which connection it is of all that there were.
    pub number: usize,
    worker: Worker,
    pub session: Session,
    to_broker: Vec<u8>,
    at_broker: Reader,
    at_wire: Reader,
    pub at_client: Reader,
    channel: Channel,
    /// The windows that the session has asked the broker for, beside those of the client's own consumer.
    windows: BTreeMap<Vec<u8>, u16>,
    each: u16,
    pub asks: VecDeque<(Ticket, Request)>,
    pub answers: VecDeque<(Ticket, Result<Reply, StoreSilent>)>,
    pub tells: VecDeque<Request>,
    pub publishing: Vec<Publishing>,
    pub runs: Vec<Run>,
}

/// The client's consumer.
const TAG: &[u8] = b"c";

impl Link {
    pub fn new(rules: &Arc<RuleSet>, (number, nonce): (usize, u64), worker: Worker, quorum: bool, now: Now) -> Link {
        let mut link = Link {
            number,
            worker,
            session: Session::new(Arc::new(Settings::default()), Arc::clone(rules), nonce, now),
            to_broker: Vec::new(),
            at_broker: Reader::default(),
            at_wire: Reader::default(),
            at_client: Reader::default(),
            channel: Channel::default(),
            windows: BTreeMap::new(),
            each: 0,
            asks: VecDeque::new(),
            answers: VecDeque::new(),
            tells: VecDeque::new(),
            publishing: Vec::new(),
            runs: Vec::new(),
        };
        let tune = [7, 255, 0, 2, 0, 0, 0, 0];
        let session = &mut link.session;
        session.handle_bytes(Side::Client, &frame::PROTOCOL_HEADER, now);
        session.handle_bytes(Side::Broker, &method(0, MethodId::CONNECTION_TUNE, &tune), now);
        session.handle_bytes(Side::Client, &method(0, MethodId::CONNECTION_TUNE_OK, &tune), now);
        session.handle_bytes(Side::Client, &method(0, MethodId::CONNECTION_OPEN, b"\x01/\0\0"), now);
        session.handle_bytes(Side::Broker, &method(0, MethodId::CONNECTION_OPEN_OK, &[0]), now);
        session.handle_bytes(Side::Client, &method(1, MethodId::CHANNEL_OPEN, &[0]), now);
        session.handle_bytes(Side::Broker, &method(1, MethodId::CHANNEL_OPEN_OK, &[0; 4]), now);
        let mut arguments = Vec::new();
        if quorum {
            put_entry(&mut arguments, b"x-queue-type", &FieldValue::LongStr(b"quorum")).expect("it fits");
        }
        let declare = [b"\0\0\x01q\x02", &(arguments.len() as u32).to_be_bytes()[..], &arguments].concat();
        session.handle_bytes(Side::Client, &method(1, MethodId::QUEUE_DECLARE, &declare), now);
        session.handle_bytes(Side::Broker, &method(1, MethodId::QUEUE_DECLARE_OK, b"\x01q\0\0\0\0\0\0\0\0"), now);
        session.swap_output(Side::Broker, &mut Vec::new());
        session.swap_output(Side::Client, &mut Vec::new());
        session.events().clear();
        let mut opening = Vec::new();
        let window = Qos {
            prefetch_size: 0,
            prefetch_count: worker.prefetch,
            global: worker.global,
        };
        encode::basic_qos(&mut opening, 1, window);
        opening.extend(method(1, MethodId::BASIC_CONSUME, b"\0\0\x01q\x01c\0\0\0\0\0"));
        session.handle_bytes(Side::Client, &opening, now);
        link.sends();
        link.broker_reads(now);
        link
    }

    /// The next message, if its consumers have room for one.
    pub fn has_room(&self) -> bool {
        let channel = &self.channel;
        (channel.global == 0 || channel.unacked.len() < usize::from(channel.global)) && channel.free().is_some()
    }

    pub fn deliver(&mut self, message: Message, now: Now) {
        let channel = &mut self.channel;
        let free = channel.free().expect("one has room");
        channel.next_tag += 1;
        let consumer = &mut channel.consumers[free];
        consumer.unacked += 1;
        let frames = deliver(1, &consumer.tag, channel.next_tag, message.redelivered, b"q", &message.content);
        channel.unacked.insert(channel.next_tag, (free, message));
        self.session.handle_bytes(Side::Broker, &frames, now);
    }

    /// Takes what the session has written, and looks at the windows that it wants: they make up for what is held, and for no more.
    pub fn sends(&mut self) -> bool {
        let mut bytes = Vec::new();
        self.session.swap_output(Side::Broker, &mut bytes);
        let held = self.session.held().0;
        for unit in self.at_wire.feed(&bytes) {
            let most = usize::from(self.worker.prefetch) + held;
            match unit.method {
                MethodId::BASIC_QOS => {
                    let qos = Qos::decode(unit.payload()).expect("a qos");
                    if qos.global {
                        assert!(usize::from(qos.prefetch_count) <= most, "a window of {qos:?} where {held} are held");
                    } else {
                        self.each = qos.prefetch_count;
                    }
                }
                MethodId::BASIC_CONSUME => {
                    let consume = Consume::decode(unit.payload()).expect("a consume");
                    self.windows.insert(consume.consumer_tag.to_vec(), self.each);
                    // What the broker has not answered yet may be unwanted by now: it cannot be cancelled before.
                    let known = &self.channel.consumers;
                    let counts = |tag: &[u8]| tag == consume.consumer_tag || known.iter().any(|known| known.tag == tag);
                    let counted = self.windows.iter().filter(|(tag, _)| counts(tag));
                    let all: usize = counted.map(|(_, window)| usize::from(*window)).sum();
                    assert!(
                        self.worker.global || all <= most,
                        "windows {:?} where {held} are held",
                        self.windows
                    );
                }
                MethodId::BASIC_CANCEL => {
                    let cancel = Cancel::decode(unit.payload()).expect("a cancel");
                    assert!(self.windows.remove(cancel.consumer_tag).is_some(), "cancelled twice");
                }
                _ => {}
            }
        }
        self.to_broker.append(&mut bytes);
        !self.to_broker.is_empty()
    }

    pub fn has_sent(&self) -> bool {
        !self.to_broker.is_empty()
    }

    /// What the session has written arrives. The messages that go back to the queue.
    pub fn broker_reads(&mut self, now: Now) -> Vec<Message> {
        let bytes = std::mem::take(&mut self.to_broker);
        let (mut answers, mut back) = (Vec::new(), Vec::new());
        let channel = &mut self.channel;
        for unit in self.at_broker.feed(&bytes) {
            assert_eq!(unit.channel, 1);
            match unit.method {
                MethodId::BASIC_ACK => {
                    let ack = Ack::decode(unit.payload()).expect("an ack");
                    assert!(!ack.multiple);
                    channel.settle(ack.delivery_tag);
                }
                MethodId::BASIC_NACK => {
                    let nack = Nack::decode(unit.payload()).expect("a nack");
                    assert!(nack.requeue && !nack.multiple);
                    back.push(channel.settle(nack.delivery_tag));
                }
                MethodId::BASIC_QOS => {
                    let qos = Qos::decode(unit.payload()).expect("a qos");
                    if qos.global {
                        channel.global = qos.prefetch_count;
                    } else {
                        channel.each = qos.prefetch_count;
                    }
                    answers.extend(method(1, MethodId::BASIC_QOS_OK, &[]));
                }
                MethodId::BASIC_CONSUME => {
                    let consume = Consume::decode(unit.payload()).expect("a consume");
                    let tag = consume.consumer_tag.to_vec();
                    answers.extend(method(1, MethodId::BASIC_CONSUME_OK, &short(&tag)));
                    channel.consumers.push(Consumer {
                        tag,
                        size: channel.each,
                        unacked: 0,
                        live: true,
                    });
                }
                MethodId::BASIC_CANCEL => {
                    let cancel = Cancel::decode(unit.payload()).expect("a cancel");
                    let known = channel.consumers.iter_mut().find(|known| known.tag == cancel.consumer_tag);
                    known.expect("a known consumer").live = false;
                    answers.extend(method(1, MethodId::BASIC_CANCEL_OK, &short(cancel.consumer_tag)));
                }
                other => panic!("{other} is not sent here"),
            }
        }
        if !answers.is_empty() {
            self.session.handle_bytes(Side::Broker, &answers, now);
        }
        back
    }

    /// The worker acknowledges a delivery.
    pub fn acknowledges(&mut self, tag: u64, now: Now) {
        let ack = Ack {
            delivery_tag: tag,
            multiple: false,
        };
        let mut frame = Vec::new();
        encode::basic_ack(&mut frame, 1, ack);
        self.session.handle_bytes(Side::Client, &frame, now);
    }

    /// The connection is lost: what its orders are that have not reached the store yet, and what goes back to the queue.
    pub fn breaks(&mut self, now: Now) -> (VecDeque<Request>, Vec<Message>) {
        assert!(!self.at_broker.inside(1), "a content left by half");
        self.session.handle_eof(Side::Broker, now);
        let mut orders = std::mem::take(&mut self.tells);
        orders.extend(self.session.questions().1.drain(..));
        let unacked = std::mem::take(&mut self.channel.unacked);
        (orders, unacked.into_values().map(|(_, message)| message).collect())
    }

    pub fn is_idle(&self) -> bool {
        let asks = self.asks.is_empty() && self.answers.is_empty() && self.tells.is_empty();
        asks && self.channel.unacked.is_empty() && self.publishing.is_empty() && self.to_broker.is_empty()
    }

    /// At the end nothing is left of what was held: not even a wider window.
    pub fn judge(&self) {
        assert_eq!((self.session.held().0, self.session.held_bytes()), (0, 0));
        let (channel, prefetch) = (&self.channel, self.worker.prefetch);
        let sizes: usize = channel
            .consumers
            .iter()
            .filter(|known| known.live)
            .map(|known| usize::from(known.size))
            .sum();
        let wanted = if self.worker.global {
            (prefetch, 0)
        } else {
            (0, usize::from(prefetch))
        };
        assert_eq!((channel.global, sizes), wanted, "windows that are too wide or too narrow");
        let live = channel.consumers.iter().filter(|known| known.live).map(|known| &*known.tag);
        assert_eq!(live.collect::<Vec<_>>(), [TAG]);
    }
}

impl Channel {
    fn free(&self) -> Option<usize> {
        let has_room = |known: &Consumer| known.live && (known.size == 0 || known.unacked < usize::from(known.size));
        self.consumers.iter().position(has_room)
    }

    fn settle(&mut self, tag: u64) -> Message {
        let (consumer, message) = self.unacked.remove(&tag).unwrap_or_else(|| panic!("settled twice: {tag}"));
        self.consumers[consumer].unacked -= 1;
        message
    }
}

/// A delivery as the worker sees it: the `retries` and the names of its headers.
pub fn headers_of(content: &[u8]) -> (u32, Vec<String>) {
    let Split::Frame(header) = frame::split(content, usize::MAX) else {
        panic!("a content header")
    };
    let header = oncegate::amqp::content::ContentHeader::decode(header.payload).expect("a content header");
    let headers = header.properties.headers.expect("headers");
    let retries = headers.get(b"retries").expect("headers").and_then(|value| value.as_i64());
    let names = headers
        .iter()
        .map(|entry| String::from_utf8_lossy(entry.expect("an entry").name).into_owned());
    (retries.expect("a number") as u32, names.collect())
}
