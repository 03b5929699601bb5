//! The DaemonSet controller's loop.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Taint};
use parking_lot::Mutex;

use super::plan::{self, Observed, Plan};
use super::template;
use crate::client::events::EventType;
use crate::client::meta::Key;
use crate::client::rest;
use crate::client::workqueue::{Outcome, WorkQueue};
use crate::controllers::context::{Context, quiet_conflict};
use crate::controllers::history::{self, Newest, Revision};
use crate::controllers::pods::{self, Owner, PodWriter};
use crate::controllers::selector;
use crate::controllers::view::{Phase, Pod, Templated, digest};

const WORKERS: usize = 2;
/// How long a failed pod stays at first, doubling with each failure on its node.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(15 * 60);
/// How long a set is left alone after a reconcile, for each of its pods.
const HOLD_PER_POD: Duration = Duration::from_micros(50);

/// When a pod last failed on a node, and how long the next one stays then.
#[derive(Clone, Copy)]
struct Failed {
    at: Duration,
    wait: Duration,
}

struct Controller {
    writer: PodWriter,
    /// By the set's uid, then by node.
    failed: Mutex<HashMap<String, HashMap<String, Failed>>>,
}

/// Runs until the context's shutdown.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new(context.seed("daemonset"));
    let controller = Arc::new(Controller {
        writer: PodWriter::new(&context, "daemonset-controller"),
        failed: Mutex::default(),
    });
    watch(&controller, &queue);
    let reconcile = move |key: Key| {
        let controller = controller.clone();
        async move { quiet_conflict(controller.reconcile(&key).await) }
    };
    queue.run("daemonset", WORKERS, context.shutdown.clone(), reconcile).await;
}

/// What of a node decides whether it fits.
fn matters(node: &Node) -> impl PartialEq + '_ {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    // When a taint was put there changes nothing.
    let taint = |taint: &Taint| (taint.key.clone(), taint.value.clone(), taint.effect.clone());
    (&node.metadata.labels, taints.map(|taints| taints.iter().map(taint).collect::<Vec<_>>()))
}

