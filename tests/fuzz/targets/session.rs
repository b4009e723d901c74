//! One connection, with everything that can happen to it in any order: bytes of either peer, whole frames or torn ones, answers of every
//! kind, time, ends and a drain. What each peer is sent is whole frames as long as both send some, and every connection comes to its end.
//!
//! The first two octets choose the settings and the rule; then one octet each for an action, followed by its operands. Whatever is missing
//! at the end of the input is zero.
#![no_main]

use std::sync::Arc;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use oncegate::amqp::content::Properties;
use oncegate::amqp::encode::{self, Content};
use oncegate::amqp::frame::{self, ProtocolHeader, Split};
use oncegate::amqp::method::MethodId;
use oncegate::amqp::method::basic::{Ack, Deliver, Nack, Publish, Reject};
use oncegate::amqp::method::connection::Tune;
use oncegate::amqp::table::{FieldValue, Table, put_entry};
use oncegate::rules::RuleSet;
use oncegate::rules::beat::Turn;
use oncegate::rules::limit::{Cause, Limited, Wait};
use oncegate::rules::lock::{Acquired, Admitted, Digest, Fate, LockState, Reply, Request};
use oncegate::rules::owed::{Callers, Told};
use oncegate::rules::park::{Found, Parked};
use oncegate::rules::running::Ran;
use oncegate::rules::spec::{Canvas, DeadLetter, LimitSpec, Mode, OnDuplicate, OnMaxWait, OnRunning, OnStoreError, RuleSpec, Unique};
use oncegate::session::{Fetched, Neighbours, Now, RepublishFault, Session, Settings, Side, StoreSilent, Ticket};

const SIDES: [Side; 2] = [Side::Client, Side::Broker];
const FRAME_MAX: usize = 131_072;
const BODY: &[u8] = br#"[[1], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]"#;
/// That of a member of a canvas.
const MEMBER: &[u8] = br#"[[1], {}, {"callbacks": null, "errbacks": [{"task": "e"}], "chain": [{"task": "u"}], "chord": null}]"#;

/// The largest payload that is surely one within every limit that a login can agree on here.
const SURE_PAYLOAD: usize = 4000;

/// After both peers are gone, a connection that calls for more timeouts than this never ends.
const MAX_TIMEOUTS: usize = 1000;

/// Takes the input apart.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn octet(&mut self) -> u8 {
        let Some((octet, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *octet
    }

    fn bytes(&mut self) -> &'a [u8] {
        let size = usize::from(u16::from_be_bytes([self.octet(), self.octet()])).min(self.0.len());
        let (bytes, rest) = self.0.split_at(size);
        self.0 = rest;
        bytes
    }
}

/// One peer as the harness plays it.
#[derive(Default)]
struct Peer {
    /// What it has sent and the harness has not split into frames yet.
    sent: Vec<u8>,
    /// What it was sent.
    got: Vec<u8>,
    /// It has ended its input.
    ended: bool,
}

/// What was asked of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Acquire,
    Beat,
    Admit(Digest),
    Run,
    Limit,
    Parked,
    Note,
}

impl Asked {
    /// `None` for what wants no answer.
    fn of(request: &Request) -> Option<Asked> {
        Some(match request {
            Request::Acquire { .. } => Asked::Acquire,
            Request::BeatLease { .. } => Asked::Beat,
            Request::Admit { claim, .. } => Asked::Admit(claim.digest),
            Request::Run { .. } => Asked::Run,
            Request::Reserve { .. } | Request::Permit { .. } => Asked::Limit,
            Request::FindParked { .. } => Asked::Parked,
            Request::Park { .. } | Request::MarkParked { .. } => Asked::Note,
            _ => return None,
        })
    }
}

struct Rig {
    session: Session,
    now: Now,
    client: Peer,
    broker: Peer,
    asked: Vec<(u64, Asked)>,
    republished: Vec<Ticket>,
    fetched: Vec<Ticket>,
    /// Both peers have sent nothing but what every reader takes for frames.
    framed: bool,
    /// The client's protocol header has come.
    greeted: bool,
    /// How many octets a write is torn into; 0 for whole.
    tear: usize,
}

