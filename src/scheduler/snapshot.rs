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
//! Rules that look at other pods would have to walk over all of them. Instead pods are counted by
//! what such a rule sees of them: [`Snapshot::alike`] by namespace and labels, of which a workload
//! has one; [`Snapshot::asking`] by what they ask of others. Both know on which nodes.
//!
//! **Invariant:** a node's sums, and the counts here, are over the pods that are placed or assumed;
//! every change of a node is in the [`Log`], so that who keeps something by node can follow.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use super::node::{Node, NodeInfo};
use super::pod::{Ask, Labels, Pod};
use super::preempt::Budget;
use super::volumes::Volumes;

#[derive(Debug, Clone)]
struct Placed {
    pod: Arc<Pod>,
    node: Arc<str>,
    assumed: bool,
}

/// A Service's selector, for spreading.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServiceSelector {
    pub namespace: String,
    pub selector: BTreeMap<String, String>,
}

impl ServiceSelector {
    /// Whether a pod with these labels is behind the Service.
    pub fn selects(&self, pod: &Labels) -> bool {
        !self.selector.is_empty()
            && *self.namespace == *pod.namespace
            && self.selector.iter().all(|(key, value)| pod.get(key) == Some(value))
    }
}

/// How many pods there are on a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    pub all: i64,
    /// Of these, those that are being deleted.
    pub leaving: i64,
}

/// By node, how many pods have something in common.
pub type OnNodes = HashMap<Arc<str>, Count>;

/// Which nodes changed, in order, as far back as it is kept.
#[derive(Debug, Clone, Default)]
pub struct Log {
    /// How many entries were dropped.
    before: u64,
    nodes: Vec<u32>,
}

const LOG_MAX: usize = 1 << 16;

impl Log {
    fn push(&mut self, at: usize) {
        if self.nodes.len() >= LOG_MAX {
            let half = self.nodes.len() / 2;
            self.nodes.drain(..half);
            self.before += half as u64;
        }
        self.nodes.push(u32::try_from(at).expect("there are no four billion nodes"));
    }

    /// Where it ends now.
    pub fn end(&self) -> u64 {
        self.before + self.nodes.len() as u64
    }

    /// The places of the nodes that changed since `mark`; `None`: that is too long ago.
    pub fn since(&self, mark: u64) -> Option<&[u32]> {
        let at = usize::try_from(mark.checked_sub(self.before)?).ok()?;
        self.nodes.get(at..)
    }
}

/// The cluster.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    nodes: Vec<NodeInfo>,
    index: HashMap<Arc<str>, usize>,
    log: Log,
    placed: HashMap<Arc<str>, Placed>,
    /// Uids of pods by the name of a node that is not known.
    homeless: HashMap<Arc<str>, Vec<Arc<str>>>,
    alike: HashMap<Arc<Labels>, OnNodes>,
    asking: HashMap<Arc<Ask>, OnNodes>,
    services: HashMap<String, Vec<(String, ServiceSelector)>>,
    services_changed: u64,
    namespaces: HashMap<String, BTreeMap<String, String>>,
    /// On how many nodes an image is.
    images: HashMap<String, i64>,
    images_changed: u64,
    pub volumes: Volumes,
    pub budgets: HashMap<crate::client::Key, Budget>,
    /// How many members pod groups want, by namespace and name.
    pub groups: HashMap<crate::client::Key, usize>,
}

