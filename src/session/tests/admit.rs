//! Deliveries that the store is asked about before the client is shown them.

use super::*;
use crate::amqp::content::ContentHeader;
use crate::rules::outcome::DeliveryDecision;

/// A worker whose consumer `c` has been answered, of a store that answers when the test says so.
pub(super) fn worker_of(spec: RuleSpec) -> Rig {
    worker_with(spec, Settings::default())
}

pub(super) fn worker_with(spec: RuleSpec, settings: Settings) -> Rig {
    let mut rig = Rig::with(spec, settings);
    rig.admits_all = false;
    rig.consumes(1, "c", false);
    rig.broker_got();
    rig
}

fn worker() -> Rig {
    worker_of(spec())
}

pub(super) fn held_by(holder: &str) -> Admitted {
    Admitted::Held {
        holder: holder.into(),
        state: LockState::Queued,
        expires_in_ms: 1000,
    }
}

fn leased_by(holder: &str) -> Admitted {
    Admitted::Leased { holder: holder.into() }
}

/// A delivery with these headers beside the task and the id.
pub(super) fn delivery_with(tag: u64, id: &str, redelivered: bool, more: &[(&str, FieldValue<'_>)]) -> Vec<u8> {
    let mut table = headers("t.unique", id);
    for (name, value) in more {
        put_entry(&mut table, name.as_bytes(), value).expect("short names");
    }
    delivery_of(tag, redelivered, &content(&table, id, BODY))
}

pub(super) fn delivery(tag: u64, id: &str) -> Vec<u8> {
    deliver(1, "c", tag, "t.unique", id)
}

impl Rig {
    /// Delivers, and gives the ticket of the one question about it.
    pub(super) fn delivery_asked(&mut self, tag: u64, id: &str) -> Ticket {
        self.broker(&delivery(tag, id));
        let asked = self.admissions();
        assert_eq!(asked.len(), 1, "one question for one delivery");
        assert_eq!(asked[0].1, id);
        asked[0].0
    }

    /// Time passes, and both peers are heard.
    pub(super) fn lives(&mut self, us: u64) {
        let end = self.now.us + us;
        while self.now.us < end {
            self.later((end - self.now.us).min(5_000_000));
            let heartbeat = [8, 0, 0, 0, 0, 0, 0, frame::END];
            self.client(&heartbeat);
            self.broker(&heartbeat);
        }
    }

    pub(super) fn no_answer(&mut self, ticket: Ticket) {
        self.session.handle_answer(ticket, Err(StoreSilent::Timeout), self.now);
    }

    /// What became of deliveries that were asked about, since the last call.
    pub(super) fn admitted(&mut self) -> Vec<(DeliveryDecision, &'static str)> {
        let events = self.session.events().drain(..);
        events
            .filter_map(|event| match event {
                Event::Admission(delivery) => Some((delivery.decision, delivery.reason)),
                _ => None,
            })
            .collect()
    }
}

#[test]
fn a_delivery_waits_for_the_store_and_then_passes_as_it_came() {
    for admitted in [Admitted::Holds, Admitted::Passes] {
        let mut rig = worker();
        let bytes = delivery(1, "x");
        for byte in &bytes {
            rig.broker(&[*byte]);
        }
        let [(ticket, id, reentrant)] = &rig.admissions()[..] else {
            panic!("one question")
        };
        assert_eq!((&**id, *reentrant), ("x", false));
        assert_eq!(rig.client_got(), [""; 0]);
        assert_eq!(rig.session.held_bytes(), bytes.len());
        rig.admit(*ticket, admitted.clone());
        assert_eq!(rig.output(Side::Client), bytes);
        assert_eq!(rig.session.held_bytes(), 0);
        let reason = if admitted == Admitted::Holds { "holds" } else { "passes" };
        assert_eq!(rig.admitted(), [(DeliveryDecision::Forwarded, reason)]);
        rig.client(&ack(1, 1, false));
        assert_eq!(rig.broker_got(), ["basic.ack 1"]);
        assert_eq!(rig.told(), ["signal x Acked"]);
    }
}

#[test]
fn what_no_enforcing_rule_concerns_passes_without_a_question() {
    let observing = RuleSpec {
        mode: Mode::Observe,
        ..spec()
    };
    let until_expired = RuleSpec {
        unique: Some(Unique::UntilExpired),
        ..spec()
    };
    for (spec, task) in [(spec(), "t.other"), (observing, "t.unique"), (until_expired, "t.unique")] {
        let mut rig = worker_of(spec);
        let bytes = deliver(1, "c", 1, task, "x");
        rig.broker(&bytes);
        assert_eq!(rig.output(Side::Client), bytes);
        assert!(rig.admissions().is_empty());
    }
}

#[test]
fn a_consumer_without_acknowledgement_and_a_get_are_not_asked_about() {
    let mut rig = Rig::new(spec());
    rig.admits_all = false;
    rig.consumes(1, "n", true);
    rig.broker(&deliver(1, "n", 1, "t.unique", "x"));
    assert_eq!(rig.client_got(), ["basic.deliver x"]);
    rig.client(&method(1, MethodId::BASIC_GET, b"\0\0\x01q\0"));
    let mut get = method(1, MethodId::BASIC_GET_OK, &[0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 1, b'q', 0, 0, 0, 0]);
    let all = delivery(2, "y");
    let Split::Frame(first) = frame::split(&all, usize::MAX) else {
        panic!("a frame")
    };
    get.extend_from_slice(&all[first.raw.len()..]);
    rig.broker(&get);
    assert_eq!(rig.client_got(), ["basic.get-ok y"]);
    assert!(rig.admissions().is_empty());
}

#[test]
fn a_delivery_without_a_key_above_the_bound_or_of_a_transaction_is_not_asked_about() {
    let mut rig = worker_of(RuleSpec { bypass: true, ..spec() });
    rig.broker(&delivery(1, "x"));
    assert_eq!(rig.client_got(), ["basic.deliver x"]);

    let mut rig = worker_with(
        spec(),
        Settings {
            max_message: 8,
            ..Settings::default()
        },
    );
    rig.broker(&delivery(1, "x"));
    assert_eq!(rig.client_got(), ["basic.deliver x"]);

    let mut rig = worker();
    rig.client(&method(1, MethodId::TX_SELECT, &[]));
    rig.broker(&delivery(1, "x"));
    assert_eq!(rig.client_got(), ["basic.deliver x"]);
    assert!(rig.admissions().is_empty());
}

#[test]
fn what_was_there_before_says_so() {
    let retried = [("retries", FieldValue::I32(1))];
    let replaced = [("replaced_task_nesting", FieldValue::I32(1))];
    for (redelivered, more) in [(true, &[][..]), (false, &retried[..]), (false, &replaced[..])] {
        let mut rig = worker();
        rig.broker(&delivery_with(1, "x", redelivered, more));
        let asked = rig.admissions();
        assert!(asked[0].2, "redelivered {redelivered}, {more:?}");
    }
}

#[test]
fn the_queue_consumed_is_the_queue_of_its_deliveries() {
    let on_q = || RuleSpec {
        queue: vec!["q".to_owned()],
        ..spec()
    };
    let mut rig = worker_of(on_q());
    rig.broker(&delivery(1, "x"));
    assert_eq!(rig.admissions().len(), 1);
    let mut rig = worker_of(RuleSpec {
        queue: vec!["elsewhere".to_owned()],
        ..spec()
    });
    rig.broker(&delivery(1, "x"));
    assert!(rig.admissions().is_empty());

    // Without a name it is the one declared last.
    let mut rig = Rig::new(on_q());
    rig.admits_all = false;
    rig.client(&method(1, MethodId::QUEUE_DECLARE, b"\0\0\x01q\0\0\0\0\0"));
    rig.client(&method(1, MethodId::BASIC_CONSUME, b"\0\0\0\x01c\0\0\0\0\0"));
    rig.broker(&delivery(1, "x"));
    assert_eq!(rig.admissions().len(), 1);
}

#[test]
fn later_frames_of_the_channel_wait_and_deliveries_among_them_are_asked_about_at_once() {
    let mut rig = worker();
    rig.client(&method(3, MethodId::CHANNEL_OPEN, &[0]));
    let x = rig.delivery_asked(1, "x");
    rig.broker(&deliver(1, "c", 2, "t.other", "o"));
    let y = rig.delivery_asked(3, "y");
    rig.broker(&method(1, MethodId::BASIC_QOS_OK, &[]));
    rig.broker(&method(3, MethodId::CHANNEL_OPEN_OK, &[0, 0, 0, 0]));
    assert_eq!(rig.client_got(), ["channel.open-ok"], "other channels never wait");
    rig.admit(y, Admitted::Passes);
    assert_eq!(rig.client_got(), [""; 0], "its turn has not come");
    rig.admit(x, Admitted::Holds);
    assert_eq!(
        rig.client_got(),
        ["basic.deliver x", "basic.deliver o", "basic.deliver y", "basic.qos-ok"]
    );
    assert_eq!(rig.session.held_bytes(), 0);
    rig.broker(&deliver(1, "c", 4, "t.other", "p"));
    assert_eq!(rig.client_got(), ["basic.deliver p"]);
}

#[test]
fn a_duplicate_found_late_is_acknowledged_unrun() {
    let mut rig = worker();
    let x = rig.delivery_asked(1, "x");
    let y = rig.delivery_asked(2, "y");
    rig.admit(x, Admitted::Holds);
    rig.admit(y, held_by("x"));
    assert_eq!(rig.client_got(), ["basic.deliver x"]);
    assert_eq!(rig.broker_got(), ["basic.ack 2"]);
    assert_eq!(
        rig.admitted(),
        [(DeliveryDecision::Forwarded, "holds"), (DeliveryDecision::Dropped, "duplicate")]
    );
    assert!(rig.told().is_empty(), "no worker has said anything of it");
    // All that is out means what the client has seen.
    rig.client(&ack(1, 0, true));
    assert_eq!(rig.broker_got(), ["basic.ack 1 multiple"]);
    rig.client(&ack(1, 0, true));
    assert_eq!(rig.broker_got(), [""; 0]);
}

#[test]
fn all_that_is_out_does_not_mean_what_waits() {
    let mut rig = worker();
    rig.broker(&deliver(1, "c", 1, "t.other", "o"));
    let x = rig.delivery_asked(2, "x");
    rig.client(&ack(1, 0, true));
    assert_eq!(rig.broker_got(), ["basic.ack 1 multiple"]);
    rig.admit(x, held_by("w"));
    assert_eq!(rig.broker_got(), ["basic.ack 2"]);
}

#[test]
fn nothing_is_acknowledged_inside_a_publish() {
    let mut rig = worker();
    let x = rig.delivery_asked(1, "x");
    let other = publish(1, "t.other", "o", false);
    let cut = other.len() - BODY.len() - 8;
    rig.client(&other[..cut]);
    assert_eq!(rig.broker_got(), ["basic.publish o"]);
    rig.admit(x, held_by("w"));
    assert_eq!(rig.broker_got(), [""; 0]);
    rig.client(&other[cut..]);
    let bytes = rig.output(Side::Broker);
    assert_eq!(bytes[0], 3, "first the body");
    assert_eq!(lines(&bytes[8 + BODY.len()..]), ["basic.ack 1"]);
}

#[test]
fn a_superseded_task_is_handed_over_with_its_time_in_the_past_and_nothing_else_changed() {
    let expires = FieldValue::LongStr(b"2099-01-01T00:00:00.123456+00:00");
    for value in [FieldValue::Void, expires] {
        let mut rig = worker();
        let before = delivery_with(1, "x", false, &[("expires", value), ("group", FieldValue::Void)]);
        rig.broker(&before);
        let ticket = rig.admissions()[0].0;
        rig.admit(ticket, Admitted::Superseded);
        let past = FieldValue::LongStr(b"2020-01-01T00:00:00+00:00");
        let wanted = delivery_with(1, "x", false, &[("expires", past), ("group", FieldValue::Void)]);
        assert_eq!(rig.output(Side::Client), wanted, "{value:?}");
        assert_eq!(rig.admitted(), [(DeliveryDecision::Superseded, "superseded")]);
        assert!(rig.told().is_empty());
        rig.client(&ack(1, 1, false));
        assert_eq!(rig.broker_got(), ["basic.ack 1"]);
        rig.lives(40_000_000);
        assert_eq!(rig.told(), ["signal x Acked"], "it holds nothing that could be renewed");
    }
}

#[test]
fn a_superseded_task_that_cannot_be_told_so_is_acknowledged_unrun() {
    let mut rig = worker();
    let x = rig.delivery_asked(1, "x");
    rig.admit(x, Admitted::Superseded);
    assert_eq!(rig.client_got(), [""; 0]);
    assert_eq!(rig.broker_got(), ["basic.ack 1"]);
    assert_eq!(rig.admitted(), [(DeliveryDecision::Superseded, "superseded")]);
}

#[test]
fn a_task_of_protocol_1_is_found_by_its_body() {
    let mut rig = worker();
    let body = br#"{"task": "t.unique", "id": "v1", "args": [1], "kwargs": {}, "retries": 0, "eta": null, "expires": null}"#;
    let properties = Properties {
        content_type: Some(b"application/json"),
        content_encoding: Some(b"utf-8"),
        correlation_id: Some(b"v1"),
        ..Properties::default()
    };
    let bytes = delivery_of(1, false, &Content { properties, body });
    rig.broker(&bytes);
    let ticket = rig.admissions()[0].0;
    rig.admit(ticket, Admitted::Superseded);
    assert_eq!(rig.client_got(), [""; 0]);
    assert_eq!(rig.broker_got(), ["basic.ack 1"]);
}

#[test]
fn a_silent_store_lets_it_pass() {
    let mut rig = worker();
    let x = rig.delivery_asked(1, "x");
    rig.no_answer(x);
    assert_eq!(rig.client_got(), ["basic.deliver x"]);
    assert_eq!(rig.admitted(), [(DeliveryDecision::ForwardedUnchecked, "store_timeout")]);
    rig.admit(x, held_by("w"));
    assert_eq!(rig.broker_got(), [""; 0], "an answer after that says nothing");
}

#[test]
fn a_leased_key_is_asked_about_again_for_as_long_as_a_lease() {
    let mut rig = worker();
    let x = rig.delivery_asked(1, "x");
    rig.admit(x, leased_by("w"));
    rig.later(99_000);
    assert!(rig.admissions().is_empty());
    rig.later(1_000);
    let asked = rig.admissions();
    assert_eq!((asked.len(), asked[0].0), (1, x));
    rig.admit(x, leased_by("w"));
    rig.later(100_000);
    assert_eq!(rig.admissions().len(), 1);
    rig.admit(x, Admitted::Holds);
    assert_eq!(rig.client_got(), ["basic.deliver x"]);

    let y = rig.delivery_asked(2, "y");
    let mut asked = 0;
    rig.admit(y, leased_by("w"));
    for _ in 0..200 {
        rig.lives(100_000);
        for (ticket, ..) in rig.admissions() {
            asked += 1;
            rig.admit(ticket, leased_by("w"));
        }
    }
    let lease = spec().lease.as_millis() as u64;
    assert_eq!(asked, lease / 100 - 1, "each 100 ms until the lease is over");
    assert!(rig.client_got().contains(&"basic.deliver y".to_owned()));
    assert_eq!(rig.admitted().last(), Some(&(DeliveryDecision::ForwardedUnchecked, "leased")));
}

#[test]
fn at_the_bound_of_memory_the_oldest_go_unchecked() {
    let size = delivery(1, "x").len();
    let mut rig = worker_with(
        spec(),
        Settings {
            connection_memory: 2 * size + size / 2,
            ..Settings::default()
        },
    );
    rig.delivery_asked(1, "x");
    rig.delivery_asked(2, "y");
    assert_eq!(rig.client_got(), [""; 0]);
    let z = rig.delivery_asked(3, "z");
    assert_eq!(rig.client_got(), ["basic.deliver x"]);
    assert_eq!(rig.admitted(), [(DeliveryDecision::ForwardedUnchecked, "memory")]);
    rig.admit(z, Admitted::Passes);
    assert_eq!(rig.session.held_bytes(), 2 * size);
}

#[test]
fn the_lock_of_a_delivery_is_renewed_until_it_is_settled() {
    let mut rig = worker_of(RuleSpec {
        ttl: std::time::Duration::from_secs(60),
        ..spec()
    });
    let x = rig.delivery_asked(1, "x");
    let y = rig.delivery_asked(2, "y");
    rig.admit(x, Admitted::Holds);
    rig.admit(y, Admitted::Passes);
    rig.lives(19_999_000);
    assert!(rig.told().is_empty());
    rig.lives(1_000);
    assert_eq!(rig.told(), ["alive x None"]);
    rig.lives(20_000_000);
    assert_eq!(rig.told(), ["alive x None"]);
    rig.client(&ack(1, 1, false));
    rig.told();
    rig.lives(60_000_000);
    assert!(rig.told().is_empty());
}

#[test]
fn a_long_life_is_renewed_each_half_minute_and_what_is_left_to_begin_shrinks() {
    let mut rig = worker();
    // 2027-01-15T08:00:00Z is the time of the rig.
    let expires = FieldValue::LongStr(b"2027-01-15T08:01:10+00:00");
    rig.broker(&delivery_with(1, "x", false, &[("expires", expires)]));
    let ticket = rig.admissions()[0].0;
    rig.admit(ticket, Admitted::Holds);
    rig.lives(30_000_000);
    assert_eq!(rig.told(), ["alive x Some(41000)"]);
    rig.lives(30_000_000);
    assert_eq!(rig.told(), ["alive x Some(11000)"]);
    rig.lives(30_000_000);
    assert!(rig.told().is_empty(), "it may not begin any more");
}

#[test]
fn questions_open_as_a_drain_begins_end_with_the_delivery_in_its_queue() {
    let mut rig = worker();
    let x = rig.delivery_asked(1, "x");
    let y = rig.delivery_asked(2, "y");
    rig.admit(y, held_by("w"));
    // One is still being read.
    let z = delivery(3, "z");
    rig.broker(&z[..z.len() - 20]);
    rig.drain(0);
    assert_eq!(rig.broker_got(), ["basic.ack 2", "basic.cancel", "basic.nack 1", "basic.nack 3"]);
    rig.broker(&z[z.len() - 20..]);
    assert_eq!(rig.client_got(), ["connection.close"], "nothing was shown");
    rig.admit(x, Admitted::Holds);
    assert_eq!(rig.session.held_bytes(), 0);
    assert!(rig.told().is_empty());
}

#[test]
fn what_ends_a_channel_ends_its_questions() {
    let close_ok = method(1, MethodId::CHANNEL_CLOSE_OK, &[]);
    let close = method(1, MethodId::CHANNEL_CLOSE, &[1, 0x94, 0, 0, 0, 0, 0]);
    // The broker closes it.
    let mut rig = worker();
    let x = rig.delivery_asked(1, "x");
    rig.broker(&deliver(1, "c", 2, "t.other", "o"));
    rig.broker(&close);
    assert_eq!(rig.client_got(), ["basic.deliver o", "channel.close"]);
    assert_eq!(rig.session.held_bytes(), 0);
    rig.client(&close_ok);
    rig.admit(x, held_by("w"));
    assert_eq!(rig.broker_got(), ["channel.close-ok"], "it is gone, and nothing is settled there");
    // A channel of that number is another one.
    rig.client(&method(1, MethodId::CHANNEL_OPEN, &[0]));
    rig.consumes(1, "c", false);
    let y = rig.delivery_asked(1, "y");
    rig.admit(x, held_by("w"));
    assert_eq!(rig.client_got(), [""; 0]);
    rig.admit(y, Admitted::Passes);
    assert_eq!(rig.client_got(), ["basic.deliver y"]);

    // The client closes it.
    let mut rig = worker();
    let x = rig.delivery_asked(1, "x");
    rig.client(&close);
    rig.admit(x, held_by("w"));
    rig.broker(&delivery(2, "y"));
    rig.broker(&close_ok);
    assert_eq!(rig.broker_got(), ["channel.close"]);
    assert_eq!(rig.client_got(), ["basic.deliver y", "channel.close-ok"]);
    assert_eq!(rig.session.held_bytes(), 0);
}

#[test]
fn a_client_that_goes_is_shown_nothing_and_its_deliveries_go_back() {
    let mut rig = worker();
    let x = rig.delivery_asked(1, "x");
    rig.session.handle_eof(Side::Client, rig.now);
    rig.admit(x, held_by("w"));
    assert_eq!(rig.broker_got(), ["channel.close", "connection.close"]);
    assert_eq!(rig.session.held_bytes(), 0);

    let mut rig = worker();
    let x = rig.delivery_asked(1, "x");
    rig.session.handle_close(rig.now.us + 1_000_000, rig.now);
    rig.admit(x, Admitted::Holds);
    assert_eq!(rig.client_got(), ["connection.close"]);
    assert_eq!(rig.session.held_bytes(), 0);

    let mut rig = worker();
    let x = rig.delivery_asked(1, "x");
    rig.session.handle_eof(Side::Broker, rig.now);
    rig.admit(x, held_by("w"));
    assert_eq!(rig.client_got(), ["connection.close"]);
    assert_eq!(rig.session.held_bytes(), 0);
}

#[test]
fn what_the_client_gives_back_to_its_queue_is_not_settled_any_more() {
    let mut rig = worker();
    let x = rig.delivery_asked(1, "x");
    let y = delivery(2, "y");
    rig.broker(&y[..y.len() - 20]);
    rig.client(&method(1, MethodId::BASIC_RECOVER, &[1]));
    rig.broker(&y[y.len() - 20..]);
    rig.admit(x, held_by("w"));
    rig.broker(&delivery(3, "z"));
    assert!(rig.admissions().is_empty(), "it goes back too");
    rig.broker(&method(1, MethodId::BASIC_RECOVER_OK, &[]));
    assert_eq!(rig.broker_got(), ["basic.recover"]);
    assert_eq!(rig.client_got(), ["basic.deliver y", "basic.deliver z", "basic.recover-ok"]);
    let again = rig.delivery_asked(4, "x");
    rig.admit(again, held_by("w"));
    assert_eq!(rig.broker_got(), ["basic.ack 4"]);
    assert_eq!(rig.session.held_bytes(), 0);
}

#[test]
fn what_a_drain_keeps_back_is_given_back_once() {
    // By the client's own recover, behind which a nack would be of nothing.
    let mut rig = worker();
    let other = publish(1, "t.other", "o", false);
    let cut = other.len() - BODY.len() - 8;
    rig.client(&other[..cut]);
    rig.delivery_asked(1, "x");
    rig.drain(0);
    rig.client(&method(1, MethodId::BASIC_RECOVER, &[1]));
    rig.broker(&delivery(2, "y"));
    assert_eq!(rig.broker_got(), ["basic.publish o", "basic.recover", "basic.cancel"]);
    rig.broker(&method(1, MethodId::BASIC_RECOVER_OK, &[]));
    assert_eq!(rig.broker_got(), [""; 0]);

    // By what is given back for a client that is gone: its publish waits, and its deliveries do not.
    let mut rig = worker();
    rig.publish_asked("p");
    rig.broker(&deliver(1, "c", 1, "t.other", "o"));
    rig.drain(0);
    rig.session.handle_eof(Side::Client, rig.now);
    rig.broker(&delivery(2, "y"));
    let p = Ticket::at(0, 1);
    rig.answer(p, Acquired::Taken);
    let sent = rig.broker_got();
    assert_eq!(
        sent.iter().filter(|line| line.starts_with("basic.nack")).collect::<Vec<_>>(),
        ["basic.nack 0 multiple"],
        "{sent:?}"
    );
}

#[test]
fn transactions_begin_with_nothing_that_waits() {
    let mut rig = worker();
    let x = rig.delivery_asked(1, "x");
    rig.client(&method(1, MethodId::TX_SELECT, &[]));
    assert_eq!(rig.client_got(), ["basic.deliver x"]);
    rig.admit(x, held_by("w"));
    assert_eq!(rig.broker_got(), ["tx.select"]);
}

#[test]
fn a_confirm_that_waited_and_is_of_nothing_ends_the_connection() {
    let mut rig = worker();
    let p = rig.publish_asked("p");
    rig.answer(p, Acquired::Taken);
    let x = rig.delivery_asked(1, "x");
    rig.broker(&ack(1, 7, false));
    assert_eq!(rig.client_got(), [""; 0]);
    rig.admit(x, Admitted::Passes);
    assert_eq!(rig.client_got(), ["basic.deliver x", "connection.close"]);
}

#[test]
fn the_headers_of_a_killed_task_are_read_as_before() {
    let mut rig = worker();
    rig.broker(&delivery_with(1, "x", false, &[("expires", FieldValue::Void)]));
    let ticket = rig.admissions()[0].0;
    rig.admit(ticket, Admitted::Superseded);
    let bytes = rig.output(Side::Client);
    let Split::Frame(first) = frame::split(&bytes, usize::MAX) else {
        panic!("a frame")
    };
    let Split::Frame(second) = frame::split(&bytes[first.raw.len()..], usize::MAX) else {
        panic!("a frame")
    };
    let header = ContentHeader::decode(second.payload).expect("a content header");
    let table = header.properties.headers.expect("headers");
    assert_eq!(table.get(b"expires"), Ok(Some(FieldValue::LongStr(b"2020-01-01T00:00:00+00:00"))));
    assert_eq!(table.get(b"task"), Ok(Some(FieldValue::LongStr(b"t.unique"))));
    assert_eq!(header.body_size, BODY.len() as u64);
}

#[test]
fn a_consumer_is_known_before_the_broker_s_answer_to_it_has_its_turn() {
    let mut rig = Rig::new(spec());
    rig.admits_all = false;
    rig.consumes(1, "c", false);
    rig.client(&consume(1, "", true));
    rig.broker(&deliver(1, "c", 1, "t.unique", "x"));
    rig.broker(&method(1, MethodId::BASIC_CONSUME_OK, b"\x0aamq.ctag-1"));
    rig.broker(&deliver(1, "amq.ctag-1", 2, "t.unique", "y"));
    let asked = rig.admissions();
    assert_eq!(asked.len(), 1, "what needs no acknowledgement is not asked about");
    rig.broker_got();
    rig.drain(0);
    assert_eq!(rig.broker_got(), ["basic.cancel", "basic.nack 1"]);
    assert_eq!(rig.client_got(), ["basic.consume-ok", "basic.deliver y", "connection.close"]);
    assert_eq!(rig.told(), [format!("signal y {:?}", Signal::DeliveredNoAck)]);
}

#[test]
fn a_consumer_in_place_of_one_of_the_same_tag_is_told_apart_from_it() {
    let mut rig = Rig::new(spec());
    rig.admits_all = false;
    rig.consumes(1, "c", false);
    rig.broker(&deliver(1, "c", 1, "t.unique", "x"));
    assert_eq!(rig.admissions().len(), 1);
    rig.client(&method(1, MethodId::BASIC_CANCEL, b"\x01c\0"));
    rig.client(&consume(1, "c", true));
    rig.broker(&method(1, MethodId::BASIC_CANCEL_OK, b"\x01c"));
    rig.broker(&method(1, MethodId::BASIC_CONSUME_OK, b"\x01c"));
    rig.broker(&deliver(1, "c", 2, "t.unique", "y"));
    assert_eq!(rig.admissions(), [], "its deliveries need no acknowledgement");
}

#[test]
fn an_ack_of_all_meets_nothing_that_waits_though_the_rules_are_others_by_now() {
    let mut rig = Rig::new(spec());
    rig.admits_all = false;
    rig.consumes(1, "c", false);
    rig.broker(&deliver(1, "c", 1, "t.other", "x"));
    rig.broker(&deliver(1, "c", 2, "t.unique", "y"));
    rig.broker_got();
    let rules = RuleSet::compile(vec![unadmitting()], &[]).expect("the rule is right");
    rig.session.handle_rules(Arc::new(rules));
    rig.client(&ack(1, 0, true));
    assert_eq!(rig.broker_got(), ["basic.ack 1 multiple"]);
}
