//! What the scheduler keeps of a pod.
//!
//! What a pod *asks* ([`Ask`]) is kept apart from who it is: the pods of one workload ask the
//! same, share one `Ask` in memory ([`Interner`]), and are decided for by one index
//! ([`super::classes`]).

use std::collections::{BTreeMap, HashSet};
use std::hash::Hash;
use std::ops::Deref;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use parking_lot::Mutex;

use super::resources::{self, Resources};
use super::seen;
pub use super::seen::Toleration;
use super::terms::{Constraint, NodeTerm, PodTerms};
use crate::client::meta::{self, Key};

/// The reason in the condition of a pod that has to make room.
pub const PREEMPTED: &str = "PreemptionByScheduler";
/// The label of `scheduling.x-k8s.io` that names a pod's group.
pub const GROUP_LABEL: &str = "scheduling.x-k8s.io/pod-group";
/// The older form, with the size of the group beside its name.
const GROUP_NAME: &str = "pod-group.scheduling.sigs.k8s.io/name";
const GROUP_MIN: &str = "pod-group.scheduling.sigs.k8s.io/min-available";

/// A port of the node that a pod wants for itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    pub ip: String,
    pub protocol: String,
    pub port: i32,
}

impl HostPort {
    /// Whether both want the same: addresses meet when they are equal or one is any address.
    pub fn meets(&self, other: &Self) -> bool {
        let any = |ip: &str| matches!(ip, "" | "0.0.0.0" | "::");
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || any(&self.ip) || any(&other.ip))
    }
}

/// A claim that a pod uses.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Claim {
    pub name: String,
    /// It is made for this pod alone, and by another controller.
    pub ephemeral: bool,
}

/// A disk that is named in the pod itself, which may be attached in one place only.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Disk {
    Gce(seen::GceDisk),
    Aws(seen::AwsDisk),
    Iscsi(seen::IscsiDisk),
    Rbd(seen::RbdDisk),
}

/// What a pod asks of the node that it comes to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Ask {
    pub namespace: Box<str>,
    /// The `schedulerName`.
    pub scheduler: Box<str>,
    pub priority: i32,
    /// `preemptionPolicy: Never`.
    pub never_preempts: bool,
    /// What the filters count.
    pub requests: Resources,
    /// What the scores count.
    pub scored: Resources,
    pub node_selector: Vec<(String, String)>,
    /// `requiredDuringSchedulingIgnoredDuringExecution`: one of the terms must hold.
    pub required: Option<Vec<NodeTerm>>,
    pub preferred: Vec<(i64, NodeTerm)>,
    pub tolerations: Vec<Toleration>,
    pub host_ports: Vec<HostPort>,
    pub terms: PodTerms,
    pub spread: Vec<Constraint>,
    /// With a tag, as nodes tell theirs.
    pub images: Vec<String>,
    pub claims: Vec<Claim>,
    pub disks: Vec<Disk>,
}

impl Ask {
    /// Whether it wants a node by name (`metadata.name` among `matchFields` of every term).
    pub fn pinned(&self) -> Option<HashSet<&str>> {
        let mut names = HashSet::new();
        for term in self.required.as_deref()? {
            names.extend(term.pinned()?.iter().map(String::as_str));
        }
        Some(names)
    }

    /// Whether it asks for no more than `other`, apart from resources.
    pub fn is_like(&self, other: &Self) -> bool {
        let plain = |ask: &Self| Self {
            requests: Resources::default(),
            scored: Resources::default(),
            ..ask.clone()
        };
        plain(self) == plain(other)
    }
}

/// Namespace and labels of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Labels {
    pub namespace: Box<str>,
    pub map: BTreeMap<String, String>,
}

impl Labels {
    pub fn get(&self, key: &str) -> Option<&str> {
        self.map.get(key).map(String::as_str)
    }
}

/// The object that controls a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner {
    pub uid: Arc<str>,
    /// Its pods are replicas of each other, which spread by default.
    pub replicates: bool,
}

