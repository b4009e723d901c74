//! The scheduler: what moves next, and how time passes.

use std::collections::BTreeMap;
use std::sync::Arc;

use oncegate::rules::RuleSet;
use oncegate::session::Now;
use oncegate::store::{Clock, Memory};

use crate::broker::Queues;
use crate::carried::Carried;
use crate::clock::ManualClock;
use crate::facts::Facts;
use crate::link::Link;
use crate::newest::Newest;
use crate::orphans::Orphans;
use crate::parked::Delayed;
use crate::plan::{Fault, Plan};
use crate::producer::Producer;
use crate::random::Random;
use crate::replace::Replaces;
use crate::results::Results;
use crate::runs::Runs;
use crate::store::Heard;
use crate::worker::Worker;

const START_MS: u64 = 1_800_000_000_000;
/// Frames are not on their way for longer, in microseconds.
const FRAMES_US: u64 = 800_000;
/// Nor are questions and answers of the store.
const STORE_US: u64 = 300_000;
/// Time passes in slices of this many milliseconds.
const SLICE_MS: u64 = 50;
/// A run that does not come to rest within this time after the last publish does not come to rest.
const REST_MS: u64 = 1_200_000;

pub struct World {
    pub random: Random,
    pub plan: Plan,
    pub now: Now,
    pub clock: Arc<ManualClock>,
    pub memory: Arc<Memory>,
    pub down_until_us: u64,
    /// When each proxy reaches the store again, if it has not since.
    pub proxies_down: Vec<Option<u64>>,
    pub runs: Runs,
    pub replaces: Replaces,
    pub results: Results,
    pub newest: Newest,
    pub carried: Carried,
    pub rules: Arc<RuleSet>,
    pub links: BTreeMap<usize, Link>,
    pub last_link: usize,
    pub queues: Queues,
    pub delayed: Delayed,
    pub producers: Vec<Producer>,
    pub workers: Vec<Worker>,
    pub heard: Vec<Heard>,
    pub orphans: Orphans,
    pub next_fault_ms: u64,
    pub facts: Facts,
}

fn new_memory(clock: &Arc<ManualClock>) -> Arc<Memory> {
    Arc::new(Memory::new(Arc::clone(clock) as Arc<dyn Clock>, "sim".into()))
}

/// Something that can happen now.
#[derive(Debug, Clone, Copy)]
enum Move {
    ClientToSession(usize),
    SessionToBroker(usize),
    BrokerToSession(usize),
    SessionToClient(usize),
    Serve(usize),
    Answer(usize),
    AskAgain(usize),
    Fetch(usize),
    Republish(usize),
    Confirm(usize),
    Deliver((usize, u16, usize)),
    Producer(usize),
    Worker(usize),
    /// The joiner of a proxy.
    Join(usize),
}

impl Plan {
    /// Nothing breaks: all that is sent arrives.
    pub fn is_calm(&self) -> bool {
        self.faults.iter().all(|fault| matches!(fault, Fault::Revoke | Fault::Purge))
    }

    pub fn purges(&self) -> bool {
        self.faults.contains(&Fault::Purge)
    }
}

impl World {
    pub fn new(seed: u64, plan: Plan) -> World {
        let mut random = Random::new(seed);
        let clock = Arc::new(ManualClock::new(START_MS));
        let specs = plan.rows.iter().map(|row| row.rule.clone()).collect();
        let rules = RuleSet::compile(specs, &[]).expect("the rules are right");
        let producers = (0..plan.producers).map(|_| Producer::new(random.percent(60))).collect();
        World {
            producers,
            workers: (0..plan.workers).map(Worker::new).collect(),
            random,
            now: Now {
                us: 1_000_000,
                unix_ms: START_MS,
            },
            memory: new_memory(&clock),
            clock,
            down_until_us: 0,
            proxies_down: vec![None; plan.proxies],
            runs: Runs::default(),
            replaces: Replaces::default(),
            results: Results::new(plan.proxies),
            newest: Newest::default(),
            carried: Carried::default(),
            rules: Arc::new(rules),
            links: BTreeMap::new(),
            last_link: 0,
            queues: Queues::new(),
            delayed: Delayed::new(),
            heard: Vec::new(),
            orphans: Orphans::default(),
            next_fault_ms: START_MS + plan.fault_every_ms,
            facts: Facts::default(),
            plan,
        }
    }

    /// A store that holds nothing.
    pub fn new_memory(&self) -> Arc<Memory> {
        new_memory(&self.clock)
    }

    /// Whether producers publish and things go wrong.
    pub fn active(&self) -> bool {
        self.now.unix_ms < START_MS + self.plan.active_ms
    }

    /// Runs until nothing moves any more, and judges.
    pub fn run(mut self) {
        while self.active() || !self.rests() {
            self.step();
            if self.now.unix_ms > START_MS + self.plan.active_ms + REST_MS {
                self.judge_tasks();
                panic!("the run does not come to rest");
            }
        }
        self.judge_tasks();
        self.judge_newest();
        // The grace of a settlement, of an orphan, its note, the looks, and both questions.
        self.idle(120_000 - 30_000);
        self.judge_locks();
        self.judge_run_locks();
        self.idle(200_000);
        self.judge_lapses();
        self.judge_run_lapses();
        self.judge_results();
        self.judge_store_is_empty();
    }