impl Rig {
    fn new(choice: u8, form: u8) -> Rig {
        let spec = RuleSpec {
            name: Some("r".to_owned()),
            task: vec!["t".to_owned()],
            unique: Some(if choice & 1 == 0 {
                Unique::UntilFinished
            } else {
                Unique::UntilStarted
            }),
            mode: if choice & 2 == 0 { Mode::Enforce } else { Mode::Observe },
            on_store_error: match choice >> 2 & 3 {
                0 => OnStoreError::Forward,
                1 => OnStoreError::Wait,
                _ => OnStoreError::Reject,
            },
            ..RuleSpec::default()
        };
        let spec = formed(spec, form);
        let settings = Settings {
            upstream_confirms: choice & 16 == 0,
            connection_memory: if choice & 32 == 0 { 32 << 20 } else { 700 },
            max_message: if choice & 64 == 0 { 16 << 20 } else { 100 },
            reply_prefix: if form & 64 == 0 { "oncegate.reply.".into() } else { "".into() },
            ..Settings::default()
        };
        let rules = RuleSet::compile(vec![spec], &[]).expect("the rule is right");
        let rules = match form >> 4 & 3 {
            0 | 1 => rules,
            told => rules.telling(Told::Published {
                vhosts: [Arc::from("/")].into(),
                to: [Callers::All, Callers::Declaring][usize::from(told & 1)],
            }),
        };
        let now = Now {
            us: 1_000_000,
            unix_ms: 1_800_000_000_000,
        };
        let mut rig = Rig {
            session: Session::new(Arc::new(settings), Arc::new(rules), 0, now),
            now,
            client: Peer::default(),
            broker: Peer::default(),
            asked: Vec::new(),
            republished: Vec::new(),
            fetched: Vec::new(),
            framed: true,
            greeted: false,
            tear: 0,
        };
        if choice & 128 == 0 {
            rig.log_in();
        }
        rig
    }

    fn log_in(&mut self) {
        self.send(Side::Client, &frame::PROTOCOL_HEADER);
        self.send(Side::Broker, &method(0, MethodId::CONNECTION_TUNE, &[7, 255, 0, 2, 0, 0, 0, 10]));
        self.send(Side::Client, &method(0, MethodId::CONNECTION_TUNE_OK, &[7, 255, 0, 2, 0, 0, 0, 10]));
        self.send(Side::Client, &method(0, MethodId::CONNECTION_OPEN, b"\x01/\0\0"));
        self.send(Side::Broker, &method(0, MethodId::CONNECTION_OPEN_OK, &[0]));
        for channel in [1, 2] {
            self.send(Side::Client, &method(channel, MethodId::CHANNEL_OPEN, &[0]));
            self.send(Side::Broker, &method(channel, MethodId::CHANNEL_OPEN_OK, &[0, 0, 0, 0]));
        }
    }

    fn peer(&mut self, side: Side) -> &mut Peer {
        match side {
            Side::Client => &mut self.client,
            Side::Broker => &mut self.broker,
        }
    }

    fn send(&mut self, from: Side, bytes: &[u8]) {
        let size = if self.tear == 0 { bytes.len().max(1) } else { self.tear };
        for bytes in bytes.chunks(size) {
            // An edge reads the broker only once there is one.
            let connected = from == Side::Client || self.session.wants_broker();
            if self.peer(from).ended || !connected || !self.session.wants(from) {
                return;
            }
            self.peer(from).sent.extend_from_slice(bytes);
            self.judge(from);
            self.session.handle_bytes(from, bytes, self.now);
            self.take();
        }
    }

    /// Follows what a peer sends, to know whether the session still reads frames.
    fn judge(&mut self, from: Side) {
        let mut sent = std::mem::take(&mut self.peer(from).sent);
        let mut used = 0;
        if from == Side::Client && !self.greeted {
            match frame::parse_protocol_header(&sent) {
                ProtocolHeader::Incomplete => {}
                ProtocolHeader::Amqp091 => (self.greeted, used) = (true, frame::PROTOCOL_HEADER_LEN),
                ProtocolHeader::Other => self.framed = false,
            }
        }
        if self.greeted {
            loop {
                if from == Side::Broker && sent[used..].starts_with(b"AMQP") {
                    self.framed = false;
                }
                match frame::split(&sent[used..], SURE_PAYLOAD) {
                    Split::Frame(frame) => {
                        if let Some(tune) = Tune::decode_ok(frame.payload) {
                            self.framed &= tune.frame_max == 0 || tune.frame_max as usize >= SURE_PAYLOAD;
                        }
                        used += frame.raw.len();
                    }
                    Split::Incomplete { .. } => break,
                    Split::Malformed(_) => {
                        self.framed = false;
                        break;
                    }
                }
            }
        }
        sent.drain(..used);
        self.peer(from).sent = sent;
    }

