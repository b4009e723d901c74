//! The scheduler: who moves next, what the store answers when, and how time passes.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use oncegate::amqp::frame;
use oncegate::amqp::method::MethodId;
use oncegate::rules::RuleSet;
use oncegate::rules::lock::{Acquired, Digest, Reply, Request};
use oncegate::rules::outcome::PublishDecision;
use oncegate::rules::spec::{RuleSpec, Unique};
use oncegate::session::{Event, Now, Session, Settings, Side, StoreSilent, Ticket};
use oncegate::store::{Clock, Memory};

use crate::broker::Broker;
use crate::client::Client;
use crate::random::Random;
use crate::shadow::{Fate, Shadow};
use crate::wire::method;

const LEASE_US: u64 = 2_000_000;

/// What one run is made of.
pub struct Plan {
    pub connections: usize,
    /// Publishes of each connection.
    pub publishes: usize,
    pub keys: u32,
    pub unmatched_percent: u64,
    pub silent_percent: u64,
    /// How often a client closes a channel, or publishes to an exchange that is not there.
    pub lossy_per_mille: u64,
    pub always_confirm: bool,
    pub memory: usize,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            connections: 3,
            publishes: 100,
            keys: 10,
            unmatched_percent: 30,
            silent_percent: 3,
            lossy_per_mille: 15,
            always_confirm: false,
            memory: 1 << 20,
        }
    }
}

struct ManualClock(AtomicU64);

impl Clock for ManualClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// An acquire on its way.
struct Ask {
    ticket: u64,
    request: Request,
    /// The answer, once there is one; the store may stay silent.
    answer: Option<Result<Reply, StoreSilent>>,
    again: bool,
}

struct Connection {
    session: Session,
    client: Client,
    broker: Broker,
    /// Read off the session, not yet at the broker.
    up: Vec<u8>,
    down: Vec<u8>,
    fed: u64,
    unread: VecDeque<usize>,
    asks: Vec<Ask>,
    tells: VecDeque<Request>,
    kept: Vec<Ask>,
    cancelled: BTreeSet<u64>,
    client_eof: bool,
    broker_eof: bool,
}

pub struct World {
    random: Random,
    plan: Plan,
    now: Now,
    clock: Arc<ManualClock>,
    memory: Memory,
    connections: Vec<Connection>,
    shadow: Shadow,
    noted: usize,
    digests: std::collections::HashMap<Digest, u32>,
}

impl World {
    pub fn new(seed: u64, plan: Plan) -> World {
        let clock = Arc::new(ManualClock(AtomicU64::new(1_800_000_000_000)));
        let now = Now {
            us: 1_000_000,
            unix_ms: clock.now_ms(),
        };
        let spec = RuleSpec {
            name: Some("r".to_owned()),
            task: vec!["t.unique".to_owned()],
            unique: Some(Unique::UntilFinished),
            lease: Duration::from_micros(LEASE_US),
            ..RuleSpec::default()
        };
        let rules = Arc::new(RuleSet::compile(vec![spec], &[]).expect("the rule is right"));
        let settings = Arc::new(Settings {
            connection_memory: plan.memory,
            lease_us: LEASE_US,
            ..Settings::default()
        });
        let connections = (0..plan.connections)
            .map(|index| Connection::new(index, plan.publishes, &settings, &rules, now))
            .collect();
        World {
            random: Random::new(seed),
            memory: Memory::new(Arc::clone(&clock) as Arc<dyn Clock>, "sim".into()),
            clock,
            plan,
            now,
            connections,
            shadow: Shadow::default(),
            noted: 0,
            digests: std::collections::HashMap::new(),
        }
    }

