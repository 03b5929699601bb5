//! Datagrams: a bounded inbox a socket, delivered or dropped at once, as UDP does.
//!
//! A datagram to a Service goes to one endpoint; the flow stays with it while it is ready and
//! not idle for long, and its answers carry the Service's address again.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::NetError;
use super::egress::EgressUdp;
use super::namespace::Namespace;
use super::ports::{Claim, ClaimHandle, Protocol, Slot};
use super::queue::Meter;

/// The largest payload that UDP carries over IPv4.
pub const DATAGRAM_MAX: usize = 65_507;

/// Datagrams and bytes that wait in one socket.
const INBOX_DATAGRAMS: usize = 512;
const INBOX_BYTES: usize = 512 * 1024;

/// Service flows that one socket remembers, and for how long, as Linux' conntrack does.
const FLOWS: usize = 1024;
const FLOW_IDLE: Duration = Duration::from_secs(120);

/// One datagram, with the address that it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    pub from: SocketAddr,
    pub data: Bytes,
}

#[derive(Debug, Default)]
struct InboxState {
    waiting: VecDeque<Datagram>,
    bytes: usize,
    closed: bool,
    waker: Option<Waker>,
}

/// Where datagrams for a socket wait.
#[derive(Debug)]
pub(crate) struct Inbox {
    state: Mutex<InboxState>,
    meter: Arc<Meter>,
}

