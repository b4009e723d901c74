//! One connection of a client through a proxy: a session, and what is on its way to and from it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use oncegate::amqp::frame;
use oncegate::amqp::method::MethodId;
use oncegate::rules::RuleSet;
use oncegate::rules::lock::Request;
use oncegate::rules::outcome::{DeliveryDecision, PublishDecision};
use oncegate::session::{Event, Fetch, Now, Session, Settings, Side, StoreSilent, Ticket};
use oncegate::store::Clock;

use crate::broker::AtBroker;
use crate::facts::Facts;
use crate::parked::Republishes;
use crate::plan::{Backend, Plan};
use crate::runs::{Asked, Handed, Name};
use crate::wire::{Reader, method};
use crate::world::World;

/// Who is at the client's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    Producer(usize),
    Worker(usize),
    /// The pool of a worker, which publishes retries.
    Pool(usize),
    /// It is gone.
    Nobody,
}

/// Bytes on their way.
#[derive(Default)]
pub struct Pipe {
    pub bytes: Vec<u8>,
    pub eof: bool,
    /// Since when something waits in it, in microseconds.
    pub since_us: Option<u64>,
}

impl Pipe {
    pub fn put(&mut self, bytes: &[u8], now: Now) {
        if !bytes.is_empty() {
            self.bytes.extend_from_slice(bytes);
            self.since_us.get_or_insert(now.us);
        }
    }

    pub fn end(&mut self, now: Now) {
        if !self.eof {
            self.eof = true;
            self.since_us.get_or_insert(now.us);
        }
    }

    pub fn waits(&self) -> bool {
        self.since_us.is_some()
    }

    fn take(&mut self) -> (Vec<u8>, bool) {
        self.since_us = None;
        (std::mem::take(&mut self.bytes), self.eof)
    }
}

/// What a session wants of the store.
pub enum Order {
    Ask(u64, Request),
    Tell(Request),
}

/// The delivery that does not run, if this says so of one.
fn left_by(order: &Order) -> Option<Name> {
    match order {
        Order::Tell(Request::LeaveRun { claim, delivery }) => Some((Facts::index(&claim.id), *delivery)),
        _ => None,
    }
}

/// An acquire that found its key leased: it is repeated.
pub struct Kept {
    pub ticket: u64,
    pub request: Request,
    pub again_us: u64,
}

pub type Answer = Result<oncegate::rules::lock::Reply, StoreSilent>;

pub struct Link {
    pub proxy: usize,
    pub owner: Owner,
    pub session: Session,
    /// From the client.
    pub up: Pipe,
    pub to_broker: Pipe,
    pub from_broker: Pipe,
    /// To the client.
    pub down: Pipe,
    pub reader: Reader,
    pub broker: AtBroker,
    /// In the order in which the store gets them, with the time of each.
    pub orders: VecDeque<(u64, Order)>,
    pub answers: VecDeque<(u64, u64, Answer)>,
    pub kept: Vec<Kept>,
    /// The results that its session asks for, with the time of each.
    pub fetches: VecDeque<(u64, u64, Fetch)>,
    pub republishes: Republishes,
    pub cancelled: BTreeSet<u64>,
    /// Publishes that the client has written and that have neither reached the broker nor been dropped.
    pub writing: Vec<usize>,
    /// Those that its session has said will not reach the broker.
    pub given_up: BTreeSet<usize>,
    /// All that the client has published here.
    pub published: BTreeSet<usize>,
    /// How many deliveries of each task the client has acknowledged of which the broker has not heard.
    pub acked: BTreeMap<usize, usize>,
    /// The same of those that it has given back.
    pub given_back: BTreeMap<usize, usize>,
    /// The deliveries whose runs the store was asked about, in their order.
    pub asked: Vec<Asked>,
    /// The deliveries that are on their way to the worker.
    pub handed: Vec<Handed>,
    /// The deliveries that the store let through, with the task of each.
    pub passed: BTreeSet<Name>,
    /// When the session hears that the store is back, in microseconds.
    pub store_back_us: Option<u64>,
}

