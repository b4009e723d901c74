//! Control messages and their replies, as they were on the wire, against what Python reads from them.
//!
//! `signals.jsonl` is written by `signals.py`, `asked.jsonl` by hand: `signals.py` has a worker obey it.

use std::collections::BTreeSet;

use oncegate::celery::control::{self, Answer, Answers, Ask, Command, Control, Destination, HeldState, ReplyTo};

use super::signals::{NODE, signals};
use super::*;

/// A command in Python's words: method and arguments that count.
fn command(command: &Command) -> Json {
    match command {
        Command::Revoke { ids, terminate } => json!({"method": "revoke", "ids": ids, "terminate": terminate}),
        Command::RevokeByStampedHeaders => json!({"method": "revoke_by_stamped_headers"}),
        Command::EnableEvents => json!({"method": "enable_events"}),
        Command::DisableEvents => json!({"method": "disable_events"}),
        Command::QueryTask { ids } => json!({"method": "query_task", "ids": ids}),
        Command::RateLimit { task_name, rate_limit } => json!({"method": "rate_limit", "task_name": task_name, "rate_limit": rate_limit}),
        Command::Other { method } => json!({"method": method}),
    }
}

fn listed(value: &Json) -> Json {
    if value.is_array() { value.clone() } else { json!([value]) }
}

fn expected_command(message: &Json) -> Json {
    let arguments = &message["arguments"];
    match text(message, "method") {
        "revoke" => json!({"method": "revoke", "ids": listed(&arguments["task_id"]), "terminate": arguments["terminate"]}),
        "terminate" => json!({"method": "revoke", "ids": listed(&arguments["task_id"]), "terminate": true}),
        "query_task" => json!({"method": "query_task", "ids": listed(&arguments["ids"])}),
        "rate_limit" => {
            let limit = arguments["rate_limit"]
                .as_str()
                .map_or_else(|| arguments["rate_limit"].to_string(), str::to_owned);
            json!({"method": "rate_limit", "task_name": arguments["task_name"], "rate_limit": limit})
        }
        method => json!({ "method": method }),
    }
}

fn expected_destination(message: &Json) -> Destination {
    match (&message["destination"], &message["pattern"]) {
        (Json::Array(nodes), _) => Destination::Nodes(nodes.iter().map(|node| node.as_str().expect("a name").to_owned()).collect()),
        (_, Json::String(pattern)) => Destination::Matching {
            pattern: pattern.clone(),
            matcher: text(message, "matcher").to_owned(),
        },
        _ => Destination::All,
    }
}

