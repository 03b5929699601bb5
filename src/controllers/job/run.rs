//! The Job controller's loop, and who lets pods go whose Job is gone.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::{self as core, EnvVar, EnvVarSource, ObjectFieldSelector};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::backoff::Failures;
use super::plan::{self, NewPod, Observed, Plan, is_finished, is_suspended};
use super::status::{self, Done, Recorded};
use super::{FAILURES, FINALIZER, IGNORED, INDEX, MANAGED_BY};
use crate::client::meta::{Key, Partial};
use crate::client::rest;
use crate::client::workqueue::{Outcome, WorkQueue};
use crate::controllers::context::{Context, quiet_conflict};
use crate::controllers::expectations::Written;
use crate::controllers::pods::{self, Owner, PodWriter};
use crate::controllers::selector;
use crate::controllers::view::Pod;

const WORKERS: usize = 5;
/// Finalizers that are removed at a time.
const IN_FLIGHT: usize = 64;

struct Controller {
    writer: PodWriter,
    /// The failures of each Job since its last success, by uid. Lost with the process: then the
    /// backoff begins anew, as in Kubernetes.
    failures: Mutex<HashMap<String, Failures>>,
    /// The last status written: the counting must not start from an older one.
    written: Written,
}

/// Runs until the context's shutdown.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new(context.seed("job"));
    let orphans = WorkQueue::new(context.seed("job orphans"));
    let controller = Arc::new(Controller {
        writer: PodWriter::new(&context, "job-controller"),
        failures: Mutex::default(),
        written: Written::default(),
    });
    watch(&controller, &queue, &orphans);
    let reconcile = {
        let controller = controller.clone();
        move |key: Key| {
            let controller = controller.clone();
            async move { quiet_conflict(controller.reconcile(&key).await) }
        }
    };
    let let_go = move |key: Key| {
        let controller = controller.clone();
        async move { quiet_conflict(controller.let_go(&key).await) }
    };
    tokio::join!(
        queue.run("job", WORKERS, context.shutdown.clone(), reconcile),
        orphans.run("job orphans", 1, context.shutdown.clone(), let_go),
    );
}

fn is_tracked(pod: &Pod) -> bool {
    pod.job.as_ref().is_some_and(|job| job.tracked)
}

/// What the removal of a pod's finalizer is noted under.
fn removal(pod: &Pod) -> String {
    format!("finalizer of {}", pod.uid)
}

