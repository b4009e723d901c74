//! One turn of one subject, and rounds of turns.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Options;
use super::process::{CpuTime, Server, Workspace, resident_bytes};
use super::scenarios::{Broker, Scenario, UNIQUE, Work};
use super::subjects::{RabbitMq, Running, Subject, start_null_broker, start_redis};
use crate::client::Client;
use crate::load::consume::Consumers;
use crate::load::idle::Idle;
use crate::load::latency::Single;
use crate::load::publish::{Confirms, Keys, Plan, Publisher};
use crate::load::{Tally, Until};

/// Connections of a rate scenario.
const CONNECTIONS: usize = 4;
/// Unsettled publishes per connection.
const WINDOW: usize = 1024;
/// Unsettled deliveries per connection, of what no rule concerns.
const PREFETCH: u16 = 512;
/// Unsettled deliveries per connection of what is unique, as a worker with many threads sets it.
const UNIQUE_PREFETCH: u16 = 128;
/// Messages put into a real queue before its deliveries are measured.
const BACKLOG: u64 = 40_000;
/// Connections that warm allocator and code before idle ones are counted.
const WARM_CONNECTIONS: usize = 20;

/// What one turn showed; a field is none where it has no meaning.
#[derive(Debug, Clone, Default)]
pub struct Turn {
    /// Messages per second.
    pub rate: Option<f64>,
    /// Proxy CPU per message, in microseconds.
    pub proxy_cpu: Option<f64>,
    /// CPU of the load generator per message, in microseconds.
    pub client_cpu: Option<f64>,
    /// CPU of the broker per message, in microseconds.
    pub broker_cpu: Option<f64>,
    /// Time of each single publish, in microseconds.
    pub latencies: Vec<f64>,
    /// Proxy memory per idle connection, in bytes.
    pub memory: Option<f64>,
    /// What Oncegate counted, by decision.
    pub decisions: Vec<(String, u64)>,
    /// Why what was measured is not what was meant.
    pub doubt: Option<String>,
}

/// Results of a scenario: for each subject its turns, in round order.
pub type Results = Vec<(Subject, Vec<Turn>)>;

/// The servers that outlive a scenario.
pub struct Bench {
    null_broker: (Server, SocketAddr),
    redis: (Server, SocketAddr),
    rabbitmq: Option<RabbitMq>,
    options: Options,
    // Last, so that its directory goes after the servers that write into it.
    workspace: Workspace,
}

impl Bench {
    /// Starts null broker and Redis; `RabbitMQ` starts with the first scenario that needs it.
    pub fn start(options: &Options) -> Result<Self> {
        let workspace = Workspace::create()?;
        let null_broker = start_null_broker(workspace.path())?;
        let redis = start_redis(workspace.path())?;
        Ok(Self {
            null_broker,
            redis,
            rabbitmq: None,
            options: options.clone(),
            workspace,
        })
    }

    /// Where Redis listens.
    pub fn redis(&self) -> SocketAddr {
        self.redis.1
    }

    fn broker(&mut self, broker: Broker) -> Result<(SocketAddr, u32)> {
        if broker == Broker::Null {
            return Ok((self.null_broker.1, self.null_broker.0.pid()));
        }
        if self.rabbitmq.is_none() {
            self.rabbitmq = Some(RabbitMq::start(self.workspace.path())?);
        }
        let rabbitmq = self.rabbitmq.as_ref().context("RabbitMQ has just started")?;
        Ok((rabbitmq.address, rabbitmq.pid()?))
    }

    /// All rounds; in each, every subject takes one turn with a fresh proxy and an empty store.
    pub fn scenario(&mut self, scenario: &Scenario, rounds: usize) -> Result<Results> {
        let (broker, broker_pid) = self.broker(scenario.broker)?;
        let mut results: Results = scenario.subjects.iter().map(|subject| (*subject, Vec::new())).collect();
        for round in 1..=rounds {
            for (subject, turns) in &mut results {
                let what = || format!("{}: {}, round {round}", scenario.name, subject.label());
                let binary = self.options.oncegate.as_ref();
                let running = Running::start(*subject, broker, self.redis.1, binary, self.workspace.path()).with_context(what)?;
                let place = Place {
                    running: &running,
                    broker,
                    broker_pid,
                    kind: scenario.broker,
                };
                let mut turn = place.turn(scenario.work, self.options.turn).with_context(what)?;
                turn.decisions = running.decisions().with_context(what)?;
                let undecided = turn.doubt.is_none() && running.deduplicates();
                if undecided {
                    turn.doubt = unchecked(&turn.decisions).or_else(|| unadmitted(scenario.work, &turn.decisions));
                }
                turns.push(turn);
            }
        }
        Ok(results)
    }
}

