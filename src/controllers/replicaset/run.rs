//! The loop of the ReplicaSet controller, and of the ReplicationController's, which is the same
//! thing under an older name (see [`Flavour`]).

use std::collections::HashMap;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec, ReplicaSetStatus};
use k8s_openapi::api::core::v1::ReplicationController;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use super::plan::{self, Failure, Observed, Plan};
use crate::client::informer::Informer;
use crate::client::meta::{Key, controller_of};
use crate::client::rest;
use crate::client::workqueue::{Outcome, WorkQueue};
use crate::controllers::context::{Context, Informers, quiet_conflict};
use crate::controllers::pods::{self, Owner, PodWriter, message};
use crate::controllers::selector;
use crate::controllers::view::{Pod, Templated};

/// Several sets at a time.
const WORKERS: usize = 8;
/// How long a set is left alone after a reconcile, for each of its pods, so that a set whose pods
/// change all the time costs no more than a fraction of the time.
const HOLD_PER_POD: Duration = Duration::from_micros(20);

type Sets = Informer<Templated<ReplicaSet>>;

/// A kind that keeps a number of pods. ReplicationControllers are looked at as ReplicaSets.
pub(crate) trait Flavour: Send + Sync + 'static {
    const KIND: &'static str;
    /// Of the queue, in logs.
    const NAME: &'static str;
    /// In whose name events are told.
    const COMPONENT: &'static str;

    fn informer(informers: &Informers) -> &Sets;

    fn owner(meta: &ObjectMeta) -> Owner;

    /// Where the object is.
    fn path(key: &Key) -> String;

    /// The object as it is now, with its template.
    fn live(
        client: &kube::Client,
        key: &Key,
    ) -> impl Future<Output = Result<ReplicaSet, kube::Error>> + Send;

    /// Leaves out what the kind's status does not know.
    fn known(status: ReplicaSetStatus) -> ReplicaSetStatus {
        status
    }
}

/// apps/v1 ReplicaSet.
pub(crate) struct Set;

impl Flavour for Set {
    const KIND: &'static str = "ReplicaSet";
    const NAME: &'static str = "replicaset";
    const COMPONENT: &'static str = "replicaset-controller";

    fn informer(informers: &Informers) -> &Sets {
        &informers.replica_sets
    }

    fn owner(meta: &ObjectMeta) -> Owner {
        Owner::of::<ReplicaSet>(meta)
    }

    fn path(key: &Key) -> String {
        rest::object::<ReplicaSet>(&key.namespace, &key.name)
    }

    async fn live(client: &kube::Client, key: &Key) -> Result<ReplicaSet, kube::Error> {
        rest::get(client, &Self::path(key)).await
    }
}

/// v1 ReplicationController.
pub(crate) struct Replication;

impl Flavour for Replication {
    const KIND: &'static str = "ReplicationController";
    const NAME: &'static str = "replicationcontroller";
    const COMPONENT: &'static str = "replication-controller";

    fn informer(informers: &Informers) -> &Sets {
        &informers.replication_controllers
    }

    fn owner(meta: &ObjectMeta) -> Owner {
        Owner::of::<ReplicationController>(meta)
    }

    fn path(key: &Key) -> String {
        rest::object::<ReplicationController>(&key.namespace, &key.name)
    }

    async fn live(client: &kube::Client, key: &Key) -> Result<ReplicaSet, kube::Error> {
        rest::get(client, &Self::path(key)).await.map(as_set)
    }

    fn known(status: ReplicaSetStatus) -> ReplicaSetStatus {
        ReplicaSetStatus { terminating_replicas: None, ..status }
    }
}

/// A ReplicationController as a ReplicaSet with the same template, selector and status.
pub(crate) fn as_set(controller: ReplicationController) -> ReplicaSet {
    let spec = controller.spec.unwrap_or_default();
    let status = controller.status.map(|status| {
        let same = serde_json::to_value(status).expect("a status is valid JSON");
        serde_json::from_value(same).expect("the two statuses have the same fields")
    });
    // Without a selector none is selected; an empty LabelSelector would select all.
    let selector = spec.selector.filter(|labels| !labels.is_empty());
    let nothing = || [("coracle.dev/no-selector".to_owned(), String::new())].into();
    ReplicaSet {
        metadata: controller.metadata,
        spec: ReplicaSetSpec {
            min_ready_seconds: spec.min_ready_seconds,
            replicas: spec.replicas,
            selector: LabelSelector {
                match_labels: Some(selector.unwrap_or_else(nothing)),
                match_expressions: None,
            },
            template: spec.template,
        },
        status,
    }
}

struct Controller<F> {
    writer: PodWriter,
    flavour: PhantomData<F>,
}

/// Runs until the context's shutdown.
pub(crate) async fn run<F: Flavour>(context: Context) {
    let queue = WorkQueue::new(context.seed(F::NAME));
    let writer = PodWriter::new(&context, F::COMPONENT);
    watch::<F>(&writer, &queue);
    let controller = Arc::new(Controller::<F> { writer, flavour: PhantomData });
    let reconcile = move |key: Key| {
        let controller = controller.clone();
        async move { quiet_conflict(controller.reconcile(&key).await) }
    };
    queue.run(F::NAME, WORKERS, context.shutdown.clone(), reconcile).await;
}

