//! The graceful end while Oncegate shuts down.

use super::*;

fn close_ok() -> Vec<u8> {
    method(0, MethodId::CONNECTION_CLOSE_OK, &[])
}

fn cancel(tag: &str) -> Vec<u8> {
    let mut arguments = vec![tag.len() as u8];
    arguments.extend_from_slice(tag.as_bytes());
    arguments.push(0);
    method(1, MethodId::BASIC_CANCEL, &arguments)
}

fn tag_only(id: MethodId, tag: &str) -> Vec<u8> {
    let mut arguments = vec![tag.len() as u8];
    arguments.extend_from_slice(tag.as_bytes());
    method(1, id, &arguments)
}

fn consume_nowait(tag: &str) -> Vec<u8> {
    let mut raw = consume(1, tag, false);
    // The bits stand before the empty table of arguments and the end octet.
    *raw.iter_mut().rev().nth(5).expect("the bits") |= 1 << 3;
    raw
}

/// A worker with one delivery in hand, told to drain, with the frames so far taken.
fn draining() -> Rig {
    let mut rig = Rig::new(spec());
    rig.consumes(1, "c", false);
    rig.broker(&deliver(1, "c", 1, "t.unique", "x"));
    rig.broker_got();
    rig.client_got();
    rig.drain(0);
    rig
}

#[test]
fn consumers_that_acknowledge_are_cancelled_at_the_broker_and_the_client_learns_nothing() {
    let mut rig = Rig::new(spec());
    rig.consumes(1, "work", false);
    rig.consumes(1, "control", true);
    rig.broker(&deliver(1, "work", 1, "t.unique", "x"));
    rig.broker_got();
    rig.client_got();
    rig.drain(0);
    let sent = rig.output(Side::Broker);
    let Split::Frame(frame) = frame::split(&sent, usize::MAX) else {
        panic!("a frame")
    };
    assert_eq!(frame.raw.len(), sent.len(), "one frame: the consumer without acknowledgement stays");
    let cancel = Cancel::decode(frame.payload).expect("a cancel");
    assert_eq!(cancel.consumer_tag, b"work");
    assert!(cancel.nowait, "nobody answers, so there is nothing to swallow");
    assert_eq!(rig.client_got(), [""; 0]);
}

#[test]
fn a_delivery_under_way_goes_back_behind_the_cancel() {
    let mut rig = draining();
    rig.broker(&deliver(1, "c", 2, "t.unique", "y"));
    rig.broker(&deliver(1, "c", 3, "t.unique", "z"));
    assert_eq!(rig.broker_got(), ["basic.cancel", "basic.nack 2", "basic.nack 3"]);
    assert_eq!(rig.client_got(), [""; 0]);
    rig.client(&ack(1, 1, false));
    assert_eq!(rig.broker_got(), ["basic.ack 1"], "each goes back once");
    assert_eq!(rig.client_got(), ["connection.close"], "what went back holds nothing up");
}

#[test]
fn the_clients_own_cancel_gets_its_one_answer() {
    let mut rig = draining();
    rig.broker_got();
    rig.client(&cancel("c"));
    assert_eq!(rig.broker_got(), ["basic.cancel"]);
    rig.broker(&tag_only(MethodId::BASIC_CANCEL_OK, "c"));
    assert_eq!(rig.client_got(), ["basic.cancel-ok"]);
}

#[test]
fn qos_and_recover_pass_during_a_drain() {
    let mut rig = draining();
    rig.broker_got();
    rig.client(&method(1, MethodId::BASIC_QOS, &[0, 0, 0, 0, 0, 9, 0]));
    rig.client(&method(1, MethodId::BASIC_RECOVER, &[1]));
    assert_eq!(rig.broker_got(), ["basic.qos", "basic.recover"]);
    rig.broker(&method(1, MethodId::BASIC_QOS_OK, &[]));
    rig.broker(&method(1, MethodId::BASIC_RECOVER_OK, &[]));
    assert_eq!(
        rig.client_got(),
        ["basic.qos-ok", "basic.recover-ok", "connection.close"],
        "everything went back to its queue, so nothing is in hand"
    );
}

