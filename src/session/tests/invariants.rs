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
    rig.broker(&method(1, MethodId::BASIC_CONSUME_OK, b"\x01c"));
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
    rig.session.handle_drain(0, Neighbours::Idle, rig.now);
    assert_eq!(rig.client_got(), ["connection.close"], "no work is in hand");
}

#[test]
fn invariant_5_a_tag_that_the_client_never_saw_is_never_settled_by_its_multiple() {
    let mut rig = Rig::new(spec());
    rig.client(&consume(1, "c", false));
    rig.broker(&deliver(1, "c", 1, "t.other", "w"));
    rig.session.handle_drain(0, Neighbours::Idle, rig.now);
    rig.broker(&deliver(1, "c", 2, "t.other", "hidden"));
    rig.broker_got();
    rig.client(&ack(1, 0, true));
    assert_eq!(rig.broker_got(), ["basic.ack 1 multiple"]);
}

#[test]
fn invariant_8_a_message_is_acked_at_the_broker_only_when_a_worker_acked_it() {
    let mut rig = Rig::new(spec());
    rig.client(&consume(1, "c", false));
    rig.broker(&deliver(1, "c", 1, "t.unique", "acked"));
    rig.broker(&deliver(1, "c", 2, "t.unique", "in hand"));
    rig.broker_got();
    rig.client(&ack(1, 1, false));
    assert_eq!(rig.broker_got(), ["basic.ack 1"]);
    rig.session.handle_drain(0, Neighbours::Idle, rig.now);
    rig.broker(&deliver(1, "c", 3, "t.unique", "hidden"));
    rig.session.handle_close(rig.now.us + 5_000_000, rig.now);
    rig.client(&method(0, MethodId::CONNECTION_CLOSE_OK, &[]));
    rig.later(60_000_000);
    let settled: Vec<_> = rig
        .broker_got()
        .into_iter()
        .filter(|line| line.starts_with("basic.ack") || line.starts_with("basic.reject"))
        .collect();
    assert_eq!(settled, [""; 0]);
}

#[test]
fn invariant_10_one_immutable_rule_set_decides_each_publish() {
    let forwards = RuleSet::compile(vec![spec()], &[]).expect("the rule is right");
    let mut rig = Rig::new(RuleSpec {
        on_store_error: OnStoreError::Reject,
        ..spec()
    });
    rig.client(&method(1, MethodId::CONFIRM_SELECT, &[0]));
    let old = rig.publish_asked("old");
    rig.session.handle_rules(Arc::new(forwards));
    let new = rig.publish_asked("new");
    rig.broker_got();
    rig.silence(old);
    rig.silence(new);
    assert_eq!(rig.decisions(), [PublishDecision::Rejected, PublishDecision::ForwardedUnchecked]);
    assert_eq!(rig.broker_got(), ["basic.publish mandatory new"]);
    assert_eq!(rig.client_got(), ["basic.nack 1"]);
}
