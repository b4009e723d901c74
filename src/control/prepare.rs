//! What a connection declares, binds and consumes before it is of use, and the rights that this takes.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::announce::KIND;
use super::delay::Delay;
use super::wire::{Dial, Fault, Wire};
use crate::amqp::coding::SHORT_MAX;
use crate::amqp::encode::client::{self, Acks, Declare, Life};
use crate::amqp::encode::{self, Content};
use crate::amqp::method::MethodId;
use crate::amqp::method::basic::Publish;
use crate::amqp::table::{FieldValue, Table, put_entry};
use crate::celery::control::{self, Ask, DEFAULT_NAMESPACE, Message};
use crate::celery::{event, queue};
use crate::config::account::Account;
use crate::session::QueueKind;

/// The queue of events that all proxies of a virtual host share.
pub(super) const EVENTS: &str = "oncegate.events";
/// What the names of the queues for answers begin with.
const REPLIES: &str = "oncegate.reply.";
/// How long the queue of events outlives its last consumer, in milliseconds.
const EVENTS_EXPIRE_MS: i32 = 3_600_000;
/// How many events wait; beyond that the oldest go.
const EVENTS_KEPT: i32 = 100_000;
/// How many events may be unacknowledged.
pub(super) const PREFETCH: u16 = 500;

/// The channel on which things are consumed.
pub(super) const CONSUMING: u16 = 1;
/// The channel on which messages to workers are published: a missing exchange closes it.
pub(super) const PUBLISHING: u16 = 2;
/// The channel on which it is asked whether queues are there: the answer no closes it.
const PROBING: u16 = 3;
/// The consumer tags.
pub(super) const EVENTS_TAG: &[u8] = b"events";
pub(super) const REPLIES_TAG: &[u8] = b"replies";

/// How rights name the exchange that has no name.
const DEFAULT_EXCHANGE: &str = "amq.default";
const NOT_FOUND: u16 = 404;
/// What the broker says of a queue that belongs to another connection.
const RESOURCE_LOCKED: u16 = 405;
/// A destination that no worker has: messages to it show whether they may be sent, and nothing else.
const NOBODY: &str = "nobody@oncegate";

/// What is asked of an account beside following workers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Needs {
    /// What the names of delay queues begin with; `None` if no rule parks.
    pub park_prefix: Option<Arc<str>>,
    /// The exchanges of dead letters; an empty name is the default exchange.
    pub dead_letter: BTreeSet<Arc<str>>,
    /// Whether results are published to callers.
    pub replies: bool,
    /// The exchange to which decisions are published.
    pub events: Option<Arc<str>>,
}

/// One step of the preparation, or of what comes later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The exchange of events is there, or is made as Celery makes it.
    Exchange,
    /// The queue of events is there.
    Queue,
    /// The queue gets events.
    Bind,
    /// Workers can be told something.
    Tell,
    /// Their answers come.
    Replies,
    /// Events come.
    Consume,
    /// Messages can be parked.
    Park,
    /// Results can be published to callers.
    Answer,
    /// Messages can be sent to the exchanges of dead letters.
    DeadLetter,
    /// Decisions can be published.
    Announce,
}

impl Step {
    /// Those of the preparation.
    const FIRST: [Step; 6] = [Step::Exchange, Step::Queue, Step::Bind, Step::Tell, Step::Replies, Step::Consume];

