//! The pods that a pod is one of: those of its workload, or behind its Services.
//!
//! Kubernetes finds them by the selectors of the Services and of the ReplicaSet, StatefulSet or
//! ReplicationController above a pod, all at once. The pods of one such owner are known here by
//! the owner itself, which comes to the same.

use std::sync::Arc;

use super::pod::{Labels, Pod};
use super::snapshot::{ServiceSelector, Snapshot};

/// Which pods are alike.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Kin {
    None,
    /// Those with the owner of this uid.
    Owner(Arc<str>),
    /// Those behind all of these Services.
    Services(Vec<ServiceSelector>),
}

impl Kin {
    /// The kin of a pod.
    pub fn of(pod: &Pod, snapshot: &Snapshot) -> Self {
        if let Some(owner) = pod.owner.as_ref().filter(|owner| owner.replicates) {
            return Self::Owner(owner.uid.clone());
        }
        let services: Vec<ServiceSelector> = snapshot.services_of(pod).cloned().collect();
        if services.is_empty() { Self::None } else { Self::Services(services) }
    }

    /// Whether a pod with these labels, of that owner, belongs to it.
    pub fn has(&self, labels: &Labels, owner: Option<&str>) -> bool {
        match self {
            Self::None => false,
            Self::Owner(uid) => owner == Some(uid),
            Self::Services(services) => services.iter().all(|service| service.selects(labels)),
        }
    }
}
