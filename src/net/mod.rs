//! The virtual network of the pods.

/// The network namespace of one pod.
#[derive(Debug)]
pub struct Namespace;
