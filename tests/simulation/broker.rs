//! The broker, as far as channels, publishes and confirms go.

use std::collections::HashMap;

use oncegate::amqp::encode;
use oncegate::amqp::method::MethodId;
use oncegate::amqp::method::basic::{Ack, Nack, Publish};

use crate::queue::Out;
use crate::random::Random;
use crate::shadow::{Fate, Shadow};
use crate::wire::{Reader, Unit, method};

#[derive(Default)]
pub struct Channel {
    pub generation: u32,
    counting: bool,
    next: u64,
    /// Publishes without a word, by number.
    pending: Vec<(u64, usize)>,
    /// It has been closed with an error and waits for `close-ok`.
    pub closing: bool,
    newest: Option<usize>,
    pub out: Out,
}

/// One connection at the broker.
pub struct Broker {
    pub connection: usize,
    reader: Reader,
    pub out: Vec<u8>,
    pub channels: HashMap<u16, Channel>,
    generations: HashMap<u16, u32>,
    pub alive: bool,
}

impl Broker {
    pub fn new(connection: usize) -> Broker {
        Broker {
            connection,
            reader: Reader::default(),
            out: Vec::new(),
            channels: HashMap::new(),
            generations: HashMap::new(),
            alive: true,
        }
    }

    /// Whether the client went in the middle of a content, so that nothing more can be sent on this channel.
    pub fn is_broken(&self, channel: u16) -> bool {
        self.reader.inside(channel)
    }

    pub fn feed(&mut self, bytes: &[u8], shadow: &mut Shadow, random: &mut Random) {
        for unit in self.reader.feed(bytes) {
            if self.alive {
                self.unit(&unit, shadow, random);
            }
        }
    }

    fn unit(&mut self, unit: &Unit, shadow: &mut Shadow, random: &mut Random) {
        let number = unit.channel;
        match unit.method {
            MethodId::CONNECTION_CLOSE => {
                self.take_all_back(false, shadow);
                encode::connection_close_ok(&mut self.out);
                self.alive = false;
                return;
            }
            MethodId::CHANNEL_OPEN => {
                assert!(!self.channels.contains_key(&number), "channel {number} opened twice");
                let generation = self.generations.entry(number).or_default();
                *generation += 1;
                let channel = Channel {
                    generation: *generation,
                    ..Channel::default()
                };
                self.channels.insert(number, channel);
                self.out.extend(method(number, MethodId::CHANNEL_OPEN_OK, &[0; 4]));
                return;
            }
            _ => {}
        }
        let connection = self.connection;
        let Some(channel) = self.channels.get_mut(&number) else {
            panic!("{} on channel {number}, which is not open", unit.method);
        };
        match unit.method {
            MethodId::CHANNEL_CLOSE => {
                encode::channel_close_ok(&mut self.out, number);
                if !channel.closing {
                    channel.out.take_back((connection, number, channel.generation), false, shadow);
                    self.channels.remove(&number);
                }
            }
            MethodId::CHANNEL_CLOSE_OK => {
                assert!(channel.closing, "a close-ok that nobody asked for");
                self.channels.remove(&number);
            }
            _ if channel.closing => {}
            MethodId::CONFIRM_SELECT => {
                if !std::mem::replace(&mut channel.counting, true) {
                    channel.next = 1;
                }
                if unit.payload()[4] & 1 == 0 {
                    encode::confirm_select_ok(&mut self.out, number);
                }
            }
            MethodId::BASIC_PUBLISH => self.publish(unit, shadow, random),
            other => assert!(self.consumed(unit, shadow), "the clients of this simulation do not send {other}"),
        }
    }

    fn publish(&mut self, unit: &Unit, shadow: &mut Shadow, random: &mut Random) {
        let channel = self.channels.get_mut(&unit.channel).expect("it is open");
        let publish = Publish::decode(unit.payload()).expect("a publish");
        let index = Shadow::index(unit.id.as_deref().expect("every message has an id"));
        let message = &mut shadow.messages[index];
        assert_eq!(
            (message.connection, message.channel, message.generation),
            (self.connection, unit.channel, channel.generation),
            "m{index} came on another channel"
        );
        assert_eq!(message.fate, Fate::Unseen, "m{index} came twice");
        assert!(!message.dropped, "m{index} was dropped and sent");
        assert!(!message.rejected, "m{index} was rejected and sent");
        assert!(message.read, "m{index} was sent before it was read");
        if !message.kept {
            assert!(channel.newest.is_none_or(|newest| newest < index), "m{index} came out of order");
            channel.newest = Some(index);
        }
        let mut bytes = unit.raw.clone();
        if message.rule.is_some_and(|rule| !shadow.observes[rule]) && !message.mandatory {
            // Class and method, the reserved short, exchange and routing key stand before the bits.
            bytes[7 + 4 + 2 + 1 + publish.exchange.len() + 1 + publish.routing_key.len()] &= !1;
        }
        assert_eq!(bytes, message.bytes, "m{index} was changed");
        if publish.exchange == b"missing" {
            channel.closing = true;
            let generation = channel.generation;
            channel.out.take_back((self.connection, unit.channel, generation), true, shadow);
            encode::channel_close(&mut self.out, unit.channel, 404, "NOT_FOUND", Some(MethodId::BASIC_PUBLISH));
            shadow.excuse(self.connection, Some((unit.channel, generation)));
            return;
        }
        message.fate = Fate::Read;
        if random.percent(10) {
            message.returned = true;
            if publish.mandatory {
                let arguments = [&312u16.to_be_bytes()[..], b"\x08NO_ROUTE\x00\x01q"].concat();
                self.out.extend(method(unit.channel, MethodId::BASIC_RETURN, &arguments));
                self.out.extend_from_slice(unit.content());
            }
        }
        // Deliveries may overtake confirms.
        let at_once = !channel.counting || random.percent(50);
        if at_once && !message.returned {
            shadow.deliveries.ready.push_back(index);
        }
        message.queued = at_once;
        if channel.counting {
            channel.pending.push((channel.next, index));
            channel.next += 1;
        } else {
            shadow.spoken(index, Fate::Acked);
        }
    }

    /// Confirms something. False if there is nothing to confirm.
    pub fn confirm(&mut self, shadow: &mut Shadow, random: &mut Random) -> bool {
        let mut numbers: Vec<u16> = self
            .channels
            .iter()
            .filter(|(_, channel)| !channel.closing && !channel.pending.is_empty())
            .map(|(number, _)| *number)
            .collect();
        numbers.sort_unstable();
        if numbers.is_empty() || !self.alive {
            return false;
        }
        let number = numbers[random.below(numbers.len())];
        let Some(channel) = self.channels.get_mut(&number) else {
            return false;
        };
        let ack = !random.percent(10);
        let multiple = random.percent(40);
        let at = random.below(channel.pending.len());
        let (delivery_tag, _) = channel.pending[at];
        let settled: Vec<usize> = if multiple {
            channel.pending.drain(..=at).map(|(_, index)| index).collect()
        } else {
            vec![channel.pending.remove(at).1]
        };
        for index in settled {
            shadow.spoken(index, if ack { Fate::Acked } else { Fate::Nacked });
        }
        if ack {
            encode::basic_ack(&mut self.out, number, Ack { delivery_tag, multiple });
        } else {
            let nack = Nack {
                delivery_tag,
                multiple,
                requeue: false,
            };
            encode::basic_nack(&mut self.out, number, nack);
        }
        true
    }
}
