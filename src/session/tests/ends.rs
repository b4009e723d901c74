//! The end of a connection, in every direction.

use super::*;

fn close_ok() -> Vec<u8> {
    method(0, MethodId::CONNECTION_CLOSE_OK, &[])
}

fn close() -> Vec<u8> {
    method(0, MethodId::CONNECTION_CLOSE, b"\0\xc8\0\0\0\0\0")
}

#[test]
fn a_producer_that_just_goes_loses_nothing() {
    let mut rig = Rig::new(spec());
    let a = rig.publish_asked("a");
    rig.client(&publish(1, "t.unique", "half", false)[..60]);
    rig.session.handle_eof(Side::Client, rig.now);
    assert_eq!(rig.broker_got(), [""; 0]);
    rig.answer(a, Acquired::Taken);
    assert_eq!(
        rig.broker_got(),
        ["confirm.select", "basic.publish mandatory a"],
        "what was read in full is sent; the half one is not"
    );
    rig.broker(&ack(1, 1, false));
    assert_eq!(rig.told(), ["commit a"]);
    assert_eq!(rig.broker_got(), ["connection.close"], "then the broker is told properly");
    assert!(rig.session.is_done(Side::Client) && !rig.session.is_done(Side::Broker));
    rig.broker(&close_ok());
    assert!(rig.session.is_done(Side::Broker));
}

#[test]
fn a_producer_that_goes_waits_no_longer_than_the_lease_for_the_broker() {
    let mut rig = Rig::new(spec());
    let a = rig.publish_asked("a");
    rig.answer(a, Acquired::Taken);
    rig.session.handle_eof(Side::Client, rig.now);
    rig.broker_got();
    rig.later(9_000_000);
    assert!(!rig.broker_got().contains(&"connection.close".to_owned()));
    rig.later(1_000_000);
    assert_eq!(rig.broker_got().last().map(String::as_str), Some("connection.close"));
}

#[test]
fn a_worker_that_goes_gives_its_deliveries_back_at_once() {
    let mut rig = Rig::new(spec());
    rig.client(&consume(1, "c", false));
    rig.broker(&deliver(1, "c", 1, "t.unique", "x"));
    rig.broker_got();
    rig.session.handle_eof(Side::Client, rig.now);
    assert_eq!(rig.broker_got(), ["channel.close", "connection.close"]);

    let mut rig = Rig::new(spec());
    rig.consumes(1, "c", false);
    rig.broker(&deliver(1, "c", 1, "t.unique", "x"));
    let a = rig.publish_asked("a");
    rig.broker_got();
    rig.session.handle_eof(Side::Client, rig.now);
    assert_eq!(
        rig.broker_got(),
        ["basic.cancel", "basic.nack 0 multiple"],
        "a channel whose publish waits stays open for it"
    );
    rig.answer(a, Acquired::Taken);
    assert_eq!(rig.broker_got(), ["confirm.select", "basic.publish mandatory a"]);
}

#[test]
fn a_consumer_that_the_broker_has_not_answered_is_not_cancelled() {
    let mut rig = Rig::new(spec());
    rig.client(&consume(1, "c", false));
    rig.publish_asked("a");
    rig.broker_got();
    rig.session.handle_eof(Side::Client, rig.now);
    assert_eq!(
        rig.broker_got(),
        ["basic.nack 0 multiple"],
        "it would crash the channel, and the publish with it"
    );
}

#[test]
fn connection_close_waits_for_all_channels() {
    let mut rig = Rig::new(spec());
    let a = rig.publish_asked("a");
    rig.client(&close());
    assert_eq!(rig.broker_got(), [""; 0]);
    rig.answer(a, Acquired::Taken);
    assert_eq!(rig.broker_got(), ["confirm.select", "basic.publish mandatory a"]);
    rig.broker(&ack(1, 1, false));
    assert_eq!(rig.broker_got(), ["connection.close"]);
    rig.broker(&close_ok());
    assert_eq!(rig.client_got(), ["connection.close-ok"]);
    assert!(rig.session.is_done(Side::Client) && rig.session.is_done(Side::Broker));
}

#[test]
fn channel_close_waits_behind_its_publishes_and_for_their_confirms() {
    let mut rig = Rig::new(spec());
    let a = rig.publish_asked("a");
    rig.client(&method(1, MethodId::CHANNEL_CLOSE, b"\0\xc8\0\0\0\0\0"));
    rig.answer(a, Acquired::Taken);
    assert_eq!(rig.broker_got(), ["confirm.select", "basic.publish mandatory a"]);
    rig.broker(&ack(1, 1, false));
    assert_eq!(rig.broker_got(), ["channel.close"]);
    assert_eq!(rig.told(), ["commit a"]);
}

