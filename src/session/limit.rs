//! The limits of a delivery: what the store is asked before it goes to the client, and what its answers mean.
//!
//! ```text
//!  no running lock:    permit ─▶ it goes, or it is held for the time that it is told
//!  with one:   reserve ─▶ run ─▶ permit: a lock that was taken for nothing is given back
//! ```
//!
//! Where `continue` joins rules, each rule's limits are asked in turn, and a refusal gives back what the earlier ones have permitted. A
//! place that the store has given stays the id's, whatever becomes of this delivery.

use std::sync::Arc;
use std::time::Duration;

use super::admit::{Admission, Asks, Await, Way};
use super::event::Event;
use super::renew::Hold;
use super::{Now, Shared};
use crate::rules::limit::{Asker, Cause, Limited, Limiting, Wait};
use crate::rules::lock::{Claim, Digest, Request};
use crate::rules::owed::Owed;
use crate::rules::running::RunNote;
use crate::rules::spec::OnMaxWait;

/// What is told to wait for no longer than this asks when its time has come, in microseconds; what waits longer asks before.
const SHORT_US: u64 = 1_500_000;

/// What waits longer asks again no sooner and no later than this, in microseconds.
const AGAIN_US: (u64, u64) = (1_000_000, 30_000_000);

/// Whether the store may know of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Never,
    Once,
}

/// Whether it still needs permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    Permission,
    /// It has waited for as long as its limit lets it wait.
    Nothing,
}

/// What a delivery waits for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiting {
    /// Until when, in monotonic microseconds.
    until_us: u64,
    /// Since when, as far as the store knows.
    since_us: u64,
    /// How long it may be held here.
    hold_max: Duration,
    cause: Cause,
}

/// The limits that a delivery is to pass.
#[derive(Debug)]
pub(super) struct Permits {
    stages: Vec<Limiting>,
    /// So many of them have permitted it.
    permitted: usize,
    asked: Asked,
    needs: Needs,
    waiting: Option<Waiting>,
    /// The way that it goes with permission.
    pub then: Way,
    /// What its id is owed if it waits for too long and is dropped.
    pub overdue: Owed,
    /// What was asked for in vain is given back.
    owed: Vec<Request>,
    /// Which limit of its rule it was that let it wait last.
    last: usize,
    /// The limit that was heard of last, and for how long it lets it wait or has let it wait, in milliseconds.
    wait: Option<(Arc<str>, u64)>,
    /// What is told of the rules that have permitted it.
    told: Vec<Event>,
}

impl Permits {
    /// Permits that the store was not asked about; `None` if there are none.
    pub(super) fn new(stages: Vec<Limiting>, overdue: Owed) -> Option<Box<Permits>> {
        let limits = Permits {
            stages,
            permitted: 0,
            asked: Asked::Never,
            needs: Needs::Permission,
            waiting: None,
            then: Way::Permitted,
            overdue,
            owed: Vec::new(),
            last: 0,
            wait: None,
            told: Vec::new(),
        };
        (!limits.stages.is_empty()).then(|| Box::new(limits))
    }

    /// What its id is asked about.
    pub(super) fn first(&self) -> Option<&Limiting> {
        self.stages.first()
    }

    /// The buckets of the first rule.
    pub(super) fn buckets(&self) -> impl Iterator<Item = Digest> {
        self.first()
            .into_iter()
            .flat_map(|stage| &stage.ask.buckets)
            .map(|bucket| bucket.digest)
    }

    /// The bucket that lets it wait, where only one rule can.
    pub(super) fn waits_for(&self) -> Option<Digest> {
        let [stage] = self.stages.as_slice() else { return None };
        stage.ask.buckets.get(self.last).map(|bucket| bucket.digest)
    }

    /// How long its limits let it be held at most, in microseconds.
    pub(super) fn hold_max_us(&self) -> u64 {
        let limits = self.stages.iter().flat_map(|stage| &stage.limits);
        let longest = limits.map(|limit| limit.hold_max).max().unwrap_or_default();
        u64::try_from(longest.as_micros()).unwrap_or(u64::MAX)
    }

    /// True if the store was not asked about it.
    pub(super) fn is_unasked(&self) -> bool {
        self.asked == Asked::Never && self.needs == Needs::Permission
    }

    fn notes_permission(&mut self, waited_ms: u64) {
        let Some(stage) = self.stages.get(self.permitted) else { return };
        if let Some(limit) = stage.limits.get(self.last).or(stage.limits.first()) {
            self.wait = Some((Arc::clone(&limit.name), waited_ms));
            self.told.push(Event::Permitted {
                rule: Arc::clone(&stage.ask.rule),
                limit: Arc::clone(&limit.name),
                waited_ms,
            });
        }
        self.last = 0;
    }

