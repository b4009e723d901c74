//! Duplicates that are not dropped but wait for the end of their holder: members of a canvas, and those whose results only a worker can store.
//!
//! Each comes to a worker as a task that returns what its holder's run has returned, or as one whose time has passed if the holder has failed, or
//! its result cannot be had, or as itself if it has the lock now. What a run returns names the run, so that it is known whose it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use oncegate::amqp::encode::{self, Content};
use oncegate::amqp::method::basic::Publish;
use oncegate::celery::Limits;
use oncegate::celery::result::{Status, read_stored, value_of};
use oncegate::rules::lock::{Acquired, Admitted, Fate, Freed, LockRecord, ReleaseReason, Reply, Request, Signal};
use oncegate::session::{Fetch, Fetched, Ticket, Value as Told, name_of_token};

use crate::broker::header_of;
use crate::facts::Facts;
use crate::link::Owner;
use crate::plan::{Acks, Backend, Row, row};
use crate::replace::body_of;
use crate::results::Stored;
use crate::wire::Unit;
use crate::world::World;

use oncegate::rules::spec::{ResultMode, Unique};

#[path = "judge_carried.rs"]
mod judge_carried;

/// What a run returns: whose run it is, and which.
pub type Value = (usize, u32);

/// The name of the task that returns what it is given.
const RETURNS: &str = "celery.accumulate";
/// That of the one that reads a result.
const READS: &str = "celery.chord_unlock";

/// A result that has been written for so long has been found by all that wait for it, in milliseconds: where a proxy reads it, and where it has a
/// worker read it.
const FOUND_MS: u64 = 3_000;
const READ_MS: u64 = 8_000;

/// What a delivery has a worker do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Brings {
    /// The task that it names.
    Task,
    /// Return this.
    Value(Value),
}

/// A message that has a worker read a result and publish it.
pub struct Reading {
    pub link: usize,
    pub tag: u64,
    holder: usize,
    exchange: String,
    routing_key: String,
    id: String,
}

/// One that waits, or has waited.
#[derive(Default)]
struct Waits {
    /// For whom, as the store has said, and for whom now.
    holders: BTreeSet<usize>,
    now_for: Option<usize>,
    /// How often its message came to the broker from a client, and how often it came back after a worker had it.
    came: u32,
    again: u32,
    /// How often a worker has got it.
    handed: u32,
}

#[derive(Default)]
pub struct Carried {
    /// What runs have returned.
    returned: BTreeSet<Value>,
    /// What stands in the backend, and since when, in milliseconds.
    values: BTreeMap<usize, (Value, u64)>,
    /// What proxies keep of results.
    kept: BTreeMap<Arc<str>, Arc<[u8]>>,
    waits: BTreeMap<usize, Waits>,
    /// Those of which the store has heard that they have failed, or will not run.
    failed: BTreeSet<usize>,
    /// When the store heard that these have begun, in milliseconds; their locks went then.
    begun_ms: BTreeMap<usize, u64>,
    /// Those whose locks have gone by a word of them, and those whose locks have lapsed.
    gone: BTreeSet<usize>,
    lapsed: BTreeSet<usize>,
    /// Those of whose end the store has heard since it was last asked about them.
    ended: BTreeSet<usize>,
}

fn json_of((task, run): Value) -> String {
    format!("[{task}, {run}]")
}

fn value_in(json: &serde_json::Value) -> Value {
    let number = |index: usize| json[index].as_u64().expect("a value of this simulation");
    (number(0) as usize, number(1) as u32)
}

/// Tasks of which some are members of a canvas, or whose results only a worker stores.
pub fn carried() -> Vec<Row> {
    use Acks::{Early, Late};
    let mut rows = vec![
        row(0, Unique::UntilStarted, Early).carrying_members(),
        row(1, Unique::UntilFinished, Late).carrying_members().owing(ResultMode::Join),
        row(2, Unique::UntilFinished, Early).carrying_members(),
        row(3, Unique::UntilStarted, Late).carrying_members(),
        row(4, Unique::UntilStartedAndWhileRunning, Early).carrying_members(),
        row(5, Unique::UntilStartedAndWhileRunning, Late).carrying_results(),
        row(6, Unique::UntilFinished, Late).carrying_results(),
        row(7, Unique::UntilFinished, Early).carrying_results(),
        row(8, Unique::UntilStarted, Early).carrying_results(),
        row(9, Unique::UntilFinished, Late).carrying_members().replacing(),
    ];
    for row in &mut rows {
        row.rule.hold_max = std::time::Duration::from_secs(2);
    }
    rows
}

