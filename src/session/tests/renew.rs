//! The store is back: what is alive is renewed at once. And what a worker acknowledges before it runs it.

use super::admit::{delivery, held_by, worker_of};
use super::hold::{running, worker_with};
use super::*;
use crate::rules::lock::ReleaseOn;
use crate::rules::running::Ran;
use crate::rules::spec::{AcksLate, Outcome};
use crate::session::{Kept, Run};

fn worker() -> Rig {
    worker_of(spec())
}

impl Rig {
    fn store_is_back(&mut self) {
        self.session.handle_store_back(self.now);
    }

    /// The deliveries that a worker was given with the lock of their keys.
    fn holding(&mut self, count: u64) {
        for tag in 1..=count {
            self.broker(&delivery(tag, &tag.to_string()));
        }
        for (ticket, ..) in self.admissions() {
            self.admit(ticket, Admitted::Holds);
        }
        self.client_got();
    }

    /// What has begun to run, acknowledged, since the last call.
    pub(super) fn runs_on(&mut self) -> Vec<Run> {
        let events = self.session.events().drain(..);
        events
            .filter_map(|event| match event {
                Event::Runs(run) => Some(run),
                _ => None,
            })
            .collect()
    }
}

#[test]
fn when_the_store_is_back_all_that_is_alive_is_renewed_at_once() {
    let mut rig = worker();
    rig.holding(3);
    let w = rig.delivery_asked(4, "w");
    let d = rig.delivery_asked(5, "d");
    rig.admit(d, held_by("other"));
    rig.client(&ack(1, 2, false));
    rig.told();
    rig.store_is_back();
    assert_eq!(
        rig.told(),
        ["alive 1 None", "alive 3 None"],
        "what is settled, asked about or dropped is nothing to renew"
    );
    rig.lives(29_000_000);
    assert!(
        rig.told().is_empty(),
        "the next renewal is a third of a life later, or half a minute"
    );
    rig.lives(1_000_000);
    assert_eq!(rig.told(), ["alive 1 None", "alive 3 None"]);
    rig.admit(w, Admitted::Holds);
    // Again and again, on the same connection.
    for _ in 0..3 {
        rig.store_is_back();
        assert_eq!(rig.told(), ["alive 1 None", "alive 3 None", "alive w None"]);
    }
}

#[test]
fn a_connection_that_holds_nothing_has_nothing_to_renew() {
    let mut rig = worker();
    rig.store_is_back();
    assert!(rig.told().is_empty());
    assert_eq!(rig.broker_got(), [""; 0]);
}

#[test]
fn very_many_are_renewed_in_lots_and_within_the_bound() {
    for count in [1_000, 40_000] {
        let mut rig = worker();
        rig.holding(count);
        let (mut renewed, mut waited_us, mut most) = (0, 0, 0);
        rig.store_is_back();
        while renewed < count {
            let lot = rig.told().len() as u64;
            (renewed, most) = (renewed + lot, most.max(lot));
            if renewed < count {
                let until = rig.session.poll_timeout();
                waited_us += until - rig.now.us;
                rig.later(until - rig.now.us);
            }
        }
        assert_eq!(renewed, count, "each once");
        assert!(waited_us <= 5_000_000, "{count} took {waited_us} us");
        assert!(most <= 512, "{most} of {count} at a time");
    }
}

#[test]
fn what_may_not_begin_any_more_is_not_renewed() {
    let mut rig = worker();
    let x = rig.delivery_asked(1, "x");
    rig.admit(x, Admitted::Superseded);
    rig.store_is_back();
    assert!(rig.told().is_empty());
}

#[test]
fn a_delivery_that_a_silent_store_let_pass_claims_its_key_when_the_store_is_back() {
    let mut rig = worker();
    let x = rig.delivery_asked(1, "x");
    rig.no_answer(x);
    let y = rig.delivery_asked(2, "y");
    rig.admit(y, Admitted::Passes);
    assert_eq!(rig.client_got(), ["basic.deliver x", "basic.deliver y"]);
    rig.store_is_back();
    assert_eq!(
        rig.told(),
        ["alive x None"],
        "one that was let pass beside the holder claims nothing"
    );
}

