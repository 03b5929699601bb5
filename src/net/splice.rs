//! Joins an end of a virtual connection to a byte stream of the host (a socket, a tunnel),
//! with half-closes and resets carried across.

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::NetError;
use super::stream::{Shutdown, TcpStream};

/// Bytes that are read from the host at once.
const READ_SIZE: usize = 64 * 1024;

/// How a spliced connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Both directions came to their end.
    Orderly,
    /// One side broke off; the other should be reset.
    Reset,
}

/// Carries bytes both ways until both directions have ended or one breaks.
pub(crate) async fn splice<S>(stream: TcpStream, io: &mut S) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut reader, mut writer) = tokio::io::split(io);
    let up = async {
        loop {
            match stream.read_chunk(READ_SIZE).await? {
                Some(mut bytes) => writer.write_all_buf(&mut bytes).await.map_err(broken)?,
                None => return writer.shutdown().await.map_err(broken),
            }
        }
    };
    let down = async {
        let mut buffer = BytesMut::with_capacity(READ_SIZE);
        loop {
            buffer.reserve(READ_SIZE / 4);
            if reader.read_buf(&mut buffer).await.map_err(broken)? == 0 {
                stream.shutdown_half(Shutdown::Write);
                return Ok(());
            }
            stream.write_chunk(buffer.split().freeze()).await?;
        }
    };
    match tokio::try_join!(up, down) {
        Ok(_) => Ended::Orderly,
        Err(NetError::WouldBlock) => unreachable!("both directions wait"),
        Err(_) => {
            stream.reset();
            Ended::Reset
        }
    }
}

fn broken(error: std::io::Error) -> NetError {
    NetError::from(&error)
}

/// Splices with a socket of the host, and resets it where the virtual side was reset.
pub(crate) async fn splice_socket(stream: TcpStream, mut socket: tokio::net::TcpStream) {
    if splice(stream, &mut socket).await == Ended::Reset {
        // Zero linger turns the close into RST.
        let _ = socket2::SockRef::from(&socket).set_linger(Some(std::time::Duration::ZERO));
    }
}
