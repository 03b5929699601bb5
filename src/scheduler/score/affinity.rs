//! Preferred node affinity: the weights of the terms that hold.

use super::{Boxed, Score, scale};
use crate::scheduler::config::Profile;
use crate::scheduler::node::NodeInfo;
use crate::scheduler::pod::Pod;

struct Rule<'a>(&'a Pod, &'a Profile);

pub fn prepare<'a>(pod: &'a Pod, profile: &'a Profile) -> Option<Boxed<'a>> {
    let prefers = !pod.preferred.is_empty() || !profile.added.preferred.is_empty();
    prefers.then(|| Box::new(Rule(pod, profile)) as Boxed<'a>)
}

/// The weights of the terms that hold for a node.
pub fn weight(pod: &Pod, profile: &Profile, info: &NodeInfo) -> i64 {
    let terms = pod.preferred.iter().chain(&profile.added.preferred);
    let holding = terms.filter(|(_, term)| term.holds(&info.node.name, &info.node.labels));
    holding.map(|(weight, _)| weight).sum()
}

impl Score for Rule<'_> {
    fn number(&self, info: &NodeInfo) -> i64 {
        weight(self.0, self.1, info)
    }

    fn normalize(&self, _: &[&NodeInfo], numbers: &mut [i64]) {
        scale(numbers, true);
    }
}
