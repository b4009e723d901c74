//! What a channel declares, binds and deletes, from the client's request to the broker's answer.
//!
//! The broker answers the requests of a channel in order, and refuses one by closing the channel. So a request is known to have
//! succeeded when its answer comes; one that wants no answer, when all before it have been answered, unless the channel is then closed
//! for it. That a queue was emptied is told once it is certain: it frees locks.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Shared;
use super::channel::Channel;
use super::event::Event;
use super::topology::{Arguments, Binding, Change, Destination, Kind};
use crate::amqp::frame::Frame;
use crate::amqp::method::connection::Close;
use crate::amqp::method::{MethodId, exchange, queue};
use crate::amqp::table::{FieldValue, Table};

/// The most requests of one connection that are remembered until they are answered, at most some 8 MB.
const ASKED_MAX: usize = 10_000;
/// The most bindings, and the most emptied queues, of one channel that are not certain because no answer was wanted.
const UNPROVEN_MAX: usize = 64;

/// What an answered request says.
#[derive(Debug)]
enum Request {
    /// It changes something. An empty queue name stands for the queue declared last, or for the one that the answer names.
    Change(Change),
    /// A queue is there; it becomes the one declared last.
    Queue(Arc<str>),
    /// A queue loses its messages. An empty name as above.
    Purge(Arc<str>),
    /// It changes nothing that matters.
    Nothing,
    /// As many requests that are not remembered.
    Others(usize),
}

/// A request that is not known to have succeeded yet.
#[derive(Debug)]
struct Asked {
    /// The answer that it wants, if it wants one.
    answer: Option<MethodId>,
    request: Request,
    /// When it came, in monotonic microseconds.
    at_us: u64,
}

/// How a request is known to have succeeded.
#[derive(Debug, Clone, Copy)]
enum Known<'a> {
    /// By this answer.
    Answered(&'a Frame<'a>),
    /// It wants no answer, and all before it has been answered.
    Unrefused,
    /// It is not known; to take it for done is safe.
    Assumed,
}

/// A queue whose messages are gone, and when that was asked for, in monotonic microseconds.
#[derive(Debug)]
struct Emptied {
    queue: Arc<str>,
    at_us: u64,
}

/// The requests of one channel.
#[derive(Debug, Default)]
pub(super) struct Declarations {
    asked: VecDeque<Asked>,
    last_queue: Option<Arc<str>>,
    /// Bindings that wanted no answer, with no later request answered yet.
    unproven: VecDeque<Binding>,
    /// Queues that were emptied without an answer, with no later request answered yet.
    unproven_emptied: VecDeque<Emptied>,
}

impl Channel {
    /// A method of the classes `exchange` or `queue` from the client.
    pub(super) fn client_declares(&mut self, shared: &mut Shared, frame: &Frame<'_>) {
        let Some((request, answer)) = request(frame) else { return };
        let at_us = shared.now.us;
        let asked = &mut self.declarations.asked;
        if answer.is_none() && asked.is_empty() {
            return self.succeeded(shared, request, at_us, Known::Unrefused);
        }
        if shared.declaring < ASKED_MAX {
            shared.declaring += 1;
            asked.push_back(Asked { answer, request, at_us });
            return;
        }
        match asked.back_mut() {
            _ if answer.is_none() => {}
            Some(Asked {
                request: Request::Others(count),
                ..
            }) => *count += 1,
            _ => asked.push_back(Asked {
                answer,
                request: Request::Others(1),
                at_us,
            }),
        }
        // To know too little is safe.
        if is_removal(&request) {
            self.succeeded(shared, request, at_us, Known::Assumed);
        }
    }

