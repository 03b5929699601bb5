//! Nodes in order, for pods that ask the same.
//!
//! A class is what pods ask together with whom they spread among. For each class that is in use,
//! the nodes that can take such a pod stand in groups: within a group every number that is set
//! against other nodes' ([`Group`]) is the same, so that there only the rest of the score counts,
//! and by that they are sorted. A decision looks at the first of every group. Groups are few (zones,
//! times how many replicas nodes have, which are about as many everywhere), whatever the number of
//! nodes; a pod that is placed moves one node in each class. So a decision takes the logarithm of
//! the number of nodes, and is the best there is, not the best of a sample.
//!
//! That holds for pods whose rules look at nodes one by one. [`fits`] tells which; all others go
//! through [`super::plan::decide`].
//!
//! **Invariant:** after [`Class::follow`] a node is in exactly the group of its numbers, with its
//! score, if it can take such a pod, and in none if not.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::config::{HOSTNAME, Plugin, Profile, SpreadDefaults, ZONE};
use super::filter::{self, Prepared};
use super::kin::Kin;
use super::node::NodeInfo;
use super::plan::{NodeName, Unschedulable};
use super::pod::{Ask, Pod};
use super::score::{self, spread};
use super::snapshot::Snapshot;

/// How many classes are kept.
const KEPT: usize = 32;

/// Whether a class can tell the node of a pod.
pub fn fits(pod: &Pod, snapshot: &Snapshot, profile: &Profile) -> bool {
    let ask = &pod.ask;
    ask.terms.is_empty()
        && ask.spread.is_empty()
        && ask.claims.is_empty()
        && ask.disks.is_empty()
        && pod.node.is_none()
        && pod.nominated.is_none()
        && pod.member.is_none()
        && ask.pinned().is_none()
        && profile.spread == SpreadDefaults::System
        && profile.percentage_of_nodes_to_score.is_none()
        && !is_spoken_of(pod, snapshot)
}

/// Whether pods that are there ask for this one to be near or far.
fn is_spoken_of(pod: &Pod, snapshot: &Snapshot) -> bool {
    let namespace = snapshot.namespace(&pod.labels.namespace);
    snapshot.asking().any(|(ask, _)| {
        let terms = &ask.terms;
        let weighed = terms.preferred.iter().chain(&terms.anti_preferred).map(|(_, term)| term);
        let mut all = terms.required.iter().chain(&terms.anti_required).chain(weighed);
        all.any(|term| term.matches(&pod.labels, namespace))
    })
}

/// Numbers of a node that are set against those of other nodes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Group {
    /// Soft taints that are not tolerated.
    taints: i64,
    /// The weight of the preferences that hold.
    preference: i64,
    zone: Option<Arc<str>>,
    has_name: bool,
    /// Pods of the same kind on the node.
    kin: i64,
}

#[derive(Debug, Clone)]
struct Entry {
    group: Group,
    score: i64,
    turn: u64,
}

/// Nodes by descending score; among equals the one whose turn is longest ago.
type Sorted = BTreeSet<(std::cmp::Reverse<i64>, u64, usize)>;

#[derive(Debug)]
struct Class {
    ask: Arc<Ask>,
    kin: Kin,
    /// By the place of the node in the snapshot.
    entries: Vec<Option<Entry>>,
    groups: HashMap<Group, Sorted>,
    /// Pods of the same kind, by zone, over all nodes that the pod's selector admits.
    zones: HashMap<Arc<str>, i64>,
    /// What each node adds to that.
    in_zone: Vec<Option<(Arc<str>, i64)>>,
    /// Up to where it has followed the snapshot's log.
    mark: u64,
    images: u64,
    turn: u64,
    used: u64,
    /// Why no node took the last one, if nothing changed since.
    refused: Option<Arc<Unschedulable>>,
}

/// What a class tells.
#[derive(Debug)]
pub enum Answer {
    Node(NodeName),
    /// No node; why, where that was found out since the last change.
    Nowhere(Option<Arc<Unschedulable>>),
}

/// The classes in use.
#[derive(Debug, Default)]
pub struct Classes {
    classes: Vec<Class>,
    uses: u64,
}

