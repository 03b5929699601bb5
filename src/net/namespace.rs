//! The network namespace of a pod: an address, a loopback and a port table, all in memory.
//!
//! **Invariant:** whatever a pod sends carries this namespace's identity. Addresses are taken
//! from here and never from the guest, so that they cannot be forged.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use parking_lot::RwLock;
use tokio::runtime::Handle;
use tokio_util::sync::DropGuard;

use super::counters::Traffic;
use super::fabric::Fabric;
use super::http::{Client, HttpListener, HttpService, HttpSlot};
use super::kernel::{self, Bridge, KernelNamespace};
use super::listener::{Backlog, TcpListener};
use super::ports::{Claim, Mirrors, Ports, Protocol, Slot};
use super::queue::Meter;
use super::stream::{TcpStream, Wiring};
use super::switch::Flow;
use super::udp::{Datagram, UdpSocket};
use super::{NetError, canonical};

/// Connections that a pod may have at once, both its own and those to it.
const SOCKETS_MAX: usize = 16_384;

/// Queued bytes past which the queues of a pod hold little.
const PRESSURE_AT: usize = 64 * 1024 * 1024;

/// A port of the node that leads to a pod (`hostPort`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// The node's address to listen on; none: all that the node uses for NodePorts.
    pub host_ip: Option<IpAddr>,
    pub host_port: u16,
    pub protocol: Protocol,
    /// The pod's port.
    pub port: u16,
}

/// What a namespace is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceSpec {
    /// Tells namespaces apart; the pod's UID.
    pub uid: String,
    pub ip: IpAddr,
    /// The Kubernetes namespace, for search domains and policy.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// What the pod calls itself; its name, unless the spec says otherwise.
    pub hostname: String,
    /// The headless Service that the hostname is found under.
    pub subdomain: Option<String>,
    /// Further names, as `/etc/hosts` would give (`hostAliases`).
    pub hosts: Vec<(IpAddr, Vec<String>)>,
    /// The resolver's search domains; none: those of `dnsPolicy: ClusterFirst`.
    pub search: Option<Vec<String>>,
    /// How many dots a name needs to be tried as it stands first.
    pub ndots: u8,
    pub host_ports: Vec<HostPort>,
}

impl NamespaceSpec {
    /// A pod's namespace with the defaults of `ClusterFirst`.
    pub fn new(
        uid: impl Into<String>,
        ip: IpAddr,
        namespace: impl Into<String>,
        pod: impl Into<String>,
    ) -> Self {
        let pod = pod.into();
        Self {
            uid: uid.into(),
            ip,
            namespace: namespace.into(),
            hostname: pod.clone(),
            pod,
            subdomain: None,
            hosts: Vec::new(),
            search: None,
            ndots: 5,
            host_ports: Vec::new(),
        }
    }
}

/// The network namespace of one pod (or of the node itself, see [`Fabric::host`]).
pub struct Namespace {
    spec: NamespaceSpec,
    /// The spec's address, but for the node's own namespace, which learns its late.
    ip: RwLock<IpAddr>,
    ports: Arc<Ports>,
    meter: Arc<Meter>,
    sockets: Arc<AtomicUsize>,
    fabric: Weak<Fabric>,
    handle: Handle,
    client: OnceLock<Client>,
    /// Where the pod has containers.
    bridge: OnceLock<Arc<Bridge>>,
    this: Weak<Namespace>,
}

/// A connection on its way to a pod of this node.
#[derive(Clone, Copy)]
pub(crate) struct Incoming<'a> {
    pub(crate) client: SocketAddr,
    /// The address that the client dialled.
    pub(crate) seen: SocketAddr,
    /// The address in the pod.
    pub(crate) to: SocketAddr,
    pub(crate) client_meter: &'a Arc<Meter>,
    pub(crate) traffic: Option<&'a Traffic>,
}

