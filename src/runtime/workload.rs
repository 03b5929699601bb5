//! The handle on a running workload.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{broadcast, watch};

use super::oci::Container;
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

/// A running workload. Dropping the handle kills what runs in this process, wasm; a container of
/// the kernel goes on, to be found again.
pub struct Workload {
    inner: Inner,
}

enum Inner {
    Wasm(Arc<Running>),
    Container(Arc<Container>),
}

impl From<Arc<Container>> for Workload {
    fn from(container: Arc<Container>) -> Self {
        Self { inner: Inner::Container(container) }
    }
}

impl Workload {
    pub(super) fn new(running: Arc<Running>) -> Self {
        Self { inner: Inner::Wasm(running) }
    }

    /// The container of the kernel, where it is one.
    pub fn container(&self) -> Option<&Arc<Container>> {
        match &self.inner {
            Inner::Wasm(_) => None,
            Inner::Container(container) => Some(container),
        }
    }

    /// How it ended; `None` while it runs.
    pub fn exit(&self) -> watch::Receiver<Option<Exit>> {
        match &self.inner {
            Inner::Wasm(running) => running.exit(),
            Inner::Container(container) => container.exit(),
        }
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
        match &self.inner {
            Inner::Wasm(running) => running.context.stdin.is_used(),
            Inner::Container(_) => false,
        }
    }

    /// Asks it to end: listeners are closed, standard input ends, requests in flight finish; what
    /// still runs after `grace` is killed (137). A command that holds no listener and does not
    /// read standard input ends at once (143). A container gets its stop signal.
    pub fn terminate(&self, grace: Duration) {
        match &self.inner {
            Inner::Wasm(running) => running.terminate(grace),
            Inner::Container(container) => container.terminate(grace),
        }
    }

    /// Ends it at once (137).
    pub fn kill(&self) {
        match &self.inner {
            Inner::Wasm(running) => running.kill(),
            Inner::Container(container) => container.kill(),
        }
    }

    /// What it has used.
    pub fn stats(&self) -> Stats {
        match &self.inner {
            Inner::Wasm(running) => running.stats(),
            Inner::Container(container) => container.stats(),
        }
    }

    /// What it tells; slow readers miss some. A container tells nothing.
    pub fn events(&self) -> broadcast::Receiver<WorkloadEvent> {
        match &self.inner {
            Inner::Wasm(running) => running.events(),
            Inner::Container(_) => broadcast::Sender::new(1).subscribe(),
        }
    }

    /// Runs a command in the workload's context and collects its output: of wasm the image again
    /// where `args[0]` is its own name, else an applet of the toolbox; in a container what its
    /// image has. Dropping the future kills it.
    ///
    /// # Errors
    /// See [`ExecError`].
    pub async fn exec(&self, args: Vec<String>) -> Result<ExecResult, ExecError> {
        match &self.inner {
            Inner::Wasm(running) => running.exec(args).await,
            Inner::Container(container) => container.exec(args).await,
        }
    }

    /// As [`Self::exec`], with a client's streams: it ends once all output was written to them.
    ///
    /// # Errors
    /// See [`ExecError`].
    pub async fn exec_with(&self, args: Vec<String>, streams: Streams) -> Result<Exit, ExecError> {
        match &self.inner {
            Inner::Wasm(running) => running.exec_with(args, streams).await,
            Inner::Container(_) => Err(by_container()),
        }
    }

    /// Joins a client's streams to the workload's own, as far as its spec has them, until it ends.
    ///
    /// # Errors
    /// See [`ExecError`].
    pub async fn attach(&self, streams: Streams) -> Result<Exit, ExecError> {
        match &self.inner {
            Inner::Wasm(running) => running.attach(streams).await,
            Inner::Container(_) => Err(by_container()),
        }
    }
}

/// A container has streams of its own form ([`super::oci::Streams`]), with the size of a terminal.
fn by_container() -> ExecError {
    ExecError::Failed("a container of the kernel is asked by its own handle".to_owned())
}

impl Drop for Workload {
    fn drop(&mut self) {
        if let Inner::Wasm(running) = &self.inner {
            running.kill();
        }
    }
}
