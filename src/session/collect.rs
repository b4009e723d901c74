//! From the frames of a publish to a decision about it.

use std::sync::Arc;

use super::agenda::Place;
use super::beat::Beat;
use super::channel::{Channel, Collect, Up};
use super::event::Event;
use super::owed::Caller;
use super::publish::{Grant, Origin, Publish, Wait, Waiting};
use super::query::is_reply;
use super::read::is_value;
use super::{Shared, Ticket, hear};
use crate::amqp::content::{ContentHeader, Properties};
use crate::amqp::frame::{self, Frame, Split};
use crate::amqp::method::basic;
use crate::celery::{Limits, Unreadable, accumulate, routing, task};
use crate::rules::lock::{Claim, Request, Signal};
use crate::rules::outcome::{ExceptionReason, PublishDecision, UnkeyableReason};
use crate::rules::source::Source;
use crate::rules::spec::Mode;
use crate::rules::{Claimed, Facts, Verdict};

impl Channel {
    /// The content header of a publish: it passes, unless a rule may concern it; then it is read in full.
    pub(super) fn client_header(&mut self, shared: &mut Shared, frame: &Frame<'_>) {
        let Up::Method(mut frames) = std::mem::replace(&mut self.up, Up::Idle) else {
            self.pass_on(shared, frame.raw);
            return;
        };
        let header_at = frames.len();
        frames.extend_from_slice(frame.raw);
        let header = ContentHeader::decode(frame.payload);
        let left = header.as_ref().map_or(0, |header| header.body_size);
        let answers =
            |header: &ContentHeader<'_>| may_be_answer(header) && publish_method(&frames).is_some_and(|(publish, _)| is_value(&publish));
        let concerned = !self.tx && header.as_ref().is_some_and(|header| concerned(shared, header) || answers(header));
        if !concerned || left > shared.settings.max_message as u64 {
            if concerned {
                too_large(shared, header.as_ref(), "more than proxy.max_message");
            } else {
                shared.counts.unmatched_publishes += 1;
            }
            self.pass_publish(shared, frames, left);
            return;
        }
        shared.held_bytes += frames.len();
        let body_at = frames.len();
        frames.reserve_exact(room_for(left));
        self.up = Up::Collecting(Box::new(Collect {
            frames,
            header_at,
            body_at,
            body_frames: 0,
            left,
        }));
        if left == 0 {
            self.publish_complete(shared);
        }
    }

    /// The first frames of a publish that no rule concerns.
    fn pass_publish(&mut self, shared: &mut Shared, frames: Vec<u8>, left: u64) {
        let client = self.ledger.arrive();
        if self.queue.is_empty() {
            shared.to_broker.extend_from_slice(&frames);
            self.ledger.sent(client, None);
        } else {
            shared.held_bytes += frames.len();
            self.queue.push(Waiting::Passing { frames, client });
        }
        self.up = if left == 0 { Up::Idle } else { Up::Passing(left) };
    }

    /// A body frame.
    pub(super) fn client_body(&mut self, shared: &mut Shared, frame: &Frame<'_>) {
        let size = frame.payload.len() as u64;
        match &mut self.up {
            Up::Passing(left) => {
                *left = left.saturating_sub(size);
                let ends = *left == 0;
                if ends {
                    self.up = Up::Idle;
                }
                match self.queue.back_mut() {
                    Some(Waiting::Passing { frames, .. }) => {
                        shared.held_bytes += frame.raw.len();
                        frames.extend_from_slice(frame.raw);
                    }
                    _ => self.pass_on(shared, frame.raw),
                }
                if ends {
                    self.publish_ends(shared);
                }
            }
            Up::Collecting(collect) => {
                shared.held_bytes += frame.raw.len();
                collect.frames.extend_from_slice(frame.raw);
                collect.body_frames += 1;
                // More octets than the header announced: the broker answers 501; nothing is decided about such a publish.
                let Some(left) = collect.left.checked_sub(size) else {
                    return self.oversized_body(shared);
                };
                collect.left = left;
                if left == 0 {
                    self.publish_complete(shared);
                }
            }
            Up::Idle | Up::Method(_) => self.pass_on(shared, frame.raw),
        }
    }

