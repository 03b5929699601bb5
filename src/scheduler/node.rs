//! What the scheduler keeps of a Node, and what is on it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::pod::Pod;
use super::resources::Resources;
use super::seen;
pub use super::seen::Taint;

/// A Node object.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub name: Arc<str>,
    pub labels: BTreeMap<String, String>,
    pub unschedulable: bool,
    pub taints: Vec<Taint>,
    pub allocatable: Resources,
    /// Sizes in bytes by the names of the images that are there.
    pub images: BTreeMap<String, i64>,
}

impl Node {
    /// Keeps what is needed.
    pub fn of(node: seen::Node) -> Option<Self> {
        let has = node.status.allocatable.or(node.status.capacity).unwrap_or_default();
        let images = node.status.images.into_iter().flat_map(|image| {
            let size = image.size_bytes.unwrap_or(0);
            image.names.into_iter().map(move |name| (name, size))
        });
        Some(Self {
            name: node.metadata.name?.into(),
            labels: node.metadata.labels.unwrap_or_default(),
            unschedulable: node.spec.unschedulable.unwrap_or(false),
            taints: node.spec.taints,
            allocatable: Resources::of(&has),
            images: images.collect(),
        })
    }

    /// A label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str)
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
    /// How many pods of each owner that are to stay, by its uid.
    pub owners: HashMap<Arc<str>, u32>,
    /// Pods for which room is being made here.
    pub nominated: Vec<Arc<Pod>>,
}

impl NodeInfo {
    /// A node that nothing is on.
    pub fn new(node: Arc<Node>) -> Self {
        Self {
            node,
            used: Resources::default(),
            scored: Resources::default(),
            pods: Vec::new(),
            owners: HashMap::new(),
            nominated: Vec::new(),
        }
    }

    /// Counts a pod.
    pub fn add(&mut self, pod: Arc<Pod>) {
        self.used.add(&pod.requests, 1);
        self.scored.add(&pod.scored, 1);
        if let Some(owner) = pod.owner.as_ref().filter(|_| !pod.deleting) {
            *self.owners.entry(owner.uid.clone()).or_default() += 1;
        }
        self.pods.push(pod);
    }

    /// Counts a pod no more.
    pub fn remove(&mut self, uid: &str) {
        let Some(at) = self.pods.iter().position(|p| *p.uid == *uid) else { return };
        let pod = self.pods.swap_remove(at);
        self.used.add(&pod.requests, -1);
        self.scored.add(&pod.scored, -1);
        if let Some(owner) = pod.owner.as_ref().filter(|_| !pod.deleting)
            && let Some(count) = self.owners.get_mut(&owner.uid)
        {
            *count -= 1;
            if *count == 0 {
                self.owners.remove(&owner.uid);
            }
        }
    }

    /// Puts a newer state of a pod that counts the same in the place of the older one.
    pub fn renew(&mut self, pod: &Arc<Pod>) {
        if let Some(there) = self.pods.iter_mut().find(|p| p.uid == pod.uid) {
            *there = pod.clone();
        }
    }

    /// Pods that are nominated here and that `pod` must leave room for.
    pub fn reserved<'a>(&'a self, pod: &'a Pod) -> impl Iterator<Item = &'a Arc<Pod>> {
        self.nominated.iter().filter(move |n| n.priority >= pod.priority && n.uid != pod.uid)
    }
}
