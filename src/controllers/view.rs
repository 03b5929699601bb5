//! What the controllers keep of an object.
//!
//! **Invariant:** a projection holds nothing whose size a user chooses, apart from labels,
//! annotations, tolerations and what chooses nodes: pod templates are kept as a digest and read when one is needed.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job, JobTemplateSpec};
use k8s_openapi::api::core::v1::{self as core, PodTemplateSpec, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use sha2::{Digest, Sha256};

use super::job::{FAILURES, FINALIZER, IGNORED, INDEX};
use crate::client::meta::{Key, controller_of, timestamp};

/// The label by which the pods of a Deployment's ReplicaSets differ.
pub const POD_TEMPLATE_HASH: &str = "pod-template-hash";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// `status.phase` of a pod; in the order in which pods are deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Phase {
    #[default]
    Pending,
    Unknown,
    Running,
    Succeeded,
    Failed,
}

/// A port that a container declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    pub name: String,
    pub port: i32,
    pub protocol: String,
}

/// A pod.
#[derive(Debug, Clone, Default)]
pub struct Pod {
    pub key: Key,
    pub uid: String,
    pub labels: BTreeMap<String, String>,
    pub controller: Option<OwnerReference>,
    pub created: Option<Timestamp>,
    /// When it must be gone, once it is being deleted.
    pub deleting: Option<Timestamp>,
    pub node: String,
    pub phase: Phase,
    /// Since when it is Ready.
    pub ready: Option<Timestamp>,
    pub deletion_cost: i32,
    pub restarts: i32,
    pub ips: Vec<String>,
    pub hostname: String,
    pub subdomain: String,
    pub ports: Vec<Port>,
    pub tolerations: Vec<Toleration>,
    /// What only Jobs want to know; for pods of Jobs.
    pub job: Option<Box<JobPod>>,
    /// The node that it is meant for, before it is bound to one; for pods of DaemonSets.
    pub meant_for: String,
}

/// What a Job wants to know of a pod.
#[derive(Debug, Clone, Default)]
pub struct JobPod {
    /// It carries the finalizer that keeps it until it is counted.
    pub tracked: bool,
    pub index: Option<i32>,
    /// How often its index failed before, counted.
    pub failures: i32,
    /// How often its index failed before, not counted.
    pub ignored: i32,
    /// The restarts of all its containers together.
    pub restarts: i32,
    /// When its last container ended.
    pub finished: Option<Timestamp>,
    /// Its containers that ended, with their exit codes.
    pub exits: Vec<(String, i32)>,
    /// Types and statuses of its conditions.
    pub conditions: Vec<(String, String)>,
}

impl Pod {
    /// Neither over nor on its way out.
    pub fn is_active(&self) -> bool {
        !self.is_terminal() && self.deleting.is_none()
    }

    /// Its containers will not run again.
    pub fn is_terminal(&self) -> bool {
        matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }

    /// Whether it is Ready, and has been for `min_ready_seconds`.
    pub fn is_available(&self, min_ready_seconds: i32, now: Timestamp) -> bool {
        self.ready.is_some_and(|since| {
            min_ready_seconds <= 0
                || now.as_second() - since.as_second() >= i64::from(min_ready_seconds)
        })
    }

    /// A reference for events and endpoints.
    pub fn reference(&self) -> core::ObjectReference {
        core::ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: Some(self.key.namespace.clone()),
            name: Some(self.key.name.clone()),
            uid: Some(self.uid.clone()),
            ..core::ObjectReference::default()
        }
    }
}