    fn leave(&self, stages: usize, hold: &Hold) -> Vec<Request> {
        let left = self.stages.iter().take(stages).map(|stage| Request::LeaveLimit {
            ask: Arc::clone(&stage.ask),
            delivery: hold.delivery,
        });
        left.collect()
    }

    /// The running locks that it has with permission, and what is written beside them.
    pub(super) fn runs(&self) -> Vec<(Claim, Arc<RunNote>)> {
        let mut runs = Vec::new();
        for stage in self.stages.iter().take(self.permitted) {
            let Some(note) = &stage.ask.note else { continue };
            let of_stage = stage.ask.buckets.iter().filter_map(|bucket| bucket.concurrent);
            runs.extend(of_stage.map(|concurrent| {
                let claim = Claim {
                    digest: concurrent.run,
                    id: Arc::clone(&stage.ask.id),
                };
                (claim, Arc::clone(note))
            }));
        }
        runs
    }
}

impl Waiting {
    /// When the store is to be asked again, in monotonic microseconds: places move up as others go, and limits may
    /// be changed.
    pub(super) fn asks_us(&self, now_us: u64) -> u64 {
        let left_us = self.until_us.saturating_sub(now_us);
        if left_us <= SHORT_US {
            return self.until_us;
        }
        now_us.saturating_add((left_us / 2).clamp(AGAIN_US.0, AGAIN_US.1))
    }

    /// How long it has to wait, in milliseconds, where that is known.
    pub(super) fn left_ms(&self, now_us: u64) -> Option<u64> {
        (self.cause == Cause::Rate).then(|| self.until_us.saturating_sub(now_us).div_ceil(1000))
    }

    /// Until when it has to wait, in monotonic microseconds, where that is known.
    pub(super) fn until_us(&self) -> Option<u64> {
        (self.cause == Cause::Rate).then_some(self.until_us)
    }

    /// For how long it has waited, in milliseconds.
    pub(super) fn waited_ms(&self, now_us: u64) -> u64 {
        now_us.saturating_sub(self.since_us) / 1000
    }

    /// True if it waits longer than it may be held.
    pub(super) fn is_long(&self, now_us: u64) -> bool {
        self.left_ms(now_us)
            .is_some_and(|left| u128::from(left) > self.hold_max.as_millis())
    }

    /// How long it may be held, in microseconds.
    pub(super) fn hold_max_us(&self) -> u64 {
        u64::try_from(self.hold_max.as_micros()).unwrap_or(u64::MAX)
    }

    /// True if the end of a run may let it go.
    pub(super) fn is_for_runs(&self) -> bool {
        self.cause == Cause::Runs
    }
}

impl Admission {
    /// What it waits for, where that is a limit.
    pub(super) fn waiting(&self) -> Option<&Waiting> {
        self.limits.as_ref()?.waiting.as_ref()
    }

    /// What stands between the delivery and its way, first of all.
    pub(super) fn first_step(&self, way: Way) -> Await {
        let limited = self.limits.as_ref().filter(|limits| limits.needs == Needs::Permission);
        match (&self.run, limited) {
            (None, None) => Await::Turn(way),
            (Some(_), Some(limits)) if limits.asked == Asked::Never => Await::Reserve,
            (Some(_), _) => Await::Run,
            (None, Some(_)) => Await::Limit,
        }
    }

    /// The run has its lock: what is left to ask.
    pub(super) fn after_run(&self, way: Way) -> Await {
        match &self.limits {
            Some(limits) if limits.needs == Needs::Permission => Await::Limit,
            _ => Await::Turn(way),
        }
    }

    /// It is held, and its next question is due.
    pub(super) fn asks_again(&mut self) {
        if self.asks == Asks::Admission {
            self.wait = Await::Answer { until_us: None };
            return;
        }
        let run = self.run.as_ref().map(|run| run.then());
        let limits = self.limits.as_ref().map(|limits| limits.then.clone());
        self.wait = self.first_step(limits.or(run).unwrap_or(Way::Passing));
    }

    /// The question for a place or for permission.
    pub(super) fn limit_question(&mut self, worker: &Arc<str>) -> Option<Request> {
        let delivery = self.hold.delivery;
        let limits = self.limits.as_mut()?;
        limits.asked = Asked::Once;
        let ask = Arc::clone(&limits.stages.get(limits.permitted)?.ask);
        Some(if matches!(self.wait, Await::Reserve) {
            Request::Reserve { ask }
        } else {
            let worker = Arc::clone(worker);
            Request::Permit {
                ask,
                asker: Asker { delivery, worker },
            }
        })
    }

