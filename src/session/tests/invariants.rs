//! The invariants of the crate's front page that one session keeps, each with a test of its number and name.

use super::*;

fn recover(channel: u16) -> Vec<u8> {
    let mut out = Vec::new();
    encode::basic_recover(&mut out, channel, true);
    out
}

#[test]
fn invariant_5_what_waits_to_be_settled_is_not_given_back_before_that() {
    let mut rig = Rig::new(spec());
    rig.client(&consume(1, "c", false));
    for tag in 1..=2 {
        rig.broker(&deliver(1, "c", tag, "t.other", "w"));
    }
    let ticket = rig.publish_asked("a");
    rig.client(&ack(1, 1, false));
    rig.broker_got();
    rig.session.handle_eof(Side::Client, rig.now);
    assert_eq!(rig.broker_got(), ["basic.cancel"], "the ack waits behind the publish");
    rig.answer(ticket, Acquired::Taken);
    assert_eq!(
        rig.broker_got(),
        [
            "confirm.select",
            "basic.publish mandatory a",
            "basic.ack 1",
            "basic.nack 0 multiple"
        ]
    );
}

#[test]
fn invariant_5_what_was_on_its_way_when_the_client_gave_all_back_is_nobody_s() {
    let mut rig = Rig::new(spec());
    rig.client(&consume(1, "c", false));
    rig.broker(&deliver(1, "c", 1, "t.other", "w"));
    rig.client(&recover(1));
    // The broker had sent it before it read the `recover`: it takes it back too.
    rig.broker(&deliver(1, "c", 2, "t.other", "v"));
    rig.broker(&method(1, MethodId::BASIC_RECOVER_OK, &[]));
    rig.client_got();
    rig.session.handle_drain(rig.now);
    assert_eq!(rig.client_got(), ["connection.close"], "no work is in hand");
}