    /// A publish that is being read in full goes on unread, as one above `max_message` does.
    pub(super) fn stop_collecting(&mut self, shared: &mut Shared) {
        // Behind others it would not leave the memory.
        if !self.queue.is_empty() || !matches!(self.up, Up::Collecting(_)) {
            return;
        }
        if let Up::Collecting(collect) = std::mem::replace(&mut self.up, Up::Idle) {
            shared.held_bytes -= collect.frames.len();
            if let Some(Split::Frame(header)) = collect.frames.get(collect.header_at..).map(|rest| frame::split(rest, usize::MAX)) {
                too_large(
                    shared,
                    ContentHeader::decode(header.payload).as_ref(),
                    "the memory of the connection is full (proxy.connection_memory)",
                );
            }
            self.pass_publish(shared, collect.frames, collect.left);
        }
    }

    fn oversized_body(&mut self, shared: &mut Shared) {
        if let Up::Collecting(collect) = std::mem::replace(&mut self.up, Up::Idle) {
            shared.held_bytes -= collect.frames.len();
            self.pass_on(shared, &collect.frames);
        }
    }

    /// A publish has been read in full: it is decided, and asked about if a rule gives it a key.
    fn publish_complete(&mut self, shared: &mut Shared) {
        let Up::Collecting(collect) = std::mem::replace(&mut self.up, Up::Idle) else {
            return;
        };
        shared.held_bytes -= collect.frames.len();
        if self.swallows(shared, &collect) {
            return;
        }
        let Judged {
            grant,
            beat,
            frames: rewritten,
        } = judge(shared, &collect);
        let Collect { frames, header_at, .. } = *collect;
        let frames = rewritten.unwrap_or(frames);
        let client = self.ledger.arrive();
        let bits_at = publish_method(&frames).map_or(0, |(publish, payload_at)| payload_at + publish.bits_offset);
        let mut publish = Publish {
            frames,
            client,
            bits_at,
            grant,
            beat,
        };
        if let Some(grant) = &mut publish.grant {
            shared.write_expiry(grant, &mut publish.frames, header_at);
            grant.arrived_us = shared.now.us;
            grant.leased_us = shared.now.us;
            grant.may_be_refused(client);
        }
        if publish.rule().is_none_or(|rule| rule.mode == Mode::Observe) {
            shared.observe(&mut publish);
            self.in_turn(shared, publish);
            return;
        }
        let ticket = Ticket::at(self.queue.next_position(), self.number);
        publish.ask(shared, ticket);
        shared.held_bytes += publish.frames.len();
        self.queue.push(Waiting::Publish {
            ticket: Some(ticket),
            wait: Wait::Answer,
            publish,
        });
    }

    /// True if this publish is for Oncegate itself.
    fn swallows(&mut self, shared: &mut Shared, collect: &Collect) -> bool {
        // The routing key tells; nothing more of other publishes is looked at here.
        let is_own = |publish: &basic::Publish<'_>| is_reply(shared, publish) || is_value(publish);
        let Some((publish, _)) = publish_method(&collect.frames).filter(|(publish, _)| is_own(publish)) else {
            return false;
        };
        let Some(Split::Frame(frame)) = collect.frames.get(collect.header_at..).map(|rest| frame::split(rest, usize::MAX)) else {
            return false;
        };
        let Some(header) = ContentHeader::decode(frame.payload) else {
            return false;
        };
        if is_value(&publish) {
            self.take_value(shared, &publish, &header.properties, &body_of(collect));
        } else {
            self.take_reply(shared, &publish, &header.properties, &body_of(collect));
        }
        true
    }

