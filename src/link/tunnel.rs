//! The connection that an agent dials to its API server, and on which the server then sends the
//! requests: HTTP/2 reversed over mTLS.
//!
//! The agent dials the server's port with ALPN `coracle-tunnel` and its node certificate; after
//! the handshake the *agent* speaks HTTP/2 as the server, the API server as the client. So logs,
//! exec and proxying reach nodes that nobody can dial.
//!
//! ```text
//!   agent:   dial ──▶ TLS ──▶ serve ──lost──▶ wait (1 s … 30 s, jittered) ──▶ dial
//!   server:  accept ──▶ registered under the certificate's node name ──lost──▶ forgotten
//!                          └── the same node again ──▶ the newer one replaces it
//! ```
//!
//! **Invariant:** a connection is registered under the name that its certificate proves, never
//! under one that it claims.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::identity::node_of;
use super::{Body, BoxError};
use crate::base::backoff::Backoff;
use crate::base::rng::Rng;
use crate::base::shutdown::Shutdown;

const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that held this long was a good one: the next failure starts from a short wait.
const GOOD_AFTER: Duration = Duration::from_secs(10);
const WINDOW: u32 = 1 << 20;

/// Why a request through a tunnel failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TunnelError {
    /// The node has no connection to this server.
    #[error("node {0:?} is not connected")]
    NotConnected(String),
    /// What connected showed no node's certificate.
    #[error("the certificate on the connection is no node's")]
    NotANode,
    /// The connection broke.
    #[error("the connection to node {node:?} failed: {why}")]
    Failed { node: String, why: String },
}

struct Connected {
    generation: u64,
    sender: SendRequest<Body>,
    cancel: Shutdown,
}

/// The connections of all nodes, on the API server's side.
#[derive(Default)]
pub struct Tunnels {
    nodes: Mutex<HashMap<String, Connected>>,
    generations: AtomicU64,
}

impl std::fmt::Debug for Tunnels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnels").field("nodes", &self.connected()).finish()
    }
}

impl Tunnels {
    /// Without any connection.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Takes a connection whose TLS handshake is done and has proved `certificate` (DER); runs it
    /// until it ends, is replaced by a newer one of the same node, or `shutdown`.
    ///
    /// # Errors
    /// [`TunnelError::NotANode`]; [`TunnelError::Failed`] when HTTP/2 does not start.
    pub async fn accept<Io>(
        &self,
        io: Io,
        certificate: &[u8],
        shutdown: &Shutdown,
    ) -> Result<(), TunnelError>
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let node = node_of(certificate).ok_or(TunnelError::NotANode)?;
        let failed =
            |error: hyper::Error| TunnelError::Failed { node: node.clone(), why: describe(&error) };
        let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW * 8)
            .handshake::<_, Body>(TokioIo::new(io))
            .await
            .map_err(failed)?;
        let generation = self.generations.fetch_add(1, Ordering::Relaxed);
        let cancel = shutdown.child_token();
        let connected = Connected { generation, sender, cancel: cancel.clone() };
        if let Some(older) = self.nodes.lock().insert(node.clone(), connected) {
            older.cancel.cancel();
        }
        tracing::info!(node, "node connected");
        let ended = tokio::select! {
            ended = connection => ended.map_err(failed),
            () = cancel.cancelled() => Ok(()),
        };
        let mut nodes = self.nodes.lock();
        if nodes.get(&node).is_some_and(|now| now.generation == generation) {
            nodes.remove(&node);
            tracing::info!(node, "node disconnected");
        }
        ended
    }

    /// The way to a node; `None` while it is not connected.
    pub fn dial(&self, node: &str) -> Option<SendRequest<Body>> {
        let nodes = self.nodes.lock();
        nodes.get(node).map(|c| c.sender.clone()).filter(|sender| !sender.is_closed())
    }

    /// Sends a request to a node. A request URI without an authority gets the node's name as one.
    ///
    /// # Errors
    /// [`TunnelError`] when it could not be sent; what the node answers is no error.
    pub async fn request(
        &self,
        node: &str,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, TunnelError> {
        let failed = |why: String| TunnelError::Failed { node: node.to_owned(), why };
        let not_connected = || TunnelError::NotConnected(node.to_owned());
        let mut sender = self.dial(node).ok_or_else(not_connected)?;
        if request.uri().authority().is_none() {
            let path = request.uri().path_and_query().map_or("/", |p| p.as_str()).to_owned();
            let uri = http::Uri::builder().scheme("https").authority(node).path_and_query(path);
            *request.uri_mut() = uri.build().map_err(|error| failed(error.to_string()))?;
        }
        *request.version_mut() = http::Version::HTTP_2;
        let sent = sender.send_request(request).await;
        let response = sent.map_err(|error| failed(describe(&error)))?;
        Ok(response.map(|body| body.map_err(|e| Box::new(e) as BoxError).boxed_unsync()))
    }

    /// The names of the nodes that are connected, sorted.
    pub fn connected(&self) -> Vec<String> {
        let mut names: Vec<String> = self.nodes.lock().keys().cloned().collect();
        names.sort();
        names
    }
}

