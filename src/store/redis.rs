//! The store in Redis: one connection per client, driven by a task of its own.
//!
//! Keys: `PREFIX:lock:{DIGEST}`, `PREFIX:run:{DIGEST}`, `PREFIX:wait:{DIGEST}`, `PREFIX:seen:{DIGEST}`, `PREFIX:done:{DIGEST}:ID`,
//! `PREFIX:aside:{DIGEST}`, `PREFIX:last:{DIGEST}`, `PREFIX:former:{DIGEST}`, `PREFIX:super:{DIGEST}:ID`, `PREFIX:beat:{DIGEST}`,
//! `PREFIX:id:ID`, `PREFIX:ended:ID`, `PREFIX:park:ID`, `PREFIX:node:VHOST:NODE`, `PREFIX:proxy:NAME`, `PREFIX:join:{DIGEST}:ID`,
//! `PREFIX:more:{DIGEST}:ID`, `PREFIX:success:{NO_KEY}:ID`, `PREFIX:overdue:{NO_KEY}:`, `PREFIX:joining`, `PREFIX:awaited:ID`, `PREFIX:callers`, `PREFIX:result:ID`, `PREFIX:decided:{NN}`,
//! `PREFIX:decided:{NN}:order`, `PREFIX:decided:{NN}:count`, and those of limits, which have the rule as their tag (see `scripts/limit.lua`); every one has a ttl. All
//! questions of messages go through one script.

mod driver;
mod join;
mod limits;
mod queue;
mod records;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisError, TlsCertificates, Value};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};

use super::{Circuit, Filter, Health, OpenError, Page, Replies, Settings, Shared, Ticket, Unavailable, Waiter};
use crate::rules::lock::{Digest, LockRecord, Request};
use driver::{Driver, Message};
use wire::Names;

/// How many notes are written or read at once.
const NOTES: usize = 500;

/// What a server says of itself, for `check`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerInfo {
    /// Its version.
    pub version: String,
    /// `master` or `slave`; locks need a master.
    pub role: String,
    /// What it does when its memory is full; anything but `noeviction` may evict locks. Empty if it does not say.
    pub maxmemory_policy: String,
    /// Names the running process of the server.
    pub run_id: String,
}

/// Where a Redis is and how it is spoken to.
pub(super) struct Redis {
    client: redis::Client,
    names: Names,
    timeout: Duration,
    joining: join::Connection,
    limits: limits::Connection,
    /// The connection over which decisions are written down, once there is one.
    records: tokio::sync::Mutex<Option<MultiplexedConnection>>,
    /// The connection over which notes are followed, once there is one.
    notes: tokio::sync::Mutex<Option<MultiplexedConnection>>,
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis")
            .field("names", &self.names)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl Redis {
    pub(super) fn new(settings: &Settings) -> Result<Redis, OpenError> {
        // The library's own words do not repeat the URL, which may hold a password.
        let failed = |error: RedisError| OpenError::Url(error.to_string());
        let certificates = TlsCertificates {
            client_tls: None,
            root_cert: settings.ca.clone(),
        };
        let client = if settings.ca.is_some() && settings.url.starts_with("rediss://") {
            redis::Client::build_with_tls(settings.url.as_str(), certificates)
        } else {
            redis::Client::open(settings.url.as_str())
        };
        let names = Names {
            prefix: settings.prefix.clone(),
            proxy: settings.proxy.clone(),
        };
        Ok(Redis {
            client: client.map_err(failed)?,
            names,
            timeout: settings.timeout,
            joining: join::Connection::default(),
            limits: limits::Connection::default(),
            records: tokio::sync::Mutex::default(),
            notes: tokio::sync::Mutex::default(),
        })
    }

    /// Connects, and refuses a server that cannot hold locks. Also returns the server's `run_id`, empty if it does not say.
    async fn connect_for_locks(&self) -> Result<(MultiplexedConnection, String), Unavailable> {
        let mut connection = self.connect().await.map_err(|error| unavailable(&error))?;
        match server_info(&mut connection).await {
            Ok(info) if info.role == "slave" => Err(Unavailable::Refused("READONLY: the server is a replica".into())),
            Ok(info) => Ok((connection, info.run_id)),
            Err(error) if error.is_io_error() => Err(unavailable(&error)),
            // Not every account may ask, and the locks do not need it.
            Err(_) => Ok((connection, String::new())),
        }
    }

    async fn connect(&self) -> Result<MultiplexedConnection, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some((2 * self.timeout).max(Duration::from_millis(500))))
            .set_response_timeout(Some(self.timeout))
            .set_pipeline_buffer_size(64);
        self.client.get_multiplexed_async_connection_with_config(&config).await
    }

    /// Starts a driver on the present runtime.
    pub(super) fn handle(self: &Arc<Redis>, shared: &Arc<Shared>) -> Handle {
        let (sender, receiver) = unbounded_channel();
        let status = Arc::new(Status::default());
        let driver = Driver::new(self.clone(), shared.clone(), status.clone(), receiver, sender.downgrade());
        tokio::spawn(driver.run());
        Handle {
            sender,
            status,
            redis: self.clone(),
        }
    }
}

