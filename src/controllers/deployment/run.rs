//! The Deployment controller's loop.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::json;

use super::hash;
use super::plan::{self, Action, Observed, Plan};
use super::status;
use crate::client::events::{EventType, Recorder};
use crate::client::meta::{Key, controller_of, reference};
use crate::client::rest;
use crate::client::workqueue::{Outcome, WorkQueue};
use crate::controllers::context::{Context, quiet_conflict};
use crate::controllers::expectations::Expectations;
use crate::controllers::selector;
use crate::controllers::view::{POD_TEMPLATE_HASH, Templated, digest};

const WORKERS: usize = 5;

type Sets = Vec<Arc<Templated<ReplicaSet>>>;

struct Controller {
    context: Context,
    recorder: Recorder,
    /// Sets that were written and whose new state the informer does not show yet, by Deployment:
    /// sizes computed without them could add up to more than is allowed.
    expectations: Arc<Expectations>,
}

/// Runs until the context's shutdown.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new(context.seed("deployment"));
    let expectations = Arc::new(Expectations::default());
    watch(&context, &queue, &expectations);
    let recorder = context.recorder("deployment-controller");
    let controller = Arc::new(Controller { recorder, expectations, context: context.clone() });
    let reconcile = move |key: Key| {
        let controller = controller.clone();
        async move { quiet_conflict(controller.reconcile(&key).await) }
    };
    queue.run("deployment", WORKERS, context.shutdown.clone(), reconcile).await;
}

/// One state of a set.
fn version(name: &str, resource_version: &str) -> String {
    format!("{name}@{resource_version}")
}

