//! How full a node would be with the pod on it, and how evenly.

use super::{MAX, Score};
use crate::scheduler::config::{Fit, Packing, Strategy};
use crate::scheduler::node::NodeInfo;
use crate::scheduler::pod::Pod;

pub struct FitRule<'a>(pub &'a Pod, pub &'a Fit);

impl Score for FitRule<'_> {
    fn number(&self, info: &NodeInfo) -> i64 {
        fit(self.0, info, self.1)
    }
}

pub struct BalanceRule<'a>(pub &'a Pod, pub &'a [String]);

impl Score for BalanceRule<'_> {
    fn number(&self, info: &NodeInfo) -> i64 {
        balance(self.0, info, self.1)
    }
}

/// How much of a resource a node has and would have given away; what is asked for nothing and no
/// basic resource counts as not there. `assumed`: with what scoring assumes of pods that do not ask.
fn amounts(pod: &Pod, info: &NodeInfo, resource: &str, assumed: bool) -> Option<(i64, i64)> {
    let has = info.node.allocatable.get(resource);
    let basic = matches!(resource, "cpu" | "memory" | "ephemeral-storage");
    let (wants, used) =
        if assumed { (&pod.scored, &info.scored) } else { (&pod.requests, &info.used) };
    let wants = wants.get(resource);
    if has == 0 || (wants == 0 && !basic) {
        return None;
    }
    Some((has, used.get(resource) + wants))
}

/// The weighted mean over the resources of what is left (or, packing, of what is taken).
pub fn fit(pod: &Pod, info: &NodeInfo, fit: &Fit) -> i64 {
    let (mut sum, mut weights) = (0, 0);
    for (resource, weight) in &fit.resources {
        let Some((has, taken)) = amounts(pod, info, resource, true) else { continue };
        let score = match &fit.strategy {
            Strategy::Packing(_) if taken > has => 0,
            Strategy::Packing(Packing::LeastAllocated) => (has - taken) * MAX / has,
            Strategy::Packing(Packing::MostAllocated) => taken * MAX / has,
            Strategy::RequestedToCapacityRatio(shape) => {
                let utilization = if taken > has { 100 } else { taken * 100 / has };
                let score = on_line(shape, utilization);
                if score == 0 {
                    // As in Kubernetes, a resource that scores nothing has no weight either.
                    continue;
                }
                score
            }
        };
        sum += score * weight;
        weights += weight;
    }
    match &fit.strategy {
        _ if weights == 0 => 0,
        Strategy::Packing(_) => sum / weights,
        Strategy::RequestedToCapacityRatio(_) => (sum as f64 / weights as f64).round() as i64,
    }
}

/// The value at `x` of the straight lines through `points`, which are sorted.
fn on_line(points: &[(i64, i64)], x: i64) -> i64 {
    for (at, (px, py)) in points.iter().enumerate() {
        if x <= *px {
            let Some((bx, by)) = at.checked_sub(1).map(|before| points[before]) else {
                return *py;
            };
            return by + (py - by) * (x - bx) / (px - bx);
        }
    }
    points.last().map_or(0, |(_, y)| *y)
}

/// 100 where all resources would be taken to the same share.
pub fn balance(pod: &Pod, info: &NodeInfo, resources: &[String]) -> i64 {
    if resources.iter().all(|resource| pod.requests.get(resource) == 0) {
        return 0;
    }
    let shares = resources.iter().filter_map(|resource| {
        let (has, taken) = amounts(pod, info, resource, false)?;
        Some((taken as f64 / has as f64).min(1.0))
    });
    let shares: Vec<f64> = shares.collect();
    let deviation = match shares.as_slice() {
        [] | [_] => 0.0,
        [a, b] => (a - b).abs() / 2.0,
        more => {
            let count = more.len() as f64;
            let mean = more.iter().sum::<f64>() / count;
            (more.iter().map(|share| (share - mean).powi(2)).sum::<f64>() / count).sqrt()
        }
    };
    ((1.0 - deviation) * MAX as f64) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_is_straight_between_its_points() {
        let shape = [(10, 100), (50, 20), (90, 0)];
        let at = [0, 10, 30, 50, 70, 90, 100].map(|x| on_line(&shape, x));
        assert_eq!(at, [100, 100, 60, 20, 10, 0, 0]);
    }
}