/// What a driver lets be seen of itself.
#[derive(Debug, Default)]
struct Status {
    up: AtomicBool,
    circuit: AtomicU8,
    orders: AtomicUsize,
    /// Counts the connections that were made.
    connects: watch::Sender<u64>,
}

impl Status {
    fn set_circuit(&self, circuit: Circuit) {
        self.circuit.store(circuit as u8, Ordering::Relaxed);
    }

    fn health(&self) -> Health {
        let circuit = match self.circuit.load(Ordering::Relaxed) {
            0 => Circuit::Closed,
            1 => Circuit::Open,
            _ => Circuit::HalfOpen,
        };
        Health {
            up: self.up.load(Ordering::Relaxed),
            circuit,
            orders_kept: self.orders.load(Ordering::Relaxed),
        }
    }
}

/// Speaks to a driver.
#[derive(Clone)]
pub(super) struct Handle {
    sender: UnboundedSender<Message>,
    status: Arc<Status>,
    redis: Arc<Redis>,
}

impl Handle {
    pub(super) fn ask(&self, requests: &mut Vec<(Ticket, Request)>, reply_to: &Replies) {
        if requests.is_empty() {
            return;
        }
        let message = Message::Ask(std::mem::take(requests), reply_to.clone());
        if let Err(unsent) = self.sender.send(message)
            && let Message::Ask(requests, reply_to) = unsent.0
        {
            for (ticket, _) in requests {
                let _ = reply_to.send((ticket, Err(Unavailable::Disconnected)));
            }
        }
    }

    /// Gives the waiter back if the driver has ended.
    pub(super) fn ask_again(&self, waiter: Waiter) -> Result<(), Box<Waiter>> {
        match self.sender.send(Message::AskAgain(Box::new(waiter))) {
            Err(tokio::sync::mpsc::error::SendError(Message::AskAgain(waiter))) => Err(waiter),
            _ => Ok(()),
        }
    }

    pub(super) fn tell(&self, requests: Vec<Request>) {
        // The driver ends only with its runtime: nobody could do the orders then.
        let _ = self.sender.send(Message::Tell(requests));
    }

    pub(super) async fn flush(&self) {
        let (sender, done) = oneshot::channel();
        if self.sender.send(Message::Flush(sender)).is_ok() {
            let _ = done.await;
        }
    }

    pub(super) fn health(&self) -> Health {
        self.status.health()
    }

    pub(super) fn connects(&self) -> watch::Receiver<u64> {
        self.status.connects.subscribe()
    }

