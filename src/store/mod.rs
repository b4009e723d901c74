//! The stores that hold the locks, and the client through which the rest of the program asks them.
//!
//! [`Store`] is one per process, [`Client`] one per runtime thread. The vocabulary is [`crate::rules::lock`]. A memory store answers on
//! the spot; Redis answers later, on the channel that came with the question. Both follow the same rules, which `memory` states in Rust
//! and `scripts/lock.lua` in Lua, and which one suite of tests runs against both.
//!
//! - A question ([`Client::submit`]) is answered within the store's timeout, or [`Unavailable`].
//! - An order ([`Client::tell`]) is kept until the store has done it or it is of no use any more.
//! - An acquire that finds the key leased is asked again by the keeper until the holder's outcome is known.

mod breaker;
pub mod join;
mod keeper;
pub mod limits;
mod memory;
pub mod modes;
pub mod operator;
mod records;
mod redis;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

use crate::rules::lock::{Acquired, Digest, LockRecord, ReleaseReason, Reply, Request};
use crate::rules::owed::ReplyTo;
pub use breaker::Circuit;
use join::{Due, Group, Joined, Taken};
use keeper::{Keeper, Waiter};
pub use memory::{Clock, Memory, SystemClock};
pub use records::{Keep, Record};
pub use redis::ServerInfo;

/// Names a question among those of one asker.
pub type Ticket = u64;

/// What comes back for a question.
pub type Answer = Result<Reply, Unavailable>;

/// Where late answers go.
pub type Replies = UnboundedSender<(Ticket, Answer)>;

/// Why a store gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// No answer came in time. Whether the store has done what it was asked is unknown.
    #[error("the store did not answer in time")]
    Timeout,
    /// The connection was lost before the answer. Whether the store has done what it was asked is unknown.
    #[error("the connection to the store was lost")]
    Disconnected,
    /// The store has failed lately and was not asked.
    #[error("the store has failed lately and is not asked")]
    CircuitOpen,
    /// The store answered with an error of its own, for example that its memory is full.
    #[error("the store refused: {0}")]
    Refused(Arc<str>),
}

/// What kind of request was made: the label `op` of the store's metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// [`Request::Acquire`].
    Acquire,
    /// [`Request::Commit`].
    Commit,
    /// [`Request::RenewLease`].
    RenewLease,
    /// [`Request::Join`].
    Join,
    /// [`Request::Result`].
    Result,
    /// [`Request::Caller`].
    Caller,
    /// [`Request::Unpublish`].
    Unpublish,
    /// [`Request::Signal`] and [`Request::Republished`].
    Signal,
    /// [`Request::Admit`].
    Admit,
    /// [`Request::Renew`].
    Renew,
    /// [`Request::Run`].
    Run,
    /// [`Request::RenewRun`].
    RenewRun,
    /// [`Request::LeaveRun`].
    LeaveRun,
    /// [`Request::BeatLease`].
    BeatLease,
    /// [`Request::Reserve`].
    Reserve,
    /// [`Request::Permit`].
    Permit,
    /// [`Request::LeaveLimit`].
    LeaveLimit,
    /// [`Request::Park`].
    Park,
    /// [`Request::MarkParked`].
    MarkParked,
    /// [`Request::FindParked`].
    FindParked,
    /// [`Request::Cool`].
    Cool,
    /// [`Request::Release`].
    Release,
    /// [`Request::Show`] and [`Request::ShowRun`].
    Show,
}

impl Op {
    /// Every kind, so that metrics can be made for all of them at the start.
    pub const ALL: [Op; 23] = [
        Op::Acquire,
        Op::Commit,
        Op::RenewLease,
        Op::Join,
        Op::Result,
        Op::Caller,
        Op::Unpublish,
        Op::Signal,
        Op::Admit,
        Op::Renew,
        Op::Run,
        Op::RenewRun,
        Op::LeaveRun,
        Op::BeatLease,
        Op::Reserve,
        Op::Permit,
        Op::LeaveLimit,
        Op::Park,
        Op::MarkParked,
        Op::FindParked,
        Op::Cool,
        Op::Release,
        Op::Show,
    ];

