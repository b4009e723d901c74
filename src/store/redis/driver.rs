//! The task that speaks to Redis: batches what waits, answers, keeps orders until they are done, reconnects.
//!
//! All that happens to it comes through one mailbox; the rest is time.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Value};
use tokio::sync::mpsc::{UnboundedReceiver, WeakUnboundedSender};
use tokio::sync::oneshot;
use tokio::time::timeout_at;

use super::queue::{Asker, Entry, Question, Queue};
use super::wire::{self, BadReply, Call};
use super::{Handle, Redis, Status};
use crate::rules::lock::{Acquired, Reply, Request};
use crate::store::breaker::Breaker;
use crate::store::{
    Answer, Backend, Circuit, Client, GivenUp, Op, Replies, Shared, Ticket, Unavailable, Waiter, ask_again, give_back, note_outcome, passes,
};

/// How many questions one call of the script takes: a batch holds the server up for less than a millisecond, and takes no more memory than an
/// allocator keeps at hand.
const BATCH: usize = 64;
/// How many calls are out at a time: enough to hide the way there and back, few enough that batches grow under load.
const IN_FLIGHT: usize = 4;
/// How many messages are taken from the mailbox at a time.
const INBOX: usize = 256;
/// A connection that has been silent for so long is tried: a server that was started anew is to be found before the next question.
const TRY_AFTER: Duration = Duration::from_secs(1);

/// What comes to the driver.
pub(super) enum Message {
    Ask(Vec<(Ticket, Request)>, Replies),
    AskAgain(Box<Waiter>),
    Tell(Vec<Request>),
    /// Answered when no order waits.
    Flush(oneshot::Sender<()>),
    /// An attempt to connect has ended.
    Connected(Result<(MultiplexedConnection, String), Unavailable>),
    /// The oldest call in flight of that connection was answered.
    Done(u64, RedisResult<Value>),
}

/// One call of the script.
struct Batch {
    entries: Vec<Entry>,
    /// How many of them are orders.
    orders: usize,
    sent: Instant,
}

/// The connection to the server.
enum Link {
    Down,
    Connecting,
    Up(MultiplexedConnection),
}

pub(super) struct Driver {
    redis: Arc<Redis>,
    shared: Arc<Shared>,
    status: Arc<Status>,
    inbox: UnboundedReceiver<Message>,
    own: WeakUnboundedSender<Message>,
    queue: Queue,
    in_flight: VecDeque<Batch>,
    /// Calls that found no script: sent again, in order, when nothing is in flight.
    unscripted: Vec<Entry>,
    call: Call,
    link: Link,
    /// Counts the connections, so that answers of an old one are known.
    generation: u64,
    breaker: Breaker,
    circuit: Circuit,
    run_id: String,
    /// When something was last sent, or the connection made.
    sent: Instant,
    flushes: Vec<oneshot::Sender<()>>,
}

impl Driver {
    pub(super) fn new(
        redis: Arc<Redis>,
        shared: Arc<Shared>,
        status: Arc<Status>,
        inbox: UnboundedReceiver<Message>,
        own: WeakUnboundedSender<Message>,
    ) -> Driver {
        Driver {
            redis,
            shared,
            status,
            inbox,
            own,
            queue: Queue::default(),
            in_flight: VecDeque::new(),
            unscripted: Vec::new(),
            call: Call::Text,
            link: Link::Down,
            generation: 0,
            breaker: Breaker::new(),
            circuit: Circuit::Closed,
            run_id: String::new(),
            sent: Instant::now(),
            flushes: Vec::new(),
        }
    }

    /// Runs until the last client has gone.
    pub(super) async fn run(mut self) {
        let mut messages = Vec::with_capacity(INBOX);
        loop {
            self.on_time(Instant::now());
            self.send().await;
            self.show();
            let received = match self.wake_at() {
                Some(at) => timeout_at(at.into(), self.inbox.recv_many(&mut messages, INBOX)).await,
                None => Ok(self.inbox.recv_many(&mut messages, INBOX).await),
            };
            if received == Ok(0) {
                return;
            }
            let now = Instant::now();
            for message in messages.drain(..) {
                self.on_message(message, now);
            }
        }
    }

