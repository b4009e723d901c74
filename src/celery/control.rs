//! Remote control: what is sent to workers through their mailboxes, and what they answer (kombu, `pidbox.py`; celery,
//! `worker/control.py`).
//!
//! Messages go to a fanout exchange, `celery.pidbox` ([`exchange`] of the setting `control_exchange`), so every worker gets each and
//! looks itself whether it is meant. Answers go to the exchange and key that the message names. Serializer is the application's
//! `task_serializer`; a worker answers in that as well.

use super::body::{Encoding, get, load, truthy};
use super::value::Value;
use super::{Limits, Unreadable};
use crate::amqp::content::Properties;
use crate::amqp::encode::Content;
use crate::amqp::method::basic::Publish;
use crate::amqp::table::{FieldValue, Table};

/// The mailbox of all workers, unless the application sets `control_exchange`.
pub const DEFAULT_NAMESPACE: &str = "celery";

/// The exchange of the mailboxes of a namespace.
pub fn exchange(namespace: &str) -> String {
    format!("{namespace}.pidbox")
}

/// The namespace of an exchange for control messages. `None` for other exchanges, and for that of the replies (`reply.celery.pidbox`).
pub fn namespace(exchange: &[u8]) -> Option<&str> {
    let namespace = std::str::from_utf8(exchange).ok()?.strip_suffix(".pidbox")?;
    (!namespace.is_empty() && !namespace.starts_with("reply.")).then_some(namespace)
}

/// A message to workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// What they shall do.
    pub command: Command,
    /// Who is meant.
    pub destination: Destination,
    /// What the replies will carry in their header `ticket`.
    pub ticket: Option<String>,
    /// Where replies are wanted. Without it there are none.
    pub reply_to: Option<ReplyTo>,
}

/// What workers shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Never run these tasks; with `terminate` also end those that run. Celery's `terminate` is the same.
    ///
    /// A worker that does not run the task itself writes REVOKED to the result backend at once, unless something stands there that
    /// says that it was started or is done. The message stays where it is until a worker that heard of this gets to it.
    Revoke {
        /// Their ids.
        ids: Vec<String>,
        /// Whether to end what runs.
        terminate: bool,
    },
    /// Revokes by stamps. Which ids that concerns is known only to the worker that meets them, so it cannot be followed.
    RevokeByStampedHeaders,
    /// Publish task events.
    EnableEvents,
    /// Publish no more task events.
    DisableEvents,
    /// Say what is known of these tasks.
    QueryTask {
        /// Their ids.
        ids: Vec<String>,
    },
    /// Run no more than so many of a task in a time.
    RateLimit {
        /// Name of the task.
        task_name: String,
        /// `10/m`, a number per second, or `0` for no limit; as it came.
        rate_limit: String,
    },
    /// Any other, or one whose arguments the worker will refuse.
    Other {
        /// Its name.
        method: String,
    },
}

/// Which workers a message is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// All. An empty list means all, too.
    All,
    /// Those with these node names.
    Nodes(Vec<String>),
    /// Those whose node name matches, which is left to them.
    Matching {
        /// `w*@host`.
        pattern: String,
        /// `glob` or `pcre`.
        matcher: String,
    },
}

/// Where a reply is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyTo {
    /// The exchange, which a worker declares (direct, not durable) unless it is empty.
    pub exchange: String,
    /// The routing key.
    pub routing_key: String,
}

/// Reads a message to the exchange of mailboxes.
pub fn read(properties: &Properties<'_>, body: &[u8], limits: Limits) -> Result<Control, Unreadable> {
    let message = load(&Encoding::of(properties)?, body, limits)?;
    let method = text(&message, "method").ok_or_else(|| Unreadable::ContentType("the body is no control message".into()))?;
    let arguments = get(&message, "arguments").unwrap_or(&Value::Null);
    Ok(Control {
        command: command(method, arguments).unwrap_or_else(|| Command::Other { method: method.to_owned() }),
        destination: destination(&message),
        ticket: text(&message, "ticket").map(str::to_owned),
        reply_to: get(&message, "reply_to").and_then(|reply_to| {
            Some(ReplyTo {
                exchange: text(reply_to, "exchange")?.to_owned(),
                routing_key: text(reply_to, "routing_key")?.to_owned(),
            })
        }),
    })
}

