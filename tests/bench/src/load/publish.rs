//! Pipelined publishes over several connections, each with a closed window.
//!
//! With confirms the window counts unconfirmed publishes. Without them a basic.qos ends each batch: its answer
//! says that everything before it on the channel went through, so no queue between here and the broker grows.

use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use mio::{Events, Interest, Poll, Token};

use super::ledger::Ledger;
use super::{Tally, Until};
use crate::client::{CHANNEL, Client, publish_method, qos_method};
use crate::frames::{Frame, Inbox, Progress, SCRATCH, method};
use crate::message::{Message, Persistence};

/// Messages that are encoded and written together.
const BATCH: usize = 128;
/// A run in which nothing is settled for this long has failed.
const STALL: Duration = Duration::from_secs(30);

/// Whether the channels confirm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirms {
    /// As a default Celery producer.
    Off,
    /// As with `confirm_publish`.
    On,
}

/// Which messages have the same arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// None.
    Unique,
    /// Every second message repeats the one that the next connection sent just before.
    HalfDuplicates,
}

/// What is to be published.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// Where to.
    pub address: SocketAddr,
    /// Task name and queue.
    pub task: &'a str,
    /// How many connections.
    pub connections: usize,
    /// Most publishes of one connection that are not settled; at least one batch of 128.
    pub window: usize,
    /// Confirm mode.
    pub confirms: Confirms,
    /// Repetition of arguments.
    pub keys: Keys,
}

struct Lane {
    stream: mio::net::TcpStream,
    inbox: Inbox,
    /// A whole batch; in it all but ids and arguments stays the same.
    batch: Vec<u8>,
    /// Messages in the batch that is being written.
    filled: usize,
    end: usize,
    written: usize,
    sent: u64,
    settled: u64,
    ledger: Ledger,
}

/// Connections that are ready to publish, as often as wanted.
pub struct Publisher {
    poll: Poll,
    lanes: Vec<Lane>,
    scratch: Vec<u8>,
    message: Message,
    confirms: Confirms,
    keys: Keys,
    window: u64,
    /// Makes ids and arguments of different runs differ.
    salt: u64,
}

impl Publisher {
    /// Connects and, where wanted, selects confirms.
    pub fn connect(plan: &Plan<'_>) -> Result<Self> {
        let poll = Poll::new()?;
        let message = Message::behind(&publish_method(plan.task), CHANNEL, plan.task, Persistence::Persistent);
        let mut batch = message.bytes.repeat(BATCH);
        if plan.confirms == Confirms::Off {
            batch.extend_from_slice(&qos_method(0));
        }
        let mut lanes = Vec::new();
        for index in 0..plan.connections {
            let mut client = Client::connect(plan.address, 0)?;
            client.declare_queue(plan.task)?;
            if plan.confirms == Confirms::On {
                client.select_confirms()?;
            }
            let mut stream = client.into_stream()?;
            poll.registry()
                .register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
            let (inbox, ledger) = (Inbox::default(), Ledger::default());
            lanes.push(Lane {
                stream,
                inbox,
                batch: batch.clone(),
                filled: 0,
                end: 0,
                written: 0,
                sent: 0,
                settled: 0,
                ledger,
            });
        }
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        let salt = since_epoch.as_millis() as u64 % 800 * 1_000_000_000;
        Ok(Self {
            poll,
            lanes,
            scratch: vec![0; SCRATCH],
            message,
            confirms: plan.confirms,
            keys: plan.keys,
            window: plan.window as u64,
            salt,
        })
    }

