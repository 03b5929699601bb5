//! Whether cpu and memory would be used alike (Kubernetes' `NodeResourcesBalancedAllocation`): with
//! two resources, 100 less half the difference of the used parts.

use super::SCORE_MAX;
use crate::scheduler::model::Pod;
use crate::scheduler::snapshot::{NodeInfo, for_score};

pub fn score(info: &NodeInfo, pod: &Pod) -> i64 {
    let (wanted, claimed) = (for_score(pod), &info.claimed_for_score);
    let all = &info.node.allocatable;
    let part = |wanted: i64, claimed: i64, all: i64| {
        if all <= 0 { 1.0 } else { ((wanted + claimed) as f64 / all as f64).min(1.0) }
    };
    let cpu = part(wanted.cpu_milli, claimed.cpu_milli, all.cpu_milli);
    let memory = part(wanted.memory_bytes, claimed.memory_bytes, all.memory_bytes);
    ((1.0 - (cpu - memory).abs() / 2.0) * SCORE_MAX as f64) as i64
}
