//! The broker: queues, consumers, confirms, and what becomes of messages when connections end.

use std::collections::{BTreeMap, VecDeque};

use oncegate::amqp::content::ContentHeader;
use oncegate::amqp::encode;
use oncegate::amqp::frame::{self, Split};
use oncegate::amqp::method::basic::{self, Ack, Nack, Publish, Reject};
use oncegate::amqp::method::{MethodId, queue};

use crate::deliver::deliver;
use crate::facts::Facts;
use crate::link::Order;
use crate::wire::{Reader, Unit, content_of, method, short};
use crate::world::World;

/// A message in a queue or with a consumer.
pub struct Copy {
    pub task: usize,
    pub queue: String,
    /// Its frames, on any channel.
    pub content: Vec<u8>,
    pub redelivered: bool,
    pub expires_ms: u64,
}

struct Consumer {
    queue: String,
    tag: Vec<u8>,
    prefetch: u16,
}

#[derive(Default)]
pub struct AtChannel {
    prefetch: u16,
    consumers: Vec<Consumer>,
    next_tag: u64,
    pub unacked: BTreeMap<u64, Copy>,
    /// The consumer that each was delivered to.
    consumed: BTreeMap<u64, Vec<u8>>,
    confirms: bool,
    next_confirm: u64,
    /// Numbers to be confirmed.
    unconfirmed: VecDeque<u64>,
}

/// The broker's end of a connection.
pub struct AtBroker {
    pub open: bool,
    pub reader: Reader,
    pub channels: BTreeMap<u16, AtChannel>,
}

impl Default for AtBroker {
    fn default() -> AtBroker {
        AtBroker {
            open: true,
            reader: Reader::default(),
            channels: BTreeMap::new(),
        }
    }
}

/// The queues, each with what is ready in it.
pub type Queues = BTreeMap<String, VecDeque<Copy>>;

/// The header of a content.
pub fn header_of(content: &[u8]) -> ContentHeader<'_> {
    match frame::split(content, usize::MAX) {
        Split::Frame(frame) => ContentHeader::decode(frame.payload).expect("a content header"),
        other => panic!("a content begins with its header: {other:?}"),
    }
}

impl World {
    fn says(&mut self, at: usize, bytes: &[u8]) {
        if let Some(link) = self.links.get_mut(&at) {
            link.from_broker.put(bytes, self.now);
        }
    }

    fn at_channel(&mut self, at: usize, number: u16) -> &mut AtChannel {
        let link = self.links.get_mut(&at).expect("it is open");
        link.broker.channels.entry(number).or_default()
    }

    pub fn broker_reads(&mut self, at: usize, unit: &Unit) {
        let (number, payload) = (unit.channel, unit.payload());
        let mut out = Vec::new();
        match unit.method {
            MethodId::CONNECTION_CLOSE => {
                encode::connection_close_ok(&mut out);
                self.says(at, &out);
                self.broker_loses(at);
                return;
            }
            MethodId::CONNECTION_CLOSE_OK => return self.broker_loses(at),
            MethodId::CHANNEL_OPEN => {
                self.at_channel(at, number);
                out = method(number, MethodId::CHANNEL_OPEN_OK, &[0; 4]);
            }
            MethodId::CHANNEL_CLOSE => {
                let channel = std::mem::take(self.at_channel(at, number));
                self.requeue_all(channel);
                encode::channel_close_ok(&mut out, number);
            }
            MethodId::CONFIRM_SELECT => {
                let nowait = payload.last().is_some_and(|bits| bits & 1 == 1);
                let channel = self.at_channel(at, number);
                channel.confirms = true;
                if !nowait {
                    encode::confirm_select_ok(&mut out, number);
                }
            }
            MethodId::QUEUE_DECLARE => {
                let declare = queue::Declare::decode(payload).expect("a declare");
                let arguments = [&short(declare.queue)[..], &[0; 8]].concat();
                out = method(number, MethodId::QUEUE_DECLARE_OK, &arguments);
            }
            MethodId::QUEUE_PURGE => {
                let purge = queue::Purge::decode(payload).expect("a purge");
                self.purge(&String::from_utf8_lossy(purge.queue));
                out = method(number, MethodId::QUEUE_PURGE_OK, &[0; 4]);
            }
            MethodId::BASIC_QOS => {
                self.at_channel(at, number).prefetch = basic::Qos::decode(payload).expect("a qos").prefetch_count;
                out = method(number, MethodId::BASIC_QOS_OK, &[]);
            }
            MethodId::BASIC_CONSUME => {
                let consume = basic::Consume::decode(payload).expect("a consume");
                let channel = self.at_channel(at, number);
                channel.consumers.push(Consumer {
                    queue: String::from_utf8_lossy(consume.queue).into_owned(),
                    tag: consume.consumer_tag.to_vec(),
                    prefetch: channel.prefetch,
                });
                if !consume.nowait {
                    out = method(number, MethodId::BASIC_CONSUME_OK, &short(consume.consumer_tag));
                }
            }
            MethodId::BASIC_CANCEL => {
                let cancel = basic::Cancel::decode(payload).expect("a cancel");
                let channel = self.at_channel(at, number);
                channel.consumers.retain(|consumer| consumer.tag != cancel.consumer_tag);
                if !cancel.nowait {
                    out = method(number, MethodId::BASIC_CANCEL_OK, &short(cancel.consumer_tag));
                }
            }
            MethodId::BASIC_PUBLISH => self.published(at, unit),
            MethodId::BASIC_ACK => {
                let Ack { delivery_tag, multiple } = Ack::decode(payload).expect("an ack");
                self.settled(at, number, delivery_tag, multiple, false);
            }
            MethodId::BASIC_NACK => {
                let nack = Nack::decode(payload).expect("a nack");
                self.settled(at, number, nack.delivery_tag, nack.multiple, nack.requeue);
            }
            MethodId::BASIC_REJECT => {
                let reject = Reject::decode(payload).expect("a reject");
                self.settled(at, number, reject.delivery_tag, false, reject.requeue);
            }
            other => panic!("{other} is not sent in this simulation"),
        }
        self.says(at, &out);
    }

