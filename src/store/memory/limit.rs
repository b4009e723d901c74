//! The rules of limits; the same as in `scripts/limit.lua`.

mod control;
mod pace;

use std::sync::Arc;

use super::ranks::Place;
use super::run::Stage;
use super::{LONGEST_MS, Step};
use crate::rules::limit::control::{InForce, in_force};
use crate::rules::limit::{Ask, Asker, Bucket, Cause, Concurrent, Limited, Wait};
use crate::rules::lock::{Claim, Digest, Nonce, ReleaseReason, Reply, Request};
use pace::spacing;
pub(super) use pace::{Pace, Slot, Waiters};

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
/// For how long who waits first for the end of a run may keep silent.
const FRONT_UNSEEN_MS: u64 = 700;
/// How soon that one is to ask again.
const POLL_FIRST_MS: u64 = 100;
/// How soon those are that are not far behind it.
const POLL_NEAR_MS: u64 = 250;
const NEAR: usize = 8;
/// How soon all others are.
const POLL_FAR_MS: u64 = 1_000;
/// What waits first for a paused limit asks again after half of the time that it has waited, between these bounds.
const PAUSED_MS: (u64, u64) = (1_000, 30_000);
/// How much later the next one asks, where a limit has no rate.
const PAUSED_APART_MS: f64 = 20.0;

/// What one bucket says.
#[derive(Debug, Clone, Copy)]
struct Judged {
    /// When it lets the delivery go.
    free: f64,
    /// When it is to be asked again.
    at: f64,
    cause: Cause,
}

/// A bucket, with what holds for it now.
struct Ruled<'a> {
    bucket: &'a Bucket,
    now: InForce,
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
        let ruled = self.ruled(ask);
        let (place, since_ms) = self.find_place(ask, &ruled, asker);
        // Where another bucket may hold up who is planned before it, that one is not waited for.
        let ahead_ms = if ask.buckets.len() == 1 { AHEAD_MS } else { 0 };
        let mut judged = Vec::with_capacity(ask.buckets.len());
        for ruled in &ruled {
            judged.push(self.judge(ruled, place, asker, ahead_ms, self.now - since_ms));
        }
        let now = self.now as f64;
        let free = judged.iter().map(|judged| judged.free).fold(now, f64::max);
        if let Some(asker) = asker.filter(|_| free <= now) {
            self.permit(ask, &ruled, asker, place);
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
            Some((by, at)) => {
                let ruled = self.ruled(ask);
                self.undo(ask, &ruled, by, at);
            }
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

    /// What holds for each bucket now. What is known of it is reckoned by that from here on.
    fn ruled<'a>(&mut self, ask: &'a Ask) -> Vec<Ruled<'a>> {
        let now_ms = self.now;
        let mut all = Vec::with_capacity(ask.buckets.len());
        for bucket in &ask.buckets {
            let set = self.table.limits_set.get(&ask.rule).map_or(&[][..], Vec::as_slice);
            let now = in_force(set, bucket, now_ms);
            self.pace(bucket.digest).adapt(now.rate.as_ref(), now_ms);
            all.push(Ruled { bucket, now });
        }
        all
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
    fn find_place(&mut self, ask: &Ask, ruled: &[Ruled<'_>], asker: Option<&Asker>) -> (Place, u64) {
        let known = self.slot(ask).map(|slot| (slot.place, slot.since_ms, slot.planned_ms, slot.given));
        let known = match (known, asker) {
            // The answer was lost: what counts is the hand-over that is to come.
            (Some((place, since, planned, Some((by, at)))), Some(asker)) if by == asker.delivery => {
                self.undo(ask, ruled, by, at);
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
            let planned = ruled.iter().map(|ruled| {
                let planned = self.pace(ruled.bucket.digest).plan(ruled.now.rate.as_ref(), alone, now);
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
    fn judge(&mut self, ruled: &Ruled<'_>, place: Place, asker: Option<&Asker>, ahead_ms: u64, waited_ms: u64) -> Judged {
        let (now, bucket, rate) = (self.now, ruled.bucket, ruled.now.rate.as_ref());
        let known = self.pace(bucket.digest);
        let rank = known.queue.rank(place).unwrap_or(0);
        let ahead = rank.min(known.queue.planned_by(now + ahead_ms));
        let free = known.time_of(rate, ahead as u64 + 1, now);
        let at = known.time_of(rate, rank as u64 + 1, now);
        if let Some(until_ms) = ruled.now.paused_until_ms {
            // The first looks again, and the others at a pace that costs no more than if it were not paused: when it is over, each asks when
            // its turn comes.
            let look = (now + (waited_ms / 2).clamp(PAUSED_MS.0, PAUSED_MS.1)).min(until_ms) as f64;
            let behind = match rate {
                Some(rate) => (rank as u64 + 1).saturating_sub(rate.burst) as f64 * spacing(rate),
                None => rank as f64 * PAUSED_APART_MS,
            };
            return Judged {
                free: free.max(look),
                at: at.max(look + behind),
                cause: Cause::Rate,
            };
        }
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

    fn permit(&mut self, ask: &Ask, ruled: &[Ruled<'_>], asker: &Asker, place: Place) {
        let now = self.now;
        for Ruled { bucket, now: ruled } in ruled {
            let life_ms = ask.note.as_ref().map_or(0, |note| note.life_ms.clamp(1, LONGEST_MS));
            let known = self.pace(bucket.digest);
            known.count(ruled, place, now, now);
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
    fn undo(&mut self, ask: &Ask, ruled: &[Ruled<'_>], by: Nonce, at: u64) {
        for Ruled { bucket, now: ruled } in ruled {
            if let Some(rate) = &ruled.rate {
                self.pace(bucket.digest).uncount(rate, at);
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
