//! What a seed decides: rules with limits, tasks that fall under them, and workers.

use std::time::Duration;

use oncegate::amqp::table::FieldValue;
use oncegate::celery::instant::write_iso8601;
use oncegate::rules::spec::{AcksLate, DeadLetter, Key, LimitSpec, OnMaxWait, RuleSpec, Unique};

use crate::random::Random;
use crate::wire::{TaskMessage, content_of, publish};

pub const START_MS: u64 = 1_800_000_000_000;
/// A run whose worker is gone counts no longer.
const RUNNING_TTL: Duration = Duration::from_secs(60);
/// A task has one of so many.
const CUSTOMERS: usize = 3;

/// How the world goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Course {
    /// All that can be done is done at once, and the time goes on to when something is due.
    Prompt,
    /// Everything comes late, and nothing is lost.
    Late,
    /// Everything comes late, connections die, the store is silent, and answers are lost.
    Breaking,
}

/// One limit, as the model knows it.
#[derive(Clone, Debug)]
pub struct Limit {
    /// How often in which window, in milliseconds, and how many at once.
    pub rate: Option<(u64, u64, u64)>,
    pub concurrent: Option<u64>,
    pub by_customer: bool,
    pub count_retries: bool,
    pub max_wait: Option<(u64, OnMaxWait)>,
    hold_max_ms: Option<u64>,
}

/// What is alike in some tasks: their rules, which `continue` joins, and how they run.
#[derive(Clone, Debug)]
pub struct Kind {
    pub task: &'static str,
    pub rules: Vec<(&'static str, Vec<Limit>)>,
    unique: Option<Unique>,
    retries: u32,
    tasks: usize,
    runs_ms: u64,
}

/// One task.
#[derive(Clone, Debug)]
pub struct Task {
    pub kind: usize,
    pub customer: usize,
    pub eta_ms: u64,
    pub published_ms: u64,
    /// It is retried so often.
    pub retries: u32,
    pub runs_ms: u64,
}

/// How one worker consumes.
#[derive(Clone, Copy, Debug)]
pub struct Worker {
    pub prefetch: u16,
    /// Whether its window is that of the channel.
    pub global: bool,
}

pub struct Plan {
    pub course: Course,
    pub kinds: Vec<Kind>,
    pub tasks: Vec<Task>,
    pub workers: Vec<Worker>,
    pub quorum: bool,
    hold_max: Duration,
}

fn limit(random: &mut Random) -> Limit {
    let times = 1 + random.next() % 5;
    Limit {
        rate: Some((times, 1_000 * (1 + random.next() % 6), 1 + random.next() % times)),
        concurrent: None,
        by_customer: false,
        count_retries: true,
        max_wait: None,
        hold_max_ms: random.percent(30).then_some(1_500),
    }
}

fn slots(random: &mut Random) -> Limit {
    Limit {
        rate: None,
        concurrent: Some(1 + random.next() % 3),
        ..limit(random)
    }
}

fn max_wait(random: &mut Random, then: OnMaxWait) -> Limit {
    Limit {
        max_wait: Some((2_000 + random.next() % 15_000, then)),
        ..limit(random)
    }
}

impl Kind {
    fn new(random: &mut Random, number: usize) -> Kind {
        let one = |task, limits| (task, vec![(task, limits)]);
        let by_customer = |limit| Limit {
            by_customer: true,
            ..limit
        };
        let (task, rules) = match number {
            0 => one("paced", vec![limit(random)]),
            1 => one("keyed", vec![by_customer(limit(random))]),
            2 => one("twice", vec![by_customer(limit(random)), limit(random)]),
            3 => {
                let second = ("second", vec![by_customer(limit(random))]);
                ("joined", vec![("first", vec![limit(random)]), second])
            }
            4 => one("slots", vec![slots(random)]),
            5 => one("both", vec![by_customer(slots(random)), limit(random)]),
            6 => one("alone", vec![limit(random)]),
            7 => one("once", vec![limit(random)]),
            8 => one("dropped", vec![max_wait(random, OnMaxWait::Drop)]),
            9 => one("buried", vec![max_wait(random, OnMaxWait::DeadLetter)]),
            10 => {
                let uncounted = Limit {
                    count_retries: false,
                    ..limit(random)
                };
                one("retried", vec![uncounted, by_customer(limit(random))])
            }
            _ => one("again", vec![limit(random)]),
        };
        let runs = rules.iter().flat_map(|(_, limits)| limits).any(|limit| limit.concurrent.is_some());
        Kind {
            task,
            rules,
            unique: match number {
                6 => Some(Unique::WhileRunning),
                7 => Some(Unique::UntilFinished),
                _ => None,
            },
            retries: if number >= 10 { 2 } else { 0 },
            tasks: 4 + random.below(12),
            runs_ms: if runs { 3_000 } else { 300 },
        }
    }

    /// How many there are.
    const NUMBER: usize = 12;

    /// Tasks that no rule concerns.
    fn plain() -> Kind {
        Kind {
            task: "plain",
            rules: Vec::new(),
            unique: None,
            retries: 0,
            tasks: 12,
            runs_ms: 100,
        }
    }

