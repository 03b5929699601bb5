//! A pod that has a network namespace of the kernel beside its virtual one: it holds containers.
//!
//! ```text
//!   container ── connect ──▶ caught in its namespace ──▶ accept() ─┐
//!   container ── datagram ─▶ caught in its namespace ──▶ recv()  ──┤  Fabric: Services, policy,
//!                                                                  │  other nodes, the outside
//!   container ◀── a socket made in its namespace ◀── connect() ────┘
//!
//!   wasm of the same pod: what it listens on is listened on in the kernel too (mirrors), and where
//!   it dials its own pod and no wasm listens, a container is dialled.
//! ```
//! The network knows such a namespace by the trait [`KernelNamespace`]; `runtime::oci` makes them.
//!
//! **Invariant:** what comes out of the kernel's namespace is the pod's, whatever address it
//! carries: the source of every flow is the namespace that it was caught in.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::net::TcpStream as Socket;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::fabric::Fabric;
use super::namespace::{Incoming, Namespace};
use super::ports::Protocol;
use super::splice::splice_socket;
use super::stream::{TcpStream, Wiring};
use super::switch::Flow;
use super::udp::UdpSocket;
use super::{NetError, canonical};

/// Connections that containers of one pod have to elsewhere at once; more wait in the backlog.
const CONNECTIONS: usize = 16_384;
/// Ports of a pod whose containers exchange datagrams with elsewhere.
const DATAGRAM_PORTS: usize = 4096;
/// How long such a port is remembered without a datagram.
const DATAGRAM_IDLE: Duration = Duration::from_secs(120);
/// How long changes of Services are gathered before the kernel is told.
const GATHER: Duration = Duration::from_millis(50);
/// How long a connection that policy forbids is left without an answer.
const SILENCE: Duration = Duration::from_secs(130);

/// A connection that was caught on its way out.
#[derive(Debug)]
pub struct Caught {
    pub socket: Socket,
    pub client: SocketAddr,
    /// Where it was going.
    pub to: SocketAddr,
}

/// A datagram that was caught on its way out.
#[derive(Debug)]
pub struct CaughtDatagram {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub data: Bytes,
}

/// Addresses whose connections the kernel refuses by itself, before any handshake.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refused {
    pub tcp: Vec<(IpAddr, u16)>,
    pub udp: Vec<(IpAddr, u16)>,
}

/// A network namespace of the kernel.
pub trait KernelNamespace: Send + Sync + 'static {
    /// Connects to an address inside; the listener sees `from`, where that is not the pod itself.
    fn connect(
        &self,
        from: SocketAddr,
        to: SocketAddr,
    ) -> BoxFuture<'static, std::io::Result<Socket>>;

    /// Listens inside.
    ///
    /// # Errors
    /// As `bind`: `AddrInUse` where a container holds the port.
    fn listen(&self, at: SocketAddr) -> std::io::Result<tokio::net::TcpListener>;

    /// Binds a UDP socket inside. As long as it lives, [`Self::send`] from its port uses it.
    ///
    /// # Errors
    /// As `bind`.
    fn bind_udp(&self, at: SocketAddr) -> std::io::Result<Arc<tokio::net::UdpSocket>>;

    /// The next connection that was caught.
    fn accept(&self) -> BoxFuture<'_, std::io::Result<Caught>>;

    /// The next datagram that was caught.
    fn recv(&self) -> BoxFuture<'_, std::io::Result<CaughtDatagram>>;

    /// Delivers a datagram inside; the receiver sees `from`.
    ///
    /// # Errors
    /// Those of the sockets.
    fn send(&self, from: SocketAddr, to: SocketAddr, data: &[u8]) -> std::io::Result<()>;

    /// Replaces what the kernel refuses by itself.
    fn refuse(&self, refused: Refused) -> BoxFuture<'_, std::io::Result<()>>;
}

/// A port of the pod behind which containers exchange datagrams.
struct DatagramPort {
    socket: Arc<UdpSocket>,
    used_at: Duration,
}

/// What joins the two namespaces of a pod; its tasks end with it.
pub(crate) struct Bridge {
    pub(crate) kernel: Arc<dyn KernelNamespace>,
    datagrams: Mutex<HashMap<u16, DatagramPort>>,
    stop: CancellationToken,
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Bridge {
    pub(crate) fn start(namespace: &Arc<Namespace>, kernel: Arc<dyn KernelNamespace>) -> Arc<Self> {
        let stop = CancellationToken::new();
        let bridge = Arc::new(Self { kernel, datagrams: Mutex::default(), stop });
        let runtime = namespace.runtime().clone();
        let (stop, weak) = (&bridge.stop, Arc::downgrade(namespace));
        let kernel = || Arc::clone(&bridge.kernel);
        let run = |task: BoxFuture<'static, ()>| {
            let stop = stop.clone();
            runtime.spawn(async move { stop.run_until_cancelled(task).await });
        };
        run(Box::pin(take_connections(weak.clone(), kernel())));
        run(Box::pin(take_datagrams(weak.clone(), Arc::downgrade(&bridge), kernel())));
        run(Box::pin(tell_refused(weak, kernel())));
        bridge
    }

