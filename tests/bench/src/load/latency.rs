//! One confirmed publish at a time: what a producer waits for.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::client::{CHANNEL, Client, publish_method};
use crate::frames::method;
use crate::message::{Message, Persistence};

/// A confirming connection that publishes singly.
pub struct Single {
    client: Client,
    message: Message,
    next: u64,
    sent: u64,
}

impl Single {
    /// Connects; `first` is the first argument, and each publish takes the next.
    pub fn connect(address: SocketAddr, task: &str, persistence: Persistence, first: u64) -> Result<Self> {
        let mut client = Client::connect(address, 0)?;
        client.declare_queue(task)?;
        client.select_confirms()?;
        let message = Message::behind(&publish_method(task), CHANNEL, task, persistence);
        Ok(Self {
            client,
            message,
            next: first,
            sent: 0,
        })
    }

    /// Publishes `count` messages, each after the confirm of the one before, and gives the time each took.
    pub fn run(&mut self, count: usize) -> Result<Vec<Duration>> {
        let mut times = Vec::with_capacity(count);
        let mut copy = self.message.bytes.clone();
        for _ in 0..count {
            self.message.patch(&mut copy, self.next, self.next);
            self.next += 1;
            let start = Instant::now();
            let answer = self.client.call(&copy, method::BASIC_ACK)?;
            times.push(start.elapsed());
            self.sent += 1;
            if answer.get(..8) != Some(&self.sent.to_be_bytes()) {
                bail!("the confirm of publish {} says {answer:?}", self.sent);
            }
        }
        Ok(times)
    }
}
