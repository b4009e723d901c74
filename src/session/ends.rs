//! How a connection ends, in every direction, without losing what the client has sent.

use super::channel::{Channel, Life, Up};
use super::event::{CloseReason, Event};
use super::publish::{Wait, Waiting};
use super::{Now, Phase, Session, Side};
use crate::amqp::encode;
use crate::amqp::method::basic::Nack;

/// Where the client's leg is on its way to the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientEnd {
    /// The client is there.
    Open,
    /// It has sent `connection.close`; the frame waits until all its publishes are settled, at the longest until `until_us`.
    Asks {
        /// The frame.
        frame: Vec<u8>,
        /// The end of the wait.
        until_us: u64,
    },
    /// Its `connection.close` is with the broker, which answers it.
    AskedBroker,
    /// The broker has sent `connection.close`; the client answers it.
    BrokerCloses,
    /// Oncegate has sent it `connection.close` and waits for `close-ok`; what it publishes meanwhile still counts.
    Told {
        /// The end of the wait.
        until_us: u64,
    },
    /// It is gone; its publishes are settled first, at the longest until `until_us`.
    Left {
        /// The end of the wait.
        until_us: u64,
    },
    /// Nothing is left to do.
    Done,
}

impl ClientEnd {
    /// True while nothing but `connection.close` may be written to the client.
    pub(super) fn is_told(&self) -> bool {
        matches!(self, ClientEnd::Told { .. })
    }
}

/// Where the broker's leg is on its way to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokerEnd {
    /// The broker is there.
    Open,
    /// Oncegate has sent `connection.close` for a client that is gone, and waits for `close-ok`.
    Closing {
        /// The end of the wait.
        until_us: u64,
    },
    /// Nothing is left to do.
    Done,
}

impl Session {
    /// A peer has ended its input: end of file, a reset, or a failed write.
    pub fn handle_eof(&mut self, from: Side, now: Now) {
        self.shared.now = now;
        self.ended(from, CloseReason::Eof);
        self.settle();
    }

    /// True when the peer's socket may be shut down once all output is written.
    pub fn is_done(&self, side: Side) -> bool {
        match side {
            Side::Client => self.client_end == ClientEnd::Done,
            Side::Broker => self.broker_end == BrokerEnd::Done,
        }
    }

    /// True while the store may give something to a question that nobody needs the answer of any more: what it gives goes back, so the
    /// session is to hear of it even when both sides are done.
    pub fn awaits_answers(&self) -> bool {
        !self.shared.abandoned.is_empty() || !self.shared.abandoned_runs.is_empty()
    }

    /// True if this peer's bytes are still wanted.
    pub fn wants(&self, side: Side) -> bool {
        match side {
            Side::Client => !matches!(self.client_end, ClientEnd::Left { .. } | ClientEnd::Done),
            Side::Broker => self.broker_end != BrokerEnd::Done,
        }
    }

    pub(super) fn ended(&mut self, from: Side, reason: CloseReason) {
        if self.close_reason.is_none() {
            self.close_reason = Some((from, reason));
        }
        match from {
            Side::Client => self.client_left(),
            Side::Broker => self.broker_left(),
        }
    }

    /// The client is gone, or has agreed to go.
    pub(super) fn client_left(&mut self) {
        self.client.partial.clear();
        self.stop_asking();
        self.shared.to_client.clear();
        let until_us = self.until(self.shared.settings.lease_us);
        match self.client_end {
            ClientEnd::Left { .. } | ClientEnd::Done => return,
            _ if self.phase != Phase::Running => {
                self.client_end = ClientEnd::Done;
                self.broker_end = BrokerEnd::Done;
                return;
            }
            _ => self.client_end = ClientEnd::Left { until_us },
        }
        for channel in &mut self.channels.open {
            channel.client_left(&mut self.shared);
        }
        self.shared.wake_at(until_us);
    }

    fn broker_left(&mut self) {
        self.lose_channels();
        self.broker_end = BrokerEnd::Done;
        self.shared.to_broker.clear();
        match self.client_end {
            ClientEnd::Open if self.phase == Phase::Running => self.tell_client(320, "oncegate: the broker connection is lost"),
            ClientEnd::Told { .. } => {}
            _ => self.client_end = ClientEnd::Done,
        }
    }

    pub(super) fn client_asks_to_close(&mut self, frame: &[u8]) {
        if self.close_reason.is_none() {
            self.close_reason = Some((Side::Client, CloseReason::Normal));
        }
        self.stop_asking();
        if self.client_end == ClientEnd::Open && self.phase == Phase::Running {
            let until_us = self.until(self.shared.settings.lease_us);
            for channel in &mut self.channels.open {
                if channel.ledger.client_confirms() {
                    channel.forget_kept_unconfirmed(&mut self.shared);
                }
            }
            self.shared.wake_at(until_us);
            self.client_end = ClientEnd::Asks {
                frame: frame.to_vec(),
                until_us,
            };
        } else if self.client_end.is_told() {
            // It goes by itself, and what it has published before counts as if it had agreed to go.
            self.client_left();
        } else {
            // Both sides may close at once; each answers the other.
            self.shared.to_broker.extend_from_slice(frame);
        }
    }