/// The group of pods that a pod is scheduled with, or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Membership {
    pub group: String,
    /// How many there must be, where the pod says so itself.
    pub min: Option<usize>,
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
    pub labels: Arc<Labels>,
    pub ask: Arc<Ask>,
    pub owner: Option<Owner>,
    pub member: Option<Membership>,
    /// The node that it is bound to.
    pub node: Option<Arc<str>>,
    /// The node where room is being made for it.
    pub nominated: Option<Arc<str>>,
    /// When it was created, in seconds since 1970.
    pub created: i64,
    /// When it was started, or created.
    pub started: i64,
    pub gated: bool,
    pub deleting: bool,
    /// It is being deleted to make room for another.
    pub preempted: bool,
    pub refused: Option<Refused>,
}

impl Deref for Pod {
    type Target = Ask;

    fn deref(&self) -> &Ask {
        &self.ask
    }
}

impl Pod {
    /// Keeps what is needed; `None` for a pod that has ended: it takes up nothing.
    pub fn of(pod: seen::Pod, interner: &Interner) -> Option<Self> {
        if matches!(pod.status.phase.as_deref(), Some("Succeeded" | "Failed")) {
            return None;
        }
        let key = Key::of(&pod.metadata);
        let owner = meta::controller_of(&pod.metadata).map(|owner| Owner {
            uid: owner.uid.as_str().into(),
            replicates: matches!(
                &*owner.kind,
                "ReplicaSet" | "StatefulSet" | "ReplicationController"
            ),
        });
        let name = |name: &Option<String>| -> Option<Arc<str>> {
            name.as_deref().filter(|n| !n.is_empty()).map(Into::into)
        };
        let created = pod.metadata.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second());
        let started = pod.status.start_time.as_ref().map_or(created, |t| t.0.as_second());
        let conditions = &pod.status.conditions;
        let refused = conditions.iter().find(|c| c.kind == "PodScheduled" && c.status == "False");
        let refused = refused.map(|c| Refused {
            reason: c.reason.clone().unwrap_or_default(),
            message: c.message.clone().unwrap_or_default(),
        });
        let preempted = conditions.iter().any(|c| {
            c.kind == "DisruptionTarget"
                && c.status == "True"
                && c.reason.as_deref() == Some(PREEMPTED)
        });
        let map = pod.metadata.labels.clone().unwrap_or_default();
        let ask = ask(&key, &map, &pod.spec, &pod.status);
        Some(Self {
            uid: pod.metadata.uid.as_deref()?.into(),
            owner,
            member: membership(&map),
            node: name(&pod.spec.node_name),
            nominated: name(&pod.status.nominated_node_name),
            created,
            started,
            gated: !pod.spec.scheduling_gates.is_empty(),
            deleting: pod.metadata.deletion_timestamp.is_some(),
            preempted,
            refused,
            ask: interner.asks.share(ask),
            labels: interner.labels.share(Labels { namespace: key.namespace.as_str().into(), map }),
            key,
        })
    }

    /// What events about it refer to.
    pub fn reference(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(self.key.namespace.clone()),
            name: Some(self.key.name.clone()),
            uid: Some(self.uid.to_string()),
            ..ObjectReference::default()
        }
    }

    /// Whether it counts for the rules as `other` does.
    pub fn counts_as(&self, other: &Self) -> bool {
        self.uid == other.uid
            && self.ask == other.ask
            && self.labels == other.labels
            && self.owner == other.owner
            && self.deleting == other.deleting
    }

    /// Whether it matters more than `other`: it has the higher priority, or started earlier.
    pub fn matters_more(&self, other: &Self) -> std::cmp::Ordering {
        (other.priority, self.started, &self.uid).cmp(&(self.priority, other.started, &other.uid))
    }
}

fn membership(labels: &BTreeMap<String, String>) -> Option<Membership> {
    if let Some(group) = labels.get(GROUP_LABEL) {
        return Some(Membership { group: group.clone(), min: None });
    }
    let group = labels.get(GROUP_NAME)?.clone();
    Some(Membership { group, min: labels.get(GROUP_MIN)?.parse().ok() })
}

