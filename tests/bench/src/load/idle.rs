//! Connections that have shaken hands, opened a channel, and do nothing.

use std::net::SocketAddr;

use anyhow::Result;

use crate::client::Client;

/// Open connections; they close when this is dropped.
pub struct Idle(Vec<mio::net::TcpStream>);

impl Idle {
    /// Opens `count` connections with a heartbeat of 60 s, as a Celery worker's; no frame is due while one measures.
    pub fn connect(address: SocketAddr, count: usize) -> Result<Self> {
        let streams = (0..count).map(|_| Client::connect(address, 60)?.into_stream());
        streams.collect::<Result<_>>().map(Self)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}
