//! Links between nodes: HTTP/2 over a connection that both ends have authenticated.
//!
//! A TCP connection of the virtual network is one HTTP/2 stream (`POST /tcp` with its addresses
//! in headers); END_STREAM is FIN and RST_STREAM is RST, so half-closes and resets arrive as they
//! were made. Datagrams of all pods share one stream a direction (`POST /udp`), framed.
//!
//! The dialling node says which pod connects; the serving node believes only addresses of that
//! node's own pod range.

mod datagram;
mod link;
mod serve;

use std::net::SocketAddr;

use bytes::Bytes;
use futures::future::BoxFuture;
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite};

use super::NetError;
use super::stream::{Shutdown, TcpStream};

pub(crate) use link::PeerLink;
pub(crate) use serve::serve;

/// Bytes that a stream may have under way on a link.
const STREAM_WINDOW: u32 = 512 * 1024;

/// The window of the whole link. The streams bound themselves: were this smaller than their sum,
/// one pod that does not read would stop all others.
const LINK_WINDOW: u32 = (1 << 31) - 1;

/// The largest HTTP/2 frame.
const FRAME: u32 = 64 * 1024;

/// Connections that may be open on a link.
const STREAMS: u32 = 65_536;

const SOURCE: &str = "coracle-source";
const DESTINATION: &str = "coracle-destination";
const ERROR: &str = "coracle-error";

/// A connection to another node.
pub trait PeerIo: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> PeerIo for T {}

/// Dials other nodes.
pub trait PeerDialer: Send + Sync + 'static {
    /// Opens a connection on which both ends have proved who they are; it must fail where the
    /// node at `address` is not `node`.
    fn dial(
        &self,
        node: &str,
        address: SocketAddr,
    ) -> BoxFuture<'static, std::io::Result<Box<dyn PeerIo>>>;
}

/// Carries a connection over an HTTP/2 stream until both directions have ended or one breaks.
async fn carry(stream: TcpStream, mut send: SendStream<Bytes>, recv: RecvStream) {
    let up = pump_up(&stream, &mut send);
    let down = pump_down(&stream, recv);
    if tokio::try_join!(up, down).is_err() {
        stream.reset();
        send.send_reset(Reason::CANCEL);
    }
}

async fn pump_up(stream: &TcpStream, send: &mut SendStream<Bytes>) -> Result<(), NetError> {
    loop {
        let chunk = tokio::select! {
            biased;
            chunk = stream.read_chunk(FRAME as usize) => chunk?,
            _ = std::future::poll_fn(|cx| send.poll_reset(cx)) => {
                return Err(NetError::ConnectionReset);
            }
        };
        let Some(mut chunk) = chunk else {
            return send.send_data(Bytes::new(), true).map_err(|_| NetError::ConnectionReset);
        };
        while !chunk.is_empty() {
            send.reserve_capacity(chunk.len());
            let granted = std::future::poll_fn(|cx| send.poll_capacity(cx)).await;
            let granted = granted.and_then(Result::ok).ok_or(NetError::ConnectionReset)?;
            let part = chunk.split_to(granted.min(chunk.len()));
            send.send_data(part, false).map_err(|_| NetError::ConnectionReset)?;
        }
    }
}

async fn pump_down(stream: &TcpStream, mut recv: RecvStream) -> Result<(), NetError> {
    while let Some(chunk) = recv.data().await {
        let chunk = chunk.map_err(|_| NetError::ConnectionReset)?;
        let len = chunk.len();
        stream.write_chunk(chunk).await?;
        // The window opens again only once the pod's own queue has taken the bytes.
        recv.flow_control().release_capacity(len).map_err(|_| NetError::ConnectionReset)?;
    }
    stream.shutdown_half(Shutdown::Write);
    Ok(())
}
