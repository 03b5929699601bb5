//! What every room may lean on: time, randomness, backoff and shutdown, all passed in as
//! arguments so that the whole control plane can run under a seed and a fake clock.
//!
//! **Invariant:** nothing here does I/O or knows Kubernetes.

pub mod backoff;
pub mod clock;
pub mod rng;
pub mod shutdown;
