//! Dialogues on one channel: what each leg is sent for what comes in on the other.

use std::sync::Arc;

use super::{Neighbours, Now, RepublishFault, Session, Settings, Side, StoreSilent, Ticket};
use crate::amqp::content::Properties;
use crate::amqp::encode::{self, Content};
use crate::amqp::frame::{self, Split};
use crate::amqp::method::MethodId;
use crate::amqp::method::basic::{Ack, Cancel, Deliver, Nack, Publish};
use crate::amqp::table::{FieldValue, Table, put_entry};
use crate::rules::RuleSet;
use crate::rules::lock::{Acquired, Admitted, Digest, LockState, Reply, Request, Signal};
use crate::rules::outcome::PublishDecision;
use crate::rules::spec::{Mode, OnStoreError, RuleSpec, Unique};
use crate::session::Event;

/// A session between a client and a broker that the test plays.
struct Rig {
    session: Session,
    now: Now,
    /// Whether the store lets every delivery pass at once; else the test answers.
    admits_all: bool,
    /// Whether the test parks and publishes itself; else the store notes all copies, and there is nothing to publish them with.
    parks: bool,
}

/// A rule for the task `t.unique`.
fn spec() -> RuleSpec {
    RuleSpec {
        name: Some("r".to_owned()),
        task: vec!["t.unique".to_owned()],
        unique: Some(Unique::UntilFinished),
        ..RuleSpec::default()
    }
}

/// A rule whose locks no delivery takes: an ack of all that is out leaves as it came.
fn unadmitting() -> RuleSpec {
    RuleSpec {
        unique: Some(Unique::UntilExpired),
        ..spec()
    }
}

impl Rig {
    fn new(spec: RuleSpec) -> Rig {
        Rig::with(spec, Settings::default())
    }

    fn with(spec: RuleSpec, settings: Settings) -> Rig {
        Rig::under(RuleSet::compile(vec![spec], &[]).expect("the rule is right"), settings)
    }

    fn under(rules: RuleSet, settings: Settings) -> Rig {
        let now = Now {
            us: 1_000_000,
            unix_ms: 1_800_000_000_000,
        };
        let mut rig = Rig {
            session: Session::new(Arc::new(settings), Arc::new(rules), 0, now),
            now,
            admits_all: true,
            parks: false,
        };
        rig.client(&frame::PROTOCOL_HEADER);
        rig.broker(&method(0, MethodId::CONNECTION_TUNE, &[7, 255, 0, 2, 0, 0, 0, 0]));
        rig.client(&method(0, MethodId::CONNECTION_TUNE_OK, &[7, 255, 0, 2, 0, 0, 0, 10]));
        rig.client(&method(0, MethodId::CONNECTION_OPEN, b"\x01/\0\0"));
        rig.broker(&method(0, MethodId::CONNECTION_OPEN_OK, &[0]));
        rig.client(&method(1, MethodId::CHANNEL_OPEN, &[0]));
        rig.broker(&method(1, MethodId::CHANNEL_OPEN_OK, &[0, 0, 0, 0]));
        rig.output(Side::Client);
        rig.output(Side::Broker);
        rig.session.events().clear();
        rig
    }

    fn client(&mut self, bytes: &[u8]) {
        self.session.handle_bytes(Side::Client, bytes, self.now);
        self.park_nothing();
    }

    fn broker(&mut self, bytes: &[u8]) {
        self.session.handle_bytes(Side::Broker, bytes, self.now);
        self.admit_all();
        self.park_nothing();
    }

    /// Nothing can be published anew, where the test does not do that itself.
    fn park_nothing(&mut self) {
        if self.parks {
            return;
        }
        let (asks, _) = self.session.questions();
        let notes: Vec<_> = asks
            .extract_if(.., |(_, request)| matches!(request, Request::Park { .. }))
            .collect();
        for (ticket, _) in notes {
            self.session.handle_answer(Ticket(ticket), Ok(Reply::Done), self.now);
        }
        for (ticket, _) in std::mem::take(self.session.republishes()) {
            self.session.handle_republished(ticket, Err(RepublishFault::NotAvailable), self.now);
        }
    }

