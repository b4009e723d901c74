//! Duplicates of publishes that go to the dead-letter address of their rule.

use super::*;
use crate::amqp::content::ContentHeader;
use crate::rules::outcome::{DeliveryDecision as D, ExceptionReason};
use crate::rules::spec::{DeadLetter, OnDuplicate};
use crate::session::{Republish, RepublishFault, Target};

fn dead_lettering() -> RuleSpec {
    RuleSpec {
        on_duplicate: OnDuplicate::DeadLetter,
        dead_letter: Some(DeadLetter {
            exchange: "x.dead".to_owned(),
            routing_key: "k".to_owned(),
        }),
        ..spec()
    }
}

/// A client that waits for confirms.
fn confirming() -> Rig {
    let mut rig = Rig::new(dead_lettering());
    rig.client(&method(1, MethodId::CONFIRM_SELECT, &[0]));
    rig.broker(&method(1, MethodId::CONFIRM_SELECT_OK, &[]));
    rig.output(Side::Client);
    rig.output(Side::Broker);
    rig
}

impl Rig {
    fn sent(&mut self) -> (Ticket, Republish) {
        let mut sent = std::mem::take(self.session.republishes());
        assert_eq!(sent.len(), 1, "one copy");
        sent.remove(0)
    }

    fn duplicate(&mut self, id: &str) -> (Ticket, Republish) {
        let ticket = self.publish_asked(id);
        self.answer(ticket, held("a"));
        self.sent()
    }

    fn ends(&mut self, ticket: Ticket, outcome: Result<(), RepublishFault>) {
        self.session.handle_republished(ticket, outcome, self.now);
    }

    fn failures(&mut self) -> usize {
        let failed = |event: &Event| {
            matches!(
                event,
                Event::Exception {
                    reason: ExceptionReason::DeadLetterFailed,
                    ..
                }
            )
        };
        self.session.events().iter().filter(|event| failed(event)).count()
    }
}

#[test]
fn its_copy_says_why_and_the_client_hears_when_it_is_safe() {
    let mut rig = confirming();
    let (ticket, republish) = rig.duplicate("b");
    let target = Target::Exchange {
        exchange: "x.dead".into(),
        routing_key: "k".into(),
    };
    assert_eq!((republish.target, &*republish.body), (target, BODY));
    let header = ContentHeader::decode(&republish.header).expect("a content header");
    let headers = header.properties.headers.expect("headers");
    for (name, value) in [("reason", "duplicate"), ("holder", "a"), ("rule", "r")] {
        let name = format!("x-oncegate-{name}");
        assert_eq!(
            headers.get(name.as_bytes()),
            Ok(Some(FieldValue::LongStr(value.as_bytes()))),
            "{name}"
        );
    }
    assert_eq!(rig.client_got(), [""; 0]);
    rig.client(&publish(1, "t.other", "x", false));
    assert_eq!(rig.broker_got(), ["basic.publish x"], "the channel goes on");
    rig.ends(ticket, Ok(()));
    assert_eq!(rig.client_got(), ["basic.ack 1"]);
    assert_eq!((rig.failures(), rig.decisions()), (0, vec![PublishDecision::DeadLettered]));
}

#[test]
fn one_that_is_kept_first_goes_when_its_holder_is_safe() {
    let mut rig = confirming();
    let ticket = rig.publish_asked("b");
    rig.answer(ticket, leased("a"));
    assert!(rig.session.republishes().is_empty());
    rig.answer(ticket, held("a"));
    let (ticket, _) = rig.sent();
    rig.ends(ticket, Ok(()));
    assert_eq!(rig.client_got(), ["basic.ack 1"]);
    assert_eq!(rig.session.held_bytes(), 0);
}

#[test]
fn one_that_fails_is_dropped_and_counted() {
    let mut rig = confirming();
    let (ticket, _) = rig.duplicate("b");
    rig.ends(ticket, Err(RepublishFault::Returned));
    assert_eq!(rig.client_got(), ["basic.ack 1"]);
    assert_eq!((rig.failures(), rig.decisions()), (1, vec![PublishDecision::Dropped]));
}

#[test]
fn nobody_waits_beyond_the_lease() {
    let mut rig = confirming();
    let (ticket, _) = rig.duplicate("b");
    rig.later(9_000_000);
    assert!(!rig.client_got().contains(&"basic.ack 1".to_owned()));
    rig.later(1_000_000);
    assert!(rig.client_got().contains(&"basic.ack 1".to_owned()));
    assert_eq!((rig.failures(), rig.decisions()), (1, vec![PublishDecision::Dropped]));
    rig.ends(ticket, Ok(()));
    assert_eq!((rig.client_got(), rig.decisions()), (vec![], vec![]));
}

#[test]
fn the_end_of_a_channel_waits_for_it() {
    let mut rig = Rig::new(dead_lettering());
    let (ticket, _) = rig.duplicate("b");
    rig.client(&method(1, MethodId::CHANNEL_CLOSE, &[0, 200, 0, 0, 0, 0, 0]));
    assert_eq!(rig.broker_got(), [""; 0]);
    rig.ends(ticket, Ok(()));
    assert_eq!(rig.broker_got(), ["channel.close"]);
    assert_eq!(rig.decisions(), [PublishDecision::DeadLettered]);
}

#[test]
fn a_channel_that_is_lost_waits_for_nothing() {
    let mut rig = confirming();
    let (ticket, _) = rig.duplicate("b");
    rig.broker(&method(1, MethodId::CHANNEL_CLOSE, &[1, 148, 0, 0, 0, 0, 0]));
    assert_eq!(rig.client_got(), ["channel.close"]);
    assert_eq!((rig.failures(), rig.decisions()), (1, vec![PublishDecision::Dropped]));
    rig.ends(ticket, Ok(()));
    assert_eq!((rig.client_got(), rig.decisions()), (vec![], vec![]));
}

#[test]
fn a_duplicate_found_at_its_delivery_goes_there_too() {
    let mut rig = Rig::new(dead_lettering());
    rig.admits_all = false;
    rig.consumes(1, "c", false);
    rig.output(Side::Broker);
    rig.broker(&deliver(1, "c", 1, "t.unique", "b"));
    let [(ticket, ..)] = &rig.admissions()[..] else {
        panic!("one question")
    };
    rig.admit(
        *ticket,
        Admitted::Held {
            holder: "a".into(),
            state: LockState::Queued,
            expires_in_ms: 1000,
        },
    );
    let (ticket, republish) = rig.sent();
    let header = ContentHeader::decode(&republish.header).expect("a content header");
    let reason = header
        .properties
        .headers
        .and_then(|headers| headers.get(b"x-oncegate-reason").ok().flatten());
    assert_eq!(reason, Some(FieldValue::LongStr(b"duplicate")));
    assert!(!rig.broker_got().contains(&"basic.ack 1".to_owned()));
    rig.ends(ticket, Ok(()));
    assert!(rig.broker_got().contains(&"basic.ack 1".to_owned()));
    let decided = |event: &Event| matches!(event, Event::Admission(delivery) if delivery.decision == D::DeadLettered && delivery.reason == "duplicate");
    assert!(rig.session.events().iter().any(decided));
    assert_eq!(rig.client_got(), [""; 0]);
}
