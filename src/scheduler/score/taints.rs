//! Taints with effect PreferNoSchedule that the pod does not tolerate: the fewer the better.

use crate::scheduler::filter::taints::tolerated;
use crate::scheduler::pod::Pod;
use crate::scheduler::snapshot::NodeInfo;

/// `None` where no node has such a taint.
pub fn numbers(pod: &Pod, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
    let soft = |info: &&NodeInfo| info.node.taints.iter().any(|t| t.effect == "PreferNoSchedule");
    if !nodes.iter().any(soft) {
        return None;
    }
    let of = |info: &&NodeInfo| {
        let soft = info.node.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
        soft.filter(|taint| !tolerated(&pod.tolerations, taint)).count() as i64
    };
    Some(nodes.iter().map(of).collect())
}
