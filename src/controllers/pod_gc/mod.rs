//! Removes pods that nobody will ever remove otherwise.

pub(crate) mod plan;
pub(crate) mod run;