#[test]
fn a_consumer_that_comes_during_the_drain_is_cancelled_once_it_is_answered() {
    let mut rig = draining();
    rig.broker_got();
    rig.client(&consume(1, "late", false));
    assert_eq!(rig.broker_got(), ["basic.consume"], "a cancel now would crash the broker's channel");
    rig.broker(&tag_only(MethodId::BASIC_CONSUME_OK, "late"));
    rig.broker(&deliver(1, "late", 2, "t.unique", "y"));
    assert_eq!(rig.broker_got(), ["basic.cancel", "basic.nack 2"]);
    assert_eq!(rig.client_got(), ["basic.consume-ok"]);
}

#[test]
fn a_consumer_in_place_of_one_of_the_same_tag_is_cancelled_once_it_is_answered_itself() {
    let mut rig = draining();
    rig.broker_got();
    rig.client(&cancel("c"));
    rig.client(&consume(1, "c", false));
    // Under way to the old one.
    rig.broker(&deliver(1, "c", 2, "t.unique", "y"));
    assert_eq!(rig.broker_got(), ["basic.cancel", "basic.consume", "basic.nack 2"]);
    rig.broker(&tag_only(MethodId::BASIC_CANCEL_OK, "c"));
    assert_eq!(rig.broker_got(), [""; 0]);
    rig.broker(&tag_only(MethodId::BASIC_CONSUME_OK, "c"));
    assert_eq!(rig.broker_got(), ["basic.cancel"]);
    assert_eq!(rig.client_got(), ["basic.cancel-ok", "basic.consume-ok"]);
}

#[test]
fn a_consumer_that_wants_no_answer_is_cancelled_at_once() {
    let mut rig = draining();
    rig.broker_got();
    rig.client(&consume_nowait("late"));
    assert_eq!(rig.broker_got(), ["basic.consume", "basic.cancel"]);
}

#[test]
fn a_consumer_whose_tag_the_broker_chooses_is_cancelled_when_the_tag_is_known() {
    let mut rig = draining();
    rig.broker_got();
    rig.client(&consume(1, "", false));
    assert_eq!(rig.broker_got(), ["basic.consume"]);
    rig.broker(&tag_only(MethodId::BASIC_CONSUME_OK, "amq.ctag-1"));
    assert_eq!(rig.broker_got(), ["basic.cancel"]);
    assert_eq!(rig.client_got(), ["basic.consume-ok"]);

    // Asked not to tell it, the broker shows the tag by the first delivery.
    let mut rig = draining();
    rig.broker_got();
    rig.client(&consume_nowait(""));
    rig.broker_got();
    rig.broker(&deliver(1, "amq.ctag-2", 2, "t.unique", "y"));
    assert_eq!(
        rig.broker_got(),
        ["basic.cancel", "basic.nack 2"],
        "given back before the cancel it would come again at once"
    );
    rig.broker(&deliver(1, "amq.ctag-2", 3, "t.unique", "z"));
    assert_eq!(rig.broker_got(), ["basic.nack 3"]);
    assert_eq!(rig.client_got(), [""; 0]);
}

#[test]
fn whatever_sends_deliveries_is_cancelled() {
    let mut rig = draining();
    let mut nowait = cancel("c");
    *nowait.iter_mut().rev().nth(1).expect("the bits") = 1;
    rig.client(&nowait);
    rig.broker_got();
    rig.broker(&deliver(1, "c", 2, "t.unique", "y"));
    assert_eq!(rig.broker_got(), ["basic.cancel", "basic.nack 2"], "once more does no harm");
}

#[test]
fn nothing_is_given_back_inside_a_publish() {
    let mut rig = Rig::new(spec());
    rig.consumes(1, "c", false);
    rig.broker(&deliver(1, "c", 1, "t.unique", "x"));
    let other = publish(1, "t.other", "o", false);
    // All but the last octets of the body frame, and yet its method and content header.
    let cut = other.len() - BODY.len() - 8;
    rig.client(&other[..cut]);
    rig.broker_got();
    rig.client_got();
    rig.drain(0);
    rig.broker(&deliver(1, "c", 2, "t.unique", "y"));
    assert_eq!(rig.broker_got(), [""; 0]);
    rig.client(&other[cut..]);
    let bytes = rig.output(Side::Broker);
    assert_eq!(bytes[0], 3, "first the body");
    let body = 8 + BODY.len();
    assert_eq!(lines(&bytes[body..]), ["basic.cancel", "basic.nack 2"]);
}