impl Brings {
    /// What this delivery has its worker do.
    pub fn of(unit: &Unit) -> Brings {
        let header = header_of(unit.content());
        let headers = header.properties.headers.expect("a task has headers");
        let task = headers.first(b"task").and_then(|name| name.as_str().map(str::to_owned));
        if task.as_deref() != Some(RETURNS) {
            return Brings::Task;
        }
        assert!(
            headers.first(b"eta").is_none_or(|eta| eta.as_str().is_none()),
            "it has no time of its own"
        );
        let body: serde_json::Value = serde_json::from_slice(&body_of(unit)).expect("a body");
        assert_eq!((body[0].as_array().map(Vec::len), &body[1]["index"]), (Some(1), &0.into()));
        Brings::Value(value_in(&body[0][0]))
    }
}

impl Reading {
    pub fn of(unit: &Unit, link: usize, tag: u64) -> Option<Reading> {
        let header = header_of(unit.content());
        let name = header.properties.headers?.first(b"task")?.as_str()?.to_owned();
        if name != READS {
            return None;
        }
        let body: serde_json::Value = serde_json::from_slice(&body_of(unit)).expect("a body");
        let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
        let options = &body[0][1]["options"];
        Some(Reading {
            link,
            tag,
            holder: Facts::index(&text(&body[1]["result"][0][0][0])),
            exchange: text(&options["exchange"]),
            routing_key: text(&options["routing_key"]),
            id: text(&options["task_id"]),
        })
    }
}

impl Carried {
    /// The store has lost all that it held.
    pub fn forget(&mut self) {
        self.kept.clear();
        self.gone.clear();
        self.ended.clear();
        for waits in self.waits.values_mut() {
            waits.now_for = None;
        }
    }

    /// What stands in the backend changes.
    pub fn writes(&mut self, task: usize, value: Option<Value>, now_ms: u64) {
        match value {
            Some(value) => drop(self.values.insert(task, (value, now_ms))),
            None => drop(self.values.remove(&task)),
        }
    }
}

impl World {
    /// Whether this task, if it is a duplicate, waits.
    pub fn is_carried(&self, task: usize) -> bool {
        let facts = &self.facts.tasks[task];
        let (members, all) = self.plan.rows[facts.row].carries();
        all || members && facts.member
    }

    pub fn carries_at_all(&self, task: usize) -> bool {
        self.plan.rows[self.facts.tasks[task].row].carries() != (false, false)
    }

    /// Whether it has come to a worker.
    pub fn was_handed(&self, task: usize) -> bool {
        self.carried.waits.get(&task).is_some_and(|waits| waits.handed > 0)
    }

