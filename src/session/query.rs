//! Questions to a worker about its tasks, put straight into the consumer of its mailbox, and its answers.
//!
//! A worker publishes its answer to the default exchange on whichever of its connections it has to hand, with the routing key that the
//! question named. Every question of a process names one that begins with [`super::Settings::reply_prefix`], which nobody can guess: a
//! publish with such a key is the answer. It goes no further, and is acknowledged to a client that wants that: the broker has no queue
//! of that name. An answer that comes through another process is unroutable, and nothing but a silence.

use std::sync::Arc;

use super::channel::{Channel, Life};
use super::confirm::Outcome;
use super::deliver::Standing;
use super::event::{Event, TasksKnown};
use super::{ClientEnd, Now, Phase, Session, Shared};
use crate::amqp::content::Properties;
use crate::amqp::method::basic;
use crate::celery::Limits;
use crate::celery::control::{self, Answer, Answers, Ask};

impl Session {
    /// Asks the worker of this node, whose mailbox is consumed on this connection, which of these tasks it knows. The answer comes as
    /// [`Event::TasksKnown`] with the same ticket, on this or another of its connections; or never.
    pub fn handle_query(&mut self, node: &str, ids: &[Arc<str>], ticket: &str, now: Now) {
        self.shared.now = now;
        if self.phase != Phase::Running || self.client_end != ClientEnd::Open {
            return;
        }
        let ids: Vec<&str> = ids.iter().map(|id| &**id).collect();
        for channel in &mut self.channels.open {
            if channel.query(&mut self.shared, node, &ids, ticket) {
                break;
            }
        }
        self.settle();
    }
}

impl Channel {
    /// True if the mailbox of this node is consumed here.
    fn query(&mut self, shared: &mut Shared, node: &str, ids: &[&str], ticket: &str) -> bool {
        if shared.settings.reply_prefix.is_empty() {
            return false;
        }
        let routing_key = format!("{}{ticket}", shared.settings.reply_prefix);
        let answers = Answers {
            exchange: "",
            routing_key: &routing_key,
            ticket,
        };
        self.put_letter(shared, node, Ask::QueryTask(ids), Some(answers))
    }

    /// Puts something into the mailbox of this node. True if it is consumed here.
    pub(super) fn put_letter(&mut self, shared: &mut Shared, node: &str, ask: Ask<'_>, answers: Option<Answers<'_>>) -> bool {
        if self.life != Life::Open || self.tx {
            return false;
        }
        let consumer = self.consumers.iter().find_map(|consumer| {
            let mailbox = consumer.mailbox.as_deref().filter(|mailbox| *mailbox.node == *node)?;
            (consumer.standing == Standing::Running).then_some((consumer.tag.clone(), mailbox))
        });
        let Some((tag, mailbox)) = consumer else { return false };
        if let Some(frames) = mailbox.tell(ask, answers, self.number, &tag) {
            self.put_in(shared, &frames);
        }
        true
    }

    /// An answer to a question of this process goes no further.
    pub(super) fn take_reply(&mut self, shared: &mut Shared, publish: &basic::Publish<'_>, properties: &Properties<'_>, body: &[u8]) {
        let limits = Limits::new(shared.settings.max_message);
        let ticket = publish.routing_key.get(shared.settings.reply_prefix.len()..).unwrap_or_default();
        // One that cannot be read is no answer; the question is asked again.
        for reply in control::read_reply(properties, body, limits).unwrap_or_default() {
            if let Answer::Tasks(tasks) = reply.answer {
                shared.events.push(Event::TasksKnown(TasksKnown {
                    ticket: String::from_utf8_lossy(ticket).into(),
                    node: reply.node.into(),
                    known: tasks.into_iter().map(|task| task.id.into()).collect(),
                }));
            }
        }
        let client = self.ledger.arrive();
        self.ledger.settle(client, Outcome::Ack);
        self.advance(shared);
    }
}

/// True if a publish is an answer to a question of this process.
pub(super) fn is_reply(shared: &Shared, publish: &basic::Publish<'_>) -> bool {
    let prefix = shared.settings.reply_prefix.as_bytes();
    !prefix.is_empty() && publish.exchange.is_empty() && publish.routing_key.starts_with(prefix)
}
