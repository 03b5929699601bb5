//! The loop: informers fill the snapshot and the queue, decisions leave as bindings.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::{Notify, Semaphore};
use tracing::Instrument;

use super::config::SchedulerConfig;
use super::model::{Node, Pod};
use super::plan::{Unschedulable, decide};
use super::queue::{Hint, Queue};
use super::snapshot::Snapshot;
use crate::base::clock::{SharedClock, rfc3339_seconds};
use crate::base::shutdown::Shutdown;
use crate::client::events::{EventType, Recorder};
use crate::client::informer::{Builder, Change, Informer, Source};
use crate::client::leader::{self, LeaderConfig};
use crate::client::rest;

/// What decisions are made from. Informers write it, the loop reads it.
#[derive(Default)]
struct State {
    snapshot: Snapshot,
    queue: Queue,
}

struct Scheduler {
    client: kube::Client,
    config: SchedulerConfig,
    clock: SharedClock,
    events: Recorder,
    state: Mutex<State>,
    /// Something was put into the queue.
    wake: Notify,
    bindings: Arc<Semaphore>,
}

/// Schedules pods whenever this process leads, until `shutdown`.
pub async fn run(
    client: kube::Client,
    config: SchedulerConfig,
    clock: SharedClock,
    shutdown: Shutdown,
) {
    let lease = LeaderConfig::new("coracle-scheduler", config.identity.clone());
    let act = {
        let (client, clock) = (client.clone(), clock.clone());
        move |stop: Shutdown| lead(client.clone(), config.clone(), clock.clone(), stop)
    };
    leader::run(client, lease, clock, shutdown, act).await;
}

async fn lead(client: kube::Client, config: SchedulerConfig, clock: SharedClock, stop: Shutdown) {
    let events = Recorder::start(client.clone(), &config.name, "", clock.clone(), stop.clone());
    let bindings = Arc::new(Semaphore::new(config.bindings_max));
    let scheduler = Arc::new(Scheduler {
        client: client.clone(),
        config,
        clock,
        events,
        state: Mutex::default(),
        wake: Notify::new(),
        bindings,
    });
    let nodes: Informer<Node> =
        Builder::new(Source::all::<core::Node>(), Node::of).start(client.clone(), stop.clone());
    let pods: Informer<Pod> =
        Builder::new(Source::all::<core::Pod>(), Pod::of).start(client, stop.clone());
    let (on_node, on_pod) = (scheduler.clone(), scheduler.clone());
    nodes.on_change(move |change| on_node.node_changed(&change));
    nodes.synced().await;
    pods.on_change(move |change| on_pod.pod_changed(&change));
    pods.synced().await;
    tokio::select! {
        () = stop.cancelled() => {}
        () = scheduler.decide_forever() => {}
    }
}

impl Scheduler {
    fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    fn node_changed(&self, change: &Change<'_, Node>) {
        let mut state = self.state.lock();
        match change.new {
            // Heartbeats change nothing that is projected, so nobody is woken for them.
            Some(node) if change.old.is_some_and(|old| old == node) => {
                state.snapshot.set_node(node.clone());
                return;
            }
            Some(node) => state.snapshot.set_node(node.clone()),
            None => state.snapshot.remove_node(&change.key.name),
        }
        state.queue.hint(Hint::NodeChanged, self.now());
        drop(state);
        self.wake.notify_one();
    }

    fn pod_changed(&self, change: &Change<'_, Pod>) {
        let mut state = self.state.lock();
        if let Some(old) = change.old
            && change.new.is_none_or(|new| new.uid != old.uid)
        {
            state.queue.remove(&old.uid);
            if state.snapshot.remove_pod(&old.uid).is_some() {
                state.queue.hint(Hint::PodGone, self.now());
            }
        }
        match change.new {
            Some(pod) if !pod.node.is_empty() => {
                state.queue.remove(&pod.uid);
                state.snapshot.set_pod(pod.clone());
            }
            Some(pod) if pod.scheduler != self.config.name || pod.held => {
                state.queue.remove(&pod.uid);
            }
            // An assumed pod's own status updates must not queue it again.
            Some(pod) if !state.snapshot.has_pod(&pod.uid) => {
                let told_only = change.old.is_some_and(|old| same_wishes(old, pod));
                if !told_only {
                    state.queue.add(pod.clone(), self.now());
                }
            }
            _ => {}
        }
        drop(state);
        self.wake.notify_one();
    }

