//! Tasks under limits: workers behind the sessions of two proxies, a broker with delay queues, and one store.

mod link;
mod model;
pub mod plan;
mod steps;

use std::collections::VecDeque;
use std::sync::Arc;

use oncegate::rules::RuleSet;
use oncegate::rules::lock::{Reply, Request};
use oncegate::session::Now;
use oncegate::store::{Clock, Memory};

use crate::clock::ManualClock;
use crate::random::Random;
use link::{Link, Message};
use model::Model;
use plan::{Course, Plan, START_MS};

const END_MS: u64 = 3_600_000;
/// Longer than the store keeps anything of what has happened here.
const FORGOTTEN_MS: u64 = 3 * 86_400_000;
/// How many proxies there are; each has every second worker.
const PROXIES: usize = 2;

/// What a session or its peers do next.
#[derive(Clone, Copy, Debug)]
enum Move {
    Deliver,
    BrokerReads,
    Serve,
    Answer,
    Publish,
    EndRun,
}

const MOVES: [Move; 6] = [
    Move::Deliver,
    Move::BrokerReads,
    Move::Serve,
    Move::Answer,
    Move::Publish,
    Move::EndRun,
];

pub struct World {
    random: Random,
    plan: Plan,
    now: Now,
    clock: Arc<ManualClock>,
    memory: Memory,
    rules: Arc<RuleSet>,
    links: Vec<Link>,
    connections: usize,
    /// What the tasks' producers publish later.
    unpublished: Vec<usize>,
    ready: VecDeque<Message>,
    /// In delay queues, with the time when each comes back.
    delayed: Vec<(u64, Message)>,
    /// What lost connections have ordered, which has still to reach the store.
    orders: VecDeque<(usize, usize, Request)>,
    /// Until when the store is silent towards a proxy, in milliseconds.
    silent_ms: [u64; PROXIES],
    breaks_left: usize,
    model: Model,
}

impl World {
    pub fn new(seed: u64, course: Course) -> World {
        let mut random = Random::new(seed);
        let plan = Plan::new(&mut random, course);
        let clock = Arc::new(ManualClock::new(START_MS));
        let now = Now {
            us: 1_000_000,
            unix_ms: START_MS,
        };
        let rules = Arc::new(RuleSet::compile(plan.specs(), &[]).expect("the rules are right"));
        let workers = plan.workers.iter().enumerate();
        let links = workers.map(|(number, worker)| Link::new(&rules, (number, random.next()), *worker, plan.quorum, now));
        let links: Vec<Link> = links.collect();
        World {
            now,
            memory: Memory::new(Arc::clone(&clock) as Arc<dyn Clock>, "sim".into()),
            clock,
            rules,
            connections: links.len(),
            links,
            unpublished: (0..plan.tasks.len()).collect(),
            ready: VecDeque::new(),
            delayed: Vec::new(),
            orders: VecDeque::new(),
            silent_ms: [0; PROXIES],
            breaks_left: if course == Course::Breaking { 8 } else { 0 },
            model: Model::new(plan.tasks.len()),
            plan,
            random,
        }
    }

    pub fn run(mut self) {
        self.pass_to(START_MS);
        while !self.is_over() {
            assert!(self.now.unix_ms < START_MS + END_MS, "after an hour: {}", self.model.story());
            if self.plan.course == Course::Prompt {
                self.settle();
                if !self.is_over() {
                    let next_ms = self
                        .next_ms()
                        .unwrap_or_else(|| panic!("nothing happens any more: {}", self.model.story()));
                    self.pass_to(next_ms.max(self.now.unix_ms + 1));
                }
                continue;
            }
            for _ in 0..self.random.below(40) {
                self.step();
            }
            let ms = 5 + self.random.next() % 150;
            self.pass_to(self.now.unix_ms + ms);
        }
        self.judge();
    }

    fn is_over(&self) -> bool {
        let published = self.ready.is_empty() && self.delayed.is_empty() && self.unpublished.is_empty();
        published && self.orders.is_empty() && self.links.iter().all(Link::is_idle)
    }

