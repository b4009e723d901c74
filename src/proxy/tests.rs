//! A connection's own clocks, and what the tests of its neighbours need.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::connection::LAST_WRITE;
use super::drain::GOODBYE;
use super::transport::Transport;
use super::upstream::Upstreams;
use super::{Connection, Hub, StoreObserver};
use crate::admin::State;
use crate::amqp::frame;
use crate::amqp::method::MethodId;
use crate::config::{self, Flags};
use crate::lifecycle::revokes::Revokes;
use crate::logging::{DecisionLog, Decisions};
use crate::metrics::{Direction, Metrics, Peer};
use crate::store::{Memory, Observer, Store, SystemClock};

/// A hub without rules before a broker on this port.
pub(super) fn hub(port: u16) -> Arc<Hub> {
    let text = format!("[proxy]\nupstream = [\"amqp://127.0.0.1:{port}\"]\n");
    let config = config::load_text("oncegate.toml", &text, &BTreeMap::new(), &Flags::default()).expect("the text is right");
    let metrics = Arc::new(Metrics::new().expect("the names are right"));
    let state = Arc::new(State::default());
    let upstreams = Upstreams::new(&config.proxy, Arc::clone(&metrics), state).expect("no certificates are named");
    Arc::new(Hub::new(
        &config.proxy,
        Arc::clone(&config.rules),
        Arc::new(upstreams),
        metrics,
        log(),
    ))
}

fn log() -> Arc<DecisionLog> {
    Arc::new(DecisionLog::new(Decisions::None, 0))
}

pub(super) fn observer() -> Arc<dyn Observer> {
    let metrics = Arc::new(Metrics::new().expect("the names are right"));
    Arc::new(StoreObserver::new(metrics, log(), Arc::default(), Revokes::default()))
}

pub(super) fn memory() -> Store {
    Store::memory(
        Arc::new(Memory::new(Arc::new(SystemClock::default()), Arc::from("test"))),
        observer(),
    )
}

fn method(id: MethodId, arguments: &[u8]) -> Vec<u8> {
    let mut raw = vec![1, 0, 0];
    raw.extend_from_slice(&(arguments.len() as u32 + 4).to_be_bytes());
    raw.extend_from_slice(&id.class.to_be_bytes());
    raw.extend_from_slice(&id.method.to_be_bytes());
    raw.extend_from_slice(arguments);
    raw.push(frame::END);
    raw
}

/// A frame of a kind that nobody looks into, on channel 1.
fn bulk() -> Vec<u8> {
    let mut raw = vec![3, 0, 1];
    raw.extend_from_slice(&100_000u32.to_be_bytes());
    raw.resize(raw.len() + 100_000, 0);
    raw.push(frame::END);
    raw
}

/// A connection through the proxy, open at both ends.
struct Line {
    hub: Arc<Hub>,
    client: TcpStream,
    broker: TcpStream,
    connection: JoinHandle<()>,
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    listener.accept().await.expect("a connection comes")
}

async fn line() -> Line {
    let broker = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let front = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let hub = hub(broker.local_addr().expect("bound").port());
    let mut client = TcpStream::connect(front.local_addr().expect("bound")).await.expect("it listens");
    let (stream, peer) = accept(&front).await;
    let (seat, commands) = hub.seat(peer.ip(), 0);
    let connection = tokio::spawn(Connection::new(seat, memory().client(), Transport::Tcp(stream), peer, commands));
    client.write_all(&frame::PROTOCOL_HEADER).await.expect("it reads");
    client
        .write_all(&method(MethodId::CONNECTION_OPEN, b"\x01/\0\0"))
        .await
        .expect("it reads");
    let (mut broker, _) = accept(&broker).await;
    let open_ok = method(MethodId::CONNECTION_OPEN_OK, &[0]);
    broker.write_all(&open_ok).await.expect("it reads");
    let mut got = vec![0; open_ok.len()];
    client.read_exact(&mut got).await.expect("it comes through");
    assert_eq!(got, open_ok);
    Line {
        hub,
        client,
        broker,
        connection,
    }
}

/// How many bytes the proxy has read from its client.
fn read(hub: &Hub) -> usize {
    hub.metrics().traffic(Peer::Client, Direction::In).bytes.get() as usize
}

/// A line whose broker reads nothing, with more on its way to it than sockets hold, and what the client has sent in all.
async fn stuck() -> (Line, usize) {
    let mut line = line().await;
    let before = read(&line.hub);
    let frame = bulk();
    for _ in 0..200 {
        line.client.write_all(&frame).await.expect("the proxy reads");
    }
    let sent = before + 200 * frame.len();
    while read(&line.hub) < sent {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    (line, sent)
}

#[tokio::test]
async fn a_peer_that_takes_nothing_keeps_no_connection() {
    let (line, _) = stuck().await;
    tokio::time::pause();
    let began = Instant::now();
    line.hub.close(GOODBYE);
    line.connection.await.expect("it ends");
    let took = began.elapsed();
    // A timer may be a millisecond late.
    assert!(
        (GOODBYE + LAST_WRITE..GOODBYE + LAST_WRITE + Duration::from_millis(5)).contains(&took),
        "{took:?}"
    );
    assert_eq!(line.hub.connection_count(), 0);
}

#[tokio::test]
async fn a_peer_that_takes_the_last_bytes_late_gets_them_all() {
    let (mut line, sent) = stuck().await;
    tokio::time::pause();
    line.hub.close(GOODBYE);
    tokio::time::sleep(GOODBYE + Duration::from_millis(1)).await;
    assert_eq!(line.hub.connection_count(), 1, "the broker's side is done but for its last bytes");
    tokio::time::resume();
    let mut got = Vec::new();
    line.broker.read_to_end(&mut got).await.expect("to the end");
    assert!(
        got.len() > sent,
        "all that was sent, and a connection.close: {} of {sent}",
        got.len()
    );
    line.connection.await.expect("it ends");
}
