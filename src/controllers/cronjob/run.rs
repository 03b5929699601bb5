//! The CronJob controller's loop.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::plan::{self, Observed, Plan};
use crate::client::events::{EventType, Recorder};
use crate::client::meta::{Key, Partial, controller_of, reference};
use crate::client::rest;
use crate::client::workqueue::{Outcome, WorkQueue};
use crate::controllers::context::{Context, quiet_conflict};
use crate::controllers::expectations::Written;
use crate::controllers::pods::{Owner, message};

const WORKERS: usize = 5;
/// The annotation of a Job that tells the time it is for.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

struct Controller {
    context: Context,
    recorder: Recorder,
    /// The last status written: an older one would start a time again.
    written: Written,
}

/// Runs until the context's shutdown.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new(context.seed("cronjob"));
    let controller = Arc::new(Controller {
        recorder: context.recorder("cronjob-controller"),
        written: Written::default(),
        context: context.clone(),
    });
    watch(&controller, &queue);
    let reconcile = move |key: Key| {
        let controller = controller.clone();
        async move { quiet_conflict(controller.reconcile(&key).await) }
    };
    queue.run("cronjob", WORKERS, context.shutdown.clone(), reconcile).await;
}

fn watch(controller: &Arc<Controller>, queue: &WorkQueue<Key>) {
    let informers = &controller.context.informers;
    let (to, of) = (queue.clone(), controller.clone());
    informers.cron_jobs.on_change(move |change| {
        if let (Some(old), None) = (change.old, change.new) {
            of.written.forget(&old.metadata);
        }
        to.add(change.key.clone());
    });
    let to = queue.clone();
    informers.jobs.on_change(move |change| {
        for job in [change.old, change.new].into_iter().flatten() {
            let meta = &job.object.metadata;
            if let Some(owner) = controller_of(meta).filter(|owner| owner.kind == "CronJob") {
                to.add(Key::new(meta.namespace.clone().unwrap_or_default(), owner.name.clone()));
            }
        }
    });
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Outcome, kube::Error> {
        let informers = &self.context.informers;
        let Some(cron) = informers.cron_jobs.get(key) else {
            return Ok(Outcome::done());
        };
        if self.written.is_ahead(&cron.metadata) {
            // The informer shows it soon, and then this is called again.
            return Ok(Outcome::done());
        }
        let owner = Owner::of::<CronJob>(&cron.metadata);
        let jobs = informers.jobs.indexed("controller", &owner.uid);
        let gone = self.gone(&cron).await?;
        let observed = Observed { cron: &cron, jobs: &jobs, gone: &gone };
        let plan = plan::plan(&observed, self.context.clock.now());
        for told in &plan.told {
            self.recorder.event(&owner.about(), told.kind, told.reason, &told.message);
        }
        for (name, uid) in &plan.delete {
            self.delete(&owner, name, uid).await?;
        }
        let (status, result) = self.start(&owner, &cron, &plan).await;
        self.write_status(&owner, &cron, &status).await?;
        result?;
        Ok(match plan.again_in {
            Some(delay) => Outcome::again_in(delay),
            None => Outcome::done(),
        })
    }

    /// The uids of active Jobs that are gone; asks the server itself, since an informer that is
    /// behind does not have new ones.
    async fn gone(&self, cron: &CronJob) -> Result<Vec<String>, kube::Error> {
        let mut gone = Vec::new();
        let active = cron.status.iter().flat_map(|status| status.active.iter().flatten());
        for job in active {
            let key = plan::key_of(cron, job.name.as_deref().unwrap_or_default());
            let shown = self.context.informers.jobs.get(&key);
            if shown.is_some_and(|shown| shown.object.metadata.uid == job.uid) {
                continue;
            }
            let path = rest::object::<Job>(&key.namespace, &key.name);
            let live = rest::found(rest::get_partial(&self.context.client, &path).await)?;
            if live.is_none_or(|live| live.metadata.uid != job.uid) {
                gone.extend(job.uid.clone());
            }
        }
        Ok(gone)
    }

    async fn delete(&self, owner: &Owner, name: &str, uid: &str) -> Result<(), kube::Error> {
        let path = rest::object::<Job>(&owner.key.namespace, name);
        let options = rest::Delete {
            propagation: Some(rest::Propagation::Background),
            ..rest::Delete::uid(uid)
        };
        match rest::found(rest::delete(&self.context.client, &path, &options).await) {
            Ok(Some(())) => {
                let told = format!("Deleted job {name}");
                self.recorder.event(&owner.about(), EventType::Normal, "SuccessfulDelete", told);
                Ok(())
            }
            Ok(None) => Ok(()),
            // Another Job of that name: this one is gone.
            Err(error) if rest::is_conflict(&error) => Ok(()),
            Err(error) => {
                let told = format!("Deleted job: {}", message(&error));
                self.recorder.event(&owner.about(), EventType::Warning, "FailedDelete", told);
                Err(error)
            }
        }
    }

    /// Starts what is due; the status is right whatever failed.
    async fn start(
        &self,
        owner: &Owner,
        cron: &CronJob,
        plan: &Plan,
    ) -> (CronJobStatus, Result<(), kube::Error>) {
        let status = plan.status.clone();
        let Some(at) = plan.start else { return (status, Ok(())) };
        match self.create(owner, cron, at).await {
            Ok(Some(job)) => (plan::started(status, at, job), Ok(())),
            Ok(None) => (status, Ok(())),
            Err(error) => (status, Err(error)),
        }
    }

    async fn create(
        &self,
        owner: &Owner,
        cron: &CronJob,
        at: Timestamp,
    ) -> Result<Option<ObjectReference>, kube::Error> {
        let client = &self.context.client;
        let path = rest::object::<CronJob>(&owner.key.namespace, &owner.key.name);
        let live = rest::found(rest::get::<CronJob>(client, &path).await)?;
        let same = |live: &CronJob| {
            live.metadata.uid == cron.metadata.uid && live.spec.suspend != Some(true)
        };
        let Some(live) = live.filter(same) else { return Ok(None) };
        let job = job_of(owner, &live, at);
        let name = job.metadata.name.clone().unwrap_or_default();
        let jobs = rest::collection::<Job>(&owner.key.namespace);
        match rest::create::<Job>(client, &jobs, &job).await {
            Ok(made) => {
                let told = format!("Created job {name}");
                self.recorder.event(&owner.about(), EventType::Normal, "SuccessfulCreate", told);
                Ok(Some(reference(&made)))
            }
            Err(error) if rest::is_already_exists(&error) => {
                let path = rest::object::<Job>(&owner.key.namespace, &name);
                let there: Job = rest::get(client, &path).await?;
                let ours = controller_of(&there.metadata).is_some_and(|o| o.uid == owner.uid);
                Ok(ours.then(|| reference(&there)))
            }
            Err(error) if rest::is_namespace_terminating(&error) => Ok(None),
            Err(error) => {
                let told = format!("Error creating job: {}", message(&error));
                self.recorder.event(&owner.about(), EventType::Warning, "FailedCreate", told);
                Err(error)
            }
        }
    }

    async fn write_status(
        &self,
        owner: &Owner,
        cron: &CronJob,
        status: &CronJobStatus,
    ) -> Result<(), kube::Error> {
        let old = cron.status.clone().unwrap_or_default();
        if old == *status {
            return Ok(());
        }
        let value = |status| serde_json::to_value(status).map_err(kube::Error::SerdeError);
        let change = rest::merge_diff(&value(&old)?, &value(status)?);
        let body = serde_json::json!({"status": change,
            "metadata": {"resourceVersion": cron.metadata.resource_version}});
        let path = rest::object::<CronJob>(&owner.key.namespace, &owner.key.name);
        let path = format!("{path}/status");
        let client = &self.context.client;
        let written: Partial = rest::patch(client, &path, rest::Patch::Merge, &body).await?;
        self.written.note(&owner.uid, written.metadata.resource_version.as_deref());
        Ok(())
    }
}