    /// Tells the client to go. Its publishes count until it has answered.
    pub(super) fn tell_client(&mut self, code: u16, text: &str) {
        if self.client_end != ClientEnd::Open {
            return;
        }
        // It is handed nothing any more, whatever the reason: what waits goes back as what comes does, and no later word of the client's
        // for all up to a tag meets it.
        self.shared.draining = true;
        self.shared.asks_deliveries = false;
        for channel in &mut self.channels.open {
            channel.withhold_arrivals(&mut self.shared);
            channel.withhold_held(&mut self.shared);
            channel.deliveries.client_told();
        }
        self.last_words = std::mem::take(&mut self.shared.to_client);
        encode::connection_close(&mut self.last_words, code, text, None);
        let until_us = self.until(self.shared.settings.close_us);
        self.shared.wake_at(until_us);
        self.client_end = ClientEnd::Told { until_us };
    }

    /// The broker has forgotten all channels.
    pub(super) fn lose_channels(&mut self) {
        for channel in &mut self.channels.open {
            channel.lost(&mut self.shared);
        }
        while let Some(number) = self.channels.open.first().map(|channel| channel.number) {
            self.channels.remove(number);
        }
    }

    /// Everything that waits goes, unchecked.
    pub(super) fn let_all_go(&mut self) {
        for channel in &mut self.channels.open {
            while channel.let_oldest_go(&mut self.shared) {}
        }
    }

    /// What the broker has sent or still sends is not decided about any more: its deliveries go back with their channels.
    pub(super) fn stop_asking(&mut self) {
        self.shared.asks_deliveries = false;
        for channel in &mut self.channels.open {
            channel.forget_arrivals(&mut self.shared);
            channel.forget_held(&mut self.shared);
        }
    }

    fn settled(&self) -> bool {
        self.channels.open.iter().all(super::channel::Channel::settled)
    }

    /// Takes the next step towards the end, if one is due.
    pub(super) fn finish(&mut self) {
        self.drain();
        self.cut_short();
        let now = self.shared.now.us;
        match &self.client_end {
            ClientEnd::Asks { until_us, .. } if self.settled() || now >= *until_us => {
                self.let_all_go();
                if let ClientEnd::Asks { frame, .. } = std::mem::replace(&mut self.client_end, ClientEnd::AskedBroker) {
                    self.shared.to_broker.extend_from_slice(&frame);
                }
            }
            ClientEnd::Told { until_us } if now >= *until_us => self.client_left(),
            ClientEnd::Left { until_us } if self.settled() || now >= *until_us => {
                self.let_all_go();
                self.client_end = ClientEnd::Done;
                self.close_broker();
            }
            _ => {}
        }
        match self.broker_end {
            BrokerEnd::Closing { until_us } if now >= until_us => self.broker_end = BrokerEnd::Done,
            BrokerEnd::Done if matches!(self.client_end, ClientEnd::Left { .. }) => self.client_end = ClientEnd::Done,
            _ => {}
        }
        if self.broker_end == BrokerEnd::Done && self.client_end == ClientEnd::Done {
            self.lose_channels();
            if let Some((by, reason)) = self.close_reason.take() {
                self.shared.events.push(Event::Closed { by, reason });
            }
        }
    }

    fn close_broker(&mut self) {
        if self.broker_end != BrokerEnd::Open {
            return;
        }
        encode::connection_close(&mut self.shared.to_broker, 200, "oncegate: the client is gone", None);
        let until_us = self.until(self.shared.settings.close_us);
        self.shared.wake_at(until_us);
        self.broker_end = BrokerEnd::Closing { until_us };
    }

    /// When the edge must call [`Session::handle_timeout`] at the latest, in monotonic microseconds; `u64::MAX` for never.
    pub fn poll_timeout(&self) -> u64 {
        let mut at = self.shared.wake_us;
        if matches!(self.phase, Phase::Header | Phase::Handshake) {
            at = at.min(self.opened_us + self.shared.settings.handshake_us);
        }
        if self.phase == Phase::Running && self.heartbeat_us > 0 {
            for (input, open) in [
                (&self.client, self.client_end == ClientEnd::Open),
                (&self.broker, self.broker_end == BrokerEnd::Open),
            ] {
                // A leg on its way out has deadlines of its own; its silence would only wake the edge again and again.
                if !open {
                    continue;
                }
                at = at.min(input.last_write_us + self.heartbeat_us / 2);
                if !input.paused && !self.blocked {
                    at = at.min(input.last_read_us + 2 * self.heartbeat_us);
                }
            }
        }
        at
    }

    /// Time has passed: heartbeats, leases, waits and deadlines.
    pub fn handle_timeout(&mut self, now: Now) {
        self.shared.now = now;
        if now.us >= self.shared.wake_us {
            self.shared.wake_us = u64::MAX;
            for channel in &mut self.channels.open {
                channel.handle_due(&mut self.shared);
                channel.advance(&mut self.shared);
            }
            self.rewake();
        }
        if matches!(self.phase, Phase::Header | Phase::Handshake) && now.us >= self.opened_us + self.shared.settings.handshake_us {
            self.close_reason = Some((Side::Client, CloseReason::HandshakeTimeout));
            self.client_end = ClientEnd::Done;
            self.broker_end = BrokerEnd::Done;
        }
        if self.phase == Phase::Running && self.heartbeat_us > 0 {
            self.heartbeats(now.us);
        }
        self.settle();
    }

