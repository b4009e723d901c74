//! What a session makes of the acks of tasks whose events it, or another session of its process, has seen.

use super::*;
use crate::session::Witness;

fn event(id: &str, kind: &str) -> Vec<u8> {
    let body = format!(r#"{{"type": "task-{kind}", "uuid": "{id}", "hostname": "w@one"}}"#);
    let properties = Properties {
        content_type: Some(b"application/json"),
        content_encoding: Some(b"utf-8"),
        ..Properties::default()
    };
    message("celeryev", "task.multi", properties, &body)
}

/// A worker's two connections: that of its deliveries, and that of its events.
struct Worker {
    tasks: Rig,
    events: Rig,
    tag: u64,
}

impl Worker {
    fn new(spec: RuleSpec) -> Worker {
        let witness = Arc::new(Witness::default());
        let (mut tasks, mut events) = (Rig::new(spec.clone()), Rig::new(spec));
        tasks.session.handle_witness(Arc::clone(&witness));
        events.session.handle_witness(witness);
        tasks.admits_all = false;
        tasks.consumes(1, "c", false);
        Worker { tasks, events, tag: 0 }
    }

    fn later(&mut self, us: u64) {
        self.tasks.later(us);
        self.events.later(us);
    }

    /// A run of two seconds; what its ack tells the store.
    fn runs(&mut self, acks_late: bool) -> Vec<String> {
        self.tag += 1;
        let id = format!("id-{}", self.tag);
        self.tasks.broker(&deliver(1, "c", self.tag, "t.unique", &id));
        let admissions = self.tasks.admissions();
        self.tasks.admit(admissions[0].0, Admitted::Holds);
        if !acks_late {
            self.tasks.client(&ack(1, self.tag, false));
        }
        self.events.client(&event(&id, "started"));
        self.later(2_000_000);
        if acks_late {
            self.tasks.client(&ack(1, self.tag, false));
        }
        self.events.client(&event(&id, "succeeded"));
        let mut told = self.tasks.told();
        told.retain(|line| line.starts_with("signal"));
        told.iter().map(|line| line.replace(&format!("{id} "), "")).collect()
    }
}

#[test]
fn the_ack_of_a_task_that_has_acknowledged_late_before_ends_it() {
    let mut worker = Worker::new(spec());
    let told: Vec<_> = (0..4).flat_map(|_| worker.runs(true)).collect();
    assert_eq!(told, ["signal Acked", "signal Acked", "signal AckedLate", "signal AckedLate"]);
    assert_eq!(worker.runs(false), ["signal Acked"]);
    assert_eq!(worker.runs(true), ["signal Acked"], "one that was early takes it back");
}

#[test]
fn a_session_alone_learns_nothing_of_the_events_of_another_process() {
    let mut worker = Worker::new(spec());
    worker.events.session.handle_witness(Arc::default());
    let told: Vec<_> = (0..5).flat_map(|_| worker.runs(true)).collect();
    assert_eq!(told, ["signal Acked"; 5]);
}

#[test]
fn a_rule_of_which_no_end_is_heard_is_told_of_once() {
    let mut worker = Worker::new(spec());
    worker.events.session.handle_witness(Arc::default());
    for _ in 0..60 {
        worker.runs(false);
    }
    let told = worker.tasks.session.events().iter();
    let told = told.filter(|event| matches!(event, Event::EndsUnheard { rule } if *rule.name == *"r"));
    assert_eq!(told.count(), 1);
}
