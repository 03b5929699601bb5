//! Keeps as many pods as a ReplicaSet asks for.

pub(crate) mod plan;
pub(crate) mod run;
