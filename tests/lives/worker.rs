//! Workers that do as Celery's do: prefetch, early and late acks, retries that their pool publishes, events of what they do.

use std::collections::BTreeSet;

use oncegate::amqp::encode;
use oncegate::amqp::method::MethodId;
use oncegate::amqp::method::basic::{Ack, Deliver, Reject};
use oncegate::rules::lock::Signal;

use crate::broker::header_of;
use crate::carried::{Brings, Reading};
use crate::facts::Facts;
use crate::link::Owner;
use crate::plan::Acks;
use crate::results::Stored;
use crate::runs::Name;
use crate::wire::{Unit, method, short};
use crate::world::World;

/// How many tasks a pool runs at once.
const POOL: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    Up,
    /// It takes no more, ends what it runs, and goes.
    Leaving,
    /// It is started at this time.
    Down {
        until_us: u64,
    },
}

/// A delivery in a worker's hands.
struct Taken {
    link: usize,
    tag: u64,
    task: usize,
    retries: i32,
    eta_ms: u64,
    brings: Brings,
    acks: Acks,
    /// It says of itself that its time has passed.
    over: bool,
    redelivered: bool,
    /// The run that the store was asked about.
    name: Option<Name>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Success,
    Failure,
    /// It is published again, with this many more retries.
    Retry(i32),
    Reject,
    Requeue,
    /// It ends without a word but its ack.
    Ignore,
    /// The hard time limit: it is told twice.
    TimeLimit,
    Terminated,
}

struct Run {
    taken: Taken,
    ends_us: u64,
    outcome: Outcome,
    /// It began as the holder of its key, or of none.
    held: bool,
    /// Which of the runs of its task it is.
    number: u32,
}

pub struct Worker {
    pub name: String,
    pub life: Life,
    pub link: Option<usize>,
    /// When it connects anew, in microseconds.
    connects_us: u64,
    /// Since when it is connected, and since when this process runs, in milliseconds.
    pub since_ms: u64,
    pub started_ms: u64,
    pub pool: Option<usize>,
    inbox: Vec<Taken>,
    /// What proxies want of it.
    readings: Vec<Reading>,
    runs: Vec<Run>,
    pub revoked: BTreeSet<usize>,
}

impl Worker {
    pub fn new(index: usize) -> Worker {
        Worker {
            name: format!("w{index}@sim"),
            life: Life::Up,
            link: None,
            connects_us: 0,
            since_ms: 0,
            started_ms: 0,
            pool: None,
            inbox: Vec::new(),
            readings: Vec::new(),
            runs: Vec::new(),
            revoked: BTreeSet::new(),
        }
    }

    pub fn runs(&self, task: usize) -> bool {
        self.runs.iter().any(|run| run.taken.task == task)
    }

    /// What it says when it is asked for a task.
    pub fn knows(&self, task: usize) -> bool {
        self.runs(task) || self.inbox.iter().any(|taken| taken.task == task)
    }

    /// The runs that it has in hand, begun or not.
    pub fn names(&self) -> impl Iterator<Item = Name> {
        let runs = self.runs.iter().map(|run| &run.taken);
        runs.chain(&self.inbox).filter_map(|taken| taken.name)
    }

    /// The tasks that it runs, and does not only return something of.
    pub fn running(&self) -> impl Iterator<Item = (usize, Option<Name>)> {
        let runs = self.runs.iter().filter(|run| run.taken.brings == Brings::Task);
        runs.map(|run| (run.taken.task, run.taken.name))
    }

    /// It has no connection any more: what it has not begun comes again.
    fn forgets(&mut self) {
        self.inbox.clear();
        self.readings.clear();
    }

    fn next_taken(&self, now_ms: u64) -> Option<usize> {
        let free = self.life == Life::Up && self.runs.len() < POOL;
        let next = || self.inbox.iter().position(|taken| taken.eta_ms <= now_ms || taken.over);
        free.then(next).flatten()
    }

    fn is_idle(&self) -> bool {
        self.runs.is_empty() && self.inbox.is_empty() && self.readings.is_empty()
    }
}

fn ack_of(delivery_tag: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let multiple = false;
    encode::basic_ack(&mut bytes, 1, Ack { delivery_tag, multiple });
    bytes
}

