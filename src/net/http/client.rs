//! Outgoing requests of a pod.
//!
//! The authority is resolved as the pod's resolver would, a Service's address becomes one of its
//! endpoints, and where that endpoint is a handler on this node the request is handed over.
//! Otherwise hyper speaks HTTP/1.1 on a connection of the pod, which is kept for the next request.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::header::{CONTENT_LENGTH, HOST, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Handle;

use super::{Body, HttpSlot};
use crate::net::stream::TcpStream;
use crate::net::{Namespace, NetError};

/// Idle connections that a pod keeps to one peer, and for how long.
const IDLE_PER_PEER: usize = 32;
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The URI has no host, or a scheme other than http and https.
    #[error("the request URI {0} cannot be dialled: it needs http:// or https:// and a host")]
    Uri(String),
    /// The host's name gave no address.
    #[error("cannot resolve {name}: {error}")]
    Resolve { name: String, error: NetError },
    /// No connection.
    #[error("cannot connect to {address}: {error}")]
    Connect { address: String, error: NetError },
    /// The TLS handshake failed.
    #[error("no TLS with {name}: {reason}")]
    Tls { name: String, reason: String },
    /// The connection was made in time, the first byte of the response did not come.
    #[error("no response within {0:?}")]
    FirstByteTimeout(Duration),
    /// The peer broke off, or does not speak HTTP.
    #[error("http: {0}")]
    Protocol(String),
}

/// How long to wait; none: as long as it takes.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestTimeouts {
    pub connect: Option<Duration>,
    pub first_byte: Option<Duration>,
}

impl Namespace {
    /// Sends a request from the pod. The URI must be absolute.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn request(&self, request: Request<Body>) -> Result<Response<Body>, RequestError> {
        self.request_with(request, RequestTimeouts::default()).await
    }

    /// [`Self::request`] with a limit on the connecting and on the waiting for the response.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn request_with(
        &self,
        request: Request<Body>,
        timeouts: RequestTimeouts,
    ) -> Result<Response<Body>, RequestError> {
        let call = self.send(request, timeouts.connect);
        match timeouts.first_byte {
            Some(limit) => tokio::time::timeout(limit, call)
                .await
                .unwrap_or(Err(RequestError::FirstByteTimeout(limit))),
            None => call.await,
        }
    }

    async fn send(
        &self,
        mut request: Request<Body>,
        connect: Option<Duration>,
    ) -> Result<Response<Body>, RequestError> {
        let target = Target::of(request.uri())?;
        if !request.headers().contains_key(HOST) {
            request.headers_mut().insert(HOST, target.host_header());
        }
        if target.tls {
            let dial = Dial { timeout: connect, others: Vec::new() };
            return self.http_client().send(request, dial).await;
        }
        let addresses = target.resolve(self).await?;
        let destination = self.choose(&addresses);
        if let Some(direct) = destination.handler {
            return Ok(hand_over(&direct.slot, request, direct.peer).await);
        }
        let authority = destination.address.to_string();
        set_authority(&mut request, Scheme::HTTP, &authority)?;
        // The endpoint was chosen here; where it refuses, the Service itself finds another one.
        let others = addresses.into_iter().filter(|other| *other != destination.address);
        self.http_client().send(request, Dial { timeout: connect, others: others.collect() }).await
    }

    /// Where a request to a name with these addresses goes, an endpoint already chosen.
    fn choose(&self, addresses: &[SocketAddr]) -> Destination {
        let address = *addresses.first().expect("a resolved name has an address");
        if self.is_own(address.ip()) {
            let client = SocketAddr::new(address.ip(), self.ports().outgoing_port());
            let handler = self.http_slot(address).map(|slot| Direct { slot, peer: client });
            return Destination { address, handler };
        }
        let Ok(fabric) = self.fabric() else {
            return Destination { address, handler: None };
        };
        let (endpoint, slot) = fabric.http_route(self, address);
        let peer = SocketAddr::new(self.ip(), self.ports().outgoing_port());
        // Without an endpoint the dialling of the Service itself tells what is wrong with it.
        Destination {
            address: endpoint.unwrap_or(address),
            handler: slot.map(|slot| Direct { slot, peer }),
        }
    }
}

