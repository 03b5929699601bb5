//! Topology spread constraints that must hold: no domain may have `maxSkew` more pods of a kind
//! than the one that has fewest.

use super::{Boxed, Filter, Reason, Tally, affinity, taints};
use crate::scheduler::config::Profile;
use crate::scheduler::kin::Kin;
use crate::scheduler::node::{Node, NodeInfo};
use crate::scheduler::pod::{Labels, Pod};
use crate::scheduler::snapshot::Snapshot;
use crate::scheduler::terms::{Constraint, Inclusion, WhenUnsatisfiable};

/// Whom a constraint counts.
pub struct Counted<'a> {
    pub constraint: &'a Constraint,
    /// For constraints that the profile gives.
    pub kin: &'a Kin,
}

impl Counted<'_> {
    /// Whether a pod with these labels, of that owner, is counted.
    pub fn counts(&self, labels: &Labels, owner: Option<&str>, namespace: &str) -> bool {
        match &self.constraint.selector {
            Some(selector) => {
                *labels.namespace == *namespace && selector.matches(|key| labels.get(key))
            }
            None => self.kin.has(labels, owner),
        }
    }

    /// How many of the pods on a node are counted, leaving ones aside.
    pub fn on(&self, info: &NodeInfo, namespace: &str) -> i64 {
        if let (None, Kin::Owner(uid)) = (&self.constraint.selector, self.kin) {
            return info.owners.get(uid).copied().map_or(0, i64::from);
        }
        let counted = |other: &&std::sync::Arc<Pod>| {
            let owner = other.owner.as_ref().map(|owner| &*owner.uid);
            !other.deleting && self.counts(&other.labels, owner, namespace)
        };
        info.pods.iter().filter(counted).count() as i64
    }

    /// Calls `each` with every node that has such pods, and how many.
    pub fn everywhere<'s>(
        &self,
        snapshot: &'s Snapshot,
        namespace: &str,
        mut each: impl FnMut(&'s NodeInfo, i64),
    ) {
        if let (None, Kin::Owner(uid)) = (&self.constraint.selector, self.kin) {
            for info in snapshot.nodes() {
                if let Some(count) = info.owners.get(uid) {
                    each(info, i64::from(*count));
                }
            }
            return;
        }
        for (labels, on_nodes) in snapshot.alike() {
            if !self.counts(labels, None, namespace) {
                continue;
            }
            for (node, count) in on_nodes {
                if let Some(info) = snapshot.node(node).filter(|_| count.all > count.leaving) {
                    each(info, count.all - count.leaving);
                }
            }
        }
    }
}

/// Whether a node counts for a constraint at all.
pub fn includes(constraint: &Constraint, pod: &Pod, node: &Node) -> bool {
    (constraint.node_affinity == Inclusion::Ignore || affinity::selects(pod, node))
        && (constraint.node_taints == Inclusion::Ignore
            || taints::untolerated(&pod.tolerations, &node.taints).is_none())
}

/// What a constraint counted.
struct State {
    /// Pods by domain, domains without pods among them.
    domains: Tally,
    least: i64,
    /// Whether the pod itself is counted.
    own: i64,
}

impl State {
    fn find_least(&mut self, constraint: &Constraint) {
        let few = (self.domains.domains() as i64) < constraint.min_domains;
        self.least = if few { 0 } else { self.domains.values().min().unwrap_or(0) };
    }
}

struct Rule<'a> {
    pod: &'a Pod,
    constraints: Vec<Constraint>,
    kin: Kin,
    /// One a constraint.
    states: Vec<State>,
}

/// The constraints of a pod with what becomes of it, or its profile's where it has none.
pub fn constraints(pod: &Pod, profile: &Profile, when: WhenUnsatisfiable) -> Vec<Constraint> {
    let mut all =
        if pod.spread.is_empty() { profile.default_spread() } else { pod.ask.spread.clone() };
    all.retain(|constraint| constraint.when == when);
    all
}

pub fn prepare<'a>(
    pod: &'a Pod,
    snapshot: &'a Snapshot,
    profile: &'a Profile,
) -> Option<Boxed<'a>> {
    let constraints = constraints(pod, profile, WhenUnsatisfiable::DoNotSchedule);
    if constraints.is_empty() {
        return None;
    }
    let kin = Kin::of(pod, snapshot);
    if pod.spread.is_empty() && kin == Kin::None {
        return None;
    }
    let owner = pod.owner.as_ref().map(|owner| &*owner.uid);
    let has_all = |node: &Node| constraints.iter().all(|c| node.label(&c.topology_key).is_some());
    let mut states = Vec::with_capacity(constraints.len());
    for constraint in &constraints {
        let counted = Counted { constraint, kin: &kin };
        let own = i64::from(counted.counts(&pod.labels, owner, &pod.namespace));
        let mut state = State { domains: Tally::default(), least: 0, own };
        let mut count = |info: &NodeInfo, count| {
            if let Some(value) = info.node.label(&constraint.topology_key)
                && has_all(&info.node)
                && includes(constraint, pod, &info.node)
            {
                state.domains.add(value, count);
            }
        };
        for info in snapshot.nodes() {
            count(info, 0);
        }
        counted.everywhere(snapshot, &pod.namespace, count);
        state.find_least(constraint);
        states.push(state);
    }
    Some(Box::new(Rule { pod, constraints, kin, states }))
}

impl Rule<'_> {
    fn update(&mut self, other: &Pod, node: &Node, by: i64) {
        let has_all = self.constraints.iter().all(|c| node.label(&c.topology_key).is_some());
        if other.deleting || !has_all {
            return;
        }
        let owner = other.owner.as_ref().map(|owner| &*owner.uid);
        for (constraint, state) in self.constraints.iter().zip(&mut self.states) {
            let counted = Counted { constraint, kin: &self.kin };
            if counted.counts(&other.labels, owner, &self.pod.namespace)
                && includes(constraint, self.pod, node)
                && let Some(value) = node.label(&constraint.topology_key)
            {
                state.domains.add(value, by);
                state.find_least(constraint);
            }
        }
    }
}

impl Filter for Rule<'_> {
    fn check(&self, info: &NodeInfo, refuse: &mut dyn FnMut(Reason)) {
        for (constraint, state) in self.constraints.iter().zip(&self.states) {
            let Some(value) = info.node.label(&constraint.topology_key) else {
                refuse(Reason::SpreadLabel);
                return;
            };
            if state.domains.get(value) + state.own - state.least > constraint.max_skew {
                refuse(Reason::Spread);
                return;
            }
        }
    }

    fn add(&mut self, other: &Pod, node: &Node) {
        self.update(other, node, 1);
    }

    fn remove(&mut self, other: &Pod, node: &Node) {
        self.update(other, node, -1);
    }
}
