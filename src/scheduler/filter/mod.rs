//! The filters: one file a rule, each says why a node cannot take a pod, in Kubernetes' words.
//!
//! They run in Kubernetes' order; the first rule that refuses a node ends its run.

pub mod affinity;
mod name;
mod ports;
mod resources;
pub mod taints;
mod unschedulable;

use std::fmt;
use std::sync::Arc;

use super::pod::Pod;
use super::snapshot::NodeInfo;

/// Which rule refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Rule {
    Unschedulable = 1,
    Name = 2,
    Taints = 4,
    Affinity = 8,
    Ports = 16,
    Resources = 32,
}

/// Several rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rules(u8);

impl Rules {
    /// Every rule.
    pub const ALL: Self = Self(63);

    /// Adds a rule.
    #[must_use]
    pub fn with(self, rule: Rule) -> Self {
        Self(self.0 | rule as u8)
    }

    /// Whether a rule is in both.
    pub fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Why a node cannot take a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reason {
    Unschedulable,
    Name,
    Taint { key: Arc<str>, value: Arc<str> },
    Affinity,
    Ports,
    TooManyPods,
    Insufficient(Arc<str>),
}

impl Reason {
    /// The rule that gives it.
    pub fn rule(&self) -> Rule {
        match self {
            Self::Unschedulable => Rule::Unschedulable,
            Self::Name => Rule::Name,
            Self::Taint { .. } => Rule::Taints,
            Self::Affinity => Rule::Affinity,
            Self::Ports => Rule::Ports,
            Self::TooManyPods | Self::Insufficient(_) => Rule::Resources,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unschedulable => f.write_str("node(s) were unschedulable"),
            Self::Name => f.write_str("node(s) didn't match the requested node name"),
            Self::Taint { key, value } => {
                write!(f, "node(s) had untolerated taint {{{key}: {value}}}")
            }
            Self::Affinity => f.write_str("node(s) didn't match Pod's node affinity/selector"),
            Self::Ports => {
                f.write_str("node(s) didn't have free ports for the requested pod ports")
            }
            Self::TooManyPods => f.write_str("Too many pods"),
            Self::Insufficient(resource) => write!(f, "Insufficient {resource}"),
        }
    }
}

/// Tells `refuse` why the node cannot take the pod. Answers whether it can.
pub fn passes(pod: &Pod, info: &NodeInfo, mut refuse: impl FnMut(Reason)) -> bool {
    let node = &*info.node;
    let refused = unschedulable::check(pod, node)
        .or_else(|| name::check(pod, node))
        .or_else(|| taints::check(pod, node))
        .or_else(|| affinity::check(pod, node))
        .or_else(|| ports::check(pod, info));
    match refused {
        Some(reason) => {
            refuse(reason);
            false
        }
        None => resources::check(pod, info, refuse),
    }
}