    /// The label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Op::Acquire => "acquire",
            Op::Commit => "commit",
            Op::RenewLease => "renew_lease",
            Op::Join => "join",
            Op::Result => "result",
            Op::Caller => "caller",
            Op::Unpublish => "unpublish",
            Op::Signal => "signal",
            Op::Admit => "admit",
            Op::Renew => "renew",
            Op::Run => "run",
            Op::RenewRun => "renew_run",
            Op::LeaveRun => "leave_run",
            Op::BeatLease => "beat_lease",
            Op::Reserve => "reserve",
            Op::Permit => "permit",
            Op::LeaveLimit => "leave_limit",
            Op::Park => "park",
            Op::MarkParked => "mark_parked",
            Op::FindParked => "find_parked",
            Op::Cool => "cool",
            Op::Release => "release",
            Op::Show => "show",
        }
    }

    /// The kind of this request.
    pub fn of(request: &Request) -> Op {
        match request {
            Request::Acquire { .. } => Op::Acquire,
            Request::Commit { .. } => Op::Commit,
            Request::RenewLease { .. } => Op::RenewLease,
            Request::Join { .. } => Op::Join,
            Request::Result { .. } => Op::Result,
            Request::Caller { .. } => Op::Caller,
            Request::Unpublish { .. } => Op::Unpublish,
            Request::Signal { .. } | Request::Republished { .. } => Op::Signal,
            Request::Admit { .. } => Op::Admit,
            Request::Renew { .. } => Op::Renew,
            Request::Run { .. } => Op::Run,
            Request::RenewRun { .. } => Op::RenewRun,
            Request::LeaveRun { .. } => Op::LeaveRun,
            Request::BeatLease { .. } => Op::BeatLease,
            Request::Reserve { .. } => Op::Reserve,
            Request::Permit { .. } => Op::Permit,
            Request::LeaveLimit { .. } => Op::LeaveLimit,
            Request::Park { .. } => Op::Park,
            Request::MarkParked { .. } => Op::MarkParked,
            Request::FindParked { .. } => Op::FindParked,
            Request::Cool { .. } => Op::Cool,
            Request::Release { .. } => Op::Release,
            Request::Show { .. } | Request::ShowRun { .. } => Op::Show,
        }
    }
}

/// Why an order that could not be given was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GivenUp {
    /// Too many orders were waiting; the oldest went.
    TooMany,
    /// What it would have changed has lapsed by now.
    TooLate,
    /// The store refuses it and would again.
    Refused,
}

/// What the rest of the program may learn from a store, for metrics and logs. Called on the store's tasks: it must not block.
pub trait Observer: Send + Sync {
    /// A request to a remote store was answered.
    fn on_request(&self, op: Op, took: Duration) {
        let _ = (op, took);
    }
    /// A request was not answered.
    fn on_error(&self, op: Op, why: &Unavailable) {
        let _ = (op, why);
    }
    /// An order is given. It may have to wait.
    fn on_tell(&self, request: &Request) {
        let _ = request;
    }
    /// An order was done, with this outcome.
    fn on_told(&self, request: &Request, reply: &Reply) {
        let _ = (request, reply);
    }
    /// An order was dropped undone.
    fn on_given_up(&self, request: &Request, why: GivenUp) {
        let _ = (request, why);
    }
    /// The connection to the store came or went.
    fn on_up(&self, up: bool) {
        let _ = up;
    }
    /// The circuit breaker changed.
    fn on_circuit(&self, circuit: Circuit) {
        let _ = circuit;
    }
    /// The store is another process than before, or was restarted: what it held may be gone.
    fn on_new_server(&self, run_id: &str) {
        let _ = run_id;
    }
}

/// An observer that looks away.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl Observer for Unobserved {}

/// Which locks [`Client::list`] shows; all, if empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only those of this rule.
    pub rule: Option<String>,
    /// Only those of this task.
    pub task: Option<String>,
    /// Only those whose holder's message went to one of these queues.
    pub queues: Option<HashSet<QueueName>>,
}

