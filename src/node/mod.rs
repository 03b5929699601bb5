//! The worker: it is a kubelet.
//!
//! It speaks only the standard Kubernetes API, so it can be a node of any cluster. What it was
//! told to run it keeps in a store of its own, so it goes on while the API server cannot be
//! reached, and brings its pods back after it was killed itself.
//!
//! ```text
//!  API server ──watch──▶ pods ──▶ one worker a pod UID ──▶ runtime, image, net, volumes
//!      ▲                              │   state machine: pod/state.rs
//!      └───── status patch ◀──────────┘
//! ```

pub mod access;
pub mod addresses;
mod admit;
pub mod agent;
pub mod api;
pub mod config;
pub mod image_gc;
pub mod io;
pub mod join;
pub mod lease;
pub mod logs;
pub mod machine;
pub mod peers;
pub mod pod;
pub mod register;
pub mod resources;
mod run;
pub mod sources;
pub mod store;
pub mod tables;
pub mod tokens;

pub use config::{AgentArgs, AgentConfig, ApiAccess, ConfigError, LeaseSettings, LogSettings};
pub use run::{AgentError, run};
#[cfg(test)]
mod tests;
