//! What was decided about ids, in Redis: some hashes of texts by id, and beside each the ids in the order in which they go.
//!
//! `PREFIX:decided:{NN}`, `PREFIX:decided:{NN}:order` and `PREFIX:decided:{NN}:count`, written by `scripts/records.lua`. There are several so that none of them is so
//! large that it holds up the server when it goes.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisError, Script};

use super::{Handle, unavailable};
use crate::rules::lock::Digest;
use crate::store::Unavailable;
use crate::store::records::{EACH, Keep, Record, pack};

const SCRIPT: &str = include_str!("../scripts/records.lua");
const SHARDS: u64 = 64;
/// The text of an id, until when it counts in milliseconds since 1970, and what time it is in seconds and microseconds.
type Found = (Option<String>, Option<f64>, (u64, u64));

/// The offset and the prime of FNV-1a with 64 bits.
const FNV: (u64, u64) = (0xcbf2_9ce4_8422_2325, 0x0100_0000_01b3);

/// Proxies of all versions find an id in the same place.
fn shard(id: &str) -> u64 {
    let hash = id.bytes().fold(FNV.0, |hash, octet| (hash ^ u64::from(octet)).wrapping_mul(FNV.1));
    hash % SHARDS
}

impl Handle {
    fn shard_key(&self, shard: u64) -> String {
        self.redis.names.note(&format!("decided:{{{shard:02}}}"))
    }

    /// Over a connection that is kept for this, so that it delays no publish.
    pub(in crate::store) async fn record(&self, records: &[Record], keep: Keep) -> Result<(), Unavailable> {
        let mut kept = self.redis.records.lock().await;
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => self.connect_for_records().await.map_err(|error| unavailable(&error))?,
        };
        match self.write(&mut connection, records, keep).await {
            // The server may have been started anew, or told to forget its scripts.
            Err(error) if !error.is_io_error() && !error.is_timeout() => {
                load(&mut connection).await.map_err(|error| unavailable(&error))?;
                self.write(&mut connection, records, keep).await
            }
            other => other,
        }
        .map_err(|error| unavailable(&error))?;
        *kept = Some(connection);
        Ok(())
    }

    async fn connect_for_records(&self) -> Result<MultiplexedConnection, RedisError> {
        let mut connection = self.redis.connect().await?;
        load(&mut connection).await?;
        Ok(connection)
    }

    async fn write(&self, connection: &mut MultiplexedConnection, records: &[Record], keep: Keep) -> Result<(), RedisError> {
        let mut by_shard: Vec<(u64, &Record)> = records
            .iter()
            .filter(|record| record.is_fit())
            .map(|record| (shard(&record.id), record))
            .collect();
        if by_shard.is_empty() {
            return Ok(());
        }
        // The order within a shard stays.
        by_shard.sort_by_key(|(shard, _)| *shard);
        let life = keep.life.clamp(Duration::from_millis(1), LONGEST).as_millis() as u64;
        let script = Script::new(SCRIPT);
        let mut pipeline = redis::pipe();
        for records in by_shard.chunk_by(|one, other| one.0 == other.0) {
            let Some((shard, _)) = records.first() else { continue };
            let key = self.shard_key(*shard);
            let command = pipeline
                .cmd("EVALSHA")
                .arg(script.get_hash())
                .arg(3)
                .arg(&key)
                .arg(format!("{key}:order"))
                .arg(format!("{key}:count"));
            command.arg(life).arg(keep.most.div_ceil(SHARDS)).arg(EACH);
            for (_, record) in records {
                command.arg(&*record.id).arg(pack::pack(&record.id, &record.line));
            }
            command.ignore();
        }
        pipeline.query_async(connection).await
    }

    pub(in crate::store) async fn recorded(&self, id: &str) -> Result<Vec<String>, Unavailable> {
        let mut connection = self.redis.connect().await.map_err(|error| unavailable(&error))?;
        let key = self.shard_key(shard(id));
        let mut pipeline = redis::pipe();
        pipeline
            .cmd("HGET")
            .arg(&key)
            .arg(id)
            .cmd("ZSCORE")
            .arg(format!("{key}:order"))
            .arg(id)
            .cmd("TIME");
        let found = pipeline.query_async::<Found>(&mut connection).await;
        let (text, until_ms, (seconds, microseconds)) = found.map_err(|error| unavailable(&error))?;
        let now_ms = seconds * 1_000 + microseconds / 1_000;
        let text = text.filter(|_| until_ms.is_some_and(|until_ms| until_ms > now_ms as f64));
        Ok(text.unwrap_or_default().lines().map(|held| pack::unpack(id, held)).collect())
    }

    /// The keys that an id is noted for.
    pub(in crate::store) async fn claimed(&self, id: &str) -> Result<Vec<Digest>, Unavailable> {
        let mut connection = self.redis.connect().await.map_err(|error| unavailable(&error))?;
        let key = self.redis.names.note(&format!("id:{id}"));
        let record: Result<Option<String>, RedisError> = redis::cmd("GET").arg(key).query_async(&mut connection).await;
        let record = record.map_err(|error| unavailable(&error))?.unwrap_or_default();
        // What it runs is marked.
        let digest = |entry: &str| Digest::from_hex(entry.strip_prefix('+').unwrap_or(entry).get(..64)?);
        Ok(record.lines().filter_map(digest).collect())
    }
}

/// Redis takes no later time.
const LONGEST: Duration = Duration::from_secs(400 * 24 * 3_600);

async fn load(connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
    redis::cmd("SCRIPT").arg("LOAD").arg(SCRIPT).query_async(connection).await
}
