//! The filters: one file a rule, each says why a node cannot take a pod, in Kubernetes' words.
//!
//! A rule is *prepared* for a pod, which is where it looks at the whole cluster (Kubernetes'
//! `PreFilter`), and then asked node by node (`Filter`). Rules that a pod has no use for are left
//! out. They run in Kubernetes' order; the first rule that refuses a node ends its run.
//!
//! **Invariant:** [`Filter::add`] and [`Filter::remove`] undo each other exactly, so that one
//! preparation serves for all nodes on which room is looked for.

pub mod affinity;
mod name;
mod pod_affinity;
mod ports;
mod reason;
mod resources;
pub mod spread;
pub mod taints;
mod unschedulable;
mod volume_binding;
mod volume_limits;
mod volume_restrictions;
mod volume_zone;

use std::collections::{HashMap, HashSet};

pub use self::reason::Reason;
pub use self::volume_binding::waiting as waiting_claims;
use super::config::{Plugin, Profile};
use super::node::{Node, NodeInfo};
use super::pod::Pod;
use super::snapshot::Snapshot;

/// A rule, prepared for one pod.
pub trait Filter {
    /// Tells `refuse` why the node cannot take the pod, if so.
    fn check(&self, info: &NodeInfo, refuse: &mut dyn FnMut(Reason));

    /// From now on `other` counts as being on `node`.
    fn add(&mut self, other: &Pod, node: &Node) {
        let _ = (other, node);
    }

    /// From now on `other` does not count as being on `node`.
    fn remove(&mut self, other: &Pod, node: &Node) {
        let _ = (other, node);
    }
}

type Boxed<'a> = Box<dyn Filter + 'a>;

/// Why no node can take a pod, whichever it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    pub plugin: Plugin,
    pub message: String,
}

/// Numbers by the values of one label.
#[derive(Debug, Default)]
pub struct Tally(HashMap<Box<str>, i64>);

impl Tally {
    pub fn add(&mut self, value: &str, by: i64) {
        match self.0.get_mut(value) {
            Some(number) => *number += by,
            None => {
                self.0.insert(value.into(), by);
            }
        }
    }

    pub fn get(&self, value: &str) -> i64 {
        self.0.get(value).copied().unwrap_or(0)
    }

    pub fn values(&self) -> impl Iterator<Item = i64> {
        self.0.values().copied()
    }

    /// How many values there are.
    pub fn domains(&self) -> usize {
        self.0.len()
    }
}

/// The rules of a profile, prepared for one pod.
pub struct Prepared<'a> {
    pod: &'a Pod,
    rules: Vec<(Plugin, Boxed<'a>)>,
    /// The only nodes that can take the pod, by name.
    pinned: Option<HashSet<&'a str>>,
}

/// Prepares those rules of a profile that only look at the node itself and what is on it.
pub fn prepare_local<'a>(
    pod: &'a Pod,
    snapshot: &'a Snapshot,
    profile: &'a Profile,
) -> Prepared<'a> {
    let mut rules: Vec<(Plugin, Boxed<'a>)> = Vec::with_capacity(profile.filters.len());
    for plugin in profile.filters.iter().copied() {
        let rule: Option<Boxed<'a>> = match plugin {
            Plugin::NodeUnschedulable => Some(Box::new(unschedulable::Rule(pod))),
            Plugin::NodeName => name::prepare(pod),
            Plugin::TaintToleration => Some(Box::new(taints::Rule(pod))),
            Plugin::NodeAffinity => affinity::prepare(pod, profile),
            Plugin::NodePorts => ports::prepare(pod),
            Plugin::NodeResourcesFit => Some(Box::new(resources::Rule(pod, &profile.fit))),
            Plugin::NodeVolumeLimits => volume_limits::prepare(pod, snapshot),
            _ => None,
        };
        rules.extend(rule.map(|rule| (plugin, rule)));
    }
    Prepared { pod, rules, pinned: None }
}

/// Prepares all rules of a profile.
///
/// # Errors
/// [`Stop`]: no node can take the pod.
pub fn prepare<'a>(
    pod: &'a Pod,
    snapshot: &'a Snapshot,
    profile: &'a Profile,
) -> Result<Prepared<'a>, Stop> {
    let mut prepared = prepare_local(pod, snapshot, profile);
    for plugin in profile.filters.iter().copied() {
        let rule = match plugin {
            Plugin::VolumeRestrictions => volume_restrictions::prepare(pod, snapshot),
            Plugin::VolumeBinding => volume_binding::prepare(pod, snapshot)?,
            Plugin::VolumeZone => volume_zone::prepare(pod, snapshot),
            Plugin::PodTopologySpread => spread::prepare(pod, snapshot, profile),
            Plugin::InterPodAffinity => pod_affinity::prepare(pod, snapshot),
            _ => None,
        };
        prepared.rules.extend(rule.map(|rule| (plugin, rule)));
    }
    prepared.rules.sort_by_key(|(plugin, _)| *plugin);
    if profile.filters.contains(&Plugin::NodeAffinity) {
        prepared.pinned = pod.ask.pinned();
    }
    Ok(prepared)
}

impl<'a> Prepared<'a> {
    /// The only nodes that can take the pod, where it names some.
    pub fn pinned(&self) -> Option<&HashSet<&'a str>> {
        self.pinned.as_ref()
    }

    /// Tells `refuse` what the first rule says that does not let the pod there. Answers whether all
    /// let it.
    pub fn passes(&self, info: &NodeInfo, refuse: &mut dyn FnMut(Reason)) -> bool {
        let mut refused = false;
        for (_, rule) in &self.rules {
            rule.check(info, &mut |reason| {
                refused = true;
                refuse(reason);
            });
            if refused {
                return false;
            }
        }
        true
    }

    /// Tells `refuse` what every rule says.
    pub fn explain(&self, info: &NodeInfo, refuse: &mut dyn FnMut(Reason)) {
        for (_, rule) in &self.rules {
            rule.check(info, refuse);
        }
    }

    /// As [`Self::passes`], and room that is kept there for other pods stays.
    pub fn admits(&mut self, info: &NodeInfo, refuse: &mut dyn FnMut(Reason)) -> bool {
        if info.reserved(self.pod).next().is_some() {
            let mut crowded = info.clone();
            let reserved: Vec<_> = info.reserved(self.pod).cloned().collect();
            for other in &reserved {
                crowded.add(other.clone());
                self.add(other, &info.node);
            }
            let fits = self.passes(&crowded, refuse);
            for other in &reserved {
                self.remove(other, &info.node);
            }
            if !fits {
                return false;
            }
        }
        // They may never come: what asks for them to be near must not rely on it.
        self.passes(info, refuse)
    }

    /// From now on `other` counts as being on `node`.
    pub fn add(&mut self, other: &Pod, node: &Node) {
        for (_, rule) in &mut self.rules {
            rule.add(other, node);
        }
    }

    /// From now on `other` does not count as being on `node`.
    pub fn remove(&mut self, other: &Pod, node: &Node) {
        for (_, rule) in &mut self.rules {
            rule.remove(other, node);
        }
    }
}
