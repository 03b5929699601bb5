//! What a pod requests must fit into what the node has left; so must one more pod.

use super::Reason;
use crate::scheduler::pod::Pod;
use crate::scheduler::snapshot::NodeInfo;

pub fn check(pod: &Pod, info: &NodeInfo, mut refuse: impl FnMut(Reason)) -> bool {
    let (has, used, wants) = (&info.node.allocatable, &info.used, &pod.requests);
    let mut fits = true;
    let mut lacking = |reason| {
        fits = false;
        refuse(reason);
    };
    if used.pods + 1 > has.pods {
        lacking(Reason::TooManyPods);
    }
    let short = |wants: i64, has: i64, used: i64| wants > 0 && wants > has - used;
    if short(wants.cpu_milli, has.cpu_milli, used.cpu_milli) {
        lacking(Reason::Insufficient("cpu".into()));
    }
    if short(wants.memory, has.memory, used.memory) {
        lacking(Reason::Insufficient("memory".into()));
    }
    if short(wants.ephemeral, has.ephemeral, used.ephemeral) {
        lacking(Reason::Insufficient("ephemeral-storage".into()));
    }
    for (name, amount) in &wants.extended {
        if short(*amount, has.extended(name), used.extended(name)) {
            lacking(Reason::Insufficient(name.clone()));
        }
    }
    fits
}
