//! The publishes of one channel on their way: collected, asked about, waiting in order, kept, sent.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::rules::lock::{Claim, IfHeld, LockNote, Nonce};
use crate::rules::outcome::PublishDecision;
use crate::rules::owed::Owed;
use crate::rules::spec::Mode;
use crate::rules::{Expiry, Rule};

use super::Ticket;
use super::beat::Beat;

/// A claim that a publish makes or has made.
#[derive(Debug, Clone)]
pub struct Grant {
    /// The key and the task id.
    pub claim: Claim,
    /// Names this publish to the store.
    pub publish: Nonce,
    /// What the lock says of itself.
    pub note: Arc<LockNote>,
    /// The rule that decided.
    pub rule: Arc<Rule>,
    /// When the publish arrived, in monotonic microseconds.
    pub arrived_us: u64,
    /// When the lease was last started or renewed, in monotonic microseconds; before that, when the publish arrived.
    pub leased_us: u64,
    /// True if Oncegate itself set the `mandatory` bit, so that a `basic.return` is not the client's.
    pub own_mandatory: bool,
    /// True once the broker has returned the message: its ack then settles nothing.
    pub returned: bool,
    /// What the message says of its origin.
    pub origin: Origin,
    /// What its id is owed if it is dropped. The note says it to the store, unless the producer may hear instead that it is refused.
    pub owed: Owed,
    /// When the message is to expire, until that is written.
    pub expiry: Expiry,
    /// When it is due by its own word, in milliseconds since the Unix epoch.
    pub eta_ms: Option<i64>,
    /// Until when the store has put its run off, in milliseconds since the Unix epoch.
    pub due_ms: Option<u64>,
}

/// What a message says of where it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Nothing of note.
    Caller,
    /// A task has published it.
    Task,
    /// Its id was published before.
    Before,
}

impl Grant {
    /// True if the rule only observes.
    pub fn observes(&self) -> bool {
        self.rule.mode == Mode::Observe
    }

    /// When the lease is to be renewed, in monotonic microseconds: after a third of it.
    pub fn renewal_us(&self) -> Option<u64> {
        // A renewal takes a lock that is missing: one for a message that came back would stay.
        (!self.returned).then(|| self.leased_us + self.note.lease_ms * 1000 / 3)
    }
}

/// A publish read in full.
#[derive(Debug)]
pub struct Publish {
    /// Its frames as they came.
    pub frames: Vec<u8>,
    /// The client's confirm number, 0 if it counts none.
    pub client: u64,
    /// Where in `frames` the octet with the `mandatory` bit is.
    pub bits_at: usize,
    /// The claim, where a rule gives it one.
    pub grant: Option<Box<Grant>>,
    /// The entry of a schedule that it is of, until the store has said whose that is.
    pub beat: Option<Box<Beat>>,
}

impl Publish {
    /// Whether it goes out and waits for its holder where it is a duplicate.
    pub fn is_carried(&self) -> bool {
        self.grant.as_ref().is_some_and(|grant| grant.owed == Owed::Carried)
    }

    /// Whether it is of this id.
    pub fn is_of(&self, id: &str) -> bool {
        self.grant.as_ref().is_some_and(|grant| *grant.claim.id == *id)
    }

    /// Whether it waits for the end of the holder of its key.
    pub fn keeps_last(&self) -> bool {
        self.grant.as_ref().is_some_and(|grant| grant.note.if_held == IfHeld::KeepLast)
    }

    /// Whether its run is put off.
    pub fn is_put_off(&self) -> bool {
        self.grant.as_ref().is_some_and(|grant| grant.note.if_held.quiet().is_some())
    }

    /// What is counted of it where one that came later has the lock already.
    pub fn outrun(&self) -> PublishDecision {
        match &self.grant {
            Some(grant) if grant.note.if_held.quiet().is_some() => PublishDecision::Debounced,
            Some(grant) if grant.note.if_held == IfHeld::KeepLast => PublishDecision::Kept,
            _ => PublishDecision::Forwarded,
        }
    }

    /// Whether it takes its key over from a holder that has not begun.
    pub fn replaces(&self) -> bool {
        self.grant.as_ref().is_some_and(|grant| grant.note.if_held.replaces())
    }
}

/// What a waiting publish waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// The store's answer.
    Answer,
    /// The store does not answer and the rule says `wait`.
    Store {
        /// When to ask again, in monotonic microseconds; none while a question is out.
        again_us: Option<u64>,
        /// When to stop waiting, and forward.
        until_us: u64,
    },
    /// Nothing any more: it goes with its turn.
    Turn,
}

