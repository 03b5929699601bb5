//! Pods with stable names and volumes: `web-0`, `web-1`, …, each with claims of its own.
//!
//! ```text
//!   up:      0 ─▶ Ready ─▶ 1 ─▶ Ready ─▶ 2          (Parallel: all at once)
//!   down:    2 ─▶ gone  ─▶ 1 ─▶ gone                (Parallel: all at once)
//!   update:  2 ─▶ Ready ─▶ 1 ─▶ Ready ─▶ 0 … partition
//! ```
//!
//! | module | decides |
//! |---|---|
//! | [`plan`] | which pods to create and delete, the status |
//! | [`claims`] | the volume claims of a pod and who owns them |
//! | [`template`] | the pod of an ordinal |
//!
//! **Invariant:** an ordinal has at most one pod: its name is the lock.

pub(crate) mod claims;
pub(crate) mod plan;
#[cfg(test)]
mod plan_tests;
pub(crate) mod run;
pub(crate) mod template;