impl Classes {
    /// The node for a pod that [`fits`].
    pub fn decide(&mut self, pod: &Pod, snapshot: &Snapshot, profile: &Profile) -> Answer {
        self.uses += 1;
        let kin = if profile.weight(Plugin::PodTopologySpread) > 0 {
            Kin::of(pod, snapshot)
        } else {
            Kin::None
        };
        let same = |class: &Class| Arc::ptr_eq(&class.ask, &pod.ask) && class.kin == kin;
        let at = self.classes.iter().position(same).unwrap_or_else(|| {
            if self.classes.len() >= KEPT {
                let oldest = self.classes.iter().enumerate().min_by_key(|(_, class)| class.used);
                let oldest = oldest.map(|(at, _)| at).expect("there are some");
                self.classes.swap_remove(oldest);
            }
            self.classes.push(Class::new(pod.ask.clone(), kin));
            self.classes.len() - 1
        });
        let class = &mut self.classes[at];
        class.used = self.uses;
        class.follow(pod, snapshot, profile);
        match class.best(profile) {
            Some(best) => Answer::Node(snapshot.nodes()[best].node.name.clone()),
            None => Answer::Nowhere(class.refused.clone()),
        }
    }

    /// Why there is no node for the class of a pod, so that its like need not ask every node.
    pub fn remember(&mut self, pod: &Pod, why: &Arc<Unschedulable>) {
        let mut like = self.classes.iter_mut().filter(|c| Arc::ptr_eq(&c.ask, &pod.ask));
        if let Some(class) = like.find(|class| class.groups.is_empty() && class.used == self.uses) {
            class.refused = Some(why.clone());
        }
    }
}

impl Class {
    fn new(ask: Arc<Ask>, kin: Kin) -> Self {
        Self {
            ask,
            kin,
            entries: Vec::new(),
            groups: HashMap::new(),
            zones: HashMap::new(),
            in_zone: Vec::new(),
            // Before the beginning, so that the first look is at all nodes.
            mark: u64::MAX,
            images: 0,
            turn: 0,
            used: 0,
            refused: None,
        }
    }

    /// Looks again at the nodes that changed.
    fn follow(&mut self, pod: &Pod, snapshot: &Snapshot, profile: &Profile) {
        let mut prepared = filter::prepare_local(pod, snapshot, profile);
        let log = snapshot.log();
        let known = self.mark <= log.end();
        let changed = if known { log.since(self.mark) } else { None };
        // A new image changes what it is worth everywhere.
        let same_images = self.images == snapshot.images_changed() || pod.images.is_empty();
        match changed.filter(|_| same_images) {
            Some(changed) => {
                let mut changed = changed.to_vec();
                changed.sort_unstable();
                changed.dedup();
                for at in changed {
                    self.look(at as usize, pod, snapshot, profile, &mut prepared);
                }
            }
            None => {
                let nodes = snapshot.nodes().len().max(self.entries.len());
                for at in 0..nodes {
                    self.look(at, pod, snapshot, profile, &mut prepared);
                }
            }
        }
        self.mark = log.end();
        self.images = snapshot.images_changed();
    }

    fn look(
        &mut self,
        at: usize,
        pod: &Pod,
        snapshot: &Snapshot,
        profile: &Profile,
        prepared: &mut Prepared<'_>,
    ) {
        if self.entries.len() <= at {
            self.entries.resize(at + 1, None);
            self.in_zone.resize(at + 1, None);
        }
        self.refused = None;
        self.leave(at);
        let Some(info) = snapshot.nodes().get(at) else { return };
        let kin = self.kin_on(info);
        if let Some(zone) = info.node.label(ZONE)
            && self.kin != Kin::None
            && filter::affinity::selects(pod, &info.node)
        {
            let zone: Arc<str> = match self.zones.get_key_value(zone) {
                Some((zone, _)) => zone.clone(),
                None => zone.into(),
            };
            *self.zones.entry(zone.clone()).or_default() += kin;
            self.in_zone[at] = Some((zone, kin));
        }
        if !prepared.admits(info, &mut |_| {}) {
            return;
        }
        let group = self.group(info, kin, pod, profile);
        let score = own_score(pod, info, snapshot, profile);
        self.turn += 1;
        let place = (std::cmp::Reverse(score), self.turn, at);
        self.groups.entry(group.clone()).or_default().insert(place);
        self.entries[at] = Some(Entry { group, score, turn: self.turn });
    }

    fn leave(&mut self, at: usize) {
        if let Some((zone, kin)) = self.in_zone[at].take()
            && let Some(count) = self.zones.get_mut(&zone)
        {
            *count -= kin;
        }
        let Some(entry) = self.entries[at].take() else { return };
        if let Some(nodes) = self.groups.get_mut(&entry.group) {
            nodes.remove(&(std::cmp::Reverse(entry.score), entry.turn, at));
            if nodes.is_empty() {
                self.groups.remove(&entry.group);
            }
        }
    }

