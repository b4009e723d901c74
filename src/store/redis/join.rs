//! The work for ids that wait for the result of a holder, in Redis; see [`crate::store::join`].

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, Script};
use tokio::sync::MutexGuard;

use super::{Handle, Unavailable, unavailable};
use crate::rules::lock::Digest;
use crate::rules::owed::{Owed, ReplyTo, Via};
use crate::store::join::{Awaits, Due, Group, Joined, Kept, Stage, Taken};

/// The connection for this work: it is done every few hundred milliseconds, and delays no publish.
#[derive(Default)]
pub(super) struct Connection {
    open: tokio::sync::Mutex<Option<MultiplexedConnection>>,
}

fn script() -> &'static Script {
    static SCRIPT: OnceLock<Script> = OnceLock::new();
    SCRIPT.get_or_init(|| Script::new(include_str!("../scripts/joining.lua")))
}

fn letter(awaits: Awaits) -> &'static str {
    match awaits {
        Awaits::Result => "=",
        Awaits::Nothing => "+",
        Awaits::Success => "!",
        Awaits::Overdue => "~",
    }
}

/// How the script is told that an id waits, and where its result is published, which may be up to what is known of the caller; `None` if it
/// does not wait.
pub(super) fn waits(owed: &Owed) -> Option<String> {
    Some(format!("j{}", reply(owed.joins()?)))
}

/// Where a result is published, as it is kept; empty if it is written. A question mark before it: if a caller is known there.
pub(super) fn reply(via: &Via) -> String {
    let Some(to) = via.reply_to() else {
        return String::new();
    };
    let mut parts = vec![&*to.vhost, &*to.queue];
    parts.extend(to.correlation_id.as_deref());
    let known = if matches!(via, Via::ReplyToCaller(_)) { "?" } else { "" };
    format!("{known}{}", serde_json::Value::from(parts))
}

/// One that waits, as it is kept.
fn entry_of(joined: &Joined) -> String {
    match &joined.reply_to {
        None => joined.rule.to_string(),
        Some(to) => format!("{}\n{}", joined.rule, reply(&Via::Reply(Arc::clone(to)))),
    }
}

/// One that waits. JSON has no line feed, and a rule's name may have.
fn joined(id: &str, entry: &str) -> Joined {
    let published = entry.rsplit_once('\n').and_then(|(rule, reply)| Some((rule, read_reply(reply)?)));
    let (rule, reply_to) = published.map_or((entry, None), |(rule, to)| (rule, Some(Arc::new(to))));
    Joined {
        id: id.into(),
        rule: rule.into(),
        reply_to,
    }
}

fn read_reply(reply: &str) -> Option<ReplyTo> {
    let mut parts = serde_json::from_str::<Vec<String>>(reply).ok()?.into_iter().map(Arc::from);
    Some(ReplyTo {
        vhost: parts.next()?,
        queue: parts.next()?,
        correlation_id: parts.next(),
    })
}

impl Handle {
    /// A connection for one question, which is put back once it was answered: one whose answer did not come is not used again.
    async fn joining_connection(&self) -> Result<(MutexGuard<'_, Option<MultiplexedConnection>>, MultiplexedConnection), Unavailable> {
        let mut open = self.redis.joining.open.lock().await;
        let connection = match open.take() {
            Some(connection) => connection,
            None => self.redis.connect().await.map_err(|error| unavailable(&error))?,
        };
        Ok((open, connection))
    }

    async fn joining<T: FromRedisValue>(&self, question: &str, group: Option<&Group>, ids: &[impl AsRef<str>]) -> Result<T, Unavailable> {
        let (mut open, mut connection) = self.joining_connection().await?;
        let mut call = script().prepare_invoke();
        call.arg(&self.redis.names.prefix).arg(question);
        if let Some(Group { digest, holder, awaits }) = group {
            call.arg(letter(*awaits)).arg(digest.to_hex()).arg(&**holder);
        }
        for id in ids {
            call.arg(id.as_ref());
        }
        let answer = call.invoke_async(&mut connection).await.map_err(|error| unavailable(&error))?;
        *open = Some(connection);
        Ok(answer)
    }

