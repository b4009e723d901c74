//! One AMQP connection as a pure state machine: bytes, answers and time go in; bytes, questions and facts come out.
//!
//! ```text
//!  client bytes ─▶ handle_bytes(Client)                     ┌─▶ swap_output(Broker)
//!  broker bytes ─▶ handle_bytes(Broker)   walk ▸ channel ▸  ├─▶ swap_output(Client)
//!  answers      ─▶ handle_answer          publish ▸ confirm ├─▶ poll_questions   (asks, tells)
//!  end of input ─▶ handle_eof             deliver           ├─▶ poll_events      (metrics, logs)
//!  time         ─▶ handle_timeout                           └─▶ poll_timeout
//! ```
//!
//! Each read is walked frame by frame where it lies. Frames that nobody needs to look into are forwarded as one run of bytes.

mod admit;
mod agenda;
mod answer;
mod arrive;
mod beat;
mod broker;
mod carry;
mod channel;
mod collect;
mod confirm;
mod copies;
mod dead_letter;
mod declare;
mod deliver;
mod drain;
mod due;
mod ends;
mod event;
mod expiry;
mod foresee;
mod handshake;
mod hear;
mod hold;
mod kept;
mod limit;
mod owed;
mod park;
mod publish;
mod query;
mod read;
mod refuse;
mod renew;
mod replace;
mod republish;
mod run;
mod seek;
mod send;
mod spares;
#[cfg(test)]
mod tests;
pub mod topology;
mod walk;
mod window;
mod witness;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

pub use carry::{Fetched, JOINED};
pub use channel::Channel;
pub use confirm::{Ledger, Outcome, UnknownTag};
pub use deliver::{Deliveries, Pass};
pub use drain::Neighbours;
pub use ends::{BrokerEnd, ClientEnd};
pub use event::{CloseReason, DeliveryEvent, Event, Kept, PublishEvent, Pulse, Run, TasksKnown};
pub use hear::{Heard, Mailbox, Told, read_events};
pub use publish::Grant;
pub use read::{Fetch, Value, name_of_token};
pub use republish::{QueueKind, Republish, RepublishFault, Target};
pub use spares::Spares;
pub use window::{ReadsAhead, Window};
pub use witness::{Ack, Witness};

use walk::Passed;
use window::Fit;

use crate::rules::RuleSet;
use crate::rules::lock::{Claim, Nonce, Reply, Request};
use crate::rules::spec::EnableEvents;
use topology::{Change, Topology};

/// One of the two peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The producer or worker.
    Client,
    /// The broker.
    Broker,
}

impl Side {
    /// The peer of this one.
    #[must_use]
    pub fn other(self) -> Side {
        match self {
            Side::Client => Side::Broker,
            Side::Broker => Side::Client,
        }
    }
}

/// The time, as the edge sees it when it calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Now {
    /// Monotonic microseconds from any origin.
    pub us: u64,
    /// Milliseconds since the Unix epoch.
    pub unix_ms: u64,
}

/// Names a question to the store until its last answer: the channel, and the place in the channel's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

impl Ticket {
    const OBSERVES: u64 = 1 << 63;
    const ADMITS: u64 = 1 << 62;

    fn at(position: u64, channel: u16) -> Ticket {
        Ticket((position << 16 | u64::from(channel)) & !(Ticket::OBSERVES | Ticket::ADMITS))
    }

    /// That of a delivery at this position of what has arrived.
    fn of_delivery(position: u64, channel: u16) -> Ticket {
        Ticket(Ticket::at(position, channel).0 | Ticket::ADMITS)
    }

    /// That of the held delivery with this number.
    fn of_held(number: u64, channel: u16) -> Ticket {
        Ticket(Ticket::at(number, channel).0 | Ticket::ADMITS | Ticket::OBSERVES)
    }

    fn channel(self) -> u16 {
        self.0 as u16
    }

    fn position(self) -> u64 {
        (self.0 & !(Ticket::OBSERVES | Ticket::ADMITS)) >> 16
    }

    fn admits(self) -> bool {
        self.0 & (Ticket::OBSERVES | Ticket::ADMITS) == Ticket::ADMITS
    }