#[test]
fn a_task_acknowledged_early_runs_and_one_acknowledged_late_does_not() {
    let early = || RuleSpec {
        release_on: vec![Outcome::Success],
        ..spec()
    };
    let mut rig = worker_of(early());
    rig.client(&consume_mailbox());
    rig.holding(3);
    rig.client(&ack(1, 2, true));
    let runs = rig.runs_on();
    let ids: Vec<&str> = runs.iter().map(|run| &*run.claim.id).collect();
    assert_eq!(ids, ["1", "2"]);
    let [first, second] = &runs[..] else { panic!("two") };
    assert_eq!((&*first.worker, first.kept.release_on()), ("w@one", ReleaseOn::Success));
    assert_eq!(first.claim.digest, Digest([7; 32]), "the key by which the store knows it");
    assert_ne!(first.delivery, second.delivery);
    rig.client(&nack(1, 3, true));
    assert!(rig.runs_on().is_empty(), "it went back to its queue");

    for acks_late in [AcksLate::True, AcksLate::False] {
        let mut rig = worker_of(RuleSpec { acks_late, ..spec() });
        rig.client(&consume_mailbox());
        rig.holding(2);
        rig.client(&ack(1, 1, false));
        rig.client(&nack(1, 2, false));
        assert_eq!(rig.runs_on().len(), usize::from(acks_late == AcksLate::False), "{acks_late:?}");
    }
}

#[test]
fn where_nobody_can_tell_that_a_worker_lives_nothing_is_known_to_run() {
    // No mailbox.
    let mut rig = worker();
    rig.holding(1);
    rig.client(&ack(1, 1, false));
    assert!(rig.runs_on().is_empty());

    // The lock ended with the start.
    let mut rig = worker_of(RuleSpec {
        unique: Some(Unique::UntilStarted),
        ..spec()
    });
    rig.client(&consume_mailbox());
    rig.holding(1);
    rig.client(&ack(1, 1, false));
    assert!(rig.runs_on().is_empty());
}

#[test]
fn what_runs_alone_and_is_acknowledged_early_runs_on() {
    for (acks_late, runs_on) in [(AcksLate::Auto, true), (AcksLate::False, true), (AcksLate::True, false)] {
        let mut rig = worker_with(RuleSpec { acks_late, ..running() }, Settings::default());
        rig.client(&consume_mailbox());
        let x = rig.run_asked_by("c", 1, "x");
        rig.ran(x, Ran::Runs);
        rig.client(&ack(1, 1, false));
        let runs = rig.runs_on();
        assert_eq!(runs.len(), usize::from(runs_on), "{acks_late:?}");
        assert!(runs.iter().all(|run| matches!(run.kept, Kept::Run(_))));
    }
}

#[test]
fn when_the_store_is_back_runs_are_renewed_at_once_and_what_is_held_keeps_its_publish_lock() {
    let spec = RuleSpec {
        unique: Some(Unique::UntilStartedAndWhileRunning),
        ..spec()
    };
    let mut rig = worker_with(spec, Settings::default());
    for (tag, id) in [(1, "x"), (2, "y")] {
        rig.broker(&delivery(tag, id));
    }
    for (ticket, ..) in rig.admissions() {
        rig.admit(ticket, Admitted::Holds);
    }
    let asked = rig.runs_asked();
    rig.ran(asked[0].0, Ran::Runs);
    let waits = Ran::Waits {
        holder: "x".into(),
        place_ms: 1,
        expires_in_ms: 60_000,
    };
    rig.ran(asked[1].0, waits);
    rig.told();
    rig.store_is_back();
    assert_eq!(rig.told(), ["runs on x", "alive x None", "alive y None"]);
}
