//! What is true of each message, whoever knows it.

use std::collections::{BTreeSet, HashSet};

use crate::deliveries::{ChannelId, Deliveries};

/// What the broker did with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Not seen by the broker.
    Unseen,
    /// Read, no word yet.
    Read,
    Acked,
    Nacked,
}

/// How the store has come to count a message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Count {
    /// Not at all, or by its publish.
    #[default]
    Once,
    /// By its delivery, as the store was away at its publish.
    ByDelivery,
    /// By both, as its commit came after that: its lock lives until a worker's word other than the ack, or its ttl.
    Twice,
}

/// One publish of a client.
#[expect(clippy::struct_excessive_bools, reason = "each is an independent fact about one message")]
pub struct Message {
    pub connection: usize,
    pub channel: u16,
    /// How often that channel number had been opened.
    pub generation: u32,
    /// The key, if a rule concerns it.
    pub key: Option<u32>,
    /// The rule set that decided about it.
    pub rule: Option<usize>,
    pub bytes: Vec<u8>,
    pub mandatory: bool,
    /// Where it ends in what its client sends.
    pub end: u64,
    /// The session has read it in full.
    pub read: bool,
    pub confirmed_channel: bool,
    pub fate: Fate,
    pub returned: bool,
    pub dropped: bool,
    /// Oncegate nacked it, as the store was silent.
    pub rejected: bool,
    /// It was forwarded unchecked.
    pub let_go: bool,
    pub kept: bool,
    /// It has been put into the queue.
    pub queued: bool,
    /// What the store knows of its publish and its delivery.
    pub count: Count,
    /// The rule sets under which it was admitted, and holds or held its key.
    pub admitted: BTreeSet<usize>,
    /// How many signals of workers about it the store was told.
    pub signals: usize,
    /// How many words of workers, and deliveries that need none, may cause such signals.
    pub ends: usize,
    /// When the store heard one that ends its lock, in milliseconds.
    pub ended_ms: Option<u64>,
    /// When the store was asked first, in microseconds.
    pub asked_us: u64,
    /// The client's confirm: ack or nack.
    pub told: Option<bool>,
    /// Its client was told to go: it is not owed a confirm any more.
    pub unconfirmable: bool,
    /// It may be missing at the broker.
    pub excused: bool,
}

#[derive(Default)]
pub struct Shadow {
    pub messages: Vec<Message>,
    /// Keys of which the broker has had a message in a queue, with their rule set.
    pub safe: HashSet<(usize, u32)>,
    pub deliveries: Deliveries,
    /// Which rule sets only observe.
    pub observes: Vec<bool>,
    /// Channels that the broker has closed: connection, number, generation.
    pub closed: HashSet<(usize, u16, u32)>,
    /// Connections that the broker has lost.
    pub lost: HashSet<usize>,
}

impl Message {
    /// When the store heard a word that ends its lock, if it can know that.
    pub fn ended_ms(&self) -> Option<u64> {
        self.ended_ms.filter(|_| self.count != Count::Twice)
    }

    /// True if the broker has, or has had, the message: it says so, or has delivered it.
    pub fn reached_the_broker(&self) -> bool {
        (self.fate == Fate::Acked || self.signals > 0 || !self.admitted.is_empty()) && !self.returned
    }
}

impl Shadow {
    pub fn index(id: &str) -> usize {
        id.strip_prefix('m').and_then(|number| number.parse().ok()).expect("an id of ours")
    }

    /// The broker has spoken.
    pub fn spoken(&mut self, index: usize, fate: Fate) {
        let message = &mut self.messages[index];
        message.fate = fate;
        if fate != Fate::Acked || message.returned {
            return;
        }
        if let (Some(rule), Some(key)) = (message.rule, message.key) {
            self.safe.insert((rule, key));
        }
        if !std::mem::replace(&mut message.queued, true) {
            self.deliveries.ready.push_back(index);
        }
    }

    /// Messages go back to the head of the queue, in their order.
    pub fn requeue(&mut self, messages: Vec<usize>) {
        for message in messages.into_iter().rev() {
            self.deliveries.ready.push_front(message);
        }
    }

    /// A connection that drains is told to go, and its time is not over: it has no work in hand, and every confirm is there.
    pub fn nothing_in_hand(&self, connection: usize) {
        if let Some(index) = self.deliveries.in_hand(connection) {
            panic!("connection {connection} is drained, and its worker has m{index}");
        }
        for (index, message) in self
            .messages
            .iter()
            .enumerate()
            .filter(|(_, message)| message.connection == connection)
        {
            let decided = message.dropped || message.rejected || matches!(message.fate, Fate::Acked | Fate::Nacked);
            let channel = (message.connection, message.channel, message.generation);
            let excused = message.excused || self.closed.contains(&channel) || self.lost.contains(&connection);
            assert!(
                decided || excused || !message.read || !message.confirmed_channel,
                "connection {connection} is drained, and m{index} has no confirm"
            );
        }
    }

    /// The session has read what the client said of a delivery.
    pub fn word_read(&mut self, channel: ChannelId, tag: u64) {
        if let Some(message) = self.deliveries.read(channel, tag) {
            self.messages[message].ends += 1;
        }
    }

