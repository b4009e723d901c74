//! Deliveries of messages that may have been parked: the store is asked what became of them before anything is decided.
//!
//! A copy that comes back says so itself, by its header, and is decided under the rule and the key under which it was parked: its exchange
//! and routing key are not those of the original, and the rules may have changed. An original says nothing; it comes again only where its
//! acknowledgement was lost, so that it is redelivered.

use std::sync::Arc;

use super::admit::{Admission, Await, Way, delivery_parts};
use super::arrive::Arrival;
use super::channel::{Channel, Collect};
use super::collect::body_of;
use super::copies::{self, token_of};
use super::event::Event;
use super::park::{Newest, Which};
use super::{Shared, StoreSilent, Ticket};
use crate::amqp::content::ContentHeader;
use crate::amqp::method::basic;
use crate::celery::{Limits, task};
use crate::rules::lock::{Reply, Request};
use crate::rules::park::{Fingerprint, Found, Seen};

/// How far the search is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Search {
    /// The store was asked.
    Asked,
    /// It passes in its turn, as it came.
    Passes,
    /// It is not to run.
    Over,
}

/// A delivery of which it is not known yet whether it was parked.
#[derive(Debug)]
pub(super) struct Sought {
    collect: Collect,
    /// The broker's tag.
    tag: u64,
    id: Arc<str>,
    fingerprint: Fingerprint,
    seen: Seen,
    /// When it came, in monotonic microseconds.
    pub since_us: u64,
    search: Search,
}

impl Sought {
    /// The delivery as one to look for, if it may have been parked. `judged`: what the rules say of it by themselves.
    pub(super) fn of(shared: &Shared, collect: Collect, judged: Option<&Admission>) -> Result<Sought, Collect> {
        match Sought::question(shared, &collect, judged) {
            Some((tag, id, fingerprint, seen)) => Ok(Sought {
                collect,
                tag,
                id,
                fingerprint,
                seen,
                since_us: shared.now.us,
                search: Search::Asked,
            }),
            None => Err(collect),
        }
    }

    fn question(shared: &Shared, collect: &Collect, judged: Option<&Admission>) -> Option<(u64, Arc<str>, Fingerprint, Seen)> {
        let (deliver, header) = delivery_parts(collect)?;
        let seen = match token_of(&header.properties) {
            Some(token) => Seen::Copy(token),
            // What is never held is never parked.
            None if deliver.redelivered && judged.is_some_and(Admission::may_be_held) => Seen::Original,
            None => return None,
        };
        let id = if let Some(judged) = judged {
            Arc::clone(&judged.hold.claim.id)
        } else {
            let limits = Limits::new(shared.settings.max_message);
            let (task, _) = task::read_with_body(&header.properties, &body_of(collect), limits).ok()??;
            Arc::from(&*task.id)
        };
        let fingerprint = copies::fingerprint(collect.frames.get(collect.header_at..)?, &id)?;
        Some((deliver.delivery_tag, id, fingerprint, seen))
    }

    pub(super) fn is_open(&self) -> bool {
        self.search == Search::Asked
    }

    /// How many octets it holds.
    pub(super) fn size(&self) -> usize {
        self.collect.frames.len()
    }

    /// It passes in its turn, as it came.
    pub(super) fn pass(&mut self) {
        if self.is_open() {
            self.search = Search::Passes;
        }
    }
}

/// True if a delivery says that it is a parked copy: those come through the default exchange.
pub(super) fn may_be_copy(deliver: &basic::Deliver<'_>, header: &ContentHeader<'_>) -> bool {
    deliver.exchange.is_empty() && token_of(&header.properties).is_some()
}

impl Channel {
    /// Asks the store about such a delivery, which waits.
    pub(super) fn seek(&mut self, shared: &mut Shared, sought: Sought) {
        let ticket = Ticket::of_delivery(self.arrivals.next_position(), self.number);
        shared.asks.push((
            ticket.0,
            Request::FindParked {
                id: Arc::clone(&sought.id),
                fingerprint: sought.fingerprint,
                seen: sought.seen.clone(),
            },
        ));
        shared.held_bytes += sought.size();
        self.arrivals.push(Arrival::Sought(Box::new(sought)));
    }

