//! What a session hears of tasks beside the settlements of its own deliveries: events and results that workers publish, and control
//! messages on their way to workers.
//!
//! All of these pass as they are. A task's messages, its results and its worker's events take different connections, so a signal may come
//! before the one that caused it; the store puts them in order.

use std::sync::Arc;

use super::Shared;
use super::event::{Event, Pulse};
use super::witness::Ack;
use crate::amqp::content::Properties;
use crate::amqp::encode;
use crate::amqp::method::basic;
use crate::celery::control::{self, Answers, Ask, Command, Message};
use crate::celery::event::{self, Kind, TaskEvent, WorkerEvent};
use crate::celery::queue::{self, Purpose};
use crate::celery::result;
use crate::celery::{Limits, task};
use crate::rules::lock::{Nonce, Request, Signal};
use crate::rules::source::Source;

/// The mailbox of the worker at the other end of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mailbox {
    /// The worker's node name.
    pub node: Arc<str>,
    /// What the name of the mailbox's exchange begins with.
    pub namespace: Box<str>,
    /// What it was told.
    pub told: Told,
}

/// What a worker was told through its mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Nothing.
    Nothing,
    /// To publish task events.
    Events,
}

/// Every peer takes frames of this size, in octets.
///
/// AMQP 0-9-1, `connection.tune`: `frame-min-size`.
const FRAME_MIN: usize = 4096;

impl Mailbox {
    /// The mailbox that a queue is, if it is one.
    pub(super) fn of_queue(queue: &[u8]) -> Option<Mailbox> {
        match queue::purpose(queue) {
            Purpose::Mailbox { node, namespace } => Some(Mailbox {
                node: node.into(),
                namespace: namespace.into(),
                told: Told::Nothing,
            }),
            _ => None,
        }
    }

    /// A delivery to the mailbox that tells its worker something, or asks it. The consumer needs no acknowledgement, so any delivery tag
    /// will do; a worker takes the high one. `None` if it cannot be put into frames.
    pub(super) fn tell(&self, ask: Ask<'_>, answers: Option<Answers<'_>>, channel: u16, consumer_tag: &[u8]) -> Option<Vec<u8>> {
        let message = Message::new(ask, &self.namespace, &[&self.node], answers)?;
        let deliver = basic::Deliver {
            consumer_tag,
            delivery_tag: 1 << 40,
            redelivered: false,
            exchange: message.exchange().as_bytes(),
            routing_key: b"",
            tag_offset: 0,
        };
        let mut frames = Vec::new();
        encode::basic_deliver(&mut frames, channel, &deliver, &message.content(), FRAME_MIN).ok()?;
        Some(frames)
    }
}

/// Listens to a publish that has been read in full. True if it is no task: an event, a control message or a result.
pub(super) fn hear(shared: &mut Shared, publish: &basic::Publish<'_>, properties: &Properties<'_>, body: &[u8]) -> bool {
    if task::peek(properties).is_some() {
        return false;
    }
    let limits = Limits::new(shared.settings.max_message);
    if publish.exchange == event::EXCHANGE {
        if shared.rules.follows_tasks() && event::may_matter(publish.routing_key) {
            hear_events(shared, properties, body, limits);
        }
        return true;
    }
    if control::namespace(publish.exchange).is_some() {
        if shared.rules.follows_tasks() {
            hear_control(shared, properties, body, limits);
        }
        return true;
    }
    publish.exchange.is_empty() && result::may_be_rpc(properties) && hear_result(shared, properties, body, limits)
}

fn hear_events(shared: &mut Shared, properties: &Properties<'_>, body: &[u8], limits: Limits) {
    for heard in read_events(properties, body, limits) {
        match heard {
            Heard::Signal { id, signal, worker } => shared.tell_signal(id, signal, Source::Events, worker, None),
            Heard::Pulse { node, pulse } => shared.events.push(Event::Pulse { node, pulse }),
        }
    }
}

/// What workers tell by events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// Of a task.
    Signal {
        /// Its id.
        id: Arc<str>,
        /// What became of it.
        signal: Signal,
        /// The worker's node name.
        worker: Arc<str>,
    },
    /// Of themselves.
    Pulse {
        /// The worker's node name.
        node: Arc<str>,
        /// What it told.
        pulse: Pulse,
    },
}

