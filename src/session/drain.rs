//! The graceful end of a connection while Oncegate shuts down.
//!
//! From [`Session::handle_drain`] on the client is handed no new work: each of its consumers that acknowledges is cancelled at the broker,
//! and what was on its way to it is given back with `basic.nack`. Other workers get both at once; withheld here until the connection
//! closes, a window of messages would lie idle for as long as the longest task runs. The client learns nothing of it:
//!
//! - The cancel asks for no answer (`nowait`), so there is none to swallow, and `RabbitMQ` answers the client's own later `basic.cancel` of
//!   that tag with its one `cancel-ok`, since a cancel of an unknown tag is no error. To acknowledge deliveries after the cancel of their
//!   consumer is what a Celery worker itself does when it ends.
//! - A consumer whose `basic.consume` is not answered yet is cancelled when it is: `RabbitMQ` 3.10 loses the channel otherwise.
//! - A settlement of all that is out (`multiple` with tag 0) names the last delivery that the client was handed, or it would meet what is
//!   kept back. What one from before the drain may have met on its way is handed over: it may be settled already, and would be lost.
//! - Nothing is given back that the broker takes back by itself, for a client that recovers or is gone: it answers a tag that it does not
//!   know with the end of the channel.
//! - Cancels leave before nacks, so what is given back cannot come again. Both leave behind the client's waiting frames and never inside
//!   its contents; until then deliveries are withheld, and what cannot be given back any more returns with the channel.
//!
//! A smaller prefetch window would not do: per consumer it counts only for consumers to come, and each acknowledgement would open it again.
//! Consumers without acknowledgement stay, since the broker has forgotten such a message when it sends it: a worker's remote control works
//! to the end. Transactional channels stay as they are.
//!
//! The connection closes (320) once nothing is in hand, from the moment on that the edge has set, so that not all clients of a process
//! reconnect at once. One that takes no work also waits for its [`Neighbours`]: a Celery worker that loses its event connection gives up
//! its task connection too, and what it has not acknowledged runs again. At [`Session::handle_close`] the connection closes whatever is
//! in hand.

use super::channel::{Channel, Down, Life, Up};
use super::deliver::{Consumer, Standing};
use super::event::CloseReason;
use super::window::Window;
use super::{BrokerEnd, ClientEnd, Now, Phase, Session, Shared, Side};
use crate::amqp::encode;
use crate::amqp::method::basic::Nack;

/// The other connections from the address of this client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Neighbours {
    /// At least one may have work in hand.
    Busy,
    /// None has any.
    Idle,
}

impl Session {
    /// Oncegate shuts down: no more work is handed to workers, and the connection closes when nothing is in hand, not before
    /// `close_from_us`, and while its neighbours are busy only if it takes work itself. Of several orders the earliest counts.
    pub fn handle_drain(&mut self, close_from_us: u64, neighbours: Neighbours, now: Now) {
        self.shared.now = now;
        self.close_from_us = if self.shared.draining {
            self.close_from_us.min(close_from_us)
        } else {
            close_from_us
        };
        self.shared.draining = true;
        self.neighbours = neighbours;
        for channel in &mut self.channels.open {
            channel.withhold_arrivals(&mut self.shared);
            channel.withhold_held(&mut self.shared);
        }
        if self.close_from_us > now.us {
            self.shared.wake_at(self.close_from_us);
        }
        self.settle();
    }

    /// No other connection from the same address has work in hand any more.
    pub fn handle_neighbours_idle(&mut self, now: Now) {
        self.shared.now = now;
        self.neighbours = Neighbours::Idle;
        self.settle();
    }

    /// True if the client has a delivery that it has not settled.
    pub fn has_work_in_hand(&self) -> bool {
        self.channels.open.iter().any(|channel| channel.deliveries.unsettled() > 0)
    }

    /// The connection closes now, whatever is in hand; goodbyes and what still waits have until `until_us`.
    pub fn handle_close(&mut self, until_us: u64, now: Now) {
        self.shared.now = now;
        self.end_by_us = self.end_by_us.min(until_us);
        self.shared.wake_at(self.end_by_us);
        match &mut self.client_end {
            ClientEnd::Asks { until_us, .. } | ClientEnd::Told { until_us } | ClientEnd::Left { until_us } => {
                *until_us = self.end_by_us.min(*until_us);
            }
            ClientEnd::Open | ClientEnd::AskedBroker | ClientEnd::BrokerCloses | ClientEnd::Done => {}
        }
        if let BrokerEnd::Closing { until_us } = &mut self.broker_end {
            *until_us = self.end_by_us.min(*until_us);
        }
        self.tell_to_go();
        self.settle();
    }

    /// The end of a wait of this many microseconds that begins now; nothing waits beyond the end of the connection.
    pub(super) fn until(&self, us: u64) -> u64 {
        (self.shared.now.us + us).min(self.end_by_us)
    }

