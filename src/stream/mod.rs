//! Streams to containers on the wire: `exec` and `attach` (remote commands) and port-forward, over
//! WebSocket and over SPDY/3.1.
//!
//! | | WebSocket | SPDY/3.1 |
//! |---|---|---|
//! | remote command | `v5.channel.k8s.io`, `v4.channel.k8s.io`: a byte names the channel | a stream a channel, `v4.channel.k8s.io` |
//! | port-forward | `v4.channel.k8s.io`: two channels a port | two streams a connection, `portforward.k8s.io` |
//! | | `SPDY/3.1+portforward.k8s.io`: SPDY inside binary messages | |
//!
//! | module | |
//! |---|---|
//! | [`upgrade`] | what a request asks to switch to, and the answer |
//! | [`websocket`] | WebSocket messages as channels, and as a byte stream |
//! | [`spdy`] | frames and sessions |
//! | [`remote`] | a remote command at the server's end, whatever the wire |
//! | [`forward`] | forwarded connections at the server's end, whatever the wire |
//! | [`client`] | both at the client's end |
//!
//! What travels on the streams is not known here.
//!
//! **Invariant:** what a peer sends is bounded before it is kept: messages, frames, headers,
//! streams, and the bytes that wait to be read.

pub mod client;
pub mod forward;
pub mod remote;
pub mod spdy;
pub mod upgrade;
pub mod websocket;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

/// Both directions of a connection.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// What is read from a stream.
pub type Reader = Box<dyn AsyncRead + Send + Unpin>;
/// What is written to a stream; ended by a shutdown.
pub type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// The size of a terminal in characters, as the resize channel carries it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TerminalSize {
    pub width: u16,
    pub height: u16,
}

/// Why a stream does not go on.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The peer broke the protocol.
    #[error("{protocol}: {problem}")]
    Protocol { protocol: &'static str, problem: String },
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
    #[error("{0} within {seconds} seconds", seconds = remote::STREAMS_WITHIN.as_secs())]
    TooSlow(&'static str),
    #[error("the connection was closed")]
    Closed,
}
