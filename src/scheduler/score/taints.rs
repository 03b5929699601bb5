//! How many `PreferNoSchedule` taints the pod does not tolerate.

use crate::scheduler::model::Pod;
use crate::scheduler::snapshot::NodeInfo;

pub fn count(info: &NodeInfo, pod: &Pod) -> i64 {
    let soft = info.node.taints.iter().filter(|t| t.effect == "PreferNoSchedule");
    soft.filter(|t| !pod.tolerations.iter().any(|o| o.tolerates(t))).count() as i64
}
