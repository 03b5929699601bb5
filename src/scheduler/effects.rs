//! What the scheduler's steps do to the world.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1;
use serde_json::{Value, json};

use super::deschedule::Move;
use super::informers::Informers;
use super::plan::NodeName;
use super::pod::{PREEMPTED, Pod, Refused};
use super::preempt::Room;
use super::seen;
use super::state::Step;
use super::volumes::plan;
use crate::base::clock::SharedClock;
use crate::client::events::{EventType, Recorder};
use crate::client::{meta, rest};

/// How often claims are looked at that are being bound.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long is waited at most before the server is asked again that did not answer.
const LOOK_SELDOM: Duration = Duration::from_secs(10);

/// What came of a step.
pub enum Done {
    Bound(Arc<Pod>),
    NotBound {
        pod: Arc<Pod>,
        node: NodeName,
        again: bool,
    },
    Told,
    /// Pods that could not be made to go.
    Spared(Vec<Arc<Pod>>),
}

/// What steps do to the world.
#[derive(Clone)]
pub struct Effects {
    pub client: kube::Client,
    pub recorder: Recorder,
    pub clock: SharedClock,
    pub informers: Arc<Informers>,
}

fn path(pod: &Pod) -> String {
    rest::object::<v1::Pod>(&pod.key.namespace, &pod.key.name)
}

/// Whether the object is gone or became another, which its informer tells.
fn is_stale(error: &kube::Error) -> bool {
    rest::is_not_found(error) || rest::is_conflict(error)
}

impl Effects {
    pub async fn carry_out(self, step: Step) -> Done {
        match step {
            Step::Bind { pod, node, volumes, timeout } => {
                if !volumes.is_empty()
                    && let Err(why) = self.bind_volumes(&node, &volumes, timeout).await
                {
                    self.warn(&pod, why);
                    return Done::NotBound { pod, node, again: true };
                }
                self.bind(pod, node).await
            }
            Step::Refuse { pod, why, room, withdrawn } => {
                self.refuse(&pod, why.to_string(), room.as_ref(), withdrawn).await;
                match room {
                    Some(room) => self.make_room(&pod, room).await,
                    None => Done::Told,
                }
            }
        }
    }

    fn warn(&self, pod: &Pod, message: String) {
        let (about, reason) = (pod.reference(), "FailedScheduling");
        self.recorder.event(&about, EventType::Warning, reason, message);
    }