impl Filter {
    /// Whether a lock of this rule, task and queue is among those asked for.
    pub fn takes(&self, rule: &str, task: &str, vhost: &Arc<str>, queue: &Arc<str>) -> bool {
        let name = || QueueName {
            vhost: Arc::clone(vhost),
            queue: Arc::clone(queue),
        };
        self.rule.as_deref().is_none_or(|wanted| wanted == rule)
            && self.task.as_deref().is_none_or(|wanted| wanted == task)
            && self.queues.as_ref().is_none_or(|wanted| wanted.contains(&name()))
    }
}

/// A queue among those of all virtual hosts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct QueueName {
    /// The virtual host.
    pub vhost: Arc<str>,
    /// Its name there.
    pub queue: Arc<str>,
}

/// One page of locks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The locks, in no order.
    pub locks: Vec<LockRecord>,
    /// Where the next page begins; `None` after the last.
    pub cursor: Option<String>,
}

/// How a store is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// Whether the store can be reached.
    pub up: bool,
    /// The circuit breaker.
    pub circuit: Circuit,
    /// How many orders wait to be given.
    pub orders_kept: usize,
}

/// What all clients of one store share.
struct Shared {
    keeper: Keeper,
    observer: Arc<dyn Observer>,
}

/// Which store to use, and how.
#[derive(Clone)]
pub struct Settings {
    /// `memory:`, or `redis://` or `rediss://` with user, password and database as usual.
    pub url: String,
    /// What the name of every key begins with.
    pub prefix: String,
    /// How long an answer is waited for.
    pub timeout: Duration,
    /// The name of this process, as locks show it.
    pub proxy: Arc<str>,
    /// PEM certificates of the authorities that are believed for `rediss://`; the system's, if none.
    pub ca: Option<Vec<u8>>,
}

/// Why a store cannot be used as its settings say.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL is of no known kind.
    #[error("store.url must begin with memory:, redis:// or rediss://")]
    Scheme,
    /// The URL or the certificates cannot be used.
    #[error("store.url cannot be used: {0}")]
    Url(String),
}

/// The store of this process.
#[derive(Clone)]
pub struct Store {
    kind: Kind,
    shared: Arc<Shared>,
}

#[derive(Clone)]
enum Kind {
    Memory(Arc<Memory>),
    Redis(Arc<redis::Redis>),
}

impl Store {
    /// The store that the settings name. Connects to nothing yet.
    pub fn open(settings: &Settings, observer: Arc<dyn Observer>) -> Result<Store, OpenError> {
        if settings.url.starts_with("memory:") {
            let memory = Memory::new(Arc::new(SystemClock::default()), settings.proxy.clone());
            return Ok(Store::memory(Arc::new(memory), observer));
        }
        if !settings.url.starts_with("redis://") && !settings.url.starts_with("rediss://") {
            return Err(OpenError::Scheme);
        }
        Ok(Store::new(Kind::Redis(Arc::new(redis::Redis::new(settings)?)), observer))
    }

    fn new(kind: Kind, observer: Arc<dyn Observer>) -> Store {
        Store {
            kind,
            shared: Arc::new(Shared {
                keeper: Keeper::default(),
                observer,
            }),
        }
    }

    /// A store inside this process.
    pub fn memory(memory: Arc<Memory>, observer: Arc<dyn Observer>) -> Store {
        Store::new(Kind::Memory(memory), observer)
    }

    /// `memory` or `redis`: the label of `oncegate_store_info`.
    pub fn kind(&self) -> &'static str {
        match &self.kind {
            Kind::Memory(_) => "memory",
            Kind::Redis(_) => "redis",
        }
    }

    /// A client of this store, for one runtime thread. A client of Redis has a connection of its own and a task on the present runtime,
    /// outside of which this panics.
    pub fn client(&self) -> Client {
        let backend = match &self.kind {
            Kind::Memory(memory) => Backend::Memory(memory.clone()),
            Kind::Redis(redis) => Backend::Redis(redis.handle(&self.shared)),
        };
        Client {
            backend,
            shared: self.shared.clone(),
        }
    }
}

#[derive(Clone)]
enum Backend {
    Memory(Arc<Memory>),
    Redis(redis::Handle),
}