    pub(in crate::store) async fn kept_result(&self, holder: &str) -> Result<Option<Arc<[u8]>>, Unavailable> {
        let (mut open, mut connection) = self.joining_connection().await?;
        let key = format!("{}:result:{holder}", self.redis.names.prefix);
        let asked = redis::cmd("GET").arg(key).query_async(&mut connection).await;
        let kept: Option<Vec<u8>> = asked.map_err(|error| unavailable(&error))?;
        *open = Some(connection);
        Ok(kept.map(Arc::from))
    }

    pub(in crate::store) async fn are_callers(&self, queues: &[&ReplyTo]) -> Result<Vec<bool>, Unavailable> {
        if queues.is_empty() {
            return Ok(Vec::new());
        }
        let (mut open, mut connection) = self.joining_connection().await?;
        let mut pipeline = redis::pipe();
        pipeline.cmd("TIME");
        for to in queues {
            let queue = format!("{}\n{}", to.vhost, to.queue);
            pipeline.cmd("ZSCORE").arg(self.redis.names.callers()).arg(queue);
        }
        let asked = pipeline.query_async(&mut connection).await;
        let told: Vec<redis::Value> = asked.map_err(|error| unavailable(&error))?;
        *open = Some(connection);
        let mut told = told.into_iter();
        let time = told.next().and_then(|time| <(u64, u64)>::from_redis_value(time).ok());
        let now_ms = time.map_or(0, |(seconds, microseconds)| seconds * 1000 + microseconds / 1000);
        let known = |score| Option::<f64>::from_redis_value(score).ok().flatten();
        Ok(told.map(|score| known(score).is_some_and(|until| until as u64 > now_ms)).collect())
    }

    pub(in crate::store) async fn joins_due(&self) -> Result<Vec<Due>, Unavailable> {
        let told: Vec<(String, String, String, String, u64, u64)> = self.joining("due", None, &[""; 0]).await?;
        let groups = told.into_iter().filter_map(|(kind, digest, holder, far, ended_ms, kept)| {
            let group = Group {
                digest: Digest::from_hex(&digest)?,
                holder: holder.into(),
                awaits: match kind.as_str() {
                    "+" => Awaits::Nothing,
                    "!" => Awaits::Success,
                    "~" => Awaits::Overdue,
                    _ => Awaits::Result,
                },
            };
            let stage = match far.as_str() {
                "h" => Stage::Holds,
                "x" => Stage::Keeps,
                "s" => Stage::Runs,
                _ => Stage::Ended {
                    since: Duration::from_millis(ended_ms),
                },
            };
            let kept = if kept == 0 { Kept::No } else { Kept::Yes };
            Some(Due { group, stage, kept })
        });
        Ok(groups.collect())
    }

    pub(in crate::store) async fn joined(&self, group: &Group) -> Result<Vec<Joined>, Unavailable> {
        let told: Vec<String> = self.joining("ids", Some(group), &[""; 0]).await?;
        let pairs = told.chunks_exact(2).filter_map(|pair| match pair {
            [id, entry] => Some(joined(id, entry)),
            _ => None,
        });
        Ok(pairs.collect())
    }

    pub(in crate::store) async fn owe(&self, group: &Group, ids: &[Joined]) -> Result<Taken, Unavailable> {
        let pairs = ids.iter().flat_map(|joined| [joined.id.to_string(), entry_of(joined)]);
        let taken: u8 = self.joining("owe", Some(group), &pairs.collect::<Vec<_>>()).await?;
        Ok(if taken == 1 { Taken::Yes } else { Taken::No })
    }

    pub(in crate::store) async fn joins_done(&self, group: &Group, ids: &[Arc<str>]) -> Result<(), Unavailable> {
        let _: redis::Value = self.joining("done", Some(group), ids).await?;
        Ok(())
    }
}