    fn observes(self) -> bool {
        self.0 & (Ticket::OBSERVES | Ticket::ADMITS) == Ticket::OBSERVES
    }

    fn holds(self) -> bool {
        self.0 & (Ticket::OBSERVES | Ticket::ADMITS) == Ticket::OBSERVES | Ticket::ADMITS
    }
}

/// The store gave no answer; the outcome of the question is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoreSilent {
    /// None came within the store timeout.
    Timeout,
    /// It cannot be reached or refuses.
    Unreachable,
    /// It was not asked: it has failed too often of late.
    CircuitOpen,
}

impl StoreSilent {
    /// As logs name it.
    pub fn as_str(self) -> &'static str {
        match self {
            StoreSilent::Timeout => "store_timeout",
            StoreSilent::Unreachable => "store_unreachable",
            StoreSilent::CircuitOpen => "circuit_open",
        }
    }
}

/// What a session needs to know of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Larger bodies stream through without a look, in bytes.
    pub max_message: usize,
    /// The bound on what is kept in memory for one connection, in bytes.
    pub connection_memory: usize,
    /// How many deliveries may be held on one connection.
    pub held_max: usize,
    /// After how long the broker closes a channel that leaves a delivery unsettled, in microseconds.
    pub consumer_timeout_us: u64,
    /// Whether Oncegate asks for confirms on channels whose client does not.
    pub upstream_confirms: bool,
    /// How long the login may take, in microseconds.
    pub handshake_us: u64,
    /// How long the end of a connection or channel waits for the broker's word on claims, in microseconds.
    pub lease_us: u64,
    /// How long Oncegate waits for a peer's `close-ok`, in microseconds.
    pub close_us: u64,
    /// Whether workers are told to publish task events.
    pub enable_events: EnableEvents,
    /// What the routing keys of the answers to this process begin with, so that nobody can guess one. Empty: nothing is asked.
    pub reply_prefix: Arc<str>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            max_message: 16 << 20,
            connection_memory: 32 << 20,
            held_max: 10_000,
            consumer_timeout_us: 1_800_000_000,
            upstream_confirms: true,
            handshake_us: 10_000_000,
            lease_us: 10_000_000,
            close_us: 5_000_000,
            enable_events: EnableEvents::Auto,
            reply_prefix: "".into(),
        }
    }
}

/// How far the connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The client's protocol header has not come.
    Header,
    /// The login, which is relayed as it is.
    Handshake,
    /// The virtual host is open.
    Running,
    /// Not AMQP 0-9-1, or no longer well formed: bytes pass, and the peers judge.
    Tunnel,
}

/// Counts since the last [`Session::take_counts`].
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Counts {
    /// Frames read from the client.
    pub frames_from_client: u64,
    /// Frames read from the broker.
    pub frames_from_broker: u64,
    /// Frames taken for the client.
    pub frames_to_client: u64,
    /// Frames taken for the broker.
    pub frames_to_broker: u64,
    /// Publishes that no rule concerns.
    pub unmatched_publishes: u64,
    /// Deliveries that no rule concerns.
    pub unmatched_deliveries: u64,
    /// How long each publish that was asked about has waited, in microseconds.
    pub added_us: Vec<u32>,
}