    /// The store lets every delivery pass, where the test does not answer itself.
    fn admit_all(&mut self) {
        if self.admits_all {
            for (ticket, ..) in self.admissions() {
                self.admit(ticket, Admitted::Passes);
            }
        }
    }

    /// The questions about deliveries since the last call: ticket, task id, and whether it is never a duplicate.
    fn admissions(&mut self) -> Vec<(Ticket, String, bool)> {
        let (asks, _) = self.session.questions();
        let of_deliveries = asks.extract_if(.., |(_, request)| matches!(request, Request::Admit { .. }));
        let admission = |(ticket, request)| match request {
            Request::Admit { claim, reentrant, .. } => (Ticket(ticket), claim.id.to_string(), reentrant),
            other => panic!("not of a delivery: {other:?}"),
        };
        of_deliveries.map(admission).collect()
    }

    fn admit(&mut self, ticket: Ticket, admitted: Admitted) {
        let answer = Reply::Admit(Digest([7; 32]), admitted);
        self.session.handle_answer(ticket, Ok(answer), self.now);
    }

    fn output(&mut self, side: Side) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.session.swap_output(side, &mut bytes);
        bytes
    }

    /// What the broker has been sent, as lines.
    fn broker_got(&mut self) -> Vec<String> {
        lines(&self.output(Side::Broker))
    }

    /// What the client has been sent, as lines.
    fn client_got(&mut self) -> Vec<String> {
        lines(&self.output(Side::Client))
    }

    /// The tickets of the acquires asked since the last call, with their task ids.
    fn asked(&mut self) -> Vec<(Ticket, String)> {
        let (asks, _) = self.session.questions();
        asks.drain(..)
            .map(|(ticket, request)| match request {
                Request::Acquire { claim, .. } => (Ticket(ticket), claim.id.to_string()),
                other => panic!("not a question: {other:?}"),
            })
            .collect()
    }

    /// The orders told since the last call.
    fn told(&mut self) -> Vec<String> {
        let (_, tells) = self.session.questions();
        tells
            .drain(..)
            .map(|request| match request {
                Request::Commit { claim, .. } => format!("commit {}", claim.id),
                Request::Unpublish { claim, reason, .. } => format!("unpublish {} {}", claim.id, reason.as_str()),
                Request::RenewLease { claim, .. } => format!("renew {}", claim.id),
                Request::Signal { id, signal, .. } => format!("signal {id} {signal:?}"),
                Request::Renew { claim, note, .. } => format!("alive {} {:?}", claim.id, note.unstarted_ms),
                Request::RenewRun { claim, .. } => format!("runs on {}", claim.id),
                Request::Result { id, weight, .. } => format!("result {id} {weight:?}"),
                Request::Join { claim, holder, .. } => format!("{} joins {holder}", claim.id),
                Request::LeaveRun { claim, .. } => format!("leaves {}", claim.id),
                Request::LeaveLimit { ask, .. } => format!("leaves limits {}", ask.id),
                Request::Republished { claim, retries } => format!("republished {} {retries}", claim.id),
                Request::MarkParked { id, token, state, .. } => format!("{} {id} {}", state.as_str(), token.0),
                other => panic!("not an order: {other:?}"),
            })
            .collect()
    }

    fn answer(&mut self, ticket: Ticket, acquired: Acquired) {
        self.session.handle_answer(ticket, Ok(Reply::Acquire(acquired)), self.now);
    }

    fn silence(&mut self, ticket: Ticket) {
        self.session.handle_answer(ticket, Err(StoreSilent::Timeout), self.now);
    }

    /// Oncegate shuts down; the connection may close this much later.
    fn drain(&mut self, us: u64) {
        self.session.handle_drain(self.now.us + us, Neighbours::Idle, self.now);
    }

    /// The client consumes, and the broker answers; what the client was sent is taken.
    fn consumes(&mut self, channel: u16, tag: &str, no_ack: bool) {
        self.client(&consume(channel, tag, no_ack));
        let mut arguments = vec![tag.len() as u8];
        arguments.extend_from_slice(tag.as_bytes());
        self.broker(&method(channel, MethodId::BASIC_CONSUME_OK, &arguments));
        self.output(Side::Client);
    }

    fn later(&mut self, us: u64) {
        self.now.us += us;
        self.now.unix_ms += us / 1000;
        self.session.handle_timeout(self.now);
        self.park_nothing();
    }

    /// Publishes and gives the one ticket that was asked.
    fn publish_asked(&mut self, id: &str) -> Ticket {
        self.client(&publish(1, "t.unique", id, false));
        let asked = self.asked();
        assert_eq!(asked.len(), 1, "one question for one publish");
        assert_eq!(asked[0].1, id);
        asked[0].0
    }

    fn decisions(&mut self) -> Vec<PublishDecision> {
        self.session
            .events()
            .drain(..)
            .filter_map(|event| match event {
                Event::Publish(publish) => Some(publish.decision),
                _ => None,
            })
            .collect()
    }
}

