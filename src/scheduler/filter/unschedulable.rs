//! A cordoned node takes only pods that tolerate its `node.kubernetes.io/unschedulable` taint.

use k8s_openapi::api::core::v1::Taint;

use super::{Reason, taints};
use crate::scheduler::pod::Pod;
use crate::scheduler::snapshot::Node;

pub fn check(pod: &Pod, node: &Node) -> Option<Reason> {
    if !node.unschedulable {
        return None;
    }
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    (!taints::tolerated(&pod.tolerations, &taint)).then_some(Reason::Unschedulable)
}
