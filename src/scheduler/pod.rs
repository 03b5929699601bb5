//! What the scheduler keeps of a pod.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    self, NodeSelectorTerm, ObjectReference, PreferredSchedulingTerm, Toleration,
};

use super::resources::{self, Resources};
use crate::client::meta::{self, Key};

/// A port of the node that a pod wants for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    pub ip: String,
    pub protocol: String,
    pub port: i32,
}

impl HostPort {
    /// Whether both want the same: addresses meet when they are equal or one is any address.
    pub fn meets(&self, other: &Self) -> bool {
        let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || any(&self.ip) || any(&other.ip))
    }
}

/// The `PodScheduled` condition, where the pod has one that says no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub reason: String,
    pub message: String,
}

/// A pod.
#[derive(Debug, Clone)]
pub struct Pod {
    pub key: Key,
    pub uid: Arc<str>,
    pub labels: BTreeMap<String, String>,
    /// The uid of the object that controls it.
    pub owner: Option<Arc<str>>,
    /// The node that it is bound to.
    pub node: Option<Arc<str>>,
    pub scheduler: String,
    pub priority: i32,
    /// When it was created, in seconds since 1970.
    pub created: i64,
    pub gated: bool,
    pub deleting: bool,
    pub requests: Resources,
    pub scored: Resources,
    pub node_selector: BTreeMap<String, String>,
    /// `requiredDuringSchedulingIgnoredDuringExecution`: one of the terms must match.
    pub required: Option<Vec<NodeSelectorTerm>>,
    pub preferred: Vec<PreferredSchedulingTerm>,
    pub tolerations: Vec<Toleration>,
    pub host_ports: Vec<HostPort>,
    pub refused: Option<Refused>,
    /// What events about it refer to.
    pub reference: ObjectReference,
}

impl Pod {
    /// Keeps what is needed; `None` for a pod that has ended: it takes up nothing.
    pub fn of(pod: v1::Pod) -> Option<Self> {
        let reference = meta::reference(&pod);
        let v1::Pod { metadata, spec, status } = pod;
        let spec = spec?;
        let (requests, scored) = resources::of_pod(&spec);
        let host_ports = host_ports(&spec);
        let node_affinity = spec.affinity.and_then(|a| a.node_affinity).unwrap_or_default();
        let required = node_affinity.required_during_scheduling_ignored_during_execution;
        let preferred = node_affinity.preferred_during_scheduling_ignored_during_execution;
        let phase = status.as_ref().and_then(|s| s.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return None;
        }
        let conditions = status.as_ref().and_then(|s| s.conditions.as_ref());
        let refused = conditions.into_iter().flatten().find(|c| c.type_ == "PodScheduled");
        let refused = refused.filter(|c| c.status == "False").map(|c| Refused {
            reason: c.reason.clone().unwrap_or_default(),
            message: c.message.clone().unwrap_or_default(),
        });
        Some(Self {
            key: Key::of(&metadata),
            uid: metadata.uid.as_deref()?.into(),
            owner: meta::controller_of(&metadata).map(|owner| owner.uid.as_str().into()),
            labels: metadata.labels.unwrap_or_default(),
            node: spec.node_name.as_deref().filter(|n| !n.is_empty()).map(Into::into),
            scheduler: spec.scheduler_name.unwrap_or_else(|| "default-scheduler".to_owned()),
            priority: spec.priority.unwrap_or(0),
            created: metadata.creation_timestamp.map_or(0, |t| t.0.as_second()),
            gated: spec.scheduling_gates.is_some_and(|gates| !gates.is_empty()),
            deleting: metadata.deletion_timestamp.is_some(),
            requests,
            scored,
            node_selector: spec.node_selector.unwrap_or_default(),
            required: required.map(|selector| selector.node_selector_terms),
            preferred: preferred.unwrap_or_default(),
            tolerations: spec.tolerations.unwrap_or_default(),
            host_ports,
            refused,
            reference,
        })
    }

    /// Whether `self` and `other` ask the same of a node.
    pub fn asks_the_same(&self, other: &Self) -> bool {
        self.requests == other.requests
            && self.node_selector == other.node_selector
            && self.required == other.required
            && self.tolerations == other.tolerations
            && self.host_ports == other.host_ports
            && self.priority == other.priority
    }
}

fn host_ports(spec: &v1::PodSpec) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = port.host_port.filter(|number| *number > 0)?;
            Some(HostPort {
                ip: port.host_ip.clone().unwrap_or_default(),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                port: number,
            })
        })
        .collect()
}