fn watch(controller: &Arc<Controller>, queue: &WorkQueue<Key>, orphans: &WorkQueue<Key>) {
    let writer = &controller.writer;
    let informers = &writer.context.informers;
    let (to, of, orphaned) = (queue.clone(), controller.clone(), orphans.clone());
    let pods_of = informers.pods.clone();
    informers.jobs.on_change(move |change| {
        let gone = change.new.is_none();
        if let Some(job) = change.new.or(change.old)
            && (gone || is_finished(&job.object))
        {
            let uid = job.object.metadata.uid.as_deref().unwrap_or_default();
            of.failures.lock().remove(uid);
            of.written.forget(&job.object.metadata);
            if gone {
                of.writer.expectations.forget(uid);
            }
            for pod in pods_of.indexed("controller", uid) {
                if is_tracked(&pod) {
                    orphaned.add(pod.key.clone());
                }
            }
        }
        to.add(change.key.clone());
    });
    let jobs = informers.jobs.clone();
    pods::watch(writer, queue, "Job", move |pod| {
        let mut wanted = jobs.indexed("namespace", &pod.key.namespace);
        wanted.retain(|job| {
            let selector = plan::spec_of(&job.object).selector.as_ref();
            selector.is_some_and(|selector| selector::matches(selector, &pod.labels))
        });
        wanted.iter().map(|job| Key::of(&job.object.metadata)).collect()
    });
    let (to, expectations, jobs) =
        (orphans.clone(), writer.expectations.clone(), informers.jobs.clone());
    informers.pods.on_change(move |change| {
        let Some(pod) = change.new.or(change.old) else { return };
        let owner = pod.controller.as_ref();
        if change.new.is_some() && is_tracked(pod) {
            let job =
                owner.and_then(|o| jobs.get(&Key::new(pod.key.namespace.clone(), o.name.clone())));
            if job.is_none_or(|job| is_finished(&job.object)) {
                to.add(pod.key.clone());
            }
        } else if let Some(owner) = owner {
            expectations.deleted(&owner.uid, &removal(pod));
        }
    });
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Outcome, kube::Error> {
        let context = &self.writer.context;
        let informers = &context.informers;
        let Some(job) = informers.jobs.get(key) else {
            return Ok(Outcome::done());
        };
        let job = &job.object;
        let managed_by = plan::spec_of(job).managed_by.as_deref();
        if managed_by.is_some_and(|name| name != MANAGED_BY) || is_finished(job) {
            return Ok(Outcome::done());
        }
        let owner = Owner::of::<Job>(&job.metadata);
        if self.written.is_ahead(&job.metadata) || !self.writer.is_settled(&owner) {
            // What was written shows soon, and then this is called again.
            return Ok(Outcome::done());
        }
        let mut pods = informers.pods.indexed("controller", &owner.uid);
        pods.extend(informers.pods.indexed("orphan", &key.namespace));
        let failures = self.failures.lock().get(&owner.uid).copied().unwrap_or_default();
        let observed = Observed { job, pods: &pods, failures };
        let plan = plan::plan(&observed, context.clock.now());
        self.writer.claim(&owner, &plan.adopt, &plan.release, Some(FINALIZER)).await?;
        let (done, result) = self.act(&owner, &plan).await;
        let recorded = status::record(job, &plan, done, context.clock.now());
        self.count(&owner, job, &plan, recorded).await?;
        result?;
        Ok(match plan.again_in {
            Some(delay) => Outcome::again_in(delay),
            None => Outcome::done(),
        })
    }

    /// Creates and deletes pods; tells how many it did, whatever failed.
    async fn act(&self, owner: &Owner, plan: &Plan) -> (Done, Result<(), kube::Error>) {
        let (deleted, result) = self.writer.delete_all(owner, &plan.delete).await;
        if plan.create.is_empty() || result.is_err() {
            return (Done { created: 0, deleted }, result);
        }
        match self.create(owner, &plan.create).await {
            Ok((created, result)) => (Done { created, deleted }, result),
            Err(error) => (Done { created: 0, deleted }, Err(error)),
        }
    }

    async fn create(
        &self,
        owner: &Owner,
        pods: &[NewPod],
    ) -> Result<(usize, Result<(), kube::Error>), kube::Error> {
        let path = rest::object::<Job>(&owner.key.namespace, &owner.key.name);
        let client = &self.writer.context.client;
        let Some(live) = rest::found(rest::get::<Job>(client, &path).await)? else {
            return Ok((0, Ok(())));
        };
        let same = live.metadata.uid.as_deref() == Some(owner.uid.as_str());
        if !same || is_suspended(plan::spec_of(&live)) || live.metadata.deletion_timestamp.is_some()
        {
            return Ok((0, Ok(())));
        }
        let made = pods.iter().map(|new| {
            let prefix = match new.index {
                Some(index) => format!("{}-{index}-", owner.key.name),
                None => format!("{}-", owner.key.name),
            };
            (prefix, pod_of(owner, &live, new))
        });
        let (created, result) = self.writer.create_all(owner, made.collect()).await;
        let result = match result {
            Err(error) if rest::is_namespace_terminating(&error) => Ok(()),
            result => result,
        };
        Ok((created, result))
    }

    /// Counts what ended: notes it in the status, removes finalizers, counts it.
    async fn count(
        &self,
        owner: &Owner,
        job: &Job,
        plan: &Plan,
        recorded: Recorded,
    ) -> Result<(), kube::Error> {
        let context = &self.writer.context;
        let old = job.status.clone().unwrap_or_default();
        let mut version = job.metadata.resource_version.clone();
        let mut left: HashSet<String> =
            plan.own.iter().filter(|pod| is_tracked(pod)).map(|pod| pod.uid.clone()).collect();
        let mut last = old.clone();
        if !recorded.counted.is_empty() {
            if recorded.status != last {
                version = self.write(owner, version, &last, &recorded.status).await?;
                last = recorded.status.clone();
            }
            for uid in self.remove_finalizers(owner, &recorded.counted).await {
                left.remove(&uid);
            }
        }
        self.failures.lock().insert(owner.uid.clone(), plan.failures);
        let new = status::settle(&recorded, &left, context.clock.now());
        if new != last {
            self.write(owner, version, &last, &new).await?;
        }
        for (kind, reason, message) in status::told(&old, &new) {
            self.writer.recorder.event(&owner.about(), kind, &reason, message);
        }
        if recorded.counted.iter().any(|pod| left.contains(&pod.uid)) {
            tracing::debug!(job = %owner.key, "finalizers are left to remove");
        }
        Ok(())
    }

    /// Writes a status; returns the resourceVersion that it got.
    async fn write(
        &self,
        owner: &Owner,
        version: Option<String>,
        old: &JobStatus,
        new: &JobStatus,
    ) -> Result<Option<String>, kube::Error> {
        let value = |status| serde_json::to_value(status).map_err(kube::Error::SerdeError);
        let change = rest::merge_diff(&value(old)?, &value(new)?);
        let body = json!({"metadata": {"resourceVersion": version}, "status": change});
        let path = rest::object::<Job>(&owner.key.namespace, &owner.key.name);
        let path = format!("{path}/status");
        let client = &self.writer.context.client;
        let written: Partial = rest::patch(client, &path, rest::Patch::Merge, &body).await?;
        let version = written.metadata.resource_version;
        self.written.note(&owner.uid, version.as_deref());
        Ok(version)
    }

    /// Removes the finalizers of counted pods; returns the uids of those that have none now.
    async fn remove_finalizers(&self, owner: &Owner, pods: &[Arc<Pod>]) -> Vec<String> {
        let now = self.writer.context.clock.monotonic();
        let removed: Vec<Option<String>> = futures::stream::iter(pods.iter().cloned())
            .map(async |pod| {
                let removal = removal(&pod);
                self.writer.expectations.deleting(&owner.uid, &removal, now);
                match self.remove_finalizer(&pod).await {
                    Ok(()) => Some(pod.uid.clone()),
                    Err(error) => {
                        self.writer.expectations.deleted(&owner.uid, &removal);
                        tracing::info!(pod = %pod.key, %error, "a finalizer was not removed");
                        None
                    }
                }
            })
            .buffer_unordered(IN_FLIGHT)
            .collect()
            .await;
        removed.into_iter().flatten().collect()
    }

    async fn remove_finalizer(&self, pod: &Pod) -> Result<(), kube::Error> {
        let body = json!({"metadata": {"uid": pod.uid,
            "$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
        match self.writer.patch(pod, &body).await {
            // Another pod of that name: this one is gone.
            Err(error) if rest::is_conflict(&error) => {
                let path = rest::object::<core::Pod>(&pod.key.namespace, &pod.key.name);
                let live = rest::get_partial(&self.writer.context.client, &path).await;
                match rest::found(live)? {
                    Some(live) if live.metadata.uid.as_deref() == Some(&pod.uid) => Err(error),
                    _ => Ok(()),
                }
            }
            result => result,
        }
    }

    /// Removes the finalizer of a pod whose Job is gone or over, which nobody will count.
    async fn let_go(&self, key: &Key) -> Result<Outcome, kube::Error> {
        let context = &self.writer.context;
        let Some(pod) = context.informers.pods.get(key).filter(|pod| is_tracked(pod)) else {
            return Ok(Outcome::done());
        };
        if let Some(owner) = pod.controller.as_ref().filter(|owner| owner.kind == "Job") {
            // Asks the server itself: an informer that is behind must not cost a count.
            let path = rest::object::<Job>(&key.namespace, &owner.name);
            let live = rest::found(rest::get::<Job>(&context.client, &path).await)?;
            if live.is_some_and(|job| {
                job.metadata.uid.as_deref() == Some(&owner.uid) && !is_finished(&job)
            }) {
                return Ok(Outcome::done());
            }
        }
        self.remove_finalizer(&pod).await?;
        Ok(Outcome::done())
    }
}

/// A pod of the Job, still without a name.
fn pod_of(owner: &Owner, job: &Job, new: &NewPod) -> Value {
    let mut pod = pods::from_template(owner, plan::spec_of(job).template.clone());
    let meta = &mut pod.metadata;
    let finalizers = meta.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
        finalizers.push(FINALIZER.to_owned());
    }
    if let Some(index) = new.index {
        let text = index.to_string();
        meta.labels.get_or_insert_default().insert(INDEX.to_owned(), text.clone());
        let annotations = meta.annotations.get_or_insert_default();
        annotations.insert(INDEX.to_owned(), text);
        if let Some((failures, ignored)) = new.failures {
            annotations.insert(FAILURES.to_owned(), failures.to_string());
            if plan::spec_of(job).pod_failure_policy.is_some() {
                annotations.insert(IGNORED.to_owned(), ignored.to_string());
            }
        }
        if let Some(spec) = &mut pod.spec {
            let mut hostname = format!("{}-{index}", owner.key.name);
            hostname.truncate(63);
            spec.hostname.get_or_insert(hostname);
            let containers = spec.init_containers.iter_mut().flatten();
            for container in containers.chain(&mut spec.containers) {
                tell_index(container.env.get_or_insert_default());
            }
        }
    }
    serde_json::to_value(pod).expect("a pod is valid JSON")
}

/// `JOB_COMPLETION_INDEX`, where the template does not set it.
fn tell_index(env: &mut Vec<EnvVar>) {
    const NAME: &str = "JOB_COMPLETION_INDEX";
    if env.iter().any(|var| var.name == NAME) {
        return;
    }
    let field = ObjectFieldSelector {
        field_path: format!("metadata.labels['{INDEX}']"),
        ..ObjectFieldSelector::default()
    };
    env.push(EnvVar {
        name: NAME.to_owned(),
        value_from: Some(EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() }),
        ..EnvVar::default()
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_indexed_pod_carries_its_index_everywhere_a_program_may_look() {
        let job: Job = serde_json::from_value(json!({
            "metadata": {"name": "sum", "namespace": "default", "uid": "u"},
            "spec": {"completionMode": "Indexed", "completions": 3, "backoffLimitPerIndex": 1,
                "template": {"metadata": {"labels": {"a": "b"}}, "spec": {
                    "initContainers": [{"name": "i"}],
                    "containers": [{"name": "c", "env": [
                        {"name": "JOB_COMPLETION_INDEX", "value": "own"}]}]}}}}))
        .expect("a Job");
        let owner = Owner::of::<Job>(&job.metadata);
        let new = NewPod { index: Some(2), failures: Some((1, 0)) };
        let pod = pod_of(&owner, &job, &new);
        assert_eq!(pod["metadata"]["annotations"][INDEX], "2");
        assert_eq!(pod["metadata"]["labels"][INDEX], "2");
        assert_eq!(pod["metadata"]["annotations"][FAILURES], "1");
        assert_eq!(pod["metadata"]["finalizers"], json!([FINALIZER]));
        assert_eq!(pod["spec"]["hostname"], "sum-2");
        let init = &pod["spec"]["initContainers"][0]["env"][0];
        assert_eq!(
            init["valueFrom"]["fieldRef"]["fieldPath"],
            format!("metadata.labels['{INDEX}']")
        );
        assert_eq!(pod["spec"]["containers"][0]["env"][0]["value"], "own");
        assert_eq!(pod["metadata"]["ownerReferences"][0]["controller"], true);
    }
}