    /// Takes the steps of the graceful end that are due.
    pub(super) fn drain(&mut self) {
        if !self.shared.draining {
            return;
        }
        self.stop_deliveries();
        let turn = self.shared.now.us >= self.close_from_us && (self.neighbours == Neighbours::Idle || self.takes_work());
        if self.client_end == ClientEnd::Open && turn && self.idle() {
            self.tell_to_go();
        }
    }

    /// What a handshake between the peers that nobody else bounds may last.
    pub(super) fn cut_short(&mut self) {
        if self.shared.now.us >= self.end_by_us && matches!(self.client_end, ClientEnd::AskedBroker | ClientEnd::BrokerCloses) {
            self.client_end = ClientEnd::Done;
            self.broker_end = BrokerEnd::Done;
        }
    }

    fn tell_to_go(&mut self) {
        if self.phase != Phase::Running {
            self.client_end = ClientEnd::Done;
            self.broker_end = BrokerEnd::Done;
            return;
        }
        if self.client_end == ClientEnd::Open {
            self.close_reason = Some((Side::Client, CloseReason::Drain));
            self.tell_client(320, "oncegate: shutting down");
        }
    }

    fn stop_deliveries(&mut self) {
        let heard = matches!(
            self.client_end,
            ClientEnd::Open | ClientEnd::Asks { .. } | ClientEnd::Told { .. } | ClientEnd::Left { .. }
        );
        // Between bytes that are no frames nothing can be said to the broker.
        if heard && self.broker_end == BrokerEnd::Open && !self.client_raw {
            for channel in &mut self.channels.open {
                channel.stop_deliveries(&mut self.shared);
            }
        }
    }

    /// True if the client consumes with acknowledgement, as workers do.
    fn takes_work(&self) -> bool {
        let mut consumers = self.channels.open.iter().flat_map(|channel| &channel.consumers);
        consumers.any(|consumer| !consumer.no_ack)
    }

    /// True if closing now interrupts nothing: no delivery is unsettled, no publish unconfirmed or waiting.
    fn idle(&self) -> bool {
        self.phase == Phase::Running && self.channels.open.iter().all(Channel::idle)
    }
}

impl Channel {
    fn idle(&self) -> bool {
        self.settled()
            && self.deliveries.unsettled() == 0
            && self.gets.is_empty()
            && !self.ledger.owes_client()
            && matches!(self.up, Up::Idle)
            && matches!(self.down, Down::Idle)
            && self.arrives_freely()
    }

    /// A delivery that is not for the client any more; [`Channel::stop_deliveries`] gives it back. False if the client must have it all the
    /// same.
    pub(super) fn withhold(&mut self, consumer_tag: &[u8], delivery_tag: u64) -> bool {
        self.learn(consumer_tag);
        if self.deliveries.may_be_settled() {
            return false;
        }
        self.deliveries.hidden(delivery_tag);
        true
    }

    /// A consumer that sends here is to be cancelled.
    fn learn(&mut self, consumer_tag: &[u8]) {
        if self.consumers.iter().any(|consumer| consumer.tag == consumer_tag) {
            return;
        }
        // The client has left the tag to the broker and asked not to be told: the delivery tells. Whatever else sends here is cancelled
        // too, or what is given back would come again and again.
        let unnamed = |consumer: &&mut Consumer| !consumer.no_ack && consumer.standing == Standing::Running && consumer.tag.is_empty();
        match self.consumers.iter_mut().find(unnamed) {
            Some(consumer) => consumer.tag = consumer_tag.to_vec(),
            None => self.consumers.push(Consumer {
                tag: consumer_tag.to_vec(),
                no_ack: false,
                standing: Standing::Running,
                mailbox: None,
                queue: None,
                window: Window::default(),
            }),
        }
    }

    /// Cancels the consumers that acknowledge, and then gives back what was withheld.
    fn stop_deliveries(&mut self, shared: &mut Shared) {
        // A `consume` that waits must have left before its cancel, and nothing may stand inside a content.
        if self.given_back || self.tx || self.life != Life::Open || !self.queue.is_empty() || matches!(self.up, Up::Passing(_)) {
            return;
        }
        for consumer in &mut self.consumers {
            if !consumer.no_ack && consumer.is_cancellable() {
                consumer.standing = Standing::Stopped;
                // A tag that does not fit a short string cannot have come in one.
                let _ = encode::basic_cancel(&mut shared.to_broker, self.number, &consumer.tag, true);
            }
        }
        self.stop_reading_ahead(shared);
        for delivery_tag in self.deliveries.take_returns() {
            let nack = Nack {
                delivery_tag,
                multiple: false,
                requeue: true,
            };
            encode::basic_nack(&mut shared.to_broker, self.number, nack);
        }
    }
}