impl World {
    pub fn worker_is_ready(&self, index: usize) -> bool {
        let worker = &self.workers[index];
        match worker.life {
            Life::Down { until_us } => self.now.us >= until_us,
            Life::Up if worker.link.is_none() && self.now.us >= worker.connects_us => true,
            Life::Leaving if worker.runs.is_empty() => true,
            Life::Up | Life::Leaving => {
                let ended = worker.runs.iter().any(|run| run.ends_us <= self.now.us);
                ended || worker.next_taken(self.now.unix_ms).is_some() || !worker.readings.is_empty()
            }
        }
    }

    pub fn workers_are_idle(&self) -> bool {
        self.workers.iter().all(|worker| worker.life == Life::Up && worker.is_idle())
    }

    pub fn worker_acts(&mut self, index: usize) {
        let now = self.now;
        let worker = &mut self.workers[index];
        match worker.life {
            Life::Down { .. } => {
                let (name, started_ms) = (worker.name.clone(), now.unix_ms);
                *worker = Worker {
                    name,
                    started_ms,
                    ..Worker::new(index)
                };
                self.facts.note_all(format!("worker {index} is started"));
            }
            Life::Leaving if worker.runs.is_empty() => self.worker_leaves(index),
            Life::Up if worker.link.is_none() && now.us >= worker.connects_us => self.worker_connects(index),
            Life::Up | Life::Leaving => {
                if let Some(run) = worker.runs.iter().position(|run| run.ends_us <= now.us) {
                    let run = worker.runs.swap_remove(run);
                    self.ends(index, run);
                } else if let Some(taken) = worker.next_taken(now.unix_ms) {
                    let taken = worker.inbox.remove(taken);
                    self.begins(index, taken);
                } else if let Some(reading) = worker.readings.pop() {
                    self.worker_reads_result(index, &reading);
                }
            }
        }
    }

    fn worker_connects(&mut self, index: usize) {
        let at = self.connect(Owner::Worker(index));
        let worker = &mut self.workers[index];
        worker.link = Some(at);
        worker.since_ms = self.now.unix_ms;
        let mailbox = format!("{}.celery.pidbox", worker.name);
        let consume = |number: u16, queue: &str, tag: &str, no_ack: u8| {
            let arguments = [
                &[0, 0][..],
                &short(queue.as_bytes()),
                &short(tag.as_bytes()),
                &[no_ack << 1],
                &[0; 4],
            ]
            .concat();
            method(number, MethodId::BASIC_CONSUME, &arguments)
        };
        let declare = [&[0, 0][..], &short(mailbox.as_bytes()), &[0b1100], &[0; 4]].concat();
        let bytes = [
            method(2, MethodId::CHANNEL_OPEN, &[0]),
            method(2, MethodId::QUEUE_DECLARE, &declare),
            consume(2, &mailbox, "None1", 1),
            method(1, MethodId::CHANNEL_OPEN, &[0]),
            method(1, MethodId::BASIC_QOS, &[0, 0, 0, 0, 0, 3, 0]),
            consume(1, "even", "None2", 0),
            consume(1, "odd", "None3", 0),
        ]
        .concat();
        if let Some(link) = self.links.get_mut(&at) {
            link.up.put(&bytes, self.now);
        }
    }

    pub fn worker_reads(&mut self, index: usize, at: usize, unit: &Unit) {
        match unit.method {
            MethodId::CONNECTION_CLOSE => {
                let mut bytes = Vec::new();
                encode::connection_close_ok(&mut bytes);
                self.write(at, &bytes);
                if let Some(link) = self.links.get_mut(&at) {
                    link.up.end(self.now);
                }
                self.client_loses(at);
            }
            MethodId::BASIC_DELIVER if unit.channel == 2 => self.worker_reads_letter(index, unit),
            MethodId::BASIC_DELIVER if unit.channel == 1 && self.workers[index].life == Life::Up => {
                let deliver = Deliver::decode(unit.payload()).expect("a deliver");
                if let Some(reading) = Reading::of(unit, at, deliver.delivery_tag) {
                    return self.workers[index].readings.push(reading);
                }
                let header = header_of(unit.content());
                let headers = header.properties.headers.expect("a task has headers");
                let number = |name: &str| headers.first(name.as_bytes()).and_then(|value| value.as_i64()).unwrap_or(0);
                let expires = headers.first(b"expires").and_then(|value| value.as_str());
                let task = Facts::index(unit.id.as_deref().expect("every message has an id"));
                let over = expires.is_some_and(|expires| expires.starts_with("2020"));
                let brings = Brings::of(unit);
                let handed = self
                    .links
                    .get_mut(&at)
                    .filter(|_| brings == Brings::Task && !over)
                    .and_then(|link| {
                        let index = link.handed.iter().position(|handed| handed.task == task)?;
                        Some(link.handed.remove(index))
                    });
                self.judge_handed(at, task, brings, over);
                let row_acks = self.plan.rows[self.facts.tasks[task].row].acks;
                let taken = Taken {
                    brings,
                    acks: match brings {
                        Brings::Task => row_acks,
                        Brings::Value(_) if self.random.percent(50) => Acks::Early,
                        Brings::Value(_) => Acks::Late,
                    },
                    link: at,
                    name: handed.and_then(|handed| handed.name),
                    tag: deliver.delivery_tag,
                    task,
                    retries: number("retries") as i32,
                    eta_ms: if brings == Brings::Task { number("eta-ms") as u64 } else { 0 },
                    over,
                    redelivered: deliver.redelivered,
                };
                self.workers[index].inbox.push(taken);
            }
            _ => {}
        }
    }

