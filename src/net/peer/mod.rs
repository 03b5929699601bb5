//! What travels between nodes, on the streams of [`crate::link::peer`].
//!
//! A TCP connection of the virtual network is one stream (`POST /tcp` with its addresses in
//! headers), so half-closes and resets arrive as they were made. Datagrams of all pods share one
//! stream a direction (`POST /udp`), framed.
//!
//! The dialling node says which pod connects; the serving node believes only addresses of that
//! node's own pod range.

mod datagram;
mod link;
mod serve;

use std::net::SocketAddr;

use futures::future::BoxFuture;
use http::StatusCode;

use super::NetError;
use super::stream::{Shutdown, TcpStream};
use crate::link::peer::{Peer, PeerError, PeerStream};

pub(crate) use link::PeerLink;
pub(crate) use serve::serve;

/// Bytes that are put on a link at once.
const CHUNK: usize = 64 * 1024;

const SOURCE: &str = "coracle-source";
const DESTINATION: &str = "coracle-destination";

/// Dials other nodes.
pub trait PeerDialer: Send + Sync + 'static {
    /// Opens a link on which both ends have proved who they are; it must fail where the node at
    /// `address` is not `node`.
    fn dial(&self, node: &str, address: SocketAddr) -> BoxFuture<'static, Result<Peer, PeerError>>;
}

/// What a refusal looks like on the link.
fn status_of(error: NetError) -> StatusCode {
    match error {
        NetError::HostUnreachable => StatusCode::NOT_FOUND,
        NetError::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        NetError::AccessDenied => StatusCode::FORBIDDEN,
        NetError::TooManySockets => StatusCode::TOO_MANY_REQUESTS,
        NetError::NetworkDown => StatusCode::SERVICE_UNAVAILABLE,
        NetError::InvalidArgument => StatusCode::BAD_REQUEST,
        _ => StatusCode::BAD_GATEWAY,
    }
}

/// What a refusal of the link means.
fn error_of(status: StatusCode) -> NetError {
    match status {
        StatusCode::NOT_FOUND => NetError::HostUnreachable,
        StatusCode::GATEWAY_TIMEOUT => NetError::TimedOut,
        StatusCode::FORBIDDEN => NetError::AccessDenied,
        StatusCode::TOO_MANY_REQUESTS => NetError::TooManySockets,
        StatusCode::SERVICE_UNAVAILABLE => NetError::NetworkDown,
        _ => NetError::ConnectionRefused,
    }
}

/// Carries a connection over a stream of the link until both directions have ended or one breaks.
async fn carry(stream: TcpStream, on_link: PeerStream) {
    let (mut send, mut recv) = on_link.into_split();
    let up = async {
        while let Some(chunk) = stream.read_chunk(CHUNK).await? {
            send.send(chunk).await.map_err(|error| NetError::from(&error))?;
        }
        send.finish().map_err(|error| NetError::from(&error))
    };
    let down = async {
        while let Some(chunk) = recv.next().await.map_err(|error| NetError::from(&error))? {
            stream.write_chunk(chunk).await?;
        }
        stream.shutdown_half(Shutdown::Write);
        Ok::<_, NetError>(())
    };
    if tokio::try_join!(up, down).is_err() {
        stream.reset();
        send.reset();
    }
}
