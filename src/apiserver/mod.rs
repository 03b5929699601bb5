//! The Kubernetes API over the store: one generic registry, a strategy a kind.
//!
//! **Invariant:** this is the only room that touches [`crate::store`].

pub mod admission;
pub mod aggregate;
pub mod allocate;
pub mod answers;
pub mod attrs;
pub mod audit;
pub mod auth;
pub mod beside;
pub mod bootstrap;
pub mod catalog;
pub mod definitions;
pub mod discovery;
pub mod encoding;
pub mod fairness;
pub mod filter;
pub mod forwarded;
pub mod listen;
mod metrics;
pub mod negotiate;
pub mod nodes;
pub mod openapi;
pub mod reach;
pub mod registry;
mod request;
mod respond;
mod routes;
pub mod server;
pub mod strategy;
pub mod table;
#[cfg(test)]
mod tests;
pub mod watch;

pub use registry::{Registry, RegistryConfig};
pub use server::{ApiServer, ApiServerConfig, Limits};
