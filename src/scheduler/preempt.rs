//! Preemption: which pods make room for one that matters more. Pure.
//!
//! On every node where it may help, all pods of lower priority are taken away in thought; if the
//! pod fits then, they are put back one by one, the ones that matter most first, for as long as it
//! still fits: those that a PodDisruptionBudget protects before the others. What cannot be put back
//! are the victims. Among nodes the choice falls, in this order, on fewest violated budgets, lowest
//! highest priority of a victim, lowest sum of priorities, fewest victims, latest start of the
//! victims that matter most.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::config::Profile;
use super::filter::{self, Reason};
use super::node::NodeInfo;
use super::plan::{NodeName, Unschedulable, tell};
use super::pod::{Labels, Pod};
use super::snapshot::Snapshot;
use crate::api::selector::LabelSelector;

const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";
const NO_VICTIMS: &str = "No preemption victims found for incoming pod";

/// What the scheduler keeps of a PodDisruptionBudget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    pub namespace: String,
    pub selector: LabelSelector,
    pub allowed: i64,
    /// Pods whose disruption is counted already.
    pub disrupted: HashSet<String>,
}

impl Budget {
    fn protects(&self, name: &str, labels: &Labels) -> bool {
        *self.namespace == *labels.namespace
            && !labels.map.is_empty()
            && !self.selector.is_empty()
            && self.selector.matches(|key| labels.get(key))
            && !self.disrupted.contains(name)
    }
}

/// Where room can be made, and by whom.
#[derive(Debug, Clone)]
pub struct Room {
    pub node: NodeName,
    pub victims: Vec<Arc<Pod>>,
    /// Pods of lower priority that were to come there, and look for another place.
    pub displaced: Vec<Arc<Pod>>,
}

/// Victims on one node.
#[derive(Debug, Clone)]
struct Candidate<'a> {
    info: &'a NodeInfo,
    /// The ones that matter most first.
    victims: Vec<Arc<Pod>>,
    violations: usize,
}

/// Finds room for a pod that was refused. `start`: where among the nodes to begin.
///
/// # Errors
/// Why there is none, in Kubernetes' words.
pub fn find(
    snapshot: &Snapshot,
    pod: &Pod,
    profile: &Profile,
    refused: &Unschedulable,
    start: usize,
) -> Result<Room, String> {
    eligible(snapshot, pod, refused)?;
    let nodes = snapshot.nodes().len();
    let told = |reasons: HashMap<String, usize>| {
        Err(format!("preemption: {}", tell(nodes, reasons.into_iter())))
    };
    let final_at: HashSet<&NodeName> = refused
        .refusals
        .iter()
        .filter(|(_, reason)| reason.is_final())
        .map(|(node, _)| node)
        .collect();
    let Ok(mut prepared) = filter::prepare(pod, snapshot, profile) else {
        return told(HashMap::from([(NOT_HELPFUL.to_owned(), nodes)]));
    };
    let mut hopeful: Vec<&NodeInfo> = Vec::new();
    let mut known = HashSet::new();
    for (node, _) in &refused.refusals {
        if !final_at.contains(node) && known.insert(node) {
            hopeful.extend(snapshot.node(node));
        }
    }
    let mut reasons: HashMap<String, usize> = HashMap::new();
    if nodes > hopeful.len() {
        reasons.insert(NOT_HELPFUL.to_owned(), nodes - hopeful.len());
    }
    let enough = (nodes * profile.preemption_candidates_percent / 100)
        .max(profile.preemption_candidates_min);
    let mut candidates = Vec::new();
    for at in 0..hopeful.len() {
        let info = hopeful[(start + at) % hopeful.len()];
        match victims(snapshot, pod, info, &mut prepared) {
            Ok(candidate) => {
                candidates.push(candidate);
                // One that hurts nobody protected is needed among them before the search may end.
                if candidates.len() >= enough && candidates.iter().any(|c| c.violations == 0) {
                    break;
                }
            }
            Err(why) => why.into_iter().for_each(|why| *reasons.entry(why).or_default() += 1),
        }
    }
    match candidates.into_iter().min_by_key(rank) {
        Some(candidate) => Ok(Room {
            node: candidate.info.node.name.clone(),
            displaced: displaced(pod, candidate.info),
            victims: candidate.victims,
        }),
        None => told(reasons),
    }
}