    pub fn worker_loses(&mut self, index: usize) {
        let pause_us = 1_000 * (self.random.next() % 3_000);
        let worker = &mut self.workers[index];
        worker.link = None;
        worker.forgets();
        worker.connects_us = self.now.us + pause_us;
    }

    fn begins(&mut self, index: usize, taken: Taken) {
        let task = taken.task;
        let facts = &self.facts.tasks[task];
        let expired = taken.over || facts.expires_ms.is_some_and(|ms| ms <= self.now.unix_ms);
        let name = self.workers[index].name.clone();
        if expired || self.workers[index].revoked.contains(&task) {
            self.facts
                .note(task, format!("is not run by {name}: over {}, expired {expired}", taken.over));
            self.facts.tasks[task].expired |= expired && !taken.over;
            let facts = &mut self.facts.tasks[task];
            (facts.begun_ms, facts.ended_ms) = (self.now.unix_ms, Some(self.now.unix_ms));
            facts.ended += 1;
            self.ack(&taken);
            self.stores(task, Stored::Revoked, None);
            return self.tells(task, if expired { Signal::Expired } else { Signal::Revoked }, &name);
        }
        if taken.brings != Brings::Task {
            return self.begins_to_return(index, taken);
        }
        let acks = self.plan.rows[facts.row].acks;
        let is_followed = acks == Acks::Late || self.plan.rows[facts.row].excludes();
        let (outcome, takes_us) = self.outcome(&taken, acks, is_followed);
        // What the broker has taken back comes again.
        let taken_back = !self.links.get(&taken.link).is_some_and(|link| link.broker.open);
        self.facts.tasks[task].doubled |= taken_back || taken.redelivered && self.facts.tasks[task].begun > 0;
        self.facts.tasks[task].begun += 1;
        self.facts.tasks[task].begun_ms = self.now.unix_ms;
        self.facts
            .note(task, format!("begins on {name} (link {}, {})", taken.link, taken.tag));
        self.judge_dead_begins(task, taken.eta_ms);
        let held = self.judge_begin(index, task, taken.retries > 0 || taken.redelivered);
        if acks == Acks::Early {
            self.ack(&taken);
        }
        self.tells(task, Signal::Started, &name);
        self.workers[index].runs.push(Run {
            taken,
            ends_us: self.now.us + takes_us,
            outcome,
            held,
            number: self.facts.tasks[task].begun,
        });
        self.judge_run_begins(index, task);
    }

    /// A worker begins a task that returns what another has returned.
    fn begins_to_return(&mut self, index: usize, taken: Taken) {
        let (task, name) = (taken.task, self.workers[index].name.clone());
        self.facts
            .note(task, format!("begins to return on {name} (link {}, {})", taken.link, taken.tag));
        if taken.acks == Acks::Early {
            self.ack(&taken);
        }
        self.tells(task, Signal::Started, &name);
        let ends_us = self.now.us + 1_000 * (1 + self.random.next() % 300);
        self.workers[index].runs.push(Run {
            taken,
            ends_us,
            outcome: Outcome::Success,
            held: false,
            number: 0,
        });
    }