    fn specs(&self, hold_max: Duration) -> Vec<RuleSpec> {
        let last = self.rules.len().saturating_sub(1);
        let rules = self.rules.iter().enumerate();
        let spec = |(index, (name, limits)): (usize, &(&'static str, Vec<Limit>))| RuleSpec {
            name: Some((*name).to_owned()),
            task: vec![self.task.to_owned()],
            params: Some("customer, number".to_owned()),
            and_next: index < last,
            unique: self.unique,
            key: match self.unique {
                Some(Unique::WhileRunning) => Key::List(vec!["customer".to_owned()]),
                _ => Key::All,
            },
            acks_late: AcksLate::True,
            running_ttl: RUNNING_TTL,
            hold_max,
            dead_letter: Some(DeadLetter {
                exchange: String::new(),
                routing_key: "buried".to_owned(),
            }),
            limits: limits.iter().map(Limit::spec).collect(),
            ..RuleSpec::default()
        };
        rules.map(spec).collect()
    }

    /// The limits that a run counts for, each with its rule and its place there.
    pub fn counted(&self, retries: u32) -> impl Iterator<Item = (&'static str, usize, &Limit)> {
        let limits = self
            .rules
            .iter()
            .flat_map(|(rule, limits)| limits.iter().enumerate().map(|(place, limit)| (*rule, place, limit)));
        limits.filter(move |(.., limit)| limit.count_retries || retries == 0)
    }

    /// The limit, if there is one and nothing else lets its tasks wait.
    pub fn single_rate(&self) -> Option<(u64, u64, u64)> {
        match self.rules.as_slice() {
            [(_, limits)] if self.unique.is_none() && self.retries == 0 => match limits.as_slice() {
                [limit] if limit.concurrent.is_none() && limit.max_wait.is_none() => limit.rate,
                _ => None,
            },
            _ => None,
        }
    }

    pub fn runs_alone(&self) -> bool {
        self.unique == Some(Unique::WhileRunning)
    }
}

impl Limit {
    fn spec(&self) -> LimitSpec {
        let customer = self.by_customer.then(|| "customer".to_owned());
        LimitSpec {
            times: self.rate.map(|(times, ..)| times),
            per: self.rate.map(|(_, per_ms, _)| Duration::from_millis(per_ms)),
            burst: self.rate.map(|(.., burst)| burst),
            concurrent: self.concurrent,
            key: Key::List(customer.into_iter().collect()),
            max_wait: self.max_wait.map(|(ms, _)| Duration::from_millis(ms)),
            on_max_wait: self.max_wait.map(|(_, then)| then),
            hold_max: self.hold_max_ms.map(Duration::from_millis),
            count_retries: self.count_retries,
            ..LimitSpec::default()
        }
    }
}

impl Plan {
    pub fn new(random: &mut Random, course: Course) -> Plan {
        let mut numbers: Vec<usize> = (0..Kind::NUMBER).collect();
        let mut kinds = vec![Kind::plain()];
        for _ in 0..3 {
            let number = numbers.swap_remove(random.below(numbers.len()));
            kinds.push(Kind::new(random, number));
        }
        let mut tasks = Vec::new();
        for (kind, facts) in kinds.iter().enumerate() {
            for _ in 0..facts.tasks {
                let early = !facts.rules.is_empty() && random.percent(70);
                let has_eta = !facts.rules.is_empty() && random.percent(15);
                let published_ms = START_MS + if early { 0 } else { random.next() % 20_000 };
                tasks.push(Task {
                    kind,
                    customer: random.below(CUSTOMERS),
                    eta_ms: if has_eta { published_ms + 1_000 * (random.next() % 40) } else { 0 },
                    published_ms,
                    retries: if facts.retries > 0 {
                        random.next() as u32 % (facts.retries + 1)
                    } else {
                        0
                    },
                    runs_ms: random.next() % facts.runs_ms,
                });
            }
        }
        let workers = (0..4).map(|_| Worker {
            prefetch: 3 + random.next() as u16 % 6,
            global: random.percent(60),
        });
        let workers = workers.collect();
        Plan {
            course,
            kinds,
            tasks,
            workers,
            quorum: random.percent(50),
            hold_max: Duration::from_millis(1_000 + random.next() % 4_000),
        }
    }

    pub fn specs(&self) -> Vec<RuleSpec> {
        self.kinds.iter().flat_map(|kind| kind.specs(self.hold_max)).collect()
    }

    /// For how long a message of a task may be held, in milliseconds.
    pub fn hold_max_ms(&self, task: usize) -> u64 {
        let limits = self.kind_of(task).counted(0).filter_map(|(.., limit)| limit.hold_max_ms);
        limits.chain([self.hold_max.as_millis() as u64]).max().unwrap_or_default()
    }

    pub fn kind_of(&self, task: usize) -> &Kind {
        &self.kinds[self.tasks[task].kind]
    }

    /// The content of a task's message.
    pub fn content(&self, task: usize, retries: u32) -> Vec<u8> {
        let facts = &self.tasks[task];
        let body = format!(
            r#"[["{}", {task}], {{}}, {{"callbacks": null, "errbacks": null, "chain": null, "chord": null}}]"#,
            facts.customer
        );
        let eta = write_iso8601(facts.eta_ms as i64).expect("a time");
        let headers = [
            ("retries", FieldValue::I32(retries as i32)),
            ("eta", FieldValue::LongStr(eta.as_bytes())),
        ];
        let message = TaskMessage {
            task: self.kinds[facts.kind].task,
            id: &id_of(task),
            headers: if facts.eta_ms > 0 { &headers } else { &headers[..1] },
            expiration: None,
            body: body.as_bytes(),
        };
        content_of(&publish(1, &message, "", "q", false, 131_072)).to_vec()
    }
}

pub fn id_of(task: usize) -> String {
    format!("t{task}")
}

pub fn task_of(id: &str) -> usize {
    id.trim_start_matches('t').parse().expect("a number")
}