    /// A method of the classes `exchange` or `queue` from the broker: an answer.
    pub(super) fn broker_declared(&mut self, shared: &mut Shared, frame: &Frame<'_>) {
        let id = frame.method_id();
        let declarations = &mut self.declarations;
        match declarations.asked.front_mut() {
            None => return,
            Some(Asked {
                request: Request::Others(count),
                ..
            }) => {
                *count -= 1;
                if *count > 0 {
                    return;
                }
                declarations.asked.pop_front();
                // One of them may have declared a queue.
                declarations.last_queue = None;
            }
            Some(asked) if asked.answer == id => {
                declarations.unproven.clear();
                self.emptied_for_certain(shared);
                self.next_succeeded(shared, Known::Answered(frame));
            }
            // It changes nothing that is waited for.
            Some(_) if id == Some(MethodId::QUEUE_PURGE_OK) => return,
            // An answer to something else: what belongs to what is not known any more.
            Some(_) => return self.declarations_lost(shared),
        }
        while self.declarations.asked.front().is_some_and(|asked| asked.answer.is_none()) {
            self.next_succeeded(shared, Known::Unrefused);
        }
    }

    /// The queue that a method of the client means by this name: an empty one stands for the queue declared last. `None` if the broker
    /// has still to name that, or it is not known.
    pub(super) fn queue_meant(&self, name: &[u8]) -> Option<Arc<str>> {
        if !name.is_empty() {
            return text(name);
        }
        for asked in self.declarations.asked.iter().rev() {
            match &asked.request {
                Request::Queue(name) | Request::Change(Change::PassingQueue(name)) => {
                    return Some(Arc::clone(name)).filter(|name| !name.is_empty());
                }
                Request::Others(_) => return None,
                Request::Change(_) | Request::Purge(_) | Request::Nothing => {}
            }
        }
        self.declarations.last_queue.clone()
    }

    /// The broker closes the channel: nothing that was asked has happened, nor perhaps what wanted no answer.
    pub(super) fn declarations_refused(&mut self, shared: &mut Shared, close: &Frame<'_>) {
        self.take_asked(shared);
        self.declarations.unproven_emptied.clear();
        let class = Close::decode_channel(close.payload).map(|close| close.cause.class);
        if matches!(class, Some(40 | 50)) || !self.queue.is_empty() {
            for binding in std::mem::take(&mut self.declarations.unproven) {
                shared.learn(Change::Unbind(binding));
            }
        }
    }

    /// No request of this channel has been refused: what wanted no answer has happened.
    pub(super) fn emptied_for_certain(&mut self, shared: &mut Shared) {
        for Emptied { queue, at_us } in self.declarations.unproven_emptied.drain(..) {
            shared.events.push(Event::Emptied { queue, at_us });
        }
    }

    /// No answers come any more: what was asked may have happened or not.
    pub(super) fn declarations_lost(&mut self, shared: &mut Shared) {
        self.declarations.unproven_emptied.clear();
        for asked in self.take_asked(shared) {
            if is_removal(&asked.request) {
                self.succeeded(shared, asked.request, asked.at_us, Known::Assumed);
            }
        }
    }

    fn take_asked(&mut self, shared: &mut Shared) -> VecDeque<Asked> {
        let asked = std::mem::take(&mut self.declarations.asked);
        shared.declaring -= asked.iter().filter(|asked| !matches!(asked.request, Request::Others(_))).count();
        asked
    }

    fn next_succeeded(&mut self, shared: &mut Shared, known: Known<'_>) {
        if let Some(asked) = self.declarations.asked.pop_front() {
            shared.declaring -= 1;
            self.succeeded(shared, asked.request, asked.at_us, known);
        }
    }

    /// A queue that loses its messages by this request is told of, once that is certain.
    fn note_emptied(&mut self, shared: &mut Shared, request: &Request, at_us: u64, known: Known<'_>) {
        let (Request::Purge(name) | Request::Change(Change::NoQueue(name))) = request else {
            return;
        };
        let declarations = &mut self.declarations;
        let Some(queue) = declarations.named(name) else { return };
        match known {
            Known::Answered(_) => shared.events.push(Event::Emptied { queue, at_us }),
            Known::Unrefused => {
                if declarations.unproven_emptied.len() == UNPROVEN_MAX {
                    declarations.unproven_emptied.pop_front();
                }
                declarations.unproven_emptied.push_back(Emptied { queue, at_us });
            }
            Known::Assumed => {}
        }
    }

