//! What is true of each delivery: who has seen it, what its client said of it, and what reached the broker.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What settles a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    Ack,
    /// Rejected or nacked, and not to come back.
    Reject,
    /// Nacked, rejected or recovered into its queue.
    Requeue,
}

/// One channel in its life: connection, number, how often that number had been opened.
pub type ChannelId = (usize, u16, u32);

/// One delivery.
#[expect(clippy::struct_excessive_bools, reason = "each is an independent fact about one delivery")]
#[derive(Debug)]
pub struct Delivery {
    pub message: usize,
    /// The broker forgot it as it sent it.
    pub no_ack: bool,
    /// It came by itself, and not as the answer to a `basic.get`.
    pub consumed: bool,
    /// It did so while its connection drained.
    pub during_drain: bool,
    /// It left the session for the client.
    pub passed: bool,
    /// The client has read it.
    pub seen: bool,
    /// What the client said.
    pub said: Option<Word>,
    /// The session has read that.
    pub read: bool,
    /// What the broker was told, or did by itself.
    pub settled: Option<Word>,
    /// A `multiple` for all that was out settled it while it was on its way to the client.
    pub crossed: bool,
}

/// The one queue, and all deliveries from it.
#[derive(Default)]
pub struct Deliveries {
    /// Messages that lie in the queue.
    pub ready: VecDeque<usize>,
    made: BTreeMap<(ChannelId, u64), Delivery>,
    /// Connections that drain: their clients are shown nothing more, also of what came before and waits for the store.
    pub draining: BTreeSet<usize>,
    /// Messages that Oncegate has found to be duplicates as they were delivered.
    pub dropped: BTreeSet<usize>,
    /// What clients said of all that was out, and the last tag that they had seen then.
    alls: BTreeMap<ChannelId, VecDeque<(Word, u64)>>,
    /// Connections whose client's leg is over for Oncegate: what its client holds goes back.
    pub over: BTreeSet<usize>,
    /// Channels that their client has left: it does not read what comes.
    pub left: BTreeSet<ChannelId>,
}

impl Deliveries {
    /// The broker sends a message.
    pub fn make(&mut self, channel: ChannelId, tag: u64, delivery: Delivery) {
        let known = self.made.insert((channel, tag), delivery);
        assert!(known.is_none(), "delivery tag {tag} twice on {channel:?}");
    }

    fn get(&mut self, channel: ChannelId, tag: u64) -> &mut Delivery {
        self.made
            .get_mut(&(channel, tag))
            .unwrap_or_else(|| panic!("the broker never made delivery {tag} on {channel:?}"))
    }

    /// Whether the broker has sent this message before.
    pub fn was_delivered(&self, message: usize) -> bool {
        self.made.values().any(|delivery| delivery.message == message)
    }

    /// A delivery leaves the session for the client.
    pub fn pass(&mut self, channel: ChannelId, tag: u64) {
        self.get(channel, tag).passed = true;
    }

    /// The first message that this client has and that it has not settled.
    pub fn in_hand(&self, connection: usize) -> Option<usize> {
        let of_it = self.made.range(((connection, 0, 0), 0)..((connection + 1, 0, 0), 0));
        // What its client settled with all that was out, before it read it, is settled as soon as Oncegate has read that.
        let met = |channel: &ChannelId, tag: u64| self.alls.get(channel).is_some_and(|alls| alls.iter().any(|(_, last)| tag > *last));
        let mut open = of_it.filter(|((channel, tag), delivery)| {
            delivery.passed && !delivery.no_ack && !delivery.read && delivery.settled.is_none() && !met(channel, *tag)
        });
        open.next().map(|(_, delivery)| delivery.message)
    }

    /// The client reads a delivery. Its message.
    pub fn see(&mut self, channel: ChannelId, tag: u64) -> usize {
        // What was on its way as its client settled all that was out may have been settled by that: it is handed over, or it might be lost.
        let met = self.alls.contains_key(&channel);
        let delivery = self.get(channel, tag);
        assert!(
            !delivery.during_drain || delivery.no_ack || met,
            "m{} was handed out while draining: {channel:?} {tag}",
            delivery.message
        );
        assert!(!delivery.seen, "delivery {tag} came twice on {channel:?}");
        delivery.seen = true;
        delivery.message
    }

    /// The client settles a delivery that it has seen.
    pub fn say(&mut self, channel: ChannelId, tag: u64, word: Word) {
        let delivery = self.get(channel, tag);
        assert!(delivery.seen && delivery.said.is_none(), "the client of this simulation is careful");
        delivery.said = Some(word);
    }

    /// The client says it of all that is out, having seen this tag last: what comes later may be met on its way.
    pub fn say_all(&mut self, channel: ChannelId, word: Word, last: u64) {
        self.alls.entry(channel).or_default().push_back((word, last));
    }

    /// The broker hears a word of all that is out: the last tag that its client meant, if it is its client's.
    pub fn meant(&mut self, channel: ChannelId, word: Word) -> Option<u64> {
        let alls = self.alls.get_mut(&channel)?;
        let at = alls.iter().position(|(said, _)| *said == word)?;
        alls.drain(..=at).next_back().map(|(_, last)| last)
    }

