//! The virtual network of the pods.
//!
//! ```text
//!   pod A ── Namespace ──┐                         ┌── Namespace ── pod B      same node: memory
//!   pod C ── Namespace ──┤        Fabric           ├── link to another node    h2 over mTLS
//!   host  ── Namespace ──┤  (switch, service       ├── virtual addresses       the API server
//!   NodePorts, hostPorts ┘   table, DNS, policy)   └── host sockets            the outside
//! ```
//! There is one [`Fabric`] a node and one [`Namespace`] a pod. The network knows neither Services
//! nor Pods of the API: it is fed plain tables.
//!
//! **Invariants:** no host socket stands behind a pod IP; host sockets exist only for NodePorts
//! and hostPorts ([`hostport`]), links between nodes and what leaves the cluster ([`egress`]).
//! Whoever connects is known by its namespace, never by an address that it gave.

mod counters;
mod dns;
mod egress;
mod error;
mod fabric;
mod hostport;
mod http;
mod kernel;
mod listener;
mod namespace;
mod peer;
mod ports;
mod queue;
mod service;
mod splice;
mod stream;
mod switch;
mod tables;
mod udp;

use std::net::SocketAddr;

pub use counters::{Counters, EndpointCounters, ServiceCounters};
pub use error::NetError;
pub use fabric::{Fabric, FabricConfig};
pub use hostport::{HostPortEvent, HostPortOwner};
pub use http::{
    Body, BoxError, HttpListener, HttpService, RequestError, RequestTimeouts, empty, full,
};
pub use kernel::{Caught, CaughtDatagram, KernelNamespace, Refused};
pub use listener::{BACKLOG_MAX, ListenerCloser, TcpListener};
pub use namespace::{BoundTcp, HostPort, Namespace, NamespaceSpec};
pub use peer::PeerDialer;
pub use ports::Protocol;
pub use queue::STREAM_CAPACITY;
pub use service::{Endpoint, ServicePort, ServiceTable};
pub use stream::{Shutdown, TcpStream};
pub use switch::{ByteStream, Dialer, VirtualTarget};
pub use tables::NodeRoute;
pub use udp::{DATAGRAM_MAX, Datagram, UdpCloser, UdpSocket};

/// IPv4 addresses written as IPv6 are IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests;