/// What all channels of a session share.
#[derive(Debug)]
struct Shared {
    settings: Arc<Settings>,
    rules: Arc<RuleSet>,
    now: Now,
    vhost: Arc<str>,
    user: Option<Arc<str>>,
    /// The node name of the client, if it is a worker.
    worker: Arc<str>,
    /// The largest frame that the peers have agreed on, in octets.
    frame_max: usize,
    to_client: Vec<u8>,
    to_broker: Vec<u8>,
    asks: Vec<(u64, Request)>,
    tells: Vec<Request>,
    cancelled: Vec<Ticket>,
    events: Vec<Event>,
    counts: Counts,
    /// Bytes of publishes and deliveries that wait or are kept.
    held_bytes: usize,
    abandoned: HashMap<Ticket, (Claim, Nonce)>,
    /// Questions for running locks and limits whose delivery is gone, with what then is to be told.
    abandoned_runs: HashMap<Ticket, Vec<Request>>,
    /// How many deliveries are held.
    held: usize,
    /// The number of the next one.
    next_held: u64,
    /// Task ids whose runs may have ended, while something is held.
    ended: Vec<Arc<str>>,
    windows: Fit,
    /// Queues declared here of which a second consumer would get nothing, or what the first has.
    single_active: HashSet<Box<str>>,
    /// Quorum queues declared here.
    quorum: HashSet<Box<str>>,
    /// Messages that are to be published anew.
    republishes: Vec<(Ticket, Republish)>,
    /// Holders whose results are asked for.
    fetches: Vec<(Ticket, Fetch)>,
    /// The holders whose results a worker behind this connection is to read.
    readings: HashMap<Arc<str>, read::Reading>,
    /// What is known of the waits for limits.
    foreseen: foresee::Foreseen,
    /// Nothing was there to park with: nothing is parked before this time in monotonic microseconds. 0 while it works.
    parks_from_us: u64,
    observing: HashMap<Ticket, Box<Grant>>,
    /// Publishes of beats that observing rules let pass.
    watched: HashMap<Ticket, beat::Watched>,
    observed: u64,
    /// What is known of the virtual host: the edge's last picture and what this connection has done since.
    topology: Arc<Topology>,
    /// What the sessions of this process have seen of tasks.
    witness: Arc<Witness>,
    /// What this connection has done to the exchanges and queues since it was last asked.
    changes: Vec<Change>,
    /// Queues declared here to which results may go.
    reply_queues: owed::ReplyQueues,
    /// How many declarations and bindings of all channels wait for the broker's answer.
    declaring: usize,
    draining: bool,
    /// Whether the store is still asked about deliveries.
    asks_deliveries: bool,
    /// The broker has confirmed what it was not sent.
    unknown_confirm: bool,
    wake_us: u64,
    nonce: u64,
}

impl Shared {
    /// Asks to be called at this time at the latest.
    fn wake_at(&mut self, us: u64) {
        self.wake_us = self.wake_us.min(us);
    }

    /// Whether workers are to publish task events.
    fn wants_events(&self) -> bool {
        self.rules.wants_events(self.settings.enable_events)
    }

    fn nonce(&mut self) -> Nonce {
        self.nonce = self.nonce.wrapping_add(1);
        Nonce(self.nonce)
    }

    fn observing_ticket(&mut self) -> Ticket {
        self.observed += 1;
        Ticket(self.observed | Ticket::OBSERVES)
    }
}

/// The channels of a session, by number.
#[derive(Debug, Default)]
struct Channels {
    open: Vec<Channel>,
    /// Above every place in a queue of a channel that is gone, so that no old ticket names a new publish.
    first_position: u64,
}

impl Channels {
    fn find(&self, number: u16) -> Result<usize, usize> {
        self.open.binary_search_by_key(&number, |channel| channel.number)
    }

    fn get_mut(&mut self, number: u16) -> Option<&mut Channel> {
        let index = self.find(number).ok()?;
        self.open.get_mut(index)
    }

    /// The channel, which the first frame on it makes.
    fn or_new(&mut self, number: u16) -> Option<&mut Channel> {
        let index = match self.find(number) {
            Ok(index) => index,
            Err(index) => {
                // Mostly there is one or two, and a vector makes room for four at first.
                if self.open.len() < 4 {
                    self.open.reserve_exact(1);
                }
                self.open.insert(index, Channel::new(number, self.first_position));
                index
            }
        };
        self.open.get_mut(index)
    }

    fn remove(&mut self, number: u16) {
        if let Ok(index) = self.find(number) {
            let channel = self.open.remove(index);
            let next = channel.queue.next_position().max(channel.arrivals.next_position());
            self.first_position = self.first_position.max(next);
        }
    }
}

/// What takes memory until something is decided about it.
#[derive(Debug, Clone, Copy)]
enum Filling {
    /// A publish that waits or is kept.
    Publish,
    /// A delivery that the store was asked about.
    Arrival,
    /// A delivery that is held.
    Held,
}

/// What is known of the bytes of one peer.
#[derive(Debug, Default)]
struct Input {
    /// The beginning of a frame whose rest has not come.
    partial: Vec<u8>,
    last_read_us: u64,
    last_write_us: u64,
    /// The edge does not read this peer, so its silence means nothing.
    paused: bool,
}

