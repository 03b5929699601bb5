//! Rolls a Deployment's template out over ReplicaSets, one a template.
//!
//! ```text
//!   template changed ─▶ new ReplicaSet at 0 ─▶ up by maxSurge ─┐
//!                                                 ▲            ▼ pods available
//!                        old ones down, never below │   status: Progressing
//!                        replicas − maxUnavailable ─┘            │
//!                                                                ▼
//!                                   old ones at 0: NewReplicaSetAvailable
//! ```
//!
//! | module | decides |
//! |---|---|
//! | [`plan`] | the actions of one reconcile |
//! | [`size`] | how large each ReplicaSet may be |
//! | [`history`] | revisions, annotations, what is cleaned up |
//! | [`status`] | status and conditions |
//! | [`hash`] | the names of ReplicaSets |

pub(crate) mod hash;
pub(crate) mod history;
pub(crate) mod plan;
pub(crate) mod run;
pub(crate) mod size;
pub(crate) mod status;
