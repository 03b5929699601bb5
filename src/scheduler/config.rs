//! What can be chosen.

/// How the load of nodes ranks them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scoring {
    /// The emptiest node first (Kubernetes' `LeastAllocated`).
    #[default]
    Spread,
    /// The fullest node that has room first (Kubernetes' `MostAllocated`): bin packing.
    Pack,
}

/// The settings of one scheduler.
#[derive(Debug, Clone)]
pub struct SchedulerConfig {
    /// Pods whose `spec.schedulerName` is this are this scheduler's.
    pub name: String,
    pub scoring: Scoring,
    /// Who this process is among those that could schedule; unique.
    pub identity: String,
    /// Most bindings in flight.
    pub bindings_max: usize,
    /// Seeds ties and jitter.
    pub seed: u64,
}

impl SchedulerConfig {
    /// The default scheduler, spreading.
    pub fn new(identity: impl Into<String>) -> Self {
        Self {
            name: "default-scheduler".to_owned(),
            scoring: Scoring::default(),
            identity: identity.into(),
            bindings_max: 64,
            seed: 1,
        }
    }
}
