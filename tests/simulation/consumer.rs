//! What a client does with the queue: it consumes, gets, settles in every way, and gives back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use oncegate::amqp::encode;
use oncegate::amqp::method::MethodId;
use oncegate::amqp::method::basic::{Ack, Nack, Reject};
use oncegate::amqp::method::{basic, basic::Deliver};

use crate::client::Client;
use crate::deliveries::{ChannelId, Word};
use crate::random::Random;
use crate::shadow::Shadow;
use crate::wire::{Unit, content_of, method, on_channel, short};

/// What one channel knows of its deliveries.
#[derive(Default)]
pub struct Consuming {
    /// The consumers that it has asked for, by tag: whether they need no acknowledgement.
    no_ack: BTreeMap<Vec<u8>, bool>,
    /// Those that it may cancel.
    running: Vec<Vec<u8>>,
    /// Consumers that the broker shall name, in order.
    nameless: VecDeque<bool>,
    named: u32,
    gets: VecDeque<bool>,
    /// Seen, and not settled.
    pub open: BTreeSet<u64>,
    /// Requests to give everything back that the broker has not answered: what comes before the answer is void.
    recovering: usize,
    last_tag: u64,
}

impl Client {
    /// One act of a consumer. False if there was nothing sensible to do.
    pub fn consumes(&mut self, number: u16, shadow: &mut Shadow, random: &mut Random) -> bool {
        let Some(channel) = self.channels.get_mut(&number) else {
            return false;
        };
        let id = (self.connection, number, channel.generation);
        let consuming = &mut channel.consuming;
        let settles = !consuming.open.is_empty() && consuming.recovering == 0;
        let bytes = match random.below(12) {
            0 if consuming.running.len() < 3 && self.publishes_left > 0 => consuming.consume(number, random),
            1 if !consuming.running.is_empty() && random.percent(20) => consuming.cancel(number, random),
            2 if self.publishes_left > 0 => consuming.get(number, random),
            3 if random.percent(20) => method(number, MethodId::BASIC_QOS, &[0, 0, 0, 0, 0, random.below(8) as u8, 0]),
            4 if settles && random.percent(20) => {
                consuming.recovering += 1;
                let mut bytes = Vec::new();
                encode::basic_recover(&mut bytes, number, true);
                self.say(id, &bytes, Word::Requeue, |_| true, shadow);
                return true;
            }
            5.. if settles => {
                self.settle(id, shadow, random);
                return true;
            }
            _ => return false,
        };
        self.write(&bytes);
        true
    }

    fn settle(&mut self, id: ChannelId, shadow: &mut Shadow, random: &mut Random) {
        let open = &self.channels[&id.1].consuming.open;
        let chosen = *open.iter().nth(random.below(open.len())).expect("one is open");
        let word = match random.below(10) {
            0 | 1 => Word::Requeue,
            2 | 3 => Word::Reject,
            _ => Word::Ack,
        };
        let multiple = random.percent(40);
        let all = multiple && random.percent(25);
        let delivery_tag = if all { 0 } else { chosen };
        let requeue = word == Word::Requeue;
        let mut bytes = Vec::new();
        if word == Word::Ack {
            encode::basic_ack(&mut bytes, id.1, Ack { delivery_tag, multiple });
        } else if multiple || random.percent(50) {
            let nack = Nack {
                delivery_tag,
                multiple,
                requeue,
            };
            encode::basic_nack(&mut bytes, id.1, nack);
        } else {
            encode::basic_reject(&mut bytes, id.1, Reject { delivery_tag, requeue });
        }
        if all {
            shadow.deliveries.say_all(id, word, self.channels[&id.1].consuming.last_tag);
        }
        let covers = |tag: u64| all || tag == chosen || (multiple && tag < chosen);
        self.say(id, &bytes, word, covers, shadow);
    }

    /// Settles what is open and meant.
    fn say(&mut self, id: ChannelId, bytes: &[u8], word: Word, covers: impl Fn(u64) -> bool, shadow: &mut Shadow) {
        self.write(bytes);
        let end = self.written;
        let Some(channel) = self.channels.get_mut(&id.1) else { return };
        let said: Vec<u64> = channel.consuming.open.iter().copied().filter(|tag| covers(*tag)).collect();
        for tag in said {
            channel.consuming.open.remove(&tag);
            shadow.deliveries.say(id, tag, word);
            self.words.push_back((end, id, tag));
        }
    }

