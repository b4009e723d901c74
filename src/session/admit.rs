//! The admission of deliveries: what the store is asked about them, and what its answers do to them.

use std::sync::Arc;

use super::agenda::Place;
use super::arrive::Arrival;
use super::carry::Carry;
use super::channel::{Channel, Collect, Life};
use super::collect::body_of;
use super::deliver::Known;
use super::event::{DeliveryEvent, Event};
use super::expiry::with_expires;
use super::limit::Permits;
use super::owed::{Caller, OVERDUE};
use super::park::Parking;
use super::renew::Hold;
use super::run::Run;
use super::window::Via;
use super::{Now, Session, Shared, StoreSilent, Ticket};
use crate::amqp::content::ContentHeader;
use crate::amqp::encode;
use crate::amqp::frame::{self, Split};
use crate::amqp::method::basic::{self, Ack};
use crate::celery::body::Body;
use crate::celery::{Limits, routing, task};
use crate::rules::limit::Limiting;
use crate::rules::lock::{Admitted, Freed, Reply, Request, Scope, Signal};
use crate::rules::outcome::DeliveryDecision;
use crate::rules::owed::Owed;
use crate::rules::park::Parked;
use crate::rules::running::Ran;
use crate::rules::source::Source;
use crate::rules::spec::{Mode, OnDuplicate, OnMaxWait};
use crate::rules::{Claimed, Facts, Rule, Verdict};

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
    /// The store's answer about a place in its limits.
    Reserve,
    /// The store's answer about the running lock.
    Run,
    /// The store's answer about permission by its limits.
    Limit,
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
    /// To the client; its key is locked for runs only.
    Running,
    /// To the client; it has no key, and its limits permit it.
    Permitted,
    /// To the client, without a decision.
    Unchecked(&'static str),
    /// To the client as a task whose time has passed.
    Killed,
    /// To nobody: it is acknowledged unrun, as a duplicate of this holder.
    Dropped(Arc<str>),
    /// To nobody: it is acknowledged unrun, as this newer one runs in its place.
    Outdated(Arc<str>),
    /// To nobody for now: this one runs, or waits before it, or its time has not come.
    Held(Option<Arc<str>>),
    /// To nobody: it is acknowledged unrun, as this one runs; its publish lock went.
    Busy(Arc<str>, Vec<Freed>),
    /// To nobody: it has waited for its limits for too long.
    Overdue(OnMaxWait),
    /// To nobody: it is acknowledged unrun, as it was parked and another copy of it runs, or ran.
    Over,
    /// To nobody: it is acknowledged unrun, as another copy of it has succeeded.
    Succeeded,
    /// Back to its queue.
    Withheld,
    /// To the client as a task that returns this value, which is JSON: its holder's.
    Joined(Arc<[u8]>),
    /// To the client as a task whose time has passed: it has no result of its holder, for this reason.
    Lost(&'static str),
    /// To the client, without a lock: it should wait for its holder, and could not be rewritten then.
    Unfit,
}

/// A delivery that the store was asked about.
#[derive(Debug)]
pub(super) struct Admission {
    /// Its frames as they came.
    pub frames: Vec<u8>,
    pub header_at: usize,
    /// The broker's tag.
    pub tag: u64,
    /// Which consumer at the broker it came to.
    pub source: Via,
    pub hold: Box<Hold>,
    /// What its run takes, if it takes a running lock.
    pub run: Option<Box<Run>>,
    /// Its limits, if it has any.
    pub limits: Option<Box<Permits>>,
    pub rule: Arc<Rule>,
    pub task: Arc<str>,
    pub parking: Parking,
    /// What it needs to wait for a holder, if a duplicate like this one does.
    pub carry: Option<Box<Carry>>,
    /// When it may begin, in milliseconds since the Unix epoch, if that was ahead when it came.
    pub eta_ms: Option<u64>,
    /// Since when it waits for another's end, in milliseconds since the Unix epoch, on the store's clock.
    pub since_ms: Option<u64>,
    /// How often the broker has had the message back.
    pub returns: u64,
    reentrant: bool,
    pub wait: Await,
    /// What the store is asked about it while it is held.
    pub asks: Asks,
    pub asked: Asked,
}

/// For whom the store was asked last to admit a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// For the worker that has it next.
    ForWorker,
    /// For none: its time has not come, or it waits for another, and it may be outdated by then.
    BeforeItsTime,
}

