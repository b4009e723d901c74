//! What a session learns of exchanges, queues and bindings, and what rules with a queue matcher make of it.

use super::*;
use crate::rules::outcome::ExceptionReason;
use crate::session::topology::{Change, Destination, Kind, Topology};

fn short(text: &str) -> Vec<u8> {
    let mut out = vec![text.len() as u8];
    out.extend_from_slice(text.as_bytes());
    out
}

const PASSIVE: u8 = 1;
const EXCLUSIVE: u8 = 4;
const AUTO_DELETE: u8 = 8;
const NOWAIT: u8 = 16;

fn queue_declare(queue: &str, bits: u8, table: &[u8]) -> Vec<u8> {
    let arguments = [&[0, 0], &*short(queue), &[bits], &(table.len() as u32).to_be_bytes(), table].concat();
    method(1, MethodId::QUEUE_DECLARE, &arguments)
}

fn queue_declare_ok(queue: &str) -> Vec<u8> {
    method(1, MethodId::QUEUE_DECLARE_OK, &[&*short(queue), &[0; 8]].concat())
}

fn exchange_declare(exchange: &str, kind: &str, bits: u8) -> Vec<u8> {
    let arguments = [&[0, 0], &*short(exchange), &*short(kind), &[bits, 0, 0, 0, 0]].concat();
    method(1, MethodId::EXCHANGE_DECLARE, &arguments)
}

/// An exchange of the plugin that delays messages and then routes them as `kind` does.
fn delayed_exchange_declare(exchange: &str, kind: &str) -> Vec<u8> {
    let mut table = Vec::new();
    put_entry(&mut table, b"x-delayed-type", &FieldValue::LongStr(kind.as_bytes())).expect("a short name");
    let arguments = [
        &[0, 0],
        &*short(exchange),
        &*short("x-delayed-message"),
        &[0],
        &(table.len() as u32).to_be_bytes(),
        &*table,
    ];
    method(1, MethodId::EXCHANGE_DECLARE, &arguments.concat())
}

/// `queue.bind` and `exchange.bind`: destination, source, key. `queue.unbind` knows no `nowait`.
fn bind(id: MethodId, to: &str, from: &str, key: &str, nowait: bool) -> Vec<u8> {
    let mut arguments = [&[0, 0], &*short(to), &*short(from), &*short(key)].concat();
    if id != MethodId::QUEUE_UNBIND {
        arguments.push(u8::from(nowait));
    }
    arguments.extend_from_slice(&[0; 4]);
    method(1, id, &arguments)
}

fn queue_bind(queue: &str, key: &str) -> Vec<u8> {
    bind(MethodId::QUEUE_BIND, queue, "e", key, false)
}

fn queue_bind_nowait(queue: &str, key: &str) -> Vec<u8> {
    bind(MethodId::QUEUE_BIND, queue, "e", key, true)
}

fn queue_delete(queue: &str, bits: u8) -> Vec<u8> {
    method(1, MethodId::QUEUE_DELETE, &[&[0, 0], &*short(queue), &[bits]].concat())
}

fn exchange_delete(exchange: &str, bits: u8) -> Vec<u8> {
    method(1, MethodId::EXCHANGE_DELETE, &[&[0, 0], &*short(exchange), &[bits]].concat())
}

/// An answer without arguments that matter.
fn ok(id: MethodId) -> Vec<u8> {
    method(1, id, &[0; 4])
}

fn channel_close(cause: MethodId) -> Vec<u8> {
    let mut arguments = vec![1, 0x94, 0];
    arguments.extend_from_slice(&cause.class.to_be_bytes());
    arguments.extend_from_slice(&cause.method.to_be_bytes());
    method(1, MethodId::CHANNEL_CLOSE, &arguments)
}

fn publish_to(exchange: &str, key: &str, id: &str) -> Vec<u8> {
    let table = headers("t.unique", id);
    let mut out = Vec::new();
    let method = Publish {
        exchange: exchange.as_bytes(),
        routing_key: key.as_bytes(),
        mandatory: false,
        immediate: false,
        bits_offset: 0,
    };
    encode::basic_publish(&mut out, 1, &method, &content(&table, id, BODY), 131_072).expect("it fits");
    out
}

fn of_queue(queue: &str) -> RuleSpec {
    RuleSpec {
        queue: vec![queue.to_owned()],
        ..spec()
    }
}

