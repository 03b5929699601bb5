//! The node selector and required node affinity of a pod, and those that its profile adds.

use super::{Boxed, Filter, Reason};
use crate::scheduler::config::Profile;
use crate::scheduler::node::{Node, NodeInfo};
use crate::scheduler::pod::{Ask, Pod};
use crate::scheduler::terms::NodeTerm;

struct Rule<'a> {
    pod: &'a Pod,
    added: Option<&'a [NodeTerm]>,
}

pub fn prepare<'a>(pod: &'a Pod, profile: &'a Profile) -> Option<Boxed<'a>> {
    let added = profile.added.required.as_deref();
    let asks = !pod.node_selector.is_empty() || pod.required.is_some() || added.is_some();
    asks.then(|| Box::new(Rule { pod, added }) as Boxed<'a>)
}

impl Filter for Rule<'_> {
    fn check(&self, info: &NodeInfo, refuse: &mut dyn FnMut(Reason)) {
        if self.added.is_some_and(|terms| !any_holds(terms, &info.node)) {
            refuse(Reason::AddedAffinity);
        } else if !selects(self.pod, &info.node) {
            // A pod that asks for nodes by name is never shown others by Kubernetes' own filter.
            let elsewhere =
                self.pod.ask.pinned().is_some_and(|names| !names.contains(&*info.node.name));
            refuse(if elsewhere { Reason::NotPinned } else { Reason::Affinity });
        }
    }
}

/// Whether a pod's node selector and required affinity let it on a node.
pub fn selects(ask: &Ask, node: &Node) -> bool {
    ask.node_selector.iter().all(|(key, value)| node.label(key) == Some(value))
        && ask.required.as_ref().is_none_or(|terms| any_holds(terms, node))
}

fn any_holds(terms: &[NodeTerm], node: &Node) -> bool {
    terms.iter().any(|term| term.holds(&node.name, &node.labels))
}
