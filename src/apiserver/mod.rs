//! The Kubernetes API over the store: one generic registry, a strategy a kind.
//!
//! **Invariant:** this is the only room that touches [`crate::store`].

pub mod admission;
pub mod answers;
pub mod auth;
pub mod nodes;
pub mod strategy;
