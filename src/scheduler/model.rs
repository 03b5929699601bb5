//! Nodes and pods, as far as scheduling looks at them: projections of the API objects.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use crate::api::quantity::Quantity;
use crate::client::Key;

/// Amounts of what a node has or a pod wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    pub cpu_milli: i64,
    pub memory_bytes: i64,
    pub ephemeral_bytes: i64,
    /// Extended resources, by name.
    pub extended: BTreeMap<String, i64>,
}

impl Resources {
    fn of(list: Option<&BTreeMap<String, Text>>) -> Self {
        let mut resources = Self::default();
        for (name, amount) in list.into_iter().flatten() {
            // The API server has validated every quantity; one that is none counts as nothing.
            let amount = amount.0.parse().unwrap_or(Quantity::ZERO);
            match name.as_str() {
                "cpu" => resources.cpu_milli = amount.milli(),
                "memory" => resources.memory_bytes = amount.units(),
                "ephemeral-storage" => resources.ephemeral_bytes = amount.units(),
                "pods" => {}
                _ => {
                    resources.extended.insert(name.clone(), amount.units());
                }
            }
        }
        resources
    }

    /// Adds `other`.
    pub fn add(&mut self, other: &Self) {
        self.combine(other, |a, b| a.saturating_add(b));
    }

    /// Takes `other` away.
    pub fn subtract(&mut self, other: &Self) {
        self.combine(other, |a, b| a.saturating_sub(b));
    }

    fn raise_to(&mut self, other: &Self) {
        self.combine(other, Ord::max);
    }

    fn combine(&mut self, other: &Self, f: impl Fn(i64, i64) -> i64) {
        self.cpu_milli = f(self.cpu_milli, other.cpu_milli);
        self.memory_bytes = f(self.memory_bytes, other.memory_bytes);
        self.ephemeral_bytes = f(self.ephemeral_bytes, other.ephemeral_bytes);
        for (name, amount) in &other.extended {
            let mine = self.extended.entry(name.clone()).or_default();
            *mine = f(*mine, *amount);
        }
    }
}

/// A taint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taint {
    pub key: String,
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

/// A node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    pub unschedulable: bool,
    pub allocatable: Resources,
    pub pods_max: i64,
}

impl Node {
    /// The projection of a Node.
    pub fn of(node: core::Node) -> Option<Self> {
        let spec = node.spec.unwrap_or_default();
        let status = node.status.unwrap_or_default();
        let allocatable = status.allocatable.or(status.capacity);
        let pods = allocatable.as_ref().and_then(|a| a.get("pods"));
        let taint = |t: core::Taint| Taint {
            key: t.key,
            value: t.value.unwrap_or_default(),
            effect: t.effect,
        };
        Some(Self {
            name: node.metadata.name?,
            labels: node.metadata.labels.unwrap_or_default(),
            taints: spec.taints.into_iter().flatten().map(taint).collect(),
            unschedulable: spec.unschedulable.unwrap_or(false),
            pods_max: pods.and_then(|p| p.0.parse::<Quantity>().ok()).map_or(0, Quantity::units),
            allocatable: Resources::of(allocatable.as_ref()),
        })
    }
}

/// A toleration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toleration {
    /// Empty with `exists`: every key.
    pub key: String,
    pub exists: bool,
    pub value: String,
    /// Empty: every effect.
    pub effect: String,
}

impl Toleration {
    /// Whether it tolerates the taint.
    pub fn tolerates(&self, taint: &Taint) -> bool {
        (self.effect.is_empty() || self.effect == taint.effect)
            && (self.key.is_empty() || self.key == taint.key)
            && (self.exists || (!self.key.is_empty() && self.value == taint.value))
    }
}

/// A port of the host that a pod claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// Empty: every address.
    pub ip: String,
    pub protocol: String,
    pub port: i32,
}

impl HostPort {
    /// Whether both cannot be had on one node.
    pub fn conflicts(&self, other: &Self) -> bool {
        let wild = |ip: &str| ip.is_empty() || ip == "0.0.0.0" || ip == "::";
        self.port == other.port
            && self.protocol == other.protocol
            && (wild(&self.ip) || wild(&other.ip) || self.ip == other.ip)
    }
}

/// A pod.
#[derive(Debug, Clone, Default)]
pub struct Pod {
    pub key: Key,
    pub uid: String,
    /// The node that it is bound to; empty: none yet.
    pub node: String,
    pub scheduler: String,
    pub priority: i32,
    /// RFC 3339; older pods of one priority go first.
    pub created: String,
    /// Uid of the controlling owner; empty: none.
    pub owner: String,
    pub requests: Resources,
    pub node_selector: BTreeMap<String, String>,
    pub node_affinity: Option<core::NodeAffinity>,
    pub tolerations: Vec<Toleration>,
    pub host_ports: Vec<HostPort>,
    /// It has scheduling gates, or is being deleted.
    pub held: bool,
    /// What its condition `PodScheduled` says when that is `False`.
    pub unscheduled_message: String,
}

