//! What a pod requests must fit into what the node has left; so must one more pod.

use super::{Filter, Reason};
use crate::scheduler::config::Fit;
use crate::scheduler::node::NodeInfo;
use crate::scheduler::pod::Pod;

pub struct Rule<'a>(pub &'a Pod, pub &'a Fit);

impl Filter for Rule<'_> {
    fn check(&self, info: &NodeInfo, refuse: &mut dyn FnMut(Reason)) {
        let (has, used, wants) = (&info.node.allocatable, &info.used, &self.0.requests);
        if used.pods + 1 > has.pods {
            refuse(Reason::TooManyPods);
        }
        let mut need = |name: &str, wants: i64, has: i64, used: i64| {
            if wants > 0 && wants > has - used {
                let never = wants > has;
                refuse(Reason::Insufficient { resource: name.into(), never });
            }
        };
        need("cpu", wants.cpu_milli, has.cpu_milli, used.cpu_milli);
        need("memory", wants.memory, has.memory, used.memory);
        need("ephemeral-storage", wants.ephemeral, has.ephemeral, used.ephemeral);
        for (name, amount) in wants.extended.iter().filter(|(name, _)| !self.1.ignores(name)) {
            need(name, *amount, has.extended(name), used.extended(name));
        }
    }
}