    async fn bind(self, pod: Arc<Pod>, node: NodeName) -> Done {
        let binding = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": pod.key.name, "namespace": pod.key.namespace, "uid": &*pod.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": &*node},
        });
        let path = format!("{}/binding", path(&pod));
        match rest::create::<rest::Ignored>(&self.client, &path, &binding).await {
            Ok(_) => {
                let message = format!("Successfully assigned {} to {node}", pod.key);
                let about = pod.reference();
                self.recorder.event(&about, EventType::Normal, "Scheduled", message);
                Done::Bound(pod)
            }
            Err(error) => {
                tracing::info!(%node, %error, "the pod could not be bound");
                if is_stale(&error) {
                    // Gone, or bound by someone else: the informer tells.
                    return Done::NotBound { pod, node, again: false };
                }
                self.warn(&pod, format!("binding to {node} failed: {error}"));
                // The request may have been carried out all the same: its room is given to others
                // only once that is known.
                match self.bound_to(&pod).await {
                    Some(there) if *there == *node => Done::Bound(pod),
                    there => Done::NotBound { pod, node, again: there.is_none() },
                }
            }
        }
    }

    /// Where a pod is bound to; asks until there is an answer.
    async fn bound_to(&self, pod: &Pod) -> Option<String> {
        let mut pause = LOOK_EVERY;
        loop {
            match rest::found(rest::get::<seen::Pod>(&self.client, &path(pod)).await) {
                Ok(there) => {
                    let same = there.filter(|t| t.metadata.uid.as_deref() == Some(&*pod.uid))?;
                    return same.spec.node_name.filter(|node| !node.is_empty());
                }
                Err(error) => tracing::info!(%error, "it is not known whether the pod was bound"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOK_SELDOM);
        }
    }

    /// Keeps volumes for claims, has others made, and waits until all are bound.
    async fn bind_volumes(
        &self,
        node: &str,
        steps: &[plan::Step],
        timeout: Duration,
    ) -> Result<(), String> {
        for step in steps {
            self.start_binding(node, step)
                .await
                .map_err(|error| format!("running PreBind plugin \"VolumeBinding\": {error}"))?;
        }
        let all = async {
            for step in steps {
                self.until_bound(node, step).await?;
            }
            Ok(())
        };
        tokio::time::timeout(timeout, all).await.unwrap_or_else(|_| {
            let plugin = "running PreBind plugin \"VolumeBinding\"";
            Err(format!("{plugin}: binding volumes: context deadline exceeded"))
        })
    }

    async fn start_binding(&self, node: &str, step: &plan::Step) -> Result<(), kube::Error> {
        let (path, body) = match step {
            plan::Step::Claim { volume, claim } => {
                let reference = json!({
                    "apiVersion": "v1",
                    "kind": "PersistentVolumeClaim",
                    "namespace": claim.key.namespace,
                    "name": claim.key.name,
                    "uid": claim.uid,
                });
                let annotations = json!({"pv.kubernetes.io/bound-by-controller": "yes"});
                let metadata =
                    json!({"resourceVersion": volume.version, "annotations": annotations});
                let path = rest::cluster_object::<v1::PersistentVolume>(&volume.name);
                (path, json!({"metadata": metadata, "spec": {"claimRef": reference}}))
            }
            plan::Step::Provision { claim } => {
                let annotations = json!({"volume.kubernetes.io/selected-node": node});
                let (namespace, name) = (&claim.key.namespace, &claim.key.name);
                let path = rest::object::<v1::PersistentVolumeClaim>(namespace, name);
                (path, json!({"metadata": {"uid": claim.uid, "annotations": annotations}}))
            }
        };
        rest::patch::<rest::Ignored>(&self.client, &path, rest::Patch::Merge, &body).await.map(drop)
    }

    async fn until_bound(&self, node: &str, step: &plan::Step) -> Result<(), String> {
        let key = &step.claim().key;
        let mut selected = false;
        loop {
            let Some(claim) = self.informers.claims.get(key) else {
                return Err(format!("persistentvolumeclaim \"{}\" not found", key.name));
            };
            if claim.bound.is_some() {
                return Ok(());
            }
            if matches!(step, plan::Step::Provision { .. }) {
                // Whoever makes volumes takes the node back when it cannot make one there.
                if selected && claim.selected_node.is_none() {
                    return Err(format!(
                        "running PreBind plugin \"VolumeBinding\": binding volumes: provisioning \
                         failed for PVC \"{}\"",
                        key.name
                    ));
                }
                selected |= claim.selected_node.as_deref() == Some(node);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Tells why a pod stays pending, and where room is made for it.
    async fn refuse(&self, pod: &Pod, message: String, room: Option<&Room>, withdrawn: bool) {
        let refused = Refused { reason: "Unschedulable".to_owned(), message };
        self.warn(pod, refused.message.clone());
        let mut status = serde_json::Map::new();
        if let Some(room) = room {
            status.insert("nominatedNodeName".to_owned(), json!(&*room.node));
        } else if withdrawn {
            status.insert("nominatedNodeName".to_owned(), Value::Null);
        }
        if pod.refused.as_ref() != Some(&refused) {
            let mut condition = json!({
                "type": "PodScheduled",
                "status": "False",
                "reason": refused.reason,
                "message": refused.message,
            });
            if pod.refused.is_none() {
                condition["lastTransitionTime"] = json!(meta::time(self.clock.now()));
            }
            status.insert("conditions".to_owned(), json!([condition]));
        }
        self.patch_status(pod, &Value::Object(status)).await;
    }

    async fn patch_status(&self, pod: &Pod, status: &Value) {
        if status.as_object().is_some_and(serde_json::Map::is_empty) {
            return;
        }
        let body = json!({"metadata": {"uid": &*pod.uid}, "status": status});
        let path = format!("{}/status", path(pod));
        let patched =
            rest::patch::<rest::Ignored>(&self.client, &path, rest::Patch::Strategic, &body).await;
        if let Err(error) = patched.map(drop)
            && !is_stale(&error)
        {
            tracing::info!(%error, "the pod's status could not be written");
        }
    }

    /// Makes pods go, for the one that matters more.
    async fn make_room(&self, pod: &Pod, room: Room) -> Done {
        for other in &room.displaced {
            self.patch_status(other, &json!({"nominatedNodeName": null})).await;
        }
        let going = room.victims.iter().map(|victim| self.preempt(pod, victim, &room.node));
        let gone = futures::future::join_all(going).await;
        let spared = room.victims.iter().zip(gone).filter(|(_, gone)| !gone);
        Done::Spared(spared.map(|(victim, _)| victim.clone()).collect())
    }

    /// Evicts pods that should be elsewhere; what a budget protects stays.
    pub async fn move_all(self, moves: Vec<Move>) {
        for one in moves {
            let pod = &one.pod;
            let eviction = json!({
                "apiVersion": "policy/v1",
                "kind": "Eviction",
                "metadata": {"name": pod.key.name, "namespace": pod.key.namespace},
                "deleteOptions": {"preconditions": {"uid": &*pod.uid}},
            });
            let path = format!("{}/eviction", path(pod));
            match rest::create::<rest::Ignored>(&self.client, &path, &eviction).await {
                Ok(_) => {
                    let about = pod.reference();
                    self.recorder.event(&about, EventType::Normal, "Descheduled", one.why);
                }
                Err(error) => tracing::info!(pod = %pod.key, %error, "the pod was not moved"),
            }
        }
    }

    async fn preempt(&self, pod: &Pod, victim: &Pod, node: &str) -> bool {
        let message = format!("{}: preempting to accommodate a higher priority pod", pod.scheduler);
        let condition = json!({
            "type": "DisruptionTarget",
            "status": "True",
            "reason": PREEMPTED,
            "message": message,
            "lastTransitionTime": meta::time(self.clock.now()),
        });
        self.patch_status(victim, &json!({"conditions": [condition]})).await;
        let uid = rest::Delete::uid(victim.uid.to_string());
        match rest::delete(&self.client, &path(victim), &uid).await {
            Ok(()) => {
                let message = format!("Preempted by pod {} on node {node}", pod.uid);
                let about = victim.reference();
                self.recorder.event(&about, EventType::Normal, "Preempted", message);
                true
            }
            Err(error) if is_stale(&error) => true,
            Err(error) => {
                tracing::info!(victim = %victim.key, %error, "a pod could not be preempted");
                false
            }
        }
    }
}