impl Pod {
    /// The projection of a Pod; `None` for one that has ended and claims nothing any more.
    pub fn of(pod: core::Pod) -> Option<Self> {
        let (meta, spec) = (pod.metadata, pod.spec?);
        let status = pod.status.unwrap_or_default();
        if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
            return None;
        }
        let condition = status.conditions.into_iter().flatten().find(|c| c.type_ == "PodScheduled");
        let owners = meta.owner_references.iter().flatten();
        let owner = owners.into_iter().find(|o| o.controller == Some(true));
        Some(Self {
            owner: owner.map(|o| o.uid.clone()).unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            created: meta.creation_timestamp.as_ref().map(|t| t.0.to_string()).unwrap_or_default(),
            held: meta.deletion_timestamp.is_some()
                || spec.scheduling_gates.as_ref().is_some_and(|g| !g.is_empty()),
            key: Key::of(&meta),
            requests: requests(&spec),
            host_ports: host_ports(&spec),
            priority: spec.priority.unwrap_or(0),
            node: spec.node_name.unwrap_or_default(),
            scheduler: spec.scheduler_name.unwrap_or_default(),
            node_selector: spec.node_selector.unwrap_or_default(),
            node_affinity: spec.affinity.and_then(|a| a.node_affinity),
            tolerations: spec.tolerations.into_iter().flatten().map(toleration).collect(),
            unscheduled_message: condition.and_then(|c| c.message).unwrap_or_default(),
        })
    }
}

fn toleration(t: core::Toleration) -> Toleration {
    Toleration {
        key: t.key.unwrap_or_default(),
        exists: t.operator.as_deref() == Some("Exists"),
        value: t.value.unwrap_or_default(),
        effect: t.effect.unwrap_or_default(),
    }
}

/// What a pod claims (KEP-753): its containers and sidecars together, or the hungriest moment of
/// its start, whichever is more; and its overhead.
fn requests(spec: &core::PodSpec) -> Resources {
    let of =
        |c: &core::Container| Resources::of(c.resources.as_ref().and_then(|r| r.requests.as_ref()));
    let mut running = Resources::default();
    spec.containers.iter().for_each(|c| running.add(&of(c)));
    let (mut sidecars, mut starting) = (Resources::default(), Resources::default());
    for container in spec.init_containers.iter().flatten() {
        let mut moment = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&moment);
            moment = sidecars.clone();
        } else {
            moment.add(&sidecars);
        }
        starting.raise_to(&moment);
    }
    running.add(&sidecars);
    running.raise_to(&starting);
    running.add(&Resources::of(spec.overhead.as_ref()));
    running
}

fn host_ports(spec: &core::PodSpec) -> Vec<HostPort> {
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let ports = containers.flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(HostPort {
                ip: port.host_ip.clone().unwrap_or_default(),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                port: port.host_port.filter(|p| *p > 0)?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        let pod = json!({"metadata": {"name": "a", "namespace": "default"}, "spec": spec});
        Pod::of(serde_json::from_value(pod).expect("a pod")).expect("a pod that runs")
    }

    fn wants(cpu: &str) -> serde_json::Value {
        json!({"requests": {"cpu": cpu, "memory": "1Gi"}})
    }

    #[test]
    fn a_pod_claims_its_containers_or_its_hungriest_start() {
        let found = pod(json!({
            "containers": [{"name": "a", "resources": wants("100m")},
                           {"name": "b", "resources": wants("0.2")}],
            "initContainers": [{"name": "i", "resources": wants("1")}],
        }));
        assert_eq!(found.requests.cpu_milli, 1000);
        assert_eq!(found.requests.memory_bytes, 2 << 30);
    }

    #[test]
    fn sidecars_run_beside_what_starts_after_them() {
        let found = pod(json!({
            "containers": [{"name": "a", "resources": wants("100m")}],
            "initContainers": [
                {"name": "s", "restartPolicy": "Always", "resources": wants("300m")},
                {"name": "i", "resources": wants("500m")}],
            "overhead": {"cpu": "10m"},
        }));
        assert_eq!(found.requests.cpu_milli, 810);
    }

    #[test]
    fn a_toleration_without_a_key_tolerates_all_that_exists() {
        let taint = Taint { key: "k".into(), value: "v".into(), effect: "NoSchedule".into() };
        let tolerates = |key: &str, exists, value: &str, effect: &str| {
            Toleration { key: key.into(), exists, value: value.into(), effect: effect.into() }
                .tolerates(&taint)
        };
        assert!(tolerates("", true, "", ""));
        assert!(tolerates("k", true, "", "NoSchedule"));
        assert!(tolerates("k", false, "v", ""));
        assert!(!tolerates("k", false, "w", ""));
        assert!(!tolerates("", false, "v", ""));
        assert!(!tolerates("k", true, "", "NoExecute"));
    }
}
