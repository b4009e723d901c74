//! The rules of limits; the same as in `scripts/limit.lua`.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::lapsing::Lapses;
use super::ranks::{Place, Ranks};
use super::run::Stage;
use super::{LONGEST_MS, Step};
use crate::rules::limit::{Ask, Asker, Bucket, Cause, Concurrent, Limited, Rate, Wait};
use crate::rules::lock::{Claim, Digest, Nonce, ReleaseReason, Reply, Request};

/// Who was to ask so long ago and has not is passed over.
const UNSEEN_MS: u64 = 5_000;
/// Who is planned for no later than that goes before those behind it, even if it might go now. Of who is planned for later it is not
/// known whether it is at hand.
const AHEAD_MS: u64 = 5_000;
/// How many are passed over at once.
const PASSED_OVER: usize = 50;
/// For how long the place of an id is kept beyond the time when it is to ask.
const SLOT_KEPT_MS: u64 = 86_400_000;
/// For how long it is known who was permitted.
const GIVEN_KEPT_MS: u64 = 60_000;
/// What comes at most so late, or half of the space between two, is not spaced from its coming.
const LATE_MS: f64 = 50.0;
/// For how long who waits first for the end of a run may keep silent.
const FRONT_UNSEEN_MS: u64 = 700;
/// How soon that one is to ask again.
const POLL_FIRST_MS: u64 = 100;
/// How soon those are that are not far behind it.
const POLL_NEAR_MS: u64 = 250;
const NEAR: usize = 8;
/// How soon all others are.
const POLL_FAR_MS: u64 = 1_000;

/// The place of an id.
#[derive(Debug)]
pub(super) struct Slot {
    place: Place,
    since_ms: u64,
    /// The time that was planned for it.
    planned_ms: u64,
    /// Which delivery was permitted, and when.
    given: Option<(Nonce, u64)>,
    until_ms: u64,
}

/// All that wait for the limits of one rule.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    last: Place,
    /// By the times when they are to ask again, with their buckets.
    due: BTreeMap<(u64, Place), Vec<Digest>>,
    next: HashMap<Place, u64>,
    until_ms: u64,
}

impl Waiters {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.next.len()
    }

    fn is_due(&mut self, place: Place, ms: u64, buckets: Vec<Digest>) {
        self.next.insert(place, ms);
        self.due.insert((ms, place), buckets);
    }

    /// In which buckets it waited.
    fn is_not_due(&mut self, place: Place) -> Vec<Digest> {
        let due = self.next.remove(&place).and_then(|ms| self.due.remove(&(ms, place)));
        due.unwrap_or_default()
    }

    /// Takes one out that was to ask before this time.
    fn take_before(&mut self, ms: u64) -> Option<(Place, Vec<Digest>)> {
        let first = self.due.first_entry().filter(|first| first.key().0 <= ms)?;
        let ((_, place), buckets) = first.remove_entry();
        self.next.remove(&place);
        Some((place, buckets))
    }
}

/// What is known of a bucket.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// The times of the last hand-overs.
    times: VecDeque<u64>,
    /// From when on the next one is spaced.
    tat: f64,
    /// Those that wait, by the times that are planned for them.
    queue: Ranks,
    /// The running locks that count.
    members: HashSet<Digest>,
    /// Who waits first for the end of a run, and when it asked last.
    front: Option<(Place, u64)>,
    until_ms: u64,
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

fn spacing(rate: &Rate) -> f64 {
    rate.per_ms as f64 / rate.times as f64
}

/// How much later than planned a hand-over may be without being spaced from its own time.
fn late(rate: &Rate) -> f64 {
    LATE_MS.max(spacing(rate) / 2.0)
}