impl Asked {
    /// The worker that the store is told of.
    pub(super) fn worker(self, worker: &Arc<str>) -> Arc<str> {
        match self {
            Asked::ForWorker => Arc::clone(worker),
            Asked::BeforeItsTime => Arc::from(""),
        }
    }
}

/// What the store is asked about a held delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asks {
    /// Whether it may still run at all.
    Admission,
    /// For its running lock.
    Run,
}

impl Admission {
    /// Gives it its frames.
    pub(super) fn with(self, frames: Vec<u8>, header_at: usize) -> Admission {
        Admission { frames, header_at, ..self }
    }

    /// The client's consumer that it is for.
    pub(super) fn consumer(&self) -> &[u8] {
        let method = self.frames.get(frame::HEADER_LEN..).unwrap_or_default();
        basic::Deliver::decode(method).map_or(&[], |deliver| deliver.consumer_tag)
    }

    pub(super) fn is_open(&self) -> bool {
        !matches!(self.wait, Await::Turn(_))
    }

    pub(super) fn due_us(&self) -> Option<u64> {
        match self.wait {
            Await::Lease { again_us, .. } => Some(again_us),
            Await::Answer { .. } | Await::Reserve | Await::Run | Await::Limit | Await::Turn(_) => None,
        }
    }

    pub(super) fn go_unchecked(&mut self, reason: &'static str) {
        let way = Way::Unchecked(reason);
        // Limits are not passed unchecked: it is held until they can be asked.
        self.wait = Await::Turn(match &mut self.limits {
            Some(limits) => {
                limits.then = way;
                self.asks = Asks::Run;
                Way::Held(None)
            }
            None => way,
        });
    }

    pub(super) fn withhold(&mut self) {
        if !matches!(
            self.wait,
            Await::Turn(Way::Dropped(_) | Way::Outdated(_) | Way::Busy(..) | Way::Succeeded | Way::Over | Way::Overdue(_))
        ) {
            self.wait = Await::Turn(Way::Withheld);
        }
    }

    /// What the store is to be asked next.
    pub(super) fn question(&mut self, worker: &Arc<str>, now: Now) -> Option<Request> {
        match self.wait {
            Await::Run => return self.run_question(worker),
            Await::Reserve | Await::Limit => return self.limit_question(worker),
            Await::Answer { .. } | Await::Lease { .. } | Await::Turn(_) => {}
        }
        self.asked = if self.rule.holds_until_due() && self.eta_ahead(now).is_some() {
            Asked::BeforeItsTime
        } else {
            Asked::ForWorker
        };
        Some(Request::Admit {
            claim: self.hold.claim.clone(),
            delivery: self.hold.delivery,
            note: match &self.carry {
                Some(carry) => self.hold.aged(&carry.note, now.us),
                None => self.hold.note_at(now.us)?,
            },
            reentrant: self.reentrant,
            worker: self.asked.worker(worker),
        })
    }

    pub(super) fn answered(&mut self, answer: Result<Reply, StoreSilent>, now: Now, max_message: usize) {
        match (&self.wait, answer) {
            (Await::Answer { .. } | Await::Lease { .. }, Ok(Reply::Admit(digest, admitted))) => {
                self.hold.answered(digest, now.us);
                self.admitted(admitted, now, max_message);
            }
            (Await::Run, Ok(Reply::Run(Ran::Runs))) => {
                let way = self.ran(Ran::Runs, now.us);
                self.wait = self.after_run(way);
            }
            (Await::Run, Ok(Reply::Run(ran))) => self.wait = Await::Turn(self.ran(ran, now.us)),
            (Await::Reserve | Await::Limit, Ok(Reply::Limit(limited))) => self.wait = self.limited(&limited, now),
            (Await::Turn(_), _) => {}
            // A reply of another kind says nothing of the question.
            (_, Ok(_)) => self.go_unchecked(StoreSilent::Unreachable.as_str()),
            (_, Err(silent)) => self.go_unchecked(silent.as_str()),
        }
    }

