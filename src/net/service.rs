//! Services as the switch sees them: addresses, ports and endpoints, with an even choice among
//! the ready ones.
//!
//! Endpoints are taken in turn (round robin), so any run of n connections to n ready endpoints
//! gives each exactly one. With session affinity a client stays with its endpoint as long as that
//! is ready and the client returns in time.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::counters::{Counters, EndpointCounters, ServiceCounters, Traffic};
use super::ports::Protocol;

/// Clients whose endpoint is remembered, a port.
const AFFINITY_CLIENTS: usize = 10_000;

/// A Service with its endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceTable {
    pub namespace: String,
    pub name: String,
    /// Its virtual addresses; none for a headless Service.
    pub cluster_ips: Vec<IpAddr>,
    /// DNS answers with the endpoints themselves.
    pub headless: bool,
    /// DNS answers with this name (`spec.type: ExternalName`).
    pub external_name: Option<String>,
    /// `sessionAffinity: ClientIP` with its timeout.
    pub session_affinity: Option<Duration>,
    /// `internalTrafficPolicy: Local`: pods reach only endpoints of their own node.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`: NodePorts reach only endpoints of their own node.
    pub external_local: bool,
    pub ports: Vec<ServicePort>,
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty where the Service gives none.
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
    /// The port that every node listens on for it.
    pub node_port: Option<u16>,
    pub endpoints: Vec<Endpoint>,
}

/// One endpoint of a Service's port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub ip: IpAddr,
    pub port: u16,
    /// Whether new connections may go there.
    pub ready: bool,
    /// Its name under a headless Service.
    pub hostname: Option<String>,
    /// The node that it is on.
    pub node: Option<String>,
}

impl Endpoint {
    /// Where it is reached.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port)
    }
}

/// Who asks for an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// A pod, through the cluster IP.
    Internal,
    /// The outside, through a NodePort.
    External,
}

/// A Service in use.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) table: ServiceTable,
    pub(crate) ports: Vec<Arc<LivePort>>,
    /// Counters of endpoints that have gone.
    past: Counters,
}

/// A port of a Service in use.
#[derive(Debug)]
pub(crate) struct LivePort {
    pub(crate) name: String,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    pub(crate) node_port: Option<u16>,
    endpoints: Vec<Arc<LiveEndpoint>>,
    internal: Vec<Arc<LiveEndpoint>>,
    external: Vec<Arc<LiveEndpoint>>,
    state: Arc<PortState>,
}

/// What outlives a change of the endpoints.
#[derive(Debug)]
struct PortState {
    next: AtomicUsize,
    affinity_timeout: Option<Duration>,
    affinity: Mutex<HashMap<IpAddr, (SocketAddr, Duration)>>,
    refused: Arc<Traffic>,
}

/// An endpoint in use.
#[derive(Debug)]
pub(crate) struct LiveEndpoint {
    pub(crate) address: SocketAddr,
    pub(crate) ready: bool,
    pub(crate) traffic: Arc<Traffic>,
}

impl Service {
    /// Puts a table to use on `node`, going on with the counters of the `previous` one.
    pub(crate) fn new(
        table: ServiceTable,
        previous: Option<&Service>,
        node: &str,
        seed: u64,
    ) -> Arc<Self> {
        let mut past = previous.map(|p| p.past).unwrap_or_default();
        let mut ports = Vec::with_capacity(table.ports.len());
        for port in &table.ports {
            let before = previous.and_then(|p| p.same_port(port));
            ports.push(Arc::new(LivePort::new(port, &table, before, node, seed)));
        }
        for old in previous.iter().flat_map(|p| &p.ports) {
            let now = ports.iter().find(|p| p.name == old.name && p.protocol == old.protocol);
            for endpoint in &old.endpoints {
                let kept = now.is_some_and(|p| p.endpoint(endpoint.address).is_some());
                if !kept {
                    past += endpoint.traffic.read();
                }
            }
        }
        Arc::new(Self { table, ports, past })
    }

    fn same_port(&self, port: &ServicePort) -> Option<&LivePort> {
        let same = |p: &&Arc<LivePort>| p.name == port.name && p.protocol == port.protocol;
        self.ports.iter().find(same).map(|p| &**p)
    }

    pub(crate) fn port(&self, protocol: Protocol, port: u16) -> Option<&Arc<LivePort>> {
        self.ports.iter().find(|p| p.protocol == protocol && p.port == port)
    }

