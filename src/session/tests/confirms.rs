//! Every publish of a confirming client is confirmed exactly once.

use super::*;

fn confirming() -> Rig {
    let mut rig = Rig::new(spec());
    rig.client(&method(1, MethodId::CONFIRM_SELECT, &[0]));
    rig.broker(&method(1, MethodId::CONFIRM_SELECT_OK, &[]));
    rig.broker_got();
    rig.client_got();
    rig
}

#[test]
fn a_dropped_duplicate_is_acked_and_later_numbers_are_shifted() {
    let mut rig = confirming();
    rig.client(&publish(1, "t.other", "x", false));
    let dup = rig.publish_asked("b");
    rig.client(&publish(1, "t.other", "y", false));
    rig.answer(dup, held("a"));
    assert_eq!(rig.broker_got(), ["basic.publish x", "basic.publish y"]);
    assert_eq!(rig.client_got(), ["basic.ack 2"]);
    rig.broker(&ack(1, 2, false));
    assert_eq!(rig.client_got(), ["basic.ack 3"]);
    rig.broker(&ack(1, 1, false));
    assert_eq!(rig.client_got(), ["basic.ack 1"]);
}

#[test]
fn a_multiple_ack_covers_only_what_is_settled() {
    let mut rig = confirming();
    rig.client(&publish(1, "t.other", "1", false));
    let two = rig.publish_asked("2");
    rig.client(&publish(1, "t.other", "3", false));
    rig.client(&publish(1, "t.other", "4", false));
    rig.answer(two, leased("a"));
    rig.broker_got();
    rig.broker(&ack(1, 3, true));
    assert_eq!(rig.client_got(), ["basic.ack 1", "basic.ack 3", "basic.ack 4"], "2 is still open");
    rig.answer(two, held("a"));
    assert_eq!(rig.client_got(), ["basic.ack 2"]);
}

#[test]
fn while_nothing_is_dropped_the_broker_s_confirms_pass_as_they_are() {
    let mut rig = confirming();
    for id in ["1", "2", "3"] {
        rig.client(&publish(1, "t.other", id, false));
    }
    let frame = ack(1, 3, true);
    rig.broker(&frame);
    assert_eq!(rig.output(Side::Client), frame);
}

#[test]
fn a_nack_is_told_with_the_client_s_number() {
    let mut rig = confirming();
    let one = rig.publish_asked("1");
    rig.answer(one, held("z"));
    rig.client_got();
    rig.client(&publish(1, "t.other", "2", false));
    rig.broker(&nack(1, 1, false));
    assert_eq!(rig.client_got(), ["basic.nack 2"]);
}

#[test]
fn confirms_that_the_client_asks_for_late_start_at_one() {
    let mut rig = Rig::new(spec());
    let a = rig.publish_asked("a");
    rig.answer(a, Acquired::Taken);
    rig.client(&publish(1, "t.other", "x", false));
    rig.client(&method(1, MethodId::CONFIRM_SELECT, &[0]));
    rig.client(&publish(1, "t.other", "y", false));
    assert_eq!(
        rig.broker_got(),
        [
            "confirm.select",
            "basic.publish mandatory a",
            "basic.publish x",
            "confirm.select",
            "basic.publish y"
        ]
    );
    rig.broker(&method(1, MethodId::CONFIRM_SELECT_OK, &[]));
    rig.broker(&ack(1, 3, true));
    assert_eq!(rig.client_got(), ["confirm.select-ok", "basic.ack 1"]);
    assert_eq!(rig.told(), ["commit a"]);
}

#[test]
fn a_select_behind_a_waiting_publish_counts_from_where_it_leaves() {
    let mut rig = Rig::new(spec());
    let a = rig.publish_asked("a");
    rig.client(&method(1, MethodId::CONFIRM_SELECT, &[0]));
    let b = rig.publish_asked("b");
    rig.answer(b, Acquired::Taken);
    rig.answer(a, held("z"));
    assert_eq!(rig.broker_got(), ["confirm.select", "basic.publish mandatory b"]);
    rig.broker(&ack(1, 1, false));
    assert_eq!(rig.client_got(), ["basic.ack 1"]);
}

#[test]
fn a_confirm_for_a_publish_that_was_never_sent_ends_the_connection() {
    let mut rig = confirming();
    rig.client(&publish(1, "t.other", "1", false));
    rig.broker(&ack(1, 7, false));
    assert_eq!(rig.client_got(), ["connection.close"]);
}

#[test]
fn a_kept_publish_that_goes_late_is_confirmed_with_its_own_number() {
    let mut rig = confirming();
    let one = rig.publish_asked("1");
    rig.answer(one, leased("a"));
    rig.client(&publish(1, "t.other", "2", false));
    rig.broker(&ack(1, 1, false));
    assert_eq!(rig.client_got(), ["basic.ack 2"]);
    rig.answer(one, Acquired::Taken);
    rig.broker(&ack(1, 2, false));
    assert_eq!(rig.client_got(), ["basic.ack 1"]);
    assert_eq!(rig.told(), ["commit 1"]);
}

#[test]
fn confirms_wait_for_the_end_of_a_delivery_on_their_channel() {
    let mut rig = confirming();
    let one = rig.publish_asked("1");
    let delivery = deliver(1, "c", 1, "t.other", "x");
    let (head, tail) = delivery.split_at(delivery.len() - BODY.len() - 8);
    rig.broker(head);
    rig.answer(one, held("z"));
    rig.broker(tail);
    assert_eq!(rig.client_got(), ["basic.deliver x", "basic.ack 1"]);
}