    /// Takes what is to be written and asked, as the edge does after every input.
    fn take(&mut self) {
        for side in SIDES {
            let pending = self.session.pending(side);
            let mut bytes = Vec::new();
            self.session.swap_output(side, &mut bytes);
            assert_eq!(pending, bytes.len());
            self.peer(side).got.append(&mut bytes);
            if self.framed {
                self.whole_frames(side);
            } else {
                self.peer(side).got.clear();
            }
        }
        let (asks, tells) = self.session.questions();
        for (ticket, request) in asks.drain(..) {
            let asked = Asked::of(&request).unwrap_or_else(|| panic!("it wants no answer: {request:?}"));
            self.asked.push((ticket, asked));
        }
        for request in tells.drain(..) {
            let wants_answer = Asked::of(&request).is_some_and(|asked| asked != Asked::Note);
            assert!(!wants_answer, "{request:?}");
        }
        let cancelled: Vec<Ticket> = self.session.cancelled().drain(..).collect();
        self.asked.retain(|(ticket, _)| !cancelled.contains(&Ticket(*ticket)));
        self.republished
            .extend(self.session.republishes().drain(..).map(|(ticket, _)| ticket));
        self.fetched.extend(self.session.fetches().drain(..).map(|(ticket, _)| ticket));
        self.session.events().clear();
        self.session.take_counts();
    }

    fn whole_frames(&mut self, side: Side) {
        let got = std::mem::take(&mut self.peer(side).got);
        let mut rest = got.as_slice();
        if side == Side::Broker && rest.starts_with(b"AMQP") {
            rest = &rest[frame::PROTOCOL_HEADER_LEN..];
        }
        while let Split::Frame(frame) = frame::split(rest, usize::MAX) {
            rest = &rest[frame.raw.len()..];
        }
        assert!(rest.is_empty(), "the {side:?} was sent something other than frames: {got:02x?}");
    }

    fn answer(&mut self, which: u8, kind: u8) {
        if self.asked.is_empty() {
            return;
        }
        let index = usize::from(which) % self.asked.len();
        let (ticket, asked) = self.asked[index];
        let answer = answer_of(asked, kind);
        // Only this answer is followed by another.
        if !matches!(answer, Ok(Reply::Acquire(Acquired::Leased { .. }))) {
            self.asked.swap_remove(index);
        }
        self.session.handle_answer(Ticket(ticket), answer, self.now);
        self.take();
    }

    /// What was published anew has an outcome.
    fn republished(&mut self, kind: u8) {
        let Some(ticket) = self.republished.pop() else { return };
        let outcome = match kind % 6 {
            0 => Err(RepublishFault::NotAvailable),
            1 => Err(RepublishFault::Refused),
            2 => Err(RepublishFault::Returned),
            3 => Err(RepublishFault::Nacked),
            4 => Err(RepublishFault::Unknown),
            _ => Ok(()),
        };
        self.session.handle_republished(ticket, outcome, self.now);
        self.take();
    }

    /// The result backend has answered.
    fn fetched(&mut self, kind: u8) {
        let Some(ticket) = self.fetched.pop() else { return };
        let fetched = match kind % 7 {
            0 => Fetched::Silent,
            1 => Fetched::Failed,
            2 => Fetched::Revoked,
            3 => Fetched::Nothing,
            4 => Fetched::Unread,
            _ => Fetched::Value(b"[1]"[..].into()),
        };
        self.session.handle_fetched(ticket, &fetched, self.now);
        self.take();
    }

    fn later(&mut self, us: u64) {
        self.now.us += us;
        self.now.unix_ms += us / 1000;
        self.session.handle_timeout(self.now);
        self.take();
    }

    fn end(&mut self, side: Side) {
        if self.peer(side).ended || !self.session.wants(side) {
            return;
        }
        self.peer(side).ended = true;
        self.session.handle_eof(side, self.now);
        self.take();
    }

