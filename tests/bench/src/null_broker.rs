//! A broker that stores nothing: it answers, counts publishes, confirms them and pushes prebuilt deliveries.
//!
//! It costs as little as a broker can, so that what stands in front of it shows. One thread, edge-triggered.

use std::collections::VecDeque;
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use crate::frames::{
    self, BODY, Frame, HEADER, Inbox, PROTOCOL_HEADER, Progress, SCRATCH, method, push_ack, push_method, put_long_string, put_short_string,
    put_table,
};
use crate::message::{Message, Persistence, put_text};

const LISTENER: Token = Token(usize::MAX);
/// Deliveries are encoded until this much waits for the socket.
const OUT_LIMIT: usize = 256 * 1024;
/// Where the delivery tag stands in a deliver frame: after the frame header, the method word and the consumer tag.
const TAG_OFFSET: usize = 7 + 4 + 1;

/// Serves until the process is ended.
pub fn serve(address: SocketAddr) -> Result<()> {
    let mut listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(1024);
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut scratch = vec![0; SCRATCH];
    let mut published = 0;
    loop {
        if let Err(error) = poll.poll(&mut events, None) {
            if error.kind() == ErrorKind::Interrupted {
                continue;
            }
            return Err(error.into());
        }
        for event in &events {
            if event.token() == LISTENER {
                accept_all(&listener, &poll, &mut connections)?;
                continue;
            }
            let Some(slot) = connections.get_mut(event.token().0) else {
                continue;
            };
            let Some(connection) = slot else { continue };
            match connection.turn(&mut scratch, &mut published) {
                Ok(Life::Open) => {}
                Ok(Life::Over) => *slot = None,
                Err(error) => {
                    eprintln!("null broker: {error:#}");
                    *slot = None;
                }
            }
        }
    }
}

fn accept_all(listener: &TcpListener, poll: &Poll, connections: &mut Vec<Option<Connection>>) -> Result<()> {
    loop {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        stream.set_nodelay(true)?;
        let place = connections.iter().position(Option::is_none).unwrap_or(connections.len());
        if place == connections.len() {
            connections.push(None);
        }
        poll.registry()
            .register(&mut stream, Token(place), Interest::READABLE | Interest::WRITABLE)?;
        connections[place] = Some(Connection::new(stream));
    }
}

enum Life {
    Open,
    Over,
}

enum Phase {
    /// The eight bytes of the protocol header have not all come.
    Greeting(Vec<u8>),
    Frames,
}

struct Connection {
    stream: TcpStream,
    phase: Phase,
    inbox: Inbox,
    out: Vec<u8>,
    written: usize,
    channels: Vec<Channel>,
}

#[derive(Default)]
struct Channel {
    /// The last confirm number given out, once confirm.select was seen.
    confirms: Option<u64>,
    /// The last confirm number acknowledged.
    confirmed: u64,
    /// Body bytes of the present publish that have not come.
    body_missing: u64,
    prefetch: u16,
    consumer: Option<Consumer>,
}

struct Consumer {
    delivery: Message,
    /// Where the tag stands in the delivery.
    tag_at: usize,
    /// The tag of the first element of `settled`.
    first_tag: u64,
    /// For each delivery from `first_tag` on, whether the client has settled it.
    settled: VecDeque<bool>,
    unsettled: usize,
}

