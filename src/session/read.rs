//! Results that only a worker can read, since only it knows the backend: a worker of the same application is given a message of
//! `celery.chord_unlock`, which is built into every application and reads results wherever they are.
//!
//! The task is asked to read the result of the holder alone and to call `celery.accumulate` with it (celery, `app/builtins.py`). That call is
//! a publish whose routing key begins with [`PREFIX`] and goes on with a token that nobody can guess; it goes no further than the proxy that it
//! comes through, which keeps the value in the store. The message is put straight into the worker's own consumer. The broker knows nothing
//! of it, so its settlement goes no further either.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::channel::{Channel, Life};
use super::confirm::Outcome;
use super::deliver::Known;
use super::event::Event;
use super::{Shared, Ticket};
use crate::amqp::content::Properties;
use crate::amqp::encode;
use crate::amqp::method::basic;
use crate::celery::Limits;
use crate::celery::accumulate::{self, Read};

/// What the routing key of a value begins with.
const PREFIX: &str = "oncegate.value.";

/// The exchange to which a worker publishes a value: every broker has it, and nothing is bound there to such a key.
const EXCHANGE: &str = "amq.direct";

/// Hexadecimal digits of a token.
const TOKEN_LEN: usize = 32;

/// So many holders are remembered that were asked about.
const READINGS_MAX: usize = 10_000;

/// How far the reading of a result is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// A worker has the message.
    Asked,
    /// It has settled it, at this time in monotonic microseconds.
    Taken(u64),
}

/// Which result is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// Whose.
    pub holder: Arc<str>,
    /// The name under which a worker's answer is kept; empty where none is asked.
    pub token: Arc<str>,
}

/// A result that a worker has read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// The name under which it is kept.
    pub name: Arc<str>,
    /// The result, which is JSON.
    pub value: Arc<[u8]>,
}

/// The name under which the value is kept that a worker's answer brings.
pub fn name_of_token(token: &str) -> String {
    format!("value:{token}")
}

impl Shared {
    /// The name under which a worker of this process's clients is asked for this result; empty if none is asked.
    pub(super) fn token_of(&self, holder: &str) -> Arc<str> {
        let secret = &self.settings.reply_prefix;
        if secret.is_empty() {
            return "".into();
        }
        let mut hash = Sha256::new();
        hash.update((secret.len() as u64).to_be_bytes());
        hash.update(secret.as_bytes());
        hash.update(holder);
        let digest: [u8; 32] = hash.finalize().into();
        let digits = digest.iter().take(TOKEN_LEN / 2).map(|octet| format!("{octet:02x}"));
        digits.collect::<String>().into()
    }

    /// Asks for the result of this holder.
    pub(super) fn fetch(&mut self, ticket: Ticket, holder: Arc<str>) {
        let token = self.token_of(&holder);
        self.fetches.push((ticket, Fetch { holder, token }));
    }

    /// This holder has not ended: what a worker has read of it before says nothing of its end.
    pub(super) fn reads_anew(&mut self, holder: &Arc<str>) {
        if matches!(self.readings.get(holder), Some(Reading::Taken(_))) {
            self.readings.remove(holder);
        }
    }

    /// The client has settled a message that Oncegate gave it.
    pub(super) fn reading_taken(&mut self, holder: &Arc<str>) {
        let now_us = self.now.us;
        if let Some(reading) = self.readings.get_mut(holder) {
            *reading = Reading::Taken(now_us);
        }
    }
}

impl Channel {
    /// Gives the worker behind this consumer the message that reads this holder's result. False if that cannot be.
    pub(super) fn read_result(&mut self, shared: &mut Shared, consumer: &[u8], queue: &str, holder: &Arc<str>) -> bool {
        let token = shared.token_of(holder);
        if token.is_empty() || self.life != Life::Open || self.tx || shared.draining || !self.deliveries.will_be_ours() {
            return false;
        }
        let routing_key = format!("{PREFIX}{token}");
        let read = Read {
            id: &format!("oncegate-{token}"),
            holder,
            exchange: EXCHANGE,
            routing_key: &routing_key,
            queue,
        };
        let Some(message) = read.message() else { return false };
        let tag = self.deliveries.next_tag();
        let deliver = basic::Deliver {
            consumer_tag: consumer,
            delivery_tag: tag,
            redelivered: false,
            exchange: b"",
            routing_key: queue.as_bytes(),
            tag_offset: 0,
        };
        let mut frames = Vec::new();
        if encode::basic_deliver(&mut frames, self.number, &deliver, &message.content(), shared.frame_max).is_err() {
            return false;
        }
        self.put_in(shared, &frames);
        let known = Known {
            reads: Some(Arc::clone(holder)),
            ..Known::default()
        };
        self.deliveries.invented(tag, known);
        if shared.readings.len() >= READINGS_MAX {
            shared.readings.clear();
        }
        shared.readings.insert(Arc::clone(holder), Reading::Asked);
        true
    }

    /// A worker's answer goes no further.
    pub(super) fn take_value(&mut self, shared: &mut Shared, publish: &basic::Publish<'_>, properties: &Properties<'_>, body: &[u8]) {
        let limits = Limits::new(shared.settings.max_message);
        // One that cannot be read is no answer.
        if let Some(token) = token_in(publish)
            && let Ok(value) = accumulate::given(properties, body, limits)
        {
            shared.events.push(Event::Value(Value {
                name: name_of_token(token).into(),
                value: value.into(),
            }));
        }
        let client = self.ledger.arrive();
        self.ledger.settle(client, Outcome::Ack);
        self.advance(shared);
    }
}

/// The token in the routing key of a worker's answer.
fn token_in<'a>(publish: &basic::Publish<'a>) -> Option<&'a str> {
    let token = publish.routing_key.strip_prefix(PREFIX.as_bytes())?;
    let is_token = token.len() == TOKEN_LEN && token.iter().all(u8::is_ascii_hexdigit);
    std::str::from_utf8(token)
        .ok()
        .filter(|_| is_token && publish.exchange == EXCHANGE.as_bytes())
}

/// True if a publish is a worker's answer.
pub(super) fn is_value(publish: &basic::Publish<'_>) -> bool {
    token_in(publish).is_some()
}