/// One client connection and its broker connection.
#[derive(Debug)]
pub struct Session {
    shared: Shared,
    channels: Channels,
    phase: Phase,
    client: Input,
    broker: Input,
    client_end: ClientEnd,
    broker_end: BrokerEnd,
    close_reason: Option<(Side, CloseReason)>,
    /// While draining, the connection closes from here on, when nothing is in hand.
    close_from_us: u64,
    neighbours: Neighbours,
    /// No wait of the connection's end goes beyond this.
    end_by_us: u64,
    /// The last bytes for a client that Oncegate has told to go.
    last_words: Vec<u8>,
    heartbeat_us: u64,
    blocked: bool,
    /// The client has sent bytes that are no frame: they go to the broker as they come, and it judges.
    client_raw: bool,
    opened_us: u64,
}

impl Session {
    /// A session at the moment when its client has connected. `nonce` is random: it starts the numbers of this session's publishes.
    pub fn new(settings: Arc<Settings>, rules: Arc<RuleSet>, nonce: u64, now: Now) -> Session {
        Session {
            shared: Shared {
                settings,
                rules,
                now,
                vhost: Arc::from(""),
                user: None,
                worker: Arc::from(""),
                frame_max: 131_072,
                to_client: Vec::new(),
                to_broker: Vec::new(),
                asks: Vec::new(),
                tells: Vec::new(),
                cancelled: Vec::new(),
                events: Vec::new(),
                counts: Counts::default(),
                held_bytes: 0,
                abandoned: HashMap::new(),
                abandoned_runs: HashMap::new(),
                held: 0,
                next_held: 0,
                ended: Vec::new(),
                windows: Fit::Right,
                single_active: HashSet::new(),
                quorum: HashSet::new(),
                republishes: Vec::new(),
                fetches: Vec::new(),
                readings: HashMap::new(),
                foreseen: foresee::Foreseen::default(),
                parks_from_us: 0,
                observing: HashMap::new(),
                watched: HashMap::new(),
                observed: 0,
                topology: Arc::default(),
                witness: Arc::default(),
                changes: Vec::new(),
                reply_queues: owed::ReplyQueues::default(),
                declaring: 0,
                draining: false,
                asks_deliveries: true,
                unknown_confirm: false,
                wake_us: u64::MAX,
                nonce,
            },
            channels: Channels::default(),
            phase: Phase::Header,
            client: Input {
                last_read_us: now.us,
                last_write_us: now.us,
                ..Input::default()
            },
            broker: Input {
                last_read_us: now.us,
                last_write_us: now.us,
                ..Input::default()
            },
            client_end: ClientEnd::Open,
            broker_end: BrokerEnd::Open,
            close_reason: None,
            close_from_us: 0,
            neighbours: Neighbours::Idle,
            end_by_us: u64::MAX,
            last_words: Vec::new(),
            heartbeat_us: 0,
            blocked: false,
            client_raw: false,
            opened_us: now.us,
        }
    }

    /// Bytes that a peer has sent.
    pub fn handle_bytes(&mut self, from: Side, bytes: &[u8], now: Now) {
        let passed = self.take_in(from, bytes, now);
        self.forward(from, passed.bytes);
        self.settle();
    }