    fn on_message(&mut self, message: Message, now: Instant) {
        match message {
            Message::Ask(requests, reply_to) => {
                for (ticket, request) in requests {
                    self.ask(
                        Asker::Session {
                            ticket,
                            request,
                            reply_to: reply_to.clone(),
                        },
                        now,
                    );
                }
            }
            Message::AskAgain(waiter) => self.ask(Asker::Keeper(waiter), now),
            Message::Tell(requests) => self.on_told(requests, now),
            Message::Flush(done) => self.flushes.push(done),
            Message::Connected(Ok((connection, run_id))) => self.on_connected(connection, run_id),
            Message::Connected(Err(why)) => {
                tracing::debug!(%why, "cannot connect to the store");
                self.link = Link::Down;
                self.breaker.on_outage(now);
            }
            Message::Done(generation, result) => {
                if generation == self.generation {
                    self.on_done(result, now);
                }
            }
        }
    }

    fn on_told(&mut self, requests: Vec<Request>, now: Instant) {
        let up = matches!(self.link, Link::Up(_));
        for request in requests {
            // Who has the lock renews it when the store is back.
            if up || !matches!(request, Request::Renew { .. }) {
                self.queue.tell(request, now, &self.shared.observer);
            }
        }
    }

    fn ask(&mut self, asker: Asker, now: Instant) {
        let probing = self.breaker.circuit() == Circuit::HalfOpen && !matches!(self.link, Link::Up(_));
        if self.breaker.circuit() == Circuit::Open || probing {
            self.answer(asker, Err(Unavailable::CircuitOpen));
        } else {
            self.queue.ask(asker, now);
        }
    }

    /// What time brings: deadlines, the end of the breaker's pause, a new connection.
    fn on_time(&mut self, now: Instant) {
        if self.in_flight.front().is_some_and(|batch| batch.sent + self.redis.timeout <= now) {
            self.on_lost(&Unavailable::Timeout, now);
        }
        if let Some(asked_by) = now.checked_sub(self.redis.timeout) {
            self.answer_late(asked_by);
        }
        self.breaker.on_time(now);
        if self.breaker.circuit() == Circuit::Open {
            while let Some(question) = self.queue.take_question(now) {
                self.answer(question.asker, Err(Unavailable::CircuitOpen));
            }
        } else if matches!(self.link, Link::Down) {
            self.connect();
        }
    }