/// Asks the store. Cheap to clone; requests of one client and its clones are executed in the order of submission.
#[derive(Clone)]
pub struct Client {
    backend: Backend,
    shared: Arc<Shared>,
}

impl Client {
    /// Asks all of `requests`, which is left empty. What can be answered on the spot is pushed to `answers`; every other answer comes
    /// through `reply_to`.
    ///
    /// An acquire that is answered [`Acquired::Leased`] gets a second answer through `reply_to` when the holder's outcome is known,
    /// under the same ticket, unless it is cancelled before ([`Client::cancel`]).
    pub fn submit(&self, requests: &mut Vec<(Ticket, Request)>, answers: &mut Vec<(Ticket, Answer)>, reply_to: &Replies) {
        match &self.backend {
            Backend::Memory(memory) => {
                let first = answers.len();
                memory.execute_all(requests, answers);
                self.follow_up(requests, answers.get(first..).unwrap_or_default(), reply_to);
                requests.clear();
            }
            Backend::Redis(handle) => handle.ask(requests, reply_to),
        }
    }

    /// Gives an order whose outcome the caller does not wait for (commit, unpublish, signal, release, renewal). The store's reply goes
    /// to the observer. An order that fails is kept and given again, in order.
    pub fn tell(&self, request: Request) {
        self.shared.observer.on_tell(&request);
        match &self.backend {
            Backend::Memory(memory) => {
                let reply = memory.execute(&request);
                self.shared.observer.on_told(&request, &reply);
                note_outcome(&self.shared, &request);
            }
            Backend::Redis(handle) => handle.tell(vec![request]),
        }
    }

    /// Gives these orders, in their order, as [`Client::tell`] gives one; `requests` is left empty.
    pub fn tell_all(&self, requests: &mut Vec<Request>) {
        match &self.backend {
            Backend::Memory(_) => requests.drain(..).for_each(|request| self.tell(request)),
            Backend::Redis(_) if requests.is_empty() => {}
            Backend::Redis(handle) => {
                for request in &*requests {
                    self.shared.observer.on_tell(request);
                }
                handle.tell(std::mem::take(requests));
            }
        }
    }

    /// Forgets an acquire that was answered [`Acquired::Leased`]: nothing more comes for it.
    pub fn cancel(&self, ticket: Ticket, reply_to: &Replies) {
        self.shared.keeper.cancel(ticket, reply_to);
    }

    /// Asks one question and waits for its first answer; for operators' questions and tests.
    pub async fn ask(&self, request: Request) -> Answer {
        let (reply_to, mut replies) = tokio::sync::mpsc::unbounded_channel();
        let mut answers = Vec::new();
        self.submit(&mut vec![(0, request)], &mut answers, &reply_to);
        let answer = match answers.pop() {
            Some((_, answer)) => answer,
            None => replies.recv().await.map_or(Err(Unavailable::Disconnected), |(_, answer)| answer),
        };
        self.cancel(0, &reply_to);
        answer
    }

    /// Waits until no order is left to be given. While the store is away this does not end: bound it. Orders that are left when the last
    /// client of a driver is dropped are lost.
    pub async fn flush(&self) {
        match &self.backend {
            Backend::Memory(_) => {}
            Backend::Redis(handle) => handle.flush().await,
        }
    }

    /// What time it is by the clock by which the store dates its locks, in milliseconds since the Unix epoch.
    pub async fn now_ms(&self) -> Result<u64, Unavailable> {
        match &self.backend {
            Backend::Memory(memory) => Ok(memory.now_ms()),
            Backend::Redis(handle) => handle.now_ms().await,
        }
    }

    /// One page of the locks that the store holds, from `cursor` (`None`: from the start), about `limit` at most. Locks that come or go
    /// meanwhile may be missed, and with Redis one may be shown twice.
    pub async fn list(&self, filter: &Filter, cursor: Option<&str>, limit: usize) -> Result<Page, Unavailable> {
        match &self.backend {
            Backend::Memory(memory) => Ok(memory.list(filter, cursor, limit)),
            Backend::Redis(handle) => handle.list(filter, cursor, limit).await,
        }
    }

