//! What the store's answers do to publishes.

use super::*;

#[test]
fn a_free_key_is_forwarded_mandatory_behind_a_confirm_select_of_our_own() {
    let mut rig = Rig::new(spec());
    let ticket = rig.publish_asked("a");
    assert_eq!(rig.broker_got(), [""; 0], "nothing leaves before the answer");
    rig.answer(ticket, Acquired::Taken);
    assert_eq!(rig.broker_got(), ["confirm.select", "basic.publish mandatory a"]);
    rig.broker(&ack(1, 1, false));
    assert_eq!(rig.told(), ["commit a"]);
    assert_eq!(rig.client_got(), [""; 0], "the client asked for no confirms");
    assert_eq!(rig.decisions(), [PublishDecision::Forwarded]);
}

#[test]
fn a_duplicate_on_a_plain_channel_vanishes_silently() {
    let mut rig = Rig::new(spec());
    let ticket = rig.publish_asked("b");
    rig.answer(ticket, held("a"));
    assert_eq!(rig.broker_got(), [""; 0]);
    assert_eq!(rig.client_got(), [""; 0]);
    assert_eq!(rig.decisions(), [PublishDecision::Dropped]);
}

#[test]
fn frames_behind_a_question_wait_and_keep_their_order() {
    let mut rig = Rig::new(spec());
    let a = rig.publish_asked("a");
    rig.client(&publish(1, "t.other", "x", false));
    let b = rig.publish_asked("b");
    rig.client(&method(1, MethodId::BASIC_QOS, &[0, 0, 0, 0, 0, 4, 0]));
    rig.answer(b, held("z"));
    assert_eq!(rig.broker_got(), [""; 0], "the first question is open");
    rig.answer(a, Acquired::Taken);
    assert_eq!(
        rig.broker_got(),
        ["confirm.select", "basic.publish mandatory a", "basic.publish x", "basic.qos"]
    );
}

#[test]
fn another_channel_and_heartbeats_do_not_wait() {
    let mut rig = Rig::new(spec());
    rig.publish_asked("a");
    rig.client(&publish(2, "t.other", "x", false));
    assert_eq!(rig.broker_got(), ["basic.publish x"]);
    rig.later(5_000_000);
    assert_eq!(rig.broker_got(), ["Heartbeat"]);
    assert_eq!(rig.client_got(), ["Heartbeat"]);
}

#[test]
fn a_duplicate_of_a_leased_key_is_kept_and_does_not_hold_up_its_channel() {
    let mut rig = Rig::new(spec());
    let b = rig.publish_asked("b");
    rig.client(&publish(1, "t.other", "x", false));
    rig.answer(b, leased("a"));
    assert_eq!(rig.broker_got(), ["basic.publish x"]);
    rig.answer(b, held("a"));
    assert_eq!(rig.broker_got(), [""; 0]);
    assert_eq!(rig.decisions(), [PublishDecision::Dropped]);
}

#[test]
fn a_kept_duplicate_goes_in_place_of_a_holder_that_failed() {
    let mut rig = Rig::new(spec());
    let b = rig.publish_asked("b");
    rig.answer(b, leased("a"));
    rig.answer(b, Acquired::Taken);
    assert_eq!(rig.broker_got(), ["confirm.select", "basic.publish mandatory b"]);
    assert_eq!(rig.decisions(), [PublishDecision::Forwarded]);
}

#[test]
fn reentry_without_the_lock_is_forwarded_and_not_committed() {
    let mut rig = Rig::new(spec());
    let ticket = rig.publish_asked("a");
    rig.answer(ticket, Acquired::Reentry { holds: false });
    assert_eq!(
        rig.broker_got(),
        ["basic.publish a"],
        "nothing is to be committed, so nothing needs a confirm"
    );
    assert_eq!(rig.decisions(), [PublishDecision::Reentry]);
    assert_eq!(rig.told(), [""; 0]);
}

#[test]
fn a_silent_store_forwards_by_default_and_the_publish_is_committed() {
    let mut rig = Rig::new(spec());
    let ticket = rig.publish_asked("a");
    rig.silence(ticket);
    assert_eq!(rig.broker_got(), ["confirm.select", "basic.publish mandatory a"]);
    rig.broker(&ack(1, 1, false));
    assert_eq!(rig.told(), ["commit a"]);
    assert_eq!(rig.decisions(), [PublishDecision::ForwardedUnchecked]);
}

