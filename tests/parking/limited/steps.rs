//! What happens, one thing at a time.

use std::collections::BTreeSet;

use oncegate::amqp::content::{Changes, ContentHeader, Property, rewrite};
use oncegate::amqp::frame::{self, Split};
use oncegate::amqp::method::MethodId;
use oncegate::amqp::method::basic::Deliver;
use oncegate::amqp::table::FieldValue;
use oncegate::rules::lock::Request;
use oncegate::rules::outcome::DeliveryDecision as D;
use oncegate::rules::spec::OnMaxWait;
use oncegate::session::{DeliveryEvent, Event, QueueKind, Republish, RepublishFault, StoreSilent, Target, Ticket};

use super::link::{Link, Message, Publishing, Run, headers_of};
use super::plan::{Course, task_of};
use super::{MOVES, Move, PROXIES, World};

impl World {
    pub(super) fn step(&mut self) {
        let at = self.random.below(self.links.len());
        let which = self.random.below(MOVES.len() + 1);
        if let Some(what) = MOVES.get(which) {
            self.moves(at, *what);
            return;
        }
        let silent = self.orders.front().is_some_and(|(proxy, ..)| self.silent_ms[*proxy] > 0);
        if !silent && let Some((_, link, order)) = self.orders.pop_front() {
            self.execute(link, &order);
        }
        if self.breaks_left > 0 && self.random.per_mille(30) {
            self.breaks_left -= 1;
            if self.random.percent(70) {
                self.break_link(at);
            } else {
                self.silent_ms[at % PROXIES] = self.now.unix_ms + 500 + self.random.next() % 12_000;
            }
        }
    }

    /// True if there was something to do.
    pub(super) fn moves(&mut self, at: usize, what: Move) -> bool {
        match what {
            Move::Deliver => self.deliver(at),
            Move::BrokerReads => self.broker_reads(at),
            Move::Serve => self.serve(at),
            Move::Answer => self.answer(at),
            Move::Publish => self.publish(at),
            Move::EndRun => self.end_run(at),
        }
    }

    fn deliver(&mut self, at: usize) -> bool {
        if !self.links[at].has_room() {
            return false;
        }
        let Some(message) = self.ready.pop_front() else { return false };
        self.model.comes(self.links[at].number, message.task, self.now.unix_ms);
        self.links[at].deliver(message, self.now);
        self.collect(at);
        true
    }

    fn broker_reads(&mut self, at: usize) -> bool {
        if !self.links[at].has_sent() {
            return false;
        }
        for message in self.links[at].broker_reads(self.now).into_iter().rev() {
            self.model.facts[message.task].returned += 1;
            let message = self.returned(message);
            self.ready.push_front(message);
        }
        self.collect(at);
        true
    }

    /// A message that goes back to its queue.
    fn returned(&self, message: Message) -> Message {
        let mut content = message.content;
        if self.plan.quorum {
            let Split::Frame(header) = frame::split(&content, usize::MAX) else {
                panic!("a content header")
            };
            let (payload, body) = (header.payload.to_vec(), content[header.raw.len()..].to_vec());
            let before = ContentHeader::decode(&payload).and_then(|header| header.properties.headers?.first(b"x-delivery-count")?.as_i64());
            let count = FieldValue::I64(before.unwrap_or(0) + 1);
            content = framed(&payload, &[(b"x-delivery-count", count)], |name| name == b"x-delivery-count");
            content.extend(body);
        }
        Message {
            content,
            redelivered: true,
            ..message
        }
    }

    /// The store does one thing that a connection wants of it.
    fn serve(&mut self, at: usize) -> bool {
        let (silent, number) = (self.silent_ms[at % PROXIES] > 0, self.links[at].number);
        if !silent && let Some(order) = self.links[at].tells.pop_front() {
            self.execute(number, &order);
            return true;
        }
        let Some((ticket, request)) = self.links[at].asks.pop_front() else {
            return false;
        };
        let lost = silent || self.plan.course == Course::Breaking && self.random.percent(3);
        if lost && let Request::FindParked { id, .. } | Request::MarkParked { id, .. } = &request {
            self.model.facts[task_of(id)].doubled = true;
        }
        let answer = if lost {
            if self.random.percent(if silent { 5 } else { 50 }) {
                self.execute(number, &request);
            }
            Err(StoreSilent::Timeout)
        } else {
            Ok(self.execute(number, &request))
        };
        self.links[at].answers.push_back((ticket, answer));
        true
    }