fn held(by: &str) -> Acquired {
    Acquired::Held {
        holder: by.into(),
        state: LockState::Queued,
        expires_in_ms: 1000,
    }
}

fn leased(by: &str) -> Acquired {
    Acquired::Leased { holder: by.into() }
}

fn method(channel: u16, id: MethodId, arguments: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    payload.extend_from_slice(&id.class.to_be_bytes());
    payload.extend_from_slice(&id.method.to_be_bytes());
    payload.extend_from_slice(arguments);
    let mut raw = vec![1];
    raw.extend_from_slice(&channel.to_be_bytes());
    raw.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    raw.extend_from_slice(&payload);
    raw.push(frame::END);
    raw
}

fn headers(task: &str, id: &str) -> Vec<u8> {
    let mut table = Vec::new();
    for (name, value) in [("lang", "py"), ("task", task), ("id", id)] {
        put_entry(&mut table, name.as_bytes(), &FieldValue::LongStr(value.as_bytes())).expect("short names");
    }
    table
}

fn content<'a>(table: &'a [u8], id: &'a str, body: &'a [u8]) -> Content<'a> {
    let properties = Properties {
        content_type: Some(b"application/json"),
        content_encoding: Some(b"utf-8"),
        headers: Some(Table::new(table)),
        correlation_id: Some(id.as_bytes()),
        ..Properties::default()
    };
    Content { properties, body }
}

const BODY: &[u8] = br#"[[1], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]"#;

/// A publish on channel 1 for the queue `q`.
fn publish_of(content: &Content<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let method = Publish {
        exchange: b"",
        routing_key: b"q",
        mandatory: false,
        immediate: false,
        bits_offset: 0,
    };
    encode::basic_publish(&mut out, 1, &method, content, 131_072).expect("it fits");
    out
}

/// A delivery on channel 1 from the queue `q` to the consumer `c`.
fn delivery_of(delivery_tag: u64, redelivered: bool, content: &Content<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let method = Deliver {
        consumer_tag: b"c",
        delivery_tag,
        redelivered,
        exchange: b"",
        routing_key: b"q",
        tag_offset: 0,
    };
    encode::basic_deliver(&mut out, 1, &method, content, 131_072).expect("it fits");
    out
}

fn publish(channel: u16, task: &str, id: &str, mandatory: bool) -> Vec<u8> {
    let table = headers(task, id);
    let mut out = Vec::new();
    let method = Publish {
        exchange: b"",
        routing_key: b"q",
        mandatory,
        immediate: false,
        bits_offset: 0,
    };
    encode::basic_publish(&mut out, channel, &method, &content(&table, id, BODY), 131_072).expect("it fits");
    out
}

fn deliver(channel: u16, consumer: &str, tag: u64, task: &str, id: &str) -> Vec<u8> {
    let table = headers(task, id);
    let mut out = Vec::new();
    let method = Deliver {
        consumer_tag: consumer.as_bytes(),
        delivery_tag: tag,
        redelivered: false,
        exchange: b"",
        routing_key: b"q",
        tag_offset: 0,
    };
    encode::basic_deliver(&mut out, channel, &method, &content(&table, id, BODY), 131_072).expect("it fits");
    out
}

/// A message on channel 1 that is no task.
fn message(exchange: &str, routing_key: &str, properties: Properties<'_>, body: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let method = Publish {
        exchange: exchange.as_bytes(),
        routing_key: routing_key.as_bytes(),
        mandatory: false,
        immediate: false,
        bits_offset: 0,
    };
    let content = Content {
        properties,
        body: body.as_bytes(),
    };
    encode::basic_publish(&mut out, 1, &method, &content, 131_072).expect("it fits");
    out
}

