//! The work for ids that wait for the result of a holder, in Redis; see [`crate::store::join`].

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, Script};

use super::{Handle, Unavailable, unavailable};
use crate::rules::lock::Digest;
use crate::store::join::{Awaits, Group, Joined, Stage};

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
    }
}

impl Handle {
    async fn joining<T: FromRedisValue>(&self, question: &str, group: Option<&Group>, ids: &[Arc<str>]) -> Result<T, Unavailable> {
        let mut open = self.redis.joining.open.lock().await;
        let mut connection = match open.take() {
            Some(connection) => connection,
            None => self.redis.connect().await.map_err(|error| unavailable(&error))?,
        };
        let mut call = script().prepare_invoke();
        call.arg(&self.redis.names.prefix).arg(question);
        if let Some(Group { digest, holder, awaits }) = group {
            call.arg(letter(*awaits)).arg(digest.to_hex()).arg(&**holder);
        }
        for id in ids {
            call.arg(&**id);
        }
        let answer = call.invoke_async(&mut connection).await.map_err(|error| unavailable(&error))?;
        // One whose answer did not come is not used again.
        *open = Some(connection);
        Ok(answer)
    }

    pub(in crate::store) async fn joins_due(&self) -> Result<Vec<(Group, Stage)>, Unavailable> {
        let told: Vec<(String, String, String, String, u64)> = self.joining("due", None, &[]).await?;
        let groups = told.into_iter().filter_map(|(kind, digest, holder, far, ended_ms)| {
            let group = Group {
                digest: Digest::from_hex(&digest)?,
                holder: holder.into(),
                awaits: if kind == "+" { Awaits::Nothing } else { Awaits::Result },
            };
            let stage = match far.as_str() {
                "h" => Stage::Holds,
                "x" => Stage::Keeps,
                "s" => Stage::Runs,
                _ => Stage::Ended {
                    since: Duration::from_millis(ended_ms),
                },
            };
            Some((group, stage))
        });
        Ok(groups.collect())
    }

    pub(in crate::store) async fn joined(&self, group: &Group) -> Result<Vec<Joined>, Unavailable> {
        let told: Vec<String> = self.joining("ids", Some(group), &[]).await?;
        let pairs = told.chunks_exact(2).filter_map(|pair| match pair {
            [id, rule] => Some(Joined {
                id: id.as_str().into(),
                rule: rule.as_str().into(),
            }),
            _ => None,
        });
        Ok(pairs.collect())
    }

    pub(in crate::store) async fn joins_done(&self, group: &Group, ids: &[Arc<str>]) -> Result<(), Unavailable> {
        let _: redis::Value = self.joining("done", Some(group), ids).await?;
        Ok(())
    }
}
