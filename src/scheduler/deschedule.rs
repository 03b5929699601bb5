//! The descheduler: which pods should be somewhere else by now. Pure, and only for who asks for it.
//!
//! The scheduler decides once. Nodes come and go, pods end, and after a while the cluster is not
//! what it would make of it today. Two goals are worth moving pods for:
//!
//! - *pack*: a node that is nearly empty is emptied, if all that it runs fits elsewhere, so that it
//!   can be switched off;
//! - *spread*: a node that is fuller than it should be gives pods to nodes that are emptier.
//!
//! A move is tried in thought with the scheduler's own rules before anything is evicted, and only
//! pods that a ReplicaSet, StatefulSet or ReplicationController makes anew are moved. Evictions go
//! through the eviction API, so that PodDisruptionBudgets hold.
//!
//! **Invariant:** nothing is evicted that would not find a place: the trial counts every earlier
//! move of the same round.

use std::sync::Arc;

use super::config::{Packing, Profile};
use super::node::{Node, NodeInfo};
use super::plan;
use super::pod::Pod;
use super::snapshot::Snapshot;

/// Pods from here on are the system's own.
const SYSTEM_PRIORITY: i32 = 2_000_000_000;

/// What pods are moved for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    Pack,
    Spread,
}

/// How far a round goes. Shares are in percent of what a node has, of that which it has least of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Emptier than this is nearly empty.
    pub low: i64,
    /// Fuller than this is too full.
    pub high: i64,
    /// How many pods are moved in one round.
    pub moves: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { low: 20, high: 70, moves: 20 }
    }
}

/// A pod that should move.
#[derive(Debug, Clone)]
pub struct Move {
    pub pod: Arc<Pod>,
    pub from: Arc<str>,
    pub why: String,
}

/// The moves of one round.
pub fn plan(snapshot: &Snapshot, goal: Goal, limits: Limits, profile: &Profile) -> Vec<Move> {
    match goal {
        Goal::Pack => pack(snapshot, limits, profile),
        Goal::Spread => spread(snapshot, limits, profile),
    }
}

/// How full a node is in percent: of cpu, memory and pods the one that is fullest.
fn fullness(info: &NodeInfo) -> i64 {
    let (has, used) = (&info.node.allocatable, &info.used);
    let share = |has: i64, used: i64| if has == 0 { 0 } else { used * 100 / has };
    share(has.cpu_milli, used.cpu_milli)
        .max(share(has.memory, used.memory))
        .max(share(has.pods, used.pods))
}

fn is_movable(pod: &Pod) -> bool {
    pod.owner.as_ref().is_some_and(|owner| owner.replicates)
        && !pod.deleting
        && pod.priority < SYSTEM_PRIORITY
        && pod.member.is_none()
}

/// The pod as its owner will make it anew.
fn anew(pod: &Pod) -> Arc<Pod> {
    Arc::new(Pod { node: None, nominated: None, ..pod.clone() })
}

fn cordoned(node: &Node) -> Arc<Node> {
    Arc::new(Node { unschedulable: true, ..node.clone() })
}

fn with_packing(profile: &Profile, packing: Packing) -> Profile {
    let mut profile = profile.clone();
    profile.fit.strategy = super::config::Strategy::Packing(packing);
    profile.percentage_of_nodes_to_score = Some(100);
    profile
}

fn pack(snapshot: &Snapshot, limits: Limits, profile: &Profile) -> Vec<Move> {
    let profile = with_packing(profile, Packing::MostAllocated);
    let mut trial = snapshot.clone();
    let mut nearly_empty: Vec<(i64, Arc<str>)> = snapshot
        .nodes()
        .iter()
        .filter(|info| !info.node.unschedulable && !info.pods.is_empty())
        .map(|info| (fullness(info), info.node.name.clone()))
        .filter(|(fullness, _)| *fullness < limits.low)
        .collect();
    nearly_empty.sort();
    let mut moves: Vec<Move> = Vec::new();
    for (fullness, name) in nearly_empty {
        let Some(info) = trial.node(&name).cloned() else { continue };
        // What cannot move (a DaemonSet's pods) stays without harm; what should not move holds it.
        let stays = |pod: &&Arc<Pod>| !is_movable(pod) && pod.owner.is_none();
        let going: Vec<Arc<Pod>> =
            info.pods.iter().filter(|pod| is_movable(pod)).cloned().collect();
        let too_many = moves.len() + going.len() > limits.moves;
        if going.is_empty() || too_many || info.pods.iter().any(|pod| stays(&pod)) {
            continue;
        }
        let mut next = trial.clone();
        next.set_node(cordoned(&info.node));
        if going.iter().all(|pod| relocate(&mut next, pod, &profile).is_some()) {
            let why = format!("{name} is only {fullness} % full, and can be emptied");
            let from = || name.clone();
            moves.extend(going.into_iter().map(|pod| Move { pod, from: from(), why: why.clone() }));
            trial = next;
        }
    }
    moves
}

fn spread(snapshot: &Snapshot, limits: Limits, profile: &Profile) -> Vec<Move> {
    let profile = with_packing(profile, Packing::LeastAllocated);
    let mut trial = snapshot.clone();
    let mut full: Vec<(i64, Arc<str>)> = snapshot
        .nodes()
        .iter()
        .map(|info| (fullness(info), info.node.name.clone()))
        .filter(|(fullness, _)| *fullness > limits.high)
        .collect();
    full.sort_by(|a, b| b.cmp(a));
    let mut moves = Vec::new();
    for (_, name) in full {
        let Some(info) = trial.node(&name).cloned() else { continue };
        let mut going: Vec<Arc<Pod>> =
            info.pods.iter().filter(|pod| is_movable(pod)).cloned().collect();
        // The ones that matter least first.
        going.sort_by(|a, b| b.matters_more(a));
        for pod in going {
            let now = trial.node(&name).map_or(0, fullness);
            if now <= limits.high || moves.len() >= limits.moves {
                break;
            }
            let mut next = trial.clone();
            let Some(to) = relocate(&mut next, &pod, &profile) else { continue };
            // It must be better off there, and not be the next one to move.
            let there = next.node(&to).map_or(100, fullness);
            if to == name || there >= now || there > limits.high {
                continue;
            }
            let why = format!("{name} is {now} % full, and {to} has room");
            moves.push(Move { pod, from: name.clone(), why });
            trial = next;
        }
    }
    moves
}

/// Moves a pod in thought. Answers where it goes.
fn relocate(trial: &mut Snapshot, pod: &Arc<Pod>, profile: &Profile) -> Option<Arc<str>> {
    trial.remove(&pod.uid);
    let new = anew(pod);
    let decision = plan::decide(trial, &new, profile, 0).ok()?;
    trial.assume(new, &decision.node);
    Some(decision.node)
}
