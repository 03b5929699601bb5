//! How many pods of the same owner the node has: copies are spread over hosts.

use crate::scheduler::model::Pod;
use crate::scheduler::snapshot::NodeInfo;

pub fn count(info: &NodeInfo, pod: &Pod) -> i64 {
    i64::from(info.owners.get(&pod.owner).copied().unwrap_or(0))
}
