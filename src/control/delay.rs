//! Queues in which messages wait until they go back to where they came from.
//!
//! A queue of its own for each source queue and each length of time, because a broker expires messages only at the head of a queue: in
//! one that all share, a short wait would stand behind a long one. The lengths are powers of two, so that there are few of them.
//!
//! A queue that nobody uses goes after a while, and what it holds is lost. A declare keeps a classic queue alive, but not a quorum queue
//! (tried on `RabbitMQ` 3.10 and 4.0), which lives so long from its making on. So those have the number of a span of time in their names,
//! and a span ends so early that its last messages have left before the queue may go.
//!
//! The names of the two kinds differ for another reason, too: a connection on which nothing was learnt of a source queue takes it for a
//! classic one while another knows better, and under one name the broker would refuse one of their declares. The kind is always said,
//! since a virtual host may make quorum queues of those of which it is not.

use std::fmt::Write as _;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::amqp::coding::{EncodeError, SHORT_MAX};
use crate::amqp::encode::client::{Life, queue_declare};
use crate::amqp::table::{FieldValue, Table, put_entry};
use crate::session::QueueKind;

/// The longest wait: 2^17 seconds, about 36 hours.
const HIGHEST: u32 = 17;
/// A source queue with a longer name, in octets, is named by the SHA-256 of it.
const LONGEST_NAME: usize = 200;
/// How long a queue outlives twice its wait, in milliseconds.
const SPARE_MS: u32 = 600_000;
/// How much longer than its wait a quorum queue is published to, in seconds. The other half of the spare time is for clocks that differ.
const SPAN_SPARE: u64 = 300;

/// A delay queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Delay {
    /// Its name.
    pub(super) name: Arc<str>,
    /// Where its messages go.
    source: Arc<str>,
    kind: QueueKind,
    /// How long they stay, in milliseconds.
    ttl_ms: u32,
}

impl Delay {
    /// The one in which a message of `source` waits the longest time that is not above `wait_ms`, but at least a second. `now_s`: seconds
    /// since 1970.
    pub(super) fn new(prefix: &str, source: &Arc<str>, wait_ms: u64, kind: QueueKind, now_s: u64) -> Delay {
        let seconds = 1_u32 << (wait_ms / 1_000).checked_ilog2().unwrap_or(0).min(HIGHEST);
        let suffix = match kind {
            QueueKind::Classic => String::new(),
            QueueKind::Quorum => format!(".q{}", now_s / (u64::from(seconds) + SPAN_SPARE)),
        };
        let named = |source: &str| format!("{prefix}.{source}.{seconds}{suffix}");
        let name = Some(named(source)).filter(|name| source.len() <= LONGEST_NAME && name.len() <= SHORT_MAX);
        Delay {
            name: name.unwrap_or_else(|| named(&sha256(source))).into(),
            source: Arc::clone(source),
            kind,
            ttl_ms: seconds * 1_000,
        }
    }

    /// How long it lives if nothing keeps it alive, in milliseconds.
    fn life_ms(&self) -> u32 {
        2 * self.ttl_ms + SPARE_MS
    }

    /// Appends the frame that declares it. It fails if its name is too long, because of the prefix.
    pub(super) fn declare(&self, out: &mut Vec<u8>, channel: u16, life: Life) -> Result<(), EncodeError> {
        let mut arguments = Vec::new();
        let entries = [
            (&b"x-message-ttl"[..], FieldValue::I32(self.ttl_ms.cast_signed())),
            (b"x-expires", FieldValue::I32(self.life_ms().cast_signed())),
            (b"x-dead-letter-exchange", FieldValue::LongStr(b"")),
            (b"x-dead-letter-routing-key", FieldValue::LongStr(self.source.as_bytes())),
        ];
        let of_kind = match self.kind {
            QueueKind::Classic => &[(&b"x-queue-type"[..], FieldValue::LongStr(b"classic"))][..],
            // Without the third the second is not to be had.
            QueueKind::Quorum => &[
                (&b"x-queue-type"[..], FieldValue::LongStr(b"quorum")),
                (b"x-dead-letter-strategy", FieldValue::LongStr(b"at-least-once")),
                (b"x-overflow", FieldValue::LongStr(b"reject-publish")),
            ],
        };
        for (name, value) in entries.iter().chain(of_kind) {
            put_entry(&mut arguments, name, value)?;
        }
        queue_declare(out, channel, self.name.as_bytes(), life, Table::new(&arguments))
    }
}