    fn kin_on(&self, info: &NodeInfo) -> i64 {
        match &self.kin {
            Kin::None => 0,
            Kin::Owner(uid) => info.owners.get(uid).copied().map_or(0, i64::from),
            kin @ Kin::Services(_) => {
                let counted = |other: &&Arc<Pod>| !other.deleting && kin.has(&other.labels, None);
                info.pods.iter().filter(counted).count() as i64
            }
        }
    }

    fn group(&self, info: &NodeInfo, kin: i64, pod: &Pod, profile: &Profile) -> Group {
        let spreads = self.kin != Kin::None;
        let label = |key: &str| info.node.label(key).filter(|_| spreads);
        let zone = label(ZONE).map(|zone| match self.zones.get_key_value(zone) {
            Some((zone, _)) => zone.clone(),
            None => zone.into(),
        });
        Group {
            taints: score::taints::intolerable(pod, info),
            preference: score::affinity::weight(pod, profile, info),
            zone,
            has_name: label(HOSTNAME).is_some(),
            kin,
        }
    }

    /// The place of the best node.
    fn best(&self, profile: &Profile) -> Option<usize> {
        let groups: Vec<(&Group, &Sorted)> = self.groups.iter().collect();
        let mut sums = vec![0; groups.len()];
        let mut add = |plugin: Plugin, numbers: &mut [i64], finish: fn(&mut [i64])| {
            finish(numbers);
            let weight = profile.weight(plugin);
            for (sum, number) in sums.iter_mut().zip(numbers) {
                *sum += weight * *number;
            }
        };
        let of = |number: fn(&Group) -> i64| -> Vec<i64> {
            groups.iter().map(|(group, _)| number(group)).collect()
        };
        let fewest: fn(&mut [i64]) = |numbers| score::scale(numbers, false);
        add(Plugin::TaintToleration, &mut of(|group| group.taints), fewest);
        let most: fn(&mut [i64]) = |numbers| score::scale(numbers, true);
        add(Plugin::NodeAffinity, &mut of(|group| group.preference), most);
        if self.kin != Kin::None {
            let mut costs = self.costs(&groups);
            add(Plugin::PodTopologySpread, &mut costs, |costs| {
                let least = costs.iter().copied().min().unwrap_or(0);
                let most = costs.iter().copied().max().unwrap_or(0);
                costs.iter_mut().for_each(|c| *c = spread::normalized(*c, least, most));
            });
        }
        let firsts = groups.iter().zip(sums).filter_map(|((_, sorted), sum)| {
            let (score, turn, at) = sorted.first()?;
            Some((sum + score.0, std::cmp::Reverse(*turn), *at))
        });
        firsts.max().map(|(_, _, at)| at)
    }

    /// What the system's default spread makes of every group.
    fn costs(&self, groups: &[(&Group, &Sorted)]) -> Vec<i64> {
        let nodes: usize = groups.iter().map(|(_, nodes)| nodes.len()).sum();
        let zones: std::collections::HashSet<&str> =
            groups.iter().filter_map(|(group, _)| group.zone.as_deref()).collect();
        let (node_weight, zone_weight) = (spread::weight(nodes), spread::weight(zones.len()));
        let cost = |group: &Group| {
            let mut cost = 0.0;
            if group.has_name {
                cost += spread::cost(group.kin, node_weight, 3);
            }
            if let Some(zone) = &group.zone {
                let count = self.zones.get(zone).copied().unwrap_or(0);
                cost += spread::cost(count, zone_weight, 5);
            }
            cost.round() as i64
        };
        groups.iter().map(|(group, _)| cost(group)).collect()
    }
}

/// The part of a node's score that depends on no other node.
fn own_score(pod: &Pod, info: &NodeInfo, snapshot: &Snapshot, profile: &Profile) -> i64 {
    let mut sum = 0;
    for (plugin, weight) in &profile.scores {
        sum += weight
            * match plugin {
                Plugin::NodeResourcesFit => score::resources::fit(pod, info, &profile.fit),
                Plugin::NodeResourcesBalancedAllocation => {
                    score::resources::balance(pod, info, &profile.balanced)
                }
                Plugin::ImageLocality => score::images::number(pod, info, snapshot),
                _ => 0,
            };
    }
    sum
}