impl Rig {
    /// What the session says it has learnt since the last call.
    fn learnt(&mut self) -> Vec<String> {
        let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        let binding = |binding: &crate::session::topology::Binding| {
            let to = match &binding.destination {
                Destination::Queue(queue) => queue.to_string(),
                Destination::Exchange(exchange) => format!("@{}", text(exchange)),
            };
            format!("{} {} {to}", text(&binding.source), text(&binding.routing_key))
        };
        let changes = std::mem::take(self.session.changes());
        changes
            .iter()
            .map(|change| match change {
                Change::Exchange(name, kind) => format!("{kind:?} {}", text(name)),
                Change::NoExchange(name) => format!("no-exchange {}", text(name)),
                Change::PassingQueue(name) => format!("passing {name}"),
                Change::NoQueue(name) => format!("no-queue {name}"),
                Change::Bind(bound, _) => format!("bind {}", binding(bound)),
                Change::Unbind(bound) => format!("unbind {}", binding(bound)),
            })
            .collect()
    }

    /// Publishes; true if the store is asked, false if it was counted that the queue is not known, `None` if neither.
    fn asks(&mut self, exchange: &str, key: &str) -> Option<bool> {
        self.session.events().clear();
        self.client(&publish_to(exchange, key, "id"));
        let asked = self.asked();
        for (ticket, _) in &asked {
            self.answer(*ticket, Acquired::Reentry { holds: false });
        }
        let unknown = self.session.events().iter().any(|event| {
            matches!(
                event,
                Event::Exception {
                    reason: ExceptionReason::QueueUnknown,
                    rule: Some(_)
                }
            )
        });
        assert!(asked.is_empty() || !unknown);
        match (asked.len(), unknown) {
            (0, false) => None,
            (0, true) => Some(false),
            _ => Some(true),
        }
    }
}

#[test]
fn what_the_broker_confirms_is_learnt() {
    use MethodId as M;
    for (asks, answers, learnt) in [
        (exchange_declare("e", "topic", 0), ok(M::EXCHANGE_DECLARE_OK), "Topic e"),
        (exchange_declare("e", "x-random", 0), ok(M::EXCHANGE_DECLARE_OK), "Other e"),
        (delayed_exchange_declare("e", "fanout"), ok(M::EXCHANGE_DECLARE_OK), "Fanout e"),
        (delayed_exchange_declare("e", "x-random"), ok(M::EXCHANGE_DECLARE_OK), "Other e"),
        (exchange_declare("e", "direct", PASSIVE), ok(M::EXCHANGE_DECLARE_OK), ""),
        (exchange_delete("e", 0), ok(M::EXCHANGE_DELETE_OK), "no-exchange e"),
        (queue_bind("q", "k"), ok(M::QUEUE_BIND_OK), "bind e k q"),
        (bind(M::QUEUE_UNBIND, "q", "e", "k", false), ok(M::QUEUE_UNBIND_OK), "unbind e k q"),
        (bind(M::EXCHANGE_BIND, "f", "e", "k", false), ok(M::EXCHANGE_BIND_OK), "bind e k @f"),
        (
            bind(M::EXCHANGE_UNBIND, "f", "e", "k", false),
            ok(M::EXCHANGE_UNBIND_OK),
            "unbind e k @f",
        ),
        (queue_delete("q", 0), ok(M::QUEUE_DELETE_OK), "no-queue q"),
        (queue_declare("q", 0, &[]), queue_declare_ok("q"), ""),
        (queue_declare("q", EXCLUSIVE, &[]), queue_declare_ok("q"), "passing q"),
        (queue_declare("q", AUTO_DELETE, &[]), queue_declare_ok("q"), "passing q"),
        (
            queue_declare("q", 0, b"\x09x-expiresI\0\0\0\x09"),
            queue_declare_ok("q"),
            "passing q",
        ),
        (queue_declare("q", EXCLUSIVE | PASSIVE, &[]), queue_declare_ok("q"), ""),
        (
            queue_declare("", EXCLUSIVE, &[]),
            queue_declare_ok("amq.gen-1"),
            "passing amq.gen-1",
        ),
    ] {
        let mut rig = Rig::new(spec());
        rig.client(&asks);
        assert!(rig.learnt().is_empty(), "{learnt}: nothing before the answer");
        // Another channel's answer is not this one's.
        let mut other = answers.clone();
        other[2] = 2;
        rig.broker(&other);
        assert!(rig.learnt().is_empty(), "{learnt}: nothing by another channel's answer");
        rig.broker(&answers);
        assert_eq!(rig.learnt().join(""), learnt);
        rig.broker(&answers);
        assert!(rig.learnt().is_empty(), "{learnt}: once");
        assert_eq!(rig.output(Side::Broker), asks);
    }
}

