//! Events: what workers tell about themselves and their tasks (celery, `events/dispatcher.py`, `worker/request.py`,
//! `worker/heartbeat.py`).
//!
//! They are published to the topic exchange [`EXCHANGE`] (setting `event_exchange`). The routing key is the type with dots instead of
//! hyphens, `worker.heartbeat`; task events of a worker with an event loop come several in one body, a list, with the key
//! `task.multi`. Events of one worker come in the order in which they happened, but acks and results take other connections.
//!
//! There is no event for a task that was ignored, for a rejected one whose message was acked before, nor for what a warm shutdown
//! leaves to the broker. A task that ends with the hard time limit is told to have failed twice. The name in `task-received` is the
//! `shadow` name, which is why names are not read here.

use super::body::{Encoding, get, load, truthy};
use super::value::Value;
use super::{Limits, Unreadable};
use crate::amqp::content::Properties;

/// The exchange for events, unless the application names another.
pub const EXCHANGE: &[u8] = b"celeryev";

/// Events in one body. Celery itself sends 24 at most.
pub const MAX_EVENTS: usize = 10_000;

/// The events of one message.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Events {
    /// Those of tasks and workers, in their order.
    pub events: Vec<Event>,
    /// How many others there were: custom ones, and those that say too little.
    pub ignored: usize,
}

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Name of the worker node, `name@host`; for [`TaskEvent::Sent`] the producer's, `gen<pid>@<host>`.
    pub hostname: String,
    /// When it happened, in milliseconds since 1970 by the clock of its sender. 0 if it does not say.
    pub timestamp: i64,
    /// What happened.
    pub kind: Kind,
}

/// What an event tells about.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// A task.
    Task {
        /// Id of the task.
        id: String,
        /// What became of it.
        event: TaskEvent,
    },
    /// The worker itself.
    Worker(WorkerEvent),
}

/// What became of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskEvent {
    /// It was published (only with the setting `task_send_sent_event`).
    Sent {
        /// How often it was retried before.
        retries: u32,
    },
    /// A worker has its message, and perhaps holds it for its ETA.
    Received {
        /// How often it was retried before.
        retries: u32,
    },
    /// A pool process took it.
    Started,
    /// It returned.
    Succeeded,
    /// It raised, was rejected without requeue before it could run, hit its time limit, or its process died.
    Failed,
    /// It asked to be run again. The next message of the same id was published before this event; with the same number of retries, if
    /// the retry was one that does not count. The event says neither when it is due nor which retry it is.
    Retried,
    /// It will not run, or no longer does.
    Revoked {
        /// Whether its process was ended.
        terminated: bool,
        /// Whether its `expires` had passed.
        expired: bool,
        /// The signal that ended it, as the worker writes it: a number or a text.
        signum: Option<String>,
    },
    /// Its message was rejected (late acks only).
    Rejected {
        /// Whether the broker delivers it again.
        requeue: bool,
    },
    /// A cold shutdown ended its process, or would have, had it not been done by then. It says nothing of the outcome.
    Cancelled,
}

/// What a worker tells about itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum WorkerEvent {
    /// It is ready. It forgets at this moment what remote control had told the one before it.
    Online(Pulse),
    /// It lives.
    Heartbeat(Pulse),
    /// It shuts down. Tasks that run may go on.
    Offline,
}

/// What is in a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Pulse {
    /// Seconds between heartbeats.
    pub freq: Option<f64>,
    /// Tasks that run.
    pub active: Option<u64>,
}

/// Whether a message with this routing key may hold events that are read here.
pub fn may_matter(routing_key: &[u8]) -> bool {
    routing_key.starts_with(b"task.") || routing_key.starts_with(b"worker.")
}

