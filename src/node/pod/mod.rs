//! One pod on this node.

pub mod actions;
mod effects;
pub mod env;
pub mod expand;
pub mod fields;
mod grpc;
pub mod images;
pub mod kernel;
mod launch;
mod limits;
mod publish;
mod recover;
pub mod spec;
pub mod state;
pub mod status;
mod step;
#[cfg(test)]
mod tests;
pub mod volumes;
pub mod worker;
