//! Who is there, on a clock that the test sets.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

#[derive(Default)]
struct Manual(AtomicU64);

impl Manual {
    fn set(&self, ms: u64) {
        self.0.store(ms, Ordering::Relaxed);
    }
}

impl Clock for Manual {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

fn node(vhost: &str, name: &str) -> Node {
    Node {
        vhost: vhost.into(),
        name: name.into(),
    }
}

fn one() -> Node {
    node("/", "w@one")
}

fn nodes() -> (Arc<Manual>, Nodes) {
    let clock = Arc::new(Manual::default());
    (Arc::clone(&clock), Nodes::new(clock))
}

fn nobody() -> Ask {
    Box::new(|_| ())
}

const BEAT: Pulse = Pulse::Heartbeat { every_ms: None };

fn presence(nodes: &Nodes) -> Option<Presence> {
    nodes.present().get(&one()).copied()
}

#[test]
fn a_worker_is_there_while_its_mailbox_is_consumed() {
    let (clock, nodes) = nodes();
    clock.set(100);
    nodes.attach(one(), 1, nobody());
    clock.set(1_000_000);
    assert_eq!(presence(&nodes), Some(Presence::Here { since_ms: 100 }));
    assert!(!nodes.present().contains_key(&node("other", "w@one")));
    nodes.detach(&one(), 2);
    assert!(presence(&nodes).is_some(), "that was another connection");
    nodes.detach(&one(), 1);
    assert_eq!(presence(&nodes), None);
}

#[test]
fn the_newest_connection_counts_and_is_asked() {
    let (clock, nodes) = nodes();
    let asked = Arc::new(Mutex::new(Vec::new()));
    for (connection, ms) in [(1, 100), (2, 200)] {
        clock.set(ms);
        let asked = Arc::clone(&asked);
        let ask = move |letter: Letter| match letter {
            Letter::Question(question) => asked.lock().expect("no panic").push((connection, question.ticket)),
            Letter::Revoke { ids, .. } => asked.lock().expect("no panic").push((connection, Arc::clone(&ids[0]))),
        };
        nodes.attach(one(), connection, Box::new(ask));
    }
    let question = || Question {
        ticket: "t".into(),
        node: "w@one".into(),
        ids: Arc::from([]),
    };
    assert_eq!(presence(&nodes), Some(Presence::Here { since_ms: 200 }));
    assert_eq!(nodes.ask(&one(), question()), Ok(()));
    nodes.detach(&one(), 2);
    assert_eq!(presence(&nodes), Some(Presence::Here { since_ms: 100 }));
    assert_eq!(nodes.ask(&one(), question()), Ok(()));
    assert_eq!(nodes.ask(&node("other", "w@one"), question()), Err(question()));
    assert!(nodes.revoke(&one(), Arc::from(["x".into()])));
    assert!(!nodes.revoke(&node("other", "w@one"), Arc::from(["x".into()])));
    assert_eq!(
        *asked.lock().expect("no panic"),
        [(2, "t".into()), (1, "t".into()), (1, "x".into())]
    );
}

#[test]
fn heartbeats_count_for_three_intervals() {
    let (clock, nodes) = nodes();
    clock.set(100);
    nodes.pulse(one(), Pulse::Online { every_ms: Some(1_000) });
    clock.set(1_100);
    nodes.pulse(one(), Pulse::Heartbeat { every_ms: Some(1_000) });
    clock.set(4_100);
    assert_eq!(presence(&nodes), Some(Presence::Beating { since_ms: 100 }));
    clock.set(4_101);
    assert_eq!(presence(&nodes), None);
    nodes.pulse(one(), BEAT);
    clock.set(4_101 + BEATS_MISSED * BEAT_MS);
    assert_eq!(presence(&nodes), Some(Presence::Beating { since_ms: 4_101 }), "it is there anew");
    nodes.pulse(one(), Pulse::Offline);
    assert_eq!(presence(&nodes), None);
}

#[test]
fn a_worker_that_says_it_is_online_is_a_new_one() {
    let (clock, nodes) = nodes();
    nodes.pulse(one(), BEAT);
    clock.set(500);
    nodes.pulse(one(), Pulse::Online { every_ms: None });
    assert_eq!(presence(&nodes), Some(Presence::Beating { since_ms: 500 }));
}

#[test]
fn heartbeats_end_with_the_mailbox() {
    let (_, nodes) = nodes();
    nodes.attach(one(), 1, nobody());
    nodes.pulse(one(), BEAT);
    nodes.detach(&one(), 1);
    assert_eq!(presence(&nodes), None);
}

#[test]
fn invented_names_do_not_fill_the_memory() {
    let (clock, nodes) = nodes();
    for number in 0..2 * BEATING_KEPT {
        nodes.pulse(node("/", &format!("w{number}@one")), BEAT);
    }
    assert_eq!(nodes.present().len(), BEATING_KEPT);
    clock.set(1_000_000);
    nodes.pulse(one(), BEAT);
    assert_eq!(nodes.present().len(), 1);
}

#[test]
fn each_node_has_a_note_of_its_own() {
    let names = [
        node("/", "a@one"),
        node("a:b", "c@one"),
        node("a", "b:c@one"),
        node("a%3Ab", "c@one"),
    ];
    let notes: std::collections::HashSet<String> = names.iter().map(Node::note).collect();
    assert_eq!(notes.len(), names.len(), "{notes:?}");
    assert!(notes.contains("node:/:a@one"));
}

#[test]
fn a_worker_is_carried_whose_mailbox_or_events_pass() {
    let (clock, nodes) = nodes();
    let (vhost, name) = (Arc::from("/"), Arc::from("w@one"));
    Workers::pulse(&nodes, &vhost, Arc::clone(&name), BEAT);
    assert!(
        !nodes.is_carried(&vhost, &name),
        "it was heard past the connections of this process"
    );
    nodes.pulse(one(), Pulse::Online { every_ms: None });
    assert!(nodes.is_carried(&vhost, &name));
    clock.set(BEATS_MISSED * BEAT_MS + 1);
    assert!(!nodes.is_carried(&vhost, &name), "it is silent");
    nodes.attach(one(), 1, nobody());
    assert!(nodes.is_carried(&vhost, &name));
}
