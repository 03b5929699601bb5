//! What the view needs to know of each object, and nothing more of it. Pure.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use crate::client::Key;
use crate::client::meta::{controller_of, timestamp};

/// What a node says of itself, or is said of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    Ready,
    NotReady,
    /// Not heard of for too long.
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    pub name: String,
    pub state: NodeState,
    /// It takes no new pods (`kubectl cordon`).
    pub cordoned: bool,
    pub address: String,
}

impl NodeFacts {
    pub fn of(node: &Node) -> Self {
        let status = node.status.as_ref();
        let conditions = status.and_then(|s| s.conditions.as_ref()).into_iter().flatten();
        let ready = conditions.into_iter().find(|c| c.type_ == "Ready");
        let state = match ready.map(|c| c.status.as_str()) {
            Some("True") => NodeState::Ready,
            Some("False") | None => NodeState::NotReady,
            Some(_) => NodeState::Unknown,
        };
        let addresses = status.and_then(|s| s.addresses.as_ref()).into_iter().flatten();
        let address = addresses.into_iter().find(|a| a.type_ == "InternalIP");
        Self {
            name: node.metadata.name.clone().unwrap_or_default(),
            state,
            cordoned: node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false),
            address: address.map(|a| a.address.clone()).unwrap_or_default(),
        }
    }
}

/// How a pod is, as a colour and a symbol tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PodState {
    /// No node yet.
    Pending,
    /// On a node, on its way.
    Starting,
    Ready,
    /// It runs and does not serve, or its node is not heard of.
    NotReady,
    Terminating,
    Succeeded,
    /// It ended badly, or cannot start.
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFacts {
    pub key: Key,
    pub node: Option<String>,
    pub state: PodState,
    /// The word that `kubectl get pods` has for it, as `Running` or `CrashLoopBackOff`.
    pub word: String,
    pub restarts: i32,
    pub deployment: Option<Key>,
    /// The first container, whose log is followed.
    pub container: String,
    pub ip: String,
}

impl PodFacts {
    pub fn of(pod: &Pod) -> Self {
        let meta = &pod.metadata;
        let spec = pod.spec.as_ref();
        let node = spec.and_then(|s| s.node_name.clone()).filter(|node| !node.is_empty());
        let deleting = meta.deletion_timestamp.is_some();
        let (state, word) = pod_state(pod, node.is_some(), deleting);
        let containers = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref());
        Self {
            key: Key::of(meta),
            node,
            state,
            word,
            restarts: containers.into_iter().flatten().map(|c| c.restart_count).sum(),
            deployment: deployment_of(pod),
            container: spec
                .and_then(|s| s.containers.first())
                .map(|c| c.name.clone())
                .unwrap_or_default(),
            ip: pod.status.as_ref().and_then(|s| s.pod_ip.clone()).unwrap_or_default(),
        }
    }
}

/// A ReplicaSet of a Deployment is named after it and the hash of its pods.
fn deployment_of(pod: &Pod) -> Option<Key> {
    let owner = controller_of(&pod.metadata).filter(|owner| owner.kind == "ReplicaSet")?;
    let hash = pod.metadata.labels.as_ref()?.get("pod-template-hash")?;
    let name = owner.name.strip_suffix(hash.as_str())?.strip_suffix('-')?;
    Some(Key::new(pod.metadata.namespace.clone().unwrap_or_default(), name))
}

