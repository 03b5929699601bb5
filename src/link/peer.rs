//! The link between two nodes: streams multiplexed by HTTP/2 on one mTLS connection, both ends
//! verified as nodes.
//!
//! A stream is opened with a request head (what it is for travels in path and headers, which are
//! the caller's), answered with a response head, and then carries bytes both ways, each way ended
//! (half-close) or both reset on their own. Flow control is HTTP/2's, with windows wide enough for
//! a fast link.
//!
//! ```text
//!   open(head) ──▶ answered 2xx ──▶ bytes both ways ──▶ finish / finish ──▶ closed
//!              └──▶ refused (status)         └──▶ reset (either end) ──▶ ConnectionReset
//! ```
//!
//! **Invariant:** bytes that were sent before `finish` arrive, also when the sender is dropped
//! after it; a sender that is dropped without `finish` resets the stream.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response, StatusCode};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::identity::node_of;
use crate::base::shutdown::Shutdown;

const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
const STREAM_WINDOW: u32 = 1 << 20;
/// Streams bound themselves: were this below their sum, readers that stopped would stop all others.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
const FRAME: u32 = 64 << 10;
const STREAMS_MAX: u32 = 16_384;
/// What one stream may have queued for sending.
const SEND_BUFFER: usize = 256 << 10;
/// Streams that were opened by the other node and not yet taken.
const INCOMING_MAX: usize = 1024;

/// Why a link or a stream on it did not come up.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PeerError {
    /// No connection to the node.
    #[error("connecting to node {node:?} at {address}: {why}")]
    Dial { node: String, address: String, why: String },
    /// The connection is gone.
    #[error("the link to node {node:?} failed: {why}")]
    Lost { node: String, why: String },
    /// The other node did not take the stream.
    #[error("node {node:?} refused the stream: {status}")]
    Refused { node: String, status: StatusCode },
    /// What connected showed no node's certificate.
    #[error("the certificate on the connection is no node's")]
    NotANode,
}

/// A connection to another node, on which streams can be opened. Clones share it; it closes once
/// the last clone and the last stream are gone.
#[derive(Clone)]
pub struct Peer {
    node: Arc<str>,
    sender: h2::client::SendRequest<Bytes>,
    alive: Arc<AtomicBool>,
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Peer {
    /// Dials `node` at `address` (`IP:PORT`) with a configuration of
    /// [`super::tls::peer_client_config`] for that node.
    ///
    /// # Errors
    /// [`PeerError::Dial`].
    pub async fn connect(
        node: &str,
        address: &str,
        tls: Arc<ClientConfig>,
    ) -> Result<Self, PeerError> {
        let failed = |why: String| PeerError::Dial {
            node: node.to_owned(),
            address: address.to_owned(),
            why,
        };
        let dial = async {
            let tcp = TcpStream::connect(address).await?;
            tcp.set_nodelay(true)?;
            // The certificate is checked for the node's name, not for a host's.
            let name = ServerName::try_from("coracle-peer").expect("a plain host name");
            tokio_rustls::TlsConnector::from(tls).connect(name, tcp).await
        };
        let io = match tokio::time::timeout(DIAL_TIMEOUT, dial).await {
            Ok(Ok(io)) => io,
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Err(_) => return Err(failed("no answer within five seconds".into())),
        };
        Self::over(node, io).await.map_err(|error| failed(error.to_string()))
    }

    /// The same over a connection that is verified already.
    ///
    /// # Errors
    /// When HTTP/2 does not start.
    pub async fn over<Io>(node: &str, io: Io) -> Result<Self, h2::Error>
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, mut connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME)
            .max_send_buffer_size(SEND_BUFFER)
            .max_concurrent_streams(STREAMS_MAX)
            .enable_push(false)
            .handshake(io)
            .await?;
        let alive = Arc::new(AtomicBool::new(true));
        let pings = connection.ping_pong();
        let flag = alive.clone();
        tokio::spawn(async move {
            let dead = keepalive(pings);
            tokio::select! {
                _ = connection => {}
                () = dead => {}
            }
            flag.store(false, Ordering::Release);
        });
        Ok(Self { node: node.into(), sender, alive })
    }

    /// The node at the other end.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Whether streams can still be opened, as far as is known.
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    /// Opens a stream; answers the other node's response head with it. `head` needs a method, an
    /// absolute URI (`https://node/path`) and whatever headers say what it is for.
    ///
    /// # Errors
    /// [`PeerError::Refused`] with the status when the answer is not 2xx; [`PeerError::Lost`].
    pub async fn open(&self, head: Request<()>) -> Result<(Response<()>, PeerStream), PeerError> {
        let lost = |error: h2::Error| PeerError::Lost {
            node: self.node.to_string(),
            why: error.to_string(),
        };
        let mut sender = self.sender.clone().ready().await.map_err(lost)?;
        let (response, send) = sender.send_request(head, false).map_err(lost)?;
        // Dropped before it is answered (a caller that gave up), the stream is reset by `send`.
        let send = PeerSend::new(send);
        let (head, body) = response.await.map_err(lost)?.into_parts();
        if !head.status.is_success() {
            let node = self.node.to_string();
            return Err(PeerError::Refused { node, status: head.status });
        }
        let stream = PeerStream { send, recv: PeerRecv::new(body) };
        Ok((Response::from_parts(head, ()), stream))
    }
}

