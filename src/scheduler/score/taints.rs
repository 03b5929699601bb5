//! Taints with effect PreferNoSchedule that the pod does not tolerate: the fewer the better.

use super::{Score, scale};
use crate::scheduler::filter::taints::tolerates;
use crate::scheduler::node::NodeInfo;
use crate::scheduler::pod::Pod;

pub struct Rule<'a>(pub &'a Pod);

/// How many of a node's soft taints the pod does not tolerate.
pub fn intolerable(pod: &Pod, info: &NodeInfo) -> i64 {
    let soft = info.node.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
    let tolerated = |taint: &crate::scheduler::node::Taint| {
        pod.tolerations.iter().any(|toleration| tolerates(toleration, taint))
    };
    soft.filter(|taint| !tolerated(taint)).count() as i64
}

impl Score for Rule<'_> {
    fn number(&self, info: &NodeInfo) -> i64 {
        intolerable(self.0, info)
    }

    fn normalize(&self, _: &[&NodeInfo], numbers: &mut [i64]) {
        scale(numbers, false);
    }
}
