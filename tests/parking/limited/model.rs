//! What must be true of limits, judged by what workers see and by when the store has permitted it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use oncegate::rules::limit::{Ask, Limited};
use oncegate::rules::lock::{Nonce, Reply, Request};

use super::plan::{Course, Plan, START_MS, task_of};

/// A bucket, by its kind, rule, limit and customer.
type Bucket = (usize, &'static str, usize, Option<usize>);

/// What is left of a wait, and is shorter than any delay queue's, is held beyond that.
const HOLD_LATE_MS: u64 = 2_100;

/// What became of one task.
#[derive(Default, Clone)]
pub struct Facts {
    /// How often each of its runs began and ended, by its retries.
    pub begun: BTreeMap<u32, usize>,
    pub ended: BTreeMap<u32, usize>,
    /// It waited for too long, and was dropped or dead-lettered.
    pub over: usize,
    pub parked: usize,
    pub returned: usize,
    /// Two messages of it may be about, or its worker's ack may be lost.
    pub doubled: bool,
}

/// A hand-over that the store permits.
#[derive(Clone, Copy)]
struct Given {
    delivery: Nonce,
    at_ms: u64,
    /// Its place in the order of the permissions, and of the first questions.
    nth: u64,
    asked: u64,
}

#[derive(Default)]
pub struct Model {
    pub facts: Vec<Facts>,
    /// Permissions of which no worker has seen a hand-over yet: by connection, rule and task.
    given: HashMap<(usize, String, usize), VecDeque<Given>>,
    /// Since when a task waits for the limits of a rule, and how many asked before it.
    asked: HashMap<(String, usize), (u64, u64)>,
    /// The same for the first time ever.
    first_asked: HashMap<(String, usize), u64>,
    /// The hand-overs of each bucket: when they were permitted, in which order, and since when they waited.
    handed: BTreeMap<Bucket, Vec<(u64, u64, u64, usize)>>,
    /// Since when each task was delivered first, and since when a session has it, by connection.
    delivered: HashMap<usize, u64>,
    came: HashMap<(usize, usize), u64>,
    /// What a session was told last of how long a task has to wait: when, and how long.
    told: HashMap<(usize, usize), (u64, u64)>,
    numbers: u64,
    /// The longest that a task without limits has waited.
    longest_ms: u64,
}

impl Model {
    pub fn new(tasks: usize) -> Model {
        Model {
            facts: vec![Facts::default(); tasks],
            ..Model::default()
        }
    }

    fn next(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// The store has done what a connection asked for.
    pub fn done(&mut self, link: usize, request: &Request, reply: &Reply, now_ms: u64) {
        match (request, reply) {
            (Request::Reserve { ask }, Reply::Limit(Limited::Waits(_))) => self.asks(ask, now_ms),
            (Request::Permit { ask, asker }, Reply::Limit(limited)) => {
                // If it was permitted before, the answer was lost.
                self.takes_back(link, ask, asker.delivery);
                self.asks(ask, now_ms);
                match limited {
                    Limited::Permitted { .. } => self.permits(link, ask, asker.delivery, now_ms),
                    Limited::Waits(wait) => drop(self.told.insert((link, task_of(&ask.id)), (now_ms, wait.wait_ms))),
                }
            }
            (Request::LeaveLimit { ask, delivery }, Reply::Done) => self.takes_back(link, ask, *delivery),
            (Request::Reserve { .. } | Request::Permit { .. } | Request::LeaveLimit { .. }, other) => {
                panic!("{other:?} is no answer to {request:?}")
            }
            _ => {}
        }
    }

    /// A message comes to a session.
    pub fn comes(&mut self, link: usize, task: usize, now_ms: u64) {
        self.delivered.entry(task).or_insert(now_ms);
        self.came.insert((link, task), now_ms);
    }

    /// A message is with a session no longer, or with its worker: it has not been held for longer than it may be.
    pub fn leaves(&mut self, plan: &Plan, link: usize, task: usize, now_ms: u64) {
        let told = self.told.remove(&(link, task));
        let Some(came_ms) = self.came.remove(&(link, task)) else { return };
        let most_ms = plan.hold_max_ms(task) + HOLD_LATE_MS;
        // Where more than one limit lets it wait, what is left may be short again and again.
        if plan.course == Course::Prompt && plan.kind_of(task).single_rate().is_some() {
            assert!(now_ms - came_ms <= most_ms, "t{task} was held for {} ms", now_ms - came_ms);
            if let Some((told_ms, _)) = told.filter(|(_, wait_ms)| *wait_ms > plan.hold_max_ms(task)) {
                assert_eq!(told_ms, now_ms, "t{task} waits for long, and is not parked at once");
            }
        }
    }

    fn permits(&mut self, link: usize, ask: &Ask, delivery: Nonce, now_ms: u64) {
        let key = (ask.rule.to_string(), task_of(&ask.id));
        let (_, asked) = self.asked.remove(&key).expect("it has asked");
        let given = Given {
            delivery,
            at_ms: now_ms,
            nth: self.next(),
            asked,
        };
        self.given.entry((link, key.0, key.1)).or_default().push_back(given);
    }

    fn takes_back(&mut self, link: usize, ask: &Ask, delivery: Nonce) {
        let key = (link, ask.rule.to_string(), task_of(&ask.id));
        if let Some(all) = self.given.get_mut(&key) {
            all.retain(|given| given.delivery != delivery);
        }
    }

    fn asks(&mut self, ask: &Ask, now_ms: u64) {
        let nth = self.next();
        let key = (ask.rule.to_string(), task_of(&ask.id));
        self.asked.entry(key.clone()).or_insert((now_ms, nth));
        self.first_asked.entry(key).or_insert(now_ms);
    }

    /// A worker begins a run. `running`: the tasks that run now.
    pub fn begins(&mut self, plan: &Plan, link: usize, (task, retries): (usize, u32), running: &[usize], now_ms: u64) {
        *self.facts[task].begun.entry(retries).or_default() += 1;
        let (facts, kind) = (&plan.tasks[task], plan.kind_of(task));
        self.leaves(plan, link, task, now_ms);
        assert!(now_ms >= facts.eta_ms, "t{task} begins before its time");
        if kind.rules.is_empty() {
            self.longest_ms = self.longest_ms.max(now_ms - facts.published_ms);
        }
        let of_customer = |other: &usize| plan.tasks[*other].kind == facts.kind && plan.tasks[*other].customer == facts.customer;
        if kind.runs_alone() {
            let other = running.iter().find(|other| of_customer(other));
            assert_eq!(other, None, "t{task} begins while another of its key runs");
        }
        let mut permitted: BTreeMap<&str, Given> = BTreeMap::new();
        for (rule, place, limit) in kind.counted(retries) {
            let given = *permitted.entry(rule).or_insert_with(|| {
                let given = self.given.get_mut(&(link, rule.to_owned(), task));
                given
                    .and_then(VecDeque::pop_front)
                    .unwrap_or_else(|| panic!("t{task} begins without permission of {rule}"))
            });
            assert!(given.at_ms >= facts.eta_ms, "t{task} is permitted before its time");
            let customer = limit.by_customer.then_some(facts.customer);
            let handed = self.handed.entry((facts.kind, rule, place, customer)).or_default();
            handed.push((given.at_ms, given.nth, given.asked, task));
            if let Some(runs) = limit.concurrent {
                let alike = |other: &&usize| plan.tasks[**other].kind == facts.kind && (!limit.by_customer || of_customer(other));
                // Copies of one message count once.
                let others: BTreeSet<usize> = running.iter().filter(alike).copied().filter(|other| *other != task).collect();
                assert!((others.len() as u64) < runs, "t{task} begins while {others:?} run, and {runs} may");
            }
        }
    }

    /// A task was dropped, or dead-lettered, since it had waited for too long.
    pub fn too_late(&mut self, plan: &Plan, task: usize, now_ms: u64) {
        self.facts[task].over += 1;
        let kind = plan.kind_of(task);
        let limits = kind.counted(0).filter_map(|(rule, _, limit)| Some((rule, limit.max_wait?.0)));
        for (rule, wait_ms) in limits {
            let key = (rule.to_owned(), task);
            let since_ms = if plan.course == Course::Breaking {
                self.first_asked[&key]
            } else {
                self.asked[&key].0
            };
            assert!(now_ms >= since_ms + wait_ms, "t{task} was given up after {} ms", now_ms - since_ms);
        }
    }

    pub fn story(&self) -> String {
        let tasks = self.facts.iter().enumerate().map(|(task, facts)| {
            format!(
                "t{task}: begun {:?} ended {:?} over {} parked {} returned {}",
                facts.begun, facts.ended, facts.over, facts.parked, facts.returned
            )
        });
        tasks.collect::<Vec<_>>().join("; ")
    }

    pub fn judge(&mut self, plan: &Plan, end_ms: u64) {
        self.judge_tasks(plan, end_ms);
        // What may go beside another may go before it.
        let late_ms = if plan.course == Course::Prompt { 0 } else { 2_500 };
        for (bucket, handed) in &mut self.handed {
            handed.sort_unstable_by_key(|(at, nth, ..)| (*at, *nth));
            let kind = &plan.kinds[bucket.0];
            let (.., limit) = kind
                .counted(0)
                .find(|(rule, place, _)| (*rule, *place) == (bucket.1, bucket.2))
                .expect("a limit");
            let Some((times, per_ms, _)) = limit.rate else { continue };
            for window in handed.windows(times as usize + 1) {
                let (first, last) = (window[0].0, window[times as usize].0);
                assert!(
                    last - first > per_ms,
                    "{bucket:?}: more than {times} within {per_ms} ms: {window:?}"
                );
            }
            if plan.course != Course::Breaking
                && kind.single_rate().is_some()
                && let Some(two) = handed.windows(2).find(|two| two[0].2 > two[1].2 && two[0].0 + late_ms < two[1].0)
            {
                panic!("{bucket:?}: t{} waited for longer than t{} and went behind it", two[1].3, two[0].3);
            }
            let since = |task: &usize| self.delivered[task].max(plan.tasks[*task].eta_ms);
            if plan.course == Course::Prompt
                && kind.single_rate().is_some()
                && let Some(two) = handed
                    .windows(2)
                    .find(|two| two[0].0 < two[1].0 && since(&two[0].3) > since(&two[1].3))
            {
                panic!("{bucket:?}: t{} came before t{} and went behind it", two[1].3, two[0].3);
            }
        }
        if plan.course == Course::Prompt {
            assert!(
                self.longest_ms <= 2_000,
                "a task without limits has waited for {} ms",
                self.longest_ms
            );
            self.judge_throughput(plan);
        }
    }

    fn judge_tasks(&self, plan: &Plan, end_ms: u64) {
        for (task, facts) in self.facts.iter().enumerate() {
            let last = plan.tasks[task].retries;
            let ended = facts.ended.get(&last).copied().unwrap_or_default();
            assert!(
                ended > 0 || facts.over > 0,
                "t{task} is gone and never ran to its end: {}",
                self.story()
            );
            // What comes back waits for at least half of what is left.
            let most = 12 + (end_ms - START_MS) / 12_000;
            if plan.course == Course::Breaking {
                continue;
            }
            assert_eq!(facts.returned, 0, "t{task} went back to its queue");
            assert!(facts.parked as u64 <= most, "t{task} was parked {} times", facts.parked);
            assert!(ended + facts.over == 1, "t{task} ran again: {}", self.story());
            let all = facts.ended.values().chain(facts.begun.values()).all(|count| *count == 1);
            assert!(all, "t{task} ran again: {}", self.story());
        }
        let all = self.facts.iter().enumerate();
        for (task, facts) in all.filter(|(_, facts)| !facts.doubled) {
            let most = facts.ended.values().chain(facts.begun.values()).max();
            assert!(most.is_none_or(|most| *most == 1), "t{task} ran again: {}", self.story());
            assert!(facts.over <= 1, "t{task} was given up twice");
        }
    }

    /// While more wait than may go, no less than 95 of a hundred that may go do.
    fn judge_throughput(&self, plan: &Plan) {
        for ((kind, .., customer), handed) in &self.handed {
            let Some((times, per_ms, burst)) = plan.kinds[*kind].single_rate() else {
                continue;
            };
            let of_it = |task: &&super::plan::Task| task.kind == *kind && customer.is_none_or(|customer| task.customer == customer);
            let mut ready: Vec<u64> = plan
                .tasks
                .iter()
                .filter(of_it)
                .map(|task| task.eta_ms.max(task.published_ms))
                .collect();
            ready.sort_unstable();
            let spacing = per_ms as f64 / times as f64;
            let (mut went, mut tat): (Vec<f64>, f64) = (Vec::new(), 0.0);
            for ready_ms in ready {
                let before = went.len().checked_sub(times as usize).map(|before| went[before]);
                let window = before.map_or(0.0, |before| before + per_ms as f64 + 1.0);
                let at = (ready_ms as f64).max(window).max(tat + (1.0 - burst as f64) * spacing);
                tat = tat.max(at) + spacing;
                went.push(at);
            }
            for (nth, (at_ms, ..)) in handed.iter().enumerate() {
                let may_take = went[nth] - START_MS as f64;
                let took = (*at_ms - START_MS) as f64;
                assert!(
                    took * 0.95 <= may_take + 100.0,
                    "number {nth} of {} could have gone after {may_take} ms and went after {took}: {:?}",
                    plan.kinds[*kind].task,
                    plan.kinds[*kind].rules
                );
            }
        }
    }
}