    /// Sends a publish that waits for no answer, in its turn.
    fn in_turn(&mut self, shared: &mut Shared, publish: Publish) {
        if self.queue.is_empty() {
            self.send(shared, publish);
        } else {
            let position = self.queue.next_position();
            shared.held_bytes += publish.frames.len();
            self.queue.push(Waiting::Publish {
                ticket: None,
                wait: Wait::Turn,
                publish,
            });
            self.schedule(shared, Place::Queue(position));
        }
    }
}

/// How much room the body frames of a content take, mostly one, for which the memory is had at once.
pub(super) fn room_for(body: u64) -> usize {
    const AT_ONCE: u64 = 4 * 1024;
    if body == 0 {
        0
    } else {
        body.min(AT_ONCE) as usize + frame::HEADER_LEN + 1
    }
}

/// True if a rule may concern a message with this header.
pub(super) fn concerned(shared: &Shared, header: &ContentHeader<'_>) -> bool {
    match task::peek(&header.properties) {
        Some(name) => shared.rules.may_match(name),
        // A task of protocol 1 shows itself only by its body.
        None => !shared.rules.is_empty() && header.properties.content_type.is_some(),
    }
}

/// True if a message with this header may be a worker's answer to Oncegate.
pub(super) fn may_be_answer(header: &ContentHeader<'_>) -> bool {
    task::peek(&header.properties) == Some(accumulate::TASK.as_bytes())
}

fn too_large(shared: &mut Shared, header: Option<&ContentHeader<'_>>, why: &str) {
    let Some(name) = header.and_then(|header| task::peek(&header.properties)) else {
        return;
    };
    let Some(rule) = shared.rules.first_for_task(name) else { return };
    let size = header.map_or(0, |header| header.body_size);
    shared.events.push(Event::Unkeyable {
        rule,
        reason: UnkeyableReason::TooLarge,
        detail: format!("the body has {size} bytes: {why}"),
        task: String::from_utf8_lossy(name).as_ref().into(),
        id: "".into(),
    });
}

/// The publish method at the head of some frames, and where its payload begins.
fn publish_method(frames: &[u8]) -> Option<(basic::Publish<'_>, usize)> {
    let Split::Frame(frame) = frame::split(frames, usize::MAX) else {
        return None;
    };
    Some((basic::Publish::decode(frame.payload)?, frame::HEADER_LEN))
}

/// The body of a collected message, in one piece.
pub(super) fn body_of(collect: &Collect) -> std::borrow::Cow<'_, [u8]> {
    let mut rest = collect.frames.get(collect.body_at..).unwrap_or_default();
    if collect.body_frames == 1
        && let Split::Frame(frame) = frame::split(rest, usize::MAX)
    {
        return frame.payload.into();
    }
    let mut body = Vec::with_capacity(rest.len());
    while let Split::Frame(frame) = frame::split(rest, usize::MAX) {
        body.extend_from_slice(frame.payload);
        rest = rest.get(frame.raw.len()..).unwrap_or_default();
    }
    body.into()
}

/// What the rules say of a publish.
#[derive(Default)]
struct Judged {
    /// The claim that it makes, if it makes one.
    grant: Option<Box<Grant>>,
    /// The entry of a schedule that it is of, if the store is to be asked whose that is.
    beat: Option<Box<Beat>>,
    /// Its frames, if they are to be others than came.
    frames: Option<Vec<u8>>,
}

