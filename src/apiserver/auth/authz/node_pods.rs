//! Which pods are on which node, and what they refer to.
//!
//! Every status write of every pod passes here, so a change is judged by the attribute block
//! beside the object: only the node of a pod is kept. What its pods refer to is read once, when
//! their node first asks.

use std::collections::HashMap;
use std::sync::Arc;

use memchr::memmem;
use parking_lot::RwLock;

use super::references::References;
use crate::api::status::ApiError;
use crate::apiserver::attrs::Attrs;
use crate::apiserver::auth::mirror::{self, Table};
use crate::apiserver::catalog::Resource;
use crate::apiserver::registry::{Registry, store_error};
use crate::apiserver::{encoding, filter};
use crate::store::{Entry, Revision};

/// A pod on a node.
struct Placed {
    node: Arc<str>,
    /// The revision that created it: another pod of the same name has another.
    created: Revision,
    /// What an older state than this refers to is not all.
    grown: Revision,
    /// `None`: not asked for yet.
    references: Option<Arc<References>>,
}

#[derive(Default)]
struct State {
    pods: HashMap<Arc<str>, Placed>,
    /// The keys of the pods on a node.
    nodes: HashMap<Arc<str>, Vec<Arc<str>>>,
}

impl State {
    fn place(&mut self, entry: &Entry, node: &str) {
        // Debugging containers are all of a pod that may come to refer to more than it did.
        let grows = memmem::find(&entry.value.bytes, b"\"ephemeralContainers\"").is_some();
        if let Some(pod) = self.pods.get_mut(&entry.key) {
            if pod.created == entry.created && *pod.node == *node {
                if grows {
                    (pod.references, pod.grown) = (None, entry.modified);
                }
                return;
            }
            self.displace(&entry.key);
        }
        let name = match self.nodes.get_key_value(node) {
            Some((name, _)) => name.clone(),
            None => node.into(),
        };
        self.nodes.entry(name.clone()).or_default().push(entry.key.clone());
        let (created, grown) = (entry.created, entry.modified);
        let pod = Placed { node: name, created, grown, references: None };
        self.pods.insert(entry.key.clone(), pod);
    }

    fn displace(&mut self, key: &str) {
        let Some(pod) = self.pods.remove(key) else { return };
        if let Some(keys) = self.nodes.get_mut(&pod.node) {
            keys.retain(|other| **other != *key);
            if keys.is_empty() {
                self.nodes.remove(&pod.node);
            }
        }
    }
}

/// See the module.
pub struct NodePods {
    registry: Arc<Registry>,
    resource: Arc<Resource>,
    /// Where the attribute block says the node.
    node_field: usize,
    state: RwLock<State>,
}

impl NodePods {
    /// No pods yet.
    ///
    /// # Errors
    /// When the server serves no pods.
    pub fn new(registry: &Arc<Registry>) -> Result<Self, ApiError> {
        let resource = mirror::resource(registry, "", "pods")?;
        let node_field = resource.field_index("spec.nodeName").expect("pods are found by node");
        let state = RwLock::default();
        Ok(Self { registry: registry.clone(), resource, node_field, state })
    }

    /// Whether the pod is on the node.
    pub fn is_on(&self, node: &str, namespace: &str, name: &str) -> bool {
        let key = self.resource.kind.key(namespace, name);
        self.state.read().pods.get(&*key).is_some_and(|pod| *pod.node == *node)
    }

    /// Whether a pod of the namespace on the node refers to something.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn any(
        &self,
        node: &str,
        namespace: &str,
        wanted: impl Fn(&References) -> bool,
    ) -> Result<bool, ApiError> {
        let mut unread = Vec::new();
        {
            let state = self.state.read();
            for key in state.nodes.get(node).into_iter().flatten() {
                if filter::namespace_of(key) != namespace {
                    continue;
                }
                match &state.pods[key].references {
                    Some(references) if wanted(references) => return Ok(true),
                    Some(_) => {}
                    None => unread.push(key.clone()),
                }
            }
        }
        for key in unread {
            if self.read(&key).await?.is_some_and(|references| wanted(&references)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The claims of all pods on the node, as `(namespace, name)`.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn claims(&self, node: &str) -> Result<Vec<(String, String)>, ApiError> {
        let keys: Vec<(Arc<str>, Option<Arc<References>>)> = {
            let state = self.state.read();
            let keys = state.nodes.get(node).into_iter().flatten();
            keys.map(|key| (key.clone(), state.pods[key].references.clone())).collect()
        };
        let mut all = Vec::new();
        for (key, known) in keys {
            let references = match known {
                Some(references) => Some(references),
                None => self.read(&key).await?,
            };
            let namespace = filter::namespace_of(&key);
            let claims = references.iter().flat_map(|references| &references.claims);
            all.extend(claims.map(|claim| (namespace.to_owned(), claim.clone())));
        }
        all.sort();
        all.dedup();
        Ok(all)
    }

    /// Reads what a pod refers to, and keeps it.
    async fn read(&self, key: &Arc<str>) -> Result<Option<Arc<References>>, ApiError> {
        let entry = self.registry.store.get(key).await.map_err(|e| store_error(&e))?;
        let Some(entry) = entry else { return Ok(None) };
        let references = Arc::new(References::of(&encoding::decode(&self.resource, &entry)?));
        let mut state = self.state.write();
        let pod = state.pods.get_mut(key).filter(|pod| pod.created == entry.created);
        // Where there is none, it is another pod by now.
        Ok(pod.map(|pod| {
            if entry.modified >= pod.grown {
                pod.references = Some(references.clone());
            }
            references
        }))
    }
}

impl Table for NodePods {
    fn replace(&self, entries: &[Entry]) {
        let mut state = self.state.write();
        *state = State::default();
        for entry in entries {
            let node = Attrs::new(&entry.value.attrs).field(self.node_field);
            if let Some(node) = node.filter(|node| !node.is_empty()) {
                state.place(entry, node);
            }
        }
    }

    fn put(&self, entry: &Entry) {
        match Attrs::new(&entry.value.attrs).field(self.node_field) {
            Some(node) if !node.is_empty() => self.state.write().place(entry, node),
            _ => self.state.write().displace(&entry.key),
        }
    }

    fn remove(&self, key: &str) {
        self.state.write().displace(key);
    }
}