    /// Whether the client had not seen this tag as it said that of all: Oncegate, which has shown it, may say so of each.
    pub fn may_cross(&self, channel: ChannelId, tag: u64, word: Word) -> bool {
        let alls = self.alls.get(&channel);
        alls.is_some_and(|alls| alls.iter().any(|(said, last)| *said == word && tag > *last))
    }

    /// The session has read what the client said. The message, if that ends it.
    pub fn read(&mut self, channel: ChannelId, tag: u64) -> Option<usize> {
        let delivery = self.get(channel, tag);
        delivery.read = true;
        (delivery.said != Some(Word::Requeue)).then_some(delivery.message)
    }

    /// The broker is told to settle a delivery that it has out; `crosses` if it is met on its way by what its client said of all. Its
    /// message.
    pub fn settle(&mut self, channel: ChannelId, tag: u64, word: Word, crosses: bool) -> usize {
        let over = self.over.contains(&channel.0);
        let message = self.get(channel, tag).message;
        let dropped = self.dropped.contains(&message);
        let draining = self.draining.contains(&channel.0);
        let delivery = self.get(channel, tag);
        assert!(delivery.settled.is_none(), "{channel:?} {tag} was settled again: {delivery:?}");
        match delivery.said.filter(|_| delivery.read) {
            _ if dropped && !delivery.passed && word == Word::Ack => {}
            _ if crosses => delivery.crossed = true,
            Some(said) => assert!(
                said == word,
                "m{message} was settled with {word:?}, and the client said {said:?}: {channel:?} {tag}"
            ),
            // What the client of a finished leg had not settled is given back for it.
            // While it drains, Oncegate gives back itself what it keeps from its client.
            None if draining && delivery.consumed && !delivery.passed && word == Word::Requeue => {}
            None if over => assert!(word == Word::Requeue, "m{message} got {word:?} from nobody: {channel:?} {tag}"),
            None => panic!("{word:?} for {channel:?} {tag}, of which the client said nothing: {delivery:?}"),
        }
        delivery.settled = Some(word);
        message
    }

    /// The broker takes a delivery back because the client asked for that of all.
    pub fn recover(&mut self, channel: ChannelId, tag: u64) -> usize {
        let delivery = self.get(channel, tag);
        assert!(
            matches!(delivery.said, None | Some(Word::Requeue)),
            "what the client said of {channel:?} {tag} never came: {delivery:?}"
        );
        delivery.settled = Some(Word::Requeue);
        delivery.message
    }

    /// Whether a `multiple` for all that was out met this delivery on its way, so that the client may settle it in vain.
    pub fn crossed(&mut self, channel: ChannelId, tag: u64) -> bool {
        self.get(channel, tag).crossed
    }

    /// The broker takes back what a channel had out, which ends. Gives the messages. What a client said that did not reach the broker is lost
    /// only if the channel or connection broke.
    pub fn take_back(&mut self, channel: ChannelId, tags: impl IntoIterator<Item = u64>, broke: bool) -> Vec<usize> {
        let mut messages = Vec::new();
        for tag in tags {
            let delivery = self.get(channel, tag);
            assert!(
                broke || !delivery.read || delivery.said.is_none(),
                "what the client said of {channel:?} {tag} never came: {delivery:?}"
            );
            delivery.settled = Some(Word::Requeue);
            messages.push(delivery.message);
        }
        messages
    }

    /// Whether this message was delivered where its client settles whatever is out, seen or not.
    pub fn may_be_met(&self, message: usize) -> bool {
        let mut of_it = self.made.iter().filter(|(_, delivery)| delivery.message == message);
        of_it.any(|((channel, _), _)| self.alls.contains_key(channel))
    }

    /// Whether a worker's word about this message reached the broker, or the worker had it without one.
    pub fn ended(&self, message: usize) -> bool {
        let of_it = self.made.values().filter(|delivery| delivery.message == message);
        let mut ends = of_it.filter(|delivery| match delivery.said {
            Some(said) => delivery.read && !delivery.crossed && said != Word::Requeue && delivery.settled == Some(said),
            None => delivery.no_ack && delivery.seen,
        });
        ends.next().is_some()
    }

    /// At the end: what a `multiple` crossed was handed to the client, unless that had gone.
    pub fn judge(&self, broke: impl Fn(ChannelId) -> bool) {
        for ((channel, tag), delivery) in &self.made {
            let gone = broke(*channel) || self.left.contains(channel);
            assert!(
                !delivery.crossed || delivery.settled == Some(Word::Requeue) || delivery.seen || gone,
                "m{} was settled by a `multiple` and never handed to the client: {channel:?} {tag}",
                delivery.message
            );
            assert!(
                delivery.passed || delivery.settled.is_some() || gone || self.over.contains(&channel.0),
                "m{} was kept from the client: {channel:?} {tag} {delivery:?}",
                delivery.message
            );
            assert!(
                !delivery.no_ack || delivery.seen || gone || self.over.contains(&channel.0),
                "m{} is lost: {channel:?} {tag} {delivery:?}",
                delivery.message
            );
        }
    }
}