impl Namespace {
    pub(crate) fn new(spec: NamespaceSpec, fabric: Weak<Fabric>, handle: Handle) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            ip: RwLock::new(spec.ip),
            spec,
            ports: Ports::new(),
            meter: Meter::new(PRESSURE_AT),
            sockets: Arc::default(),
            fabric,
            handle,
            client: OnceLock::new(),
            bridge: OnceLock::new(),
            this: this.clone(),
        })
    }

    /// The pod's address.
    pub fn ip(&self) -> IpAddr {
        *self.ip.read()
    }

    pub(crate) fn set_ip(&self, ip: IpAddr) {
        *self.ip.write() = ip;
    }

    /// What it was made from.
    pub fn spec(&self) -> &NamespaceSpec {
        &self.spec
    }

    /// Bytes that wait in its queues, to be charged to the pod.
    pub fn queued_bytes(&self) -> usize {
        self.meter.queued()
    }

    pub(crate) fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    pub(crate) fn ports(&self) -> &Arc<Ports> {
        &self.ports
    }

    /// The runtime that the network's own tasks run on.
    pub fn runtime(&self) -> &Handle {
        &self.handle
    }

    pub(crate) fn fabric(&self) -> Result<Arc<Fabric>, NetError> {
        self.fabric.upgrade().ok_or(NetError::NetworkDown)
    }

    pub(crate) fn shared(&self) -> Arc<Self> {
        self.this.upgrade().expect("a namespace in use is held by an Arc")
    }

    /// Whether an address is the pod's own: its loopback or its IP.
    pub(crate) fn is_own(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || ip == self.ip()
    }

    /// Connects to anything that the pod may reach: itself, a pod, a Service, the outside.
    ///
    /// # Errors
    /// `ConnectionRefused`, `HostUnreachable`, `TimedOut`, `AccessDenied`, `InvalidArgument`,
    /// `TooManySockets`, `NetworkDown`.
    pub async fn connect(&self, to: SocketAddr) -> Result<TcpStream, NetError> {
        self.connect_from(None, to).await
    }

    async fn connect_from(
        &self,
        bound: Option<SocketAddr>,
        to: SocketAddr,
    ) -> Result<TcpStream, NetError> {
        let to = canonical(to);
        if to.port() == 0 || to.ip().is_unspecified() {
            return Err(NetError::InvalidArgument);
        }
        let seat = self.seat()?;
        let port = bound.map_or_else(|| self.ports.outgoing_port(), |b| b.port());
        let ip = if to.ip().is_loopback() { to.ip() } else { self.ip() };
        let client = SocketAddr::new(ip, port);
        let mut stream = if self.is_own(to.ip()) {
            let client_meter = &self.meter;
            self.take_in(Incoming { client, seen: to, to, client_meter, traffic: None }).await?
        } else {
            let source = self.shared();
            self.fabric()?.connect(Flow { source: &source, client, seen: to }).await?
        };
        stream.hold(Box::new(seat));
        Ok(stream)
    }

    /// Joins the pod's namespace of the kernel, once: its containers are reached there, and reach
    /// everything that the pod does.
    pub fn join_kernel(&self, kernel: Arc<dyn KernelNamespace>) {
        let bridge = self.bridge.get_or_init(|| Bridge::start(&self.shared(), kernel));
        let mirrors = KernelMirrors {
            namespace: self.this.clone(),
            bridge: Arc::downgrade(bridge),
            runtime: self.handle.clone(),
        };
        self.ports.mirror_with(Box::new(mirrors));
    }

    /// Whether the pod has containers.
    pub fn has_kernel(&self) -> bool {
        self.bridge.get().is_some()
    }

    /// Takes in a connection: to whoever listens at its port.
    pub(crate) async fn take_in(&self, incoming: Incoming<'_>) -> Result<TcpStream, NetError> {
        if let Some(stream) = self.take_in_virtual(incoming).await? {
            return Ok(stream);
        }
        match self.bridge.get() {
            Some(bridge) => bridge.take_in(self, incoming, Box::new(self.seat()?)).await,
            None => Err(NetError::ConnectionRefused),
        }
    }

    /// The same without the pod's containers; none where no wasm listens.
    pub(crate) async fn take_in_virtual(
        &self,
        incoming: Incoming<'_>,
    ) -> Result<Option<TcpStream>, NetError> {
        let slot = self.ports.find(Protocol::Tcp, incoming.to);
        let listens = matches!(slot, Some(Slot::Listening(_) | Slot::Http(_)));
        let Some(slot) = slot.filter(|_| listens) else { return Ok(None) };
        let seat = self.seat()?;
        let mut ends = Wiring {
            client: incoming.client,
            server_seen: incoming.seen,
            server: incoming.to,
            client_meter: incoming.client_meter,
            server_meter: &self.meter,
            traffic: incoming.traffic,
        }
        .connect();
        ends.server.hold(Box::new(seat));
        match slot {
            Slot::Listening(backlog) => match backlog.try_push(ends.server) {
                Ok(()) => {}
                Err((NetError::WouldBlock, stream)) => backlog.push(stream).await?,
                Err((error, _)) => return Err(error),
            },
            Slot::Http(slot) => {
                self.handle.spawn(slot.serve(ends.server, incoming.client, None));
            }
            Slot::Bound | Slot::Datagrams(_) => return Ok(None),
        }
        Ok(Some(ends.client))
    }

    /// The http handler at a port of the pod, if that is what listens there.
    pub(crate) fn http_slot(&self, at: SocketAddr) -> Option<Arc<HttpSlot>> {
        match self.ports.find(Protocol::Tcp, at) {
            Some(Slot::Http(slot)) => Some(slot),
            _ => None,
        }
    }

    fn seat(&self) -> Result<SocketSeat, NetError> {
        if self.sockets.fetch_add(1, Ordering::Relaxed) >= SOCKETS_MAX {
            self.sockets.fetch_sub(1, Ordering::Relaxed);
            return Err(NetError::TooManySockets);
        }
        Ok(SocketSeat(self.sockets.clone()))
    }

    /// Claims a TCP port, to listen on it or to connect from it. Port 0 asks for a free one.
    ///
    /// # Errors
    /// `AddressInUse`, `AddressNotAvailable` (not an address of the pod).
    pub fn bind_tcp(&self, at: SocketAddr) -> Result<BoundTcp, NetError> {
        self.check_bindable(at.ip())?;
        let claim = self.ports.claim(Protocol::Tcp, at, Slot::Bound)?;
        Ok(BoundTcp { claim, namespace: self.shared() })
    }

    /// Listens at an address of the pod: its IP, its loopback, `0.0.0.0` or `::`.
    ///
    /// # Errors
    /// As [`Self::bind_tcp`].
    pub fn listen(&self, at: SocketAddr, backlog: usize) -> Result<TcpListener, NetError> {
        Ok(self.bind_tcp(at)?.listen(backlog))
    }

    /// Binds a UDP socket. Port 0 asks for a free one.
    ///
    /// # Errors
    /// As [`Self::bind_tcp`].
    pub fn bind_udp(&self, at: SocketAddr) -> Result<UdpSocket, NetError> {
        self.check_bindable(at.ip())?;
        UdpSocket::bind(self.shared(), at)
    }

    fn check_bindable(&self, ip: IpAddr) -> Result<(), NetError> {
        if ip.is_unspecified() || self.is_own(ip) {
            Ok(())
        } else {
            Err(NetError::AddressNotAvailable)
        }
    }

    /// Puts a datagram into the socket that is bound there, if any.
    pub(crate) fn deliver(&self, from: SocketAddr, to: SocketAddr, data: Bytes) {
        let Some(bridge) = self.bridge.get() else {
            return self.deliver_virtual(from, to, data);
        };
        if let Some(Slot::Datagrams(inbox)) = self.ports.find(Protocol::Udp, to) {
            inbox.push(Datagram { from, data });
        } else if let Err(error) = bridge.kernel.send(from, to, &data) {
            tracing::trace!(%to, %error, "a datagram did not reach its container");
        }
    }

    /// The same without the pod's containers.
    pub(crate) fn deliver_virtual(&self, from: SocketAddr, to: SocketAddr, data: Bytes) {
        if let Some(Slot::Datagrams(inbox)) = self.ports.find(Protocol::Udp, to) {
            inbox.push(Datagram { from, data });
        }
    }

    /// Serves http at a port of the pod, on all its addresses, until the guard is dropped.
    /// Callers on this node hand their requests over; all others are parsed by hyper.
    ///
    /// # Errors
    /// `AddressInUse`.
    pub fn serve_http(
        &self,
        port: u16,
        service: Arc<dyn HttpService>,
    ) -> Result<HttpListener, NetError> {
        let slot = HttpSlot::new(service);
        let any_v4 = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
        let v4 = self.ports.claim(Protocol::Tcp, any_v4, Slot::Http(slot.clone()))?;
        let any_v6 = SocketAddr::new([0u16; 8].into(), v4.address().port());
        let v6 = self.ports.claim(Protocol::Tcp, any_v6, Slot::Http(slot.clone()))?;
        Ok(HttpListener::new(slot, [v4, v6]))
    }

    /// The client for outgoing http requests, with its idle connections.
    pub(crate) fn http_client(&self) -> &Client {
        self.client.get_or_init(|| Client::new(self.this.clone(), self.handle.clone()))
    }

    /// Whether any socket of the pod listens or any handler is served.
    pub fn has_listeners(&self) -> bool {
        self.ports.listens()
    }

    /// Closes all listeners and handlers: new connections are refused, those open go on.
    pub fn stop_listening(&self) {
        self.ports.close_all();
    }

    /// The pod is off the network: its containers reach nothing any more.
    pub(crate) fn leave(&self) {
        self.stop_listening();
        if let Some(bridge) = self.bridge.get() {
            bridge.stop();
        }
    }

    /// Looks a name up as the pod's resolver would: `/etc/hosts`, search domains, cluster DNS,
    /// the node's resolver for names outside.
    ///
    /// # Errors
    /// `NameNotFound`, `ResolverUnavailable`, `InvalidArgument` (not a name).
    pub async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, NetError> {
        super::dns::resolve(self, name).await
    }
}