fn watch<F: Flavour>(writer: &PodWriter, queue: &WorkQueue<Key>) {
    let sets = F::informer(&writer.context.informers);
    let (to, gone) = (queue.clone(), writer.expectations.clone());
    sets.on_change(move |change| {
        if let (Some(old), None) = (change.old, change.new) {
            gone.forget(old.object.metadata.uid.as_deref().unwrap_or_default());
        }
        to.add(change.key.clone());
    });
    let sets = sets.clone();
    pods::watch(writer, queue, F::KIND, move |pod| {
        let mut wanted = sets.indexed("namespace", &pod.key.namespace);
        wanted.retain(|set| selector::matches(&set.object.spec.selector, &pod.labels));
        wanted.iter().map(|set| Key::of(&set.object.metadata)).collect()
    });
}

impl<F: Flavour> Controller<F> {
    async fn reconcile(&self, key: &Key) -> Result<Outcome, kube::Error> {
        let context = &self.writer.context;
        let informers = &context.informers;
        let Some(set) = F::informer(informers).get(key) else {
            return Ok(Outcome::done());
        };
        let set = &set.object;
        let owner = F::owner(&set.metadata);
        let now = context.clock.now();
        let mut pods = informers.pods.indexed("controller", &owner.uid);
        pods.extend(informers.pods.indexed("orphan", &key.namespace));
        let related = self.related(set);
        let plan = self.plan(set, &pods, &related);
        self.writer.claim(&owner, &plan.adopt, &plan.release, None).await?;
        let managed = self.writer.is_settled(&owner) && set.metadata.deletion_timestamp.is_none();
        let failure = if managed { self.manage(&owner, &plan).await } else { Ok(()) };
        let (failure, error) = match failure {
            Ok(()) => (None, None),
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
        let leaving = |uid: &str| self.writer.expectations.is_deleting(owner, uid);
        let observed = Observed { set, pods, related, leaving: &leaving };
        plan::plan(&observed, self.writer.context.clock.now())
    }

    /// How many active pods of the sets with the same owner each node has.
    fn related(&self, set: &ReplicaSet) -> HashMap<String, usize> {
        let informers = &self.writer.context.informers;
        let known = F::informer(informers);
        let mut nodes = HashMap::new();
        let wanted = usize::try_from(plan::wanted(set)).unwrap_or(0);
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        if informers.pods.count("controller", uid) <= wanted {
            // Nothing will be deleted, so nobody asks.
            return nodes;
        }
        let owner = controller_of(&set.metadata).map(|o| o.uid.clone());
        let mut sets = match &owner {
            Some(owner) => known.indexed("controller", owner),
            None => Vec::new(),
        };
        if sets.is_empty() {
            sets.extend(known.get(&Key::of(&set.metadata)));
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

    /// Creates and deletes pods. The error comes with what the status must say of it.
    async fn manage(&self, owner: &Owner, plan: &Plan) -> Result<(), (Failure, kube::Error)> {
        let failed = |reason, error| {
            let message = message(&error);
            (Failure { reason, message }, error)
        };
        if plan.create > 0 {
            return match self.create(owner, plan.create).await {
                Err(error) if rest::is_namespace_terminating(&error) => Ok(()),
                created => created.map_err(|error| failed("FailedCreate", error)),
            };
        }
        let (_, deleted) = self.writer.delete_all(owner, &plan.delete).await;
        deleted.map_err(|error| failed("FailedDelete", error))
    }

    async fn create(&self, owner: &Owner, count: usize) -> Result<(), kube::Error> {
        let live = F::live(&self.writer.context.client, &owner.key).await;
        let Some(live) =
            rest::found(live)?.filter(|live| F::owner(&live.metadata).uid == owner.uid)
        else {
            return Ok(());
        };
        let pod = pods::from_template(owner, live.spec.template.unwrap_or_default());
        let pod = serde_json::to_value(pod).expect("a pod is valid JSON");
        let prefix = format!("{}-", owner.key.name);
        let pods = std::iter::repeat_with(|| (prefix.clone(), pod.clone())).take(count).collect();
        self.writer.create_all(owner, pods).await.1
    }

    async fn write_status(
        &self,
        key: &Key,
        set: &ReplicaSet,
        plan: &Plan,
        failure: Option<&Failure>,
        managed: bool,
    ) -> Result<(), kube::Error> {
        let context = &self.writer.context;
        let status = plan::status(set, plan, failure, managed, context.clock.now());
        let (old, status) = (set.status.clone().unwrap_or_default(), F::known(status));
        if old == status {
            return Ok(());
        }
        let version = set.metadata.resource_version.as_deref();
        let path = F::path(key);
        let written = rest::patch_status(&context.client, &path, version, &old, &status);
        rest::found(written.await).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_replication_controller_is_a_replica_set_with_a_plain_selector() {
        let controller: ReplicationController = serde_json::from_value(json!({
            "metadata": {"name": "web"},
            "spec": {"replicas": 2, "selector": {"app": "web"}, "minReadySeconds": 3},
            "status": {"replicas": 2, "readyReplicas": 1}}))
        .expect("a ReplicationController");
        let set = as_set(controller);
        let labels = |app: &str| [("app".to_owned(), app.to_owned())].into();
        assert!(selector::matches(&set.spec.selector, &labels("web")));
        assert!(!selector::matches(&set.spec.selector, &labels("db")));
        assert_eq!(set.status.map(|status| status.ready_replicas), Some(Some(1)));
        let empty = as_set(ReplicationController::default());
        assert!(!selector::matches(&empty.spec.selector, &labels("web")));
    }
}