    fn act(&mut self, script: &mut Script<'_>) {
        match script.octet() % 24 {
            0 => self.send(Side::Client, script.bytes()),
            1 => self.send(Side::Broker, script.bytes()),
            2 => self.client_publishes(script),
            3 => self.broker_delivers(script),
            4 => self.settles(Side::Broker, script),
            5 => self.settles(Side::Client, script),
            6 | 7 => {
                let (which, kind) = (script.octet(), script.octet());
                self.answer(which, kind);
            }
            8 => {
                let us = u64::from(script.octet()) * 100_000;
                self.later(us);
            }
            9 => self.end(Side::Client),
            10 => self.end(Side::Broker),
            11 => {
                let close_from_us = self.now.us + u64::from(script.octet()) * 10_000;
                let neighbours = [Neighbours::Busy, Neighbours::Idle][usize::from(script.octet() & 1)];
                self.session.handle_drain(close_from_us, neighbours, self.now);
                self.take();
            }
            12 => {
                let until_us = self.now.us + u64::from(script.octet()) * 100_000;
                self.session.handle_close(until_us, self.now);
                self.take();
            }
            13 => self.sends_method(Side::Client, script),
            14 => self.sends_method(Side::Broker, script),
            15 => self.tear = usize::from(script.octet()),
            16 => self.returns(script),
            17 => {
                let (side, paused) = (SIDES[usize::from(script.octet() & 1)], script.octet() & 1 == 1);
                self.session.handle_paused(side, paused, self.now);
            }
            18 => self.session.handle_written(SIDES[usize::from(script.octet() & 1)], self.now),
            19 => self.republished(script.octet()),
            20 => self.fetched(script.octet()),
            21 => {
                self.session.handle_store_back(self.now);
                self.take();
            }
            22 => {
                let ids = [Arc::from(format!("id-{}", script.octet() % 4))];
                if script.octet() & 1 == 0 {
                    self.session.handle_query("w@host", &ids, "1", self.now);
                } else {
                    self.session.handle_revoke("w@host", &ids, self.now);
                }
                self.take();
            }
            _ => {
                let at = self.session.poll_timeout();
                if at != u64::MAX {
                    self.later(at.saturating_sub(self.now.us));
                }
            }
        }
    }

    fn client_publishes(&mut self, script: &mut Script<'_>) {
        let (channel, flags, id) = (channel_of(script), script.octet(), script.octet());
        let bytes = publish(channel, flags, id);
        // Some are cut off in the middle, and go on after what comes next.
        let cut = if flags & 8 == 0 { bytes.len() } else { bytes.len() / 2 };
        self.send(Side::Client, &bytes[..cut]);
        if flags & 16 == 0 {
            self.send(Side::Client, &bytes[cut..]);
        }
    }

    fn broker_delivers(&mut self, script: &mut Script<'_>) {
        let (channel, flags, tag) = (channel_of(script), script.octet(), script.octet());
        let (table, id) = headers(flags, tag);
        let deliver = Deliver {
            consumer_tag: if flags & 4 == 0 { b"c" } else { b"n" },
            delivery_tag: u64::from(tag),
            redelivered: flags & 32 != 0,
            exchange: b"",
            routing_key: b"q",
            tag_offset: 0,
        };
        let mut out = Vec::new();
        encode::basic_deliver(&mut out, channel, &deliver, &content(&table, &id, flags), FRAME_MAX).expect("it fits");
        self.send(Side::Broker, &out);
    }

    fn settles(&mut self, from: Side, script: &mut Script<'_>) {
        let (channel, kind, tag) = (channel_of(script), script.octet(), script.octet());
        let (delivery_tag, multiple, requeue) = (u64::from(tag), kind & 4 != 0, kind & 8 != 0);
        let mut out = Vec::new();
        match kind & 3 {
            0 | 1 => encode::basic_ack(&mut out, channel, Ack { delivery_tag, multiple }),
            2 => encode::basic_nack(
                &mut out,
                channel,
                Nack {
                    delivery_tag,
                    multiple,
                    requeue,
                },
            ),
            _ => encode::basic_reject(&mut out, channel, Reject { delivery_tag, requeue }),
        }
        self.send(from, &out);
    }

    fn returns(&mut self, script: &mut Script<'_>) {
        let (channel, flags, id) = (channel_of(script), script.octet(), script.octet());
        let mut arguments = 312u16.to_be_bytes().to_vec();
        arguments.extend_from_slice(b"\x08NO_ROUTE\x00\x01q");
        let mut out = method(channel, MethodId::BASIC_RETURN, &arguments);
        let published = publish(channel, flags & 3, id);
        let Split::Frame(first) = frame::split(&published, usize::MAX) else {
            panic!("a frame")
        };
        out.extend_from_slice(&published[first.raw.len()..]);
        self.send(Side::Broker, &out);
    }