    fn answer(&mut self, at: usize) -> bool {
        let Some((ticket, answer)) = self.links[at].answers.pop_front() else {
            return false;
        };
        self.links[at].session.handle_answer(ticket, answer, self.now);
        self.collect(at);
        true
    }

    /// A copy is published, or the session hears of that.
    fn publish(&mut self, at: usize) -> bool {
        if self.links[at].publishing.is_empty() {
            return false;
        }
        let index = self.random.below(self.links[at].publishing.len());
        match self.links[at].publishing.swap_remove(index) {
            Publishing::Ended(ticket, outcome) => {
                self.links[at].session.handle_republished(ticket, outcome, self.now);
                self.collect(at);
            }
            Publishing::Asked(ticket, republish) => {
                let outcome = self.published(&republish);
                self.links[at].publishing.push(Publishing::Ended(ticket, outcome));
            }
        }
        true
    }

    fn published(&mut self, republish: &Republish) -> Result<(), RepublishFault> {
        let header = ContentHeader::decode(&republish.header).expect("a content header");
        let task = task_of(&String::from_utf8_lossy(header.properties.correlation_id.expect("an id")));
        let fails = self.plan.course == Course::Breaking && self.random.percent(15);
        let lost = fails && self.random.percent(50);
        if fails && !(lost && self.random.percent(50)) {
            let faults = [RepublishFault::Nacked, RepublishFault::Returned, RepublishFault::Full];
            let fault = faults[self.random.below(faults.len())];
            return Err(if lost { RepublishFault::Unknown } else { fault });
        }
        if let Target::Delay { queue, wait_ms, kind } = &republish.target {
            let expected = if self.plan.quorum { QueueKind::Quorum } else { QueueKind::Classic };
            assert_eq!((&**queue, *wait_ms >= 1_000, *kind), ("q", true, expected));
            // As a delay queue gives it back: with its way noted, and after a power of two of seconds, or later.
            let way = [(&b"x-death"[..], FieldValue::Void), (b"x-first-death-queue", FieldValue::Void)];
            let mut content = framed(&republish.header, &way, |_| false);
            content.extend(frame_of(3, &republish.body));
            let late_ms = match self.plan.course {
                Course::Prompt => 0,
                Course::Late | Course::Breaking => self.random.next() % 400,
            };
            let delay_ms = 1_000 * (1 << (wait_ms / 1_000).ilog2()) + late_ms;
            let copy = Message {
                task,
                content,
                redelivered: false,
            };
            self.delayed.push((self.now.unix_ms + delay_ms, copy));
        } else {
            let target = Target::Exchange {
                exchange: "".into(),
                routing_key: "buried".into(),
            };
            assert_eq!((&republish.target, self.plan.kind_of(task).task), (&target, "buried"));
        }
        if lost {
            self.model.facts[task].doubled = true;
            return Err(RepublishFault::Unknown);
        }
        Ok(())
    }

    /// A worker acknowledges what it has run; what is to be retried is published before.
    fn end_run(&mut self, at: usize) -> bool {
        let now_ms = self.now.unix_ms;
        let Some(index) = self.links[at].runs.iter().position(|run| run.end_ms <= now_ms) else {
            return false;
        };
        let run = self.links[at].runs.swap_remove(index);
        *self.model.facts[run.task].ended.entry(run.retries).or_default() += 1;
        if run.retries < self.plan.tasks[run.task].retries {
            let retry = self.message(run.task, run.retries + 1);
            self.ready.push_back(retry);
        }
        self.links[at].acknowledges(run.tag, self.now);
        self.collect(at);
        true
    }

    /// A worker's connection is lost, and it is connected anew. What it ran has stopped.
    fn break_link(&mut self, at: usize) {
        if self.random.percent(50) {
            self.broker_reads(at);
        }
        let (number, nonce) = (self.connections, self.random.next());
        self.connections += 1;
        let link = Link::new(&self.rules, (number, nonce), self.plan.workers[at], self.plan.quorum, self.now);
        let mut link = std::mem::replace(&mut self.links[at], link);
        let (orders, unacked) = link.breaks(self.now);
        let dead = link.number;
        for (_, request) in link.asks {
            if self.random.percent(50) {
                self.execute(dead, &request);
            }
        }
        self.orders.extend(orders.into_iter().map(|order| (at % PROXIES, dead, order)));
        for publishing in link.publishing {
            // It was handed in, and nobody hears what becomes of it.
            match publishing {
                Publishing::Asked(_, republish) if self.random.percent(50) => drop(self.published(&republish)),
                _ => {}
            }
        }
        for message in unacked.into_iter().rev() {
            self.model.facts[message.task].doubled = true;
            let message = self.returned(message);
            self.ready.push_front(message);
        }
    }

