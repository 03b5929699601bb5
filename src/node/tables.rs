//! From Services, EndpointSlices and Nodes to the tables of the virtual network.
//!
//! They are read as the ServiceAccount `coracle-net`, and the last known ones are kept in the
//! node's store, so that a node that was restarted while the API server is away still knows its
//! Services.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node as ApiNode, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::agent::Node;
use super::pod::env::ServiceLink;
use crate::client::Key;
use crate::client::informer::{Builder, Informer, Source};
use crate::net::{Endpoint, NodeRoute, Protocol, ServicePort, ServiceTable};

/// The annotation that tells where a node's link listens.
pub const PEER_ADDRESS: &str = "coracle.dev/peer-address";
/// The label that ties an EndpointSlice to its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// What is stored of a Service: itself and its slices.
type Stored = (Service, Vec<EndpointSlice>);

fn protocol(text: Option<&str>) -> Option<Protocol> {
    match text {
        None | Some("TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        // SCTP and what may come: not something a wasm guest can speak.
        Some(_) => None,
    }
}

fn port(number: Option<i32>) -> Option<u16> {
    number.and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0)
}

/// The table of a Service. Endpoints that terminate but still serve are used only where none is
/// ready, as kube-proxy does.
pub fn service_table(service: &Service, slices: &[EndpointSlice]) -> ServiceTable {
    let meta = &service.metadata;
    let spec = service.spec.clone().unwrap_or_default();
    let cluster_ips = spec.cluster_ips.clone().unwrap_or_default();
    let external = spec.type_.as_deref() == Some("ExternalName");
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
        let seconds = config.and_then(|c| c.timeout_seconds).unwrap_or(10_800);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    });
    let ports = spec.ports.iter().flatten().filter_map(|own| {
        let name = own.name.clone().unwrap_or_default();
        Some(ServicePort {
            protocol: protocol(own.protocol.as_deref())?,
            port: port(Some(own.port))?,
            node_port: port(own.node_port),
            endpoints: endpoints(slices, &name),
            name,
        })
    });
    ServiceTable {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        headless: cluster_ips.iter().any(|ip| ip == "None"),
        cluster_ips: cluster_ips.iter().filter_map(|ip| ip.parse().ok()).collect(),
        external_name: spec.external_name.clone().filter(|_| external),
        session_affinity: affinity,
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
        ports: ports.collect(),
    }
}

fn endpoints(slices: &[EndpointSlice], name: &str) -> Vec<Endpoint> {
    let mut found = Vec::new();
    let mut fall_back = Vec::new();
    for slice in slices {
        let ports = slice.ports.iter().flatten();
        let same = ports.into_iter().find(|p| p.name.as_deref().unwrap_or_default() == name);
        let Some(number) = same.and_then(|p| port(p.port)) else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            let ready = conditions.ready.unwrap_or(true);
            let serving = conditions.serving.unwrap_or(ready);
            for ip in endpoint.addresses.iter().filter_map(|a| a.parse::<IpAddr>().ok()) {
                fall_back.push(serving && conditions.terminating == Some(true));
                found.push(Endpoint {
                    ip,
                    port: number,
                    ready,
                    hostname: endpoint.hostname.clone(),
                    node: endpoint.node_name.clone(),
                });
            }
        }
    }
    if !found.iter().any(|e| e.ready) {
        for (endpoint, usable) in found.iter_mut().zip(fall_back) {
            endpoint.ready = usable;
        }
    }
    found
}

/// What containers are told of a Service; none where it has no address of its own.
fn link(service: &Service) -> Option<ServiceLink> {
    let spec = service.spec.as_ref()?;
    let ports = spec.ports.iter().flatten().filter_map(|p| {
        let protocol = p.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
        Some((p.name.clone().unwrap_or_default(), protocol, port(Some(p.port))?))
    });
    Some(ServiceLink {
        namespace: service.metadata.namespace.clone()?,
        name: service.metadata.name.clone()?,
        cluster_ip: spec.cluster_ip.as_deref()?.parse().ok()?,
        ports: ports.collect(),
    })
}

/// The route to a node.
pub fn node_route(node: &ApiNode) -> Option<NodeRoute> {
    let meta = &node.metadata;
    let spec = node.spec.as_ref();
    let cidrs = spec
        .and_then(|s| s.pod_cidrs.clone().or_else(|| s.pod_cidr.clone().map(|cidr| vec![cidr])));
    let peer = meta.annotations.as_ref().and_then(|a| a.get(PEER_ADDRESS));
    Some(NodeRoute {
        name: meta.name.clone()?,
        pod_cidrs: cidrs.iter().flatten().filter_map(|c| c.parse().ok()).collect(),
        peer_addr: peer.and_then(|p| p.parse::<SocketAddr>().ok()),
    })
}