fn pod_state(pod: &Pod, placed: bool, deleting: bool) -> (PodState, String) {
    let status = pod.status.as_ref();
    let phase = status.and_then(|s| s.phase.clone()).unwrap_or_default();
    let ready = status
        .and_then(|s| s.conditions.as_ref())
        .into_iter()
        .flatten()
        .any(|c| c.type_ == "Ready" && c.status == "True");
    let reason = status.and_then(trouble);
    let word = || reason.clone().unwrap_or_else(|| phase.clone());
    match phase.as_str() {
        "Succeeded" => (PodState::Succeeded, "Completed".to_owned()),
        "Failed" => {
            let own = status.and_then(|s| s.reason.clone());
            (PodState::Failed, own.unwrap_or_else(word))
        }
        _ if deleting => (PodState::Terminating, "Terminating".to_owned()),
        "Running" if ready => (PodState::Ready, "Running".to_owned()),
        _ if !placed => (PodState::Pending, "Pending".to_owned()),
        _ => match &reason {
            Some(reason) if is_failure(reason) => (PodState::Failed, reason.clone()),
            _ if phase == "Running" => (PodState::NotReady, word()),
            _ => (PodState::Starting, word()),
        },
    }
}

fn is_failure(reason: &str) -> bool {
    let bad = ["BackOff", "Err", "Error", "Invalid", "OOMKilled"];
    bad.iter().any(|word| reason.contains(word))
}

/// Why the first container that neither runs nor ended well does not.
fn trouble(status: &k8s_openapi::api::core::v1::PodStatus) -> Option<String> {
    let init = status.init_container_statuses.as_deref().unwrap_or_default();
    let main = status.container_statuses.as_deref().unwrap_or_default();
    init.iter().chain(main).find_map(reason_of)
}

