//! The weights of the preferred terms of node affinity that match.

use crate::scheduler::filter::term_matches;
use crate::scheduler::model::Pod;
use crate::scheduler::snapshot::NodeInfo;

pub fn weight(info: &NodeInfo, pod: &Pod) -> i64 {
    let preferred = pod
        .node_affinity
        .as_ref()
        .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref());
    let matching =
        preferred.unwrap_or_default().iter().filter(|p| term_matches(&p.preference, &info.node));
    matching.map(|p| i64::from(p.weight)).sum()
}
