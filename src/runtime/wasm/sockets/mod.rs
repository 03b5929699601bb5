//! `wasi:sockets` 0.2 over the virtual network: a guest's sockets end in its pod's namespace.
//!
//! The interfaces come from our own copy of the signatures (`src/runtime/wit`), since
//! wasmtime-wasi's `Network` cannot be made outside of it. They are added over its own with
//! `allow_shadowing`. Error codes and states are those of wasmtime-wasi, so that a guest cannot
//! tell the difference but by what it reaches.

mod address;
mod bindings;
mod lookup;
mod options;
mod streams;
mod tcp;
mod udp;

use std::sync::Arc;

use parking_lot::Mutex;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};

use crate::net::{ListenerCloser, Namespace, NetError, UdpCloser};

use bindings::wasi::sockets::network::{self, ErrorCode};
use bindings::wasi::sockets::{
    instance_network, ip_name_lookup, tcp as tcp_api, tcp_create_socket, udp as udp_api,
    udp_create_socket,
};

/// An error of the guest's, or a trap.
pub type SocketError = wasmtime_wasi::TrappableError<ErrorCode>;

type SocketResult<T> = Result<T, SocketError>;

/// The capability to use the network of the pod.
pub struct Network;

/// The sockets of one guest: its namespace, and what listens in it.
pub struct SocketsCtx {
    namespace: Arc<Namespace>,
    handle: Arc<SocketsHandle>,
}

impl SocketsCtx {
    /// Sockets that end in `namespace`.
    pub fn new(namespace: Arc<Namespace>) -> Self {
        Self { namespace, handle: Arc::default() }
    }

    /// A handle for whoever ends the guest.
    pub fn handle(&self) -> Arc<SocketsHandle> {
        self.handle.clone()
    }
}

/// Reaches a guest's listening sockets from outside of it.
#[derive(Debug, Default)]
pub struct SocketsHandle {
    servers: Mutex<Vec<Server>>,
}

/// A socket that others can come to.
#[derive(Debug)]
enum Server {
    Listener(ListenerCloser),
    /// A UDP socket at a port of the guest's choice; one at any port is a client's.
    Datagrams(UdpCloser),
}

impl Server {
    fn is_open(&self) -> bool {
        match self {
            Self::Listener(listener) => listener.is_listening(),
            Self::Datagrams(socket) => socket.is_open(),
        }
    }
}

impl SocketsHandle {
    /// Whether the guest listens anywhere, by TCP or at a UDP port of its choice.
    pub fn has_listeners(&self) -> bool {
        self.servers.lock().iter().any(Server::is_open)
    }

    /// Closes what the guest listens on, as at SIGTERM: connects are refused, `accept` and
    /// `receive` fail with `invalid-state`, connections that are open go on.
    pub fn stop_listening(&self) {
        for server in self.servers.lock().drain(..) {
            match server {
                Server::Listener(listener) => listener.close(),
                Server::Datagrams(socket) => socket.close(),
            }
        }
    }

    fn add(&self, server: Server) {
        let mut servers = self.servers.lock();
        servers.retain(Server::is_open);
        servers.push(server);
    }
}

/// What the host functions work on.
pub struct SocketsView<'a> {
    pub table: &'a mut ResourceTable,
    pub ctx: &'a mut SocketsCtx,
}

struct HasSockets;

impl HasData for HasSockets {
    type Data<'a> = SocketsView<'a>;
}

/// Adds `wasi:sockets` to a linker. Where wasmtime-wasi's own has been added before, the linker
/// must allow shadowing.
///
/// # Errors
/// A name that is defined already.
pub fn add_to_linker<T: Send + 'static>(
    linker: &mut Linker<T>,
    view: fn(&mut T) -> SocketsView<'_>,
) -> wasmtime::Result<()> {
    let mut options = network::LinkOptions::default();
    options.network_error_code(true);
    instance_network::add_to_linker::<T, HasSockets>(linker, view)?;
    network::add_to_linker::<T, HasSockets>(linker, &options, view)?;
    ip_name_lookup::add_to_linker::<T, HasSockets>(linker, view)?;
    tcp_api::add_to_linker::<T, HasSockets>(linker, view)?;
    tcp_create_socket::add_to_linker::<T, HasSockets>(linker, view)?;
    udp_api::add_to_linker::<T, HasSockets>(linker, view)?;
    udp_create_socket::add_to_linker::<T, HasSockets>(linker, view)?;
    Ok(())
}

