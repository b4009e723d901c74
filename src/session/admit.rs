//! The admission of deliveries: what the store is asked about them, and what its answers do to them.

use std::sync::Arc;

use super::agenda::Place;
use super::arrive::Arrival;
use super::channel::{Channel, Collect, Down, Life};
use super::collect::body_of;
use super::event::{DeliveryEvent, Event};
use super::expiry::with_expires;
use super::renew::Hold;
use super::{Session, Shared, StoreSilent, Ticket};
use crate::amqp::content::ContentHeader;
use crate::amqp::encode;
use crate::amqp::frame::{self, Split};
use crate::amqp::method::basic::{self, Ack};
use crate::celery::{Limits, routing, task};
use crate::rules::lock::{Admitted, Digest, Reply, Request, Scope};
use crate::rules::outcome::DeliveryDecision;
use crate::rules::spec::Mode;
use crate::rules::{Facts, Rule, Verdict};

/// How often a delivery whose key is only leased to another is asked about again, in microseconds.
const LEASED_AGAIN_US: u64 = 100_000;

/// The time to begin of a task that is not to run: a worker stores that it was revoked, whatever its backend.
const PAST: &[u8] = b"2020-01-01T00:00:00+00:00";

/// What a delivery waits for.
#[derive(Debug, Clone)]
pub(super) enum Await {
    /// The store's answer; if its key was found leased to another, not beyond `until_us`.
    Answer { until_us: Option<u64> },
    /// The key is leased to another: the next question, in monotonic microseconds, and the end of the wait.
    Lease { again_us: u64, until_us: u64 },
    /// Its turn.
    Turn(Way),
}

/// Where a delivery goes.
#[derive(Debug, Clone)]
pub(super) enum Way {
    /// To the client, with the lock.
    Holding,
    /// To the client, without one.
    Passing,
    /// To the client, without a decision.
    Unchecked(&'static str),
    /// To the client as a task whose time has passed.
    Killed,
    /// To nobody: it is acknowledged unrun, as a duplicate of this holder.
    Dropped(Arc<str>),
    /// Back to its queue.
    Withheld,
}

/// A delivery that the store was asked about.
#[derive(Debug)]
pub(super) struct Admission {
    /// Its frames as they came.
    pub frames: Vec<u8>,
    header_at: usize,
    tag: u64,
    pub hold: Box<Hold>,
    rule: Arc<Rule>,
    reentrant: bool,
    pub wait: Await,
}

impl Admission {
    /// Gives it its frames.
    pub(super) fn with(self, frames: Vec<u8>, header_at: usize) -> Admission {
        Admission { frames, header_at, ..self }
    }

    pub(super) fn is_open(&self) -> bool {
        !matches!(self.wait, Await::Turn(_))
    }

    pub(super) fn due_us(&self) -> Option<u64> {
        match self.wait {
            Await::Lease { again_us, .. } => Some(again_us),
            Await::Answer { .. } | Await::Turn(_) => None,
        }
    }

    pub(super) fn go_unchecked(&mut self, reason: &'static str) {
        self.wait = Await::Turn(Way::Unchecked(reason));
    }

    pub(super) fn withhold(&mut self) {
        if !matches!(self.wait, Await::Turn(Way::Dropped(_))) {
            self.wait = Await::Turn(Way::Withheld);
        }
    }

    fn question(&self, worker: &Arc<str>, now_us: u64) -> Request {
        Request::Admit {
            claim: self.hold.claim.clone(),
            delivery: self.hold.delivery,
            note: self.hold.note_at(now_us),
            reentrant: self.reentrant,
            worker: Arc::clone(worker),
        }
    }

    fn answered(&mut self, answer: Result<(Digest, Admitted), StoreSilent>, now_us: u64) {
        let (digest, admitted) = match answer {
            Ok(answer) => answer,
            Err(silent) => return self.go_unchecked(silent.as_str()),
        };
        self.hold.answered(digest, now_us);
        let until_us = match self.wait {
            Await::Answer { until_us } => until_us,
            Await::Lease { until_us, .. } => Some(until_us),
            Await::Turn(_) => return,
        };
        self.wait = match admitted {
            Admitted::Holds => Await::Turn(Way::Holding),
            Admitted::Passes => Await::Turn(Way::Passing),
            Admitted::Superseded => Await::Turn(Way::Killed),
            Admitted::Held { holder, .. } => Await::Turn(Way::Dropped(holder)),
            Admitted::Leased { .. } => {
                let until_us = until_us.unwrap_or_else(|| now_us.saturating_add(self.hold.note.lease_ms.saturating_mul(1000)));
                if now_us >= until_us {
                    Await::Turn(Way::Unchecked("leased"))
                } else {
                    Await::Lease {
                        again_us: now_us.saturating_add(LEASED_AGAIN_US).min(until_us),
                        until_us,
                    }
                }
            }
        };
    }

