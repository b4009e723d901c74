//! One client, its session, and its broker connection: how bytes move between them.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use oncegate::amqp::frame;
use oncegate::amqp::method::{MethodId, basic};
use oncegate::rules::RuleSet;
use oncegate::rules::lock::Request;
use oncegate::rules::spec::Mode;
use oncegate::session::{Now, Session, Settings, Side};

use crate::broker::Broker;
use crate::client::Client;
use crate::mirror::{Mirror, Strictness};
use crate::plan::{Confirms, Plan};
use crate::questions::Ask;
use crate::random::Random;
use crate::shadow::Shadow;
use crate::wire::{Unit, method};

/// How far the drain of a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drain {
    No,
    Begun,
    TimeOver,
}

pub struct Connection {
    pub session: Session,
    client: Client,
    pub broker: Broker,
    /// Read off the session, not yet at the broker.
    up: Vec<u8>,
    down: Vec<u8>,
    fed: u64,
    pub unread: VecDeque<usize>,
    pub asks: Vec<Ask>,
    pub tells: VecDeque<Request>,
    pub kept: Vec<Ask>,
    pub cancelled: BTreeSet<u64>,
    client_eof: bool,
    broker_eof: bool,
    /// The rule set that is in force here.
    pub rules: usize,
    pub drain: Drain,
    to_broker: Option<Mirror>,
    pub to_client: Mirror,
}

impl Connection {
    pub fn new(index: usize, plan: &Plan, settings: &Arc<Settings>, rules: &Arc<RuleSet>, now: Now) -> Connection {
        let observes = plan.rules.iter().all(|rule| rule.mode == Mode::Observe);
        let mut to_client = Mirror::new(if observes { Strictness::Exact } else { Strictness::ToClient });
        if !plan.consume {
            // Confirms alone are the shadow's to judge.
            to_client.stop();
        }
        let mut session = Session::new(Arc::clone(settings), Arc::clone(rules), (index as u64) << 40, now);
        session.handle_bytes(Side::Client, &frame::PROTOCOL_HEADER, now);
        session.handle_bytes(
            Side::Broker,
            &method(0, MethodId::CONNECTION_TUNE, &[7, 255, 0, 2, 0, 0, 0, 0]),
            now,
        );
        session.handle_bytes(
            Side::Client,
            &method(0, MethodId::CONNECTION_TUNE_OK, &[7, 255, 0, 2, 0, 0, 0, 0]),
            now,
        );
        session.handle_bytes(Side::Client, &method(0, MethodId::CONNECTION_OPEN, b"\x01/\0\0"), now);
        session.handle_bytes(Side::Broker, &method(0, MethodId::CONNECTION_OPEN_OK, &[0]), now);
        session.swap_output(Side::Client, &mut Vec::new());
        session.swap_output(Side::Broker, &mut Vec::new());
        Connection {
            session,
            client: Client::new(index, plan.publishes),
            broker: Broker::new(index),
            up: Vec::new(),
            down: Vec::new(),
            fed: 0,
            unread: VecDeque::new(),
            asks: Vec::new(),
            tells: VecDeque::new(),
            kept: Vec::new(),
            cancelled: BTreeSet::new(),
            client_eof: false,
            broker_eof: false,
            rules: 0,
            drain: Drain::No,
            to_broker: observes.then(|| Mirror::new(Strictness::Exact)),
            to_client,
        }
    }

    pub fn client_acts(&mut self, plan: &Plan, shadow: &mut Shadow, random: &mut Random) -> bool {
        if self.client.gone || self.client.closing {
            return false;
        }
        let before = self.client.out.len();
        if plan.confirms != Confirms::First && random.per_mille(2) {
            if random.percent(50) {
                self.client.leave_politely(shadow);
            } else {
                // What the kernel has not delivered is lost, in the middle of a frame perhaps.
                let keep = random.below(self.client.out.len() + 1);
                self.client.out.truncate(keep);
                self.client.vanish(shadow);
            }
            return true;
        }
        self.client.act(plan, shadow, random);
        self.client.out.len() > before
    }

    pub fn client_to_session(&mut self, shadow: &mut Shadow, random: &mut Random, now: Now) -> bool {
        if self.client_eof {
            return false;
        }
        if self.client.out.is_empty() {
            if !self.client.gone {
                return false;
            }
            self.client_eof = true;
            self.take_output(shadow);
            self.end_mirrors();
            self.session.handle_eof(Side::Client, now);
            return true;
        }
        let size = 1 + random.below(self.client.out.len().min(2_000));
        let bytes: Vec<u8> = self.client.out.drain(..size).collect();
        self.fed += size as u64;
        let read = self.session.wants(Side::Client);
        while let Some(index) = self.unread.front().copied() {
            if shadow.messages[index].end > self.fed {
                break;
            }
            shadow.messages[index].read = read;
            self.unread.pop_front();
        }
        while let Some((_, channel, tag)) = self.client.words.front().copied().filter(|(end, ..)| *end <= self.fed) {
            if read {
                shadow.word_read(channel, tag);
            }
            self.client.words.pop_front();
        }
        if read {
            if let Some(mirror) = &mut self.to_broker {
                mirror.comes(&bytes);
            }
            self.session.handle_bytes(Side::Client, &bytes, now);
        }
        true
    }