fn text<'v>(mapping: &'v Value, name: &str) -> Option<&'v str> {
    get(mapping, name).and_then(Value::as_str)
}

fn command(method: &str, arguments: &Value) -> Option<Command> {
    Some(match method {
        "revoke" => Command::Revoke {
            ids: texts(get(arguments, "task_id")?),
            terminate: get(arguments, "terminate").is_some_and(truthy),
        },
        "terminate" => Command::Revoke {
            ids: texts(get(arguments, "task_id")?),
            terminate: true,
        },
        "revoke_by_stamped_headers" => Command::RevokeByStampedHeaders,
        "enable_events" => Command::EnableEvents,
        "disable_events" => Command::DisableEvents,
        "query_task" => Command::QueryTask {
            ids: texts(get(arguments, "ids")?),
        },
        "rate_limit" => Command::RateLimit {
            task_name: text(arguments, "task_name")?.to_owned(),
            rate_limit: match get(arguments, "rate_limit")? {
                Value::Str(text) => text.clone(),
                Value::Int(number) => number.to_string(),
                Value::Float(number) => number.to_string(),
                _ => return None,
            },
        },
        _ => return None,
    })
}

/// One text, or those of a list; what is no text can be no task's id.
fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::Str(text) => vec![text.clone()],
        Value::List(items) | Value::Tuple(items) | Value::Set(items) => {
            items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
        }
        _ => Vec::new(),
    }
}

/// As the worker decides it: what is empty counts as absent, and names go before a pattern.
fn destination(message: &Value) -> Destination {
    if let Some(named) = get(message, "destination").filter(|value| truthy(value)) {
        return Destination::Nodes(texts(named));
    }
    let given = |name| text(message, name).filter(|text| !text.is_empty());
    match (given("pattern"), given("matcher")) {
        (Some(pattern), Some(matcher)) => Destination::Matching {
            pattern: pattern.to_owned(),
            matcher: matcher.to_owned(),
        },
        _ => Destination::All,
    }
}

/// What is asked of workers here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask<'a> {
    /// Publish task events.
    EnableEvents,
    /// Never run these tasks. What runs goes on.
    Revoke(&'a [&'a str]),
    /// Say what is known of these tasks.
    QueryTask(&'a [&'a str]),
}

/// Where to send the answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answers<'a> {
    /// The exchange. With the empty one, the default exchange, the worker declares nothing.
    pub exchange: &'a str,
    /// The routing key.
    pub routing_key: &'a str,
    /// Comes back in the header `ticket`.
    pub ticket: &'a str,
}

/// A message for workers: to be published, or to be delivered to the consumers of their mailboxes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    exchange: String,
    body: Vec<u8>,
}

impl Message {
    /// A message for the workers of these node names. `None` if there are none: workers take that for a message to all.
    pub fn new(ask: Ask<'_>, namespace: &str, nodes: &[&str], answers: Option<Answers<'_>>) -> Option<Self> {
        if nodes.iter().all(|node| node.is_empty()) {
            return None;
        }
        let (method, arguments) = match ask {
            Ask::EnableEvents => ("enable_events", serde_json::json!({})),
            Ask::Revoke(ids) => (
                "revoke",
                serde_json::json!({"task_id": ids, "terminate": false, "signal": "SIGTERM"}),
            ),
            Ask::QueryTask(ids) => ("query_task", serde_json::json!({"ids": ids})),
        };
        let mut body = serde_json::json!({
            "method": method,
            "arguments": arguments,
            "destination": nodes,
            "pattern": null,
            "matcher": null,
        });
        if let (Some(answers), Some(members)) = (answers, body.as_object_mut()) {
            members.insert("ticket".to_owned(), answers.ticket.into());
            let reply_to = serde_json::json!({"exchange": answers.exchange, "routing_key": answers.routing_key});
            members.insert("reply_to".to_owned(), reply_to);
        }
        Some(Message {
            exchange: exchange(namespace),
            body: body.to_string().into_bytes(),
        })
    }