#[test]
fn a_consume_that_waits_behind_a_publish_leaves_before_its_cancel() {
    let mut rig = Rig::new(spec());
    let a = rig.publish_asked("a");
    rig.client(&consume_nowait("c"));
    rig.drain(0);
    assert_eq!(rig.broker_got(), [""; 0]);
    rig.answer(a, Acquired::Taken);
    assert_eq!(
        rig.broker_got(),
        ["confirm.select", "basic.publish mandatory a", "basic.consume", "basic.cancel"]
    );
}

#[test]
fn a_closing_channel_is_left_alone() {
    let mut rig = draining();
    rig.broker_got();
    rig.client(&method(1, MethodId::CHANNEL_CLOSE, b"\0\xc8\0\0\0\0\0"));
    rig.broker(&deliver(1, "c", 2, "t.unique", "y"));
    assert_eq!(rig.broker_got(), ["channel.close"], "the close gives everything back");
}

#[test]
fn a_transactional_channel_is_left_alone() {
    let mut rig = Rig::new(spec());
    rig.consumes(1, "c", false);
    rig.client(&method(1, MethodId::TX_SELECT, &[]));
    rig.client(&method(2, MethodId::CHANNEL_OPEN, &[0]));
    rig.consumes(2, "d", false);
    rig.broker(&deliver(2, "d", 1, "t.unique", "x"));
    rig.broker_got();
    rig.client_got();
    rig.drain(0);
    assert_eq!(rig.broker_got(), ["basic.cancel"]);
    rig.broker(&deliver(1, "c", 1, "t.unique", "y"));
    assert_eq!(rig.client_got(), ["basic.deliver y"]);
}

#[test]
fn an_idle_connection_waits_for_its_turn_to_close() {
    let mut rig = Rig::new(spec());
    rig.drain(700_000);
    assert_eq!(rig.client_got(), [""; 0]);
    assert!(rig.session.poll_timeout() <= rig.now.us + 700_000);
    rig.later(699_999);
    assert_eq!(rig.client_got(), [""; 0]);
    rig.later(1);
    assert_eq!(rig.client_got(), ["connection.close"]);
}

#[test]
fn the_turn_survives_other_deadlines_and_the_earliest_of_two_counts() {
    let mut rig = Rig::new(spec());
    rig.consumes(1, "c", false);
    rig.broker(&deliver(1, "c", 1, "t.unique", "x"));
    let a = rig.publish_asked("a");
    rig.answer(a, Acquired::Taken);
    rig.drain(60_000_000);
    rig.drain(8_000_000);
    rig.drain(9_000_000);
    rig.client(&ack(1, 1, false));
    // The lease is renewed on the way.
    rig.later(4_000_000);
    rig.broker(&ack(1, 1, false));
    rig.client_got();
    let due = rig.session.poll_timeout();
    assert!(due <= rig.now.us + 4_000_000, "woken for its turn");
    rig.later(4_000_000);
    assert!(rig.client_got().contains(&"connection.close".to_owned()));
}

#[test]
fn a_get_that_is_not_answered_is_work_in_hand() {
    let mut rig = Rig::new(spec());
    rig.client(&method(1, MethodId::BASIC_GET, b"\0\0\x01q\x01"));
    rig.drain(0);
    assert_eq!(rig.client_got(), [""; 0], "its message would be lost");
    rig.broker(&method(1, MethodId::BASIC_GET_EMPTY, b"\0"));
    assert_eq!(rig.client_got(), ["basic.get-empty", "connection.close"]);
}

