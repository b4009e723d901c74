//! Retries that are due when their rule says: the header `eta` is written, and nothing else is touched.

use std::time::Duration;

use super::*;

/// Celery's own: 180 s from the time of the rig, 2027-01-15T08:00:00Z.
const OWN: FieldValue<'_> = FieldValue::LongStr(b"2027-01-15T08:03:00.471471+00:00");
const FIRST: FieldValue<'_> = FieldValue::LongStr(b"2027-01-15T08:00:10.000000+00:00");
const LATER: FieldValue<'_> = FieldValue::LongStr(b"2027-01-15T08:01:00.000000+00:00");

fn delays() -> RuleSpec {
    RuleSpec {
        ttl: Duration::from_mins(10),
        retry_delays: [10, 60].map(Duration::from_secs).to_vec(),
        ..spec()
    }
}

fn keyless() -> RuleSpec {
    RuleSpec { unique: None, ..delays() }
}

/// A retry whose header `eta` stands between others.
pub(super) fn publish_retry(retries: i32, eta: FieldValue<'_>, exchange: &str, mandatory: bool) -> Vec<u8> {
    publish_expiring(retries, eta, FieldValue::Void, exchange, mandatory)
}

fn publish_expiring(retries: i32, eta: FieldValue<'_>, expires: FieldValue<'_>, exchange: &str, mandatory: bool) -> Vec<u8> {
    let mut table = headers("t.unique", "a");
    for (name, value) in [
        ("eta", eta),
        ("expires", expires),
        ("retries", FieldValue::I32(retries)),
        ("group", FieldValue::Void),
    ] {
        put_entry(&mut table, name.as_bytes(), &value).expect("short names");
    }
    let mut content = content(&table, "a", BODY);
    content.properties.expiration = Some(b"60000");
    let method = Publish {
        exchange: exchange.as_bytes(),
        routing_key: b"q",
        mandatory,
        immediate: false,
        bits_offset: 0,
    };
    let mut out = Vec::new();
    encode::basic_publish(&mut out, 1, &method, &content, 131_072).expect("it fits");
    out
}

/// What the broker is sent of a publish, the life of the lock that it asks for, and what is told of a due time that is kept.
fn sent(rig: &mut Rig, frames: &[u8]) -> (Vec<u8>, Option<u64>, Vec<&'static str>) {
    rig.client(&method(1, MethodId::CONFIRM_SELECT, &[0]));
    rig.broker(&method(1, MethodId::CONFIRM_SELECT_OK, &[]));
    rig.output(Side::Broker);
    rig.client(frames);
    let (asks, _) = rig.session.questions();
    let life = asks.iter().find_map(|(_, request)| match request {
        Request::Acquire { note, .. } => Some(note.life_ms),
        _ => None,
    });
    for (ticket, _) in rig.asked() {
        rig.answer(ticket, Acquired::Taken);
    }
    let kept = rig.session.events().extract_if(.., |event| matches!(event, Event::DueKept { .. }));
    let kept = kept.filter_map(|event| match event {
        Event::DueKept { why, .. } => Some(why),
        _ => None,
    });
    let kept = kept.collect();
    (rig.output(Side::Broker), life, kept)
}

#[test]
fn the_header_is_written_and_the_rest_is_as_it_came() {
    for own in [OWN, FieldValue::Void] {
        for (retries, eta, seconds) in [(1, FIRST, 10), (2, LATER, 60), (9, LATER, 60)] {
            let (bytes, life, kept) = sent(&mut Rig::new(delays()), &publish_retry(retries, own, "", false));
            assert_eq!(bytes, publish_retry(retries, eta, "", true), "{retries}");
            assert_eq!((life, kept), (Some(600_000 + seconds * 1000), vec![]), "{retries}");
        }
    }
}

#[test]
fn it_is_written_beside_the_time_at_which_the_message_expires() {
    let spec = RuleSpec {
        expires_with_lock: true,
        ..delays()
    };
    let (bytes, life, _) = sent(&mut Rig::new(spec), &publish_retry(1, OWN, "", false));
    let end = FieldValue::LongStr(b"2027-01-15T08:10:10.000000+00:00");
    assert_eq!(bytes, publish_expiring(1, FIRST, end, "", true));
    assert_eq!(life, Some(610_000));
}