    async fn decide_forever(self: &Arc<Self>) {
        let mut start = usize::try_from(self.config.seed).unwrap_or(0);
        loop {
            let woken = self.wake.notified();
            let now = self.now();
            let popped = self.state.lock().queue.pop(now);
            let Some(pod) = popped else {
                let due = self.state.lock().queue.due(now);
                let wait = due.map_or(Duration::from_secs(3600), |at| at.saturating_sub(now));
                tokio::select! {
                    () = woken => {}
                    () = tokio::time::sleep(wait) => {}
                }
                continue;
            };
            start = start.wrapping_add(1);
            self.schedule(pod, start).await;
        }
    }

    async fn schedule(self: &Arc<Self>, pod: Arc<Pod>, start: usize) {
        // A place first: a decision that waits for one would be made from an old snapshot.
        let place = self.bindings.clone().acquire_owned().await;
        let place = place.expect("the semaphore is never closed");
        let decided = {
            let mut state = self.state.lock();
            let decided = decide(&state.snapshot, &pod, self.config.scoring, start);
            match &decided {
                Ok(node) => {
                    let assumed = Pod { node: node.clone(), ..(*pod).clone() };
                    state.snapshot.set_pod(Arc::new(assumed));
                }
                Err(refused) => {
                    state.queue.unschedulable(&pod.uid, refused.rules.clone(), self.now());
                }
            }
            decided
        };
        let span = tracing::info_span!("schedule", ns = pod.key.namespace, pod = pod.key.name);
        let scheduler = self.clone();
        let work = async move {
            match decided {
                Ok(node) => scheduler.bind(&pod, &node).await,
                Err(refused) => scheduler.tell_unschedulable(&pod, &refused).await,
            }
            drop(place);
        };
        tokio::spawn(work.instrument(span));
    }

    async fn bind(&self, pod: &Pod, node: &str) {
        let path = format!("{}/binding", path_of(pod));
        let binding = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": pod.key.name, "namespace": pod.key.namespace, "uid": pod.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        match rest::create::<rest::Ignored>(&self.client, &path, &binding).await {
            Ok(_) => {
                let message = format!("Successfully assigned {} to {node}", pod.key);
                self.events.event(&reference(pod), EventType::Normal, "Scheduled", message);
            }
            Err(error) => {
                let mut state = self.state.lock();
                state.snapshot.remove_pod(&pod.uid);
                // A pod that is gone, or has a node by now, tells so through the informer.
                if !rest::is_not_found(&error) {
                    state.queue.retry(&pod.uid, self.now());
                }
                drop(state);
                self.wake.notify_one();
                tracing::warn!(%error, node, "a binding was refused");
            }
        }
    }

    async fn tell_unschedulable(&self, pod: &Pod, refused: &Unschedulable) {
        let message = refused.message();
        self.events.event(&reference(pod), EventType::Warning, "FailedScheduling", message.clone());
        if pod.unscheduled_message == message {
            return;
        }
        let condition = json!({
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastTransitionTime": rfc3339_seconds(self.clock.now()),
        });
        let patch = json!({"metadata": {"uid": pod.uid}, "status": {"conditions": [condition]}});
        let path = format!("{}/status", path_of(pod));
        let patched: Result<rest::Ignored, _> =
            rest::patch(&self.client, &path, rest::Patch::Strategic, &patch).await;
        if let Err(error) = patched
            && !rest::is_not_found(&error)
        {
            tracing::warn!(%error, "the condition PodScheduled was not written");
        }
    }
}

/// Whether only what the scheduler itself wrote differs.
fn same_wishes(old: &Pod, new: &Pod) -> bool {
    old.unscheduled_message != new.unscheduled_message && old.held == new.held
}

fn path_of(pod: &Pod) -> String {
    rest::object::<core::Pod>(&pod.key.namespace, &pod.key.name)
}

fn reference(pod: &Pod) -> core::ObjectReference {
    core::ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(pod.key.namespace.clone()),
        name: Some(pod.key.name.clone()),
        uid: Some(pod.uid.clone()),
        ..core::ObjectReference::default()
    }
}
