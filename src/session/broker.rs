//! What the broker sends on one channel.

use std::sync::Arc;

use super::Shared;
use super::channel::{Channel, Down, Life};
use super::collect::{concerned, task_id};
use super::confirm::{Outcome, UnknownTag};
use super::deliver::{Consumer, Standing};
use super::event::Event;
use super::window::Via;
use crate::amqp::content::ContentHeader;
use crate::amqp::encode;
use crate::amqp::frame::{Frame, FrameKind};
use crate::amqp::method::{MethodId, basic};
use crate::celery::task;
use crate::rules::lock::ReleaseReason;

impl Channel {
    /// A frame of the broker on this channel whose turn has come.
    pub(super) fn broker_frame_in_turn(&mut self, shared: &mut Shared, frame: &Frame<'_>) -> Result<(), UnknownTag> {
        match frame.kind {
            FrameKind::Method => return self.broker_method(shared, frame),
            FrameKind::Header => self.broker_header(shared, frame),
            FrameKind::Body => match &mut self.down {
                Down::Swallowing(left) => {
                    *left = left.saturating_sub(frame.payload.len() as u64);
                    self.broker_body_ends(shared);
                }
                Down::Passing(left) => {
                    *left = left.saturating_sub(frame.payload.len() as u64);
                    shared.to_client.extend_from_slice(frame.raw);
                    self.broker_body_ends(shared);
                }
                Down::Idle | Down::Method(_) => shared.to_client.extend_from_slice(frame.raw),
            },
            FrameKind::Heartbeat | FrameKind::Other(_) => shared.to_client.extend_from_slice(frame.raw),
        }
        Ok(())
    }

    /// Ends the broker's content once its last octet has come, and lets out what waited for that.
    pub(super) fn broker_body_ends(&mut self, shared: &mut Shared) {
        if matches!(self.down, Down::Passing(0) | Down::Swallowing(0)) {
            self.down = Down::Idle;
            shared.to_client.append(&mut self.after_content);
            self.boundary_reached(shared);
        }
    }

    fn broker_method(&mut self, shared: &mut Shared, frame: &Frame<'_>) -> Result<(), UnknownTag> {
        let id = frame.method_id();
        match id {
            Some(MethodId::BASIC_DELIVER | MethodId::BASIC_GET_OK | MethodId::BASIC_RETURN) => {
                self.down = Down::Method(frame.raw.to_vec());
                return Ok(());
            }
            Some(MethodId::BASIC_ACK) => {
                if let Some(ack) = basic::Ack::decode(frame.payload) {
                    return self.confirm_frame(shared, frame, ack.delivery_tag, ack.multiple, Outcome::Ack);
                }
            }
            Some(MethodId::BASIC_NACK) => {
                if let Some(nack) = basic::Nack::decode(frame.payload) {
                    return self.confirm_frame(shared, frame, nack.delivery_tag, nack.multiple, Outcome::Nack);
                }
            }
            Some(MethodId::BASIC_CONSUME_OK) => {
                shared.to_client.extend_from_slice(frame.raw);
                if let Some(ok) = basic::ConsumeOk::decode(frame.payload) {
                    self.consumer_runs(shared, ok.consumer_tag);
                }
                return Ok(());
            }
            Some(MethodId::BASIC_CANCEL) => {
                if let Some(cancel) = basic::Cancel::decode(frame.payload) {
                    self.cancelled(shared, cancel.consumer_tag);
                }
            }
            Some(MethodId::BASIC_CANCEL_OK) => {
                if let Some(ok) = basic::CancelOk::decode(frame.payload) {
                    self.cancelled(shared, ok.consumer_tag);
                }
            }
            // All that came before this has gone back to its queue, also what was on its way when the client asked for that.
            Some(MethodId::BASIC_RECOVER_OK) => {
                self.deliveries.recovered();
                self.windows.all_void();
            }
            Some(MethodId::BASIC_GET_EMPTY) => {
                self.gets.pop_front();
            }
            Some(MethodId { class: 40 | 50, .. }) => self.broker_declared(shared, frame),
            Some(MethodId::CHANNEL_CLOSE) => {
                self.declarations_refused(shared, frame);
                self.pass_what_has_begun(shared);
                self.lost(shared);
                self.life = Life::BrokerClosing;
            }
            Some(MethodId::CHANNEL_CLOSE_OK) => {
                self.emptied_for_certain(shared);
                self.lost(shared);
                self.life = Life::Gone;
            }
            _ => {}
        }
        shared.to_client.extend_from_slice(frame.raw);
        Ok(())
    }

    /// The consumer that this answer to a `basic.consume` is for.
    fn answered_consumer(&self, tag: &[u8]) -> Option<usize> {
        let unanswered = |consumer: &Consumer| matches!(consumer.standing, Standing::Asked | Standing::Left);
        let named = |consumer: &Consumer| unanswered(consumer) && consumer.tag == tag;
        let unnamed = |consumer: &Consumer| unanswered(consumer) && consumer.tag.is_empty();
        let mut consumers = self.consumers.iter();
        consumers.position(named).or_else(|| self.consumers.iter().position(unnamed))
    }

