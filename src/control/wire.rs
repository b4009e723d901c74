//! One AMQP connection as a client: it is opened, called, and gives what comes.
//!
//! It is built on [`crate::amqp`], as the sessions are, because what comes is not to be trusted: anybody who may publish in a virtual host
//! writes the headers of events, and a library that descends into their tables by recursion ends the process on one that is deep enough.
//! Here no table is descended into, and bodies are bounded.

mod incoming;

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::amqp::encode::{self, client};
use crate::amqp::frame::{PROTOCOL_HEADER, Split, split};
use crate::amqp::method::MethodId;
use crate::amqp::method::connection::{Close, Start, StartOk, Tune};
use crate::amqp::table::{FieldValue, Table, put_entry};
use crate::config::ClientTls;
use crate::config::account::Account;
use crate::config::address::Transport;
use crate::config::unit::show_duration;
use crate::logging::printable;
use crate::tls;
pub(super) use incoming::{Delivery, Incoming, Returned};
use incoming::{Partials, take_frame};

/// The largest frame that is sent, in octets: what `RabbitMQ` offers unless it is told otherwise.
const FRAME_MAX: u32 = 131_072;
/// The largest frame that is read. A content header is not cut to the frame size of who gets it.
const READ_MAX: usize = 1 << 20;
/// The longest time between heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// Why a connection cannot be had, or has ended.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// There is no TCP connection.
    #[error("{0}")]
    Unreachable(io::Error),
    /// Nor is there a refusal.
    #[error("no connection within proxy.connect_timeout ({})", show_duration(*.0))]
    NoConnection(Duration),
    /// The files that TLS needs cannot be used.
    #[error("{0}")]
    TlsFiles(String),
    /// There is no TLS.
    #[error("the TLS handshake failed: {0}")]
    Tls(io::Error),
    /// Nothing comes.
    #[error("no answer within {}", show_duration(*.0))]
    Silent(Duration),
    /// The connection has ended.
    #[error("the connection broke: {0}")]
    Broke(io::Error),
    /// The other side does not speak the protocol.
    #[error("what answers there does not speak AMQP 0-9-1")]
    NotAmqp,
    /// The account cannot log in as accounts do.
    #[error("the broker takes no user and password (PLAIN) there")]
    NoPlain,
    /// A name does not fit into the protocol.
    #[error("a name is longer than 255 octets")]
    TooLong,
    /// The broker says no, in its own words.
    #[error("{code} {text}")]
    Refused {
        /// The reply code.
        code: u16,
        /// The reply text.
        text: String,
    },
    /// The queue has been deleted.
    #[error("the queue that is consumed was deleted")]
    Cancelled,
}

impl Fault {
    fn refused(close: &Close<'_>) -> Fault {
        Fault::Refused {
            code: close.code,
            text: printable(&String::from_utf8_lossy(close.text)),
        }
    }