impl Link {
    pub fn new(proxy: usize, owner: Owner, rules: &Arc<RuleSet>, nonce: u64, plan: &Plan, now: Now) -> Link {
        let settings = Arc::new(Settings {
            held_max: plan.held_max,
            consumer_timeout_us: 1_000 * plan.consumer_timeout_ms,
            reply_prefix: match plan.backend {
                Backend::Workers => format!("oncegate.reply.{proxy}.").into(),
                Backend::Anybody => "".into(),
            },
            ..Settings::default()
        });
        let mut session = Session::new(settings, Arc::clone(rules), nonce, now);
        let tune = [7, 255, 0, 2, 0, 0, 0, 0];
        session.handle_bytes(Side::Client, &frame::PROTOCOL_HEADER, now);
        session.handle_bytes(Side::Broker, &method(0, MethodId::CONNECTION_TUNE, &tune), now);
        session.handle_bytes(Side::Client, &method(0, MethodId::CONNECTION_TUNE_OK, &tune), now);
        session.handle_bytes(Side::Client, &method(0, MethodId::CONNECTION_OPEN, b"\x01/\0\0"), now);
        session.handle_bytes(Side::Broker, &method(0, MethodId::CONNECTION_OPEN_OK, &[0]), now);
        session.swap_output(Side::Client, &mut Vec::new());
        session.swap_output(Side::Broker, &mut Vec::new());
        session.events().clear();
        Link {
            proxy,
            owner,
            session,
            up: Pipe::default(),
            to_broker: Pipe::default(),
            from_broker: Pipe::default(),
            down: Pipe::default(),
            reader: Reader::default(),
            broker: AtBroker::default(),
            orders: VecDeque::new(),
            answers: VecDeque::new(),
            kept: Vec::new(),
            fetches: VecDeque::new(),
            republishes: Republishes::default(),
            cancelled: BTreeSet::new(),
            writing: Vec::new(),
            given_up: BTreeSet::new(),
            published: BTreeSet::new(),
            acked: BTreeMap::new(),
            given_back: BTreeMap::new(),
            asked: Vec::new(),
            handed: Vec::new(),
            passed: BTreeSet::new(),
            store_back_us: None,
        }
    }

    /// Nothing is on its way on it.
    pub fn rests(&self) -> bool {
        self.session.held().0 == 0
            && self.orders.is_empty()
            && self.answers.is_empty()
            && self.kept.is_empty()
            && (self.writing.is_empty() || !self.broker.open)
    }

    /// Whether the store can do something for it.
    pub fn is_to_be_served(&self, down: bool) -> bool {
        let is_question = |(_, order): &(u64, Order)| matches!(order, Order::Ask(..));
        !self.orders.is_empty() && (!down || self.orders.iter().any(is_question))
    }

    /// Nothing moves on it any more.
    fn is_over(&self) -> bool {
        let ended = self.session.is_done(Side::Client) && self.session.is_done(Side::Broker);
        ended
            && !self.session.awaits_answers()
            && !self.to_broker.waits()
            && !self.down.waits()
            && self.orders.is_empty()
            && !self.broker.open
    }
}

impl World {
    /// A client connects through a proxy.
    pub fn connect(&mut self, owner: Owner) -> usize {
        let proxy = self.random.below(self.plan.proxies);
        let nonce = self.random.next();
        self.last_link += 1;
        let link = Link::new(proxy, owner, &self.rules, nonce, &self.plan, self.now);
        self.links.insert(self.last_link, link);
        self.facts
            .note_all(format!("link {} of {owner:?} opens at proxy {proxy}", self.last_link));
        self.last_link
    }

    pub fn client_to_session(&mut self, at: usize) {
        let Some(link) = self.links.get_mut(&at) else { return };
        let (bytes, eof) = link.up.take();
        link.session.handle_bytes(Side::Client, &bytes, self.now);
        if eof {
            link.session.handle_eof(Side::Client, self.now);
        }
        self.collect(at);
    }

