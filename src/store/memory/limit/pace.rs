//! What is known of those that wait for limits, and of the buckets that they wait for.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use crate::rules::limit::Rate;
use crate::rules::limit::control::InForce;
use crate::rules::lock::{Digest, Nonce};
use crate::store::memory::lapsing::Lapses;
use crate::store::memory::ranks::{Place, Ranks};

/// What comes at most so late, or half of the space between two, is not spaced from its coming.
const LATE_MS: f64 = 50.0;

/// The place of an id.
#[derive(Debug)]
pub(in crate::store::memory) struct Slot {
    pub(super) place: Place,
    pub(super) since_ms: u64,
    /// The time that was planned for it.
    pub(super) planned_ms: u64,
    /// Which delivery was permitted, and when.
    pub(super) given: Option<(Nonce, u64)>,
    pub(super) until_ms: u64,
}

/// All that wait for the limits of one rule.
#[derive(Debug, Default)]
pub(in crate::store::memory) struct Waiters {
    pub(super) last: Place,
    /// By the times when they are to ask again, with their buckets.
    pub(super) due: BTreeMap<(u64, Place), Vec<Digest>>,
    pub(super) next: HashMap<Place, u64>,
    pub(super) until_ms: u64,
}

impl Waiters {
    pub(super) fn is_due(&mut self, place: Place, ms: u64, buckets: Vec<Digest>) {
        self.next.insert(place, ms);
        self.due.insert((ms, place), buckets);
    }

    /// In which buckets it waited.
    pub(super) fn is_not_due(&mut self, place: Place) -> Vec<Digest> {
        let due = self.next.remove(&place).and_then(|ms| self.due.remove(&(ms, place)));
        due.unwrap_or_default()
    }

    pub(in crate::store::memory) fn len(&self) -> usize {
        self.due.len()
    }

    /// Takes one out that was to ask before this time.
    pub(super) fn take_before(&mut self, ms: u64) -> Option<(Place, Vec<Digest>)> {
        let first = self.due.first_entry().filter(|first| first.key().0 <= ms)?;
        let ((_, place), buckets) = first.remove_entry();
        self.next.remove(&place);
        Some((place, buckets))
    }
}

/// What is known of a bucket.
#[derive(Debug, Default)]
pub(in crate::store::memory) struct Pace {
    /// The times of the last hand-overs.
    pub(super) times: VecDeque<u64>,
    /// From when on the next one is spaced.
    pub(super) tat: f64,
    /// By which space between two that was reckoned, in milliseconds.
    pub(super) spacing: f64,
    /// Those that wait, by the times that are planned for them.
    pub(super) queue: Ranks,
    /// The running locks that count.
    pub(super) members: HashSet<Digest>,
    /// Who waits first for the end of a run, and when it asked last.
    pub(super) front: Option<(Place, u64)>,
    pub(super) until_ms: u64,
}

impl Lapses for Slot {
    fn lives_until(&self) -> u64 {
        self.until_ms
    }
}

impl Lapses for Waiters {
    fn lives_until(&self) -> u64 {
        self.until_ms
    }
}

impl Lapses for Pace {
    fn lives_until(&self) -> u64 {
        self.until_ms
    }
}

pub(super) fn spacing(rate: &Rate) -> f64 {
    rate.per_ms as f64 / rate.times as f64
}

/// How much later than planned a hand-over may be without being spaced from its own time.
fn late(rate: &Rate) -> f64 {
    LATE_MS.max(spacing(rate) / 2.0)
}

impl Pace {
    /// When the nth hand-over from now on may be, at the earliest.
    pub(super) fn time_of(&self, rate: Option<&Rate>, nth: u64, now: u64) -> f64 {
        let Some(rate) = rate else { return now as f64 };
        let rounds = (nth - 1) / rate.times;
        let before = (self.times.len() as u64 + nth - rounds * rate.times).saturating_sub(rate.times);
        let last = before.checked_sub(1).and_then(|before| self.times.get(before as usize));
        let at = last.map_or(now, |last| now.max(last + rate.per_ms + 1)) + rounds * (rate.per_ms + 1);
        let first = self.queue.first().map_or(now, |planned| now.min(planned)) as f64;
        let from = self.tat.max(now as f64 - late(rate)).max(first);
        (at as f64).max(from + (nth as f64 - rate.burst as f64) * spacing(rate))
    }

    /// When a newcomer may be handed over beside all that are planned.
    pub(super) fn plan(&self, rate: Option<&Rate>, alone: bool, now: u64) -> f64 {
        let waiting = self.queue.len() as u64;
        let (mut low, mut high) = (0, waiting);
        if alone {
            low = waiting;
        }
        // Others are planned for later than this bucket asks for, and leave room before them.
        while low < high {
            let ahead = low.midpoint(high);
            let at = self.time_of(rate, ahead + 1, now).ceil() as u64;
            if self.queue.planned_by(at) as u64 <= ahead {
                high = ahead;
            } else {
                low = ahead + 1;
            }
        }
        let at = self.time_of(rate, low + 1, now);
        let last = self.queue.last().filter(|_| alone).unwrap_or(0);
        at.max(last as f64)
    }

    pub(super) fn count(&mut self, ruled: &InForce, place: Place, at: u64, now: u64) {
        let Some(rate) = &ruled.rate else { return };
        let planned = self.queue.planned(place).map_or(now, |planned| planned.min(now)) as f64;
        self.times.push_back(at);
        let (times, per_ms) = ruled.kept;
        while self.times.len() as u64 > times {
            self.times.pop_front();
        }
        self.tat = self.tat.max(now as f64 - late(rate)).max(planned) + spacing(rate);
        self.until_ms = self.until_ms.max(now + per_ms + 1_000).max(self.tat as u64);
    }

    /// Takes one that was counted back.
    pub(super) fn uncount(&mut self, rate: &Rate, at: u64) {
        if let Some(index) = self.times.iter().rposition(|time| *time == at) {
            self.times.remove(index);
        }
        self.tat -= spacing(rate);
    }

    /// What was let go ahead of an even pace by another rate counts as so many of this one, a burst at most.
    pub(super) fn adapt(&mut self, rate: Option<&Rate>, now: u64) {
        let Some(rate) = rate else { return };
        let (before, after, now) = (self.spacing, spacing(rate), now as f64);
        if before.to_bits() != after.to_bits() && before > 0.0 && self.tat > now {
            self.tat = now + ((self.tat - now) / before).min(rate.burst as f64) * after;
        }
        self.spacing = after;
    }

    /// How many have gone within this rate's window that ends now.
    pub(super) fn given(&self, rate: &Rate, now: u64) -> u64 {
        let begins = now.saturating_sub(rate.per_ms);
        (self.times.len() - self.times.partition_point(|time| *time < begins)) as u64
    }
}
