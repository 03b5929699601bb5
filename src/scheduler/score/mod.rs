//! The scores: one file a rule, each gives a node 0 to 100, the higher the better.
//!
//! A rule is prepared for a pod and the nodes that could take it (Kubernetes' `PreScore`), gives
//! every node a number (`Score`), and may then set these numbers against each other
//! (`NormalizeScore`).

pub mod affinity;
pub mod images;
mod pod_affinity;
pub mod resources;
pub mod spread;
pub mod taints;

use super::config::{Plugin, Profile};
use super::node::NodeInfo;
use super::pod::Pod;
use super::snapshot::Snapshot;

/// The best score.
pub const MAX: i64 = 100;

/// A rule, prepared for one pod.
pub trait Score {
    /// What a node gets.
    fn number(&self, info: &NodeInfo) -> i64;

    /// Makes 0 to 100 of the numbers of all nodes, where they are not yet.
    fn normalize(&self, nodes: &[&NodeInfo], numbers: &mut [i64]) {
        let _ = (nodes, numbers);
    }
}

type Boxed<'a> = Box<dyn Score + 'a>;

fn prepare<'a>(
    plugin: Plugin,
    pod: &'a Pod,
    nodes: &[&NodeInfo],
    snapshot: &'a Snapshot,
    profile: &'a Profile,
) -> Option<Boxed<'a>> {
    match plugin {
        Plugin::TaintToleration => Some(Box::new(taints::Rule(pod))),
        Plugin::NodeAffinity => affinity::prepare(pod, profile),
        Plugin::NodeResourcesFit => Some(Box::new(resources::FitRule(pod, &profile.fit))),
        Plugin::NodeResourcesBalancedAllocation => {
            Some(Box::new(resources::BalanceRule(pod, &profile.balanced)))
        }
        Plugin::ImageLocality => Some(Box::new(images::Rule(pod, snapshot))),
        Plugin::PodTopologySpread => spread::prepare(pod, nodes, snapshot, profile),
        Plugin::InterPodAffinity => pod_affinity::prepare(pod, snapshot, profile),
        _ => None,
    }
}

/// The sum for each of `nodes`, in their order.
pub fn total(pod: &Pod, nodes: &[&NodeInfo], snapshot: &Snapshot, profile: &Profile) -> Vec<i64> {
    let mut sums = vec![0; nodes.len()];
    for (plugin, weight) in &profile.scores {
        let Some(rule) = prepare(*plugin, pod, nodes, snapshot, profile) else { continue };
        let mut numbers: Vec<i64> = nodes.iter().map(|info| rule.number(info)).collect();
        rule.normalize(nodes, &mut numbers);
        for (sum, number) in sums.iter_mut().zip(numbers) {
            *sum += weight * number;
        }
    }
    sums
}

/// Brings numbers to 0..=100 by their largest; where the least is best the other way round.
pub fn scale(numbers: &mut [i64], most_is_best: bool) {
    let largest = numbers.iter().copied().max().unwrap_or(0);
    for number in numbers {
        let share = if largest == 0 { 0 } else { MAX * *number / largest };
        *number = if most_is_best { share } else { MAX - share };
    }
}
