//! Runs pods until enough of them succeeded, and counts every one of them exactly once.
//!
//! A pod of a Job carries the finalizer [`FINALIZER`], so that it cannot vanish uncounted. What
//! ended is counted in three steps, each of which may be repeated after a crash:
//!
//! ```text
//!   pod ended ──▶ its uid in status.uncountedTerminatedPods ──▶ its finalizer removed
//!                                                                     │
//!                 status.succeeded|failed + 1, the uid gone ◀─────────┘
//! ```
//!
//! | module | decides |
//! |---|---|
//! | [`plan`] | which pods to create and delete, whether the Job is over |
//! | [`status`] | the counting, the conditions, what people are told |
//! | [`policy`] | podFailurePolicy and successPolicy |
//! | [`indexes`] | sets of completion indexes, as `1-3,7` |
//! | [`backoff`] | when a failed pod may be replaced |
//!
//! **Invariant:** a reconcile acts only on pods and a status that show all of its own writes.

pub(crate) mod backoff;
pub(crate) mod indexes;
pub(crate) mod plan;
#[cfg(test)]
mod plan_tests;
pub(crate) mod policy;
pub(crate) mod run;
pub(crate) mod status;

/// What keeps an ended pod until it is counted.
pub const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// The index of a pod of an Indexed Job; an annotation and a label.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// How often the index failed before this pod, counted.
pub const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// How often it failed in ways that the policy ignores.
pub const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
/// `spec.managedBy` of the Jobs that are this controller's.
pub const MANAGED_BY: &str = "kubernetes.io/job-controller";
