//! The garbage collector's loop.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use parking_lot::Mutex;
use serde_json::json;

use super::graph::{FOREGROUND, Graph, Node, ORPHAN};
use super::plan::{self, Action, Foreground, Owner};
use crate::base::shutdown::Shutdown;
use crate::client::informer::{Builder, Informer, Source};
use crate::client::meta::Partial;
use crate::client::rest;
use crate::client::workqueue::{Outcome, WorkQueue};
use crate::controllers::context::{Context, quiet_conflict};
use crate::controllers::discovery::{self, Discovered, Resource};

const WORKERS: usize = 8;
/// How often the server is asked for kinds that came or went.
const DISCOVERY: Duration = Duration::from_secs(30);
/// How long a new kind may take to be listed before the others are worked on without it.
const SYNC: Duration = Duration::from_secs(30);
/// How soon an object is looked at again of which an owner lives, but is not watched yet: should that
/// owner go before it is, nobody would tell.
const UNSEEN: Duration = Duration::from_secs(10);
/// How many uids that are known to be gone are remembered.
const ABSENT_MAX: usize = 5000;

struct Watched {
    informer: Informer<Node>,
    stop: Shutdown,
}

struct Controller {
    context: Context,
    queue: WorkQueue<String>,
    graph: Arc<Mutex<Graph>>,
    kinds: Mutex<Arc<Discovered>>,
    /// Uids of owners that the server said are gone: a uid never comes back.
    absent: Mutex<HashSet<String>>,
}

/// Runs until the context's shutdown.
pub(crate) async fn run(context: Context) {
    let queue: WorkQueue<String> = WorkQueue::new(context.seed("garbage"));
    let controller = Arc::new(Controller {
        queue: queue.clone(),
        graph: Arc::default(),
        kinds: Mutex::default(),
        absent: Mutex::default(),
        context: context.clone(),
    });
    let mut watched = HashMap::new();
    controller.discover(&mut watched).await;
    let watcher = controller.clone();
    let watching = async move {
        let mut ticks = tokio::time::interval(DISCOVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = watcher.context.shutdown.cancelled() => return,
                _ = ticks.tick() => watcher.discover(&mut watched).await,
            }
        }
    };
    let reconcile = move |uid: String| {
        let controller = controller.clone();
        async move { quiet_conflict(controller.look_at(&uid).await) }
    };
    tokio::join!(watching, queue.run("garbage", WORKERS, context.shutdown.clone(), reconcile));
}

/// Events own nothing, are owned by nothing and are many.
fn is_tracked(resource: &Resource) -> bool {
    resource.can(&["delete", "list", "watch"]) && resource.plural != "events"
}

impl Controller {
    /// Watches the kinds that came, stops watching those that went.
    async fn discover(&self, watched: &mut HashMap<String, Watched>) {
        let found = match discovery::discover(&self.context.client).await {
            Ok(found) => found,
            Err(error) => {
                tracing::info!(%error, "the kinds of objects could not be discovered");
                return;
            }
        };
        let mut fresh = Vec::new();
        let mut present = HashSet::new();
        for resource in found.resources.iter().filter(|resource| is_tracked(resource)) {
            let path = resource.collection("");
            present.insert(path.clone());
            if let Entry::Vacant(vacant) = watched.entry(path) {
                let new = self.watch(vacant.key(), Arc::new(resource.clone()));
                fresh.push(new.informer.clone());
                vacant.insert(new);
            }
        }
        if found.failed.is_empty() {
            let gone: Vec<String> =
                watched.keys().filter(|path| !present.contains(*path)).cloned().collect();
            for path in gone {
                self.unwatch(watched.remove(&path));
            }
        }
        *self.kinds.lock() = Arc::new(found);
        let synced = futures::future::join_all(fresh.iter().map(Informer::synced));
        let _ = tokio::time::timeout(SYNC, synced).await;
    }

