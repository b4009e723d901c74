//! The graceful end of the process, stage by stage.
//!
//! | stage | what happens | lasts |
//! |---|---|---|
//! | accept | `/readyz` says 503, so that nobody is sent here any more; who comes is served | `proxy.drain_delay` |
//! | drain | nobody is accepted; workers get no new deliveries; each connection closes when nothing is in hand | until all are closed, at most `proxy.drain_timeout` |
//! | last call | every connection is told to go; publishes in hand are decided and confirmed | until all are closed, at most [`GOODBYE`] + [`LAST_BYTES`] |
//! | last orders | the store is told what it has not been told | at most [`LAST_ORDERS`] |
//!
//! A second signal goes on to the last call at once: from it to the exit it is 8 s at most, and much less where the peers answer.
//!
//! Connections without work are not closed all at once: their clients will all connect again. Their closes are spread evenly, `APART`
//! from each other, and closer if there are so many that this would take more than half of `proxy.drain_timeout`. One that has work in
//! hand at its time closes when that is done, and one that takes no work waits until all others from its address have finished theirs.

use std::time::Duration;

use super::hub::Hub;

/// How long the sessions may take to end once told to: the client's `close-ok`, the broker's word on publishes, its `close-ok`.
pub const GOODBYE: Duration = Duration::from_secs(5);

/// How much longer the sockets may take for the last bytes.
pub const LAST_BYTES: Duration = Duration::from_secs(1);

/// How long the store may take for the last orders.
pub const LAST_ORDERS: Duration = Duration::from_secs(2);

/// The time between the closes of connections without work: 500 new connections in a second are no burden to brokers and proxies.
const APART: Duration = Duration::from_millis(2);

/// How often is looked whether all connections have ended.
const LOOK: Duration = Duration::from_millis(20);

/// How long the graceful end may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How long to accept: `proxy.drain_delay`.
    pub delay: Duration,
    /// When the connections with work in hand are closed as well: `proxy.drain_timeout`.
    pub timeout: Duration,
}

/// Ends all connections; `stop_accepting` is called once, before the first is told to go. `again` ends the waiting.
pub async fn drain(hub: &Hub, patience: Patience, stop_accepting: impl FnOnce(), again: impl Future<Output = ()>) {
    let mut stop_accepting = Some(stop_accepting);
    let graceful = async {
        tokio::time::sleep(patience.delay).await;
        if let Some(stop) = stop_accepting.take() {
            stop();
        }
        hub.drain(patience.timeout / 2);
        if tokio::time::timeout(patience.timeout, empty(hub)).await.is_err() {
            let connections = hub.connection_count();
            tracing::warn!(
                connections,
                "proxy.drain_timeout is over: the rest is closed, and what its workers have not acknowledged runs again"
            );
        }
    };
    tokio::select! {
        () = graceful => {}
        () = again => tracing::warn!("told again to end: ending now"),
    }
    if let Some(stop) = stop_accepting.take() {
        stop();
    }
    hub.close(GOODBYE);
    // Who is left now ends with the process.
    let _ = tokio::time::timeout(GOODBYE + LAST_BYTES, empty(hub)).await;
}

/// Waits for the last orders to the store. False if they are not all done in time.
pub async fn last_orders(done: impl Future<Output = ()>) -> bool {
    tokio::time::timeout(LAST_ORDERS, done).await.is_ok()
}

/// When the connection of this number out of so many may close, counted from the beginning.
pub fn turn(number: usize, count: usize, within: Duration) -> Duration {
    let number = u32::try_from(number).unwrap_or(u32::MAX);
    let count = u32::try_from(count).unwrap_or(u32::MAX).max(1);
    APART.min(within / count) * number
}

async fn empty(hub: &Hub) {
    while hub.connection_count() > 0 {
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests;
