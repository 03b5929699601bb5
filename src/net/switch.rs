//! Where connections meet: the source's identity and the destination are both known here, and
//! only here, so this is where Services, policy and accounting work.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

use super::NetError;
use super::counters::Traffic;
use super::egress;
use super::fabric::Fabric;
use super::http::HttpSlot;
use super::namespace::{Incoming, Namespace};
use super::ports::Protocol;
use super::queue::Meter;
use super::service::{LivePort, Scope};
use super::splice;
use super::stream::{Ends, TcpStream, Wiring};
use super::tables::Place;
use super::udp::UdpSocket;

/// How often a connection to a Service is tried, each time at another endpoint: when a node has
/// just died, many endpoints refuse until it is marked down.
pub(crate) const ENDPOINTS_TRIED: usize = 8;

/// A byte stream of whatever kind.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// Opens a byte stream to something outside the network.
pub trait Dialer: Send + Sync + 'static {
    /// Dials it once.
    fn dial(&self) -> BoxFuture<'static, std::io::Result<Box<dyn ByteStream>>>;
}

/// What a virtual address stands for.
#[derive(Clone)]
pub enum VirtualTarget {
    /// A socket of the host, also on its loopback.
    Host(SocketAddr),
    /// Whatever the dialer opens.
    Dial(Arc<dyn Dialer>),
}

/// A connection that wants to be made.
#[derive(Clone, Copy)]
pub(crate) struct Flow<'a> {
    /// Who connects.
    pub(crate) source: &'a Arc<Namespace>,
    /// The address that the other side sees.
    pub(crate) client: SocketAddr,
    /// The address that was dialled.
    pub(crate) seen: SocketAddr,
}

impl Fabric {
    /// Whether the source may talk to an endpoint. Every connection and every flow of datagrams
    /// passes here, Services already resolved; NetworkPolicies belong into this function.
    fn admit(&self, _source: &Namespace, _endpoint: SocketAddr) -> Result<(), NetError> {
        Ok(())
    }

    /// Connects a flow to wherever its destination is.
    pub(crate) async fn connect(&self, flow: Flow<'_>) -> Result<TcpStream, NetError> {
        let place = self.tables().read().find(flow.seen);
        let Place::Service(service) = place else {
            return self.connect_place(flow, place, flow.seen, None).await;
        };
        match service.port(Protocol::Tcp, flow.seen.port()) {
            Some(port) => self.connect_service(flow, port, Scope::Internal).await,
            None => Err(NetError::ConnectionRefused),
        }
    }

    /// Connects a flow to a ready endpoint of a Service, to another one where the first refuses.
    pub(crate) async fn connect_service(
        &self,
        flow: Flow<'_>,
        port: &LivePort,
        scope: Scope,
    ) -> Result<TcpStream, NetError> {
        let mut failed = Vec::new();
        let mut last = NetError::ConnectionRefused;
        for _ in 0..ENDPOINTS_TRIED {
            let now = self.config().clock.monotonic();
            let Some(endpoint) = port.pick(scope, flow.client.ip(), &failed, now) else { break };
            match self.connect_endpoint(flow, endpoint.address, Some(&endpoint.traffic)).await {
                Ok(stream) => {
                    endpoint.traffic.connections.fetch_add(1, Ordering::Relaxed);
                    return Ok(stream);
                }
                Err(error) => {
                    failed.push(endpoint.address);
                    last = error;
                }
            }
        }
        port.count_refused();
        Err(last)
    }

    /// Connects a flow to an address that is no Service's.
    pub(crate) async fn connect_endpoint(
        &self,
        flow: Flow<'_>,
        to: SocketAddr,
        traffic: Option<&Arc<Traffic>>,
    ) -> Result<TcpStream, NetError> {
        let place = self.tables().read().find(to);
        self.connect_place(flow, place, to, traffic).await
    }

    async fn connect_place(
        &self,
        flow: Flow<'_>,
        place: Place,
        to: SocketAddr,
        traffic: Option<&Arc<Traffic>>,
    ) -> Result<TcpStream, NetError> {
        self.admit(flow.source, to)?;
        let client_meter = flow.source.meter();
        match place {
            Place::Local(namespace) => {
                let Flow { client, seen, .. } = flow;
                let traffic = traffic.map(|t| &**t);
                namespace.take_in(Incoming { client, seen, to, client_meter, traffic }).await
            }
            Place::Peer(link) => {
                let ends = remote_ends(flow, to, link.meter(), traffic);
                link.connect(ends.server, flow.client, to).await?;
                Ok(ends.client)
            }
            Place::Virtual(VirtualTarget::Host(address)) => {
                self.connect_host(flow, address, traffic).await
            }
            Place::Virtual(VirtualTarget::Dial(dialer)) => {
                self.connect_dialled(flow, to, dialer, traffic).await
            }
            // An endpoint that is itself a Service's address would be a loop.
            Place::Service(_) | Place::Nobody => Err(NetError::HostUnreachable),
            Place::Outside if egress::may_leave(to.ip()) => {
                self.connect_host(flow, to, traffic).await
            }
            Place::Outside => Err(NetError::ConnectionRefused),
        }
    }

