//! What falls due on a channel: leases and locks to renew, questions to repeat, waits that end. A wake costs what is due, not what is open.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use super::channel::Channel;
use super::publish::{Wait, Waiting};
use super::{Shared, Ticket};

/// Where the message is that something is due for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// At this position of the queue.
    Queue(u64),
    /// Kept, under this ticket.
    Kept(Ticket),
    /// At this position among those that go once the content on its way to the broker has ended.
    AfterPublish(u64),
    /// At the broker, under this confirm number.
    Sent(u64),
    /// Among what the broker has sent and the client has not, at this position.
    Arrival(u64),
    /// With the client, under this delivery tag.
    Delivered(u64),
    /// Held, under this number.
    Held(u64),
    /// A duplicate whose copy is on its way, under this ticket.
    DeadLetter(Ticket),
    /// The windows at the broker.
    Windows,
}

/// The places of one channel by the time when something is due there, in monotonic microseconds.
///
/// Nothing is taken out when a publish moves on: an entry counts only while the publish at its place says the same time.
#[derive(Debug, Default)]
pub(super) struct Agenda(BinaryHeap<Reverse<(u64, Place)>>);

impl Agenda {
    /// So many entries that do not count any more are not worth looking for.
    const SLACK: usize = 64;

    fn first(&self) -> Option<(u64, Place)> {
        self.0.peek().map(|Reverse(entry)| *entry)
    }

    /// How many entries take memory.
    #[cfg(test)]
    pub fn remembered(&self) -> usize {
        self.0.len()
    }
}

impl Channel {
    /// When something is due at this place.
    fn due_us(&self, place: Place) -> Option<u64> {
        match place {
            Place::Queue(position) => match self.queue.get(position)? {
                Waiting::Publish { wait, publish, .. } => wait.due_us(publish),
                Waiting::Close { until_us, .. } | Waiting::Transaction { until_us, .. } => Some(*until_us),
                Waiting::Passing { .. } | Waiting::Frames(_) | Waiting::Gone => None,
            },
            Place::Kept(ticket) => {
                let kept = self.kept.get(&ticket)?;
                kept.wait.due_us(&kept.publish)
            }
            Place::AfterPublish(position) => Wait::Turn.due_us(self.after_publish.get(position)?),
            Place::Sent(tag) => self.ledger.grant(tag)?.renewal_us(),
            Place::Arrival(position) => self.arrivals.get(position)?.due_us(),
            Place::Delivered(tag) => self.deliveries.hold(tag)?.renewal_us(),
            Place::Held(number) => self.held.due_us(number),
            Place::DeadLetter(ticket) => self.dead_letters.get(&ticket).map(|waiting| waiting.until_us),
            Place::Windows => self.windows.due_us(),
        }
    }

    /// Notes when something is due at this place, if anything ever is.
    pub(super) fn schedule(&mut self, shared: &mut Shared, place: Place) {
        let Some(us) = self.due_us(place) else { return };
        shared.wake_at(us);
        let to_broker = self.queue.len() + self.kept.len() + self.dead_letters.len() + self.after_publish.len() + self.ledger.open_grants();
        let live = to_broker + self.arrivals.len() + self.held.len() + self.deliveries.unsettled();
        if self.agenda.0.len() > 2 * live + Agenda::SLACK {
            let mut agenda = std::mem::take(&mut self.agenda);
            agenda.0.retain(|Reverse((us, place))| self.due_us(*place) == Some(*us));
            self.agenda = agenda;
        }
        self.agenda.0.push(Reverse((us, place)));
    }

    /// Does what is due.
    pub(super) fn handle_due(&mut self, shared: &mut Shared) {
        while let Some((us, place)) = self.agenda.first() {
            let counts = self.due_us(place) == Some(us);
            if counts && us > shared.now.us {
                return shared.wake_at(us);
            }
            self.agenda.0.pop();
            if counts {
                self.on_due(shared, place);
                // What has reached its end goes with its turn.
                if self.due_us(place).is_some_and(|us| us > shared.now.us) {
                    self.schedule(shared, place);
                }
            }
        }
        // An idle channel holds no memory.
        self.agenda = Agenda::default();
    }

    fn on_due(&mut self, shared: &mut Shared, place: Place) {
        match place {
            Place::Queue(position) => {
                if let Some(Waiting::Publish { ticket, wait, publish }) = self.queue.at(position) {
                    shared.wait_is_due(*ticket, wait, publish);
                }
            }
            Place::Kept(ticket) => self.kept_is_due(shared, ticket),
            Place::AfterPublish(position) => {
                if let Some(publish) = self.after_publish.at(position) {
                    shared.wait_is_due(None, &mut Wait::Turn, publish);
                }
            }
            Place::Sent(tag) => {
                if let Some(grant) = self.ledger.grant_mut(tag) {
                    shared.renew(grant);
                }
            }
            Place::Arrival(position) => self.arrival_is_due(shared, position),
            Place::Delivered(tag) => {
                if let Some(hold) = self.deliveries.hold_mut(tag) {
                    let worker = Arc::clone(&shared.worker);
                    shared.renew_hold(hold, &worker);
                }
            }
            Place::Held(number) => self.held_is_due(shared, number),
            Place::DeadLetter(ticket) => self.dead_letter_is_late(shared, ticket),
            Place::Windows => self.windows_change(shared),
        }
    }
}
