//! Workloads: wasm in wasmtime (and, later, containers through `runc`).
//!
//! A workload is one container of a pod: an artifact with argv, environment, mounts, limits and
//! the network namespace that it shares with its pod. The runtime does not know pods.

pub mod compile;
mod config;
mod error;
pub mod oci;
pub mod spec;
mod wasm;
mod workload;

pub use config::{CompileLimits, Compiler, RuntimeConfig, Toolbox};
pub use error::{PrepareError, RuntimeError, StartError};
pub use spec::{
    Exit, ExitReason, Limits, LogSink, Mount, Stats, Stdio, StdioSpec, WorkloadEvent, WorkloadSpec,
};
pub use wasm::{ArtifactKind, Runtime};
pub use workload::{ExecError, ExecResult, Streams, Workload};