    fn sends_method(&mut self, from: Side, script: &mut Script<'_>) {
        let (channel, kind) = (channel_of(script), script.octet());
        let bytes = match kind % 24 {
            0 => method(channel, MethodId::CHANNEL_OPEN, &[0]),
            1 => method(channel, MethodId::CHANNEL_OPEN_OK, &[0, 0, 0, 0]),
            2 => method(channel, MethodId::CHANNEL_CLOSE, &[0, 200, 0, 0, 0, 0, 0]),
            3 => method(channel, MethodId::CHANNEL_CLOSE_OK, &[]),
            4 => method(channel, MethodId::CONFIRM_SELECT, &[kind >> 7]),
            5 => method(channel, MethodId::CONFIRM_SELECT_OK, &[]),
            6 => method(channel, MethodId::TX_SELECT, &[]),
            7 => method(channel, MethodId::TX_SELECT_OK, &[]),
            8 => method(channel, MethodId::BASIC_CONSUME, b"\0\0\x01q\x01c\0\0\0\0\0"),
            9 => method(channel, MethodId::BASIC_CONSUME, b"\0\0\x01q\x01n\x02\0\0\0\0"),
            10 => method(channel, MethodId::BASIC_CONSUME_OK, b"\x01c"),
            11 => method(channel, MethodId::BASIC_CANCEL, b"\x01c\0"),
            12 => method(0, MethodId::CONNECTION_CLOSE, &[0, 200, 0, 0, 0, 0, 0]),
            13 => method(0, MethodId::CONNECTION_CLOSE_OK, &[]),
            14 => method(0, MethodId::CONNECTION_BLOCKED, &[0]),
            15 => method(0, MethodId::CONNECTION_UNBLOCKED, &[]),
            16 => method(channel, MethodId::CHANNEL_FLOW, &[kind >> 7]),
            17 => method(channel, MethodId::TX_COMMIT, &[]),
            18 => method(channel, MethodId::BASIC_RECOVER, &[1]),
            19 => method(channel, MethodId::BASIC_QOS, &[0, 0, 0, 0, kind >> 5, kind >> 7]),
            20 => method(channel, MethodId::BASIC_QOS_OK, &[]),
            21 => method(channel, MethodId::QUEUE_DECLARE, b"\0\0\x01r\x08\0\0\0\0"),
            22 => method(channel, MethodId::QUEUE_DECLARE_OK, b"\x01r\0\0\0\0\0\0\0\0"),
            _ => vec![8, 0, 0, 0, 0, 0, 0, frame::END],
        };
        self.send(from, &bytes);
    }

    fn answer_all(&mut self, mut kind: impl FnMut() -> u8) {
        while !self.asked.is_empty() || !self.republished.is_empty() || !self.fetched.is_empty() {
            self.answer(0, kind());
            self.republished(kind());
            self.fetched(kind());
        }
    }

    /// Both peers go and the store answers all; then nothing is held, and the end comes by itself.
    fn finish(mut self, order: u8) {
        let [first, second] = if order & 1 == 0 { SIDES } else { [Side::Broker, Side::Client] };
        self.end(first);
        self.end(second);
        // The last kind of answer is one that none follows.
        let mut kinds = (0..32).map(|kind| order.wrapping_add(kind)).chain(std::iter::repeat(0));
        self.answer_all(|| kinds.next().unwrap_or_default());
        for _ in 0..MAX_TIMEOUTS {
            if SIDES.iter().all(|side| self.session.is_done(*side)) {
                break;
            }
            let at = self.session.poll_timeout();
            assert_ne!(at, u64::MAX, "nothing more will happen, and it is not the end: {:?}", self.session);
            self.later(at.saturating_sub(self.now.us));
            self.answer_all(|| 0);
        }
        assert!(SIDES.iter().all(|side| self.session.is_done(*side)), "no end: {:?}", self.session);
        assert_eq!(self.session.held_bytes(), 0, "{:?}", self.session);
        assert_eq!(self.session.channel_count(), 0, "{:?}", self.session);
    }
}