fn eligible(snapshot: &Snapshot, pod: &Pod, refused: &Unschedulable) -> Result<(), String> {
    if pod.never_preempts {
        return Err("preemption: not eligible due to preemptionPolicy=Never.".to_owned());
    }
    let Some(info) = pod.nominated.as_deref().and_then(|node| snapshot.node(node)) else {
        return Ok(());
    };
    let hopeless = refused.refusals.iter().any(|(node, r)| *node == info.node.name && r.is_final());
    let leaving =
        |other: &Arc<Pod>| other.deleting && other.preempted && other.priority < pod.priority;
    if !hopeless && info.pods.iter().any(leaving) {
        let why = "preemption: not eligible due to a terminating pod on the nominated node.";
        return Err(why.to_owned());
    }
    Ok(())
}

type Rank = (usize, i32, i64, usize, Reverse<i64>);

fn rank(candidate: &Candidate<'_>) -> Rank {
    let highest = candidate.victims.first().map_or(i32::MIN, |pod| pod.priority);
    // Raised above zero, so that fewer victims of a negative priority are better than more.
    let raised = |pod: &Arc<Pod>| i64::from(pod.priority) + i64::from(i32::MAX) + 1;
    let sum = candidate.victims.iter().map(raised).sum();
    let most = candidate.victims.iter().filter(|pod| pod.priority == highest);
    let earliest = most.map(|pod| pod.started).min().unwrap_or(0);
    (candidate.violations, highest, sum, candidate.victims.len(), Reverse(earliest))
}

/// The victims on one node.
///
/// # Errors
/// Why there are none.
fn victims<'a>(
    snapshot: &Snapshot,
    pod: &Pod,
    info: &'a NodeInfo,
    prepared: &mut filter::Prepared<'_>,
) -> Result<Candidate<'a>, Vec<String>> {
    let mut lower: Vec<Arc<Pod>> =
        info.pods.iter().filter(|other| other.priority < pod.priority).cloned().collect();
    if lower.is_empty() {
        return Err(vec![NO_VICTIMS.to_owned()]);
    }
    lower.sort_by(|a, b| a.matters_more(b));
    let mut emptied = info.clone();
    for other in &lower {
        emptied.remove(&other.uid);
        prepared.remove(other, &info.node);
    }
    let mut removed: HashSet<Arc<str>> = lower.iter().map(|other| other.uid.clone()).collect();
    let mut why: Vec<String> = Vec::new();
    let fits = prepared.admits(&emptied, &mut |reason: Reason| why.push(reason.to_string()));
    let mut violations = 0;
    if fits {
        let (protected, free) = split(snapshot, &lower);
        for (group, is_protected) in [(protected, true), (free, false)] {
            for other in group {
                emptied.add(other.clone());
                prepared.add(&other, &info.node);
                if prepared.admits(&emptied, &mut |_| {}) {
                    removed.remove(&other.uid);
                } else {
                    emptied.remove(&other.uid);
                    prepared.remove(&other, &info.node);
                    violations += usize::from(is_protected);
                }
            }
        }
    }
    // The preparation is for the next node what it was for this one.
    for other in lower.iter().filter(|other| removed.contains(&other.uid)) {
        prepared.add(other, &info.node);
    }
    if !fits {
        return Err(why);
    }
    lower.retain(|other| removed.contains(&other.uid));
    if lower.is_empty() {
        return Err(vec![NO_VICTIMS.to_owned()]);
    }
    Ok(Candidate { info, victims: lower, violations })
}

/// Those whose going would violate a budget, and the others.
fn split(snapshot: &Snapshot, pods: &[Arc<Pod>]) -> (Vec<Arc<Pod>>, Vec<Arc<Pod>>) {
    let mut allowed: Vec<(&Budget, i64)> =
        snapshot.budgets.values().map(|budget| (budget, budget.allowed)).collect();
    pods.iter().cloned().partition(|pod| {
        let mut violates = false;
        for (budget, left) in &mut allowed {
            if budget.protects(&pod.key.name, &pod.labels) {
                *left -= 1;
                violates |= *left < 0;
            }
        }
        violates
    })
}

fn displaced(pod: &Pod, info: &NodeInfo) -> Vec<Arc<Pod>> {
    info.nominated.iter().filter(|other| other.priority < pod.priority).cloned().collect()
}
