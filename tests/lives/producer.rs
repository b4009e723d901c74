//! Those who publish: producers that wait for confirms or do not, and publish again what was not confirmed.

use std::collections::BTreeMap;

use oncegate::amqp::encode;
use oncegate::amqp::method::MethodId;
use oncegate::amqp::method::basic::{Ack, Nack};
use oncegate::amqp::table::FieldValue;

use crate::link::Owner;
use crate::wire::{TaskMessage, Unit, method, publish, short};
use crate::world::World;

/// How often a publish is tried.
const TRIES: u32 = 3;

pub struct Producer {
    link: Option<usize>,
    confirms: bool,
    pub next_us: u64,
    sent: u64,
    /// What waits for its confirm, by number, and how often it was sent.
    waiting: BTreeMap<u64, (usize, u32)>,
    /// What is to be sent again.
    again: Vec<(usize, u32)>,
}

impl Producer {
    pub fn new(confirms: bool) -> Producer {
        Producer {
            link: None,
            confirms,
            next_us: 0,
            sent: 0,
            waiting: BTreeMap::new(),
            again: Vec::new(),
        }
    }
}

fn value(known: bool, text: &[u8]) -> FieldValue<'_> {
    if known { FieldValue::LongStr(text) } else { FieldValue::Void }
}