    fn admitted(&mut self, admitted: Admitted, now: Now, max_message: usize) {
        let now_us = now.us;
        let until_us = match self.wait {
            Await::Answer { until_us } => until_us,
            Await::Lease { until_us, .. } => Some(until_us),
            Await::Reserve | Await::Run | Await::Limit | Await::Turn(_) => return,
        };
        if matches!(admitted, Admitted::Holds | Admitted::Passes | Admitted::Superseded) {
            self.carry = None;
        }
        self.wait = match admitted {
            Admitted::Holds => self.may_run(Way::Holding, now),
            Admitted::Passes => self.may_run(Way::Passing, now),
            Admitted::Superseded => Await::Turn(Way::Killed),
            Admitted::Held { holder, .. } if self.carry.is_some() => self.waits_for(holder, None, max_message),
            Admitted::Ended { holder, fate } => self.waits_for(holder, Some(fate), max_message),
            Admitted::Outdated { newer } => Await::Turn(Way::Outdated(newer)),
            Admitted::Waits { holder, since_ms } => {
                self.asks = Asks::Admission;
                self.asked = Asked::BeforeItsTime;
                self.since_ms = Some(self.since_ms.map_or(since_ms, |since| since.min(since_ms)));
                Await::Turn(Way::Held(Some(holder)))
            }
            Admitted::Held { holder, .. } => Await::Turn(Way::Dropped(holder)),
            Admitted::Leased { .. } => {
                let lease_ms = self.hold.lock.as_ref().map_or(0, |note| note.lease_ms);
                let until_us = until_us.unwrap_or_else(|| now_us.saturating_add(lease_ms.saturating_mul(1000)));
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

    /// Why it is held.
    pub(super) fn held_for(&self, now: Now) -> &'static str {
        match self.waiting() {
            _ if self.carry.is_some() => "holder",
            _ if self.eta_ahead(now).is_some() => "eta",
            Some(_) => "limit",
            None => "running",
        }
    }

    /// The delivery as one of a task whose time has passed; `None` if it has no header to say so.
    pub(super) fn killed(&self) -> Option<Vec<u8>> {
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
        let Some(channel) = self.channels.get_mut(ticket.channel()) else {
            return;
        };
        let (shared, position) = (&mut self.shared, ticket.position());
        if channel.found(shared, position, &answer) {
            return;
        }
        let Some(admission) = channel.open_admission(position) else {
            return;
        };
        let of_limits = matches!(answer, Ok(Reply::Limit(_)));
        admission.answered(answer, shared.now, shared.settings.max_message);
        if of_limits {
            shared.foreseen.note(admission);
        }
        shared.tells.extend(admission.gives_back());
        if matches!(admission.wait, Await::Reserve | Await::Run | Await::Limit)
            && let Some(question) = admission.question(&shared.worker, shared.now)
        {
            shared.asks.push((ticket.0, question));
        }
        channel.schedule(shared, Place::Arrival(position));
        channel.advance_arrivals(shared);
    }
}

impl Channel {
    /// Who decides: the rules. The claim of a delivery, if an enforcing rule gives it one whose life depends on what workers do. One that
    /// was parked is decided under the rule and the key of then.
    pub(super) fn judge_delivery(&self, shared: &mut Shared, collect: &Collect, parked: Option<&Parked>) -> Option<Admission> {
        let (deliver, header) = delivery_parts(collect)?;
        let limits = Limits::new(shared.settings.max_message);
        let (task, body) = task::read_with_body(&header.properties, &body_of(collect), limits).ok()??;
        let routing_key = routing::strip_delay(deliver.exchange, deliver.routing_key).unwrap_or(deliver.routing_key);
        let (source, consumer) = self.resolve(deliver.consumer_tag);
        let queue = self.queue_of(consumer);
        let (vhost, user) = (Arc::clone(&shared.vhost), shared.user.clone());
        let facts = Facts {
            task: &task,
            vhost: &vhost,
            user: user.as_deref(),
            queues: queue.as_ref().map(std::slice::from_ref),
            exchange: &String::from_utf8_lossy(deliver.exchange),
            routing_key: &String::from_utf8_lossy(routing_key),
        };
        let id = Arc::<str>::from(&*task.id);
        let (mut claimed, rule, limiting) = shared.judged(&facts, &body, parked, (&id, queue.as_ref()))?;
        if let Some(claimed) = &mut claimed {
            claimed.owed = shared.owed_to(&claimed.owed, &header.properties, &task.id, Caller::Elsewhere);
        }
        let returns = delivery_count(&header);
        let parking = Parking {
            kind: shared.kind_of(queue.as_ref(), returns),
            queue: queue.clone(),
            expires_ms: task.expires.map(|expires| u64::try_from(expires).unwrap_or(0)),
            newest: None,
        };
        let (queue, task_name) = (queue.clone().unwrap_or_default(), Arc::<str>::from(&*task.name));
        let lock = claimed
            .as_ref()
            .and_then(|claimed| claimed.note(Arc::clone(&task_name), Arc::clone(&queue)))
            .map(Arc::new);
        let run = claimed
            .as_ref()
            .and_then(|claimed| claimed.run_note(Arc::clone(&task_name), queue, task.retries));
        let eta = task
            .eta
            .and_then(|eta| u64::try_from(eta).ok())
            .filter(|eta| *eta > shared.now.unix_ms);
        let place_ms = parked.and_then(|parked| parked.place_ms);
        let limits = if limiting.is_empty() {
            None
        } else {
            let owed = Owed::of_overdue(&rule, task.ignore_result, task.group || body.canvas.any());
            Permits::new(limiting, shared.owed_to(&owed, &header.properties, &task.id, Caller::Elsewhere))
        };
        let published_before = task.retries > 0 || task.replaced_task_nesting > 0;
        let waits = lock.as_ref().filter(|note| note.owed == Owed::Carried && !published_before);
        let carry = waits.map(|note| {
            Box::new(Carry {
                note: Arc::clone(note),
                since_ms: place_ms,
                fate: None,
            })
        });
        let lock = lock.map(|mut note| {
            if published_before {
                Arc::make_mut(&mut note).owed = Owed::Nothing;
            }
            note
        });
        let run = run.map(|note| {
            let mut run = Run::new(Arc::new(note), &rule);
            run.place_ms = place_ms;
            Box::new(run)
        });
        let bucket = limits.as_ref().and_then(|limits| limits.first()?.ask.buckets.first());
        let digest = claimed
            .as_ref()
            .map(|claimed| claimed.digest)
            .or(bucket.map(|bucket| bucket.digest))?;
        let mut hold = Box::new(Hold::new(shared, digest, id, lock));
        if let Some(eta) = eta.filter(|_| rule.if_held().replaces()) {
            hold.waits_until(eta, shared.now);
        }
        let mut admission = Admission {
            frames: Vec::new(),
            header_at: 0,
            tag: deliver.delivery_tag,
            source,
            hold,
            run,
            limits,
            rule,
            task: task_name,
            parking,
            carry,
            eta_ms: eta,
            since_ms: place_ms,
            returns: returns.unwrap_or(0),
            reentrant: deliver.redelivered || published_before,
            wait: Await::Answer { until_us: None },
            asks: Asks::Run,
            asked: Asked::ForWorker,
        };
        if admission.hold.lock.is_none() {
            let way = if claimed.is_some() { Way::Running } else { Way::Permitted };
            admission.wait = admission.may_run(way, shared.now);
        }
        Some(admission)
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
    pub(super) fn ask_about(&mut self, shared: &mut Shared, mut admission: Admission) {
        let ticket = Ticket::of_delivery(self.arrivals.next_position(), self.number);
        if shared.foreseen.is_long(&admission, shared.now) {
            admission.wait = Await::Turn(Way::Held(None));
        } else if admission.is_open()
            && let Some(question) = admission.question(&shared.worker, shared.now)
        {
            shared.asks.push((ticket.0, question));
        }
        shared.held_bytes += admission.frames.len();
        self.arrivals.push(Arrival::Delivery(Box::new(admission)));
        self.advance_arrivals(shared);
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
            if let Some(question) = admission.question(&shared.worker, shared.now) {
                shared.asks.push((ticket.0, question));
            }
        }
    }

    /// The turn of a delivery has come.
    pub(super) fn admission_ends(&mut self, shared: &mut Shared, admission: Box<Admission>) {
        let Await::Turn(way) = &admission.wait else { return };
        let way = way.clone();
        match way {
            Way::Held(holder) => self.hold_back(shared, admission, holder),
            Way::Busy(holder, freed) if admission.is_dead_lettered() => {
                shared.events.extend(freed.into_iter().map(Event::Freed));
                self.hold_for_dead_letter(shared, admission, "running", holder);
            }
            Way::Dropped(holder) if admission.rule.on_duplicate == OnDuplicate::DeadLetter => {
                self.hold_for_dead_letter(shared, admission, "duplicate", holder);
            }
            Way::Overdue(OnMaxWait::DeadLetter) if admission.rule.dead_letter.is_some() => {
                let holder = Arc::clone(&admission.hold.claim.id);
                shared.frees_overdue(&admission);
                self.hold_for_dead_letter(shared, admission, OVERDUE, holder);
            }
            Way::Withheld => {
                if self.withhold(admission.consumer(), admission.tag) {
                    return shared.leave(&admission);
                }
                self.goes(shared, admission, &Way::Unchecked("drain"));
            }
            way => self.goes(shared, admission, &way),
        }
    }

    /// A delivery goes where it is to go; it waits no longer.
    pub(super) fn goes(&mut self, shared: &mut Shared, mut admission: Box<Admission>, way: &Way) {
        use DeliveryDecision as D;
        let (decision, reason, holder) = match way {
            Way::Holding => (D::Forwarded, "holds", None),
            Way::Passing => (D::Forwarded, "passes", None),
            Way::Running => (D::Forwarded, "runs", None),
            Way::Permitted => (D::Forwarded, "permitted", None),
            Way::Overdue(_) => {
                shared.frees_overdue(&admission);
                (D::Dropped, OVERDUE, None)
            }
            Way::Unchecked(reason) => (D::ForwardedUnchecked, *reason, None),
            Way::Killed => (D::Superseded, "superseded", None),
            Way::Dropped(holder) => (D::Dropped, "duplicate", Some(Arc::clone(holder))),
            Way::Outdated(newer) => (D::Superseded, "outdated", Some(Arc::clone(newer))),
            Way::Busy(holder, freed) => {
                shared.events.extend(freed.iter().cloned().map(Event::Freed));
                (D::Dropped, "running", Some(Arc::clone(holder)))
            }
            Way::Succeeded => (D::Dropped, "succeeded", None),
            Way::Over => (D::Dropped, "parked", None),
            Way::Joined(value) => return self.joins(shared, admission, value),
            Way::Lost(reason) => return self.loses(shared, admission, reason),
            Way::Unfit => (D::Forwarded, "unfit", None),
            Way::Held(holder) => (D::Held, "running", holder.clone()),
            Way::Withheld => return,
        };
        shared.owes_for(&admission, way);
        shared.tells.extend(admission.leaving_unpermitted());
        shared.events.extend(admission.permissions());
        if matches!(way, Way::Unfit) {
            shared.not_carried(&admission);
        }
        shared.admission(&admission, decision, reason, holder);
        match way {
            Way::Killed => self.show_killed(shared, admission),
            // What waits for its outcome hears of it from the worker.
            Way::Overdue(_) if admission.owed_overdue() == Owed::Carried => self.show_killed(shared, admission),
            Way::Dropped(_) | Way::Outdated(_) | Way::Busy(..) | Way::Succeeded | Way::Overdue(_) => self.drop_unrun(shared, &admission),
            Way::Over => self.ack_unrun(shared, admission.tag),
            Way::Holding | Way::Running => {
                shared.witness.delivered(&admission.hold.claim.id, &admission.task, &admission.rule);
                self.show(shared, *admission);
            }
            // If its key is free when the store can be asked again, it is its own: nobody else runs for it.
            Way::Unchecked(_) => self.show(shared, *admission),
            _ => {
                admission.hold.lock = None;
                if admission.run.is_some() || admission.limits.as_ref().is_some_and(|limits| !limits.runs().is_empty()) {
                    shared.witness.delivered(&admission.hold.claim.id, &admission.task, &admission.rule);
                }
                self.show(shared, *admission);
            }
        }
    }

    /// A delivery goes to the client as a task whose time has passed, if it has a header to say so.
    fn show_killed(&mut self, shared: &mut Shared, mut admission: Box<Admission>) {
        let Some(frames) = admission.killed() else {
            return self.drop_unrun(shared, &admission);
        };
        admission.frames = frames;
        admission.run = None;
        admission.limits = None;
        admission.hold.lock = None;
        self.show(shared, *admission);
    }

    fn drop_unrun(&mut self, shared: &mut Shared, admission: &Admission) {
        self.ack_unrun(shared, admission.tag);
        shared.not_to_run(admission);
    }

    /// A delivery goes to the client.
    pub(super) fn show(&mut self, shared: &mut Shared, admission: Admission) {
        shared.note_handed(&admission);
        let Admission {
            mut frames,
            tag: broker,
            source,
            mut hold,
            run,
            limits,
            parking,
            ..
        } = admission;
        let tag = self.deliveries.number(broker);
        if tag != broker {
            encode::set_delivery_tag(&mut frames, tag);
        }
        self.put_in(shared, &frames);
        hold.run = run.map(|run| run.note);
        hold.limited = limits.map(|limits| limits.runs()).unwrap_or_default();
        let known = Known {
            task: Some(Arc::clone(&hold.claim.id)),
            asked: Some(hold.delivery),
            hold: (hold.lock.is_some() || hold.run.is_some() || !hold.limited.is_empty()).then_some(hold),
            source,
            parked: parking.newest.map(Box::new),
            reads: None,
        };
        self.windows.shows(source);
        self.deliveries.shown(tag, broker, known);
        self.schedule(shared, Place::Delivered(tag));
    }

    /// Acknowledges a delivery that the client is not shown, outside of its contents.
    pub(super) fn ack_unrun(&mut self, shared: &mut Shared, delivery_tag: u64) {
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

impl Shared {
    /// What is not to run since it has waited for too long frees its key.
    pub(super) fn frees_overdue(&mut self, admission: &Admission) {
        if admission.hold.lock.is_some() {
            let (id, worker) = (Arc::clone(&admission.hold.claim.id), Arc::clone(&self.worker));
            self.tell_signal(id, Signal::Rejected, Source::Other, worker, Some(admission.hold.delivery));
        }
    }

    /// The rule of a message and its limits, and its claim if its key has a lock that depends on what workers do.
    fn judged(
        &mut self,
        facts: &Facts<'_>,
        body: &Body,
        parked: Option<&Parked>,
        (id, queue): (&Arc<str>, Option<&Arc<str>>),
    ) -> Option<(Option<Claimed>, Arc<Rule>, Vec<Limiting>)> {
        let (claimed, limited) = self.claim(facts, body, parked);
        let claimed = claimed.filter(|claimed| claimed.rule.mode == Mode::Enforce && claimed.scope != Some(Scope::UntilExpired));
        let mut limiting = Vec::new();
        if let Some(rule) = &limited {
            let queue = queue.cloned().unwrap_or_default();
            match rule.limiting(facts, body, id, &queue) {
                Ok(all) => limiting = all,
                Err((reason, detail)) => self.events.push(Event::Unlimited {
                    rule: Arc::clone(rule),
                    reason,
                    detail,
                    task: Arc::from(&*facts.task.name),
                    id: Arc::clone(id),
                }),
            }
        }
        if claimed.is_none() && limiting.is_empty() {
            return None;
        }
        let rule = claimed.as_ref().map(|claimed| Arc::clone(&claimed.rule)).or(limited)?;
        Some((claimed, rule, limiting))
    }

    /// The claim of a message, or of one that was parked, and the rule by whose limits it goes.
    fn claim(&self, facts: &Facts<'_>, body: &Body, parked: Option<&Parked>) -> (Option<Claimed>, Option<Arc<Rule>>) {
        let now_ms = self.now.unix_ms;
        if let Some(parked) = parked {
            let claimed = self.rules.claim_again(&parked.rule, parked.digest, facts, body, now_ms);
            let rule = claimed.as_ref().map(|claimed| Arc::clone(&claimed.rule));
            let rule = rule.or_else(|| self.rules.named(&parked.rule));
            return (claimed, rule.filter(|rule| rule.is_limited() && rule.mode == Mode::Enforce));
        }
        let verdict = self.rules.decide(facts, body, now_ms);
        let limited = verdict.limited().cloned();
        match verdict {
            Verdict::Claim(claimed) => (Some(claimed), limited),
            _ => (None, limited),
        }
    }

    /// Counts and logs what became of a delivery.
    pub(super) fn admission(&mut self, admission: &Admission, decision: DeliveryDecision, reason: &'static str, holder: Option<Arc<str>>) {
        self.events.push(Event::Admission(DeliveryEvent {
            rule: Arc::clone(&admission.rule),
            decision,
            reason,
            id: Arc::clone(&admission.hold.claim.id),
            task: Arc::clone(&admission.task),
            digest: admission.hold.claim.digest,
            holder,
            limit: admission.limit_wait(),
        }));
    }
}

/// The method and the content header of a delivery.
pub(super) fn delivery_parts(collect: &Collect) -> Option<(basic::Deliver<'_>, ContentHeader<'_>)> {
    let Split::Frame(method) = frame::split(&collect.frames, usize::MAX) else {
        return None;
    };
    let Split::Frame(header) = frame::split(collect.frames.get(collect.header_at..)?, usize::MAX) else {
        return None;
    };
    Some((basic::Deliver::decode(method.payload)?, ContentHeader::decode(header.payload)?))
}

/// How often the broker has had this message back, as quorum queues count it.
fn delivery_count(header: &ContentHeader<'_>) -> Option<u64> {
    let headers = header.properties.headers;
    let count = headers.and_then(|headers| headers.get(b"x-delivery-count").ok().flatten());
    count.and_then(|count| count.as_i64()).and_then(|count| u64::try_from(count).ok())
}
