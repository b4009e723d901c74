//! What operators set of limits at run time, and what is known of those that wait for them; the vocabulary is
//! [`crate::rules::limit::control`].
//!
//! What is set holds for every hand-over from the answer on, over all proxies of the store. It lives until its end, or until it is taken
//! back, as long as some proxy with the rule looks at it once in 400 days.

use std::sync::Arc;
use std::time::Duration;

use super::{Backend, Client, Unavailable};
use crate::rules::limit::Rate;
use crate::rules::limit::control::{Setting, Target, What};
use crate::rules::lock::Digest;

/// For how long what has no end is kept, from the last time that somebody has looked at it.
pub const KEPT: Duration = Duration::from_secs(400 * 24 * 3_600);

/// Something that an operator wants to be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Of what.
    pub target: Target,
    /// What.
    pub what: What,
    /// For how long; `None`: until it is taken back.
    pub life: Option<Duration>,
    /// The name of the operator's token.
    pub by: Arc<str>,
}

/// Whether it was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// It was.
    Set,
    /// Nothing was: there is too much for the limits of this rule, see [`SET_MAX`](crate::rules::limit::control::SET_MAX).
    TooMany,
}

/// A bucket that is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// Its digest.
    pub digest: Digest,
    /// Its rate.
    pub rate: Option<Rate>,
}

/// What is known of a bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bucket {
    /// How many wait for it.
    pub waiting: u64,
    /// How many have gone within the window of its rate that ends now.
    pub given: u64,
}

/// What is known of the limits of a rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// What time it is, in milliseconds since 1970.
    pub now_ms: u64,
    /// What is set and holds, in no order.
    pub set: Vec<Setting>,
    /// How many wait for the limits of the rule.
    pub waiting: u64,
    /// What is known of the buckets that were asked about, in their order.
    pub buckets: Vec<Bucket>,
}

impl Client {
    /// Sets all of this for limits of a rule, or nothing.
    pub async fn set_limits(&self, rule: &Arc<str>, wanted: &[Wanted]) -> Result<Done, Unavailable> {
        match &self.backend {
            Backend::Memory(memory) => Ok(memory.set_limits(rule, wanted)),
            Backend::Redis(handle) => handle.set_limits(rule, wanted).await,
        }
    }

    /// Takes back all that is set for this limit as a whole, with what lets values of its key go while it is paused; or for one value of
    /// its key. Says how much that was.
    pub async fn reset_limit(&self, rule: &Arc<str>, target: &Target) -> Result<u64, Unavailable> {
        match &self.backend {
            Backend::Memory(memory) => Ok(memory.reset_limit(rule, target)),
            Backend::Redis(handle) => handle.reset_limit(rule, target).await,
        }
    }

    /// What is set for the limits of this rule, and how many wait.
    pub async fn limits(&self, rule: &Arc<str>, asked: &[Asked]) -> Result<Known, Unavailable> {
        match &self.backend {
            Backend::Memory(memory) => Ok(memory.known_limits(rule, asked)),
            Backend::Redis(handle) => handle.known_limits(rule, asked).await,
        }
    }
}