/// The rule with more than the first octet gives it.
fn formed(spec: RuleSpec, form: u8) -> RuleSpec {
    let second = Some(Duration::from_secs(1));
    let dead_letter = Some(DeadLetter {
        exchange: String::new(),
        routing_key: "dead".to_owned(),
    });
    let mut spec = RuleSpec {
        beat_lease: (form & 8 != 0).then_some(Duration::from_secs(15)),
        canvas: if form & 128 == 0 { Canvas::Bypass } else { Canvas::Dedupe },
        dead_letter,
        ..spec
    };
    match form & 7 {
        0 => {}
        1 => spec.on_duplicate = OnDuplicate::Replace,
        2 => spec.debounce = second,
        3 => (spec.on_duplicate, spec.unique) = (OnDuplicate::KeepLast, Some(Unique::UntilFinished)),
        4 => (spec.unique, spec.canvas) = (Some(Unique::WhileRunning), Canvas::Bypass),
        5 => {
            (spec.unique, spec.canvas) = (Some(Unique::UntilStartedAndWhileRunning), Canvas::Bypass);
            spec.on_running = OnRunning::DeadLetter;
        }
        6 => {
            spec.limits = vec![LimitSpec {
                times: Some(1),
                per: second,
                max_wait: second,
                on_max_wait: Some([OnMaxWait::Drop, OnMaxWait::DeadLetter][usize::from(form >> 6 & 1)]),
                ..LimitSpec::default()
            }];
        }
        _ => spec.on_duplicate = [OnDuplicate::Raise, OnDuplicate::Reject, OnDuplicate::DeadLetter][usize::from(form >> 5) % 3],
    }
    spec
}

fn answer_of(asked: Asked, kind: u8) -> Result<Reply, StoreSilent> {
    let silent = [StoreSilent::Timeout, StoreSilent::Unreachable, StoreSilent::CircuitOpen];
    let reply = match asked {
        Asked::Acquire => acquired(kind).map(Reply::Acquire),
        Asked::Beat if kind & 1 == 0 => Some(Reply::Beat(Turn::Own)),
        Asked::Beat => Some(Reply::Beat(Turn::Other {
            origin: "gen2@beat".into(),
            expires_in_ms: 1000,
        })),
        Asked::Admit(digest) => admitted(kind).map(|admitted| Reply::Admit(digest, admitted)),
        Asked::Run => ran(kind).map(Reply::Run),
        Asked::Limit => limited(kind).map(Reply::Limit),
        Asked::Parked => found(kind).map(Reply::Parked),
        Asked::Note if kind & 3 != 3 => Some(Reply::Done),
        Asked::Note => None,
    };
    reply.ok_or(silent[usize::from(kind) % silent.len()])
}

/// `None`: there is no answer.
fn acquired(kind: u8) -> Option<Acquired> {
    let holder: Arc<str> = "other".into();
    Some(match kind % 12 {
        0 => Acquired::Taken,
        1 => Acquired::Reentry { holds: true },
        2 => Acquired::Reentry { holds: false },
        3 => Acquired::Leased { holder },
        4 => Acquired::Held {
            holder,
            state: LockState::Queued,
            expires_in_ms: 1000,
        },
        5 => Acquired::Replaces { holder },
        6 => Acquired::PutOff {
            holder: (kind & 16 == 0).then_some(holder),
            due_ms: 1_800_000_001_000,
        },
        7 => Acquired::Kept { holder },
        8 => Acquired::Outrun { holder },
        _ => return None,
    })
}

fn admitted(kind: u8) -> Option<Admitted> {
    let holder: Arc<str> = "other".into();
    Some(match kind % 12 {
        0 => Admitted::Holds,
        1 => Admitted::Passes,
        2 => Admitted::Superseded,
        3 => Admitted::Outdated { newer: holder },
        4 => Admitted::Waits {
            holder,
            since_ms: 1_800_000_000_000,
        },
        5 => Admitted::Leased { holder },
        6 => Admitted::Held {
            holder,
            state: LockState::Running,
            expires_in_ms: 1000,
        },
        7 => Admitted::Ended { holder, fate: Fate::Begun },
        8 => Admitted::Ended {
            holder,
            fate: Fate::Ended {
                since_ms: u64::from(kind) * 100,
            },
        },
        9 => Admitted::Ended {
            holder,
            fate: Fate::Failed,
        },
        _ => return None,
    })
}

