//! The ReplicaSet controller's loop.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use parking_lot::Mutex;
use serde_json::json;

use super::plan::{self, Failure, Observed, Plan};
use crate::base::rng::Rng;
use crate::client::events::{EventType, Recorder};
use crate::client::meta::{Key, reference};
use crate::client::rest;
use crate::client::workqueue::{Outcome, WorkQueue};
use crate::controllers::context::{Context, quiet_conflict};
use crate::controllers::expectations::Expectations;
use crate::controllers::selector;
use crate::controllers::view::Pod;

/// Several sets at a time.
const WORKERS: usize = 8;
/// Requests in flight for one set.
const IN_FLIGHT: usize = 64;
/// How long a set is left alone after a reconcile, for each of its pods, so that a set whose pods
/// change all the time costs no more than a fraction of the time.
const HOLD_PER_POD: Duration = Duration::from_micros(20);

struct Controller {
    context: Context,
    recorder: Recorder,
    expectations: Arc<Expectations>,
    rng: Mutex<Rng>,
}

/// Runs until the context's shutdown.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new(context.seed("replicaset"));
    let expectations = Arc::new(Expectations::default());
    watch(&context, &queue, &expectations);
    let controller = Arc::new(Controller {
        recorder: context.recorder("replicaset-controller"),
        rng: Mutex::new(Rng::seeded(context.seed("pod names"))),
        expectations,
        context: context.clone(),
    });
    let reconcile = move |key: Key| {
        let controller = controller.clone();
        async move { quiet_conflict(controller.reconcile(&key).await) }
    };
    queue.run("replicaset", WORKERS, context.shutdown.clone(), reconcile).await;
}

fn watch(context: &Context, queue: &WorkQueue<Key>, expectations: &Arc<Expectations>) {
    let informers = &context.informers;
    let (sets_queue, gone) = (queue.clone(), expectations.clone());
    informers.replica_sets.on_change(move |change| {
        if let (Some(old), None) = (change.old, change.new) {
            gone.forget(old.object.metadata.uid.as_deref().unwrap_or_default());
        }
        sets_queue.add(change.key.clone());
    });
    let (queue, sets) = (queue.clone(), informers.replica_sets.clone());
    let expectations = expectations.clone();
    informers.pods.on_change(move |change| {
        for pod in [change.old, change.new].into_iter().flatten() {
            if let Some(owner) = owner_of(pod) {
                queue.add(Key::new(pod.key.namespace.clone(), owner.name.clone()));
            }
        }
        match (change.old.and_then(|pod| owner_of(pod)), change.new) {
            (_, Some(pod)) => {
                if let Some(owner) = owner_of(pod) {
                    expectations.created(&owner.uid, &pod.key.name);
                    if pod.deleting.is_some() {
                        expectations.deleted(&owner.uid, &pod.uid);
                    }
                } else if pod.controller.is_none() && pod.is_active() {
                    for set in sets.indexed("namespace", &pod.key.namespace) {
                        if selector::matches(&set.object.spec.selector, &pod.labels) {
                            queue.add(Key::of(&set.object.metadata));
                        }
                    }
                }
            }
            (Some(owner), None) => {
                let old = change.old.expect("the owner was read from it");
                expectations.deleted(&owner.uid, &old.uid);
            }
            (None, None) => {}
        }
    });
}