    /// The broker names a consumer. Deliveries to it may be asked about before that answer has its turn.
    pub(super) fn consumer_named(&mut self, tag: &[u8]) {
        if let Some(index) = self.answered_consumer(tag)
            && let Some(consumer) = self.consumers.get_mut(index)
        {
            consumer.tag = tag.to_vec();
        }
    }

    /// The broker has answered a `basic.consume`, and has named the consumer if its client left that to it.
    fn consumer_runs(&mut self, shared: &mut Shared, tag: &[u8]) {
        let Some(index) = self.answered_consumer(tag) else { return };
        if let Some(consumer) = self
            .consumers
            .get_mut(index)
            .filter(|consumer| consumer.standing == Standing::Asked)
        {
            consumer.tag = tag.to_vec();
            consumer.standing = Standing::Running;
            self.enable_events(shared);
        } else {
            self.consumers.remove(index);
        }
    }

    fn confirm_frame(
        &mut self,
        shared: &mut Shared,
        frame: &Frame<'_>,
        tag: u64,
        multiple: bool,
        outcome: Outcome,
    ) -> Result<(), UnknownTag> {
        if self.broker_confirms(shared, tag, multiple, outcome)? {
            shared.to_client.extend_from_slice(frame.raw);
        } else {
            self.write_confirms(shared);
        }
        Ok(())
    }

    fn broker_header(&mut self, shared: &mut Shared, frame: &Frame<'_>) {
        let Down::Method(mut method) = std::mem::replace(&mut self.down, Down::Idle) else {
            shared.to_client.extend_from_slice(frame.raw);
            return;
        };
        let header = ContentHeader::decode(frame.payload);
        let left = header.as_ref().map_or(0, |header| header.body_size);
        let swallow = match &header {
            Some(header) => self.content_begins(shared, &mut method, header),
            None => false,
        };
        if swallow {
            self.down = Down::Swallowing(left);
        } else {
            shared.to_client.extend_from_slice(&method);
            shared.to_client.extend_from_slice(frame.raw);
            self.down = Down::Passing(left);
        }
        self.broker_body_ends(shared);
    }

    /// A content of the broker's begins. True if it is not for the client.
    fn content_begins(&mut self, shared: &mut Shared, method: &mut Vec<u8>, header: &ContentHeader<'_>) -> bool {
        let (source, retagged) = self.for_client(std::mem::take(method));
        *method = retagged;
        let payload = method.get(crate::amqp::frame::HEADER_LEN..).unwrap_or_default();
        let shown = if let Some(deliver) = basic::Deliver::decode(payload) {
            let shown = self.deliver_begins(shared, &deliver, header, source);
            shown.map(|tag| (deliver.delivery_tag, tag))
        } else if let Some(get) = basic::GetOk::decode(payload) {
            let task = tracked_task(shared, header);
            let no_ack = self.gets.pop_front().unwrap_or(false);
            let tag = self.delivered(shared, None, get.delivery_tag, Some(no_ack), task, Via::Client);
            Some((get.delivery_tag, tag))
        } else {
            return self.returned(shared, header);
        };
        let Some((broker, tag)) = shown else { return true };
        if broker != tag {
            encode::set_delivery_tag(method, tag);
        }
        false
    }

    /// A delivery begins; its tag for the client. `None` if it is kept from the client: Oncegate drains and hands no more work out.
    pub(super) fn deliver_begins(
        &mut self,
        shared: &mut Shared,
        deliver: &basic::Deliver<'_>,
        header: &ContentHeader<'_>,
        source: Via,
    ) -> Option<u64> {
        if shared.draining && !self.tx && !self.no_ack(deliver.consumer_tag) && self.withhold(deliver.consumer_tag, deliver.delivery_tag) {
            return None;
        }
        let task = tracked_task(shared, header);
        Some(self.delivered(shared, Some(deliver.consumer_tag), deliver.delivery_tag, None, task, source))
    }

    /// The broker returns a publish that no queue took. True if the client did not ask to be told.
    ///
    /// A return names no publish: it is matched by the task id among those that the broker has not spoken on, oldest first. It comes
    /// before the ack of the same publish.
    fn returned(&mut self, shared: &mut Shared, header: &ContentHeader<'_>) -> bool {
        let id = task_id(&header.properties);
        let grant = self
            .ledger
            .grants_mut()
            .find(|grant| !grant.returned && id.is_some_and(|id| id == grant.claim.id.as_bytes()));
        let Some(grant) = grant else { return false };
        grant.returned = true;
        let own = grant.own_mandatory;
        shared.unpublish(grant, ReleaseReason::Returned);
        own
    }
}

/// The id of a delivered task, if a rule may care for it.
fn tracked_task(shared: &mut Shared, header: &ContentHeader<'_>) -> Option<Arc<str>> {
    let name = task::peek(&header.properties);
    if !concerned(shared, header) {
        shared.counts.unmatched_deliveries += 1;
        return None;
    }
    if let Some(rule) = name.and_then(|name| shared.rules.first_for_task(name)) {
        shared.events.push(Event::Delivered { rule });
    }
    task_id(&header.properties)
        .and_then(|id| std::str::from_utf8(id).ok())
        .map(Arc::from)
}