fn service_of(slice: &EndpointSlice) -> Option<Key> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(Key::new(slice.metadata.namespace.clone()?, name.clone()))
}

/// What is not needed for tables is not kept.
fn trim_meta(meta: &mut k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) {
    meta.annotations = None;
}

/// Services whose table is to be made anew.
#[derive(Default)]
struct Stale {
    keys: Mutex<HashSet<Key>>,
    wake: Notify,
}

impl Stale {
    fn add(&self, key: Key) {
        self.keys.lock().insert(key);
        self.wake.notify_one();
    }
}

/// The tables that the store remembers.
pub fn restore(node: &Node) {
    let services: Vec<(String, Stored)> = node.store.scan("service/");
    for (_, (service, slices)) in &services {
        node.fabric.set_service(service_table(service, slices));
    }
    let links = services.iter().filter_map(|(_, (service, _))| link(service)).collect();
    node.services.store(Arc::new(links));
    let nodes: Vec<(String, ApiNode)> = node.store.scan("route/");
    nodes.iter().filter_map(|(_, n)| node_route(n)).for_each(|route| node.fabric.set_node(route));
}

/// Keeps the tables until the shutdown; `client` speaks for `coracle-net`.
pub async fn run(node: Arc<Node>, client: kube::Client) {
    let shutdown = node.shutdown.clone();
    let stale = Arc::new(Stale::default());
    let services = Builder::new(Source::all::<Service>(), |mut service: Service| {
        trim_meta(&mut service.metadata);
        service.status = None;
        Some(service)
    })
    .start(client.clone(), shutdown.clone());
    let slices = Builder::new(Source::all::<EndpointSlice>(), |mut slice: EndpointSlice| {
        trim_meta(&mut slice.metadata);
        service_of(&slice).is_some().then_some(slice)
    })
    .index("service", |slice: &EndpointSlice| {
        service_of(slice).map(|key| format!("{}/{}", key.namespace, key.name)).into_iter().collect()
    })
    .start(client.clone(), shutdown.clone());
    routes(&node, client);
    let told = Arc::clone(&stale);
    services.on_change(move |change| told.add(change.key.clone()));
    let told = Arc::clone(&stale);
    slices.on_change(move |change| {
        let both = change.old.into_iter().chain(change.new);
        both.filter_map(|slice| service_of(slice)).for_each(|key| told.add(key));
    });
    tokio::select! {
        () = shutdown.cancelled() => return,
        () = async { services.synced().await; slices.synced().await; } => {}
    }
    let stored: Vec<(String, Stored)> = node.store.scan("service/");
    stored.iter().for_each(|(_, (service, _))| stale.add(Key::of(&service.metadata)));
    loop {
        let keys = std::mem::take(&mut *stale.keys.lock());
        for key in &keys {
            renew(&node, key, &services, &slices);
        }
        if !keys.is_empty() {
            let links = services.list().iter().filter_map(|s| link(s)).collect();
            node.services.store(Arc::new(links));
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = stale.wake.notified() => {}
        }
    }
}

fn renew(node: &Node, key: &Key, services: &Informer<Service>, slices: &Informer<EndpointSlice>) {
    let name = format!("{}/{}", key.namespace, key.name);
    let stored = format!("service/{name}");
    let Some(service) = services.get(key) else {
        node.fabric.remove_service(&key.namespace, &key.name);
        return node.store.remove(&stored);
    };
    let mut own: Vec<EndpointSlice> =
        slices.indexed("service", &name).iter().map(|s| s.as_ref().clone()).collect();
    own.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    node.fabric.set_service(service_table(&service, &own));
    node.store.put(&stored, &(service.as_ref(), own));
}

