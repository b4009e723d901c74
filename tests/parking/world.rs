//! What there is, what moves next, and what must be true.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use oncegate::amqp::content::{Changes, ContentHeader, Property, rewrite};
use oncegate::amqp::encode;
use oncegate::amqp::frame::{self, Split};
use oncegate::amqp::method::MethodId;
use oncegate::amqp::method::basic::{Ack, Deliver, Nack, Qos};
use oncegate::amqp::table::FieldValue;
use oncegate::rules::RuleSet;
use oncegate::rules::lock::{Reply, Request};
use oncegate::rules::outcome::DeliveryDecision;
use oncegate::rules::spec::{AcksLate, RuleSpec, Unique};
use oncegate::session::{Event, Now, Republish, RepublishFault, Session, Settings, Side, StoreSilent, Target, Ticket};
use oncegate::store::{Clock, Memory};

use crate::clock::ManualClock;
use crate::deliver::deliver;
use crate::random::Random;
use crate::wire::{Reader, TaskMessage, content_of, method, publish};

const TASKS: usize = 8;
const WORKERS: usize = 3;
const PREFETCH: u16 = 2;
/// A run whose worker is gone holds its key no longer.
const RUNNING_TTL: Duration = Duration::from_secs(30);
const END_MS: u64 = 3_600_000;

#[derive(Clone, Copy)]
pub struct Plan {
    /// Whether connections die and answers fail to come.
    pub breaks: bool,
}

/// A message at the broker.
#[derive(Clone)]
struct Message {
    task: usize,
    /// Its frames behind the method.
    content: Vec<u8>,
    redelivered: bool,
}

/// A message that a session wants published, and then its outcome.
enum Publishing {
    Asked(Ticket, Republish),
    Ended(Ticket, Result<(), RepublishFault>),
}

/// One worker's connection.
struct Link {
    session: Session,
    to_broker: Vec<u8>,
    at_broker: Reader,
    at_client: Reader,
    prefetch: u16,
    next_tag: u64,
    unacked: BTreeMap<u64, Message>,
    asks: VecDeque<(Ticket, Request)>,
    answers: VecDeque<(Ticket, Result<Reply, StoreSilent>)>,
    tells: VecDeque<Request>,
    publishing: Vec<Publishing>,
    /// The client's tag, the task, and the end of each run, in milliseconds.
    runs: Vec<(u64, usize, u64)>,
}

#[derive(Default, Clone)]
struct Task {
    begun: usize,
    ended: usize,
    dropped: usize,
    /// Two messages of it may be about, or its worker's ack may be lost.
    doubled: bool,
    parked: usize,
}

pub struct World {
    random: Random,
    plan: Plan,
    now: Now,
    clock: Arc<ManualClock>,
    memory: Memory,
    rules: Arc<RuleSet>,
    links: Vec<Link>,
    ready: VecDeque<Message>,
    /// In delay queues, with the time when each comes back.
    delayed: Vec<(u64, Message)>,
    tasks: Vec<Task>,
    /// Lost connections whose orders have still to reach the store.
    orders: VecDeque<Request>,
    breaks_left: usize,
}

fn id_of(task: usize) -> String {
    format!("t{task}")
}

fn task_of(id: &str) -> usize {
    id.trim_start_matches('t').parse().expect("a number")
}

fn message(task: usize) -> Message {
    let id = id_of(task);
    let body = format!(
        r#"[["{}"], {{}}, {{"callbacks": null, "errbacks": null, "chain": null, "chord": null}}]"#,
        task % 2
    );
    // Every fourth waits for its time.
    let eta = FieldValue::LongStr(b"2027-01-15T08:00:45+00:00");
    let headers = [("retries", FieldValue::I32(0)), ("eta", eta)];
    let headers = if task % 4 == 3 { &headers[..] } else { &headers[..1] };
    let task_message = TaskMessage {
        task: "t.unique",
        id: &id,
        headers,
        expiration: None,
        body: body.as_bytes(),
    };
    let frames = publish(1, &task_message, "", "q", false, 131_072);
    Message {
        task,
        content: content_of(&frames).to_vec(),
        redelivered: false,
    }
}