/// The projection of a pod.
pub fn pod(pod: core::Pod) -> Option<Pod> {
    let meta = pod.metadata;
    let spec = pod.spec.unwrap_or_default();
    let status = pod.status.unwrap_or_default();
    let annotation = |name: &str| meta.annotations.as_ref().and_then(|all| all.get(name));
    let ready = status.conditions.iter().flatten().find(|c| c.type_ == "Ready");
    let ready_since = ready
        .filter(|c| c.status == "True")
        .map(|c| c.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, timestamp));
    let statuses = status.container_statuses.iter().flatten();
    let restarts = statuses
        .chain(status.init_container_statuses.iter().flatten())
        .map(|container| container.restart_count)
        .max();
    let mut ips: Vec<String> = status.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect();
    if ips.is_empty() {
        ips.extend(status.pod_ip.clone().filter(|ip| !ip.is_empty()));
    }
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
        .map(|port| Port {
            name: port.name.clone().unwrap_or_default(),
            port: port.container_port,
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
        })
        .collect();
    let owner = controller_of(&meta);
    let is_of = |kind: &str| owner.is_some_and(|owner| owner.kind == kind);
    let tracked = meta.finalizers.iter().flatten().any(|f| f == FINALIZER);
    let job = (tracked || is_of("Job")).then(|| {
        let number = |name: &str| annotation(name).and_then(|n| n.parse().ok());
        Box::new(JobPod {
            tracked,
            index: number(INDEX),
            failures: number(FAILURES).unwrap_or(0),
            ignored: number(IGNORED).unwrap_or(0),
            ..ended(&status)
        })
    });
    let meant_for = if is_of("DaemonSet") {
        node_in_affinity(&spec).unwrap_or_default()
    } else {
        String::new()
    };
    Some(Pod {
        job,
        meant_for,
        deletion_cost: annotation(DELETION_COST).and_then(|c| c.parse().ok()).unwrap_or_default(),
        key: Key::of(&meta),
        controller: controller_of(&meta).cloned(),
        created: meta.creation_timestamp.as_ref().map(timestamp),
        deleting: meta.deletion_timestamp.as_ref().map(timestamp),
        uid: meta.uid.unwrap_or_default(),
        labels: meta.labels.unwrap_or_default(),
        node: spec.node_name.unwrap_or_default(),
        phase: match status.phase.as_deref() {
            Some("Running") => Phase::Running,
            Some("Succeeded") => Phase::Succeeded,
            Some("Failed") => Phase::Failed,
            Some("Unknown") => Phase::Unknown,
            _ => Phase::Pending,
        },
        ready: ready_since,
        restarts: restarts.unwrap_or_default(),
        ips,
        hostname: spec.hostname.unwrap_or_default(),
        subdomain: spec.subdomain.unwrap_or_default(),
        ports,
        tolerations: spec.tolerations.unwrap_or_default(),
    })
}

/// What a Job reads in the status of a pod.
fn ended(status: &core::PodStatus) -> JobPod {
    let mut told = JobPod::default();
    let containers = status.container_statuses.iter().flatten();
    for container in containers.chain(status.init_container_statuses.iter().flatten()) {
        told.restarts += container.restart_count;
        let state = container.state.as_ref().and_then(|state| state.terminated.as_ref());
        let Some(terminated) = state else { continue };
        told.exits.push((container.name.clone(), terminated.exit_code));
        told.finished = told.finished.max(terminated.finished_at.as_ref().map(timestamp));
    }
    for condition in status.conditions.iter().flatten() {
        told.conditions.push((condition.type_.clone(), condition.status.clone()));
        if told.finished.is_none() && condition.type_ == "Ready" && condition.status != "True" {
            told.finished = condition.last_transition_time.as_ref().map(timestamp);
        }
    }
    told
}

/// The node whose name a required node affinity asks for, as a DaemonSet writes it.
fn node_in_affinity(spec: &core::PodSpec) -> Option<String> {
    let required = spec
        .affinity
        .as_ref()?
        .node_affinity
        .as_ref()?
        .required_during_scheduling_ignored_during_execution
        .as_ref()?;
    required
        .node_selector_terms
        .iter()
        .flat_map(|term| term.match_fields.iter().flatten())
        .find_map(|field| match field.values.as_deref() {
            Some([name]) if field.key == "metadata.name" && field.operator == "In" => {
                Some(name.clone())
            }
            _ => None,
        })
}

/// An object that makes pods, its template replaced by a digest.
#[derive(Debug, Clone)]
pub struct Templated<K> {
    /// The object without its template and what nobody here reads.
    pub object: K,
    /// Equal for two templates that make the same pods.
    pub digest: String,
}

/// The projection of a ReplicaSet.
pub fn replica_set(mut set: ReplicaSet) -> Option<Templated<ReplicaSet>> {
    trim(&mut set.metadata);
    let template = set.spec.template.take().unwrap_or_default();
    Some(Templated { digest: digest(&template), object: set })
}

/// The projection of a Deployment.
pub fn deployment(mut deployment: Deployment) -> Option<Templated<Deployment>> {
    trim(&mut deployment.metadata);
    let template = std::mem::take(&mut deployment.spec.template);
    Some(Templated { digest: digest(&template), object: deployment })
}

/// The projection of a Job: of its template only the restart policy stays.
pub fn job(mut job: Job) -> Option<Templated<Job>> {
    trim(&mut job.metadata);
    let spec = job.spec.get_or_insert_default();
    let template = std::mem::take(&mut spec.template);
    let restart_policy = template.spec.as_ref().and_then(|spec| spec.restart_policy.clone());
    spec.template.spec = Some(core::PodSpec { restart_policy, ..core::PodSpec::default() });
    Some(Templated { digest: digest(&template), object: job })
}