    /// The delivery as one of a task whose time has passed; `None` if it has no header to say so.
    fn killed(&self) -> Option<Vec<u8>> {
        let Split::Frame(header_frame) = frame::split(self.frames.get(self.header_at..)?, usize::MAX) else {
            return None;
        };
        let header = ContentHeader::decode(header_frame.payload)?;
        task::peek(&header.properties)?;
        header.properties.headers?.get(b"expires").ok().flatten()?;
        // `RabbitMQ` sends content headers above the negotiated size itself.
        with_expires(&self.frames, self.header_at, PAST, 0)
    }
}

impl Session {
    /// The store's answer to a question about a delivery, or that there is none.
    pub(super) fn delivery_answered(&mut self, ticket: Ticket, answer: Result<Reply, StoreSilent>) {
        let answer = match answer {
            Ok(Reply::Admit(digest, admitted)) => Ok((digest, admitted)),
            // A reply of another kind says nothing of the question.
            Ok(_) => Err(StoreSilent::Unreachable),
            Err(silent) => Err(silent),
        };
        let now_us = self.shared.now.us;
        let Some(channel) = self.channels.get_mut(ticket.channel()) else {
            return;
        };
        let position = ticket.position();
        let Some(admission) = channel.open_admission(position) else {
            return;
        };
        admission.answered(answer, now_us);
        channel.schedule(&mut self.shared, Place::Arrival(position));
        channel.advance_arrivals(&mut self.shared);
    }
}

impl Channel {
    /// Who decides: the rules. The claim of a delivery, if an enforcing rule gives it one whose life depends on what workers do.
    pub(super) fn judge_delivery(&self, shared: &mut Shared, collect: &Collect) -> Option<Admission> {
        let Split::Frame(method) = frame::split(&collect.frames, usize::MAX) else {
            return None;
        };
        let deliver = basic::Deliver::decode(method.payload)?;
        let Split::Frame(header_frame) = frame::split(collect.frames.get(collect.header_at..)?, usize::MAX) else {
            return None;
        };
        let header = ContentHeader::decode(header_frame.payload)?;
        let limits = Limits::new(shared.settings.max_message);
        let (task, body) = task::read_with_body(&header.properties, &body_of(collect), limits).ok()??;
        let routing_key = routing::strip_delay(deliver.exchange, deliver.routing_key).unwrap_or(deliver.routing_key);
        let queue = self.queue_of(deliver.consumer_tag);
        let facts = Facts {
            task: &task,
            vhost: &shared.vhost,
            user: shared.user.as_deref(),
            queues: queue.as_ref().map(std::slice::from_ref),
            exchange: &String::from_utf8_lossy(deliver.exchange),
            routing_key: &String::from_utf8_lossy(routing_key),
        };
        let Verdict::Claim(claimed) = shared.rules.decide(&facts, &body, shared.now.unix_ms) else {
            return None;
        };
        if claimed.rule.mode != Mode::Enforce || claimed.scope == Scope::UntilExpired {
            return None;
        }
        let note = claimed.note(Arc::from(&*task.name), queue.clone().unwrap_or_default());
        Some(Admission {
            frames: Vec::new(),
            header_at: 0,
            tag: deliver.delivery_tag,
            hold: Box::new(Hold::new(shared, claimed.digest, Arc::from(&*task.id), note)),
            rule: claimed.rule,
            reentrant: deliver.redelivered || task.retries > 0 || task.replaced_task_nesting > 0,
            wait: Await::Answer { until_us: None },
        })
    }

    /// The queue that this consumer of the client's consumes, if it is known.
    fn queue_of(&self, tag: &[u8]) -> Option<Arc<str>> {
        if let Some(consumer) = self.consumers.iter().find(|consumer| consumer.tag == tag) {
            return consumer.queue.clone();
        }
        // The broker has chosen a tag and was asked not to tell it.
        let mut unnamed = self.consumers.iter().filter(|consumer| consumer.tag.is_empty());
        let queue = unnamed.next()?.queue.clone();
        unnamed.next().is_none().then_some(queue).flatten()
    }

