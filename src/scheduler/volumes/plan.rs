//! Which volumes the claims of a pod would get on a node. Pure.

use std::collections::HashSet;
use std::sync::Arc;

use super::{PvClaim, Volume, Volumes};
use crate::scheduler::node::Node;

/// What is to be done for one claim before the pod is bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Keep a volume that is there for the claim.
    Claim { volume: Arc<Volume>, claim: Arc<PvClaim> },
    /// Have one made where the pod goes.
    Provision { claim: Arc<PvClaim> },
}

impl Step {
    pub fn claim(&self) -> &PvClaim {
        match self {
            Self::Claim { claim, .. } | Self::Provision { claim } => claim,
        }
    }
}

/// What gives every one of `claims` a volume that `node` reaches; `None`: that cannot be done.
/// The smallest claims choose first, each the smallest volume that is large enough.
pub fn plan(volumes: &Volumes, claims: &[Arc<PvClaim>], node: &Node) -> Option<Vec<Step>> {
    let mut claims: Vec<&Arc<PvClaim>> = claims.iter().collect();
    claims.sort_by_key(|claim| claim.request);
    let mut taken: HashSet<&str> = HashSet::new();
    let mut steps = Vec::with_capacity(claims.len());
    for claim in claims {
        if claim.selected_node.as_deref().is_some_and(|selected| selected != &*node.name) {
            return None;
        }
        match smallest(volumes, claim, node, &taken) {
            Some(volume) => {
                taken.insert(&volume.name);
                steps.push(Step::Claim { volume: volume.clone(), claim: claim.clone() });
            }
            None if provisions(volumes, claim, node) => {
                steps.push(Step::Provision { claim: claim.clone() });
            }
            None => return None,
        }
    }
    Some(steps)
}

fn smallest<'a>(
    volumes: &'a Volumes,
    claim: &PvClaim,
    node: &Node,
    taken: &HashSet<&str>,
) -> Option<&'a Arc<Volume>> {
    let fits = |volume: &&Arc<Volume>| {
        volume.available
            && volume.class == claim.class.as_deref().unwrap_or_default()
            && volume.block == claim.block
            && volume.capacity >= claim.request
            && volume.claim.as_ref().is_none_or(|kept| *kept == claim.key)
            && volumes.promised.get(&volume.name).is_none_or(|to| *to == claim.key)
            && !taken.contains(volume.name.as_str())
            && claim.modes.iter().all(|mode| volume.modes.contains(mode))
            && claim
                .selector
                .as_ref()
                .is_none_or(|s| s.matches(|key| volume.labels.get(key).map(String::as_str)))
            && volume.reaches(node)
    };
    // One that is kept for the claim goes before all others.
    volumes
        .volumes
        .values()
        .filter(fits)
        .min_by_key(|volume| (volume.claim.is_none(), volume.capacity, &volume.name))
}

fn provisions(volumes: &Volumes, claim: &PvClaim, node: &Node) -> bool {
    let class = claim.class.as_deref().and_then(|class| volumes.class(class));
    // A claim with a selector asks for volumes that are there: none can be made for it.
    class.is_some_and(|class| {
        class.provisions
            && claim.selector.is_none()
            && (class.topologies.is_empty()
                || class.topologies.iter().any(|term| term.holds(&node.name, &node.labels)))
    })
}
