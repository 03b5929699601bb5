//! `wasi:sockets/udp`.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use wasmtime::component::Resource;
use wasmtime_wasi_io::poll::{DynPollable, Pollable};

use super::address::{is_of_family, is_remote, to_std, to_wit};
use super::bindings::wasi::sockets::network::{ErrorCode, IpAddressFamily, IpSocketAddress};
use super::bindings::wasi::sockets::udp::{self, IncomingDatagram, OutgoingDatagram};
use super::bindings::wasi::sockets::udp_create_socket;
use super::options::{self, Options};
use super::{Network, Server, SocketError, SocketResult, SocketsView, net_error, trap};
use crate::net;

/// Datagrams that one call takes or gives, and bytes that one receive gives.
const DATAGRAMS: usize = 16;
const RECEIVE_BYTES: usize = 64 * 1024;

/// A guest's UDP socket.
pub struct UdpSocket {
    family: IpAddressFamily,
    bound: Option<Arc<net::UdpSocket>>,
    remote: Option<SocketAddr>,
    binding: bool,
    options: Options,
}

/// The receiving side of a bound socket.
pub struct IncomingDatagrams {
    socket: Arc<net::UdpSocket>,
    family: IpAddressFamily,
    /// Only what comes from here, where the socket is connected.
    remote: Option<SocketAddr>,
}

/// The sending side of a bound socket.
pub struct OutgoingDatagrams {
    socket: Arc<net::UdpSocket>,
    family: IpAddressFamily,
    remote: Option<SocketAddr>,
    /// Datagrams that the last `check-send` allowed.
    permit: usize,
}

#[async_trait::async_trait]
impl Pollable for UdpSocket {
    async fn ready(&mut self) {}
}

#[async_trait::async_trait]
impl Pollable for IncomingDatagrams {
    async fn ready(&mut self) {
        std::future::poll_fn(|cx| self.socket.poll_readable(cx)).await;
    }
}

#[async_trait::async_trait]
impl Pollable for OutgoingDatagrams {
    async fn ready(&mut self) {}
}

impl SocketsView<'_> {
    fn udp(&mut self, socket: &Resource<UdpSocket>) -> SocketResult<&mut UdpSocket> {
        self.table.get_mut(socket).map_err(trap)
    }
}

impl udp_create_socket::Host for SocketsView<'_> {
    fn create_udp_socket(&mut self, family: IpAddressFamily) -> SocketResult<Resource<UdpSocket>> {
        let options = Options::default();
        let socket = UdpSocket { family, bound: None, remote: None, binding: false, options };
        self.table.push(socket).map_err(trap)
    }
}

impl udp::Host for SocketsView<'_> {}

