//! Celery's Redis result backend, as its own client writes it: a key with a life, and the same octets published under the key's name
//! (celery, `backends/redis.py`).

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisResult, Script};

use super::BackendSettings;
use crate::celery::Limits;
use crate::celery::result::{self, Given, Status, quoted};

/// How long the backend may take to accept a connection, and to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// At most so many octets of results are written at once: the backend answers nobody else meanwhile.
const AT_ONCE: usize = 4 << 20;
/// At most so many ids get their results at once.
pub(super) const IDS_AT_ONCE: usize = 500;

/// Sets what is not there, and wakes whoever waits for it. One step: what is set is told, also to those that ask in between.
const WRITE: &str = "
local written = 0
for i, key in ipairs(KEYS) do
  local text = ARGV[2] .. ARGV[i + 3] .. ARGV[3]
  if redis.call('SET', key, text, 'PX', ARGV[1], 'NX') then
    redis.call('PUBLISH', key, text)
    written = written + 1
  end
end
return written
";

/// What the worker of a task has written.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) status: Status,
    /// The whole, if it is JSON.
    pub(super) json: Option<Vec<u8>>,
}

/// A result backend that is connected when it is needed.
pub(super) struct Backend {
    settings: BackendSettings,
    /// What the name of each key begins with.
    prefix: String,
    write: Script,
    connection: Option<MultiplexedConnection>,
}

impl Backend {
    pub(super) fn new(settings: BackendSettings) -> Backend {
        Backend {
            prefix: result::key_prefix(&settings.key_prefix),
            settings,
            write: Script::new(WRITE),
            connection: None,
        }
    }

    /// The one that is wanted from now on, if any.
    pub(super) fn becomes(backend: &mut Option<Backend>, wanted: Option<BackendSettings>) {
        if backend.as_ref().map(|backend| &backend.settings) != wanted.as_ref() {
            *backend = wanted.map(Backend::new);
        }
    }

    async fn connection(&mut self) -> RedisResult<MultiplexedConnection> {
        if let Some(connection) = &self.connection {
            return Ok(connection.clone());
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(TIMEOUT))
            .set_response_timeout(Some(TIMEOUT));
        let client = redis::Client::open(self.settings.url.url.expose())?;
        let connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        Ok(self.connection.insert(connection).clone())
    }

    /// Gives these ids this result, except those that have one. How many got it.
    pub(super) async fn write(&mut self, given: &Given, ids: &[impl AsRef<str>]) -> RedisResult<u64> {
        let at_once = (AT_ONCE / given.size().max(1)).clamp(1, IDS_AT_ONCE);
        let mut written = 0;
        for ids in ids.chunks(at_once) {
            let mut connection = self.connection().await?;
            let mut call = self.write.prepare_invoke();
            let life_ms = (self.settings.expires.as_millis() as u64).max(1);
            call.arg(life_ms).arg(&given.head).arg(&given.tail);
            for id in ids {
                call.key(self.key(id.as_ref())).arg(quoted(id.as_ref()));
            }
            let done: RedisResult<u64> = call.invoke_async(&mut connection).await;
            if done.is_err() {
                // What it answers next may belong to this question.
                self.connection = None;
            }
            written += done?;
        }
        Ok(written)
    }

    /// How large the records of these tasks are, in octets; 0 for one that has none.
    pub(super) async fn sizes(&mut self, ids: &[Arc<str>]) -> RedisResult<Vec<usize>> {
        let mut sizes = Vec::with_capacity(ids.len());
        if ids.is_empty() {
            return Ok(sizes);
        }
        let mut pipeline = redis::pipe();
        for id in ids {
            pipeline.cmd("STRLEN").arg(self.key(id));
        }
        let mut connection = self.connection().await?;
        let told: RedisResult<Vec<RedisResult<usize>>> = pipeline.ignore_errors().query_async(&mut connection).await;
        if told.is_err() {
            self.connection = None;
        }
        // A key of another type is somebody else's.
        sizes.extend(told?.into_iter().map(Result::unwrap_or_default));
        Ok(sizes)
    }

    /// The record of a task, which has this size. `None` if it has none, or one that cannot be read.
    pub(super) async fn read(&mut self, id: &str, size: usize) -> RedisResult<Option<Record>> {
        if size == 0 || size > self.settings.max_message {
            return Ok(None);
        }
        let mut connection = self.connection().await?;
        let read: RedisResult<Option<Vec<u8>>> = redis::cmd("GET").arg(self.key(id)).query_async(&mut connection).await;
        if read.is_err() {
            self.connection = None;
        }
        let Some(stored) = read? else { return Ok(None) };
        let limits = Limits::new(self.settings.max_message);
        let record = result::read_stored(id, &stored, limits).ok().flatten();
        Ok(record.filter(|record| *record.id == *id).map(|record| Record {
            status: record.status,
            json: record.json.map(Cow::into_owned),
        }))
    }

    fn key(&self, id: &str) -> String {
        format!("{}{id}", self.prefix)
    }
}
