//! The scores: one file a rule, each gives a node 0 to 100, the higher the better.
//!
//! A rule that compares nodes with each other first gives every node a number of its own, which
//! [`scale`] then brings to 0..=100 by the largest among the nodes at hand.

mod affinity;
mod resources;
mod spread;
mod taints;

use super::Policy;
use super::pod::Pod;
use super::snapshot::{NodeInfo, Snapshot};

const MAX: i64 = 100;

/// How much a rule weighs, as in Kubernetes.
const TAINTS: i64 = 3;
const AFFINITY: i64 = 2;
const SPREAD: i64 = 2;
const FIT: i64 = 1;
const BALANCE: i64 = 1;

/// The sum for each of `nodes`, in their order.
pub fn total(pod: &Pod, nodes: &[&NodeInfo], snapshot: &Snapshot, policy: &Policy) -> Vec<i64> {
    let mut sums: Vec<i64> = nodes
        .iter()
        .map(|info| {
            FIT * resources::fit(pod, info, policy.packing)
                + BALANCE * resources::balance(pod, info)
        })
        .collect();
    let mut add = |weight: i64, numbers: Option<Vec<i64>>, most_is_best: bool| {
        let Some(mut numbers) = numbers else { return };
        scale(&mut numbers, most_is_best);
        for (sum, number) in sums.iter_mut().zip(numbers) {
            *sum += weight * number;
        }
    };
    add(TAINTS, taints::numbers(pod, nodes), false);
    add(AFFINITY, affinity::numbers(pod, nodes), true);
    add(SPREAD, spread::numbers(pod, nodes, snapshot), false);
    sums
}

/// Brings numbers to 0..=100 by their largest; where the least is best the other way round.
fn scale(numbers: &mut [i64], most_is_best: bool) {
    let largest = numbers.iter().copied().max().unwrap_or(0);
    for number in numbers {
        let share = if largest == 0 { 0 } else { MAX * *number / largest };
        *number = if most_is_best { share } else { MAX - share };
    }
}