struct Direct {
    slot: Arc<HttpSlot>,
    peer: SocketAddr,
}

struct Destination {
    address: SocketAddr,
    handler: Option<Direct>,
}

/// The part of a URI that says whom to dial.
struct Target {
    authority: Authority,
    tls: bool,
    port: u16,
}

impl Target {
    fn of(uri: &Uri) -> Result<Self, RequestError> {
        let refuse = || RequestError::Uri(uri.to_string());
        let tls = match uri.scheme() {
            Some(s) if *s == Scheme::HTTP => false,
            Some(s) if *s == Scheme::HTTPS => true,
            _ => return Err(refuse()),
        };
        let authority = uri.authority().cloned().ok_or_else(refuse)?;
        if authority.host().is_empty() {
            return Err(refuse());
        }
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Self { authority, tls, port })
    }

    fn host_header(&self) -> HeaderValue {
        let text = self.authority.as_str();
        let host = text.rsplit_once('@').map_or(text, |(_, host)| host);
        HeaderValue::from_str(host).unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    /// Addresses of the host, never none.
    async fn resolve(&self, namespace: &Namespace) -> Result<Vec<SocketAddr>, RequestError> {
        resolve(namespace, self.authority.host(), self.port).await
    }
}

async fn resolve(
    namespace: &Namespace,
    host: &str,
    port: u16,
) -> Result<Vec<SocketAddr>, RequestError> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip.to_canonical(), port)]);
    }
    let failed = |error| RequestError::Resolve { name: bare.to_owned(), error };
    let addresses = namespace.resolve(bare).await.map_err(failed)?;
    if addresses.is_empty() {
        return Err(failed(NetError::NameNotFound));
    }
    Ok(addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
}

fn set_authority(
    request: &mut Request<Body>,
    scheme: Scheme,
    authority: &str,
) -> Result<(), RequestError> {
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(scheme);
    parts.authority = authority.parse().ok();
    parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
    *request.uri_mut() =
        Uri::from_parts(parts).map_err(|_| RequestError::Uri(authority.to_owned()))?;
    Ok(())
}

/// Gives a request to a handler as if it had come over the wire.
async fn hand_over(
    slot: &HttpSlot,
    mut request: Request<Body>,
    peer: SocketAddr,
) -> Response<Body> {
    let path = request.uri().path_and_query().cloned();
    let path = path.unwrap_or(PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    *request.version_mut() = http::Version::HTTP_11;
    let length = request.body().size_hint().exact();
    if let Some(length) = length.filter(|l| *l > 0)
        && !request.headers().contains_key(CONTENT_LENGTH)
    {
        request.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
    slot.service.call(request, peer).await
}

/// A pod's http client with its idle connections.
pub(crate) struct Client {
    inner: legacy::Client<Connector, Body>,
}

impl Client {
    pub(crate) fn new(namespace: Weak<Namespace>, handle: Handle) -> Self {
        let connector = Connector { namespace };
        let inner = legacy::Client::builder(OnHandle(handle))
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_PER_PEER)
            .pool_timer(TokioTimer::new())
            .set_host(false)
            .build(connector);
        Self { inner }
    }

    async fn send(
        &self,
        request: Request<Body>,
        dial: Dial,
    ) -> Result<Response<Body>, RequestError> {
        let sent = DIAL.scope(dial, self.inner.request(request)).await;
        match sent {
            Ok(response) => Ok(response.map(|body| body.map_err(Into::into).boxed_unsync())),
            Err(error) => Err(explain(error)),
        }
    }
}

/// How a connection for a request is to be made.
#[derive(Debug, Clone, Default)]
struct Dial {
    timeout: Option<Duration>,
    /// What to dial where the first address refuses.
    others: Vec<SocketAddr>,
}

tokio::task_local! {
    /// For the request whose future is being polled.
    static DIAL: Dial;
}

fn explain(error: legacy::Error) -> RequestError {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(cause) = source {
        if let Some(own) = cause.downcast_ref::<ConnectError>() {
            return own.0.clone().into();
        }
        source = cause.source();
    }
    let text = std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string);
    RequestError::Protocol(text)
}