    /// Bytes that a peer has sent. Those that are given back pass to the other peer as they lie, after what is pending for it; the edge
    /// writes or keeps them before it turns to the session again. So most bytes are never copied.
    #[must_use]
    pub fn handle_read<'b>(&mut self, from: Side, bytes: &'b [u8], now: Now) -> &'b [u8] {
        let passed = self.take_in(from, bytes, now);
        if !self.is_undisturbed() {
            self.forward(from, passed.bytes);
            self.settle();
            return &[];
        }
        if self.phase != Phase::Tunnel {
            match from {
                Side::Client => self.shared.counts.frames_to_broker += passed.frames,
                Side::Broker => self.shared.counts.frames_to_client += passed.frames,
            }
        }
        passed.bytes
    }

    fn take_in<'b>(&mut self, from: Side, bytes: &'b [u8], now: Now) -> Passed<'b> {
        self.shared.now = now;
        if !self.wants(from) {
            return Passed::default();
        }
        self.input(from).last_read_us = now.us;
        self.read(from, bytes)
    }

    /// True if [`Session::settle`] has nothing to do, and no answer can come that adds to the output before what has just been read.
    fn is_undisturbed(&self) -> bool {
        self.client_end == ClientEnd::Open
            && self.broker_end == BrokerEnd::Open
            && !self.shared.draining
            && self.shared.held_bytes <= self.shared.settings.connection_memory
            && self.shared.asks.is_empty()
            && self.shared.windows == Fit::Right
            && self.shared.ended.is_empty()
    }

    /// The store's answer to a question.
    pub fn handle_answer(&mut self, ticket: Ticket, answer: Result<Reply, StoreSilent>, now: Now) {
        self.shared.now = now;
        if ticket.admits() || ticket.holds() {
            if self.shared.abandoned_run_answered(ticket) {
            } else if ticket.admits() {
                self.delivery_answered(ticket, answer);
            } else {
                self.held_answered(ticket, answer);
            }
            return self.settle();
        }
        let answer = match answer {
            Ok(Reply::Acquire(acquired)) => Ok(acquired),
            Ok(Reply::Beat(turn)) => {
                self.beat_answered(ticket, turn);
                return self.settle();
            }
            // A reply of another kind says nothing of the question.
            Ok(_) => Err(StoreSilent::Unreachable),
            Err(silent) => Err(silent),
        };
        self.answer(ticket, answer);
        self.settle();
    }

    /// New rules. Publishes that wait keep the rule that decided about them.
    pub fn handle_rules(&mut self, rules: Arc<RuleSet>) {
        self.shared.rules = rules;
        for channel in &mut self.channels.open {
            channel.enable_events(&mut self.shared);
        }
    }

    /// True if decisions need what is known of the virtual host's exchanges and queues.
    pub fn wants_topology(&self) -> bool {
        self.phase == Phase::Running && self.shared.rules.asks_for_queue()
    }

    /// What is known of the exchanges and queues of this virtual host.
    pub fn handle_topology(&mut self, topology: Arc<Topology>) {
        self.shared.topology = topology;
    }

    /// What all sessions of this process share of what they have seen of tasks.
    pub fn handle_witness(&mut self, witness: Arc<Witness>) {
        self.shared.witness = witness;
    }

    /// What this connection has done to exchanges and queues since the last call, in order.
    pub fn changes(&mut self) -> &mut Vec<Change> {
        &mut self.shared.changes
    }

    /// Bytes have been written to a peer.
    pub fn handle_written(&mut self, to: Side, now: Now) {
        self.input(to).last_write_us = now.us;
    }

    /// The edge stops or resumes reading a peer because the other one does not take what was read.
    pub fn handle_paused(&mut self, from: Side, paused: bool, now: Now) {
        let input = self.input(from);
        input.paused = paused;
        input.last_read_us = now.us;
    }

    /// True once the client has sent its protocol header, so that a broker is worth connecting to.
    pub fn wants_broker(&self) -> bool {
        self.phase != Phase::Header
    }

    /// Takes what is to be written to a peer. `buffer` must be empty; its allocation is used again.
    pub fn swap_output(&mut self, to: Side, buffer: &mut Vec<u8>) {
        debug_assert!(buffer.is_empty(), "unwritten bytes would be written out of order");
        std::mem::swap(self.output(to), buffer);
        if self.phase != Phase::Tunnel {
            let frames = walk::count_frames(buffer);
            match to {
                Side::Client => self.shared.counts.frames_to_client += frames,
                Side::Broker => self.shared.counts.frames_to_broker += frames,
            }
        }
    }

    /// Has buffers of others for what is about to be written to the peers.
    pub fn lend_buffers(&mut self, spares: &mut Spares) {
        for buffer in [&mut self.shared.to_client, &mut self.shared.to_broker] {
            spares.lend(buffer);
        }
    }

    /// Gives the output buffers of a quiet connection back.
    pub fn release_buffers(&mut self, spares: &mut Spares) {
        for buffer in [&mut self.shared.to_client, &mut self.shared.to_broker, &mut self.last_words] {
            spares.release(buffer);
        }
    }

    /// How many bytes wait to be taken for a peer.
    pub fn pending(&self, to: Side) -> usize {
        match to {
            Side::Broker => self.shared.to_broker.len(),
            Side::Client if self.client_end.is_told() => self.last_words.len(),
            Side::Client => self.shared.to_client.len(),
        }
    }

    /// Bytes of messages that wait or are kept, for the bound on the connection's memory.
    pub fn held_bytes(&self) -> usize {
        self.shared.held_bytes
    }

    /// The questions that want an answer, each with the number of its ticket, and the orders that want none.
    pub fn questions(&mut self) -> (&mut Vec<(u64, Request)>, &mut Vec<Request>) {
        (&mut self.shared.asks, &mut self.shared.tells)
    }

    /// Questions whose answer nobody waits for any more.
    pub fn cancelled(&mut self) -> &mut Vec<Ticket> {
        &mut self.shared.cancelled
    }

    /// What has happened since the last call.
    pub fn events(&mut self) -> &mut Vec<Event> {
        &mut self.shared.events
    }

    /// The counts since the last call.
    pub fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.shared.counts)
    }

    /// The virtual host, empty before it is known.
    pub fn vhost(&self) -> &Arc<str> {
        &self.shared.vhost
    }

    /// The user name, where the SASL mechanism shows it.
    pub fn user(&self) -> Option<&Arc<str>> {
        self.shared.user.as_ref()
    }

    /// How many channels are open.
    pub fn channel_count(&self) -> usize {
        self.channels.open.len()
    }

    fn input(&mut self, side: Side) -> &mut Input {
        match side {
            Side::Client => &mut self.client,
            Side::Broker => &mut self.broker,
        }
    }

    fn output(&mut self, to: Side) -> &mut Vec<u8> {
        match to {
            Side::Broker => &mut self.shared.to_broker,
            Side::Client if self.client_end.is_told() => &mut self.last_words,
            Side::Client => &mut self.shared.to_client,
        }
    }

    /// After every input: keeps the memory bound, and ends what is ready to end.
    fn settle(&mut self) {
        self.relieve();
        self.relieve_held();
        self.refuse_unknown_confirm();
        self.finish();
        if !self.shared.ended.is_empty() {
            self.ask_soon();
        }
        if self.shared.windows == Fit::Unsure {
            self.adjust_windows();
        }
        let nobody_reads = matches!(self.client_end, ClientEnd::Told { .. } | ClientEnd::Left { .. });
        // What the broker answers to the end that Oncegate makes for a client that is gone is not for that client.
        if nobody_reads || matches!(self.broker_end, BrokerEnd::Closing { .. }) {
            self.shared.to_client.clear();
        }
    }

    /// Nothing waits: what fills the memory are messages that are still coming in.
    fn relieve_of_contents(&mut self) {
        for channel in &mut self.channels.open {
            if self.shared.held_bytes <= self.shared.settings.connection_memory {
                return;
            }
            channel.stop_collecting(&mut self.shared);
            channel.stop_arriving(&mut self.shared);
        }
    }

    /// At the bound messages go unchecked, oldest first: nobody is held up for Oncegate's own sake. Those that are held go back.
    fn relieve(&mut self) {
        while self.shared.held_bytes > self.shared.settings.connection_memory {
            let mut oldest: Option<(u64, u16, Filling)> = None;
            for channel in &mut self.channels.open {
                for (since, to) in [
                    (channel.oldest_wait_us(), Filling::Publish),
                    (channel.held.oldest_us(), Filling::Held),
                    (channel.oldest_arrival_us(), Filling::Arrival),
                ] {
                    if let Some(us) = since
                        && oldest.is_none_or(|(found, ..)| us < found)
                    {
                        oldest = Some((us, channel.number, to));
                    }
                }
            }
            let Some((_, number, to)) = oldest else {
                return self.relieve_of_contents();
            };
            let Some(channel) = self.channels.get_mut(number) else { return };
            let went = match to {
                Filling::Publish => channel.let_oldest_go(&mut self.shared),
                Filling::Arrival => channel.let_oldest_arrival_go(&mut self.shared, "memory"),
                Filling::Held => channel.give_back_oldest(&mut self.shared, "memory"),
            };
            if !went {
                return;
            }
        }
    }
}
