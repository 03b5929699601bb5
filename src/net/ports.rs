//! The port table of a pod: who holds which port at which of its addresses.
//!
//! Sockets and http handlers share the TCP port space. Two claims of one port collide when their
//! addresses are of one family and equal, or one of them is the wildcard. A claim frees its port
//! when it is dropped.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::DropGuard;

use super::NetError;
use super::http::HttpSlot;
use super::listener::Backlog;
use super::udp::Inbox;

/// The ports that are given where port 0 is asked for, as on Linux.
const EPHEMERAL: std::ops::RangeInclusive<u16> = 32_768..=60_999;

/// A transport of the virtual network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
}

/// What a claimed port is used for.
#[derive(Clone)]
pub(crate) enum Slot {
    Bound,
    Listening(Arc<Backlog>),
    Http(Arc<HttpSlot>),
    Datagrams(Arc<Inbox>),
}

impl Slot {
    /// Whether somebody can be reached there.
    fn is_open(&self) -> bool {
        !matches!(self, Self::Bound)
    }
}

struct Entry {
    ip: IpAddr,
    id: u64,
    slot: Slot,
    /// The socket of the kernel beside it, where the pod has a namespace there.
    mirror: Option<DropGuard>,
}

/// Opens sockets of the kernel beside those of the pod's virtual network.
pub(crate) trait Mirrors: Send + Sync {
    /// Opens one; it is closed with the guard.
    fn open(&self, protocol: Protocol, at: SocketAddr) -> std::io::Result<DropGuard>;
}

#[derive(Default)]
struct Table {
    by_port: HashMap<u16, Vec<Entry>>,
    next_port: u16,
    next_id: u64,
}

impl Table {
    fn collides(&self, ip: IpAddr, port: u16) -> bool {
        self.by_port.get(&port).is_some_and(|entries| {
            entries.iter().any(|e| {
                e.ip.is_ipv4() == ip.is_ipv4()
                    && (e.ip == ip || e.ip.is_unspecified() || ip.is_unspecified())
            })
        })
    }

    fn ephemeral(&mut self, free: impl Fn(&Self, u16) -> bool) -> Option<u16> {
        for _ in EPHEMERAL {
            if !EPHEMERAL.contains(&self.next_port) {
                self.next_port = *EPHEMERAL.start();
            }
            let port = self.next_port;
            self.next_port = port.wrapping_add(1);
            if free(self, port) {
                return Some(port);
            }
        }
        None
    }
}

/// The ports of one pod.
#[derive(Default)]
pub(crate) struct Ports {
    tcp: Mutex<Table>,
    udp: Mutex<Table>,
    mirrors: std::sync::OnceLock<Box<dyn Mirrors>>,
}

/// How often another free port is tried where the kernel's side holds the one that was found.
const MIRROR_TRIES: usize = 16;

impl Ports {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    fn table(&self, protocol: Protocol) -> &Mutex<Table> {
        match protocol {
            Protocol::Tcp => &self.tcp,
            Protocol::Udp => &self.udp,
        }
    }