    pub(crate) fn counters(&self) -> ServiceCounters {
        let mut total = self.past;
        let mut endpoints = Vec::new();
        for port in &self.ports {
            total += port.state.refused.read();
            for endpoint in &port.endpoints {
                let counters = endpoint.traffic.read();
                total += counters;
                endpoints.push(EndpointCounters {
                    port_name: port.name.clone(),
                    address: endpoint.address,
                    ready: endpoint.ready,
                    counters,
                });
            }
        }
        let ServiceTable { namespace, name, .. } = self.table.clone();
        ServiceCounters { namespace, name, total, endpoints }
    }
}

impl LivePort {
    fn new(
        port: &ServicePort,
        table: &ServiceTable,
        before: Option<&LivePort>,
        node: &str,
        seed: u64,
    ) -> Self {
        let state = before
            .map(|b| b.state.clone())
            .filter(|s| s.affinity_timeout == table.session_affinity)
            .unwrap_or_else(|| {
                Arc::new(PortState {
                    // Nodes start at different endpoints, so that they spread together as well.
                    next: AtomicUsize::new(seed as usize % 1024),
                    affinity_timeout: table.session_affinity,
                    affinity: Mutex::default(),
                    refused: Arc::default(),
                })
            });
        let mut endpoints = Vec::with_capacity(port.endpoints.len());
        let mut internal = Vec::new();
        let mut external = Vec::new();
        for endpoint in &port.endpoints {
            let old = before.and_then(|b| b.endpoint(endpoint.address()));
            let live = Arc::new(LiveEndpoint {
                address: endpoint.address(),
                ready: endpoint.ready,
                traffic: old.map(|o| o.traffic.clone()).unwrap_or_default(),
            });
            let here = endpoint.node.as_deref() == Some(node);
            if endpoint.ready && (here || !table.internal_local) {
                internal.push(live.clone());
            }
            if endpoint.ready && (here || !table.external_local) {
                external.push(live.clone());
            }
            endpoints.push(live);
        }
        Self {
            name: port.name.clone(),
            protocol: port.protocol,
            port: port.port,
            node_port: port.node_port,
            endpoints,
            internal,
            external,
            state,
        }
    }

    pub(crate) fn endpoint(&self, address: SocketAddr) -> Option<&Arc<LiveEndpoint>> {
        self.endpoints.iter().find(|e| e.address == address)
    }

    fn candidates(&self, scope: Scope) -> &[Arc<LiveEndpoint>] {
        match scope {
            Scope::Internal => &self.internal,
            Scope::External => &self.external,
        }
    }

    /// Whether nobody is behind it for the pods of this node.
    pub(crate) fn is_empty(&self) -> bool {
        self.internal.is_empty()
    }

    /// Whether connections may go to `address`.
    pub(crate) fn is_ready(&self, address: SocketAddr) -> bool {
        self.endpoint(address).is_some_and(|e| e.ready)
    }

    /// The endpoint for a new connection of `client`, none of those that just `failed`.
    /// `now` is monotonic time.
    pub(crate) fn pick(
        &self,
        scope: Scope,
        client: IpAddr,
        failed: &[SocketAddr],
        now: Duration,
    ) -> Option<&Arc<LiveEndpoint>> {
        let candidates = self.candidates(scope);
        let Some(timeout) = self.state.affinity_timeout else {
            return self.next(candidates, failed);
        };
        let mut affinity = self.state.affinity.lock();
        if let Some((address, used_at)) = affinity.get_mut(&client)
            && now.saturating_sub(*used_at) < timeout
            && !failed.contains(address)
            && let Some(endpoint) = candidates.iter().find(|e| e.address == *address)
        {
            *used_at = now;
            return Some(endpoint);
        }
        if affinity.len() >= AFFINITY_CLIENTS {
            affinity.retain(|_, (_, used_at)| now.saturating_sub(*used_at) < timeout);
            if affinity.len() >= AFFINITY_CLIENTS {
                affinity.clear();
            }
        }
        let endpoint = self.next(candidates, failed)?;
        affinity.insert(client, (endpoint.address, now));
        Some(endpoint)
    }

