//! Preferred node affinity: the weights of the terms that match.

use crate::scheduler::filter::affinity::matches;
use crate::scheduler::pod::Pod;
use crate::scheduler::snapshot::NodeInfo;

/// `None` where the pod prefers nothing.
pub fn numbers(pod: &Pod, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
    if pod.preferred.is_empty() {
        return None;
    }
    let of = |info: &&NodeInfo| {
        let terms = pod.preferred.iter().filter(|term| matches(&term.preference, &info.node));
        terms.map(|term| i64::from(term.weight)).sum()
    };
    Some(nodes.iter().map(of).collect())
}
