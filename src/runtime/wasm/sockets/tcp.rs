//! `wasi:sockets/tcp`.
//!
//! ```text
//!   Default ─ start-bind ─► Bound ─ start-listen ─► Listening
//!      └──────┬──────────────┘
//!        start-connect ─► Connecting ─► Connected
//!                              └──────► Closed(error)
//! ```

use std::sync::Arc;

use wasmtime::component::Resource;
use wasmtime_wasi_io::poll::{DynPollable, Pollable};
use wasmtime_wasi_io::streams::{DynInputStream, DynOutputStream};

use super::address::{is_of_family, is_remote, is_unicast, to_std, to_wit};
use super::bindings::wasi::sockets::network::{ErrorCode, IpAddressFamily, IpSocketAddress};
use super::bindings::wasi::sockets::tcp::{self, ShutdownType};
use super::bindings::wasi::sockets::tcp_create_socket;
use super::options::{self, Options};
use super::streams::{TcpInput, TcpOutput};
use super::{Awaited, Network, Server, SocketResult, SocketsView, net_error, trap};
use crate::net::{BoundTcp, NetError, Shutdown, TcpListener, TcpStream};

enum State {
    Default,
    Bound(BoundTcp),
    Listening(TcpListener),
    Connecting(Awaited<Result<TcpStream, NetError>>),
    Connected(Arc<TcpStream>),
    Closed(ErrorCode),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pending {
    Bind,
    Connect,
    Listen,
}

/// A guest's TCP socket.
pub struct TcpSocket {
    family: IpAddressFamily,
    state: State,
    pending: Option<Pending>,
    options: Options,
}

type Streams = (Resource<DynInputStream>, Resource<DynOutputStream>);

impl TcpSocket {
    fn new(family: IpAddressFamily, state: State, options: Options) -> Self {
        Self { family, state, pending: None, options }
    }

    fn begin(&self) -> Result<(), ErrorCode> {
        match self.pending {
            Some(_) => Err(ErrorCode::ConcurrencyConflict),
            None => Ok(()),
        }
    }

    fn finish(&mut self, pending: Pending) -> Result<(), ErrorCode> {
        if self.pending != Some(pending) {
            return Err(ErrorCode::NotInProgress);
        }
        self.pending = None;
        Ok(())
    }

    /// Options can be used but while connecting and after a failure.
    fn usable(&self) -> Result<(), ErrorCode> {
        match &self.state {
            State::Connecting(_) => Err(ErrorCode::InvalidState),
            State::Closed(error) => Err(*error),
            _ => Ok(()),
        }
    }

    fn options(&self) -> Result<&Options, ErrorCode> {
        self.usable().map(|()| &self.options)
    }

    fn take_state(&mut self) -> State {
        std::mem::replace(&mut self.state, State::Closed(ErrorCode::InvalidState))
    }
}

#[async_trait::async_trait]
impl Pollable for TcpSocket {
    async fn ready(&mut self) {
        match (&mut self.state, self.pending) {
            (State::Connecting(connect), _) => connect.wait().await,
            (State::Listening(listener), None) => {
                std::future::poll_fn(|cx| listener.poll_acceptable(cx)).await;
            }
            _ => {}
        }
    }
}

impl SocketsView<'_> {
    fn tcp(&mut self, socket: &Resource<TcpSocket>) -> SocketResult<&mut TcpSocket> {
        self.table.get_mut(socket).map_err(trap)
    }

    fn push_streams(
        &mut self,
        socket: &Resource<TcpSocket>,
        stream: Arc<TcpStream>,
    ) -> SocketResult<Streams> {
        let input: DynInputStream = Box::new(TcpInput::new(stream.clone()));
        let output: DynOutputStream = Box::new(TcpOutput::new(stream));
        Ok((
            self.table.push_child(input, socket).map_err(trap)?,
            self.table.push_child(output, socket).map_err(trap)?,
        ))
    }
}

impl tcp_create_socket::Host for SocketsView<'_> {
    fn create_tcp_socket(&mut self, family: IpAddressFamily) -> SocketResult<Resource<TcpSocket>> {
        let socket = TcpSocket::new(family, State::Default, Options::default());
        self.table.push(socket).map_err(trap)
    }
}

impl tcp::Host for SocketsView<'_> {}

