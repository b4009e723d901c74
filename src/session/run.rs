//! The running lock of a delivery: what the store is asked before it goes to the client, and what its answers mean.

use std::sync::Arc;

use super::admit::{Admission, Asked as AskedFor, Asks, Await, Way};
use super::renew::Hold;
use super::{Now, Shared};
use crate::rules::Rule;
use crate::rules::lock::Request;
use crate::rules::running::{IfBusy, Ran, RunNote};
use crate::rules::spec::OnRunning;

/// Whether the store may know of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Never,
    Once,
}

/// The run that a delivery is to begin.
#[derive(Debug)]
pub(super) struct Run {
    /// What is written beside the running lock.
    pub note: Arc<RunNote>,
    on_running: OnRunning,
    /// Its place among those that wait, as the store has told it.
    pub place_ms: Option<u64>,
    asked: Asked,
    /// The way that it goes with the lock.
    then: Way,
}

impl Run {
    /// A run that the store was not asked about.
    pub(super) fn new(note: Arc<RunNote>, rule: &Rule) -> Run {
        Run {
            note,
            on_running: rule.on_running,
            place_ms: None,
            asked: Asked::Never,
            then: Way::Running,
        }
    }
}

impl Admission {
    /// Nothing but the running lock, or its time, stands between the delivery and this way.
    pub(super) fn may_run(&mut self, way: Way, now: Now) -> Await {
        let ahead = self.eta_ahead(now).is_some();
        if self.rule.holds_until_due() && (ahead || self.asked == AskedFor::BeforeItsTime) {
            self.asks = Asks::Admission;
            return Await::Turn(Way::Held(None));
        }
        if !matches!(way, Way::Holding) {
            self.hold.lock = None;
        }
        let Some(run) = &mut self.run else { return Await::Turn(way) };
        run.then = way;
        self.asks = Asks::Run;
        // A worker would have the lock while it waits for the time.
        if ahead {
            return Await::Turn(Way::Held(None));
        }
        Await::Run
    }

    /// For how long it may not begin yet, in milliseconds.
    pub(super) fn eta_ahead(&self, now: Now) -> Option<u64> {
        self.eta_ms?.checked_sub(now.unix_ms).filter(|ahead| *ahead > 0)
    }

    /// The question for the running lock.
    pub(super) fn run_question(&mut self, worker: &Arc<str>) -> Option<Request> {
        let run = self.run.as_mut()?;
        run.asked = Asked::Once;
        Some(Request::Run {
            claim: self.hold.claim.clone(),
            delivery: self.hold.delivery,
            note: Arc::clone(&run.note),
            busy: match run.on_running {
                OnRunning::Drop | OnRunning::DeadLetter => IfBusy::Leave { place_ms: run.place_ms },
                OnRunning::Wait => IfBusy::Wait { place_ms: run.place_ms },
            },
            worker: Arc::clone(worker),
        })
    }

    /// The answer to it: the way that the delivery goes.
    pub(super) fn ran(&mut self, ran: Ran, now_us: u64) -> Way {
        let Some(run) = &mut self.run else { return Way::Passing };
        match ran {
            Ran::Runs => {
                self.hold.answered(self.hold.claim.digest, now_us);
                run.then.clone()
            }
            Ran::Waits { holder, place_ms, .. } => {
                run.place_ms = Some(place_ms);
                Way::Held(Some(holder))
            }
            Ran::Forgotten { place_ms } => {
                run.place_ms = Some(place_ms);
                Way::Held(None)
            }
            Ran::Leaves { holder, freed } => Way::Busy(holder, freed),
            Ran::Succeeded => Way::Succeeded,
            // It is asked again whether anybody is to hear of that.
            Ran::Superseded if self.rule.holds_until_due() && self.hold.lock.is_some() => {
                self.asks = Asks::Admission;
                Way::Held(None)
            }
            Ran::Superseded => Way::Killed,
        }
    }

    /// The order to give back the place or the lock of this delivery, if the store may have given it one.
    pub(super) fn leaving(&self) -> Option<Request> {
        let asked = self.run.as_ref().is_some_and(|run| run.asked == Asked::Once);
        asked.then(|| Request::LeaveRun {
            claim: self.hold.claim.clone(),
            delivery: self.hold.delivery,
        })
    }
}

impl Shared {
    /// This delivery goes back to its queue, or has gone back with its channel: it waits no longer and does not run.
    pub(super) fn leave_run(&mut self, admission: &Admission) {
        if let Some(order) = admission.leaving() {
            self.run_ended(&admission.hold.claim.id);
            self.tells.push(order);
        }
    }

    /// The client has given back a delivery with these locks.
    pub(super) fn given_up(&mut self, hold: &Hold) {
        if hold.run.is_some() {
            self.run_ended(&hold.claim.id);
            self.tells.push(Request::LeaveRun {
                claim: hold.claim.clone(),
                delivery: hold.delivery,
            });
        }
    }

    /// The question of this ticket has no delivery any more. Its answer, which may come yet, may give it the lock.
    pub(super) fn abandon_run(&mut self, ticket: super::Ticket, admission: &Admission) {
        if let Some(order) = admission.leaving() {
            self.abandoned_runs.insert(ticket, order);
        }
    }

    /// The store has answered about a delivery that is gone.
    pub(super) fn abandoned_run_answered(&mut self, ticket: super::Ticket) -> bool {
        let order = self.abandoned_runs.remove(&ticket);
        let abandoned = order.is_some();
        self.tells.extend(order);
        abandoned
    }

    /// A run of this id may have ended: what waits for it asks sooner.
    pub(super) fn run_ended(&mut self, id: &Arc<str>) {
        if self.held > 0 {
            self.ended.push(Arc::clone(id));
        }
    }
}
