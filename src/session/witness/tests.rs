//! What is concluded from runs that begin, are acknowledged and end in whatever order.

use super::*;
use crate::rules::RuleSet;
use crate::rules::spec::{AcksLate, Completion, CompletionSource, RuleSpec, Unique};

const MINUTE: u64 = 60_000_000;

fn rule(change: impl FnOnce(&mut RuleSpec)) -> Arc<Rule> {
    let mut spec = RuleSpec {
        name: Some("r".to_owned()),
        task: vec!["t".to_owned()],
        unique: Some(Unique::UntilFinished),
        ..RuleSpec::default()
    };
    change(&mut spec);
    let set = RuleSet::compile(vec![spec], &[]).expect("the rule is right");
    Arc::clone(&set.rules()[0])
}

/// A witness, one rule and a clock.
struct Stage {
    witness: Witness,
    rule: Arc<Rule>,
    now_us: u64,
    ids: u32,
}

impl Stage {
    fn new(rule: Arc<Rule>) -> Stage {
        Stage {
            witness: Witness::default(),
            rule,
            now_us: 1_000_000,
            ids: 0,
        }
    }

    fn deliver(&mut self) -> Arc<str> {
        self.ids += 1;
        let id = Arc::from(format!("id-{}", self.ids));
        self.witness.delivered(&id, &"t".into(), &self.rule);
        id
    }

    fn event(&self, id: &str, signal: Signal) {
        self.witness.heard(id, signal, Source::Events, self.now_us);
    }

    fn ack(&self, id: &str) -> Ack {
        self.witness.acked(id, self.now_us).0
    }

    /// A run of two seconds that acknowledges late: what its ack says.
    fn late_run(&mut self) -> Ack {
        let id = self.deliver();
        self.event(&id, Signal::Started);
        self.now_us += 2_000_000;
        let ack = self.ack(&id);
        self.now_us += 1_000;
        self.event(&id, Signal::Succeeded);
        ack
    }

    /// A run of two seconds that acknowledges early.
    fn early_run(&mut self) -> Ack {
        let id = self.deliver();
        let ack = self.ack(&id);
        self.event(&id, Signal::Started);
        self.now_us += 2_000_000;
        self.event(&id, Signal::Succeeded);
        ack
    }
}

#[test]
fn late_acks_are_learnt_after_three_runs_in_a_row() {
    let mut stage = Stage::new(rule(|_| {}));
    let said = [stage.late_run(), stage.late_run(), stage.late_run(), stage.late_run()];
    assert_eq!(said, [Ack::Begun, Ack::Begun, Ack::Ended, Ack::Ended]);
}

#[test]
fn one_early_ack_takes_it_back() {
    let mut stage = Stage::new(rule(|_| {}));
    for _ in 0..5 {
        stage.late_run();
    }
    assert_eq!(stage.early_run(), Ack::Begun, "its own start was not heard long before");
    let said = [stage.late_run(), stage.late_run(), stage.late_run()];
    assert_eq!(said, [Ack::Begun, Ack::Begun, Ack::Ended]);
}

#[test]
fn a_run_whose_start_is_not_heard_long_before_is_not_ended_by_its_ack() {
    let mut stage = Stage::new(rule(|_| {}));
    for _ in 0..5 {
        stage.late_run();
    }
    let unheard = stage.deliver();
    stage.now_us += MINUTE;
    assert_eq!(stage.ack(&unheard), Ack::Begun, "it may have waited in the worker");
    let short = stage.deliver();
    stage.event(&short, Signal::Started);
    stage.now_us += APART_US - 1;
    assert_eq!(stage.ack(&short), Ack::Begun, "the two may have been one moment");
}

#[test]
fn short_runs_teach_nothing() {
    let mut stage = Stage::new(rule(|_| {}));
    for _ in 0..10 {
        let id = stage.deliver();
        stage.event(&id, Signal::Started);
        stage.now_us += 10_000;
        assert_eq!(stage.ack(&id), Ack::Begun);
        stage.event(&id, Signal::Succeeded);
    }
}