    /// From now on, what is open here is open in the kernel too; so is what is open already.
    pub(crate) fn mirror_with(&self, mirrors: Box<dyn Mirrors>) {
        if self.mirrors.set(mirrors).is_err() {
            return;
        }
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let mut table = self.table(protocol).lock();
            for (port, entries) in &mut table.by_port {
                for entry in entries.iter_mut().filter(|e| e.slot.is_open() && e.mirror.is_none()) {
                    let at = SocketAddr::new(entry.ip, *port);
                    match self.mirror(protocol, at, &entry.slot) {
                        Ok(mirror) => entry.mirror = mirror,
                        Err(error) => {
                            tracing::warn!(%at, %error, "containers of the pod cannot reach its wasm")
                        }
                    }
                }
            }
        }
    }

    fn mirror(
        &self,
        protocol: Protocol,
        at: SocketAddr,
        slot: &Slot,
    ) -> std::io::Result<Option<DropGuard>> {
        match self.mirrors.get().filter(|_| slot.is_open()) {
            Some(mirrors) => mirrors.open(protocol, at).map(Some),
            None => Ok(None),
        }
    }

    /// Claims a port; port 0 asks for a free one.
    pub(crate) fn claim(
        self: &Arc<Self>,
        protocol: Protocol,
        address: SocketAddr,
        slot: Slot,
    ) -> Result<Claim, NetError> {
        let tries = if address.port() == 0 { MIRROR_TRIES } else { 1 };
        for _ in 0..tries {
            let claim = self.claim_unseen(protocol, address, slot.clone())?;
            match self.mirror(protocol, claim.address(), &slot) {
                Ok(mirror) => {
                    claim.set_mirror(mirror);
                    return Ok(claim);
                }
                Err(error) => {
                    tracing::debug!(%address, %error, "the port is not free in the kernel");
                }
            }
        }
        Err(NetError::AddressInUse)
    }

    /// Claims a port in the virtual network alone.
    pub(crate) fn claim_unseen(
        self: &Arc<Self>,
        protocol: Protocol,
        address: SocketAddr,
        slot: Slot,
    ) -> Result<Claim, NetError> {
        let mut table = self.table(protocol).lock();
        let ip = address.ip();
        let port = match address.port() {
            0 => table.ephemeral(|t, p| !t.collides(ip, p)).ok_or(NetError::AddressInUse)?,
            port if table.collides(ip, port) => return Err(NetError::AddressInUse),
            port => port,
        };
        table.next_id += 1;
        let id = table.next_id;
        table.by_port.entry(port).or_default().push(Entry { ip, id, slot, mirror: None });
        drop(table);
        let address = SocketAddr::new(ip, port);
        Ok(Claim(ClaimHandle { ports: self.clone(), protocol, address, id }))
    }

    /// A port for the near end of an outgoing connection. Connections do not hold their port:
    /// they are told apart by identity, not by address.
    pub(crate) fn outgoing_port(&self) -> u16 {
        let mut table = self.tcp.lock();
        table.ephemeral(|t, p| !t.by_port.contains_key(&p)).unwrap_or(*EPHEMERAL.start())
    }

    /// Who answers at an address of the pod: the exact address before the wildcard, and for IPv4
    /// at last the IPv6 wildcard.
    pub(crate) fn find(&self, protocol: Protocol, address: SocketAddr) -> Option<Slot> {
        let table = self.table(protocol).lock();
        let entries = table.by_port.get(&address.port())?;
        let wildcard: IpAddr = match address {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let dual: IpAddr = Ipv6Addr::UNSPECIFIED.into();
        [address.ip(), wildcard, dual]
            .into_iter()
            .find_map(|ip| entries.iter().find(|e| e.ip == ip))
            .map(|e| e.slot.clone())
    }

    /// Whether anybody listens on TCP, by a socket or as a handler.
    pub(crate) fn listens(&self) -> bool {
        let tcp = self.tcp.lock();
        tcp.by_port.values().flatten().any(|e| !matches!(e.slot, Slot::Bound))
    }

    /// Closes every listening socket and every handler.
    pub(crate) fn close_all(&self) {
        let slots: Vec<Slot> = {
            let mut tcp = self.tcp.lock();
            let mut slots = Vec::new();
            for entries in tcp.by_port.values_mut() {
                entries.retain(|e| {
                    let listens = !matches!(e.slot, Slot::Bound);
                    if listens {
                        slots.push(e.slot.clone());
                    }
                    !listens
                });
            }
            tcp.by_port.retain(|_, entries| !entries.is_empty());
            slots
        };
        for slot in slots {
            match slot {
                Slot::Listening(backlog) => backlog.close(),
                Slot::Http(slot) => slot.close(),
                Slot::Bound | Slot::Datagrams(_) => {}
            }
        }
    }
}

/// A port held until dropped.
#[derive(Debug)]
pub(crate) struct Claim(ClaimHandle);

/// Names a claim without holding it.
pub(crate) struct ClaimHandle {
    ports: Arc<Ports>,
    protocol: Protocol,
    address: SocketAddr,
    id: u64,
}

impl Claim {
    pub(crate) fn address(&self) -> SocketAddr {
        self.0.address
    }

