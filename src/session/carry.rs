//! Deliveries that wait for the end of the holder of which they are duplicates, and then go to the worker as tasks that return its result.
//!
//! Such a message was not dropped when it was published: a canvas waits for its outcome, or only a worker can store it. It is held, and
//! parked, as one that waits for a run is. While it waits the store is asked about its admission again, which tells how far the holder is;
//! once that has ended, its result is asked for. The delivery is handed over rewritten ([`crate::celery::accumulate`]), or as a task whose
//! time has passed where the holder has failed or its result cannot be had: nothing that waits for it hangs. One with a `link_error` fails
//! instead, so that this is called.
//!
//! It has no lock meanwhile, so nothing is renewed. Where its holder is gone without a word (its lock has lapsed, its publish has failed,
//! an operator has freed it), the store decides about it as about any other: it may take the lock, and then runs itself.

use std::sync::Arc;

use super::admit::{Admission, Asks, Await, Way};
use super::agenda::Place;
use super::channel::Channel;
use super::event::Event;
use super::hold::{POLL_US, Until};
use super::read::{Fetch, Reading};
use super::{Now, Session, Shared, Ticket};
use crate::amqp::content::{Changes, ContentHeader, Properties, Property, rewrite};
use crate::amqp::frame::{self, END, FrameKind, Split};
use crate::amqp::table::FieldValue;
use crate::celery::accumulate::{self, End};
use crate::celery::body::{self, Encoding};
use crate::celery::{Limits, task};
use crate::rules::lock::{Admitted, Fate, LockNote};
use crate::rules::outcome::{DeliveryDecision, ExceptionReason};

/// For how long the result of a holder that has ended is waited for: its worker stores it before or after its end is told.
const AWAITED_MS: u64 = 5_000;

/// How soon after its end a worker is asked for the result of a holder: what its own worker has published may be on its way.
const UNREAD_MS: u64 = 1_000;

/// The reason that logs give where nobody knows the result.
const UNKNOWN: &str = "result_unknown";

/// For how long a backend that does not answer is waited for, from the end of the holder on.
const SILENCE_MS: u64 = 60_000;

/// The reason that logs give where a delivery gets the result of its holder.
pub const JOINED: &str = "joined";

/// Where the size of the body stands in a content header: behind class and weight.
const BODY_SIZE: std::ops::Range<usize> = 4..12;

/// What logs show of the result among the arguments, at most, in octets.
const REPR_MAX: usize = 1_000;

/// A delivery that waits for a holder.
#[derive(Debug)]
pub(super) struct Carry {
    /// What is to be written if it takes the lock itself.
    pub note: Arc<LockNote>,
    /// Since when it waits, in milliseconds since the Unix epoch.
    pub since_ms: Option<u64>,
    /// What the store has told of the holder last, if that has no lock any more.
    pub fate: Option<Fate>,
}

/// What the result backend has of a holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// It has succeeded with this value, which is JSON.
    Value(Arc<[u8]>),
    /// It has failed.
    Failed,
    /// It was revoked, or only said to be: idle workers write that over a task that runs elsewhere.
    Revoked,
    /// No end of it, or a result that cannot be read.
    Nothing,
    /// No backend is known that could be asked, or it holds a result that only a worker can read.
    Unread,
    /// It cannot be asked at the moment.
    Silent,
}

impl Session {
    /// The holders whose results are asked for; each gets one answer by [`Session::handle_fetched`].
    pub fn fetches(&mut self) -> &mut Vec<(Ticket, Fetch)> {
        &mut self.shared.fetches
    }

    /// What the result backend has of a holder.
    pub fn handle_fetched(&mut self, ticket: Ticket, fetched: &Fetched, now: Now) {
        self.shared.now = now;
        if let Some(channel) = self.channels.get_mut(ticket.channel()) {
            channel.fetched(&mut self.shared, ticket.position(), fetched);
        }
        self.settle();
    }
}

