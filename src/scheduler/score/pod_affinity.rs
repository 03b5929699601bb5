//! Pods that prefer to be near other pods, or far from them; and what those prefer in turn.

use std::collections::HashMap;

use super::{Boxed, MAX, Score};
use crate::scheduler::config::Profile;
use crate::scheduler::filter::Tally;
use crate::scheduler::node::NodeInfo;
use crate::scheduler::pod::Pod;
use crate::scheduler::snapshot::{OnNodes, Snapshot};
use crate::scheduler::terms::PodTerm;

/// Weights by topology key and its values.
struct Rule(HashMap<String, Tally>);

impl Rule {
    fn count(&mut self, term: &PodTerm, on_nodes: &OnNodes, weight: i64, snapshot: &Snapshot) {
        if weight == 0 {
            return;
        }
        let tally = self.0.entry(term.topology_key.clone()).or_default();
        for (node, count) in on_nodes {
            let node = snapshot.node(node).map(|info| &*info.node);
            if let Some(value) = node.and_then(|node| node.label(&term.topology_key)) {
                tally.add(value, weight * count.all);
            }
        }
    }
}

pub fn prepare<'a>(pod: &'a Pod, snapshot: &'a Snapshot, profile: &Profile) -> Option<Boxed<'a>> {
    let mut rule = Rule(HashMap::new());
    let own = &pod.ask.terms;
    if !(own.preferred.is_empty() && own.anti_preferred.is_empty()) {
        for (labels, on_nodes) in snapshot.alike() {
            let namespace = snapshot.namespace(&labels.namespace);
            let near = own.preferred.iter().map(|(weight, term)| (*weight, term));
            let far = own.anti_preferred.iter().map(|(weight, term)| (-*weight, term));
            for (weight, term) in near.chain(far).filter(|(_, t)| t.matches(labels, namespace)) {
                rule.count(term, on_nodes, weight, snapshot);
            }
        }
    }
    let namespace = snapshot.namespace(&pod.labels.namespace);
    for (ask, on_nodes) in snapshot.asking() {
        let theirs = &ask.terms;
        let hard = theirs.required.iter().map(|t| (profile.hard_pod_affinity_weight, t));
        let near = theirs.preferred.iter().map(|(weight, term)| (*weight, term));
        let far = theirs.anti_preferred.iter().map(|(weight, term)| (-*weight, term));
        let soft = near.chain(far).filter(|_| !profile.ignore_preferred_terms_of_existing_pods);
        for (weight, term) in hard.chain(soft).filter(|(_, t)| t.matches(&pod.labels, namespace)) {
            rule.count(term, on_nodes, weight, snapshot);
        }
    }
    (!rule.0.is_empty()).then(|| Box::new(rule) as Boxed<'a>)
}

impl Score for Rule {
    fn number(&self, info: &NodeInfo) -> i64 {
        let of = |(key, tally): (&String, &Tally)| {
            info.node.label(key).map_or(0, |value| tally.get(value))
        };
        self.0.iter().map(of).sum()
    }

    fn normalize(&self, _: &[&NodeInfo], numbers: &mut [i64]) {
        let least = numbers.iter().copied().min().unwrap_or(0);
        let most = numbers.iter().copied().max().unwrap_or(0);
        for number in numbers {
            *number = if most > least {
                (MAX as f64 * ((*number - least) as f64 / (most - least) as f64)) as i64
            } else {
                0
            };
        }
    }
}