/// Keeps the routes to the other nodes.
fn routes(node: &Arc<Node>, client: kube::Client) {
    let nodes = Builder::new(Source::all::<ApiNode>(), |mut node: ApiNode| {
        let peer = node.metadata.annotations.as_mut().and_then(|a| a.remove(PEER_ADDRESS));
        trim_meta(&mut node.metadata);
        node.metadata.annotations = peer.map(|p| BTreeMap::from([(PEER_ADDRESS.to_owned(), p)]));
        node.status = None;
        Some(node)
    })
    .start(client, node.shutdown.clone());
    let weak = Arc::downgrade(node);
    nodes.on_change(move |change| {
        let Some(node) = weak.upgrade() else { return };
        let key = format!("route/{}", change.key.name);
        match change.new.and_then(|n| Some((n, node_route(n)?))) {
            Some((new, route)) => {
                // A heartbeat changes nothing of a route.
                let old = change.old.and_then(|n| node_route(n));
                if old.as_ref() != Some(&route) {
                    node.fabric.set_node(route);
                    node.store.put(&key, new.as_ref());
                }
            }
            None => {
                node.fabric.remove_node(&change.key.name);
                node.store.remove(&key);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(spec: serde_json::Value) -> Service {
        serde_json::from_value(
            json!({"metadata": {"namespace": "ns", "name": "web"}, "spec": spec}),
        )
        .expect("a service")
    }

    fn slice(endpoints: serde_json::Value) -> EndpointSlice {
        serde_json::from_value(json!({
            "addressType": "IPv4", "metadata": {"name": "web-1"},
            "ports": [{"name": "http", "port": 8080}, {"name": "dns", "port": 5353, "protocol": "UDP"}],
            "endpoints": endpoints,
        }))
        .expect("a slice")
    }

    #[test]
    fn a_service_takes_its_endpoints_by_the_names_of_its_ports() {
        let table = service_table(
            &service(json!({"clusterIP": "10.43.0.5", "clusterIPs": ["10.43.0.5"], "ports": [
                {"name": "http", "port": 80, "nodePort": 30080},
                {"name": "dns", "port": 53, "protocol": "UDP"},
                {"name": "other", "port": 1}]})),
            &[slice(json!([
                {"addresses": ["10.128.0.2"], "conditions": {"ready": true}, "nodeName": "w1"},
                {"addresses": ["10.128.0.3"], "conditions": {"ready": false}, "hostname": "web-0"},
            ]))],
        );
        let http = &table.ports[0];
        assert_eq!((http.port, http.node_port, http.protocol), (80, Some(30080), Protocol::Tcp));
        let addresses: Vec<String> =
            http.endpoints.iter().map(|e| format!("{}:{} {}", e.ip, e.port, e.ready)).collect();
        assert_eq!(addresses, ["10.128.0.2:8080 true", "10.128.0.3:8080 false"]);
        assert_eq!(http.endpoints[0].node.as_deref(), Some("w1"));
        assert_eq!(table.ports[1].endpoints[0].port, 5353);
        assert_eq!(table.ports[1].protocol, Protocol::Udp);
        assert!(table.ports[2].endpoints.is_empty());
        assert!(!table.headless);
    }

    #[test]
    fn terminating_endpoints_serve_where_none_is_ready() {
        let leaving = json!({"ready": false, "serving": true, "terminating": true});
        let both = slice(json!([
            {"addresses": ["10.128.0.2"], "conditions": leaving},
            {"addresses": ["10.128.0.3"], "conditions": {"ready": true}},
        ]));
        let ready = |slice| endpoints(&[slice], "http").iter().map(|e| e.ready).collect::<Vec<_>>();
        assert_eq!(ready(both), [false, true]);
        assert_eq!(
            ready(slice(json!([{"addresses": ["10.128.0.2"], "conditions": leaving}]))),
            [true]
        );
    }

    #[test]
    fn headless_and_external_services_are_told_apart() {
        let headless =
            service_table(&service(json!({"clusterIPs": ["None"], "clusterIP": "None"})), &[]);
        assert!(headless.headless && headless.cluster_ips.is_empty());
        let external = json!({"type": "ExternalName", "externalName": "db.example.com"});
        let external = service_table(&service(external), &[]);
        assert_eq!(external.external_name.as_deref(), Some("db.example.com"));
    }

    #[test]
    fn a_node_is_reached_where_its_annotation_says() {
        let node: ApiNode = serde_json::from_value(json!({
            "metadata": {"name": "w1", "annotations": {PEER_ADDRESS: "127.0.0.1:4000"}},
            "spec": {"podCIDR": "10.128.0.0/20"},
        }))
        .expect("a node");
        let route = node_route(&node).expect("a route");
        assert_eq!(route.peer_addr, Some("127.0.0.1:4000".parse().expect("an address")));
        assert_eq!(route.pod_cidrs.len(), 1);
    }
}