    /// Asks the store about a delivery, which waits.
    pub(super) fn ask_about(&mut self, shared: &mut Shared, admission: Admission) {
        let ticket = Ticket::of_delivery(self.arrivals.next_position(), self.number);
        let question = admission.question(&shared.worker, shared.now.us);
        shared.asks.push((ticket.0, question));
        shared.held_bytes += admission.frames.len();
        self.arrivals.push(Arrival::Delivery(Box::new(admission)));
    }

    /// A delivery whose key is leased to another is asked about again, or has waited long enough.
    pub(super) fn arrival_is_due(&mut self, shared: &mut Shared, position: u64) {
        let ticket = Ticket::of_delivery(position, self.number);
        let Some(admission) = self.open_admission(position) else { return };
        let Await::Lease { until_us, .. } = admission.wait else { return };
        if shared.now.us >= until_us {
            admission.go_unchecked("leased");
            self.advance_arrivals(shared);
        } else {
            admission.wait = Await::Answer { until_us: Some(until_us) };
            let question = admission.question(&shared.worker, shared.now.us);
            shared.asks.push((ticket.0, question));
        }
    }

    /// The turn of a delivery has come.
    pub(super) fn admission_ends(&mut self, shared: &mut Shared, admission: Admission) {
        use DeliveryDecision as D;
        let Await::Turn(way) = &admission.wait else { return };
        let (decision, reason, holder) = match way {
            Way::Holding => (D::Forwarded, "holds", None),
            Way::Passing => (D::Forwarded, "passes", None),
            Way::Unchecked(reason) => (D::ForwardedUnchecked, *reason, None),
            Way::Killed => (D::Superseded, "superseded", None),
            Way::Dropped(holder) => (D::Dropped, "duplicate", Some(Arc::clone(holder))),
            Way::Withheld => {
                let method = admission.frames.get(frame::HEADER_LEN..).unwrap_or_default();
                let consumer = basic::Deliver::decode(method).map_or(&[][..], |deliver| deliver.consumer_tag);
                if self.withhold(consumer, admission.tag) {
                    return;
                }
                (D::ForwardedUnchecked, "drain", None)
            }
        };
        shared.events.push(Event::Admission(DeliveryEvent {
            rule: Arc::clone(&admission.rule),
            decision,
            reason,
            id: Arc::clone(&admission.hold.claim.id),
            task: Arc::clone(&admission.hold.note.task),
            digest: admission.hold.claim.digest,
            holder,
        }));
        match way {
            Way::Holding => {
                let id = Arc::clone(&admission.hold.claim.id);
                shared.witness.delivered(&id, &admission.hold.note.task, &admission.rule);
                self.show(shared, &admission.frames, admission.tag, id, Some(admission.hold));
            }
            Way::Killed => match admission.killed() {
                Some(frames) => self.show(shared, &frames, admission.tag, Arc::clone(&admission.hold.claim.id), None),
                None => self.ack_unrun(shared, admission.tag),
            },
            Way::Dropped(_) => self.ack_unrun(shared, admission.tag),
            // If its key is free when the store can be asked again, it is its own: nobody else runs for it.
            Way::Unchecked(_) => {
                let id = Arc::clone(&admission.hold.claim.id);
                self.show(shared, &admission.frames, admission.tag, id, Some(admission.hold));
            }
            Way::Passing | Way::Withheld => {
                self.show(shared, &admission.frames, admission.tag, Arc::clone(&admission.hold.claim.id), None);
            }
        }
    }

    /// A delivery goes to the client.
    fn show(&mut self, shared: &mut Shared, frames: &[u8], tag: u64, id: Arc<str>, hold: Option<Box<Hold>>) {
        match self.down {
            Down::Idle => shared.to_client.extend_from_slice(frames),
            Down::Method(_) | Down::Passing(_) | Down::Swallowing(_) => self.after_content.extend_from_slice(frames),
        }
        self.deliveries.shown_holding(tag, Some(id), hold);
        self.schedule(shared, Place::Delivered(tag));
    }

    /// Acknowledges a delivery that the client is not shown, outside of its contents.
    fn ack_unrun(&mut self, shared: &mut Shared, delivery_tag: u64) {
        // A channel that its client has closed may be closed at the broker before this comes.
        if self.life != Life::Open {
            return;
        }
        let out = if self.inside_publish() {
            &mut self.own_acks
        } else {
            &mut shared.to_broker
        };
        let ack = Ack {
            delivery_tag,
            multiple: false,
        };
        encode::basic_ack(out, self.number, ack);
    }
}
