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
