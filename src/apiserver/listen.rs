//! The listener: TLS, then HTTP/1.1 or HTTP/2 by ALPN; a connection that an agent dialled for the
//! server's own requests (`coracle-tunnel`) is handed on to the tunnels.
//!
//! ```text
//! accept ─▶ permit ─▶ handshake ─┬─ coracle-tunnel ─▶ Tunnels::accept
//!                                └─ h2, http/1.1   ─▶ router, with the peer's certificate
//! shutdown ─▶ readyz fails ─▶ watches end ─▶ connections finish what runs ─▶ cut after `drain`
//! ```

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::auth::Credentials;
use super::server::ApiServer;
use crate::base::shutdown::Shutdown;
use crate::link::tls::ALPN_TUNNEL;
use crate::link::tunnel::Tunnels;

/// How long a client may take for its handshake, and for the head of a request.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take to send the head of a request. HTTP/1.1 counts from the answer before,
/// so this is also how long an idle connection stays: as long as Kubernetes keeps it, so that
/// clients with a pool of connections find them open.
const HEAD_TIMEOUT: Duration = Duration::from_secs(90);
/// A client that says nothing is asked after this, and gone if it does not answer in time.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(15);
/// The same for connections that were switched to another protocol, by the kernel.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);
const STREAMS_MAX: u32 = 1000;
/// After an error of `accept` (no descriptors left) the listener rests.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How to listen.
pub struct ListenConfig {
    pub tls: Arc<rustls::ServerConfig>,
    pub tunnels: Arc<Tunnels>,
    /// Further connections wait until one ends.
    pub connections_max: usize,
    /// How long running requests may take to finish at shutdown.
    pub drain: Duration,
}

/// A client that is connected.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// Serve until shutdown, and until what ran then is done or `drain` is over.
pub async fn run(
    server: Arc<ApiServer>,
    listener: TcpListener,
    config: ListenConfig,
    shutdown: Shutdown,
) {
    let permits = Arc::new(Semaphore::new(config.connections_max));
    let connections = TaskTracker::new();
    let acceptor = TlsAcceptor::from(config.tls.clone());
    let cut = Shutdown::new();
    loop {
        let permit = tokio::select! {
            () = shutdown.cancelled() => break,
            permit = permits.clone().acquire_owned() => permit.expect("the semaphore stays open"),
        };
        let (stream, peer) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let connection = Connection {
            server: server.clone(),
            tunnels: config.tunnels.clone(),
            peer,
            shutdown: shutdown.clone(),
            _permit: permit,
        };
        let acceptor = acceptor.clone();
        let cut = cut.clone();
        connections.spawn(async move {
            tokio::select! {
                () = cut.cancelled() => {}
                () = connection.serve(stream, acceptor) => {}
            }
        });
    }
    drop(listener);
    server.set_stopping();
    server.registry().end_watches();
    connections.close();
    if tokio::time::timeout(config.drain, connections.wait()).await.is_err() {
        tracing::info!("requests were cut off at shutdown");
        cut.cancel();
        connections.wait().await;
    }
}

struct Connection {
    server: Arc<ApiServer>,
    tunnels: Arc<Tunnels>,
    peer: SocketAddr,
    shutdown: Shutdown,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    async fn serve(self, stream: TcpStream, acceptor: TlsAcceptor) {
        // A small answer must not wait for an acknowledgement of the one before.
        let _ = stream.set_nodelay(true);
        // A client that vanished must not hold what streams to it for ever.
        let alive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY);
        let _ = SockRef::from(&stream).set_tcp_keepalive(&alive);
        let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(peer = %self.peer, %error, "a TLS handshake failed");
                return;
            }
            Err(_) => {
                tracing::debug!(peer = %self.peer, "a TLS handshake took too long");
                return;
            }
        };
        let (_, tls) = stream.get_ref();
        let certificate = tls.peer_certificates().and_then(|chain| chain.first());
        let certificate = certificate.map(|der| der.as_ref().to_vec());
        if tls.alpn_protocol() == Some(ALPN_TUNNEL) {
            let certificate = certificate.unwrap_or_default();
            if let Err(error) = self.tunnels.accept(stream, &certificate, &self.shutdown).await {
                tracing::info!(peer = %self.peer, %error, "a tunnel ended");
            }
            return;
        }
        self.serve_http(stream, certificate).await;
    }

    async fn serve_http(self, stream: TlsStream<TcpStream>, certificate: Option<Vec<u8>>) {
        let router = self.server.router();
        let credentials = Credentials { certificate, bearer: None };
        let peer = Peer(self.peer);
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(credentials.clone());
            request.extensions_mut().insert(peer);
            let router = router.clone();
            async move {
                let answer: Result<Response<Body>, Infallible> = router.oneshot(request).await;
                answer
            }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT);
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(peer = %self.peer, %error, "a connection ended");
        }
    }
}
