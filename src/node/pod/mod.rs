//! One pod on this node.

pub mod spec;
pub mod state;
pub mod status;
mod step;
#[cfg(test)]
mod tests;
