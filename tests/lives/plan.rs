//! What one run is made of.

use std::time::Duration;

use oncegate::rules::spec::{AcksLate, Canvas, OnDuplicate, OnRunning, ResultBy, ResultMode, RuleSpec, Unique};

/// When a worker acknowledges a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// When it begins.
    Early,
    /// When it has ended.
    Late,
}

/// A task with its rule.
#[derive(Clone)]
pub struct Row {
    pub rule: RuleSpec,
    pub scope: Unique,
    pub acks: Acks,
    pub task: String,
    pub queue: &'static str,
}

impl Row {
    /// Whether its runs exclude each other.
    pub fn excludes(&self) -> bool {
        matches!(self.scope, Unique::WhileRunning | Unique::UntilStartedAndWhileRunning)
    }

    /// A run that may not begin is dropped.
    pub fn dropping(mut self) -> Row {
        self.rule.on_running = OnRunning::Drop;
        self
    }

    /// The newest of a key runs.
    pub fn replacing(mut self) -> Row {
        self.rule.on_duplicate = OnDuplicate::Replace;
        self
    }

    /// Whether the newest of a key runs.
    pub fn replaces(&self) -> bool {
        self.rule.on_duplicate == OnDuplicate::Replace
    }

    /// Members of a canvas that are duplicates wait for their holders.
    pub fn carrying_members(mut self) -> Row {
        self.rule.canvas = Canvas::Dedupe;
        self
    }

    /// All that are duplicates wait for their holders.
    pub fn carrying_results(mut self) -> Row {
        self.rule.result_by = ResultBy::Worker;
        self.owing(ResultMode::Join)
    }

    /// Whether members of a canvas, and whether all that are duplicates, wait for their holders.
    pub fn carries(&self) -> (bool, bool) {
        (self.rule.canvas == Canvas::Dedupe, self.rule.result_by == ResultBy::Worker)
    }

    /// Its dropped ids get this.
    pub fn owing(mut self, result: ResultMode) -> Row {
        self.rule.result = result;
        self
    }
}

/// What goes wrong, again and again, while the producers publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A proxy is killed: its connections break, and what it had to tell the store is lost. Another takes its place.
    ProxyKilled,
    /// A worker is killed with its pool. It is started anew, under the same name, some time later or never.
    WorkerKilled,
    /// A worker loses its connection, runs on, and connects again.
    WorkerDetached,
    /// A worker ends what it runs and gives the rest back.
    WorkerLeaves,
    /// The broker drops the connection of a proxy.
    BrokerDrops,
    /// A producer goes without a word.
    ProducerGone,
    /// Nobody reaches the store for some seconds.
    StoreAway,
    /// The store is started anew and holds nothing.
    StoreEmptied,
    /// A task is revoked, with or without its run.
    Revoke,
    /// A queue is purged.
    Purge,
}

impl Fault {
    pub const ALL: [Fault; 9] = [
        Fault::ProxyKilled,
        Fault::WorkerKilled,
        Fault::WorkerDetached,
        Fault::WorkerLeaves,
        Fault::BrokerDrops,
        Fault::ProducerGone,
        Fault::StoreAway,
        Fault::Revoke,
        Fault::Purge,
    ];
}

/// Who can read the result backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// The proxies, too.
    Anybody,
    /// Only workers.
    Workers,
}

/// What becomes of messages that a proxy publishes anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parking {
    /// The proxies have no account of their own to do so.
    Never,
    /// They come to the broker, which says so.
    Works,
    /// They come to the broker, or do not, and the proxy hears of it, or does not.
    Fails,
}

/// What one run is made of.
pub struct Plan {
    /// For how long producers publish and faults occur, in milliseconds.
    pub active_ms: u64,
    pub proxies: usize,
    pub producers: usize,
    pub workers: usize,
    /// Keys of each rule.
    pub keys: usize,
    pub rows: Vec<Row>,
    /// How many deliveries a connection may hold, and after how long the broker wants one settled, in milliseconds.
    pub held_max: usize,
    pub consumer_timeout_ms: u64,
    pub faults: Vec<Fault>,
    /// The mean time between two faults, in milliseconds.
    pub fault_every_ms: u64,
    /// How many of the workers' events are never heard.
    pub lost_percent: u64,
    /// How many are heard twice.
    pub doubled_percent: u64,
    pub expires_percent: u64,
    /// How many questions the store leaves unanswered.
    pub silent_percent: u64,
    pub backend: Backend,
    pub parking: Parking,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            active_ms: 60_000,
            proxies: 2,
            producers: 3,
            workers: 2,
            keys: 2,
            rows: Vec::new(),
            held_max: 10_000,
            consumer_timeout_ms: 1_800_000,
            faults: Vec::new(),
            fault_every_ms: 6_000,
            lost_percent: 20,
            doubled_percent: 20,
            expires_percent: 0,
            silent_percent: 0,
            backend: Backend::Anybody,
            parking: Parking::Never,
        }
    }
}

/// The task of this number, with a rule of this scope. Its settle grace is longer than frames and questions of this simulation take, as it
/// is to be.
pub fn row(number: usize, scope: Unique, acks: Acks) -> Row {
    let task = format!("t.r{number}");
    Row {
        rule: RuleSpec {
            name: Some(format!("r{number}")),
            task: vec![task.clone()],
            unique: Some(scope),
            acks_late: if acks == Acks::Late { AcksLate::True } else { AcksLate::False },
            ttl: Duration::from_secs(120),
            running_ttl: Duration::from_secs(120),
            settle_grace: Duration::from_secs(5),
            orphan_grace: Duration::from_secs(10),
            result: ResultMode::None,
            ..RuleSpec::default()
        },
        scope,
        acks,
        task,
        queue: if number.is_multiple_of(2) { "even" } else { "odd" },
    }
}
