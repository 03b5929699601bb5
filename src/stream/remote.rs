//! A remote command at the server's end, whatever it comes over: its streams, the news that the
//! client is gone, and the status that ends it.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::spdy::{self, Session};
use super::upgrade::Protocol;
use super::websocket::{ChannelWriter, Channels, Inlets, Role};
use super::{Reader, StreamError, TerminalSize, Writer};

/// The channels of a remote command over WebSocket.
pub mod channel {
    pub const STDIN: u8 = 0;
    pub const STDOUT: u8 = 1;
    pub const STDERR: u8 = 2;
    pub const ERROR: u8 = 3;
    pub const RESIZE: u8 = 4;
}

/// How long a client may take to open its streams.
pub const STREAMS_WITHIN: Duration = Duration::from_secs(30);
/// How long a client may take to read the last of what is written.
const FINISH_WITHIN: Duration = Duration::from_secs(10);
/// What is read of one size of a terminal.
const SIZE_BYTES_MAX: usize = 1024;
const SIZES_QUEUED: usize = 8;

/// Which streams a client asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asked {
    pub stdin: bool,
    pub stdout: bool,
    /// Never with a terminal, whose one output is stdout.
    pub stderr: bool,
    pub tty: bool,
}

/// How a remote command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Success,
    /// With an exit code other than 0.
    Exit(i32),
    /// It was not run, or not to its end.
    Failed(String),
}

impl Outcome {
    /// Of an exit code.
    pub fn of_code(code: i32) -> Self {
        if code == 0 { Self::Success } else { Self::Exit(code) }
    }

    /// As the `Status` on the error channel.
    pub fn status(&self) -> Value {
        match self {
            Self::Success => json!({"metadata": {}, "status": "Success"}),
            Self::Exit(code) => json!({
                "metadata": {},
                "status": "Failure",
                "message": format!("command terminated with non-zero exit code: exit status {code}"),
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Self::Failed(message) => json!({
                "metadata": {},
                "status": "Failure",
                "message": format!("Internal error occurred: {message}"),
                "reason": "InternalError",
                "details": {"causes": [{"message": message}]},
                "code": 500,
            }),
        }
    }

    /// Reads such a `Status`.
    pub fn of_status(status: &Value) -> Self {
        if status["status"] == "Success" {
            return Self::Success;
        }
        let causes = status["details"]["causes"].as_array();
        let code = causes.into_iter().flatten().find(|cause| cause["reason"] == "ExitCode");
        match code.and_then(|cause| cause["message"].as_str()?.parse().ok()) {
            Some(code) if status["reason"] == "NonZeroExitCode" => Self::Exit(code),
            _ => Self::Failed(status["message"].as_str().unwrap_or("unknown error").to_owned()),
        }
    }
}

/// The streams of the client.
pub struct Streams {
    pub stdin: Option<Reader>,
    pub stdout: Option<Writer>,
    pub stderr: Option<Writer>,
    pub resizes: mpsc::Receiver<TerminalSize>,
}

/// The other end of a remote command.
pub struct Peer {
    wire: Wire,
}

enum Wire {
    WebSocket { channels: Channels, error: ChannelWriter },
    Spdy { session: Session, error: spdy::Stream },
}

/// Takes up a remote command on a connection that has switched to `protocol`.
///
/// # Errors
/// The client does not open its streams in time or goes away, or `protocol` is no remote command's.
pub async fn accept<Io>(
    io: Io,
    protocol: Protocol,
    asked: Asked,
) -> Result<(Streams, Peer), StreamError>
where
    Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    match protocol {
        Protocol::WebSocketV4 | Protocol::WebSocketV5 => Ok(websocket(io, asked).await),
        Protocol::SpdyV4 => {
            let opened = tokio::time::timeout(STREAMS_WITHIN, spdy_streams(io, asked)).await;
            opened.map_err(|_| StreamError::TooSlow("the client did not open its streams"))?
        }
        other => Err(StreamError::Protocol {
            protocol: other.name(),
            problem: "it carries no remote command".to_owned(),
        }),
    }
}

async fn websocket<Io>(io: Io, asked: Asked) -> (Streams, Peer)
where
    Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut inlets = Inlets::default();
    let stdin = asked.stdin.then(|| inlets.bytes(channel::STDIN));
    let resizes = match asked.tty {
        true => inlets.sizes(channel::RESIZE),
        false => mpsc::channel(1).1,
    };
    let channels = Channels::start(io, Role::Server, inlets).await;
    let mut error = channels.writer(channel::ERROR, false);
    let writer = |asked: bool, number: u8| asked.then(|| channels.writer(number, false));
    let (mut stdout, mut stderr) =
        (writer(asked.stdout, channel::STDOUT), writer(asked.stderr, channel::STDERR));
    let first = stdout.as_mut().or(stderr.as_mut()).unwrap_or(&mut error);
    first.open().await;
    let boxed = |writer: Option<ChannelWriter>| writer.map(|w| Box::new(w) as Writer);
    let streams = Streams { stdin, stdout: boxed(stdout), stderr: boxed(stderr), resizes };
    (streams, Peer { wire: Wire::WebSocket { channels, error } })
}