    /// Everything that can happen now does.
    fn settle(&mut self) {
        for _ in 0..100_000 {
            let (first, mut moved) = (self.random.below(self.links.len()), false);
            for at in 0..self.links.len() {
                let at = (first + at) % self.links.len();
                let begin = self.random.below(MOVES.len());
                for index in 0..MOVES.len() {
                    moved |= self.moves(at, MOVES[(begin + index) % MOVES.len()]);
                }
            }
            if !moved {
                return;
            }
        }
        panic!("it goes on for ever: {}", self.model.story());
    }

    /// When something happens next by itself.
    fn next_ms(&self) -> Option<u64> {
        let timeouts = self
            .links
            .iter()
            .map(|link| link.session.poll_timeout())
            .filter(|us| *us != u64::MAX);
        let timeouts = timeouts.map(|us| self.now.unix_ms + us.saturating_sub(self.now.us).div_ceil(1000));
        let runs = self.links.iter().flat_map(|link| &link.runs).map(|run| run.end_ms);
        let delayed = self.delayed.iter().map(|(due_ms, _)| *due_ms);
        let published = self.unpublished.iter().map(|task| self.plan.tasks[*task].published_ms);
        timeouts.chain(runs).chain(delayed).chain(published).min()
    }

    fn pass_to(&mut self, to_ms: u64) {
        self.now.us += (to_ms - self.now.unix_ms) * 1000;
        self.now.unix_ms = to_ms;
        self.clock.set(to_ms);
        let tasks = &self.plan.tasks;
        let due = self.unpublished.extract_if(.., |task| tasks[*task].published_ms <= to_ms);
        let mut due: Vec<usize> = due.collect();
        while !due.is_empty() {
            let task = due.swap_remove(self.random.below(due.len()));
            let message = self.message(task, 0);
            self.ready.push_back(message);
        }
        let mut back: Vec<(u64, Message)> = self.delayed.extract_if(.., |(due_ms, _)| *due_ms <= to_ms).collect();
        back.sort_by_key(|(due_ms, _)| *due_ms);
        self.ready.extend(back.into_iter().map(|(_, message)| message));
        for proxy in 0..PROXIES {
            if self.silent_ms[proxy] > 0 && self.silent_ms[proxy] <= to_ms {
                self.silent_ms[proxy] = 0;
                for at in (proxy..self.links.len()).step_by(PROXIES) {
                    self.links[at].session.handle_store_back(self.now);
                    self.collect(at);
                }
            }
        }
        for at in 0..self.links.len() {
            if self.links[at].session.poll_timeout() <= self.now.us {
                self.links[at].session.handle_timeout(self.now);
                self.collect(at);
            }
        }
    }

    fn message(&self, task: usize, retries: u32) -> Message {
        Message {
            task,
            content: self.plan.content(task, retries),
            redelivered: false,
        }
    }

    fn execute(&mut self, link: usize, request: &Request) -> Reply {
        let reply = self.memory.execute(request);
        self.model.done(link, request, &reply, self.now.unix_ms);
        reply
    }

    fn judge(&mut self) {
        self.model.judge(&self.plan, self.now.unix_ms);
        assert_eq!(self.memory.limits_waiting(), 0, "somebody waits for limits, and nobody is there");
        // Windows that have become too wide are made narrower in a while.
        for _ in 0..10 {
            self.pass_to(self.now.unix_ms + 40_000);
            for at in 0..self.links.len() {
                self.moves(at, Move::BrokerReads);
            }
        }
        for link in &self.links {
            link.judge();
        }
        self.pass_to(self.now.unix_ms + FORGOTTEN_MS);
        for _ in 0..10_000 {
            self.memory.execute(&oncegate::rules::lock::Request::Show {
                digest: oncegate::rules::lock::Digest([0; 32]),
            });
        }
        let left = (self.memory.limits_len(), self.memory.runs_len(), self.memory.parked_len());
        assert_eq!(left, ((0, 0), (0, 0, 0), 0), "the store never forgets");
    }
}
