//! What must hold of duplicates that wait: nobody gets what its holder has not returned, nobody goes without it for nothing, and the store forgets them
//! all in the end.

use oncegate::rules::lock::Request;
use oncegate::rules::outcome::DeliveryDecision;
use oncegate::session::DeliveryEvent;

use super::{Brings, FOUND_MS, READ_MS};
use crate::facts::Facts;
use crate::plan::{Backend, Parking};
use crate::results::Stored;
use crate::world::World;

impl World {
    /// A delivery is decided about.
    pub fn judge_carried_way(&mut self, event: &DeliveryEvent) {
        let task = Facts::index(&event.id);
        if event.reason == "unfit" {
            self.facts.fail(task, "cannot be rewritten");
        }
        if event.decision != DeliveryDecision::Joined || event.reason == oncegate::session::JOINED {
            return;
        }
        let mut holders = self.holders(task);
        let right = match event.reason {
            "holder_failed" => holders.any(|holder| self.may_have_failed(holder)),
            "result_unknown" => holders.any(|holder| self.may_be_unknown(holder)),
            _ => false,
        };
        if !right {
            let holders: Vec<usize> = self.holders(task).collect();
            self.facts
                .fail(task, format!("is not to run: {}, and waits for {holders:?}", event.reason));
        }
    }

    fn may_have_failed(&self, holder: usize) -> bool {
        let stored = self.result_of(holder);
        let written = matches!(stored, Some(Stored::Failure | Stored::Revoked)) && self.plan.backend == Backend::Anybody;
        written || self.carried.failed.contains(&holder)
    }

    fn may_be_unknown(&self, holder: usize) -> bool {
        let found_ms = match self.plan.backend {
            Backend::Anybody if self.plan.silent_percent == 0 => FOUND_MS,
            // The worker that is to read it may go.
            Backend::Workers if self.plan.silent_percent == 0 && self.plan.is_calm() => READ_MS,
            _ => return true,
        };
        let value = self.carried.values.get(&holder);
        let written = value.is_some_and(|(_, since_ms)| self.now.unix_ms >= since_ms + found_ms);
        // The end of one that has lost its lock by its start is waited for as long as a lock lives.
        let life_ms = self.plan.rows[self.facts.tasks[holder].row].rule.ttl.as_millis() as u64;
        let begun_ms = self.carried.begun_ms.get(&holder);
        let in_vain = |ms: u64| begun_ms.is_some_and(|begun_ms| ms >= begun_ms + life_ms);
        // A worker may have been asked then, before there was anything to read.
        let unread = self.plan.backend == Backend::Workers && value.is_some_and(|(_, since_ms)| in_vain(*since_ms));
        let over = !self.lives(holder) || in_vain(self.now.unix_ms) || self.may_outlive_its_lock(holder);
        unread || !written && over
    }

    /// A worker has got a delivery.
    pub fn judge_handed(&mut self, at: usize, task: usize, brings: Brings, over: bool) {
        let open = self.links.get(&at).is_some_and(|link| link.broker.open);
        if !open || !self.carries_at_all(task) {
            return;
        }
        let waits = self.carried.waits.entry(task).or_default();
        waits.handed += 1;
        let (handed, most) = (waits.handed, waits.came + waits.again);
        let sure = self.plan.is_calm() && self.plan.silent_percent == 0 && self.plan.parking != Parking::Fails;
        if handed > most && sure {
            self.facts
                .fail(task, format!("comes to a worker {handed} times, and to the broker {most} times"));
        }
        let Brings::Value(value) = brings else {
            if over {
                self.facts.note(task, "comes to its worker as one whose time has passed");
            }
            return;
        };
        self.facts
            .note(task, format!("comes to its worker with what t{} has returned", value.0));
        if !self.carried.returned.contains(&value) {
            self.facts.fail(task, format!("comes with what nobody has returned: {value:?}"));
        }
        let of = |holder: usize| holder == value.0 || self.carried.values.get(&holder).is_some_and(|(stored, _)| *stored == value);
        if !self.holders(task).any(of) {
            let holders: Vec<usize> = self.holders(task).collect();
            self.facts.fail(task, format!("waits for {holders:?}, and comes with {value:?}"));
        }
        let facts = &self.facts.tasks[value.0];
        let copies = facts.doubled || facts.republished;
        if self.runs_itself(value.0) && !copies {
            self.facts
                .fail(task, format!("comes with what t{} has returned, which runs", value.0));
        }
    }

    /// Nothing is held any more that tells of those that wait.
    pub fn judge_store_is_empty(&mut self) {
        self.clock.set(self.now.unix_ms + 400 * 86_400_000);
        let digest = oncegate::rules::lock::Digest([0; 32]);
        let mut left = self.memory.twins_len();
        for _ in 0..10_000 {
            self.memory.execute(&Request::Show { digest });
            left = self.memory.twins_len();
            if left == (0, 0) {
                break;
            }
        }
        assert_eq!(left, (0, 0), "the store knows of those that wait");
    }
}