    fn next<'a>(
        &self,
        candidates: &'a [Arc<LiveEndpoint>],
        failed: &[SocketAddr],
    ) -> Option<&'a Arc<LiveEndpoint>> {
        let turn = self.state.next.fetch_add(1, Ordering::Relaxed);
        (0..candidates.len())
            .map(|step| &candidates[turn.wrapping_add(step) % candidates.len()])
            .find(|endpoint| !failed.contains(&endpoint.address))
    }

    /// Counts a connection that no endpoint took.
    pub(crate) fn count_refused(&self) {
        self.state.refused.refused.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(last: u8, ready: bool, node: &str) -> Endpoint {
        Endpoint {
            ip: [10, 128, 0, last].into(),
            port: 8080,
            ready,
            hostname: None,
            node: Some(node.into()),
        }
    }

    fn table(endpoints: Vec<Endpoint>) -> ServiceTable {
        ServiceTable {
            namespace: "default".into(),
            name: "web".into(),
            cluster_ips: vec![[10, 43, 0, 5].into()],
            ports: vec![ServicePort {
                name: String::new(),
                protocol: Protocol::Tcp,
                port: 80,
                node_port: None,
                endpoints,
            }],
            ..ServiceTable::default()
        }
    }

    fn pick(service: &Service, client: u8, now_s: u64) -> Option<u8> {
        let client = IpAddr::from([192, 0, 2, client]);
        let now = Duration::from_secs(now_s);
        let port = service.port(Protocol::Tcp, 80).expect("the port");
        let picked = port.pick(Scope::Internal, client, &[], now)?;
        match picked.address.ip() {
            IpAddr::V4(v4) => Some(v4.octets()[3]),
            IpAddr::V6(_) => None,
        }
    }

    #[test]
    fn connections_spread_evenly_over_the_ready_endpoints_only() {
        let endpoints =
            vec![endpoint(1, true, "a"), endpoint(2, false, "a"), endpoint(3, true, "b")];
        let service = Service::new(table(endpoints), None, "a", 7);
        let mut hits = [0; 4];
        for _ in 0..100 {
            hits[pick(&service, 1, 0).expect("a ready endpoint") as usize] += 1;
        }
        assert_eq!(hits, [0, 50, 0, 50]);
    }

    #[test]
    fn a_client_with_affinity_stays_until_its_endpoint_goes_or_it_stays_away_too_long() {
        let both = vec![endpoint(1, true, "a"), endpoint(2, true, "a")];
        let mut sticky = table(both);
        sticky.session_affinity = Some(Duration::from_secs(60));
        let service = Service::new(sticky.clone(), None, "a", 0);
        let first = pick(&service, 1, 0);
        let other = pick(&service, 2, 0);
        assert_ne!(first, other);
        assert_eq!(pick(&service, 1, 59), first);
        assert_eq!(pick(&service, 1, 118), first, "each use renews it");
        sticky.ports[0].endpoints.retain(|e| Some(e.address()) != first.map(at));
        let service = Service::new(sticky, Some(&service), "a", 0);
        assert_eq!(pick(&service, 1, 119), other);
    }

    fn at(last: u8) -> SocketAddr {
        ([10, 128, 0, last], 8080).into()
    }

    #[test]
    fn a_failed_endpoint_is_not_picked_again_for_the_same_connection() {
        let service =
            Service::new(table(vec![endpoint(1, true, "a"), endpoint(2, true, "a")]), None, "a", 0);
        let port = service.port(Protocol::Tcp, 80).expect("the port");
        let client = IpAddr::from([192, 0, 2, 1]);
        for _ in 0..5 {
            let again = port
                .pick(Scope::Internal, client, &[at(1)], Duration::ZERO)
                .expect("the other one");
            assert_eq!(again.address, at(2));
        }
        let alone = Service::new(table(vec![endpoint(1, true, "a")]), None, "a", 0);
        let port = alone.port(Protocol::Tcp, 80).expect("the port");
        assert!(port.pick(Scope::Internal, client, &[at(1)], Duration::ZERO).is_none());
    }

    #[test]
    fn a_local_policy_keeps_to_the_endpoints_of_the_node() {
        let mut local = table(vec![endpoint(1, true, "a"), endpoint(2, true, "b")]);
        local.internal_local = true;
        let service = Service::new(local, None, "b", 0);
        for _ in 0..3 {
            assert_eq!(pick(&service, 1, 0), Some(2));
        }
    }

    #[test]
    fn counters_survive_a_change_of_the_endpoints() {
        let service = Service::new(table(vec![endpoint(1, true, "a")]), None, "a", 0);
        let count = |s: &Service, n: u64| {
            let port = s.port(Protocol::Tcp, 80).expect("the port");
            port.endpoints[0].traffic.connections.fetch_add(n, Ordering::Relaxed);
        };
        count(&service, 3);
        let service = Service::new(
            table(vec![endpoint(1, true, "a"), endpoint(2, true, "a")]),
            Some(&service),
            "a",
            0,
        );
        count(&service, 1);
        let service = Service::new(table(vec![endpoint(2, true, "a")]), Some(&service), "a", 0);
        assert_eq!(service.counters().total.connections, 4);
        assert_eq!(service.counters().endpoints[0].counters.connections, 0);
    }
}
