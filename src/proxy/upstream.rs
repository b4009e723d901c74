//! The brokers: which one a connection goes to, and how it is reached.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::transport::Transport;
use crate::admin::State;
use crate::config::address::{self, Upstream};
use crate::config::{self, UpstreamPolicy};
use crate::metrics::Metrics;
use crate::tls;

/// How often a broker that could not be reached is tried again.
const RECHECK: Duration = Duration::from_secs(2);
/// How many times less often one that could.
const SELDOM: u32 = 5;

/// One broker.
#[derive(Debug)]
struct Node {
    upstream: Upstream,
    name: String,
    connections: AtomicUsize,
    /// 1 after a dial that failed, until one succeeds.
    failed: AtomicUsize,
}

/// All brokers of the configuration, in its order.
pub struct Upstreams {
    nodes: Vec<Arc<Node>>,
    policy: UpstreamPolicy,
    next: AtomicUsize,
    timeout: Duration,
    keepalive: Duration,
    connector: ArcSwapOption<TlsConnector>,
    metrics: Arc<Metrics>,
    state: Arc<State>,
}

/// A connection to a broker, counted until it is dropped.
#[derive(Debug)]
pub struct Lease(Arc<Node>);

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A broker that was reached.
pub struct Dialled {
    /// The socket.
    pub transport: Transport,
    /// Its place in the count of connections.
    pub lease: Lease,
}

/// No broker could be reached.
#[derive(Debug, thiserror::Error)]
#[error("no broker can be reached: {0}")]
pub struct DialError(String);

impl Upstreams {
    /// The brokers of the configuration.
    pub fn new(config: &config::ProxyConfig, metrics: Arc<Metrics>, state: Arc<State>) -> Result<Upstreams, tls::TlsError> {
        let nodes = config
            .upstream
            .iter()
            .map(|upstream| {
                Arc::new(Node {
                    upstream: upstream.clone(),
                    name: format!("{}:{}", upstream.address.host, upstream.address.port),
                    connections: AtomicUsize::new(0),
                    failed: AtomicUsize::new(0),
                })
            })
            .collect();
        let upstreams = Upstreams {
            nodes,
            policy: config.upstream_policy,
            next: AtomicUsize::new(0),
            timeout: config.connect_timeout,
            keepalive: config.tcp_keepalive,
            connector: ArcSwapOption::empty(),
            metrics,
            state,
        };
        upstreams.state.set_upstreams(upstreams.nodes.iter().map(|node| node.name.as_str()));
        upstreams.reload_tls(config)?;
        Ok(upstreams)
    }

    /// Reads the TLS files anew; connections from now on use them. The brokers stay those of the start: where the configuration has none that
    /// takes TLS any more, those that do are dialled as before.
    pub fn reload_tls(&self, config: &config::ProxyConfig) -> Result<(), tls::TlsError> {
        if config.upstream.iter().any(|upstream| upstream.transport == address::Transport::Tls) {
            self.connector.store(Some(Arc::new(tls::connector(&config.upstream_tls)?)));
        }
        Ok(())
    }

    /// Looks after the brokers for as long as the process lives, by connecting and saying nothing: those that failed often, so that a
    /// proxy without a broker finds it when it is back though no client is sent to it, the others seldom, so that an idle proxy notices.
    pub async fn watch(self: Arc<Self>) {
        for round in 0u32.. {
            for node in &self.nodes {
                if round % SELDOM == 0 || node.failed.load(Ordering::Relaxed) != 0 {
                    let reached = tokio::time::timeout(self.timeout, self.reach(&node.upstream)).await;
                    self.mark(node, matches!(reached, Ok(Ok(_))));
                }
            }
            tokio::time::sleep(RECHECK).await;
        }
    }

    /// The brokers in the order in which the policy tries them.
    fn order(&self) -> Vec<Arc<Node>> {
        let mut order = self.nodes.clone();
        match self.policy {
            UpstreamPolicy::First => {}
            UpstreamPolicy::RoundRobin => {
                let turn = self.next.fetch_add(1, Ordering::Relaxed) % order.len().max(1);
                order.rotate_left(turn);
            }
            UpstreamPolicy::LeastConnections => order.sort_by_key(|node| node.connections.load(Ordering::Relaxed)),
        }
        order
    }

    /// Connects to a broker; the next one when one fails.
    pub fn dial(self: &Arc<Self>) -> impl Future<Output = Result<Dialled, DialError>> + Send + 'static {
        let this = Arc::clone(self);
        async move {
            let mut faults = Vec::new();
            for node in this.order() {
                match tokio::time::timeout(this.timeout, this.reach(&node.upstream)).await {
                    Ok(Ok(transport)) => {
                        node.connections.fetch_add(1, Ordering::Relaxed);
                        this.mark(&node, true);
                        return Ok(Dialled {
                            transport,
                            lease: Lease(node),
                        });
                    }
                    Ok(Err(fault)) => faults.push(format!("{}: {fault}", node.name)),
                    Err(_) => faults.push(format!("{}: no answer within {:?}", node.name, this.timeout)),
                }
                this.mark(&node, false);
            }
            Err(DialError(faults.join("; ")))
        }
    }

    fn mark(&self, node: &Node, up: bool) {
        node.failed.store(usize::from(!up), Ordering::Relaxed);
        self.metrics.set_upstream_up(&node.name, up);
        self.state.set_upstream_up(&node.name, up);
    }

    async fn reach(&self, upstream: &Upstream) -> std::io::Result<Transport> {
        let stream = TcpStream::connect((upstream.address.host.as_str(), upstream.address.port)).await?;
        tune(&stream, self.keepalive)?;
        if upstream.transport == address::Transport::Tcp {
            return Ok(Transport::Tcp(stream));
        }
        let connector = self
            .connector
            .load_full()
            .ok_or_else(|| std::io::Error::other("TLS is not set up"))?;
        let stream = tls::connect(&connector, &upstream.address.host, stream).await?;
        Ok(Transport::Tls(Box::new(stream.into())))
    }
}

/// Sends small writes at once, and finds peers that have vanished: three probes, 10 s apart, after this much silence. Where the peers have
/// agreed on no heartbeats nothing else does. There is no limit on unacknowledged data: it would end a connection whose broker does not
/// read for a while, as under a memory alarm.
pub fn tune(stream: &TcpStream, keepalive: Duration) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let probes = socket2::TcpKeepalive::new()
        .with_time(keepalive)
        .with_interval(Duration::from_secs(10))
        .with_retries(3);
    socket2::SockRef::from(stream).set_tcp_keepalive(&probes)
}
