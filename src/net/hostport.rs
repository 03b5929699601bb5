//! NodePorts and hostPorts: the only listening sockets that the network has on the host.
//!
//! They are opened and closed as the tables change. A port that cannot be opened is told once as
//! an event, and tried again until it is free or no longer wanted.
//!
//! Where a connection's endpoint is an http handler on this node, hyper parses the requests on
//! the host socket itself and hands them over; everything else is spliced.

mod udp;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::NetError;
use super::counters::Traffic;
use super::fabric::{Fabric, FabricConfig};
use super::ports::Protocol;
use super::service::{LivePort, Scope};
use super::splice::splice_socket;
use super::switch::{ENDPOINTS_TRIED, Flow};
use super::tables::Tables;
use crate::base::backoff::Backoff;
use crate::base::rng::Rng;

/// Connections that one host port serves at once; more wait in the kernel's backlog.
const CONNECTIONS: usize = 16_384;

/// How often a port that is in use is tried again.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// News of a port of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPortEvent {
    pub address: SocketAddr,
    pub protocol: Protocol,
    pub owner: HostPortOwner,
    /// Why it is not open; none: it is open now.
    pub error: Option<String>,
}

/// Whom a port of the host is opened for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPortOwner {
    /// A Service's NodePort.
    Service { namespace: String, name: String },
    /// A pod's hostPort.
    Pod { uid: String, port: u16 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    address: SocketAddr,
    protocol: Protocol,
}

/// The ports that the tables ask for.
pub(crate) fn wanted(tables: &Tables, config: &FabricConfig) -> HashMap<Key, HostPortOwner> {
    let mut wanted = HashMap::new();
    for service in tables.services.values() {
        for (port, node_port) in
            service.ports.iter().filter_map(|p| p.node_port.map(|node_port| (p, node_port)))
        {
            for ip in &config.node_port_addresses {
                let address = SocketAddr::new(*ip, node_port);
                let owner = HostPortOwner::Service {
                    namespace: service.table.namespace.clone(),
                    name: service.table.name.clone(),
                };
                wanted.insert(Key { address, protocol: port.protocol }, owner);
            }
        }
    }
    for namespace in tables.namespaces.values() {
        let spec = namespace.spec();
        for host_port in &spec.host_ports {
            let given = host_port.host_ip.filter(|ip| !ip.is_unspecified());
            let ips: &[IpAddr] = match &given {
                Some(ip) => std::slice::from_ref(ip),
                None => &config.node_port_addresses,
            };
            for ip in ips {
                let address = SocketAddr::new(*ip, host_port.host_port);
                let owner = HostPortOwner::Pod { uid: spec.uid.clone(), port: host_port.port };
                wanted.insert(Key { address, protocol: host_port.protocol }, owner);
            }
        }
    }
    wanted
}

struct Open {
    owner: HostPortOwner,
    stop: CancellationToken,
}

/// The host's ports that are open or should be.
pub(crate) struct HostPorts {
    fabric: Weak<Fabric>,
    runtime: Handle,
    open: Mutex<HashMap<Key, Open>>,
    failed: Arc<Mutex<HashMap<Key, HostPortEvent>>>,
}

impl HostPorts {
    pub(crate) fn new(fabric: Weak<Fabric>, runtime: Handle) -> Self {
        Self { fabric, runtime, open: Mutex::default(), failed: Arc::default() }
    }

    pub(crate) fn failed(&self) -> Vec<HostPortEvent> {
        self.failed.lock().values().cloned().collect()
    }

    /// Opens and closes ports so that those `wanted` are open.
    pub(crate) fn sync(&self, wanted: HashMap<Key, HostPortOwner>) {
        let mut open = self.open.lock();
        let keep: HashSet<Key> = open
            .iter()
            .filter(|(key, port)| wanted.get(key) == Some(&port.owner))
            .map(|(key, _)| *key)
            .collect();
        open.retain(|key, port| {
            let kept = keep.contains(key);
            if !kept {
                port.stop.cancel();
                self.failed.lock().remove(key);
            }
            kept
        });
        for (key, owner) in wanted.into_iter().filter(|(key, _)| !keep.contains(key)) {
            let stop = CancellationToken::new();
            let port = Port {
                key,
                owner: owner.clone(),
                fabric: self.fabric.clone(),
                failed: self.failed.clone(),
                stop: stop.clone(),
            };
            self.runtime.spawn(port.run());
            open.insert(key, Open { owner, stop });
        }
    }
}

/// One port of the host.
struct Port {
    key: Key,
    owner: HostPortOwner,
    fabric: Weak<Fabric>,
    failed: Arc<Mutex<HashMap<Key, HostPortEvent>>>,
    stop: CancellationToken,
}

/// Where a connection through a host port goes.
pub(super) enum Target {
    Service(Arc<LivePort>),
    Pod(SocketAddr),
}

impl Port {
    async fn run(self) {
        let stop = self.stop.clone();
        let served = async {
            match self.key.protocol {
                Protocol::Tcp => {
                    let listener = self.open(listen).await;
                    self.accept_all(listener).await;
                }
                Protocol::Udp => {
                    let socket = self.open(udp::bind).await;
                    self.exchange_all(socket).await;
                }
            }
        };
        tokio::select! {
            () = served => {}
            () = stop.cancelled() => {}
        }
    }

