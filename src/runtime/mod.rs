//! Workloads: wasm in wasmtime (and, later, containers through `runc`).
//!
//! A workload is one container of a pod: an artifact with argv, environment, mounts, limits and
//! the network namespace that it shares with its pod. The runtime does not know pods.

pub mod spec;

pub use spec::{
    Exit, ExitReason, Limits, LogSink, Mount, Stats, Stdio, WorkloadEvent, WorkloadSpec,
};
