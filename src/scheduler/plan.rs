//! The decision: which node takes a pod, or why none does. Pure.
//!
//! This is the way that serves every pod: ask node by node, score those that could take it. With
//! many nodes not all are looked at, as in Kubernetes: from 100 on, the search ends once enough
//! nodes (half of them with few, 5 % with many, never fewer than 100) could take the pod. Each
//! search begins where the last one ended, so that over time all nodes are asked alike. For pods
//! whose rules look at nodes one by one [`super::classes`] knows the answer sooner.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::config::{Plugin, Plugins, Profile};
use super::filter::{self, Reason};
use super::node::NodeInfo;
use super::pod::Pod;
use super::score;
use super::snapshot::Snapshot;

/// The name of a node.
pub type NodeName = Arc<str>;

/// Why no node takes the pod.
#[derive(Debug, Clone, Default)]
pub struct Unschedulable {
    /// How many nodes there are.
    pub nodes: usize,
    /// What keeps the pod from all nodes alike.
    pub stop: Option<filter::Stop>,
    /// Every refused node with its reason (several where more than one resource is lacking).
    pub refusals: Vec<(NodeName, Reason)>,
    /// What came of looking for pods to make room.
    pub preemption: Option<String>,
}

impl Unschedulable {
    /// The plugins that refused.
    pub fn plugins(&self) -> Plugins {
        let refused = self.refusals.iter().map(|(_, reason)| reason.plugin());
        let stopped = self.stop.as_ref().map(|stop| stop.plugin);
        refused.chain(stopped).fold(Plugins::default(), Plugins::with)
    }
}

/// As Kubernetes counts reasons: `0/2 nodes are available: 1 Insufficient memory, 1 node(s) were
/// unschedulable.`
pub fn tell(nodes: usize, reasons: impl Iterator<Item = (String, usize)>) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for (reason, count) in reasons {
        *counts.entry(reason).or_default() += count;
    }
    let mut reasons: Vec<String> =
        counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    reasons.sort();
    format!("0/{nodes} nodes are available: {}.", reasons.join(", "))
}

impl fmt::Display for Unschedulable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        match &self.stop {
            Some(stop) => write!(f, "0/{} nodes are available: {}.", self.nodes, stop.message)?,
            None => {
                let reasons = self.refusals.iter().map(|(_, reason)| (reason.to_string(), 1));
                f.write_str(&tell(self.nodes, reasons))?;
            }
        }
        match &self.preemption {
            Some(message) => write!(f, " {message}"),
            None => Ok(()),
        }
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
    profile: &Profile,
    start: usize,
) -> Result<Decision, Unschedulable> {
    let nodes = snapshot.nodes();
    let mut refused = Unschedulable { nodes: nodes.len(), ..Unschedulable::default() };
    let mut prepared = match filter::prepare(pod, snapshot, profile) {
        Ok(prepared) => prepared,
        Err(stop) => return Err(Unschedulable { stop: Some(stop), ..refused }),
    };
    if let Some(node) = nominated(snapshot, pod, &mut prepared) {
        return Ok(Decision { node, examined: 0 });
    }
    if let Some(pinned) = prepared.pinned() {
        let names: Vec<&str> = pinned.iter().copied().collect();
        return among(snapshot, pod, profile, &names, &mut prepared);
    }
    let enough = enough(nodes.len(), profile.percentage_of_nodes_to_score);
    let mut feasible: Vec<&NodeInfo> = Vec::new();
    let mut examined = 0;
    for at in 0..nodes.len() {
        let info = &nodes[(start + at) % nodes.len()];
        examined += 1;
        let refuse = &mut |reason| refused.refusals.push((info.node.name.clone(), reason));
        if prepared.admits(info, refuse) {
            feasible.push(info);
            if feasible.len() >= enough {
                break;
            }
        }
    }
    match choose(&feasible, snapshot, pod, profile) {
        Some(node) => Ok(Decision { node, examined }),
        None => Err(refused),
    }
}

/// The node where room was made, if it is there.
fn nominated(
    snapshot: &Snapshot,
    pod: &Pod,
    prepared: &mut filter::Prepared<'_>,
) -> Option<NodeName> {
    let info = snapshot.node(pod.nominated.as_deref()?)?;
    prepared.admits(info, &mut |_| {}).then(|| info.node.name.clone())
}

/// Decides among nodes that the pod names.
fn among(
    snapshot: &Snapshot,
    pod: &Pod,
    profile: &Profile,
    names: &[&str],
    prepared: &mut filter::Prepared<'_>,
) -> Result<Decision, Unschedulable> {
    let mut refusals = Vec::new();
    let mut feasible: Vec<&NodeInfo> = Vec::new();
    for info in names.iter().filter_map(|name| snapshot.node(name)) {
        let refuse = &mut |reason| refusals.push((info.node.name.clone(), reason));
        if prepared.admits(info, refuse) {
            feasible.push(info);
        }
    }
    feasible.sort_by(|a, b| a.node.name.cmp(&b.node.name));
    if let Some(node) = choose(&feasible, snapshot, pod, profile) {
        return Ok(Decision { node, examined: 0 });
    }
    let nodes = snapshot.nodes();
    let others = nodes.iter().filter(|info| !names.contains(&&*info.node.name));
    refusals.extend(others.map(|info| (info.node.name.clone(), Reason::NotPinned)));
    Err(Unschedulable { nodes: nodes.len(), refusals, ..Unschedulable::default() })
}

/// The first of those with the highest score.
fn choose(
    feasible: &[&NodeInfo],
    snapshot: &Snapshot,
    pod: &Pod,
    profile: &Profile,
) -> Option<NodeName> {
    let best = match feasible {
        [] => return None,
        [only] => only,
        _ => {
            let scores = score::total(pod, feasible, snapshot, profile);
            let mut at = 0;
            for (candidate, score) in scores.iter().enumerate() {
                if *score > scores[at] {
                    at = candidate;
                }
            }
            feasible[at]
        }
    };
    Some(best.node.name.clone())
}

/// After how many feasible nodes the search ends.
fn enough(nodes: usize, percentage: Option<usize>) -> usize {
    const ALWAYS: usize = 100;
    if nodes <= ALWAYS {
        return nodes;
    }
    let percent = percentage.unwrap_or_else(|| 50usize.saturating_sub(nodes / 125).max(5));
    (nodes * percent / 100).max(ALWAYS)
}

/// What every rule says of every node, in the order of their names.
pub fn explain(
    snapshot: &Snapshot,
    pod: &Pod,
    profile: &Profile,
) -> Result<Vec<(NodeName, Vec<Reason>)>, filter::Stop> {
    let prepared = filter::prepare(pod, snapshot, profile)?;
    let mut told: Vec<(NodeName, Vec<Reason>)> = Vec::with_capacity(snapshot.nodes().len());
    for info in snapshot.nodes() {
        let mut reasons = Vec::new();
        prepared.explain(info, &mut |reason| reasons.push(reason));
        told.push((info.node.name.clone(), reasons));
    }
    told.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(told)
}

/// Why a group of pods cannot be scheduled yet.
pub fn too_few(nodes: usize, message: String) -> Unschedulable {
    let stop = filter::Stop { plugin: Plugin::Coscheduling, message };
    Unschedulable { nodes, stop: Some(stop), ..Unschedulable::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_many_nodes_only_some_are_looked_at() {
        let sizes = [1, 100, 101, 400, 1000, 5000, 10_000].map(|nodes| enough(nodes, None));
        assert_eq!(sizes, [1, 100, 100, 188, 420, 500, 500]);
        assert_eq!(enough(1000, Some(100)), 1000);
    }
}
