//! The disruption controller's loop.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::Value;

use super::plan::{self, Observed, Plan};
use crate::client::events::{EventType, Recorder};
use crate::client::meta::{Key, controller_of, reference};
use crate::client::rest;
use crate::client::workqueue::{Outcome, WorkQueue};
use crate::controllers::context::{Context, quiet_conflict};
use crate::controllers::discovery::discover;
use crate::controllers::selector;
use crate::controllers::view::Pod;

const WORKERS: usize = 2;

struct Controller {
    context: Context,
    recorder: Recorder,
}

/// Runs until the context's shutdown.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new(context.seed("disruption"));
    watch(&context, &queue);
    let recorder = context.recorder("controllermanager");
    let controller = Arc::new(Controller { recorder, context: context.clone() });
    let reconcile = move |key: Key| {
        let controller = controller.clone();
        async move { quiet_conflict(controller.reconcile(&key).await) }
    };
    queue.run("disruption", WORKERS, context.shutdown.clone(), reconcile).await;
}

/// Whether the budget covers the pod. One without a selector covers none.
fn covers(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let wanted = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    wanted.is_some_and(|wanted| selector::matches(wanted, &pod.labels))
}

/// What of a pod budgets are counted from.
fn matters(pod: &Pod) -> impl PartialEq + '_ {
    (&pod.labels, pod.ready.is_some(), pod.deleting.is_some(), &pod.controller)
}

fn watch(context: &Context, queue: &WorkQueue<Key>) {
    let informers = &context.informers;
    let to = queue.clone();
    informers.budgets.on_change(move |change| to.add(change.key.clone()));
    let (to, budgets) = (queue.clone(), informers.budgets.clone());
    informers.pods.on_change(move |change| {
        if let (Some(old), Some(new)) = (change.old, change.new)
            && matters(old) == matters(new)
        {
            return;
        }
        for pod in [change.old, change.new].into_iter().flatten() {
            for budget in budgets.indexed("namespace", &pod.key.namespace) {
                if covers(&budget, pod) {
                    to.add(Key::of(&budget.metadata));
                }
            }
        }
    });
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Outcome, kube::Error> {
        let informers = &self.context.informers;
        let Some(budget) = informers.budgets.get(key) else {
            return Ok(Outcome::done());
        };
        let mut pods = informers.pods.indexed("namespace", &key.namespace);
        pods.retain(|pod| covers(&budget, pod));
        let wants = budget.spec.as_ref().is_some_and(plan::wants_scale);
        let scale = if wants { self.scale(&pods).await } else { Ok(0) };
        if let Err(why) = &scale {
            let message = format!("Failed to calculate the number of expected pods: {why}");
            let about = reference(&*budget);
            let reason = "CalculateExpectedPodCountFailed";
            self.recorder.event(&about, EventType::Warning, reason, message);
        } else if pods.is_empty() {
            let message = "No matching pods found";
            self.recorder.event(&reference(&*budget), EventType::Normal, "NoPods", message);
        }
        let observed = Observed { budget: &budget, pods: &pods, scale };
        let Plan { status, again_in } = plan::plan(&observed, self.context.clock.now());
        let old = budget.status.clone().unwrap_or_default();
        let path = rest::object::<PodDisruptionBudget>(&key.namespace, &key.name);
        let version = budget.metadata.resource_version.as_deref();
        let written = rest::patch_status(&self.context.client, &path, version, &old, &status).await;
        rest::found(written)?;
        Ok(again_in.map_or(Outcome::done(), Outcome::again_in))
    }

    /// How many pods the controllers of the pods want. Pods that nobody controls do not count.
    async fn scale(&self, pods: &[Arc<Pod>]) -> Result<i32, String> {
        let mut wanted: HashMap<String, i32> = HashMap::new();
        for pod in pods {
            let Some(owner) = &pod.controller else { continue };
            if wanted.contains_key(&owner.uid) {
                continue;
            }
            let namespace = &pod.key.namespace;
            let (uid, replicas) = match self.known(namespace, owner) {
                Some(known) => known,
                None => (owner.uid.clone(), self.asked(namespace, owner).await?),
            };
            wanted.insert(owner.uid.clone(), 0);
            wanted.insert(uid, replicas);
        }
        Ok(wanted.values().sum())
    }

    /// What controllers of this process want: uid and replicas of the topmost.
    fn known(&self, namespace: &str, owner: &OwnerReference) -> Option<(String, i32)> {
        let informers = &self.context.informers;
        let key = Key::new(namespace, owner.name.clone());
        match owner.kind.as_str() {
            "ReplicaSet" => {
                let set = informers.replica_sets.get(&key)?;
                let above = controller_of(&set.object.metadata);
                if let Some(above) = above.filter(|above| above.kind == "Deployment") {
                    let key = Key::new(namespace, above.name.clone());
                    let deployment = informers.deployments.get(&key)?;
                    let replicas = deployment.object.spec.replicas.unwrap_or(1);
                    return Some((above.uid.clone(), replicas));
                }
                Some((owner.uid.clone(), set.object.spec.replicas.unwrap_or(1)))
            }
            "ReplicationController" => {
                let set = informers.replication_controllers.get(&key)?;
                Some((owner.uid.clone(), set.object.spec.replicas.unwrap_or(1)))
            }
            "StatefulSet" => {
                let set = informers.stateful_sets.get(&key)?;
                Some((owner.uid.clone(), set.object.spec.replicas.unwrap_or(1)))
            }
            _ => None,
        }
    }

    /// What the scale subresource of any other controller says.
    async fn asked(&self, namespace: &str, owner: &OwnerReference) -> Result<i32, String> {
        let client = &self.context.client;
        let unknown = |why: String| {
            format!("{} {}/{} has no scale: {why}", owner.kind, namespace, owner.name)
        };
        let served = discover(client).await.map_err(|error| unknown(error.to_string()))?;
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        let path = served
            .find(group, &owner.kind)
            .map(|resource| resource.object(namespace, &owner.name))
            .ok_or_else(|| unknown("its kind is not served".to_owned()))?;
        let scale = rest::get::<Value>(client, &format!("{path}/scale")).await;
        let scale = scale.map_err(|error| unknown(error.to_string()))?;
        let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
        Ok(i32::try_from(replicas).unwrap_or(i32::MAX))
    }
}