#[test]
fn kept_publishes_of_a_plain_channel_are_decided_before_it_closes() {
    let mut rig = Rig::new(spec());
    let b = rig.publish_asked("b");
    rig.answer(b, leased("a"));
    rig.client(&method(1, MethodId::CHANNEL_CLOSE, b"\0\xc8\0\0\0\0\0"));
    assert_eq!(rig.broker_got(), [""; 0]);
    rig.answer(b, held("a"));
    assert_eq!(rig.broker_got(), ["channel.close"]);
}

#[test]
fn kept_publishes_of_a_confirming_channel_that_closes_are_forgotten() {
    let mut rig = Rig::new(spec());
    rig.client(&method(1, MethodId::CONFIRM_SELECT, &[0]));
    rig.broker_got();
    let b = rig.publish_asked("b");
    rig.answer(b, leased("a"));
    rig.client(&method(1, MethodId::CHANNEL_CLOSE, b"\0\xc8\0\0\0\0\0"));
    assert_eq!(rig.broker_got(), ["channel.close"]);
    assert_eq!(std::mem::take(rig.session.cancelled()), [b]);
    assert_eq!(rig.told(), ["unpublish b unconfirmed"], "what it was given meanwhile goes back");
    rig.answer(b, Acquired::Taken);
    assert_eq!(rig.broker_got(), [""; 0], "elected too late");
}

#[test]
fn a_session_that_is_done_hears_what_a_lost_publish_was_given() {
    for (answer, told) in [
        (Acquired::Reentry { holds: true }, vec!["unpublish a unconfirmed"]),
        (leased("b"), vec![]),
    ] {
        let mut rig = Rig::new(spec());
        let a = rig.publish_asked("a");
        rig.session.handle_eof(Side::Broker, rig.now);
        rig.client(&close_ok());
        assert!(rig.session.is_done(Side::Client) && rig.session.is_done(Side::Broker));
        assert!(
            rig.session.awaits_answers(),
            "the store may count a publish that the broker never gets"
        );
        rig.told();
        rig.answer(a, answer);
        assert_eq!(rig.told(), told);
        assert!(!rig.session.awaits_answers());
    }
}

#[test]
fn a_lost_broker_is_told_to_the_client_and_frees_the_locks() {
    let mut rig = Rig::new(spec());
    let a = rig.publish_asked("a");
    rig.answer(a, Acquired::Taken);
    rig.session.handle_eof(Side::Broker, rig.now);
    assert_eq!(rig.told(), ["unpublish a unconfirmed"]);
    assert_eq!(rig.client_got(), ["connection.close"]);
    assert!(!rig.session.is_done(Side::Client));
    rig.client(&close_ok());
    assert!(rig.session.is_done(Side::Client));
}

#[test]
fn a_broker_that_closes_is_answered_by_the_client() {
    let mut rig = Rig::new(spec());
    rig.broker(&close());
    assert_eq!(rig.client_got(), ["connection.close"]);
    rig.client(&close_ok());
    assert_eq!(rig.broker_got(), ["connection.close-ok"]);
    rig.session.handle_eof(Side::Broker, rig.now);
    assert!(rig.session.is_done(Side::Client) && rig.session.is_done(Side::Broker));
}

#[test]
fn draining_hands_out_no_work_and_closes_when_nothing_is_in_hand() {
    let mut rig = Rig::new(spec());
    rig.client(&consume(1, "c", false));
    rig.broker(&deliver(1, "c", 1, "t.unique", "x"));
    rig.client_got();
    rig.drain(0);
    rig.broker(&deliver(1, "c", 2, "t.unique", "y"));
    assert_eq!(rig.client_got(), [""; 0], "work in hand, and no more of it");
    rig.broker_got();
    rig.client(&ack(1, 0, true));
    assert_eq!(
        rig.broker_got(),
        ["basic.ack 1 multiple"],
        "what the client has not seen is not settled"
    );
    assert_eq!(rig.client_got(), ["connection.close"]);
    rig.client(&close_ok());
    assert_eq!(rig.broker_got(), ["channel.close", "connection.close"]);
}

#[test]
fn what_a_client_publishes_while_it_is_told_to_go_still_counts() {
    let mut rig = Rig::new(spec());
    rig.drain(0);
    assert_eq!(rig.client_got(), ["connection.close"]);
    rig.client(&publish(1, "t.other", "x", false));
    assert_eq!(rig.broker_got(), ["basic.publish x"]);
}

#[test]
fn two_silent_intervals_end_a_leg() {
    let mut rig = Rig::new(spec());
    for _ in 0..3 {
        rig.later(5_000_000);
        rig.broker(&[8, 0, 0, 0, 0, 0, 0, frame::END]);
    }
    assert!(!rig.broker_got().contains(&"connection.close".to_owned()));
    rig.later(5_000_000);
    assert_eq!(
        rig.broker_got().last().map(String::as_str),
        Some("connection.close"),
        "the client was silent for 20 s at a heartbeat of 10 s"
    );
}