    /// Runs until nothing moves any more, and judges.
    pub fn run(mut self) {
        let mut idle = 0;
        while idle < 2_000 {
            let at = self.random.below(self.connections.len());
            let moved = self.step(at);
            self.check(at);
            idle = if moved { 0 } else { idle + 1 };
            if !moved || self.random.percent(1) {
                let ms = 1 + self.random.next() % 20;
                self.pass(ms);
            }
        }
        for message in &mut self.shadow.messages {
            message.excused |= message.kept && self.connections[message.connection].broker.is_broken(message.channel);
        }
        self.shadow.judge();
        for (index, connection) in self.connections.iter().enumerate() {
            assert_eq!(connection.session.held_bytes(), 0, "connection {index} still holds bytes");
        }
        self.pass(2 * LEASE_US / 1000);
        self.judge_locks();
    }

    fn pass(&mut self, ms: u64) {
        self.now.us += ms * 1000;
        self.now.unix_ms += ms;
        self.clock.0.store(self.now.unix_ms, Ordering::Relaxed);
        for at in 0..self.connections.len() {
            if self.now.us >= self.connections[at].session.poll_timeout() {
                self.connections[at].session.handle_timeout(self.now);
                self.collect(at);
            }
        }
    }

    /// One move of one connection. False if there was none to make.
    fn step(&mut self, at: usize) -> bool {
        let World {
            random,
            plan,
            shadow,
            connections,
            now,
            ..
        } = self;
        let connection = &mut connections[at];
        let moved = match random.below(9) {
            0 | 1 => connection.client_acts(plan, shadow, random),
            2 => connection.client_to_session(shadow, random, *now),
            3 => connection.session_to_broker(shadow, random),
            4 => connection.broker.confirm(shadow, random),
            5 => connection.broker_to_session(shadow, random, *now, plan),
            6 => connection.session_to_client(shadow, random, *now),
            7 => return self.store(at),
            _ => return self.answer(at),
        };
        self.collect(at);
        moved
    }

    /// The store does something.
    fn store(&mut self, at: usize) -> bool {
        let connection = &mut self.connections[at];
        if let Some(request) = connection.tells.pop_front() {
            self.memory.execute(&request);
            return true;
        }
        if !connection.kept.is_empty() && self.random.percent(30) {
            let index = self.random.below(connection.kept.len());
            let mut ask = connection.kept.swap_remove(index);
            ask.answer = None;
            ask.again = true;
            connection.asks.push(ask);
            return true;
        }
        let open: Vec<usize> = (0..connection.asks.len())
            .filter(|index| connection.asks[*index].answer.is_none())
            .collect();
        if open.is_empty() {
            return false;
        }
        let ask = &mut connection.asks[open[self.random.below(open.len())]];
        let silent = self.random.percent(self.plan.silent_percent);
        if !silent || self.random.percent(50) {
            let reply = self.memory.execute(&ask.request);
            ask.answer = Some(if silent { Err(StoreSilent::Timeout) } else { Ok(reply) });
        } else {
            ask.answer = Some(Err(StoreSilent::Timeout));
        }
        true
    }

    /// An answer of the store comes in.
    fn answer(&mut self, at: usize) -> bool {
        let connection = &mut self.connections[at];
        let ready: Vec<usize> = (0..connection.asks.len())
            .filter(|index| connection.asks[*index].answer.is_some())
            .collect();
        if ready.is_empty() {
            return false;
        }
        let ask = connection.asks.swap_remove(ready[self.random.below(ready.len())]);
        let answer = ask.answer.clone().unwrap_or(Err(StoreSilent::Timeout));
        let cancelled = connection.cancelled.contains(&ask.ticket);
        let Request::Acquire { claim, publish, .. } = &ask.request else {
            panic!("only acquires are asked");
        };
        let leased = matches!(answer, Ok(Reply::Acquire(Acquired::Leased { .. })));
        if leased && !cancelled {
            self.shadow.messages[Shadow::index(&claim.id)].kept = true;
        }
        if cancelled && ask.again && matches!(answer, Ok(Reply::Acquire(Acquired::Taken | Acquired::Reentry { .. }))) {
            connection.tells.push_back(Request::Unpublish {
                claim: claim.clone(),
                publish: *publish,
                reason: oncegate::rules::lock::ReleaseReason::Unconfirmed,
            });
        }
        if !leased || !ask.again {
            connection.session.handle_answer(Ticket(ask.ticket), answer, self.now);
        }
        if leased && !cancelled {
            connection.kept.push(ask);
        }
        self.collect(at);
        true
    }