    /// A step of the store may be about one that waits, or for whom somebody waits.
    pub fn carried_step(&mut self, task: usize, request: &Request, reply: &Reply, before: Option<&LockRecord>, after: Option<&LockRecord>) {
        let holder = match reply {
            Reply::Acquire(Acquired::Held { holder, .. })
            | Reply::Admit(_, Admitted::Held { holder, .. } | Admitted::Ended { holder, .. }) => Some(Facts::index(holder)),
            Reply::Released(freed) => {
                use ReleaseReason as R;
                let fails = |reason| matches!(reason, R::Failure | R::Revoked | R::Expired | R::Crash | R::Purged);
                let tells = |reason| fails(reason) || matches!(reason, R::Success | R::Started | R::Ended);
                // Of the running lock of the same key the same may be told. One that goes a while later has less to live.
                let was = |freed: &&Freed| before.is_some_and(|before| before.holder == freed.holder);
                let goes = |before: &LockRecord, after: &LockRecord| before.holder != after.holder || before.expires_ms > after.expires_ms;
                if after.is_none_or(|after| before.is_some_and(|before| goes(before, after))) {
                    let gone = freed.iter().filter(|freed| tells(freed.reason)).filter(was);
                    self.carried.gone.extend(gone.map(|freed| Facts::index(&freed.holder)));
                }
                let failed = freed.iter().filter(|freed| fails(freed.reason));
                self.carried.failed.extend(failed.map(|freed| Facts::index(&freed.holder)));
                let begun = freed.iter().filter(|freed| freed.reason == R::Started);
                let now_ms = self.now.unix_ms;
                self.carried
                    .begun_ms
                    .extend(begun.map(|freed| (Facts::index(&freed.holder), now_ms)));
                None
            }
            _ => None,
        };
        if let Request::Signal { signal, .. } = request
            && matches!(signal, Signal::Failed | Signal::Revoked | Signal::Expired | Signal::Crashed)
        {
            self.carried.failed.insert(task);
        }
        match request {
            Request::Signal {
                signal: Signal::Succeeded | Signal::Failed | Signal::Revoked | Signal::Expired,
                ..
            } => {
                self.carried.ended.insert(task);
            }
            Request::Acquire { .. }
            | Request::Admit { .. }
            | Request::Commit { .. }
            | Request::RenewLease { .. }
            | Request::Renew { .. } => {
                self.carried.ended.remove(&task);
                // It has its lock, whatever was heard before.
                if after.is_some_and(|after| Facts::index(&after.holder) == task) {
                    self.carried.gone.remove(&task);
                    if !matches!(request, Request::Admit { .. }) {
                        self.stops_waiting(task);
                    }
                }
            }
            _ => {}
        }
        if !self.is_carried(task) {
            return;
        }
        self.judge_waits(task, reply);
        if let Some(holder) = holder {
            let (of, by) = (&self.facts.tasks[task], &self.facts.tasks[holder]);
            if (of.row, of.key) != (by.row, by.key) || holder == task {
                self.facts.fail(task, format!("is to wait for t{holder}, which is another's"));
            }
            let waits = self.carried.waits.entry(task).or_default();
            waits.holders.insert(holder);
            waits.now_for = Some(holder);
        }
    }

    /// What the store says of one that waits.
    fn judge_waits(&mut self, task: usize, reply: &Reply) {
        match reply {
            // A lock that has lapsed and was taken anew goes without those that have waited for it.
            Reply::Admit(_, Admitted::Holds | Admitted::Passes) => {
                let waits = self.carried.waits.entry(task).or_default();
                if let Some(holder) = waits.now_for.take()
                    && self.carried.gone.contains(&holder)
                    && !self.carried.lapsed.contains(&holder)
                {
                    self.facts
                        .fail(task, format!("is to run, and waits for t{holder}, of which the store has heard"));
                }
            }
            Reply::Admit(_, Admitted::Ended { holder, fate: Fate::Begun }) if self.carried.ended.contains(&Facts::index(holder)) => {
                self.facts
                    .fail(task, format!("waits for the end of {holder}, of which the store has heard"));
            }
            _ => {}
        }
    }

    /// It waits for nobody any more.
    pub fn stops_waiting(&mut self, task: usize) {
        if let Some(waits) = self.carried.waits.get_mut(&task) {
            waits.now_for = None;
        }
    }

    /// The lock of this one has lapsed, and that was not told before.
    pub fn carried_lapses(&mut self, task: usize) {
        if !self.carried.gone.contains(&task) {
            self.carried.lapsed.insert(task);
        }
    }

    pub fn comes_to_broker(&mut self, task: usize) {
        self.carried.waits.entry(task).or_default().came += 1;
    }

    /// A message of it goes back to its queue.
    pub fn goes_back(&mut self, task: usize) {
        let waits = self.carried.waits.entry(task).or_default();
        waits.again += u32::from(waits.handed > 0);
    }

    fn holders(&self, task: usize) -> impl Iterator<Item = usize> {
        self.carried
            .waits
            .get(&task)
            .into_iter()
            .flat_map(|waits| waits.holders.iter().copied())
    }

