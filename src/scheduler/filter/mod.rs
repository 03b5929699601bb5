//! The rules that refuse a node: a file a rule, each a pure function of the node and the pod, with
//! the reason in Kubernetes' words.

mod host_ports;
mod node_affinity;
mod node_name;
mod resources;
mod taints;
mod unschedulable;

pub use node_affinity::term_matches;

use super::model::Pod;
use super::snapshot::NodeInfo;

/// A rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    Unschedulable,
    NodeName,
    Taints,
    NodeAffinity,
    HostPorts,
    Resources,
}

/// Why a node was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub rule: Rule,
    /// As `Insufficient cpu`; several where one rule has several.
    pub reasons: Vec<String>,
}

type Check = fn(&NodeInfo, &Pod) -> Result<(), Vec<String>>;

/// In the order of Kubernetes: what is cheap and refuses much first.
const RULES: [(Rule, Check); 6] = [
    (Rule::Unschedulable, unschedulable::check),
    (Rule::NodeName, node_name::check),
    (Rule::Taints, taints::check),
    (Rule::NodeAffinity, node_affinity::check),
    (Rule::HostPorts, host_ports::check),
    (Rule::Resources, resources::check),
];

/// Whether the pod may run on the node: the first rule that refuses says why not.
///
/// # Errors
/// The refusal.
pub fn admit(info: &NodeInfo, pod: &Pod) -> Result<(), Refusal> {
    for (rule, check) in RULES {
        check(info, pod).map_err(|reasons| Refusal { rule, reasons })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
