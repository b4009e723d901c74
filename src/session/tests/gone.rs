//! What a client that is gone is not told.

use super::*;

#[test]
fn the_broker_s_answers_to_our_own_goodbye_are_not_for_the_client() {
    let mut rig = Rig::new(spec());
    rig.client(&consume(1, "c", false));
    rig.broker_got();
    rig.session.handle_drain_timeout(rig.now);
    assert_eq!(rig.client_got(), ["connection.close"]);
    rig.client(&method(0, MethodId::CONNECTION_CLOSE_OK, &[]));
    assert_eq!(rig.broker_got(), ["channel.close", "connection.close"]);
    rig.broker(&method(1, MethodId::CHANNEL_CLOSE_OK, &[]));
    assert_eq!(rig.client_got(), [""; 0]);
}