    pub fn session_to_broker(&mut self, at: usize) {
        let Some(link) = self.links.get_mut(&at) else { return };
        let (bytes, eof) = link.to_broker.take();
        let units = if link.broker.open {
            link.broker.reader.feed(&bytes)
        } else {
            Vec::new()
        };
        for unit in units {
            self.broker_reads(at, &unit);
        }
        if eof {
            let inside = self.links.get(&at).is_some_and(|link| link.broker.reader.inside(1));
            assert!(!inside, "link {at}: a publish left by half");
            self.broker_loses(at);
        }
        self.tidy(at);
    }

    pub fn broker_to_session(&mut self, at: usize) {
        let Some(link) = self.links.get_mut(&at) else { return };
        let (bytes, eof) = link.from_broker.take();
        link.session.handle_bytes(Side::Broker, &bytes, self.now);
        if eof {
            link.session.handle_eof(Side::Broker, self.now);
        }
        self.collect(at);
    }

    pub fn session_to_client(&mut self, at: usize) {
        let Some(link) = self.links.get_mut(&at) else { return };
        let (bytes, eof) = link.down.take();
        let owner = link.owner;
        if owner != Owner::Nobody {
            for unit in link.reader.feed(&bytes) {
                match owner {
                    Owner::Producer(index) => self.producer_reads(index, at, &unit),
                    Owner::Worker(index) => self.worker_reads(index, at, &unit),
                    Owner::Pool(_) | Owner::Nobody => {}
                }
            }
            if eof {
                self.client_loses(at);
            }
        }
        self.tidy(at);
    }

    /// The client finds its connection gone.
    pub fn client_loses(&mut self, at: usize) {
        let Some(link) = self.links.get_mut(&at) else { return };
        match std::mem::replace(&mut link.owner, Owner::Nobody) {
            Owner::Producer(index) => self.producer_loses(index),
            Owner::Worker(index) => self.worker_loses(index),
            Owner::Pool(index) => self.workers[index].pool = None,
            Owner::Nobody => {}
        }
    }

    /// The client goes, or is gone: all that it has written arrives, or only the first part.
    pub fn client_goes(&mut self, at: usize, all_arrives: bool) {
        let Some(link) = self.links.get_mut(&at) else { return };
        link.owner = Owner::Nobody;
        if !all_arrives {
            let keep = self.random.below(link.up.bytes.len() + 1);
            link.up.bytes.truncate(keep);
        }
        link.up.end(self.now);
    }

    pub fn handle_timeouts(&mut self) {
        let due: Vec<usize> = self
            .links
            .iter()
            .filter(|(_, link)| link.session.poll_timeout() <= self.now.us)
            .map(|(at, _)| *at)
            .collect();
        for at in due {
            if let Some(link) = self.links.get_mut(&at) {
                link.session.handle_timeout(self.now);
            }
            self.collect(at);
        }
    }

    pub fn answer(&mut self, at: usize) {
        let Some(link) = self.links.get_mut(&at) else { return };
        if let Some((_, ticket, answer)) = link.answers.pop_front() {
            link.run_answered(ticket, &answer);
            link.session.handle_answer(Ticket(ticket), answer, self.now);
            self.collect(at);
        }
    }