    /// A proxy asks for the result of a holder.
    pub fn fetch(&mut self, at: usize) {
        let Some((proxy, (_, ticket, fetch))) = self
            .links
            .get_mut(&at)
            .and_then(|link| Some((link.proxy, link.fetches.pop_front()?)))
        else {
            return;
        };
        let fetched = self.fetched(proxy, &fetch);
        self.facts
            .note(Facts::index(&fetch.holder), format!("its result is read (link {at}): {fetched:?}"));
        let now = self.now;
        if let Some(link) = self.links.get_mut(&at) {
            link.session.handle_fetched(Ticket(ticket), &fetched, now);
        }
        self.collect(at);
    }

    fn fetched(&mut self, proxy: usize, fetch: &Fetch) -> Fetched {
        if self.random.percent(self.plan.silent_percent) {
            return Fetched::Silent;
        }
        let holder = Facts::index(&fetch.holder);
        if self.plan.backend == Backend::Workers {
            let published = self.memory.kept_result(&fetch.holder).and_then(|json| {
                let read = read_stored(&fetch.holder, &json, Limits::new(json.len())).ok().flatten()?;
                (read.status == Status::Success).then(|| value_of(&json).map(Arc::from)).flatten()
            });
            let kept = || self.carried.kept.get(&*name_of_token(&fetch.token)).cloned();
            return match published.or_else(kept) {
                _ if self.is_down(proxy) => Fetched::Silent,
                Some(value) => Fetched::Value(value),
                None => Fetched::Unread,
            };
        }
        if let Some((value, _)) = self.carried.values.get(&holder) {
            return Fetched::Value(json_of(*value).into_bytes().into());
        }
        match self.result_of(holder) {
            Some(Stored::Failure) => Fetched::Failed,
            Some(Stored::Revoked) => Fetched::Revoked,
            Some(Stored::Retry | Stored::Success) | None => Fetched::Nothing,
        }
    }

    /// A proxy is told a value, and keeps it in the store.
    pub fn keeps(&mut self, at: usize, told: Told) {
        let is_down = self.links.get(&at).is_none_or(|link| self.is_down(link.proxy));
        if !is_down {
            self.carried.kept.insert(told.name, told.value);
        }
    }

    /// A worker does what a proxy wants of it.
    pub fn worker_reads_result(&mut self, index: usize, reading: &Reading) {
        let value = self.carried.values.get(&reading.holder).map(|(value, _)| *value);
        self.facts
            .note(reading.holder, format!("its result is read by worker {index}: {value:?}"));
        if let Some(value) = value {
            let body = format!("[[[{}]], {{}}, {{}}]", json_of(value));
            let mut headers = Vec::new();
            for (name, text) in [("lang", "py"), ("task", RETURNS), ("id", &reading.id)] {
                let text = oncegate::amqp::table::FieldValue::LongStr(text.as_bytes());
                oncegate::amqp::table::put_entry(&mut headers, name.as_bytes(), &text).expect("short names");
            }
            let publish = Publish {
                exchange: reading.exchange.as_bytes(),
                routing_key: reading.routing_key.as_bytes(),
                mandatory: false,
                immediate: false,
                bits_offset: 0,
            };
            let content = Content {
                properties: oncegate::amqp::content::Properties {
                    content_type: Some(b"application/json"),
                    content_encoding: Some(b"utf-8"),
                    headers: Some(oncegate::amqp::table::Table::new(&headers)),
                    correlation_id: Some(reading.id.as_bytes()),
                    ..Default::default()
                },
                body: body.as_bytes(),
            };
            let mut bytes = Vec::new();
            encode::basic_publish(&mut bytes, 1, &publish, &content, 4096).expect("it fits");
            let at = self.pool_of(index);
            self.write(at, &bytes);
        }
        self.ack_reading(reading);
    }

    /// The connection on which the pool of a worker publishes.
    pub fn pool_of(&mut self, index: usize) -> usize {
        let at = match self.workers[index].pool {
            Some(at) => at,
            None => self.connect_to_publish(Owner::Pool(index), false),
        };
        self.workers[index].pool = Some(at);
        at
    }

    /// A run has returned this.
    pub fn returns(&mut self, value: Value) {
        self.carried.returned.insert(value);
    }
}
