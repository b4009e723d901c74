//! What leaves to the broker and in which order, and what its word on it settles.

use super::Shared;
use super::agenda::Place;
use super::channel::{Channel, Down, Up};
use super::confirm::{Outcome, UnknownTag};
use super::publish::{Grant, Publish, Wait, Waiting};
use crate::amqp::encode;
use crate::amqp::method::MethodId;
use crate::rules::lock::{ReleaseReason, Request};

impl Channel {
    /// Forwards frames in their turn.
    pub(super) fn pass_on(&mut self, shared: &mut Shared, frames: &[u8]) {
        if self.queue.is_empty() {
            shared.to_broker.extend_from_slice(frames);
            return;
        }
        shared.held_bytes += frames.len();
        if let Some(Waiting::Frames(bytes)) = self.queue.back_mut() {
            bytes.extend_from_slice(frames);
        } else {
            self.queue.push(Waiting::Frames(frames.to_vec()));
        }
    }

    /// Sends what has a turn and may have to wait even then.
    pub(super) fn wait_in_turn(&mut self, shared: &mut Shared, item: Waiting) {
        let position = self.queue.next_position();
        shared.held_bytes += item.size();
        self.queue.push(item);
        self.advance(shared);
        self.schedule(shared, Place::Queue(position));
    }

    /// Sends whatever has reached its turn, and the confirms that are due.
    pub(super) fn advance(&mut self, shared: &mut Shared) {
        while let Some(front) = self.queue.front() {
            match front {
                Waiting::Publish { wait: Wait::Turn, .. } | Waiting::Passing { .. } | Waiting::Frames(_) | Waiting::Gone => {}
                Waiting::Publish { .. } => break,
                Waiting::Close { until_us, .. } => {
                    let waits = self.ledger.open_grants() > 0 || !self.kept.is_empty() || !self.dead_letters.is_empty();
                    if waits && shared.now.us < *until_us {
                        break;
                    }
                    self.send_all_kept(shared, "channel_closing");
                }
                Waiting::Transaction { until_us, .. } => {
                    if !self.kept.is_empty() && shared.now.us < *until_us {
                        break;
                    }
                    self.send_all_kept(shared, "tx_select");
                }
            }
            let Some(item) = self.queue.pop() else { break };
            shared.held_bytes -= item.size();
            match item {
                Waiting::Publish { publish, .. } => self.send(shared, publish),
                Waiting::Passing { frames, client } => {
                    shared.to_broker.extend_from_slice(&frames);
                    self.ledger.sent(client, None);
                }
                Waiting::Frames(frames) => {
                    self.frames_leave(&frames);
                    shared.to_broker.extend_from_slice(&frames);
                }
                Waiting::Close { frame, .. } | Waiting::Transaction { frame, .. } => shared.to_broker.extend_from_slice(&frame),
                Waiting::Gone => {}
            }
        }
        self.write_confirms(shared);
    }

    /// True while the broker has been sent the beginning of a publish and not yet its end.
    pub(super) fn inside_publish(&self) -> bool {
        // What waits behind others has not begun to leave.
        matches!(self.up, Up::Passing(_)) && self.queue.is_empty()
    }

    /// The client's content has ended: what waited for that goes.
    pub(super) fn publish_ends(&mut self, shared: &mut Shared) {
        shared.to_broker.append(&mut self.own_acks);
        while let Some(publish) = self.after_publish.pop() {
            shared.held_bytes -= publish.frames.len();
            self.send(shared, publish);
        }
    }

    /// A `confirm.select` that waited counts from where it leaves.
    fn frames_leave(&mut self, frames: &[u8]) {
        if self.ledger.client_confirms() && !self.ledger.counting() {
            let mut rest = frames;
            while let crate::amqp::frame::Split::Frame(frame) = crate::amqp::frame::split(rest, usize::MAX) {
                if frame.method_id() == Some(MethodId::CONFIRM_SELECT) {
                    self.ledger.broker_counts();
                }
                rest = rest.get(frame.raw.len()..).unwrap_or_default();
            }
        }
    }

    /// Writes a publish to the broker, whole, and notes what its confirm will settle.
    pub(super) fn send(&mut self, shared: &mut Shared, publish: Publish) {
        let Publish {
            mut frames,
            client,
            bits_at,
            grant,
            ..
        } = publish;
        let Some(mut grant) = grant else {
            shared.to_broker.extend_from_slice(&frames);
            self.ledger.sent(client, None);
            return;
        };
        shared.counts.added_us.push((shared.now.us - grant.arrived_us) as u32);
        Shared::write_due(&grant, &mut frames, shared.frame_max);
        if !grant.observes() {
            if !self.ledger.counting() && shared.settings.upstream_confirms {
                encode::confirm_select(&mut shared.to_broker, self.number, true);
                self.ledger.broker_counts();
            }
            if self.ledger.counting() && frames.get(bits_at).is_some_and(|bits| bits & 1 == 0) {
                if let Some(bits) = frames.get_mut(bits_at) {
                    *bits |= 1;
                }
                grant.own_mandatory = true;
            }
        }
        shared.to_broker.extend_from_slice(&frames);
        if self.ledger.counting() {
            if let Some(tag) = self.ledger.sent(client, Some(grant)) {
                self.schedule(shared, Place::Sent(tag));
            }
        } else {
            shared.tells.push(Request::Commit {
                claim: grant.claim,
                publish: grant.publish,
                note: grant.note,
            });
        }
    }