    /// Publishes until then and waits until all is settled.
    pub fn run(&mut self, until: Until) -> Result<Tally> {
        let start = Instant::now();
        let before: u64 = self.lanes.iter().map(|lane| lane.settled).sum();
        let limits: Vec<u64> = self
            .lanes
            .iter()
            .map(|lane| {
                if let Until::Count(count) = until {
                    lane.sent + count
                } else {
                    u64::MAX
                }
            })
            .collect();
        let mut events = Events::with_capacity(64);
        let mut progress = (before, start);
        for (index, limit) in limits.iter().enumerate() {
            self.turn(index, *limit)?;
        }
        loop {
            let now = Instant::now();
            let over = matches!(until, Until::Elapsed(time) if now - start >= time);
            let limit = |index: usize| if over { 0 } else { limits[index] };
            let idle = |lane: &Lane, limit: u64| lane.sent >= limit && lane.settled == lane.sent && lane.written == lane.end;
            if self.lanes.iter().enumerate().all(|(index, lane)| idle(lane, limit(index))) {
                break;
            }
            let settled = self.lanes.iter().map(|lane| lane.settled).sum();
            if settled > progress.0 {
                progress = (settled, now);
            } else if now - progress.1 > STALL {
                bail!(
                    "nothing settled for {STALL:?}: {settled} of {}",
                    self.lanes.iter().map(|lane| lane.sent).sum::<u64>()
                );
            }
            if let Err(error) = self.poll.poll(&mut events, Some(Duration::from_millis(50)))
                && error.kind() != ErrorKind::Interrupted
            {
                return Err(error.into());
            }
            for event in &events {
                self.turn(event.token().0, limit(event.token().0))?;
            }
        }
        let settled: u64 = self.lanes.iter().map(|lane| lane.settled).sum();
        Ok(Tally {
            messages: settled - before,
            elapsed: start.elapsed(),
        })
    }

    /// Reads what there is, then writes what window, limit and socket allow.
    fn turn(&mut self, index: usize, limit: u64) -> Result<()> {
        let lanes = self.lanes.len() as u64;
        let lane = &mut self.lanes[index];
        loop {
            let (ledger, settled, confirms) = (&mut lane.ledger, &mut lane.settled, self.confirms);
            match lane.inbox.read(&mut lane.stream, &mut self.scratch, |frame| {
                on_frame(ledger, settled, confirms, frame)
            })? {
                Progress::Some => {}
                Progress::Dry => break,
                Progress::Eof => bail!("the other side closed a publishing connection"),
            }
        }
        loop {
            if lane.written == lane.end {
                let room = self.window.saturating_sub(lane.sent - lane.settled);
                if lane.sent >= limit || room < BATCH as u64 {
                    return Ok(());
                }
                lane.filled = BATCH.min((limit - lane.sent) as usize);
                let stride = self.message.bytes.len();
                for (at, copy) in lane.batch.chunks_exact_mut(stride).take(lane.filled).enumerate() {
                    let own = lane.sent + at as u64;
                    let id = self.salt + own * lanes + index as u64;
                    self.message
                        .patch(copy, id, self.salt + number(self.keys, own, index as u64, lanes));
                }
                lane.end = if lane.filled == BATCH {
                    lane.batch.len()
                } else {
                    lane.filled * stride
                };
                lane.written = 0;
                lane.sent += lane.filled as u64;
                if self.confirms == Confirms::On {
                    lane.ledger.sent(lane.filled);
                }
            }
            match lane.stream.write(&lane.batch[lane.written..lane.end]) {
                Ok(count) => lane.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The argument of the `own`-th message of a connection.
fn number(keys: Keys, own: u64, lane: u64, lanes: u64) -> u64 {
    match keys {
        Keys::Unique => own * lanes + lane,
        Keys::HalfDuplicates if own.is_multiple_of(2) => own / 2 * lanes + lane,
        Keys::HalfDuplicates => own / 2 * lanes + (lane + 1) % lanes,
    }
}

fn on_frame(ledger: &mut Ledger, settled: &mut u64, confirms: Confirms, frame: Frame<'_>) -> Result<()> {
    match frame.method() {
        Some(method::BASIC_ACK) if confirms == Confirms::On => {
            let mut arguments = frame.arguments();
            let tag = arguments.longlong();
            ledger.confirm(tag, arguments.octet() & 1 == 1)?;
            *settled = ledger.confirmed();
        }
        Some(method::BASIC_QOS_OK) if confirms == Confirms::Off => *settled += BATCH as u64,
        Some(other) => bail!("unexpected method {}.{}: {}", other >> 16, other & 0xFFFF, frame.close_reason()),
        None => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn half_of_the_arguments_come_twice() {
        let mut seen: HashMap<u64, Vec<u64>> = HashMap::new();
        for lane in 0..3 {
            for own in 0..100 {
                seen.entry(number(Keys::HalfDuplicates, own, lane, 3)).or_default().push(lane);
            }
        }
        assert_eq!(seen.len(), 150);
        assert!(seen.values().all(|lanes| lanes.len() == 2 && lanes[0] != lanes[1]));
    }
}