    /// Joins a flow to a socket of the host.
    async fn connect_host(
        &self,
        flow: Flow<'_>,
        to: SocketAddr,
        traffic: Option<&Arc<Traffic>>,
    ) -> Result<TcpStream, NetError> {
        let runtime = &self.config().runtime;
        let dialled = runtime.spawn(egress::connect(to)).await;
        let socket = dialled.map_err(|_| NetError::NetworkDown)??;
        let ends = remote_ends(flow, to, flow.source.meter(), traffic);
        runtime.spawn(splice::splice_socket(ends.server, socket));
        Ok(ends.client)
    }

    async fn connect_dialled(
        &self,
        flow: Flow<'_>,
        to: SocketAddr,
        dialer: Arc<dyn Dialer>,
        traffic: Option<&Arc<Traffic>>,
    ) -> Result<TcpStream, NetError> {
        let runtime = &self.config().runtime;
        let dialled = runtime.spawn(async move { dialer.dial().await }).await;
        let mut io =
            dialled.map_err(|_| NetError::NetworkDown)?.map_err(|error| NetError::from(&error))?;
        let ends = remote_ends(flow, to, flow.source.meter(), traffic);
        runtime.spawn(async move { splice::splice(ends.server, &mut io).await });
        Ok(ends.client)
    }

    /// Sends a datagram that leaves its pod.
    pub(crate) fn send_datagram(
        &self,
        socket: &UdpSocket,
        from: SocketAddr,
        to: SocketAddr,
        data: Bytes,
    ) -> Result<(), NetError> {
        let source = socket.namespace();
        let mut to = to;
        let mut place = self.tables().read().find(to);
        if let Place::Service(service) = &place {
            let port = service.port(Protocol::Udp, to.port());
            let port = port.ok_or(NetError::ConnectionRefused)?;
            to = self.service_flow(socket, port, from.ip(), to, data.len())?;
            place = self.tables().read().find(to);
        }
        self.admit(source, to)?;
        match place {
            Place::Local(namespace) => {
                namespace.deliver(from, to, data);
                Ok(())
            }
            Place::Peer(link) => {
                link.send_datagram(from, to, data);
                Ok(())
            }
            Place::Outside if egress::may_leave(to.ip()) => socket.send_outside(data, to),
            Place::Outside => Err(NetError::ConnectionRefused),
            Place::Virtual(_) | Place::Service(_) | Place::Nobody => Err(NetError::HostUnreachable),
        }
    }

    fn service_flow(
        &self,
        socket: &UdpSocket,
        port: &LivePort,
        client: IpAddr,
        service: SocketAddr,
        len: usize,
    ) -> Result<SocketAddr, NetError> {
        let now = self.config().clock.monotonic();
        let pick = || {
            let endpoint = port.pick(Scope::Internal, client, &[], now)?;
            endpoint.traffic.connections.fetch_add(1, Ordering::Relaxed);
            Some(endpoint.address)
        };
        let Some(to) = socket.flow_to(service, now, |e| port.is_ready(e), pick) else {
            port.count_refused();
            return Err(NetError::ConnectionRefused);
        };
        if let Some(endpoint) = port.endpoint(to) {
            endpoint.traffic.bytes_in.fetch_add(len as u64, Ordering::Relaxed);
        }
        Ok(to)
    }

    /// For an http request to `to`: the endpoint where that is a Service's address, and the
    /// handler where it is one of this node. The request counts as one of the Service.
    pub(crate) fn http_route(
        &self,
        source: &Namespace,
        to: SocketAddr,
    ) -> (Option<SocketAddr>, Option<Arc<HttpSlot>>) {
        let tables = self.tables().read();
        let endpoint = match tables.find(to) {
            Place::Local(_) => to,
            Place::Service(service) => {
                let Some(port) = service.port(Protocol::Tcp, to.port()) else {
                    return (None, None);
                };
                let now = self.config().clock.monotonic();
                let Some(endpoint) = port.pick(Scope::Internal, source.ip(), &[], now) else {
                    return (None, None);
                };
                endpoint.traffic.requests.fetch_add(1, Ordering::Relaxed);
                endpoint.address
            }
            _ => return (None, None),
        };
        let namespace = tables.local(endpoint.ip());
        drop(tables);
        if self.admit(source, endpoint).is_err() {
            return (None, None);
        }
        (Some(endpoint), namespace.and_then(|namespace| namespace.http_slot(endpoint)))
    }
}

/// The ends of a connection whose other side is not in this worker.
fn remote_ends(
    flow: Flow<'_>,
    to: SocketAddr,
    server_meter: &Arc<Meter>,
    traffic: Option<&Arc<Traffic>>,
) -> Ends {
    Wiring {
        client: flow.client,
        server_seen: flow.seen,
        server: to,
        client_meter: flow.source.meter(),
        server_meter,
        traffic: traffic.map(|t| &**t),
    }
    .connect()
}
