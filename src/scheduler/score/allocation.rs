//! How full the node would be (Kubernetes' `LeastAllocated` and `MostAllocated`): the mean over cpu
//! and memory.

use super::SCORE_MAX;
use crate::scheduler::config::Scoring;
use crate::scheduler::model::Pod;
use crate::scheduler::snapshot::{NodeInfo, for_score};

pub fn score(info: &NodeInfo, pod: &Pod, scoring: Scoring) -> i64 {
    let (wanted, claimed) = (for_score(pod), &info.claimed_for_score);
    let all = &info.node.allocatable;
    let part = |wanted: i64, claimed: i64, all: i64| {
        let used = wanted.saturating_add(claimed);
        match scoring {
            _ if all <= 0 || used > all => 0,
            Scoring::Spread => (all - used) * SCORE_MAX / all,
            Scoring::Pack => used * SCORE_MAX / all,
        }
    };
    let cpu = part(wanted.cpu_milli, claimed.cpu_milli, all.cpu_milli);
    // In KiB, so that a hundred times the memory of any machine still fits.
    let kib = |bytes: i64| bytes >> 10;
    let memory = part(kib(wanted.memory_bytes), kib(claimed.memory_bytes), kib(all.memory_bytes));
    (cpu + memory) / 2
}
