//! Counts for PodDisruptionBudgets how many pods may be evicted; the eviction API takes from it.

pub(crate) mod plan;
pub(crate) mod run;
