//! Who owns whom, over all kinds (`pkg/controller/garbagecollector/graph_builder.go`).
//!
//! **Invariant:** `dependents[uid]` holds exactly the known objects that name `uid` as an owner,
//! whether or not that owner is known.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::client::meta::Key;
use crate::controllers::discovery::Resource;

pub const FOREGROUND: &str = "foregroundDeletion";
pub const ORPHAN: &str = "orphan";

/// An object, as far as ownership goes.
#[derive(Debug, Clone)]
pub struct Node {
    pub uid: String,
    pub resource: Arc<Resource>,
    pub key: Key,
    pub owners: Vec<OwnerReference>,
    pub deleting: bool,
    /// It waits for its dependents to be deleted.
    pub foreground: bool,
    /// Its dependents are to be let go.
    pub orphans: bool,
}

impl Node {
    /// The node of an object of `resource`.
    pub fn new(resource: &Arc<Resource>, meta: ObjectMeta) -> Self {
        let deleting = meta.deletion_timestamp.is_some();
        let has = |name: &str| meta.finalizers.iter().flatten().any(|f| f == name);
        Self {
            resource: resource.clone(),
            key: Key::of(&meta),
            deleting,
            foreground: deleting && has(FOREGROUND),
            orphans: deleting && has(ORPHAN),
            uid: meta.uid.unwrap_or_default(),
            owners: meta.owner_references.unwrap_or_default(),
        }
    }

    /// Whether the deletion of `owner` in the foreground waits for this object.
    pub fn blocks(&self, owner: &str) -> bool {
        self.owners.iter().any(|o| o.uid == owner && o.block_owner_deletion == Some(true))
    }
}

/// All objects and their owners.
#[derive(Debug, Default)]
pub struct Graph {
    nodes: HashMap<String, Arc<Node>>,
    dependents: HashMap<String, BTreeSet<String>>,
}

impl Graph {
    /// The object with this uid.
    pub fn get(&self, uid: &str) -> Option<Arc<Node>> {
        self.nodes.get(uid).cloned()
    }

    /// The objects that name `uid` as an owner.
    pub fn dependents(&self, uid: &str) -> Vec<Arc<Node>> {
        let uids = self.dependents.get(uid).into_iter().flatten();
        uids.filter_map(|uid| self.nodes.get(uid).cloned()).collect()
    }

    /// Notes an object as it is now. Returns the uids of the objects to look at.
    pub fn observe(&mut self, node: Arc<Node>) -> BTreeSet<String> {
        let mut work = BTreeSet::new();
        let uid = node.uid.clone();
        let old = self.nodes.insert(uid.clone(), node.clone());
        let owners = |node: &Node| -> BTreeSet<String> {
            node.owners.iter().map(|owner| owner.uid.clone()).collect()
        };
        let before = old.as_deref().map(&owners).unwrap_or_default();
        let after = owners(&node);
        for owner in after.difference(&before) {
            self.dependents.entry(owner.clone()).or_default().insert(uid.clone());
            // An owner that is not known may be gone already; one that is on its way out in the
            // foreground takes this object along.
            if self.nodes.get(owner).is_none_or(|owner| owner.foreground) {
                work.insert(uid.clone());
            }
        }
        for owner in before.difference(&after) {
            self.let_go(owner, &uid);
        }
        if let Some(old) = &old {
            let unblocked = before.iter().filter(|o| old.blocks(o) && !node.blocks(o));
            let waits = |owner: &&String| self.nodes.get(*owner).is_some_and(|o| o.foreground);
            work.extend(unblocked.filter(waits).cloned());
            if before != after {
                work.insert(uid.clone());
            }
        }
        let was = |flag: fn(&Node) -> bool| old.as_deref().is_some_and(flag);
        if node.orphans && !was(|old| old.orphans) {
            work.insert(uid.clone());
        }
        if node.foreground && !was(|old| old.foreground) {
            work.extend(self.dependents.get(&uid).into_iter().flatten().cloned());
            work.insert(uid);
        }
        work
    }

