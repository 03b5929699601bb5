//! What can be wrong with the runtime, an artifact, or the start of a workload. The texts are
//! those of a pod's events.

use std::io;
use std::path::PathBuf;

/// Why there is no runtime.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error("{path}: {error}; the runtime needs this directory for itself")]
    StateDir { path: PathBuf, error: io::Error },
    #[error("the wasm engine does not start: {0}")]
    Engine(String),
    #[error("no threads for guests: {0}")]
    Threads(io::Error),
}

/// Why an artifact cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrepareError {
    #[error("{path}: {problem}")]
    Read { path: PathBuf, problem: String },
    #[error("not a wasm file: {0}")]
    NotWasm(String),
    #[error("invalid wasm: {0}")]
    Invalid(String),
    #[error(
        "it imports {import}, which nothing here provides; Coracle offers wasi:cli, wasi:http, \
         wasi:sockets, wasi:filesystem, wasi:clocks, wasi:random and wasi_snapshot_preview1"
    )]
    UnknownImport { import: String },
    #[error("{0}")]
    Mismatch(String),
    #[error(
        "neither a program nor an http handler: it exports {exports}; expected a core module with \
         _start, or a component with wasi:cli/run or wasi:http/incoming-handler"
    )]
    NoEntry { exports: String },
    #[error("compiling takes too much: {0}")]
    TooBig(String),
    #[error("the compiler did not run: {0}")]
    Compiler(String),
    #[error("artifact cache: {0}")]
    Cache(String),
}

/// Why a workload did not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error("mount {guest}: {problem}")]
    Mount { guest: String, problem: String },
    #[error("port {port} is taken by another container of this pod")]
    PortInUse { port: u16 },
    #[error("port {port}: {problem}")]
    Port { port: u16, problem: String },
    #[error("all {instances} wasm instances of this node are in use; it bears no more")]
    NoInstances { instances: u32 },
    /// An http handler that cannot even be instantiated.
    #[error("{message}")]
    Instantiate { code: i32, oom: bool, message: String },
}
