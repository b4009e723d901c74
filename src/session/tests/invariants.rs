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
        ["confirm.select", "basic.publish mandatory a", "basic.ack 1", "basic.nack 0 multiple"]
    );
}