/// Reads the body of a message to the exchange for events: one event, or a list of them.
pub fn read(properties: &Properties<'_>, body: &[u8], limits: Limits) -> Result<Events, Unreadable> {
    match load(&Encoding::of(properties)?, body, limits)? {
        Value::List(values) | Value::Tuple(values) => {
            if values.len() > MAX_EVENTS {
                return Err(Unreadable::TooLarge("too many events".into()));
            }
            let events: Vec<Event> = values.iter().filter_map(read_one).collect();
            let ignored = values.len() - events.len();
            Ok(Events { events, ignored })
        }
        single @ Value::Map(_) => {
            let events: Vec<Event> = read_one(&single).into_iter().collect();
            let ignored = 1 - events.len();
            Ok(Events { events, ignored })
        }
        _ => Err(Unreadable::ContentType("the body is neither an event nor a list of events".into())),
    }
}

fn read_one(event: &Value) -> Option<Event> {
    let text = |name| get(event, name).and_then(Value::as_str);
    let (group, kind) = text("type")?.split_once('-')?;
    let kind = match group {
        "task" => Kind::Task {
            id: text("uuid").filter(|id| !id.is_empty())?.to_owned(),
            event: task_event(kind, event)?,
        },
        "worker" => Kind::Worker(worker_event(kind, event)?),
        _ => return None,
    };
    Some(Event {
        hostname: text("hostname")?.to_owned(),
        timestamp: get(event, "timestamp")
            .and_then(number)
            .map_or(0, |seconds| (seconds * 1000.0) as i64),
        kind,
    })
}

fn task_event(kind: &str, event: &Value) -> Option<TaskEvent> {
    let truth = |name| get(event, name).is_some_and(truthy);
    Some(match kind {
        "sent" => TaskEvent::Sent { retries: retries(event) },
        "received" => TaskEvent::Received { retries: retries(event) },
        "started" => TaskEvent::Started,
        "succeeded" => TaskEvent::Succeeded,
        "failed" => TaskEvent::Failed,
        "retried" => TaskEvent::Retried,
        "revoked" => TaskEvent::Revoked {
            terminated: truth("terminated"),
            expired: truth("expired"),
            signum: get(event, "signum").and_then(signum),
        },
        "rejected" => TaskEvent::Rejected { requeue: truth("requeue") },
        "cancelled" => TaskEvent::Cancelled,
        _ => return None,
    })
}

fn signum(value: &Value) -> Option<String> {
    match value {
        Value::Str(text) => Some(text.clone()),
        Value::Int(number) => Some(number.to_string()),
        // A pickle keeps the member of Python's enumeration.
        Value::Object { class, parts } if class == "signal.Signals" => parts.iter().find_map(|part| match part {
            Value::Tuple(made_from) => match made_from.as_slice() {
                [Value::Int(number)] => Some(number.to_string()),
                _ => None,
            },
            _ => None,
        }),
        _ => None,
    }
}

fn worker_event(kind: &str, event: &Value) -> Option<WorkerEvent> {
    let pulse = || Pulse {
        freq: get(event, "freq").and_then(number).filter(|seconds| *seconds > 0.0),
        active: get(event, "active").and_then(count),
    };
    Some(match kind {
        "online" => WorkerEvent::Online(pulse()),
        "heartbeat" => WorkerEvent::Heartbeat(pulse()),
        "offline" => WorkerEvent::Offline,
        _ => return None,
    })
}

fn retries(event: &Value) -> u32 {
    let retries = get(event, "retries").and_then(count).unwrap_or(0);
    u32::try_from(retries).unwrap_or(u32::MAX)
}

fn count(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        _ => None,
    }
}

