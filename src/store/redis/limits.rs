//! What operators set of limits, in Redis; see [`crate::store::limits`] and `scripts/limits.lua`.

use std::sync::{Arc, OnceLock};

use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, Script};

use super::{Handle, Unavailable, unavailable, wire};
use crate::rules::limit::control::{KeyValue, Setting, Target, What};
use crate::rules::lock::Digest;
use crate::store::limits::{Asked, Bucket, Done, Known, Wanted};

/// What time it is, how many wait, two numbers for each bucket, and the fields and values of what is set.
type Told = (u64, u64, Vec<u64>, Vec<String>);

/// The connection for this, once there is one: it is asked all the time, and delays no publish.
#[derive(Default)]
pub(super) struct Connection(tokio::sync::Mutex<Option<MultiplexedConnection>>);

fn script() -> &'static Script {
    static SCRIPT: OnceLock<Script> = OnceLock::new();
    SCRIPT.get_or_init(|| Script::new(include_str!("../scripts/limits.lua")))
}

fn digest_of(target: &Target) -> String {
    target.key.as_ref().map(|key| key.digest.to_hex()).unwrap_or_default()
}

fn written(wanted: &Wanted) -> [String; 7] {
    let (kind, numbers) = match wanted.what {
        What::Paused(paused) => ("p", u8::from(paused).to_string()),
        What::Rate { times, per_ms } => ("r", format!("{times} {per_ms}")),
    };
    let life = wanted.life.map(|life| wire::span(life.as_millis() as u64).to_string());
    [
        kind.to_owned(),
        wanted.target.limit.to_string(),
        digest_of(&wanted.target),
        life.unwrap_or_default(),
        numbers,
        wanted.by.to_string(),
        wanted.target.key.as_ref().map(|key| key.shown.to_string()).unwrap_or_default(),
    ]
}

fn read(field: &str, value: &str) -> Option<Setting> {
    let mut names = field.splitn(3, ':');
    let (kind, limit, digest) = (names.next()?, names.next()?, names.next());
    let mut lines = value.splitn(3, '\n');
    let (numbers, by, shown) = (lines.next()?, lines.next()?, lines.next()?);
    let numbers: Vec<u64> = numbers.split(' ').map(str::parse).collect::<Result<_, _>>().ok()?;
    let (until_ms, since_ms, what) = match (kind, numbers.as_slice()) {
        ("p", [until_ms, since_ms, paused]) => (*until_ms, *since_ms, What::Paused(*paused == 1)),
        ("r", [until_ms, since_ms, times, per_ms]) => (
            *until_ms,
            *since_ms,
            What::Rate {
                times: *times,
                per_ms: *per_ms,
            },
        ),
        _ => return None,
    };
    let key = match digest {
        Some(digest) => Some(KeyValue {
            digest: Digest::from_hex(digest)?,
            shown: shown.into(),
        }),
        None => None,
    };
    Some(Setting {
        target: Target { limit: limit.into(), key },
        what,
        by: by.into(),
        since_ms,
        until_ms: (until_ms > 0).then_some(until_ms),
    })
}

impl Handle {
    async fn ask_limits<T: FromRedisValue>(&self, rule: &str, question: &str, arguments: &[String]) -> Result<T, Unavailable> {
        let mut kept = self.redis.limits.0.lock().await;
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => self.redis.connect().await.map_err(|error| unavailable(&error))?,
        };
        let mut call = script().prepare_invoke();
        call.arg(&self.redis.names.prefix).arg(rule).arg(question).arg(arguments);
        let answer = call.invoke_async(&mut connection).await.map_err(|error| unavailable(&error))?;
        *kept = Some(connection);
        Ok(answer)
    }

    pub(in crate::store) async fn set_limits(&self, rule: &Arc<str>, wanted: &[Wanted]) -> Result<Done, Unavailable> {
        let arguments: Vec<String> = wanted.iter().flat_map(written).collect();
        let set: u64 = self.ask_limits(rule, "set", &arguments).await?;
        Ok(if set == 1 { Done::Set } else { Done::TooMany })
    }

    pub(in crate::store) async fn reset_limit(&self, rule: &Arc<str>, target: &Target) -> Result<u64, Unavailable> {
        self.ask_limits(rule, "reset", &[target.limit.to_string(), digest_of(target)]).await
    }

    pub(in crate::store) async fn known_limits(&self, rule: &Arc<str>, asked: &[Asked]) -> Result<Known, Unavailable> {
        let arguments = asked.iter().flat_map(|asked| {
            let per = asked.rate.map(|rate| rate.per_ms.to_string());
            [wire::bucket_name(asked.digest), per.unwrap_or_default()]
        });
        let arguments: Vec<String> = arguments.collect();
        let (now_ms, waiting, counts, set): Told = self.ask_limits(rule, "known", &arguments).await?;
        let buckets = counts.chunks_exact(2).filter_map(|pair| match pair {
            [waiting, given] => Some(Bucket {
                waiting: *waiting,
                given: *given,
            }),
            _ => None,
        });
        let set = set.chunks_exact(2).filter_map(|pair| match pair {
            [field, value] => read(field, value),
            _ => None,
        });
        Ok(Known {
            now_ms,
            set: set.collect(),
            waiting,
            buckets: buckets.collect(),
        })
    }
}
