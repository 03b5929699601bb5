//! Wasm guests in wasmtime.
//!
//! | file | |
//! |---|---|
//! | `plan`, `engine`, `ticker` | how many instances, the engines, the clock that makes guests yield |
//! | `recognize`, `linker`, `artifacts` | what an artifact is, what it may import, its compiled form |
//! | `state`, `memory`, `files`, `stdio`, `outgoing` | what an instance is given |
//! | `pipe`, `tty`, `builtin` | what `exec` and `attach` need besides: streams from outside, a terminal, commands of the worker's own |
//! | `executor` | where it runs, and what it is charged |
//! | `command`, `http`, `inline`, `exec` | the ways to run it |
//! | `running`, `outcome` | its life and its end |

mod artifacts;
mod builtin;
mod command;
pub(super) mod engine;
mod exec;
mod executor;
mod files;
mod http;
mod inline;
mod linker;
mod memory;
mod outcome;
mod outgoing;
mod pipe;
mod plan;
pub(super) mod recognize;
mod running;
pub mod sockets;
mod state;
mod stdio;
mod ticker;
mod tty;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::artifacts::{Artifacts, Code};
use self::engine::Engines;
use self::executor::Executor;
use self::files::Files;
use self::memory::MemoryAccount;
use self::outcome::Outcome;
pub use self::recognize::ArtifactKind;
pub(super) use self::running::Running;
use self::state::Context;
use self::stdio::{Outputs, Stdin};
use super::config::RuntimeConfig;
use super::error::{PrepareError, RuntimeError, StartError};
use super::spec::WorkloadSpec;
use super::workload::Workload;
use crate::net::NetError;

/// Where a handler listens that declares no port.
const DEFAULT_HTTP_PORT: u16 = 8080;

/// Runs workloads.
pub struct Runtime {
    config: RuntimeConfig,
    engines: Arc<Engines>,
    artifacts: Artifacts,
    executor: Executor,
    /// Instances of the whole node.
    slots: Arc<Semaphore>,
    /// Slots that programs, which keep theirs for as long as they run, must leave to handlers.
    command_slots: Arc<Semaphore>,
    roots: PathBuf,
    serial: AtomicU64,
}

impl Runtime {
    /// A runtime as `config` says.
    ///
    /// # Errors
    /// See [`RuntimeError`].
    pub fn new(config: RuntimeConfig) -> Result<Arc<Self>, RuntimeError> {
        let engines = Arc::new(Engines::new(&config)?);
        let artifacts = Artifacts::open(&config, engines.clone())?;
        let roots = config.state_dir.join("roots");
        // Those of a process that was killed; what they link to is not theirs.
        let _ = fs::remove_dir_all(&roots);
        fs::create_dir_all(&roots)
            .map_err(|error| RuntimeError::StateDir { path: roots.clone(), error })?;
        let executor =
            Executor::new(engines.clone(), config.threads).map_err(RuntimeError::Threads)?;
        let slots = engines.slots as usize;
        Ok(Arc::new(Self {
            config,
            engines,
            artifacts,
            executor,
            slots: Arc::new(Semaphore::new(slots)),
            command_slots: Arc::new(Semaphore::new((slots / 4 * 3).max(1))),
            roots,
            serial: AtomicU64::new(0),
        }))
    }

    /// Instances that may live at once.
    pub fn instances_max(&self) -> u32 {
        self.engines.slots
    }

    /// Instances that live now.
    pub fn instances(&self) -> u32 {
        self.engines.slots.saturating_sub(self.slots.available_permits() as u32)
    }

    /// Compiled artifacts that are loaded now.
    pub fn artifacts_loaded(&self) -> usize {
        self.artifacts.loaded()
    }

    /// Makes the artifact ready: recognised, compiled, cached, its imports checked.
    ///
    /// # Errors
    /// See [`PrepareError`].
    pub async fn prepare(&self, path: &Path, digest: &str) -> Result<ArtifactKind, PrepareError> {
        self.artifacts.get(path, digest).await.map(|code| code.linked.kind())
    }