/// Where an agent dials to, and how.
pub struct TunnelConfig {
    /// `HOST:PORT` of the API server.
    pub address: String,
    /// The name that the server's certificate must carry.
    pub server_name: String,
    /// The TLS configuration of the moment (ALPN [`super::tls::ALPN_TUNNEL`], the node's
    /// certificate); asked at every dial, since certificates are renewed.
    pub tls: Box<dyn Fn() -> Arc<ClientConfig> + Send + Sync>,
    /// The first wait after a failure, which doubles up to thirty seconds.
    pub first_wait: Duration,
    /// For the jitter.
    pub seed: u64,
}

/// Keeps a connection to the API server and answers its requests with `service` until `shutdown`.
pub async fn serve<S, B>(config: TunnelConfig, service: S, shutdown: Shutdown)
where
    S: hyper::service::Service<Request<Incoming>, Response = Response<B>>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: hyper::body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
    Bytes: From<B::Data>,
{
    let mut rng = Rng::seeded(config.seed);
    let mut backoff = Backoff::new(config.first_wait, Duration::from_secs(30));
    loop {
        let started = tokio::time::Instant::now();
        let ended = tokio::select! {
            () = shutdown.cancelled() => return,
            ended = serve_once(&config, service.clone(), &shutdown) => ended,
        };
        if shutdown.is_cancelled() {
            return;
        }
        if started.elapsed() >= GOOD_AFTER {
            backoff.reset();
        }
        let delay = backoff.next_delay(&mut rng);
        match ended {
            Ok(()) => tracing::info!(address = config.address, "the server closed the tunnel"),
            Err(error) => tracing::warn!(address = config.address, %error, "the tunnel failed"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(delay) => {}
        }
    }
}

async fn serve_once<S, B>(
    config: &TunnelConfig,
    service: S,
    shutdown: &Shutdown,
) -> Result<(), BoxError>
where
    S: hyper::service::Service<Request<Incoming>, Response = Response<B>>,
    S: Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: hyper::body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let io = tokio::time::timeout(DIAL_TIMEOUT, async {
        let tcp = TcpStream::connect(&config.address).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from(config.server_name.clone())?;
        let tls = tokio_rustls::TlsConnector::from((config.tls)()).connect(name, tcp).await?;
        Ok::<_, BoxError>(tls)
    })
    .await
    .map_err(|_| "no answer within ten seconds")??;
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW * 8)
        .max_concurrent_streams(1024)
        .enable_connect_protocol()
        .serve_connection(TokioIo::new(io), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => Ok(ended?),
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            // Streams in flight (a log that is followed) would keep it open for ever.
            let _ = tokio::time::timeout(Duration::from_millis(200), connection).await;
            Ok(())
        }
    }
}

/// An error with its causes, which is where hyper says what happened.
fn describe(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
#[path = "tunnel_tests.rs"]
mod tests;