/// [`RequestError`] as it travels through hyper.
#[derive(Debug, Clone, thiserror::Error)]
enum Refusal {
    #[error("cannot resolve {name}: {error}")]
    Resolve { name: String, error: NetError },
    #[error("cannot connect to {address}: {error}")]
    Connect { address: String, error: NetError },
    #[error("no TLS with {name}: {reason}")]
    Tls { name: String, reason: String },
    #[error("not a URI to dial: {0}")]
    Uri(String),
}

impl From<Refusal> for RequestError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Resolve { name, error } => Self::Resolve { name, error },
            Refusal::Connect { address, error } => Self::Connect { address, error },
            Refusal::Tls { name, reason } => Self::Tls { name, reason },
            Refusal::Uri(uri) => Self::Uri(uri),
        }
    }
}

impl From<RequestError> for Refusal {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Resolve { name, error } => Self::Resolve { name, error },
            RequestError::Connect { address, error } => Self::Connect { address, error },
            RequestError::Tls { name, reason } => Self::Tls { name, reason },
            other => Self::Uri(other.to_string()),
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct ConnectError(Refusal);

/// Spawns hyper's tasks on the runtime of the network.
#[derive(Clone)]
struct OnHandle(Handle);

impl<F> hyper::rt::Executor<F> for OnHandle
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

/// Dials from the pod.
#[derive(Clone)]
struct Connector {
    namespace: Weak<Namespace>,
}

impl tower::Service<Uri> for Connector {
    type Response = Channel;
    type Error = ConnectError;
    type Future = BoxFuture<'static, Result<Channel, ConnectError>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let namespace = self.namespace.clone();
        let Dial { timeout, others } = DIAL.try_with(Dial::clone).unwrap_or_default();
        Box::pin(async move {
            let call = dial(namespace, &uri, others);
            let dialled = match timeout {
                Some(limit) => match tokio::time::timeout(limit, call).await {
                    Ok(dialled) => dialled,
                    Err(_) => Err(Refusal::Connect {
                        address: uri.authority().map(ToString::to_string).unwrap_or_default(),
                        error: NetError::TimedOut,
                    }),
                },
                None => call.await,
            };
            dialled.map(|io| Channel(TokioIo::new(io))).map_err(ConnectError)
        })
    }
}

async fn dial(
    namespace: Weak<Namespace>,
    uri: &Uri,
    others: Vec<SocketAddr>,
) -> Result<Io, Refusal> {
    let target = Target::of(uri)?;
    let failed = |address: String, error| Refusal::Connect { address, error };
    let Some(namespace) = namespace.upgrade() else {
        return Err(failed(target.authority.to_string(), NetError::NetworkDown));
    };
    let mut last = failed(target.authority.to_string(), NetError::HostUnreachable);
    let mut addresses = target.resolve(&namespace).await?;
    addresses.extend(others);
    for address in addresses {
        match namespace.connect(address).await {
            Ok(stream) if target.tls => return tls(&namespace, &target, stream).await,
            Ok(stream) => return Ok(Io::Plain(stream)),
            Err(error) => last = failed(address.to_string(), error),
        }
    }
    Err(last)
}

async fn tls(namespace: &Namespace, target: &Target, stream: TcpStream) -> Result<Io, Refusal> {
    let name = target.authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let refuse = |reason: String| Refusal::Tls { name: name.clone(), reason };
    let config = namespace.fabric().ok().and_then(|fabric| fabric.tls());
    let config = config.ok_or_else(|| refuse("the node has no trusted roots".into()))?;
    let server = rustls::pki_types::ServerName::try_from(name.clone())
        .map_err(|error| refuse(error.to_string()))?;
    let connector = tokio_rustls::TlsConnector::from(config);
    let stream =
        connector.connect(server, stream).await.map_err(|error| refuse(error.to_string()))?;
    Ok(Io::Tls(Box::new(stream)))
}

/// A dialled connection.
enum Io {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

/// [`Io`] as hyper wants it.
struct Channel(TokioIo<Io>);

impl Connection for Channel {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for Channel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for Channel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
