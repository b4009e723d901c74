//! What is true of each message, whoever knows it.

use std::collections::HashSet;

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

/// One publish of a client.
#[expect(clippy::struct_excessive_bools, reason = "each is an independent fact about one message")]
pub struct Message {
    pub connection: usize,
    pub channel: u16,
    /// How often that channel number had been opened.
    pub generation: u32,
    /// The key, if a rule concerns it.
    pub key: Option<u32>,
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
    pub kept: bool,
    /// The client's confirm: ack or nack.
    pub told: Option<bool>,
    /// Why it may be missing at the broker.
    pub excused: bool,
}

#[derive(Default)]
pub struct Shadow {
    pub messages: Vec<Message>,
    /// Keys of which the broker has had a message in a queue.
    pub safe: HashSet<u32>,
    /// Channels that the broker has closed: connection, number, generation.
    pub closed: HashSet<(usize, u16, u32)>,
    /// Connections that the broker has lost.
    pub lost: HashSet<usize>,
}

impl Shadow {
    pub fn index(id: &str) -> usize {
        id.strip_prefix('m').and_then(|number| number.parse().ok()).expect("an id of ours")
    }

    /// The broker has spoken.
    pub fn spoken(&mut self, index: usize, fate: Fate) {
        let message = &mut self.messages[index];
        message.fate = fate;
        if fate == Fate::Acked
            && !message.returned
            && let Some(key) = message.key
        {
            self.safe.insert(key);
        }
    }

    /// A duplicate may go only when another message of its key is safe (P5).
    pub fn dropped(&mut self, id: &str) {
        let message = &mut self.messages[Shadow::index(id)];
        let key = message.key.expect("only a message with a key is dropped");
        assert!(
            self.safe.contains(&key),
            "{id} was dropped before another message of key {key} was safe"
        );
        assert!(message.fate == Fate::Unseen, "{id} was dropped and sent");
        message.dropped = true;
    }

    /// The client reads a confirm.
    pub fn confirmed(&mut self, index: usize, ack: bool) {
        let message = &mut self.messages[index];
        assert!(message.told.is_none(), "m{index} is confirmed twice");
        message.told = Some(ack);
        match message.fate {
            Fate::Acked => assert!(ack, "m{index} was acked by the broker and nacked to the client"),
            Fate::Nacked => assert!(!ack, "m{index} was nacked by the broker and acked to the client"),
            Fate::Unseen => assert!(ack && message.dropped, "m{index} was confirmed and nobody has it"),
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

    /// At the end: nothing that was read is missing.
    pub fn judge(&mut self) {
        for message in &mut self.messages {
            let channel = (message.connection, message.channel, message.generation);
            message.excused |= self.closed.contains(&channel) || self.lost.contains(&message.connection);
        }
        for (index, message) in self.messages.iter().enumerate() {
            if !message.read {
                assert!(message.fate == Fate::Unseen, "m{index} was sent before it was read in full");
                continue;
            }
            if message.fate == Fate::Unseen && !message.dropped {
                assert!(
                    message.excused,
                    "m{index} is lost (key {:?}, kept {}, connection {} channel {}.{}, confirming {})",
                    message.key, message.kept, message.connection, message.channel, message.generation, message.confirmed_channel
                );
            }
            if message.confirmed_channel && !message.excused {
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
