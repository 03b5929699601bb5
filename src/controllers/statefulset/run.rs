//! The StatefulSet controller's loop.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PodTemplateSpec};
use parking_lot::Mutex;
use serde_json::json;

use super::plan::{self, Action, Observed, Plan, Why};
use super::{claims, template};
use crate::client::events::EventType;
use crate::client::meta::Key;
use crate::client::rest;
use crate::client::workqueue::{Outcome, WorkQueue};
use crate::controllers::context::{Context, quiet_conflict};
use crate::controllers::history::{self, Newest, Revision};
use crate::controllers::pods::{self, Owner, PodWriter, message};
use crate::controllers::selector;
use crate::controllers::view::{Pod, Templated, digest};

const WORKERS: usize = 5;
/// Pods created or deleted at a time, for one set.
const IN_FLIGHT: usize = 64;
/// How long to wait for a claim that is on its way out.
const STALE: Duration = Duration::from_secs(1);

struct Controller {
    writer: PodWriter,
}

/// Runs until the context's shutdown.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new(context.seed("statefulset"));
    let writer = PodWriter::new(&context, "statefulset-controller");
    watch(&writer, &queue);
    let controller = Arc::new(Controller { writer });
    let reconcile = move |key: Key| {
        let controller = controller.clone();
        async move { quiet_conflict(controller.reconcile(&key).await) }
    };
    queue.run("statefulset", WORKERS, context.shutdown.clone(), reconcile).await;
}

fn watch(writer: &PodWriter, queue: &WorkQueue<Key>) {
    let informers = &writer.context.informers;
    let (to, gone) = (queue.clone(), writer.expectations.clone());
    informers.stateful_sets.on_change(move |change| {
        if let (Some(old), None) = (change.old, change.new) {
            gone.forget(old.object.metadata.uid.as_deref().unwrap_or_default());
        }
        to.add(change.key.clone());
    });
    let sets = informers.stateful_sets.clone();
    pods::watch(writer, queue, "StatefulSet", move |pod| {
        let mut wanted = sets.indexed("namespace", &pod.key.namespace);
        wanted.retain(|set| selector::matches(&set.object.spec.selector, &pod.labels));
        wanted.iter().map(|set| Key::of(&set.object.metadata)).collect()
    });
}

