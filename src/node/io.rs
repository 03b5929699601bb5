//! What `exec`, `attach` and port-forward ask of a container and of its pod, whatever the
//! container runs in: wasm in this process, or a container of the host.
//!
//! | who | implements | is found in |
//! |---|---|---|
//! | a started container | [`ContainerIo`] | [`View::io`](super::pod::worker::View), by its name |
//! | the network of a pod | [`PodPorts`] | [`View::ports`](super::pod::worker::View) |
//!
//! **Invariant:** whoever drops the future of an exec ends the command, and of an attach only
//! lets go of the container.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::net::{Namespace, NetError};
pub use crate::runtime::ExecError;
use crate::runtime::{self, Workload, oci};
pub use crate::stream::{Connection, Reader, TerminalSize, Writer};

/// The client's side of a command: those streams that it asked for.
pub struct Streams {
    /// Its end is the end of the command's input.
    pub stdin: Option<Reader>,
    /// Writing waits until the client has taken enough; an error means that the client is gone.
    pub stdout: Option<Writer>,
    /// Always none with a terminal: it has one output.
    pub stderr: Option<Writer>,
    /// The command is to believe that it is at a terminal.
    pub tty: bool,
    /// The sizes of the client's terminal, the first one at once. Nothing comes without a
    /// terminal; that it ends means nothing.
    pub resizes: mpsc::Receiver<TerminalSize>,
}

/// A started container.
#[async_trait]
pub trait ContainerIo: Send + Sync + 'static {
    /// Runs a command in the container and answers its exit code once it has ended and all of its
    /// output was written to `streams`.
    ///
    /// # Errors
    /// [`ExecError::NotFound`] where there is no such command (exit code 127), and others.
    async fn exec(&self, command: Vec<String>, streams: Streams) -> Result<i32, ExecError>;

    /// Joins `streams` to those of the container's own process, as far as it has them (`stdin`,
    /// `stdinOnce` and `tty` of its spec), until it ends; answers its exit code.
    ///
    /// # Errors
    /// See [`ExecError`].
    async fn attach(&self, streams: Streams) -> Result<i32, ExecError>;
}

/// The network of a pod, seen from inside.
#[async_trait]
pub trait PodPorts: Send + Sync + 'static {
    /// Connects to a TCP port of the pod's loopback, or of its address where nothing listens
    /// there.
    ///
    /// # Errors
    /// As a connect in the pod: refused, and so on.
    async fn dial(&self, port: u16) -> io::Result<Box<dyn Connection>>;
}

impl Streams {
    /// What a wasm guest can use: it has no way to ask for the size of a terminal.
    fn without_sizes(self) -> runtime::Streams {
        let Self { stdin, stdout, stderr, tty, resizes: _ } = self;
        runtime::Streams { stdin, stdout, stderr, tty }
    }

    /// What a container of the kernel can use.
    fn with_sizes(self) -> oci::Streams {
        let Self { stdin, stdout, stderr, tty, resizes: mut from } = self;
        let (sizes, resizes) = mpsc::channel(4);
        if tty {
            tokio::spawn(async move {
                while let Some(TerminalSize { width, height }) = from.recv().await {
                    if sizes.send((width, height)).await.is_err() {
                        return;
                    }
                }
            });
        }
        oci::Streams { stdin, stdout, stderr, tty, resizes }
    }
}

#[async_trait]
impl ContainerIo for Workload {
    async fn exec(&self, command: Vec<String>, streams: Streams) -> Result<i32, ExecError> {
        if let Some(container) = self.container() {
            return container.exec_streams(command, streams.with_sizes()).await;
        }
        self.exec_with(command, streams.without_sizes()).await.map(|exit| exit.code)
    }

    async fn attach(&self, streams: Streams) -> Result<i32, ExecError> {
        if let Some(container) = self.container() {
            return container.attach(streams.with_sizes()).await;
        }
        Workload::attach(self, streams.without_sizes()).await.map(|exit| exit.code)
    }
}

#[async_trait]
impl PodPorts for Namespace {
    async fn dial(&self, port: u16) -> io::Result<Box<dyn Connection>> {
        let at = |ip: IpAddr| SocketAddr::new(ip, port);
        match self.connect(at(Ipv4Addr::LOCALHOST.into())).await {
            Ok(stream) => Ok(Box::new(stream)),
            // What listens at the address of the pod alone is meant too.
            Err(NetError::ConnectionRefused) => Ok(Box::new(self.connect(at(self.ip())).await?)),
            Err(error) => Err(error.into()),
        }
    }
}