/// A time as Celery writes it.
fn iso(unix_ms: u64) -> String {
    // The clock of this simulation begins on 15 January 2027 at eight, and the month does not end.
    let seconds = (unix_ms - 1_800_000_000_000) / 1000 + 8 * 3600;
    let (days, hours, minutes) = (15 + seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    format!(
        "2027-01-{days:02}T{hours:02}:{minutes:02}:{:02}.{:03}000+00:00",
        seconds % 60,
        unix_ms % 1000
    )
}

impl World {
    /// Writes a publish of this task.
    pub fn publish(&mut self, at: usize, task: usize, retries: i32, eta_ms: Option<u64>) {
        let facts = &self.facts.tasks[task];
        let row = &self.plan.rows[facts.row];
        let body = format!(
            r#"[[{}], {{}}, {{"callbacks": null, "errbacks": null, "chain": null, "chord": null}}]"#,
            facts.key
        );
        let (eta, expires) = (eta_ms.map(iso), facts.expires_ms.map(iso));
        let text = |text: &'_ Option<String>| text.clone().unwrap_or_default().into_bytes();
        let (eta_text, expires_text) = (text(&eta), text(&expires));
        let headers = [
            ("retries", FieldValue::I32(retries)),
            ("eta", value(eta.is_some(), &eta_text)),
            ("expires", value(expires.is_some(), &expires_text)),
            ("group", value(facts.member, b"g")),
            // For the workers of this simulation, which read no dates.
            ("eta-ms", FieldValue::I64(eta_ms.unwrap_or(0) as i64)),
        ];
        let expiration = facts.expires_ms.map(|ms| ms.saturating_sub(self.now.unix_ms).to_string());
        let message = TaskMessage {
            task: &row.task,
            id: &facts.id,
            headers: &headers,
            expiration: expiration.as_deref(),
            body: body.as_bytes(),
        };
        let bytes = publish(1, &message, "", row.queue, false, 4096);
        let Some(link) = self.links.get_mut(&at) else { return };
        link.up.put(&bytes, self.now);
        link.writing.push(task);
        link.given_up.remove(&task);
        let lost = !link.broker.open;
        link.published.insert(task);
        self.facts.tasks[task].came_ms = self.now.unix_ms;
        self.facts.tasks[task].unconfirmed |= lost;
        self.facts.note(task, format!("publish written (link {at}, retries {retries})"));
    }

    /// A new connection with a channel to publish on.
    pub fn connect_to_publish(&mut self, owner: Owner, confirms: bool) -> usize {
        let at = self.connect(owner);
        let mut bytes = method(1, MethodId::CHANNEL_OPEN, &[0]);
        if confirms {
            encode::confirm_select(&mut bytes, 1, false);
        }
        if let Some(link) = self.links.get_mut(&at) {
            link.up.put(&bytes, self.now);
        }
        at
    }

    pub fn producer_is_ready(&self, index: usize) -> bool {
        let producer = &self.producers[index];
        self.now.us >= producer.next_us && (self.active() || !producer.again.is_empty())
    }

    pub fn producer_acts(&mut self, index: usize) {
        let confirms = self.producers[index].confirms;
        let at = match self.producers[index].link {
            Some(at) => at,
            None => self.connect_to_publish(Owner::Producer(index), confirms),
        };
        self.producers[index].link = Some(at);
        let (task, tries, eta_ms) = match self.producers[index].again.pop() {
            Some((task, tries)) => (task, tries, None),
            None => self.new_task(),
        };
        self.facts.tasks[task].republished |= tries > 0;
        self.publish(at, task, 0, eta_ms);
        let pause_us = 1_000 * (100 + self.random.next() % 2_500);
        let producer = &mut self.producers[index];
        producer.next_us = self.now.us + pause_us;
        if confirms {
            producer.sent += 1;
            producer.waiting.insert(producer.sent, (task, tries + 1));
        }
    }

    fn new_task(&mut self) -> (usize, u32, Option<u64>) {
        let row = self.random.below(self.plan.rows.len());
        let key = self.random.below(self.plan.keys);
        let expires = self.random.percent(self.plan.expires_percent);
        let expires_ms = expires.then(|| self.now.unix_ms + 2_000 + self.random.next() % 15_000);
        let eta = self.random.percent(10);
        let eta_ms = eta.then(|| self.now.unix_ms + self.random.next() % 8_000);
        let task = self.facts.add(row, key, expires_ms);
        self.facts.tasks[task].member = self.plan.rows[row].carries().0 && self.random.percent(80);
        (task, 0, eta_ms)
    }

    /// A producer goes without a word, and another comes.
    pub fn producer_vanishes(&mut self, index: usize) {
        let producer = &mut self.producers[index];
        if let Some(at) = producer.link.take() {
            producer.waiting.clear();
            producer.again.clear();
            producer.sent = 0;
            producer.confirms = self.random.percent(60);
            self.facts.note_all(format!("producer {index} goes (link {at})"));
            let all = self.random.percent(50);
            self.client_goes(at, all);
        }
    }

    pub fn producer_loses(&mut self, index: usize) {
        let producer = &mut self.producers[index];
        producer.link = None;
        producer.sent = 0;
        let waiting = std::mem::take(&mut producer.waiting);
        producer.again.extend(waiting.into_values().filter(|(_, tries)| *tries < TRIES));
    }

    /// A client asks for a purge.
    pub fn purge_through(&mut self, index: usize, queue: &str) {
        let Some(at) = self.producers[index].link else { return };
        let arguments = [&[0, 0][..], &short(queue.as_bytes()), &[0]].concat();
        if let Some(link) = self.links.get_mut(&at) {
            link.up.put(&method(1, MethodId::QUEUE_PURGE, &arguments), self.now);
        }
    }

    pub fn producer_reads(&mut self, index: usize, at: usize, unit: &Unit) {
        match unit.method {
            MethodId::BASIC_ACK => {
                let ack = Ack::decode(unit.payload()).expect("an ack");
                self.producer_hears(index, ack.delivery_tag, ack.multiple, true);
            }
            MethodId::BASIC_NACK => {
                let nack = Nack::decode(unit.payload()).expect("a nack");
                self.producer_hears(index, nack.delivery_tag, nack.multiple, false);
            }
            MethodId::CONNECTION_CLOSE => {
                let mut bytes = Vec::new();
                encode::connection_close_ok(&mut bytes);
                if let Some(link) = self.links.get_mut(&at) {
                    link.up.put(&bytes, self.now);
                    link.up.end(self.now);
                }
                self.client_loses(at);
            }
            _ => {}
        }
    }

    fn producer_hears(&mut self, index: usize, tag: u64, multiple: bool, ack: bool) {
        let producer = &mut self.producers[index];
        let mut heard = producer.waiting.split_off(&(tag + 1));
        std::mem::swap(&mut heard, &mut producer.waiting);
        if !multiple {
            let last = heard.remove(&tag).unwrap_or_else(|| panic!("{tag} is confirmed and does not wait"));
            producer.waiting.append(&mut heard);
            heard.insert(tag, last);
        }
        for (task, tries) in heard.into_values() {
            if ack {
                self.facts.tasks[task].confirmed = true;
                self.facts.note(task, "is confirmed to its producer");
            } else if tries < TRIES {
                self.producers[index].again.push((task, tries));
            }
        }
    }
}