    /// The right that it takes.
    fn right(self) -> &'static str {
        match self {
            Step::Exchange => "configure the exchange celeryev",
            Step::Queue => "configure the queue oncegate.events",
            Step::Bind => "write to the queue oncegate.events and to read the exchange celeryev",
            Step::Tell => "write to the exchange celery.pidbox",
            Step::Replies => "configure and to read queues oncegate.reply.*",
            Step::Consume => "read the queue oncegate.events",
            Step::Park => "configure and to read the delay queues (park.prefix), and to write to the exchange amq.default",
            Step::Answer => "write to the exchange amq.default, which is the one without a name",
            Step::DeadLetter => "write to the exchange (amq.default is the one without a name)",
            Step::Announce => "configure the exchange that events.exchange names, unless it is there, and to write to it",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::Exchange => "the exchange of task events cannot be declared",
            Step::Queue => "the queue oncegate.events cannot be declared",
            Step::Bind => "the queue oncegate.events cannot be bound to the exchange of task events",
            Step::Tell => "workers cannot be told anything",
            Step::Replies => "the answers of workers cannot be consumed",
            Step::Consume => "the queue oncegate.events cannot be consumed",
            Step::Park => "messages cannot be parked",
            Step::Answer => "the results of dropped ids cannot be published to the callers of Celery's RPC backend",
            Step::DeadLetter => "nothing can be published to an exchange that a rule's dead_letter names",
            Step::Announce => "decisions cannot be published to the exchange that events.exchange names",
        })
    }
}

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {fault}{}", remedy(*.step, .fault))]
pub struct StepFault {
    /// Which.
    pub step: Step,
    /// Why.
    pub fault: Fault,
}

fn remedy(step: Step, fault: &Fault) -> String {
    match fault.code() {
        Some(403) => format!(". The account needs the right to {}", step.right()),
        Some(NOT_FOUND) if step == Step::DeadLetter => ". Declare that exchange, or name another".to_owned(),
        Some(406) if step == Step::Queue => ". Delete that queue; it is declared again".to_owned(),
        _ => String::new(),
    }
}

/// The least rights of an account, as they are given to it.
pub fn least_rights(account: &Account, needs: &Needs) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    let mut queues = vec![r"oncegate\..*".to_owned()];
    let other = needs.park_prefix.iter().filter(|prefix| !prefix.starts_with("oncegate."));
    queues.extend(other.map(|prefix| format!(r"{}\..*", literal(prefix))));
    let default = (needs.park_prefix.is_some() || needs.replies).then_some("");
    let dead_letters = needs.dead_letter.iter().map(|name| &**name);
    let exchanges: BTreeSet<&str> = dead_letters.chain(default).chain(needs.events.as_deref()).collect();
    let exchanges = exchanges
        .into_iter()
        .map(|name| literal(if name.is_empty() { DEFAULT_EXCHANGE } else { name }));
    let pattern = |names: &[String], further: &[String]| quoted(&format!("^({})$", [names, further].concat().join("|")));
    let written: Vec<String> = [literal("celery.pidbox")].into_iter().chain(exchanges).collect();
    let events = [literal("celeryev")];
    let configured: Vec<String> = events.iter().cloned().chain(needs.events.as_deref().map(literal)).collect();
    format!(
        "rabbitmqctl set_permissions -p {} {} {} {} {}",
        quoted(&account.vhost),
        quoted(&account.url.user),
        pattern(&queues, &configured),
        pattern(&[r"oncegate\..*".to_owned()], &written),
        pattern(&queues, &events),
    )
}

/// A regular expression that matches this name and no other.
fn literal(name: &str) -> String {
    let escaped = name.chars().flat_map(|character| {
        let is_plain = !character.is_ascii_punctuation() || matches!(character, '_' | '-');
        (!is_plain).then_some('\\').into_iter().chain([character])
    });
    escaped.collect()
}