#[test]
fn no_connection_closes_in_the_middle_of_a_message_to_its_client() {
    let mut rig = Rig::new(spec());
    rig.consumes(1, "c", true);
    let all = deliver(1, "c", 1, "t.other", "x");
    rig.broker(&all[..all.len() - BODY.len() - 8]);
    rig.drain(0);
    assert_eq!(rig.client_got(), ["basic.deliver x"]);
    rig.broker(&all[all.len() - BODY.len() - 8..]);
    let bytes = rig.output(Side::Client);
    assert_eq!(lines(&bytes[8 + BODY.len()..]), ["connection.close"]);
}

#[test]
fn told_to_close_now_every_wait_ends_at_the_deadline() {
    // The client does not answer, and neither does the broker confirm.
    let mut rig = Rig::new(spec());
    let a = rig.publish_asked("a");
    rig.answer(a, Acquired::Taken);
    let b = rig.publish_asked("b");
    rig.broker_got();
    rig.session.handle_close(rig.now.us + 5_000_000, rig.now);
    assert_eq!(rig.client_got(), ["connection.close"]);
    rig.later(4_999_999);
    assert!(!rig.session.is_done(Side::Client) && !rig.session.is_done(Side::Broker));
    rig.later(1);
    while rig.session.poll_timeout() <= rig.now.us {
        rig.later(0);
    }
    assert!(rig.session.is_done(Side::Client) && rig.session.is_done(Side::Broker));
    assert_eq!(
        rig.broker_got().into_iter().filter(|line| line != "Heartbeat").collect::<Vec<_>>(),
        ["basic.publish mandatory b", "connection.close"],
        "what the store said nothing of goes unchecked"
    );
    rig.silence(b);
}

#[test]
fn a_wait_that_has_begun_is_shortened_by_the_end() {
    let mut rig = Rig::new(spec());
    rig.session.handle_eof(Side::Client, rig.now);
    assert_eq!(rig.broker_got(), ["connection.close"], "waits 5 s for its answer");
    rig.session.handle_close(rig.now.us + 1_000_000, rig.now);
    rig.later(1_000_000);
    assert!(rig.session.is_done(Side::Broker));
}

#[test]
fn a_client_whose_own_close_is_never_answered_ends_at_the_deadline() {
    for broker_closes in [false, true] {
        let mut rig = Rig::new(spec());
        let close = method(0, MethodId::CONNECTION_CLOSE, b"\0\xc8\0\0\0\0\0");
        if broker_closes {
            rig.broker(&close);
        } else {
            rig.client(&close);
        }
        rig.session.handle_close(rig.now.us + 1_000_000, rig.now);
        assert!(!rig.session.is_done(Side::Client));
        rig.later(1_000_000);
        assert!(rig.session.is_done(Side::Client) && rig.session.is_done(Side::Broker));
    }
}

#[test]
fn a_broker_that_closes_while_the_client_is_told_to_go_is_answered() {
    let mut rig = Rig::new(spec());
    rig.drain(0);
    assert_eq!(rig.client_got(), ["connection.close"]);
    rig.broker(&method(0, MethodId::CONNECTION_CLOSE, b"\x01\x40\0\0\0\0\0"));
    assert_eq!(
        rig.broker_got(),
        ["connection.close-ok"],
        "the client answers Oncegate, not the broker"
    );
    assert!(rig.session.is_done(Side::Broker));
    assert_eq!(rig.client_got(), [""; 0], "one connection.close is enough");
    rig.client(&close_ok());
    assert!(rig.session.is_done(Side::Client));
    assert_eq!(rig.broker_got(), [""; 0]);
}

#[test]
fn nothing_that_comes_after_the_close_of_a_client_that_was_told_to_go_reaches_the_broker() {
    let mut rig = Rig::new(spec());
    rig.drain(0);
    rig.broker_got();
    assert_eq!(rig.client_got(), ["connection.close"]);
    let mut close = Vec::new();
    encode::connection_close(&mut close, 200, "bye", None);
    // Both sides close at once, and the client's close and its answer are read together.
    rig.client(&[close, close_ok()].concat());
    assert_eq!(
        rig.broker_got(),
        ["connection.close"],
        "that of Oncegate, which nobody has to answer"
    );
}