    /// Notes that an object is gone. Returns the uids of the objects to look at.
    pub fn forget(&mut self, uid: &str) -> BTreeSet<String> {
        let Some(node) = self.nodes.remove(uid) else { return BTreeSet::new() };
        let mut work: BTreeSet<String> =
            self.dependents.get(uid).into_iter().flatten().cloned().collect();
        for owner in &node.owners {
            self.let_go(&owner.uid, uid);
            if self.nodes.get(&owner.uid).is_some_and(|owner| owner.foreground) {
                work.insert(owner.uid.clone());
            }
        }
        work
    }

    fn let_go(&mut self, owner: &str, dependent: &str) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::json;

    pub(in crate::controllers::garbage) fn resource() -> Arc<Resource> {
        Arc::new(Resource {
            group: String::new(),
            version: "v1".to_owned(),
            plural: "configmaps".to_owned(),
            kind: "ConfigMap".to_owned(),
            namespaced: true,
            verbs: Vec::new(),
        })
    }

    /// An object that `owners` own (those with a `!` block), with `finalizer` if it is deleted.
    pub(in crate::controllers::garbage) fn node(
        uid: &str,
        owners: &[&str],
        finalizer: Option<&str>,
    ) -> Arc<Node> {
        let owners: Vec<_> = owners
            .iter()
            .map(|owner| {
                let uid = owner.trim_start_matches('!');
                json!({"apiVersion": "v1", "kind": "ConfigMap", "name": uid, "uid": uid,
                    "blockOwnerDeletion": owner.starts_with('!')})
            })
            .collect();
        let mut meta = json!({"name": uid, "namespace": "default", "uid": uid,
            "ownerReferences": owners});
        if let Some(finalizer) = finalizer {
            meta["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            meta["finalizers"] = json!([finalizer]);
        }
        let meta = serde_json::from_value(meta).expect("metadata");
        Arc::new(Node::new(&resource(), meta))
    }

    fn uids(work: BTreeSet<String>) -> Vec<String> {
        work.into_iter().collect()
    }

    #[test]
    fn dependents_are_looked_at_when_their_owner_vanishes() {
        let mut graph = Graph::default();
        assert!(graph.observe(node("owner", &[], None)).is_empty());
        assert!(graph.observe(node("a", &["owner"], None)).is_empty());
        assert_eq!(uids(graph.forget("owner")), ["a"]);
    }

    #[test]
    fn an_object_of_an_unknown_owner_is_looked_at() {
        let mut graph = Graph::default();
        assert_eq!(uids(graph.observe(node("a", &["ghost"], None))), ["a"]);
        assert_eq!(graph.dependents("ghost").len(), 1);
        assert_eq!(uids(graph.observe(node("a", &[], None))), ["a"]);
        assert!(graph.dependents("ghost").is_empty());
    }

    #[test]
    fn foreground_deletion_looks_at_all_dependents_and_then_at_the_owner() {
        let mut graph = Graph::default();
        graph.observe(node("owner", &[], None));
        graph.observe(node("a", &["!owner"], None));
        graph.observe(node("b", &["!owner"], None));
        let work = graph.observe(node("owner", &[], Some(FOREGROUND)));
        assert_eq!(uids(work), ["a", "b", "owner"]);
        assert_eq!(uids(graph.forget("a")), ["owner"]);
        assert_eq!(uids(graph.observe(node("b", &["owner"], None))), ["owner"], "unblocked");
        assert_eq!(uids(graph.observe(node("c", &["owner"], None))), ["c"], "late");
    }

    #[test]
    fn orphaning_looks_at_the_owner_once() {
        let mut graph = Graph::default();
        graph.observe(node("owner", &[], None));
        assert_eq!(uids(graph.observe(node("owner", &[], Some(ORPHAN)))), ["owner"]);
        assert!(graph.observe(node("owner", &[], Some(ORPHAN))).is_empty());
    }
}