fn watch(context: &Context, queue: &WorkQueue<Key>, expectations: &Arc<Expectations>) {
    let informers = &context.informers;
    let (to, gone) = (queue.clone(), expectations.clone());
    informers.deployments.on_change(move |change| {
        if let (Some(old), None) = (change.old, change.new) {
            gone.forget(old.object.metadata.uid.as_deref().unwrap_or_default());
        }
        to.add(change.key.clone());
    });
    let (to, deployments) = (queue.clone(), informers.deployments.clone());
    let seen = expectations.clone();
    informers.replica_sets.on_change(move |change| {
        for (set, is_new) in [(change.old, false), (change.new, true)] {
            let Some(set) = set else { continue };
            let meta = &set.object.metadata;
            if let Some(owner) = controller_of(meta) {
                if is_new {
                    seen.created(&owner.uid, &change.key.name);
                } else {
                    let old = meta.resource_version.as_deref().unwrap_or_default();
                    seen.deleted(&owner.uid, &version(&change.key.name, old));
                }
            }
            let namespace = meta.namespace.clone().unwrap_or_default();
            if let Some(owner) = controller_of(meta) {
                if owner.kind == "Deployment" {
                    to.add(Key::new(namespace, owner.name.clone()));
                }
                continue;
            }
            let labels = meta.labels.clone().unwrap_or_default();
            for deployment in deployments.indexed("namespace", &namespace) {
                if selector::matches(&deployment.object.spec.selector, &labels) {
                    to.add(Key::of(&deployment.object.metadata));
                }
            }
        }
    });
    // The end of a pod matters to Recreate alone, which waits for the old ones to be gone.
    let (to, sets) = (queue.clone(), informers.replica_sets.clone());
    informers.pods.on_change(move |change| {
        let (Some(pod), ended) = (change.old, change.new.is_none_or(|pod| pod.is_terminal()))
        else {
            return;
        };
        let Some(owner) =
            pod.controller.as_ref().filter(|owner| ended && owner.kind == "ReplicaSet")
        else {
            return;
        };
        let set = sets.get(&Key::new(pod.key.namespace.clone(), owner.name.clone()));
        let above = set.as_ref().and_then(|set| controller_of(&set.object.metadata));
        if let Some(deployment) = above.filter(|above| above.kind == "Deployment") {
            to.add(Key::new(pod.key.namespace.clone(), deployment.name.clone()));
        }
    });
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Outcome, kube::Error> {
        let informers = &self.context.informers;
        let Some(deployment) = informers.deployments.get(key) else {
            return Ok(Outcome::done());
        };
        let (sets, waits) = self.claim(key, &deployment).await?;
        if waits {
            // What was adopted or released shows soon, and then this is called again.
            return Ok(Outcome::done());
        }
        let uid = deployment.object.metadata.uid.as_deref().unwrap_or_default();
        if !self.expectations.satisfied(uid, self.context.clock.monotonic()) {
            return Ok(Outcome::done());
        }
        let running = |uid: &str| {
            let pods = informers.pods.indexed("controller", uid);
            pods.iter().filter(|pod| !pod.is_terminal()).count()
        };
        let observed = Observed { deployment: &deployment, sets, running: &running };
        let plan = plan::plan(observed, self.context.clock.now());
        self.act(key, &deployment, plan).await
    }

    /// The sets that the Deployment controls; adopts and releases, and tells whether it did.
    async fn claim(
        &self,
        key: &Key,
        deployment: &Templated<Deployment>,
    ) -> Result<(Sets, bool), kube::Error> {
        let informers = &self.context.informers;
        let meta = &deployment.object.metadata;
        let uid = meta.uid.clone().unwrap_or_default();
        let matches = |set: &Templated<ReplicaSet>| {
            let labels = set.object.metadata.labels.clone().unwrap_or_default();
            selector::matches(&deployment.object.spec.selector, &labels)
        };
        let (own, strange): (Sets, Sets) = informers
            .replica_sets
            .indexed("controller", &uid)
            .into_iter()
            .partition(|set| matches(set));
        let mut orphans = informers.replica_sets.indexed("orphan", &key.namespace);
        orphans.retain(|set| matches(set) && set.object.metadata.deletion_timestamp.is_none());
        if meta.deletion_timestamp.is_some() || (strange.is_empty() && orphans.is_empty()) {
            return Ok((own, false));
        }
        let path = rest::object::<Deployment>(&key.namespace, &key.name);
        let live: Deployment = rest::get(&self.context.client, &path).await?;
        if live.metadata.uid != meta.uid || live.metadata.deletion_timestamp.is_some() {
            return Ok((own, true));
        }
        for set in orphans {
            let body = json!({"metadata": {"uid": set.object.metadata.uid,
                "ownerReferences": [owner(&deployment.object)]}});
            self.patch_set(&set.object.metadata, rest::Patch::Strategic, &body).await?;
        }
        for set in strange {
            let body = json!({"metadata": {"uid": set.object.metadata.uid,
                "ownerReferences": [{"$patch": "delete", "uid": uid}]}});
            self.patch_set(&set.object.metadata, rest::Patch::Strategic, &body).await?;
        }
        Ok((own, true))
    }

    async fn patch_set(
        &self,
        meta: &ObjectMeta,
        kind: rest::Patch,
        body: &serde_json::Value,
    ) -> Result<(), kube::Error> {
        let key = Key::of(meta);
        let path = rest::object::<ReplicaSet>(&key.namespace, &key.name);
        rest::patch::<rest::Ignored>(&self.context.client, &path, kind, body).await.map(|_| ())
    }

    async fn act(
        &self,
        key: &Key,
        deployment: &Templated<Deployment>,
        mut plan: Plan,
    ) -> Result<Outcome, kube::Error> {
        let mut failed = None;
        for action in std::mem::take(&mut plan.actions) {
            if let Err(error) = self.one(key, deployment, action, &mut plan).await {
                failed = Some(error);
                break;
            }
        }
        let object = &deployment.object;
        let old = object.status.clone().unwrap_or_default();
        let path = rest::object::<Deployment>(&key.namespace, &key.name);
        // Without a resourceVersion: the annotation written above has moved it, and the status is
        // this controller's alone. The uid keeps it from a namesake.
        let written = self.write_status(&path, object, &old, &plan.status).await;
        match failed {
            Some(error) => Err(error),
            None => {
                rest::found(written)?;
                Ok(match plan.again_in {
                    Some(seconds) => Outcome::again_in(Duration::from_secs(seconds)),
                    None => Outcome::done(),
                })
            }
        }
    }

    async fn write_status(
        &self,
        path: &str,
        object: &Deployment,
        old: &k8s_openapi::api::apps::v1::DeploymentStatus,
        new: &k8s_openapi::api::apps::v1::DeploymentStatus,
    ) -> Result<(), kube::Error> {
        let value = |status| serde_json::to_value(status).map_err(kube::Error::SerdeError);
        let Some(change) = rest::merge_diff(&value(old)?, &value(new)?) else {
            return Ok(());
        };
        let body = json!({"metadata": {"uid": object.metadata.uid}, "status": change});
        let path = format!("{path}/status");
        let client = &self.context.client;
        rest::patch::<rest::Ignored>(client, &path, rest::Patch::Merge, &body).await.map(|_| ())
    }

    async fn one(
        &self,
        key: &Key,
        deployment: &Templated<Deployment>,
        action: Action,
        plan: &mut Plan,
    ) -> Result<(), kube::Error> {
        let client = &self.context.client;
        let uid = deployment.object.metadata.uid.as_deref().unwrap_or_default();
        match action {
            Action::Create { replicas, revision, annotations } => {
                let mut set = ReplicaSet::default();
                set.metadata.annotations = Some(annotations);
                self.create(key, deployment, set, replicas, revision, plan).await
            }
            Action::Change { name, resource_version, from, to, annotations, min_ready_seconds } => {
                let mut body = json!({"metadata": {"resourceVersion": resource_version}});
                if !annotations.is_empty() {
                    body["metadata"]["annotations"] = json!(annotations);
                }
                if let Some(to) = to {
                    body["spec"]["replicas"] = json!(to);
                }
                if let Some(seconds) = min_ready_seconds {
                    body["spec"]["minReadySeconds"] = json!(seconds);
                }
                let path = rest::object::<ReplicaSet>(&key.namespace, &name);
                let version = version(&name, &resource_version);
                self.expectations.deleting(uid, &version, self.context.clock.monotonic());
                let patched =
                    rest::patch::<rest::Ignored>(client, &path, rest::Patch::Merge, &body).await;
                if patched.is_err() {
                    self.expectations.deleted(uid, &version);
                }
                if rest::found(patched)?.is_some()
                    && let Some(to) = to
                {
                    self.told_scaling(&deployment.object, &name, from, to);
                }
                Ok(())
            }
            Action::Forget { name, uid, resource_version } => {
                let options = rest::Delete {
                    uid: Some(uid),
                    resource_version: Some(resource_version),
                    ..rest::Delete::default()
                };
                let path = rest::object::<ReplicaSet>(&key.namespace, &name);
                rest::found(rest::delete(client, &path, &options).await).map(|_| ())
            }
            Action::SetRevision(revision) => {
                let body = json!({"metadata": {"uid": deployment.object.metadata.uid,
                    "annotations": {super::history::REVISION: revision.to_string()}}});
                let path = rest::object::<Deployment>(&key.namespace, &key.name);
                let patched =
                    rest::patch::<rest::Ignored>(client, &path, rest::Patch::Merge, &body).await;
                rest::found(patched).map(|_| ())
            }
        }
    }

    fn told_scaling(&self, deployment: &Deployment, name: &str, from: i32, to: i32) {
        let direction = if to > from { "up" } else { "down" };
        self.recorder.event(
            &reference(deployment),
            EventType::Normal,
            "ScalingReplicaSet",
            format!("Scaled {direction} replica set {name} from {from} to {to}"),
        );
    }

    /// Makes the set of the Deployment's template as it is now.
    async fn create(
        &self,
        key: &Key,
        deployment: &Templated<Deployment>,
        mut set: ReplicaSet,
        replicas: i32,
        revision: i64,
        plan: &mut Plan,
    ) -> Result<(), kube::Error> {
        let client = &self.context.client;
        let path = rest::object::<Deployment>(&key.namespace, &key.name);
        let Some(live) = rest::found(rest::get::<Deployment>(client, &path).await)? else {
            return Ok(());
        };
        if live.metadata.uid != deployment.object.metadata.uid
            || digest(&live.spec.template) != deployment.digest
        {
            // The informer is behind; it will tell.
            return Ok(());
        }
        fill(&mut set, &live, replicas);
        let name = set.metadata.name.clone().unwrap_or_default();
        let sets = rest::collection::<ReplicaSet>(&key.namespace);
        let uid = deployment.object.metadata.uid.as_deref().unwrap_or_default();
        self.expectations.creating(uid, &name, self.context.clock.monotonic());
        let created = rest::create::<rest::Ignored>(client, &sets, &set).await;
        if created.is_err() {
            self.expectations.created(uid, &name);
        }
        match created {
            Ok(_) => {
                if replicas > 0 {
                    self.told_scaling(&deployment.object, &name, 0, replicas);
                }
                if status::deadline(&live).is_some() {
                    let message = format!("Created new replica set \"{name}\"");
                    let now = self.context.clock.now();
                    let made = status::condition(
                        "Progressing",
                        "True",
                        "NewReplicaSetCreated",
                        message,
                        now,
                    );
                    status::set_condition(&mut plan.status, made);
                }
                let set_revision = Action::SetRevision(revision);
                Box::pin(self.one(key, deployment, set_revision, plan)).await
            }
            Err(error) if rest::is_already_exists(&error) => {
                self.collided(key, deployment, &name, plan).await
            }
            Err(error) if rest::is_namespace_terminating(&error) => Ok(()),
            Err(error) => {
                let message = format!("Failed to create new replica set \"{name}\": {error}");
                let about = reference(&deployment.object);
                let (kind, reason) = (EventType::Warning, "ReplicaSetCreateError");
                self.recorder.event(&about, kind, reason, message.clone());
                let now = self.context.clock.now();
                let failed = status::condition("Progressing", "False", reason, message, now);
                status::set_condition(&mut plan.status, failed);
                Err(error)
            }
        }
    }

    /// A set of that name is there already: ours that the informer does not show yet, or another
    /// template's whose hash is the same; then the next try gets another name.
    async fn collided(
        &self,
        key: &Key,
        deployment: &Templated<Deployment>,
        name: &str,
        plan: &mut Plan,
    ) -> Result<(), kube::Error> {
        let path = rest::object::<ReplicaSet>(&key.namespace, name);
        let found = rest::found(rest::get::<ReplicaSet>(&self.context.client, &path).await)?;
        let Some(set) = found else { return Ok(()) };
        let owner = controller_of(&set.metadata).map(|owner| owner.uid.clone());
        let template = set.spec.template.unwrap_or_default();
        if owner == deployment.object.metadata.uid && digest(&template) == deployment.digest {
            return Ok(());
        }
        let count = plan.status.collision_count.unwrap_or(0) + 1;
        plan.status.collision_count = Some(count);
        tracing::info!(deployment = %key, set = name, count, "two templates have one hash");
        Ok(())
    }
}