async fn spdy_streams<Io>(io: Io, asked: Asked) -> Result<(Streams, Peer), StreamError>
where
    Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (session, mut incoming) = Session::start(io, spdy::Role::Server);
    // A client that is too slow is dropped with this.
    let guard = session.guard();
    let wanted = [
        ("error", true),
        ("stdin", asked.stdin),
        ("stdout", asked.stdout),
        ("stderr", asked.stderr),
        ("resize", asked.tty),
    ];
    let mut found: Vec<(&str, spdy::Stream)> = Vec::new();
    let count = wanted.iter().filter(|(_, wanted)| *wanted).count();
    while found.len() < count {
        let stream = incoming.next().await.ok_or(StreamError::Closed)?;
        let named = stream.header("streamtype").unwrap_or_default();
        match wanted.iter().find(|(name, wanted)| *wanted && *name == named) {
            Some((name, _)) if !found.iter().any(|(known, _)| known == name) => {
                found.push((name, stream));
            }
            // Not asked for: it is refused, and the others go on.
            _ => stream.reset(),
        }
    }
    // Nothing more is taken, but the session goes on.
    tokio::spawn(async move {
        while let Some(stream) = incoming.next().await {
            stream.reset();
        }
    });
    let mut take = |name: &str| {
        let at = found.iter().position(|(known, _)| *known == name)?;
        Some(found.swap_remove(at).1)
    };
    let error = take("error").ok_or(StreamError::Closed)?;
    let resizes = match take("resize") {
        Some(stream) => read_sizes(stream),
        None => mpsc::channel(1).1,
    };
    let streams = Streams {
        stdin: take("stdin").map(|s| Box::new(s) as Reader),
        stdout: take("stdout").map(|s| Box::new(s) as Writer),
        stderr: take("stderr").map(|s| Box::new(s) as Writer),
        resizes,
    };
    guard.disarm();
    Ok((streams, Peer { wire: Wire::Spdy { session, error } }))
}

/// Reads JSON objects that stand one behind the other.
fn read_sizes(mut stream: spdy::Stream) -> mpsc::Receiver<TerminalSize> {
    let (sender, receiver) = mpsc::channel(SIZES_QUEUED);
    tokio::spawn(async move {
        let mut text = Vec::new();
        let mut buffer = [0; 256];
        while let Ok(read) = stream.read(&mut buffer).await {
            if read == 0 || text.len() > SIZE_BYTES_MAX {
                return;
            }
            text.extend_from_slice(&buffer[..read]);
            let mut sizes = serde_json::Deserializer::from_slice(&text).into_iter();
            for size in sizes.by_ref().map_while(Result::ok) {
                let _ = sender.try_send(size);
            }
            let used = sizes.byte_offset();
            text.drain(..used);
        }
    });
    receiver
}

impl Peer {
    /// Waits until the client is gone.
    pub async fn gone(&self) {
        match &self.wire {
            Wire::WebSocket { channels, .. } => channels.gone().await,
            Wire::Spdy { session, .. } => session.ended().await,
        }
    }

