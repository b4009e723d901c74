use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::server::ResolvesServerCertUsingSni;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const HELLO: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// A listener without sockets, so that time may be the test's own: it accepts what [`Street::connect`] sends.
struct Door {
    arriving: UnboundedReceiver<DuplexStream>,
    accepted: Arc<AtomicUsize>,
}

impl Listener for Door {
    type Io = DuplexStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (DuplexStream, SocketAddr) {
        match self.arriving.recv().await {
            Some(socket) => {
                self.accepted.fetch_add(1, Ordering::Relaxed);
                (socket, ([127, 0, 0, 1], 1).into())
            }
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(([127, 0, 0, 1], 2).into())
    }
}

/// Where clients come from.
struct Street {
    arrive: UnboundedSender<DuplexStream>,
    accepted: Arc<AtomicUsize>,
}

impl Street {
    fn connect(&self) -> DuplexStream {
        let (ours, theirs) = duplex(1 << 20);
        self.arrive.send(theirs).expect("served");
        ours
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

fn open(tls: Option<TlsAcceptor>) -> Street {
    let (arrive, arriving) = unbounded_channel();
    let accepted = Arc::new(AtomicUsize::new(0));
    let door = Door {
        arriving,
        accepted: Arc::clone(&accepted),
    };
    let routes = Router::new().route("/", get(|ConnectInfo(peer): ConnectInfo<Peer>| async move { peer.to_string() }));
    tokio::spawn(serve_from(door, tls, routes));
    Street { arrive, accepted }
}

/// Reads one answer of [`open`]'s routes.
async fn answered(client: &mut DuplexStream) -> String {
    let mut read = Vec::new();
    while !read.ends_with(b"127.0.0.1:1") {
        assert_ne!(
            client.read_buf(&mut read).await.expect("open"),
            0,
            "{}",
            String::from_utf8_lossy(&read)
        );
    }
    String::from_utf8(read).expect("UTF-8")
}

#[tokio::test(start_paused = true)]
async fn a_head_that_comes_byte_by_byte_is_given_up() {
    let street = open(None);
    let mut client = street.connect();
    let begun = Instant::now();
    client.write_all(b"GET / HTTP/1.1\r\nX: ").await.expect("open");
    while client.write_all(b"a").await.is_ok() {
        assert!(begun.elapsed() <= HEAD + 2 * SECOND, "the head is still waited for");
        sleep(SECOND).await;
    }
    assert!(begun.elapsed() >= HEAD, "given up after {:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_kept_between_requests_and_not_for_ever() {
    let street = open(None);
    let mut client = street.connect();
    for _ in 0..3 {
        client.write_all(HELLO).await.expect("open");
        assert!(answered(&mut client).await.starts_with("HTTP/1.1 200 OK\r\n"));
        sleep(HEAD.saturating_sub(SECOND)).await;
    }
    let idle = Instant::now();
    assert_eq!(client.read(&mut [0; 100]).await.expect("closed"), 0);
    assert_eq!(idle.elapsed(), SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_tls_handshake_that_does_not_come_is_given_up() {
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new()));
    let street = open(Some(TlsAcceptor::from(Arc::new(config))));
    let mut client = street.connect();
    let begun = Instant::now();
    assert_eq!(client.read(&mut [0; 100]).await.expect("closed"), 0);
    assert_eq!(begun.elapsed(), HANDSHAKE);
}

#[tokio::test(start_paused = true)]
async fn one_client_too_many_waits_for_a_place() {
    let street = open(None);
    let mut clients: Vec<DuplexStream> = (0..CONNECTIONS_MAX).map(|_| street.connect()).collect();
    for client in &mut clients {
        client.write_all(HELLO).await.expect("open");
        answered(client).await;
    }
    let mut late = street.connect();
    late.write_all(HELLO).await.expect("room");
    // With paused time a sleep ends when nothing else can be done.
    sleep(SECOND).await;
    assert_eq!(street.accepted(), CONNECTIONS_MAX);
    clients.pop();
    answered(&mut late).await;
    assert_eq!(street.accepted(), CONNECTIONS_MAX + 1);

    // Places that are held by silence become free by themselves.
    let mut later = street.connect();
    later.write_all(HELLO).await.expect("room");
    let begun = Instant::now();
    answered(&mut later).await;
    assert!(begun.elapsed() <= HEAD);
}

#[tokio::test(start_paused = true)]
async fn a_head_without_end_is_refused() {
    let street = open(None);
    let mut client = street.connect();
    client.write_all(b"GET / HTTP/1.1\r\nX: ").await.expect("open");
    let piece = [b'a'; 1024];
    let mut sent = 0;
    while client.write_all(&piece).await.is_ok() {
        sent += piece.len();
        assert!(sent <= (1 << 20) + 2 * HEAD_MAX, "{sent} octets of a head were taken");
        tokio::task::yield_now().await;
    }
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.expect("closed");
    assert!(answer.starts_with(b"HTTP/1.1 431 "), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn a_client_that_does_not_read_is_given_up_by_the_kernel() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let _client = TcpStream::connect(address).await.expect("listens");
    let (socket, _) = Listener::accept(&mut listener.tap_io(|socket| tune(socket))).await;
    assert_eq!(socket2::SockRef::from(&socket).tcp_user_timeout().expect("known"), Some(UNREAD));
}
