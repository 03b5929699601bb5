//! What all workers of a node share, and the dispatcher that gives every pod of the node its
//! worker.
//!
//! ```text
//!  stored pods ──at the start──▶ restored workers
//!  informer (spec.nodeName = this) ──new UID──▶ admission ──▶ worker
//!                                  ──changed──▶ newest Pod to its worker
//!                                  ──gone─────▶ its worker stops it
//! ```
//!
//! **Invariant:** a worker belongs to a UID, never to a name: a Pod that was deleted and made
//! again is another pod.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::addresses::Addresses;
use super::admit::{self, admit};
use super::config::AgentConfig;
use super::logs::Logs;
use super::pod::env::ServiceLink;
use super::pod::worker::{Beginning, Handle, Stored, Update, Worker};
use super::resources::Amounts;
use super::sources::Sources;
use super::store::NodeStore;
use super::tokens::Tokens;
use crate::base::clock::SharedClock;
use crate::base::shutdown::Shutdown;
use crate::client::Key;
use crate::client::events::Recorder;
use crate::client::informer::{Builder, Informer, Source};
use crate::image::Images;
use crate::net::Fabric;
use crate::runtime::Runtime;

/// How many pod statuses are written at once.
pub const WRITES_MAX: usize = 16;

/// What all workers of a node share.
pub struct Node {
    pub config: AgentConfig,
    pub clock: SharedClock,
    pub client: kube::Client,
    pub recorder: Recorder,
    pub runtime: Arc<Runtime>,
    pub images: Images,
    pub fabric: Arc<Fabric>,
    pub logs: Logs,
    pub store: Arc<NodeStore>,
    pub sources: Sources,
    pub tokens: Tokens,
    pub addresses: Mutex<Addresses>,
    /// The Services, for the environment of containers.
    pub services: ArcSwap<Vec<ServiceLink>>,
    /// What containers without limits may have.
    pub allocatable: Amounts,
    /// Labels and allocatable as the Node object has them now.
    pub facts: ArcSwap<admit::Facts>,
    /// The workers by pod UID.
    pub workers: Mutex<HashMap<String, Arc<Handle>>>,
    /// Bounds the status writes under way.
    pub writes: Semaphore,
    pub shutdown: Shutdown,
}

impl Node {
    /// The worker of a pod by its name; of several with one name the newest.
    pub fn find(&self, namespace: &str, name: &str) -> Option<Arc<Handle>> {
        let workers = self.workers.lock();
        let same = workers.values().filter(|handle| {
            let view = handle.view.lock();
            let meta = &view.pod.metadata;
            meta.namespace.as_deref() == Some(namespace) && meta.name.as_deref() == Some(name)
        });
        let created = |handle: &Arc<Handle>| {
            handle.view.lock().pod.metadata.creation_timestamp.clone().map(|t| t.0)
        };
        same.max_by_key(|handle| created(handle)).cloned()
    }

    /// All pods that the node has, with whether they are over.
    pub fn pods(&self) -> Vec<(Arc<Pod>, bool)> {
        let workers = self.workers.lock();
        let seen = workers.values().map(|handle| {
            let view = handle.view.lock();
            (Arc::clone(&view.pod), view.over)
        });
        seen.collect()
    }
}

/// Takes up the pods that the store knows, at once and without asking anybody.
pub fn restore(node: &Arc<Node>) -> usize {
    let stored: Vec<(String, Stored)> = node.store.scan("pod/");
    // All addresses are claimed before any pod may ask for a new one.
    for (_, pod) in &stored {
        let claim = (&pod.pod.metadata.uid, pod.saved.ip, pod.saved.down);
        if let (Some(uid), Some(ip), false) = claim
            && let Err(error) = node.addresses.lock().take(uid, Some(ip))
        {
            tracing::warn!(%error, "a stored pod cannot keep its address");
        }
    }
    let count = stored.len();
    for (_, Stored { pod, saved }) in stored {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let handle = Worker::start(node, Arc::new(pod), Beginning::Restored(saved));
        node.workers.lock().insert(uid, handle);
    }
    count
}

/// Gives every pod that is bound to this node its worker, until the shutdown.
pub async fn dispatch(node: Arc<Node>) {
    let source = Source::all::<Pod>().fields(format!("spec.nodeName={}", node.config.node_name));
    let informer: Informer<Pod> =
        Builder::new(source, Some).start(node.client.clone(), node.shutdown.clone());
    let mut changes = informer.changes();
    let shutdown = node.shutdown.clone();
    tokio::select! {
        () = shutdown.cancelled() => return,
        () = informer.synced() => forget_missing(&node, &informer),
    }
    loop {
        let keys = tokio::select! {
            () = shutdown.cancelled() => return,
            keys = changes.next() => keys,
        };
        // Oldest first, so that admission is fair where several come at once.
        let mut found: Vec<(Key, Option<Arc<Pod>>)> =
            keys.into_iter().map(|key| (key.clone(), informer.get(&key))).collect();
        found.sort_by_key(|(_, pod)| {
            pod.as_ref().and_then(|p| p.metadata.creation_timestamp.clone()).map(|t| t.0)
        });
        for (key, pod) in found {
            observe(&node, &key, pod);
        }
    }
}

/// Stored pods that the API no longer has were deleted while the agent was away.
fn forget_missing(node: &Arc<Node>, informer: &Informer<Pod>) {
    for handle in node.workers.lock().values() {
        let (key, uid) = {
            let view = handle.view.lock();
            (Key::of(&view.pod.metadata), view.pod.metadata.uid.clone())
        };
        let there = informer.get(&key).is_some_and(|pod| pod.metadata.uid == uid);
        if !there {
            handle.updates.send_replace(Update::Gone);
        }
    }
}

fn observe(node: &Arc<Node>, key: &Key, pod: Option<Arc<Pod>>) {
    let uid = pod.as_ref().and_then(|p| p.metadata.uid.clone());
    let mut known = None;
    for (other, handle) in node.workers.lock().iter() {
        if Some(other) == uid.as_ref() {
            known = Some(Arc::clone(handle));
        } else if Key::of(&handle.view.lock().pod.metadata) == *key {
            handle.updates.send_replace(Update::Gone);
        }
    }
    let (Some(pod), Some(uid)) = (pod, uid) else { return };
    if let Some(handle) = known {
        handle.updates.send_replace(Update::Pod(pod));
        return;
    }
    let ended = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    if matches!(ended, Some("Succeeded" | "Failed")) && pod.metadata.deletion_timestamp.is_none() {
        return;
    }
    let pods = node.pods();
    let others: Vec<&Pod> =
        pods.iter().filter(|(_, over)| !over).map(|(pod, _)| pod.as_ref()).collect();
    let beginning = match admit(&pod, &others, &node.facts.load()) {
        Ok(()) => Beginning::Fresh,
        Err(_) if pod.metadata.deletion_timestamp.is_some() => Beginning::Fresh,
        Err(verdict) => Beginning::Rejected(verdict),
    };
    let handle = Worker::start(node, pod, beginning);
    node.workers.lock().insert(uid, handle);
}
