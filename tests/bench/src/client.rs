//! A blocking AMQP client: the handshake, and calls that wait for their answer.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::frames::{self, Inbox, PROTOCOL_HEADER, Progress, method, push_method, put_long_string, put_short_string, put_table};
use crate::message::put_text;

/// The channel that every program here uses.
pub const CHANNEL: u16 = 1;
/// No single answer takes longer than this on a machine that works.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// One connection with channel 1 open.
pub struct Client {
    stream: TcpStream,
    inbox: Inbox,
    scratch: Vec<u8>,
}

impl Client {
    /// Connects as guest to vhost `/` with that heartbeat (seconds, 0 = none) and opens channel 1.
    pub fn connect(address: SocketAddr, heartbeat: u16) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let mut client = Self {
            stream,
            inbox: Inbox::default(),
            scratch: vec![0; frames::FRAME_MAX as usize * 2],
        };
        client.call(PROTOCOL_HEADER, method::CONNECTION_START)?;
        let mut out = Vec::new();
        push_method(&mut out, 0, method::CONNECTION_START_OK, put_start_ok);
        client.call(&out, method::CONNECTION_TUNE)?;
        out.clear();
        push_method(&mut out, 0, method::CONNECTION_TUNE_OK, |out| {
            out.extend_from_slice(&2047u16.to_be_bytes());
            out.extend_from_slice(&frames::FRAME_MAX.to_be_bytes());
            out.extend_from_slice(&heartbeat.to_be_bytes());
        });
        push_method(&mut out, 0, method::CONNECTION_OPEN, |out| out.extend_from_slice(b"\x01/\x00\x00"));
        client.call(&out, method::CONNECTION_OPEN_OK)?;
        out.clear();
        push_method(&mut out, CHANNEL, method::CHANNEL_OPEN, |out| out.push(0));
        client.call(&out, method::CHANNEL_OPEN_OK)?;
        Ok(client)
    }

    /// Sends `bytes` and gives the arguments of the next method `expected`, passing over everything else.
    pub fn call(&mut self, bytes: &[u8], expected: u32) -> Result<Vec<u8>> {
        self.stream.write_all(bytes)?;
        let mut answer = None;
        while answer.is_none() {
            let progress = self.inbox.read(&mut self.stream, &mut self.scratch, |frame| {
                match frame.method() {
                    Some(found) if found == expected => answer = Some(frame.payload.get(4..).unwrap_or_default().to_vec()),
                    Some(method::CONNECTION_CLOSE | method::CHANNEL_CLOSE | method::BASIC_RETURN) => {
                        bail!("the other side refused: {}", frame.close_reason());
                    }
                    _ => {}
                }
                Ok(())
            })?;
            match progress {
                Progress::Some => {}
                Progress::Dry => bail!("no answer within {ANSWER_TIMEOUT:?}"),
                Progress::Eof => bail!("the other side closed the connection"),
            }
        }
        answer.ok_or_else(|| anyhow!("no answer"))
    }

    /// Declares a durable classic queue and gives the number of its ready messages (of a null broker: of all publishes so far).
    pub fn declare_queue(&mut self, queue: &str) -> Result<u32> {
        let mut out = Vec::new();
        push_method(&mut out, CHANNEL, method::QUEUE_DECLARE, |out| {
            out.extend_from_slice(&[0; 2]);
            put_short_string(out, queue.as_bytes());
            out.push(0b0000_0010);
            out.extend_from_slice(&[0; 4]);
        });
        let answer = self.call(&out, method::QUEUE_DECLARE_OK)?;
        let count = answer.get(1 + queue.len()..).and_then(|rest| rest.first_chunk());
        count.map(|count| u32::from_be_bytes(*count)).context("a short queue.declare-ok")
    }

    /// Empties a queue.
    pub fn purge_queue(&mut self, queue: &str) -> Result<()> {
        let mut out = Vec::new();
        push_method(&mut out, CHANNEL, method::QUEUE_PURGE, |out| {
            out.extend_from_slice(&[0; 2]);
            put_short_string(out, queue.as_bytes());
            out.push(0);
        });
        self.call(&out, method::QUEUE_PURGE_OK).map(drop)
    }

    /// Puts the channel into confirm mode.
    pub fn select_confirms(&mut self) -> Result<()> {
        let mut out = Vec::new();
        push_method(&mut out, CHANNEL, method::CONFIRM_SELECT, |out| out.push(0));
        self.call(&out, method::CONFIRM_SELECT_OK).map(drop)
    }

    /// Sets the prefetch count of consumers started later.
    pub fn set_prefetch(&mut self, count: u16) -> Result<()> {
        self.call(&qos_method(count), method::BASIC_QOS_OK).map(drop)
    }

    /// Gives the socket to an event loop, without blocking from now on. Nothing must be on its way.
    pub fn into_stream(self) -> Result<mio::net::TcpStream> {
        self.stream.set_nonblocking(true)?;
        Ok(mio::net::TcpStream::from_std(self.stream))
    }
}

fn put_start_ok(out: &mut Vec<u8>) {
    put_table(out, |out| {
        put_text(out, "product", "oncegate-bench");
        put_short_string(out, b"capabilities");
        out.push(b'F');
        put_table(out, |out| {
            for name in ["consumer_cancel_notify", "connection.blocked", "authentication_failure_close"] {
                put_short_string(out, name.as_bytes());
                out.extend_from_slice(b"t\x01");
            }
        });
    });
    put_short_string(out, b"PLAIN");
    put_long_string(out, b"\0guest\0guest");
    put_short_string(out, b"en_US");
}

/// basic.qos, per consumer.
pub fn qos_method(count: u16) -> Vec<u8> {
    let mut out = Vec::new();
    push_method(&mut out, CHANNEL, method::BASIC_QOS, |out| {
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&count.to_be_bytes());
        out.push(0);
    });
    out
}

/// basic.publish through the default exchange to `queue`, with no flag set, as Celery does.
pub fn publish_method(queue: &str) -> Vec<u8> {
    let mut out = Vec::new();
    push_method(&mut out, CHANNEL, method::BASIC_PUBLISH, |out| {
        out.extend_from_slice(&[0; 3]);
        put_short_string(out, queue.as_bytes());
        out.push(0);
    });
    out
}

/// basic.consume with acknowledgements.
pub fn consume_method(queue: &str, tag: &str) -> Vec<u8> {
    let mut out = Vec::new();
    push_method(&mut out, CHANNEL, method::BASIC_CONSUME, |out| {
        out.extend_from_slice(&[0; 2]);
        put_short_string(out, queue.as_bytes());
        put_short_string(out, tag.as_bytes());
        out.push(0);
        out.extend_from_slice(&[0; 4]);
    });
    out
}