/// Connects and tries each step, on a channel of its own: those that fail. What is declared is what a proxy declares; nothing is
/// published that anybody gets.
pub async fn check(dial: &Dial, needs: &Needs) -> Result<Vec<StepFault>, Fault> {
    let mut wire = Wire::open(dial).await?;
    let replies = new_replies();
    let mut failed: Vec<StepFault> = Vec::new();
    for (step, channel) in Step::FIRST
        .into_iter()
        .chain([Step::Park, Step::Answer, Step::DeadLetter, Step::Announce])
        .zip(1..)
    {
        let tried = async {
            open_channel(&mut wire, channel).await?;
            match step {
                Step::Park => try_parking(&mut wire, channel, needs).await,
                Step::Answer if needs.replies => try_publishing(&mut wire, channel, &[""]).await,
                Step::DeadLetter => try_dead_letters(&mut wire, channel, needs).await,
                Step::Announce => try_announcing(&mut wire, channel, needs).await,
                _ => take(&mut wire, channel, step, &replies).await,
            }
        };
        match tokio::time::timeout(dial.timeout, tried)
            .await
            .map_err(|_| Fault::Silent(dial.timeout))?
        {
            Ok(()) => {}
            // What parks has asked for that right already, and been refused.
            Err(fault) if step == Step::Answer && failed.iter().any(|other| is_same(&other.fault, &fault)) => {}
            Err(fault @ Fault::Refused { .. }) => failed.push(StepFault { step, fault }),
            Err(fault) => return Err(fault),
        }
    }
    wire.close().await;
    Ok(failed)
}

/// Whether the broker has refused the same in the same words.
fn is_same(one: &Fault, other: &Fault) -> bool {
    one.code().is_some() && one.to_string() == other.to_string()
}

/// A queue that goes with the connection takes the rights that a delay queue takes.
async fn try_parking(wire: &mut Wire, channel: u16, needs: &Needs) -> Result<(), Fault> {
    let Some(prefix) = &needs.park_prefix else { return Ok(()) };
    let name: Arc<str> = format!("check-{}", uuid::Uuid::new_v4().simple()).into();
    let delay = Delay::new(prefix, &name, 0, QueueKind::Classic, 0);
    wire.call(channel, MethodId::QUEUE_DECLARE_OK, |out| {
        delay.declare(out, channel, Life::Exclusive).map_err(Fault::from)
    })
    .await?;
    try_publishing(wire, channel, &[""]).await
}

async fn try_dead_letters(wire: &mut Wire, channel: u16, needs: &Needs) -> Result<(), Fault> {
    let exchanges: Vec<&str> = needs.dead_letter.iter().map(|name| &**name).collect();
    if exchanges.is_empty() {
        Ok(())
    } else {
        try_publishing(wire, channel, &exchanges).await
    }
}

async fn try_announcing(wire: &mut Wire, channel: u16, needs: &Needs) -> Result<(), Fault> {
    let Some(name) = &needs.events else { return Ok(()) };
    exchange(wire, channel, name.as_bytes()).await?;
    try_publishing(wire, channel, &[name]).await
}

/// Publishes in a transaction that is taken back: the broker looks at exchange and right at once, and routes nothing.
async fn try_publishing(wire: &mut Wire, channel: u16, exchanges: &[&str]) -> Result<(), Fault> {
    wire.call(channel, MethodId::TX_SELECT_OK, |out| {
        client::tx_select(out, channel);
        Ok(())
    })
    .await?;
    wire.call(channel, MethodId::TX_ROLLBACK_OK, |out| {
        for exchange in exchanges {
            let publish = Publish {
                exchange: exchange.as_bytes(),
                routing_key: NOBODY.as_bytes(),
                mandatory: false,
                immediate: false,
                bits_offset: 0,
            };
            encode::basic_publish(out, channel, &publish, &Content::default(), 4096)?;
        }
        client::tx_rollback(out, channel);
        Ok(())
    })
    .await
    .map(drop)
}

/// Takes all steps. Gives the name of the queue to which workers are to answer.
pub(super) async fn prepare(wire: &mut Wire) -> Result<String, StepFault> {
    let replies = new_replies();
    for channel in [CONSUMING, PUBLISHING] {
        open_channel(wire, channel).await.map_err(|fault| StepFault {
            step: Step::Exchange,
            fault,
        })?;
    }
    for step in Step::FIRST {
        let channel = if step == Step::Tell { PUBLISHING } else { CONSUMING };
        take(wire, channel, step, &replies)
            .await
            .map_err(|fault| StepFault { step, fault })?;
    }
    Ok(replies)
}

