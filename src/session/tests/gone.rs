//! What a client that is gone is not told.

use super::*;

#[test]
fn the_broker_s_answers_to_our_own_goodbye_are_not_for_the_client() {
    let mut rig = Rig::new(spec());
    rig.client(&consume(1, "c", false));
    rig.broker_got();
    rig.session.handle_close(rig.now.us + 5_000_000, rig.now);
    assert_eq!(rig.client_got(), ["connection.close"]);
    rig.client(&method(0, MethodId::CONNECTION_CLOSE_OK, &[]));
    assert_eq!(rig.broker_got(), ["channel.close", "connection.close"]);
    rig.broker(&method(1, MethodId::CHANNEL_CLOSE_OK, &[]));
    assert_eq!(rig.client_got(), [""; 0]);
}

#[test]
fn nor_are_they_if_they_come_with_the_last_one() {
    let mut rig = Rig::new(spec());
    rig.client(&consume(1, "c", false));
    rig.session.handle_close(rig.now.us + 5_000_000, rig.now);
    assert_eq!(rig.client_got(), ["connection.close"]);
    rig.later(5_000_000);
    rig.later(1);
    assert_eq!(rig.broker_got(), ["basic.consume", "channel.close", "connection.close"]);
    let answers = [
        method(1, MethodId::CHANNEL_CLOSE_OK, &[]),
        method(0, MethodId::CONNECTION_CLOSE_OK, &[]),
    ];
    rig.broker(&answers.concat());
    assert_eq!(rig.client_got(), [""; 0]);
}

#[test]
fn a_client_that_closes_as_it_is_told_to_go_loses_nothing() {
    let mut rig = Rig::new(spec());
    let a = rig.publish_asked("a");
    rig.session.handle_close(rig.now.us + 5_000_000, rig.now);
    assert_eq!(rig.client_got(), ["connection.close"]);
    rig.client(&method(0, MethodId::CONNECTION_CLOSE, b"\0\xc8\0\0\0\0\0"));
    assert_eq!(rig.broker_got(), [""; 0], "a publish waits for the store");
    rig.answer(a, Acquired::Taken);
    assert_eq!(rig.broker_got(), ["confirm.select", "basic.publish mandatory a"]);
    rig.broker(&ack(1, 1, false));
    assert_eq!(rig.broker_got(), ["connection.close"]);
}

/// A worker in a drain that has gone while a publish of its own waits: its consumer is cancelled, and what it had is given back.
fn gone_while_draining() -> (Rig, Ticket) {
    let mut rig = Rig::new(spec());
    rig.consumes(1, "c", false);
    rig.broker(&deliver(1, "c", 1, "t.unique", "x"));
    let a = rig.publish_asked("a");
    rig.broker_got();
    rig.drain(0);
    rig.session.handle_eof(Side::Client, rig.now);
    assert_eq!(rig.broker_got(), ["basic.cancel", "basic.nack 0 multiple"]);
    (rig, a)
}

#[test]
fn what_was_on_its_way_as_all_was_given_back_is_not_given_back_twice() {
    let (mut rig, a) = gone_while_draining();
    // The broker sent it before it read that all comes back.
    rig.broker(&deliver(1, "c", 2, "t.unique", "y"));
    rig.answer(a, Acquired::Taken);
    let sent = rig.broker_got();
    assert!(sent.contains(&"basic.publish mandatory a".to_owned()), "{sent:?}");
    assert!(!sent.iter().any(|line| line.starts_with("basic.nack")), "{sent:?}");
}

#[test]
fn nothing_is_said_on_a_channel_whose_client_went_inside_a_publish() {
    let mut rig = Rig::new(spec());
    rig.consumes(1, "c", false);
    let whole = publish(1, "t.other", "a", false);
    rig.client(&method(2, MethodId::CHANNEL_OPEN, &[0]));
    rig.client(&publish(2, "t.unique", "b", false));
    // All but the body has left for the broker.
    rig.client(&whole[..whole.len() - BODY.len() - 8]);
    rig.broker_got();
    rig.drain(0);
    rig.session.handle_eof(Side::Client, rig.now);
    rig.broker(&deliver(1, "c", 1, "t.unique", "x"));
    assert_eq!(rig.broker_got(), [""; 0], "it would stand inside a content");
}

#[test]
fn an_ack_of_all_by_a_client_that_is_told_to_go_covers_only_what_it_was_handed() {
    let mut rig = Rig::new(unadmitting());
    rig.consumes(1, "c", false);
    rig.broker(&deliver(1, "c", 1, "t.unique", "x"));
    rig.client(&ack(1, 0, true));
    rig.broker(&deliver(1, "c", 2, "t.unique", "y"));
    rig.session.handle_close(rig.now.us + 5_000_000, rig.now);
    assert_eq!(rig.client_got(), ["basic.deliver x", "basic.deliver y", "connection.close"]);
    rig.broker_got();
    rig.told();
    rig.broker(&deliver(1, "c", 3, "t.unique", "z"));
    rig.client(&ack(1, 0, true));
    assert_eq!(
        rig.broker_got(),
        ["basic.ack 2 multiple"],
        "what it will never see returns with the connection"
    );
    assert_eq!(rig.told(), [format!("signal y {:?}", Signal::Acked)]);
}

#[test]
fn what_waits_for_its_admission_goes_back_as_the_client_is_told_to_go() {
    let mut rig = Rig::new(spec());
    rig.admits_all = false;
    rig.consumes(1, "c", false);
    rig.consumes(1, "control", true);
    let both = [deliver(1, "c", 1, "t.unique", "x"), deliver(1, "c", 2, "t.other", "y")].concat();
    rig.broker(&both);
    assert_eq!(rig.admissions().len(), 1);
    rig.broker_got();
    rig.session.handle_close(rig.now.us + 5_000_000, rig.now);
    assert_eq!(rig.client_got(), ["connection.close"]);
    assert_eq!(rig.broker_got(), ["basic.cancel", "basic.nack 1", "basic.nack 2"]);
    rig.client(&ack(1, 2, true));
    assert_eq!(rig.broker_got(), [""; 0], "the client was handed neither");
}
