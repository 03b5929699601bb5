//! Deletes Jobs some time after they finished (`spec.ttlSecondsAfterFinished`).

pub(crate) mod plan;
pub(crate) mod run;