#[test]
fn answers_belong_to_requests_in_their_order() {
    let mut rig = Rig::new(spec());
    rig.client(
        &[
            queue_declare("a", 0, &[]),
            queue_bind("", "1"),
            queue_declare("", 0, &[]),
            queue_bind("", "2"),
            queue_bind("", ""),
        ]
        .concat(),
    );
    rig.broker(&queue_declare_ok("a"));
    rig.broker(&ok(MethodId::QUEUE_BIND_OK));
    assert_eq!(rig.learnt(), ["bind e 1 a"]);
    rig.client(&queue_delete("", 0));
    rig.broker(&queue_declare_ok("amq.gen-2"));
    rig.broker(&ok(MethodId::QUEUE_PURGE_OK));
    rig.broker(&[ok(MethodId::QUEUE_BIND_OK), ok(MethodId::QUEUE_BIND_OK)].concat());
    assert_eq!(rig.learnt(), ["bind e 2 amq.gen-2", "bind e amq.gen-2 amq.gen-2"]);
    rig.broker(&ok(MethodId::QUEUE_DELETE_OK));
    assert_eq!(rig.learnt(), ["no-queue amq.gen-2"]);
    // What does not fit the order says nothing, and a binding without any queue is none.
    rig.client(&[queue_bind("a", "3"), queue_bind("a", "4")].concat());
    rig.broker(&ok(MethodId::QUEUE_DELETE_OK));
    rig.broker(&[ok(MethodId::QUEUE_BIND_OK), ok(MethodId::QUEUE_BIND_OK)].concat());
    assert!(rig.learnt().is_empty());
    let mut rig = Rig::new(spec());
    rig.client(&queue_bind("", "k"));
    rig.broker(&ok(MethodId::QUEUE_BIND_OK));
    assert!(rig.learnt().is_empty());
}

#[test]
fn what_wants_no_answer_is_learnt_once_all_before_it_is_answered() {
    let mut rig = Rig::new(spec());
    rig.client(
        &[
            queue_declare("a", NOWAIT, &[]),
            queue_bind_nowait("", "1"),
            exchange_declare("e", "fanout", NOWAIT),
        ]
        .concat(),
    );
    assert_eq!(rig.learnt(), ["bind e 1 a", "Fanout e"]);
    rig.client(&[queue_declare("", 0, &[]), queue_bind_nowait("", "2"), queue_delete("b", 4)].concat());
    assert!(rig.learnt().is_empty());
    rig.broker(&queue_declare_ok("amq.gen-1"));
    assert_eq!(rig.learnt(), ["bind e 2 amq.gen-1", "no-queue b"]);
}

#[test]
fn what_the_broker_refuses_is_not_learnt() {
    let mut rig = Rig::new(spec());
    rig.client(&queue_bind_nowait("proven", "k"));
    rig.client(&queue_declare("a", 0, &[]));
    rig.broker(&queue_declare_ok("a"));
    rig.client(&[queue_bind_nowait("unproven", "k"), queue_bind("asked", "k"), queue_delete("a", 0)].concat());
    assert_eq!(rig.learnt(), ["bind e k proven", "bind e k unproven"]);
    rig.broker(&channel_close(MethodId::QUEUE_BIND));
    assert_eq!(rig.learnt(), ["unbind e k unproven"]);
    // A channel that is closed for something else has bound what it has bound.
    let mut rig = Rig::new(spec());
    rig.client(&queue_bind_nowait("q", "k"));
    rig.broker(&channel_close(MethodId::BASIC_ACK));
    assert_eq!(rig.learnt(), ["bind e k q"]);
    // The next channel of that number starts anew.
    rig.client(&method(1, MethodId::CHANNEL_CLOSE_OK, &[]));
    rig.client(&method(1, MethodId::CHANNEL_OPEN, &[0]));
    rig.client(&queue_bind("", "k"));
    rig.broker(&ok(MethodId::QUEUE_BIND_OK));
    assert!(rig.learnt().is_empty());
}

#[test]
fn what_may_have_been_taken_away_when_the_connection_was_lost_is_not_known() {
    let mut rig = Rig::new(spec());
    rig.client(
        &[
            queue_bind("q", "k"),
            queue_delete("a", 0),
            bind(MethodId::QUEUE_UNBIND, "q", "e", "l", false),
        ]
        .concat(),
    );
    rig.session.handle_eof(Side::Broker, rig.now);
    assert_eq!(rig.learnt(), ["no-queue a", "unbind e l q"]);
}