impl udp::HostUdpSocket for SocketsView<'_> {
    fn start_bind(
        &mut self,
        this: Resource<UdpSocket>,
        network: Resource<Network>,
        local_address: IpSocketAddress,
    ) -> SocketResult<()> {
        self.table.get(&network).map_err(trap)?;
        let namespace = self.ctx.namespace.clone();
        let handle = self.ctx.handle.clone();
        let socket = self.udp(&this)?;
        if socket.binding {
            return Err(ErrorCode::ConcurrencyConflict.into());
        }
        if socket.bound.is_some() {
            return Err(ErrorCode::InvalidState.into());
        }
        let address = to_std(local_address);
        if !is_of_family(address.ip(), socket.family) {
            return Err(ErrorCode::InvalidArgument.into());
        }
        let bound = namespace.bind_udp(address).map_err(net_error)?;
        if address.port() != 0 {
            handle.add(Server::Datagrams(bound.closer()));
        }
        socket.bound = Some(Arc::new(bound));
        socket.binding = true;
        Ok(())
    }

    fn finish_bind(&mut self, this: Resource<UdpSocket>) -> SocketResult<()> {
        let socket = self.udp(&this)?;
        if !std::mem::take(&mut socket.binding) {
            return Err(ErrorCode::NotInProgress.into());
        }
        Ok(())
    }

    fn stream(
        &mut self,
        this: Resource<UdpSocket>,
        remote_address: Option<IpSocketAddress>,
    ) -> SocketResult<(Resource<IncomingDatagrams>, Resource<OutgoingDatagrams>)> {
        let streams = self.table.iter_children(&this).map_err(trap)?;
        let mut streams =
            streams.filter(|c| c.is::<IncomingDatagrams>() || c.is::<OutgoingDatagrams>());
        if streams.next().is_some() {
            return Err(trap(wasmtime::format_err!("UDP streams not dropped yet")));
        }
        drop(streams);
        let socket = self.udp(&this)?;
        let bound = socket.bound.clone().ok_or(ErrorCode::InvalidState)?;
        let remote = remote_address.map(to_std);
        if let Some(remote) = remote
            && (!is_of_family(remote.ip(), socket.family) || !is_remote(remote))
        {
            return Err(ErrorCode::InvalidArgument.into());
        }
        socket.remote = remote;
        let family = socket.family;
        let incoming = IncomingDatagrams { socket: bound.clone(), family, remote };
        let outgoing = OutgoingDatagrams { socket: bound, family, remote, permit: 0 };
        Ok((
            self.table.push_child(incoming, &this).map_err(trap)?,
            self.table.push_child(outgoing, &this).map_err(trap)?,
        ))
    }

    fn local_address(&mut self, this: Resource<UdpSocket>) -> SocketResult<IpSocketAddress> {
        let socket = self.udp(&this)?;
        let bound = socket.bound.as_ref().ok_or(ErrorCode::InvalidState)?;
        Ok(to_wit(bound.local_addr(), socket.family))
    }

    fn remote_address(&mut self, this: Resource<UdpSocket>) -> SocketResult<IpSocketAddress> {
        let socket = self.udp(&this)?;
        let remote = socket.remote.ok_or(ErrorCode::InvalidState)?;
        Ok(to_wit(remote, socket.family))
    }

    fn address_family(&mut self, this: Resource<UdpSocket>) -> wasmtime::Result<IpAddressFamily> {
        Ok(self.table.get(&this)?.family)
    }

    fn unicast_hop_limit(&mut self, this: Resource<UdpSocket>) -> SocketResult<u8> {
        Ok(self.udp(&this)?.options.hop_limit)
    }

    fn set_unicast_hop_limit(&mut self, this: Resource<UdpSocket>, v: u8) -> SocketResult<()> {
        self.udp(&this)?.options.hop_limit = options::hop_limit(v)?;
        Ok(())
    }

    fn receive_buffer_size(&mut self, this: Resource<UdpSocket>) -> SocketResult<u64> {
        Ok(self.udp(&this)?.options.receive_buffer)
    }

    fn set_receive_buffer_size(&mut self, this: Resource<UdpSocket>, v: u64) -> SocketResult<()> {
        self.udp(&this)?.options.receive_buffer = options::buffer_size(v)?;
        Ok(())
    }

    fn send_buffer_size(&mut self, this: Resource<UdpSocket>) -> SocketResult<u64> {
        Ok(self.udp(&this)?.options.send_buffer)
    }

    fn set_send_buffer_size(&mut self, this: Resource<UdpSocket>, v: u64) -> SocketResult<()> {
        self.udp(&this)?.options.send_buffer = options::buffer_size(v)?;
        Ok(())
    }

    fn subscribe(&mut self, this: Resource<UdpSocket>) -> wasmtime::Result<Resource<DynPollable>> {
        wasmtime_wasi_io::poll::subscribe(self.table, this)
    }

    fn drop(&mut self, this: Resource<UdpSocket>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl udp::HostIncomingDatagramStream for SocketsView<'_> {
    fn receive(
        &mut self,
        this: Resource<IncomingDatagrams>,
        max_results: u64,
    ) -> SocketResult<Vec<IncomingDatagram>> {
        let stream = self.table.get(&this).map_err(trap)?;
        let max = usize::try_from(max_results).unwrap_or(usize::MAX).min(DATAGRAMS);
        let mut datagrams = Vec::new();
        let mut bytes = 0;
        while datagrams.len() < max && bytes < RECEIVE_BYTES {
            let Some(datagram) = stream.socket.try_recv() else { break };
            if stream.remote.is_some_and(|remote| remote != datagram.from) {
                continue;
            }
            bytes += 1 + datagram.data.len();
            datagrams.push(IncomingDatagram {
                data: datagram.data.into(),
                remote_address: to_wit(datagram.from, stream.family),
            });
        }
        if datagrams.is_empty() && max > 0 && stream.socket.is_closed() {
            return Err(ErrorCode::InvalidState.into());
        }
        Ok(datagrams)
    }

    fn subscribe(
        &mut self,
        this: Resource<IncomingDatagrams>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        wasmtime_wasi_io::poll::subscribe(self.table, this)
    }

    fn drop(&mut self, this: Resource<IncomingDatagrams>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl OutgoingDatagrams {
    fn send(&self, datagram: OutgoingDatagram) -> Result<(), ErrorCode> {
        let given = datagram.remote_address.map(to_std);
        let to = match (given, self.remote) {
            (None, Some(remote)) => remote,
            (Some(given), None) => given,
            (Some(given), Some(remote)) if given == remote => given,
            _ => return Err(ErrorCode::InvalidArgument),
        };
        if !is_remote(to) || !is_of_family(to.ip(), self.family) {
            return Err(ErrorCode::InvalidArgument);
        }
        self.socket.send_to(Bytes::from(datagram.data), to).map_err(Into::into)
    }
}

impl udp::HostOutgoingDatagramStream for SocketsView<'_> {
    fn check_send(&mut self, this: Resource<OutgoingDatagrams>) -> SocketResult<u64> {
        let stream = self.table.get_mut(&this).map_err(trap)?;
        stream.permit = DATAGRAMS;
        Ok(DATAGRAMS as u64)
    }

    fn send(
        &mut self,
        this: Resource<OutgoingDatagrams>,
        datagrams: Vec<OutgoingDatagram>,
    ) -> SocketResult<u64> {
        let stream = self.table.get_mut(&this).map_err(trap)?;
        if datagrams.is_empty() {
            return Ok(0);
        }
        if datagrams.len() > stream.permit {
            return Err(SocketError::trap(wasmtime::format_err!(
                "unpermitted: argument exceeds permitted size"
            )));
        }
        stream.permit = 0;
        let mut sent = 0;
        for datagram in datagrams {
            match stream.send(datagram) {
                Ok(()) => sent += 1,
                // What was sent is told; the error comes again with the next try.
                Err(_) if sent > 0 => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(sent)
    }

    fn subscribe(
        &mut self,
        this: Resource<OutgoingDatagrams>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        wasmtime_wasi_io::poll::subscribe(self.table, this)
    }

    fn drop(&mut self, this: Resource<OutgoingDatagrams>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}
