//! What the client has in hand.

use super::*;

/// A rig with a consumer that has been handed `x`, while the broker's next deliveries are on their way.
fn consuming() -> Rig {
    let mut rig = Rig::new(spec());
    rig.client(&consume(1, "c", false));
    rig.broker(&deliver(1, "c", 1, "t.unique", "x"));
    rig.broker_got();
    rig.client_got();
    rig
}

fn recover() -> Vec<u8> {
    method(1, MethodId::BASIC_RECOVER, &[1])
}

fn recover_ok() -> Vec<u8> {
    method(1, MethodId::BASIC_RECOVER_OK, &[])
}

#[test]
fn deliveries_on_their_way_while_the_client_recovers_are_not_in_hand() {
    let mut rig = consuming();
    rig.client(&recover());
    rig.broker(&deliver(1, "c", 2, "t.unique", "y"));
    rig.broker(&recover_ok());
    assert_eq!(rig.client_got(), ["basic.deliver y", "basic.recover-ok"]);
    rig.broker(&deliver(1, "c", 3, "t.unique", "x"));
    rig.broker(&deliver(1, "c", 4, "t.unique", "y"));
    rig.client(&ack(1, 3, true));
    assert_eq!(
        rig.told(),
        [format!("signal x {:?}", Signal::Acked)],
        "y has gone back to its queue, and its second copy is in hand"
    );
    rig.client(&ack(1, 4, false));
    assert_eq!(rig.told(), [format!("signal y {:?}", Signal::Acked)]);
    rig.client_got();
    rig.session.handle_drain(0, Neighbours::Idle, rig.now);
    assert_eq!(rig.client_got(), ["connection.close"], "nothing is in hand");
}

#[test]
fn a_recover_behind_a_publish_that_waits_voids_what_comes_until_it_is_answered() {
    let mut rig = consuming();
    let a = rig.publish_asked("a");
    rig.client(&recover());
    rig.broker(&deliver(1, "c", 2, "t.unique", "y"));
    rig.answer(a, Acquired::Taken);
    assert_eq!(rig.broker_got(), ["confirm.select", "basic.publish mandatory a", "basic.recover"]);
    rig.broker(&recover_ok());
    rig.broker(&ack(1, 1, false));
    rig.told();
    rig.client_got();
    rig.session.handle_drain(0, Neighbours::Idle, rig.now);
    assert_eq!(rig.client_got(), ["connection.close"], "nothing is in hand");
}

#[test]
fn an_ack_of_all_that_waits_covers_only_what_the_client_had_been_handed() {
    let mut rig = consuming();
    let a = rig.publish_asked("a");
    rig.client(&ack(1, 0, true));
    rig.broker(&deliver(1, "c", 2, "t.unique", "y"));
    assert_eq!(rig.told(), [format!("signal x {:?}", Signal::Acked)]);
    rig.answer(a, Acquired::Taken);
    assert_eq!(
        rig.broker_got(),
        ["confirm.select", "basic.publish mandatory a", "basic.ack 1 multiple"]
    );
}

#[test]
fn the_answer_to_a_consume_that_was_cancelled_in_haste_names_no_other_consumer() {
    let mut rig = Rig::new(spec());
    rig.client(&consume(1, "c", false));
    rig.client(&consume(1, "", true));
    rig.client(&method(1, MethodId::BASIC_CANCEL, b"\x01c\x01"));
    rig.broker(&method(1, MethodId::BASIC_CONSUME_OK, b"\x01c"));
    rig.broker(&method(1, MethodId::BASIC_CONSUME_OK, b"\x05amq.1"));
    rig.broker(&deliver(1, "c", 1, "t.unique", "x"));
    assert_eq!(rig.told(), [""; 0], "it needs an acknowledgement");
    rig.broker(&deliver(1, "amq.1", 2, "t.unique", "y"));
    assert_eq!(rig.told(), [format!("signal y {:?}", Signal::DeliveredNoAck)]);
}

#[test]
fn a_delivery_of_a_consumer_that_was_cancelled_in_haste_is_in_hand() {
    let mut rig = consuming();
    // The broker has not named it yet, so nothing that comes can be its own.
    rig.client(&consume(1, "", true));
    let cancel = method(1, MethodId::BASIC_CANCEL, b"\x01c\x01");
    rig.client(&cancel);
    rig.broker(&deliver(1, "c", 2, "t.unique", "y"));
    assert_eq!(rig.told(), [""; 0], "it needs an acknowledgement");
    rig.client(&ack(1, 2, false));
    assert_eq!(rig.told(), [format!("signal y {:?}", Signal::Acked)]);
}