fn count<K: Hash + Eq + Clone>(
    counts: &mut HashMap<K, OnNodes>,
    key: &K,
    node: &Arc<str>,
    leaving: bool,
    by: i64,
) {
    let on_nodes = counts.entry(key.clone()).or_default();
    let count = on_nodes.entry(node.clone()).or_default();
    count.all += by;
    count.leaving += if leaving { by } else { 0 };
    if count.all == 0 {
        on_nodes.remove(node);
        if on_nodes.is_empty() {
            counts.remove(key);
        }
    }
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

    /// Which nodes changed.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Takes in a node. Answers what it was before.
    pub fn set_node(&mut self, node: Arc<Node>) -> Option<Arc<Node>> {
        if let Some(at) = self.index.get(&node.name).copied() {
            let old = std::mem::replace(&mut self.nodes[at].node, node.clone());
            if old != node {
                self.count_images(&old, -1);
                self.count_images(&node, 1);
                self.log.push(at);
            }
            return Some(old);
        }
        let name = node.name.clone();
        self.count_images(&node, 1);
        self.log.push(self.nodes.len());
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

    fn count_images(&mut self, node: &Node, by: i64) {
        for image in node.images.keys() {
            let nodes = self.images.entry(image.clone()).or_default();
            *nodes += by;
            if *nodes == 0 {
                self.images.remove(image);
            }
        }
        if !node.images.is_empty() {
            self.images_changed += 1;
        }
    }

    /// Forgets a node; its pods wait for its return.
    pub fn remove_node(&mut self, name: &str) {
        let Some(at) = self.index.remove(name) else { return };
        let gone = self.nodes.swap_remove(at);
        self.log.push(at);
        self.log.push(self.nodes.len());
        if let Some(moved) = self.nodes.get(at) {
            self.index.insert(moved.node.name.clone(), at);
        }
        self.count_images(&gone.node, -1);
        if !gone.pods.is_empty() {
            let uids = gone.pods.iter().map(|pod| pod.uid.clone()).collect();
            self.homeless.insert(gone.node.name.clone(), uids);
        }
    }

    /// Counts a pod on the node that it was decided for.
    pub fn assume(&mut self, pod: Arc<Pod>, node: &Arc<str>) {
        self.put(pod, node.clone(), true);
    }

    /// Counts a pod on the node that it is bound to. Answers whether anything that counts changed.
    pub fn place(&mut self, pod: Arc<Pod>, node: &Arc<str>) -> bool {
        if let Some(there) = self.placed.get_mut(&pod.uid)
            && there.node == *node
            && there.pod.counts_as(&pod)
        {
            there.assumed = false;
            there.pod = pod.clone();
            if let Some(at) = self.index.get(node) {
                self.nodes[*at].renew(&pod);
            }
            return false;
        }
        self.put(pod, node.clone(), false);
        true
    }

    fn put(&mut self, pod: Arc<Pod>, node: Arc<str>, assumed: bool) {
        self.remove(&pod.uid);
        match self.index.get(&node) {
            Some(at) => {
                self.nodes[*at].add(pod.clone());
                self.log.push(*at);
            }
            None => self.homeless.entry(node.clone()).or_default().push(pod.uid.clone()),
        }
        self.count(&pod, &node, 1);
        self.volumes.used_by(&pod);
        self.placed.insert(pod.uid.clone(), Placed { pod, node, assumed });
    }

    fn count(&mut self, pod: &Pod, node: &Arc<str>, by: i64) {
        count(&mut self.alike, &pod.labels, node, pod.deleting, by);
        if !pod.terms.is_empty() {
            count(&mut self.asking, &pod.ask, node, pod.deleting, by);
        }
    }

    /// The pod is gone, or takes up nothing any more. Answers where it was counted.
    pub fn remove(&mut self, uid: &str) -> Option<Arc<str>> {
        let placed = self.placed.remove(uid)?;
        self.count(&placed.pod, &placed.node, -1);
        self.volumes.left_by(&placed.pod);
        match self.index.get(&placed.node) {
            Some(at) => {
                self.nodes[*at].remove(uid);
                self.log.push(*at);
            }
            None => {
                if let Some(uids) = self.homeless.get_mut(&placed.node) {
                    uids.retain(|u| **u != *uid);
                    if uids.is_empty() {
                        self.homeless.remove(&placed.node);
                    }
                }
            }
        }
        Some(placed.node)
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

    /// Whether the pod is on a node.
    pub fn is_placed(&self, uid: &str) -> bool {
        self.placed.contains_key(uid)
    }

    /// Keeps room on a node for a pod that others make room for.
    pub fn nominate(&mut self, pod: &Arc<Pod>, node: &str) {
        if let Some(at) = self.index.get(node).copied() {
            self.nodes[at].nominated.retain(|n| n.uid != pod.uid);
            self.nodes[at].nominated.push(pod.clone());
            self.log.push(at);
        }
    }

    /// Keeps no room for a pod any more.
    pub fn withdraw(&mut self, uid: &str, node: &str) {
        if let Some(at) = self.index.get(node).copied() {
            self.nodes[at].nominated.retain(|n| *n.uid != *uid);
            self.log.push(at);
        }
    }

    /// The namespaces and labels of pods, and on which nodes such pods are.
    pub fn alike(&self) -> impl Iterator<Item = (&Labels, &OnNodes)> {
        self.alike.iter().map(|(labels, nodes)| (&**labels, nodes))
    }

    /// What pods that ask something of other pods ask, and on which nodes they are.
    pub fn asking(&self) -> impl Iterator<Item = (&Ask, &OnNodes)> {
        self.asking.iter().map(|(ask, nodes)| (&**ask, nodes))
    }

    /// Takes in a namespace's labels, or forgets it.
    pub fn set_namespace(&mut self, name: &str, labels: Option<BTreeMap<String, String>>) {
        match labels {
            Some(labels) => self.namespaces.insert(name.to_owned(), labels),
            None => self.namespaces.remove(name),
        };
    }

    /// The labels of a namespace.
    pub fn namespace(&self, name: &str) -> Option<&BTreeMap<String, String>> {
        self.namespaces.get(name)
    }

    /// On how many nodes an image is.
    pub fn nodes_with_image(&self, image: &str) -> i64 {
        self.images.get(image).copied().unwrap_or(0)
    }

    /// A number that changes when images come or go.
    pub fn images_changed(&self) -> u64 {
        self.images_changed
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
        self.services_changed += 1;
    }

    /// A number that changes when Services do.
    pub fn services_changed(&self) -> u64 {
        self.services_changed
    }

    /// The selectors of the Services that the pod is behind.
    pub fn services_of<'a>(&'a self, pod: &'a Pod) -> impl Iterator<Item = &'a ServiceSelector> {
        let services = self.services.get(&pod.key.namespace).into_iter().flatten();
        services.map(|(_, selector)| selector).filter(|selector| selector.selects(&pod.labels))
    }
}
