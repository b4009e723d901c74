//! Bounds on how often something is logged.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What a bound says to one more line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grant {
    /// Log it; so many were left out since the last one.
    Allowed {
        /// How many were left out.
        suppressed: u64,
    },
    /// Leave it out.
    Suppressed,
}

/// A token bucket that holds one second's share. A rate of 0 allows nothing.
#[derive(Debug)]
pub(super) struct TokenBucket {
    per_second: f64,
    tokens: f64,
    filled: Instant,
    suppressed: u64,
}

impl TokenBucket {
    pub(super) fn new(per_second: u64, now: Instant) -> TokenBucket {
        TokenBucket {
            per_second: per_second as f64,
            tokens: per_second as f64,
            filled: now,
            suppressed: 0,
        }
    }

    pub(super) fn set_rate(&mut self, per_second: u64) {
        self.per_second = per_second as f64;
        self.tokens = self.tokens.min(self.per_second);
    }

    pub(super) fn take(&mut self, now: Instant) -> Grant {
        let elapsed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + elapsed * self.per_second).min(self.per_second);
        self.filled = now;
        if self.tokens < 1.0 {
            self.suppressed += 1;
            return Grant::Suppressed;
        }
        self.tokens -= 1.0;
        Grant::Allowed {
            suppressed: self.take_suppressed(),
        }
    }

    pub(super) fn take_suppressed(&mut self) -> u64 {
        std::mem::take(&mut self.suppressed)
    }
}

/// Lets a line through at most once a minute per name. Names must be bounded: rules, not ids.
#[derive(Debug, Default)]
pub struct OncePerMinute {
    lines: Mutex<HashMap<Arc<str>, Line>>,
}

#[derive(Debug)]
struct Line {
    logged: Instant,
    suppressed: u64,
}

impl OncePerMinute {
    /// `Some` if a line about this name may be written now, with the number of lines that were left out since the last one.
    pub fn allow(&self, name: &str) -> Option<u64> {
        self.allow_at(name, Instant::now())
    }

    pub(super) fn allow_at(&self, name: &str, now: Instant) -> Option<u64> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(line) = lines.get_mut(name) else {
            lines.insert(
                Arc::from(name),
                Line {
                    logged: now,
                    suppressed: 0,
                },
            );
            return Some(0);
        };
        if now.saturating_duration_since(line.logged) < Duration::from_secs(60) {
            line.suppressed += 1;
            return None;
        }
        line.logged = now;
        Some(std::mem::take(&mut line.suppressed))
    }
}

/// Lets one line through per name. Names must be bounded: rules, not ids.
#[derive(Debug, Default)]
pub struct Once {
    names: Mutex<HashSet<Arc<str>>>,
}

impl Once {
    /// True the first time that it is asked about this name.
    pub fn allow(&self, name: &str) -> bool {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        !names.contains(name) && names.insert(Arc::from(name))
    }
}
