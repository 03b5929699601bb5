//! Gives every node the range that its pods' addresses come from.

pub(crate) mod plan;
pub(crate) mod run;
