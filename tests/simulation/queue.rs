//! The broker, as far as its one queue and deliveries go.

use std::collections::BTreeMap;

use oncegate::amqp::method::MethodId;
use oncegate::amqp::method::basic::{self, Ack, Nack, Reject};

use crate::broker::Broker;
use crate::deliveries::{ChannelId, Delivery, Word};
use crate::random::Random;
use crate::shadow::Shadow;
use crate::wire::{Unit, content_of, method, on_channel, short};

struct Consumer {
    tag: Vec<u8>,
    no_ack: bool,
    prefetch: u16,
}

/// What one channel has out.
#[derive(Default)]
pub struct Out {
    consumers: Vec<Consumer>,
    prefetch: u16,
    named: u32,
    next_tag: u64,
    /// Delivered and not settled, by delivery tag: the message, and the consumer, none for a get.
    unacked: BTreeMap<u64, (usize, Option<Vec<u8>>)>,
}

impl Out {
    fn has_room(&self, consumer: &Consumer) -> bool {
        let out = self.unacked.values().filter(|(_, tag)| tag.as_ref() == Some(&consumer.tag)).count();
        consumer.no_ack || consumer.prefetch == 0 || out < usize::from(consumer.prefetch)
    }

    /// Everything that is out goes back, because its channel ends.
    pub fn take_back(&mut self, channel: ChannelId, broke: bool, shadow: &mut Shadow) {
        self.consumers.clear();
        let tags: Vec<u64> = std::mem::take(&mut self.unacked).into_keys().collect();
        let messages = shadow.deliveries.take_back(channel, tags, broke);
        shadow.requeue(messages);
    }
}

impl Broker {
    /// Sends one message to one consumer. False if there is none to send or nobody to take it.
    pub fn deliver(&mut self, drains: bool, shadow: &mut Shadow, random: &mut Random) -> bool {
        if !self.alive || shadow.deliveries.ready.is_empty() {
            return false;
        }
        let mut takers: Vec<(u16, usize)> = Vec::new();
        for (number, channel) in self.channels.iter().filter(|(_, channel)| !channel.closing) {
            let out = &channel.out;
            let free = out.consumers.iter().enumerate().filter(|(_, consumer)| out.has_room(consumer));
            takers.extend(free.map(|(index, _)| (*number, index)));
        }
        takers.sort_unstable();
        if takers.is_empty() {
            return false;
        }
        let (number, index) = takers[random.below(takers.len())];
        let Some(channel) = self.channels.get_mut(&number) else {
            return false;
        };
        let consumer = &channel.out.consumers[index];
        let (tag, no_ack) = (consumer.tag.clone(), consumer.no_ack);
        let id = (self.connection, number, channel.generation);
        let again = shadow.deliveries.was_delivered(shadow.deliveries.ready[0]);
        let (delivery_tag, message) = channel.out.hand(id, Some(tag.clone()), no_ack, drains, shadow);
        let arguments = [
            &short(&tag)[..],
            &delivery_tag.to_be_bytes(),
            &[u8::from(again)],
            &short(b""),
            &short(b"q"),
        ]
        .concat();
        self.out.extend(method(number, MethodId::BASIC_DELIVER, &arguments));
        self.out.extend(on_channel(content_of(&shadow.messages[message].bytes), number));
        true
    }