    pub(crate) fn clone_handle(&self) -> ClaimHandle {
        ClaimHandle { ports: self.0.ports.clone(), ..self.0 }
    }

    /// Changes what the port is used for.
    pub(crate) fn set(&self, slot: Slot) {
        let mirror = self.0.ports.mirror(self.0.protocol, self.0.address, &slot);
        self.0.with_entry(|entry| entry.slot = slot);
        match mirror {
            Ok(mirror) => self.set_mirror(mirror),
            Err(error) => {
                let at = self.0.address;
                tracing::warn!(%at, %error, "containers of the pod cannot reach its wasm");
            }
        }
    }

    fn set_mirror(&self, mirror: Option<DropGuard>) {
        self.0.with_entry(|entry| entry.mirror = mirror);
    }

    pub(crate) fn release(&self) {
        self.0.release();
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.release();
    }
}

impl ClaimHandle {
    fn with_entry(&self, change: impl FnOnce(&mut Entry)) {
        let mut table = self.ports.table(self.protocol).lock();
        let entries = table.by_port.get_mut(&self.address.port());
        if let Some(entry) = entries.and_then(|e| e.iter_mut().find(|e| e.id == self.id)) {
            change(entry);
        }
    }

    pub(crate) fn release(&self) {
        let mut table = self.ports.table(self.protocol).lock();
        let port = self.address.port();
        if let Some(entries) = table.by_port.get_mut(&port) {
            entries.retain(|e| e.id != self.id);
            if entries.is_empty() {
                table.by_port.remove(&port);
            }
        }
    }
}

impl std::fmt::Debug for ClaimHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {}", self.protocol, self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(ports: &Arc<Ports>, address: &str) -> Result<Claim, NetError> {
        ports.claim(Protocol::Tcp, address.parse().expect("an address"), Slot::Bound)
    }

    #[test]
    fn claims_collide_as_bound_sockets_do() {
        for (first, second, free) in [
            ("0.0.0.0:80", "0.0.0.0:80", false),
            ("0.0.0.0:80", "127.0.0.1:80", false),
            ("10.0.0.1:80", "0.0.0.0:80", false),
            ("10.0.0.1:80", "127.0.0.1:80", true),
            ("0.0.0.0:80", "[::]:80", true),
            ("[::]:80", "[::1]:80", false),
            ("0.0.0.0:80", "0.0.0.0:81", true),
        ] {
            let ports = Ports::new();
            let _held = claim(&ports, first).expect("a free port");
            let second_is_free = claim(&ports, second).is_ok();
            assert_eq!(second_is_free, free, "{first} then {second}");
        }
    }

    #[test]
    fn a_dropped_claim_frees_its_port() {
        let ports = Ports::new();
        drop(claim(&ports, "0.0.0.0:80").expect("a free port"));
        claim(&ports, "0.0.0.0:80").expect("free again");
    }

    #[test]
    fn port_zero_gets_an_ephemeral_port_that_is_free() {
        let ports = Ports::new();
        let taken = claim(&ports, "0.0.0.0:32768").expect("a free port");
        let got = claim(&ports, "0.0.0.0:0").expect("a free port");
        assert!(EPHEMERAL.contains(&got.address().port()));
        assert_ne!(got.address().port(), taken.address().port());
    }

    #[test]
    fn the_exact_address_answers_before_the_wildcards() {
        let ports = Ports::new();
        let backlog = Backlog::new(1);
        let _dual = ports
            .claim(Protocol::Tcp, "[::]:80".parse().expect("an address"), Slot::Bound)
            .expect("a free port");
        let _exact = ports
            .claim(
                Protocol::Tcp,
                "127.0.0.1:80".parse().expect("an address"),
                Slot::Listening(backlog),
            )
            .expect("a free port");
        let find = |at: &str| ports.find(Protocol::Tcp, at.parse().expect("an address"));
        assert!(matches!(find("127.0.0.1:80"), Some(Slot::Listening(_))));
        assert!(matches!(find("10.0.0.1:80"), Some(Slot::Bound)), "the IPv6 wildcard takes IPv4");
        assert!(find("127.0.0.1:81").is_none());
    }
}
