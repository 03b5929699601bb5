//! The network of the host as the namespace of those pods that ask for it (`hostNetwork`). Nothing
//! is caught here: their processes use the host's sockets. The virtual network reaches them by a
//! plain connect; datagrams to them go the host's own ways.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures::future::BoxFuture;

use crate::net::{Caught, CaughtDatagram, KernelNamespace, Refused};

/// See the module.
pub struct HostNet;

impl KernelNamespace for HostNet {
    fn connect(
        &self,
        _from: SocketAddr,
        to: SocketAddr,
    ) -> BoxFuture<'static, io::Result<tokio::net::TcpStream>> {
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect(to).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        })
    }

    fn listen(&self, at: SocketAddr) -> io::Result<tokio::net::TcpListener> {
        let listener = std::net::TcpListener::bind(at)?;
        listener.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(listener)
    }

    fn bind_udp(&self, at: SocketAddr) -> io::Result<Arc<tokio::net::UdpSocket>> {
        let socket = std::net::UdpSocket::bind(at)?;
        socket.set_nonblocking(true)?;
        tokio::net::UdpSocket::from_std(socket).map(Arc::new)
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<Caught>> {
        Box::pin(std::future::pending())
    }

    fn recv(&self) -> BoxFuture<'_, io::Result<CaughtDatagram>> {
        Box::pin(std::future::pending())
    }

    fn send(&self, _from: SocketAddr, _to: SocketAddr, _data: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn refuse(&self, _refused: Refused) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }
}