    /// Nothing is carried any more.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    /// Ends with the bridge.
    pub(crate) fn token(&self) -> CancellationToken {
        self.stop.child_token()
    }

    /// A connection from the virtual network to a container.
    pub(crate) async fn take_in(
        &self,
        namespace: &Namespace,
        incoming: Incoming<'_>,
        seat: super::stream::Seat,
    ) -> Result<TcpStream, NetError> {
        let socket = self.kernel.connect(incoming.client, incoming.to).await;
        let socket = socket.map_err(|error| NetError::from(&error))?;
        let mut ends = Wiring {
            client: incoming.client,
            server_seen: incoming.seen,
            server: incoming.to,
            client_meter: incoming.client_meter,
            server_meter: namespace.meter(),
            traffic: incoming.traffic,
        }
        .connect();
        ends.server.hold(seat);
        namespace.runtime().spawn(splice_socket(ends.server, socket));
        Ok(ends.client)
    }

    /// The virtual socket behind a port from which a container sent a datagram.
    fn datagram_port(
        self: &Arc<Self>,
        namespace: &Arc<Namespace>,
        port: u16,
        now: Duration,
    ) -> Result<Arc<UdpSocket>, NetError> {
        let mut ports = self.datagrams.lock();
        if let Some(known) = ports.get_mut(&port) {
            known.used_at = now;
            return Ok(Arc::clone(&known.socket));
        }
        if ports.len() >= DATAGRAM_PORTS {
            ports.retain(|_, port| now.saturating_sub(port.used_at) < DATAGRAM_IDLE);
            if ports.len() >= DATAGRAM_PORTS {
                return Err(NetError::TooManySockets);
            }
        }
        let at = SocketAddr::new(namespace.ip(), port);
        let socket = Arc::new(UdpSocket::bind_unseen(Arc::clone(namespace), at)?);
        ports.insert(port, DatagramPort { socket: Arc::clone(&socket), used_at: now });
        let task = bring_answers(Arc::downgrade(self), Arc::downgrade(namespace), port);
        namespace.runtime().spawn({
            let stop = self.stop.clone();
            async move { stop.run_until_cancelled(task).await }
        });
        Ok(socket)
    }
}

