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

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::sync::broadcast::error::RecvError;

use super::addresses::Addresses;
use super::admit::{self, Asks, admit};
use super::config::AgentConfig;
use super::logs::Logs;
use super::pod::env::ServiceLink;
use super::pod::volumes::memory_root;
use super::pod::worker::{Beginning, Handle, Stored, Update, Worker};
use super::resources::Amounts;
use super::sources::Sources;
use super::store::NodeStore;
use super::tokens::Tokens;
use crate::base::clock::SharedClock;
use crate::base::shutdown::Shutdown;
use crate::client::Key;
use crate::client::events::{EventType, Recorder};
use crate::client::informer::{Builder, Informer, Source};
use crate::client::meta::reference;
use crate::image::{Images, Layers};
use crate::net::{Fabric, HostPortOwner, Namespace, NamespaceSpec};
use crate::runtime::Runtime;
use crate::runtime::oci::{Containers, HostNet};

/// How many pod statuses are written at once.
pub const WRITES_MAX: usize = 16;

/// What all workers of a node share.
pub struct Node {
    pub config: AgentConfig,
    pub clock: SharedClock,
    pub client: kube::Client,
    pub recorder: Recorder,
    pub runtime: Arc<Runtime>,
    /// Containers of the kernel; none where this machine cannot run them, and why.
    pub containers: Option<Arc<Containers>>,
    pub no_containers: Option<String>,
    /// The namespace of all pods in the host's network, once there was one.
    pub host_network: OnceLock<Arc<Namespace>>,
    pub images: Images,
    /// Container images as directories.
    pub layers: Arc<Layers>,
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
    /// The namespace that all pods in the host's network share.
    pub fn host_namespace(&self) -> Arc<Namespace> {
        let made = self.host_network.get_or_init(|| {
            let (ip, name) = (self.config.node_ip, self.config.node_name.clone());
            let spec = NamespaceSpec::new("host-network", ip, "", name);
            let namespace = self.fabric.attach(spec);
            namespace.join_kernel(Arc::new(HostNet));
            namespace
        });
        Arc::clone(made)
    }

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

    /// What the pods that are not over use together.
    fn used(&self) -> Asks {
        let mut all = Asks::default();
        for handle in self.workers.lock().values() {
            let view = handle.view.lock();
            if !view.over {
                all.add(&view.asks);
            }
        }
        all
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
    sweep_containers(&node).await;
    let swept = Arc::clone(&node);
    // Before any new pod may make a directory.
    let _ = tokio::task::spawn_blocking(move || sweep(&swept)).await;
    let mut names = names(&node);
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
        let mut used = None;
        for (key, pod) in found {
            observe(&node, &mut names, key, pod, &mut used);
        }
    }
}

/// The UID of the pod that has each name.
fn names(node: &Node) -> HashMap<Key, String> {
    let workers = node.workers.lock();
    let known = workers
        .iter()
        .map(|(uid, handle)| (Key::of(&handle.view.lock().pod.metadata), uid.clone()));
    known.collect()
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

/// Hands what the API says of one name to its pod. `used` is what the pods use, once somebody
/// needed to know.
fn observe(
    node: &Arc<Node>,
    names: &mut HashMap<Key, String>,
    key: Key,
    pod: Option<Arc<Pod>>,
    used: &mut Option<Asks>,
) {
    let uid = pod.as_ref().and_then(|p| p.metadata.uid.clone());
    let worker = |uid: &String| node.workers.lock().get(uid).cloned();
    if let Some(before) = names.get(&key).filter(|before| Some(*before) != uid.as_ref())
        && let Some(handle) = worker(before)
    {
        handle.updates.send_replace(Update::Gone);
    }
    let (Some(pod), Some(uid)) = (pod, uid) else {
        names.remove(&key);
        return;
    };
    names.insert(key, uid.clone());
    if let Some(handle) = worker(&uid) {
        handle.updates.send_replace(Update::Pod(pod));
        return;
    }
    let ended = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    let leaving = pod.metadata.deletion_timestamp.is_some();
    if matches!(ended, Some("Succeeded" | "Failed")) && !leaving {
        return;
    }
    let used = used.get_or_insert_with(|| node.used());
    let beginning = match admit(&pod, used, &node.facts.load()) {
        Err(verdict) if !leaving => Beginning::Rejected(verdict),
        _ => {
            used.add(&Asks::of(&pod));
            Beginning::Fresh
        }
    };
    let handle = Worker::start(node, pod, beginning);
    node.workers.lock().insert(uid, handle);
}

/// Ends the containers of pods that nobody knows any more.
async fn sweep_containers(node: &Node) {
    let Some(containers) = &node.containers else { return };
    for uid in containers.pods() {
        if !node.workers.lock().contains_key(&uid)
            && let Err(error) = containers.remove_sandbox(&uid).await
        {
            tracing::warn!(uid, %error, "the sandbox of a forgotten pod was not removed");
        }
    }
}

/// Removes the volumes of pods that nobody knows any more: what an agent left that was killed
/// while it cleaned up.
fn sweep(node: &Node) {
    node.layers.keep(&node.images.known_layers());
    let known: HashSet<String> = node.workers.lock().keys().cloned().collect();
    let memory = memory_root(&node.config.data_dir);
    let roots = [Some(node.config.data_dir.join("volumes")), memory].into_iter().flatten();
    let volumes = roots.filter_map(|root| std::fs::read_dir(root).ok());
    for entry in volumes.flatten().flatten() {
        let uid = entry.file_name().to_string_lossy().into_owned();
        if !known.contains(&uid)
            && let Err(error) = std::fs::remove_dir_all(entry.path())
        {
            tracing::warn!(uid, %error, "volumes of a forgotten pod were not removed");
        }
    }
    let logs = std::fs::read_dir(node.config.data_dir.join("pods"));
    for entry in logs.into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let uid = name.rsplit('_').next().unwrap_or_default();
        if !known.contains(uid)
            && let Err(error) = std::fs::remove_dir_all(entry.path())
        {
            tracing::warn!(name, %error, "logs of a forgotten pod were not removed");
        }
    }
}

/// Tells of host ports that cannot be opened, on the pod or the Service that wants them.
pub async fn tell_host_ports(node: Arc<Node>) {
    let mut events = node.fabric.host_port_events();
    loop {
        let event = tokio::select! {
            () = node.shutdown.cancelled() => return,
            event = events.recv() => match event {
                Ok(event) => event,
                Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return,
            },
        };
        let Some(error) = event.error else { continue };
        let (address, protocol) = (event.address, event.protocol);
        let about = match event.owner {
            HostPortOwner::Service { namespace, name } => ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Service".to_owned()),
                namespace: Some(namespace),
                name: Some(name),
                ..ObjectReference::default()
            },
            HostPortOwner::Pod { uid, .. } => match node.workers.lock().get(&uid) {
                Some(handle) => reference(handle.view.lock().pod.as_ref()),
                None => continue,
            },
        };
        let message = format!(
            "Node {} cannot listen on {address} ({protocol:?}): {error}; it tries again until the port is free",
            node.config.node_name
        );
        node.recorder.event(&about, EventType::Warning, "HostPortUnavailable", message);
    }
}
