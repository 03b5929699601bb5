//! Writes the rules of aggregated ClusterRoles: those of all roles that their `aggregationRule`
//! selects.

pub(crate) mod plan;
pub(crate) mod run;