fn ran(kind: u8) -> Option<Ran> {
    Some(match kind % 8 {
        0 => Ran::Runs,
        1 => Ran::Waits {
            holder: "other".into(),
            place_ms: 1_800_000_000_000,
            expires_in_ms: 1000,
        },
        2 => Ran::Forgotten {
            place_ms: 1_800_000_000_000,
        },
        3 => Ran::Leaves {
            holder: "other".into(),
            freed: Vec::new(),
        },
        4 => Ran::Succeeded,
        5 => Ran::Superseded,
        _ => return None,
    })
}

fn limited(kind: u8) -> Option<Limited> {
    match kind % 4 {
        0 => Some(Limited::Permitted { waited_ms: 1 }),
        3 => None,
        cause => Some(Limited::Waits(Wait {
            wait_ms: u64::from(kind) * 10,
            waited_ms: u64::from(kind) * 20,
            bucket: usize::from(kind >> 7),
            cause: [Cause::Rate, Cause::Runs][usize::from(cause) - 1],
        })),
    }
}

fn found(kind: u8) -> Option<Found> {
    Some(match kind % 4 {
        0 => Found::Unknown,
        1 => Found::Parked(Parked {
            token: oncegate::rules::park::Token("1-2".into()),
            digest: Digest([7; 32]),
            rule: ["r", "gone"][usize::from(kind >> 7)].into(),
            place_ms: (kind & 64 == 0).then_some(1_800_000_000_000),
        }),
        2 => Found::Over,
        _ => return None,
    })
}

fn channel_of(script: &mut Script<'_>) -> u16 {
    u16::from(script.octet() % 3) + 1
}

fn method(channel: u16, id: MethodId, arguments: &[u8]) -> Vec<u8> {
    let mut out = vec![1];
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend_from_slice(&(arguments.len() as u32 + 4).to_be_bytes());
    out.extend_from_slice(&id.class.to_be_bytes());
    out.extend_from_slice(&id.method.to_be_bytes());
    out.extend_from_slice(arguments);
    out.push(frame::END);
    out
}

/// The headers of a task that the rule concerns, or not, and its id.
fn headers(flags: u8, id: u8) -> (Vec<u8>, String) {
    let task = if flags & 1 == 0 { "t" } else { "u" };
    let id = format!("id-{}", id % 4);
    let mut table = Vec::new();
    for (name, value) in [("lang", "py"), ("task", task), ("id", &id)] {
        put_entry(&mut table, name.as_bytes(), &FieldValue::LongStr(value.as_bytes())).expect("short names");
    }
    put_entry(&mut table, b"expires", &FieldValue::Void).expect("a short name");
    if flags & 64 != 0 {
        let eta = FieldValue::LongStr(b"2027-01-15T08:00:10+00:00");
        put_entry(&mut table, b"eta", &eta).expect("a short name");
    }
    if id.ends_with('3') {
        let entry = FieldValue::LongStr(b"every minute");
        put_entry(&mut table, b"periodic_task_name", &entry).expect("a short name");
        put_entry(&mut table, b"origin", &FieldValue::LongStr(b"gen1@beat")).expect("a short name");
    }
    (table, id)
}

fn content<'a>(table: &'a [u8], id: &'a str, flags: u8) -> Content<'a> {
    Content {
        properties: Properties {
            content_type: Some(b"application/json"),
            content_encoding: Some(b"utf-8"),
            headers: Some(Table::new(table)),
            correlation_id: Some(id.as_bytes()),
            reply_to: Some(b"r"),
            ..Properties::default()
        },
        body: if flags & 128 == 0 { BODY } else { MEMBER },
    }
}

fn publish(channel: u16, flags: u8, id: u8) -> Vec<u8> {
    let (table, id) = headers(flags, id);
    let publish = Publish {
        exchange: b"",
        routing_key: b"q",
        mandatory: flags & 2 != 0,
        immediate: false,
        bits_offset: 0,
    };
    let frame_max = if flags & 4 == 0 { FRAME_MAX } else { 160 };
    let mut out = Vec::new();
    if encode::basic_publish(&mut out, channel, &publish, &content(&table, &id, flags), frame_max).is_err() {
        out.clear();
    }
    out
}

fuzz_target!(|data: &[u8]| {
    let mut script = Script(data);
    let (choice, form) = (script.octet(), script.octet());
    let mut rig = Rig::new(choice, form);
    while !script.0.is_empty() {
        rig.act(&mut script);
    }
    rig.finish(data.last().copied().unwrap_or_default());
});