    /// Answers the questions that were asked by then with a timeout, whether they were sent or not.
    fn answer_late(&mut self, asked_by: Instant) {
        let mut late: Vec<Question> = std::iter::from_fn(|| self.queue.take_question(asked_by)).collect();
        let sent = self
            .in_flight
            .iter_mut()
            .flat_map(|batch| batch.entries.iter_mut())
            .chain(&mut self.unscripted);
        for entry in sent {
            match entry {
                Entry::Question(_, question) if question.as_ref().is_some_and(|question| question.asked <= asked_by) => {
                    late.extend(question.take());
                }
                // Questions are sent in the order of asking: those behind one that is not late are not late.
                Entry::Question(_, Some(_)) => break,
                _ => {}
            }
        }
        for question in late {
            self.answer(question.asker, Err(Unavailable::Timeout));
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        let in_flight = self.in_flight.front().map(|batch| batch.sent);
        let asked = self
            .in_flight
            .iter()
            .flat_map(|batch| &batch.entries)
            .chain(&self.unscripted)
            .find_map(|entry| match entry {
                Entry::Question(_, Some(question)) => Some(question.asked),
                _ => None,
            });
        let deadline = [in_flight, asked, self.queue.oldest_question()]
            .into_iter()
            .flatten()
            .min()
            .map(|at| at + self.redis.timeout);
        [deadline, self.breaker.until(), self.try_at()].into_iter().flatten().min()
    }

    /// When the connection is tried if nothing is sent before.
    fn try_at(&self) -> Option<Instant> {
        (matches!(self.link, Link::Up(_)) && self.in_flight.is_empty()).then(|| self.sent + TRY_AFTER)
    }

    fn connect(&mut self) {
        let Some(own) = self.own.upgrade() else { return };
        self.link = Link::Connecting;
        let redis = self.redis.clone();
        tokio::spawn(async move {
            let _ = own.send(Message::Connected(redis.connect_for_locks().await));
        });
    }

    fn on_connected(&mut self, connection: MultiplexedConnection, run_id: String) {
        self.generation += 1;
        self.link = Link::Up(connection);
        self.call = Call::Text;
        self.sent = Instant::now();
        self.breaker.on_connected();
        if !self.run_id.is_empty() && self.run_id != run_id {
            self.shared.observer.on_new_server(&run_id);
        }
        self.run_id = run_id;
        self.status.up.store(true, Ordering::Relaxed);
        self.shared.observer.on_up(true);
        // Behind what was told while it was away.
        self.status.connects.send_modify(|connects| *connects += 1);
    }

    /// Sends what waits, as far as the calls in flight allow.
    async fn send(&mut self) {
        while let Link::Up(connection) = &self.link {
            // The first call brings the script; those behind it would not find it, and those that did not find it go before.
            let room = if self.call == Call::Text { 1 } else { IN_FLIGHT };
            let now = Instant::now();
            // A call without questions is as good as any to see whether there is an answer.
            let tries = self.try_at().is_some_and(|at| at <= now);
            if self.in_flight.len() >= room || self.queue.is_empty() && !tries {
                return;
            }
            let entries = self.queue.take(BATCH, now, &self.shared.observer);
            let requests: Vec<&Request> = entries.iter().filter_map(request_of).collect();
            if requests.is_empty() && !tries {
                continue;
            }
            self.sent = now;
            let cmd = wire::command(&self.redis.names, self.call, requests.into_iter());
            let mut connection = connection.clone();
            let mut call = Box::pin(async move { connection.send_packed_command(&cmd).await });
            let orders = count_orders(&entries);
            self.in_flight.push_back(Batch {
                entries,
                orders,
                sent: now,
            });
            // The first poll puts the call into the connection's queue: calls leave in this order.
            let polled = poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await;
            let Some(own) = self.own.upgrade() else { return };
            let generation = self.generation;
            match polled {
                Poll::Ready(result) => drop(own.send(Message::Done(generation, result))),
                Poll::Pending => drop(tokio::spawn(async move { own.send(Message::Done(generation, call.await)) })),
            }
        }
    }

    fn on_done(&mut self, result: RedisResult<Value>, now: Instant) {
        // The library hands a server's refusal of a single command over as a value.
        let result = match result {
            Ok(Value::ServerError(error)) => Err(error.into()),
            other => other,
        };
        match result {
            Ok(Value::Array(values)) => {
                let Some(batch) = self.in_flight.pop_front() else { return };
                self.call = Call::Digest;
                self.on_values(batch, values, now);
            }
            Err(error) if error.code() == Some("NOSCRIPT") => {
                let Some(batch) = self.in_flight.pop_front() else { return };
                self.unscripted.extend(batch.entries);
                self.call = Call::Text;
            }
            Ok(_) => self.on_lost(&Unavailable::Refused("the script's answer cannot be read".into()), now),
            Err(error) => self.on_lost(&super::unavailable(&error), now),
        }
        if self.in_flight.is_empty() && !self.unscripted.is_empty() {
            self.queue.put_back(std::mem::take(&mut self.unscripted));
        }
    }

    fn on_values(&mut self, batch: Batch, values: Vec<Value>, now: Instant) {
        let took = now.duration_since(batch.sent);
        let mut values = values.into_iter();
        let mut undone = Vec::new();
        let mut outage = None;
        for entry in batch.entries {
            let Some(request) = request_of(&entry) else {
                values.next();
                continue;
            };
            let reply = wire::reply(request, values.next().unwrap_or_default());
            match (entry, reply) {
                (Entry::Question(_, None), _) => {}
                (Entry::Question(_, Some(question)), Ok(reply)) => {
                    self.shared.observer.on_request(Op::of(question.asker.request()), took);
                    self.answer(question.asker, Ok(reply));
                }
                (Entry::Question(_, Some(question)), Err(bad)) => {
                    let (why, transient) = refusal(bad);
                    outage = outage.or_else(|| transient.then(|| why.clone()));
                    self.answer(question.asker, Err(why));
                }
                (Entry::Order(_, order), Ok(reply)) => {
                    self.shared.observer.on_request(Op::of(&order.request), took);
                    self.shared.observer.on_told(&order.request, &reply);
                    note_outcome(&self.shared, &order.request);
                }
                (Entry::Order(number, order), Err(bad)) => {
                    let (why, transient) = refusal(bad);
                    self.shared.observer.on_error(Op::of(&order.request), &why);
                    if transient {
                        outage.get_or_insert(why);
                        undone.push(Entry::Order(number, order));
                    } else {
                        tracing::warn!(%why, "the store refuses an order");
                        self.shared.observer.on_given_up(&order.request, GivenUp::Refused);
                    }
                }
            }
        }
        if let Some(why) = outage {
            let orders = undone.len();
            self.in_flight.push_front(Batch {
                entries: undone,
                orders,
                sent: batch.sent,
            });
            self.on_lost(&why, now);
        } else {
            self.breaker.on_success();
        }
    }

    /// The connection cannot be used any more: orders wait for the next one, and so do questions if that may come in time, as after a
    /// server's restart. To be asked twice changes nothing.
    fn on_lost(&mut self, why: &Unavailable, now: Instant) {
        self.generation += 1;
        self.link = Link::Down;
        self.breaker.on_failure(now);
        self.status.up.store(false, Ordering::Relaxed);
        self.shared.observer.on_up(false);
        tracing::debug!(%why, "the connection to the store is given up");
        let mut entries = std::mem::take(&mut self.unscripted);
        entries.extend(self.in_flight.drain(..).flat_map(|batch| batch.entries));
        let asks_again = *why == Unavailable::Disconnected && self.breaker.circuit() == Circuit::Closed;
        let mut waiting = Vec::new();
        let mut questions = Vec::new();
        for entry in entries {
            match entry {
                Entry::Question(_, question) if !asks_again => questions.extend(question),
                Entry::Order(_, order) if matches!(order.request, Request::Renew { .. }) => {}
                entry => waiting.push(entry),
            }
        }
        self.queue.put_back(waiting);
        for question in questions {
            self.answer(question.asker, Err(why.clone()));
        }
    }

    fn answer(&mut self, asker: Asker, answer: Answer) {
        if let Err(why) = &answer {
            self.shared.observer.on_error(Op::of(asker.request()), why);
        }
        match asker {
            Asker::Session { ticket, request, reply_to } => {
                let leased = matches!(answer, Ok(Reply::Acquire(Acquired::Leased { .. })));
                let (passes, known) = (passes(&answer), answer.is_ok());
                let gone = reply_to.send((ticket, answer)).is_err();
                if gone && passes {
                    if let Some(order) = give_back(&request) {
                        self.queue.tell(order, Instant::now(), &self.shared.observer);
                    }
                } else if leased && !gone {
                    if let Some(client) = self.client() {
                        client.keep(ticket, &request, &reply_to);
                    }
                } else if known {
                    note_outcome(&self.shared, &request);
                }
            }
            Asker::Keeper(waiter) => {
                let again = self.shared.keeper.on_answer(*waiter, answer);
                ask_again(&self.shared, again);
            }
        }
    }

    /// A client of this driver; `None` if all others have gone.
    fn client(&self) -> Option<Client> {
        let handle = Handle {
            sender: self.own.upgrade()?,
            status: self.status.clone(),
            redis: self.redis.clone(),
        };
        Some(Client {
            backend: Backend::Redis(handle),
            shared: self.shared.clone(),
        })
    }

    /// Lets others see how things stand.
    fn show(&mut self) {
        let circuit = self.breaker.circuit();
        if circuit != self.circuit {
            self.circuit = circuit;
            self.status.set_circuit(circuit);
            self.shared.observer.on_circuit(circuit);
        }
        let in_flight = self.in_flight.iter().map(|batch| batch.orders).sum::<usize>() + count_orders(&self.unscripted);
        let orders = self.queue.orders() + in_flight;
        self.status.orders.store(orders, Ordering::Relaxed);
        if orders == 0 {
            for done in self.flushes.drain(..) {
                let _ = done.send(());
            }
        }
    }
}

fn request_of(entry: &Entry) -> Option<&Request> {
    match entry {
        Entry::Question(_, question) => question.as_ref().map(|question| question.asker.request()),
        Entry::Order(_, order) => Some(&order.request),
    }
}

fn count_orders(entries: &[Entry]) -> usize {
    entries.iter().filter(|entry| matches!(entry, Entry::Order(..))).count()
}

/// Words in a server's refusal that tell that it, or another in its place, will take the same request later.
const TRANSIENT: [&str; 9] = [
    "READONLY",
    "LOADING",
    "MASTERDOWN",
    "OOM",
    "MISCONF",
    "NOREPLICAS",
    "BUSY",
    "CLUSTERDOWN",
    "TRYAGAIN",
];

/// What a bad reply means, and whether the same request may succeed later.
fn refusal(bad: BadReply) -> (Unavailable, bool) {
    match bad {
        BadReply::Refused(why) => {
            let transient = TRANSIENT.iter().any(|word| why.contains(word));
            (Unavailable::Refused(why), transient)
        }
        BadReply::Unreadable => (Unavailable::Refused("the script's answer cannot be read".into()), false),
    }
}