fn owner(deployment: &Deployment) -> OwnerReference {
    OwnerReference {
        api_version: "apps/v1".to_owned(),
        kind: "Deployment".to_owned(),
        name: deployment.metadata.name.clone().unwrap_or_default(),
        uid: deployment.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Fills in what a set gets from its Deployment: name, labels, selector, template.
fn fill(set: &mut ReplicaSet, deployment: &Deployment, replicas: i32) {
    let spec = deployment.spec.clone();
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
    let hash = hash::hash(&spec.template, collisions);
    let mut template = spec.template;
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(POD_TEMPLATE_HASH.to_owned(), hash.clone());
    let mut selector = spec.selector;
    selector
        .match_labels
        .get_or_insert_default()
        .insert(POD_TEMPLATE_HASH.to_owned(), hash.clone());
    set.metadata.labels = Some(labels.clone());
    set.metadata.namespace = deployment.metadata.namespace.clone();
    let name = deployment.metadata.name.as_deref().unwrap_or_default();
    set.metadata.name = Some(format!("{name}-{hash}"));
    set.metadata.owner_references = Some(vec![owner(deployment)]);
    set.spec = ReplicaSetSpec {
        replicas: Some(replicas),
        min_ready_seconds: spec.min_ready_seconds,
        selector,
        template: Some(template),
    };
}