impl Connection {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            phase: Phase::Greeting(Vec::new()),
            inbox: Inbox::default(),
            out: Vec::new(),
            written: 0,
            channels: Vec::new(),
        }
    }

    /// Reads all there is, answers, and writes what the socket takes.
    fn turn(&mut self, scratch: &mut [u8], published: &mut u64) -> Result<Life> {
        loop {
            if let Phase::Greeting(_) = self.phase {
                match self.greet()? {
                    Progress::Some => continue,
                    Progress::Dry => return Ok(Life::Open),
                    Progress::Eof => return Ok(Life::Over),
                }
            }
            let (channels, out) = (&mut self.channels, &mut self.out);
            let progress = self
                .inbox
                .read(&mut self.stream, scratch, |frame| on_frame(channels, out, published, frame))?;
            self.confirm();
            if self.write()? == Progress::Eof || progress == Progress::Eof {
                return Ok(Life::Over);
            }
            if progress == Progress::Dry {
                return Ok(Life::Open);
            }
        }
    }

    fn greet(&mut self) -> Result<Progress> {
        let Phase::Greeting(seen) = &mut self.phase else {
            return Ok(Progress::Some);
        };
        let mut rest = vec![0; PROTOCOL_HEADER.len() - seen.len()];
        match std::io::Read::read(&mut self.stream, &mut rest) {
            Ok(0) => return Ok(Progress::Eof),
            Ok(count) => seen.extend_from_slice(&rest[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Progress::Dry),
            Err(error) => return Err(error.into()),
        }
        if seen.len() == PROTOCOL_HEADER.len() {
            if seen != PROTOCOL_HEADER {
                bail!("not an AMQP 0-9-1 client");
            }
            self.phase = Phase::Frames;
            push_method(&mut self.out, 0, method::CONNECTION_START, put_start);
            self.write()?;
        }
        Ok(Progress::Some)
    }

    /// One acknowledgement per channel for all publishes of this read.
    fn confirm(&mut self) {
        for (number, channel) in self.channels.iter_mut().enumerate() {
            if let Some(last) = channel.confirms
                && last > channel.confirmed
            {
                push_ack(&mut self.out, number as u16, last, true);
                channel.confirmed = last;
            }
        }
    }

    /// Writes until the socket is full or nothing is left to say.
    fn write(&mut self) -> Result<Progress> {
        loop {
            for (number, channel) in self.channels.iter_mut().enumerate() {
                channel.deliver(number as u16, &mut self.out);
            }
            let Some(rest) = self.out.get(self.written..).filter(|rest| !rest.is_empty()) else {
                self.out.clear();
                self.written = 0;
                return Ok(Progress::Some);
            };
            match self.stream.write(rest) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.out.drain(..self.written);
                    self.written = 0;
                    return Ok(Progress::Dry);
                }
                Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => return Ok(Progress::Eof),
                Err(error) => return Err(error.into()),
            }
            if self.written == self.out.len() {
                self.out.clear();
                self.written = 0;
            }
        }
    }
}

impl Channel {
    fn publish_complete(&mut self, published: &mut u64) {
        *published += 1;
        if let Some(last) = &mut self.confirms {
            *last += 1;
        }
    }

    /// Encodes deliveries while the prefetch and the output allow.
    fn deliver(&mut self, number: u16, out: &mut Vec<u8>) {
        let Some(consumer) = &mut self.consumer else { return };
        let limit = if self.prefetch == 0 {
            usize::MAX
        } else {
            usize::from(self.prefetch)
        };
        while consumer.unsettled < limit && out.len() < OUT_LIMIT {
            let tag = consumer.first_tag + consumer.settled.len() as u64;
            let start = out.len();
            out.extend_from_slice(&consumer.delivery.bytes);
            let copy = &mut out[start..];
            consumer.delivery.patch(copy, tag * 1000 + u64::from(number), tag);
            copy[consumer.tag_at..consumer.tag_at + 8].copy_from_slice(&tag.to_be_bytes());
            consumer.settled.push_back(false);
            consumer.unsettled += 1;
        }
    }
}

impl Consumer {
    /// `queue` is also the name of the task that is delivered.
    fn new(number: u16, consumer_tag: &[u8], queue: &str) -> Self {
        let mut deliver = Vec::new();
        push_method(&mut deliver, number, method::BASIC_DELIVER, |out| {
            put_short_string(out, consumer_tag);
            out.extend_from_slice(&[0; 8]);
            out.push(0);
            put_short_string(out, b"");
            put_short_string(out, queue.as_bytes());
        });
        Self {
            delivery: Message::behind(&deliver, number, queue, Persistence::Persistent),
            tag_at: TAG_OFFSET + consumer_tag.len(),
            first_tag: 1,
            settled: VecDeque::new(),
            unsettled: 0,
        }
    }

    fn settle(&mut self, tag: u64, multiple: bool) -> Result<()> {
        let Some(last) = tag.checked_sub(self.first_tag).filter(|last| *last < self.settled.len() as u64) else {
            bail!("unknown delivery tag {tag}");
        };
        let first = if multiple { 0 } else { last };
        for settled in self.settled.range_mut(first as usize..=last as usize) {
            self.unsettled -= usize::from(!*settled);
            *settled = true;
        }
        while self.settled.front() == Some(&true) {
            self.settled.pop_front();
            self.first_tag += 1;
        }
        Ok(())
    }
}

fn on_frame(channels: &mut Vec<Channel>, out: &mut Vec<u8>, published: &mut u64, frame: Frame<'_>) -> Result<()> {
    if channels.len() <= usize::from(frame.channel) {
        channels.resize_with(usize::from(frame.channel) + 1, Channel::default);
    }
    let channel = &mut channels[usize::from(frame.channel)];
    match frame.kind {
        HEADER => {
            channel.body_missing = frame.body_size();
            if channel.body_missing == 0 {
                channel.publish_complete(published);
            }
        }
        BODY => {
            let Some(missing) = channel.body_missing.checked_sub(frame.payload.len() as u64) else {
                bail!("more body than announced");
            };
            channel.body_missing = missing;
            if missing == 0 {
                channel.publish_complete(published);
            }
        }
        frames::METHOD => on_method(channel, out, *published, frame)?,
        _ => {}
    }
    Ok(())
}

