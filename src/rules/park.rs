//! The vocabulary of parking: what is known of a message of which a copy was put into a delay queue.
//!
//! A copy is published, the broker confirms it, and the original is acknowledged. Between these steps a proxy, the store or the broker
//! may go, so both the original and the copy may come to a worker. The store remembers, for each parked message of an id, the token of its
//! newest copy and how far that has come.

use std::sync::Arc;

use super::lock::Digest;

/// Names one parked copy, among all copies of all messages of its task id.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Token(pub Arc<str>);

/// Tells the messages of one id apart: a retry is another message, even where it leaves the count of retries as it was. The same for the
/// original and all its copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(pub u64);

/// How far a copy has come, in rising order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ParkState {
    /// It is on its way to the broker, or lost.
    Sending,
    /// The broker has it.
    Sent,
    /// A worker has it.
    Handed,
    /// A worker has acknowledged it, or its original.
    Done,
}

impl ParkState {
    /// The name that the store holds.
    pub fn as_str(self) -> &'static str {
        match self {
            ParkState::Sending => "sending",
            ParkState::Sent => "sent",
            ParkState::Handed => "handed",
            ParkState::Done => "done",
        }
    }

    /// The state of that name.
    pub fn from_name(name: &str) -> Option<ParkState> {
        [ParkState::Sending, ParkState::Sent, ParkState::Handed, ParkState::Done]
            .into_iter()
            .find(|state| state.as_str() == name)
    }
}

/// What is written of a copy before it is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkNote {
    /// The message.
    pub fingerprint: Fingerprint,
    /// The key under which it was decided.
    pub digest: Digest,
    /// The rule under which it was decided.
    pub rule: Arc<str>,
    /// Its place among those that wait for the running lock, if it has one.
    pub place_ms: Option<u64>,
    /// How long the record is kept from the last change on, unless the copy is done. The copy must be back by then.
    pub life_ms: u64,
}

/// Which of the two a delivery is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// It carries the token of a copy.
    Copy(Token),
    /// It carries none: it may be an original that was parked.
    Original,
}

/// What is known of a delivery that may have been parked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing: it is decided as any other.
    Unknown,
    /// It is decided under what was written of it.
    Parked(Parked),
    /// It is not to run: the broker has, or had, a newer copy of it, or this message is done.
    Over,
}

/// A parked message that may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parked {
    /// Its newest copy. Where the delivery is the original or an earlier copy, the broker may not have the newest: then only the ack of the
    /// delivery says something of it ([`ParkState::Done`]), not its hand-over.
    pub token: Token,
    /// The key under which it was decided.
    pub digest: Digest,
    /// The rule under which it was decided.
    pub rule: Arc<str>,
    /// Its place among those that wait for the running lock, if it had one.
    pub place_ms: Option<u64>,
}