    fn succeeded(&mut self, shared: &mut Shared, request: Request, at_us: u64, known: Known<'_>) {
        self.note_emptied(shared, &request, at_us, known);
        let declarations = &mut self.declarations;
        let answer = match known {
            Known::Answered(frame) => Some(frame),
            Known::Unrefused | Known::Assumed => None,
        };
        let declared = |name: Arc<str>| match answer.and_then(|frame| queue::DeclareOk::decode(frame.payload)) {
            Some(ok) => std::str::from_utf8(ok.queue).ok().map(Arc::from),
            None => Some(name).filter(|name| !name.is_empty()),
        };
        let last = declarations.last_queue.clone();
        let named = |name: Arc<str>| if name.is_empty() { last } else { Some(name) };
        let change = match request {
            Request::Purge(_) | Request::Nothing | Request::Others(_) => None,
            Request::Queue(name) => {
                declarations.last_queue = declared(name);
                None
            }
            Request::Change(Change::PassingQueue(name)) => {
                declarations.last_queue = declared(name);
                declarations.last_queue.clone().map(Change::PassingQueue)
            }
            Request::Change(Change::NoQueue(name)) => named(name).map(Change::NoQueue),
            Request::Change(Change::Bind(binding, arguments)) => completed(binding, named).map(|binding| {
                if answer.is_none() {
                    if declarations.unproven.len() == UNPROVEN_MAX {
                        declarations.unproven.pop_front();
                    }
                    declarations.unproven.push_back(binding.clone());
                }
                Change::Bind(binding, arguments)
            }),
            Request::Change(Change::Unbind(binding)) => completed(binding, named).map(Change::Unbind),
            Request::Change(change) => Some(change),
        };
        if let Some(change) = change {
            shared.learn(change);
        }
    }
}

impl Declarations {
    /// The queue of that name, or where the client gave none the one declared last.
    fn named(&self, name: &Arc<str>) -> Option<Arc<str>> {
        if name.is_empty() {
            self.last_queue.clone()
        } else {
            Some(Arc::clone(name))
        }
    }
}

impl Shared {
    /// Something is known to have changed.
    fn learn(&mut self, change: Change) {
        if self.rules.asks_for_queue() {
            Arc::make_mut(&mut self.topology).apply(&change);
        }
        if let Change::PassingQueue(queue) = &change {
            self.caller_declares(queue);
        }
        self.changes.push(change);
    }
}

/// A binding whose queue has a name: that of the queue declared last where the client gave none. With neither queue nor routing key
/// the key is that name too (`rabbit_channel`, `expand_routing_key_shortcut`).
fn completed(mut binding: Binding, named: impl FnOnce(Arc<str>) -> Option<Arc<str>>) -> Option<Binding> {
    if let Destination::Queue(name) = &mut binding.destination
        && name.is_empty()
    {
        *name = named(Arc::clone(name))?;
        if binding.routing_key.is_empty() {
            binding.routing_key = Arc::from(name.as_bytes());
        }
    }
    Some(binding)
}

fn is_removal(request: &Request) -> bool {
    matches!(
        request,
        Request::Change(Change::NoExchange(_) | Change::NoQueue(_) | Change::Unbind(_))
    )
}