    /// A method of a consumer. False if it is something else.
    pub fn consumed(&mut self, unit: &Unit, shadow: &mut Shadow) -> bool {
        let number = unit.channel;
        let payload = unit.payload();
        let Some(channel) = self.channels.get_mut(&number) else {
            return false;
        };
        let id = (self.connection, number, channel.generation);
        let out = &mut channel.out;
        match unit.method {
            MethodId::BASIC_QOS => {
                out.prefetch = basic::Qos::decode(payload).expect("a qos").prefetch_count;
                self.out.extend(method(number, MethodId::BASIC_QOS_OK, &[]));
            }
            MethodId::BASIC_CONSUME => {
                let consume = basic::Consume::decode(payload).expect("a consume");
                let mut tag = consume.consumer_tag.to_vec();
                if tag.is_empty() {
                    out.named += 1;
                    tag = format!("amq.ctag-{}", out.named).into_bytes();
                }
                if !consume.nowait {
                    self.out.extend(method(number, MethodId::BASIC_CONSUME_OK, &short(&tag)));
                }
                out.consumers.push(Consumer {
                    tag,
                    no_ack: consume.no_ack,
                    prefetch: out.prefetch,
                });
            }
            MethodId::BASIC_CANCEL => {
                let cancel = basic::Cancel::decode(payload).expect("a cancel");
                out.consumers.retain(|consumer| consumer.tag != cancel.consumer_tag);
                if !cancel.nowait {
                    self.out
                        .extend(method(number, MethodId::BASIC_CANCEL_OK, &short(cancel.consumer_tag)));
                }
            }
            MethodId::BASIC_GET => {
                let get = basic::Get::decode(payload).expect("a get");
                if shadow.deliveries.ready.is_empty() {
                    self.out.extend(method(number, MethodId::BASIC_GET_EMPTY, &short(b"")));
                    return true;
                }
                let (tag, message) = out.hand(id, None, get.no_ack, false, shadow);
                let arguments = [&tag.to_be_bytes()[..], &[0], &short(b""), &short(b"q"), &[0; 4]].concat();
                self.out.extend(method(number, MethodId::BASIC_GET_OK, &arguments));
                self.out.extend(on_channel(content_of(&shadow.messages[message].bytes), number));
            }
            MethodId::BASIC_ACK => {
                let Ack { delivery_tag, multiple } = Ack::decode(payload).expect("an ack");
                out.settle(id, delivery_tag, multiple, Word::Ack, shadow);
            }
            MethodId::BASIC_NACK => {
                let nack = Nack::decode(payload).expect("a nack");
                out.settle(id, nack.delivery_tag, nack.multiple, word(nack.requeue), shadow);
            }
            MethodId::BASIC_REJECT => {
                let reject = Reject::decode(payload).expect("a reject");
                out.settle(id, reject.delivery_tag, false, word(reject.requeue), shadow);
            }
            MethodId::BASIC_RECOVER => {
                out.recover(id, shadow);
                self.out.extend(method(number, MethodId::BASIC_RECOVER_OK, &[]));
            }
            _ => return false,
        }
        true
    }

    /// The connection ends, in whatever way: everything goes back.
    pub fn take_all_back(&mut self, broke: bool, shadow: &mut Shadow) {
        let mut channels: Vec<_> = self.channels.iter_mut().collect();
        channels.sort_unstable_by_key(|(number, _)| **number);
        for (number, channel) in channels {
            let id = (self.connection, *number, channel.generation);
            channel.out.take_back(id, broke || channel.closing, shadow);
        }
    }
}

impl Out {
    fn hand(&mut self, id: ChannelId, consumer: Option<Vec<u8>>, no_ack: bool, during_drain: bool, shadow: &mut Shadow) -> (u64, usize) {
        let message = shadow.deliveries.ready.pop_front().expect("it was looked at before");
        self.next_tag += 1;
        let tag = self.next_tag;
        shadow.deliveries.make(
            id,
            tag,
            Delivery {
                message,
                no_ack,
                consumed: consumer.is_some(),
                during_drain,
                passed: false,
                seen: false,
                said: None,
                read: false,
                settled: no_ack.then_some(Word::Ack),
                crossed: false,
            },
        );
        if no_ack {
            shadow.messages[message].ends += 1;
        } else {
            self.unacked.insert(tag, (message, consumer));
        }
        (tag, message)
    }

    /// Everything that is out goes back, also what Oncegate has kept from the client.
    fn recover(&mut self, id: ChannelId, shadow: &mut Shadow) {
        let tags: Vec<u64> = std::mem::take(&mut self.unacked).into_keys().collect();
        let messages = tags.into_iter().map(|tag| shadow.deliveries.recover(id, tag)).collect();
        shadow.requeue(messages);
    }

    fn settle(&mut self, id: ChannelId, tag: u64, multiple: bool, word: Word, shadow: &mut Shadow) {
        let all = multiple && tag == 0;
        // The broker would close the channel where a client settles what its own `multiple` has crossed; here it forgives that.
        assert!(
            all || self.unacked.contains_key(&tag) || shadow.deliveries.crossed(id, tag),
            "{word:?} for {id:?} {tag}, which is not out: it was settled before, or never delivered"
        );
        let tags: Vec<u64> = match (all, multiple) {
            (true, _) => self.unacked.keys().copied().collect(),
            (false, true) => self.unacked.range(..=tag).map(|(tag, _)| *tag).collect(),
            (false, false) => self.unacked.contains_key(&tag).then_some(tag).into_iter().collect(),
        };
        let meant = if all { shadow.deliveries.meant(id, word) } else { None };
        let mut back = Vec::new();
        for tag in tags {
            self.unacked.remove(&tag);
            let crosses = meant.is_some_and(|last| tag > last) || !all && shadow.deliveries.may_cross(id, tag, word);
            let message = shadow.deliveries.settle(id, tag, word, crosses);
            if word == Word::Requeue {
                back.push(message);
            }
        }
        shadow.requeue(back);
    }
}

fn word(requeue: bool) -> Word {
    if requeue { Word::Requeue } else { Word::Reject }
}