fn reason_of(container: &ContainerStatus) -> Option<String> {
    let state = container.state.as_ref()?;
    if let Some(waiting) = &state.waiting {
        return waiting.reason.clone();
    }
    let ended = state.terminated.as_ref().filter(|ended| ended.exit_code != 0)?;
    Some(ended.reason.clone().unwrap_or_else(|| format!("ExitCode:{}", ended.exit_code)))
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeploymentFacts {
    pub key: Key,
    pub wanted: i32,
    pub ready: i32,
}

impl DeploymentFacts {
    pub fn of(deployment: &Deployment) -> Self {
        let wanted = deployment.spec.replicas.unwrap_or(1);
        let ready = deployment.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0);
        Self { key: Key::of(&deployment.metadata), wanted, ready }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceFacts {
    pub key: Key,
    pub cluster_ip: String,
    /// `80/TCP`, `80:30080/TCP`.
    pub ports: Vec<String>,
}

impl ServiceFacts {
    pub fn of(service: &Service) -> Self {
        let spec = service.spec.as_ref();
        let ports = spec.and_then(|s| s.ports.as_ref()).into_iter().flatten();
        let ports = ports.map(|p| {
            let protocol = p.protocol.as_deref().unwrap_or("TCP");
            match p.node_port.filter(|port| *port != 0) {
                Some(node_port) => format!("{}:{node_port}/{protocol}", p.port),
                None => format!("{}/{protocol}", p.port),
            }
        });
        Self {
            key: Key::of(&service.metadata),
            cluster_ip: spec.and_then(|s| s.cluster_ip.clone()).unwrap_or_default(),
            ports: ports.collect(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceFacts {
    pub service: Key,
    pub ready: usize,
    pub all: usize,
}

impl SliceFacts {
    /// `None` for a slice of no Service.
    pub fn of(slice: &EndpointSlice) -> Option<Self> {
        let labels = slice.metadata.labels.as_ref()?;
        let service = labels.get("kubernetes.io/service-name")?;
        let namespace = slice.metadata.namespace.clone().unwrap_or_default();
        let ready = |e: &&k8s_openapi::api::discovery::v1::Endpoint| {
            e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true)
        };
        Some(Self {
            service: Key::new(namespace, service.as_str()),
            ready: slice.endpoints.iter().flatten().filter(ready).count(),
            all: slice.endpoints.iter().flatten().count(),
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventFacts {
    pub at: Timestamp,
    pub warning: bool,
    pub reason: String,
    /// `pod/hello-http-…`
    pub about: String,
    pub message: String,
    pub count: i32,
}

impl EventFacts {
    pub fn of(event: &Event) -> Self {
        let about = &event.involved_object;
        let kind = about.kind.as_deref().unwrap_or_default().to_lowercase();
        let at = event.last_timestamp.as_ref().map(timestamp);
        let at = at.or_else(|| event.first_timestamp.as_ref().map(timestamp));
        let at = at.or_else(|| event.event_time.as_ref().map(micro_timestamp));
        let at = at.or_else(|| event.metadata.creation_timestamp.as_ref().map(timestamp));
        Self {
            at: at.unwrap_or(Timestamp::UNIX_EPOCH),
            warning: event.type_.as_deref() == Some("Warning"),
            reason: event.reason.clone().unwrap_or_default(),
            about: format!("{kind}/{}", about.name.as_deref().unwrap_or_default()),
            message: event.message.clone().unwrap_or_default(),
            count: event.count.unwrap_or(1),
        }
    }
}

/// Of the other jiff that `k8s-openapi` depends on.
fn micro_timestamp(time: &MicroTime) -> Timestamp {
    Timestamp::from_microsecond(time.0.as_microsecond()).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(mut patch: Value) -> PodFacts {
        let mut pod = json!({
            "metadata": {"name": "web-7d4-x", "namespace": "default",
                "labels": {"pod-template-hash": "7d4"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet",
                    "name": "web-7d4", "uid": "u", "controller": true}]},
            "spec": {"containers": [{"name": "c"}], "nodeName": "one"},
            "status": {"phase": "Running"},
        });
        json_patch::merge(&mut pod, &patch.take());
        PodFacts::of(&serde_json::from_value(pod).expect("a pod"))
    }

    #[test]
    fn the_state_of_a_pod_is_told_by_what_is_worst_about_it() {
        let ready = json!([{"type": "Ready", "status": "True"}]);
        let waits = |reason: &str| {
            json!([{"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 3,
                "state": {"waiting": {"reason": reason}}}])
        };
        let cases = [
            (json!({"status": {"conditions": ready}}), PodState::Ready, "Running"),
            (json!({}), PodState::NotReady, "Running"),
            (
                json!({"spec": {"nodeName": null}, "status": {"phase": "Pending"}}),
                PodState::Pending,
                "Pending",
            ),
            (
                json!({"status": {"phase": "Pending", "containerStatuses": waits("PodInitializing")}}),
                PodState::Starting,
                "PodInitializing",
            ),
            (
                json!({"status": {"containerStatuses": waits("CrashLoopBackOff")}}),
                PodState::Failed,
                "CrashLoopBackOff",
            ),
            (json!({"status": {"phase": "Succeeded"}}), PodState::Succeeded, "Completed"),
            (
                json!({"status": {"phase": "Failed", "reason": "Evicted"}}),
                PodState::Failed,
                "Evicted",
            ),
            (
                json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"},
                "status": {"conditions": ready}}),
                PodState::Terminating,
                "Terminating",
            ),
        ];
        for (patch, state, word) in cases {
            let facts = pod(patch.clone());
            assert_eq!((facts.state, facts.word.as_str()), (state, word), "{patch}");
        }
    }

    #[test]
    fn a_pod_knows_its_deployment() {
        assert_eq!(pod(json!({})).deployment, Some(Key::new("default", "web")));
        let alone = pod(json!({"metadata": {"ownerReferences": null}}));
        assert_eq!(alone.deployment, None);
    }

    #[test]
    fn a_node_that_is_not_heard_of_is_unknown() {
        let node = |status: &str| {
            NodeFacts::of(
                &serde_json::from_value(json!({
                    "metadata": {"name": "one"},
                    "status": {"conditions": [{"type": "Ready", "status": status}]},
                }))
                .expect("a node"),
            )
            .state
        };
        assert_eq!(node("True"), NodeState::Ready);
        assert_eq!(node("False"), NodeState::NotReady);
        assert_eq!(node("Unknown"), NodeState::Unknown);
    }
}