impl Inbox {
    fn new(meter: Arc<Meter>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), meter })
    }

    /// Takes a datagram, or drops it where there is no room.
    pub(crate) fn push(&self, datagram: Datagram) {
        let len = datagram.data.len();
        let waker = {
            let mut state = self.state.lock();
            if state.closed
                || state.waiting.len() >= INBOX_DATAGRAMS
                || state.bytes + len > INBOX_BYTES
            {
                return;
            }
            state.bytes += len;
            state.waiting.push_back(datagram);
            state.waker.take()
        };
        self.meter.add(len);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn pop(&self) -> Option<Datagram> {
        let datagram = {
            let mut state = self.state.lock();
            let datagram = state.waiting.pop_front()?;
            state.bytes -= datagram.data.len();
            datagram
        };
        self.meter.sub(datagram.data.len());
        Some(datagram)
    }

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.closed || !state.waiting.is_empty() {
            return Poll::Ready(());
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Takes no more datagrams; those that wait can still be received.
    fn close(&self) {
        let waker = {
            let mut state = self.state.lock();
            state.closed = true;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.meter.sub(self.state.get_mut().bytes);
    }
}

/// Which endpoint a flow to a Service goes to.
#[derive(Debug, Clone, Copy)]
struct Flow {
    endpoint: SocketAddr,
    used_at: Duration,
}

#[derive(Debug, Default)]
struct Flows {
    to_endpoint: HashMap<SocketAddr, Flow>,
    to_service: HashMap<SocketAddr, SocketAddr>,
}

impl Flows {
    fn expire(&mut self, now: Duration) {
        if self.to_endpoint.len() < FLOWS {
            return;
        }
        let to_service = &mut self.to_service;
        self.to_endpoint.retain(|_, flow| {
            let keep = now.saturating_sub(flow.used_at) < FLOW_IDLE;
            if !keep {
                to_service.remove(&flow.endpoint);
            }
            keep
        });
        if self.to_endpoint.len() >= FLOWS {
            self.to_endpoint.clear();
            self.to_service.clear();
        }
    }
}

/// A UDP socket of a pod. Dropping it frees the port.
pub struct UdpSocket {
    namespace: Arc<Namespace>,
    inbox: Arc<Inbox>,
    claim: Claim,
    flows: Mutex<Flows>,
    egress: Mutex<Option<EgressUdp>>,
}

impl UdpSocket {
    pub(crate) fn bind(namespace: Arc<Namespace>, at: SocketAddr) -> Result<Self, NetError> {
        let inbox = Inbox::new(namespace.meter().clone());
        let slot = Slot::Datagrams(inbox.clone());
        let claim = namespace.ports().claim(Protocol::Udp, at, slot)?;
        Ok(Self::claimed(namespace, inbox, claim))
    }

    /// A socket that stands for one which a container of the pod has in the kernel.
    pub(crate) fn bind_unseen(namespace: Arc<Namespace>, at: SocketAddr) -> Result<Self, NetError> {
        let inbox = Inbox::new(namespace.meter().clone());
        let slot = Slot::Datagrams(inbox.clone());
        let claim = namespace.ports().claim_unseen(Protocol::Udp, at, slot)?;
        Ok(Self::claimed(namespace, inbox, claim))
    }

    fn claimed(namespace: Arc<Namespace>, inbox: Arc<Inbox>, claim: Claim) -> Self {
        Self { namespace, inbox, claim, flows: Mutex::default(), egress: Mutex::new(None) }
    }

    /// The address that it was bound to, with the port that it got.
    pub fn local_addr(&self) -> SocketAddr {
        self.claim.address()
    }

    /// The next datagram, if one waits.
    pub fn try_recv(&self) -> Option<Datagram> {
        let mut datagram = self.inbox.pop()?;
        if let Some(service) = self.flows.lock().to_service.get(&datagram.from) {
            datagram.from = *service;
        }
        Some(datagram)
    }

    /// Whether it was closed: nothing more arrives.
    pub fn is_closed(&self) -> bool {
        self.inbox.state.lock().closed
    }

    /// A handle that closes the socket from elsewhere.
    pub fn closer(&self) -> UdpCloser {
        UdpCloser { inbox: self.inbox.clone(), claim: self.claim.clone_handle() }
    }

    /// Ready when a datagram waits, or none will ever come.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.inbox.poll_ready(cx)
    }

    /// Waits for the next datagram.
    ///
    /// # Errors
    /// `InvalidState` once the socket was closed from elsewhere.
    pub async fn recv(&self) -> Result<Datagram, NetError> {
        loop {
            if let Some(datagram) = self.try_recv() {
                return Ok(datagram);
            }
            if self.is_closed() {
                return Err(NetError::InvalidState);
            }
            std::future::poll_fn(|cx| self.poll_readable(cx)).await;
        }
    }

    /// Sends a datagram: it arrives at once, or is lost where the receiver has no room.
    ///
    /// # Errors
    /// `DatagramTooLarge`, `InvalidArgument` (port 0), `HostUnreachable`, `ConnectionRefused`
    /// (a Service without ready endpoints, host loopback), `AccessDenied`.
    pub fn send_to(&self, data: Bytes, to: SocketAddr) -> Result<(), NetError> {
        if data.len() > DATAGRAM_MAX {
            return Err(NetError::DatagramTooLarge);
        }
        if to.port() == 0 {
            return Err(NetError::InvalidArgument);
        }
        let to = super::canonical(to);
        let from = SocketAddr::new(self.source_ip(to.ip()), self.local_addr().port());
        if self.namespace.is_own(to.ip()) {
            self.namespace.deliver(from, to, data);
            return Ok(());
        }
        let fabric = self.namespace.fabric()?;
        fabric.send_datagram(self, from, to, data)
    }

    fn source_ip(&self, to: IpAddr) -> IpAddr {
        let bound = self.local_addr().ip();
        if to.is_loopback() {
            to
        } else if bound.is_unspecified() || bound.is_loopback() {
            self.namespace.ip()
        } else {
            bound
        }
    }

    pub(crate) fn namespace(&self) -> &Arc<Namespace> {
        &self.namespace
    }

    /// The endpoint that a flow to a Service's address goes to; `pick` chooses one for a new
    /// flow, `alive` tells whether an old choice still holds.
    pub(crate) fn flow_to(
        &self,
        service: SocketAddr,
        now: Duration,
        alive: impl Fn(SocketAddr) -> bool,
        pick: impl FnOnce() -> Option<SocketAddr>,
    ) -> Option<SocketAddr> {
        let mut flows = self.flows.lock();
        if let Some(flow) = flows.to_endpoint.get_mut(&service) {
            let idle = now.saturating_sub(flow.used_at);
            if idle < FLOW_IDLE && alive(flow.endpoint) {
                flow.used_at = now;
                return Some(flow.endpoint);
            }
            let gone = flow.endpoint;
            flows.to_service.remove(&gone);
        }
        flows.expire(now);
        let endpoint = pick()?;
        flows.to_endpoint.insert(service, Flow { endpoint, used_at: now });
        flows.to_service.insert(endpoint, service);
        Some(endpoint)
    }

    /// Sends to the outside through a host socket that this socket keeps.
    pub(crate) fn send_outside(&self, data: Bytes, to: SocketAddr) -> Result<(), NetError> {
        let mut egress = self.egress.lock();
        if egress.as_ref().is_none_or(|e| !e.serves(to)) {
            let inbox = Arc::downgrade(&self.inbox);
            *egress = Some(EgressUdp::open(self.namespace.runtime(), to, inbox)?);
        }
        egress.as_ref().expect("opened just now").send(data, to)
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        self.inbox.close();
    }
}

/// Closes a [`UdpSocket`] that somebody else holds, as at SIGTERM.
#[derive(Debug)]
pub struct UdpCloser {
    inbox: Arc<Inbox>,
    claim: ClaimHandle,
}

impl UdpCloser {
    /// Frees the port and stops the receiving.
    pub fn close(&self) {
        self.claim.release();
        self.inbox.close();
    }

    /// Whether it still receives.
    pub fn is_open(&self) -> bool {
        !self.inbox.state.lock().closed
    }
}

impl std::fmt::Debug for UdpSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "UdpSocket({})", self.local_addr())
    }
}
