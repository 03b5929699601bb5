//! What the scheduler knows of storage: claims, volumes, classes, and what nodes can attach.
//!
//! **Invariant:** a volume is promised to one claim at most, from the decision that takes it until
//! the API tells of it or the binding is given up.

pub mod plan;
mod project;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::pod::{Claim, Pod};
use super::terms::NodeTerm;
use crate::api::selector::LabelSelector;
use crate::client::Key;

/// A PersistentVolume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    pub name: String,
    /// Its `resourceVersion`.
    pub version: String,
    /// Nodes that can reach it; `None`: all.
    pub reach: Option<Vec<NodeTerm>>,
    pub labels: BTreeMap<String, String>,
    /// The claim that it is bound to or kept for.
    pub claim: Option<Key>,
    pub class: String,
    pub capacity: i64,
    pub modes: Vec<String>,
    pub block: bool,
    pub csi: Option<CsiVolume>,
    pub available: bool,
}

/// A volume as its driver knows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CsiVolume {
    pub driver: String,
    pub handle: String,
}

/// A PersistentVolumeClaim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PvClaim {
    pub key: Key,
    pub uid: String,
    /// The volume that it is bound to.
    pub bound: Option<String>,
    pub class: Option<String>,
    pub request: i64,
    pub modes: Vec<String>,
    pub block: bool,
    pub selector: Option<LabelSelector>,
    /// Where a volume is being made for it.
    pub selected_node: Option<String>,
    pub deleting: bool,
    /// The volume that it was bound to is gone.
    pub lost: bool,
    /// The uid of the pod that it was made for.
    pub owner: Option<String>,
}

impl PvClaim {
    /// Whether only one pod of the cluster may use it.
    pub fn is_exclusive(&self) -> bool {
        self.modes.iter().any(|mode| mode == "ReadWriteOncePod")
    }
}

/// A StorageClass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    pub name: String,
    /// `WaitForFirstConsumer`.
    pub waits: bool,
    /// Whether volumes are made on demand.
    pub provisions: bool,
    /// One must hold for a node where a volume is to be made; none: all do.
    pub topologies: Vec<NodeTerm>,
}

/// What a node can attach: volumes by driver, from its CSINode.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attachable {
    pub name: String,
    pub limits: BTreeMap<String, i64>,
}

/// All of it.
#[derive(Debug, Clone, Default)]
pub struct Volumes {
    claims: HashMap<Key, Arc<PvClaim>>,
    volumes: HashMap<String, Arc<Volume>>,
    classes: HashMap<String, Arc<Class>>,
    attachable: HashMap<String, Arc<Attachable>>,
    /// The claims that volumes are promised to.
    promised: HashMap<String, Key>,
    /// Uids of the pods that are on nodes, by the claims that they use.
    users: HashMap<Key, HashSet<Arc<str>>>,
}

/// Replaces or removes. Answers whether anything changed.
fn put<K: std::hash::Hash + Eq, V: PartialEq>(
    map: &mut HashMap<K, Arc<V>>,
    key: K,
    value: Option<Arc<V>>,
) -> bool {
    match value {
        Some(value) => {
            map.get(&key) != Some(&value) && {
                map.insert(key, value);
                true
            }
        }
        None => map.remove(&key).is_some(),
    }
}

impl Volumes {
    pub fn set_claim(&mut self, key: Key, claim: Option<Arc<PvClaim>>) -> bool {
        if claim.as_ref().is_none_or(|claim| claim.bound.is_some()) {
            self.promised.retain(|_, promised| *promised != key);
        }
        put(&mut self.claims, key, claim)
    }

    pub fn set_volume(&mut self, name: &str, volume: Option<Arc<Volume>>) -> bool {
        put(&mut self.volumes, name.to_owned(), volume)
    }

    pub fn set_class(&mut self, name: &str, class: Option<Arc<Class>>) -> bool {
        put(&mut self.classes, name.to_owned(), class)
    }

    pub fn set_attachable(&mut self, name: &str, attachable: Option<Arc<Attachable>>) -> bool {
        put(&mut self.attachable, name.to_owned(), attachable)
    }

    pub fn claim(&self, namespace: &str, name: &str) -> Option<&Arc<PvClaim>> {
        self.claims.get(&Key::new(namespace, name))
    }

    pub fn volume(&self, name: &str) -> Option<&Arc<Volume>> {
        self.volumes.get(name)
    }

    pub fn class(&self, name: &str) -> Option<&Arc<Class>> {
        self.classes.get(name)
    }

    /// How many volumes of a driver a node can attach, where it says so.
    pub fn limit(&self, node: &str, driver: &str) -> Option<i64> {
        self.attachable.get(node)?.limits.get(driver).copied()
    }

    /// Whether any node limits anything.
    pub fn are_limited(&self) -> bool {
        self.attachable.values().any(|node| !node.limits.is_empty())
    }

    /// The drivers' volumes behind the claims of a pod.
    pub fn attached(&self, pod: &Pod) -> impl Iterator<Item = &CsiVolume> {
        let claims = pod.ask.claims.clone();
        let namespace = pod.key.namespace.clone();
        claims.into_iter().filter_map(move |claim: Claim| {
            let volume = self.claim(&namespace, &claim.name)?.bound.as_deref()?;
            self.volume(volume)?.csi.as_ref()
        })
    }

    /// The pods that use a claim.
    pub fn users(&self, claim: &Key) -> usize {
        self.users.get(claim).map_or(0, HashSet::len)
    }

    /// Counts a pod on a node as a user of its claims.
    pub fn used_by(&mut self, pod: &Pod) {
        for claim in &pod.claims {
            let key = Key::new(&*pod.namespace, &claim.name);
            self.users.entry(key).or_default().insert(pod.uid.clone());
        }
    }

    /// Counts a pod no more.
    pub fn left_by(&mut self, pod: &Pod) {
        for claim in &pod.claims {
            let key = Key::new(&*pod.namespace, &claim.name);
            if let Some(users) = self.users.get_mut(&key) {
                users.remove(&pod.uid);
                if users.is_empty() {
                    self.users.remove(&key);
                }
            }
        }
    }

    /// Promises volumes to claims.
    pub fn promise(&mut self, steps: &[plan::Step]) {
        for step in steps {
            if let plan::Step::Claim { volume, claim } = step {
                self.promised.insert(volume.name.clone(), claim.key.clone());
            }
        }
    }

    /// Takes promises back.
    pub fn give_up(&mut self, steps: &[plan::Step]) {
        for step in steps {
            if let plan::Step::Claim { volume, .. } = step {
                self.promised.remove(&volume.name);
            }
        }
    }
}