impl instance_network::Host for SocketsView<'_> {
    fn instance_network(&mut self) -> wasmtime::Result<Resource<Network>> {
        Ok(self.table.push(Network)?)
    }
}

impl network::HostNetwork for SocketsView<'_> {
    fn drop(&mut self, network: Resource<Network>) -> wasmtime::Result<()> {
        self.table.delete(network)?;
        Ok(())
    }
}

impl network::Host for SocketsView<'_> {
    fn convert_error_code(&mut self, error: SocketError) -> wasmtime::Result<ErrorCode> {
        error.downcast()
    }

    fn network_error_code(
        &mut self,
        error: Resource<wasmtime::Error>,
    ) -> wasmtime::Result<Option<ErrorCode>> {
        let error = self.table.get(&error)?;
        Ok(error.downcast_ref::<NetError>().map(|error| ErrorCode::from(*error)))
    }
}

impl From<NetError> for ErrorCode {
    fn from(error: NetError) -> Self {
        match error {
            NetError::ConnectionRefused => Self::ConnectionRefused,
            NetError::ConnectionReset => Self::ConnectionReset,
            NetError::ConnectionAborted => Self::ConnectionAborted,
            NetError::HostUnreachable | NetError::NetworkDown => Self::RemoteUnreachable,
            NetError::TimedOut => Self::Timeout,
            NetError::AddressInUse => Self::AddressInUse,
            NetError::AddressNotAvailable => Self::AddressNotBindable,
            NetError::InvalidArgument => Self::InvalidArgument,
            NetError::InvalidState => Self::InvalidState,
            NetError::AccessDenied => Self::AccessDenied,
            NetError::TooManySockets => Self::NewSocketLimit,
            NetError::WouldBlock => Self::WouldBlock,
            NetError::DatagramTooLarge => Self::DatagramTooLarge,
            NetError::NameNotFound => Self::NameUnresolvable,
            NetError::ResolverUnavailable => Self::TemporaryResolverFailure,
            NetError::BrokenPipe => Self::Unknown,
        }
    }
}

fn net_error(error: NetError) -> SocketError {
    ErrorCode::from(error).into()
}

fn trap(error: impl Into<wasmtime::Error>) -> SocketError {
    SocketError::trap(error.into())
}

/// A result that is there, or on its way on the network's runtime.
enum Awaited<T> {
    Ready(T),
    Pending(tokio::task::JoinHandle<T>),
}

impl<T: Send + 'static> Awaited<T> {
    /// Runs a future as far as it goes at once, and the rest on the network's own runtime.
    fn start(namespace: &Namespace, future: impl Future<Output = T> + Send + 'static) -> Self {
        use futures::FutureExt;
        let mut future = Box::pin(future);
        let _inside = namespace.runtime().enter();
        match (&mut future).now_or_never() {
            Some(value) => Self::Ready(value),
            None => Self::Pending(namespace.runtime().spawn(future)),
        }
    }

    /// Waits for the result and says whether it came; it does not where the runtime has ended.
    async fn wait(&mut self) {
        if let Self::Pending(task) = self
            && let Ok(value) = task.await
        {
            *self = Self::Ready(value);
        }
    }

    /// The result, if it is there.
    fn get(&mut self) -> Option<&mut T> {
        if let Self::Pending(task) = self {
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            if let std::task::Poll::Ready(Ok(value)) = std::pin::Pin::new(task).poll(&mut cx) {
                *self = Self::Ready(value);
            }
        }
        match self {
            Self::Ready(value) => Some(value),
            Self::Pending(_) => None,
        }
    }
}

impl<T> Drop for Awaited<T> {
    fn drop(&mut self) {
        if let Self::Pending(task) = self {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests;
