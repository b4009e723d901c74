//! The sockets of the admin listener, with a bound on what one client, or many, can hold: a request must be sent, and its answer taken, in
//! time, and beyond [`CONNECTIONS_MAX`] new connections wait until one ends.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use axum::serve::{Listener, ListenerExt};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;

/// How long a client may take for its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a client may take for the head of a request, counted from the connection or from the end of the request before.
const HEAD: Duration = Duration::from_secs(30);
/// How long sent bytes may lie unread at a client.
const UNREAD: Duration = Duration::from_secs(30);
/// The most connections of one listener at one time.
const CONNECTIONS_MAX: usize = 64;
/// The most octets of a head.
const HEAD_MAX: usize = 64 << 10;

/// The address of who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Serves these routes, with TLS if there is an acceptor, until the task ends.
pub async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, routes: Router) {
    serve_from(listener.tap_io(|socket| tune(socket)), tls, routes).await;
}

/// Sends small answers at once, and gives up a client that does not read. A socket that cannot be tuned serves all the same.
fn tune(socket: &TcpStream) {
    let _ = socket.set_nodelay(true);
    let _ = socket2::SockRef::from(socket).set_tcp_user_timeout(Some(UNREAD));
}

/// The clients that are one too many wait in the listener's backlog: the time limits see to it that places become free.
async fn serve_from(mut listener: impl Listener<Addr = SocketAddr>, tls: Option<TlsAcceptor>, routes: Router) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut was_full = false;
    loop {
        let is_full = places.available_permits() == 0;
        if is_full && !was_full {
            tracing::warn!(connections = CONNECTIONS_MAX, "the admin listener is full: new connections wait");
        }
        was_full = is_full;
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let (socket, peer) = listener.accept().await;
        tokio::spawn(serve_one(socket, Peer(peer), tls.clone(), routes.clone(), place));
    }
}

/// One connection, from its handshake to its end, in a place that it gives back.
async fn serve_one<S>(socket: S, peer: Peer, tls: Option<TlsAcceptor>, routes: Router, _place: OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Some(acceptor) = tls else {
        return answer(socket, peer, routes).await;
    };
    match tokio::time::timeout(HANDSHAKE, acceptor.accept(socket)).await {
        Ok(Ok(stream)) => answer(stream, peer, routes).await,
        Ok(Err(error)) => tracing::debug!(client = %peer, "admin: TLS handshake failed: {error}"),
        Err(_) => tracing::debug!(client = %peer, "admin: TLS handshake timed out"),
    }
}

/// Answers the requests of one connection.
pub(super) async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, peer: Peer, routes: Router) {
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        TowerToHyperService::new(routes.clone()).call(request)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(client = %peer, "admin: {error}");
    }
}

#[cfg(test)]
mod tests;