fn new_replies() -> String {
    format!("{REPLIES}{}", uuid::Uuid::new_v4().simple())
}

pub(super) async fn open_channel(wire: &mut Wire, channel: u16) -> Result<(), Fault> {
    wire.call(channel, MethodId::CHANNEL_OPEN_OK, |out| {
        client::channel_open(out, channel);
        Ok(())
    })
    .await
    .map(drop)
}

async fn take(wire: &mut Wire, channel: u16, step: Step, replies: &str) -> Result<(), Fault> {
    match step {
        Step::Exchange => exchange(wire, channel, event::EXCHANGE).await,
        Step::Queue => {
            let mut arguments = Vec::new();
            put_entry(&mut arguments, b"x-expires", &FieldValue::I32(EVENTS_EXPIRE_MS))?;
            put_entry(&mut arguments, b"x-max-length", &FieldValue::I32(EVENTS_KEPT))?;
            put_entry(&mut arguments, b"x-overflow", &FieldValue::LongStr(b"drop-head"))?;
            declare(wire, channel, EVENTS, Life::Durable, &arguments).await
        }
        Step::Bind => {
            for key in [&b"task.#"[..], b"worker.#"] {
                wire.call(channel, MethodId::QUEUE_BIND_OK, |out| {
                    client::queue_bind(out, channel, EVENTS.as_bytes(), event::EXCHANGE, key).map_err(Fault::from)
                })
                .await?;
            }
            Ok(())
        }
        Step::Tell => tell_nobody(wire, channel).await,
        Step::Replies => {
            declare(wire, channel, replies, Life::Exclusive, &[]).await?;
            consume(wire, channel, replies, REPLIES_TAG, Acks::None).await
        }
        Step::Consume => {
            qos(wire, channel).await?;
            consume(wire, channel, EVENTS, EVENTS_TAG, Acks::Wanted).await
        }
        // What these need is there, or made when it is needed.
        Step::Park | Step::Answer | Step::DeadLetter | Step::Announce => Ok(()),
    }
}

/// Only an exchange that is not there is made, which needs a right that asking does not.
async fn exchange(wire: &mut Wire, channel: u16, name: &[u8]) -> Result<(), Fault> {
    for declare in [Declare::Passive, Declare::Active] {
        let declared = wire
            .call(channel, MethodId::EXCHANGE_DECLARE_OK, |out| {
                client::exchange_declare(out, channel, name, KIND, declare).map_err(Fault::from)
            })
            .await;
        match declared {
            Err(fault) if declare == Declare::Passive && fault.code() == Some(NOT_FOUND) => open_channel(wire, channel).await?,
            other => return other.map(drop),
        }
    }
    Ok(())
}

async fn declare(wire: &mut Wire, channel: u16, name: &str, life: Life, arguments: &[u8]) -> Result<(), Fault> {
    wire.call(channel, MethodId::QUEUE_DECLARE_OK, |out| {
        client::queue_declare(out, channel, name.as_bytes(), life, Table::new(arguments)).map_err(Fault::from)
    })
    .await
    .map(drop)
}

async fn consume(wire: &mut Wire, channel: u16, queue: &str, tag: &[u8], acks: Acks) -> Result<(), Fault> {
    wire.call(channel, MethodId::BASIC_CONSUME_OK, |out| {
        client::basic_consume(out, channel, queue.as_bytes(), tag, acks).map_err(Fault::from)
    })
    .await
    .map(drop)
}

async fn qos(wire: &mut Wire, channel: u16) -> Result<(), Fault> {
    wire.call(channel, MethodId::BASIC_QOS_OK, |out| {
        client::basic_qos(out, channel, PREFETCH);
        Ok(())
    })
    .await
    .map(drop)
}

