//! The edge: listeners, worker threads, and one task per client connection.
//!
//! Each worker thread runs its own single-threaded runtime with its own store client, so that what belongs to one connection never
//! crosses threads. The thread that accepts hands each new socket to the worker with the fewest connections.

mod answers;
mod connection;
pub mod drain;
mod fetch;
mod hosts;
mod hub;
mod leg;
mod observer;
mod report;
mod republish;
#[cfg(test)]
mod tests;
mod topology;
mod transport;
pub mod upstream;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

pub use connection::{Command, Connection};
pub use hub::{Hub, Seat};
pub use observer::StoreObserver;

use crate::config::ProxyConfig;
use crate::config::address::{self, Listen};
use crate::metrics::RejectReason;
use crate::store;
use transport::Transport;

/// A socket on its way to its worker thread.
struct Accepted {
    stream: std::net::TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
}

/// What a worker thread is told.
enum Job {
    Serve(Box<Accepted>),
    /// To answer once the store has done what it was told.
    Flush(oneshot::Sender<()>),
}

/// One worker thread.
#[derive(Clone)]
struct Worker {
    sender: UnboundedSender<Job>,
    connections: Arc<AtomicUsize>,
}

/// The worker threads.
pub struct Workers {
    workers: Vec<Worker>,
}

impl Workers {
    /// Starts `count` threads. `store` makes the store client of each, on that thread's runtime.
    pub fn start(count: usize, hub: &Arc<Hub>, store: &Arc<dyn Fn() -> store::Client + Send + Sync>) -> io::Result<Workers> {
        let mut workers = Vec::with_capacity(count);
        for number in 0..count.max(1) {
            let (sender, receiver) = mpsc::unbounded_channel();
            let connections = Arc::new(AtomicUsize::new(0));
            let (hub, store, load) = (Arc::clone(hub), Arc::clone(store), Arc::clone(&connections));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            std::thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || runtime.block_on(work(number, receiver, hub, store, load)))?;
            workers.push(Worker { sender, connections });
        }
        Ok(Workers { workers })
    }

    fn hand_over(&self, accepted: Accepted) {
        let least = self.workers.iter().min_by_key(|worker| worker.connections.load(Ordering::Relaxed));
        if let Some(worker) = least {
            worker.connections.fetch_add(1, Ordering::Relaxed);
            // A worker ends only with the process.
            let _ = worker.sender.send(Job::Serve(Box::new(accepted)));
        }
    }

    /// Waits until the store has done all that the connections have told it. While the store is away this does not end: bound it.
    pub async fn flush(&self) {
        let flushed: Vec<_> = self
            .workers
            .iter()
            .filter_map(|worker| {
                let (sender, done) = oneshot::channel();
                worker.sender.send(Job::Flush(sender)).is_ok().then_some(done)
            })
            .collect();
        for done in flushed {
            // A worker that is gone has nothing left to do.
            let _ = done.await;
        }
    }
}

/// One worker thread: a task for each connection that is handed to it.
async fn work(
    number: usize,
    mut receiver: UnboundedReceiver<Job>,
    hub: Arc<Hub>,
    store: Arc<dyn Fn() -> store::Client + Send + Sync>,
    connections: Arc<AtomicUsize>,
) {
    let store = store();
    let (mut connects, to_all) = (store.connects(), Arc::clone(&hub));
    tokio::spawn(async move {
        while connects.changed().await.is_ok() {
            to_all.store_is_back(number);
        }
    });
    while let Some(job) = receiver.recv().await {
        let accepted = match job {
            Job::Serve(accepted) => *accepted,
            Job::Flush(done) => {
                let store = store.clone();
                tokio::spawn(async move {
                    store.flush().await;
                    // Who asked may have stopped waiting.
                    let _ = done.send(());
                });
                continue;
            }
        };
        let (hub, store, connections) = (Arc::clone(&hub), store.clone(), Arc::clone(&connections));
        tokio::spawn(async move {
            serve(accepted, number, hub, store).await;
            connections.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// One connection from its first to its last byte.
async fn serve(accepted: Accepted, thread: usize, hub: Arc<Hub>, store: store::Client) {
    let peer = accepted.peer;
    let (seat, commands) = hub.seat(peer.ip(), thread);
    let Ok(stream) = TcpStream::from_std(accepted.stream) else { return };
    let transport = match accepted.tls {
        None => Transport::Tcp(stream),
        Some(acceptor) => {
            let handshake = Duration::from_micros(hub.settings().handshake_us);
            match tokio::time::timeout(handshake, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => Transport::Tls(Box::new(stream.into())),
                Ok(Err(error)) => {
                    hub.metrics().count_rejected(RejectReason::Tls);
                    tracing::warn!(client = %peer, %error, "the TLS handshake failed");
                    return;
                }
                Err(_) => {
                    hub.metrics().count_rejected(RejectReason::Tls);
                    tracing::warn!(client = %peer, "the TLS handshake took longer than proxy.handshake_timeout");
                    return;
                }
            }
        }
    };
    Box::pin(Connection::new(seat, store, transport, peer, commands)).await;
}

/// A listening address.
pub struct Listener {
    listener: TcpListener,
    transport: address::Transport,
}

impl Listener {
    /// Binds an address; a host name is looked up.
    pub async fn bind(listen: &Listen) -> io::Result<Listener> {
        let listener = TcpListener::bind((listen.address.host.as_str(), listen.address.port)).await?;
        Ok(Listener {
            listener,
            transport: listen.transport,
        })
    }

    /// The address in use, with the real port where 0 was asked for.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Accepts until the task is aborted.
    pub async fn accept(
        self,
        hub: Arc<Hub>,
        workers: Arc<Workers>,
        limits: Arc<ArcSwapOption<ProxyConfig>>,
        tls: Arc<ArcSwapOption<TlsAcceptor>>,
    ) {
        loop {
            let (stream, peer) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, most likely: a pause lets connections end.
                    tracing::error!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let limits = limits.load();
            let Some(limits) = limits.as_ref() else { continue };
            if hub.connection_count() >= limits.max_connections {
                hub.metrics().count_rejected(RejectReason::Limit);
                tracing::warn!(client = %peer, limit = limits.max_connections, "refused: proxy.max_connections is reached");
                continue;
            }
            let tls = match self.transport {
                address::Transport::Tcp => None,
                address::Transport::Tls => match tls.load_full() {
                    Some(acceptor) => Some((*acceptor).clone()),
                    None => continue,
                },
            };
            if upstream::tune(&stream, limits.tcp_keepalive).is_ok()
                && let Ok(stream) = stream.into_std()
            {
                workers.hand_over(Accepted { stream, peer, tls });
            }
        }
    }
}
