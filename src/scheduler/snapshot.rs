//! What the scheduler knows of the cluster: nodes, what they have, and who is on them.
//!
//! It is kept up to date by differences; nothing is rebuilt for a pod. A pod that has been decided
//! is *assumed* on its node until the API says so itself.
//!
//! ```text
//! (unknown) ──assume──▶ assumed ──place (seen bound)──▶ placed ──remove──▶ (unknown)
//!                          └──────forget (bind failed)──▶ (unknown)
//! ```
//!
//! **Invariant:** a node's `used`, `scored`, `owners` and `pods` are the sums over the pods that
//! are placed or assumed on it; pods of a node that is not known (yet) count nowhere.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{self, Taint};

use super::pod::Pod;
use super::resources::Resources;

/// What the scheduler keeps of a Node object.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub name: Arc<str>,
    pub labels: BTreeMap<String, String>,
    pub unschedulable: bool,
    pub taints: Vec<Taint>,
    pub allocatable: Resources,
}

impl Node {
    /// Keeps what is needed.
    pub fn of(node: v1::Node) -> Option<Self> {
        let spec = node.spec.unwrap_or_default();
        let status = node.status.unwrap_or_default();
        let has = status.allocatable.or(status.capacity).unwrap_or_default();
        Some(Self {
            name: node.metadata.name?.into(),
            labels: node.metadata.labels.unwrap_or_default(),
            unschedulable: spec.unschedulable.unwrap_or(false),
            taints: spec.taints.unwrap_or_default(),
            allocatable: Resources::of(&has),
        })
    }
}

/// A node with what is on it.
#[derive(Debug, Clone)]
pub struct NodeInfo {
    pub node: Arc<Node>,
    pub used: Resources,
    /// As [`Self::used`], with what [`super::resources::of_pod`] assumes for scoring.
    pub scored: Resources,
    pub pods: Vec<Arc<Pod>>,
    /// How many pods of each owner, by its uid.
    pub owners: HashMap<Arc<str>, u32>,
}

impl NodeInfo {
    fn new(node: Arc<Node>) -> Self {
        let (used, scored) = (Resources::default(), Resources::default());
        Self { node, used, scored, pods: Vec::new(), owners: HashMap::new() }
    }

    fn add(&mut self, pod: Arc<Pod>) {
        self.used.add(&pod.requests, 1);
        self.scored.add(&pod.scored, 1);
        if let Some(owner) = &pod.owner {
            *self.owners.entry(owner.clone()).or_default() += 1;
        }
        self.pods.push(pod);
    }

    fn remove(&mut self, uid: &str) {
        let Some(at) = self.pods.iter().position(|p| *p.uid == *uid) else { return };
        let pod = self.pods.swap_remove(at);
        self.used.add(&pod.requests, -1);
        self.scored.add(&pod.scored, -1);
        if let Some(owner) = &pod.owner
            && let Some(count) = self.owners.get_mut(owner)
        {
            *count -= 1;
            if *count == 0 {
                self.owners.remove(owner);
            }
        }
    }
}

#[derive(Debug)]
struct Placed {
    pod: Arc<Pod>,
    node: Arc<str>,
    assumed: bool,
}

/// A Service's selector, for spreading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSelector {
    pub namespace: String,
    pub selector: BTreeMap<String, String>,
}

impl ServiceSelector {
    /// Whether the pod is behind the Service.
    pub fn selects(&self, pod: &Pod) -> bool {
        !self.selector.is_empty()
            && self.namespace == pod.key.namespace
            && self.selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
    }
}

/// The cluster.
#[derive(Debug, Default)]
pub struct Snapshot {
    nodes: Vec<NodeInfo>,
    index: HashMap<Arc<str>, usize>,
    placed: HashMap<Arc<str>, Placed>,
    /// Uids of pods by the name of a node that is not known.
    homeless: HashMap<Arc<str>, Vec<Arc<str>>>,
    services: HashMap<String, Vec<(String, ServiceSelector)>>,
}