#[test]
fn a_rule_may_wait_for_the_store() {
    let mut rig = Rig::new(RuleSpec {
        on_store_error: OnStoreError::Wait,
        ..spec()
    });
    let ticket = rig.publish_asked("a");
    rig.silence(ticket);
    assert_eq!(rig.broker_got(), [""; 0]);
    rig.later(100_000);
    assert_eq!(rig.asked(), [(ticket, "a".to_owned())], "it is asked again");
    rig.answer(ticket, Acquired::Taken);
    assert_eq!(rig.broker_got(), ["confirm.select", "basic.publish mandatory a"]);
}

#[test]
fn the_wait_for_the_store_ends_after_store_wait() {
    let mut rig = Rig::new(RuleSpec {
        on_store_error: OnStoreError::Wait,
        ..spec()
    });
    let ticket = rig.publish_asked("a");
    for _ in 0..110 {
        rig.silence(ticket);
        rig.later(100_000);
    }
    assert!(rig.broker_got().contains(&"basic.publish mandatory a".to_owned()));
    assert_eq!(rig.decisions(), [PublishDecision::ForwardedUnchecked]);
}

#[test]
fn a_rule_may_reject_on_a_confirming_channel() {
    let mut rig = Rig::new(RuleSpec {
        on_store_error: OnStoreError::Reject,
        ..spec()
    });
    rig.client(&method(1, MethodId::CONFIRM_SELECT, &[0]));
    rig.broker_got();
    let ticket = rig.publish_asked("a");
    rig.silence(ticket);
    assert_eq!(rig.client_got(), ["basic.nack 1"]);
    assert_eq!(
        rig.told(),
        ["unpublish a unconfirmed"],
        "the silence may have hidden that the lock was taken"
    );
    assert_eq!(rig.broker_got(), [""; 0]);
    assert_eq!(rig.decisions(), [PublishDecision::Rejected]);
}

#[test]
fn an_unroutable_message_frees_its_lock_and_the_client_sees_no_return() {
    let mut rig = Rig::new(spec());
    let ticket = rig.publish_asked("a");
    rig.answer(ticket, Acquired::Taken);
    rig.broker_got();
    rig.broker(&returned(1, "a"));
    rig.broker(&ack(1, 1, false));
    assert_eq!(rig.told(), ["unpublish a returned"]);
    assert_eq!(rig.client_got(), [""; 0]);
}

#[test]
fn a_return_that_the_client_asked_for_reaches_it() {
    let mut rig = Rig::new(spec());
    rig.client(&publish(1, "t.unique", "a", true));
    let ticket = rig.asked()[0].0;
    rig.answer(ticket, Acquired::Taken);
    rig.broker(&returned(1, "a"));
    assert_eq!(rig.client_got(), ["basic.return a"]);
    assert_eq!(rig.told(), ["unpublish a returned"]);
}

#[test]
fn a_nack_frees_the_lock() {
    let mut rig = Rig::new(spec());
    let ticket = rig.publish_asked("a");
    rig.answer(ticket, Acquired::Taken);
    rig.broker(&nack(1, 1, false));
    assert_eq!(rig.told(), ["unpublish a unconfirmed"]);
    assert_eq!(rig.client_got(), [""; 0]);
}

#[test]
fn a_channel_that_the_broker_closes_frees_its_locks_and_asks_for_nothing_more() {
    let mut rig = Rig::new(spec());
    let a = rig.publish_asked("a");
    rig.answer(a, Acquired::Taken);
    let b = rig.publish_asked("b");
    rig.broker_got();
    rig.broker(&method(1, MethodId::CHANNEL_CLOSE, b"\x01\x94\x01x\0\0\0\0"));
    assert_eq!(rig.told(), ["unpublish a unconfirmed"]);
    rig.answer(b, Acquired::Taken);
    assert_eq!(
        rig.told(),
        ["unpublish b unconfirmed"],
        "an answer that comes too late gives the lock back"
    );
    assert_eq!(rig.broker_got(), [""; 0]);
    rig.client(&method(1, MethodId::CHANNEL_CLOSE_OK, &[]));
    rig.client(&method(1, MethodId::CHANNEL_OPEN, &[0]));
    rig.broker(&method(1, MethodId::CHANNEL_OPEN_OK, &[0, 0, 0, 0]));
    rig.broker_got();
    let c = rig.publish_asked("c");
    rig.answer(c, Acquired::Taken);
    assert_eq!(
        rig.broker_got(),
        ["confirm.select", "basic.publish mandatory c"],
        "the new channel starts anew"
    );
}