    /// Takes the questions and events out of a session.
    fn collect(&mut self, at: usize) {
        while self.noted < self.shadow.messages.len() {
            let owner = self.shadow.messages[self.noted].connection;
            self.connections[owner].unread.push_back(self.noted);
            self.noted += 1;
        }
        let connection = &mut self.connections[at];
        let (asks, tells) = connection.session.questions();
        for (ticket, request) in asks.drain(..) {
            if let Request::Acquire { claim, .. } = &request
                && let Some(key) = self.shadow.messages[Shadow::index(&claim.id)].key
            {
                let known = self.digests.insert(claim.digest, key);
                assert!(known.is_none_or(|known| known == key), "two keys share a digest");
            }
            connection.asks.push(Ask {
                ticket,
                request,
                answer: None,
                again: false,
            });
        }
        connection.tells.extend(tells.drain(..));
        for ticket in connection.session.cancelled().drain(..) {
            connection.kept.retain(|ask| ask.ticket != ticket.0);
            connection.cancelled.insert(ticket.0);
        }
        for event in connection.session.events().drain(..) {
            if let Event::Publish(event) = event
                && event.decision == PublishDecision::Dropped
            {
                self.shadow.dropped(&event.id);
            }
        }
        connection.session.take_counts();
    }

    fn check(&self, at: usize) {
        let held = self.connections[at].session.held_bytes();
        // One publish per channel may be half read, and what waits in front of nothing cannot be let go.
        assert!(held <= self.plan.memory + 4_000, "{held} bytes are held");
    }

    /// No lock outlives its lease when the broker does not have a message of its holder.
    fn judge_locks(&mut self) {
        for (digest, key) in &self.digests {
            let Reply::Lock(Some(lock)) = self.memory.execute(&Request::Show { digest: *digest }) else {
                continue;
            };
            let holder = &self.shadow.messages[Shadow::index(&lock.holder)];
            assert!(
                holder.fate == Fate::Acked && !holder.returned,
                "{} holds key {key} ({:?}), and the broker does not have its message ({:?}, returned {})",
                lock.holder,
                lock.state,
                holder.fate,
                holder.returned
            );
        }
    }
}

impl Connection {
    fn new(index: usize, publishes: usize, settings: &Arc<Settings>, rules: &Arc<RuleSet>, now: Now) -> Connection {
        let mut session = Session::new(Arc::clone(settings), Arc::clone(rules), (index as u64) << 40, now);
        session.handle_bytes(Side::Client, &frame::PROTOCOL_HEADER, now);
        session.handle_bytes(
            Side::Broker,
            &method(0, MethodId::CONNECTION_TUNE, &[7, 255, 0, 2, 0, 0, 0, 0]),
            now,
        );
        session.handle_bytes(
            Side::Client,
            &method(0, MethodId::CONNECTION_TUNE_OK, &[7, 255, 0, 2, 0, 0, 0, 0]),
            now,
        );
        session.handle_bytes(Side::Client, &method(0, MethodId::CONNECTION_OPEN, b"\x01/\0\0"), now);
        session.handle_bytes(Side::Broker, &method(0, MethodId::CONNECTION_OPEN_OK, &[0]), now);
        session.swap_output(Side::Client, &mut Vec::new());
        session.swap_output(Side::Broker, &mut Vec::new());
        Connection {
            session,
            client: Client::new(index, publishes),
            broker: Broker::new(index),
            up: Vec::new(),
            down: Vec::new(),
            fed: 0,
            unread: VecDeque::new(),
            asks: Vec::new(),
            tells: VecDeque::new(),
            kept: Vec::new(),
            cancelled: BTreeSet::new(),
            client_eof: false,
            broker_eof: false,
        }
    }