    /// Takes what a session gives out.
    pub fn collect(&mut self, at: usize) {
        let now = self.now;
        let Some(link) = self.links.get_mut(&at) else { return };
        for (ticket, republish) in std::mem::take(link.session.republishes()) {
            link.republishes.wants(now.us, ticket, republish);
        }
        for (ticket, fetch) in std::mem::take(link.session.fetches()) {
            link.fetches.push_back((now.us, ticket.0, fetch));
        }
        for side in [Side::Broker, Side::Client] {
            let mut bytes = Vec::new();
            link.session.swap_output(side, &mut bytes);
            let done = link.session.is_done(side);
            let pipe = if side == Side::Broker {
                &mut link.to_broker
            } else {
                &mut link.down
            };
            pipe.put(&bytes, now);
            if done {
                pipe.end(now);
            }
        }
        let (asks, tells) = link.session.questions();
        let asks = std::mem::take(asks)
            .into_iter()
            .map(|(ticket, request)| Order::Ask(ticket, request));
        let tells = std::mem::take(tells).into_iter().map(Order::Tell);
        let orders: Vec<Order> = asks.chain(tells).collect();
        let runs: Vec<Asked> = orders.iter().filter_map(Asked::of).collect();
        let left: Vec<Name> = orders.iter().filter_map(left_by).collect();
        link.orders.extend(orders.into_iter().map(|order| (now.us, order)));
        for ticket in std::mem::take(link.session.cancelled()) {
            link.kept.retain(|kept| kept.ticket != ticket.0);
            link.cancelled.insert(ticket.0);
        }
        link.session.take_counts();
        let events = std::mem::take(link.session.events());
        for asked in runs {
            self.run_asked(at, asked);
        }
        for name in left {
            self.run_left(at, name);
        }
        for event in events {
            self.happened(at, event);
        }
        self.tidy(at);
    }

    fn happened(&mut self, at: usize, event: Event) {
        match event {
            Event::Publish(event) => {
                let task = Facts::index(&event.id);
                let holder = event.holder.as_deref().unwrap_or("-");
                self.facts
                    .note(task, format!("publish {:?} ({}), holder {holder}", event.decision, event.reason));
                match event.decision {
                    PublishDecision::Dropped => {
                        self.facts.tasks[task].dropped = true;
                        self.written(at, task);
                    }
                    PublishDecision::ForwardedUnchecked => {
                        self.facts.tasks[task].unchecked = true;
                        self.run_unchecked(task);
                    }
                    _ => {}
                }
            }
            Event::Admission(event) => {
                let task = Facts::index(&event.id);
                let holder = event.holder.as_deref().unwrap_or("-");
                self.facts
                    .note(task, format!("admission {:?} ({}), holder {holder}", event.decision, event.reason));
                if event.decision == DeliveryDecision::Forwarded {
                    self.judge_let_through(at, task);
                }
                self.judge_carried_way(&event);
                match event.decision {
                    DeliveryDecision::Forwarded => self.run_handed(at, task, true),
                    DeliveryDecision::ForwardedUnchecked => self.run_handed(at, task, false),
                    _ => {}
                }
                match event.decision {
                    // Another copy of it comes.
                    DeliveryDecision::Dropped if event.reason == "parked" => {}
                    DeliveryDecision::Dropped => self.facts.tasks[task].dropped = true,
                    DeliveryDecision::Superseded if event.reason == "outdated" => self.facts.tasks[task].dropped = true,
                    DeliveryDecision::ForwardedUnchecked => {
                        self.facts.tasks[task].handed_unchecked = true;
                        self.stops_waiting(task);
                    }
                    _ => {}
                }
            }
            Event::Emptied { queue, at_us } => {
                let before_ms = self.clock.now_ms() - (self.now.us - at_us) / 1000;
                self.scan_purged(&queue, before_ms);
            }
            Event::Runs(run) => self.follows(at, run),
            Event::Owed(debt) => self.owes(at, &debt),
            Event::Value(value) => self.keeps(at, value),
            _ => {}
        }
    }

    /// A publish is not on its way to the broker any more.
    pub fn written(&mut self, at: usize, task: usize) {
        if let Some(link) = self.links.get_mut(&at)
            && let Some(index) = link.writing.iter().position(|other| *other == task)
        {
            link.writing.remove(index);
        }
    }

    /// A session tells that a publish will not reach the broker, or has not: the one that it has kept, when its client is gone.
    pub fn gives_up(&mut self, at: usize, request: &Request) {
        if let Request::Unpublish { claim, .. } = request
            && let Some(link) = self.links.get_mut(&at)
        {
            let task = Facts::index(&claim.id);
            link.given_up.insert(task);
            self.written(at, task);
        }
    }

    fn tidy(&mut self, at: usize) {
        if self.links.get(&at).is_some_and(Link::is_over) {
            self.client_loses(at);
            self.links.remove(&at);
        }
    }
}
