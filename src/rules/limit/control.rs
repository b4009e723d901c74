//! What operators set of limits, above the configuration, for all proxies of a store at once.
//!
//! A limit can be paused, and its rate can be another, each until an end of its own or until it is taken back. One value of the limit's
//! key can be set apart from the others, in all virtual hosts: what is set for it goes before what is set for the whole limit.

use std::sync::Arc;

use super::{Bucket, Limit, Rate};
use crate::celery::value::Value;
use crate::rules::Key;
use crate::rules::digest::{Domain, digest};
use crate::rules::lock::Digest;

/// So much may be set for the limits of one rule.
pub const SET_MAX: usize = 2_000;

/// A limit, or one value of its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The name of the limit.
    pub limit: Arc<str>,
    /// One value of its key; `None`: the whole limit.
    pub key: Option<KeyValue>,
}

/// One value of the key of a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// Names it, see [`key_digest`].
    pub digest: Digest,
    /// As an operator has written it, in JSON.
    pub shown: Arc<str>,
}

/// What can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// It lets nothing go. `false` only for one value of the key of a limit that is paused.
    Paused(bool),
    /// How often it lets one go.
    Rate {
        /// So often at most in any window.
        times: u64,
        /// The length of the window, in milliseconds.
        per_ms: u64,
    },
}

/// One thing that is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Of what.
    pub target: Target,
    /// What.
    pub what: What,
    /// The name of the operator's token.
    pub by: Arc<str>,
    /// Since when, in milliseconds since 1970 on the store's clock.
    pub since_ms: u64,
    /// Until when, on the same clock; `None`: until it is taken back.
    pub until_ms: Option<u64>,
}

/// What holds for a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InForce {
    /// How often it lets one go.
    pub rate: Option<Rate>,
    /// So many hand-overs are remembered, for this long in milliseconds: what was set is followed by the configuration again, whose windows
    /// are kept all along.
    pub kept: (u64, u64),
    /// Until when it is paused; the maximum for a pause without an end.
    pub paused_until_ms: Option<u64>,
}

impl Setting {
    /// Whether it holds at this time of the store's clock.
    pub fn holds(&self, now_ms: u64) -> bool {
        self.until_ms.is_none_or(|until| until > now_ms)
    }

    /// Whether it is of this limit, as a whole or in one value of its key.
    pub fn is_of(&self, limit: &str) -> bool {
        *self.target.limit == *limit
    }

    /// Whether it lets one value of the key of a paused limit go.
    pub fn is_exception(&self) -> bool {
        self.target.key.is_some() && self.what == What::Paused(false)
    }
}

/// Names one value of the key of a limit in all virtual hosts.
pub fn key_digest<'a>(rule: &str, limit: &str, parts: impl ExactSizeIterator<Item = &'a Value>) -> Digest {
    // No bucket is shadow, so this is the name of none.
    digest(Domain::Limit, true, "", &format!("{rule}/{limit}"), parts)
}

/// A rate that was set is as even as the one of the configuration: its burst is no larger, unless that one has no burst of its own.
pub fn rate_set(times: u64, per_ms: u64, configured: Option<Rate>) -> Rate {
    let burst = configured
        .filter(|rate| rate.burst < rate.times)
        .map_or(times, |rate| rate.burst.min(times));
    Rate { times, per_ms, burst }
}

/// What holds for a bucket at this time, by what is set for the limits of its rule.
pub fn in_force(settings: &[Setting], bucket: &Bucket, now_ms: u64) -> InForce {
    let of_limit = || settings.iter().filter(|set| set.is_of(&bucket.limit) && set.holds(now_ms));
    let find = |wanted: fn(&What) -> bool| {
        let of_key = of_limit().find(|set| {
            let key = set.target.key.as_ref();
            wanted(&set.what) && key.is_some() && key.map(|key| key.digest) == bucket.key
        });
        of_key.or_else(|| of_limit().find(|set| wanted(&set.what) && set.target.key.is_none()))
    };
    let paused = find(|what| matches!(what, What::Paused(_)));
    let rate = find(|what| matches!(what, What::Rate { .. })).and_then(|set| match set.what {
        What::Rate { times, per_ms } => Some(rate_set(times, per_ms, bucket.rate)),
        What::Paused(_) => None,
    });
    let (one, other) = (bucket.rate, rate.or(bucket.rate));
    let most = |of: fn(Rate) -> u64| one.map_or(0, of).max(other.map_or(0, of));
    InForce {
        rate: other,
        kept: (most(|rate| rate.times), most(|rate| rate.per_ms)),
        paused_until_ms: paused
            .filter(|set| set.what == What::Paused(true))
            .map(|set| set.until_ms.unwrap_or(u64::MAX)),
    }
}

/// Why a value is none of a limit's key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoSuchKey {
    /// The limit has one bucket.
    #[error("the limit has no key: it is one for all")]
    NoKey,
    /// The value has another number of parts.
    #[error("the key has {0} parts: write a JSON list of them")]
    Parts(usize),
    /// A template makes text.
    #[error("the key is a text: write a JSON string")]
    Text,
}

impl Limit {
    /// What its key is made of, as it is written in the configuration; nothing if it has none.
    pub fn key_texts(&self) -> Vec<&str> {
        match &self.key {
            Key::List(expressions) => expressions.iter().map(crate::rules::expr::Expr::text).collect(),
            Key::Template(_) => vec!["a template"],
            Key::All => vec!["args", "kwargs"],
        }
    }

    /// The parts of this value of its key: a list of all parts, or the part if there is one.
    pub fn key_parts(&self, value: Value) -> Result<Vec<Value>, NoSuchKey> {
        let count = self.key_texts().len();
        let parts = match value {
            _ if count == 0 => return Err(NoSuchKey::NoKey),
            Value::List(parts) if parts.len() == count => parts,
            Value::List(_) => return Err(NoSuchKey::Parts(count)),
            part if count == 1 => vec![part],
            _ => return Err(NoSuchKey::Parts(count)),
        };
        if matches!(self.key, Key::Template(_)) && !matches!(parts.as_slice(), [Value::Str(_)]) {
            return Err(NoSuchKey::Text);
        }
        Ok(parts)
    }

    /// Names the value of its key with these parts in all virtual hosts.
    pub fn key_digest(&self, rule: &str, parts: &[Value]) -> Digest {
        key_digest(rule, &self.name, parts.iter())
    }

    /// Names the bucket of these parts of its key in a virtual host.
    pub fn bucket_of(&self, rule: &str, vhost: &str, parts: &[Value]) -> Digest {
        self.bucket_digest(rule, vhost, parts.iter())
    }
}