fn on_method(channel: &mut Channel, out: &mut Vec<u8>, published: u64, frame: Frame<'_>) -> Result<()> {
    let mut arguments = frame.arguments();
    let mut answer = |method: u32, rest: &[u8]| push_method(out, frame.channel, method, |out| out.extend_from_slice(rest));
    match frame.method().unwrap_or_default() {
        method::BASIC_PUBLISH | method::CONNECTION_TUNE_OK | method::CONNECTION_CLOSE_OK | method::CHANNEL_CLOSE_OK => {}
        method::CONNECTION_START_OK => push_method(out, 0, method::CONNECTION_TUNE, |out| {
            out.extend_from_slice(&2047u16.to_be_bytes());
            out.extend_from_slice(&frames::FRAME_MAX.to_be_bytes());
            out.extend_from_slice(&60u16.to_be_bytes());
        }),
        method::CONNECTION_OPEN => answer(method::CONNECTION_OPEN_OK, &[0]),
        method::CONNECTION_CLOSE => answer(method::CONNECTION_CLOSE_OK, &[]),
        method::CHANNEL_OPEN => {
            *channel = Channel::default();
            answer(method::CHANNEL_OPEN_OK, &[0; 4]);
        }
        method::CHANNEL_CLOSE => {
            *channel = Channel::default();
            answer(method::CHANNEL_CLOSE_OK, &[]);
        }
        method::EXCHANGE_DECLARE => answer(method::EXCHANGE_DECLARE_OK, &[]),
        method::QUEUE_BIND => answer(method::QUEUE_BIND_OK, &[]),
        method::QUEUE_PURGE => answer(method::QUEUE_PURGE_OK, &[0; 4]),
        method::QUEUE_DECLARE => {
            arguments.short();
            let queue = arguments.short_string();
            push_method(out, frame.channel, method::QUEUE_DECLARE_OK, |out| {
                put_short_string(out, queue);
                out.extend_from_slice(&(published as u32).to_be_bytes());
                out.extend_from_slice(&[0; 4]);
            });
        }
        method::BASIC_QOS => {
            arguments.long();
            channel.prefetch = arguments.short();
            answer(method::BASIC_QOS_OK, &[]);
        }
        method::BASIC_CONSUME => {
            arguments.short();
            let queue = String::from_utf8_lossy(arguments.short_string()).into_owned();
            let tag = arguments.short_string();
            channel.consumer = Some(Consumer::new(frame.channel, tag, &queue));
            push_method(out, frame.channel, method::BASIC_CONSUME_OK, |out| put_short_string(out, tag));
        }
        method::BASIC_CANCEL => {
            let tag = arguments.short_string();
            channel.consumer = None;
            push_method(out, frame.channel, method::BASIC_CANCEL_OK, |out| put_short_string(out, tag));
        }
        method::CONFIRM_SELECT => {
            channel.confirms.get_or_insert(0);
            if arguments.octet() == 0 {
                answer(method::CONFIRM_SELECT_OK, &[]);
            }
        }
        method::BASIC_ACK | method::BASIC_NACK | method::BASIC_REJECT => {
            let tag = arguments.longlong();
            let multiple = frame.method() != Some(method::BASIC_REJECT) && arguments.octet() & 1 == 1;
            if let Some(consumer) = &mut channel.consumer {
                consumer.settle(tag, multiple)?;
            }
        }
        other => bail!("method {}.{} is not spoken here", other >> 16, other & 0xFFFF),
    }
    Ok(())
}

/// What `RabbitMQ` 3.10 says of itself, as far as clients and proxies look at it.
fn put_start(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0, 9]);
    put_table(out, |out| {
        put_short_string(out, b"capabilities");
        out.push(b'F');
        put_table(out, |out| {
            for name in [
                "publisher_confirms",
                "exchange_exchange_bindings",
                "basic.nack",
                "consumer_cancel_notify",
                "connection.blocked",
                "authentication_failure_close",
            ] {
                put_short_string(out, name.as_bytes());
                out.extend_from_slice(b"t\x01");
            }
        });
        put_text(out, "product", "RabbitMQ");
        put_text(out, "version", "3.10.8");
    });
    put_long_string(out, b"PLAIN AMQPLAIN");
    put_long_string(out, b"en_US");
}
