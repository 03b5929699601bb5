//! A cordoned node takes only pods that tolerate its `node.kubernetes.io/unschedulable` taint.

use super::{Filter, Reason, taints};
use crate::scheduler::node::{NodeInfo, Taint};
use crate::scheduler::pod::Pod;

pub struct Rule<'a>(pub &'a Pod);

impl Filter for Rule<'_> {
    fn check(&self, info: &NodeInfo, refuse: &mut dyn FnMut(Reason)) {
        if !info.node.unschedulable {
            return;
        }
        let taint = Taint {
            key: "node.kubernetes.io/unschedulable".to_owned(),
            effect: "NoSchedule".to_owned(),
            value: None,
        };
        if !taints::tolerated(&self.0.tolerations, &taint) {
            refuse(Reason::Unschedulable);
        }
    }
}
