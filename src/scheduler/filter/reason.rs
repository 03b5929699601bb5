//! Why a node cannot take a pod.

use std::fmt;
use std::sync::Arc;

use crate::scheduler::config::Plugin;

/// Why a node cannot take a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reason {
    Unschedulable,
    Name,
    Taint {
        key: Arc<str>,
        value: Arc<str>,
    },
    Affinity,
    AddedAffinity,
    /// The pod names other nodes.
    NotPinned,
    Ports,
    TooManyPods,
    /// `never`: the node would not have it even if it were empty.
    Insufficient {
        resource: Arc<str>,
        never: bool,
    },
    Disk,
    Exclusive,
    VolumeCount,
    VolumeToBind,
    VolumeReach,
    VolumeGone,
    VolumeZone,
    Spread,
    SpreadLabel,
    PodAffinity,
    PodAntiAffinity,
    ExistingAntiAffinity,
}

impl Reason {
    /// The plugin that gives it.
    pub fn plugin(&self) -> Plugin {
        match self {
            Self::Unschedulable => Plugin::NodeUnschedulable,
            Self::Name => Plugin::NodeName,
            Self::Taint { .. } => Plugin::TaintToleration,
            Self::Affinity | Self::AddedAffinity | Self::NotPinned => Plugin::NodeAffinity,
            Self::Ports => Plugin::NodePorts,
            Self::TooManyPods | Self::Insufficient { .. } => Plugin::NodeResourcesFit,
            Self::Disk | Self::Exclusive => Plugin::VolumeRestrictions,
            Self::VolumeCount => Plugin::NodeVolumeLimits,
            Self::VolumeToBind | Self::VolumeReach | Self::VolumeGone => Plugin::VolumeBinding,
            Self::VolumeZone => Plugin::VolumeZone,
            Self::Spread | Self::SpreadLabel => Plugin::PodTopologySpread,
            Self::PodAffinity | Self::PodAntiAffinity | Self::ExistingAntiAffinity => {
                Plugin::InterPodAffinity
            }
        }
    }

    /// Whether it would hold with any number of pods gone from the node
    /// (`UnschedulableAndUnresolvable`).
    pub fn is_final(&self) -> bool {
        match self {
            Self::Insufficient { never, .. } => *never,
            Self::Ports
            | Self::TooManyPods
            | Self::Disk
            | Self::Exclusive
            | Self::VolumeCount
            | Self::Spread
            | Self::PodAntiAffinity
            | Self::ExistingAntiAffinity => false,
            _ => true,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Taint { key, value } => {
                return write!(f, "node(s) had untolerated taint {{{key}: {value}}}");
            }
            Self::Insufficient { resource, .. } => return write!(f, "Insufficient {resource}"),
            Self::Unschedulable => "node(s) were unschedulable",
            Self::Name => "node(s) didn't match the requested node name",
            Self::Affinity => "node(s) didn't match Pod's node affinity/selector",
            Self::AddedAffinity => "node(s) didn't match scheduler-enforced node affinity",
            Self::NotPinned => "node(s) didn't satisfy plugin(s) [NodeAffinity]",
            Self::Ports => "node(s) didn't have free ports for the requested pod ports",
            Self::TooManyPods => "Too many pods",
            Self::Disk => "node(s) had no available disk",
            Self::Exclusive => {
                "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod \
                 access mode"
            }
            Self::VolumeCount => "node(s) exceed max volume count",
            Self::VolumeToBind => "node(s) didn't find available persistent volumes to bind",
            Self::VolumeReach => "node(s) didn't match PersistentVolume's node affinity",
            Self::VolumeGone => {
                "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
            }
            Self::VolumeZone => "node(s) had no available volume zone",
            Self::Spread => "node(s) didn't match pod topology spread constraints",
            Self::SpreadLabel => {
                "node(s) didn't match pod topology spread constraints (missing required label)"
            }
            Self::PodAffinity => "node(s) didn't match pod affinity rules",
            Self::PodAntiAffinity => "node(s) didn't match pod anti-affinity rules",
            Self::ExistingAntiAffinity => {
                "node(s) didn't satisfy existing pods anti-affinity rules"
            }
        })
    }
}