impl Admission {
    /// The store has found a holder that this delivery waits for. How it goes on.
    pub(super) fn waits_for(&mut self, holder: Arc<str>, fate: Option<Fate>, max_message: usize) -> Await {
        if !self.fits(max_message) {
            self.carry = None;
            return Await::Turn(Way::Unfit);
        }
        if let Some(carry) = &mut self.carry {
            carry.fate = fate;
        }
        self.hold.lock = None;
        self.asks = Asks::Admission;
        Await::Turn(Way::Held(Some(holder)))
    }

    /// It waits no longer, and may take the lock.
    pub(super) fn stops_waiting(&mut self) {
        if let Some(carry) = self.carry.take() {
            self.hold.lock = Some(carry.note);
        }
    }

    /// Whether it can be handed over as a task that returns a result.
    fn fits(&self, max_message: usize) -> bool {
        let limits = Limits::new(max_message);
        split(self.content()).is_some_and(|(header, body)| {
            ContentHeader::decode(header).is_some_and(|header| {
                let encoding = Encoding::of(&header.properties);
                has_headers(&header.properties) && encoding.is_ok_and(|encoding| accumulate::fits(&encoding, &body, limits))
            })
        })
    }

    /// Whether something is to be called if the task fails.
    fn has_errbacks(&self, max_message: usize) -> bool {
        split(self.content()).is_some_and(|(header, body)| {
            ContentHeader::decode(header)
                .and_then(|header| body::decode(&Encoding::of(&header.properties).ok()?, &body, Limits::new(max_message)).ok())
                .is_some_and(|body| body.canvas.errbacks)
        })
    }

    /// Its frames as those of a task that ends so; `None` if that cannot be written.
    pub(super) fn joined(&self, end: End<'_>, max_message: usize, frame_max: usize) -> Option<Vec<u8>> {
        let (method, content) = self.frames.split_at_checked(self.header_at)?;
        let (header, body) = split(content)?;
        let decoded = ContentHeader::decode(header)?;
        let encoding = Encoding::of(&decoded.properties).ok()?;
        let body = accumulate::body(&encoding, &body, end, Limits::new(max_message)).ok()?;
        let header = joined_header(header, &decoded.properties, end)?;
        let Split::Frame(raw) = frame::split(content, usize::MAX) else {
            return None;
        };
        let mut frames = method.to_vec();
        put_frame(&mut frames, FrameKind::Header, raw.channel, &sized(header, body.len())?)?;
        let room = frame_max.saturating_sub(frame::HEADER_LEN + 1).max(1);
        for part in body.chunks(room) {
            put_frame(&mut frames, FrameKind::Body, raw.channel, part)?;
        }
        Some(frames)
    }
}

/// The payload of the content header and the body of frames from the header on.
fn split(content: &[u8]) -> Option<(&[u8], Vec<u8>)> {
    let Split::Frame(header) = frame::split(content, usize::MAX) else {
        return None;
    };
    let mut rest = content.get(header.raw.len()..)?;
    let mut body = Vec::with_capacity(rest.len());
    while let Split::Frame(frame) = frame::split(rest, usize::MAX) {
        body.extend_from_slice(frame.payload);
        rest = rest.get(frame.raw.len()..).unwrap_or_default();
    }
    Some((header.payload, body))
}

/// Whether everything but the arguments stands in the headers (protocol 2), the time of expiry among it.
fn has_headers(properties: &Properties<'_>) -> bool {
    let expires = properties.headers.and_then(|headers| headers.get(b"expires").ok().flatten());
    task::peek(properties).is_some() && expires.is_some()
}

/// The content header of the task that ends so. Its true name becomes its shadow, which logs and events show.
fn joined_header(header: &[u8], properties: &Properties<'_>, end: End<'_>) -> Option<Vec<u8>> {
    let headers = properties.headers?;
    let shadow = match headers.get(b"shadow").ok()? {
        Some(shadow @ FieldValue::LongStr(_)) => shadow,
        _ => FieldValue::LongStr(task::peek(properties)?),
    };
    let mut repr = b"(".to_vec();
    match end {
        End::Returns(result) => {
            repr.extend_from_slice(result.get(..REPR_MAX).unwrap_or(result));
            repr.extend_from_slice(if result.len() > REPR_MAX { b"..." } else { b",)" });
        }
        End::Raises => repr.extend_from_slice(b"<a duplicate of a task that has not succeeded>)"),
    }
    let text = |text: &'static str| text.as_bytes();
    let sets = [
        (text("task"), FieldValue::LongStr(text(accumulate::TASK))),
        (text("shadow"), shadow),
        (text("eta"), FieldValue::Void),
        (text("argsrepr"), FieldValue::LongStr(&repr)),
        (text("kwargsrepr"), FieldValue::LongStr(text(accumulate::KWARGS_REPR))),
    ];
    rewrite(
        header,
        &Changes {
            drops: |_| false,
            sets: &sets,
            expiration: Property::Keep,
            user_id: Property::Keep,
        },
    )
    .ok()
}