    /// Tells how the command ended, behind all that was written, and lets the client close the
    /// connection. The streams are to be dropped before.
    pub async fn finish(self, outcome: &Outcome) {
        let status = outcome.status().to_string();
        let finished = async {
            match self.wire {
                Wire::WebSocket { channels, mut error } => {
                    let _ = error.write_all(status.as_bytes()).await;
                    channels.close().await;
                    channels.gone().await;
                }
                Wire::Spdy { session, mut error } => {
                    let told = async {
                        let _ = error.write_all(status.as_bytes()).await;
                        let _ = error.shutdown().await;
                        session.ended().await;
                    };
                    let _ = tokio::time::timeout(FINISH_WITHIN, told).await;
                    session.abort();
                }
            }
        };
        // A client that does not read is left alone.
        let _ = tokio::time::timeout(FINISH_WITHIN * 2, finished).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::client;

    fn all(tty: bool) -> Asked {
        Asked { stdin: true, stdout: true, stderr: !tty, tty }
    }

    #[test]
    fn an_outcome_is_read_back_from_its_status() {
        let failed = Outcome::Failed("no such pod".to_owned());
        for outcome in [Outcome::Success, Outcome::Exit(3)] {
            assert_eq!(Outcome::of_status(&outcome.status()), outcome);
        }
        let told = Outcome::Failed("Internal error occurred: no such pod".to_owned());
        assert_eq!(Outcome::of_status(&failed.status()), told);
        assert_eq!(Outcome::of_code(0), Outcome::Success);
    }

    /// A command that answers its input in upper case on one stream, its length on the other.
    async fn shout(mut streams: Streams, peer: Peer) {
        let mut text = String::new();
        streams.stdin.take().expect("asked for").read_to_string(&mut text).await.expect("read");
        let mut stdout = streams.stdout.take().expect("asked for");
        stdout.write_all(text.to_uppercase().as_bytes()).await.expect("written");
        if let Some(mut stderr) = streams.stderr.take() {
            stderr.write_all(text.len().to_string().as_bytes()).await.expect("written");
        }
        drop((stdout, streams));
        peer.finish(&Outcome::Exit(3)).await;
    }

    #[tokio::test]
    async fn a_command_over_websocket_has_all_of_its_streams() {
        let (a, b) = tokio::io::duplex(4096);
        let server = async {
            let accepted = accept(b, Protocol::WebSocketV5, all(false)).await;
            let (streams, peer) = accepted.expect("accepted");
            shout(streams, peer).await;
        };
        let asking = async {
            let mut command = client::remote_command(a, Protocol::WebSocketV5, all(false)).await;
            let mut stdin = command.stdin.take().expect("asked for");
            stdin.write_all(b"hello").await.expect("written");
            stdin.shutdown().await.expect("closed");
            let (mut out, mut err) = (String::new(), String::new());
            let mut stdout = command.stdout.take().expect("asked for");
            let mut stderr = command.stderr.take().expect("asked for");
            let read =
                tokio::join!(stdout.read_to_string(&mut out), stderr.read_to_string(&mut err));
            read.0.and(read.1).expect("read");
            (out, err, command.outcome().await)
        };
        let ((), told) = tokio::join!(server, asking);
        assert_eq!(told, ("HELLO".to_owned(), "5".to_owned(), Outcome::Exit(3)));
    }

    #[tokio::test]
    async fn a_command_over_spdy_has_all_of_its_streams() {
        let (a, b) = tokio::io::duplex(4096);
        let server = async {
            let (mut streams, peer) =
                accept(b, Protocol::SpdyV4, all(true)).await.expect("accepted");
            let size = streams.resizes.recv().await;
            shout(streams, peer).await;
            size
        };
        let asking = async {
            let (session, _none) = Session::start(a, spdy::Role::Client);
            let open = async |name: &str| {
                let headers = vec![("streamtype".to_owned(), name.to_owned())];
                session.open(headers).await.expect("opened")
            };
            let mut error = open("error").await;
            let (mut stdin, mut stdout) = (open("stdin").await, open("stdout").await);
            let mut resize = open("resize").await;
            assert!(open("extra").await.read_u8().await.is_err(), "it is reset");
            resize.write_all(b"{\"Width\":8").await.expect("written");
            resize.write_all(b"0,\"Height\":25}\n").await.expect("written");
            stdin.write_all(b"hello").await.expect("written");
            stdin.shutdown().await.expect("ended");
            let (mut out, mut status) = (String::new(), Vec::new());
            stdout.read_to_string(&mut out).await.expect("read");
            error.read_to_end(&mut status).await.expect("read");
            let status = serde_json::from_slice(&status).expect("a status");
            session.abort();
            (out, Outcome::of_status(&status))
        };
        let (size, told) = tokio::join!(server, asking);
        assert_eq!(told, ("HELLO".to_owned(), Outcome::Exit(3)));
        assert_eq!(size, Some(TerminalSize { width: 80, height: 25 }));
    }
}
