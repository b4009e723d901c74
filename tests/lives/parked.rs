//! Messages that proxies publish anew by an account of their own: they wait in a delay queue, and come back into the queue that they came from.
//!
//! The broker may have such a message before the proxy hears so, or without its ever hearing, and the connection of the original may end in between.

use std::collections::VecDeque;

use oncegate::amqp::frame;
use oncegate::session::{Republish, RepublishFault, Target, Ticket};

use crate::broker::{Copy, header_of};
use crate::facts::Facts;
use crate::link::Link;
use crate::plan::Parking;
use crate::world::World;

/// A message that a session wants published.
enum Step {
    Wanted(Republish),
    Ends(Result<(), RepublishFault>),
}

/// What a session wants published, in its order, with the time of each.
#[derive(Default)]
pub struct Republishes(VecDeque<(u64, u64, Step)>);

impl Republishes {
    pub fn wants(&mut self, us: u64, ticket: Ticket, republish: Republish) {
        self.0.push_back((us, ticket.0, Step::Wanted(republish)));
    }

    /// Since when the first of them waits, in microseconds.
    pub fn since_us(&self) -> Option<u64> {
        self.0.front().map(|(us, ..)| *us)
    }
}

/// The messages in delay queues, with the time at which each comes back, in milliseconds.
pub type Delayed = Vec<(u64, Copy)>;

/// The types of the frames of a content.
const HEADER: u8 = 2;
const BODY: u8 = 3;

fn put_frame(out: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    out.push(kind);
    out.extend_from_slice(&1_u16.to_be_bytes());
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    out.extend_from_slice(payload);
    out.push(frame::END);
}

/// The longest of the times that delay queues have, in milliseconds.
fn level(wait_ms: u64) -> u64 {
    1_000 << (wait_ms / 1_000).max(1).ilog2()
}

impl World {
    /// The account of a proxy takes its next step for this connection.
    pub fn republish(&mut self, at: usize) {
        let Some((since_us, ticket, step)) = self.links.get_mut(&at).and_then(|link| link.republishes.0.pop_front()) else {
            return;
        };
        let outcome = match step {
            Step::Ends(outcome) => outcome,
            Step::Wanted(_) if self.plan.parking == Parking::Never => Err(RepublishFault::NotAvailable),
            Step::Wanted(republish) => {
                let fails = self.plan.parking == Parking::Fails;
                let outcome = match self.random.below(if fails { 6 } else { 1 }) {
                    4 => Err(RepublishFault::Unknown),
                    5 => Err(RepublishFault::Nacked),
                    _ => Ok(()),
                };
                if outcome.is_ok() {
                    self.is_parked(republish);
                } else if outcome == Err(RepublishFault::Unknown) && self.random.percent(50) {
                    let task = self.is_parked(republish);
                    self.facts.tasks[task].doubled = true;
                }
                if let Some(link) = self.links.get_mut(&at) {
                    link.republishes.0.push_front((since_us, ticket, Step::Ends(outcome)));
                }
                return;
            }
        };
        let now = self.now;
        if let Some(link) = self.links.get_mut(&at) {
            link.session.handle_republished(Ticket(ticket), outcome, now);
        }
        self.collect(at);
    }

    fn is_parked(&mut self, republish: Republish) -> usize {
        let Target::Delay { queue, wait_ms, .. } = republish.target else {
            panic!("{:?} is not published in this simulation", republish.target)
        };
        let mut content = Vec::new();
        put_frame(&mut content, HEADER, &republish.header);
        put_frame(&mut content, BODY, &republish.body);
        let header = header_of(&content);
        let text = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
        let task = Facts::index(&text(header.properties.correlation_id.expect("every message has an id")));
        let left_ms = header.properties.expiration.map(|ms| text(ms).parse().expect("a number"));
        // What expires there comes back, too, and has no such time any more.
        let stays_ms = level(wait_ms).min(left_ms.unwrap_or(u64::MAX));
        self.facts.note(task, format!("is parked for {stays_ms} ms"));
        let copy = Copy {
            task,
            queue: queue.to_string(),
            content,
            redelivered: false,
            expires_ms: u64::MAX,
        };
        self.delayed.push((self.now.unix_ms + stays_ms, copy));
        task
    }

    /// What has been away for long enough comes back.
    pub fn come_back(&mut self) {
        let now_ms = self.now.unix_ms;
        while let Some(index) = self.delayed.iter().position(|(due_ms, _)| *due_ms <= now_ms) {
            let (_, copy) = self.delayed.swap_remove(index);
            self.facts.note(copy.task, format!("comes back into queue {}", copy.queue));
            self.queues.entry(copy.queue.clone()).or_default().push_back(copy);
        }
    }

    /// Whether the broker has another message of a task of which one goes back: a copy of it, perhaps.
    pub fn has_copy(&self, task: usize) -> bool {
        self.plan.parking != Parking::Never && self.is_at_broker(task)
    }

    /// Whether a message of this task is in a delay queue.
    pub fn is_delayed(&self, task: usize) -> bool {
        self.delayed.iter().any(|(_, copy)| copy.task == task)
    }
}

impl Link {
    pub fn has_republishes(&self) -> bool {
        !self.republishes.0.is_empty()
    }
}