#[test]
fn the_ack_of_what_was_heard_to_end_says_that_it_has_ended() {
    let mut stage = Stage::new(rule(|_| {}));
    let id = stage.deliver();
    stage.witness.heard(&id, Signal::Succeeded, Source::Rpc, stage.now_us);
    assert_eq!(stage.ack(&id), Ack::Ended);
    assert_eq!(stage.ack(&id), Ack::Begun, "the run is forgotten with it");
}

#[test]
fn an_ack_behind_the_next_delivery_of_its_id_says_nothing() {
    let mut stage = Stage::new(rule(|_| {}));
    for _ in 0..5 {
        stage.late_run();
    }
    let id = stage.deliver();
    stage.event(&id, Signal::Started);
    stage.now_us += 2_000_000;
    // The retry is delivered before the first message is acknowledged.
    stage.witness.delivered(&id, &"t".into(), &stage.rule);
    assert_eq!(stage.ack(&id), Ack::Begun);
}

#[test]
fn what_the_rule_says_is_not_learnt() {
    for says in [AcksLate::False, AcksLate::True] {
        let mut stage = Stage::new(rule(|spec| spec.acks_late = says));
        for _ in 0..5 {
            assert_eq!(stage.late_run(), Ack::Begun, "the lock knows: {says:?}");
        }
    }
}

/// Whether it is told that no end is heard, while so many tasks are acknowledged over two minutes.
fn told(stage: &mut Stage, tasks: u32) -> usize {
    let mut told = 0;
    for _ in 0..tasks {
        let id = stage.deliver();
        stage.now_us += 2 * MINUTE / u64::from(tasks);
        told += usize::from(stage.witness.acked(&id, stage.now_us).1.is_some());
    }
    told
}

#[test]
fn a_rule_without_ends_is_told_of_once() {
    let mut stage = Stage::new(rule(|_| {}));
    assert_eq!(told(&mut stage, 9), 0, "a few may run for long");
    let mut stage = Stage::new(rule(|_| {}));
    assert_eq!(told(&mut stage, 40), 1);
    assert_eq!(told(&mut stage, 40), 0);
    stage.witness.configured(false);
    assert_eq!(told(&mut stage, 40), 1, "the new configuration did not mend it");
}

#[test]
fn many_tasks_within_a_minute_prove_nothing() {
    let mut stage = Stage::new(rule(|_| {}));
    for _ in 0..1000 {
        let id = stage.deliver();
        stage.now_us += 50_000;
        assert!(stage.witness.acked(&id, stage.now_us).1.is_none());
    }
}

#[test]
fn a_rule_of_which_a_signal_is_heard_is_not_told_of() {
    let mut stage = Stage::new(rule(|_| {}));
    let id = stage.deliver();
    stage.event(&id, Signal::Started);
    assert_eq!(told(&mut stage, 40), 0, "an event of the end will come");

    let mut stage = Stage::new(rule(|_| {}));
    stage.witness.configured(true);
    assert_eq!(told(&mut stage, 40), 0, "the result backend tells others");

    let only_ack = |spec: &mut RuleSpec| spec.completion = Completion::Only(vec![CompletionSource::Ack]);
    let mut stage = Stage::new(rule(only_ack));
    let id = stage.deliver();
    stage.event(&id, Signal::Started);
    assert_eq!(told(&mut stage, 40), 1, "it does not listen to events");

    let mut stage = Stage::new(rule(|spec| {
        only_ack(spec);
        spec.acks_late = AcksLate::True;
    }));
    assert_eq!(told(&mut stage, 40), 0, "the ack tells the end");
    let mut stage = Stage::new(rule(|spec| spec.unique = Some(Unique::UntilStarted)));
    assert_eq!(told(&mut stage, 40), 0, "no end is waited for");
}

#[test]
fn memory_is_bounded() {
    let mut stage = Stage::new(rule(|_| {}));
    for _ in 0..3 * RUNS {
        stage.deliver();
    }
    let again = stage.deliver();
    for _ in 0..3 * RUNS {
        stage.witness.delivered(&again, &"t".into(), &stage.rule);
    }
    let seen = stage.witness.seen();
    assert!(seen.runs.len() <= RUNS && seen.order.len() <= 2 * RUNS);
}
