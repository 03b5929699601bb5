//! The scheduler: finds a node for every pod that has none, and binds it.
//!
//! ```text
//! informers ─▶ state ┬ snapshot (nodes, and who is on them; storage, budgets)
//!                    └ queue ─▶ classes, or plan: filter ─▶ score ─▶ bind (assumed meanwhile)
//!                        ▲           └ no node: preempt, event, condition ─┐
//!                        └─────── waits for what may help (hint) ◀─────────┘
//! ```
//!
//! | module | is |
//! |---|---|
//! | [`config`] | profiles and their plugins, from a `KubeSchedulerConfiguration` |
//! | [`seen`], [`pod`], [`node`], [`volumes`], [`terms`] | objects, as far as decisions look at them |
//! | [`snapshot`] | the cluster |
//! | [`filter`], [`score`] | the rules, one a file |
//! | [`plan`] | the decision for any pod |
//! | [`classes`] | the same for the pods of one workload, in the logarithm of the nodes |
//! | [`preempt`], [`gang`] | making room for what matters more; pods that come together or not at all |
//! | [`queue`], [`hint`] | who waits, and for what |
//! | [`deschedule`] | what should be elsewhere by now, for who asks for it |
//! | [`explain`] | what every rule says of every node, for `coracle why` |
//! | [`state`] | all of it together; still no I/O |
//! | [`informers`], [`effects`], [`run`](mod@run) | the world |
//!
//! The decision is a pure function ([`plan::decide`]); the mind around it ([`state`]) takes what
//! was observed and the time, and answers steps; only [`run`](mod@run) talks.
//!
//! **Invariant:** the state counts a pod on at most one node, and before the binding of it is
//! sent, so that two pods are never promised the same room.

pub mod classes;
pub mod config;
pub mod deschedule;
mod effects;
pub mod explain;
pub mod filter;
mod gang;
pub mod hint;
pub mod informers;
mod kin;
pub mod node;
pub mod plan;
pub mod pod;
pub mod preempt;
mod queue;
pub mod resources;
mod run;
mod score;
pub mod seen;
pub mod snapshot;
pub mod state;
pub mod terms;
pub mod volumes;

#[cfg(test)]
mod tests;

use std::time::Duration;

pub use config::{Configuration, Packing};
pub use run::run;

/// How the scheduler runs.
#[derive(Debug, Clone)]
pub struct SchedulerConfig {
    /// Who this process is among those that may schedule.
    pub identity: String,
    pub configuration: Configuration,
    /// Whether pods are moved that should be elsewhere by now.
    pub descheduling: Option<Descheduling>,
}

/// How pods are moved.
#[derive(Debug, Clone, Copy)]
pub struct Descheduling {
    pub goal: deschedule::Goal,
    pub limits: deschedule::Limits,
    pub every: Duration,
}

impl SchedulerConfig {
    /// The default scheduler, spreading load.
    pub fn new(identity: impl Into<String>) -> Self {
        Self {
            identity: identity.into(),
            configuration: Configuration::default(),
            descheduling: None,
        }
    }
}
