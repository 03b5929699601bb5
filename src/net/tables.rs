//! What the switch looks addresses up in.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use super::namespace::Namespace;
use super::peer::PeerLink;
use super::ports::Protocol;
use super::service::{LivePort, Service};
use super::switch::VirtualTarget;

/// Another node (or this one), as the switch needs to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRoute {
    pub name: String,
    /// The pods that live there. The first address of the first range is the node's own.
    pub pod_cidrs: Vec<IpNet>,
    /// Where its link listens; none: it cannot be dialled.
    pub peer_addr: Option<SocketAddr>,
}

/// The node's own address among its pods.
pub(crate) fn host_ip(pod_cidrs: &[IpNet]) -> Option<IpAddr> {
    pod_cidrs.first().and_then(|cidr| cidr.hosts().next())
}

/// Where an address leads.
pub(crate) enum Place {
    /// A pod of this node, or the node itself.
    Local(Arc<Namespace>),
    /// A Service's virtual address.
    Service(Arc<Service>),
    /// An address that stands for something outside the network.
    Virtual(VirtualTarget),
    /// A pod of another node.
    Peer(Arc<PeerLink>),
    /// In a range of the cluster, but nobody's.
    Nobody,
    /// Not the cluster's.
    Outside,
}

/// The tables of one node.
#[derive(Default)]
pub(crate) struct Tables {
    pub(crate) namespaces: HashMap<String, Arc<Namespace>>,
    pub(crate) pods: HashMap<IpAddr, Arc<Namespace>>,
    pub(crate) services: HashMap<(String, String), Arc<Service>>,
    pub(crate) cluster_ips: HashMap<IpAddr, Arc<Service>>,
    pub(crate) virtuals: HashMap<SocketAddr, VirtualTarget>,
    pub(crate) nodes: Vec<(NodeRoute, Option<Arc<PeerLink>>)>,
    /// The ranges of pods and Services.
    pub(crate) cluster: Vec<IpNet>,
}

impl Tables {
    /// Where an address leads, the most specific first.
    pub(crate) fn find(&self, address: SocketAddr) -> Place {
        let ip = address.ip();
        if let Some(namespace) = self.pods.get(&ip) {
            return Place::Local(namespace.clone());
        }
        if let Some(service) = self.cluster_ips.get(&ip) {
            return Place::Service(service.clone());
        }
        if let Some(target) = self.virtuals.get(&address) {
            return Place::Virtual(target.clone());
        }
        for (route, link) in &self.nodes {
            if route.pod_cidrs.iter().any(|cidr| cidr.contains(&ip)) {
                return link.clone().map_or(Place::Nobody, Place::Peer);
            }
        }
        if self.cluster.iter().any(|cidr| cidr.contains(&ip)) {
            return Place::Nobody;
        }
        Place::Outside
    }

    /// The namespace of an address on this node.
    pub(crate) fn local(&self, ip: IpAddr) -> Option<Arc<Namespace>> {
        self.pods.get(&ip).cloned()
    }

    /// The Service's port behind a port of every node.
    pub(crate) fn node_port(&self, protocol: Protocol, port: u16) -> Option<Arc<LivePort>> {
        let ports = self.services.values().flat_map(|service| &service.ports);
        ports.filter(|p| p.protocol == protocol).find(|p| p.node_port == Some(port)).cloned()
    }

    /// Whether `ip` belongs to the node `name`: a source address that it may speak for.
    pub(crate) fn belongs_to(&self, ip: IpAddr, name: &str) -> bool {
        self.nodes
            .iter()
            .filter(|(route, _)| route.name == name)
            .any(|(route, _)| route.pod_cidrs.iter().any(|cidr| cidr.contains(&ip)))
    }

    pub(crate) fn set_service(&mut self, service: Arc<Service>) {
        let key = (service.table.namespace.clone(), service.table.name.clone());
        self.remove_service(&key);
        for ip in &service.table.cluster_ips {
            self.cluster_ips.insert(*ip, service.clone());
        }
        self.services.insert(key, service);
    }

    pub(crate) fn remove_service(&mut self, key: &(String, String)) -> Option<Arc<Service>> {
        let old = self.services.remove(key)?;
        for ip in &old.table.cluster_ips {
            if self.cluster_ips.get(ip).is_some_and(|service| Arc::ptr_eq(service, &old)) {
                self.cluster_ips.remove(ip);
            }
        }
        Some(old)
    }
}
