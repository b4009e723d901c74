//! Consumers that acknowledge each delivery on its own, as a Celery worker does.

use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use mio::{Events, Interest, Poll, Token};

use super::{Tally, Until};
use crate::client::{CHANNEL, Client, consume_method};
use crate::frames::{Inbox, Progress, SCRATCH, method, push_ack};

/// A run in which nothing is delivered for this long has failed.
const STALL: Duration = Duration::from_secs(30);

struct Lane {
    stream: mio::net::TcpStream,
    inbox: Inbox,
    out: Vec<u8>,
    delivered: u64,
}

/// Connections with one consumer each.
pub struct Consumers {
    poll: Poll,
    lanes: Vec<Lane>,
    scratch: Vec<u8>,
}

impl Consumers {
    /// Connects, sets the prefetch and asks for deliveries.
    pub fn connect(address: SocketAddr, queue: &str, connections: usize, prefetch: u16) -> Result<Self> {
        let poll = Poll::new()?;
        let mut lanes = Vec::new();
        for index in 0..connections {
            let mut client = Client::connect(address, 0)?;
            client.declare_queue(queue)?;
            client.set_prefetch(prefetch)?;
            let mut stream = client.into_stream()?;
            poll.registry()
                .register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
            // The first turn sends this.
            lanes.push(Lane {
                stream,
                inbox: Inbox::default(),
                out: consume_method(queue, "None4"),
                delivered: 0,
            });
        }
        Ok(Self {
            poll,
            lanes,
            scratch: vec![0; SCRATCH],
        })
    }

    /// Takes deliveries until then; a count is the sum over all connections.
    pub fn run(&mut self, until: Until) -> Result<Tally> {
        let start = Instant::now();
        let before = self.delivered();
        let mut events = Events::with_capacity(64);
        let mut progress = (before, start);
        for index in 0..self.lanes.len() {
            self.turn(index)?;
        }
        loop {
            let (now, delivered) = (Instant::now(), self.delivered());
            match until {
                Until::Elapsed(time) if now - start >= time => break,
                Until::Count(count) if delivered - before >= count => break,
                _ => {}
            }
            if delivered > progress.0 {
                progress = (delivered, now);
            } else if now - progress.1 > STALL {
                bail!("nothing delivered for {STALL:?}, {delivered} so far");
            }
            if let Err(error) = self.poll.poll(&mut events, Some(Duration::from_millis(50)))
                && error.kind() != ErrorKind::Interrupted
            {
                return Err(error.into());
            }
            for event in &events {
                self.turn(event.token().0)?;
            }
        }
        Ok(Tally {
            messages: self.delivered() - before,
            elapsed: start.elapsed(),
        })
    }

    fn delivered(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.delivered).sum()
    }

    fn turn(&mut self, index: usize) -> Result<()> {
        let lane = &mut self.lanes[index];
        loop {
            let (out, delivered) = (&mut lane.out, &mut lane.delivered);
            let progress = lane.inbox.read(&mut lane.stream, &mut self.scratch, |frame| {
                match frame.method() {
                    Some(method::BASIC_DELIVER) => {
                        let mut arguments = frame.arguments();
                        arguments.short_string();
                        push_ack(out, CHANNEL, arguments.longlong(), false);
                        *delivered += 1;
                    }
                    None | Some(method::BASIC_CONSUME_OK) => {}
                    Some(other) => bail!("unexpected method {}.{}: {}", other >> 16, other & 0xFFFF, frame.close_reason()),
                }
                Ok(())
            })?;
            lane.flush()?;
            match progress {
                Progress::Some => {}
                Progress::Dry => return Ok(()),
                Progress::Eof => bail!("the other side closed a consuming connection"),
            }
        }
    }
}

impl Lane {
    fn flush(&mut self) -> Result<()> {
        let mut written = 0;
        while written < self.out.len() {
            match self.stream.write(&self.out[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        self.out.drain(..written);
        Ok(())
    }
}
