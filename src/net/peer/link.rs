//! The dialling side of a link: one connection a node, made when first needed and again after it
//! broke.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Request, StatusCode};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;

use super::datagram::{self, Frame};
use super::{DESTINATION, ERROR, FRAME, LINK_WINDOW, PeerDialer, SOURCE, STREAM_WINDOW, STREAMS};
use crate::net::NetError;
use crate::net::queue::Meter;
use crate::net::stream::TcpStream;

/// How long dialling a node may take, TLS included.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a node may take to answer for its pod: longer than a full backlog makes wait there.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// For how long a node that could not be dialled is not dialled again.
const DIAL_PAUSE: Duration = Duration::from_millis(500);

/// A silent link is asked for a sign of life this often, and dropped when it gives none.
const PING_EVERY: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Datagrams that wait for the link.
const DATAGRAMS: usize = 1024;

/// Bytes queued on a link past which its streams hold little.
const PRESSURE_AT: usize = 256 * 1024 * 1024;

#[derive(Default)]
struct Connection {
    requests: Option<SendRequest<Bytes>>,
    failed: Option<(Instant, NetError)>,
}

/// The link to one other node.
pub(crate) struct PeerLink {
    node: String,
    address: SocketAddr,
    dialer: Arc<dyn PeerDialer>,
    runtime: Handle,
    connection: Mutex<Connection>,
    meter: Arc<Meter>,
    datagrams: mpsc::Sender<Frame>,
}

impl PeerLink {
    pub(crate) fn new(
        node: String,
        address: SocketAddr,
        dialer: Arc<dyn PeerDialer>,
        runtime: Handle,
    ) -> Arc<Self> {
        let (datagrams, frames) = mpsc::channel(DATAGRAMS);
        let link = Arc::new(Self {
            node,
            address,
            dialer,
            connection: Mutex::default(),
            meter: Meter::new(PRESSURE_AT),
            datagrams,
            runtime: runtime.clone(),
        });
        runtime.spawn(datagram::send_all(Arc::downgrade(&link), frames));
        link
    }

    pub(crate) fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// Connects `stream` to a pod of the node.
    pub(crate) async fn connect(
        self: &Arc<Self>,
        stream: TcpStream,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Result<(), NetError> {
        let link = self.clone();
        // On the network's own runtime: the caller's may be one of guests.
        let connected = self.runtime.spawn(async move { link.open_tcp(stream, from, to).await });
        connected.await.map_err(|_| NetError::NetworkDown)?
    }

    async fn open_tcp(
        &self,
        stream: TcpStream,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Result<(), NetError> {
        let request = Request::post("http://peer/tcp")
            .header(SOURCE, from.to_string())
            .header(DESTINATION, to.to_string())
            .body(())
            .expect("a request of constants and addresses");
        let mut requests = self.requests().await?;
        let (response, send) =
            requests.send_request(request, false).map_err(|_| NetError::HostUnreachable)?;
        let response = match tokio::time::timeout(ANSWER_TIMEOUT, response).await {
            Ok(response) => response.map_err(|_| NetError::HostUnreachable)?,
            Err(_) => return Err(NetError::TimedOut),
        };
        if response.status() != StatusCode::OK {
            let token = response.headers().get(ERROR).and_then(|value| value.to_str().ok());
            return Err(NetError::from_token(token.unwrap_or_default()));
        }
        self.runtime.spawn(super::carry(stream, send, response.into_body()));
        Ok(())
    }

    /// Sends a datagram to a pod of the node, or loses it where too many wait.
    pub(crate) fn send_datagram(&self, from: SocketAddr, to: SocketAddr, data: Bytes) {
        let _ = self.datagrams.try_send(Frame { from, to, data });
    }

    /// A handle for new streams on a living connection.
    pub(super) async fn requests(&self) -> Result<SendRequest<Bytes>, NetError> {
        let mut connection = self.connection.lock().await;
        if let Some(requests) = connection.requests.take()
            && let Ok(ready) = requests.ready().await
        {
            connection.requests = Some(ready.clone());
            return Ok(ready);
        }
        if let Some((at, error)) = connection.failed
            && at.elapsed() < DIAL_PAUSE
        {
            return Err(error);
        }
        match self.dial().await {
            Ok(requests) => {
                connection.failed = None;
                connection.requests = Some(requests.clone());
                Ok(requests)
            }
            Err(error) => {
                connection.failed = Some((Instant::now(), error));
                Err(error)
            }
        }
    }

    async fn dial(&self) -> Result<SendRequest<Bytes>, NetError> {
        let handshake = async {
            let io = self.dialer.dial(&self.node, self.address).await?;
            h2::client::Builder::new()
                .initial_window_size(STREAM_WINDOW)
                .initial_connection_window_size(LINK_WINDOW)
                .max_frame_size(FRAME)
                .max_concurrent_streams(STREAMS)
                .initial_max_send_streams(STREAMS as usize)
                .max_send_buffer_size(STREAM_WINDOW as usize)
                .enable_push(false)
                .handshake::<_, Bytes>(io)
                .await
                .map_err(std::io::Error::other)
        };
        let made = tokio::time::timeout(DIAL_TIMEOUT, handshake).await;
        let (requests, mut connection) = match made {
            Ok(Ok(made)) => made,
            Ok(Err(error)) => {
                tracing::warn!(node = %self.node, address = %self.address, error = %error,
                    "cannot dial the link of a node");
                return Err(NetError::HostUnreachable);
            }
            Err(_) => {
                tracing::warn!(node = %self.node, address = %self.address,
                    "the link of a node does not answer");
                return Err(NetError::HostUnreachable);
            }
        };
        let pings = connection.ping_pong().expect("the first taker of the pings");
        let node = self.node.clone();
        self.runtime.spawn(async move {
            let ended = tokio::select! {
                ended = connection => ended.err().map(|error| error.to_string()),
                () = stays_silent(pings) => Some("no sign of life".to_owned()),
            };
            tracing::debug!(%node, error = ?ended, "the link to a node has ended");
        });
        Ok(requests)
    }
}

/// Returns when the other side no longer answers.
pub(super) async fn stays_silent(mut pings: h2::PingPong) {
    loop {
        tokio::time::sleep(PING_EVERY).await;
        let answer = tokio::time::timeout(PING_TIMEOUT, pings.ping(h2::Ping::opaque())).await;
        if !matches!(answer, Ok(Ok(_))) {
            return;
        }
    }
}
