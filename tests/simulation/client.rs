//! A client that publishes, selects confirms late, and leaves in every way.

use std::collections::{BTreeMap, VecDeque};

use oncegate::amqp::encode;
use oncegate::amqp::method::MethodId;
use oncegate::amqp::method::basic::{Ack, Nack};

use crate::consumer::Consuming;
use crate::deliveries::ChannelId;
use crate::plan::{Confirms, End, Plan};
use crate::random::Random;
use crate::shadow::{Count, Message, Shadow};
use crate::wire::{Reader, TaskMessage, Unit, method, publish};

#[derive(Default)]
pub struct Channel {
    open: bool,
    closing: bool,
    pub generation: u32,
    confirming: bool,
    next: u64,
    /// Publishes without a confirm, by number.
    waiting: BTreeMap<u64, usize>,
    pub consuming: Consuming,
}

pub struct Client {
    pub connection: usize,
    reader: Reader,
    /// What it has written and the session has not read.
    pub out: Vec<u8>,
    /// How much it has written in all.
    pub written: u64,
    pub channels: BTreeMap<u16, Channel>,
    /// What it has said of deliveries and the session has not read: where that ends in what it writes, the channel, the tag.
    pub words: VecDeque<(u64, ChannelId, u64)>,
    pub publishes_left: usize,
    pub closing: bool,
    pub gone: bool,
}

impl Client {
    pub fn new(connection: usize, publishes: usize) -> Client {
        Client {
            connection,
            reader: Reader::default(),
            out: Vec::new(),
            written: 0,
            channels: BTreeMap::new(),
            words: VecDeque::new(),
            publishes_left: publishes,
            closing: false,
            gone: false,
        }
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
        self.written += bytes.len() as u64;
    }

    /// Does one thing.
    pub fn act(&mut self, plan: &Plan, shadow: &mut Shadow, random: &mut Random) {
        if self.gone || self.closing {
            return;
        }
        let number = 1 + random.below(3) as u16;
        if plan.consume
            && random.percent(if self.publishes_left == 0 { 90 } else { 40 })
            && self.channels.get(&number).is_some_and(|channel| channel.open && !channel.closing)
        {
            self.consumes(number, shadow, random);
            return;
        }
        if self.publishes_left == 0 {
            if plan.end == End::Clients {
                self.close(shadow);
            }
            return;
        }
        let channel = self.channels.entry(number).or_default();
        if channel.closing {
            return;
        }
        if !channel.open {
            *channel = Channel {
                open: true,
                generation: channel.generation + 1,
                next: 1,
                ..Channel::default()
            };
            self.write(&method(number, MethodId::CHANNEL_OPEN, &[0]));
            if plan.confirms == Confirms::First {
                self.select(number, random);
            }
        } else if random.per_mille(plan.lossy_per_mille) {
            channel.closing = true;
            let generation = channel.generation;
            shadow.deliveries.left.insert((self.connection, number, generation));
            self.write(&close_channel(number));
            if self.channels[&number].confirming {
                // It did not wait for its confirms: kept duplicates are forgotten.
                shadow.excuse(self.connection, Some((number, generation)));
            }
        } else if plan.confirms == Confirms::AtAnyTime && !channel.confirming && random.percent(3) {
            self.select(number, random);
        } else {
            self.publish(number, plan, shadow, random);
        }
    }

    fn select(&mut self, number: u16, random: &mut Random) {
        if let Some(channel) = self.channels.get_mut(&number) {
            channel.confirming = true;
        }
        let mut bytes = Vec::new();
        encode::confirm_select(&mut bytes, number, random.percent(50));
        self.write(&bytes);
    }

