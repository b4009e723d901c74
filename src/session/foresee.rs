//! What the last answers about limits tell of the deliveries that come next.
//!
//! Behind a delivery that has long to wait stand many that wait at least as long. Each would hold up what is read behind it until the store
//! has answered, and the client's window with it. So it is held from its coming, and the store is asked about it then: it decides all the
//! same, and what it permits goes at once.

use std::collections::HashMap;

use super::Now;
use super::admit::{Admission, Await};
use crate::rules::lock::Digest;

/// So many buckets are remembered.
const BUCKETS_MAX: usize = 1_000;

/// Until when the last delivery of a bucket has to wait, in monotonic microseconds.
#[derive(Debug, Default)]
pub(super) struct Foreseen(HashMap<Digest, u64>);

impl Foreseen {
    /// Notes what the store has answered about the limits of a delivery.
    pub(super) fn note(&mut self, admission: &Admission) {
        let Some(limits) = &admission.limits else { return };
        match admission
            .waiting()
            .and_then(|waiting| Some((limits.waits_for()?, waiting.until_us()?)))
        {
            Some((bucket, until_us)) => {
                if self.0.len() >= BUCKETS_MAX && !self.0.contains_key(&bucket) {
                    self.0.clear();
                }
                self.0.insert(bucket, until_us);
            }
            None => {
                for bucket in limits.buckets() {
                    self.0.remove(&bucket);
                }
            }
        }
    }

    /// True if a delivery that has just come will have to wait for longer than it may be held.
    pub(super) fn is_long(&self, admission: &Admission, now: Now) -> bool {
        if self.0.is_empty() || !matches!(admission.wait, Await::Limit) || !admission.is_parkable(now) {
            return false;
        }
        let Some(limits) = &admission.limits else { return false };
        let long_us = now.us.saturating_add(limits.hold_max_us());
        limits
            .buckets()
            .any(|bucket| self.0.get(&bucket).is_some_and(|until_us| *until_us > long_us))
    }
}