    /// Writes notes, each a name and a value, which go by themselves after `life` unless they are written anew. Names are kept apart from
    /// those of locks by what they begin with: `node:`, `proxy:`, `value:`.
    pub async fn announce(&self, notes: &[(String, String)], life: Duration) -> Result<(), Unavailable> {
        match &self.backend {
            Backend::Memory(memory) => {
                memory.announce(notes, life);
                Ok(())
            }
            Backend::Redis(handle) => handle.announce(notes, life).await,
        }
    }

    /// The values of the notes of these names, in their order; `None` where there is none.
    pub async fn announced(&self, names: &[String]) -> Result<Vec<Option<String>>, Unavailable> {
        match &self.backend {
            Backend::Memory(memory) => Ok(memory.announced(names)),
            Backend::Redis(handle) => handle.announced(names).await,
        }
    }

    /// Groups of ids that wait for a holder's result and are to be looked at now, at most some hundreds. They are not told again, to
    /// anybody, for half a second or more.
    pub async fn joins_due(&self) -> Result<Vec<Due>, Unavailable> {
        match &self.backend {
            Backend::Memory(memory) => Ok(memory.joins_due()),
            Backend::Redis(handle) => handle.joins_due().await,
        }
    }

    /// Some hundreds of the ids of a group; none when all have what they wait for. The group is left to the asker for some seconds.
    pub async fn joined(&self, group: &Group) -> Result<Vec<Joined>, Unavailable> {
        match &self.backend {
            Backend::Memory(memory) => Ok(memory.joined(group)),
            Backend::Redis(handle) => handle.joined(group).await,
        }
    }

    /// The result of this holder in JSON, if its worker has published one and it is kept.
    pub async fn kept_result(&self, holder: &Arc<str>) -> Result<Option<Arc<[u8]>>, Unavailable> {
        match &self.backend {
            Backend::Memory(memory) => Ok(memory.kept_result(holder)),
            Backend::Redis(handle) => handle.kept_result(holder).await,
        }
    }

    /// These ids, a few hundred, are owed what the group says ([`Group::owed`]): whoever asks for [`Client::joins_due`] is told of it.
    pub async fn owe(&self, group: &Group, ids: &[Joined]) -> Result<Taken, Unavailable> {
        match &self.backend {
            Backend::Memory(_) => Ok(Taken::No),
            Backend::Redis(handle) => handle.owe(group, ids).await,
        }
    }

    /// Which of these queues callers have declared for their results ([`Request::Caller`]), in their order.
    pub async fn are_callers(&self, queues: &[&ReplyTo]) -> Result<Vec<bool>, Unavailable> {
        match &self.backend {
            Backend::Memory(memory) => Ok(memory.are_callers(queues)),
            Backend::Redis(handle) => handle.are_callers(queues).await,
        }
    }

    /// These ids of the group wait no longer.
    pub async fn joins_done(&self, group: &Group, ids: &[Arc<str>]) -> Result<(), Unavailable> {
        match &self.backend {
            Backend::Memory(memory) => {
                memory.joins_done(group, ids);
                Ok(())
            }
            Backend::Redis(handle) => handle.joins_done(group, ids).await,
        }
    }

    /// As [`Client::announced`], over a connection that is kept: for who asks all the time.
    pub async fn followed(&self, names: &[String]) -> Result<Vec<Option<String>>, Unavailable> {
        match &self.backend {
            Backend::Memory(memory) => Ok(memory.announced(names)),
            Backend::Redis(handle) => handle.followed(names).await,
        }
    }

    /// Writes down what was decided about ids. What of it goes, and when, is said by `keep`, each time.
    pub async fn record(&self, records: &[Record], keep: Keep) -> Result<(), Unavailable> {
        match &self.backend {
            Backend::Memory(memory) => {
                memory.record(records, keep);
                Ok(())
            }
            Backend::Redis(handle) => handle.record(records, keep).await,
        }
    }

    /// What is written down of an id: the lines, the oldest first.
    pub async fn recorded(&self, id: &str) -> Result<Vec<String>, Unavailable> {
        match &self.backend {
            Backend::Memory(memory) => Ok(memory.recorded(id)),
            Backend::Redis(handle) => handle.recorded(id).await,
        }
    }

