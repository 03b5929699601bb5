//! One pod on this node.

pub mod env;
pub mod expand;
pub mod fields;
pub mod spec;
pub mod state;
pub mod status;
mod step;
#[cfg(test)]
mod tests;
pub mod volumes;