/// Whether messages may be sent to workers: a publish is answered only by its refusal, which comes before the answer to what follows it.
/// Where no worker has made the exchange yet the broker has looked at the right before.
async fn tell_nobody(wire: &mut Wire, channel: u16) -> Result<(), Fault> {
    let Some(message) = Message::new(Ask::QueryTask(&[]), DEFAULT_NAMESPACE, &[NOBODY], None) else {
        return Ok(());
    };
    wire.send(|out| publish(out, channel, &message))?;
    match qos(wire, channel).await {
        Err(fault) if fault.code() == Some(NOT_FOUND) => open_channel(wire, channel).await,
        other => other,
    }
}

/// Whether a worker's mailbox is there: it goes with the worker's connection. It takes no right to ask.
pub(super) async fn has_mailbox(wire: &mut Wire, node: &str) -> Result<bool, Fault> {
    let queue = queue::mailbox(node, DEFAULT_NAMESPACE);
    // The name comes from what clients publish; no queue has one that long.
    if queue.len() > SHORT_MAX {
        return Ok(false);
    }
    open_channel(wire, PROBING).await?;
    let there = wire
        .call(PROBING, MethodId::QUEUE_DECLARE_OK, |out| {
            client::queue_passive(out, PROBING, queue.as_bytes()).map_err(Fault::from)
        })
        .await;
    match there {
        Ok(_) => {
            wire.call(PROBING, MethodId::CHANNEL_CLOSE_OK, |out| {
                encode::channel_close(out, PROBING, 200, "goodbye", None);
                Ok(())
            })
            .await?;
            Ok(true)
        }
        Err(fault) => match fault.code() {
            Some(RESOURCE_LOCKED) => Ok(true),
            Some(NOT_FOUND) => Ok(false),
            _ => Err(fault),
        },
    }
}

/// A message to workers.
pub(super) fn publish(out: &mut Vec<u8>, channel: u16, message: &control::Message) -> Result<(), Fault> {
    // Every broker takes frames of this size.
    encode::basic_publish(out, channel, &message.publish(), &message.content(), 4096).map_err(Fault::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::account::BrokerUrl;
    use crate::config::address::{HostPort, Transport};
    use crate::config::unit::Secret;

    fn rights(needs: &Needs) -> String {
        let account = Account {
            vhost: "jobs".into(),
            url: BrokerUrl {
                address: HostPort {
                    host: "broker".to_owned(),
                    port: 5672,
                },
                transport: Transport::Tcp,
                user: "gate".to_owned(),
                password: Secret::new("secret"),
                vhost: None,
            },
        };
        least_rights(&account, needs)
    }

    #[test]
    fn rights_are_those_of_what_the_rules_need() {
        let prefix = "rabbitmqctl set_permissions -p 'jobs' 'gate'";
        let nothing = rights(&Needs::default());
        assert_eq!(
            nothing,
            format!(r"{prefix} '^(oncegate\..*|celeryev)$' '^(oncegate\..*|celery\.pidbox)$' '^(oncegate\..*|celeryev)$'")
                .replace(r"\\", r"\")
        );
        let parking = rights(&Needs {
            park_prefix: Some("oncegate.park".into()),
            ..Needs::default()
        });
        assert_eq!(parking, nothing.replace(r"pidbox)", r"pidbox|amq\.default)"));
        let replying = rights(&Needs {
            replies: true,
            ..Needs::default()
        });
        assert_eq!(replying, parking);
        let all = rights(&Needs {
            park_prefix: Some("it's a (park)".into()),
            dead_letter: ["".into(), "dead+letters".into()].into(),
            replies: true,
            events: None,
        });
        let told = rights(&Needs {
            events: Some("oncegate".into()),
            ..Needs::default()
        });
        let telling = nothing
            .replacen("celeryev)", "celeryev|oncegate)", 1)
            .replace("pidbox)", "pidbox|oncegate)");
        assert_eq!(told, telling);
        let queues = r"'^(oncegate\..*|it\'\''s a \(park\)\..*|celeryev)$'";
        assert_eq!(
            all,
            format!(r"{prefix} {queues} '^(oncegate\..*|celery\.pidbox|amq\.default|dead\+letters)$' {queues}")
        );
    }
}
