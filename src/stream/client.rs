//! Remote commands and port-forward at the client's end, over WebSocket.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::remote::{Asked, Outcome, channel};
use super::spdy::{self, Session, Stream};
use super::upgrade::Protocol;
use super::websocket::{Bytestream, ChannelWriter, Channels, Inlets, Role};
use super::{Reader, StreamError, TerminalSize};

/// What is read of a status.
const STATUS_BYTES_MAX: u64 = 256 * 1024;

/// A remote command that runs elsewhere.
pub struct RemoteCommand {
    /// Its end is told to the server by a shutdown, where the protocol knows that (v5).
    pub stdin: Option<ChannelWriter>,
    pub stdout: Option<Reader>,
    pub stderr: Option<Reader>,
    /// With a terminal: where [`tell_size`] tells its size.
    pub resize: Option<ChannelWriter>,
    error: Reader,
    channels: Channels,
}

/// Takes up a remote command on a connection that has switched to `protocol`.
pub async fn remote_command<Io>(io: Io, protocol: Protocol, asked: Asked) -> RemoteCommand
where
    Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut inlets = Inlets::default();
    let stdout = asked.stdout.then(|| inlets.bytes(channel::STDOUT));
    let stderr = asked.stderr.then(|| inlets.bytes(channel::STDERR));
    let error = inlets.bytes(channel::ERROR);
    let channels = Channels::start(io, Role::Client, inlets).await;
    let tells_end = protocol == Protocol::WebSocketV5;
    let stdin = asked.stdin.then(|| channels.writer(channel::STDIN, tells_end));
    let resize = asked.tty.then(|| channels.writer(channel::RESIZE, false));
    RemoteCommand { stdin, stdout, stderr, resize, error, channels }
}

/// Tells the size of the terminal.
///
/// # Errors
/// The connection is gone.
pub async fn tell_size(resize: &mut ChannelWriter, size: TerminalSize) -> std::io::Result<()> {
    let text = serde_json::to_vec(&size).expect("a size is JSON");
    resize.write_all(&text).await
}

impl RemoteCommand {
    /// Waits for the end of the command. Its output is to be read meanwhile.
    pub async fn outcome(&mut self) -> Outcome {
        let mut status = Vec::new();
        let mut limited = (&mut self.error).take(STATUS_BYTES_MAX);
        let read = limited.read_to_end(&mut status).await;
        self.channels.close().await;
        match serde_json::from_slice(&status) {
            Ok(status) => Outcome::of_status(&status),
            Err(_) if status.is_empty() || read.is_err() => {
                Outcome::Failed("the connection broke before the command ended".to_owned())
            }
            Err(_) => Outcome::Failed(String::from_utf8_lossy(&status).into_owned()),
        }
    }
}

/// Opens forwarded connections.
#[derive(Debug)]
pub struct Forwarder {
    session: Session,
    requests: AtomicU32,
}

impl Forwarder {
    /// On a connection that has switched to [`Protocol::ForwardTunnel`].
    pub async fn start<Io>(io: Io) -> Self
    where
        Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let tunnel = Bytestream::start(io, Role::Client).await;
        let (session, _) = Session::start(tunnel, spdy::Role::Client);
        Self { session, requests: AtomicU32::new(0) }
    }

    /// A connection to a port of the pod, and where it is told why it failed.
    ///
    /// # Errors
    /// The session is over.
    pub async fn connect(&self, port: u16) -> Result<(Stream, Stream), StreamError> {
        let id = self.requests.fetch_add(1, Ordering::Relaxed);
        let headers = |kind: &str| {
            vec![
                ("streamtype".to_owned(), kind.to_owned()),
                ("port".to_owned(), port.to_string()),
                ("requestid".to_owned(), id.to_string()),
            ]
        };
        let mut error = self.session.open(headers("error")).await?;
        // Nothing is ever written to it from here.
        error.shutdown().await?;
        let data = self.session.open(headers("data")).await?;
        Ok((data, error))
    }

    /// Waits until the server is gone.
    pub async fn ended(&self) {
        self.session.ended().await;
    }

    /// Ends the session.
    pub fn close(&self) {
        self.session.close();
    }
}