    fn publish(&mut self, number: u16, plan: &Plan, shadow: &mut Shadow, random: &mut Random) {
        let Some(channel) = self.channels.get_mut(&number) else { return };
        let key = (!random.percent(plan.unmatched_percent)).then(|| random.below(plan.keys as usize) as u32);
        let index = shadow.messages.len();
        let mandatory = random.percent(20);
        let exchange = if random.per_mille(plan.lossy_per_mille) { "missing" } else { "" };
        let body = match key {
            Some(key) => format!(r#"[[{key}], {{}}, {{"callbacks": null, "errbacks": null, "chain": null, "chord": null}}]"#),
            None => "x".repeat(random.below(200)),
        };
        let task = if key.is_some() { "t.unique" } else { "t.other" };
        let frame_max = 40 + random.below(200);
        let message = TaskMessage {
            task,
            id: &format!("m{index}"),
            headers: &[],
            expiration: None,
            body: body.as_bytes(),
        };
        let bytes = publish(number, &message, exchange, "q", mandatory, frame_max);
        if channel.confirming {
            channel.waiting.insert(channel.next, index);
            channel.next += 1;
        }
        shadow.messages.push(Message {
            connection: self.connection,
            channel: number,
            generation: channel.generation,
            key,
            rule: None,
            mandatory,
            end: self.written + bytes.len() as u64,
            read: false,
            confirmed_channel: channel.confirming,
            fate: crate::shadow::Fate::Unseen,
            returned: false,
            dropped: false,
            rejected: false,
            let_go: false,
            queued: false,
            admitted: std::collections::BTreeSet::new(),
            count: Count::default(),
            signals: 0,
            ends: 0,
            ended_ms: None,
            unconfirmable: false,
            asked_us: 0,
            kept: false,
            told: None,
            excused: false,
            bytes: bytes.clone(),
        });
        self.write(&bytes);
        self.publishes_left -= 1;
    }

    fn close(&mut self, shadow: &mut Shadow) {
        let patient = self
            .channels
            .values()
            .all(|channel| channel.waiting.is_empty() && channel.consuming.open.is_empty());
        if !patient {
            return;
        }
        self.leave_politely(shadow);
    }

    /// Sends `connection.close` although confirms may be due.
    pub fn leave_politely(&mut self, shadow: &mut Shadow) {
        self.closing = true;
        self.leave_channels(shadow);
        let mut bytes = Vec::new();
        encode::connection_close(&mut bytes, 200, "", None);
        self.write(&bytes);
        let confirming: Vec<_> = self
            .channels
            .iter()
            .filter(|(_, channel)| !channel.waiting.is_empty())
            .map(|(number, channel)| (*number, channel.generation))
            .collect();
        for channel in confirming {
            shadow.excuse(self.connection, Some(channel));
        }
    }

    /// The channels whose publishes it does not expect a confirm for any more, as it goes without a word.
    pub fn vanish(&mut self, shadow: &mut Shadow) {
        self.gone = true;
        self.leave_channels(shadow);
        for message in &mut shadow.messages {
            // A plain publish that was read in full is owed to it all the same.
            if message.connection == self.connection && message.confirmed_channel {
                message.excused = true;
            }
        }
    }

    fn leave_channels(&self, shadow: &mut Shadow) {
        for (number, channel) in &self.channels {
            shadow.deliveries.left.insert((self.connection, *number, channel.generation));
        }
    }

    pub fn feed(&mut self, bytes: &[u8], shadow: &mut Shadow) {
        for unit in self.reader.feed(bytes) {
            self.unit(&unit, shadow);
        }
    }

    fn unit(&mut self, unit: &Unit, shadow: &mut Shadow) {
        if unit.channel == 0 {
            match unit.method {
                MethodId::CONNECTION_CLOSE => {
                    let mut bytes = Vec::new();
                    encode::connection_close_ok(&mut bytes);
                    self.write(&bytes);
                    self.closing = true;
                    shadow.told_to_go(self.connection);
                }
                MethodId::CONNECTION_CLOSE_OK => self.gone = true,
                other => panic!("{other} on channel 0"),
            }
            return;
        }
        let open = self.channels.get(&unit.channel).is_some_and(|channel| channel.open);
        assert!(open, "{} on channel {}, which is not open", unit.method, unit.channel);
        if self.delivered(unit, shadow) {
            return;
        }
        let Some(channel) = self.channels.get_mut(&unit.channel) else {
            return;
        };
        match unit.method {
            MethodId::CHANNEL_CLOSE => {
                channel.waiting.clear();
                channel.open = channel.closing;
                let mut bytes = Vec::new();
                encode::channel_close_ok(&mut bytes, unit.channel);
                self.write(&bytes);
            }
            MethodId::CHANNEL_CLOSE_OK => {
                assert!(channel.closing, "a close-ok that nobody asked for");
                channel.waiting.clear();
                channel.closing = false;
                channel.open = false;
            }
            MethodId::CHANNEL_OPEN_OK | MethodId::CONFIRM_SELECT_OK => {}
            MethodId::BASIC_RETURN => {
                let index = Shadow::index(unit.id.as_deref().expect("every message has an id"));
                assert!(
                    shadow.messages[index].mandatory,
                    "m{index} was returned and the client did not ask for it"
                );
                assert!(shadow.messages[index].told.is_none(), "m{index} was returned after its confirm");
            }
            MethodId::BASIC_ACK => {
                let ack = Ack::decode(unit.payload()).expect("an ack");
                channel.confirmed(ack.delivery_tag, ack.multiple, true, shadow);
            }
            MethodId::BASIC_NACK => {
                let nack = Nack::decode(unit.payload()).expect("a nack");
                channel.confirmed(nack.delivery_tag, nack.multiple, false, shadow);
            }
            other => panic!("the broker of this simulation does not send {other}"),
        }
    }
}

impl Channel {
    fn confirmed(&mut self, tag: u64, multiple: bool, ack: bool, shadow: &mut Shadow) {
        assert!(self.confirming, "a confirm on a channel without confirms");
        assert!(tag < self.next, "the confirm {tag} is for a publish that was never sent");
        let tags: Vec<u64> = if multiple {
            self.waiting.range(..=tag).map(|(tag, _)| *tag).collect()
        } else {
            vec![tag]
        };
        for tag in tags {
            let index = self.waiting.remove(&tag).unwrap_or_else(|| panic!("{tag} is confirmed twice"));
            shadow.confirmed(index, ack);
        }
    }
}

fn close_channel(number: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode::channel_close(&mut bytes, number, 200, "", None);
    bytes
}