impl std::fmt::Debug for Namespace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Namespace({}/{} {})", self.spec.namespace, self.spec.pod, self.ip())
    }
}

/// Counts as one of the sockets of a pod until dropped.
struct SocketSeat(Arc<AtomicUsize>);

impl Drop for SocketSeat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A TCP port held by a socket that neither listens nor is connected yet.
#[derive(Debug)]
pub struct BoundTcp {
    claim: Claim,
    namespace: Arc<Namespace>,
}

impl BoundTcp {
    /// The address that it was bound to, with the port that it got.
    pub fn local_addr(&self) -> SocketAddr {
        self.claim.address()
    }

    /// Starts to listen, with up to `backlog` connections waiting.
    pub fn listen(self, backlog: usize) -> TcpListener {
        let queue = Backlog::new(backlog);
        self.claim.set(Slot::Listening(queue.clone()));
        TcpListener::new(queue, self.claim)
    }

    /// Connects from the bound port.
    ///
    /// # Errors
    /// As [`Namespace::connect`].
    pub async fn connect(self, to: SocketAddr) -> Result<TcpStream, NetError> {
        let mut stream = self.namespace.connect_from(Some(self.local_addr()), to).await?;
        let seat = stream.take_seat();
        stream.hold(Box::new((seat, self.claim)));
        Ok(stream)
    }
}

/// Opens sockets of the kernel for what wasm of a pod listens on.
struct KernelMirrors {
    namespace: Weak<Namespace>,
    bridge: Weak<Bridge>,
    runtime: Handle,
}

impl Mirrors for KernelMirrors {
    fn open(&self, protocol: Protocol, at: SocketAddr) -> std::io::Result<DropGuard> {
        let bridge = self.bridge.upgrade().ok_or(std::io::ErrorKind::NetworkDown)?;
        let stop = bridge.token();
        let namespace = self.namespace.clone();
        let guard = stop.clone().drop_guard();
        match protocol {
            Protocol::Tcp => {
                let listener = bridge.kernel.listen(at)?;
                let task = kernel::mirror_tcp(namespace, listener, at);
                self.runtime.spawn(async move { stop.run_until_cancelled(task).await });
            }
            Protocol::Udp => {
                let socket = bridge.kernel.bind_udp(at)?;
                let task = kernel::mirror_udp(namespace, socket, at);
                self.runtime.spawn(async move { stop.run_until_cancelled(task).await });
            }
        }
        Ok(guard)
    }
}
