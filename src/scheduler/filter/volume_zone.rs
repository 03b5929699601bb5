//! A volume that says which zone or region it is in is attached there only.

use super::{Boxed, Filter, Reason};
use crate::scheduler::node::NodeInfo;
use crate::scheduler::pod::Pod;
use crate::scheduler::snapshot::Snapshot;

const LABELS: [&str; 4] = [
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];

/// The label that was called otherwise before.
fn other_name(label: &str) -> Option<&'static str> {
    let at = LABELS.iter().position(|known| *known == label)?;
    Some(LABELS[(at + 2) % 4])
}

/// Labels and their values, of which a node must have one each.
struct Rule<'a>(Vec<(&'static str, Vec<&'a str>)>);

pub fn prepare<'a>(pod: &'a Pod, snapshot: &'a Snapshot) -> Option<Boxed<'a>> {
    let mut wanted = Vec::new();
    for claim in &pod.ask.claims {
        let volumes = &snapshot.volumes;
        let bound = volumes.claim(&pod.namespace, &claim.name).and_then(|c| c.bound.as_deref());
        let Some(volume) = bound.and_then(|name| volumes.volume(name)) else { continue };
        for label in LABELS {
            if let Some(value) = volume.labels.get(label) {
                // A volume that is replicated names its zones with two underscores between.
                wanted.push((label, value.split("__").map(str::trim).collect()));
            }
        }
    }
    (!wanted.is_empty()).then(|| Box::new(Rule(wanted)) as Boxed<'a>)
}

impl Filter for Rule<'_> {
    fn check(&self, info: &NodeInfo, refuse: &mut dyn FnMut(Reason)) {
        // A node that knows nothing of zones is one in a cluster without any.
        if !LABELS.iter().any(|label| info.node.label(label).is_some()) {
            return;
        }
        let fits = self.0.iter().all(|(label, values)| {
            let other = || other_name(label).and_then(|other| info.node.label(other));
            let there = info.node.label(label).or_else(other);
            there.is_some_and(|zone| values.contains(&zone))
        });
        if !fits {
            refuse(Reason::VolumeZone);
        }
    }
}
