//! Messages that Oncegate publishes anew in place of a delivery, by its own account at the broker.

use std::sync::Arc;

/// A message that is to be published, confirmed and mandatory. Once that has ended well its delivery is acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Republish {
    /// The payload of its content header.
    pub header: Vec<u8>,
    /// Its body.
    pub body: Vec<u8>,
    /// Where it goes.
    pub target: Target,
}

/// Where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Into a delay queue, and from there back into its queue.
    Delay {
        /// The queue that it came from.
        queue: Arc<str>,
        /// How long it is to stay away, in milliseconds; it may come back before, never after.
        wait_ms: u64,
        /// What that queue is.
        kind: QueueKind,
    },
    /// To a caller that waits for a result: the queue of this name, which may well be gone.
    Caller {
        /// The queue.
        queue: Arc<str>,
    },
    /// To an exchange.
    Exchange {
        /// The exchange; empty: the default exchange.
        exchange: Arc<str>,
        /// The routing key.
        routing_key: Arc<str>,
    },
}

/// How much a queue takes care of its messages: what stands in for it takes no less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QueueKind {
    /// A classic queue, or one of which nothing is known.
    Classic,
    /// A quorum queue.
    Quorum,
}

/// Why it is not, or perhaps not, where it was to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RepublishFault {
    /// There is no control connection to this virtual host. Nothing was sent.
    NotAvailable,
    /// Too much waits for that connection. Nothing was sent.
    Full,
    /// The broker refuses it: a right is missing, a queue is there that is unlike, an exchange is not there.
    Refused,
    /// No queue took it.
    Returned,
    /// The broker answered no.
    Nacked,
    /// The connection was lost before the broker's answer, or it did not come: the broker may have it.
    Unknown,
}

impl RepublishFault {
    /// Its name in log lines.
    pub fn as_str(self) -> &'static str {
        match self {
            RepublishFault::NotAvailable => "not_available",
            RepublishFault::Full => "full",
            RepublishFault::Refused => "refused",
            RepublishFault::Returned => "returned",
            RepublishFault::Nacked => "nacked",
            RepublishFault::Unknown => "unknown",
        }
    }
}