impl Wait {
    /// True while the store has a question to answer.
    pub fn is_asked(self) -> bool {
        matches!(self, Wait::Answer | Wait::Store { again_us: None, .. })
    }

    /// When something is due for a publish that waits so, in monotonic microseconds.
    pub fn due_us(self, publish: &Publish) -> Option<u64> {
        match self {
            Wait::Answer => None,
            Wait::Store { again_us, until_us } => Some(again_us.unwrap_or(until_us)),
            Wait::Turn => publish.grant.as_ref()?.renewal_us(),
        }
    }
}

/// One entry of a channel's queue: what waits, in the order it came.
#[derive(Debug)]
pub enum Waiting {
    /// A publish read in full.
    Publish {
        /// The question about it, if one was asked.
        ticket: Option<Ticket>,
        /// What for.
        wait: Wait,
        /// The publish.
        publish: Publish,
    },
    /// The frames of a publish that no rule concerns, as far as they have come.
    Passing {
        /// The frames.
        frames: Vec<u8>,
        /// The client's confirm number, 0 if it counts none.
        client: u64,
    },
    /// Any other frames of the channel.
    Frames(Vec<u8>),
    /// `channel.close`, which also waits until the broker has spoken on every claim, at the longest until `until_us`.
    Close {
        /// The frame.
        frame: Vec<u8>,
        /// The end of the wait, in monotonic microseconds.
        until_us: u64,
    },
    /// `tx.select`, which also waits until every kept publish is decided, at the longest until `until_us`: one that left after it would
    /// join a transaction that its client did not publish it in.
    Transaction {
        /// The frame.
        frame: Vec<u8>,
        /// The end of the wait, in monotonic microseconds.
        until_us: u64,
    },
    /// Taken out of the middle: a publish that was decided before its turn.
    Gone,
}

impl Waiting {
    /// True if it is a publish that waits for the store.
    pub fn awaits_store(&self) -> bool {
        matches!(self, Waiting::Publish { wait, .. } if *wait != Wait::Turn)
    }

    /// How many bytes it holds.
    pub fn size(&self) -> usize {
        match self {
            Waiting::Publish { publish, .. } => publish.frames.len(),
            Waiting::Passing { frames, .. }
            | Waiting::Frames(frames)
            | Waiting::Close { frame: frames, .. }
            | Waiting::Transaction { frame: frames, .. } => frames.len(),
            Waiting::Gone => 0,
        }
    }
}

/// What waits on a channel, in order.
#[derive(Debug)]
pub struct Queue<T> {
    items: VecDeque<T>,
    /// The position of the front, counted since the channel opened: a ticket names a position.
    base: u64,
}

impl<T> Queue<T> {
    /// An empty queue whose first entry will have this position.
    pub fn starting_at(position: u64) -> Queue<T> {
        Queue {
            items: VecDeque::new(),
            base: position,
        }
    }

    /// True if nothing waits.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// How many entries wait.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// The position that the next entry will have.
    pub fn next_position(&self) -> u64 {
        self.base + self.items.len() as u64
    }

    /// Appends an entry.
    pub fn push(&mut self, item: T) {
        self.items.push_back(item);
    }

    /// The entry at a position.
    pub fn get(&self, position: u64) -> Option<&T> {
        self.items.get(position.checked_sub(self.base)? as usize)
    }

    /// The entry at a position, to be changed.
    pub fn at(&mut self, position: u64) -> Option<&mut T> {
        self.items.get_mut(position.checked_sub(self.base)? as usize)
    }

    /// The first entry.
    pub fn front(&self) -> Option<&T> {
        self.items.front()
    }

    /// The last entry.
    pub fn back_mut(&mut self) -> Option<&mut T> {
        self.items.back_mut()
    }

    /// Removes the first entry.
    pub fn pop(&mut self) -> Option<T> {
        let item = self.items.pop_front()?;
        self.base += 1;
        Some(item)
    }

    /// Removes the last entry.
    pub fn pop_back(&mut self) -> Option<T> {
        self.items.pop_back()
    }

    /// All entries in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.items.iter()
    }

    /// All entries with their positions.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut T)> {
        let base = self.base;
        self.items
            .iter_mut()
            .enumerate()
            .map(move |(index, item)| (base + index as u64, item))
    }
}
