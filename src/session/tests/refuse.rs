//! Duplicates whose producer hears of them.

use super::*;
use crate::amqp::method::connection::Close;
use crate::rules::outcome::ExceptionReason;
use crate::rules::spec::OnDuplicate;

/// A channel whose client waits for confirms, and what it and the broker were sent so far taken.
fn confirming(on_duplicate: OnDuplicate) -> Rig {
    let mut rig = Rig::new(RuleSpec { on_duplicate, ..spec() });
    selects(&mut rig);
    rig
}

fn selects(rig: &mut Rig) {
    rig.client(&method(1, MethodId::CONFIRM_SELECT, &[0]));
    rig.broker(&method(1, MethodId::CONFIRM_SELECT_OK, &[]));
    assert_eq!(rig.broker_got(), ["confirm.select"]);
    assert_eq!(rig.client_got(), ["confirm.select-ok"]);
}

fn close_ok() -> Vec<u8> {
    method(1, MethodId::CHANNEL_CLOSE_OK, &[])
}

fn open() -> Vec<u8> {
    method(1, MethodId::CHANNEL_OPEN, &[0])
}

fn refuses(rig: &mut Rig, id: &str) {
    let ticket = rig.publish_asked(id);
    rig.answer(ticket, held("a"));
}

fn fallbacks(rig: &mut Rig) -> usize {
    let is_fallback = |event: &Event| {
        matches!(
            event,
            Event::Exception {
                rule: Some(_),
                reason: ExceptionReason::RaiseFallback
            }
        )
    };
    rig.session.events().iter().filter(|event| is_fallback(event)).count()
}

fn is_dropped_instead(rig: &mut Rig) {
    assert_eq!(fallbacks(rig), 1);
    assert_eq!(rig.decisions().last(), Some(&PublishDecision::Dropped));
    let sent = rig.client_got();
    assert!(!sent.iter().any(|line| line == "channel.close"), "{sent:?}");
}

#[test]
fn a_rejected_duplicate_gets_one_nack() {
    let mut rig = confirming(OnDuplicate::Reject);
    refuses(&mut rig, "b");
    assert_eq!(rig.client_got(), ["basic.nack 1"]);
    assert_eq!(rig.broker_got(), [""; 0]);
    assert_eq!(rig.decisions(), [PublishDecision::Rejected]);
}

#[test]
fn a_rejected_duplicate_without_a_confirm_to_say_so_is_dropped() {
    let mut rig = Rig::new(RuleSpec {
        on_duplicate: OnDuplicate::Reject,
        ..spec()
    });
    refuses(&mut rig, "b");
    assert_eq!(rig.client_got(), [""; 0]);
    is_dropped_instead(&mut rig);
}

#[test]
fn a_raised_duplicate_closes_its_channel_on_both_legs_and_says_why() {
    let mut rig = confirming(OnDuplicate::Raise);
    refuses(&mut rig, "b");
    let sent = rig.output(Side::Client);
    let Split::Frame(frame) = frame::split(&sent, usize::MAX) else {
        panic!("a frame")
    };
    let close = Close::decode_channel(frame.payload).expect("a channel.close");
    assert_eq!(close.code, 406);
    assert_eq!(String::from_utf8_lossy(close.text), "oncegate: duplicate of a, expires in 1 s");
    assert_eq!(lines(&sent), ["channel.close"]);
    assert_eq!(rig.broker_got(), ["channel.close"]);
    assert_eq!(rig.decisions(), [PublishDecision::Raised]);
    assert_eq!(fallbacks(&mut rig), 0);
}

#[test]
fn a_long_id_leaves_room_for_the_rest_of_the_text() {
    let mut rig = confirming(OnDuplicate::Raise);
    let ticket = rig.publish_asked("b");
    rig.answer(ticket, held(&"\u{e9}".repeat(200)));
    let sent = rig.output(Side::Client);
    let Split::Frame(frame) = frame::split(&sent, usize::MAX) else {
        panic!("a frame")
    };
    let close = Close::decode_channel(frame.payload).expect("a channel.close");
    let text = String::from_utf8(close.text.to_vec()).expect("whole characters");
    assert!(text.ends_with("\u{e9}, expires in 1 s"), "{text}");
}

#[test]
fn what_the_client_sends_for_the_next_channel_waits_for_the_broker() {
    let mut rig = confirming(OnDuplicate::Raise);
    refuses(&mut rig, "b");
    rig.output(Side::Client);
    rig.output(Side::Broker);
    rig.client(&[close_ok(), open()].concat());
    rig.client(&publish(1, "t.other", "x", false));
    assert_eq!(rig.broker_got(), [""; 0], "the broker would end the connection");
    assert!(rig.session.held_bytes() > 0);
    assert!(rig.session.take_counts().frames_from_client > 0);
    rig.broker(&close_ok());
    assert_eq!(rig.session.take_counts().frames_from_client, 0, "they were counted when they came");
    assert_eq!(rig.broker_got(), ["channel.open", "basic.publish x"]);
    assert_eq!(rig.session.held_bytes(), 0);
    rig.broker(&method(1, MethodId::CHANNEL_OPEN_OK, &[0, 0, 0, 0]));
    assert_eq!(rig.client_got(), ["channel.open-ok"], "the broker's close-ok is not the client's");
    selects(&mut rig);
    let ticket = rig.publish_asked("c");
    rig.answer(ticket, Acquired::Taken);
    assert_eq!(rig.broker_got(), ["basic.publish mandatory c"]);
    rig.broker(&ack(1, 1, false));
    assert_eq!(rig.client_got(), ["basic.ack 1"], "it counts from one again");
}

