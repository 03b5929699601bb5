//! What a workload is, and what it tells.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

/// One of the standard streams of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdio {
    Stdout,
    Stderr,
}

/// Where a workload's output goes. Called from the workload's own task: it must not block for
/// long, and it must bound what it keeps.
pub trait LogSink: Send + Sync + 'static {
    /// Takes the bytes as written, not yet split into lines.
    fn write(&self, stream: Stdio, bytes: &[u8]);
}

/// A directory or a file of the host that the guest sees at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Directory or regular file on the host.
    pub host: PathBuf,
    /// Absolute path in the guest; mounts may nest.
    pub guest: String,
    pub read_only: bool,
}

/// What of its standard streams a workload shares with those who attach to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StdioSpec {
    /// They may type; else its input says nothing until it is asked to end.
    pub stdin: bool,
    /// Its input ends with that of the first of them.
    pub stdin_once: bool,
    /// Its streams are a terminal.
    pub tty: bool,
}

/// What a workload may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// All linear memories and tables of the workload together.
    pub memory_bytes_max: Option<u64>,
    /// Thousandths of a core.
    pub cpu_millis_max: Option<u64>,
}

/// One container, as the runtime needs to know it.
#[derive(Clone)]
pub struct WorkloadSpec {
    /// For logs and thread names, as `default/web-5d9/app`.
    pub label: String,
    /// The wasm file.
    pub artifact: PathBuf,
    /// Its digest, `sha256:…`.
    pub digest: String,
    /// argv, the program's name first.
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub working_dir: Option<String>,
    pub mounts: Vec<Mount>,
    pub limits: Limits,
    /// Where a `wasi:http` handler listens.
    pub http_ports: Vec<u16>,
    /// The network namespace of the pod.
    pub network: Arc<crate::net::Namespace>,
    pub logs: Arc<dyn LogSink>,
    pub stdio: StdioSpec,
}

/// Why a workload ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitReason {
    /// Exit code 0.
    Completed,
    /// Any other exit code, or a trap (134).
    Error,
    /// Growth past the memory limit (137).
    OomKilled,
}

/// How a workload ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    pub code: i32,
    pub reason: ExitReason,
    /// The wasm backtrace of a trap, or what else there is to say.
    pub message: String,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
}

/// What a running workload tells besides its output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkloadEvent {
    /// An http handler trapped while it served a request; its container goes on.
    RequestTrapped { message: String },
}

/// What a workload has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Time inside `poll`.
    pub cpu: Duration,
    /// Linear memories and tables now.
    pub memory_bytes: u64,
    /// Requests answered by an http handler.
    pub requests: u64,
}