    /// The exchange to publish to. The routing key is empty.
    pub fn exchange(&self) -> &str {
        &self.exchange
    }

    /// How to publish it.
    pub fn publish(&self) -> Publish<'_> {
        Publish {
            exchange: self.exchange.as_bytes(),
            routing_key: b"",
            mandatory: false,
            immediate: false,
            bits_offset: 0,
        }
    }

    /// Properties and body. A worker insists on content type and encoding.
    pub fn content(&self) -> Content<'_> {
        Content {
            properties: Properties {
                content_type: Some(b"application/json"),
                content_encoding: Some(b"utf-8"),
                headers: Some(Table::default()),
                delivery_mode: Some(1),
                ..Properties::default()
            },
            body: &self.body,
        }
    }
}

/// The header by which a reply says to which question it belongs. Cheap: to be called before [`read_reply`].
pub fn ticket<'a>(properties: &Properties<'a>) -> Option<&'a [u8]> {
    match properties.headers?.first(b"ticket") {
        Some(FieldValue::LongStr(ticket)) => Some(ticket),
        _ => None,
    }
}

/// What one worker answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Its node name.
    pub node: String,
    /// Its answer.
    pub answer: Answer,
}

/// The answer of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To [`Ask::QueryTask`]: the tasks that it knows. Those that are done, or that it never had, are not among them.
    Tasks(Vec<Held>),
    /// It could not do what was asked, for the reason in this text.
    Error(String),
    /// Anything else: it did it.
    Done,
}

/// A task that a worker knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its id.
    pub id: String,
    /// What the worker does with it.
    pub state: HeldState,
    /// Whether its message was acked.
    pub acknowledged: Option<bool>,
}

/// What a worker does with a task that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldState {
    /// Runs it.
    Active,
    /// Has it wait for a free process.
    Reserved,
    /// Holds it for its ETA.
    Scheduled,
    /// Has done with it.
    Ready,
    /// Says something else.
    Other,
}

/// Reads the body of a reply: each worker answers for itself, so there is one, but a mapping it is.
pub fn read_reply(properties: &Properties<'_>, body: &[u8], limits: Limits) -> Result<Vec<Reply>, Unreadable> {
    let Value::Map(nodes) = load(&Encoding::of(properties)?, body, limits)? else {
        return Err(Unreadable::ContentType("the reply is not a mapping".into()));
    };
    let reply = |(node, said): (Value, Value)| match node {
        Value::Str(node) => Some(Reply {
            node,
            answer: answer(&said),
        }),
        _ => None,
    };
    Ok(nodes.into_iter().filter_map(reply).collect())
}

fn answer(said: &Value) -> Answer {
    if let Some(error) = text(said, "error") {
        return Answer::Error(error.to_owned());
    }
    let Value::Map(tasks) = said else { return Answer::Done };
    match tasks.iter().map(|(id, task)| held(id, task)).collect() {
        Some(tasks) => Answer::Tasks(tasks),
        None => Answer::Done,
    }
}

/// `ID: [STATE, {…}]`.
fn held(id: &Value, task: &Value) -> Option<Held> {
    let (Value::List(parts) | Value::Tuple(parts)) = task else {
        return None;
    };
    let [Value::Str(state), info] = parts.as_slice() else { return None };
    Some(Held {
        id: id.as_str()?.to_owned(),
        state: match state.as_str() {
            "active" => HeldState::Active,
            "reserved" => HeldState::Reserved,
            "scheduled" => HeldState::Scheduled,
            "ready" => HeldState::Ready,
            _ => HeldState::Other,
        },
        acknowledged: match get(info, "acknowledged") {
            Some(Value::Bool(acknowledged)) => Some(*acknowledged),
            _ => None,
        },
    })
}
