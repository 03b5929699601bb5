//! Spreads that should hold: domains with fewer pods of a kind are better, the more so the fewer
//! domains there are and the less skew is allowed.

use std::collections::HashSet;

use super::{Boxed, MAX, Score};
use crate::scheduler::config::{HOSTNAME, Profile, SpreadDefaults};
use crate::scheduler::filter::Tally;
use crate::scheduler::filter::spread::{Counted, constraints, includes};
use crate::scheduler::kin::Kin;
use crate::scheduler::node::{Node, NodeInfo};
use crate::scheduler::pod::Pod;
use crate::scheduler::snapshot::Snapshot;
use crate::scheduler::terms::{Constraint, WhenUnsatisfiable};

struct Rule<'a> {
    pod: &'a Pod,
    kin: Kin,
    /// With the pods by domain (but for single nodes), and the weight of one of them.
    constraints: Vec<(Constraint, Tally, f64)>,
    /// Nodes that lack one of the labels are as bad as can be.
    needs_all: bool,
}

/// What a domain weighs when there are so many: the logarithm evens out large and small numbers.
pub fn weight(domains: usize) -> f64 {
    ((domains + 2) as f64).ln()
}

/// What `count` pods in a domain add.
pub fn cost(count: i64, weight: f64, max_skew: i64) -> f64 {
    count as f64 * weight + (max_skew - 1) as f64
}

/// 0 to 100 of a cost among the least and the most.
pub fn normalized(cost: i64, least: i64, most: i64) -> i64 {
    if most == 0 { MAX } else { MAX * (most + least - cost) / most }
}

pub fn prepare<'a>(
    pod: &'a Pod,
    nodes: &[&NodeInfo],
    snapshot: &'a Snapshot,
    profile: &'a Profile,
) -> Option<Boxed<'a>> {
    let asked = constraints(pod, profile, WhenUnsatisfiable::ScheduleAnyway);
    if asked.is_empty() {
        return None;
    }
    let kin = Kin::of(pod, snapshot);
    if pod.spread.is_empty() && kin == Kin::None {
        return None;
    }
    let needs_all = !(pod.spread.is_empty() && profile.spread == SpreadDefaults::System);
    let counts =
        |node: &Node| !needs_all || asked.iter().all(|c| node.label(&c.topology_key).is_some());
    let nodes: Vec<&&NodeInfo> = nodes.iter().filter(|info| counts(&info.node)).collect();
    let mut with_counts = Vec::with_capacity(asked.len());
    for constraint in &asked {
        let key = &constraint.topology_key;
        let values: HashSet<&str> = nodes.iter().filter_map(|info| info.node.label(key)).collect();
        let mut tally = Tally::default();
        let mut domains = nodes.len();
        if key != HOSTNAME {
            domains = values.len();
            let counted = Counted { constraint, kin: &kin };
            counted.everywhere(snapshot, &pod.namespace, |info, count| {
                if let Some(value) = info.node.label(key)
                    && values.contains(value)
                    && counts(&info.node)
                    && includes(constraint, pod, &info.node)
                {
                    tally.add(value, count);
                }
            });
        }
        with_counts.push((constraint.clone(), tally, weight(domains)));
    }
    Some(Box::new(Rule { pod, kin, constraints: with_counts, needs_all }))
}

impl Rule<'_> {
    fn counts(&self, node: &Node) -> bool {
        let has = |c: &Constraint| node.label(&c.topology_key).is_some();
        !self.needs_all || self.constraints.iter().all(|(constraint, ..)| has(constraint))
    }
}

impl Score for Rule<'_> {
    fn number(&self, info: &NodeInfo) -> i64 {
        if !self.counts(&info.node) {
            return 0;
        }
        let mut sum = 0.0;
        for (constraint, tally, weight) in &self.constraints {
            let Some(value) = info.node.label(&constraint.topology_key) else { continue };
            let count = if constraint.topology_key == HOSTNAME {
                Counted { constraint, kin: &self.kin }.on(info, &self.pod.namespace)
            } else {
                tally.get(value)
            };
            sum += cost(count, *weight, constraint.max_skew);
        }
        sum.round() as i64
    }

    fn normalize(&self, nodes: &[&NodeInfo], numbers: &mut [i64]) {
        let counted: Vec<bool> = nodes.iter().map(|info| self.counts(&info.node)).collect();
        let with = || numbers.iter().zip(&counted).filter(|(_, c)| **c).map(|(n, _)| *n);
        let (least, most) = (with().min().unwrap_or(0), with().max().unwrap_or(0));
        for (number, counted) in numbers.iter_mut().zip(counted) {
            *number = if counted { normalized(*number, least, most) } else { 0 };
        }
    }
}
