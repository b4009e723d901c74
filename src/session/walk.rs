//! From bytes to frames, and the short way for those that nobody needs to look into.

use super::channel::{Down, Life, Up};
use super::collect::{concerned, may_be_answer};
use super::confirm::Outcome;
use super::event::CloseReason;
use super::seek::may_be_copy;
use super::window::Via;
use super::{Phase, Session, Side};
use crate::amqp::content::ContentHeader;
use crate::amqp::frame::{self, Frame, FrameKind, ProtocolHeader, Split};
use crate::amqp::method::{MethodId, basic};

/// The length of a protocol header.
const PROTOCOL_HEADER: usize = 8;

/// The broker may send content headers above the negotiated size, and the size may be unlimited; this only bounds memory.
pub(super) const FRAME_MAX: usize = 64 << 20;

/// The frames at the end of what was read that pass as they lie.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Passed<'b> {
    pub bytes: &'b [u8],
    /// How many frames they are.
    pub frames: u64,
}

/// How a frame takes the short way.
#[derive(Debug, Clone, Copy)]
enum Quick {
    /// It passes.
    Alone,
    /// It passes with the content header after it, which has this length.
    WithHeader(usize),
    /// It begins a content whose header has not been read.
    Begun,
}

impl Session {
    /// Bytes of one peer: first the frame that the last read left incomplete, then the rest where it lies. What is given back is not
    /// yet among the output.
    pub(super) fn read<'b>(&mut self, from: Side, mut bytes: &'b [u8]) -> Passed<'b> {
        while !self.input(from).partial.is_empty() && !bytes.is_empty() {
            let mut partial = std::mem::take(&mut self.input(from).partial);
            let wanted = self.missing(from, &partial).clamp(1, bytes.len());
            let (head, rest) = bytes.split_at(wanted);
            partial.extend_from_slice(head);
            bytes = rest;
            let (used, passed) = self.walk(from, &partial);
            self.forward(from, passed.bytes);
            partial.drain(..used);
            // An idle connection holds no buffer.
            self.input(from).partial = if partial.is_empty() { Vec::new() } else { partial };
        }
        if !self.input(from).partial.is_empty() {
            return Passed::default();
        }
        let (used, passed) = self.walk(from, bytes);
        if let Some(rest) = bytes.get(used..).filter(|rest| !rest.is_empty()) {
            self.input(from).partial = rest.to_vec();
        }
        passed
    }

    /// Moves the beginning of a frame whose rest has now been read to the end of `room`, if it fits. Returns how many bytes these are:
    /// they must be handed in again, before the rest, so that the frame lies in one piece with those after it.
    pub fn unread(&mut self, from: Side, room: &mut [u8]) -> usize {
        let partial = &mut self.input(from).partial;
        let Some(end) = room.len().checked_sub(partial.len()).and_then(|at| room.get_mut(at..)) else {
            return 0;
        };
        end.copy_from_slice(partial);
        std::mem::take(partial).len()
    }

    /// How many bytes the frame that has begun still lacks; the method that it belongs to may be before it.
    fn missing(&self, from: Side, partial: &[u8]) -> usize {
        if self.phase == Phase::Header {
            return PROTOCOL_HEADER.saturating_sub(partial.len());
        }
        let mut rest = partial;
        loop {
            match frame::split(rest, self.limit(from)) {
                Split::Incomplete { needed } => return needed.saturating_sub(rest.len()),
                // A method that waits for its content header.
                Split::Frame(frame) => rest = rest.get(frame.raw.len()..).unwrap_or_default(),
                Split::Malformed(_) => return 0,
            }
        }
    }

    /// The largest payload: `RabbitMQ` takes frames that are 8 octets, the overhead, above the negotiated size.
    fn limit(&self, from: Side) -> usize {
        match from {
            Side::Client => self.shared.frame_max,
            Side::Broker => FRAME_MAX,
        }
    }

    /// Walks the frames of `bytes`. How many bytes are done with (the rest is the beginning of a frame), and those at their end that
    /// pass as they lie and are still to be forwarded.
    pub(super) fn walk<'b>(&mut self, from: Side, bytes: &'b [u8]) -> (usize, Passed<'b>) {
        let mut at = 0;
        if self.phase == Phase::Header && from == Side::Client {
            match frame::parse_protocol_header(bytes) {
                ProtocolHeader::Incomplete => return (0, Passed::default()),
                ProtocolHeader::Amqp091 => {
                    self.phase = Phase::Handshake;
                    self.shared
                        .to_broker
                        .extend_from_slice(bytes.get(..PROTOCOL_HEADER).unwrap_or_default());
                    at = PROTOCOL_HEADER;
                }
                ProtocolHeader::Other => self.phase = Phase::Tunnel,
            }
        }
        // A broker that refuses the protocol version answers with its own header and closes.
        if self.phase == Phase::Handshake && from == Side::Broker && bytes.starts_with(b"AMQP") {
            self.phase = Phase::Tunnel;
        }
        let mut run = at;
        let mut before = self.frames_read(from);
        while !self.is_raw(from) {
            if !self.wants(from) {
                // A frame of this read was the peer's last word.
                return (bytes.len(), Passed::default());
            }
            let rest = bytes.get(at..).unwrap_or_default();
            match frame::split(rest, self.limit(from)) {
                Split::Frame(frame) => {
                    let size = frame.raw.len();
                    let after = rest.get(size..).unwrap_or_default();
                    match self.quick(from, &frame, after) {
                        Some(Quick::Alone) => {
                            self.count_frames(from, 1);
                            at += size;
                        }
                        Some(Quick::WithHeader(header)) => {
                            self.count_frames(from, 2);
                            at += size + header;
                        }
                        Some(Quick::Begun) => break,
                        None => {
                            self.count_frames(from, 1);
                            self.forward(from, bytes.get(run..at).unwrap_or_default());
                            self.frame(from, &frame);
                            at += size;
                            run = at;
                            before = self.frames_read(from);
                        }
                    }
                }
                Split::Incomplete { .. } => break,
                Split::Malformed(_) => {
                    self.forward(from, bytes.get(run..at).unwrap_or_default());
                    run = at;
                    before = self.frames_read(from);
                    self.malformed(from);
                }
            }
        }
        let end = if self.is_raw(from) { bytes.len() } else { at };
        let passed = Passed {
            bytes: bytes.get(run..end).unwrap_or_default(),
            frames: self.frames_read(from) - before,
        };
        (end, passed)
    }

    /// True if the bytes of this peer are not looked into any more.
    fn is_raw(&self, from: Side) -> bool {
        self.phase == Phase::Tunnel || (from == Side::Client && self.client_raw)
    }

    fn count_frames(&mut self, from: Side, frames: u64) {
        match from {
            Side::Client => self.shared.counts.frames_from_client += frames,
            Side::Broker => self.shared.counts.frames_from_broker += frames,
        }
    }

    fn frames_read(&self, from: Side) -> u64 {
        match from {
            Side::Client => self.shared.counts.frames_from_client,
            Side::Broker => self.shared.counts.frames_from_broker,
        }
    }

    pub(super) fn forward(&mut self, from: Side, run: &[u8]) {
        match from {
            Side::Client => self.shared.to_broker.extend_from_slice(run),
            Side::Broker => self.shared.to_client.extend_from_slice(run),
        }
    }

    /// Bytes that are no frame. The client's go to the broker, which answers as it does; the broker's end the connection.
    fn malformed(&mut self, from: Side) {
        self.close_reason = Some((from, CloseReason::Protocol));
        if from == Side::Broker {
            self.tell_client(541, "oncegate: malformed frame from the broker");
        }
        self.stop_asking();
        self.let_all_go();
        match from {
            Side::Client => self.client_raw = true,
            Side::Broker => self.phase = Phase::Tunnel,
        }
    }

    fn frame(&mut self, from: Side, frame: &Frame<'_>) {
        if frame.channel == 0 {
            return match from {
                Side::Client => self.client_connection_frame(frame),
                Side::Broker => self.broker_connection_frame(frame),
            };
        }
        let Some(channel) = self.channels.or_new(frame.channel) else {
            return;
        };
        match from {
            Side::Client => channel.client_frame(&mut self.shared, frame),
            Side::Broker => channel.broker_frame(&mut self.shared, frame),
        }
        if self.refuse_unknown_confirm() {
            return;
        }
        let life = self.channels.get_mut(frame.channel).map(|channel| &mut channel.life);
        match life {
            Some(Life::Gone) => self.channels.remove(frame.channel),
            Some(Life::Followed(next)) => {
                let next = std::mem::take(next);
                self.channels.remove(frame.channel);
                self.reads_next_channel(&next);
            }
            _ => {}
        }
    }

    /// Ends the connection if the broker has confirmed what it was not sent.
    pub(super) fn refuse_unknown_confirm(&mut self) -> bool {
        let unknown = std::mem::take(&mut self.shared.unknown_confirm);
        if unknown {
            self.tell_client(541, "oncegate: the broker confirmed a publish that it was not sent");
            self.close_reason = Some((Side::Broker, CloseReason::Protocol));
        }
        unknown
    }

    /// The short way, for a frame that passes as it lies; `None` if it must be looked into.
    #[inline]
    fn quick(&mut self, from: Side, frame: &Frame<'_>, after: &[u8]) -> Option<Quick> {
        if frame.channel == 0 {
            return None;
        }
        match from {
            Side::Client => self.quick_client(frame, after),
            Side::Broker => self.quick_broker(frame, after),
        }
    }

    fn quick_client(&mut self, frame: &Frame<'_>, after: &[u8]) -> Option<Quick> {
        let channel = self.channels.get_mut(frame.channel)?;
        if frame.kind == FrameKind::Body {
            let Up::Passing(left) = &mut channel.up else { return None };
            // The end of a content may let publishes that were kept out, after it.
            if !channel.queue.is_empty() || !channel.after_publish.is_empty() || !channel.own_acks.is_empty() {
                return None;
            }
            let size = frame.payload.len() as u64;
            if *left <= size {
                channel.up = Up::Idle;
            } else {
                *left -= size;
            }
            return Some(Quick::Alone);
        }
        if !channel.passes_freely() {
            return None;
        }
        match frame.method_id()? {
            MethodId::BASIC_ACK => return channel.quick_ack(&mut self.shared, frame).then_some(Quick::Alone),
            MethodId::BASIC_PUBLISH => {}
            _ => return None,
        }
        let header_frame = match content_header(after, frame.channel, self.shared.frame_max) {
            Next::Header(header_frame) => header_frame,
            Next::Incomplete => return Some(Quick::Begun),
            Next::Other => return None,
        };
        let header = ContentHeader::decode_to_headers(header_frame.payload)?;
        if !channel.tx && (concerned(&self.shared, &header) || may_be_answer(&header)) {
            return None;
        }
        let client = channel.ledger.arrive();
        channel.ledger.sent(client, None);
        if header.body_size > 0 {
            channel.up = Up::Passing(header.body_size);
        }
        self.shared.counts.unmatched_publishes += 1;
        Some(Quick::WithHeader(header_frame.raw.len()))
    }

    fn quick_broker(&mut self, frame: &Frame<'_>, after: &[u8]) -> Option<Quick> {
        let channel = self.channels.get_mut(frame.channel)?;
        if !channel.arrives_freely() {
            return None;
        }
        if frame.kind == FrameKind::Body {
            let Down::Passing(left) = &mut channel.down else { return None };
            let size = frame.payload.len() as u64;
            if *left <= size {
                // The end of a content may let frames of our own out, after this one.
                if !channel.after_content.is_empty() || channel.held.waits_for_boundary() {
                    return None;
                }
                channel.down = Down::Idle;
            } else {
                *left -= size;
            }
            return Some(Quick::Alone);
        }
        match frame.method_id()? {
            MethodId::BASIC_DELIVER if matches!(channel.down, Down::Idle) && !self.shared.draining => {
                let header_frame = match content_header(after, frame.channel, FRAME_MAX) {
                    Next::Header(header_frame) => header_frame,
                    Next::Incomplete => return Some(Quick::Begun),
                    Next::Other => return None,
                };
                let header = ContentHeader::decode_to_headers(header_frame.payload)?;
                let deliver = basic::Deliver::decode(frame.payload)?;
                if !channel.deliveries.agrees(deliver.delivery_tag) || channel.windows.any_own() {
                    return None;
                }
                if concerned(&self.shared, &header) {
                    if channel.asks_about(&self.shared, &deliver, &header) {
                        return None;
                    }
                    let header = ContentHeader::decode(header_frame.payload)?;
                    channel.deliver_begins(&mut self.shared, &deliver, &header, Via::Client);
                } else {
                    if may_be_copy(&deliver, &header) && channel.asks_about(&self.shared, &deliver, &header) {
                        return None;
                    }
                    self.shared.counts.unmatched_deliveries += 1;
                    let tag = deliver.delivery_tag;
                    channel.delivered(&mut self.shared, Some(deliver.consumer_tag), tag, None, None, Via::Client);
                }
                if header.body_size > 0 {
                    channel.down = Down::Passing(header.body_size);
                }
                Some(Quick::WithHeader(header_frame.raw.len()))
            }
            MethodId::BASIC_ACK if channel.ledger.aligned() && channel.queue.is_empty() => {
                let ack = basic::Ack::decode(frame.payload)?;
                channel
                    .broker_confirms(&mut self.shared, ack.delivery_tag, ack.multiple, Outcome::Ack)
                    .ok()?
                    .then_some(Quick::Alone)
            }
            _ => None,
        }
    }
}

/// How many frames these bytes are, which begin with a frame or a protocol header.
pub(super) fn count_frames(bytes: &[u8]) -> u64 {
    let mut rest = bytes;
    if rest.starts_with(b"AMQP") {
        rest = rest.get(PROTOCOL_HEADER..).unwrap_or_default();
    }
    let mut count = 0;
    while let Split::Frame(frame) = frame::split(rest, usize::MAX) {
        count += 1;
        rest = rest.get(frame.raw.len()..).unwrap_or_default();
    }
    count
}

/// What follows a method that begins a content.
enum Next<'a> {
    /// The content header.
    Header(Frame<'a>),
    /// A frame that has not been read in full.
    Incomplete,
    /// Something else.
    Other,
}

fn content_header(after: &[u8], channel: u16, limit: usize) -> Next<'_> {
    match frame::split(after, limit) {
        Split::Frame(frame) if frame.kind == FrameKind::Header && frame.channel == channel => Next::Header(frame),
        Split::Incomplete { .. } => Next::Incomplete,
        Split::Frame(_) | Split::Malformed(_) => Next::Other,
    }
}