    /// Starts a workload. When it returns, a command runs and an http handler is armed.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(self: &Arc<Self>, spec: WorkloadSpec) -> Result<Workload, StartError> {
        let code = self.code_of(&spec).await?;
        let context = self.context(&spec).await?;
        let running = Running::new(self.clone(), spec, code.linked.kind(), context);
        match running.kind {
            ArtifactKind::HttpHandler => self.arm(&running, &code).await?,
            _ => self.launch(&running, code).await?,
        }
        Ok(Workload::new(running))
    }

    async fn code_of(&self, spec: &WorkloadSpec) -> Result<Arc<Code>, PrepareError> {
        self.artifacts.get(&spec.artifact, &spec.digest).await
    }

    async fn context(&self, spec: &WorkloadSpec) -> Result<Context, StartError> {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let (tree, mounts) = (self.roots.join(serial.to_string()), spec.mounts.clone());
        let files = tokio::task::spawn_blocking(move || Files::prepare(tree, &mounts))
            .await
            .unwrap_or_else(|error| {
                let (guest, problem) = ("/".to_string(), error.to_string());
                Err(StartError::Mount { guest, problem })
            })?;
        Ok(Context {
            args: spec.args.clone(),
            env: spec.env.clone(),
            working_dir: spec.working_dir.clone(),
            files: Arc::new(files),
            stdin: Stdin::new(spec.stdio.tty),
            outputs: Outputs::logged(spec.logs.clone(), spec.stdio.tty),
            network: spec.network.clone(),
            memory: MemoryAccount::new(spec.limits.memory_bytes_max),
            sockets: Mutex::default(),
        })
    }

    /// A place for a program, which keeps it.
    async fn command_slot(
        &self,
    ) -> Result<(OwnedSemaphorePermit, OwnedSemaphorePermit), StartError> {
        let both = async {
            let command = self.command_slots.clone().acquire_owned().await.expect("never closed");
            let node = self.slots.clone().acquire_owned().await.expect("never closed");
            (command, node)
        };
        tokio::time::timeout(self.config.queue_timeout, both)
            .await
            .map_err(|_| StartError::NoInstances { instances: self.engines.slots })
    }

    async fn launch(
        self: &Arc<Self>,
        running: &Arc<Running>,
        code: Arc<Code>,
    ) -> Result<(), StartError> {
        let slot = self.command_slot().await?;
        let this = running.clone();
        let guest = running.tasks.track_future(async move {
            let outcome = tokio::select! {
                outcome = command::run(&code, &this.context) => Some(outcome),
                () = this.stop.cancelled() => None,
            };
            drop((code, slot));
            if let Some(outcome) = outcome {
                if !outcome.message.is_empty() {
                    this.log(&outcome.message);
                }
                this.finish(outcome);
            }
        });
        self.executor.spawn(running.meter.clone(), guest).detach();
        Ok(())
    }

    async fn arm(
        self: &Arc<Self>,
        running: &Arc<Running>,
        code: &Arc<Code>,
    ) -> Result<(), StartError> {
        // Nobody writes to a handler, and nobody needs to tell it to end.
        running.context.stdin.end();
        let (this, code) = (running.clone(), code.clone());
        let slots = self.slots.clone();
        let tried = self.executor.spawn(running.meter.clone(), async move {
            let _slot = slots.acquire_owned().await.expect("never closed");
            http::try_out(&code, &this).await.map_err(|error| Outcome::of_error(&error))
        });
        match tokio::time::timeout(self.config.queue_timeout, tried).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(outcome))) => {
                return Err(StartError::Instantiate {
                    code: outcome.code,
                    oom: outcome.oom(),
                    message: outcome.message,
                });
            }
            Ok(Err(error)) => {
                let message = format!("instantiating it broke: {error}");
                return Err(StartError::Instantiate {
                    code: outcome::TRAPPED,
                    oom: false,
                    message,
                });
            }
            Err(_) => return Err(StartError::NoInstances { instances: self.engines.slots }),
        }
        let handler = http::Handler::new(running.clone());
        let declared = &running.spec.http_ports;
        let ports = if declared.is_empty() { &[DEFAULT_HTTP_PORT][..] } else { declared };
        let mut listeners = Vec::with_capacity(ports.len());
        for port in ports {
            let service = Arc::new(http::Service(handler.clone()));
            let listener = running.spec.network.serve_http(*port, service);
            listeners.push(listener.map_err(|error| match error {
                NetError::AddressInUse => StartError::PortInUse { port: *port },
                error => StartError::Port { port: *port, problem: error.to_string() },
            })?);
        }
        *running.listeners.lock() = listeners;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
