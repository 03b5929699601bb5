//! Writing pods in the name of the object that controls them: created, deleted, adopted, released.
//!
//! Every controller that makes pods does it through [`PodWriter`], so that all of them note in
//! [`Expectations`] what they are about to do and tell the same events.

use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{self as core, ObjectReference, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::context::Context;
use super::expectations::Expectations;
use super::view::Pod;
use crate::base::rng::Rng;
use crate::client::events::{EventType, Recorder};
use crate::client::meta::{Key, Partial};
use crate::client::rest;
use crate::client::workqueue::WorkQueue;

/// Requests in flight for one owner.
const IN_FLIGHT: usize = 64;
/// Kubernetes keeps generated names within 63 characters.
const PREFIX_MAX: usize = 63 - 5;

/// The object in whose name pods are written.
#[derive(Debug, Clone)]
pub struct Owner {
    pub key: Key,
    pub uid: String,
    api_version: &'static str,
    kind: &'static str,
    /// Where the object itself is.
    path: String,
}

impl Owner {
    /// The owner with this metadata.
    pub fn of<K>(meta: &ObjectMeta) -> Self
    where
        K: k8s_openapi::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    {
        let key = Key::of(meta);
        Self {
            uid: meta.uid.clone().unwrap_or_default(),
            api_version: K::API_VERSION,
            kind: K::KIND,
            path: rest::object::<K>(&key.namespace, &key.name),
            key,
        }
    }

    /// What its pods carry.
    pub fn reference(&self) -> OwnerReference {
        OwnerReference {
            api_version: self.api_version.to_owned(),
            kind: self.kind.to_owned(),
            name: self.key.name.clone(),
            uid: self.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }

    /// What events are about.
    pub fn about(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some(self.api_version.to_owned()),
            kind: Some(self.kind.to_owned()),
            namespace: Some(self.key.namespace.clone()),
            name: Some(self.key.name.clone()),
            uid: Some(self.uid.clone()),
            ..ObjectReference::default()
        }
    }

    /// Whether the object is still there, the same one, and not being deleted: what is adopted in
    /// its name is not, on an informer's word alone.
    pub async fn is_alive(&self, client: &kube::Client) -> Result<bool, kube::Error> {
        let found: Option<Partial> = rest::found(rest::get_partial(client, &self.path).await)?;
        Ok(found.is_some_and(|live| {
            live.metadata.uid.as_deref() == Some(self.uid.as_str())
                && live.metadata.deletion_timestamp.is_none()
        }))
    }
}

/// A pod as a template says, controlled by `owner`, still without a name.
pub fn from_template(owner: &Owner, template: PodTemplateSpec) -> core::Pod {
    let meta = template.metadata.unwrap_or_default();
    core::Pod {
        metadata: ObjectMeta {
            namespace: Some(owner.key.namespace.clone()),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner.reference()]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

/// What the server said, without the client's words around it.
pub fn message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Writes pods for one controller; clones share it.
#[derive(Clone)]
pub struct PodWriter {
    pub context: Context,
    pub recorder: Recorder,
    pub expectations: Arc<Expectations>,
    rng: Arc<Mutex<Rng>>,
}

impl PodWriter {
    /// A writer in the name of `component`, as `job-controller`.
    pub fn new(context: &Context, component: &str) -> Self {
        Self {
            recorder: context.recorder(component),
            expectations: Arc::new(Expectations::default()),
            rng: Arc::new(Mutex::new(Rng::seeded(context.seed(component)))),
            context: context.clone(),
        }
    }

    /// Whether everything that was written for `owner` has shown.
    pub fn is_settled(&self, owner: &Owner) -> bool {
        self.expectations.satisfied(&owner.uid, self.context.clock.monotonic())
    }

    /// Creates `pod` under its own name and tells it. `Ok(false)`: one of that name is there.
    ///
    /// # Errors
    /// What the server answered; it has been told as an event.
    pub async fn create(&self, owner: &Owner, pod: &Value) -> Result<bool, kube::Error> {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let path = rest::collection::<core::Pod>(&owner.key.namespace);
        self.expectations.creating(&owner.uid, name, self.context.clock.monotonic());
        match rest::create::<rest::Ignored>(&self.context.client, &path, pod).await {
            Ok(_) => {
                let told = format!("Created pod: {name}");
                self.recorder.event(&owner.about(), EventType::Normal, "SuccessfulCreate", told);
                Ok(true)
            }
            Err(error) => {
                self.expectations.created(&owner.uid, name);
                if rest::is_already_exists(&error) {
                    return Ok(false);
                }
                if !rest::is_namespace_terminating(&error) {
                    let told = format!("Error creating: {}", message(&error));
                    self.recorder.event(&owner.about(), EventType::Warning, "FailedCreate", told);
                }
                Err(error)
            }
        }
    }

    /// Creates `pod` under a name that begins with `prefix`.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub async fn create_named(
        &self,
        owner: &Owner,
        prefix: &str,
        mut pod: Value,
    ) -> Result<(), kube::Error> {
        let prefix = &prefix[..prefix.len().min(PREFIX_MAX)];
        pod["metadata"]["generateName"] = json!(prefix);
        loop {
            // The name is chosen here, so that it can be expected before the request goes out.
            pod["metadata"]["name"] = json!(format!("{prefix}{}", self.rng.lock().suffix(5)));
            if self.create(owner, &pod).await? {
                return Ok(());
            }
        }
    }

    /// Creates pods, each under a name that begins with its prefix, in batches of 1, 2, 4, …:
    /// when the first ones are refused, so would all be. Returns how many were created.
    pub async fn create_all(
        &self,
        owner: &Owner,
        pods: Vec<(String, Value)>,
    ) -> (usize, Result<(), kube::Error>) {
        let (mut pods, mut created, mut batch) = (pods.into_iter(), 0, 1);
        loop {
            let size = pods.len().min(batch);
            if size == 0 {
                return (created, Ok(()));
            }
            let results: Vec<_> = futures::stream::iter(pods.by_ref().take(size))
                .map(async |(prefix, pod)| self.create_named(owner, &prefix, pod).await)
                .buffer_unordered(IN_FLIGHT)
                .collect()
                .await;
            created += results.iter().filter(|result| result.is_ok()).count();
            if let Some(error) = results.into_iter().find_map(Result::err) {
                return (created, Err(error));
            }
            batch *= 2;
        }
    }

    /// Deletes the pod of that uid, and tells it.
    ///
    /// # Errors
    /// What the server answered; it has been told as an event. That the pod is gone is none.
    pub async fn delete(&self, owner: &Owner, pod: &Pod) -> Result<(), kube::Error> {
        self.expectations.deleting(&owner.uid, &pod.uid, self.context.clock.monotonic());
        let path = rest::object::<core::Pod>(&pod.key.namespace, &pod.key.name);
        let options = rest::Delete::uid(&pod.uid);
        match rest::delete(&self.context.client, &path, &options).await {
            Ok(()) => {
                let told = format!("Deleted pod: {}", pod.key.name);
                self.recorder.event(&owner.about(), EventType::Normal, "SuccessfulDelete", told);
                Ok(())
            }
            Err(error) => {
                self.expectations.deleted(&owner.uid, &pod.uid);
                if rest::is_not_found(&error) || rest::is_conflict(&error) {
                    return Ok(());
                }
                let told = format!("Error deleting: {}", message(&error));
                self.recorder.event(&owner.about(), EventType::Warning, "FailedDelete", told);
                Err(error)
            }
        }
    }

    /// Deletes pods, several at a time. Returns how many went, and the first error.
    pub async fn delete_all(
        &self,
        owner: &Owner,
        pods: &[Arc<Pod>],
    ) -> (usize, Result<(), kube::Error>) {
        let results: Vec<_> = futures::stream::iter(pods.iter().cloned())
            .map(async |pod| self.delete(owner, &pod).await)
            .buffer_unordered(IN_FLIGHT)
            .collect()
            .await;
        let deleted = results.iter().filter(|result| result.is_ok()).count();
        (deleted, results.into_iter().collect())
    }

    /// Takes pods that nobody controls, and lets go of others.
    ///
    /// `finalizer` is put on what is taken and off what is let go.
    ///
    /// # Errors
    /// What the server answered.
    pub async fn claim(
        &self,
        owner: &Owner,
        adopt: &[Arc<Pod>],
        release: &[Arc<Pod>],
        finalizer: Option<&str>,
    ) -> Result<(), kube::Error> {
        if (adopt.is_empty() && release.is_empty()) || !owner.is_alive(&self.context.client).await?
        {
            return Ok(());
        }
        for pod in adopt {
            let mut body =
                json!({"metadata": {"uid": pod.uid, "ownerReferences": [owner.reference()]}});
            if let Some(finalizer) = finalizer {
                body["metadata"]["finalizers"] = json!([finalizer]);
            }
            self.patch(pod, &body).await?;
        }
        for pod in release {
            let mut body = json!({"metadata": {"uid": pod.uid,
                "ownerReferences": [{"$patch": "delete", "uid": owner.uid}]}});
            if let Some(finalizer) = finalizer {
                body["metadata"]["$deleteFromPrimitiveList/finalizers"] = json!([finalizer]);
            }
            self.patch(pod, &body).await?;
        }
        Ok(())
    }

    /// Patches a pod; that it is gone is no error.
    ///
    /// # Errors
    /// What the server answered.
    pub async fn patch(&self, pod: &Pod, body: &Value) -> Result<(), kube::Error> {
        let path = rest::object::<core::Pod>(&pod.key.namespace, &pod.key.name);
        let patched =
            rest::patch::<rest::Ignored>(&self.context.client, &path, rest::Patch::Strategic, body);
        rest::found(patched.await).map(|_| ())
    }
}

/// Queues the owner of every pod that changes, and tells the expectations what shows. `kind` is
/// the owners' kind; `matching` finds those that may want a pod that nobody controls.
pub fn watch(
    writer: &PodWriter,
    queue: &WorkQueue<Key>,
    kind: &'static str,
    matching: impl Fn(&Pod) -> Vec<Key> + Send + Sync + 'static,
) {
    let owner_of =
        move |pod: &Pod| pod.controller.as_ref().filter(|owner| owner.kind == kind).cloned();
    let (queue, expectations) = (queue.clone(), writer.expectations.clone());
    writer.context.informers.pods.on_change(move |change| {
        for pod in [change.old, change.new].into_iter().flatten() {
            if let Some(owner) = owner_of(pod) {
                queue.add(Key::new(pod.key.namespace.clone(), owner.name));
            }
        }
        match (change.old, change.new) {
            (_, Some(pod)) => {
                if let Some(owner) = owner_of(pod) {
                    expectations.created(&owner.uid, &pod.key.name);
                    if pod.deleting.is_some() {
                        expectations.deleted(&owner.uid, &pod.uid);
                    }
                } else if pod.controller.is_none() && pod.is_active() {
                    for key in matching(pod) {
                        queue.add(key);
                    }
                }
            }
            (Some(old), None) => {
                if let Some(owner) = owner_of(old) {
                    expectations.deleted(&owner.uid, &old.uid);
                }
            }
            (None, None) => {}
        }
    });
}