    fn client_acts(&mut self, plan: &Plan, shadow: &mut Shadow, random: &mut Random) -> bool {
        if self.client.gone || self.client.closing {
            return false;
        }
        let before = self.client.out.len();
        if !plan.always_confirm && random.per_mille(2) {
            if random.percent(50) {
                self.client.leave_politely(shadow);
            } else {
                // What the kernel has not delivered is lost, in the middle of a frame perhaps.
                let keep = random.below(self.client.out.len() + 1);
                self.client.out.truncate(keep);
                self.client.vanish(shadow);
            }
            return true;
        }
        self.client.act(plan, shadow, random);
        self.client.out.len() > before
    }

    fn client_to_session(&mut self, shadow: &mut Shadow, random: &mut Random, now: Now) -> bool {
        if self.client_eof {
            return false;
        }
        if self.client.out.is_empty() {
            if !self.client.gone {
                return false;
            }
            self.client_eof = true;
            self.session.handle_eof(Side::Client, now);
            return true;
        }
        let size = 1 + random.below(self.client.out.len().min(2_000));
        let bytes: Vec<u8> = self.client.out.drain(..size).collect();
        self.fed += size as u64;
        let read = self.session.wants(Side::Client);
        while let Some(index) = self.unread.front().copied() {
            if shadow.messages[index].end > self.fed {
                break;
            }
            shadow.messages[index].read = read;
            self.unread.pop_front();
        }
        if read {
            self.session.handle_bytes(Side::Client, &bytes, now);
        }
        true
    }

    fn session_to_broker(&mut self, shadow: &mut Shadow, random: &mut Random) -> bool {
        let mut bytes = Vec::new();
        self.session.swap_output(Side::Broker, &mut bytes);
        self.up.append(&mut bytes);
        if self.up.is_empty() || !self.broker.alive {
            self.up.clear();
            return false;
        }
        let size = 1 + random.below(self.up.len());
        let bytes: Vec<u8> = self.up.drain(..size).collect();
        self.broker.feed(&bytes, shadow, random);
        true
    }

    fn broker_to_session(&mut self, shadow: &mut Shadow, random: &mut Random, now: Now, plan: &Plan) -> bool {
        if self.broker_eof {
            return false;
        }
        if !plan.always_confirm && self.broker.alive && random.per_mille(1) {
            self.broker.alive = false;
            let keep = random.below(self.broker.out.len() + 1);
            self.broker.out.truncate(keep);
            // All that the client has published, or will publish before it knows, is lost without a proxy too.
            self.client.publishes_left = 0;
            self.client.closing = true;
            shadow.excuse(self.client_index(), None);
            return true;
        }
        if self.broker.out.is_empty() {
            if self.broker.alive {
                return false;
            }
            self.broker_eof = true;
            self.session.handle_eof(Side::Broker, now);
            return true;
        }
        let size = 1 + random.below(self.broker.out.len());
        let bytes: Vec<u8> = self.broker.out.drain(..size).collect();
        self.session.handle_bytes(Side::Broker, &bytes, now);
        true
    }

    fn client_index(&self) -> usize {
        self.client.connection()
    }

    fn session_to_client(&mut self, shadow: &mut Shadow, random: &mut Random, now: Now) -> bool {
        let mut bytes = Vec::new();
        self.session.swap_output(Side::Client, &mut bytes);
        self.down.append(&mut bytes);
        if self.client.gone {
            self.down.clear();
            return false;
        }
        if self.down.is_empty() {
            if self.session.is_done(Side::Client) && self.session.pending(Side::Client) == 0 {
                self.client.gone = true;
                self.session.handle_written(Side::Client, now);
                return true;
            }
            return false;
        }
        let size = 1 + random.below(self.down.len());
        let bytes: Vec<u8> = self.down.drain(..size).collect();
        self.client.feed(&bytes, shadow);
        true
    }
}
