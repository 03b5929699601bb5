//! What becomes of nodes that fall silent, and of their pods.
//!
//! ```text
//!   Lease or status changes ─▶ healthy
//!        │ silent for the grace period
//!        ▼
//!   conditions Unknown ─▶ pods Ready=False ─▶ taint unreachable:NoSchedule
//!        │ rate limited
//!        ▼
//!   taint unreachable:NoExecute ─▶ pods that tolerate it no longer are deleted
//! ```
//!
//! A node that says itself that it is not ready gets `not-ready` taints the same way. The second
//! loop ([`eviction`]) acts on any NoExecute taint, whoever set it.

pub(crate) mod eviction;
pub(crate) mod plan;
pub(crate) mod run;