/// Connections of containers to elsewhere.
async fn take_connections(namespace: Weak<Namespace>, kernel: Arc<dyn KernelNamespace>) {
    let seats = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(seat) = seats.clone().acquire_owned().await else { return };
        let caught = match kernel.accept().await {
            Ok(caught) => caught,
            Err(error) => {
                tracing::debug!(%error, "a connection of a container was not accepted");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let Some(namespace) = namespace.upgrade() else { return };
        tokio::spawn(async move {
            carry(namespace, caught).await;
            drop(seat);
        });
    }
}

/// Carries a caught connection to where it was going.
async fn carry(namespace: Arc<Namespace>, caught: Caught) {
    let Caught { socket, client, to } = caught;
    let _ = socket.set_nodelay(true);
    let to = canonical(to);
    let connected = async {
        if namespace.is_own(to.ip()) {
            // Dialled by hand at the catching socket itself: there is nothing behind it.
            return Err(NetError::ConnectionRefused);
        }
        let client = SocketAddr::new(namespace.ip(), client.port());
        namespace.fabric()?.connect(Flow { source: &namespace, client, seen: to }).await
    };
    match connected.await {
        Ok(stream) => splice_socket(stream, socket).await,
        Err(NetError::AccessDenied) => {
            // The packets of a forbidden connection are lost, as far as its sender can see.
            drop(namespace);
            tokio::time::sleep(SILENCE).await;
            reset(&socket);
        }
        Err(error) => {
            tracing::debug!(%to, %error, "a connection of a container leads nowhere");
            reset(&socket);
        }
    }
}

/// The handshake was done before it was known, so a refusal can only be a reset.
fn reset(socket: &Socket) {
    let _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// Datagrams of containers to elsewhere.
async fn take_datagrams(
    namespace: Weak<Namespace>,
    bridge: Weak<Bridge>,
    kernel: Arc<dyn KernelNamespace>,
) {
    loop {
        let caught = match kernel.recv().await {
            Ok(caught) => caught,
            Err(error) => {
                tracing::debug!(%error, "a datagram of a container was not received");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let (Some(namespace), Some(bridge)) = (namespace.upgrade(), bridge.upgrade()) else {
            return;
        };
        let Ok(fabric) = namespace.fabric() else { return };
        let now = fabric.config().clock.monotonic();
        let CaughtDatagram { from, to, data } = caught;
        let sent = bridge
            .datagram_port(&namespace, from.port(), now)
            .and_then(|socket| socket.send_to(data, to));
        if let Err(error) = sent {
            tracing::trace!(%to, %error, "a datagram of a container leads nowhere");
        }
    }
}

/// Brings what arrives at a virtual port to the container that sent from it, until it is idle.
async fn bring_answers(bridge: Weak<Bridge>, namespace: Weak<Namespace>, port: u16) {
    loop {
        let socket = {
            let Some(bridge) = bridge.upgrade() else { return };
            let known = bridge.datagrams.lock().get(&port).map(|p| Arc::clone(&p.socket));
            let Some(socket) = known else { return };
            socket
        };
        let received = tokio::time::timeout(DATAGRAM_IDLE, socket.recv()).await;
        let (Some(bridge), Some(namespace)) = (bridge.upgrade(), namespace.upgrade()) else {
            return;
        };
        let Ok(fabric) = namespace.fabric() else { return };
        let now = fabric.config().clock.monotonic();
        let mut ports = bridge.datagrams.lock();
        match received {
            Ok(Ok(datagram)) => {
                if let Some(known) = ports.get_mut(&port) {
                    known.used_at = now;
                }
                drop(ports);
                let to = SocketAddr::new(namespace.ip(), port);
                if let Err(error) = bridge.kernel.send(datagram.from, to, &datagram.data) {
                    tracing::trace!(%to, %error, "a datagram did not reach its container");
                }
            }
            Ok(Err(_)) => {
                ports.remove(&port);
                return;
            }
            Err(_) => {
                let idle = |p: &DatagramPort| now.saturating_sub(p.used_at) >= DATAGRAM_IDLE;
                if ports.get(&port).is_none_or(idle) {
                    ports.remove(&port);
                    return;
                }
            }
        }
    }
}

/// Keeps the kernel's sets as the tables are.
async fn tell_refused(namespace: Weak<Namespace>, kernel: Arc<dyn KernelNamespace>) {
    let Some(mut changes) =
        namespace.upgrade().and_then(|n| n.fabric().ok()).map(|f| f.service_changes())
    else {
        return;
    };
    let mut told = Refused::default();
    loop {
        changes.mark_unchanged();
        let Some(fabric) = namespace.upgrade().and_then(|n| n.fabric().ok()) else { return };
        let now = fabric.refused();
        drop(fabric);
        if now != told {
            match kernel.refuse(now.clone()).await {
                Ok(()) => told = now,
                Err(error) => {
                    tracing::warn!(%error, "a pod's kernel was not told which Services refuse");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
        tokio::time::sleep(GATHER).await;
    }
}

impl Fabric {
    /// The ports of Services that have nobody behind them.
    fn refused(&self) -> Refused {
        let tables = self.tables().read();
        let mut refused = Refused::default();
        for service in tables.services.values() {
            let empty = service.ports.iter().filter(|port| port.is_empty());
            for port in empty {
                let list = match port.protocol {
                    Protocol::Tcp => &mut refused.tcp,
                    Protocol::Udp => &mut refused.udp,
                };
                // The cluster's DNS has a Service's address and answers there itself.
                let served = |ip: &&IpAddr| tables.local(**ip).is_none();
                let ips = service.table.cluster_ips.iter().filter(served);
                list.extend(ips.map(|ip| (*ip, port.port)));
            }
        }
        refused.tcp.sort_unstable();
        refused.udp.sort_unstable();
        refused
    }
}

// ---- what wasm of the pod listens on ----

/// Lets containers of the pod reach a virtual listener: a socket of the kernel beside it.
pub(crate) async fn mirror_tcp(
    namespace: Weak<Namespace>,
    listener: tokio::net::TcpListener,
    at: SocketAddr,
) {
    loop {
        let (socket, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "a connection to wasm of the pod was not accepted");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let Some(namespace) = namespace.upgrade() else { return };
        let _ = socket.set_nodelay(true);
        tokio::spawn(async move {
            let seen = socket.local_addr().unwrap_or(at);
            let meter = Arc::clone(namespace.meter());
            let incoming = Incoming { client, seen, to: seen, client_meter: &meter, traffic: None };
            match namespace.take_in_virtual(incoming).await {
                Ok(Some(stream)) => splice_socket(stream, socket).await,
                Ok(None) | Err(_) => reset(&socket),
            }
        });
    }
}

/// Lets containers of the pod send to a virtual UDP socket.
pub(crate) async fn mirror_udp(
    namespace: Weak<Namespace>,
    socket: Arc<tokio::net::UdpSocket>,
    at: SocketAddr,
) {
    let mut buffer = vec![0u8; super::DATAGRAM_MAX];
    while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
        let Some(namespace) = namespace.upgrade() else { return };
        namespace.deliver_virtual(from, at, Bytes::copy_from_slice(&buffer[..len]));
    }
}
