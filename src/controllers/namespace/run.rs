//! The Namespace controller's loop.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;

use super::plan::{self, Content};
use crate::client::meta::Partial;
use crate::client::rest;
use crate::client::workqueue::{Outcome, WorkQueue};
use crate::controllers::context::{Context, quiet_conflict};
use crate::controllers::discovery::{self, Resource};

const WORKERS: usize = 4;
const FINALIZER: &str = "kubernetes";
/// How soon a namespace in which something remains is looked at again, at first.
const FIRST_LOOK: Duration = Duration::from_millis(100);

#[derive(Deserialize)]
struct Listed {
    items: Vec<Partial>,
}

struct Controller {
    context: Context,
    /// How often each namespace was found not to be empty yet.
    looks: Mutex<HashMap<String, u32>>,
}

/// Runs until the context's shutdown.
pub(crate) async fn run(context: Context) {
    let queue: WorkQueue<String> = WorkQueue::new(context.seed("namespace"));
    let to = queue.clone();
    context.informers.namespaces.on_change(move |change| {
        if change.new.is_none_or(|namespace| !namespace.active) {
            to.add(change.key.name.clone());
        }
    });
    let controller = Arc::new(Controller { looks: Mutex::default(), context: context.clone() });
    let reconcile = move |name: String| {
        let controller = controller.clone();
        async move { quiet_conflict(controller.reconcile(&name).await) }
    };
    queue.run("namespace", WORKERS, context.shutdown.clone(), reconcile).await;
}

impl Controller {
    async fn reconcile(&self, name: &str) -> Result<Outcome, kube::Error> {
        let client = &self.context.client;
        let path = rest::cluster_object::<core::Namespace>(name);
        let live = rest::found(rest::get::<core::Namespace>(client, &path).await)?;
        let Some(namespace) = live.filter(|live| live.metadata.deletion_timestamp.is_some()) else {
            self.looks.lock().remove(name);
            return Ok(Outcome::done());
        };
        let finalizers = namespace.spec.clone().unwrap_or_default().finalizers.unwrap_or_default();
        if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            return Ok(Outcome::done());
        }
        let status = namespace.status.clone().unwrap_or_default();
        if status.phase.as_deref() != Some("Terminating") {
            let body = json!({"metadata": {"uid": namespace.metadata.uid},
                "status": {"phase": "Terminating"}});
            self.patch_status(&path, &body).await?;
        }
        let found = discovery::discover(client).await?;
        let contents = self.empty(name, &found.resources).await;
        let old = status.conditions.clone().unwrap_or_default();
        let plan = plan::plan(&old, &found.failed, &contents, self.context.clock.now());
        if plan.finalize {
            self.looks.lock().remove(name);
            return self.finalize(&path, namespace).await;
        }
        if plan.conditions != old {
            let body = json!({"metadata": {"uid": namespace.metadata.uid},
                "status": {"conditions": plan.conditions}});
            self.patch_status(&path, &body).await?;
        }
        let look = {
            let mut looks = self.looks.lock();
            let look = looks.entry(name.to_owned()).or_default();
            *look += 1;
            *look
        };
        let wait = FIRST_LOOK.saturating_mul(1 << look.min(10));
        let most = Duration::from_secs(plan.wait_seconds.unsigned_abs());
        Ok(Outcome::again_in(wait.min(most)))
    }

    async fn patch_status(&self, path: &str, body: &serde_json::Value) -> Result<(), kube::Error> {
        let path = format!("{path}/status");
        let client = &self.context.client;
        let patched = rest::patch::<rest::Ignored>(client, &path, rest::Patch::Merge, body).await;
        rest::found(patched).map(|_| ())
    }

    async fn finalize(
        &self,
        path: &str,
        mut namespace: core::Namespace,
    ) -> Result<Outcome, kube::Error> {
        let spec = namespace.spec.get_or_insert_default();
        spec.finalizers.get_or_insert_default().retain(|finalizer| finalizer != FINALIZER);
        // Conditions written meanwhile have moved the version; the uid is guard enough.
        namespace.metadata = ObjectMeta {
            name: namespace.metadata.name.take(),
            uid: namespace.metadata.uid.take(),
            ..ObjectMeta::default()
        };
        let body = json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": namespace.metadata, "spec": {"finalizers":
                namespace.spec.and_then(|spec| spec.finalizers).unwrap_or_default()}});
        let client = &self.context.client;
        let answer =
            rest::replace::<rest::Ignored>(client, &format!("{path}/finalize"), &body).await;
        rest::found(answer).map(|_| Outcome::done())
    }

    /// Deletes what is in the namespace: the pods, and once they are gone all else, so that a pod
    /// never runs without what it was given (network policies, for one).
    async fn empty(&self, namespace: &str, resources: &[Resource]) -> Vec<Content> {
        let mine = |resource: &&Resource| resource.namespaced && resource.can(&["delete", "list"]);
        let is_pods = |resource: &Resource| resource.group.is_empty() && resource.plural == "pods";
        let mut contents = Vec::new();
        for resource in resources.iter().filter(mine).filter(|r| is_pods(r)) {
            contents.push(self.empty_of(namespace, resource).await);
        }
        if contents.iter().any(|content| content.remaining > 0 || content.error.is_some()) {
            return contents;
        }
        for resource in resources.iter().filter(mine).filter(|r| !is_pods(r)) {
            contents.push(self.empty_of(namespace, resource).await);
        }
        contents
    }

    async fn empty_of(&self, namespace: &str, resource: &Resource) -> Content {
        let mut content = Content { resource: resource.name(), ..Content::default() };
        if let Err(error) = self.delete_all(namespace, resource, &mut content).await {
            content.error = Some(error.to_string());
        }
        content
    }

    async fn delete_all(
        &self,
        namespace: &str,
        resource: &Resource,
        content: &mut Content,
    ) -> Result<(), kube::Error> {
        let client = &self.context.client;
        let path = resource.collection(namespace);
        let mut present = self.list(&path).await?;
        if present.is_empty() {
            return Ok(());
        }
        let options = rest::Delete {
            propagation: Some(rest::Propagation::Background),
            ..rest::Delete::default()
        };
        let whole = resource.can(&["deletecollection"]);
        let deleted = if whole { rest::delete(client, &path, &options).await } else { Ok(()) };
        match deleted {
            Ok(()) if whole => {}
            Err(error) if rest::code(&error) != Some(405) => return Err(error),
            _ => {
                for object in &present {
                    let name = object.metadata.name.as_deref().unwrap_or_default();
                    let path = resource.object(namespace, name);
                    rest::found(rest::delete(client, &path, &options).await)?;
                }
            }
        }
        present = self.list(&path).await?;
        content.remaining = present.len();
        let mut finalizers: BTreeMap<String, usize> = BTreeMap::new();
        for object in present {
            for finalizer in object.metadata.finalizers.into_iter().flatten() {
                *finalizers.entry(finalizer).or_default() += 1;
            }
            let grace = object.metadata.deletion_grace_period_seconds.unwrap_or(0);
            content.grace_seconds = content.grace_seconds.max(grace);
        }
        content.finalizers = finalizers;
        Ok(())
    }

    async fn list(&self, path: &str) -> Result<Vec<Partial>, kube::Error> {
        let request = Request::get(path)
            .header(http::header::ACCEPT, rest::ACCEPT_PARTIAL_LIST)
            .body(Vec::new())
            .map_err(kube::Error::HttpError)?;
        let listed: Result<Listed, _> = self.context.client.request(request).await;
        Ok(rest::found(listed)?.map(|listed| listed.items).unwrap_or_default())
    }
}