/// The same header for a body of this size.
fn sized(mut header: Vec<u8>, size: usize) -> Option<Vec<u8>> {
    header.get_mut(BODY_SIZE)?.copy_from_slice(&(size as u64).to_be_bytes());
    Some(header)
}

fn put_frame(out: &mut Vec<u8>, kind: FrameKind, channel: u16, payload: &[u8]) -> Option<()> {
    out.push(kind.octet());
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend_from_slice(&u32::try_from(payload.len()).ok()?.to_be_bytes());
    out.extend_from_slice(payload);
    out.push(END);
    Some(())
}

impl Channel {
    /// The store has answered about a held delivery that waits for a holder.
    pub(super) fn carry_answered(&mut self, shared: &mut Shared, number: u64, admitted: Admitted) {
        let now = shared.now;
        let Some(held) = self.held.get_mut(number) else { return };
        let admission = &mut held.admission;
        match admitted {
            Admitted::Held { holder, .. } | Admitted::Leased { holder } | Admitted::Waits { holder, .. } => {
                shared.reads_anew(&holder);
                held.holder = Some(holder);
                if let Some(carry) = &mut admission.carry {
                    carry.fate = None;
                }
                self.waits_on(shared, number);
            }
            Admitted::Ended { holder, fate } => {
                held.holder = Some(holder);
                self.holder_ended(shared, number, fate);
            }
            Admitted::Superseded => self.let_go(shared, number, Way::Killed),
            Admitted::Outdated { newer } => self.let_go(shared, number, Way::Outdated(newer)),
            Admitted::Holds | Admitted::Passes => {
                admission.stops_waiting();
                let way = match admitted {
                    Admitted::Holds => Way::Holding,
                    _ => Way::Passing,
                };
                match admission.may_run(way, now) {
                    Await::Turn(Way::Held(_)) => {
                        held.holder = None;
                        held.until = Until::Poll(held.asks_us(now));
                        self.schedule(shared, Place::Held(number));
                    }
                    Await::Turn(way) => self.let_go(shared, number, way),
                    _ => {
                        held.holder = None;
                        held.until = Until::Poll(now.us);
                        self.schedule(shared, Place::Held(number));
                    }
                }
            }
        }
    }

    /// The holder has no lock any more, or one that rests.
    pub(super) fn holder_ended(&mut self, shared: &mut Shared, number: u64, fate: Fate) {
        let ticket = Ticket::of_held(number, self.number);
        let Some(held) = self.held.get_mut(number) else { return };
        if let Some(carry) = &mut held.admission.carry {
            carry.fate = Some(fate);
        }
        match (fate, held.holder.clone()) {
            (Fate::Failed, _) | (_, None) => self.let_go(shared, number, Way::Lost("holder_failed")),
            (_, Some(holder)) => {
                held.until = Until::Fetching;
                shared.fetch(ticket, holder);
            }
        }
    }