    /// The store's answer about a delivery that was sought, or that there is none. False if this position has no such delivery.
    pub(super) fn found(&mut self, shared: &mut Shared, position: u64, answer: &Result<Reply, StoreSilent>) -> bool {
        match self.arrivals.at(position) {
            Some(Arrival::Sought(sought)) if sought.is_open() => {}
            Some(Arrival::Sought(_)) => return true,
            _ => return false,
        }
        let Some(place) = self.arrivals.at(position) else { return false };
        let Arrival::Sought(sought) = std::mem::replace(place, Arrival::Frames(Vec::new())) else {
            return false;
        };
        shared.held_bytes -= sought.size();
        let mut arrival = self.decide_found(shared, *sought, answer);
        shared.held_bytes += arrival.size();
        if let Arrival::Delivery(admission) = &mut arrival
            && admission.is_open()
            && let Some(question) = admission.question(&shared.worker, shared.now)
        {
            let ticket = Ticket::of_delivery(position, self.number);
            shared.asks.push((ticket.0, question));
        }
        if let Some(place) = self.arrivals.at(position) {
            *place = arrival;
        }
        self.advance_arrivals(shared);
        true
    }

    fn decide_found(&mut self, shared: &mut Shared, mut sought: Sought, answer: &Result<Reply, StoreSilent>) -> Arrival {
        let found = match answer {
            Ok(Reply::Parked(found)) => Ok(found),
            // A reply of another kind says nothing of the question.
            _ => Err(()),
        };
        let is_copy = matches!(sought.seen, Seen::Copy(_));
        let newest = match (&found, &sought.seen) {
            (Ok(Found::Parked(parked)), seen) => Some(Newest {
                which: Which::of(seen, &parked.token),
                token: parked.token.clone(),
                fingerprint: sought.fingerprint,
            }),
            // It knows its token itself.
            (Err(()), Seen::Copy(token)) => Some(Newest {
                which: Which::This,
                token: token.clone(),
                fingerprint: sought.fingerprint,
            }),
            _ => None,
        };
        let parked = match &found {
            Ok(Found::Parked(parked)) => Some(parked),
            _ => None,
        };
        let judged = self.judge_delivery(shared, &sought.collect, parked);
        if matches!(found, Ok(Found::Over)) {
            let Some(mut admission) = judged else {
                sought.search = Search::Over;
                return Arrival::Sought(Box::new(sought));
            };
            admission.wait = Await::Turn(Way::Over);
            return Arrival::Delivery(Box::new(self.framed(admission, sought.collect)));
        }
        if is_copy && let Some(frames) = copies::unmarked(&sought.collect.frames, sought.collect.header_at) {
            let header_at = sought.collect.header_at;
            sought.collect = Collect {
                frames,
                header_at,
                ..sought.collect
            };
        }
        let Some(mut admission) = judged else {
            return Arrival::Frames(sought.collect.frames);
        };
        if let Some(newest) = newest {
            admission.parking.newest = Some(newest);
        }
        if is_copy && parked.is_some() {
            let rule = Arc::clone(&admission.rule);
            shared.events.push(Event::Unparked { rule });
        }
        Arrival::Delivery(Box::new(self.framed(admission, sought.collect)))
    }

    /// Gives an admission the frames of its delivery, as they are for the client.
    pub(super) fn framed(&self, admission: Admission, collect: Collect) -> Admission {
        let before = collect.frames.len();
        let (_, frames) = self.for_client(collect.frames);
        let header_at = (collect.header_at + frames.len()).saturating_sub(before);
        admission.with(frames, header_at)
    }

    /// The turn of such a delivery has come.
    pub(super) fn search_ends(&mut self, shared: &mut Shared, sought: &Sought) {
        match sought.search {
            Search::Over => self.ack_unrun(shared, sought.tag),
            Search::Asked | Search::Passes => self.take_turns(shared, &sought.collect.frames),
        }
    }
}
