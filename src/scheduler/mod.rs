//! The scheduler: finds a node for every pod that has none, and binds it.
//!
//! ```text
//! informers ─▶ state ┬ snapshot (nodes, and who is on them)
//!                    └ queue ─▶ plan: filter ─▶ score ─▶ bind (assumed meanwhile)
//!                        ▲           └ no node: event, condition ─┐
//!                        └─────── waits for what may help ◀───────┘
//! ```
//!
//! The decision is a pure function ([`plan::decide`]); the mind around it ([`state`]) takes what
//! was observed and the time, and answers steps; only [`run`] talks. One rule a file in `filter`
//! and `score`.
//!
//! **Invariant:** the state counts a pod on at most one node, and before the binding of it is
//! sent, so that two pods are never promised the same room.

pub mod filter;
pub mod plan;
pub mod pod;
mod queue;
pub mod resources;
mod run;
mod score;
pub mod snapshot;
pub mod state;
#[cfg(test)]
mod tests;

pub use run::run;

/// Which nodes are preferred by how full they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Packing {
    /// The emptiest, so that load spreads.
    #[default]
    LeastAllocated,
    /// The fullest, so that nodes stay free to be taken away.
    MostAllocated,
}

/// How nodes are scored.
#[derive(Debug, Clone, Copy, Default)]
pub struct Policy {
    pub packing: Packing,
}

/// How the scheduler runs.
#[derive(Debug, Clone)]
pub struct SchedulerConfig {
    /// The `schedulerName` of the pods that it schedules.
    pub name: String,
    /// Who this process is among those that may schedule.
    pub identity: String,
    pub policy: Policy,
}

impl SchedulerConfig {
    /// The default scheduler, spreading load.
    pub fn new(identity: impl Into<String>) -> Self {
        Self {
            name: "default-scheduler".to_owned(),
            identity: identity.into(),
            policy: Policy::default(),
        }
    }
}