fn sha256(text: &str) -> String {
    Sha256::digest(text).iter().fold(String::new(), |mut hex, octet| {
        // A string takes all that is written to it.
        let _ = write!(hex, "{octet:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amqp::frame::{Split, split};
    use crate::amqp::method::queue::Declare;

    fn delay(source: &str, wait_ms: u64, kind: QueueKind) -> Delay {
        Delay::new("oncegate.park", &source.into(), wait_ms, kind, 1_800_000_000)
    }

    #[test]
    fn a_wait_is_never_longer_than_is_left_but_a_second() {
        let levels = [
            (0, 1),
            (999, 1),
            (1_000, 1),
            (1_999, 1),
            (2_000, 2),
            (3_999, 2),
            (4_000, 4),
            (131_071_999, 65_536),
            (131_072_000, 131_072),
            (u64::MAX, 131_072),
        ];
        for (wait_ms, level) in levels {
            let delay = delay("jobs", wait_ms, QueueKind::Classic);
            assert_eq!(
                (&*delay.name, delay.ttl_ms),
                (&*format!("oncegate.park.jobs.{level}"), level * 1_000)
            );
        }
    }

    #[test]
    fn a_name_fits_and_tells_queues_apart() {
        let long = "q".repeat(200);
        assert_eq!(&*delay(&long, 1, QueueKind::Classic).name, format!("oncegate.park.{long}.1"));
        let longer = delay(&"q".repeat(201), u64::MAX, QueueKind::Quorum);
        assert_eq!(
            &*longer.name,
            "oncegate.park.87841f82f51bcdef24c4a81ee3d781676fdfc86de3326bbb3e392e103d978c5b.131072.q13701"
        );
        let prefix = "p".repeat(100);
        let hashed = Delay::new(&prefix, &long.as_str().into(), u64::MAX, QueueKind::Quorum, 1_800_000_000);
        assert!(hashed.name.len() <= SHORT_MAX && hashed.name.len() > 64, "{}", hashed.name);
        assert_ne!(delay("jobs", 1, QueueKind::Classic).name, delay("jobs", 1, QueueKind::Quorum).name);
        let endless = Delay::new(&"p".repeat(300), &"jobs".into(), 1, QueueKind::Classic, 0);
        assert!(endless.declare(&mut Vec::new(), 1, Life::Durable).is_err());
    }

    #[test]
    fn a_quorum_queue_that_was_made_in_a_span_outlives_all_that_is_published_in_it() {
        for level in 0..=HIGHEST {
            let wait = 1_u64 << level;
            let name = |now_s: u64| Delay::new("park", &"jobs".into(), wait * 1_000, QueueKind::Quorum, now_s).name;
            let begins = 1_800_000_000 / (wait + SPAN_SPARE) * (wait + SPAN_SPARE);
            let last = begins + wait + SPAN_SPARE - 1;
            assert_eq!(name(begins), name(last));
            assert_ne!(name(last), name(last + 1));
            let delay = Delay::new("park", &"jobs".into(), wait * 1_000, QueueKind::Quorum, begins);
            let left_by = last + u64::from(delay.ttl_ms / 1_000);
            let gone_at = begins + u64::from(delay.life_ms() / 1_000);
            assert!(left_by + SPAN_SPARE <= gone_at, "{level}");
        }
        let classic = |now_s| Delay::new("park", &"jobs".into(), 1_000, QueueKind::Classic, now_s).name;
        assert_eq!(classic(0), classic(1_800_000_000));
    }

    /// The arguments of its declare, in the order of the wire.
    fn arguments(delay: &Delay) -> Vec<String> {
        let mut frame = Vec::new();
        delay.declare(&mut frame, 5, Life::Durable).expect("fits");
        let Split::Frame(frame) = split(&frame, 4096) else {
            panic!("a frame")
        };
        let declare = Declare::decode(frame.payload).expect("a declare");
        assert_eq!(declare.queue, delay.name.as_bytes());
        assert!(declare.durable && !declare.passive && !declare.exclusive && !declare.auto_delete && !declare.nowait);
        let shown = |value: FieldValue<'_>| {
            value
                .as_str()
                .map_or_else(|| value.as_i64().expect("a number").to_string(), str::to_owned)
        };
        let entries = declare.arguments.iter().map(|entry| entry.expect("readable"));
        entries
            .map(|entry| format!("{}={}", String::from_utf8_lossy(entry.name), shown(entry.value)))
            .collect()
    }

    #[test]
    fn it_is_declared_so_that_its_messages_come_back_before_it_goes() {
        let classic = [
            "x-message-ttl=4000",
            "x-expires=608000",
            "x-dead-letter-exchange=",
            "x-dead-letter-routing-key=jobs",
        ];
        let kind = ["x-queue-type=classic"];
        assert_eq!(arguments(&delay("jobs", 5_000, QueueKind::Classic)), [&classic[..], &kind].concat());
        let quorum = [
            "x-queue-type=quorum",
            "x-dead-letter-strategy=at-least-once",
            "x-overflow=reject-publish",
        ];
        assert_eq!(
            arguments(&delay("jobs", 5_000, QueueKind::Quorum)),
            [&classic[..], &quorum].concat()
        );
        let longest = arguments(&delay("jobs", u64::MAX, QueueKind::Classic));
        assert!(
            longest.starts_with(&["x-message-ttl=131072000".to_owned(), "x-expires=262744000".to_owned()]),
            "{longest:?}"
        );
    }
}
