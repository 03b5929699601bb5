//! The decision: which node takes a pod, or why none does. Pure.
//!
//! With many nodes not all are looked at, as in Kubernetes: from 100 on, the search ends once
//! enough nodes (half of them with few, 5 % with many, never fewer than 100) could take the pod.
//! Each search begins where the last one ended, so that over time all nodes are asked alike.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::Policy;
use super::filter::{self, Reason, Rules};
use super::pod::Pod;
use super::score;
use super::snapshot::{NodeInfo, Snapshot};

/// The name of a node.
pub type NodeName = Arc<str>;

/// Why no node takes the pod: every refused node with its reason (several where more than one
/// resource is lacking).
#[derive(Debug, Clone, Default)]
pub struct Unschedulable {
    /// How many nodes there are.
    pub nodes: usize,
    pub refusals: Vec<(NodeName, Reason)>,
}

impl Unschedulable {
    /// The rules that refused.
    pub fn rules(&self) -> Rules {
        let rules = self.refusals.iter().map(|(_, reason)| reason.rule());
        rules.fold(Rules::default(), Rules::with)
    }
}

/// As Kubernetes words it: `0/2 nodes are available: 1 Insufficient memory, 1 node(s) were
/// unschedulable.`
impl fmt::Display for Unschedulable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for (_, reason) in &self.refusals {
            *counts.entry(reason.to_string()).or_default() += 1;
        }
        let mut reasons: Vec<String> =
            counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        reasons.sort();
        write!(f, "0/{} nodes are available: {}.", self.nodes, reasons.join(", "))
    }
}

/// A node, and how many nodes were looked at to find it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub node: NodeName,
    pub examined: usize,
}

/// Decides for one pod. `start`: where among the nodes to begin (see the module's words).
///
/// # Errors
/// [`Unschedulable`], which is an answer like the other one.
pub fn decide(
    snapshot: &Snapshot,
    pod: &Pod,
    policy: &Policy,
    start: usize,
) -> Result<Decision, Unschedulable> {
    let nodes = snapshot.nodes();
    let enough = enough(nodes.len());
    let mut refusals = Vec::new();
    let mut feasible: Vec<&NodeInfo> = Vec::new();
    let mut examined = 0;
    for at in 0..nodes.len() {
        let info = &nodes[(start + at) % nodes.len()];
        examined += 1;
        let refuse = |reason| refusals.push((info.node.name.clone(), reason));
        if filter::passes(pod, info, refuse) {
            feasible.push(info);
            if feasible.len() >= enough {
                break;
            }
        }
    }
    let best = match feasible.as_slice() {
        [] => return Err(Unschedulable { nodes: nodes.len(), refusals }),
        [only] => only,
        _ => best(&feasible, &score::total(pod, &feasible, snapshot, policy)),
    };
    Ok(Decision { node: best.node.name.clone(), examined })
}

/// The first of those with the highest score.
fn best<'a>(nodes: &[&'a NodeInfo], scores: &[i64]) -> &'a NodeInfo {
    let mut at = 0;
    for (candidate, score) in scores.iter().enumerate() {
        if *score > scores[at] {
            at = candidate;
        }
    }
    nodes[at]
}

/// After how many feasible nodes the search ends.
fn enough(nodes: usize) -> usize {
    const ALWAYS: usize = 100;
    if nodes <= ALWAYS {
        return nodes;
    }
    let percent = 50usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(ALWAYS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_many_nodes_only_some_are_looked_at() {
        let sizes = [1, 100, 101, 400, 1000, 5000, 10_000].map(enough);
        assert_eq!(sizes, [1, 100, 100, 188, 420, 500, 500]);
    }
}
