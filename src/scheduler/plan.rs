//! The decision: a pure function of a snapshot and a pod.

use std::collections::{BTreeMap, BTreeSet};

use super::config::Scoring;
use super::filter::{Rule, admit};
use super::model::Pod;
use super::score::rank;
use super::snapshot::{NodeInfo, Snapshot};

/// Fewest feasible nodes that are looked for before ranking (as in Kubernetes).
const FEASIBLE_MIN: usize = 100;

/// Why no node was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unschedulable {
    /// How many nodes exist.
    pub nodes: usize,
    /// How many nodes were refused for each reason.
    pub reasons: BTreeMap<String, usize>,
    /// The rules that refused any.
    pub rules: BTreeSet<Rule>,
}

impl Unschedulable {
    /// `0/2 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable.`
    pub fn message(&self) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".to_owned();
        }
        let mut told: Vec<String> =
            self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        told.sort();
        format!("0/{} nodes are available: {}.", self.nodes, told.join(", "))
    }
}

/// How many feasible nodes are enough out of `nodes`: all of up to 100, then a part that shrinks
/// from half to a twentieth (Kubernetes' adaptive `percentageOfNodesToScore`).
fn enough(nodes: usize) -> usize {
    if nodes <= FEASIBLE_MIN {
        return nodes;
    }
    let percent = 50usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(FEASIBLE_MIN)
}

/// The node for a pod. `start`: where in the order of nodes to begin, so that successive pods look
/// at different ones; also breaks ties.
///
/// # Errors
/// Every node refused it; the reasons are counted.
pub fn decide(
    snapshot: &Snapshot,
    pod: &Pod,
    scoring: Scoring,
    start: usize,
) -> Result<String, Unschedulable> {
    let count = snapshot.len();
    let wanted = enough(count);
    let mut feasible: Vec<&NodeInfo> = Vec::with_capacity(wanted.min(count));
    let mut refused = Unschedulable::default();
    for step in 0..count {
        let info = snapshot.at((start + step) % count);
        match admit(info, pod) {
            Ok(()) => feasible.push(info),
            Err(_) if !info.exists => continue,
            Err(refusal) => {
                refused.rules.insert(refusal.rule);
                for reason in refusal.reasons {
                    *refused.reasons.entry(reason).or_default() += 1;
                }
            }
        }
        refused.nodes += 1;
        if feasible.len() == wanted {
            break;
        }
    }
    let best = match feasible.as_slice() {
        [] => return Err(refused),
        [only] => only,
        several => {
            let scores = rank(several, pod, scoring);
            let mut best = 0;
            for (index, score) in scores.iter().enumerate() {
                if *score > scores[best] {
                    best = index;
                }
            }
            several[best]
        }
    };
    Ok(best.node.name.clone())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::scheduler::model::{Node, Resources, Taint};

    fn node(name: &str, cpu_milli: i64) -> Node {
        let allocatable = Resources { cpu_milli, memory_bytes: 1 << 40, ..Resources::default() };
        Node { name: name.into(), allocatable, pods_max: 100, ..Node::default() }
    }

    fn wants(uid: &str, cpu_milli: i64) -> Pod {
        let requests = Resources { cpu_milli, ..Resources::default() };
        Pod { uid: uid.into(), owner: "o".into(), requests, ..Pod::default() }
    }

    #[test]
    fn every_refused_node_is_counted_by_its_reason() {
        let mut snapshot = Snapshot::default();
        snapshot.set_node(Arc::new(node("a", 100)));
        snapshot.set_node(Arc::new(node("b", 100)));
        let taint = Taint { key: "k".into(), value: "v".into(), effect: "NoExecute".into() };
        snapshot.set_node(Arc::new(Node { taints: vec![taint], ..node("c", 9000) }));
        let refused = decide(&snapshot, &wants("p", 500), Scoring::Spread, 0).unwrap_err();
        assert_eq!(
            refused.message(),
            "0/3 nodes are available: 1 node(s) had untolerated taint {k: v}, 2 Insufficient cpu."
        );
        assert_eq!(
            decide(&Snapshot::default(), &wants("p", 1), Scoring::Spread, 0).unwrap_err().message(),
            "no nodes available to schedule pods"
        );
    }

    #[test]
    fn assumed_pods_fill_nodes_evenly_and_never_too_far() {
        let mut snapshot = Snapshot::default();
        for name in ["a", "b", "c"] {
            snapshot.set_node(Arc::new(node(name, 1000)));
        }
        for number in 0..30 {
            let pod = wants(&format!("p{number}"), 100);
            let to = decide(&snapshot, &pod, Scoring::Spread, number).expect("room is left");
            snapshot.set_pod(Arc::new(Pod { node: to, ..pod }));
        }
        assert!(snapshot.nodes().all(|n| n.pods.len() == 10));
        assert!(decide(&snapshot, &wants("more", 100), Scoring::Spread, 0).is_err());
    }

    #[test]
    fn packing_fills_one_node_before_the_next() {
        let mut snapshot = Snapshot::default();
        for name in ["a", "b"] {
            snapshot.set_node(Arc::new(node(name, 1000)));
        }
        for number in 0..10 {
            let mut pod = wants(&format!("p{number}"), 100);
            pod.requests.memory_bytes = 100 << 30;
            let to = decide(&snapshot, &pod, Scoring::Pack, number).expect("room is left");
            snapshot.set_pod(Arc::new(Pod { node: to, ..pod }));
        }
        assert!(snapshot.nodes().any(|n| n.pods.len() == 10));
    }

    #[test]
    fn a_part_of_many_nodes_is_enough() {
        assert_eq!([enough(50), enough(100), enough(1000), enough(5000)], [50, 100, 420, 500]);
    }
}