/// What a method asks for, and the answer that it wants; `None` for one that changes nothing.
fn request(frame: &Frame<'_>) -> Option<(Request, Option<MethodId>)> {
    let (change, nowait, answer) = match frame.method_id()? {
        MethodId::EXCHANGE_DECLARE => {
            let declare = exchange::Declare::decode(frame.payload)?;
            let kind = kind_of(declare.kind, &declare.arguments);
            // The type of a passive declaration says nothing.
            let change = (!declare.passive).then(|| Change::Exchange(declare.exchange.into(), kind));
            (change, declare.nowait, MethodId::EXCHANGE_DECLARE_OK)
        }
        MethodId::EXCHANGE_DELETE => {
            let delete = exchange::Delete::decode(frame.payload)?;
            (
                Some(Change::NoExchange(delete.exchange.into())),
                delete.nowait,
                MethodId::EXCHANGE_DELETE_OK,
            )
        }
        MethodId::EXCHANGE_BIND => {
            let bind = exchange::Bind::decode(frame.payload)?;
            let change = Change::Bind(between(&bind), arguments(&bind.arguments));
            (Some(change), bind.nowait, MethodId::EXCHANGE_BIND_OK)
        }
        MethodId::EXCHANGE_UNBIND => {
            let bind = exchange::Bind::decode_unbind(frame.payload)?;
            (Some(Change::Unbind(between(&bind))), bind.nowait, MethodId::EXCHANGE_UNBIND_OK)
        }
        MethodId::QUEUE_DECLARE => {
            let declare = queue::Declare::decode(frame.payload)?;
            let answer = (!declare.nowait).then_some(MethodId::QUEUE_DECLARE_OK);
            let passing = declare.exclusive || declare.auto_delete || declare.arguments.first(b"x-expires").is_some();
            let name = text(declare.queue).unwrap_or_default();
            let request = if passing && !declare.passive {
                Request::Change(Change::PassingQueue(name))
            } else {
                Request::Queue(name)
            };
            return Some((request, answer));
        }
        MethodId::QUEUE_PURGE => {
            let purge = queue::Purge::decode(frame.payload)?;
            let answer = (!purge.nowait).then_some(MethodId::QUEUE_PURGE_OK);
            return Some((text(purge.queue).map_or(Request::Nothing, Request::Purge), answer));
        }
        MethodId::QUEUE_DELETE => {
            let delete = queue::Delete::decode(frame.payload)?;
            (text(delete.queue).map(Change::NoQueue), delete.nowait, MethodId::QUEUE_DELETE_OK)
        }
        MethodId::QUEUE_BIND => {
            let bind = queue::Bind::decode(frame.payload)?;
            let change = to_queue(&bind).map(|binding| Change::Bind(binding, arguments(&bind.arguments)));
            (change, bind.nowait, MethodId::QUEUE_BIND_OK)
        }
        MethodId::QUEUE_UNBIND => {
            let bind = queue::Bind::decode_unbind(frame.payload)?;
            (to_queue(&bind).map(Change::Unbind), bind.nowait, MethodId::QUEUE_UNBIND_OK)
        }
        _ => return None,
    };
    Some((change.map_or(Request::Nothing, Request::Change), (!nowait).then_some(answer)))
}

fn text(name: &[u8]) -> Option<Arc<str>> {
    std::str::from_utf8(name).ok().map(Arc::from)
}

fn arguments(table: &Table<'_>) -> Arguments {
    if table.raw().is_empty() { Arguments::None } else { Arguments::Some }
}

/// The type of an exchange; one whose messages are delayed names the type by which it routes (`rabbitmq_delayed_message_exchange`).
fn kind_of(name: &[u8], arguments: &Table<'_>) -> Kind {
    match arguments.first(b"x-delayed-type") {
        Some(FieldValue::LongStr(inner)) if name == b"x-delayed-message" => Kind::named(inner),
        _ => Kind::named(name),
    }
}

fn between(bind: &exchange::Bind<'_>) -> Binding {
    Binding {
        source: bind.source.into(),
        routing_key: bind.routing_key.into(),
        destination: Destination::Exchange(bind.destination.into()),
    }
}

fn to_queue(bind: &queue::Bind<'_>) -> Option<Binding> {
    Some(Binding {
        source: bind.exchange.into(),
        routing_key: bind.routing_key.into(),
        destination: Destination::Queue(text(bind.queue)?),
    })
}