/// Publishes or deliveries that were forwarded without a question to the store would make a rate look better than it is.
fn unchecked(decisions: &[(String, u64)]) -> Option<String> {
    let (name, count) = decisions.iter().find(|(name, _)| name.ends_with(" forwarded_unchecked"))?;
    Some(format!("{count} {name}"))
}

/// Deliveries of what is unique about which the store was not asked.
fn unadmitted(work: Work, decisions: &[(String, u64)]) -> Option<String> {
    let admitted = decisions
        .iter()
        .find(|(name, _)| name == "deliveries forwarded")
        .map_or(0, |(_, count)| *count);
    let due = BACKLOG / 8 + BACKLOG / 4 * 3;
    (matches!(work, Work::Deliver(UNIQUE)) && admitted < due).then(|| format!("{admitted} deliveries were admitted, {due} were taken"))
}

/// One running subject and the broker behind it.
struct Place<'a> {
    running: &'a Running,
    broker: SocketAddr,
    broker_pid: u32,
    kind: Broker,
}

/// CPU time of load generator, proxy and broker.
struct Cpu {
    client: CpuTime,
    proxy: Option<CpuTime>,
    broker: CpuTime,
}

impl Place<'_> {
    fn turn(&self, work: Work, time: Duration) -> Result<Turn> {
        match work {
            Work::Publish { confirms, task } => self.publish(confirms, task, Keys::Unique, CONNECTIONS, Until::Elapsed(time)),
            Work::Halves(total) => self.publish(Confirms::On, UNIQUE, Keys::HalfDuplicates, 3, Until::Count(total / 3)),
            Work::Deliver(task) => self.deliver(task, time),
            Work::Latency(count, persistence) => {
                let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
                let first = since_epoch.as_millis() as u64 % 800 * 1_000_000_000;
                let mut single = Single::connect(self.running.address, UNIQUE, persistence, first)?;
                single.run(count / 10 + 1)?;
                let latencies = single.run(count)?.iter().map(|time| time.as_secs_f64() * 1e6).collect();
                drop(single);
                self.empty(UNIQUE)?;
                Ok(Turn {
                    latencies,
                    ..Turn::default()
                })
            }
            Work::Idle(count) => self.idle(count),
        }
    }

    fn publish(&self, confirms: Confirms, task: &str, keys: Keys, connections: usize, until: Until) -> Result<Turn> {
        let plan = Plan {
            address: self.running.address,
            task,
            connections,
            window: WINDOW,
            confirms,
            keys,
        };
        let mut control = Client::connect(self.broker, 0)?;
        let before = control.declare_queue(task)?;
        let mut publisher = Publisher::connect(&plan)?;
        let mut sent = 0;
        if let Until::Elapsed(time) = until {
            sent += publisher.run(Until::Elapsed(time / 8))?.messages;
        }
        let cpu = self.cpu()?;
        let tally = publisher.run(until)?;
        let mut turn = self.rated(tally, &cpu)?;
        sent += tally.messages;
        let expected = match keys {
            Keys::HalfDuplicates if self.running.deduplicates() => sent / 2,
            _ => sent,
        };
        turn.doubt = arrived(&mut control, task, before, expected)?;
        drop(publisher);
        self.empty(task)?;
        Ok(turn)
    }

    fn deliver(&self, task: &str, time: Duration) -> Result<Turn> {
        let (source, connections, prefetch) = match task {
            UNIQUE => (self.running.address, CONNECTIONS, UNIQUE_PREFETCH),
            _ => (self.broker, 1, PREFETCH),
        };
        if self.kind == Broker::RabbitMq {
            let plan = Plan {
                address: source,
                task,
                connections,
                window: WINDOW,
                confirms: Confirms::On,
                keys: Keys::Unique,
            };
            Publisher::connect(&plan)?.run(Until::Count(BACKLOG / connections as u64))?;
        }
        let mut consumers = Consumers::connect(self.running.address, task, CONNECTIONS, prefetch)?;
        let (warm, until) = match self.kind {
            Broker::Null => (Until::Elapsed(time / 8), Until::Elapsed(time)),
            Broker::RabbitMq => (Until::Count(BACKLOG / 8), Until::Count(BACKLOG / 4 * 3)),
        };
        consumers.run(warm)?;
        let cpu = self.cpu()?;
        let tally = consumers.run(until)?;
        let turn = self.rated(tally, &cpu)?;
        drop(consumers);
        self.empty(task)?;
        Ok(turn)
    }

    fn idle(&self, count: usize) -> Result<Turn> {
        let Some(proxy) = &self.running.proxy else {
            return Ok(Turn::default());
        };
        let warm = Idle::connect(self.running.address, WARM_CONNECTIONS)?;
        let before = settled_memory(proxy.pid())?;
        let idle = Idle::connect(self.running.address, count)?;
        let after = settled_memory(proxy.pid())?;
        let memory = (after as f64 - before as f64) / idle.count() as f64;
        drop((warm, idle));
        Ok(Turn {
            memory: Some(memory),
            ..Turn::default()
        })
    }

    fn cpu(&self) -> Result<Cpu> {
        let proxy = self.running.proxy.as_ref().map(|proxy| CpuTime::now(proxy.pid())).transpose()?;
        Ok(Cpu {
            client: CpuTime::now(std::process::id())?,
            proxy,
            broker: CpuTime::now(self.broker_pid)?,
        })
    }

    fn rated(&self, tally: Tally, before: &Cpu) -> Result<Turn> {
        let after = self.cpu()?;
        if tally.messages == 0 {
            bail!("no message in {:?}", tally.elapsed);
        }
        let per_message = |from: &CpuTime, to: &CpuTime| to.seconds_since(from) * 1e6 / tally.messages as f64;
        Ok(Turn {
            rate: Some(tally.rate()),
            proxy_cpu: before
                .proxy
                .as_ref()
                .zip(after.proxy.as_ref())
                .map(|(from, to)| per_message(from, to)),
            client_cpu: Some(per_message(&before.client, &after.client)),
            broker_cpu: Some(per_message(&before.broker, &after.broker)),
            ..Turn::default()
        })
    }

    /// Leaves a real queue empty for the next turn.
    fn empty(&self, queue: &str) -> Result<()> {
        if self.kind == Broker::Null {
            return Ok(());
        }
        let start = Instant::now();
        let mut control = Client::connect(self.broker, 0)?;
        loop {
            // Unacknowledged messages return only when the broker has seen the connection end.
            control.purge_queue(queue)?;
            std::thread::sleep(Duration::from_millis(50));
            if control.declare_queue(queue)? == 0 {
                return Ok(());
            }
            if start.elapsed() > Duration::from_secs(30) {
                bail!("{queue} does not become empty");
            }
        }
    }
}

/// Compares what the broker has with what was sent; a classic queue counts a moment after the channel has answered.
fn arrived(control: &mut Client, queue: &str, before: u32, expected: u64) -> Result<Option<String>> {
    let start = Instant::now();
    loop {
        let found = control.declare_queue(queue)?.wrapping_sub(before);
        if found == expected as u32 {
            return Ok(None);
        }
        if start.elapsed() > Duration::from_secs(3) {
            return Ok(Some(format!("{found} arrived, {expected} expected")));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Resident memory once it has stopped growing.
fn settled_memory(pid: u32) -> Result<u64> {
    let mut last = resident_bytes(pid)?;
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(250));
        let now = resident_bytes(pid)?;
        if now.abs_diff(last) <= 16 * 1024 {
            return Ok(now);
        }
        last = now;
    }
    Ok(last)
}