    /// Takes what a session gives out; what is for its client arrives.
    pub(super) fn collect(&mut self, at: usize) {
        let link = &mut self.links[at];
        link.sends();
        let (asks, tells) = link.session.questions();
        link.asks.extend(asks.drain(..).map(|(ticket, request)| (Ticket(ticket), request)));
        link.tells.extend(tells.drain(..));
        let cancelled: BTreeSet<Ticket> = link.session.cancelled().drain(..).collect();
        link.asks.retain(|(ticket, _)| !cancelled.contains(ticket));
        let wanted = link.session.republishes().drain(..);
        link.publishing
            .extend(wanted.map(|(ticket, wanted)| Publishing::Asked(ticket, wanted)));
        link.session.take_counts();
        let events: Vec<Event> = link.session.events().drain(..).collect();
        let mut bytes = Vec::new();
        link.session.swap_output(oncegate::session::Side::Client, &mut bytes);
        let units = link.at_client.feed(&bytes);
        for event in events {
            match event {
                Event::Admission(event) => self.decided(at, &event),
                Event::Unlimited { id, detail, .. } => panic!("{id} is not limited: {detail}"),
                _ => {}
            }
        }
        for unit in units {
            if matches!(unit.method, MethodId::BASIC_QOS_OK | MethodId::BASIC_CONSUME_OK) {
                continue;
            }
            assert_eq!(unit.method, MethodId::BASIC_DELIVER);
            let deliver = Deliver::decode(unit.payload()).expect("a delivery");
            assert_eq!(deliver.consumer_tag, b"c");
            let id = unit.id.as_deref().expect("every message has an id");
            self.begins(at, deliver.delivery_tag, task_of(id), unit.content());
        }
    }

    fn decided(&mut self, at: usize, event: &DeliveryEvent) {
        let task = task_of(&event.id);
        if event.decision == D::Parked {
            self.model.leaves(&self.plan, self.links[at].number, task, self.now.unix_ms);
        }
        let kind = self.plan.kind_of(task);
        let breaks = self.plan.course == Course::Breaking;
        match (event.decision, event.reason) {
            (D::Parked, _) => self.model.facts[task].parked += 1,
            (D::Dropped | D::DeadLettered, "max_wait") => {
                let then = kind.counted(0).find_map(|(.., limit)| Some(limit.max_wait?.1));
                let buries = event.decision == D::DeadLettered;
                let right = match then {
                    Some(OnMaxWait::Drop) => !buries,
                    Some(OnMaxWait::DeadLetter) => buries || breaks,
                    _ => false,
                };
                assert!(right, "t{task} was given up: {:?}", event.decision);
                self.model.too_late(&self.plan, task, self.now.unix_ms);
            }
            (D::Forwarded | D::Held, _) => {}
            // Another copy of it runs, or ran; or nobody was there to ask about its key, and its limits have permitted it.
            (D::Dropped, "parked" | "succeeded") | (D::ForwardedUnchecked, _) if breaks => {}
            (decision, reason) => panic!("t{task}: {decision:?} {reason}"),
        }
    }

    /// A worker begins a task.
    fn begins(&mut self, at: usize, tag: u64, task: usize, content: &[u8]) {
        let (retries, names) = headers_of(content);
        let trace = names.iter().find(|name| name.starts_with("x-") && *name != "x-delivery-count");
        assert_eq!(trace, None, "a worker sees that t{task} was parked");
        let running: Vec<usize> = self.links.iter().flat_map(|link| &link.runs).map(|run| run.task).collect();
        let number = self.links[at].number;
        self.model.begins(&self.plan, number, (task, retries), &running, self.now.unix_ms);
        let end_ms = self.now.unix_ms + self.plan.tasks[task].runs_ms;
        self.links[at].runs.push(Run {
            tag,
            task,
            retries,
            end_ms,
        });
    }
}

/// A content header with these headers beside its own, as a frame.
fn framed(header: &[u8], sets: &[(&[u8], FieldValue<'_>)], drops: fn(&[u8]) -> bool) -> Vec<u8> {
    let changes = Changes {
        drops,
        sets,
        expiration: Property::Keep,
        user_id: Property::Keep,
    };
    frame_of(2, &rewrite(header, &changes).expect("it can be read"))
}

fn frame_of(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&[kind, 0, 1], &length[..], payload, &[frame::END]].concat()
}