/// A finite number.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Int(number) => Some(*number as f64),
        Value::Float(number) => Some(*number).filter(|number| number.is_finite()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(body: &str) -> Result<Events, Unreadable> {
        let properties = Properties {
            content_type: Some(b"application/json"),
            ..Properties::default()
        };
        read(&properties, body.as_bytes(), Limits::new(1 << 20))
    }

    #[test]
    fn what_says_too_little_is_left_out() {
        for body in [
            "{}",
            r#"{"type": "task-started", "hostname": "w1@vm"}"#,
            r#"{"type": "task-started", "hostname": "w1@vm", "uuid": ""}"#,
            r#"{"type": "task-started", "hostname": "w1@vm", "uuid": 5}"#,
            r#"{"type": "task-started", "uuid": "a"}"#,
            r#"{"type": "task-progress", "hostname": "w1@vm", "uuid": "a"}"#,
            r#"{"type": "taskstarted", "hostname": "w1@vm", "uuid": "a"}"#,
            r#"{"type": ["task-started"], "hostname": "w1@vm", "uuid": "a"}"#,
            r#"{"type": "worker-elect", "hostname": "w1@vm"}"#,
            r#"{"type": "shop-started", "hostname": "w1@vm", "uuid": "a"}"#,
            "[3]",
            "[[{}]]",
        ] {
            let nothing = Events {
                events: Vec::new(),
                ignored: 1,
            };
            assert_eq!(json(body), Ok(nothing), "{body}");
        }
        assert_eq!(json("[]"), Ok(Events::default()));
        for body in ["3", "null", "\"task-started\"", "", "[", "{\"type\": \"task-started\""] {
            assert!(matches!(json(body), Err(Unreadable::ContentType(_))), "{body}");
        }
    }

    #[test]
    fn odd_members_do_no_harm() {
        let read = json(
            r#"[{"type": "worker-heartbeat", "hostname": "w", "timestamp": NaN, "freq": -2, "active": -1},
                {"type": "worker-heartbeat", "hostname": "w", "timestamp": 1e300, "freq": Infinity, "active": 1.5},
                {"type": "worker-online", "hostname": "w", "timestamp": 2, "freq": 2, "active": true},
                {"type": "task-received", "hostname": "w", "timestamp": "soon", "uuid": "a", "retries": 99999999999},
                {"type": "task-received", "hostname": "w", "uuid": "a", "retries": null},
                {"type": "task-revoked", "hostname": "w", "uuid": "a", "terminated": 1, "signum": [9]}]"#,
        )
        .expect("readable");
        assert_eq!(read.ignored, 0);
        let task = |event| Kind::Task { id: "a".to_owned(), event };
        let online = Pulse {
            freq: Some(2.0),
            active: None,
        };
        let revoked = TaskEvent::Revoked {
            terminated: true,
            expired: false,
            signum: None,
        };
        let wanted = [
            (0, Kind::Worker(WorkerEvent::Heartbeat(Pulse::default()))),
            (i64::MAX, Kind::Worker(WorkerEvent::Heartbeat(Pulse::default()))),
            (2000, Kind::Worker(WorkerEvent::Online(online))),
            (0, task(TaskEvent::Received { retries: u32::MAX })),
            (0, task(TaskEvent::Received { retries: 0 })),
            (0, task(revoked)),
        ];
        for (event, (timestamp, kind)) in read.events.into_iter().zip(wanted) {
            assert_eq!((event.timestamp, event.kind), (timestamp, kind));
        }
    }

    #[test]
    fn a_body_has_at_most_so_many_events() {
        let body = |count: usize| format!("[{}3]", "3,".repeat(count - 1));
        assert_eq!(json(&body(MAX_EVENTS)).map(|events| events.ignored), Ok(MAX_EVENTS));
        assert!(matches!(json(&body(MAX_EVENTS + 1)), Err(Unreadable::TooLarge(_))));
    }

    #[test]
    fn custom_groups_need_not_be_read() {
        for key in ["task.multi", "task.started", "worker.heartbeat"] {
            assert!(may_matter(key.as_bytes()), "{key}");
        }
        for key in ["", "task", "tasks.multi", "shop.custom", "shop.task.x"] {
            assert!(!may_matter(key.as_bytes()), "{key}");
        }
    }
}
