//! One pod on every node that fits.
//!
//! | module | decides |
//! |---|---|
//! | [`nodes`] | which nodes a pod belongs on |
//! | [`plan`] | which pods to create and delete, updates, the status |
//! | [`template`] | the pod of a node |
//!
//! The pods are bound by the scheduler, as any other: a required node affinity names their node.

pub(crate) mod nodes;
pub(crate) mod plan;
#[cfg(test)]
mod plan_tests;
pub(crate) mod run;
pub(crate) mod template;