    /// SCAN over a connection of its own, so that a long answer delays no publish.
    pub(super) async fn list(&self, filter: &Filter, cursor: Option<&str>, limit: usize) -> Result<Page, Unavailable> {
        let mut connection = self.redis.connect().await.map_err(|error| unavailable(&error))?;
        let mut cursor: u64 = cursor.and_then(|cursor| cursor.parse().ok()).unwrap_or(0);
        let mut page = Page::default();
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor)
                .arg("MATCH")
                .arg(self.redis.names.lock_pattern())
                .arg("COUNT")
                .arg(limit.clamp(10, 1_000));
            let (next, keys): (u64, Vec<String>) = scan.query_async(&mut connection).await.map_err(|error| unavailable(&error))?;
            self.read_locks(&mut connection, &keys, filter, &mut page).await?;
            cursor = next;
            if cursor == 0 {
                return Ok(page);
            }
            if page.locks.len() >= limit {
                page.cursor = Some(cursor.to_string());
                return Ok(page);
            }
        }
    }

    /// TIME, as the script reads it too.
    pub(super) async fn now_ms(&self) -> Result<u64, Unavailable> {
        let mut connection = self.redis.connect().await.map_err(|error| unavailable(&error))?;
        let time: Result<(u64, u64), RedisError> = redis::cmd("TIME").query_async(&mut connection).await;
        let (seconds, microseconds) = time.map_err(|error| unavailable(&error))?;
        Ok(seconds * 1000 + microseconds / 1000)
    }

    async fn read_locks(
        &self,
        connection: &mut MultiplexedConnection,
        keys: &[String],
        filter: &Filter,
        page: &mut Page,
    ) -> Result<(), Unavailable> {
        let names = &self.redis.names;
        let locks: Vec<(&String, Digest)> = keys.iter().filter_map(|key| Some((key, names.digest_of(key)?))).collect();
        let mut pipeline = redis::pipe();
        for (key, _) in &locks {
            pipeline.cmd("HMGET").arg(key).arg(&wire::RECORD_FIELDS[..]);
        }
        if locks.is_empty() {
            return Ok(());
        }
        let rows: Vec<Value> = pipeline.query_async(connection).await.map_err(|error| unavailable(&error))?;
        for ((_, digest), row) in locks.into_iter().zip(rows) {
            if let Value::Array(fields) = row {
                let takes = |lock: &LockRecord| filter.takes(&lock.rule, &lock.task, &lock.vhost, &lock.queue);
                page.locks.extend(wire::record(digest, &fields).filter(takes));
            }
        }
        Ok(())
    }

    /// Over a connection of its own, like [`Handle::list`].
    pub(super) async fn announce(&self, notes: &[(String, String)], life: Duration) -> Result<(), Unavailable> {
        let mut connection = self.redis.connect().await.map_err(|error| unavailable(&error))?;
        for notes in notes.chunks(NOTES) {
            let mut pipeline = redis::pipe();
            for (name, value) in notes {
                let life = (life.as_millis() as u64).max(1);
                pipeline
                    .cmd("SET")
                    .arg(self.redis.names.note(name))
                    .arg(value)
                    .arg("PX")
                    .arg(life)
                    .ignore();
            }
            let () = pipeline.query_async(&mut connection).await.map_err(|error| unavailable(&error))?;
        }
        Ok(())
    }

    pub(super) async fn announced(&self, names: &[String]) -> Result<Vec<Option<String>>, Unavailable> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let mut connection = self.redis.connect().await.map_err(|error| unavailable(&error))?;
        self.read_notes(&mut connection, names).await
    }

    /// As [`Handle::announced`], over a connection that is kept. One whose answer did not come is not used again.
    pub(super) async fn followed(&self, names: &[String]) -> Result<Vec<Option<String>>, Unavailable> {
        let mut kept = self.redis.notes.lock().await;
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => self.redis.connect().await.map_err(|error| unavailable(&error))?,
        };
        let values = self.read_notes(&mut connection, names).await?;
        *kept = Some(connection);
        Ok(values)
    }

    async fn read_notes(&self, connection: &mut MultiplexedConnection, names: &[String]) -> Result<Vec<Option<String>>, Unavailable> {
        let mut values = Vec::with_capacity(names.len());
        for names in names.chunks(NOTES) {
            let mut pipeline = redis::pipe();
            for name in names {
                pipeline.cmd("GET").arg(self.redis.names.note(name));
            }
            let found: Vec<Option<String>> = pipeline.query_async(connection).await.map_err(|error| unavailable(&error))?;
            values.extend(found);
        }
        Ok(values)
    }

    pub(super) async fn inspect(&self) -> Result<ServerInfo, Unavailable> {
        let mut connection = self.redis.connect().await.map_err(|error| unavailable(&error))?;
        server_info(&mut connection).await.map_err(|error| unavailable(&error))
    }
}

/// What INFO says, of which managed servers may hide parts.
async fn server_info(connection: &mut MultiplexedConnection) -> Result<ServerInfo, RedisError> {
    let text: String = redis::cmd("INFO").query_async(connection).await?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().trim().to_owned()
    };
    Ok(ServerInfo {
        version: field("redis_version"),
        role: field("role"),
        maxmemory_policy: field("maxmemory_policy"),
        run_id: field("run_id"),
    })
}

fn unavailable(error: &RedisError) -> Unavailable {
    if error.is_timeout() {
        Unavailable::Timeout
    } else if error.is_io_error() {
        Unavailable::Disconnected
    } else {
        Unavailable::Refused(error.to_string().into())
    }
}