fn watch(controller: &Arc<Controller>, queue: &WorkQueue<Key>) {
    let writer = &controller.writer;
    let informers = &writer.context.informers;
    let (to, of) = (queue.clone(), controller.clone());
    informers.daemon_sets.on_change(move |change| {
        if let (Some(old), None) = (change.old, change.new) {
            let uid = old.object.metadata.uid.as_deref().unwrap_or_default();
            of.writer.expectations.forget(uid);
            of.failed.lock().remove(uid);
        }
        to.add(change.key.clone());
    });
    let (to, sets) = (queue.clone(), informers.daemon_sets.clone());
    informers.nodes.on_change(move |change| {
        if let (Some(old), Some(new)) = (change.old, change.new)
            && matters(old) == matters(new)
        {
            return;
        }
        for key in sets.keys() {
            to.add(key);
        }
    });
    let sets = informers.daemon_sets.clone();
    pods::watch(writer, queue, "DaemonSet", move |pod| {
        let mut wanted = sets.indexed("namespace", &pod.key.namespace);
        wanted.retain(|set| selector::matches(&set.object.spec.selector, &pod.labels));
        wanted.iter().map(|set| Key::of(&set.object.metadata)).collect()
    });
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Outcome, kube::Error> {
        let context = &self.writer.context;
        let informers = &context.informers;
        let Some(set) = informers.daemon_sets.get(key) else {
            return Ok(Outcome::done());
        };
        let owner = Owner::of::<DaemonSet>(&set.object.metadata);
        if !self.writer.is_settled(&owner) {
            return Ok(Outcome::done());
        }
        let adopted = history::adopt(context, &owner, |revision| {
            let labels = revision.meta.labels.clone().unwrap_or_default();
            selector::matches(&set.object.spec.selector, &labels)
        });
        if set.object.metadata.deletion_timestamp.is_none() && adopted.await? {
            return Ok(Outcome::again_in(Duration::from_millis(20)));
        }
        let Some((hash, collisions)) = self.newest(&owner, &set).await? else {
            return Ok(Outcome::done());
        };
        let plan = self.plan(&owner, &set.object, &hash, collisions);
        self.writer.claim(&owner, &plan.adopt, &plan.release, None).await?;
        let acted = self.act(&owner, &set, &plan, &hash).await;
        self.write_status(key, &set.object, &plan).await?;
        acted?;
        self.forget_revisions(&owner, &set.object, &plan).await?;
        let pods = u32::try_from(plan.own.len()).unwrap_or(u32::MAX);
        Ok(Outcome { again_in: plan.again_in, hold: HOLD_PER_POD.saturating_mul(pods) })
    }

    fn plan(&self, owner: &Owner, set: &DaemonSet, hash: &str, collisions: Option<i32>) -> Plan {
        let context = &self.writer.context;
        let informers = &context.informers;
        let mut pods = informers.pods.indexed("controller", &owner.uid);
        pods.extend(informers.pods.indexed("orphan", &owner.key.namespace));
        let nodes = informers.nodes.list();
        let wait = |node: &str| self.wait(&owner.uid, node);
        let observed = Observed { set, pods: &pods, nodes: &nodes, hash, collisions, wait: &wait };
        plan::plan(&observed, context.clock.now())
    }

    /// The hash of the newest revision; nothing where the informer is behind.
    async fn newest(
        &self,
        owner: &Owner,
        set: &Templated<DaemonSet>,
    ) -> Result<Option<(String, Option<i32>)>, kube::Error> {
        let context = &self.writer.context;
        let object = &set.object;
        let mut collisions = object.status.as_ref().and_then(|status| status.collision_count);
        let deleting = object.metadata.deletion_timestamp.is_some();
        let hash = match history::newest(&history::owned(context, owner), &set.digest) {
            Newest::Is(revision) => revision.hash().to_owned(),
            Newest::Again(revision, number) => {
                if !deleting {
                    history::renumber(context, &revision, number).await?;
                }
                revision.hash().to_owned()
            }
            Newest::New(_) if deleting => String::new(),
            Newest::New(number) => {
                let Some(live) = self.live(owner, set).await? else { return Ok(None) };
                let (meta, template) = (&object.metadata, &live.spec.template);
                let made: Revision =
                    history::create(context, owner, meta, template, number, &mut collisions)
                        .await?;
                made.hash().to_owned()
            }
        };
        Ok(Some((hash, collisions)))
    }

    /// The set as it is now, where its template is still the one that was observed.
    async fn live(
        &self,
        owner: &Owner,
        set: &Templated<DaemonSet>,
    ) -> Result<Option<DaemonSet>, kube::Error> {
        let path = rest::object::<DaemonSet>(&owner.key.namespace, &owner.key.name);
        let live = rest::get::<DaemonSet>(&self.writer.context.client, &path).await;
        Ok(rest::found(live)?.filter(|live| {
            live.metadata.uid == set.object.metadata.uid
                && digest(&live.spec.template) == set.digest
        }))
    }

    /// How long a failed pod on the node must stay yet.
    fn wait(&self, uid: &str, node: &str) -> Duration {
        let failed = self.failed.lock();
        let Some(last) = failed.get(uid).and_then(|nodes| nodes.get(node)) else {
            return Duration::ZERO;
        };
        (last.at + last.wait).saturating_sub(self.writer.context.clock.monotonic())
    }

    /// Notes that a failed pod was replaced; what did not fail for twice the longest time is
    /// forgotten.
    fn note_failure(&self, uid: &str, node: &str) {
        let now = self.writer.context.clock.monotonic();
        let mut failed = self.failed.lock();
        let nodes = failed.entry(uid.to_owned()).or_default();
        nodes.retain(|_, last| now.saturating_sub(last.at) < BACKOFF_MAX * 2);
        let wait = nodes.get(node).map_or(BACKOFF_FIRST, |last| (last.wait * 2).min(BACKOFF_MAX));
        nodes.insert(node.to_owned(), Failed { at: now, wait });
    }

    async fn act(
        &self,
        owner: &Owner,
        set: &Templated<DaemonSet>,
        plan: &Plan,
        hash: &str,
    ) -> Result<(), kube::Error> {
        for pod in &plan.ended {
            self.tell_ended(owner, pod);
        }
        let (_, deleted) = self.writer.delete_all(owner, &plan.delete).await;
        if plan.create.is_empty() {
            return deleted;
        }
        let Some(live) = self.live(owner, set).await? else { return deleted };
        let prefix = format!("{}-", owner.key.name);
        let pods = plan.create.iter().map(|node| {
            let template = template::for_node(live.spec.template.clone(), hash, node);
            let pod = pods::from_template(owner, template);
            (prefix.clone(), serde_json::to_value(pod).expect("a pod is valid JSON"))
        });
        match self.writer.create_all(owner, pods.collect()).await.1 {
            Err(error) if rest::is_namespace_terminating(&error) => deleted,
            created => created.and(deleted),
        }
    }

    fn tell_ended(&self, owner: &Owner, pod: &Pod) {
        let node = plan::node_of(pod);
        let (kind, reason, how) = if pod.phase == Phase::Failed {
            self.note_failure(&owner.uid, node);
            (EventType::Warning, "FailedDaemonPod", "failed")
        } else {
            (EventType::Normal, "SucceededDaemonPod", "succeeded")
        };
        let verb = if pod.phase == Phase::Failed { "kill" } else { "delete" };
        let told =
            format!("Found {how} daemon pod {} on node {node}, will try to {verb} it", pod.key);
        self.writer.recorder.event(&owner.about(), kind, reason, told);
    }

    async fn write_status(
        &self,
        key: &Key,
        set: &DaemonSet,
        plan: &Plan,
    ) -> Result<(), kube::Error> {
        let old = set.status.clone().unwrap_or_default();
        if old == plan.status {
            return Ok(());
        }
        let path = rest::object::<DaemonSet>(&key.namespace, &key.name);
        let version = set.metadata.resource_version.as_deref();
        let client = &self.writer.context.client;
        let written = rest::patch_status(client, &path, version, &old, &plan.status);
        rest::found(written.await).map(|_| ())
    }

    /// Deletes revisions beyond the limit that no pod has.
    async fn forget_revisions(
        &self,
        owner: &Owner,
        set: &DaemonSet,
        plan: &Plan,
    ) -> Result<(), kube::Error> {
        let context = &self.writer.context;
        let revisions = history::owned(context, owner);
        let newest = revisions.iter().map(|revision| revision.number).max();
        let hash_of = |pod: &Arc<Pod>| pod.labels.get(history::REVISION_HASH).cloned();
        let hashes: HashSet<String> = plan.own.iter().filter_map(hash_of).collect();
        let is_used = |revision: &&Arc<Revision>| {
            Some(revision.number) == newest || hashes.contains(revision.hash())
        };
        let used = revisions.iter().filter(is_used).map(|revision| revision.name().to_owned());
        let used = used.collect();
        for revision in history::surplus(&revisions, &used, set.spec.revision_history_limit) {
            history::forget(context, &revision).await?;
        }
        Ok(())
    }
}