fn ask(
    key: &Key,
    labels: &BTreeMap<String, String>,
    spec: &seen::PodSpec,
    status: &seen::PodStatus,
) -> Ask {
    let namespace = key.namespace.as_str();
    let (requests, scored) = resources::of_pod(spec, status);
    let affinity = spec.affinity.as_ref();
    let nodes = affinity.and_then(|a| a.node_affinity.as_ref());
    let required =
        nodes.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let preferred =
        nodes.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
    Ask {
        namespace: namespace.into(),
        scheduler: spec.scheduler_name.as_deref().unwrap_or("default-scheduler").into(),
        priority: spec.priority.unwrap_or(0),
        never_preempts: spec.preemption_policy.as_deref() == Some("Never"),
        requests,
        scored,
        node_selector: spec.node_selector.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        required: required.map(|s| s.node_selector_terms.iter().map(NodeTerm::of).collect()),
        preferred: preferred
            .into_iter()
            .flatten()
            .map(|term| (i64::from(term.weight), NodeTerm::of(&term.preference)))
            .collect(),
        tolerations: spec.tolerations.clone(),
        host_ports: host_ports(spec),
        terms: affinity.map(|a| PodTerms::of(a, namespace, labels)).unwrap_or_default(),
        spread: spec
            .topology_spread_constraints
            .iter()
            .map(|constraint| Constraint::of(constraint, labels))
            .collect(),
        images: spec
            .init_containers
            .iter()
            .chain(&spec.containers)
            .filter_map(|container| container.image.as_deref().map(with_tag))
            .collect(),
        claims: claims(&key.name, &spec.volumes),
        disks: spec.volumes.iter().filter_map(disk).collect(),
    }
}

/// An image's name as nodes tell it: `latest` where there is neither tag nor digest.
pub fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or_default();
    if last.contains(':') || image.contains('@') {
        image.to_owned()
    } else {
        format!("{image}:latest")
    }
}

fn claims(pod: &str, volumes: &[seen::Volume]) -> Vec<Claim> {
    let claim = |volume: &seen::Volume| {
        if let Some(source) = &volume.persistent_volume_claim {
            return Some(Claim { name: source.claim_name.clone(), ephemeral: false });
        }
        let name = || format!("{pod}-{}", volume.name);
        volume.ephemeral.map(|_| Claim { name: name(), ephemeral: true })
    };
    volumes.iter().filter_map(claim).collect()
}

fn disk(volume: &seen::Volume) -> Option<Disk> {
    let gce = volume.gce_persistent_disk.clone().map(Disk::Gce);
    let aws = || volume.aws_elastic_block_store.clone().map(Disk::Aws);
    let iscsi = || volume.iscsi.clone().map(Disk::Iscsi);
    gce.or_else(aws).or_else(iscsi).or_else(|| volume.rbd.clone().map(Disk::Rbd))
}

fn host_ports(spec: &seen::PodSpec) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().filter(|c| c.is_sidecar());
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| &c.ports);
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

/// Keeps one copy of what is equal.
#[derive(Debug)]
pub struct Shared<T>(Mutex<(HashSet<Arc<T>>, usize)>);

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self(Mutex::new((HashSet::new(), 1024)))
    }
}

impl<T: Hash + Eq> Shared<T> {
    /// The copy of `value` that all share.
    pub fn share(&self, value: T) -> Arc<T> {
        let mut kept = self.0.lock();
        if let Some(there) = kept.0.get(&value) {
            return there.clone();
        }
        if kept.0.len() >= kept.1 {
            // What nobody uses any more goes, when there has come to be twice as much.
            kept.0.retain(|one| Arc::strong_count(one) > 1);
            kept.1 = (kept.0.len() * 2).max(1024);
        }
        let value = Arc::new(value);
        kept.0.insert(value.clone());
        value
    }
}

/// The shared parts of pods.
#[derive(Debug, Default)]
pub struct Interner {
    asks: Shared<Ask>,
    labels: Shared<Labels>,
}
