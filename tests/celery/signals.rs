//! Events and results, as they were on the wire, against what Python reads from them.
//!
//! `signals.jsonl` is written by `signals.py`.

use std::collections::BTreeSet;

use oncegate::celery::control;
use oncegate::celery::event::{self, Event, Kind, Pulse, TaskEvent, WorkerEvent};
use oncegate::celery::instant::parse_iso8601;
use oncegate::celery::queue::{self, Purpose};
use oncegate::celery::result::{self, Status, TaskResult};

use super::*;

pub const NODE: &str = "w1@worker.example.com";

/// The rows of a kind.
pub fn signals(kind: &str) -> Vec<Json> {
    let mut rows = rows(include_str!("signals.jsonl"));
    rows.retain(|row| row["kind"] == kind);
    assert!(!rows.is_empty(), "{kind}");
    rows
}

/// A member of an event as Python has it, in milliseconds or as text.
fn milliseconds(seconds: &Json) -> i64 {
    (seconds.as_f64().expect("seconds") * 1000.0) as i64
}

fn pulse(pulse: &Pulse) -> Json {
    json!({"freq": pulse.freq, "active": pulse.active})
}

/// An event as `expected` has it.
fn shown(event: &Event) -> Json {
    let (id, kind, more) = match &event.kind {
        Kind::Task { id, event } => {
            let (kind, more) = match event {
                TaskEvent::Sent { retries } => ("task-sent", json!({"retries": retries})),
                TaskEvent::Received { retries } => ("task-received", json!({"retries": retries})),
                TaskEvent::Started => ("task-started", json!({})),
                TaskEvent::Succeeded => ("task-succeeded", json!({})),
                TaskEvent::Failed => ("task-failed", json!({})),
                TaskEvent::Retried => ("task-retried", json!({})),
                TaskEvent::Revoked {
                    terminated,
                    expired,
                    signum,
                } => (
                    "task-revoked",
                    json!({"terminated": terminated, "expired": expired, "signum": signum}),
                ),
                TaskEvent::Rejected { requeue } => ("task-rejected", json!({"requeue": requeue})),
                TaskEvent::Cancelled => ("task-cancelled", json!({})),
            };
            (Some(id), kind, more)
        }
        Kind::Worker(WorkerEvent::Online(beat)) => (None, "worker-online", pulse(beat)),
        Kind::Worker(WorkerEvent::Heartbeat(beat)) => (None, "worker-heartbeat", pulse(beat)),
        Kind::Worker(WorkerEvent::Offline) => (None, "worker-offline", json!({})),
    };
    json!([kind, event.hostname, event.timestamp, id, more])
}

/// What is to be read from an event; `None` if it is to be left out.
fn expected(event: &Json) -> Option<Json> {
    let more = match text(event, "type") {
        "task-sent" | "task-received" => json!({"retries": event["retries"]}),
        "task-revoked" => {
            let signum = match &event["signum"] {
                Json::Number(number) => json!(number.to_string()),
                other => other.clone(),
            };
            json!({"terminated": event["terminated"], "expired": event["expired"], "signum": signum})
        }
        "task-rejected" => json!({"requeue": event["requeue"]}),
        "worker-online" | "worker-heartbeat" => json!({"freq": event["freq"].as_f64(), "active": event["active"]}),
        "task-started" | "task-succeeded" | "task-failed" | "task-retried" | "task-cancelled" | "worker-offline" => json!({}),
        _ => return None,
    };
    let timestamp = milliseconds(&event["timestamp"]);
    Some(json!([event["type"], event["hostname"], timestamp, event.get("uuid"), more]))
}