/// Who decides: the rules. What else they say is told as events.
fn judge(shared: &mut Shared, collect: &Collect) -> Judged {
    let Some((publish, header)) = method_and_header(collect) else {
        return Judged::default();
    };
    let body = body_of(collect);
    if hear::hear(shared, &publish, &header.properties, &body) {
        shared.counts.unmatched_publishes += 1;
        return Judged::default();
    }
    let routing_key_octets = routing::strip_delay(publish.exchange, publish.routing_key).unwrap_or(publish.routing_key);
    let exchange = String::from_utf8_lossy(publish.exchange);
    let routing_key = String::from_utf8_lossy(routing_key_octets);
    let rules = Arc::clone(&shared.rules);
    let limits = Limits::new(shared.settings.max_message);
    let (task, body) = match task::read_with_body(&header.properties, &body, limits) {
        Ok(Some(message)) => message,
        Ok(None) => {
            shared.counts.unmatched_publishes += 1;
            return Judged::default();
        }
        Err(unreadable) => {
            unkeyable(shared, &header, reason_of(&unreadable), unreadable.to_string());
            return Judged::default();
        }
    };
    let asked = publish.exchange.is_empty() || rules.asks_for_queue();
    let queues = asked
        .then(|| shared.topology.route(publish.exchange, publish.routing_key))
        .flatten();
    let vhost = Arc::clone(&shared.vhost);
    let user = shared.user.clone();
    let facts = Facts {
        task: &task,
        vhost: &vhost,
        user: user.as_deref(),
        queues: queues.as_deref(),
        exchange: &exchange,
        routing_key: &routing_key,
    };
    let mut decided = shared.decide(&rules, &facts, &body, collect);
    if let Verdict::Claim(claimed) = &mut decided.verdict {
        claimed.owed = shared.owed_to(&claimed.owed, &header.properties, &task.id, Caller::Here);
    }
    let queue = match queues.as_deref() {
        Some([queue]) => Arc::clone(queue),
        _ => Arc::from(""),
    };
    let told = shared.events.len();
    let grant = conclude(shared, decided.verdict, &task, queue);
    let beat = decided.entry.map(|entry| {
        Box::new(Beat {
            entry,
            task: Arc::from(&*task.name),
            id: Arc::from(&*task.id),
            arrived_us: shared.now.us,
            told: shared.events.split_off(told),
        })
    });
    Judged {
        grant,
        beat,
        frames: decided.frames,
    }
}

/// The method and the header of a collected publish.
fn method_and_header(collect: &Collect) -> Option<(basic::Publish<'_>, ContentHeader<'_>)> {
    let (publish, _) = publish_method(&collect.frames)?;
    let Split::Frame(header_frame) = frame::split(collect.frames.get(collect.header_at..)?, usize::MAX) else {
        return None;
    };
    Some((publish, ContentHeader::decode(header_frame.payload)?))
}

fn unkeyable(shared: &mut Shared, header: &ContentHeader<'_>, reason: UnkeyableReason, detail: String) {
    let name = task::peek(&header.properties).unwrap_or_default();
    let Some(rule) = shared.rules.first_for_task(name) else {
        shared.counts.unmatched_publishes += 1;
        return;
    };
    let id = task_id(&header.properties).unwrap_or_default();
    shared.events.push(Event::Unkeyable {
        rule,
        reason,
        detail,
        task: String::from_utf8_lossy(name).as_ref().into(),
        id: String::from_utf8_lossy(id).as_ref().into(),
    });
}