    fn published(&mut self, at: usize, unit: &Unit) {
        let publish = Publish::decode(unit.payload()).expect("a publish");
        let queue = String::from_utf8_lossy(publish.routing_key).into_owned();
        let channel = self.at_channel(at, unit.channel);
        if channel.confirms {
            channel.next_confirm += 1;
            let number = channel.next_confirm;
            channel.unconfirmed.push_back(number);
        }
        let content = content_of(&unit.raw).to_vec();
        let header = header_of(&content);
        let expiration = header.properties.expiration.map(|ms| String::from_utf8_lossy(ms).parse::<u64>());
        let expires_ms = match expiration {
            Some(ms) => self.now.unix_ms + ms.expect("a number"),
            None => u64::MAX,
        };
        let task = Facts::index(unit.id.as_deref().expect("every message has an id"));
        if self.links.get(&at).is_some_and(|link| link.given_up.contains(&task)) {
            self.facts.fail(task, format!("comes to the broker (link {at}), and was given up"));
        }
        self.written(at, task);
        self.facts.tasks[task].reached = true;
        self.comes_to_broker(task);
        self.facts.note(task, format!("is in queue {queue} (link {at})"));
        let copy = Copy {
            task,
            queue: queue.clone(),
            content,
            redelivered: false,
            expires_ms,
        };
        self.queues.entry(queue).or_default().push_back(copy);
    }

    fn settled(&mut self, at: usize, number: u16, tag: u64, multiple: bool, requeue: bool) {
        let unacked = &mut self.at_channel(at, number).unacked;
        let tags: Vec<u64> = if multiple {
            unacked.range(..=tag).map(|(tag, _)| *tag).collect()
        } else {
            vec![tag]
        };
        for tag in tags.into_iter().rev() {
            let copy = self.at_channel(at, number).unacked.remove(&tag);
            let copy = copy.unwrap_or_else(|| panic!("link {at}: {tag} is settled and not out"));
            let link = self.links.get_mut(&at).expect("it is open");
            let acked = link.acked.entry(copy.task).or_default();
            let given_back = link.given_back.entry(copy.task).or_default();
            if requeue {
                *given_back = given_back.saturating_sub(1);
                self.requeue(copy);
                continue;
            }
            let facts = &self.facts.tasks[copy.task];
            if *acked < 1 && *given_back > 0 && !facts.doubled && !facts.republished {
                self.facts.fail(copy.task, "is settled for good, and its worker has given it back");
            }
            *acked = acked.saturating_sub(1);
            self.facts.note(copy.task, format!("settled (link {at}, {tag})"));
        }
    }

    fn requeue(&mut self, copy: Copy) {
        self.facts.note(copy.task, format!("is back in queue {}", copy.queue));
        self.goes_back(copy.task);
        let runs = self.is_running(copy.task) || self.has_copy(copy.task);
        let task = &mut self.facts.tasks[copy.task];
        task.came_ms = self.now.unix_ms;
        // What runs, or has come to its end, runs again.
        task.doubled |= runs || task.ended > 0;
        let copy = Copy { redelivered: true, ..copy };
        self.queues.entry(copy.queue.clone()).or_default().push_front(copy);
    }

    /// The connection ends: what is out goes back to its queue.
    pub fn broker_loses(&mut self, at: usize) {
        let Some(link) = self.links.get_mut(&at).filter(|link| link.broker.open) else {
            return;
        };
        link.broker.open = false;
        link.from_broker.end(self.now);
        let channels = std::mem::take(&mut link.broker.channels);
        for channel in channels.into_values() {
            self.requeue_all(channel);
        }
    }

    fn requeue_all(&mut self, channel: AtChannel) {
        for copy in channel.unacked.into_values().rev() {
            self.requeue(copy);
        }
    }