    fn fetched(&mut self, shared: &mut Shared, number: u64, fetched: &Fetched) {
        let Some(held) = self.held.get_mut(number) else { return };
        if !matches!(held.until, Until::Fetching) {
            return;
        }
        let fate = held.admission.carry.as_ref().and_then(|carry| carry.fate);
        let ended_ms = match fate {
            Some(Fate::Ended { since_ms }) => Some(since_ms),
            _ => None,
        };
        if matches!((fetched, ended_ms), (Fetched::Unread, Some(ended_ms)) if ended_ms >= UNREAD_MS) {
            return self.let_worker_read(shared, number);
        }
        match fetched {
            Fetched::Value(value) => {
                if let Some(holder) = held.holder.as_ref() {
                    shared.readings.remove(holder);
                }
                self.let_go(shared, number, Way::Joined(Arc::clone(value)));
            }
            Fetched::Failed => self.let_go(shared, number, Way::Lost("holder_failed")),
            Fetched::Nothing if ended_ms.is_some_and(|since| since >= AWAITED_MS) => self.let_go(shared, number, Way::Lost(UNKNOWN)),
            Fetched::Silent if ended_ms.is_some_and(|since| since >= SILENCE_MS) => self.let_go(shared, number, Way::Lost(UNKNOWN)),
            Fetched::Revoked if ended_ms.is_some() => self.let_go(shared, number, Way::Lost("holder_failed")),
            Fetched::Nothing | Fetched::Silent | Fetched::Unread | Fetched::Revoked => self.waits_on(shared, number),
        }
    }

    /// Only a worker can read the result of the holder: this one is asked, once for all that wait here.
    fn let_worker_read(&mut self, shared: &mut Shared, number: u64) {
        let Some(held) = self.held.get_mut(number) else { return };
        let (consumer, queue) = (held.admission.consumer().to_vec(), held.admission.parking.queue.clone());
        let (Some(holder), Some(queue)) = (held.holder.clone(), queue) else {
            return self.let_go(shared, number, Way::Lost(UNKNOWN));
        };
        match shared.readings.get(&holder).copied() {
            Some(Reading::Taken(us)) if shared.now.us.saturating_sub(us) >= AWAITED_MS * 1000 => {
                shared.readings.remove(&holder);
                self.let_go(shared, number, Way::Lost(UNKNOWN));
            }
            Some(_) => self.waits_on(shared, number),
            None if self.read_result(shared, &consumer, &queue, &holder) => self.waits_on(shared, number),
            None => self.let_go(shared, number, Way::Lost(UNKNOWN)),
        }
    }

    /// It waits on, held or parked.
    fn waits_on(&mut self, shared: &mut Shared, number: u64) {
        let now_us = shared.now.us;
        let Some(held) = self.held.get_mut(number) else { return };
        held.until = Until::Poll(now_us + POLL_US);
        if held.park_us <= now_us {
            return self.park(shared, number);
        }
        self.schedule(shared, Place::Held(number));
    }
}

impl Channel {
    /// A delivery goes to the client as a task that returns this value.
    pub(super) fn joins(&mut self, shared: &mut Shared, mut admission: Box<Admission>, value: &[u8]) {
        let written = admission.joined(End::Returns(value), shared.settings.max_message, shared.frame_max);
        let Some(frames) = written else {
            return self.loses(shared, admission, "result_unwritable");
        };
        shared.admission(&admission, DeliveryDecision::Joined, JOINED, None);
        admission.frames = frames;
        self.show_carried(shared, admission);
    }

    /// A delivery goes to the client as a task whose time has passed; or as one that fails, where something is to be called then: of a task
    /// whose time has passed Celery calls nothing.
    pub(super) fn loses(&mut self, shared: &mut Shared, mut admission: Box<Admission>, reason: &'static str) {
        shared.admission(&admission, DeliveryDecision::Joined, reason, None);
        let fails = admission
            .has_errbacks(shared.settings.max_message)
            .then(|| admission.joined(End::Raises, shared.settings.max_message, shared.frame_max));
        // Where that cannot be said it has been found unfit.
        if let Some(frames) = fails.flatten().or_else(|| admission.killed()) {
            admission.frames = frames;
        }
        self.show_carried(shared, admission);
    }

    fn show_carried(&mut self, shared: &mut Shared, mut admission: Box<Admission>) {
        admission.run = None;
        admission.limits = None;
        admission.hold.lock = None;
        self.show(shared, *admission);
    }
}

impl Shared {
    /// A delivery that should wait for its holder runs instead: it cannot be rewritten.
    pub(super) fn not_carried(&mut self, admission: &Admission) {
        self.events.push(Event::Exception {
            rule: Some(Arc::clone(&admission.rule)),
            reason: ExceptionReason::NotJoined,
        });
    }
}