impl Link {
    fn new(rules: &Arc<RuleSet>, nonce: u64, now: Now) -> Link {
        let mut session = Session::new(Arc::new(Settings::default()), Arc::clone(rules), nonce, now);
        let tune = [7, 255, 0, 2, 0, 0, 0, 0];
        session.handle_bytes(Side::Client, &frame::PROTOCOL_HEADER, now);
        session.handle_bytes(Side::Broker, &method(0, MethodId::CONNECTION_TUNE, &tune), now);
        session.handle_bytes(Side::Client, &method(0, MethodId::CONNECTION_TUNE_OK, &tune), now);
        session.handle_bytes(Side::Client, &method(0, MethodId::CONNECTION_OPEN, b"\x01/\0\0"), now);
        session.handle_bytes(Side::Broker, &method(0, MethodId::CONNECTION_OPEN_OK, &[0]), now);
        let mut qos = Vec::new();
        let window = Qos {
            prefetch_size: 0,
            prefetch_count: PREFETCH,
            global: true,
        };
        encode::basic_qos(&mut qos, 1, window);
        session.handle_bytes(Side::Client, &method(1, MethodId::CHANNEL_OPEN, &[0]), now);
        session.handle_bytes(Side::Broker, &method(1, MethodId::CHANNEL_OPEN_OK, &[0; 4]), now);
        session.handle_bytes(Side::Client, &qos, now);
        session.handle_bytes(Side::Broker, &method(1, MethodId::BASIC_QOS_OK, &[]), now);
        session.handle_bytes(Side::Client, &method(1, MethodId::BASIC_CONSUME, b"\0\0\x01q\x01c\0\0\0\0\0"), now);
        session.handle_bytes(Side::Broker, &method(1, MethodId::BASIC_CONSUME_OK, b"\x01c"), now);
        session.swap_output(Side::Client, &mut Vec::new());
        session.swap_output(Side::Broker, &mut Vec::new());
        session.events().clear();
        Link {
            session,
            to_broker: Vec::new(),
            at_broker: Reader::default(),
            at_client: Reader::default(),
            prefetch: PREFETCH,
            next_tag: 0,
            unacked: BTreeMap::new(),
            asks: VecDeque::new(),
            answers: VecDeque::new(),
            tells: VecDeque::new(),
            publishing: Vec::new(),
            runs: Vec::new(),
        }
    }
}

impl World {
    pub fn new(seed: u64, plan: Plan) -> World {
        let clock = Arc::new(ManualClock::new(1_800_000_000_000));
        let now = Now {
            us: 1_000_000,
            unix_ms: clock.now_ms(),
        };
        let spec = RuleSpec {
            name: Some("r".to_owned()),
            task: vec!["t.unique".to_owned()],
            unique: Some(Unique::WhileRunning),
            acks_late: AcksLate::True,
            running_ttl: RUNNING_TTL,
            hold_max: Duration::from_secs(2),
            ..RuleSpec::default()
        };
        let rules = Arc::new(RuleSet::compile(vec![spec], &[]).expect("the rule is right"));
        let mut random = Random::new(seed);
        let links = (0..WORKERS).map(|_| Link::new(&rules, random.next(), now)).collect();
        World {
            random,
            plan,
            now,
            memory: Memory::new(Arc::clone(&clock) as Arc<dyn Clock>, "sim".into()),
            clock,
            rules,
            links,
            ready: (0..TASKS).map(message).collect(),
            delayed: Vec::new(),
            tasks: vec![Task::default(); TASKS],
            orders: VecDeque::new(),
            breaks_left: if plan.breaks { 6 } else { 0 },
        }
    }

    pub fn run(mut self) {
        let end_ms = self.now.unix_ms + END_MS;
        while !self.is_over() {
            assert!(self.now.unix_ms < end_ms, "after an hour: {}", self.story());
            for _ in 0..=self.random.below(8) {
                self.step();
            }
            self.pass();
        }
        self.judge();
    }

    fn is_over(&self) -> bool {
        let rests = |link: &Link| link.unacked.is_empty() && link.asks.is_empty() && link.publishing.is_empty() && link.tells.is_empty();
        self.ready.is_empty() && self.delayed.is_empty() && self.links.iter().all(rests)
    }