#[test]
fn requests_that_the_broker_does_not_answer_are_bounded() {
    let mut rig = Rig::new(spec());
    for number in 0..20_000 {
        rig.client(&queue_bind("q", &number.to_string()));
    }
    rig.client(&[queue_declare("a", 0, &[]), queue_delete("b", 0)].concat());
    assert_eq!(
        rig.learnt(),
        ["no-queue b"],
        "what is taken away is not known from when it is asked"
    );
    for _ in 0..20_000 {
        rig.broker(&ok(MethodId::QUEUE_BIND_OK));
    }
    assert_eq!(rig.learnt().len(), 10_000);
    rig.broker(&queue_declare_ok("a"));
    rig.broker(&ok(MethodId::QUEUE_DELETE_OK));
    // From here on all is as before.
    rig.client(&[queue_bind("", "none"), queue_bind("q", "last")].concat());
    rig.broker(&[ok(MethodId::QUEUE_BIND_OK), ok(MethodId::QUEUE_BIND_OK)].concat());
    assert_eq!(rig.learnt(), ["bind e last q"]);
}

#[test]
fn a_queue_matcher_goes_by_what_the_connection_has_bound() {
    let mut rig = Rig::new(of_queue("reports"));
    assert_eq!(rig.asks("", "reports"), Some(true));
    assert_eq!(rig.asks("", "other"), None);
    assert_eq!(rig.asks("e", "k"), Some(false));
    rig.client(&queue_bind("reports", "k"));
    assert_eq!(rig.asks("e", "k"), Some(false));
    rig.broker(&ok(MethodId::QUEUE_BIND_OK));
    assert_eq!(rig.asks("e", "k"), Some(true));
    assert_eq!(rig.asks("e", "l"), Some(false));
    // Bound and published in one read.
    rig.client(&[queue_bind_nowait("reports", "m"), publish_to("e", "m", "x")].concat());
    assert_eq!(rig.asked().len(), 1);
}

#[test]
fn a_queue_matcher_goes_by_what_others_have_bound() {
    let mut rig = Rig::new(of_queue("reports"));
    let mut other = Rig::new(spec());
    other.client(
        &[
            exchange_declare("e", "topic", 0),
            queue_bind("reports", "r.*"),
            queue_bind("mail", "#"),
        ]
        .concat(),
    );
    other.broker(
        &[
            ok(MethodId::EXCHANGE_DECLARE_OK),
            ok(MethodId::QUEUE_BIND_OK),
            ok(MethodId::QUEUE_BIND_OK),
        ]
        .concat(),
    );
    let mut topology = Topology::default();
    for change in other.session.changes().drain(..) {
        topology.apply(&change);
    }
    rig.session.handle_topology(Arc::new(topology.clone()));
    // One of the queues is enough; queues of which none matches are known all the same.
    assert_eq!(rig.asks("e", "r.x"), Some(true));
    assert_eq!(rig.asks("e", "x"), None);
    assert_eq!(rig.asks("f", "x"), Some(false));
    let unbind = Change::Unbind(crate::session::topology::Binding {
        source: Arc::from(&b"e"[..]),
        routing_key: Arc::from(&b"r.*"[..]),
        destination: Destination::Queue("reports".into()),
    });
    topology.apply(&unbind);
    rig.session.handle_topology(Arc::new(topology.clone()));
    assert_eq!(rig.asks("e", "r.x"), None);
    topology.apply(&Change::NoExchange(Arc::from(&b"e"[..])));
    topology.apply(&Change::Exchange(Arc::from(&b"e"[..]), Kind::Fanout));
    rig.session.handle_topology(Arc::new(topology));
    assert_eq!(rig.asks("e", "r.x"), Some(false));
}

#[test]
fn a_session_asks_for_the_topology_only_if_a_rule_asks_for_queues() {
    let when = |text: &str| RuleSpec {
        when: Some(text.to_owned()),
        ..spec()
    };
    for (spec, wants) in [
        (spec(), false),
        (of_queue("q*"), true),
        (when("queue == 'q'"), true),
        (when("routing_key == 'q'"), false),
    ] {
        let rig = Rig::new(spec.clone());
        assert_eq!(rig.session.wants_topology(), wants, "{spec:?}");
    }
    let rules = RuleSet::compile(vec![of_queue("q")], &[]).expect("the rule is right");
    let session = Session::new(Arc::new(Settings::default()), Arc::new(rules), 0, Now::default());
    assert!(!session.wants_topology(), "not before the virtual host is open");
}
