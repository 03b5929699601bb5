//! Pods that must be near other pods, or far from them; and those that must be far from this one.

use super::{Boxed, Filter, Reason, Tally};
use crate::scheduler::node::{Node, NodeInfo};
use crate::scheduler::pod::Pod;
use crate::scheduler::snapshot::{OnNodes, Snapshot};
use crate::scheduler::terms::PodTerm;

struct Rule<'a> {
    pod: &'a Pod,
    snapshot: &'a Snapshot,
    /// For each of the pod's required terms: pods that all of these terms speak of.
    near: Vec<Tally>,
    /// How many such pods there are at all.
    near_pods: i64,
    /// For each of the pod's required anti-affinity terms: pods that it speaks of.
    far: Vec<Tally>,
    /// By topology key: terms of other pods that must be far from this one.
    existing: Vec<(String, Tally)>,
}

/// Whether a term speaks of a pod.
pub fn speaks_of(term: &PodTerm, pod: &Pod, snapshot: &Snapshot) -> bool {
    term.matches(&pod.labels, snapshot.namespace(&pod.labels.namespace))
}

pub fn prepare<'a>(pod: &'a Pod, snapshot: &'a Snapshot) -> Option<Boxed<'a>> {
    let terms = &pod.ask.terms;
    let empty = |terms: &[PodTerm]| terms.iter().map(|_| Tally::default()).collect();
    let mut rule = Rule {
        pod,
        snapshot,
        near: empty(&terms.required),
        near_pods: 0,
        far: empty(&terms.anti_required),
        existing: Vec::new(),
    };
    for (ask, on_nodes) in snapshot.asking() {
        for term in ask.terms.anti_required.iter().filter(|t| speaks_of(t, pod, snapshot)) {
            let tally = rule.existing_by(&term.topology_key);
            count(snapshot, on_nodes, &term.topology_key, tally);
        }
    }
    if !(terms.required.is_empty() && terms.anti_required.is_empty()) {
        rule.count_others();
    }
    let nothing = rule.existing.is_empty() && rule.near.is_empty() && rule.far.is_empty();
    // While pods with terms are there, adding one of them may begin to matter.
    (!nothing || snapshot.asking().next().is_some()).then(|| Box::new(rule) as Boxed<'a>)
}

fn count(snapshot: &Snapshot, on_nodes: &OnNodes, key: &str, tally: &mut Tally) {
    for (node, count) in on_nodes {
        if let Some(value) = snapshot.node(node).and_then(|info| info.node.label(key)) {
            tally.add(value, count.all);
        }
    }
}

impl Rule<'_> {
    fn existing_by(&mut self, key: &str) -> &mut Tally {
        let at = self.existing.iter().position(|(k, _)| k == key).unwrap_or_else(|| {
            self.existing.push((key.to_owned(), Tally::default()));
            self.existing.len() - 1
        });
        &mut self.existing[at].1
    }

    fn count_others(&mut self) {
        let terms = &self.pod.ask.terms;
        for (labels, on_nodes) in self.snapshot.alike() {
            let namespace = self.snapshot.namespace(&labels.namespace);
            let matched = |term: &PodTerm| term.matches(labels, namespace);
            if !terms.required.is_empty() && terms.required.iter().all(matched) {
                for (term, tally) in terms.required.iter().zip(&mut self.near) {
                    count(self.snapshot, on_nodes, &term.topology_key, tally);
                }
                let known = on_nodes.iter().filter(|(node, _)| self.snapshot.node(node).is_some());
                self.near_pods += known.map(|(_, count)| count.all).sum::<i64>();
            }
            for (term, tally) in terms.anti_required.iter().zip(&mut self.far) {
                if matched(term) {
                    count(self.snapshot, on_nodes, &term.topology_key, tally);
                }
            }
        }
    }

    fn update(&mut self, other: &Pod, node: &Node, by: i64) {
        let terms = &self.pod.ask.terms;
        let (pod, snapshot) = (self.pod, self.snapshot);
        let required = &terms.required;
        if !required.is_empty() && required.iter().all(|t| speaks_of(t, other, snapshot)) {
            for (term, tally) in required.iter().zip(&mut self.near) {
                if let Some(value) = node.label(&term.topology_key) {
                    tally.add(value, by);
                }
            }
            self.near_pods += by;
        }
        for (term, tally) in terms.anti_required.iter().zip(&mut self.far) {
            if speaks_of(term, other, snapshot)
                && let Some(value) = node.label(&term.topology_key)
            {
                tally.add(value, by);
            }
        }
        for term in &other.ask.terms.anti_required {
            if speaks_of(term, pod, snapshot)
                && let Some(value) = node.label(&term.topology_key)
            {
                self.existing_by(&term.topology_key).add(value, by);
            }
        }
    }

    /// Whether the pods that this one must be near are there.
    fn is_near(&self, node: &Node) -> bool {
        let required = &self.pod.ask.terms.required;
        let mut all_there = true;
        for (term, tally) in required.iter().zip(&self.near) {
            let Some(value) = node.label(&term.topology_key) else { return false };
            all_there &= tally.get(value) > 0;
        }
        // The first of pods that want to be near each other may go anywhere.
        let first = || {
            self.near_pods == 0
                && required.iter().all(|term| speaks_of(term, self.pod, self.snapshot))
        };
        all_there || first()
    }
}

impl Filter for Rule<'_> {
    fn check(&self, info: &NodeInfo, refuse: &mut dyn FnMut(Reason)) {
        let node = &*info.node;
        let there =
            |key: &str, tally: &Tally| node.label(key).is_some_and(|value| tally.get(value) > 0);
        let mut far = self.pod.ask.terms.anti_required.iter().zip(&self.far);
        if !self.is_near(node) {
            refuse(Reason::PodAffinity);
        } else if far.any(|(term, tally)| there(&term.topology_key, tally)) {
            refuse(Reason::PodAntiAffinity);
        } else if self.existing.iter().any(|(key, tally)| there(key, tally)) {
            refuse(Reason::ExistingAntiAffinity);
        }
    }

    fn add(&mut self, other: &Pod, node: &Node) {
        self.update(other, node, 1);
    }

    fn remove(&mut self, other: &Pod, node: &Node) {
        self.update(other, node, -1);
    }
}
