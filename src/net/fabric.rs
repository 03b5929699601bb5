//! The virtual network of one node: its tables and what serves them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use ipnet::IpNet;
use parking_lot::RwLock;
use tokio::runtime::Handle;
use tokio::sync::{broadcast, mpsc, watch};

use super::counters::ServiceCounters;
use super::hostport::{HostPortEvent, HostPorts};
use super::namespace::{Namespace, NamespaceSpec};
use super::peer::{PeerDialer, PeerLink};
use super::service::{Service, ServiceTable};
use super::switch::VirtualTarget;
use super::tables::{NodeRoute, Tables, host_ip};
use crate::base::clock::{SharedClock, SystemClock};
use crate::link::peer::Incoming;

/// Host port events that a slow subscriber may lag behind.
const EVENTS: usize = 256;

/// What a node's network is made from. All fields have the defaults of a Coracle cluster.
#[derive(Clone)]
pub struct FabricConfig {
    /// The node's name.
    pub node: String,
    /// The domain that Services are found under, without a dot at its end.
    pub cluster_domain: String,
    /// Where DNS answers inside the network.
    pub dns_ip: IpAddr,
    /// The ranges of pods and Services: nothing in them ever leaves through the host.
    pub cluster_cidrs: Vec<IpNet>,
    /// The host's addresses that NodePorts are opened on.
    pub node_port_addresses: Vec<IpAddr>,
    /// How other nodes are dialled; none: a node alone.
    pub peers: Option<Arc<dyn PeerDialer>>,
    /// Whom outgoing https requests of pods trust.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Resolvers for names outside the cluster; none: those of the host's `/etc/resolv.conf`.
    pub upstream_dns: Option<Vec<SocketAddr>>,
    pub clock: SharedClock,
    /// Where turns start, so that nodes do not all begin at the same endpoint.
    pub seed: u64,
    /// The runtime that the network's own tasks run on.
    pub runtime: Handle,
}

impl FabricConfig {
    /// The defaults, with tasks on the runtime that this is called in.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(node: impl Into<String>) -> Self {
        let cidr = |text: &str| text.parse::<IpNet>().expect("a constant CIDR");
        Self {
            node: node.into(),
            cluster_domain: "cluster.local".into(),
            dns_ip: Ipv4Addr::new(10, 43, 0, 10).into(),
            cluster_cidrs: vec![cidr("10.128.0.0/9"), cidr("10.43.0.0/16"), cidr("198.18.0.0/15")],
            node_port_addresses: vec![Ipv4Addr::LOCALHOST.into()],
            peers: None,
            tls: None,
            upstream_dns: None,
            clock: SystemClock::shared(),
            seed: 0,
            runtime: Handle::current(),
        }
    }
}

/// The virtual network of one node.
pub struct Fabric {
    config: FabricConfig,
    tables: RwLock<Tables>,
    host: Arc<Namespace>,
    host_ports: HostPorts,
    events: broadcast::Sender<HostPortEvent>,
    /// Changes with every change of a Service.
    services: watch::Sender<()>,
    /// Counts the answers of DNS.
    turn: AtomicUsize,
    this: Weak<Fabric>,
}

impl Fabric {
    /// Starts the network of a node: its own namespace and its DNS server.
    pub fn new(config: FabricConfig) -> Arc<Self> {
        let fabric = Arc::new_cyclic(|this: &Weak<Self>| {
            let unset = Ipv4Addr::UNSPECIFIED.into();
            let spec = NamespaceSpec::new("host", unset, "", config.node.clone());
            let host = Namespace::new(spec, this.clone(), config.runtime.clone());
            let tables = Tables { cluster: config.cluster_cidrs.clone(), ..Tables::default() };
            let (events, _) = broadcast::channel(EVENTS);
            Self {
                tables: RwLock::new(tables),
                host,
                host_ports: HostPorts::new(this.clone(), config.runtime.clone()),
                events,
                services: watch::Sender::new(()),
                turn: AtomicUsize::new(0),
                this: this.clone(),
                config,
            }
        });
        super::dns::serve(&fabric);
        fabric
    }

    pub(crate) fn config(&self) -> &FabricConfig {
        &self.config
    }

    pub(crate) fn tables(&self) -> &RwLock<Tables> {
        &self.tables
    }

    pub(crate) fn next_turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn tls(&self) -> Option<Arc<rustls::ClientConfig>> {
        self.config.tls.clone()
    }

    /// Makes the namespace of a pod. An earlier one of the same uid is detached.
    pub fn attach(&self, spec: NamespaceSpec) -> Arc<Namespace> {
        self.detach(&spec.uid);
        let opens_ports = !spec.host_ports.is_empty();
        let runtime = self.config.runtime.clone();
        let namespace = Namespace::new(spec, self.this.clone(), runtime);
        {
            let mut tables = self.tables.write();
            tables.pods.insert(namespace.ip(), namespace.clone());
            tables.namespaces.insert(namespace.spec().uid.clone(), namespace.clone());
        }
        if opens_ports {
            self.sync_host_ports();
        }
        namespace
    }