    /// The store is told that a worker has started or ended a message.
    pub fn signalled(&mut self, id: &str) {
        let message = &mut self.messages[Shadow::index(id)];
        message.signals += 1;
        let said = message.signals <= message.ends || self.deliveries.may_be_met(Shadow::index(id));
        assert!(said, "the store hears of {id} what no worker said");
        // What a worker has had in its hands the broker had before, whether it has confirmed that or not.
        if let (Some(rule), Some(key)) = (message.rule, message.key) {
            self.safe.insert((rule, key));
        }
    }

    /// A client reads that it must go.
    pub fn told_to_go(&mut self, connection: usize) {
        for message in self.messages.iter_mut().filter(|message| message.connection == connection) {
            message.unconfirmable |= message.told.is_none();
        }
    }

    /// A duplicate may go only when another message of its key is safe (P5).
    pub fn dropped(&mut self, id: &str) {
        let message = &mut self.messages[Shadow::index(id)];
        let key = message.key.expect("only a message with a key is dropped");
        let rule = message.rule.expect("only a message that was asked about is dropped");
        assert!(
            self.safe.contains(&(rule, key)),
            "{id} was dropped before another message of key {key} was safe"
        );
        assert!(message.fate == Fate::Unseen, "{id} was dropped and sent");
        message.dropped = true;
    }

    /// A delivery may be dropped only when another message of its key is safe (P5), and never one that its client was shown.
    pub fn dropped_late(&mut self, id: &str, holder: &str, rule: usize) {
        let index = Shadow::index(id);
        let key = self.messages[index].key.expect("only a message with a key is dropped");
        assert!(id != holder, "{id} was dropped for itself");
        assert!(
            self.safe.contains(&(rule, key)),
            "{id} was dropped before another message of key {key} was safe"
        );
        self.deliveries.dropped.insert(index);
    }

    /// The client reads a confirm.
    pub fn confirmed(&mut self, index: usize, ack: bool) {
        let message = &mut self.messages[index];
        assert!(message.told.is_none(), "m{index} is confirmed twice");
        message.told = Some(ack);
        match message.fate {
            Fate::Acked => assert!(ack, "m{index} was acked by the broker and nacked to the client"),
            Fate::Nacked => assert!(!ack, "m{index} was nacked by the broker and acked to the client"),
            Fate::Unseen => assert!(
                if ack { message.dropped } else { message.rejected },
                "m{index} was confirmed and nobody has it"
            ),
            Fate::Read => panic!("m{index} was confirmed before the broker spoke"),
        }
    }

    /// What a channel has published is excused: it is lost in a way that loses it without a proxy too.
    pub fn excuse(&mut self, connection: usize, channel: Option<(u16, u32)>) {
        match channel {
            Some((number, generation)) => {
                self.closed.insert((connection, number, generation));
            }
            None => {
                self.lost.insert(connection);
            }
        }
        for message in &mut self.messages {
            if message.connection == connection && channel.is_none_or(|channel| channel == (message.channel, message.generation)) {
                message.excused = true;
            }
        }
    }

    /// Oncegate refuses a message of a client that waits for its confirm.
    pub fn rejected(&mut self, id: &str) {
        let message = &mut self.messages[Shadow::index(id)];
        assert!(message.confirmed_channel, "{id} was rejected, and its client cannot be told");
        assert!(message.fate == Fate::Unseen, "{id} was rejected and sent");
        message.rejected = true;
    }

    /// At the end: nothing that was read is missing.
    pub fn judge(&mut self) {
        self.deliveries
            .judge(|channel| self.closed.contains(&channel) || self.lost.contains(&channel.0));
        for message in &mut self.messages {
            let channel = (message.connection, message.channel, message.generation);
            message.excused |= self.closed.contains(&channel) || self.lost.contains(&message.connection);
        }
        for (index, message) in self.messages.iter().enumerate() {
            let heard = message.signals > 0 || message.key.is_none();
            assert!(
                heard || !self.deliveries.ended(index),
                "the store never heard that a worker ended m{index}"
            );
            if !message.read {
                assert!(message.fate == Fate::Unseen, "m{index} was sent before it was read in full");
                continue;
            }
            // Kept duplicates of a confirming channel are forgotten with it: their client knows that it has no confirm.
            let forgotten = message.unconfirmable && message.kept && message.confirmed_channel;
            if message.fate == Fate::Unseen && !message.dropped && !message.rejected {
                assert!(
                    message.excused || forgotten,
                    "m{index} is lost (key {:?}, kept {}, connection {} channel {}.{}, confirming {})",
                    message.key,
                    message.kept,
                    message.connection,
                    message.channel,
                    message.generation,
                    message.confirmed_channel
                );
            }
            if message.confirmed_channel && !message.excused && !message.unconfirmable {
                assert!(
                    message.told.is_some(),
                    "m{index} was never confirmed ({:?}, dropped {})",
                    message.fate,
                    message.dropped
                );
            }
        }
    }
}
