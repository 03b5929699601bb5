//! A connection of the virtual network, seen from one of its ends.
//!
//! Two [`Queue`]s, one a direction, in the memory of the worker. Dropping the last handle closes
//! as TCP does: with all input read the peer sees the end (FIN), with unread input it sees
//! `connection-reset` (RST).

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::NetError;
use super::counters::Traffic;
use super::queue::{Meter, Queue, STREAM_CAPACITY};

/// Which half [`TcpStream::shutdown_half`] ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    Read,
    Write,
    Both,
}

/// Something that stays alive as long as a connection does, as a seat in a count.
pub(crate) type Seat = Box<dyn std::any::Any + Send + Sync>;

/// One end of a connection. All methods take `&self`, so an `Arc` of it can be shared by a reader
/// and a writer; it closes when the last handle is dropped.
pub struct TcpStream {
    local: SocketAddr,
    peer: SocketAddr,
    rx: Arc<Queue>,
    tx: Arc<Queue>,
    seat: Option<Seat>,
}

/// The two ends of a connection that is being made.
pub(crate) struct Ends {
    pub(crate) client: TcpStream,
    pub(crate) server: TcpStream,
}

/// What the ends of a new connection are made from.
pub(crate) struct Wiring<'a> {
    pub(crate) client: SocketAddr,
    /// The address that the client believes to talk to.
    pub(crate) server_seen: SocketAddr,
    /// The address that the server is reached at.
    pub(crate) server: SocketAddr,
    pub(crate) client_meter: &'a Arc<Meter>,
    pub(crate) server_meter: &'a Arc<Meter>,
    pub(crate) traffic: Option<&'a Traffic>,
}

impl Wiring<'_> {
    /// Makes the two ends.
    pub(crate) fn connect(self) -> Ends {
        let up = self.traffic.map(|t| t.bytes_in.clone());
        let down = self.traffic.map(|t| t.bytes_out.clone());
        let to_server = Queue::new(STREAM_CAPACITY, self.server_meter.clone(), up);
        let to_client = Queue::new(STREAM_CAPACITY, self.client_meter.clone(), down);
        Ends {
            client: TcpStream {
                local: self.client,
                peer: self.server_seen,
                rx: to_client.clone(),
                tx: to_server.clone(),
                seat: None,
            },
            server: TcpStream {
                local: self.server,
                peer: self.client,
                rx: to_server,
                tx: to_client,
                seat: None,
            },
        }
    }
}

impl TcpStream {
    /// This end's address.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The other end's address, as this end knows it: a Service's where it dialled a Service.
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    pub(crate) fn hold(&mut self, seat: Seat) {
        self.seat = Some(seat);
    }

    pub(crate) fn take_seat(&mut self) -> Option<Seat> {
        self.seat.take()
    }

    /// Takes up to `max` bytes that have arrived. `Ok(None)`: the peer has finished.
    ///
    /// # Errors
    /// `WouldBlock`, `ConnectionReset`.
    pub fn try_read(&self, max: usize) -> Result<Option<Bytes>, NetError> {
        self.rx.try_read(max)
    }

    /// Ready when [`Self::try_read`] would not block.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.rx.poll_readable(cx)
    }

    /// Takes from the front of `bytes` as much as there is room for and says how much.
    ///
    /// # Errors
    /// `WouldBlock`, `BrokenPipe`, `ConnectionReset`.
    pub fn try_write(&self, bytes: &mut Bytes) -> Result<usize, NetError> {
        self.tx.try_write(bytes)
    }

    /// Writes all of `bytes`, at most as many as the last [`Self::writable`] allowed.
    ///
    /// # Errors
    /// `BrokenPipe`, `ConnectionReset`.
    pub fn write_permitted(&self, bytes: Bytes) -> Result<(), NetError> {
        self.tx.write_permitted(bytes)
    }

    /// How many bytes a write would take now.
    ///
    /// # Errors
    /// `BrokenPipe`, `ConnectionReset`.
    pub fn writable(&self) -> Result<usize, NetError> {
        self.tx.writable()
    }

    /// Ready when [`Self::try_write`] would not block.
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.tx.poll_writable(cx)
    }

    /// Ends one half or both. The writing half ends with FIN, after what was written.
    pub fn shutdown_half(&self, how: Shutdown) {
        if how != Shutdown::Read {
            self.tx.finish();
        }
        if how != Shutdown::Write {
            self.rx.shut_reader();
        }
    }

    /// Breaks the connection at once (RST).
    pub fn reset(&self) {
        self.tx.reset();
        self.rx.drop_reader();
        self.rx.reset_writer();
    }

    /// Waits until there is something to read and takes it. `Ok(None)`: the peer has finished.
    ///
    /// # Errors
    /// `ConnectionReset`.
    pub async fn read_chunk(&self, max: usize) -> Result<Option<Bytes>, NetError> {
        loop {
            match self.try_read(max) {
                Err(NetError::WouldBlock) => {
                    std::future::poll_fn(|cx| self.poll_readable(cx)).await;
                }
                other => return other,
            }
        }
    }

    /// Writes all of `bytes`, waiting for room.
    ///
    /// # Errors
    /// `BrokenPipe`, `ConnectionReset`.
    pub async fn write_chunk(&self, mut bytes: Bytes) -> Result<(), NetError> {
        while !bytes.is_empty() {
            match self.try_write(&mut bytes) {
                Err(NetError::WouldBlock) => {
                    std::future::poll_fn(|cx| self.poll_writable(cx)).await;
                }
                other => {
                    other?;
                }
            }
        }
        Ok(())
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        if self.rx.drop_reader() {
            self.tx.reset();
            self.rx.reset_writer();
        } else {
            self.tx.finish();
        }
    }
}