    /// Takes a pod off the network: nothing reaches it any more, its listeners are closed.
    pub fn detach(&self, uid: &str) {
        let gone = {
            let mut tables = self.tables.write();
            let gone = tables.namespaces.remove(uid);
            if let Some(gone) = &gone
                && tables.pods.get(&gone.ip()).is_some_and(|there| Arc::ptr_eq(there, gone))
            {
                tables.pods.remove(&gone.ip());
            }
            gone
        };
        if let Some(gone) = gone {
            gone.leave();
            if !gone.spec().host_ports.is_empty() {
                self.sync_host_ports();
            }
        }
    }

    /// The namespace of an attached pod.
    pub fn namespace(&self, uid: &str) -> Option<Arc<Namespace>> {
        self.tables.read().namespaces.get(uid).cloned()
    }

    /// The node itself on the network: probes and forwarded ports dial from here. Its address is
    /// the first of the node's pod range.
    pub fn host(&self) -> Arc<Namespace> {
        self.host.clone()
    }

    /// Adds or replaces a Service. Its NodePorts are opened; failures are told as events.
    pub fn set_service(&self, table: ServiceTable) {
        let key = (table.namespace.clone(), table.name.clone());
        let node_ports = {
            let mut tables = self.tables.write();
            let previous = tables.services.get(&key).cloned();
            let node = &self.config.node;
            let service = Service::new(table, previous.as_deref(), node, self.config.seed);
            let opens = |s: &Service| s.ports.iter().any(|p| p.node_port.is_some());
            let changes = opens(&service) || previous.as_deref().is_some_and(opens);
            tables.set_service(service);
            changes
        };
        self.services.send_replace(());
        if node_ports {
            self.sync_host_ports();
        }
    }

    /// Removes a Service: connects to it find no route, its NodePorts are closed.
    pub fn remove_service(&self, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        if self.tables.write().remove_service(&key).is_some() {
            self.services.send_replace(());
            self.sync_host_ports();
        }
    }

    /// Tells that a Service has changed.
    pub(crate) fn service_changes(&self) -> watch::Receiver<()> {
        self.services.subscribe()
    }

    /// Adds or changes a node. This node's own route gives [`Self::host`] its address.
    pub fn set_node(&self, route: NodeRoute) {
        let mut tables = self.tables.write();
        let old = tables.nodes.iter().position(|(r, _)| r.name == route.name);
        let old = old.map(|at| tables.nodes.swap_remove(at));
        if route.name == self.config.node {
            if let Some(ip) = host_ip(&route.pod_cidrs) {
                tables.pods.remove(&self.host.ip());
                self.host.set_ip(ip);
                tables.pods.insert(ip, self.host.clone());
            }
            tables.nodes.push((route, None));
            return;
        }
        let link = match (&self.config.peers, route.peer_addr) {
            (Some(dialer), Some(address)) => {
                let same = old.filter(|(r, _)| r.peer_addr == route.peer_addr);
                let kept = same.and_then(|(_, link)| link);
                let runtime = self.config.runtime.clone();
                let new = || PeerLink::new(route.name.clone(), address, dialer.clone(), runtime);
                Some(kept.unwrap_or_else(new))
            }
            _ => None,
        };
        tables.nodes.push((route, link));
    }

    /// Forgets a node; its pods cannot be reached any more.
    pub fn remove_node(&self, name: &str) {
        self.tables.write().nodes.retain(|(route, _)| route.name != name);
    }

    /// Lets an address of the network stand for something else, as `198.18.0.1:6443` for the API
    /// server.
    pub fn set_virtual(&self, address: SocketAddr, target: VirtualTarget) {
        self.tables.write().virtuals.insert(address, target);
    }

    /// What went through each Service on this node.
    pub fn counters(&self) -> Vec<ServiceCounters> {
        self.tables.read().services.values().map(|service| service.counters()).collect()
    }

    /// News of the host's ports: which could not be opened, and which could at last.
    pub fn host_port_events(&self) -> broadcast::Receiver<HostPortEvent> {
        self.events.subscribe()
    }

    /// The host ports that should be open and are not, each with its reason.
    pub fn failed_host_ports(&self) -> Vec<HostPortEvent> {
        self.host_ports.failed()
    }

    pub(crate) fn tell(&self, event: HostPortEvent) {
        // Nobody listening is fine: the failures stay readable.
        let _ = self.events.send(event);
    }

    fn sync_host_ports(&self) {
        let wanted = super::hostport::wanted(&self.tables.read(), &self.config);
        self.host_ports.sync(wanted);
    }

    /// Serves the streams that other nodes open on their links, until there will be no more.
    pub fn serve_peers(
        &self,
        streams: mpsc::Receiver<Incoming>,
    ) -> impl Future<Output = ()> + Send + use<> {
        super::peer::serve(self.this.clone(), streams)
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        self.host_ports.sync(Default::default());
    }
}

impl std::fmt::Debug for Fabric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Fabric({})", self.config.node)
    }
}