    /// Deadlines that have not come yet are waited for again.
    fn rewake(&mut self) {
        let now = self.shared.now.us;
        let deadlines = [
            match &self.client_end {
                ClientEnd::Asks { until_us, .. } | ClientEnd::Told { until_us } | ClientEnd::Left { until_us } => Some(*until_us),
                _ => None,
            },
            match self.broker_end {
                BrokerEnd::Closing { until_us } => Some(until_us),
                _ => None,
            },
            self.shared.draining.then_some(self.close_from_us),
            (self.end_by_us != u64::MAX).then_some(self.end_by_us),
        ];
        for us in deadlines.into_iter().flatten().filter(|us| *us > now) {
            self.shared.wake_at(us);
        }
    }

    /// Each leg is told that Oncegate lives, and is given up if it has been silent for two intervals.
    fn heartbeats(&mut self, now: u64) {
        for side in [Side::Client, Side::Broker] {
            let interval = self.heartbeat_us;
            let open = match side {
                Side::Client => self.client_end == ClientEnd::Open,
                Side::Broker => self.broker_end == BrokerEnd::Open,
            };
            let blocked = self.blocked;
            let input = self.input(side);
            if open && !input.paused && !blocked && now >= input.last_read_us + 2 * interval {
                self.ended(side, CloseReason::HeartbeatTimeout);
                continue;
            }
            if now >= input.last_write_us + interval / 2 {
                input.last_write_us = now;
                // Between bytes that are no frames a heartbeat would be one more.
                let framed = side == Side::Client || !self.client_raw;
                if open && framed && self.pending(side) == 0 {
                    encode::heartbeat(self.output(side));
                }
            }
        }
    }
}

impl Channel {
    /// The client is gone: what it had not sent in full is dropped, its unsettled deliveries go back to their queues at once.
    fn client_left(&mut self, shared: &mut super::Shared) {
        let broken = match std::mem::replace(&mut self.up, Up::Idle) {
            Up::Collecting(collect) => {
                shared.held_bytes -= collect.frames.len();
                false
            }
            // The rest of a body will never come. Waiting frames are dropped; what has left ends with the connection.
            Up::Passing(_) if matches!(self.queue.back_mut(), Some(Waiting::Passing { .. })) => {
                if let Some(item) = self.queue.pop_back() {
                    shared.held_bytes -= item.size();
                }
                false
            }
            // It ends with the connection: the broker must not take what comes next for its rest.
            Up::Passing(left) => {
                self.up = Up::Passing(left);
                true
            }
            Up::Idle | Up::Method(_) => false,
        };
        // Nothing more can be sent on a channel whose last publish is half out.
        if broken {
            self.given_back = true;
            self.forget_kept(shared);
        } else if self.ledger.client_confirms() {
            self.forget_kept_unconfirmed(shared);
        }
        if !broken && self.life == Life::Open && (!self.consumers.is_empty() || self.deliveries.any_open()) {
            if self.settled() {
                encode::channel_close(&mut shared.to_broker, self.number, 200, "oncegate: the client is gone", None);
                self.life = Life::ClientClosing;
            } else {
                for consumer in std::mem::take(&mut self.consumers)
                    .iter()
                    .filter(|consumer| consumer.is_cancellable())
                {
                    // A tag that does not fit a short string cannot have come in one.
                    let _ = encode::basic_cancel(&mut shared.to_broker, self.number, &consumer.tag, true);
                }
                self.leave_own(shared);
                self.give_back_all(shared);
            }
        }
        self.deliveries.given_back();
        self.advance(shared);
    }

    /// Gives all unsettled deliveries back to their queues: at once, or behind what the client has settled and that waits, which must not
    /// find its deliveries gone.
    fn give_back_all(&mut self, shared: &mut super::Shared) {
        let all = Nack {
            delivery_tag: 0,
            multiple: true,
            requeue: true,
        };
        self.given_back = true;
        let mut nack = Vec::new();
        encode::basic_nack(&mut nack, self.number, all);
        if self.queue.iter().any(|item| matches!(item, Waiting::Frames(_))) {
            self.pass_on(shared, &nack);
        } else {
            shared.to_broker.append(&mut nack);
        }
    }

    /// Since when the oldest publish of this channel waits or is kept.
    pub(super) fn oldest_wait_us(&self) -> Option<u64> {
        let waiting = self.queue.iter().find_map(|item| match item {
            Waiting::Publish { wait, publish, .. } if *wait != Wait::Turn => publish.arrived_us(),
            _ => None,
        });
        let kept = self
            .kept
            .values()
            .next()
            .and_then(|kept| kept.publish.grant.as_ref())
            .map(|grant| grant.arrived_us);
        waiting.into_iter().chain(kept).min()
    }
}
