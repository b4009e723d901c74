//! Messages that expire with their lock: the header `expires` is written, and nothing else is touched.

use std::time::Duration;

use super::*;
use crate::rules::lock::Alive;

const OWN: &[u8] = b"2099-01-01T00:00:00+00:00";
/// Ten minutes from the time of the rig, 2027-01-15T08:00:00Z.
const END: &[u8] = b"2027-01-15T08:10:00.000000+00:00";

fn expiring() -> RuleSpec {
    RuleSpec {
        ttl: Duration::from_mins(10),
        expires_with_lock: true,
        ..spec()
    }
}

/// A publish whose header `expires` stands between others; it has the property `expiration` too. Its `mandatory` bit is set, as it is when
/// it leaves.
fn publish_expiring(expires: FieldValue<'_>) -> Vec<u8> {
    let mut table = headers("t.unique", "a");
    for (name, value) in [("expires", expires), ("group", FieldValue::Void)] {
        put_entry(&mut table, name.as_bytes(), &value).expect("short names");
    }
    let mut content = content(&table, "a", BODY);
    content.properties.expiration = Some(b"60000");
    let method = Publish {
        exchange: b"",
        routing_key: b"q",
        mandatory: true,
        immediate: false,
        bits_offset: 0,
    };
    let mut out = Vec::new();
    encode::basic_publish(&mut out, 1, &method, &content, 131_072).expect("it fits");
    out
}

/// What is claimed by a publish: how long it may still begin, in milliseconds.
fn unstarted(rig: &mut Rig) -> Option<u64> {
    let (asks, _) = rig.session.questions();
    let [(_, Request::Acquire { note, .. })] = asks.as_slice() else {
        panic!("one question: {asks:?}")
    };
    note.unstarted_ms
}

/// What the broker is sent of a publish, and how long it may still begin.
fn sent(spec: RuleSpec, frames: &[u8]) -> (Vec<u8>, Option<u64>, Vec<&'static str>) {
    let mut rig = Rig::new(spec);
    rig.client(&method(1, MethodId::CONFIRM_SELECT, &[0]));
    rig.broker(&method(1, MethodId::CONFIRM_SELECT_OK, &[]));
    rig.output(Side::Broker);
    rig.client(frames);
    let unstarted = unstarted(&mut rig);
    let (ticket, _) = rig.asked().remove(0);
    rig.answer(ticket, Acquired::Taken);
    let kept = rig.session.events().drain(..).filter_map(|event| match event {
        Event::ExpiryKept { why, .. } => Some(why),
        _ => None,
    });
    let kept = kept.collect();
    (rig.output(Side::Broker), unstarted, kept)
}

#[test]
fn the_header_is_written_and_the_rest_is_as_it_came() {
    for own in [FieldValue::Void, FieldValue::LongStr(OWN)] {
        let (bytes, unstarted, kept) = sent(expiring(), &publish_expiring(own));
        assert_eq!(bytes, publish_expiring(FieldValue::LongStr(END)));
        assert_eq!((unstarted, kept), (Some(601_000), vec![]));
    }
}

#[test]
fn an_earlier_time_of_its_own_stays() {
    let own = publish_expiring(FieldValue::LongStr(b"2027-01-15T08:05:00+00:00"));
    let (bytes, unstarted, kept) = sent(expiring(), &own);
    assert_eq!(bytes, own);
    assert_eq!((unstarted, kept), (Some(301_000), vec![]));
}

#[test]
fn without_the_key_nothing_is_written() {
    let own = publish_expiring(FieldValue::Void);
    assert_eq!(sent(spec(), &own), (own, None, vec![]));
}

#[test]
fn a_header_that_would_not_fit_into_a_frame_is_not_written() {
    let came = publish_expiring(FieldValue::LongStr(OWN));
    let Split::Frame(method) = frame::split(&came, usize::MAX) else {
        panic!("a frame")
    };
    let Split::Frame(header) = frame::split(&came[method.raw.len()..], usize::MAX) else {
        panic!("a frame")
    };
    let mut rig = Rig::new(expiring());
    rig.session.shared.frame_max = header.raw.len();
    rig.client(&came);
    assert!(
        unstarted(&mut rig).is_some_and(|unstarted| unstarted > 601_000),
        "its own time counts"
    );
    assert!(matches!(rig.session.events().as_slice(), [Event::ExpiryKept { why, .. }] if why.contains("room")));
}

#[test]
fn a_message_of_protocol_1_is_forwarded_as_it_is_and_that_is_told() {
    let body = r#"{"task": "t.unique", "id": "a", "args": [1], "kwargs": {}, "retries": 0, "eta": null, "expires": null}"#;
    let properties = Properties {
        content_type: Some(b"application/json"),
        content_encoding: Some(b"utf-8"),
        correlation_id: Some(b"a"),
        ..Properties::default()
    };
    let came = message("", "q", properties, body);
    let (mut bytes, unstarted, kept) = sent(expiring(), &came);
    // Only the `mandatory` bit, the last octet of the method's payload, is Oncegate's.
    let Split::Frame(method) = frame::split(&came, usize::MAX) else {
        panic!("a frame")
    };
    bytes[method.raw.len() - 2] &= !1;
    assert_eq!(bytes, came);
    assert_eq!(unstarted, None);
    assert!(matches!(kept.as_slice(), [why] if why.contains("protocol 1")), "{kept:?}");
}

#[test]
fn a_run_that_has_begun_keeps_its_lock_beyond_the_time_to_begin() {
    let mut rig = Rig::new(expiring());
    rig.admits_all = false;
    rig.consumes(1, "c", false);
    let mut table = headers("t.unique", "a");
    put_entry(&mut table, b"expires", &FieldValue::LongStr(b"2027-01-15T08:00:40+00:00")).expect("short");
    let bytes = delivery_of(1, false, &content(&table, "a", BODY));
    rig.broker(&bytes);
    let (ticket, ..) = rig.admissions()[0];
    rig.admit(ticket, Admitted::Holds);
    let event = r#"{"type": "task-started", "uuid": "a", "hostname": "w@one"}"#;
    let properties = Properties {
        content_type: Some(b"application/json"),
        content_encoding: Some(b"utf-8"),
        ..Properties::default()
    };
    rig.client(&super::message("celeryev", "task.multi", properties, event));
    rig.told();
    rig.later(60_000_000);
    let (_, tells) = rig.session.questions();
    assert!(
        matches!(tells.as_slice(), [Request::Renew { alive: Alive::Begun, .. }]),
        "{tells:?}"
    );
}