#[test]
fn a_broker_that_closes_while_a_client_that_left_is_settled_is_answered() {
    let mut rig = Rig::new(spec());
    let a = rig.publish_asked("a");
    rig.answer(a, Acquired::Taken);
    rig.session.handle_eof(Side::Client, rig.now);
    rig.broker_got();
    rig.broker(&method(0, MethodId::CONNECTION_CLOSE, b"\x01\x40\0\0\0\0\0"));
    assert_eq!(rig.broker_got(), ["connection.close-ok"]);
    assert_eq!(rig.told(), ["unpublish a unconfirmed"]);
    assert!(rig.session.is_done(Side::Client) && rig.session.is_done(Side::Broker));
}

#[test]
fn a_connection_that_takes_no_work_waits_for_its_neighbours() {
    let mut rig = Rig::new(spec());
    // A Celery worker's connection for events may well consume without acknowledgement.
    rig.consumes(1, "control", true);
    rig.session.handle_drain(0, Neighbours::Busy, rig.now);
    assert_eq!(rig.client_got(), [""; 0], "the worker would give its other connection up");
    rig.client(&publish(1, "t.other", "x", false));
    assert_eq!(rig.broker_got(), ["basic.consume", "basic.publish x"], "it works as ever");
    rig.session.handle_neighbours_idle(rig.now);
    assert_eq!(rig.client_got(), ["connection.close"]);
}

#[test]
fn a_connection_that_takes_work_waits_for_nobody_else() {
    let mut rig = Rig::new(spec());
    rig.consumes(1, "c", false);
    rig.broker(&deliver(1, "c", 1, "t.unique", "x"));
    rig.client_got();
    assert!(rig.session.has_work_in_hand());
    rig.session.handle_drain(0, Neighbours::Busy, rig.now);
    assert_eq!(rig.client_got(), [""; 0]);
    rig.client(&ack(1, 1, false));
    assert!(!rig.session.has_work_in_hand());
    assert_eq!(rig.client_got(), ["connection.close"]);
}

#[test]
fn what_comes_while_the_client_recovers_is_not_given_back_twice() {
    let mut rig = draining();
    rig.broker_got();
    rig.client(&method(1, MethodId::BASIC_RECOVER, &[1]));
    // The broker sent it before it read that all comes back.
    rig.broker(&deliver(1, "c", 2, "t.unique", "y"));
    assert_eq!(rig.broker_got(), ["basic.recover"]);
    rig.broker(&method(1, MethodId::BASIC_RECOVER_OK, &[]));
    assert_eq!(rig.broker_got(), [""; 0]);
    rig.broker(&deliver(1, "c", 3, "t.unique", "y"));
    assert_eq!(rig.broker_got(), ["basic.nack 3"], "what comes after the answer does not");
}

#[test]
fn an_ack_of_all_covers_only_what_the_client_was_handed() {
    let mut rig = draining();
    rig.broker_got();
    rig.client(&ack(1, 0, true));
    assert_eq!(rig.broker_got(), ["basic.ack 1 multiple"]);
    rig.broker(&deliver(1, "c", 2, "t.unique", "y"));
    assert_eq!(rig.broker_got(), ["basic.nack 2"]);
    rig.client(&ack(1, 0, true));
    assert_eq!(rig.broker_got(), [""; 0], "there is nothing that it could mean");
}

#[test]
fn what_an_ack_of_all_may_have_met_on_its_way_is_handed_over() {
    let mut rig = Rig::new(unadmitting());
    rig.consumes(1, "c", false);
    rig.broker(&deliver(1, "c", 1, "t.unique", "x"));
    rig.broker_got();
    rig.client(&ack(1, 0, true));
    assert_eq!(rig.broker_got(), ["basic.ack 0 multiple"]);
    rig.client_got();
    let a = rig.publish_asked("a");
    rig.answer(a, Acquired::Taken);
    rig.drain(0);
    rig.broker_got();
    rig.broker(&deliver(1, "c", 2, "t.unique", "y"));
    assert_eq!(rig.client_got(), ["basic.deliver y"], "kept back it might be lost");
    assert_eq!(rig.broker_got(), [""; 0], "the broker may have it settled");
}
