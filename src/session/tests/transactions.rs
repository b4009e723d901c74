//! From `tx.select` on a channel is transparent both ways, and nothing joins a transaction that was not published in it.

use super::*;

fn tx_select() -> Vec<u8> {
    method(1, MethodId::TX_SELECT, &[])
}

#[test]
fn a_channel_in_a_transaction_is_transparent() {
    let mut rig = Rig::new(spec());
    rig.client(&tx_select());
    let bytes = publish(1, "t.unique", "a", false);
    rig.client(&bytes);
    assert_eq!(rig.asked(), []);
    assert!(rig.output(Side::Broker).ends_with(&bytes));
}

#[test]
fn a_transaction_begins_behind_the_publishes_that_are_kept() {
    let mut rig = Rig::new(spec());
    let b = rig.publish_asked("b");
    rig.answer(b, leased("a"));
    let c = rig.publish_asked("c");
    rig.client(&tx_select());
    rig.client(&publish(1, "t.unique", "d", false));
    rig.client(&method(1, MethodId::TX_COMMIT, &[]));
    assert_eq!(rig.asked(), []);
    rig.answer(c, leased("a"));
    assert_eq!(rig.broker_got(), [""; 0], "two publishes are not decided");
    rig.client(&publish(2, "t.other", "x", false));
    assert_eq!(rig.broker_got(), ["basic.publish x"], "another channel goes on");
    rig.answer(c, held("a"));
    assert_eq!(rig.broker_got(), [""; 0]);
    rig.answer(b, held("a"));
    assert_eq!(
        rig.broker_got(),
        ["tx.select", "basic.publish d", "tx.commit"],
        "a channel that has claimed nothing may have transactions"
    );
    assert_eq!(rig.session.held_bytes(), 0);
}

#[test]
fn a_kept_publish_that_may_go_leaves_before_the_transaction() {
    let mut rig = Rig::new(spec());
    let b = rig.publish_asked("b");
    rig.answer(b, leased("a"));
    rig.client(&tx_select());
    let whole = publish(1, "t.other", "x", false);
    let (head, tail) = whole.split_at(whole.len() - BODY.len() - frame::OVERHEAD);
    rig.client(head);
    rig.answer(b, Acquired::Taken);
    assert_eq!(
        rig.broker_got(),
        ["confirm.select", "basic.publish mandatory b", "tx.select", "basic.publish x"]
    );
    rig.client(tail);
    assert_eq!(rig.output(Side::Broker), tail);
}

#[test]
fn a_transaction_waits_for_kept_publishes_no_longer_than_a_lease() {
    let mut rig = Rig::new(spec());
    let b = rig.publish_asked("b");
    rig.answer(b, leased("a"));
    rig.client(&tx_select());
    rig.client(&publish(1, "t.unique", "d", false));
    rig.later(9_000_000);
    assert!(!rig.broker_got().contains(&"tx.select".to_owned()));
    rig.now.us = rig.session.poll_timeout();
    rig.session.handle_timeout(rig.now);
    assert_eq!(
        rig.broker_got(),
        ["confirm.select", "basic.publish mandatory b", "tx.select", "basic.publish d"]
    );
    assert_eq!(rig.decisions(), [PublishDecision::ForwardedUnchecked]);
    assert_eq!(std::mem::take(rig.session.cancelled()), [b]);
}

#[test]
fn what_waits_behind_the_beginning_of_a_transaction_goes_with_its_client() {
    let mut rig = Rig::new(spec());
    let b = rig.publish_asked("b");
    rig.answer(b, leased("a"));
    rig.client(&tx_select());
    rig.client(&publish(1, "t.unique", "d", false));
    rig.client(&method(1, MethodId::TX_COMMIT, &[]));
    rig.session.handle_eof(Side::Client, rig.now);
    assert_eq!(rig.broker_got(), [""; 0]);
    rig.answer(b, held("a"));
    assert_eq!(rig.broker_got(), ["tx.select", "basic.publish d", "tx.commit", "connection.close"]);
}

#[test]
fn at_the_memory_bound_a_transaction_begins_behind_what_goes_unchecked() {
    let settings = Settings {
        connection_memory: publish(1, "t.unique", "b", false).len() + 20,
        ..Settings::default()
    };
    let mut rig = Rig::with(spec(), settings);
    let b = rig.publish_asked("b");
    rig.answer(b, leased("a"));
    rig.client(&tx_select());
    rig.client(&publish(1, "t.unique", "d", false));
    assert_eq!(
        rig.broker_got(),
        ["confirm.select", "basic.publish mandatory b", "tx.select", "basic.publish d"]
    );
    assert_eq!(rig.session.held_bytes(), 0);
}

#[test]
fn bytes_that_are_no_frame_come_behind_the_transaction() {
    let mut rig = Rig::new(spec());
    let b = rig.publish_asked("b");
    rig.answer(b, leased("a"));
    rig.client(&tx_select());
    rig.client(b"\x01\0\x01\0\0\0\x01xBAD");
    let sent = rig.output(Side::Broker);
    assert!(sent.ends_with(b"\x01\0\x01\0\0\0\x01xBAD"));
    assert_eq!(
        lines(&sent[..sent.len() - 11]),
        ["confirm.select", "basic.publish mandatory b", "tx.select"]
    );
}