/// Pings until one is not answered in time.
async fn keepalive(pings: Option<h2::PingPong>) {
    let Some(mut pings) = pings else {
        return std::future::pending().await;
    };
    loop {
        tokio::time::sleep(PING_EVERY).await;
        match tokio::time::timeout(PING_TIMEOUT, pings.ping(h2::Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

/// A stream that another node wants to open.
pub struct Incoming {
    node: Arc<str>,
    head: Request<()>,
    recv: RecvStream,
    respond: h2::server::SendResponse<Bytes>,
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Incoming").field("node", &self.node).field("head", &self.head).finish()
    }
}

impl Incoming {
    /// The node that opens it, as its certificate proves.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// What it is for.
    pub fn head(&self) -> &Request<()> {
        &self.head
    }

    /// Takes it.
    ///
    /// # Errors
    /// [`PeerError::Lost`] when the other end has gone.
    pub fn accept(mut self, response: Response<()>) -> Result<PeerStream, PeerError> {
        let lost = |error: h2::Error| PeerError::Lost {
            node: self.node.to_string(),
            why: error.to_string(),
        };
        let send = self.respond.send_response(response, false).map_err(lost)?;
        Ok(PeerStream { send: PeerSend::new(send), recv: PeerRecv::new(self.recv) })
    }

    /// Refuses it: the other end's `open` answers [`PeerError::Refused`] with `status`.
    pub fn refuse(mut self, status: StatusCode) {
        let mut response = Response::new(());
        *response.status_mut() = status;
        let _ = self.respond.send_response(response, true);
    }
}

/// Takes a node's connection: does the TLS handshake, verifies that the other end is a node, and
/// hands every stream that it opens to `incoming` until the connection ends or `shutdown`.
/// Connections wait while `incoming` is full.
///
/// # Errors
/// [`PeerError::NotANode`], or what broke the connection.
pub async fn accept<Io>(
    io: Io,
    tls: Arc<ServerConfig>,
    incoming: mpsc::Sender<Incoming>,
    shutdown: &Shutdown,
) -> Result<(), PeerError>
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let unknown = |why: String| PeerError::Lost { node: "unknown".into(), why };
    let handshake = tokio_rustls::TlsAcceptor::from(tls).accept(io);
    let io = tokio::time::timeout(DIAL_TIMEOUT, handshake)
        .await
        .map_err(|_| unknown("no handshake within five seconds".into()))?
        .map_err(|error| unknown(error.to_string()))?;
    let certificate = io.get_ref().1.peer_certificates().and_then(<[CertificateDer<'_>]>::first);
    let node = certificate.and_then(|der| node_of(der)).ok_or(PeerError::NotANode)?;
    accept_over(&node, io, incoming, shutdown).await
}

/// The same over a connection that is verified already.
///
/// # Errors
/// [`PeerError::Lost`].
pub async fn accept_over<Io>(
    node: &str,
    io: Io,
    incoming: mpsc::Sender<Incoming>,
    shutdown: &Shutdown,
) -> Result<(), PeerError>
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let node: Arc<str> = node.into();
    let lost =
        |error: h2::Error| PeerError::Lost { node: node.to_string(), why: error.to_string() };
    let mut connection = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_streams(STREAMS_MAX)
        .handshake::<_, Bytes>(io)
        .await
        .map_err(lost)?;
    let mut dead = std::pin::pin!(keepalive(connection.ping_pong()));
    loop {
        let next = tokio::select! {
            next = connection.accept() => next,
            () = &mut dead => {
                let why = "no answer to a ping".into();
                return Err(PeerError::Lost { node: node.to_string(), why });
            }
            () = shutdown.cancelled() => return Ok(()),
        };
        let Some(stream) = next else { return Ok(()) };
        let (request, respond) = stream.map_err(lost)?;
        let (parts, recv) = request.into_parts();
        let head = Request::from_parts(parts, ());
        let stream = Incoming { node: node.clone(), head, recv, respond };
        // `connection.accept` is also what moves the bytes of the streams that are open: it must
        // not wait for room in the queue.
        if let Err(full) = incoming.try_send(stream) {
            full.into_inner().refuse(StatusCode::SERVICE_UNAVAILABLE);
        }
    }
}

/// A queue for incoming streams, of the size that suits one node.
pub fn incoming_queue() -> (mpsc::Sender<Incoming>, mpsc::Receiver<Incoming>) {
    mpsc::channel(INCOMING_MAX)
}

/// A stream: reads, writes, half-closes and resets. Dropped without [`PeerStream::finish`] (or
/// `shutdown`), it is reset.
#[derive(Debug)]
pub struct PeerStream {
    send: PeerSend,
    recv: PeerRecv,
}

impl PeerStream {
    /// The two directions, each with an owner of its own.
    pub fn into_split(self) -> (PeerSend, PeerRecv) {
        (self.send, self.recv)
    }

    /// See [`PeerSend::send`].
    ///
    /// # Errors
    /// `ConnectionReset` once the other end reset the stream or the link is gone.
    pub async fn send(&mut self, bytes: Bytes) -> io::Result<()> {
        self.send.send(bytes).await
    }

    /// See [`PeerSend::finish`].
    ///
    /// # Errors
    /// `ConnectionReset`.
    pub fn finish(&mut self) -> io::Result<()> {
        self.send.finish()
    }

    /// See [`PeerRecv::next`].
    ///
    /// # Errors
    /// `ConnectionReset`.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        self.recv.next().await
    }

    /// Ends both directions at once: the other end reads `ConnectionReset`.
    pub fn reset(mut self) {
        self.send.reset_now();
    }
}

/// The sending direction.
#[derive(Debug)]
pub struct PeerSend {
    stream: SendStream<Bytes>,
    finished: bool,
}

impl PeerSend {
    fn new(stream: SendStream<Bytes>) -> Self {
        Self { stream, finished: false }
    }

    /// Waits for room in the window.
    fn poll_room(&mut self, want: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.finished {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        // A reset by the other end shows here and nowhere else while the window is shut.
        if let Poll::Ready(Ok(_)) = self.stream.poll_reset(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        self.stream.reserve_capacity(want);
        loop {
            let room = self.stream.capacity();
            if room > 0 {
                return Poll::Ready(Ok(room));
            }
            match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
                None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            }
        }
    }

    /// Sends all of `bytes`, without copying them; waits while the window is shut.
    ///
    /// # Errors
    /// `ConnectionReset` once the other end reset the stream or the link is gone; `BrokenPipe`
    /// after [`Self::finish`].
    pub async fn send(&mut self, mut bytes: Bytes) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = poll_fn(|cx| self.poll_room(bytes.len(), cx)).await?;
            let part = bytes.split_to(room.min(bytes.len()));
            self.stream.send_data(part, false).map_err(io_error)?;
        }
        Ok(())
    }

    /// Half-close: the other end reads its end after all that was sent.
    ///
    /// # Errors
    /// `ConnectionReset` when the stream is gone already.
    pub fn finish(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.finished, true) {
            return Ok(());
        }
        self.stream.send_data(Bytes::new(), true).map_err(io_error)
    }

    /// Ends both directions at once: the other end reads `ConnectionReset`.
    pub fn reset(mut self) {
        self.reset_now();
    }

    fn reset_now(&mut self) {
        self.finished = true;
        self.stream.send_reset(Reason::CANCEL);
    }
}