impl std::fmt::Debug for TcpStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TcpStream({} -> {})", self.local, self.peer)
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            match self.try_read(buf.remaining()) {
                Ok(Some(bytes)) => {
                    buf.put_slice(&bytes);
                    return Poll::Ready(Ok(()));
                }
                Ok(None) => return Poll::Ready(Ok(())),
                Err(NetError::WouldBlock) => ready!(self.poll_readable(cx)),
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        loop {
            match self.writable() {
                Ok(0) => ready!(self.poll_writable(cx)),
                Ok(room) => {
                    let mut bytes = Bytes::copy_from_slice(&buf[..room.min(buf.len())]);
                    match self.try_write(&mut bytes) {
                        Err(NetError::WouldBlock) => {}
                        other => return Poll::Ready(other.map_err(Into::into)),
                    }
                }
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shutdown_half(Shutdown::Write);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn ends() -> (TcpStream, TcpStream) {
        let meter = Meter::new(usize::MAX);
        let ends = Wiring {
            client: ([10, 0, 0, 1], 40_000).into(),
            server_seen: ([10, 0, 0, 2], 80).into(),
            server: ([10, 0, 0, 2], 80).into(),
            client_meter: &meter,
            server_meter: &meter,
            traffic: None,
        }
        .connect();
        (ends.client, ends.server)
    }

    #[tokio::test]
    async fn bytes_accepted_before_a_drop_arrive_and_then_the_end() {
        let (client, mut server) = ends();
        client.write_chunk(Bytes::from_static(b"goodbye")).await.expect("room");
        drop(client);
        let mut text = String::new();
        server.read_to_string(&mut text).await.expect("an orderly end");
        assert_eq!(text, "goodbye");
        assert_eq!(server.try_write(&mut Bytes::from_static(b"x")), Err(NetError::BrokenPipe));
    }

    #[tokio::test]
    async fn closing_with_unread_input_resets() {
        let (client, server) = ends();
        client.write_chunk(Bytes::from_static(b"question")).await.expect("room");
        server.write_chunk(Bytes::from_static(b"answer")).await.expect("room");
        drop(server);
        assert_eq!(client.try_write(&mut Bytes::from_static(b"x")), Err(NetError::ConnectionReset));
        assert_eq!(client.try_read(99), Ok(Some(Bytes::from_static(b"answer"))));
        assert_eq!(client.try_read(99), Err(NetError::ConnectionReset));
    }

    #[tokio::test]
    async fn a_half_closed_stream_still_carries_the_other_direction() {
        let (mut client, mut server) = ends();
        client.write_all(b"all I have").await.expect("room");
        client.shutdown().await.expect("a shutdown");
        let mut text = String::new();
        server.read_to_string(&mut text).await.expect("the end of the input");
        server.write_all(text.to_uppercase().as_bytes()).await.expect("the other direction");
        drop(server);
        text.clear();
        client.read_to_string(&mut text).await.expect("the answer");
        assert_eq!(text, "ALL I HAVE");
    }

    #[tokio::test]
    async fn a_reset_reaches_both_directions() {
        let (client, server) = ends();
        client.reset();
        assert_eq!(server.try_read(9), Err(NetError::ConnectionReset));
        assert_eq!(server.try_write(&mut Bytes::from_static(b"x")), Err(NetError::ConnectionReset));
    }

    #[tokio::test]
    async fn a_blocked_writer_goes_on_when_the_reader_reads() {
        let (mut client, mut server) = ends();
        let total = STREAM_CAPACITY * 3 + 17;
        let writer = tokio::spawn(async move {
            client.write_all(&vec![7; total]).await.expect("all is read");
        });
        let mut all = Vec::new();
        server.read_to_end(&mut all).await.expect("an orderly end");
        writer.await.expect("no panic");
        assert_eq!(all.len(), total);
    }
}