impl Snapshot {
    /// All nodes, in an order that only changes as nodes come and go.
    pub fn nodes(&self) -> &[NodeInfo] {
        &self.nodes
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.index.get(name).map(|at| &self.nodes[*at])
    }

    /// Takes in a node. Answers what it was before.
    pub fn set_node(&mut self, node: Arc<Node>) -> Option<Arc<Node>> {
        if let Some(at) = self.index.get(&node.name) {
            return Some(std::mem::replace(&mut self.nodes[*at].node, node));
        }
        let name = node.name.clone();
        self.index.insert(name.clone(), self.nodes.len());
        let mut info = NodeInfo::new(node);
        for uid in self.homeless.remove(&name).into_iter().flatten() {
            if let Some(placed) = self.placed.get(&uid) {
                info.add(placed.pod.clone());
            }
        }
        self.nodes.push(info);
        None
    }

    /// Forgets a node; its pods wait for its return.
    pub fn remove_node(&mut self, name: &str) {
        let Some(at) = self.index.remove(name) else { return };
        let gone = self.nodes.swap_remove(at);
        if let Some(moved) = self.nodes.get(at) {
            self.index.insert(moved.node.name.clone(), at);
        }
        if !gone.pods.is_empty() {
            let uids = gone.pods.iter().map(|pod| pod.uid.clone()).collect();
            self.homeless.insert(gone.node.name.clone(), uids);
        }
    }

    /// Counts a pod on the node that it was decided for.
    pub fn assume(&mut self, pod: Arc<Pod>, node: &Arc<str>) {
        self.put(pod, node.clone(), true);
    }

    /// Counts a pod on the node that it is bound to.
    pub fn place(&mut self, pod: Arc<Pod>, node: &Arc<str>) {
        self.put(pod, node.clone(), false);
    }

    fn put(&mut self, pod: Arc<Pod>, node: Arc<str>, assumed: bool) {
        self.remove(&pod.uid);
        match self.index.get(&node) {
            Some(at) => self.nodes[*at].add(pod.clone()),
            None => self.homeless.entry(node.clone()).or_default().push(pod.uid.clone()),
        }
        self.placed.insert(pod.uid.clone(), Placed { pod, node, assumed });
    }

    /// The pod is gone, or takes up nothing any more. Answers whether it was counted.
    pub fn remove(&mut self, uid: &str) -> bool {
        let Some(placed) = self.placed.remove(uid) else { return false };
        match self.index.get(&placed.node) {
            Some(at) => self.nodes[*at].remove(uid),
            None => {
                if let Some(uids) = self.homeless.get_mut(&placed.node) {
                    uids.retain(|u| **u != *uid);
                    if uids.is_empty() {
                        self.homeless.remove(&placed.node);
                    }
                }
            }
        }
        true
    }

    /// The pod could not be bound. Nothing happens when it has been seen bound meanwhile.
    pub fn forget(&mut self, uid: &str) {
        if self.is_assumed(uid) {
            self.remove(uid);
        }
    }

    /// Whether the pod was decided and has not been seen bound.
    pub fn is_assumed(&self, uid: &str) -> bool {
        self.placed.get(uid).is_some_and(|placed| placed.assumed)
    }

    /// Takes in a Service's selector, or forgets it.
    pub fn set_service(&mut self, namespace: &str, name: &str, selector: Option<ServiceSelector>) {
        let services = self.services.entry(namespace.to_owned()).or_default();
        services.retain(|(n, _)| n != name);
        if let Some(selector) = selector {
            services.push((name.to_owned(), selector));
        }
        if services.is_empty() {
            self.services.remove(namespace);
        }
    }

    /// The selectors of the Services that the pod is behind.
    pub fn services_of<'a>(&'a self, pod: &'a Pod) -> impl Iterator<Item = &'a ServiceSelector> {
        let services = self.services.get(&pod.key.namespace).into_iter().flatten();
        services.map(|(_, selector)| selector).filter(|selector| selector.selects(pod))
    }
}
