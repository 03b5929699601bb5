//! Pods of one owner, or of one Service, spread over the nodes: the fewer are there the better.
//!
//! The owner counts where there is one (a ReplicaSet, say), since it tells the pods of one
//! revision from those that a rollout is about to remove; else the Services that select the pod.

use crate::scheduler::pod::Pod;
use crate::scheduler::snapshot::{NodeInfo, ServiceSelector, Snapshot};

/// `None` where the pod belongs to nothing, or all its kin are elsewhere.
pub fn numbers(pod: &Pod, nodes: &[&NodeInfo], snapshot: &Snapshot) -> Option<Vec<i64>> {
    let counts: Vec<i64> = if let Some(owner) = &pod.owner {
        let of = |info: &&NodeInfo| info.owners.get(owner).copied().map_or(0, i64::from);
        nodes.iter().map(of).collect()
    } else {
        let services: Vec<&ServiceSelector> = snapshot.services_of(pod).collect();
        if services.is_empty() {
            return None;
        }
        let kin = |other: &Pod| services.iter().any(|service| service.selects(other));
        let of =
            |info: &&NodeInfo| info.pods.iter().filter(|p| !p.deleting && kin(p)).count() as i64;
        nodes.iter().map(of).collect()
    };
    counts.iter().any(|count| *count > 0).then_some(counts)
}