    /// Drops what lies in a queue.
    fn purge(&mut self, queue: &str) {
        self.facts.note_all(format!("{queue} is purged"));
        for copy in self.queues.get_mut(queue).map(std::mem::take).unwrap_or_default() {
            self.facts.tasks[copy.task].purged = true;
            self.facts.note(copy.task, "is purged");
        }
    }

    /// Drops what has expired at the head of each queue.
    pub fn expire(&mut self) {
        for queue in self.queues.values_mut() {
            while queue.front().is_some_and(|copy| copy.expires_ms <= self.now.unix_ms)
                && let Some(copy) = queue.pop_front()
            {
                self.facts.tasks[copy.task].expired = true;
                self.facts.note(copy.task, "expires in its queue");
            }
        }
    }

    pub fn has_confirms(&self, at: usize) -> bool {
        let channels = self.links[&at].broker.channels.values();
        self.links[&at].broker.open && channels.into_iter().any(|channel| !channel.unconfirmed.is_empty())
    }

    /// Confirms the oldest publishes of a connection.
    pub fn confirm(&mut self, at: usize) {
        let multiple = self.random.percent(30);
        let mut out = Vec::new();
        let Some(link) = self.links.get_mut(&at) else { return };
        for (number, channel) in &mut link.broker.channels {
            let mut tag = channel.unconfirmed.pop_front();
            if multiple && !channel.unconfirmed.is_empty() {
                tag = channel.unconfirmed.drain(..).next_back();
            }
            if let Some(delivery_tag) = tag {
                encode::basic_ack(&mut out, *number, Ack { delivery_tag, multiple });
            }
        }
        self.says(at, &out);
    }

    /// Each consumer with room whose queue is not empty: its connection, channel and place.
    pub fn takers(&self) -> Vec<(usize, u16, usize)> {
        let mut takers = Vec::new();
        for (at, link) in self.links.iter().filter(|(_, link)| link.broker.open) {
            for (number, channel) in &link.broker.channels {
                for (index, consumer) in channel.consumers.iter().enumerate() {
                    let out = channel
                        .consumed
                        .iter()
                        .filter(|(tag, to)| **to == consumer.tag && channel.unacked.contains_key(tag));
                    let out = out.count();
                    let ready = self.queues.get(&consumer.queue).is_some_and(|queue| !queue.is_empty());
                    if ready && out < usize::from(consumer.prefetch) {
                        takers.push((*at, *number, index));
                    }
                }
            }
        }
        takers
    }

    pub fn deliver(&mut self, (at, number, index): (usize, u16, usize)) {
        let link = self.links.get_mut(&at).expect("it was found");
        let channel = link.broker.channels.get_mut(&number).expect("it was found");
        let consumer = &channel.consumers[index];
        let Some(copy) = self.queues.get_mut(&consumer.queue).and_then(VecDeque::pop_front) else {
            return;
        };
        channel.next_tag += 1;
        let tag = channel.next_tag;
        let out = deliver(number, &consumer.tag, tag, copy.redelivered, copy.queue.as_bytes(), &copy.content);
        let (task, again) = (copy.task, if copy.redelivered { " again" } else { "" });
        let to = consumer.tag.clone();
        channel.consumed.insert(tag, to);
        channel.consumed.retain(|tag, _| channel.unacked.contains_key(tag));
        channel.unacked.insert(tag, copy);
        self.facts.tasks[task].delivered = true;
        self.facts.note(task, format!("is delivered{again} (link {at}, {tag})"));
        self.says(at, &out);
    }

    /// Whether a message of this task is where a worker may still get it from, or has it and has not acknowledged it.
    pub fn is_at_broker(&self, task: usize) -> bool {
        let ready = self.queues.values().flatten().any(|copy| copy.task == task);
        ready || self.is_delayed(task) || self.is_with_worker(task)
    }

    /// Whether a message of this task is delivered, and not acknowledged by its worker.
    fn is_with_worker(&self, task: usize) -> bool {
        self.links.values().any(|link| {
            let channel = link.broker.channels.get(&1);
            let unacked = channel.into_iter().flat_map(|channel| channel.unacked.values());
            let acked = link.acked.get(&task).copied().unwrap_or(0);
            unacked.filter(|copy| copy.task == task).count() > acked
        })
    }

    /// Whether a publish of this task is on its way to the broker.
    pub fn is_on_its_way(&self, task: usize) -> bool {
        let mut links = self.links.values().filter(|link| link.broker.open);
        links.any(|link| link.writing.contains(&task))
    }

    /// What was to be told of tasks through this connection is lost.
    pub fn forget_orders(&mut self, at: usize) {
        let Some(link) = self.links.get_mut(&at) else { return };
        for (_, order) in std::mem::take(&mut link.orders) {
            let (Order::Ask(_, request) | Order::Tell(request)) = order;
            self.lost(&request);
        }
    }
}