#[test]
fn an_observing_rule_changes_no_frame() {
    let mut rig = Rig::new(RuleSpec {
        mode: Mode::Observe,
        ..spec()
    });
    let bytes = publish(1, "t.unique", "a", false);
    rig.client(&bytes);
    assert_eq!(rig.output(Side::Broker), bytes);
    let ticket = rig.asked()[0].0;
    assert_eq!(rig.told(), ["commit a"], "on a plain channel the write is the commit");
    rig.answer(ticket, held("z"));
    assert_eq!(
        rig.decisions(),
        [PublishDecision::Dropped],
        "it is counted as what it would have been"
    );
    assert_eq!(rig.broker_got(), [""; 0]);
}

#[test]
fn at_the_memory_bound_the_oldest_goes_unchecked() {
    let mut rig = Rig::with(
        spec(),
        Settings {
            connection_memory: 1000,
            ..Settings::default()
        },
    );
    let mut tickets = Vec::new();
    for number in 0..20 {
        rig.client(&publish(1, "t.unique", &format!("id-{number}"), false));
        tickets.extend(rig.asked());
    }
    let sent = rig.broker_got();
    assert!(
        sent.contains(&"basic.publish mandatory id-0".to_owned()),
        "the oldest has gone: {sent:?}"
    );
    assert!(
        !sent.contains(&"basic.publish mandatory id-19".to_owned()),
        "the youngest waits: {sent:?}"
    );
    assert!(rig.session.held_bytes() <= 1000);
    assert!(
        rig.decisions()
            .iter()
            .all(|decision| *decision == PublishDecision::ForwardedUnchecked)
    );
}

#[test]
fn a_worker_that_acks_tells_the_store_and_a_requeue_does_not() {
    let mut rig = Rig::new(spec());
    rig.client(&consume(1, "c", false));
    for tag in 1..=4 {
        rig.broker(&deliver(1, "c", tag, "t.unique", &format!("id-{tag}")));
    }
    rig.broker(&deliver(1, "c", 5, "t.other", "x"));
    rig.client(&ack(1, 2, true));
    assert_eq!(
        rig.told(),
        [
            format!("signal id-1 {:?}", Signal::Acked),
            format!("signal id-2 {:?}", Signal::Acked)
        ]
    );
    rig.client(&nack(1, 3, true));
    rig.client(&nack(1, 4, false));
    rig.client(&ack(1, 5, false));
    assert_eq!(rig.told(), [format!("signal id-4 {:?}", Signal::Rejected)]);
}

#[test]
fn a_delivery_without_acknowledgement_is_started_at_once() {
    let mut rig = Rig::new(spec());
    rig.client(&consume(1, "c", true));
    rig.broker(&deliver(1, "c", 1, "t.unique", "a"));
    assert_eq!(rig.told(), [format!("signal a {:?}", Signal::DeliveredNoAck)]);
}

#[test]
fn a_kept_duplicate_is_not_sent_inside_a_content() {
    let mut rig = Rig::new(spec());
    let b = rig.publish_asked("b");
    rig.answer(b, leased("a"));
    let passing = publish(1, "t.other", "x", false);
    let (beginning, rest) = passing.split_at(passing.len() - BODY.len() - frame::OVERHEAD);
    rig.client(beginning);
    assert_eq!(rig.broker_got(), ["basic.publish x"]);
    rig.answer(b, Acquired::Taken);
    assert_eq!(rig.broker_got(), [""; 0], "the body of x is still to come");
    rig.client(rest);
    let sent = rig.output(Side::Broker);
    assert!(sent.starts_with(rest), "the content ends first");
    assert_eq!(lines(&sent), ["confirm.select", "basic.publish mandatory b"]);
    assert_eq!(rig.session.held_bytes(), 0);
}

/// The publish of a large message that concerns no rule, cut inside its body.
fn cut_inside_its_body() -> (Vec<u8>, Vec<u8>) {
    let whole = publish(1, "t.other", "x", false);
    let body = frame::HEADER_LEN + BODY.len() + 1;
    let (head, tail) = whole.split_at(whole.len() - body);
    // The body comes as two frames.
    let (first, second) = BODY.split_at(10);
    let frame = |piece: &[u8]| {
        let mut raw = vec![3, 0, 1];
        raw.extend_from_slice(&(piece.len() as u32).to_be_bytes());
        raw.extend_from_slice(piece);
        raw.push(frame::END);
        raw
    };
    assert_eq!(tail.len(), body);
    ([head.to_vec(), frame(first)].concat(), frame(second))
}