/// Turns the rules' verdict into a claim, or into the event that tells why there is none.
fn conclude(shared: &mut Shared, verdict: Verdict, task: &task::Task<'_>, queue: Arc<str>) -> Option<Box<Grant>> {
    let id: Arc<str> = Arc::from(&*task.id);
    match verdict {
        Verdict::Unmatched { queue_unknown } => {
            shared.counts.unmatched_publishes += 1;
            if let Some(rule) = queue_unknown {
                shared.events.push(Event::Exception {
                    rule: Some(rule),
                    reason: ExceptionReason::QueueUnknown,
                });
            }
            None
        }
        Verdict::Keyless { rule } => {
            shared.pass_keyless(rule, task);
            None
        }
        Verdict::WhenError { rule, .. } => {
            shared.events.push(Event::Exception {
                rule: Some(rule),
                reason: ExceptionReason::WhenError,
            });
            None
        }
        Verdict::Bypassed { rule, reason } => {
            shared.events.push(Event::Publish(super::event::PublishEvent {
                rule,
                decision: PublishDecision::Bypassed,
                reason: reason.as_str(),
                id,
                task: Arc::from(&*task.name),
                digest: None,
                holder: None,
            }));
            None
        }
        Verdict::Unkeyable { rule, reason, detail } => {
            shared.events.push(Event::Unkeyable {
                rule,
                reason,
                detail,
                task: Arc::from(&*task.name),
                id,
            });
            None
        }
        Verdict::Claim(claimed) => {
            shared.tell_republished(&claimed, task, &id);
            let Some(note) = claimed.note(Arc::from(&*task.name), queue).map(Arc::new) else {
                run_alone(shared, claimed, task, id);
                return None;
            };
            let publish = shared.nonce();
            Some(Box::new(Grant {
                publish,
                claim: Claim {
                    digest: claimed.digest,
                    id,
                },
                rule: claimed.rule,
                arrived_us: 0,
                leased_us: 0,
                own_mandatory: false,
                returned: false,
                origin: if task.retries > 0 || task.replaced_task_nesting > 0 {
                    Origin::Before
                } else if task.parent_id.is_some() {
                    Origin::Task
                } else {
                    Origin::Caller
                },
                owed: claimed.owed,
                note,
                expiry: claimed.expiry,
                eta_ms: task.eta,
                due_ms: None,
            }))
        }
    }
}

/// A publish whose key is locked for runs only: it passes.
fn run_alone(shared: &mut Shared, claimed: Claimed, task: &task::Task<'_>, id: Arc<str>) {
    shared.events.push(Event::Publish(super::event::PublishEvent {
        rule: claimed.rule,
        decision: PublishDecision::Forwarded,
        reason: "runs_alone",
        id,
        task: Arc::from(&*task.name),
        digest: Some(claimed.digest),
        holder: None,
    }));
}

/// The task id as the properties show it: Celery sets it in both places, and without a header the message is of protocol 1.
pub(super) fn task_id<'a>(properties: &Properties<'a>) -> Option<&'a [u8]> {
    match properties.headers.and_then(|headers| headers.get(b"id").ok().flatten()) {
        Some(id) => id.as_octets(),
        None => properties.correlation_id,
    }
}

fn reason_of(unreadable: &Unreadable) -> UnkeyableReason {
    match unreadable {
        Unreadable::ContentType(_) => UnkeyableReason::ContentType,
        Unreadable::Pickle(_) => UnkeyableReason::Pickle,
        Unreadable::Compression(_) => UnkeyableReason::Compression,
        Unreadable::TooLarge(_) => UnkeyableReason::TooLarge,
    }
}

impl Shared {
    /// One of a task whose runs exclude each other, and that was tried before, tells that it will run again, and which try is over.
    fn tell_republished(&mut self, claimed: &Claimed, task: &task::Task<'_>, id: &Arc<str>) {
        let retries = task.retries;
        if retries == 0 || !claimed.runs_alone || claimed.rule.mode != Mode::Enforce {
            return;
        }
        self.run_ended(id);
        self.witness.heard(id, Signal::Retried, Source::Other, self.now.us);
        self.tells.push(Request::Republished {
            claim: Claim {
                digest: claimed.digest,
                id: Arc::clone(id),
            },
            retries,
        });
    }

    /// Asks the store about a claim.
    pub(super) fn ask(&mut self, ticket: Ticket, grant: &Grant) {
        debug_assert!(grant.rule.mode != Mode::Off, "a rule that is off claims nothing");
        self.asks.push((
            ticket.0,
            Request::Acquire {
                claim: grant.claim.clone(),
                publish: grant.publish,
                note: Arc::clone(&grant.note),
                reentrant: grant.origin == Origin::Before,
            },
        ));
    }
}
