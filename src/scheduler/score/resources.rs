//! How full a node would be with the pod on it, and how evenly.

use super::MAX;
use crate::scheduler::Packing;
use crate::scheduler::pod::Pod;
use crate::scheduler::snapshot::NodeInfo;

/// The mean over cpu and memory of what is left (or, packing, of what is taken).
pub fn fit(pod: &Pod, info: &NodeInfo, packing: Packing) -> i64 {
    let (has, used, wants) = (&info.node.allocatable, &info.scored, &pod.scored);
    let share = |has: i64, taken: i64| {
        if has == 0 || taken > has {
            return 0;
        }
        match packing {
            Packing::LeastAllocated => (has - taken) * MAX / has,
            Packing::MostAllocated => taken * MAX / has,
        }
    };
    let cpu = share(has.cpu_milli, used.cpu_milli + wants.cpu_milli);
    let memory = share(has.memory, used.memory + wants.memory);
    (cpu + memory) / 2
}

/// 100 where cpu and memory would be taken to the same share.
pub fn balance(pod: &Pod, info: &NodeInfo) -> i64 {
    let (has, used, wants) = (&info.node.allocatable, &info.used, &pod.requests);
    let share =
        |has: i64, taken: i64| if has == 0 { 1.0 } else { (taken as f64 / has as f64).min(1.0) };
    let cpu = share(has.cpu_milli, used.cpu_milli + wants.cpu_milli);
    let memory = share(has.memory, used.memory + wants.memory);
    // The standard deviation of two numbers is half their distance.
    ((1.0 - (cpu - memory).abs() / 2.0) * MAX as f64) as i64
}
