//! The node lifecycle and taint eviction loops.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use parking_lot::Mutex;
use serde_json::json;

use super::eviction::{self, Stay};
use super::plan::{self, Health, Limiter};
use crate::client::events::{EventType, Recorder};
use crate::client::meta::{Key, reference, time};
use crate::client::rest;
use crate::client::workqueue::{Outcome, WorkQueue};
use crate::controllers::context::{Context, quiet_conflict};
use crate::controllers::view::Pod;

const WORKERS: usize = 8;
/// Pod statuses written at a time.
const IN_FLIGHT: usize = 32;

/// What was last seen of a node, and when it last changed, on this process's own clock.
#[derive(Debug, Clone, Default)]
struct Sign {
    lease: Option<String>,
    heartbeat: Option<core::NodeCondition>,
    changed: Duration,
}

struct Controller {
    context: Context,
    recorder: Recorder,
    signs: Mutex<HashMap<String, Sign>>,
    limiter: Mutex<Limiter>,
}

/// Runs both loops until the context's shutdown.
pub(crate) async fn run(context: Context) {
    tokio::join!(monitor(context.clone()), evict(context));
}

async fn monitor(context: Context) {
    let queue: WorkQueue<Key> = WorkQueue::new(context.seed("node-lifecycle"));
    let to = queue.clone();
    context.informers.nodes.on_change(move |change| to.add(change.key.clone()));
    let controller = Arc::new(Controller {
        recorder: context.recorder("node-controller"),
        signs: Mutex::default(),
        limiter: Mutex::new(Limiter::new(context.clock.monotonic())),
        context: context.clone(),
    });
    let period = context.config.node_lifecycle.monitor_period;
    let (nodes, to, shutdown) =
        (context.informers.nodes.clone(), queue.clone(), context.shutdown.clone());
    let tick = async move {
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = ticks.tick() => nodes.keys().into_iter().for_each(|key| to.add(key)),
            }
        }
    };
    let reconcile = move |key: Key| {
        let controller = controller.clone();
        async move { quiet_conflict(controller.look_at(&key).await) }
    };
    tokio::join!(tick, queue.run("node-lifecycle", WORKERS, context.shutdown.clone(), reconcile));
}

impl Controller {
    async fn look_at(&self, key: &Key) -> Result<Outcome, kube::Error> {
        let Some(node) = self.context.informers.nodes.get(key) else {
            self.signs.lock().remove(&key.name);
            return Ok(Outcome::done());
        };
        let config = &self.context.config.node_lifecycle;
        let silent = self.silent_for(key, &node);
        let now = self.context.clock.now();
        if let Some(conditions) = plan::silenced(&node, silent, config, now) {
            return self.mark_unknown(key, &node, conditions).await;
        }
        let bad = plan::health(&node) != Health::Ready;
        if bad {
            self.unready_pods(key).await?;
        }
        let taints = plan::taints(&node, || self.may_evict(), now);
        if let Some(taints) = taints {
            let body = json!({
                "metadata": {"uid": node.metadata.uid,
                    "resourceVersion": node.metadata.resource_version},
                "spec": {"taints": if taints.is_empty() { json!(null) } else { json!(taints) }},
            });
            let path = rest::cluster_object::<core::Node>(&key.name);
            let client = &self.context.client;
            rest::found(
                rest::patch::<rest::Ignored>(client, &path, rest::Patch::Merge, &body).await,
            )?;
        }
        Ok(Outcome::done())
    }

    /// How long neither the Lease nor the heartbeat of the node changed.
    fn silent_for(&self, key: &Key, node: &core::Node) -> Duration {
        let lease_key = Key::new(crate::controllers::context::NODE_LEASES, key.name.clone());
        let lease = self.context.informers.leases.get(&lease_key);
        let lease = lease.map(|lease| lease.resource_version.clone());
        let mut conditions =
            node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let heartbeat = conditions
            .rfind(|condition| condition.type_ == "Ready" && condition.status != "Unknown")
            .cloned();
        let now = self.context.clock.monotonic();
        let mut signs = self.signs.lock();
        let sign = signs.entry(key.name.clone()).or_insert_with(|| Sign {
            changed: now,
            lease: lease.clone(),
            heartbeat: heartbeat.clone(),
        });
        // That this controller itself wrote Unknown is no sign of life.
        let alive = sign.lease != lease || (heartbeat.is_some() && sign.heartbeat != heartbeat);
        if alive {
            *sign = Sign { lease, heartbeat, changed: now };
        }
        now.saturating_sub(sign.changed)
    }

    async fn mark_unknown(
        &self,
        key: &Key,
        node: &core::Node,
        conditions: Vec<core::NodeCondition>,
    ) -> Result<Outcome, kube::Error> {
        let body = json!({
            "metadata": {"uid": node.metadata.uid,
                "resourceVersion": node.metadata.resource_version},
            "status": {"conditions": conditions},
        });
        let path = format!("{}/status", rest::cluster_object::<core::Node>(&key.name));
        let client = &self.context.client;
        let patched = rest::patch::<rest::Ignored>(client, &path, rest::Patch::Merge, &body).await;
        if rest::found(patched)?.is_some() && plan::health(node) == Health::Ready {
            tracing::warn!(node = %key.name, "the node stopped reporting");
            let told = format!("Node {} status is now: NodeNotReady", key.name);
            self.recorder.event(&reference(node), EventType::Normal, "NodeNotReady", told);
        }
        Ok(Outcome::done())
    }

    fn may_evict(&self) -> bool {
        let nodes = self.context.informers.nodes.list();
        let bad = nodes.iter().filter(|node| plan::health(node) != Health::Ready).count();
        let rate = plan::rate(nodes.len(), bad, &self.context.config.node_lifecycle);
        self.limiter.lock().take(rate, self.context.clock.monotonic())
    }

