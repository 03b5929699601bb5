//! The dialling side: one link a node, made when first needed and again after it broke.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;

use super::datagram::{self, Frame};
use super::{DESTINATION, PeerDialer, SOURCE};
use crate::link::peer::{Peer, PeerError};
use crate::net::NetError;
use crate::net::queue::Meter;
use crate::net::stream::TcpStream;

/// How long a node may take to answer for its pod: longer than a full backlog makes wait there.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// For how long a node that could not be dialled is not dialled again.
const DIAL_PAUSE: Duration = Duration::from_millis(500);

/// Datagrams that wait for the link.
const DATAGRAMS: usize = 1024;

/// Bytes queued on a link past which its streams hold little.
const PRESSURE_AT: usize = 256 * 1024 * 1024;

#[derive(Default)]
struct Connection {
    peer: Option<Peer>,
    failed_at: Option<Instant>,
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
        let opened = self.runtime.spawn(async move {
            let opened = tokio::time::timeout(ANSWER_TIMEOUT, link.open_tcp(stream, from, to));
            opened.await.unwrap_or(Err(NetError::TimedOut))
        });
        opened.await.map_err(|_| NetError::NetworkDown)?
    }

    async fn open_tcp(
        &self,
        stream: TcpStream,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Result<(), NetError> {
        let head = || {
            Request::post("https://peer/tcp")
                .header(SOURCE, from.to_string())
                .header(DESTINATION, to.to_string())
                .body(())
                .expect("a request of constants and addresses")
        };
        // A link may have died unnoticed while it was idle: then a new one is tried once.
        let mut opened = self.peer().await?.open(head()).await;
        if matches!(opened, Err(PeerError::Lost { .. })) {
            self.connection.lock().await.peer = None;
            opened = self.peer().await?.open(head()).await;
        }
        match opened {
            Ok((_, on_link)) => {
                self.runtime.spawn(super::carry(stream, on_link));
                Ok(())
            }
            Err(PeerError::Refused { status, .. }) => Err(super::error_of(status)),
            Err(_) => Err(NetError::HostUnreachable),
        }
    }

    /// Sends a datagram to a pod of the node, or loses it where too many wait.
    pub(crate) fn send_datagram(&self, from: SocketAddr, to: SocketAddr, data: Bytes) {
        let _ = self.datagrams.try_send(Frame { from, to, data });
    }

    /// The living link, dialled where there is none.
    pub(super) async fn peer(&self) -> Result<Peer, NetError> {
        let mut connection = self.connection.lock().await;
        if let Some(peer) = connection.peer.as_ref().filter(|peer| peer.is_alive()) {
            return Ok(peer.clone());
        }
        if connection.failed_at.is_some_and(|at| at.elapsed() < DIAL_PAUSE) {
            return Err(NetError::HostUnreachable);
        }
        match self.dialer.dial(&self.node, self.address).await {
            Ok(peer) => {
                connection.failed_at = None;
                connection.peer = Some(peer.clone());
                Ok(peer)
            }
            Err(error) => {
                tracing::warn!(node = %self.node, error = %error, "cannot link to a node");
                connection.failed_at = Some(Instant::now());
                Err(NetError::HostUnreachable)
            }
        }
    }
}