impl Drop for PeerSend {
    fn drop(&mut self) {
        if !self.finished {
            self.reset_now();
        }
    }
}

impl AsyncWrite for PeerSend {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let room = ready!(self.poll_room(buf.len(), cx))?;
        let taken = room.min(buf.len());
        let part = Bytes::copy_from_slice(&buf[..taken]);
        self.stream.send_data(part, false).map_err(io_error)?;
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.finish())
    }
}

/// The receiving direction. What is read is given back to the sender's window.
#[derive(Debug)]
pub struct PeerRecv {
    stream: RecvStream,
    /// What came and did not fit the last read.
    rest: Bytes,
}

impl PeerRecv {
    fn new(stream: RecvStream) -> Self {
        Self { stream, rest: Bytes::new() }
    }

    /// The next bytes; `None` at the end that the other side set.
    ///
    /// # Errors
    /// `ConnectionReset`.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.rest))));
        }
        match ready!(self.stream.poll_data(cx)) {
            Some(Ok(bytes)) => {
                let released = self.stream.flow_control().release_capacity(bytes.len());
                Poll::Ready(released.map(|()| Some(bytes)).map_err(io_error))
            }
            Some(Err(error)) => Poll::Ready(Err(io_error(error))),
            None => Poll::Ready(Ok(None)),
        }
    }

    /// The next bytes; `None` at the end that the other side set.
    ///
    /// # Errors
    /// `ConnectionReset`.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }
}

impl AsyncRead for PeerRecv {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let Some(mut bytes) = ready!(self.poll_next(cx))? else { return Poll::Ready(Ok(())) };
            // An empty frame is no end of the stream, which is what reading nothing would say.
            if bytes.is_empty() {
                continue;
            }
            let part = bytes.split_to(bytes.len().min(buf.remaining()));
            buf.put_slice(&part);
            self.rest = bytes;
            return Poll::Ready(Ok(()));
        }
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.recv).poll_read(cx, buf)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.send).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.send).poll_shutdown(cx)
    }
}

fn io_error(error: h2::Error) -> io::Error {
    if error.is_io() {
        return error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into());
    }
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

#[cfg(test)]
#[path = "peer_tests.rs"]
mod tests;