/// A worker consumes its mailbox.
fn consume_mailbox() -> Vec<u8> {
    let mut arguments = b"\0\0\x13w@one.celery.pidbox\x02t1".to_vec();
    arguments.push(0b10);
    arguments.extend_from_slice(&[0, 0, 0, 0]);
    method(1, MethodId::BASIC_CONSUME, &arguments)
}

fn returned(channel: u16, id: &str) -> Vec<u8> {
    let mut arguments = 312u16.to_be_bytes().to_vec();
    arguments.extend_from_slice(b"\x08NO_ROUTE\x00\x01q");
    let mut out = method(channel, MethodId::BASIC_RETURN, &arguments);
    let all = publish(channel, "t.unique", id, false);
    let Split::Frame(first) = frame::split(&all, usize::MAX) else {
        panic!("a frame")
    };
    out.extend_from_slice(&all[first.raw.len()..]);
    out
}

fn consume(channel: u16, tag: &str, no_ack: bool) -> Vec<u8> {
    let mut arguments = b"\0\0\x01q".to_vec();
    arguments.push(tag.len() as u8);
    arguments.extend_from_slice(tag.as_bytes());
    arguments.push(u8::from(no_ack) << 1);
    arguments.extend_from_slice(&[0, 0, 0, 0]);
    method(channel, MethodId::BASIC_CONSUME, &arguments)
}

fn ack(channel: u16, delivery_tag: u64, multiple: bool) -> Vec<u8> {
    let mut out = Vec::new();
    encode::basic_ack(&mut out, channel, Ack { delivery_tag, multiple });
    out
}

fn nack(channel: u16, delivery_tag: u64, requeue: bool) -> Vec<u8> {
    let mut out = Vec::new();
    encode::basic_nack(
        &mut out,
        channel,
        Nack {
            delivery_tag,
            multiple: false,
            requeue,
        },
    );
    out
}

/// Frames as lines: methods with what matters of their arguments, contents as one line with the method.
fn lines(mut bytes: &[u8]) -> Vec<String> {
    let mut lines = Vec::new();
    while let Split::Frame(frame) = frame::split(bytes, usize::MAX) {
        bytes = &bytes[frame.raw.len()..];
        let Some(id) = frame.method_id() else {
            match frame.kind {
                frame::FrameKind::Header => {
                    let header = crate::amqp::content::ContentHeader::decode(frame.payload).expect("a content header");
                    let id = header.properties.correlation_id.unwrap_or_default();
                    if let Some(line) = lines.last_mut() {
                        let line: &mut String = line;
                        line.push(' ');
                        line.push_str(&String::from_utf8_lossy(id));
                    }
                }
                frame::FrameKind::Body => {}
                other => lines.push(format!("{other:?}")),
            }
            continue;
        };
        let name = id.name().unwrap_or("unknown");
        lines.push(match id {
            MethodId::BASIC_ACK => {
                let ack = Ack::decode(frame.payload).expect("an ack");
                format!("{name} {}{}", ack.delivery_tag, if ack.multiple { " multiple" } else { "" })
            }
            MethodId::BASIC_NACK => {
                let nack = Nack::decode(frame.payload).expect("a nack");
                format!("{name} {}{}", nack.delivery_tag, if nack.multiple { " multiple" } else { "" })
            }
            MethodId::BASIC_PUBLISH => {
                let publish = Publish::decode(frame.payload).expect("a publish");
                format!("{name}{}", if publish.mandatory { " mandatory" } else { "" })
            }
            _ => name.to_owned(),
        });
    }
    assert!(bytes.is_empty(), "half a frame was written: {bytes:?}");
    lines
}

mod admit;
mod beat;
mod carry;
mod confirms;
mod dead_letter;
mod debounce;
mod deliveries;
mod drain;
mod due;
mod emptied;
mod ends;
mod expiry;
mod gone;
mod hear;
mod hold;
mod invariants;
mod keep_last;
mod kept;
mod leases;
mod limit;
mod owed;
mod park;
mod query;
mod queues;
mod refuse;
mod renew;
mod replace;
mod replies;
mod store;
mod transactions;
mod transparency;
mod window;
mod witness;