#[test]
fn a_kept_publish_that_may_go_waits_for_the_end_of_the_content_on_its_channel() {
    let (head, tail) = cut_inside_its_body();
    let mut rig = Rig::new(spec());
    let b = rig.publish_asked("b");
    rig.answer(b, leased("a"));
    rig.client(&head);
    assert_eq!(rig.output(Side::Broker), head);
    rig.answer(b, Acquired::Taken);
    assert_eq!(rig.broker_got(), [""; 0], "the broker is inside the content of x");
    rig.client(&tail);
    let out = rig.output(Side::Broker);
    assert!(out.starts_with(&tail));
    assert_eq!(lines(&out[tail.len()..]), ["confirm.select", "basic.publish mandatory b"]);
    assert_eq!(rig.session.held_bytes(), 0);
}

#[test]
fn a_kept_publish_behind_a_content_that_never_ends_gives_its_lock_back() {
    let (head, _) = cut_inside_its_body();
    let mut rig = Rig::new(spec());
    let b = rig.publish_asked("b");
    rig.answer(b, leased("a"));
    rig.client(&head);
    rig.output(Side::Broker);
    rig.answer(b, Acquired::Taken);
    rig.session.handle_eof(Side::Client, rig.now);
    assert_eq!(rig.told(), ["unpublish b unconfirmed"]);
    assert_eq!(rig.broker_got(), ["connection.close"]);
}

#[test]
fn the_store_is_told_when_nobody_waits_for_a_leased_key_any_more() {
    let settings = Settings {
        connection_memory: 100,
        ..Settings::default()
    };
    let mut rig = Rig::with(spec(), settings);
    let a = rig.publish_asked("a");
    assert_eq!(
        rig.broker_got(),
        ["confirm.select", "basic.publish mandatory a"],
        "it went unchecked"
    );
    rig.answer(a, leased("z"));
    assert_eq!(std::mem::take(rig.session.cancelled()), [a]);

    let mut rig = Rig::new(spec());
    let b = rig.publish_asked("b");
    rig.broker(&method(1, MethodId::CHANNEL_CLOSE, b"\x01\x94\x01x\0\0\0\0"));
    rig.session.cancelled().clear();
    rig.answer(b, leased("z"));
    assert_eq!(std::mem::take(rig.session.cancelled()), [b], "the channel is gone");
}

#[test]
fn a_silence_about_a_publish_that_is_gone_gives_the_lock_back() {
    let mut rig = Rig::new(spec());
    let b = rig.publish_asked("b");
    rig.broker(&method(1, MethodId::CHANNEL_CLOSE, b"\x01\x94\x01x\0\0\0\0"));
    rig.silence(b);
    assert_eq!(rig.told(), ["unpublish b unconfirmed"]);
}

#[test]
fn a_close_behind_kept_publishes_has_a_deadline() {
    let mut rig = Rig::new(spec());
    let b = rig.publish_asked("b");
    rig.answer(b, leased("a"));
    let before = rig.now.us;
    rig.client(&method(1, MethodId::CHANNEL_CLOSE, b"\0\xc8\0\0\0\0\0"));
    // Heartbeats of both sides pass meanwhile.
    while rig.now.us < before + 10_000_000 {
        rig.client(&[8, 0, 0, 0, 0, 0, 0, frame::END]);
        rig.broker(&[8, 0, 0, 0, 0, 0, 0, frame::END]);
        rig.later(1_000_000);
    }
    let sent = rig.broker_got();
    assert_eq!(
        sent.iter().filter(|line| *line != "Heartbeat").collect::<Vec<_>>(),
        ["confirm.select", "basic.publish mandatory b", "channel.close"]
    );
}

#[test]
fn a_reentry_that_nobody_waits_for_is_not_counted_as_a_message() {
    let mut rig = Rig::new(spec());
    let b = rig.publish_asked("b");
    rig.broker(&method(1, MethodId::CHANNEL_CLOSE, b"\x01\x94\x01x\0\0\0\0"));
    rig.answer(b, Acquired::Reentry { holds: true });
    assert_eq!(rig.told(), ["unpublish b unconfirmed"]);
}