impl Pace {
    /// When the nth hand-over from now on may be, at the earliest.
    fn time_of(&self, rate: Option<&Rate>, nth: u64, now: u64) -> f64 {
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
    fn plan(&self, rate: Option<&Rate>, alone: bool, now: u64) -> f64 {
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

    fn count(&mut self, rate: &Rate, place: Place, at: u64, now: u64) {
        let planned = self.queue.planned(place).map_or(now, |planned| planned.min(now)) as f64;
        self.times.push_back(at);
        while self.times.len() as u64 > rate.times {
            self.times.pop_front();
        }
        self.tat = self.tat.max(now as f64 - late(rate)).max(planned) + spacing(rate);
    }
}

/// What one bucket says.
#[derive(Debug, Clone, Copy)]
struct Judged {
    /// When it lets the delivery go.
    free: f64,
    /// When it is to be asked again.
    at: f64,
    cause: Cause,
}

impl Step<'_> {
    pub(super) fn limits(&mut self, request: &Request) -> Reply {
        match request {
            Request::Reserve { ask } => Reply::Limit(self.limit(ask, None)),
            Request::Permit { ask, asker } => Reply::Limit(self.limit(ask, Some(asker))),
            Request::LeaveLimit { ask, delivery } => {
                self.leave_limit(ask, *delivery);
                Reply::Done
            }
            _ => Reply::Done,
        }
    }

    /// A place for an id and, where a delivery of it asks, permission if it may go now.
    fn limit(&mut self, ask: &Ask, asker: Option<&Asker>) -> Limited {
        self.pass_over(&ask.rule);
        let (place, since_ms) = self.find_place(ask, asker);
        // Where another bucket may hold up who is planned before it, that one is not waited for.
        let ahead_ms = if ask.buckets.len() == 1 { AHEAD_MS } else { 0 };
        let mut judged = Vec::with_capacity(ask.buckets.len());
        for bucket in &ask.buckets {
            judged.push(self.judge(bucket, place, asker, ahead_ms));
        }
        let now = self.now as f64;
        let free = judged.iter().map(|judged| judged.free).fold(now, f64::max);
        if let Some(asker) = asker.filter(|_| free <= now) {
            self.permit(ask, asker, place);
            let waited_ms = self.now - since_ms;
            return Limited::Permitted { waited_ms };
        }
        self.hold_up(ask, place, &judged);
        let (mut at, mut last, mut cause) = (now, 0, Cause::Rate);
        for (bucket, judged) in judged.iter().enumerate() {
            if judged.at > at {
                (at, last, cause) = (judged.at, bucket, judged.cause);
            }
        }
        let wait_ms = if free <= now { 0 } else { ((at - now).ceil() as u64).max(1) };
        self.waits_until(ask, place, self.now + wait_ms);
        Limited::Waits(Wait {
            wait_ms,
            waited_ms: self.now - since_ms,
            bucket: last,
            cause,
        })
    }

    /// A delivery is not handed over, or does not wait any more. Its id keeps its place.
    fn leave_limit(&mut self, ask: &Ask, delivery: Nonce) {
        let Some(slot) = self.slot(ask) else { return };
        let (place, given) = (slot.place, slot.given);
        match given {
            Some((by, _)) if by != delivery => return,
            Some((by, at)) => self.undo(ask, by, at),
            None => {}
        }
        for bucket in &ask.buckets {
            self.pace(bucket.digest).queue.remove(place);
        }
        self.waits_no_more(&ask.rule, place, &[]);
    }

    /// A place is not waited in, except in the buckets that are asked about. It may have been asked about more of them before: a retry need
    /// not count for all.
    fn waits_no_more(&mut self, rule: &Arc<str>, place: Place, except: &[Bucket]) {
        for digest in self.waiters(rule).is_not_due(place) {
            let is_asked = except.iter().any(|bucket| bucket.digest == digest);
            if !is_asked && let Some(known) = self.table.paces.get_mut(&digest, self.now) {
                known.queue.remove(place);
            }
        }
    }

    fn slot(&mut self, ask: &Ask) -> Option<&mut Slot> {
        self.table.slots.get_mut(&(ask.rule.clone(), ask.id.clone()), self.now)
    }

    fn pace(&mut self, bucket: Digest) -> &mut Pace {
        let until_ms = self.now + GIVEN_KEPT_MS;
        self.table.paces.or_insert_with(bucket, self.now, || Pace {
            until_ms,
            ..Pace::default()
        })
    }

    fn waiters(&mut self, rule: &Arc<str>) -> &mut Waiters {
        let until_ms = self.now + SLOT_KEPT_MS;
        self.table.waiters.or_insert_with(rule.clone(), self.now, || Waiters {
            until_ms,
            ..Waiters::default()
        })
    }

    /// Who was to ask long ago and has not is passed over: it has its place again when it asks.
    fn pass_over(&mut self, rule: &Arc<str>) {
        for _ in 0..PASSED_OVER {
            let before = self.now.saturating_sub(UNSEEN_MS);
            let Some((place, buckets)) = self.waiters(rule).take_before(before) else {
                return;
            };
            for bucket in buckets {
                self.pace(bucket).queue.remove(place);
            }
        }
    }

    /// Gives an id its place, unless it has one: the place, and since when it waits.
    fn find_place(&mut self, ask: &Ask, asker: Option<&Asker>) -> (Place, u64) {
        let known = self.slot(ask).map(|slot| (slot.place, slot.since_ms, slot.planned_ms, slot.given));
        let known = match (known, asker) {
            // The answer was lost: what counts is the hand-over that is to come.
            (Some((place, since, planned, Some((by, at)))), Some(asker)) if by == asker.delivery => {
                self.undo(ask, by, at);
                Some((place, since, planned))
            }
            (Some((place, since, planned, None)), _) => Some((place, since, planned)),
            _ => None,
        };
        let now = self.now;
        let (place, since_ms, planned_ms) = known.unwrap_or_else(|| {
            let waiters = self.waiters(&ask.rule);
            waiters.last += 1;
            let place = waiters.last;
            let alone = ask.buckets.len() == 1;
            let planned = ask.buckets.iter().map(|bucket| {
                let planned = self.pace(bucket.digest).plan(bucket.rate.as_ref(), alone, now);
                planned.ceil() as u64
            });
            let planned_ms = planned.fold(now, u64::max);
            let slot = Slot {
                place,
                since_ms: now,
                planned_ms,
                given: None,
                until_ms: now + SLOT_KEPT_MS,
            };
            self.table.slots.insert((ask.rule.clone(), ask.id.clone()), slot, now);
            (place, now, planned_ms)
        });
        for bucket in &ask.buckets {
            let queue = &mut self.pace(bucket.digest).queue;
            if queue.planned(place).is_none() {
                queue.put(place, planned_ms);
            }
        }
        (place, since_ms)
    }

    /// `ahead_ms`: those that are planned for the time from now until then go before it, too.
    fn judge(&mut self, bucket: &Bucket, place: Place, asker: Option<&Asker>, ahead_ms: u64) -> Judged {
        let (now, rate) = (self.now, bucket.rate.as_ref());
        let known = self.pace(bucket.digest);
        let rank = known.queue.rank(place).unwrap_or(0);
        let ahead = rank.min(known.queue.planned_by(now + ahead_ms));
        let free = known.time_of(rate, ahead as u64 + 1, now);
        let at = known.time_of(rate, rank as u64 + 1, now);
        let poll_ms = match bucket.concurrent {
            Some(concurrent) if asker.is_some() && free <= now as f64 => self.too_many(bucket, concurrent, place, rank),
            _ => None,
        };
        let Some(poll_ms) = poll_ms else {
            let cause = Cause::Rate;
            return Judged { free, at, cause };
        };
        let again = (now + poll_ms) as f64;
        Judged {
            free: again,
            at: at.max(again),
            cause: Cause::Runs,
        }
    }

    /// How long until it is to ask again since too many run; `None` if one more may.
    fn too_many(&mut self, bucket: &Bucket, concurrent: Concurrent, place: Place, rank: usize) -> Option<u64> {
        let now = self.now;
        let mut members = std::mem::take(&mut self.pace(bucket.digest).members);
        members.retain(|run| self.table.runs.get(run, now).is_some());
        let (count, counts) = (members.len() as u64, members.contains(&concurrent.run));
        let known = self.pace(bucket.digest);
        known.members = members;
        let room = concurrent.runs.saturating_sub(count);
        let first = known.front.filter(|(_, seen)| seen + FRONT_UNSEEN_MS > now).map(|(first, _)| first);
        if counts || room > 1 || room == 1 && first.is_none_or(|first| place <= first) {
            return None;
        }
        if first.is_none_or(|first| place <= first) {
            known.front = Some((place, now));
            return Some(POLL_FIRST_MS);
        }
        Some(if rank < NEAR { POLL_NEAR_MS } else { POLL_FAR_MS })
    }

    fn permit(&mut self, ask: &Ask, asker: &Asker, place: Place) {
        let now = self.now;
        for bucket in &ask.buckets {
            let life_ms = ask.note.as_ref().map_or(0, |note| note.life_ms.clamp(1, LONGEST_MS));
            let known = self.pace(bucket.digest);
            if let Some(rate) = &bucket.rate {
                known.count(rate, place, now, now);
                known.until_ms = known.until_ms.max(now + rate.per_ms + 1_000).max(known.tat as u64);
            }
            known.queue.remove(place);
            if let (Some(concurrent), Some(note)) = (bucket.concurrent, &ask.note) {
                known.members.insert(concurrent.run);
                known.front = known.front.filter(|(front, _)| *front != place);
                known.until_ms = known.until_ms.max(now + life_ms);
                let claim = Claim {
                    digest: concurrent.run,
                    id: ask.id.clone(),
                };
                self.take_run(&claim, asker.delivery, note, &asker.worker, life_ms);
            }
        }
        self.waits_no_more(&ask.rule, place, &[]);
        if let Some(slot) = self.slot(ask) {
            slot.given = Some((asker.delivery, now));
            slot.until_ms = now + GIVEN_KEPT_MS;
        }
    }

    /// Takes a permission back.
    fn undo(&mut self, ask: &Ask, by: Nonce, at: u64) {
        for bucket in &ask.buckets {
            let known = self.pace(bucket.digest);
            if let Some(rate) = &bucket.rate {
                if let Some(index) = known.times.iter().rposition(|time| *time == at) {
                    known.times.remove(index);
                }
                known.tat -= spacing(rate);
            }
            let Some(concurrent) = bucket.concurrent else { continue };
            let run = self.table.runs.get(&concurrent.run, self.now);
            if run.is_some_and(|run| run.is_of(&ask.id, by) && run.stage != Stage::Retried) {
                self.free_run(concurrent.run, ReleaseReason::Ended);
                self.pace(bucket.digest).members.remove(&concurrent.run);
            }
        }
        let until_ms = self.now + SLOT_KEPT_MS;
        if let Some(slot) = self.slot(ask) {
            slot.given = None;
            slot.until_ms = until_ms;
        }
    }

    /// A bucket that this one need not let wait lets those behind it go first where another holds it up.
    fn hold_up(&mut self, ask: &Ask, place: Place, judged: &[Judged]) {
        if ask.buckets.len() < 2 {
            return;
        }
        let now = self.now as f64;
        for (own, bucket) in ask.buckets.iter().enumerate() {
            let others = judged
                .iter()
                .enumerate()
                .filter(|(other, judged)| *other != own && judged.free > now);
            let until_ms = others.map(|(_, judged)| judged.at).fold(now, f64::max).ceil() as u64;
            let queue = &mut self.pace(bucket.digest).queue;
            if queue.planned(place).is_some_and(|planned| planned < until_ms) && until_ms > now as u64 {
                queue.put(place, until_ms);
            }
        }
    }

    fn waits_until(&mut self, ask: &Ask, place: Place, ms: u64) {
        let kept_ms = ms + SLOT_KEPT_MS;
        let buckets = ask.buckets.iter().map(|bucket| bucket.digest).collect();
        self.waits_no_more(&ask.rule, place, &ask.buckets);
        let waiters = self.waiters(&ask.rule);
        waiters.is_due(place, ms, buckets);
        waiters.until_ms = waiters.until_ms.max(kept_ms);
        for bucket in &ask.buckets {
            let known = self.pace(bucket.digest);
            known.until_ms = known.until_ms.max(kept_ms);
        }
        if let Some(slot) = self.slot(ask) {
            slot.until_ms = kept_ms;
        }
    }
}