    fn outcome(&mut self, taken: &Taken, acks: Acks, is_followed: bool) -> (Outcome, u64) {
        let outcome = match self.random.below(100) {
            0..12 => Outcome::Failure,
            12..24 if taken.retries < 2 => Outcome::Retry(1),
            // A rate limit's retry does not count.
            24..29 if self.active() => Outcome::Retry(0),
            29..33 if acks == Acks::Late => Outcome::Reject,
            33..36 if acks == Acks::Late && self.active() => Outcome::Requeue,
            36..39 => Outcome::Ignore,
            39..43 => Outcome::TimeLimit,
            _ => Outcome::Success,
        };
        let takes_ms = match self.random.below(20) {
            0 => 20_000,
            1..5 => 4_000,
            _ => 400,
        };
        // What acknowledges late, or is followed, is known to be alive for as long as it takes.
        let long = if is_followed && self.random.per_mille(20) { 150_000 } else { 0 };
        (outcome, 1_000 * (long + 10 + self.random.next() % takes_ms))
    }

    fn ends(&mut self, index: usize, run: Run) {
        let (task, taken) = (run.taken.task, run.taken);
        let name = self.workers[index].name.clone();
        let late = taken.acks == Acks::Late;
        self.facts.note(task, format!("ends on {name}: {:?}", run.outcome));
        let value = match taken.brings {
            Brings::Task => (task, run.number),
            Brings::Value(value) => value,
        };
        if run.outcome == Outcome::Success {
            self.returns(value);
        }
        if taken.brings != Brings::Task {
            // It has not run.
        } else if let Outcome::Retry(more) = run.outcome {
            self.retries(index, task, taken.retries + more);
        } else if run.outcome != Outcome::Requeue {
            self.facts.tasks[task].ended += 1;
            self.facts.tasks[task].ended_ms = Some(self.now.unix_ms);
        }
        match run.outcome {
            Outcome::Success => self.stores(task, Stored::Success, Some(value)),
            Outcome::Failure | Outcome::TimeLimit => self.stores(task, Stored::Failure, None),
            Outcome::Terminated => self.stores(task, Stored::Revoked, None),
            Outcome::Retry(_) => self.stores(task, Stored::Retry, None),
            Outcome::Reject | Outcome::Requeue | Outcome::Ignore => {}
        }
        match run.outcome {
            Outcome::Reject | Outcome::Requeue if late => self.reject(&taken, run.outcome == Outcome::Requeue),
            _ if late => self.ack(&taken),
            _ => {}
        }
        match run.outcome {
            Outcome::Success => self.tells(task, Signal::Succeeded, &name),
            Outcome::Failure | Outcome::Reject => self.tells(task, Signal::Failed, &name),
            Outcome::TimeLimit => {
                self.tells(task, Signal::Failed, &name);
                self.tells(task, Signal::Failed, &name);
            }
            Outcome::Retry(_) => self.tells(task, Signal::Retried, &name),
            Outcome::Terminated => self.tells(task, Signal::Revoked, &name),
            Outcome::Requeue | Outcome::Ignore => {}
        }
    }

    /// The pool publishes the task again.
    fn retries(&mut self, index: usize, task: usize, retries: i32) {
        let at = self.pool_of(index);
        let eta_ms = self.random.percent(50).then(|| self.now.unix_ms + self.random.next() % 6_000);
        self.facts.tasks[task].retried = true;
        self.publish(at, task, retries, eta_ms);
    }

    pub fn write(&mut self, at: usize, bytes: &[u8]) {
        if let Some(link) = self.links.get_mut(&at).filter(|link| !link.up.eof) {
            link.up.put(bytes, self.now);
        }
    }

    fn ack(&mut self, taken: &Taken) {
        self.settles(taken, &ack_of(taken.tag), true);
    }

    pub fn ack_reading(&mut self, reading: &Reading) {
        self.write(reading.link, &ack_of(reading.tag));
    }

    fn reject(&mut self, taken: &Taken, requeue: bool) {
        let mut bytes = Vec::new();
        let reject = Reject {
            delivery_tag: taken.tag,
            requeue,
        };
        encode::basic_reject(&mut bytes, 1, reject);
        if let Some(link) = self.links.get_mut(&taken.link).filter(|_| requeue) {
            *link.given_back.entry(taken.task).or_default() += 1;
        }
        self.settles(taken, &bytes, !requeue);
    }