    /// Says of the pods on a node that is not well that they are not Ready, so that no Service
    /// sends them anything.
    async fn unready_pods(&self, key: &Key) -> Result<(), kube::Error> {
        let pods = self.context.informers.pods.indexed("node", &key.name);
        let ready = pods.into_iter().filter(|pod| pod.ready.is_some());
        let results: Vec<Result<(), kube::Error>> = futures::stream::iter(ready)
            .map(|pod| self.unready(pod))
            .buffer_unordered(IN_FLIGHT)
            .collect()
            .await;
        results.into_iter().collect()
    }

    async fn unready(&self, pod: Arc<Pod>) -> Result<(), kube::Error> {
        let now = time(self.context.clock.now());
        let body = json!({
            "metadata": {"uid": pod.uid},
            "status": {"conditions": [
                {"type": "Ready", "status": "False", "lastTransitionTime": now}]},
        });
        let object = rest::object::<core::Pod>(&pod.key.namespace, &pod.key.name);
        let path = format!("{object}/status");
        let client = &self.context.client;
        let patched = rest::patch::<rest::Ignored>(client, &path, rest::Patch::Strategic, &body);
        if rest::found(patched.await)?.is_some() {
            let about = pod.reference();
            self.recorder.event(&about, EventType::Warning, "NodeNotReady", "Node is not ready");
        }
        Ok(())
    }
}

struct Evictor {
    context: Context,
    recorder: Recorder,
    /// Pods whose eviction was told, so that its end can be told as well.
    marked: Mutex<HashSet<Key>>,
}

async fn evict(context: Context) {
    let queue: WorkQueue<Key> = WorkQueue::new(context.seed("taint-eviction"));
    let (to, pods) = (queue.clone(), context.informers.pods.clone());
    context.informers.nodes.on_change(move |change| {
        let taints = |node: Option<&Arc<core::Node>>| {
            node.and_then(|node| node.spec.as_ref()?.taints.clone()).unwrap_or_default()
        };
        if taints(change.old) != taints(change.new) {
            for pod in pods.indexed("node", &change.key.name) {
                to.add(pod.key.clone());
            }
        }
    });
    let (to, nodes) = (queue.clone(), context.informers.nodes.clone());
    context.informers.pods.on_change(move |change| {
        let Some(pod) = change.new else { return to.add(change.key.clone()) };
        let moved = change.old.is_none_or(|old| {
            old.node != pod.node || old.uid != pod.uid || old.tolerations != pod.tolerations
        });
        let tainted = || {
            let node = nodes.get(&Key::new("", pod.node.clone()));
            node.is_some_and(|node| execute_taints(&node).next().is_some())
        };
        if moved && !pod.node.is_empty() && tainted() {
            to.add(change.key.clone());
        }
    });
    let evictor = Arc::new(Evictor {
        recorder: context.recorder("taint-eviction-controller"),
        marked: Mutex::default(),
        context: context.clone(),
    });
    let reconcile = move |key: Key| {
        let evictor = evictor.clone();
        async move { quiet_conflict(evictor.look_at(&key).await) }
    };
    queue.run("taint-eviction", WORKERS, context.shutdown.clone(), reconcile).await;
}

fn execute_taints(node: &core::Node) -> impl Iterator<Item = &core::Taint> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.filter(|taint| taint.effect == "NoExecute")
}

impl Evictor {
    async fn look_at(&self, key: &Key) -> Result<Outcome, kube::Error> {
        let informers = &self.context.informers;
        let Some(pod) = informers.pods.get(key) else {
            self.marked.lock().remove(key);
            return Ok(Outcome::done());
        };
        let node = informers.nodes.get(&Key::new("", pod.node.clone()));
        let taints: Vec<core::Taint> =
            node.iter().flat_map(|node| execute_taints(node)).cloned().collect();
        let now = self.context.clock.now();
        match eviction::stay(&taints, &pod.tolerations, now) {
            Stay::Forever => {
                if self.marked.lock().remove(key) {
                    let told = format!("Cancelling deletion of Pod {key}");
                    self.tell(&pod, told);
                }
                Ok(Outcome::done())
            }
            Stay::Until(at) if at > now => {
                let left = at.as_millisecond().saturating_sub(now.as_millisecond());
                self.marked.lock().insert(key.clone());
                let left = u64::try_from(left).unwrap_or(0) + 1;
                Ok(Outcome::again_in(Duration::from_millis(left)))
            }
            Stay::Until(_) if pod.deleting.is_some() => Ok(Outcome::done()),
            Stay::Until(_) => {
                self.tell(&pod, format!("Marking for deletion Pod {key}"));
                self.delete(&pod, now).await?;
                Ok(Outcome::done())
            }
        }
    }

    fn tell(&self, pod: &Pod, told: String) {
        let about = pod.reference();
        self.recorder.event(&about, EventType::Normal, "TaintManagerEviction", told);
    }

    async fn delete(&self, pod: &Pod, now: Timestamp) -> Result<(), kube::Error> {
        let path = rest::object::<core::Pod>(&pod.key.namespace, &pod.key.name);
        let client = &self.context.client;
        let body = json!({
            "metadata": {"uid": pod.uid},
            "status": {"conditions": [{"type": "DisruptionTarget", "status": "True",
                "reason": "DeletionByTaintManager",
                "message": "Taint manager: deleting due to NoExecute taint",
                "lastTransitionTime": time(now)}]},
        });
        let status = format!("{path}/status");
        rest::found(
            rest::patch::<rest::Ignored>(client, &status, rest::Patch::Strategic, &body).await,
        )?;
        rest::found(rest::delete(client, &path, &rest::Delete::uid(&pod.uid)).await)?;
        Ok(())
    }
}