    fn watch(&self, path: &str, resource: Arc<Resource>) -> Watched {
        let stop = self.context.shutdown.child_token();
        let informer = Builder::new(Source::at(path).metadata_only(), move |object: Partial| {
            Some(Node::new(&resource, object.metadata))
        })
        .seed(self.context.seed(path))
        .start(self.context.client.clone(), stop.clone());
        let (graph, queue) = (self.graph.clone(), self.queue.clone());
        informer.on_change(move |change| {
            let mut graph = graph.lock();
            let mut work = std::collections::BTreeSet::new();
            if let Some(old) = change.old
                && change.new.is_none_or(|new| new.uid != old.uid)
            {
                work.extend(graph.forget(&old.uid));
            }
            if let Some(new) = change.new {
                work.extend(graph.observe(new.clone()));
            }
            work.into_iter().for_each(|uid| queue.add(uid));
        });
        Watched { informer, stop }
    }

    fn unwatch(&self, watched: Option<Watched>) {
        let Some(watched) = watched else { return };
        watched.stop.cancel();
        let mut graph = self.graph.lock();
        for node in watched.informer.list() {
            graph.forget(&node.uid).into_iter().for_each(|uid| self.queue.add(uid));
        }
    }

    async fn look_at(&self, uid: &str) -> Result<Outcome, kube::Error> {
        let (node, dependents) = {
            let graph = self.graph.lock();
            let Some(node) = graph.get(uid) else { return Ok(Outcome::done()) };
            (node, graph.dependents(uid))
        };
        if node.orphans {
            return self.orphan(&node, &dependents).await;
        }
        if node.foreground {
            match plan::foreground(uid, &dependents) {
                Foreground::Done => self.drop_finalizer(&node, FOREGROUND).await?,
                Foreground::Wait(uids) => uids.into_iter().for_each(|uid| self.queue.add(uid)),
            }
            return Ok(Outcome::done());
        }
        if node.deleting || node.owners.is_empty() {
            return Ok(Outcome::done());
        }
        // The object as it is now, not as the informer last saw it: this may end in a deletion.
        let Some(live) = self.live(&node).await? else { return Ok(Outcome::done()) };
        let owners = self.states(&node, &live).await?;
        match plan::plan(&live, &owners, &dependents) {
            Action::Nothing if self.has_unseen_owner(&live) => {
                return Ok(Outcome::again_in(UNSEEN));
            }
            Action::Nothing => {}
            Action::SetOwners(owners) => self.set_owners(&node, &live, &owners).await?,
            Action::Delete(propagation) => {
                if propagation == rest::Propagation::Foreground
                    && let Some(owners) = plan::unblocked(&live, &dependents)
                {
                    self.set_owners(&node, &live, &owners).await?;
                    return Ok(Outcome::again_in(Duration::from_millis(20)));
                }
                self.delete(&node, &live, propagation).await?;
            }
        }
        Ok(Outcome::done())
    }

    fn has_unseen_owner(&self, live: &ObjectMeta) -> bool {
        let graph = self.graph.lock();
        live.owner_references.iter().flatten().any(|owner| graph.get(&owner.uid).is_none())
    }

    fn path(node: &Node) -> String {
        node.resource.object(&node.key.namespace, &node.key.name)
    }

    /// The metadata of the object on the server; nothing when it is gone or another has its name.
    async fn live(&self, node: &Node) -> Result<Option<ObjectMeta>, kube::Error> {
        let path = Self::path(node);
        let live = rest::found(rest::get_partial(&self.context.client, &path).await)?;
        let live = live.map(|live| live.metadata);
        Ok(live.filter(|meta| meta.uid.as_deref() == Some(node.uid.as_str())))
    }

    async fn states(&self, node: &Node, live: &ObjectMeta) -> Result<Vec<Owner>, kube::Error> {
        let mut states = Vec::new();
        for owner in live.owner_references.iter().flatten() {
            states.push(self.state(node, owner).await?);
        }
        Ok(states)
    }