    fn settles(&mut self, taken: &Taken, bytes: &[u8], over: bool) {
        let there = self.links.get(&taken.link).is_some_and(|link| !link.up.eof);
        let word = if there { "acknowledges" } else { "cannot acknowledge" };
        self.facts.note(taken.task, format!("{word} (link {}, {})", taken.link, taken.tag));
        self.write(taken.link, bytes);
        if let Some(link) = self.links.get_mut(&taken.link).filter(|_| over && there) {
            *link.acked.entry(taken.task).or_default() += 1;
            self.facts.tasks[taken.task].acked = true;
        }
    }

    /// A worker's process is gone.
    pub fn worker_dies(&mut self, index: usize) {
        let until_us = self.now.us + 1_000 * (500 + self.random.next() % 40_000);
        self.facts.note_all(format!("worker {index} is killed"));
        for run in std::mem::take(&mut self.workers[index].runs) {
            let task = &mut self.facts.tasks[run.taken.task];
            task.ended_ms = Some(self.now.unix_ms);
            self.facts.note(run.taken.task, "dies with its worker");
        }
        self.worker_goes(index, until_us);
    }

    fn worker_goes(&mut self, index: usize, until_us: u64) {
        let worker = &mut self.workers[index];
        worker.life = Life::Down { until_us };
        worker.forgets();
        let links = [worker.link.take(), worker.pool.take()];
        for at in links.into_iter().flatten() {
            let all = self.random.percent(70);
            self.client_goes(at, all);
        }
    }

    /// A worker loses its connection and runs on.
    pub fn worker_detaches(&mut self, index: usize) {
        if let Some(at) = self.workers[index].link {
            self.facts.note_all(format!("worker {index} loses link {at}"));
            self.client_goes(at, true);
            self.worker_loses(index);
        }
    }

    /// A worker is asked to end: what it has not begun stays with the broker.
    pub fn worker_is_asked_to_leave(&mut self, index: usize) {
        if self.workers[index].life != Life::Up {
            return;
        }
        self.facts.note_all(format!("worker {index} is to leave"));
        self.workers[index].life = Life::Leaving;
        self.workers[index].forgets();
        if let Some(at) = self.workers[index].link {
            let mut bytes = Vec::new();
            for tag in [b"None2", b"None3"] {
                encode::basic_cancel(&mut bytes, 1, tag, false).expect("a short tag");
            }
            self.write(at, &bytes);
        }
    }

    fn worker_leaves(&mut self, index: usize) {
        let until_us = self.now.us + 1_000 * (500 + self.random.next() % 20_000);
        if let Some(at) = self.workers[index].link {
            let mut bytes = Vec::new();
            encode::connection_close(&mut bytes, 200, "", None);
            self.write(at, &bytes);
        }
        self.facts.note_all(format!("worker {index} leaves"));
        let worker = &mut self.workers[index];
        worker.life = Life::Down { until_us };
        let links = [worker.link.take(), worker.pool.take()];
        for at in links.into_iter().flatten() {
            self.client_goes(at, true);
        }
    }

    /// The worker of this name hears of a revoke.
    pub fn worker_hears_revoke(&mut self, name: &str, task: usize) {
        if let Some(worker) = self.workers.iter_mut().find(|worker| worker.name == name) {
            worker.revoked.insert(task);
        }
    }

    /// Workers that are there hear of a revoke.
    pub fn workers_hear_revoke(&mut self, task: usize, terminate: bool) {
        for worker in self.workers.iter_mut().filter(|worker| worker.life == Life::Up) {
            worker.revoked.insert(task);
            for run in worker.runs.iter_mut().filter(|run| terminate && run.taken.task == task) {
                run.ends_us = self.now.us;
                run.outcome = Outcome::Terminated;
            }
        }
    }

    /// Whether a worker runs this task, and does not only return something of it.
    pub fn runs_itself(&self, task: usize) -> bool {
        self.workers.iter().any(|worker| worker.running().any(|(other, _)| other == task))
    }

    /// Whether a worker runs this task.
    pub fn is_running(&self, task: usize) -> bool {
        self.workers.iter().any(|worker| worker.runs(task))
    }

    /// The tasks that run as holders of their keys, or of what nobody held.
    pub fn running_holders(&self) -> impl Iterator<Item = usize> {
        let runs = self.workers.iter().flat_map(|worker| &worker.runs);
        runs.filter(|run| run.held).map(|run| run.taken.task)
    }
}