    pub fn session_to_broker(&mut self, shadow: &mut Shadow, random: &mut Random) -> bool {
        self.take_output_to_broker();
        if self.up.is_empty() || !self.broker.alive {
            self.up.clear();
            return false;
        }
        let size = 1 + random.below(self.up.len());
        let bytes: Vec<u8> = self.up.drain(..size).collect();
        self.broker.feed(&bytes, shadow, random);
        true
    }

    pub fn broker_to_session(&mut self, shadow: &mut Shadow, random: &mut Random, now: Now, plan: &Plan) -> bool {
        if self.broker_eof {
            return false;
        }
        if plan.confirms != Confirms::First && self.broker.alive && random.per_mille(1) {
            self.broker.alive = false;
            self.broker.take_all_back(true, shadow);
            let keep = random.below(self.broker.out.len() + 1);
            self.broker.out.truncate(keep);
            // All that the client has published, or will publish before it knows, is lost without a proxy too.
            self.client.publishes_left = 0;
            self.client.closing = true;
            shadow.excuse(self.client.connection, None);
            return true;
        }
        if self.broker.out.is_empty() {
            if self.broker.alive {
                return false;
            }
            self.broker_eof = true;
            self.take_output(shadow);
            self.end_mirrors();
            self.session.handle_eof(Side::Broker, now);
            return true;
        }
        let size = 1 + random.below(self.broker.out.len());
        let bytes: Vec<u8> = self.broker.out.drain(..size).collect();
        if self.session.wants(Side::Broker) {
            self.to_client.comes(&bytes);
        }
        self.session.handle_bytes(Side::Broker, &bytes, now);
        true
    }

    pub fn session_to_client(&mut self, shadow: &mut Shadow, random: &mut Random, now: Now) -> bool {
        self.take_output_to_client(shadow);
        if self.client.gone {
            self.down.clear();
            return false;
        }
        if self.down.is_empty() {
            if self.session.is_done(Side::Client) && self.session.pending(Side::Client) == 0 {
                self.client.gone = true;
                self.session.handle_written(Side::Client, now);
                return true;
            }
            return false;
        }
        let size = 1 + random.below(self.down.len());
        let bytes: Vec<u8> = self.down.drain(..size).collect();
        self.client.feed(&bytes, shadow);
        true
    }

    /// What leaves while both peers are there is what came.
    fn end_mirrors(&mut self) {
        self.to_client.end();
        if let Some(mirror) = &mut self.to_broker {
            mirror.end();
        }
    }

    fn take_output(&mut self, shadow: &mut Shadow) {
        self.take_output_to_broker();
        self.take_output_to_client(shadow);
    }

    fn take_output_to_broker(&mut self) {
        let mut bytes = Vec::new();
        self.session.swap_output(Side::Broker, &mut bytes);
        if let Some(mirror) = &mut self.to_broker {
            mirror.leaves(&bytes);
        }
        self.up.append(&mut bytes);
    }

    pub fn take_output_to_client(&mut self, shadow: &mut Shadow) {
        let mut bytes = Vec::new();
        self.session.swap_output(Side::Client, &mut bytes);
        for unit in self.to_client.leaves(&bytes) {
            self.leaves(&unit, shadow);
        }
        self.down.append(&mut bytes);
    }

    /// Something leaves for the client.
    fn leaves(&self, unit: &Unit, shadow: &mut Shadow) {
        let tag = match unit.method {
            MethodId::BASIC_DELIVER => basic::Deliver::decode(unit.payload()).map(|deliver| deliver.delivery_tag),
            MethodId::BASIC_GET_OK => basic::GetOk::decode(unit.payload()).map(|get| get.delivery_tag),
            MethodId::CONNECTION_CLOSE if self.drain == Drain::Begun => {
                return shadow.nothing_in_hand(self.client.connection);
            }
            _ => None,
        };
        if let Some(tag) = tag
            && let Some(channel) = self.broker.channels.get(&unit.channel)
        {
            shadow
                .deliveries
                .pass((self.client.connection, unit.channel, channel.generation), tag);
        }
    }
}
