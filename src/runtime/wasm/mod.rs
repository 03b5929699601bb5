//! Wasm guests in wasmtime.

pub mod sockets;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, watch};

use super::config::RuntimeConfig;
use super::error::{PrepareError, RuntimeError, StartError};
use super::spec::{Exit, LogSink, Stats, WorkloadEvent, WorkloadSpec};
use super::workload::{ExecError, ExecResult, Workload};

/// What an artifact is, told by its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArtifactKind {
    /// A core module with WASI preview 1.
    CoreCommand,
    /// A component with `wasi:cli/run`.
    Command,
    /// A component with `wasi:http/incoming-handler`.
    HttpHandler,
}

/// Runs workloads.
pub struct Runtime {
    _config: RuntimeConfig,
}

impl Runtime {
    /// A runtime as `config` says.
    ///
    /// # Errors
    /// See [`RuntimeError`].
    pub fn new(config: RuntimeConfig) -> Result<Arc<Self>, RuntimeError> {
        Ok(Arc::new(Self { _config: config }))
    }

    /// Makes the artifact ready: recognised, compiled, cached, its imports checked.
    ///
    /// # Errors
    /// See [`PrepareError`].
    pub async fn prepare(&self, path: &Path, digest: &str) -> Result<ArtifactKind, PrepareError> {
        Err(PrepareError::Compiler(format!("{digest} of {} waits for it", path.display())))
    }

    /// Starts a workload. When it returns, a command runs and an http handler is armed.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(self: &Arc<Self>, spec: WorkloadSpec) -> Result<Workload, StartError> {
        self.prepare(&spec.artifact, &spec.digest).await?;
        Ok(Workload::new(Arc::new(Running {
            exit: watch::Sender::new(None),
            events: broadcast::Sender::new(16),
        })))
    }
}

pub(super) struct Running {
    exit: watch::Sender<Option<Exit>>,
    events: broadcast::Sender<WorkloadEvent>,
}

impl Running {
    pub fn exit(&self) -> watch::Receiver<Option<Exit>> {
        self.exit.subscribe()
    }
    pub fn events(&self) -> broadcast::Receiver<WorkloadEvent> {
        self.events.subscribe()
    }
    pub fn terminate(&self, _grace: Duration) {}
    pub fn kill(&self) {}
    pub fn stats(&self) -> Stats {
        Stats::default()
    }
    pub async fn exec(&self, args: Vec<String>) -> Result<ExecResult, ExecError> {
        Err(ExecError::NotFound(args.into_iter().next().unwrap_or_default()))
    }
    pub async fn exec_into(
        &self,
        args: Vec<String>,
        _output: Arc<dyn LogSink>,
    ) -> Result<Exit, ExecError> {
        Err(ExecError::NotFound(args.into_iter().next().unwrap_or_default()))
    }
}