    async fn state(&self, node: &Node, owner: &OwnerReference) -> Result<Owner, kube::Error> {
        if let Some(known) = self.graph.lock().get(&owner.uid) {
            // An owner in another namespace is none.
            let elsewhere = known.resource.namespaced && known.key.namespace != node.key.namespace;
            return Ok(match (elsewhere, known.foreground) {
                (true, _) => Owner::Absent,
                (false, true) => Owner::Waiting,
                (false, false) => Owner::Solid,
            });
        }
        if self.absent.lock().contains(&owner.uid) {
            return Ok(Owner::Absent);
        }
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        let kinds = self.kinds.lock().clone();
        let Some(resource) = kinds.find(group, &owner.kind) else {
            // A kind that is not served (any more) says nothing about its objects.
            tracing::debug!(owner = %owner.name, kind = %owner.kind, "the owner's kind is unknown");
            return Ok(Owner::Solid);
        };
        if resource.namespaced && node.key.namespace.is_empty() {
            // A cluster-scoped object cannot have an owner in a namespace.
            return Ok(Owner::Solid);
        }
        let path = resource.object(&node.key.namespace, &owner.name);
        let live = rest::found(rest::get_partial(&self.context.client, &path).await)?;
        match live.filter(|live| live.metadata.uid.as_deref() == Some(owner.uid.as_str())) {
            None => {
                let mut absent = self.absent.lock();
                if absent.len() >= ABSENT_MAX {
                    absent.clear();
                }
                absent.insert(owner.uid.clone());
                Ok(Owner::Absent)
            }
            Some(live) => {
                let meta = live.metadata;
                let waits = meta.deletion_timestamp.is_some()
                    && meta.finalizers.iter().flatten().any(|f| f == FOREGROUND);
                Ok(if waits { Owner::Waiting } else { Owner::Solid })
            }
        }
    }

    async fn set_owners(
        &self,
        node: &Node,
        live: &ObjectMeta,
        owners: &[OwnerReference],
    ) -> Result<(), kube::Error> {
        let owners = if owners.is_empty() { json!(null) } else { json!(owners) };
        self.patch(node, live, json!({"ownerReferences": owners})).await
    }

    async fn patch(
        &self,
        node: &Node,
        live: &ObjectMeta,
        mut meta: serde_json::Value,
    ) -> Result<(), kube::Error> {
        meta["uid"] = json!(node.uid);
        meta["resourceVersion"] = json!(live.resource_version);
        let body = json!({"metadata": meta});
        let (client, path) = (&self.context.client, Self::path(node));
        let patched = rest::patch::<rest::Ignored>(client, &path, rest::Patch::Merge, &body).await;
        rest::found(patched).map(|_| ())
    }

    async fn delete(
        &self,
        node: &Node,
        live: &ObjectMeta,
        propagation: rest::Propagation,
    ) -> Result<(), kube::Error> {
        tracing::debug!(object = %node.key, kind = %node.resource.kind, ?propagation,
            "deleting what nobody owns");
        let options = rest::Delete {
            uid: Some(node.uid.clone()),
            resource_version: live.resource_version.clone(),
            propagation: Some(propagation),
            ..rest::Delete::default()
        };
        let deleted = rest::delete(&self.context.client, &Self::path(node), &options).await;
        rest::found(deleted).map(|_| ())
    }

    async fn drop_finalizer(&self, node: &Node, finalizer: &str) -> Result<(), kube::Error> {
        let Some(live) = self.live(node).await? else { return Ok(()) };
        let mut left = live.finalizers.clone().unwrap_or_default();
        if !left.iter().any(|f| f == finalizer) {
            return Ok(());
        }
        left.retain(|f| f != finalizer);
        self.patch(node, &live, json!({"finalizers": left})).await
    }

    /// Lets the dependents go, then the owner.
    async fn orphan(&self, node: &Node, dependents: &[Arc<Node>]) -> Result<Outcome, kube::Error> {
        for dependent in dependents {
            let Some(live) = self.live(dependent).await? else { continue };
            let mut owners = live.owner_references.clone().unwrap_or_default();
            let before = owners.len();
            owners.retain(|owner| owner.uid != node.uid);
            if owners.len() != before {
                self.set_owners(dependent, &live, &owners).await?;
            }
        }
        self.drop_finalizer(node, ORPHAN).await?;
        Ok(Outcome::done())
    }
}