#[test]
fn every_control_message_is_read() {
    let mut seen = BTreeSet::new();
    for row in signals("control") {
        let (name, message) = (text(&row, "name"), &row["value"]);
        let namespace = if name.contains("prefixed") { "shop.control" } else { "celery" };
        let exchange = text(&row, "exchange");
        assert_eq!(control::namespace(exchange.as_bytes()), Some(namespace), "{name}");
        assert_eq!(control::exchange(namespace), exchange, "{name}");
        let header = octets(&row["header"]);
        let read = control::read(&properties(&header), &octets(&row["body"]), limits()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(command(&read.command), expected_command(message), "{name}");
        assert_eq!(read.destination, expected_destination(message), "{name}");
        assert_eq!(read.ticket.as_deref(), message["ticket"].as_str(), "{name}");
        let reply_to = message.get("reply_to").map(|reply_to| ReplyTo {
            exchange: text(reply_to, "exchange").to_owned(),
            routing_key: text(reply_to, "routing_key").to_owned(),
        });
        assert_eq!(read.reply_to, reply_to, "{name}");
        let serializer = name.split('/').next().expect("a serializer");
        seen.insert((serializer.to_owned(), text(message, "method").to_owned()));
    }
    for serializer in ["json", "pickle", "yaml", "msgpack"] {
        for method in [
            "ping",
            "hello",
            "revoke",
            "terminate",
            "revoke_by_stamped_headers",
            "enable_events",
            "disable_events",
            "query_task",
            "rate_limit",
        ] {
            assert!(seen.contains(&(serializer.to_owned(), method.to_owned())), "{serializer} {method}");
        }
    }
}

fn expected_answer(said: &Json) -> Answer {
    if let Some(error) = said["error"].as_str() {
        return Answer::Error(error.to_owned());
    }
    let Json::Object(tasks) = said else { return Answer::Done };
    if !tasks.values().all(Json::is_array) {
        return Answer::Done;
    }
    let held = tasks.iter().map(|(id, task)| control::Held {
        id: id.clone(),
        state: match task[0].as_str() {
            Some("active") => HeldState::Active,
            Some("reserved") => HeldState::Reserved,
            Some("scheduled") => HeldState::Scheduled,
            Some("ready") => HeldState::Ready,
            _ => HeldState::Other,
        },
        acknowledged: task[1]["acknowledged"].as_bool(),
    });
    Answer::Tasks(held.collect())
}

#[test]
fn every_reply_is_read() {
    let mut states = BTreeSet::new();
    let (mut errors, mut nothing) = (0, 0);
    for row in signals("reply") {
        let name = text(&row, "name");
        let header = octets(&row["header"]);
        let properties = properties(&header);
        assert_eq!(control::ticket(&properties), Some(text(&row, "ticket").as_bytes()), "{name}");
        let read = control::read_reply(&properties, &octets(&row["body"]), limits()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let [reply] = read.as_slice() else { panic!("{name}: {read:?}") };
        assert_eq!(reply.node, NODE, "{name}");
        let mut answer = reply.answer.clone();
        match &mut answer {
            Answer::Tasks(tasks) => {
                nothing += u32::from(tasks.is_empty());
                states.extend(tasks.iter().map(|held| format!("{:?} {:?}", held.state, held.acknowledged)));
                tasks.sort_by(|left, right| left.id.cmp(&right.id));
            }
            Answer::Error(_) => errors += 1,
            Answer::Done => {}
        }
        assert_eq!(answer, expected_answer(&row["value"][NODE]), "{name}");
    }
    assert!(errors > 0 && nothing > 0);
    assert!(states.contains("Active Some(true)"), "{states:?}");
    assert!(states.iter().any(|state| state.ends_with("Some(false)")), "{states:?}");
}

/// The messages that are made here, each with a name.
fn asked() -> Vec<(&'static str, control::Message)> {
    let answers = |ticket| {
        Some(Answers {
            exchange: "",
            routing_key: "oncegate.answers",
            ticket,
        })
    };
    let message = |ask, answers| control::Message::new(ask, "celery", &[NODE], answers).expect("there is a node");
    vec![
        ("enable_events", message(Ask::EnableEvents, answers("t1"))),
        (
            "query_task",
            message(Ask::QueryTask(&["held-1", "held-2", "unknown"]), answers("t2")),
        ),
        ("revoke", message(Ask::Revoke(&["held-1", "é \"2\""]), answers("t3"))),
        ("silent", message(Ask::Revoke(&["held-2"]), None)),
    ]
}

#[test]
fn what_is_asked_of_workers_is_what_they_obeyed() {
    let rows: Vec<Json> = include_str!("asked.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).expect("a row is JSON"))
        .collect();
    let asked = asked();
    assert_eq!(rows.len(), asked.len());
    for ((name, message), row) in asked.iter().zip(rows) {
        assert_eq!(*name, text(&row, "name"));
        let content = message.content();
        let mut header = [&60_u16.to_be_bytes()[..], &[0, 0], &(content.body.len() as u64).to_be_bytes()].concat();
        content.properties.encode(&mut header).expect("it fits");
        assert_eq!(header, octets(&row["header"]), "{name}");
        assert_eq!(String::from_utf8_lossy(content.body), text(&row, "body"), "{name}");
        assert_eq!(message.exchange(), text(&row, "exchange"), "{name}");
        let publish = message.publish();
        assert_eq!((publish.exchange, publish.routing_key), (&b"celery.pidbox"[..], &b""[..]), "{name}");
        assert!(!publish.mandatory && !publish.immediate, "{name}");
    }
}

#[test]
fn what_is_asked_of_workers_is_read_back() {
    for (name, message) in asked() {
        let content = message.content();
        let read = control::read(&content.properties, content.body, limits()).expect("readable");
        let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
        let (command, ticket) = match name {
            "enable_events" => (Command::EnableEvents, Some("t1")),
            "query_task" => (
                Command::QueryTask {
                    ids: ids(&["held-1", "held-2", "unknown"]),
                },
                Some("t2"),
            ),
            "revoke" => (
                Command::Revoke {
                    ids: ids(&["held-1", "é \"2\""]),
                    terminate: false,
                },
                Some("t3"),
            ),
            _ => (
                Command::Revoke {
                    ids: ids(&["held-2"]),
                    terminate: false,
                },
                None,
            ),
        };
        let wanted = Control {
            command,
            destination: Destination::Nodes(vec![NODE.to_owned()]),
            ticket: ticket.map(str::to_owned),
            reply_to: ticket.map(|_| ReplyTo {
                exchange: String::new(),
                routing_key: "oncegate.answers".to_owned(),
            }),
        };
        assert_eq!(read, wanted, "{name}");
    }
}

/// Workers take an empty destination for all of them.
#[test]
fn nothing_is_asked_of_all_workers() {
    for nodes in [&[][..], &[""]] {
        assert_eq!(control::Message::new(Ask::Revoke(&["id"]), "celery", nodes, None), None);
    }
    let read = |body: &str| {
        let properties = Properties {
            content_type: Some(b"application/json"),
            ..Properties::default()
        };
        control::read(&properties, body.as_bytes(), limits()).expect("readable").destination
    };
    assert_eq!(read(r#"{"method": "ping", "destination": []}"#), Destination::All);
    assert_eq!(
        read(r#"{"method": "ping", "destination": [], "pattern": "w*", "matcher": null}"#),
        Destination::All
    );
}