#[test]
fn a_first_publish_is_left_alone() {
    let (bytes, ..) = sent(&mut Rig::new(delays()), &publish_retry(0, OWN, "", false));
    assert_eq!(bytes, publish_retry(0, OWN, "", true));
}

#[test]
fn a_rule_without_keys_writes_it_at_once_and_counts() {
    let mut rig = Rig::new(keyless());
    let (bytes, life, kept) = sent(&mut rig, &publish_retry(1, OWN, "", false));
    assert_eq!(bytes, publish_retry(1, FIRST, "", false));
    assert_eq!((life, kept), (None, vec![]), "the store is not asked");
    assert_eq!(rig.decisions(), [PublishDecision::Forwarded]);
    let first = publish_retry(0, OWN, "", false);
    assert_eq!(sent(&mut rig, &first).0, first);
    assert_eq!(rig.decisions(), [PublishDecision::Forwarded]);
    assert_eq!(rig.session.take_counts().unmatched_publishes, 0);
}

#[test]
fn it_keeps_its_turn() {
    let mut rig = Rig::new(keyless());
    let rules = vec![
        RuleSpec {
            name: Some("other".to_owned()),
            task: vec!["t.other".to_owned()],
            ..spec()
        },
        keyless(),
    ];
    rig.session
        .handle_rules(Arc::new(RuleSet::compile(rules, &[]).expect("the rules are right")));
    rig.client(&publish(1, "t.other", "b", false));
    let waits = rig.asked()[0].0;
    rig.client(&publish_retry(1, OWN, "", false));
    assert_eq!(rig.output(Side::Broker), b"", "behind one that waits");
    rig.answer(waits, Acquired::Taken);
    let out = rig.output(Side::Broker);
    assert!(out.ends_with(&publish_retry(1, FIRST, "", false)));
}

#[test]
fn an_observing_rule_changes_nothing() {
    for spec in [delays(), keyless()] {
        let observing = RuleSpec {
            mode: Mode::Observe,
            ..spec
        };
        let came = publish_retry(1, OWN, "", false);
        assert_eq!(sent(&mut Rig::new(observing), &came).0, came);
    }
}

#[test]
fn what_has_no_place_for_it_is_forwarded_as_it_came_and_that_is_told() {
    let (bytes, life, kept) = sent(&mut Rig::new(delays()), &publish_retry(1, OWN, "celery_delayed_27", false));
    assert_eq!(bytes, publish_retry(1, OWN, "celery_delayed_27", true));
    assert_eq!(life, Some(780_471));
    assert!(matches!(kept.as_slice(), [why] if why.contains("native")), "{kept:?}");

    let body = r#"{"task": "t.unique", "id": "a", "args": [1], "kwargs": {}, "retries": 1, "eta": "2027-01-15T08:03:00+00:00"}"#;
    let properties = Properties {
        content_type: Some(b"application/json"),
        content_encoding: Some(b"utf-8"),
        correlation_id: Some(b"a"),
        ..Properties::default()
    };
    let came = message("", "q", properties, body);
    let (bytes, _, kept) = sent(&mut Rig::new(keyless()), &came);
    assert_eq!(bytes, came);
    assert!(matches!(kept.as_slice(), [why] if why.contains("protocol 1")), "{kept:?}");
}

#[test]
fn a_header_that_would_not_fit_into_a_frame_is_not_written() {
    let came = publish_retry(1, FieldValue::Void, "", false);
    let Split::Frame(method) = frame::split(&came, usize::MAX) else {
        panic!("a frame")
    };
    let Split::Frame(header) = frame::split(&came[method.raw.len()..], usize::MAX) else {
        panic!("a frame")
    };
    let mut rig = Rig::new(delays());
    rig.session.shared.frame_max = header.raw.len();
    let (bytes, life, kept) = sent(&mut rig, &came);
    assert_eq!(bytes, publish_retry(1, FieldValue::Void, "", true));
    assert_eq!(life, Some(600_000), "as it is due by itself");
    assert!(matches!(kept.as_slice(), [why] if why.contains("room")), "{kept:?}");
}