#[test]
fn the_broker_may_answer_first() {
    let mut rig = confirming(OnDuplicate::Raise);
    refuses(&mut rig, "b");
    rig.output(Side::Client);
    rig.output(Side::Broker);
    rig.broker(&close_ok());
    assert_eq!(rig.client_got(), [""; 0]);
    rig.client(&publish(1, "t.unique", "late", false));
    assert_eq!(rig.asked(), [], "it failed with its channel");
    rig.client(&close_ok());
    assert_eq!(rig.broker_got(), [""; 0]);
    assert_eq!(rig.session.channel_count(), 0);
    rig.client(&open());
    assert_eq!(rig.broker_got(), ["channel.open"]);
}

#[test]
fn each_side_may_close_at_the_same_time() {
    let mut rig = confirming(OnDuplicate::Raise);
    refuses(&mut rig, "b");
    rig.output(Side::Client);
    rig.output(Side::Broker);
    let close = method(1, MethodId::CHANNEL_CLOSE, &[0, 200, 0, 0, 0, 0, 0]);
    rig.client(&close);
    assert_eq!(rig.client_got(), ["channel.close-ok"]);
    rig.broker(&close);
    assert_eq!(rig.broker_got(), ["channel.close-ok"]);
    rig.broker(&close_ok());
    rig.client(&open());
    assert_eq!(rig.broker_got(), ["channel.open"]);
}

#[test]
fn a_connection_may_end_on_a_refused_channel() {
    let mut rig = confirming(OnDuplicate::Raise);
    refuses(&mut rig, "b");
    rig.client(&[close_ok(), open()].concat());
    rig.output(Side::Broker);
    rig.session.handle_eof(Side::Client, rig.now);
    assert_eq!(rig.broker_got(), ["connection.close"]);
    rig.broker(&method(0, MethodId::CONNECTION_CLOSE_OK, &[]));
    assert!(rig.session.is_done(Side::Client) && rig.session.is_done(Side::Broker));
    assert_eq!(rig.session.held_bytes(), 0);
}

#[test]
fn without_confirms_nobody_could_tell_which_publish_is_meant() {
    let mut rig = Rig::new(RuleSpec {
        on_duplicate: OnDuplicate::Raise,
        ..spec()
    });
    refuses(&mut rig, "b");
    assert_eq!(rig.client_got(), [""; 0]);
    is_dropped_instead(&mut rig);
}

#[test]
fn another_publish_that_is_not_confirmed_would_be_lost_with_the_channel() {
    let mut rig = confirming(OnDuplicate::Raise);
    rig.client(&publish(1, "t.other", "x", false));
    refuses(&mut rig, "b");
    assert_eq!(rig.client_got(), ["basic.ack 2"]);
    is_dropped_instead(&mut rig);
    rig.broker(&ack(1, 1, false));
    rig.output(Side::Client);
    refuses(&mut rig, "c");
    assert_eq!(rig.client_got(), ["channel.close"], "now it is alone");
}

#[test]
fn a_publish_that_has_begun_behind_it_would_be_lost_with_the_channel() {
    let mut rig = confirming(OnDuplicate::Raise);
    let ticket = rig.publish_asked("b");
    let next = publish(1, "t.unique", "c", false);
    rig.client(&next[..next.len() - 9]);
    rig.answer(ticket, held("a"));
    is_dropped_instead(&mut rig);
}

#[test]
fn a_consumer_would_be_lost_with_the_channel() {
    let mut rig = confirming(OnDuplicate::Raise);
    rig.consumes(1, "c", false);
    rig.output(Side::Broker);
    refuses(&mut rig, "b");
    is_dropped_instead(&mut rig);
}

#[test]
fn a_kept_duplicate_is_raised_when_its_holder_is_safe() {
    let mut rig = confirming(OnDuplicate::Raise);
    let ticket = rig.publish_asked("b");
    rig.answer(ticket, leased("a"));
    assert_eq!(rig.client_got(), [""; 0]);
    rig.answer(ticket, held("a"));
    assert_eq!(rig.client_got(), ["channel.close"]);
    assert_eq!(rig.broker_got(), ["channel.close"]);
}

#[test]
fn a_publish_from_inside_a_task_is_never_answered_with_an_error() {
    let mut rig = confirming(OnDuplicate::Raise);
    let mut table = headers("t.unique", "b");
    put_entry(&mut table, b"parent_id", &FieldValue::LongStr(b"p")).expect("a short name");
    let out = publish_of(&content(&table, "b", BODY));
    rig.client(&out);
    let ticket = rig.asked()[0].0;
    rig.answer(ticket, held("a"));
    assert_eq!(rig.client_got(), ["basic.ack 1"]);
    is_dropped_instead(&mut rig);
}

#[test]
fn an_observing_rule_says_what_it_would_have_done() {
    let mut rig = Rig::new(RuleSpec {
        on_duplicate: OnDuplicate::Reject,
        mode: Mode::Observe,
        ..spec()
    });
    selects(&mut rig);
    let ticket = rig.publish_asked("b");
    rig.answer(ticket, held("a"));
    assert_eq!(rig.broker_got(), ["basic.publish b"]);
    assert_eq!(rig.decisions(), [PublishDecision::Rejected]);
}
