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

/// A result that a worker has published is of use for this long.
const RESULT_LIFE: Duration = Duration::from_secs(60);
/// At most so many octets of results are kept; others are as if they had not been seen.
const RESULT_OCTETS: usize = 16 << 20;

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
    /// Octets of results among the orders.
    result_octets: usize,
}

fn octets_of(request: &Request) -> usize {
    match request {
        Request::Result { json, .. } => json.len(),
        _ => 0,
    }
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
            Request::RenewRun { note, .. } => Duration::from_millis(note.life_ms).min(LONGEST_ORDER_LIFE),
            // The next renewal does as well.
            Request::RenewLease { note, .. } => Duration::from_millis(note.lease_ms).min(LONGEST_ORDER_LIFE),
            Request::Renew { note, .. } => Duration::from_millis(note.life_ms).min(LONGEST_RENEWAL),
            Request::Result { .. } => RESULT_LIFE,
            _ => ORDER_LIFE,
        };
        let octets = octets_of(&request);
        if octets > 0 && self.result_octets + octets > RESULT_OCTETS {
            return observer.on_given_up(&request, GivenUp::TooMany);
        }
        self.result_octets += octets;
        let number = self.number();
        self.orders.push_back((
            number,
            Order {
                request,
                until: now + life,
            },
        ));
        if self.orders.len() > ORDERS_KEPT
            && let Some((_, oldest)) = self.next_order()
        {
            observer.on_given_up(&oldest.request, GivenUp::TooMany);
        }
    }

    fn next_order(&mut self) -> Option<(u64, Order)> {
        let next = self.orders.pop_front()?;
        self.result_octets -= octets_of(&next.1.request);
        Some(next)
    }

    /// Puts back what was sent and not done, in front, in its old order.
    pub(super) fn put_back(&mut self, entries: Vec<Entry>) {
        for entry in entries.into_iter().rev() {
            match entry {
                Entry::Question(number, Some(question)) => self.questions.push_front((number, question)),
                Entry::Question(_, None) => {}
                Entry::Order(number, order) => {
                    self.result_octets += octets_of(&order.request);
                    self.orders.push_front((number, order));
                }
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
            } else if let Some((number, order)) = self.next_order() {
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::rules::lock::Weight;

    #[derive(Default)]
    struct GivenUps(AtomicUsize);

    impl Observer for GivenUps {
        fn on_given_up(&self, _: &Request, why: GivenUp) {
            assert_eq!(why, GivenUp::TooMany);
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn results_are_bounded_in_octets() {
        let given_up = Arc::new(GivenUps::default());
        let observer: Arc<dyn Observer> = Arc::clone(&given_up) as _;
        let now = Instant::now();
        let result = || Request::Result {
            id: "a".into(),
            weight: Weight::Final,
            json: vec![b' '; 1 << 20].into(),
            least_ms: 0,
        };
        let mut queue = Queue::default();
        for _ in 0..18 {
            queue.tell(result(), now, &observer);
        }
        assert_eq!((queue.orders(), given_up.0.load(Ordering::Relaxed)), (16, 2));
        let taken = queue.take(3, now, &observer);
        assert_eq!(taken.len(), 3);
        queue.tell(result(), now, &observer);
        queue.put_back(taken);
        assert_eq!(queue.orders(), 17);
        queue.tell(result(), now, &observer);
        assert_eq!((queue.orders(), given_up.0.load(Ordering::Relaxed)), (17, 3));
        assert_eq!(queue.take(100, now, &observer).len(), 17);
        assert_eq!(queue.result_octets, 0);
    }
}