fn owner_of(pod: &Pod) -> Option<&OwnerReference> {
    pod.controller.as_ref().filter(|owner| owner.kind == "ReplicaSet")
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Outcome, kube::Error> {
        let informers = &self.context.informers;
        let Some(set) = informers.replica_sets.get(key) else {
            return Ok(Outcome::done());
        };
        let set = &set.object;
        let uid = set.metadata.uid.clone().unwrap_or_default();
        let now = self.context.clock.now();
        let mut pods = informers.pods.indexed("controller", &uid);
        pods.extend(informers.pods.indexed("orphan", &key.namespace));
        let related = self.related(set);
        let plan = self.plan(set, &pods, &related);
        self.claim(set, &plan).await?;
        let managed = self.expectations.satisfied(&uid, self.context.clock.monotonic())
            && set.metadata.deletion_timestamp.is_none();
        let failure = if managed { self.manage(set, &plan).await } else { Ok(None) };
        let (failure, error) = match failure {
            Ok(failure) => (failure, None),
            Err((failure, error)) => (Some(failure), Some(error)),
        };
        // Once more, without the pods that were just deleted.
        let plan = self.plan(set, &pods, &related);
        self.write_status(key, set, &plan, failure.as_ref(), managed).await?;
        if let Some(error) = error {
            return Err(error);
        }
        let hold = HOLD_PER_POD.saturating_mul(u32::try_from(pods.len()).unwrap_or(u32::MAX));
        let outcome = match plan::next_available(set, &plan, now) {
            Some(seconds) => Outcome::again_in(Duration::from_secs(seconds)),
            None => Outcome::done(),
        };
        Ok(outcome.holding(hold))
    }

    fn plan(&self, set: &ReplicaSet, pods: &[Arc<Pod>], related: &HashMap<String, usize>) -> Plan {
        let owner = set.metadata.uid.as_deref().unwrap_or_default();
        let leaving = |uid: &str| self.expectations.is_deleting(owner, uid);
        let observed = Observed { set, pods, related, leaving: &leaving };
        plan::plan(&observed, self.context.clock.now())
    }

    /// How many active pods of the sets with the same owner each node has.
    fn related(&self, set: &ReplicaSet) -> HashMap<String, usize> {
        let informers = &self.context.informers;
        let mut nodes = HashMap::new();
        let wanted = usize::try_from(plan::wanted(set)).unwrap_or(0);
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        if informers.pods.count("controller", uid) <= wanted {
            // Nothing will be deleted, so nobody asks.
            return nodes;
        }
        let owner = crate::client::meta::controller_of(&set.metadata).map(|o| o.uid.clone());
        let mut sets = match &owner {
            Some(owner) => informers.replica_sets.indexed("controller", owner),
            None => Vec::new(),
        };
        if sets.is_empty() {
            sets.extend(informers.replica_sets.get(&Key::of(&set.metadata)));
        }
        for set in sets {
            let uid = set.object.metadata.uid.as_deref().unwrap_or_default();
            for pod in informers.pods.indexed("controller", uid) {
                if pod.is_active() {
                    *nodes.entry(pod.node.clone()).or_default() += 1;
                }
            }
        }
        nodes
    }

    async fn claim(&self, set: &ReplicaSet, plan: &Plan) -> Result<(), kube::Error> {
        if plan.adopt.is_empty() && plan.release.is_empty() {
            return Ok(());
        }
        let client = &self.context.client;
        let key = Key::of(&set.metadata);
        let live: ReplicaSet =
            rest::get(client, &rest::object::<ReplicaSet>(&key.namespace, &key.name)).await?;
        if live.metadata.uid != set.metadata.uid || live.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        for pod in &plan.adopt {
            let body = json!({"metadata": {"uid": pod.uid, "ownerReferences": [owner(set)]}});
            self.patch_pod(pod, &body).await?;
        }
        for pod in &plan.release {
            let uid = set.metadata.uid.as_deref().unwrap_or_default();
            let body = json!({"metadata": {"uid": pod.uid,
                "ownerReferences": [{"$patch": "delete", "uid": uid}]}});
            self.patch_pod(pod, &body).await?;
        }
        Ok(())
    }

    async fn patch_pod(&self, pod: &Pod, body: &serde_json::Value) -> Result<(), kube::Error> {
        let path = rest::object::<core::Pod>(&pod.key.namespace, &pod.key.name);
        let patched =
            rest::patch::<rest::Ignored>(&self.context.client, &path, rest::Patch::Strategic, body);
        rest::found(patched.await).map(|_| ())
    }

    /// Creates and deletes pods. The error comes with what the status must say of it.
    async fn manage(
        &self,
        set: &ReplicaSet,
        plan: &Plan,
    ) -> Result<Option<Failure>, (Failure, kube::Error)> {
        if plan.create > 0 {
            return match self.create(set, plan.create).await {
                Ok(()) => Ok(None),
                Err(error) if rest::is_namespace_terminating(&error) => Ok(None),
                Err(error) => {
                    let message = message(&error);
                    Err((Failure { reason: "FailedCreate", message }, error))
                }
            };
        }
        match self.delete(set, &plan.delete).await {
            Ok(()) => Ok(None),
            Err(error) => {
                let message = message(&error);
                Err((Failure { reason: "FailedDelete", message }, error))
            }
        }
    }

    /// Creates pods in batches of 1, 2, 4, …: when the first ones are refused, so would all be.
    async fn create(&self, set: &ReplicaSet, count: usize) -> Result<(), kube::Error> {
        let key = Key::of(&set.metadata);
        let path = rest::object::<ReplicaSet>(&key.namespace, &key.name);
        let Some(live) = rest::found(rest::get::<ReplicaSet>(&self.context.client, &path).await)?
        else {
            return Ok(());
        };
        if live.metadata.uid != set.metadata.uid {
            return Ok(());
        }
        let template = template_pod(&live);
        let (mut left, mut batch) = (count, 1);
        while left > 0 {
            let size = batch.min(left);
            let results: Vec<_> = futures::stream::iter(0..size)
                .map(|_| self.create_one(&live, &template))
                .buffer_unordered(IN_FLIGHT)
                .collect()
                .await;
            if let Some(error) = results.into_iter().find_map(Result::err) {
                return Err(error);
            }
            left -= size;
            batch *= 2;
        }
        Ok(())
    }

    async fn create_one(
        &self,
        set: &ReplicaSet,
        template: &serde_json::Value,
    ) -> Result<(), kube::Error> {
        let (key, owner) =
            (Key::of(&set.metadata), set.metadata.uid.as_deref().unwrap_or_default());
        let path = rest::collection::<core::Pod>(&key.namespace);
        loop {
            // The name is chosen here, so that it can be expected before the request goes out.
            let prefix = template["metadata"]["generateName"].as_str().unwrap_or_default();
            let name = format!("{prefix}{}", self.rng.lock().suffix(5));
            let mut pod = template.clone();
            pod["metadata"]["name"] = json!(name);
            self.expectations.creating(owner, &name, self.context.clock.monotonic());
            match rest::create::<rest::Ignored>(&self.context.client, &path, &pod).await {
                Ok(_) => {
                    self.recorder.event(
                        &reference(set),
                        EventType::Normal,
                        "SuccessfulCreate",
                        format!("Created pod: {name}"),
                    );
                    return Ok(());
                }
                Err(error) => {
                    self.expectations.created(owner, &name);
                    if rest::is_already_exists(&error) {
                        continue;
                    }
                    if !rest::is_namespace_terminating(&error) {
                        let told = format!("Error creating: {}", message(&error));
                        self.recorder.event(
                            &reference(set),
                            EventType::Warning,
                            "FailedCreate",
                            told,
                        );
                    }
                    return Err(error);
                }
            }
        }
    }

    async fn delete(&self, set: &ReplicaSet, pods: &[Arc<Pod>]) -> Result<(), kube::Error> {
        let results: Vec<_> = futures::stream::iter(pods.iter().cloned())
            .map(|pod| self.delete_one(set, pod))
            .buffer_unordered(IN_FLIGHT)
            .collect()
            .await;
        results.into_iter().collect()
    }

    async fn delete_one(&self, set: &ReplicaSet, pod: Arc<Pod>) -> Result<(), kube::Error> {
        let owner = set.metadata.uid.as_deref().unwrap_or_default();
        self.expectations.deleting(owner, &pod.uid, self.context.clock.monotonic());
        let path = rest::object::<core::Pod>(&pod.key.namespace, &pod.key.name);
        let options = rest::Delete::uid(&pod.uid);
        match rest::delete(&self.context.client, &path, &options).await {
            Ok(()) => {
                self.recorder.event(
                    &reference(set),
                    EventType::Normal,
                    "SuccessfulDelete",
                    format!("Deleted pod: {}", pod.key.name),
                );
                Ok(())
            }
            Err(error) => {
                self.expectations.deleted(owner, &pod.uid);
                if rest::is_not_found(&error) || rest::is_conflict(&error) {
                    return Ok(());
                }
                let told = format!("Error deleting: {}", message(&error));
                self.recorder.event(&reference(set), EventType::Warning, "FailedDelete", told);
                Err(error)
            }
        }
    }

    async fn write_status(
        &self,
        key: &Key,
        set: &ReplicaSet,
        plan: &Plan,
        failure: Option<&Failure>,
        managed: bool,
    ) -> Result<(), kube::Error> {
        let status = plan::status(set, plan, failure, managed, self.context.clock.now());
        let old = set.status.clone().unwrap_or_default();
        if old == status {
            return Ok(());
        }
        let path = rest::object::<ReplicaSet>(&key.namespace, &key.name);
        let version = set.metadata.resource_version.as_deref();
        let written = rest::patch_status(&self.context.client, &path, version, &old, &status);
        rest::found(written.await).map(|_| ())
    }
}

/// What the server said, without the client's words around it.
fn message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

fn owner(set: &ReplicaSet) -> OwnerReference {
    OwnerReference {
        api_version: "apps/v1".to_owned(),
        kind: "ReplicaSet".to_owned(),
        name: set.metadata.name.clone().unwrap_or_default(),
        uid: set.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// A pod as the set's template says, still without a name.
fn template_pod(set: &ReplicaSet) -> serde_json::Value {
    let template = set.spec.template.clone().unwrap_or_default();
    let meta = template.metadata.unwrap_or_default();
    let mut prefix = format!("{}-", set.metadata.name.as_deref().unwrap_or_default());
    // Kubernetes keeps generated names within 63 characters.
    prefix.truncate(63 - 5);
    let pod = core::Pod {
        metadata: ObjectMeta {
            namespace: set.metadata.namespace.clone(),
            generate_name: Some(prefix),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner(set)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    };
    serde_json::to_value(pod).expect("a pod is valid JSON")
}