    fn story(&self) -> String {
        let tasks: Vec<String> = self
            .tasks
            .iter()
            .enumerate()
            .map(|(task, facts)| {
                format!(
                    "t{task}: begun {} ended {} dropped {} parked {}",
                    facts.begun, facts.ended, facts.dropped, facts.parked
                )
            })
            .collect();
        tasks.join("; ")
    }

    fn judge(&mut self) {
        for (task, facts) in self.tasks.iter().enumerate() {
            assert!(facts.ended > 0, "t{task} is gone and never ran to its end: {}", self.story());
            if !facts.doubled {
                assert_eq!(facts.ended, 1, "t{task} ran again: {}", self.story());
            }
        }
        assert!(
            self.tasks.iter().any(|facts| facts.parked > 0),
            "nothing was parked: {}",
            self.story()
        );
        for link in &self.links {
            assert_eq!((link.session.held().0, link.session.held_bytes()), (0, 0));
        }
    }

    /// Time passes.
    fn pass(&mut self) {
        let ms = 20 + self.random.next() % 400;
        self.now.us += ms * 1000;
        self.now.unix_ms += ms;
        self.clock.set(self.now.unix_ms);
        let now_ms = self.now.unix_ms;
        let (back, stays) = std::mem::take(&mut self.delayed)
            .into_iter()
            .partition(|(due_ms, _)| *due_ms <= now_ms);
        self.delayed = stays;
        let back: Vec<(u64, Message)> = back;
        self.ready.extend(back.into_iter().map(|(_, message)| message));
        for at in 0..self.links.len() {
            if self.links[at].session.poll_timeout() <= self.now.us {
                self.links[at].session.handle_timeout(self.now);
                self.collect(at);
            }
        }
    }

    fn step(&mut self) {
        let at = self.random.below(self.links.len());
        match self.random.below(8) {
            0 | 1 => self.deliver(at),
            2 => self.broker_reads(at),
            3 => self.serve(at),
            4 => self.answer(at),
            5 => self.publish(at),
            6 => self.end_runs(at),
            _ => {
                if let Some(order) = self.orders.pop_front() {
                    self.memory.execute(&order);
                }
                if self.breaks_left > 0 && self.random.per_mille(40) {
                    self.breaks_left -= 1;
                    self.break_link(at);
                }
            }
        }
    }

    fn deliver(&mut self, at: usize) {
        let link = &mut self.links[at];
        if link.unacked.len() >= usize::from(link.prefetch) {
            return;
        }
        let Some(message) = self.ready.pop_front() else { return };
        link.next_tag += 1;
        let frames = deliver(1, b"c", link.next_tag, message.redelivered, b"q", &message.content);
        link.unacked.insert(link.next_tag, message);
        link.session.handle_bytes(Side::Broker, &frames, self.now);
        self.collect(at);
    }

    /// What the session has written arrives.
    fn broker_reads(&mut self, at: usize) {
        let link = &mut self.links[at];
        let bytes = std::mem::take(&mut link.to_broker);
        let mut answers = Vec::new();
        for unit in link.at_broker.feed(&bytes) {
            assert_eq!(unit.channel, 1);
            match unit.method {
                MethodId::BASIC_ACK => {
                    let ack = Ack::decode(unit.payload()).expect("an ack");
                    assert!(!ack.multiple);
                    assert!(
                        link.unacked.remove(&ack.delivery_tag).is_some(),
                        "settled twice: {}",
                        ack.delivery_tag
                    );
                }
                MethodId::BASIC_NACK => {
                    let nack = Nack::decode(unit.payload()).expect("a nack");
                    let message = link.unacked.remove(&nack.delivery_tag).expect("settled once");
                    self.ready.push_front(Message {
                        redelivered: true,
                        ..message
                    });
                }
                MethodId::BASIC_QOS => {
                    link.prefetch = Qos::decode(unit.payload()).expect("a qos").prefetch_count;
                    answers.extend(method(1, MethodId::BASIC_QOS_OK, &[]));
                }
                other => panic!("{other} is not sent here"),
            }
        }
        link.session.handle_bytes(Side::Broker, &answers, self.now);
        self.collect(at);
    }