impl Heard {
    /// The node name of the worker that told it.
    pub fn node(&self) -> &Arc<str> {
        match self {
            Heard::Signal { worker, .. } => worker,
            Heard::Pulse { node, .. } => node,
        }
    }
}

/// What a message to the exchange of events tells; nothing if it cannot be read, since then it is somebody else's use of the exchange.
pub fn read_events(properties: &Properties<'_>, body: &[u8], limits: Limits) -> Vec<Heard> {
    let Ok(events) = event::read(properties, body, limits) else {
        return Vec::new();
    };
    let mut heard = Vec::new();
    let mut worker: Arc<str> = "".into();
    for event in events.events {
        if *worker != *event.hostname {
            worker = event.hostname.into();
        }
        let (id, what) = match event.kind {
            Kind::Task { id, event } => (id, event),
            Kind::Worker(what) => {
                heard.push(Heard::Pulse {
                    node: Arc::clone(&worker),
                    pulse: pulse(what),
                });
                continue;
            }
        };
        let signal = match what {
            TaskEvent::Started => Signal::Started,
            TaskEvent::Succeeded => Signal::Succeeded,
            TaskEvent::Failed => Signal::Failed,
            TaskEvent::Retried => Signal::Retried,
            TaskEvent::Revoked { expired: true, .. } => Signal::Expired,
            TaskEvent::Revoked { expired: false, .. } => Signal::Revoked,
            // The reject itself is heard where it is sent, and one with requeue ends nothing.
            TaskEvent::Sent { .. } | TaskEvent::Received { .. } | TaskEvent::Rejected { .. } | TaskEvent::Cancelled => continue,
        };
        heard.push(Heard::Signal {
            id: id.into(),
            signal,
            worker: Arc::clone(&worker),
        });
    }
    heard
}

fn pulse(what: WorkerEvent) -> Pulse {
    let every_ms = |seconds: Option<f64>| seconds.map(|seconds| (seconds.min(3600.0) * 1000.0) as u64);
    match what {
        WorkerEvent::Online(pulse) => Pulse::Online {
            every_ms: every_ms(pulse.freq),
        },
        WorkerEvent::Heartbeat(pulse) => Pulse::Heartbeat {
            every_ms: every_ms(pulse.freq),
        },
        WorkerEvent::Offline => Pulse::Offline,
    }
}

fn hear_control(shared: &mut Shared, properties: &Properties<'_>, body: &[u8], limits: Limits) {
    if let Ok(control) = control::read(properties, body, limits)
        && let Command::Revoke { ids, .. } = control.command
    {
        for id in ids {
            shared.tell_signal(id.into(), Signal::RevokeAsked, Source::Other, "".into(), None);
        }
    }
}

/// False if it is no result: perhaps a task of protocol 1, which has no header that says so.
fn hear_result(shared: &mut Shared, properties: &Properties<'_>, body: &[u8], limits: Limits) -> bool {
    let Ok(Some(result)) = result::read_rpc(properties, body, limits) else {
        return false;
    };
    let id: Arc<str> = Arc::from(&*result.id);
    shared.tell_result(&id, &result);
    if shared.rules.follows_tasks()
        && let Some(signal) = Signal::of_result(result.status)
    {
        shared.tell_signal(id, signal, Source::Rpc, "".into(), None);
    }
    true
}

impl Shared {
    /// What an ack says, by what was seen of the run and of earlier ones.
    pub(super) fn judge_ack(&mut self, id: &str) -> Signal {
        let (ack, unheard) = self.witness.acked(id, self.now.us);
        if let Some(rule) = unheard {
            self.events.push(Event::EndsUnheard { rule });
        }
        match ack {
            Ack::Begun => Signal::Acked,
            Ack::Ended => Signal::AckedLate,
        }
    }

    /// Tells the store what was learnt of a task, by the settlement of a delivery that it knows, perhaps.
    pub(super) fn tell_signal(&mut self, id: Arc<str>, signal: Signal, source: Source, worker: Arc<str>, asked: Option<Nonce>) {
        self.run_ended(&id);
        if source != Source::Ack {
            self.witness.heard(&id, signal, source, self.now.us);
        }
        let settlement = asked.unwrap_or_else(|| self.nonce());
        self.tells.push(Request::Signal {
            id,
            settlement,
            signal,
            source,
            worker,
        });
    }
}
