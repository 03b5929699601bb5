//! The rules that rank the nodes that may run a pod: a file a rule. Each gives 0 to 100; they are
//! added with Kubernetes' weights.

mod allocation;
mod balance;
mod node_affinity;
mod spread;
mod taints;

use super::config::Scoring;
use super::model::Pod;
use super::snapshot::NodeInfo;

/// Best score of one rule.
pub const SCORE_MAX: i64 = 100;

/// Ranks nodes: the score of each, in their order.
pub fn rank(nodes: &[&NodeInfo], pod: &Pod, scoring: Scoring) -> Vec<i64> {
    let rules: [(i64, Vec<i64>); 5] = [
        (1, nodes.iter().map(|n| allocation::score(n, pod, scoring)).collect()),
        (1, nodes.iter().map(|n| balance::score(n, pod)).collect()),
        (2, normalize(nodes.iter().map(|n| spread::count(n, pod)).collect(), Best::Lowest)),
        (3, normalize(nodes.iter().map(|n| taints::count(n, pod)).collect(), Best::Lowest)),
        (
            2,
            normalize(nodes.iter().map(|n| node_affinity::weight(n, pod)).collect(), Best::Highest),
        ),
    ];
    (0..nodes.len())
        .map(|i| {
            rules
                .iter()
                .enumerate()
                // Packing means that the copies of one owner come together, too.
                .filter(|(rule, _)| *rule != 2 || scoring == Scoring::Spread)
                .map(|(_, (weight, scores))| weight * scores[i])
                .sum()
        })
        .collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Best {
    Lowest,
    Highest,
}

/// Stretches raw numbers so that the largest is 100, or 0 where the lowest is best.
fn normalize(raw: Vec<i64>, best: Best) -> Vec<i64> {
    let most = raw.iter().copied().max().unwrap_or(0);
    raw.into_iter()
        .map(|n| match best {
            _ if most == 0 => {
                if best == Best::Lowest {
                    SCORE_MAX
                } else {
                    0
                }
            }
            Best::Lowest => SCORE_MAX - n * SCORE_MAX / most,
            Best::Highest => n * SCORE_MAX / most,
        })
        .collect()
}

#[cfg(test)]
mod tests;
