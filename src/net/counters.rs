//! What went through the switch, per Service and per endpoint. Counting is one relaxed addition.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Live counters of a Service or of an endpoint.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) connections: AtomicU64,
    pub(crate) requests: Arc<AtomicU64>,
    /// Towards the endpoint.
    pub(crate) bytes_in: Arc<AtomicU64>,
    /// Back from the endpoint.
    pub(crate) bytes_out: Arc<AtomicU64>,
    pub(crate) refused: AtomicU64,
}

impl Traffic {
    /// The readings now.
    pub(crate) fn read(&self) -> Counters {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            connections: get(&self.connections),
            requests: get(&self.requests),
            bytes_in: get(&self.bytes_in),
            bytes_out: get(&self.bytes_out),
            refused: get(&self.refused),
        }
    }
}

/// Readings since the Service or endpoint is known here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// TCP connections, and UDP flows.
    pub connections: u64,
    /// Http requests handed to a handler without being parsed elsewhere.
    pub requests: u64,
    /// Bytes of raw streams and datagrams towards the endpoint.
    pub bytes_in: u64,
    /// Bytes of raw streams and datagrams back from the endpoint.
    pub bytes_out: u64,
    /// Connections that no endpoint took.
    pub refused: u64,
}

impl std::ops::AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        self.connections += other.connections;
        self.requests += other.requests;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.refused += other.refused;
    }
}

/// The counters of one Service on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceCounters {
    pub namespace: String,
    pub name: String,
    /// The sum over its endpoints, those that have gone included.
    pub total: Counters,
    pub endpoints: Vec<EndpointCounters>,
}

/// The counters of one endpoint of a Service's port on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointCounters {
    /// The name of the Service's port, empty where it has none.
    pub port_name: String,
    pub address: SocketAddr,
    pub ready: bool,
    pub counters: Counters,
}
