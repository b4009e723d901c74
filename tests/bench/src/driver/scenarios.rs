//! What is measured.

use super::Options;
use super::subjects::Subject::{self, Bare, HaProxy, OncegateMemory, OncegateRedis};
use crate::load::publish::Confirms;
use crate::message::Persistence;

/// Which broker stands at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broker {
    /// Stores nothing.
    Null,
    /// A private node.
    RabbitMq,
}

/// What one turn does.
#[derive(Debug, Clone, Copy)]
pub enum Work {
    /// Pipelined publishes over four connections for one turn.
    Publish {
        /// Confirm mode.
        confirms: Confirms,
        /// Celery task: `bench.plain` matches no rule, `bench.unique` does.
        task: &'static str,
    },
    /// Deliveries of this task to four consumers, each acknowledged. What is unique was published through the subject, and holds its locks.
    Deliver(&'static str),
    /// That many confirmed publishes over three connections, half of them duplicates.
    Halves(u64),
    /// That many single confirmed publishes.
    Latency(usize, Persistence),
    /// That many idle connections.
    Idle(usize),
}

/// One table.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Its heading, also what `--only` looks at.
    pub name: &'static str,
    /// The broker at the end.
    pub broker: Broker,
    /// What a turn does.
    pub work: Work,
    /// Who takes turns, in this order.
    pub subjects: Vec<Subject>,
}

/// Task that no rule matches.
pub const PLAIN: &str = "bench.plain";
/// Task of the rule.
pub const UNIQUE: &str = "bench.unique";

/// All of them, without subjects that cannot run.
pub fn all(options: &Options) -> Vec<Scenario> {
    let plain: &[Subject] = &[Bare, HaProxy, OncegateMemory];
    let unique: &[Subject] = &[Bare, HaProxy, OncegateMemory, OncegateRedis];
    let redis: &[Subject] = &[Bare, HaProxy, OncegateRedis];
    let publish = |confirms, task| Work::Publish { confirms, task };
    let list: [(&'static str, Broker, Work, &[Subject]); 15] = [
        (
            "null broker: unmatched publishes",
            Broker::Null,
            publish(Confirms::Off, PLAIN),
            plain,
        ),
        (
            "null broker: unmatched publishes, confirmed",
            Broker::Null,
            publish(Confirms::On, PLAIN),
            plain,
        ),
        ("null broker: unmatched deliveries", Broker::Null, Work::Deliver(PLAIN), plain),
        (
            "null broker: unique publishes",
            Broker::Null,
            publish(Confirms::Off, UNIQUE),
            unique,
        ),
        (
            "null broker: unique publishes, confirmed",
            Broker::Null,
            publish(Confirms::On, UNIQUE),
            unique,
        ),
        (
            "null broker: half duplicates, confirmed",
            Broker::Null,
            Work::Halves(options.halves),
            unique,
        ),
        ("null broker: idle connections", Broker::Null, Work::Idle(options.idle), plain),
        (
            "RabbitMQ: unmatched publishes",
            Broker::RabbitMq,
            publish(Confirms::Off, PLAIN),
            plain,
        ),
        (
            "RabbitMQ: unmatched publishes, confirmed",
            Broker::RabbitMq,
            publish(Confirms::On, PLAIN),
            plain,
        ),
        ("RabbitMQ: unmatched deliveries", Broker::RabbitMq, Work::Deliver(PLAIN), plain),
        (
            "RabbitMQ: unique publishes, confirmed",
            Broker::RabbitMq,
            publish(Confirms::On, UNIQUE),
            redis,
        ),
        ("RabbitMQ: unique deliveries", Broker::RabbitMq, Work::Deliver(UNIQUE), unique),
        (
            "RabbitMQ: half duplicates, confirmed",
            Broker::RabbitMq,
            Work::Halves(options.halves),
            redis,
        ),
        (
            "RabbitMQ: one confirmed publish at a time, transient",
            Broker::RabbitMq,
            Work::Latency(options.singles, Persistence::Transient),
            unique,
        ),
        (
            "RabbitMQ: one confirmed publish at a time, persistent",
            Broker::RabbitMq,
            Work::Latency(options.singles, Persistence::Persistent),
            redis,
        ),
    ];
    let runs = |subject: &Subject| options.oncegate.is_some() || !subject.is_oncegate();
    list.into_iter()
        .map(|(name, broker, work, subjects)| Scenario {
            name,
            broker,
            work,
            subjects: subjects.iter().copied().filter(runs).collect(),
        })
        .collect()
}