    /// The code with which the broker refused, if it did.
    pub fn code(&self) -> Option<u16> {
        match self {
            Fault::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

impl From<crate::amqp::coding::EncodeError> for Fault {
    fn from(_: crate::amqp::coding::EncodeError) -> Fault {
        Fault::TooLong
    }
}

/// Where and how to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dial {
    /// As whom, where, and in which virtual host.
    pub account: Account,
    /// How `amqps://` is dialled.
    pub tls: ClientTls,
    /// How long each step may take until the connection is open.
    pub timeout: Duration,
    /// The largest body that is kept, in octets.
    pub max_message: usize,
    /// What the broker shows of the connection.
    pub name: String,
}

/// What a write has done.
#[derive(PartialEq)]
enum Written {
    Some,
    All,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// An open connection. What waits here may be dropped at any time: nothing that was read or is to be written is lost.
pub(super) struct Wire {
    reader: ReadHalf<Box<dyn Stream>>,
    writer: WriteHalf<Box<dyn Stream>>,
    read: BytesMut,
    out: BytesMut,
    unflushed: bool,
    /// What came while an answer was waited for.
    early: VecDeque<Incoming>,
    partials: Partials,
    max_message: usize,
    /// The largest frame that may be sent, in octets.
    frame_max: u32,
    /// The time between heartbeats.
    heartbeat: Duration,
    /// When something must be sent, and when something must have come.
    beat_at: Instant,
    dead_at: Instant,
}

impl Wire {
    /// Connects, logs in and opens the virtual host.
    pub(super) async fn open(dial: &Dial) -> Result<Wire, Fault> {
        Wire::over(reach(dial).await?, dial).await
    }

    async fn over(stream: Box<dyn Stream>, dial: &Dial) -> Result<Wire, Fault> {
        let (reader, writer) = tokio::io::split(stream);
        let now = Instant::now();
        let mut wire = Wire {
            reader,
            writer,
            read: BytesMut::with_capacity(1 << 16),
            out: BytesMut::from(&PROTOCOL_HEADER[..]),
            unflushed: true,
            early: VecDeque::new(),
            partials: Partials::default(),
            frame_max: FRAME_MAX,
            max_message: dial.max_message,
            heartbeat: HEARTBEAT,
            beat_at: now + HEARTBEAT,
            dead_at: now + HEARTBEAT * 2,
        };
        timeout(dial.timeout, wire.greet(dial))
            .await
            .map_err(|_| Fault::Silent(dial.timeout))??;
        Ok(wire)
    }

    async fn greet(&mut self, dial: &Dial) -> Result<(), Fault> {
        let start = self.expect(0, MethodId::CONNECTION_START).await?;
        let start = Start::decode(&start).ok_or(Fault::NotAmqp)?;
        if !start.mechanisms.split(|octet| *octet == b' ').any(|name| name == b"PLAIN") {
            return Err(Fault::NoPlain);
        }
        let url = &dial.account.url;
        let response = format!("\0{}\0{}", url.user, url.password.expose());
        let properties = introduction(&dial.name)?;
        let start_ok = StartOk {
            client_properties: Table::new(&properties),
            mechanism: b"PLAIN",
            response: response.as_bytes(),
            locale: b"en_US",
        };
        self.send(|out| client::start_ok(out, &start_ok).map_err(Fault::from))?;
        let tune = self.expect(0, MethodId::CONNECTION_TUNE).await?;
        let offered = Tune::decode(&tune).ok_or(Fault::NotAmqp)?;
        let smaller = |one: u32, other: u32| if one == 0 { other } else { one.min(other) };
        let tune = Tune {
            channel_max: offered.channel_max,
            frame_max: smaller(offered.frame_max, FRAME_MAX),
            heartbeat: smaller(u32::from(offered.heartbeat), HEARTBEAT.as_secs() as u32) as u16,
        };
        self.heartbeat = Duration::from_secs(u64::from(tune.heartbeat));
        self.frame_max = tune.frame_max;
        self.send(|out| {
            client::tune_ok(out, tune);
            client::open(out, dial.account.vhost.as_bytes()).map_err(Fault::from)
        })?;
        self.expect(0, MethodId::CONNECTION_OPEN_OK).await?;
        Ok(())
    }

    /// Says goodbye, in a second at most.
    pub(super) async fn close(mut self) {
        let said = self.send(|out| {
            encode::connection_close(out, 200, "goodbye", None);
            Ok(())
        });
        if said.is_ok() {
            // A broker that does not answer notices by itself.
            let _ = timeout(Duration::from_secs(1), self.expect(0, MethodId::CONNECTION_CLOSE_OK)).await;
        }
    }

    /// Sends what `write` appends. It leaves while something is waited for.
    pub(super) fn send(&mut self, write: impl FnOnce(&mut Vec<u8>) -> Result<(), Fault>) -> Result<(), Fault> {
        let mut frames = Vec::new();
        write(&mut frames)?;
        self.out.extend_from_slice(&frames);
        Ok(())
    }

    /// How many octets wait to be written.
    pub(super) fn backlog(&self) -> usize {
        self.out.len()
    }

    /// The largest frame that may be sent, in octets.
    pub(super) fn frame_max(&self) -> usize {
        self.frame_max as usize
    }

    /// Sends a request and waits for its answer, whose payload it gives. The broker may close the channel instead.
    pub(super) async fn call(
        &mut self,
        channel: u16,
        answer: MethodId,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), Fault>,
    ) -> Result<Vec<u8>, Fault> {
        self.send(write)?;
        self.expect(channel, answer).await
    }

    async fn expect(&mut self, channel: u16, answer: MethodId) -> Result<Vec<u8>, Fault> {
        loop {
            match self.hear().await? {
                Incoming::Answer { channel: at, id, payload } if (at, id) == (channel, answer) => return Ok(payload),
                Incoming::ChannelClosed { channel: at, fault } if at == channel => return Err(fault),
                other => self.early.push_back(other),
            }
        }
    }

    /// The next that comes.
    pub(super) async fn next(&mut self) -> Result<Incoming, Fault> {
        match self.early.pop_front() {
            Some(early) => Ok(early),
            None => self.hear().await,
        }
    }

    async fn hear(&mut self) -> Result<Incoming, Fault> {
        loop {
            if let Some(incoming) = self.take()? {
                return Ok(incoming);
            }
            self.exchange().await?;
        }
    }

    /// Reads, writes, or sends a heartbeat.
    async fn exchange(&mut self) -> Result<(), Fault> {
        let Wire {
            reader,
            writer,
            read,
            out,
            heartbeat,
            ..
        } = self;
        let write = async {
            if out.is_empty() {
                writer.flush().await.map(|()| Written::All)
            } else {
                writer.write_buf(out).await.map(|_| Written::Some)
            }
        };
        tokio::select! {
            read = reader.read_buf(read) => {
                if read.map_err(Fault::Broke)? == 0 {
                    return Err(Fault::Broke(io::ErrorKind::UnexpectedEof.into()));
                }
                self.dead_at = Instant::now() + *heartbeat * 2;
            }
            written = write, if self.unflushed => {
                self.unflushed = written.map_err(Fault::Broke)? == Written::Some;
                self.beat_at = Instant::now() + *heartbeat / 2;
            }
            () = sleep_until(self.dead_at) => return Err(Fault::Silent(*heartbeat * 2)),
            () = sleep_until(self.beat_at) => {
                let mut beat = Vec::new();
                encode::heartbeat(&mut beat);
                self.out.extend_from_slice(&beat);
                self.beat_at = Instant::now() + *heartbeat / 2;
            }
        }
        Ok(())
    }

    /// Takes frames from what was read, until something has come whole.
    fn take(&mut self) -> Result<Option<Incoming>, Fault> {
        // What is to be sent does not wait for the next that comes.
        self.unflushed |= !self.out.is_empty();
        loop {
            let frame = match split(&self.read, READ_MAX) {
                Split::Frame(frame) => frame,
                Split::Incomplete { .. } => return Ok(None),
                Split::Malformed(_) => return Err(Fault::NotAmqp),
            };
            let length = frame.raw.len();
            let taken = take_frame(&frame, &mut self.partials, self.max_message)?;
            let _ = self.read.split_to(length);
            match taken {
                Some(closed @ Incoming::ChannelClosed { channel, .. }) => {
                    let mut frames = Vec::new();
                    encode::channel_close_ok(&mut frames, channel);
                    self.out.extend_from_slice(&frames);
                    self.unflushed = true;
                    return Ok(Some(closed));
                }
                Some(incoming) => return Ok(Some(incoming)),
                None => {}
            }
        }
    }
}

/// What the connection says of itself. With `authentication_failure_close` a broker says that it refuses a login, instead of hanging up;
/// with `connection.blocked` it says when it reads no more.
fn introduction(name: &str) -> Result<Vec<u8>, Fault> {
    let mut capabilities = Vec::new();
    for capability in [
        &b"authentication_failure_close"[..],
        b"consumer_cancel_notify",
        b"connection.blocked",
    ] {
        put_entry(&mut capabilities, capability, &FieldValue::Bool(true))?;
    }
    let mut properties = Vec::new();
    let entries = [
        (&b"product"[..], FieldValue::LongStr(b"Oncegate")),
        (b"version", FieldValue::LongStr(env!("CARGO_PKG_VERSION").as_bytes())),
        (b"connection_name", FieldValue::LongStr(name.as_bytes())),
        (b"capabilities", FieldValue::Table(Table::new(&capabilities))),
    ];
    for (name, value) in entries {
        put_entry(&mut properties, name, &value)?;
    }
    Ok(properties)
}

async fn reach(dial: &Dial) -> Result<Box<dyn Stream>, Fault> {
    let address = &dial.account.url.address;
    let deadline = Instant::now() + dial.timeout;
    let stream = timeout_at(deadline, TcpStream::connect((address.host.as_str(), address.port)))
        .await
        .map_err(|_| Fault::NoConnection(dial.timeout))?
        .map_err(Fault::Unreachable)?;
    stream.set_nodelay(true).map_err(Fault::Unreachable)?;
    if dial.account.url.transport == Transport::Tcp {
        return Ok(Box::new(stream));
    }
    let connector = tls::connector(&dial.tls).map_err(|error| Fault::TlsFiles(error.to_string()))?;
    let stream = timeout_at(deadline, tls::connect(&connector, &address.host, stream))
        .await
        .map_err(|_| Fault::Silent(dial.timeout))?
        .map_err(Fault::Tls)?;
    Ok(Box::new(stream))
}

#[cfg(test)]
mod tests;