/// The projection of a CronJob, without its template.
pub fn cron_job(mut cron: CronJob) -> Option<CronJob> {
    trim(&mut cron.metadata);
    cron.spec.job_template = JobTemplateSpec::default();
    Some(cron)
}

/// The projection of a StatefulSet: of its claim templates only the names stay.
pub fn stateful_set(mut set: StatefulSet) -> Option<Templated<StatefulSet>> {
    trim(&mut set.metadata);
    let template = std::mem::take(&mut set.spec.template);
    for claim in set.spec.volume_claim_templates.iter_mut().flatten() {
        let name = claim.metadata.name.take();
        *claim = core::PersistentVolumeClaim::default();
        claim.metadata.name = name;
    }
    Some(Templated { digest: digest(&template), object: set })
}

/// The projection of a DaemonSet: of its template only what chooses nodes stays.
pub fn daemon_set(mut set: DaemonSet) -> Option<Templated<DaemonSet>> {
    trim(&mut set.metadata);
    let template = std::mem::take(&mut set.spec.template);
    let digest = digest(&template);
    let spec = template.spec.unwrap_or_default();
    set.spec.template.spec = Some(core::PodSpec {
        node_name: spec.node_name,
        node_selector: spec.node_selector,
        affinity: spec.affinity,
        tolerations: spec.tolerations,
        host_network: spec.host_network,
        ..core::PodSpec::default()
    });
    Some(Templated { digest, object: set })
}

/// Leaves out of metadata what is large and nobody here reads.
pub fn trim(meta: &mut ObjectMeta) {
    meta.managed_fields = None;
    if let Some(annotations) = &mut meta.annotations {
        annotations.remove(LAST_APPLIED);
    }
}

/// The template in JSON without its hash label and without empty values, which mean the same as
/// absent ones.
pub fn canonical(template: &PodTemplateSpec) -> String {
    let mut value = serde_json::to_value(template).expect("a template is valid JSON");
    if let Some(labels) = value.pointer_mut("/metadata/labels").and_then(|l| l.as_object_mut()) {
        labels.remove(POD_TEMPLATE_HASH);
    }
    prune(&mut value);
    value.to_string()
}

fn prune(value: &mut serde_json::Value) {
    use serde_json::Value;
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    };
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(prune);
            fields.retain(|_, field| !is_empty(field));
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}

/// The digest of a template.
pub fn digest(template: &PodTemplateSpec) -> String {
    hex::encode(Sha256::digest(canonical(template).as_bytes()))
}

/// A Namespace.
#[derive(Debug, Clone)]
pub struct Namespace {
    /// Neither deleted nor being deleted.
    pub active: bool,
}

/// The projection of a Namespace.
pub fn namespace(namespace: core::Namespace) -> Option<Namespace> {
    let phase = namespace.status.and_then(|status| status.phase);
    Some(Namespace {
        active: namespace.metadata.deletion_timestamp.is_none()
            && phase.as_deref() != Some("Terminating"),
    })
}

/// The projection of a Node: what is large and changes all the time is left out.
pub fn node(mut node: core::Node) -> Option<core::Node> {
    trim(&mut node.metadata);
    if let Some(status) = &mut node.status {
        status.images = None;
        status.volumes_attached = None;
        status.volumes_in_use = None;
    }
    Some(node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn template(value: serde_json::Value) -> PodTemplateSpec {
        serde_json::from_value(value).expect("a template")
    }

    #[test]
    fn templates_that_differ_only_in_hash_and_empty_values_have_one_digest() {
        let plain = template(json!({"metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "a", "image": "x"}]}}));
        let same =
            template(json!({"metadata": {"labels": {"app": "web", "pod-template-hash": "z"},
            "annotations": {}}, "spec": {"containers": [{"name": "a", "image": "x", "env": []}],
            "nodeSelector": {}}}));
        let other = template(json!({"metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "a", "image": "y"}]}}));
        assert_eq!(digest(&plain), digest(&same));
        assert_ne!(digest(&plain), digest(&other));
    }

    #[test]
    fn a_pod_is_available_once_it_was_ready_long_enough() {
        let at = |second| Timestamp::from_second(second).expect("a timestamp");
        let pod = Pod { ready: Some(at(100)), ..Pod::default() };
        assert!(pod.is_available(0, at(100)));
        assert!(!pod.is_available(10, at(109)));
        assert!(pod.is_available(10, at(110)));
        assert!(!Pod::default().is_available(0, at(100)));
    }
}
