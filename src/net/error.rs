//! What can go wrong on the virtual network, in the terms of POSIX sockets, so that a guest sees
//! through `wasi:sockets` what it would see on a kernel's network.

use std::io;

/// Why an operation on the virtual network did not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum NetError {
    /// Nobody listens there, or a Service without ready endpoints.
    #[error("connection refused")]
    ConnectionRefused,
    /// The peer sent RST, or closed with unread input.
    #[error("connection reset by peer")]
    ConnectionReset,
    /// The connection ended before it was accepted.
    #[error("connection aborted")]
    ConnectionAborted,
    /// The stream cannot take more bytes: this side or its peer has closed it.
    #[error("broken pipe")]
    BrokenPipe,
    /// No pod, node or route at that address.
    #[error("no route to host")]
    HostUnreachable,
    /// The peer did not answer in time.
    #[error("timed out")]
    TimedOut,
    /// Another socket or http handler of the pod holds the port.
    #[error("address already in use")]
    AddressInUse,
    /// The address is none of the pod's.
    #[error("cannot assign requested address")]
    AddressNotAvailable,
    /// An address of the wrong family, port 0 of a peer, or the like.
    #[error("invalid argument")]
    InvalidArgument,
    /// The socket is not in the state that the operation needs.
    #[error("invalid state")]
    InvalidState,
    /// Policy forbids it.
    #[error("permission denied")]
    AccessDenied,
    /// The pod holds as many sockets as it may.
    #[error("too many open sockets")]
    TooManySockets,
    /// Nothing to read, or no room to write, now.
    #[error("operation would block")]
    WouldBlock,
    /// A datagram is larger than UDP carries.
    #[error("message too long")]
    DatagramTooLarge,
    /// The name does not exist, or has no address.
    #[error("name or service not known")]
    NameNotFound,
    /// The name could not be looked up now.
    #[error("temporary failure in name resolution")]
    ResolverUnavailable,
    /// The network of the node is being shut down.
    #[error("network is down")]
    NetworkDown,
}

impl NetError {
    /// The `std::io` kind that means the same.
    pub fn kind(self) -> io::ErrorKind {
        use io::ErrorKind as K;
        match self {
            Self::ConnectionRefused => K::ConnectionRefused,
            Self::ConnectionReset => K::ConnectionReset,
            Self::ConnectionAborted => K::ConnectionAborted,
            Self::BrokenPipe => K::BrokenPipe,
            Self::HostUnreachable => K::HostUnreachable,
            Self::TimedOut => K::TimedOut,
            Self::AddressInUse => K::AddrInUse,
            Self::AddressNotAvailable => K::AddrNotAvailable,
            Self::InvalidArgument => K::InvalidInput,
            Self::InvalidState => K::NotConnected,
            Self::AccessDenied => K::PermissionDenied,
            Self::WouldBlock => K::WouldBlock,
            Self::NameNotFound => K::NotFound,
            Self::NetworkDown => K::NetworkDown,
            Self::TooManySockets | Self::DatagramTooLarge | Self::ResolverUnavailable => K::Other,
        }
    }
}

impl From<NetError> for io::Error {
    fn from(error: NetError) -> Self {
        io::Error::new(error.kind(), error)
    }
}

impl From<&io::Error> for NetError {
    fn from(error: &io::Error) -> Self {
        if let Some(own) = error.get_ref().and_then(|inner| inner.downcast_ref::<NetError>()) {
            return *own;
        }
        use io::ErrorKind as K;
        match error.kind() {
            K::ConnectionReset => Self::ConnectionReset,
            K::ConnectionAborted => Self::ConnectionAborted,
            K::BrokenPipe => Self::BrokenPipe,
            K::HostUnreachable | K::NetworkUnreachable | K::NetworkDown => Self::HostUnreachable,
            K::TimedOut => Self::TimedOut,
            K::AddrInUse => Self::AddressInUse,
            K::AddrNotAvailable => Self::AddressNotAvailable,
            K::InvalidInput => Self::InvalidArgument,
            K::PermissionDenied => Self::AccessDenied,
            K::WouldBlock => Self::WouldBlock,
            _ => Self::ConnectionRefused,
        }
    }
}