    /// The answer to it: what the delivery waits for then.
    pub(super) fn limited(&mut self, limited: &Limited, now: Now) -> Await {
        let Some(limits) = self.limits.as_mut() else {
            return Await::Turn(Way::Passing);
        };
        limits.waiting = None;
        match limited {
            Limited::Permitted { waited_ms } => {
                limits.notes_permission(*waited_ms);
                limits.permitted += 1;
                if limits.permitted < limits.stages.len() {
                    return Await::Limit;
                }
                Await::Turn(limits.then.clone())
            }
            Limited::Waits(wait) => self.refused(*wait, now),
        }
    }

    fn refused(&mut self, wait: Wait, now: Now) -> Await {
        let reserves = matches!(self.wait, Await::Reserve);
        if reserves && wait.wait_ms == 0 {
            return Await::Run;
        }
        let Some(limits) = self.limits.as_mut() else {
            return Await::Turn(Way::Passing);
        };
        let limit = limits.stages.get(limits.permitted).and_then(|stage| stage.limits.get(wait.bucket));
        let max_wait = limit.and_then(|limit| limit.max_wait);
        let hold_max = limit.map_or(self.rule.hold_max, |limit| limit.hold_max);
        let left_ms = max_wait.map(|(longest, _)| {
            u64::try_from(longest.as_millis())
                .unwrap_or(u64::MAX)
                .saturating_sub(wait.waited_ms)
        });
        limits.owed = limits.leave(limits.permitted, &self.hold);
        limits.permitted = 0;
        limits.last = wait.bucket;
        let named = limit.map(|limit| Arc::clone(&limit.name));
        limits.told.clear();
        if let (Some(0), Some((_, then))) = (left_ms, max_wait) {
            limits.wait = named.map(|name| (name, wait.waited_ms));
            return self.overdue(then, reserves);
        }
        let wait_ms = wait.wait_ms.min(left_ms.unwrap_or(u64::MAX));
        limits.wait = named.map(|name| (name, wait_ms));
        limits.waiting = Some(Waiting {
            until_us: now.us.saturating_add(wait_ms.saturating_mul(1000)),
            since_us: now.us.saturating_sub(wait.waited_ms.saturating_mul(1000)),
            hold_max,
            cause: wait.cause,
        });
        if !reserves {
            let run = self.leaving();
            if let Some(limits) = &mut self.limits {
                limits.owed.extend(run);
            }
        }
        Await::Turn(Way::Held(None))
    }

    /// It has waited for as long as its limit lets it wait.
    fn overdue(&mut self, then: OnMaxWait, reserves: bool) -> Await {
        let run = self.leaving().filter(|_| !reserves);
        let Some(limits) = self.limits.as_mut() else {
            return Await::Turn(Way::Passing);
        };
        limits.needs = Needs::Nothing;
        limits.owed = limits.leave(limits.stages.len(), &self.hold);
        if then == OnMaxWait::Deliver {
            return if reserves { Await::Run } else { Await::Turn(limits.then.clone()) };
        }
        limits.owed.extend(run);
        Await::Turn(Way::Overdue(then))
    }

    /// What its id is owed where it has waited for too long.
    pub(super) fn owed_overdue(&self) -> Owed {
        self.limits.as_ref().map(|limits| limits.overdue.clone()).unwrap_or_default()
    }

    /// The orders by which nobody waits behind it if it goes another way than its limits permit.
    pub(super) fn leaving_unpermitted(&self) -> Vec<Request> {
        match &self.limits {
            Some(limits) if limits.needs == Needs::Permission && limits.permitted < limits.stages.len() => self.leaving_limits(),
            _ => Vec::new(),
        }
    }

    /// The limit that it waits for or has waited for, and for how long, in milliseconds.
    pub(super) fn limit_wait(&self) -> Option<(Arc<str>, u64)> {
        self.limits.as_ref()?.wait.clone()
    }

    /// What is told of the limits that let it go.
    pub(super) fn permissions(&mut self) -> Vec<Event> {
        self.limits
            .as_mut()
            .map(|limits| std::mem::take(&mut limits.told))
            .unwrap_or_default()
    }

    /// The orders that give back what was asked for in vain.
    pub(super) fn gives_back(&mut self) -> Vec<Request> {
        self.limits
            .as_mut()
            .map(|limits| std::mem::take(&mut limits.owed))
            .unwrap_or_default()
    }

    /// The orders by which nobody waits behind it, and by which permission that it has been given is given back.
    pub(super) fn leaving_limits(&self) -> Vec<Request> {
        match &self.limits {
            Some(limits) if limits.asked == Asked::Once => limits.leave(limits.stages.len(), &self.hold),
            _ => Vec::new(),
        }
    }
}

impl Shared {
    /// This delivery is not handed over: it goes back to its queue, or has gone back with its channel.
    pub(super) fn leave(&mut self, admission: &Admission) {
        self.leave_run(admission);
        self.tells.extend(admission.leaving_limits());
    }
}