    /// Nothing is on its way, in a queue, or in hand.
    fn rests(&self) -> bool {
        let empty = self.queues.values().all(std::collections::VecDeque::is_empty);
        empty
            && self.delayed.is_empty()
            && self.heard.is_empty()
            && self.workers_are_idle()
            && self.moves().is_empty()
            && self.links.values().all(Link::rests)
    }

    /// Time passes, and what it brings happens.
    fn idle(&mut self, ms: u64) {
        let until_ms = self.now.unix_ms + ms;
        while self.now.unix_ms < until_ms {
            self.step();
        }
    }

    fn step(&mut self) {
        self.fault();
        let moves = self.moves();
        if moves.is_empty() {
            let ms = 10 + self.random.next() % 400;
            return self.pass(ms);
        }
        let next = moves[self.random.below(moves.len())];
        self.make(next);
        match self.random.below(100) {
            0..30 => {
                let ms = 1 + self.random.next() % 20;
                self.pass(ms);
            }
            30..32 => {
                let ms = self.random.next() % 900;
                self.pass(ms);
            }
            _ => {}
        }
    }

    fn moves(&self) -> Vec<Move> {
        let mut moves = Vec::new();
        for (&at, link) in &self.links {
            let waiting = [
                (link.up.waits(), Move::ClientToSession(at)),
                (link.to_broker.waits(), Move::SessionToBroker(at)),
                (link.from_broker.waits(), Move::BrokerToSession(at)),
                (link.down.waits(), Move::SessionToClient(at)),
                (link.is_to_be_served(self.is_down(link.proxy)), Move::Serve(at)),
                (!link.answers.is_empty(), Move::Answer(at)),
                (link.kept.iter().any(|kept| kept.again_us <= self.now.us), Move::AskAgain(at)),
                (!link.fetches.is_empty(), Move::Fetch(at)),
                (link.has_republishes(), Move::Republish(at)),
                (self.has_confirms(at), Move::Confirm(at)),
            ];
            moves.extend(waiting.into_iter().filter_map(|(waits, of)| waits.then_some(of)));
        }
        moves.extend(self.takers().into_iter().map(Move::Deliver));
        let producers = 0..self.producers.len();
        moves.extend(producers.filter(|index| self.producer_is_ready(*index)).map(Move::Producer));
        let workers = 0..self.workers.len();
        moves.extend(workers.filter(|index| self.worker_is_ready(*index)).map(Move::Worker));
        moves.extend((0..self.plan.proxies).filter(|proxy| self.joiner_works(*proxy)).map(Move::Join));
        moves
    }

    fn make(&mut self, next: Move) {
        match next {
            Move::ClientToSession(at) => self.client_to_session(at),
            Move::SessionToBroker(at) => self.session_to_broker(at),
            Move::BrokerToSession(at) => self.broker_to_session(at),
            Move::SessionToClient(at) => self.session_to_client(at),
            Move::Serve(at) => self.serve(at),
            Move::Answer(at) => self.answer(at),
            Move::AskAgain(at) => self.ask_again(at),
            Move::Fetch(at) => self.fetch(at),
            Move::Republish(at) => self.republish(at),
            Move::Confirm(at) => self.confirm(at),
            Move::Deliver(to) => self.deliver(to),
            Move::Producer(index) => self.producer_acts(index),
            Move::Worker(index) => self.worker_acts(index),
            Move::Join(proxy) => self.joiner_acts(proxy),
        }
    }

    /// Time passes. Nothing is on its way for longer than its bound.
    fn pass(&mut self, ms: u64) {
        let mut left = ms;
        while left > 0 {
            let slice = left.min(SLICE_MS);
            left -= slice;
            self.now.us += slice * 1000;
            self.now.unix_ms += slice;
            self.clock.set(self.now.unix_ms);
            self.facts.now_ms = self.now.unix_ms - START_MS;
            self.expire();
            self.come_back();
            self.store_comes_back();
            self.handle_timeouts();
            self.tell_heard();
            self.write_results();
            self.joiners_look();
            self.look_for_orphans();
            self.follow();
            self.hurry();
        }
    }

    /// What has waited for too long moves.
    fn hurry(&mut self) {
        let now_us = self.now.us;
        let late = |since: Option<u64>, bound: u64| since.is_some_and(|since| now_us >= since + bound);
        loop {
            let mut moves = Vec::new();
            for (&at, link) in &self.links {
                let served = link.is_to_be_served(self.is_down(link.proxy));
                let oldest = link.orders.front().map(|(since, _)| *since).filter(|_| served);
                let overdue = [
                    (late(link.up.since_us, FRAMES_US), Move::ClientToSession(at)),
                    (late(link.to_broker.since_us, FRAMES_US), Move::SessionToBroker(at)),
                    (late(link.from_broker.since_us, FRAMES_US), Move::BrokerToSession(at)),
                    (late(link.down.since_us, FRAMES_US), Move::SessionToClient(at)),
                    (late(oldest, STORE_US), Move::Serve(at)),
                    (late(link.answers.front().map(|(since, ..)| *since), STORE_US), Move::Answer(at)),
                    (late(link.fetches.front().map(|(since, ..)| *since), STORE_US), Move::Fetch(at)),
                    (late(link.republishes.since_us(), FRAMES_US), Move::Republish(at)),
                ];
                moves.extend(overdue.into_iter().filter_map(|(waits, of)| waits.then_some(of)));
            }
            if moves.is_empty() {
                return;
            }
            for next in moves {
                self.make(next);
            }
        }
    }
}