#[test]
fn silence_means_nothing_while_the_broker_is_blocked() {
    let mut rig = Rig::new(spec());
    rig.broker(&method(0, MethodId::CONNECTION_BLOCKED, b"\x06memory"));
    for _ in 0..10 {
        rig.later(5_000_000);
        rig.client(&[8, 0, 0, 0, 0, 0, 0, frame::END]);
    }
    assert!(rig.broker_got().iter().all(|line| line == "Heartbeat"));
    assert!(!rig.client_got().contains(&"connection.close".to_owned()));
}

#[test]
fn a_login_that_takes_too_long_ends() {
    let rules = RuleSet::compile(vec![spec()], &[]).expect("the rule is right");
    let now = Now { us: 5, unix_ms: 0 };
    let mut session = Session::new(Arc::new(Settings::default()), Arc::new(rules), 0, now);
    let at = session.poll_timeout();
    session.handle_timeout(Now { us: at, unix_ms: 0 });
    assert!(session.is_done(Side::Client) && session.is_done(Side::Broker));
}

fn get_ok(tag: u64, id: &str) -> Vec<u8> {
    let mut arguments = tag.to_be_bytes().to_vec();
    arguments.extend_from_slice(b"\0\0\x01q\0\0\0\0");
    let mut out = method(1, MethodId::BASIC_GET_OK, &arguments);
    let all = publish(1, "t.unique", id, false);
    let Split::Frame(first) = frame::split(&all, usize::MAX) else {
        panic!("a frame")
    };
    out.extend_from_slice(&all[first.raw.len()..]);
    out
}

#[test]
fn a_get_without_acknowledgement_is_no_work_in_hand() {
    let mut rig = Rig::new(spec());
    rig.client(&method(1, MethodId::BASIC_GET, b"\0\0\x01q\x01"));
    rig.client(&method(1, MethodId::BASIC_GET, b"\0\0\x01q\x01"));
    rig.broker(&method(1, MethodId::BASIC_GET_EMPTY, b"\0"));
    rig.broker(&get_ok(1, "a"));
    assert_eq!(rig.told(), [format!("signal a {:?}", Signal::DeliveredNoAck)]);
    rig.client_got();
    rig.drain(0);
    assert_eq!(rig.client_got(), ["connection.close"]);
}

#[test]
fn a_multiple_ack_past_a_hidden_delivery_settles_one_by_one() {
    let mut rig = Rig::new(spec());
    rig.client(&consume(1, "c", false));
    rig.broker(&deliver(1, "c", 1, "t.unique", "x"));
    rig.drain(0);
    rig.broker(&deliver(1, "c", 2, "t.unique", "y"));
    rig.client(&method(1, MethodId::BASIC_GET, b"\0\0\x01q\0"));
    rig.broker(&get_ok(3, "z"));
    rig.broker_got();
    rig.client(&ack(1, 3, true));
    assert_eq!(rig.broker_got(), ["basic.ack 1", "basic.ack 3"], "2 is not the client's to ack");
}

#[test]
fn a_consumer_without_acknowledgement_gets_all_until_its_cancel_is_answered() {
    let mut rig = Rig::new(spec());
    rig.client(&consume(1, "c", true));
    rig.client(&consume(1, "d", false));
    rig.broker(&deliver(1, "d", 1, "t.unique", "x"));
    rig.drain(0);
    rig.client(&method(1, MethodId::BASIC_CANCEL, b"\x01c\0"));
    rig.client_got();
    rig.broker(&deliver(1, "c", 2, "t.unique", "y"));
    assert_eq!(
        rig.client_got(),
        ["basic.deliver y"],
        "the broker has forgotten it: only the client can have it"
    );
    rig.broker(&method(1, MethodId::BASIC_CANCEL_OK, b"\x01c"));
    rig.client(&ack(1, 1, false));
    assert!(rig.client_got().contains(&"connection.close".to_owned()));
}

#[test]
fn deliveries_settled_behind_one_that_stays_open_are_forgotten() {
    let mut deliveries = crate::session::Deliveries::default();
    deliveries.hand_over(1);
    for tag in 2..10_000 {
        deliveries.hand_over(tag);
        deliveries.settle(tag, false, |_| ());
    }
    assert_eq!(deliveries.unsettled(), 1);
    assert!(deliveries.remembered() < 100);
}

#[test]
fn a_leg_that_was_given_up_for_its_silence_wakes_nobody() {
    let mut rig = Rig::new(spec());
    for _ in 0..4 {
        rig.later(5_000_000);
        rig.client(&[8, 0, 0, 0, 0, 0, 0, frame::END]);
    }
    assert!(rig.client_got().contains(&"connection.close".to_owned()), "the broker was silent");
    assert!(rig.session.poll_timeout() > rig.now.us);
}