#[test]
fn every_event_is_read() {
    let (mut seen, mut batches) = (BTreeSet::new(), BTreeSet::new());
    for row in signals("event") {
        let name = text(&row, "name");
        let header = octets(&row["header"]);
        let read = event::read(&properties(&header), &octets(&row["body"]), limits()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let told = row["value"].as_array().expect("a list");
        let wanted: Vec<Json> = told.iter().filter_map(expected).collect();
        assert_eq!(read.events.iter().map(shown).collect::<Vec<_>>(), wanted, "{name}");
        assert_eq!(read.ignored, told.len() - wanted.len(), "{name}");
        let key = text(&row, "routing_key").as_bytes();
        assert!(event::may_matter(key) || wanted.is_empty(), "{name}");
        let serializer = name.split('/').next().expect("a serializer").to_owned();
        batches.insert((serializer.clone(), row["batch"].as_bool()));
        seen.extend(told.iter().map(|event| (serializer.clone(), text(event, "type").to_owned())));
    }
    for serializer in ["json", "pickle", "yaml", "msgpack"] {
        for batch in [true, false] {
            assert!(batches.contains(&(serializer.to_owned(), Some(batch))), "{serializer} {batch}");
        }
        for kind in [
            "sent",
            "received",
            "started",
            "succeeded",
            "failed",
            "retried",
            "revoked",
            "rejected",
            "cancelled",
            "progress",
        ] {
            assert!(
                seen.contains(&(serializer.to_owned(), format!("task-{kind}"))),
                "{serializer} {kind}"
            );
        }
        for kind in ["worker-online", "worker-heartbeat", "worker-offline", "shop-custom"] {
            assert!(seen.contains(&(serializer.to_owned(), kind.to_owned())), "{serializer} {kind}");
        }
    }
}

fn assert_result(row: &Json, read: &TaskResult<'_>) {
    let (name, value) = (text(row, "name"), &row["value"]);
    assert_eq!(read.id, text(value, "task_id"), "{name}");
    assert_eq!(read.status, Status::from_name(text(value, "status")), "{name}");
    assert_eq!(read.json.is_some(), name.starts_with("json/"), "{name}");
    assert_eq!(read.done_ms.is_some(), read.status.is_ready(), "{name}");
    if let Some(json) = &read.json {
        let json: Json = serde_json::from_slice(json).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(read.done_ms, json["date_done"].as_str().and_then(parse_iso8601), "{name}");
        assert_eq!((&json["task_id"], &json["status"]), (&value["task_id"], &value["status"]), "{name}");
    }
}

/// Every state that a task can get to was there, in every serializer.
fn assert_all_states(rows: &[Json]) {
    for serializer in ["json", "pickle", "yaml", "msgpack"] {
        let seen: BTreeSet<&str> = rows
            .iter()
            .filter(|row| text(row, "name").starts_with(serializer))
            .map(|row| text(&row["value"], "status"))
            .collect();
        let wanted = BTreeSet::from(["STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED"]);
        assert!(seen.is_superset(&wanted), "{serializer}: {seen:?}");
    }
}

#[test]
fn every_rpc_result_is_read() {
    let rows = signals("rpc");
    for row in &rows {
        let name = text(row, "name");
        let (header, body) = (octets(&row["header"]), octets(&row["body"]));
        let properties = properties(&header);
        assert!(result::may_be_rpc(&properties), "{name}");
        let read = result::read_rpc(&properties, &body, limits()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_result(row, &read.unwrap_or_else(|| panic!("{name} is a result")));
    }
    assert_all_states(&rows);
}

#[test]
fn every_stored_result_is_read() {
    let rows = signals("stored");
    let mut compressed = 0;
    for row in &rows {
        let name = text(row, "name");
        let prefix = result::key_prefix(if name.contains("prefixed") { "shop" } else { "" });
        let channel = text(row, "channel").as_bytes();
        let id = result::id_of_key(&prefix, channel).unwrap_or_else(|| panic!("{name} has an id"));
        assert_eq!(id, text(&row["value"], "task_id"), "{name}");
        let stored = octets(&row["body"]);
        compressed += u32::from(stored.first() == Some(&0));
        let read = result::read_stored(id, &stored, limits()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_result(row, &read.unwrap_or_else(|| panic!("{name} is a result")));
    }
    assert!(compressed > 0);
    assert_all_states(&rows);
}

#[test]
fn queues_are_known_by_their_names() {
    let mut seen = BTreeSet::new();
    for row in signals("bind") {
        let (name, exchange) = (text(&row, "queue"), text(&row, "exchange"));
        let node = queue::node(name.as_bytes(), exchange.as_bytes());
        let purpose = queue::purpose(name.as_bytes());
        seen.insert(exchange.to_owned());
        match exchange {
            "celery.pidbox" | "shop.control.pidbox" => assert_eq!(node, Some(NODE)),
            _ => assert_eq!(node, None, "{name}"),
        }
        match exchange {
            "celery.pidbox" => assert_eq!(
                purpose,
                Purpose::Mailbox {
                    node: NODE,
                    namespace: "celery"
                }
            ),
            "reply.celery.pidbox" => assert_eq!(purpose, Purpose::Answers { namespace: "celery" }, "{name}"),
            "celeryev" => assert_eq!(purpose, Purpose::Events, "{name}"),
            "orders" => assert_eq!(purpose, Purpose::Other, "{name}"),
            _ => {}
        }
    }
    for exchange in ["celery.pidbox", "reply.celery.pidbox", "celeryev", "orders", "shop.control.pidbox"] {
        assert!(seen.contains(exchange), "{exchange}");
    }
}

/// Each message is what only its own reader takes for one of its own.
#[test]
fn tasks_and_signals_are_told_apart() {
    for (name, header, body, _) in captured() {
        let properties = properties(&header);
        if let Ok(Some(read)) = result::read_rpc(&properties, &body, limits()) {
            panic!("{name}: {read:?}");
        }
        assert!(control::read(&properties, &body, limits()).is_err(), "{name}");
    }
    for kind in ["event", "control", "reply", "rpc"] {
        for row in signals(kind) {
            let name = text(&row, "name");
            let (header, body) = (octets(&row["header"]), octets(&row["body"]));
            let properties = properties(&header);
            assert_eq!(task::read_with_body(&properties, &body, limits()), Ok(None), "{name}");
            assert_eq!(control::ticket(&properties).is_some(), kind == "reply", "{name}");
            let result = result::read_rpc(&properties, &body, limits()).expect("readable");
            assert_eq!(result.is_some(), kind == "rpc", "{name}");
            assert_eq!(control::read(&properties, &body, limits()).is_ok(), kind == "control", "{name}");
        }
    }
}