impl tcp::HostTcpSocket for SocketsView<'_> {
    fn start_bind(
        &mut self,
        this: Resource<TcpSocket>,
        network: Resource<Network>,
        local_address: IpSocketAddress,
    ) -> SocketResult<()> {
        self.table.get(&network).map_err(trap)?;
        let namespace = self.ctx.namespace.clone();
        let socket = self.tcp(&this)?;
        socket.begin()?;
        if !matches!(socket.state, State::Default) {
            return Err(ErrorCode::InvalidState.into());
        }
        let address = to_std(local_address);
        if !is_unicast(address.ip()) || !is_of_family(address.ip(), socket.family) {
            return Err(ErrorCode::InvalidArgument.into());
        }
        socket.state = State::Bound(namespace.bind_tcp(address).map_err(net_error)?);
        socket.pending = Some(Pending::Bind);
        Ok(())
    }

    fn finish_bind(&mut self, this: Resource<TcpSocket>) -> SocketResult<()> {
        Ok(self.tcp(&this)?.finish(Pending::Bind)?)
    }

    fn start_connect(
        &mut self,
        this: Resource<TcpSocket>,
        network: Resource<Network>,
        remote_address: IpSocketAddress,
    ) -> SocketResult<()> {
        self.table.get(&network).map_err(trap)?;
        let namespace = self.ctx.namespace.clone();
        let socket = self.tcp(&this)?;
        socket.begin()?;
        if !matches!(socket.state, State::Default | State::Bound(_)) {
            return Err(ErrorCode::InvalidState.into());
        }
        let address = to_std(remote_address);
        let fits = is_unicast(address.ip()) && is_of_family(address.ip(), socket.family);
        if !fits || !is_remote(address) {
            return Err(ErrorCode::InvalidArgument.into());
        }
        let connect = match socket.take_state() {
            State::Bound(bound) => {
                Awaited::start(&namespace, async move { bound.connect(address).await })
            }
            _ => {
                let from = namespace.clone();
                Awaited::start(&namespace, async move { from.connect(address).await })
            }
        };
        socket.state = State::Connecting(connect);
        socket.pending = Some(Pending::Connect);
        Ok(())
    }

    fn finish_connect(&mut self, this: Resource<TcpSocket>) -> SocketResult<Streams> {
        let socket = self.tcp(&this)?;
        if socket.pending != Some(Pending::Connect) {
            return Err(ErrorCode::NotInProgress.into());
        }
        if let State::Connecting(connect) = &mut socket.state
            && connect.get().is_none()
        {
            return Err(ErrorCode::WouldBlock.into());
        }
        socket.pending = None;
        let State::Connecting(mut connect) = socket.take_state() else {
            return Err(ErrorCode::InvalidState.into());
        };
        let result = connect.get().expect("seen to be ready");
        let result = std::mem::replace(result, Err(NetError::InvalidState));
        match result {
            Ok(stream) => {
                let stream = Arc::new(stream);
                socket.state = State::Connected(stream.clone());
                self.push_streams(&this, stream)
            }
            Err(error) => {
                socket.state = State::Closed(error.into());
                Err(net_error(error))
            }
        }
    }

    fn start_listen(&mut self, this: Resource<TcpSocket>) -> SocketResult<()> {
        let handle = self.ctx.handle.clone();
        let socket = self.tcp(&this)?;
        socket.begin()?;
        if !matches!(socket.state, State::Bound(_)) {
            return Err(ErrorCode::InvalidState.into());
        }
        let State::Bound(bound) = socket.take_state() else { unreachable!("seen to be bound") };
        let listener = bound.listen(socket.options.backlog);
        handle.add(Server::Listener(listener.closer()));
        socket.state = State::Listening(listener);
        socket.pending = Some(Pending::Listen);
        Ok(())
    }

    fn finish_listen(&mut self, this: Resource<TcpSocket>) -> SocketResult<()> {
        Ok(self.tcp(&this)?.finish(Pending::Listen)?)
    }

    fn accept(
        &mut self,
        this: Resource<TcpSocket>,
    ) -> SocketResult<(Resource<TcpSocket>, Resource<DynInputStream>, Resource<DynOutputStream>)>
    {
        let socket = self.tcp(&this)?;
        let State::Listening(listener) = &socket.state else {
            return Err(ErrorCode::InvalidState.into());
        };
        let stream = Arc::new(listener.try_accept().map_err(net_error)?);
        let state = State::Connected(stream.clone());
        let accepted = TcpSocket::new(socket.family, state, socket.options.clone());
        let accepted = self.table.push(accepted).map_err(trap)?;
        let (input, output) = self.push_streams(&accepted, stream)?;
        Ok((accepted, input, output))
    }

    fn local_address(&mut self, this: Resource<TcpSocket>) -> SocketResult<IpSocketAddress> {
        let socket = self.tcp(&this)?;
        let address = match &socket.state {
            State::Bound(bound) => bound.local_addr(),
            State::Listening(listener) => listener.local_addr(),
            State::Connected(stream) => stream.local_addr(),
            State::Closed(error) => return Err((*error).into()),
            State::Default | State::Connecting(_) => return Err(ErrorCode::InvalidState.into()),
        };
        Ok(to_wit(address, socket.family))
    }

    fn remote_address(&mut self, this: Resource<TcpSocket>) -> SocketResult<IpSocketAddress> {
        let socket = self.tcp(&this)?;
        match &socket.state {
            State::Connected(stream) => Ok(to_wit(stream.peer_addr(), socket.family)),
            State::Closed(error) => Err((*error).into()),
            _ => Err(ErrorCode::InvalidState.into()),
        }
    }

    fn is_listening(&mut self, this: Resource<TcpSocket>) -> wasmtime::Result<bool> {
        Ok(matches!(self.table.get(&this)?.state, State::Listening(_)))
    }

    fn address_family(&mut self, this: Resource<TcpSocket>) -> wasmtime::Result<IpAddressFamily> {
        Ok(self.table.get(&this)?.family)
    }

    fn set_listen_backlog_size(
        &mut self,
        this: Resource<TcpSocket>,
        value: u64,
    ) -> SocketResult<()> {
        let backlog = options::backlog(value)?;
        let socket = self.tcp(&this)?;
        match &socket.state {
            State::Default | State::Bound(_) => {}
            State::Listening(listener) => listener.set_backlog(backlog),
            State::Closed(error) => return Err((*error).into()),
            _ => return Err(ErrorCode::InvalidState.into()),
        }
        socket.options.backlog = backlog;
        Ok(())
    }

    fn keep_alive_enabled(&mut self, this: Resource<TcpSocket>) -> SocketResult<bool> {
        Ok(self.tcp(&this)?.options()?.keep_alive)
    }

    fn set_keep_alive_enabled(&mut self, this: Resource<TcpSocket>, on: bool) -> SocketResult<()> {
        let socket = self.tcp(&this)?;
        socket.usable()?;
        socket.options.keep_alive = on;
        Ok(())
    }

    fn keep_alive_idle_time(&mut self, this: Resource<TcpSocket>) -> SocketResult<u64> {
        Ok(self.tcp(&this)?.options()?.keep_alive_idle)
    }

    fn set_keep_alive_idle_time(&mut self, this: Resource<TcpSocket>, v: u64) -> SocketResult<()> {
        let value = options::keep_alive_time(v)?;
        let socket = self.tcp(&this)?;
        socket.usable()?;
        socket.options.keep_alive_idle = value;
        Ok(())
    }

    fn keep_alive_interval(&mut self, this: Resource<TcpSocket>) -> SocketResult<u64> {
        Ok(self.tcp(&this)?.options()?.keep_alive_interval)
    }

    fn set_keep_alive_interval(&mut self, this: Resource<TcpSocket>, v: u64) -> SocketResult<()> {
        let value = options::keep_alive_time(v)?;
        let socket = self.tcp(&this)?;
        socket.usable()?;
        socket.options.keep_alive_interval = value;
        Ok(())
    }

    fn keep_alive_count(&mut self, this: Resource<TcpSocket>) -> SocketResult<u32> {
        Ok(self.tcp(&this)?.options()?.keep_alive_count)
    }

    fn set_keep_alive_count(&mut self, this: Resource<TcpSocket>, v: u32) -> SocketResult<()> {
        let value = options::keep_alive_count(v)?;
        let socket = self.tcp(&this)?;
        socket.usable()?;
        socket.options.keep_alive_count = value;
        Ok(())
    }

    fn hop_limit(&mut self, this: Resource<TcpSocket>) -> SocketResult<u8> {
        Ok(self.tcp(&this)?.options()?.hop_limit)
    }

    fn set_hop_limit(&mut self, this: Resource<TcpSocket>, value: u8) -> SocketResult<()> {
        let value = options::hop_limit(value)?;
        let socket = self.tcp(&this)?;
        socket.usable()?;
        socket.options.hop_limit = value;
        Ok(())
    }

    fn receive_buffer_size(&mut self, this: Resource<TcpSocket>) -> SocketResult<u64> {
        Ok(self.tcp(&this)?.options()?.receive_buffer)
    }

    fn set_receive_buffer_size(&mut self, this: Resource<TcpSocket>, v: u64) -> SocketResult<()> {
        let value = options::buffer_size(v)?;
        let socket = self.tcp(&this)?;
        socket.usable()?;
        socket.options.receive_buffer = value;
        Ok(())
    }

    fn send_buffer_size(&mut self, this: Resource<TcpSocket>) -> SocketResult<u64> {
        Ok(self.tcp(&this)?.options()?.send_buffer)
    }

    fn set_send_buffer_size(&mut self, this: Resource<TcpSocket>, v: u64) -> SocketResult<()> {
        let value = options::buffer_size(v)?;
        let socket = self.tcp(&this)?;
        socket.usable()?;
        socket.options.send_buffer = value;
        Ok(())
    }

    fn subscribe(&mut self, this: Resource<TcpSocket>) -> wasmtime::Result<Resource<DynPollable>> {
        wasmtime_wasi_io::poll::subscribe(self.table, this)
    }

    fn shutdown(&mut self, this: Resource<TcpSocket>, how: ShutdownType) -> SocketResult<()> {
        let State::Connected(stream) = &self.tcp(&this)?.state else {
            return Err(ErrorCode::InvalidState.into());
        };
        stream.shutdown_half(match how {
            ShutdownType::Receive => Shutdown::Read,
            ShutdownType::Send => Shutdown::Write,
            ShutdownType::Both => Shutdown::Both,
        });
        Ok(())
    }

    fn drop(&mut self, this: Resource<TcpSocket>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}