/// What one reconcile works with.
struct Work<'a> {
    key: &'a Key,
    set: &'a Templated<StatefulSet>,
    owner: Owner,
    /// The set as it is now, with its templates, once it was needed.
    live: tokio::sync::OnceCell<Option<StatefulSet>>,
    /// Templates of revisions that were read.
    templates: Mutex<HashMap<String, PodTemplateSpec>>,
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Outcome, kube::Error> {
        let context = &self.writer.context;
        let informers = &context.informers;
        let Some(set) = informers.stateful_sets.get(key) else {
            return Ok(Outcome::done());
        };
        let owner = Owner::of::<StatefulSet>(&set.object.metadata);
        if !self.writer.is_settled(&owner) {
            return Ok(Outcome::done());
        }
        let work = Work {
            key,
            set: &set,
            owner,
            live: tokio::sync::OnceCell::new(),
            templates: Mutex::default(),
        };
        let adopted = history::adopt(context, &work.owner, |revision| {
            let labels = revision.meta.labels.clone().unwrap_or_default();
            selector::matches(&set.object.spec.selector, &labels)
        });
        if set.object.metadata.deletion_timestamp.is_none() && adopted.await? {
            return Ok(Outcome::again_in(Duration::from_millis(20)));
        }
        let Some((current, update, collisions)) = self.revisions(&work).await? else {
            return Ok(Outcome::done());
        };
        let mut pods = informers.pods.indexed("controller", &work.owner.uid);
        pods.extend(informers.pods.indexed("orphan", &key.namespace));
        let observed = Observed {
            set: &set.object,
            pods: &pods,
            current: &current,
            update: &update,
            collisions,
        };
        let plan = plan::plan(&observed, context.clock.now());
        self.writer.claim(&work.owner, &plan.adopt, &plan.release, None).await?;
        let acted = self.act(&work, &plan).await;
        self.write_status(&work, &plan).await?;
        let waits = acted?;
        self.forget_revisions(&work, &plan).await?;
        let again = plan.again_in.map(Duration::from_secs);
        Ok(match again.into_iter().chain(waits).min() {
            Some(delay) => Outcome::again_in(delay),
            None => Outcome::done(),
        })
    }

    /// The names of the current and of the newest revision, and the collisions until now; nothing
    /// where the informer is behind.
    async fn revisions(
        &self,
        work: &Work<'_>,
    ) -> Result<Option<(String, String, Option<i32>)>, kube::Error> {
        let context = &self.writer.context;
        let revisions = history::owned(context, &work.owner);
        let status = work.set.object.status.clone().unwrap_or_default();
        let mut collisions = status.collision_count;
        let update = match history::newest(&revisions, &work.set.digest) {
            Newest::Is(revision) => revision.name().to_owned(),
            Newest::Again(revision, number) => {
                if work.set.object.metadata.deletion_timestamp.is_none() {
                    history::renumber(context, &revision, number).await?;
                }
                revision.name().to_owned()
            }
            Newest::New(_) if work.set.object.metadata.deletion_timestamp.is_some() => {
                status.update_revision.clone().unwrap_or_default()
            }
            Newest::New(number) => {
                let live = self.live(work).await?;
                let Some(live) = live.filter(|l| digest(&l.spec.template) == work.set.digest)
                else {
                    return Ok(None);
                };
                let template = &live.spec.template;
                let meta = &work.set.object.metadata;
                let made: Revision =
                    history::create(context, &work.owner, meta, template, number, &mut collisions)
                        .await?;
                made.name().to_owned()
            }
        };
        let current = status.current_revision.filter(|current| {
            *current == update || revisions.iter().any(|revision| revision.name() == current)
        });
        Ok(Some((current.unwrap_or_else(|| update.clone()), update, collisions)))
    }

    async fn live<'w>(&self, work: &'w Work<'_>) -> Result<Option<&'w StatefulSet>, kube::Error> {
        let read = async || {
            let path = rest::object::<StatefulSet>(&work.key.namespace, &work.key.name);
            let live = rest::get::<StatefulSet>(&self.writer.context.client, &path).await;
            let same = |live: &StatefulSet| live.metadata.uid == work.set.object.metadata.uid;
            Ok(rest::found(live)?.filter(same))
        };
        work.live.get_or_try_init(read).await.map(Option::as_ref)
    }

    /// The template of a revision.
    async fn template(
        &self,
        work: &Work<'_>,
        revision: &str,
    ) -> Result<PodTemplateSpec, kube::Error> {
        if let Some(known) = work.templates.lock().get(revision) {
            return Ok(known.clone());
        }
        let path = rest::object::<ControllerRevision>(&work.key.namespace, revision);
        let read: ControllerRevision = rest::get(&self.writer.context.client, &path).await?;
        let template = history::template(&read.data);
        work.templates.lock().insert(revision.to_owned(), template.clone());
        Ok(template)
    }

    /// Does what the plan says; answers how long to wait for claims that are in the way.
    async fn act(&self, work: &Work<'_>, plan: &Plan) -> Result<Option<Duration>, kube::Error> {
        if work.set.object.metadata.deletion_timestamp.is_none() {
            self.keep_claims(work, plan).await?;
        }
        let results: Vec<Result<bool, kube::Error>> =
            futures::stream::iter(plan.actions.iter().cloned())
                .map(async |action| self.one(work, plan, action).await)
                .buffer_unordered(IN_FLIGHT)
                .collect()
                .await;
        let mut waits = None;
        for result in results {
            if !result? {
                waits = Some(STALE);
            }
        }
        Ok(waits)
    }

    /// Does one thing; `false` when it has to wait for a claim.
    async fn one(&self, work: &Work<'_>, plan: &Plan, action: Action) -> Result<bool, kube::Error> {
        let recorder = &self.writer.recorder;
        match action {
            Action::Create { ordinal, revision } => self.create(work, ordinal, &revision).await,
            Action::Claims { ordinal } => {
                let uid = plan.pods.get(&ordinal).map(|pod| pod.uid.as_str());
                self.make_claims(work, ordinal, uid).await
            }
            Action::Delete { pod, why } => {
                let told = match why {
                    Why::Failed => Some((EventType::Warning, "RecreatingFailedPod")),
                    Why::Succeeded => Some((EventType::Normal, "RecreatingTerminatedPod")),
                    Why::Scaled | Why::Update => None,
                };
                if let Some((kind, reason)) = told {
                    let text = format!(
                        "StatefulSet {} is recreating {} Pod {}",
                        work.key,
                        if why == Why::Failed { "failed" } else { "terminated" },
                        pod.key.name
                    );
                    recorder.event(&work.owner.about(), kind, reason, text);
                }
                self.writer.delete(&work.owner, &pod).await.map(|()| true)
            }
        }
    }

    async fn create(
        &self,
        work: &Work<'_>,
        ordinal: i32,
        revision: &str,
    ) -> Result<bool, kube::Error> {
        if !self.make_claims(work, ordinal, None).await? {
            return Ok(false);
        }
        let Some(set) = self.live(work).await? else { return Ok(true) };
        let template = self.template(work, revision).await?;
        let pod = template::pod(set, &work.owner, template, revision, ordinal);
        let pod = serde_json::to_value(pod).expect("a pod is valid JSON");
        match self.writer.create(&work.owner, &pod).await {
            Ok(_) => Ok(true),
            Err(error) if rest::is_namespace_terminating(&error) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Makes the claims of an ordinal that are missing; `false` when one is on its way out.
    async fn make_claims(
        &self,
        work: &Work<'_>,
        ordinal: i32,
        pod: Option<&str>,
    ) -> Result<bool, kube::Error> {
        let context = &self.writer.context;
        for template in claims::templates(&work.set.object) {
            let name = claims::name(template, &work.key.name, ordinal);
            let key = Key::new(work.key.namespace.clone(), name.clone());
            if let Some(claim) = context.informers.claims.get(&key) {
                if claims::is_stale(&claim, pod) {
                    return Ok(false);
                }
                continue;
            }
            let Some(set) = self.live(work).await? else { return Ok(true) };
            let path = rest::collection::<PersistentVolumeClaim>(&work.key.namespace);
            let made = claims::claims(set, ordinal);
            let wanted =
                |claim: &&PersistentVolumeClaim| claim.metadata.name.as_ref() == Some(&name);
            let Some(claim) = made.iter().find(wanted) else { continue };
            let mut claim = claim.clone();
            let owners = claims::owners(set, &work.owner, None, false, &claim.metadata);
            claim.metadata.owner_references = owners.filter(|owners| !owners.is_empty());
            match rest::create::<rest::Ignored>(&context.client, &path, &claim).await {
                Err(error) if rest::is_already_exists(&error) => {}
                Err(error) => {
                    let told = format!("create Claim {name} failed: {}", message(&error));
                    let about = work.owner.about();
                    self.writer.recorder.event(&about, EventType::Warning, "FailedCreate", told);
                    return Err(error);
                }
                Ok(_) => {
                    let told =
                        format!("create Claim {name} Pod {}-{ordinal} success", work.key.name);
                    let about = work.owner.about();
                    self.writer.recorder.event(&about, EventType::Normal, "SuccessfulCreate", told);
                }
            }
        }
        Ok(true)
    }

    /// Gives claims the owners that the retention policy wants.
    async fn keep_claims(&self, work: &Work<'_>, plan: &Plan) -> Result<(), kube::Error> {
        let set = &work.set.object;
        let templates = claims::templates(set);
        if templates.is_empty() {
            return Ok(());
        }
        let first = plan::start(set);
        let wanted = first..first.saturating_add(plan::replicas(set));
        for (ordinal, pod) in &plan.pods {
            for template in &templates {
                let away = !wanted.contains(ordinal);
                self.keep_claim(work, template, *ordinal, pod, away).await?;
            }
        }
        Ok(())
    }

    async fn keep_claim(
        &self,
        work: &Work<'_>,
        template: &str,
        ordinal: i32,
        pod: &Arc<Pod>,
        is_scaled_away: bool,
    ) -> Result<(), kube::Error> {
        let context = &self.writer.context;
        let name = claims::name(template, &work.key.name, ordinal);
        let key = Key::new(work.key.namespace.clone(), name.clone());
        let Some(claim) = context.informers.claims.get(&key) else { return Ok(()) };
        let set = &work.set.object;
        let owners = claims::owners(set, &work.owner, Some(pod), is_scaled_away, &claim);
        let Some(owners) = owners else { return Ok(()) };
        let body = json!({"metadata": {"resourceVersion": claim.resource_version,
            "ownerReferences": owners}});
        let path = rest::object::<PersistentVolumeClaim>(&work.key.namespace, &name);
        let patched =
            rest::patch::<rest::Ignored>(&context.client, &path, rest::Patch::Merge, &body);
        rest::found(patched.await).map(|_| ())
    }

    async fn write_status(&self, work: &Work<'_>, plan: &Plan) -> Result<(), kube::Error> {
        let meta = &work.set.object.metadata;
        let old = work.set.object.status.clone().unwrap_or_default();
        if old == plan.status {
            return Ok(());
        }
        let path = rest::object::<StatefulSet>(&work.key.namespace, &work.key.name);
        let version = meta.resource_version.as_deref();
        let client = &self.writer.context.client;
        let written = rest::patch_status(client, &path, version, &old, &plan.status);
        rest::found(written.await).map(|_| ())
    }

    /// Deletes revisions beyond the limit that no pod has.
    async fn forget_revisions(&self, work: &Work<'_>, plan: &Plan) -> Result<(), kube::Error> {
        let context = &self.writer.context;
        let set = &work.set.object;
        let mut used: HashSet<String> =
            plan.pods.values().map(|pod| plan::revision_of(pod).to_owned()).collect();
        used.extend(plan.status.current_revision.clone());
        used.extend(plan.status.update_revision.clone());
        let revisions = history::owned(context, &work.owner);
        for revision in history::surplus(&revisions, &used, set.spec.revision_history_limit) {
            history::forget(context, &revision).await?;
        }
        Ok(())
    }
}
