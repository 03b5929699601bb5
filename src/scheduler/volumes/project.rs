//! The API's storage objects, read as far as the scheduler looks.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, TopologySelectorTerm};
use k8s_openapi::api::storage::v1::{CSINode, StorageClass};

use super::{Attachable, Class, CsiVolume, PvClaim, Volume};
use crate::api::quantity::Quantity;
use crate::api::selector::{Operator, Requirement};
use crate::client::Key;
use crate::client::meta;
use crate::scheduler::terms::{NodeTerm, selector};

const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
pub(super) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

fn bytes(
    list: Option<
        &std::collections::BTreeMap<
            String,
            k8s_openapi::apimachinery::pkg::api::resource::Quantity,
        >,
    >,
) -> i64 {
    let written = list.and_then(|list| list.get("storage"));
    written.and_then(|q| q.0.parse::<Quantity>().ok()).map_or(0, Quantity::units)
}

impl Volume {
    /// Keeps what is needed.
    pub fn of(volume: PersistentVolume) -> Option<Self> {
        let name = volume.metadata.name.clone()?;
        let version = volume.metadata.resource_version.clone().unwrap_or_default();
        let deleting = volume.metadata.deletion_timestamp.is_some();
        let (spec, status) = (volume.spec?, volume.status.unwrap_or_default());
        let reach = spec.node_affinity.and_then(|affinity| affinity.required);
        let claim = spec.claim_ref.map(|claim| {
            Key::new(claim.namespace.unwrap_or_default(), claim.name.unwrap_or_default())
        });
        let phase = status.phase.as_deref().unwrap_or("Available");
        Some(Self {
            reach: reach.map(|r| r.node_selector_terms.iter().map(NodeTerm::of).collect()),
            labels: volume.metadata.labels.unwrap_or_default(),
            claim,
            class: spec.storage_class_name.unwrap_or_default(),
            capacity: bytes(spec.capacity.as_ref()),
            modes: spec.access_modes.unwrap_or_default(),
            block: spec.volume_mode.as_deref() == Some("Block"),
            csi: spec.csi.map(|csi| CsiVolume { driver: csi.driver, handle: csi.volume_handle }),
            available: !deleting && matches!(phase, "Available" | "Pending"),
            name,
            version,
        })
    }

    /// Whether a node can reach it.
    pub fn reaches(&self, node: &crate::scheduler::node::Node) -> bool {
        self.reach
            .as_ref()
            .is_none_or(|terms| terms.iter().any(|term| term.holds(&node.name, &node.labels)))
    }
}

impl PvClaim {
    /// Keeps what is needed.
    pub fn of(claim: PersistentVolumeClaim) -> Option<Self> {
        let metadata = claim.metadata;
        let (spec, status) = (claim.spec.unwrap_or_default(), claim.status.unwrap_or_default());
        let annotation = |name: &str| metadata.annotations.as_ref()?.get(name).cloned();
        let phase = status.phase.as_deref().unwrap_or("Pending");
        let volume = spec.volume_name.filter(|name| !name.is_empty());
        let done = phase == "Bound" || annotation(BIND_COMPLETED).is_some();
        let requests = spec.resources.as_ref().and_then(|r| r.requests.as_ref());
        Some(Self {
            key: Key::of(&metadata),
            uid: metadata.uid.clone().unwrap_or_default(),
            bound: volume.filter(|_| done),
            class: spec.storage_class_name.or_else(|| annotation(BETA_CLASS)),
            request: bytes(requests),
            modes: spec.access_modes.unwrap_or_default(),
            block: spec.volume_mode.as_deref() == Some("Block"),
            selector: spec.selector.as_ref().map(|s| selector(Some(s))),
            selected_node: annotation(SELECTED_NODE),
            deleting: metadata.deletion_timestamp.is_some(),
            lost: phase == "Lost",
            owner: meta::controller_of(&metadata).map(|owner| owner.uid.clone()),
        })
    }
}

impl Class {
    /// Keeps what is needed.
    pub fn of(class: StorageClass) -> Option<Self> {
        let topologies = class.allowed_topologies.unwrap_or_default();
        Some(Self {
            name: class.metadata.name?,
            waits: class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"),
            provisions: !matches!(class.provisioner.as_str(), "" | NO_PROVISIONER),
            topologies: topologies.iter().map(topology).collect(),
        })
    }
}

fn topology(term: &TopologySelectorTerm) -> NodeTerm {
    let expressions = term.match_label_expressions.as_deref().unwrap_or_default();
    let labels = expressions.iter().map(|expression| Requirement {
        key: expression.key.clone(),
        operator: Operator::In,
        values: expression.values.clone(),
    });
    NodeTerm { labels: labels.collect(), names: Vec::new(), never: expressions.is_empty() }
}

impl Attachable {
    /// Keeps what is needed.
    pub fn of(node: CSINode) -> Option<Self> {
        let limits = node.spec.drivers.into_iter().filter_map(|driver| {
            let count = driver.allocatable?.count?;
            Some((driver.name, i64::from(count)))
        });
        Some(Self { name: node.metadata.name?, limits: limits.collect() })
    }
}
