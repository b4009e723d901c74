//! Kept duplicates: their key is only leased to another.

use super::*;

fn rule(on_store_error: OnStoreError) -> RuleSpec {
    RuleSpec { on_store_error, ..spec() }
}

/// A rig whose publish `b` is kept, on a channel that confirms or does not.
fn kept(on_store_error: OnStoreError, confirms: bool) -> (Rig, Ticket) {
    let mut rig = Rig::new(rule(on_store_error));
    if confirms {
        rig.client(&method(1, MethodId::CONFIRM_SELECT, &[1]));
    }
    let b = rig.publish_asked("b");
    rig.answer(b, leased("a"));
    rig.broker_got();
    assert_eq!(rig.told(), [""; 0]);
    (rig, b)
}

const FORWARDED: [&str; 2] = ["confirm.select", "basic.publish mandatory b"];

#[test]
fn a_silent_store_lets_a_kept_duplicate_go_where_the_rule_forwards() {
    let (mut rig, b) = kept(OnStoreError::Forward, false);
    rig.silence(b);
    assert_eq!(rig.broker_got(), FORWARDED);
    assert_eq!(rig.decisions(), [PublishDecision::ForwardedUnchecked]);
}

#[test]
fn a_kept_duplicate_waits_for_a_silent_store_where_the_rule_waits() {
    let (mut rig, b) = kept(OnStoreError::Wait, false);
    rig.silence(b);
    assert_eq!(rig.broker_got(), [""; 0]);
    rig.client(&publish(1, "t.other", "x", false));
    assert_eq!(rig.broker_got(), ["basic.publish x"], "its channel goes on");
    rig.later(50_000);
    assert_eq!(rig.asked(), []);
    rig.later(50_000);
    assert_eq!(rig.asked(), [(b, "b".to_owned())], "it is asked again");
    rig.answer(b, held("a"));
    assert_eq!(rig.broker_got(), [""; 0]);
    assert_eq!(rig.decisions(), [PublishDecision::Dropped]);
    assert_eq!(rig.session.held_bytes(), 0);
}

#[test]
fn a_kept_duplicate_whose_store_is_back_waits_for_the_holder_again() {
    let (mut rig, b) = kept(OnStoreError::Wait, false);
    rig.silence(b);
    rig.later(100_000);
    rig.asked();
    rig.answer(b, leased("a"));
    assert_eq!(std::mem::take(rig.session.cancelled()), [], "the store goes on asking");
    for _ in 0..3 {
        rig.later(5_000_000);
        rig.client(&[8, 0, 0, 0, 0, 0, 0, frame::END]);
        rig.broker(&[8, 0, 0, 0, 0, 0, 0, frame::END]);
    }
    assert_eq!(rig.asked(), []);
    assert!(
        rig.broker_got().iter().all(|line| line == "Heartbeat"),
        "a holder may take its time"
    );
    rig.answer(b, Acquired::Taken);
    assert_eq!(rig.broker_got(), FORWARDED);
    assert_eq!(rig.decisions(), [PublishDecision::Forwarded]);
}

#[test]
fn a_kept_duplicate_waits_for_a_silent_store_no_longer_than_store_wait() {
    let (mut rig, b) = kept(OnStoreError::Wait, false);
    let mut passed = Vec::new();
    for tenth in 0..110 {
        rig.silence(b);
        rig.later(100_000);
        if rig.broker_got().contains(&FORWARDED[1].to_owned()) {
            passed.push(tenth);
        }
    }
    assert_eq!(passed, [99], "after 10 s, once");
    assert_eq!(rig.decisions(), [PublishDecision::ForwardedUnchecked]);
    assert_eq!(rig.session.held_bytes(), 0);
}

#[test]
fn an_answer_to_a_kept_duplicate_that_has_gone_unchecked_changes_nothing() {
    let (mut rig, b) = kept(OnStoreError::Wait, false);
    rig.silence(b);
    rig.later(100_000);
    assert_eq!(rig.asked().len(), 1);
    rig.later(10_000_000);
    assert!(rig.broker_got().contains(&FORWARDED[1].to_owned()));
    rig.session.cancelled().clear();
    rig.answer(b, leased("a"));
    assert_eq!(std::mem::take(rig.session.cancelled()), [b], "nobody waits for it");
    assert_eq!(rig.broker_got(), [""; 0]);
    rig.broker(&ack(1, 1, false));
    assert!(rig.told().contains(&"commit b".to_owned()));
}

#[test]
fn a_silent_store_rejects_a_kept_duplicate_where_the_rule_rejects() {
    let (mut rig, b) = kept(OnStoreError::Reject, true);
    rig.silence(b);
    assert_eq!(rig.client_got(), ["basic.nack 1"]);
    assert_eq!(
        rig.told(),
        ["unpublish b unconfirmed"],
        "the silence may have hidden that the lock was taken"
    );
    assert_eq!(rig.broker_got(), [""; 0]);
    assert_eq!(rig.decisions(), [PublishDecision::Rejected]);
    assert_eq!(rig.session.held_bytes(), 0);
}

#[test]
fn a_kept_duplicate_that_cannot_be_rejected_waits() {
    let (mut rig, b) = kept(OnStoreError::Reject, false);
    rig.silence(b);
    assert_eq!(rig.broker_got(), [""; 0]);
    rig.later(100_000);
    assert_eq!(rig.asked().len(), 1);

    // The confirms that its client has asked for since count from later publishes on.
    let (mut rig, b) = kept(OnStoreError::Reject, false);
    rig.client(&method(1, MethodId::CONFIRM_SELECT, &[1]));
    rig.silence(b);
    assert_eq!(rig.client_got(), [""; 0]);
    rig.later(100_000);
    assert_eq!(rig.asked().len(), 1);
}

#[test]
fn a_publish_from_before_the_confirms_waits_where_the_rule_rejects() {
    let mut rig = Rig::new(rule(OnStoreError::Reject));
    let a = rig.publish_asked("a");
    rig.client(&method(1, MethodId::CONFIRM_SELECT, &[1]));
    rig.silence(a);
    rig.later(100_000);
    assert_eq!(rig.asked().len(), 1, "nobody could be told of its refusal");
    rig.answer(a, Acquired::Taken);
    assert_eq!(rig.broker_got(), ["confirm.select", "basic.publish mandatory a", "confirm.select"]);
}

#[test]
fn a_channel_that_closes_forgets_what_waits_for_a_silent_store() {
    let close = method(1, MethodId::CHANNEL_CLOSE, b"\x01\x94\x01x\0\0\0\0");
    for is_kept in [true, false] {
        // No question is out: the last silence may have hidden that the lock was taken.
        let rig_with_b = || {
            if is_kept {
                return kept(OnStoreError::Wait, false);
            }
            let mut rig = Rig::new(rule(OnStoreError::Wait));
            let b = rig.publish_asked("b");
            (rig, b)
        };
        let (mut rig, b) = rig_with_b();
        rig.silence(b);
        rig.broker(&close);
        assert_eq!(rig.told(), ["unpublish b unconfirmed"]);
        assert_eq!(rig.session.held_bytes(), 0);

        // One is out: its answer decides.
        let (mut rig, b) = rig_with_b();
        rig.silence(b);
        rig.later(100_000);
        assert_eq!(rig.asked().len(), 1);
        rig.broker(&close);
        rig.answer(b, Acquired::Taken);
        assert_eq!(rig.told(), ["unpublish b unconfirmed"]);
        rig.answer(b, Acquired::Taken);
        assert_eq!(rig.told(), [""; 0], "nothing of it is left");
    }
}
