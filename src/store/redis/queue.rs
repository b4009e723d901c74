//! What waits to be sent to Redis, in the order of its coming.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::rules::lock::Request;
use crate::store::{GivenUp, Observer, Replies, Ticket, Waiter};

/// How many orders are kept.
pub(super) const ORDERS_KEPT: usize = 100_000;
/// An order whose request does not tell how long it matters is kept this long.
const ORDER_LIFE: Duration = Duration::from_secs(24 * 3_600);
/// No order is kept longer, whatever it says.
const LONGEST_ORDER_LIFE: Duration = Duration::from_secs(400 * 24 * 3_600);

/// A lock is renewed at least so often, and again when the store is back.
const LONGEST_RENEWAL: Duration = Duration::from_secs(30);

/// Who waits for an answer.
pub(super) enum Asker {
    Session {
        ticket: Ticket,
        request: Request,
        reply_to: Replies,
    },
    Keeper(Box<Waiter>),
}

impl Asker {
    pub(super) fn request(&self) -> &Request {
        match self {
            Asker::Session { request, .. } => request,
            Asker::Keeper(waiter) => &waiter.request,
        }
    }
}

/// A question. It is answered at its deadline at the latest.
pub(super) struct Question {
    pub(super) asker: Asker,
    pub(super) asked: Instant,
}

/// An order. It is given until it is done.
pub(super) struct Order {
    pub(super) request: Request,
    /// When it has become pointless.
    until: Instant,
}

/// Either, with its place in the order of coming.
pub(super) enum Entry {
    /// `None` once it was answered with a timeout.
    Question(u64, Option<Question>),
    Order(u64, Order),
}

/// Questions and orders apart, so that old questions are found at once behind however many orders; merged by their numbers.
#[derive(Default)]
pub(super) struct Queue {
    questions: VecDeque<(u64, Question)>,
    orders: VecDeque<(u64, Order)>,
    next: u64,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.questions.is_empty() && self.orders.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.questions.len() + self.orders.len()
    }

    pub(super) fn orders(&self) -> usize {
        self.orders.len()
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn ask(&mut self, asker: Asker, now: Instant) {
        let number = self.number();
        self.questions.push_back((number, Question { asker, asked: now }));
    }

    pub(super) fn tell(&mut self, request: Request, now: Instant, observer: &Arc<dyn Observer>) {
        let life = match &request {
            Request::Commit { note, .. } => Duration::from_millis(note.life_ms).min(LONGEST_ORDER_LIFE),
            // The next renewal does as well.
            Request::RenewLease { note, .. } => Duration::from_millis(note.lease_ms).min(LONGEST_ORDER_LIFE),
            Request::Renew { note, .. } => Duration::from_millis(note.life_ms).min(LONGEST_RENEWAL),
            _ => ORDER_LIFE,
        };
        let number = self.number();
        self.orders.push_back((
            number,
            Order {
                request,
                until: now + life,
            },
        ));
        if self.orders.len() > ORDERS_KEPT
            && let Some((_, oldest)) = self.orders.pop_front()
        {
            observer.on_given_up(&oldest.request, GivenUp::TooMany);
        }
    }

    /// Puts back what was sent and not done, in front, in its old order.
    pub(super) fn put_back(&mut self, entries: Vec<Entry>) {
        for entry in entries.into_iter().rev() {
            match entry {
                Entry::Question(number, Some(question)) => self.questions.push_front((number, question)),
                Entry::Question(_, None) => {}
                Entry::Order(number, order) => self.orders.push_front((number, order)),
            }
        }
    }

    /// Takes the next ones, `most` at most.
    pub(super) fn take(&mut self, most: usize, now: Instant, observer: &Arc<dyn Observer>) -> Vec<Entry> {
        let mut entries = Vec::with_capacity(most.min(self.len()));
        while entries.len() < most {
            let order_first = match (self.questions.front(), self.orders.front()) {
                (Some((question, _)), Some((order, _))) => order < question,
                (None, Some(_)) => true,
                (Some(_), None) => false,
                (None, None) => break,
            };
            if !order_first {
                entries.extend(
                    self.questions
                        .pop_front()
                        .map(|(number, question)| Entry::Question(number, Some(question))),
                );
            } else if let Some((number, order)) = self.orders.pop_front() {
                if order.until > now {
                    entries.push(Entry::Order(number, order));
                } else {
                    observer.on_given_up(&order.request, GivenUp::TooLate);
                }
            }
        }
        entries
    }

    /// When the oldest question was asked.
    pub(super) fn oldest_question(&self) -> Option<Instant> {
        self.questions.front().map(|(_, question)| question.asked)
    }

    /// Takes the oldest question if it was asked by then.
    pub(super) fn take_question(&mut self, asked_by: Instant) -> Option<Question> {
        let (_, question) = self.questions.front()?;
        if question.asked > asked_by {
            return None;
        }
        self.questions.pop_front().map(|(_, question)| question)
    }
}