    /// The store does one thing that a connection wants of it.
    fn serve(&mut self, at: usize) {
        let link = &mut self.links[at];
        if let Some(order) = link.tells.pop_front() {
            self.memory.execute(&order);
            return;
        }
        let Some((ticket, request)) = link.asks.pop_front() else { return };
        // What is asked of a run is always answered: else it would run without its lock.
        let may_fail = matches!(
            request,
            Request::Park { .. } | Request::MarkParked { .. } | Request::FindParked { .. }
        );
        let silent = self.plan.breaks && may_fail && self.random.percent(5);
        if silent {
            if let Request::FindParked { id, .. } = &request {
                self.tasks[task_of(id)].doubled = true;
            }
            if let Request::MarkParked { id, .. } = &request {
                self.tasks[task_of(id)].doubled = true;
            }
        }
        let answer = if silent && self.random.percent(50) {
            Err(StoreSilent::Timeout)
        } else {
            let reply = self.memory.execute(&request);
            if silent { Err(StoreSilent::Timeout) } else { Ok(reply) }
        };
        self.links[at].answers.push_back((ticket, answer));
    }

    fn answer(&mut self, at: usize) {
        if let Some((ticket, answer)) = self.links[at].answers.pop_front() {
            self.links[at].session.handle_answer(ticket, answer, self.now);
            self.collect(at);
        }
    }

    /// A copy is published, or the session hears of that.
    fn publish(&mut self, at: usize) {
        if self.links[at].publishing.is_empty() {
            return;
        }
        let index = self.random.below(self.links[at].publishing.len());
        match self.links[at].publishing.swap_remove(index) {
            Publishing::Ended(ticket, outcome) => {
                self.links[at].session.handle_republished(ticket, outcome, self.now);
                self.collect(at);
            }
            Publishing::Asked(ticket, republish) => {
                let outcome = self.published(&republish);
                self.links[at].publishing.push(Publishing::Ended(ticket, outcome));
            }
        }
    }

    fn published(&mut self, republish: &Republish) -> Result<(), RepublishFault> {
        let Target::Delay { queue, wait_ms, .. } = &republish.target else {
            panic!("nothing is dead-lettered here")
        };
        assert_eq!((&**queue, *wait_ms >= 1_000), ("q", true));
        let header = ContentHeader::decode(&republish.header).expect("a content header");
        let id = String::from_utf8_lossy(header.properties.correlation_id.expect("an id")).into_owned();
        let fails = self.plan.breaks && self.random.percent(20);
        let lost = fails && self.random.percent(50);
        if fails && !(lost && self.random.percent(50)) {
            let faults = [RepublishFault::Nacked, RepublishFault::Returned, RepublishFault::NotAvailable];
            let fault = faults[self.random.below(faults.len())];
            return Err(if lost { RepublishFault::Unknown } else { fault });
        }
        // As a delay queue gives it back: with its way noted, and after a power of two of seconds.
        let changes = Changes {
            drops: |_| false,
            sets: &[(b"x-death", FieldValue::Void), (b"x-first-death-queue", FieldValue::Void)],
            expiration: Property::Drop,
            user_id: Property::Keep,
        };
        let payload = rewrite(&republish.header, &changes).expect("it can be read");
        let mut content = vec![2, 0, 1];
        content.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        content.extend_from_slice(&payload);
        content.push(frame::END);
        content.extend_from_slice(&[3, 0, 1]);
        content.extend_from_slice(&(republish.body.len() as u32).to_be_bytes());
        content.extend_from_slice(&republish.body);
        content.push(frame::END);
        let delay_ms = 1_000 * (1 << (wait_ms / 1_000).ilog2());
        let task = task_of(&id);
        let copy = Message {
            task,
            content,
            redelivered: false,
        };
        self.delayed.push((self.now.unix_ms + delay_ms, copy));
        if lost {
            self.tasks[task].doubled = true;
            return Err(RepublishFault::Unknown);
        }
        Ok(())
    }

    /// The worker acknowledges what it has run.
    fn end_runs(&mut self, at: usize) {
        let now_ms = self.now.unix_ms;
        let link = &mut self.links[at];
        let Some(index) = link.runs.iter().position(|(.., end_ms)| *end_ms <= now_ms) else {
            return;
        };
        let (delivery_tag, task, _) = link.runs.swap_remove(index);
        self.tasks[task].ended += 1;
        let mut ack = Vec::new();
        encode::basic_ack(
            &mut ack,
            1,
            Ack {
                delivery_tag,
                multiple: false,
            },
        );
        link.session.handle_bytes(Side::Client, &ack, self.now);
        self.collect(at);
    }