    /// Opens the port, trying again as long as it takes.
    async fn open<S>(&self, bind: impl Fn(SocketAddr) -> std::io::Result<S>) -> S {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        let mut rng = Rng::seeded(u64::from(self.key.address.port()));
        loop {
            match bind(self.key.address) {
                Ok(socket) => {
                    if self.failed.lock().remove(&self.key).is_some() {
                        self.tell(None);
                    }
                    return socket;
                }
                Err(error) => {
                    if backoff.failures() == 0 {
                        let event = self.tell(Some(self.explain(&error)));
                        self.failed.lock().insert(self.key, event);
                    }
                    tokio::time::sleep(backoff.next_delay(&mut rng)).await;
                }
            }
        }
    }

    fn explain(&self, error: &std::io::Error) -> String {
        let Key { address, protocol } = self.key;
        let remedy = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                "another program holds it: stop it or choose a port \
                that is free; it is tried again"
            }
            std::io::ErrorKind::PermissionDenied => {
                "ports below 1024 need root: choose a higher \
                one"
            }
            std::io::ErrorKind::AddrNotAvailable => "the host has no such address",
            _ => "it is tried again",
        };
        format!("cannot listen on {protocol:?} {address}: {error} ({remedy})")
    }

    fn tell(&self, error: Option<String>) -> HostPortEvent {
        let Key { address, protocol } = self.key;
        let event = HostPortEvent { address, protocol, owner: self.owner.clone(), error };
        if let Some(reason) = &event.error {
            tracing::warn!(%address, ?protocol, owner = ?self.owner, reason, "host port is not open");
        }
        if let Some(fabric) = self.fabric.upgrade() {
            fabric.tell(event.clone());
        }
        event
    }

    async fn accept_all(&self, listener: TcpListener) {
        let seats = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(seat) = seats.clone().acquire_owned().await else { return };
            let (socket, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, mostly: what is open has to end first.
                    tracing::debug!(error = %error, "cannot accept");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            };
            let Some(fabric) = self.fabric.upgrade() else { return };
            let Some(target) = self.target(&fabric) else { continue };
            let served = serve(fabric, target, socket, peer);
            tokio::spawn(async move {
                served.await;
                drop(seat);
            });
        }
    }

    /// What the port leads to now.
    pub(super) fn target(&self, fabric: &Fabric) -> Option<Target> {
        let tables = fabric.tables().read();
        match &self.owner {
            HostPortOwner::Service { .. } => {
                tables.node_port(self.key.protocol, self.key.address.port()).map(Target::Service)
            }
            HostPortOwner::Pod { uid, port } => {
                let namespace = tables.namespaces.get(uid)?;
                Some(Target::Pod(SocketAddr::new(namespace.ip(), *port)))
            }
        }
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}

/// Serves one connection of the outside.
async fn serve(fabric: Arc<Fabric>, target: Target, socket: TcpStream, peer: SocketAddr) {
    let _ = socket.set_nodelay(true);
    let peer = super::canonical(peer);
    let served = match target {
        Target::Pod(address) => serve_at(&fabric, address, None, socket, peer).await,
        Target::Service(port) => serve_service(&fabric, &port, socket, peer).await,
    };
    if let Err((error, socket)) = served {
        tracing::debug!(%peer, error = %error, "no endpoint took the connection");
        // The handshake is done already, so a refusal can only be a reset.
        let _ = socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO));
    }
}

async fn serve_service(
    fabric: &Fabric,
    port: &LivePort,
    mut socket: TcpStream,
    peer: SocketAddr,
) -> Result<(), (NetError, TcpStream)> {
    let mut failed = Vec::new();
    let mut last = NetError::ConnectionRefused;
    for _ in 0..ENDPOINTS_TRIED {
        let now = fabric.config().clock.monotonic();
        let picked = port.pick(Scope::External, peer.ip(), &failed, now);
        let Some(endpoint) = picked.cloned() else { break };
        let traffic = Some(&endpoint.traffic);
        match serve_at(fabric, endpoint.address, traffic, socket, peer).await {
            Ok(()) => return Ok(()),
            Err((error, back)) => {
                failed.push(endpoint.address);
                last = error;
                socket = back;
            }
        }
    }
    port.count_refused();
    Err((last, socket))
}

/// Serves a connection at one endpoint; gives the socket back where the endpoint refuses.
async fn serve_at(
    fabric: &Fabric,
    address: SocketAddr,
    traffic: Option<&Arc<Traffic>>,
    socket: TcpStream,
    peer: SocketAddr,
) -> Result<(), (NetError, TcpStream)> {
    let count = |counter: fn(&Traffic) -> &AtomicU64| {
        if let Some(traffic) = traffic {
            counter(traffic).fetch_add(1, Ordering::Relaxed);
        }
    };
    let namespace = fabric.tables().read().local(address.ip());
    if let Some(slot) = namespace.as_ref().and_then(|n| n.http_slot(address)) {
        count(|t| &t.connections);
        slot.serve(socket, peer, traffic.map(|t| t.requests.clone())).await;
        return Ok(());
    }
    let host = fabric.host();
    // On this node the pod sees who calls; another node believes only addresses of ours.
    let client = match namespace {
        Some(_) => peer,
        None => SocketAddr::new(host.ip(), host.ports().outgoing_port()),
    };
    let flow = Flow { source: &host, client, seen: address };
    match fabric.connect_endpoint(flow, address, traffic).await {
        Ok(stream) => {
            count(|t| &t.connections);
            splice_socket(stream, socket).await;
            Ok(())
        }
        Err(error) => Err((error, socket)),
    }
}
