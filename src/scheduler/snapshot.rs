//! Every node with what is claimed on it. Kept up to date change by change: a decision reads it as
//! it is and copies nothing.

use std::collections::HashMap;
use std::sync::Arc;

use super::model::{HostPort, Node, Pod, Resources};

/// What Kubernetes counts for a pod that asks for nothing, so that scores still spread such pods.
const CPU_MILLI_ASSUMED: i64 = 100;
const MEMORY_BYTES_ASSUMED: i64 = 200 << 20;

/// A node and what its pods claim.
#[derive(Debug, Clone, Default)]
pub struct NodeInfo {
    pub node: Arc<Node>,
    /// Whether the Node object exists (pods may be seen before their node, or outlive it).
    pub exists: bool,
    pub claimed: Resources,
    /// As `claimed`, with something assumed for pods that ask for nothing.
    pub claimed_for_score: Resources,
    /// By uid.
    pub pods: HashMap<String, Arc<Pod>>,
    pub host_ports: Vec<HostPort>,
    /// How many pods each owner has here, by the owner's uid.
    pub owners: HashMap<String, u32>,
}

/// What a pod counts in scores: its requests, with something assumed where it asks for nothing.
pub fn for_score(pod: &Pod) -> Resources {
    let or = |asked: i64, assumed: i64| if asked == 0 { assumed } else { asked };
    Resources {
        cpu_milli: or(pod.requests.cpu_milli, CPU_MILLI_ASSUMED),
        memory_bytes: or(pod.requests.memory_bytes, MEMORY_BYTES_ASSUMED),
        ..Resources::default()
    }
}

impl NodeInfo {
    fn add(&mut self, pod: Arc<Pod>) {
        self.claimed.add(&pod.requests);
        self.claimed_for_score.add(&for_score(&pod));
        self.host_ports.extend(pod.host_ports.iter().cloned());
        if !pod.owner.is_empty() {
            *self.owners.entry(pod.owner.clone()).or_default() += 1;
        }
        self.pods.insert(pod.uid.clone(), pod);
    }

    fn remove(&mut self, uid: &str) {
        let Some(pod) = self.pods.remove(uid) else { return };
        self.claimed.subtract(&pod.requests);
        self.claimed_for_score.subtract(&for_score(&pod));
        for port in &pod.host_ports {
            if let Some(index) = self.host_ports.iter().position(|p| p == port) {
                self.host_ports.swap_remove(index);
            }
        }
        if let Some(count) = self.owners.get_mut(&pod.owner) {
            *count -= 1;
            if *count == 0 {
                self.owners.remove(&pod.owner);
            }
        }
    }
}

/// Every node, in a stable order.
#[derive(Debug, Default)]
pub struct Snapshot {
    nodes: Vec<NodeInfo>,
    /// Index into `nodes` by name.
    places: HashMap<String, usize>,
    /// The node of each pod, by the pod's uid.
    pods: HashMap<String, String>,
}

impl Snapshot {
    /// Every node that exists.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &NodeInfo> + Clone {
        self.nodes.iter()
    }

    /// How many nodes are known, those that only pods name included.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether no node is known.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The node at `index` of the stable order.
    pub fn at(&self, index: usize) -> &NodeInfo {
        &self.nodes[index]
    }

    fn info(&mut self, name: &str) -> &mut NodeInfo {
        let index = *self.places.entry(name.to_owned()).or_insert_with(|| {
            let node = Arc::new(Node { name: name.to_owned(), ..Node::default() });
            self.nodes.push(NodeInfo { node, ..NodeInfo::default() });
            self.nodes.len() - 1
        });
        &mut self.nodes[index]
    }

    /// Takes a new or changed node.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let info = self.info(&node.name);
        info.node = node;
        info.exists = true;
    }

    /// Forgets a node; pods that are still on it stay accounted until they go.
    pub fn remove_node(&mut self, name: &str) {
        self.info(name).exists = false;
        self.sweep(name);
    }

    /// Takes a pod with a node: new, changed, or assumed.
    pub fn set_pod(&mut self, pod: Arc<Pod>) {
        self.remove_pod(&pod.uid);
        self.pods.insert(pod.uid.clone(), pod.node.clone());
        let node = pod.node.clone();
        self.info(&node).add(pod);
    }

    /// Forgets a pod; answers the node it was on.
    pub fn remove_pod(&mut self, uid: &str) -> Option<String> {
        let node = self.pods.remove(uid)?;
        self.info(&node).remove(uid);
        self.sweep(&node);
        Some(node)
    }

    /// Whether the pod is on a node here.
    pub fn has_pod(&self, uid: &str) -> bool {
        self.pods.contains_key(uid)
    }

    /// Drops a node that neither exists nor has pods.
    fn sweep(&mut self, name: &str) {
        let Some(&index) = self.places.get(name) else { return };
        if self.nodes[index].exists || !self.nodes[index].pods.is_empty() {
            return;
        }
        self.places.remove(name);
        self.nodes.swap_remove(index);
        if let Some(moved) = self.nodes.get(index) {
            self.places.insert(moved.node.name.clone(), index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, node: &str, cpu_milli: i64) -> Arc<Pod> {
        Arc::new(Pod {
            uid: uid.into(),
            node: node.into(),
            owner: "o".into(),
            requests: Resources { cpu_milli, ..Resources::default() },
            ..Pod::default()
        })
    }

    #[test]
    fn what_a_pod_claims_is_returned_when_it_goes_or_moves() {
        let mut snapshot = Snapshot::default();
        snapshot.set_pod(pod("a", "n1", 100));
        snapshot.set_pod(pod("a", "n1", 300));
        assert_eq!(snapshot.at(0).claimed.cpu_milli, 300);
        snapshot.set_node(Arc::new(Node { name: "n2".into(), ..Node::default() }));
        snapshot.set_pod(pod("a", "n2", 300));
        assert_eq!(snapshot.len(), 1, "a node without an object and without pods is dropped");
        assert_eq!(snapshot.at(0).owners["o"], 1);
        assert_eq!(snapshot.remove_pod("a").as_deref(), Some("n2"));
        assert_eq!(snapshot.at(0).claimed, Resources::default());
        assert!(snapshot.at(0).owners.is_empty());
    }
}