    /// Writes the confirms that are due to the client, at a content boundary.
    pub(super) fn write_confirms(&mut self, shared: &mut Shared) {
        if !self.ledger.has_confirms() {
            return;
        }
        if matches!(self.down, Down::Idle) {
            self.ledger.write_confirms(self.number, &mut shared.to_client);
        } else {
            self.ledger.write_confirms(self.number, &mut self.after_content);
        }
    }

    /// The broker's word on one publish or several. True if the frame may go on to the client as it is.
    pub(super) fn broker_confirms(&mut self, shared: &mut Shared, tag: u64, multiple: bool, outcome: Outcome) -> Result<bool, UnknownTag> {
        if !self.ledger.counting() {
            return Ok(true);
        }
        let before = self.ledger.open_grants();
        self.ledger
            .resolve(tag, multiple, outcome, |grant| shared.broker_spoke(grant, outcome))?;
        let verbatim = self.ledger.aligned();
        if verbatim {
            self.ledger.told();
        }
        if before > 0 && !self.queue.is_empty() {
            self.advance(shared);
        }
        Ok(verbatim)
    }

    /// The broker has closed the channel and ignores its contents, and yet reads them as frames: the rest of one that has begun will
    /// pass as it comes, so its beginning must have gone before it.
    pub(super) fn pass_what_has_begun(&mut self, shared: &mut Shared) {
        match std::mem::replace(&mut self.up, Up::Idle) {
            Up::Method(frames) => shared.to_broker.extend_from_slice(&frames),
            Up::Collecting(collect) => {
                shared.held_bytes -= collect.frames.len();
                shared.to_broker.extend_from_slice(&collect.frames);
            }
            Up::Passing(_) => {
                if let Some(Waiting::Passing { frames, .. }) = self.queue.back_mut() {
                    shared.to_broker.extend_from_slice(frames);
                }
            }
            Up::Idle => {}
        }
    }

    /// The channel is lost: what the broker has not spoken on is unconfirmed, what waits is gone.
    pub(super) fn lost(&mut self, shared: &mut Shared) {
        self.forget_arrivals(shared);
        self.forget_held(shared);
        shared.forget_next(&self.life);
        self.own_acks = Vec::new();
        for grant in self.ledger.take_grants() {
            shared.unpublish(&grant, ReleaseReason::Unconfirmed);
        }
        while let Some(item) = self.queue.pop() {
            shared.held_bytes -= item.size();
            match item {
                Waiting::Publish {
                    ticket: Some(ticket),
                    publish,
                    wait,
                } if wait.is_asked() => shared.abandon(ticket, publish.asked_grant()),
                Waiting::Publish { publish, .. } => {
                    if let Some(grant) = publish.grant {
                        shared.unpublish(&grant, ReleaseReason::Unconfirmed);
                    }
                }
                // The client asked to close; the broker answers that even now.
                Waiting::Close { frame, .. } => shared.to_broker.extend_from_slice(&frame),
                Waiting::Passing { .. } | Waiting::Frames(_) | Waiting::Transaction { .. } | Waiting::Gone => {}
            }
        }
        self.forget_kept(shared);
        self.forget_dead_letters(shared);
        if let Up::Collecting(collect) = std::mem::replace(&mut self.up, Up::Idle) {
            shared.held_bytes -= collect.frames.len();
        }
        self.deliveries.clear();
        self.declarations_lost(shared);
    }
}

impl Shared {
    /// The broker has spoken on a claim's publish.
    fn broker_spoke(&mut self, grant: Box<Grant>, outcome: Outcome) {
        match outcome {
            _ if grant.returned => {}
            Outcome::Ack => self.tells.push(Request::Commit {
                claim: grant.claim,
                publish: grant.publish,
                note: grant.note,
            }),
            Outcome::Nack => self.unpublish(&grant, ReleaseReason::Unconfirmed),
        }
    }

    /// The broker does not have this claim's message.
    pub(super) fn unpublish(&mut self, grant: &Grant, reason: ReleaseReason) {
        self.tells.push(Request::Unpublish {
            claim: grant.claim.clone(),
            publish: grant.publish,
            reason,
        });
    }
}
