//! Counts what ResourceQuotas limit. Admission charges what is created at once; this sets right
//! what it charged for nothing, and what went.

pub(crate) mod plan;
pub(crate) mod run;
