//! What a session tells of queues that lose their messages.

use super::*;
use MethodId as M;

const NOWAIT_PURGE: u8 = 1;
const IF_EMPTY: u8 = 2;
const NOWAIT_DELETE: u8 = 4;

fn ask(channel: u16, id: MethodId, queue: &str, bits: u8) -> Vec<u8> {
    let arguments = [&[0, 0, queue.len() as u8], queue.as_bytes(), &[bits]].concat();
    method(channel, id, &arguments)
}

fn purge(queue: &str) -> Vec<u8> {
    ask(1, M::QUEUE_PURGE, queue, 0)
}

fn purge_nowait(queue: &str) -> Vec<u8> {
    ask(1, M::QUEUE_PURGE, queue, NOWAIT_PURGE)
}

fn delete(queue: &str, bits: u8) -> Vec<u8> {
    ask(1, M::QUEUE_DELETE, queue, bits)
}

fn declare(queue: &str) -> Vec<u8> {
    let arguments = [&[0, 0, queue.len() as u8], queue.as_bytes(), &[0; 5]].concat();
    method(1, M::QUEUE_DECLARE, &arguments)
}

fn declare_ok(queue: &str) -> Vec<u8> {
    method(1, M::QUEUE_DECLARE_OK, &[&[queue.len() as u8], queue.as_bytes(), &[0; 8]].concat())
}

fn ok(id: MethodId) -> Vec<u8> {
    method(1, id, &[0; 4])
}

fn refused() -> Vec<u8> {
    method(1, M::CHANNEL_CLOSE, &[1, 0x96, 0, 0, 50, 0, 40])
}

impl Rig {
    /// The queues that were told of since the last call, and when they were asked to be emptied.
    fn emptied(&mut self) -> Vec<(String, u64)> {
        let told = self.session.events().drain(..).filter_map(|event| match event {
            Event::Emptied { queue, at_us } => Some((queue.to_string(), at_us)),
            _ => None,
        });
        told.collect()
    }

    fn emptied_queues(&mut self) -> Vec<String> {
        self.emptied().into_iter().map(|(queue, _)| queue).collect()
    }
}

#[test]
fn a_queue_is_emptied_when_the_broker_says_so_as_of_when_it_was_asked() {
    for (asks, answer) in [
        (purge("q"), M::QUEUE_PURGE_OK),
        (delete("q", 0), M::QUEUE_DELETE_OK),
        (delete("q", IF_EMPTY), M::QUEUE_DELETE_OK),
    ] {
        let mut rig = Rig::new(spec());
        let asked_us = rig.now.us;
        rig.client(&asks);
        rig.later(5_000);
        assert_eq!(rig.emptied(), [], "{answer:?}");
        assert_eq!(rig.broker_got().len(), 1, "it has passed");
        rig.broker(&ok(answer));
        assert_eq!(rig.emptied(), [("q".to_owned(), asked_us)], "{answer:?}");
        rig.broker(&ok(answer));
        assert_eq!(rig.emptied(), [], "{answer:?}");
    }
}

#[test]
fn what_is_refused_or_never_answered_empties_nothing() {
    for asks in [
        purge("q"),
        delete("q", IF_EMPTY),
        purge_nowait("q"),
        delete("q", IF_EMPTY | NOWAIT_DELETE),
    ] {
        let mut rig = Rig::new(spec());
        rig.client(&asks);
        rig.broker(&refused());
        rig.client(&method(1, M::CHANNEL_CLOSE_OK, &[]));
        rig.client(&method(1, M::CHANNEL_OPEN, &[0]));
        rig.broker(&method(1, M::CHANNEL_OPEN_OK, &[0; 4]));
        rig.client(&declare("other"));
        rig.broker(&declare_ok("other"));
        assert_eq!(rig.emptied(), []);
        let mut rig = Rig::new(spec());
        rig.client(&asks);
        rig.session.handle_eof(Side::Broker, rig.now);
        assert_eq!(rig.emptied(), []);
    }
}

#[test]
fn what_wants_no_answer_is_told_once_something_after_it_is_answered() {
    let mut rig = Rig::new(spec());
    rig.client(&[purge_nowait("a"), delete("b", NOWAIT_DELETE)].concat());
    assert_eq!(rig.emptied(), [], "it may be refused");
    rig.client(&[declare("c"), purge_nowait("d")].concat());
    assert_eq!(rig.emptied(), []);
    rig.broker(&declare_ok("c"));
    assert_eq!(rig.emptied_queues(), ["a", "b"]);
    rig.client(&method(1, M::CHANNEL_CLOSE, &[0, 200, 0, 0, 0, 0, 0]));
    assert_eq!(rig.emptied(), []);
    rig.broker(&method(1, M::CHANNEL_CLOSE_OK, &[]));
    assert_eq!(rig.emptied_queues(), ["d"]);
}

#[test]
fn a_queue_without_a_name_is_the_one_declared_last() {
    let mut rig = Rig::new(spec());
    rig.client(&[declare(""), purge(""), delete("", 0)].concat());
    rig.broker(&[declare_ok("amq.gen-1"), ok(M::QUEUE_PURGE_OK), ok(M::QUEUE_DELETE_OK)].concat());
    assert_eq!(rig.emptied_queues(), ["amq.gen-1", "amq.gen-1"]);
    let mut rig = Rig::new(spec());
    rig.client(&purge(""));
    rig.broker(&ok(M::QUEUE_PURGE_OK));
    assert_eq!(rig.emptied(), []);
}

#[test]
fn more_than_is_remembered_is_not_told() {
    let mut rig = Rig::new(spec());
    for _ in 0..100 {
        rig.client(&purge_nowait("nowait"));
    }
    for number in 0..10_050 {
        rig.client(&purge(&number.to_string()));
    }
    rig.client(&delete("deleted", 0));
    assert_eq!(rig.emptied(), []);
    rig.broker(&ok(M::QUEUE_PURGE_OK));
    assert_eq!(rig.emptied().len(), 65);
    for _ in 1..10_050 {
        rig.broker(&ok(M::QUEUE_PURGE_OK));
    }
    assert_eq!(rig.emptied().len(), 9_999);
    rig.broker(&ok(M::QUEUE_DELETE_OK));
    assert_eq!(rig.emptied(), []);
    rig.client(&purge("again"));
    rig.broker(&ok(M::QUEUE_PURGE_OK));
    assert_eq!(rig.emptied_queues(), ["again"]);
}