/// The Job for a time.
fn job_of(owner: &Owner, cron: &CronJob, at: Timestamp) -> Job {
    let template = cron.spec.job_template.clone();
    let meta = template.metadata.unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    let zone = plan::zone(cron).unwrap_or(jiff::tz::TimeZone::UTC);
    let told = at.to_zoned_datetime(zone).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
    annotations.insert(SCHEDULED.to_owned(), told.replace("+00:00", "Z"));
    Job {
        metadata: ObjectMeta {
            name: Some(plan::job_name(cron, at)),
            namespace: Some(owner.key.namespace.clone()),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![owner.reference()]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_job_tells_the_time_it_is_for_by_the_clocks_of_its_zone() {
        let cron: CronJob = serde_json::from_value(json!({
            "metadata": {"name": "tick", "namespace": "default", "uid": "u"},
            "spec": {"schedule": "0 9 * * *", "timeZone": "Europe/Berlin",
                "jobTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {"template": {}}}}}))
        .expect("a CronJob");
        let at = "2026-01-01T08:00:00Z".parse().expect("a timestamp");
        let job = job_of(&Owner::of::<CronJob>(&cron.metadata), &cron, at);
        let annotations = job.metadata.annotations.expect("annotations");
        assert_eq!(annotations[SCHEDULED], "2026-01-01T09:00:00+01:00");
        assert_eq!(job.metadata.labels.expect("labels")["a"], "b");
        assert!(job.spec.is_some());
    }
}