    /// What the broker sends about deliveries. False if it is something else.
    pub fn delivered(&mut self, unit: &Unit, shadow: &mut Shadow) -> bool {
        let Some(channel) = self.channels.get_mut(&unit.channel) else {
            return false;
        };
        let id = (self.connection, unit.channel, channel.generation);
        let consuming = &mut channel.consuming;
        match unit.method {
            MethodId::BASIC_DELIVER => {
                let deliver = Deliver::decode(unit.payload()).expect("a delivery");
                let no_ack = *consuming.no_ack.get(deliver.consumer_tag).expect("a consumer of its own");
                consuming.got(id, deliver.delivery_tag, no_ack, unit, shadow);
            }
            MethodId::BASIC_GET_OK => {
                let get = basic::GetOk::decode(unit.payload()).expect("a get-ok");
                let no_ack = consuming.gets.pop_front().expect("an answer to a get");
                consuming.got(id, get.delivery_tag, no_ack, unit, shadow);
            }
            MethodId::BASIC_GET_EMPTY => {
                consuming.gets.pop_front().expect("an answer to a get");
            }
            MethodId::BASIC_CONSUME_OK => {
                let ok = basic::ConsumeOk::decode(unit.payload()).expect("a consume-ok");
                if ok.consumer_tag.starts_with(b"amq.") {
                    let no_ack = consuming.nameless.pop_front().expect("a consumer without a name");
                    consuming.no_ack.insert(ok.consumer_tag.to_vec(), no_ack);
                    consuming.running.push(ok.consumer_tag.to_vec());
                }
            }
            MethodId::BASIC_RECOVER_OK => consuming.recovering -= 1,
            MethodId::BASIC_CANCEL_OK | MethodId::BASIC_QOS_OK => {}
            _ => return false,
        }
        true
    }
}

impl Consuming {
    fn consume(&mut self, number: u16, random: &mut Random) -> Vec<u8> {
        let no_ack = random.percent(15);
        let nameless = random.percent(30);
        let nowait = !nameless && random.percent(30);
        let mut tag = Vec::new();
        if nameless {
            self.nameless.push_back(no_ack);
        } else {
            self.named += 1;
            tag = format!("c{}", self.named).into_bytes();
            self.no_ack.insert(tag.clone(), no_ack);
            self.running.push(tag.clone());
        }
        let bits = u8::from(no_ack) << 1 | u8::from(nowait) << 3;
        let arguments = [&[0, 0][..], &short(b"q"), &short(&tag), &[bits], &[0; 4]].concat();
        method(number, MethodId::BASIC_CONSUME, &arguments)
    }

    fn cancel(&mut self, number: u16, random: &mut Random) -> Vec<u8> {
        let tag = self.running.swap_remove(random.below(self.running.len()));
        let nowait = !self.no_ack[&tag] && random.percent(50);
        method(number, MethodId::BASIC_CANCEL, &[&short(&tag)[..], &[u8::from(nowait)]].concat())
    }

    fn get(&mut self, number: u16, random: &mut Random) -> Vec<u8> {
        let no_ack = random.percent(30);
        self.gets.push_back(no_ack);
        let arguments = [&[0, 0][..], &short(b"q"), &[u8::from(no_ack)]].concat();
        method(number, MethodId::BASIC_GET, &arguments)
    }

    fn got(&mut self, id: ChannelId, tag: u64, no_ack: bool, unit: &Unit, shadow: &mut Shadow) {
        let index = shadow.deliveries.see(id, tag);
        assert!(self.last_tag < tag, "delivery tag {tag} came after {}", self.last_tag);
        self.last_tag = tag;
        let content = on_channel(content_of(&shadow.messages[index].bytes), id.1);
        assert_eq!(unit.content(), content, "m{index} was changed on its way to the worker");
        if !no_ack && self.recovering == 0 {
            self.open.insert(tag);
        }
    }
}
