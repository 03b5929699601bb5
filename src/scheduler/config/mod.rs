//! What can be chosen about scheduling: which plugins a profile has, and their arguments.
//!
//! The names are those of Kubernetes' plugins, since they stand in the users' files. [`file`] reads
//! a `KubeSchedulerConfiguration`.

pub mod file;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use super::terms::{Constraint, Inclusion, NodeTerm, WhenUnsatisfiable};

/// A plugin, by Kubernetes' name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Plugin {
    PrioritySort,
    SchedulingGates,
    NodeUnschedulable,
    NodeName,
    TaintToleration,
    NodeAffinity,
    NodePorts,
    NodeResourcesFit,
    VolumeRestrictions,
    NodeVolumeLimits,
    VolumeBinding,
    VolumeZone,
    PodTopologySpread,
    InterPodAffinity,
    DefaultPreemption,
    NodeResourcesBalancedAllocation,
    ImageLocality,
    Coscheduling,
    DefaultBinder,
}

impl Plugin {
    /// All of them, in the order in which they run.
    pub const ALL: [Self; 19] = [
        Self::PrioritySort,
        Self::SchedulingGates,
        Self::NodeUnschedulable,
        Self::NodeName,
        Self::TaintToleration,
        Self::NodeAffinity,
        Self::NodePorts,
        Self::NodeResourcesFit,
        Self::VolumeRestrictions,
        Self::NodeVolumeLimits,
        Self::VolumeBinding,
        Self::VolumeZone,
        Self::PodTopologySpread,
        Self::InterPodAffinity,
        Self::DefaultPreemption,
        Self::NodeResourcesBalancedAllocation,
        Self::ImageLocality,
        Self::Coscheduling,
        Self::DefaultBinder,
    ];

    /// By its name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|plugin| plugin.to_string() == name)
    }

    /// Whether it refuses nodes.
    pub fn filters(self) -> bool {
        (Self::NodeUnschedulable..=Self::InterPodAffinity).contains(&self)
    }

    /// How much it weighs by default among the scores; `None`: it gives none.
    pub fn weight(self) -> Option<i64> {
        Some(match self {
            Self::TaintToleration => 3,
            Self::NodeAffinity | Self::PodTopologySpread | Self::InterPodAffinity => 2,
            Self::NodeResourcesFit | Self::NodeResourcesBalancedAllocation => 1,
            Self::ImageLocality => 1,
            _ => return None,
        })
    }
}

impl fmt::Display for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Several plugins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Plugins(u32);

impl Plugins {
    /// Every plugin.
    pub const ALL: Self = Self(u32::MAX);

    /// Adds a plugin.
    #[must_use]
    pub fn with(self, plugin: Plugin) -> Self {
        Self(self.0 | 1 << plugin as u8)
    }

    /// Whether a plugin is among them.
    pub fn has(self, plugin: Plugin) -> bool {
        self.0 & 1 << plugin as u8 != 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = Plugin> {
        Plugin::ALL.into_iter().filter(move |plugin| self.has(*plugin))
    }
}

/// Which nodes are preferred by how full they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Packing {
    /// The emptiest, so that load spreads.
    #[default]
    LeastAllocated,
    /// The fullest, so that nodes stay free to be taken away.
    MostAllocated,
}

/// How fullness becomes a score.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Strategy {
    Packing(Packing),
    /// Points of utilization in percent and score (0 to 100), with straight lines between.
    RequestedToCapacityRatio(Vec<(i64, i64)>),
}

/// `NodeResourcesFitArgs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fit {
    pub strategy: Strategy,
    /// Resources and their weights.
    pub resources: Vec<(String, i64)>,
    pub ignored: Vec<String>,
    pub ignored_groups: Vec<String>,
}

impl Default for Fit {
    fn default() -> Self {
        Self {
            strategy: Strategy::Packing(Packing::LeastAllocated),
            resources: vec![("cpu".to_owned(), 1), ("memory".to_owned(), 1)],
            ignored: Vec::new(),
            ignored_groups: Vec::new(),
        }
    }
}

impl Fit {
    /// Whether a resource is for another scheduler to look after.
    pub fn ignores(&self, resource: &str) -> bool {
        self.ignored.iter().any(|name| name == resource)
            || resource
                .split_once('/')
                .is_some_and(|(group, _)| self.ignored_groups.iter().any(|name| name == group))
    }
}