    /// The keys that an id is noted for, in no order: it has their locks, or had, or may have them yet.
    pub async fn claimed(&self, id: &str) -> Result<Vec<Digest>, Unavailable> {
        match &self.backend {
            Backend::Memory(memory) => Ok(memory.claimed(id)),
            Backend::Redis(handle) => handle.claimed(id).await,
        }
    }

    /// How often a connection to the store was made: with each, what is alive must be renewed at once, since the store may be another, or
    /// have forgotten. A memory store never changes it. Renewals that are told while there is no connection are not kept.
    pub fn connects(&self) -> watch::Receiver<u64> {
        match &self.backend {
            Backend::Memory(_) => watch::channel(0).1,
            Backend::Redis(handle) => handle.connects(),
        }
    }

    /// How the store is doing.
    pub fn health(&self) -> Health {
        match &self.backend {
            Backend::Memory(_) => Health {
                up: true,
                circuit: Circuit::Closed,
                orders_kept: 0,
            },
            Backend::Redis(handle) => handle.health(),
        }
    }

    /// What the server says of itself; `None` for the memory store. Uses a connection of its own.
    pub async fn inspect(&self) -> Result<Option<ServerInfo>, Unavailable> {
        match &self.backend {
            Backend::Memory(_) => Ok(None),
            Backend::Redis(handle) => handle.inspect().await.map(Some),
        }
    }

    /// Hands what the store said to the keeper.
    fn follow_up(&self, requests: &[(Ticket, Request)], answers: &[(Ticket, Answer)], reply_to: &Replies) {
        for ((ticket, request), (_, answer)) in requests.iter().zip(answers) {
            if let Ok(Reply::Acquire(Acquired::Leased { .. })) = answer {
                self.keep(*ticket, request, reply_to);
            } else {
                note_outcome(&self.shared, request);
            }
        }
    }

    fn keep(&self, ticket: Ticket, request: &Request, reply_to: &Replies) {
        if let Some(waiter) = Waiter::new(ticket, request, reply_to, self) {
            self.shared.keeper.add(waiter, &self.shared);
        }
    }
}

/// Tells the keeper that the outcome of a publish of this key is known.
fn note_outcome(shared: &Shared, request: &Request) {
    let digest = match request {
        Request::Commit { claim, .. } | Request::Unpublish { claim, .. } => claim.digest,
        Request::Release { digest, .. } => *digest,
        _ => return,
    };
    ask_again(shared, shared.keeper.on_outcome(digest));
}

/// Repeats the acquires of these waiters.
fn ask_again(shared: &Shared, mut waiters: Vec<Waiter>) {
    while let Some(waiter) = waiters.pop() {
        match waiter.client.backend.clone() {
            Backend::Memory(memory) => {
                let answer = Ok(memory.execute(&waiter.request));
                waiters.extend(shared.keeper.on_answer(waiter, answer));
            }
            Backend::Redis(handle) => {
                if let Err(waiter) = handle.ask_again(waiter) {
                    waiters.extend(shared.keeper.on_answer(*waiter, Err(Unavailable::Disconnected)));
                }
            }
        }
    }
}

/// Whether this answer lets a publish go out, and counts it.
fn passes(answer: &Answer) -> bool {
    matches!(
        answer,
        Ok(Reply::Acquire(
            Acquired::Taken | Acquired::Replaces { .. } | Acquired::PutOff { .. } | Acquired::Kept { .. } | Acquired::Reentry { .. }
        ))
    )
}

/// What undoes an acquire whose publish will not go out.
fn give_back(request: &Request) -> Option<Request> {
    match request {
        Request::Acquire { claim, publish, .. } => Some(Request::Unpublish {
            claim: claim.clone(),
            publish: *publish,
            reason: ReleaseReason::Unconfirmed,
        }),
        _ => None,
    }
}

/// The key of an acquire.
fn acquire_digest(request: &Request) -> Option<Digest> {
    match request {
        Request::Acquire { claim, .. } => Some(claim.digest),
        _ => None,
    }
}