    /// A worker's connection is lost, and it is connected anew. What it ran has stopped.
    fn break_link(&mut self, at: usize) {
        if self.random.percent(50) {
            self.broker_reads(at);
        }
        let nonce = self.random.next();
        let mut link = std::mem::replace(&mut self.links[at], Link::new(&self.rules, nonce, self.now));
        assert!(!link.at_broker.inside(1), "a content left by half");
        link.session.handle_eof(Side::Broker, self.now);
        link.tells.append(&mut link.session.questions().1.drain(..).collect());
        self.orders.append(&mut link.tells);
        for (_, request) in link.asks {
            if self.random.percent(50) {
                self.memory.execute(&request);
            }
        }
        for publishing in link.publishing {
            // It was handed in, and nobody hears what becomes of it.
            match publishing {
                Publishing::Asked(_, republish) if self.random.percent(50) => drop(self.published(&republish)),
                _ => {}
            }
        }
        for (_, message) in link.unacked.into_iter().rev() {
            self.tasks[message.task].doubled = true;
            self.ready.push_front(Message {
                redelivered: true,
                ..message
            });
        }
    }

    /// Takes what a session gives out; what is for its client arrives.
    fn collect(&mut self, at: usize) {
        let link = &mut self.links[at];
        let mut bytes = Vec::new();
        link.session.swap_output(Side::Broker, &mut bytes);
        link.to_broker.append(&mut bytes);
        let (asks, tells) = link.session.questions();
        link.asks.extend(asks.drain(..).map(|(ticket, request)| (Ticket(ticket), request)));
        link.tells.extend(tells.drain(..));
        let cancelled: BTreeSet<Ticket> = link.session.cancelled().drain(..).collect();
        link.answers.retain(|(ticket, _)| !cancelled.contains(ticket));
        link.asks.retain(|(ticket, _)| !cancelled.contains(ticket));
        let wanted = link.session.republishes().drain(..);
        link.publishing
            .extend(wanted.map(|(ticket, republish)| Publishing::Asked(ticket, republish)));
        link.session.take_counts();
        for event in link.session.events().drain(..) {
            if let Event::Admission(event) = event {
                let facts = &mut self.tasks[task_of(&event.id)];
                match event.decision {
                    DeliveryDecision::Parked => facts.parked += 1,
                    DeliveryDecision::Dropped => facts.dropped += 1,
                    DeliveryDecision::ForwardedUnchecked => panic!("{} went unchecked: {}", event.id, event.reason),
                    _ => {}
                }
            }
        }
        let mut bytes = Vec::new();
        link.session.swap_output(Side::Client, &mut bytes);
        for unit in link.at_client.feed(&bytes) {
            assert_eq!(unit.method, MethodId::BASIC_DELIVER);
            let tag = Deliver::decode(unit.payload()).expect("a delivery").delivery_tag;
            let id = unit.id.clone().expect("every message has an id");
            self.begins(at, tag, task_of(&id), unit.content());
        }
    }

    /// A worker begins a task.
    fn begins(&mut self, at: usize, tag: u64, task: usize, content: &[u8]) {
        let Split::Frame(header) = frame::split(content, usize::MAX) else {
            panic!("a content header")
        };
        let header = ContentHeader::decode(header.payload).expect("a content header");
        let headers = header.properties.headers.expect("headers");
        let trace = headers.iter().map(|entry| entry.expect("an entry").name);
        let trace = trace.filter(|name| name.starts_with(b"x-")).count();
        assert_eq!(trace, 0, "a worker sees that t{task} was parked");
        let eta_ms = if task % 4 == 3 { 1_800_000_045_000 } else { 0 };
        assert!(self.now.unix_ms >= eta_ms, "t{task} begins before its time");
        let mut others = self.links.iter().flat_map(|link| &link.runs);
        let other = others.find(|(_, other, _)| other % 2 == task % 2);
        assert!(other.is_none(), "t{task} begins while {other:?} runs");
        self.tasks[task].begun += 1;
        let end_ms = self.now.unix_ms + 500 + self.random.next() % 12_000;
        self.links[at].runs.push((tag, task, end_ms));
    }
}