/// The spread of pods that ask for none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SpreadDefaults {
    /// Over nodes and zones, among the pods of one workload, as far as it costs nothing else.
    #[default]
    System,
    List(Vec<Constraint>),
}

/// `NodeAffinityArgs.addedAffinity`: what all pods of a profile ask of nodes besides.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AddedAffinity {
    pub required: Option<Vec<NodeTerm>>,
    pub preferred: Vec<(i64, NodeTerm)>,
}

/// One way to schedule, for the pods that name it.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// The `schedulerName`.
    pub name: String,
    pub filters: Vec<Plugin>,
    /// With their weights.
    pub scores: Vec<(Plugin, i64)>,
    /// Whether room is made for pods that matter more.
    pub preempts: bool,
    /// Whether pod groups are kept together.
    pub gangs: bool,
    pub fit: Fit,
    /// The resources that are to be taken evenly.
    pub balanced: Vec<String>,
    pub spread: SpreadDefaults,
    pub added: AddedAffinity,
    pub hard_pod_affinity_weight: i64,
    pub ignore_preferred_terms_of_existing_pods: bool,
    pub bind_timeout: Duration,
    pub preemption_candidates_percent: usize,
    pub preemption_candidates_min: usize,
    /// How many of the nodes are looked at, in percent; `None`: it depends on how many there are.
    pub percentage_of_nodes_to_score: Option<usize>,
}

impl Default for Profile {
    fn default() -> Self {
        let all = Plugin::ALL.into_iter();
        Self {
            name: "default-scheduler".to_owned(),
            filters: all.clone().filter(|plugin| plugin.filters()).collect(),
            scores: all.filter_map(|plugin| Some((plugin, plugin.weight()?))).collect(),
            preempts: true,
            gangs: true,
            fit: Fit::default(),
            balanced: vec!["cpu".to_owned(), "memory".to_owned()],
            spread: SpreadDefaults::System,
            added: AddedAffinity::default(),
            hard_pod_affinity_weight: 1,
            ignore_preferred_terms_of_existing_pods: false,
            bind_timeout: Duration::from_secs(600),
            preemption_candidates_percent: 10,
            preemption_candidates_min: 100,
            percentage_of_nodes_to_score: None,
        }
    }
}

impl Profile {
    /// The default profile, with a choice between spreading and packing.
    pub fn packing(packing: Packing) -> Self {
        let mut profile = Self::default();
        profile.fit.strategy = Strategy::Packing(packing);
        profile
    }

    /// How much a plugin weighs among the scores.
    pub fn weight(&self, plugin: Plugin) -> i64 {
        self.scores.iter().find(|(p, _)| *p == plugin).map_or(0, |(_, weight)| *weight)
    }

    /// The constraints for pods that ask for no spread.
    pub fn default_spread(&self) -> Vec<Constraint> {
        let constraint = |key: &str, max_skew| Constraint {
            max_skew,
            topology_key: key.to_owned(),
            when: WhenUnsatisfiable::ScheduleAnyway,
            selector: None,
            min_domains: 1,
            node_affinity: Inclusion::Honor,
            node_taints: Inclusion::Ignore,
        };
        match &self.spread {
            SpreadDefaults::System => vec![constraint(HOSTNAME, 3), constraint(ZONE, 5)],
            SpreadDefaults::List(constraints) => constraints.clone(),
        }
    }
}

/// The label with a node's own name.
pub const HOSTNAME: &str = "kubernetes.io/hostname";
/// The label with a node's zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";

/// Everything that a `KubeSchedulerConfiguration` says.
#[derive(Debug, Clone, PartialEq)]
pub struct Configuration {
    pub profiles: Vec<Profile>,
    pub backoff_first: Duration,
    pub backoff_max: Duration,
}

impl Default for Configuration {
    fn default() -> Self {
        Self {
            profiles: vec![Profile::default()],
            backoff_first: Duration::from_secs(1),
            backoff_max: Duration::from_secs(10),
        }
    }
}

impl Configuration {
    /// One profile that spreads or packs.
    pub fn packing(packing: Packing) -> Self {
        Self { profiles: vec![Profile::packing(packing)], ..Self::default() }
    }

    /// The profile of a `schedulerName`.
    pub fn profile(&self, scheduler: &str) -> Option<&Profile> {
        self.profiles.iter().find(|profile| profile.name == scheduler)
    }
}
