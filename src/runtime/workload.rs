//! The handle on a running workload.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{broadcast, watch};

use super::spec::{Exit, Stats, WorkloadEvent};
use super::wasm::Running;

/// What an `exec` gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecResult {
    pub code: i32,
    /// At most 64 KiB of each.
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// What a client types.
pub type Input = Box<dyn AsyncRead + Send + Unpin>;
/// Where a client sees output.
pub type Screen = Box<dyn AsyncWrite + Send + Unpin>;

/// The streams of a client; those that it asked for.
pub struct Streams {
    pub stdin: Option<Input>,
    pub stdout: Option<Screen>,
    /// None with a terminal, which has one output.
    pub stderr: Option<Screen>,
    /// The program is to believe that it is at a terminal.
    pub tty: bool,
}

/// Why nothing was executed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExecError {
    /// Exit code 127.
    #[error("exec: {0:?}: executable file not found in $PATH")]
    NotFound(String),
    #[error("the container is not running")]
    NotRunning,
    #[error("{0}")]
    Failed(String),
}

/// A running workload. Dropping the handle kills it.
pub struct Workload {
    running: Arc<Running>,
}

impl Workload {
    pub(super) fn new(running: Arc<Running>) -> Self {
        Self { running }
    }

    /// How it ended; `None` while it runs.
    pub fn exit(&self) -> watch::Receiver<Option<Exit>> {
        self.running.exit()
    }

    /// Waits for its end.
    pub async fn wait(&self) -> Exit {
        let mut exit = self.exit();
        match exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.clone().expect("waited for"),
            Err(_) => unreachable!("the sender lives in self"),
        }
    }

    /// Whether it has ever read its standard input, or waits for it.
    pub fn reads_stdin(&self) -> bool {
        self.running.context.stdin.is_used()
    }

    /// Asks it to end: listeners are closed, standard input ends, requests in flight finish; what
    /// still runs after `grace` is killed (137). A command that holds no listener and does not
    /// read standard input ends at once (143).
    pub fn terminate(&self, grace: Duration) {
        self.running.terminate(grace);
    }

    /// Ends it at once (137).
    pub fn kill(&self) {
        self.running.kill();
    }

    /// What it has used.
    pub fn stats(&self) -> Stats {
        self.running.stats()
    }

    /// What it tells; slow readers miss some.
    pub fn events(&self) -> broadcast::Receiver<WorkloadEvent> {
        self.running.events()
    }

    /// Runs a command in the workload's context and collects its output: the image again where
    /// `args[0]` is its own name, else an applet of the toolbox. Dropping the future kills it.
    ///
    /// # Errors
    /// See [`ExecError`].
    pub async fn exec(&self, args: Vec<String>) -> Result<ExecResult, ExecError> {
        self.running.exec(args).await
    }

    /// As [`Self::exec`], with a client's streams: it ends once all output was written to them.
    ///
    /// # Errors
    /// See [`ExecError`].
    pub async fn exec_with(&self, args: Vec<String>, streams: Streams) -> Result<Exit, ExecError> {
        self.running.exec_with(args, streams).await
    }

    /// Joins a client's streams to the workload's own, as far as its spec has them, until it ends.
    ///
    /// # Errors
    /// See [`ExecError`].
    pub async fn attach(&self, streams: Streams) -> Result<Exit, ExecError> {
        self.running.attach(streams).await
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.running.kill();
    }
}
