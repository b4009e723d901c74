//! The scheduler: who moves next, and how time passes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use oncegate::rules::RuleSet;
use oncegate::rules::lock::{Digest, Reply, Request, Scope};
use oncegate::rules::spec::{Mode, RuleSpec, Unique};
use oncegate::session::{Neighbours, Now, Settings, Side};
use oncegate::store::{Clock, Memory};

use crate::clock::ManualClock;
use crate::connection::{Connection, Drain};
use crate::plan::{End, Plan};
use crate::random::Random;
use crate::shadow::Shadow;

pub struct World {
    pub random: Random,
    pub plan: Plan,
    pub now: Now,
    clock: Arc<ManualClock>,
    pub memory: Memory,
    pub down_until_us: u64,
    pub connections: Vec<Connection>,
    pub shadow: Shadow,
    pub noted: usize,
    /// The rule set and key of each digest.
    pub digests: HashMap<Digest, (usize, u32)>,
    rules: Vec<Arc<RuleSet>>,
    /// The scope of each rule set's rule.
    pub scopes: Vec<Scope>,
}

impl World {
    pub fn new(seed: u64, plan: Plan) -> World {
        let clock = Arc::new(ManualClock::new(1_800_000_000_000));
        let now = Now {
            us: 1_000_000,
            unix_ms: clock.now_ms(),
        };
        let compile = |spec: &RuleSpec| {
            let spec = RuleSpec {
                lease: Duration::from_micros(plan.lease_us),
                ..spec.clone()
            };
            Arc::new(RuleSet::compile(vec![spec], &[]).expect("the rule is right"))
        };
        let rules: Vec<_> = plan.rules.iter().map(compile).collect();
        let settings = Arc::new(Settings {
            connection_memory: plan.memory,
            lease_us: plan.lease_us,
            ..Settings::default()
        });
        let connections = (0..plan.connections)
            .map(|index| Connection::new(index, &plan, &settings, &rules[0], now))
            .collect();
        let scope = |unique: Option<Unique>| match unique {
            Some(Unique::UntilStarted) => Scope::UntilStarted,
            _ => Scope::UntilFinished,
        };
        let shadow = Shadow {
            observes: plan.rules.iter().map(|rule| rule.mode == Mode::Observe).collect(),
            ..Shadow::default()
        };
        World {
            random: Random::new(seed),
            memory: Memory::new(Arc::clone(&clock) as Arc<dyn Clock>, "sim".into()),
            clock,
            scopes: plan.rules.iter().map(|rule| scope(rule.unique)).collect(),
            plan,
            now,
            down_until_us: 0,
            connections,
            shadow,
            noted: 0,
            digests: HashMap::new(),
            rules,
        }
    }

    /// Runs until nothing moves any more, and judges.
    pub fn run(mut self) {
        let mut idle = 0;
        while idle < 2_000 {
            let at = self.random.below(self.connections.len());
            self.outage();
            self.reload(at);
            self.drain(at, idle > 1_000);
            let moved = self.step(at);
            self.check(at);
            idle = if moved { 0 } else { idle + 1 };
            // A store forgets after seconds that a worker was done before the broker confirmed: where workers are, all is quicker.
            let waits = !moved && (!self.plan.consume || idle > 100 || self.random.percent(10));
            if waits || self.random.percent(1) {
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
            let ended = connection.session.is_done(Side::Client) && connection.session.is_done(Side::Broker);
            assert!(
                ended || self.plan.end == End::Clients,
                "connection {index} was drained and is still there"
            );
        }
        self.pass(2 * self.plan.lease_us / 1000);
        self.judge_locks();
    }

    /// Other rules come into force on one connection.
    fn reload(&mut self, at: usize) {
        if self.rules.len() > 1 && self.random.per_mille(15) {
            let set = self.random.below(self.rules.len());
            let connection = &mut self.connections[at];
            connection.session.handle_rules(Arc::clone(&self.rules[set]));
            connection.rules = set;
        }
    }

    /// Once half of the work is done, the connections are drained one after the other, at the latest when nothing else happens.
    fn drain(&mut self, at: usize, now: bool) {
        let half = self.plan.connections * self.plan.publishes / 2;
        if self.plan.end == End::Clients || self.noted < half && !now {
            return;
        }
        let connection = &mut self.connections[at];
        match connection.drain {
            Drain::No if now || self.random.percent(1) => {
                connection.drain = Drain::Begun;
                self.shadow.deliveries.draining.insert(at);
                connection.session.handle_drain(0, Neighbours::Idle, self.now);
                self.shadow.deliveries.draining.insert(at);
            }
            Drain::Begun if self.plan.end == End::DrainTimeout && (now || self.random.per_mille(3)) => {
                connection.drain = Drain::TimeOver;
                connection.session.handle_close(self.now.us + 5_000_000, self.now);
            }
            _ => return,
        }
        self.collect(at);
    }

    fn pass(&mut self, ms: u64) {
        self.now.us += ms * 1000;
        self.now.unix_ms += ms;
        self.clock.set(self.now.unix_ms);
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
        let moved = match random.below(10) {
            0 | 1 => connection.client_acts(plan, shadow, random),
            2 => connection.client_to_session(shadow, random, *now),
            3 => connection.session_to_broker(shadow, random),
            4 => connection.broker.confirm(shadow, random),
            5 => connection.broker_to_session(shadow, random, *now, plan),
            6 => connection.session_to_client(shadow, random, *now),
            7 => return self.batch(at, World::store),
            8 if plan.consume => connection.broker.deliver(connection.drain != Drain::No, shadow, random),
            _ => return self.batch(at, World::answer),
        };
        self.collect(at);
        moved
    }

    /// One move of the store. False if it had nothing to do.
    fn batch(&mut self, at: usize, one: fn(&mut World, usize) -> bool) -> bool {
        let done = (0..self.plan.store_batch).take_while(|_| one(self, at)).count();
        done > 0
    }

    fn check(&self, at: usize) {
        let held = self.connections[at].session.held_bytes();
        // One publish per channel may be half read, and what waits in front of nothing cannot be let go.
        assert!(held <= self.plan.memory + 4_000, "{held} bytes are held");
    }

    /// No lock outlives its lease when the broker does not have a message of its holder, nor a worker's word that frees it.
    fn judge_locks(&mut self) {
        for (digest, key) in &self.digests {
            let Reply::Lock(Some(lock)) = self.memory.execute(&Request::Show { digest: *digest }) else {
                continue;
            };
            let holder = &self.shadow.messages[Shadow::index(&lock.holder)];
            // Without confirms and returns of its own an observing rule cannot know more.
            assert!(
                holder.reached_the_broker() || lock.shadow,
                "{} holds key {key:?} ({:?}), and the broker does not have its message ({:?}, returned {})",
                lock.holder,
                lock.state,
                holder.fate,
                holder.returned
            );
            assert!(
                holder.ended_ms().is_none(),
                "{} holds key {key:?} ({:?}), and a worker has ended it at {:?}",
                lock.holder,
                lock.state,
                holder.ended_ms
            );
        }
    }
}
