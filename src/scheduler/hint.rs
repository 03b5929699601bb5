//! What may turn a refusal: so that a pod that no node took wakes only for what may help it.

use super::config::{Plugin, Plugins, Profile};
use super::filter;
use super::filter::affinity;
use super::node::{Node, NodeInfo};
use super::pod::Pod;
use super::snapshot::Snapshot;
use super::terms::{PodTerm, WhenUnsatisfiable};
use crate::client::Key;

/// Something that happened.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// A node came, or changed from what it was.
    Node { old: Option<&'a Node>, new: &'a Node },
    /// A node went.
    NodeGone(&'a Node),
    /// A pod left its node, or counts for less there.
    PodGone { pod: &'a Pod, node: &'a str },
    /// A pod came to a node, or counts for more there.
    PodCame { pod: &'a Pod },
    /// A claim came, went or changed.
    Claim(&'a Key),
    /// Volumes, or classes of them.
    Volumes,
    /// What a node can attach.
    Attachable,
    /// The labels of a namespace.
    Namespace,
    /// A pod group got a member, or wants another number of them.
    Group { namespace: &'a str, group: &'a str },
    /// Room is no longer kept on a node.
    Withdrawn { node: &'a str },
}

/// Whether `event` may turn what `plugins` refused.
pub fn helps(
    event: Event<'_>,
    pod: &Pod,
    plugins: Plugins,
    snapshot: &Snapshot,
    profile: &Profile,
) -> bool {
    if plugins.is_empty() {
        return true;
    }
    let has = |plugin| plugins.has(plugin);
    match event {
        Event::Node { old, new } => {
            let known = snapshot.node(&new.name);
            let spread =
                || has(Plugin::PodTopologySpread) && is_domain(pod, old, Some(new), profile);
            has_volumes(plugins)
                || spread()
                || known.is_some_and(|info| may_take(pod, info, old, snapshot, profile))
        }
        Event::NodeGone(node) => {
            has(Plugin::PodTopologySpread) && is_domain(pod, Some(node), None, profile)
        }
        Event::PodGone { pod: gone, node } => {
            let info = snapshot.node(node);
            info.is_some_and(|info| takes(pod, info, snapshot, profile)) && local(plugins)
                || has(Plugin::InterPodAffinity) && keeps_away(gone, pod, snapshot)
                || has(Plugin::PodTopologySpread) && is_counted(gone, pod, profile)
                || has_volumes(plugins) && !gone.claims.is_empty()
                || has(Plugin::VolumeRestrictions) && !gone.disks.is_empty()
        }
        Event::PodCame { pod: came } => {
            let near = |term: &PodTerm| speaks_of(term, came, snapshot);
            has(Plugin::InterPodAffinity) && pod.ask.terms.required.iter().any(near)
                || has(Plugin::PodTopologySpread) && is_counted(came, pod, profile)
        }
        Event::Claim(key) => {
            has_volumes(plugins)
                && *key.namespace == *pod.namespace
                && pod.claims.iter().any(|claim| claim.name == key.name)
        }
        Event::Volumes => has_volumes(plugins),
        Event::Attachable => has(Plugin::NodeVolumeLimits),
        Event::Namespace => has(Plugin::InterPodAffinity),
        Event::Group { namespace, group } => {
            has(Plugin::Coscheduling)
                && *namespace == *pod.namespace
                && pod.member.as_ref().is_some_and(|member| member.group == group)
        }
        Event::Withdrawn { node } => {
            let info = snapshot.node(node);
            info.is_some_and(|info| takes(pod, info, snapshot, profile))
        }
    }
}

fn has_volumes(plugins: Plugins) -> bool {
    let volumes = [
        Plugin::VolumeBinding,
        Plugin::VolumeZone,
        Plugin::VolumeRestrictions,
        Plugin::NodeVolumeLimits,
    ];
    volumes.into_iter().any(|plugin| plugins.has(plugin))
}

/// Whether a plugin is among them that asks how full a node is.
fn local(plugins: Plugins) -> bool {
    let full = [Plugin::NodeResourcesFit, Plugin::NodePorts, Plugin::Coscheduling];
    full.into_iter().any(|plugin| plugins.has(plugin))
}

fn speaks_of(term: &PodTerm, pod: &Pod, snapshot: &Snapshot) -> bool {
    term.matches(&pod.labels, snapshot.namespace(&pod.labels.namespace))
}

/// Whether a node would take the pod as far as the node itself goes.
fn takes(pod: &Pod, info: &NodeInfo, snapshot: &Snapshot, profile: &Profile) -> bool {
    filter::prepare_local(pod, snapshot, profile).admits(info, &mut |_| {})
}

/// Whether a node that came or changed would take the pod, or others could make room for it there;
/// and would not have before.
fn may_take(
    pod: &Pod,
    info: &NodeInfo,
    old: Option<&Node>,
    snapshot: &Snapshot,
    profile: &Profile,
) -> bool {
    let mut prepared = filter::prepare_local(pod, snapshot, profile);
    if let Some(old) = old {
        let before = NodeInfo { node: std::sync::Arc::new(old.clone()), ..info.clone() };
        let labels_matter = old.labels != info.node.labels && !is_plain(pod);
        if prepared.admits(&before, &mut |_| {}) && !labels_matter {
            return false;
        }
    }
    let mut never = false;
    prepared.passes(info, &mut |reason| never |= reason.is_final());
    !never
}

/// Whether other pods and topologies mean nothing to the pod.
fn is_plain(pod: &Pod) -> bool {
    pod.ask.terms.is_empty() && pod.ask.spread.is_empty() && pod.claims.is_empty()
}

/// Whether a pod that went kept the other one away.
fn keeps_away(gone: &Pod, pod: &Pod, snapshot: &Snapshot) -> bool {
    let own = pod.ask.terms.anti_required.iter().any(|term| speaks_of(term, gone, snapshot));
    own || gone.ask.terms.anti_required.iter().any(|term| speaks_of(term, pod, snapshot))
        // The last of those that it wants to be near: it may now be the first of a new place.
        || pod.ask.terms.required.iter().any(|term| speaks_of(term, gone, snapshot))
}

/// Whether a pod counts for the spread of another.
fn is_counted(other: &Pod, pod: &Pod, profile: &Profile) -> bool {
    let hard = WhenUnsatisfiable::DoNotSchedule;
    let constraints = filter::spread::constraints(pod, profile, hard);
    other.namespace == pod.namespace
        && constraints.iter().any(|constraint| match &constraint.selector {
            Some(selector) => selector.matches(|key| other.labels.get(key)),
            None => true,
        })
}

/// Whether a node that came, went or changed makes other domains of a spread.
fn is_domain(pod: &Pod, old: Option<&Node>, new: Option<&Node>, profile: &Profile) -> bool {
    let constraints = filter::spread::constraints(pod, profile, WhenUnsatisfiable::DoNotSchedule);
    let admits = |node: Option<&Node>| node.is_some_and(|node| affinity::selects(pod, node));
    constraints.iter().any(|constraint| {
        let key = &constraint.topology_key;
        let (was, is) = (old.and_then(|n| n.label(key)), new.and_then(|n| n.label(key)));
        was != is || admits(old) != admits(new)
    })
}
