//! The host functions as a guest calls them, without a guest.

use std::net::SocketAddr;

use bytes::Bytes;
use futures::FutureExt;
use wasmtime_wasi_io::poll::Pollable;
use wasmtime_wasi_io::streams::{DynInputStream, DynOutputStream, StreamError};

use super::address::{to_std, to_wit};
use super::bindings::wasi::sockets::network::{IpAddress, IpAddressFamily};
use super::bindings::wasi::sockets::tcp::{HostTcpSocket, ShutdownType};
use super::bindings::wasi::sockets::udp::{
    HostIncomingDatagramStream, HostOutgoingDatagramStream, HostUdpSocket, OutgoingDatagram,
};
use super::instance_network::Host as _;
use super::ip_name_lookup::{Host as _, HostResolveAddressStream};
use super::tcp_create_socket::Host as _;
use super::udp_create_socket::Host as _;
use super::*;
use crate::net::{Fabric, FabricConfig, NamespaceSpec};

use IpAddressFamily::{Ipv4, Ipv6};

/// A guest's side: its table and its sockets.
struct Guest {
    table: ResourceTable,
    ctx: SocketsCtx,
}

fn fabric() -> Arc<Fabric> {
    Fabric::new(FabricConfig { upstream_dns: Some(vec![]), ..FabricConfig::new("a") })
}

fn guest(fabric: &Fabric, name: &str, ip: [u8; 4]) -> Guest {
    let namespace = fabric.attach(NamespaceSpec::new(name, ip.into(), "default", name));
    Guest { table: ResourceTable::new(), ctx: SocketsCtx::new(namespace) }
}

fn same<T>(resource: &Resource<T>) -> Resource<T>
where
    T: 'static,
{
    Resource::new_borrow(resource.rep())
}

fn code<T>(result: SocketResult<T>) -> Result<T, ErrorCode> {
    result.map_err(|error| error.downcast().expect("an error of the guest's"))
}

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

impl Guest {
    fn view(&mut self) -> SocketsView<'_> {
        SocketsView { table: &mut self.table, ctx: &mut self.ctx }
    }

    fn network(&mut self) -> Resource<Network> {
        self.view().instance_network().expect("a network")
    }

    fn tcp(&mut self, family: IpAddressFamily) -> Resource<tcp::TcpSocket> {
        self.view().create_tcp_socket(family).expect("a socket")
    }

    fn bind(&mut self, socket: &Resource<tcp::TcpSocket>, at: &str) -> Result<(), ErrorCode> {
        let (network, at) = (self.network(), addr(at));
        let family = if at.is_ipv4() { Ipv4 } else { Ipv6 };
        code(HostTcpSocket::start_bind(
            &mut self.view(),
            same(socket),
            network,
            to_wit(at, family),
        ))?;
        code(HostTcpSocket::finish_bind(&mut self.view(), same(socket)))
    }

    fn listen(&mut self, at: &str) -> Result<Resource<tcp::TcpSocket>, ErrorCode> {
        let socket = self.tcp(if addr(at).is_ipv4() { Ipv4 } else { Ipv6 });
        self.bind(&socket, at)?;
        code(self.view().start_listen(same(&socket)))?;
        code(self.view().finish_listen(same(&socket)))?;
        Ok(socket)
    }

    fn start_connect(
        &mut self,
        socket: &Resource<tcp::TcpSocket>,
        to: &str,
    ) -> Result<(), ErrorCode> {
        let (network, to) = (self.network(), addr(to));
        let family = if to.is_ipv4() { Ipv4 } else { Ipv6 };
        code(self.view().start_connect(same(socket), network, to_wit(to, family)))
    }

    fn connect(
        &mut self,
        socket: &Resource<tcp::TcpSocket>,
        to: &str,
    ) -> Result<(DynInputStream, DynOutputStream), ErrorCode> {
        self.start_connect(socket, to)?;
        let (input, output) = code(self.view().finish_connect(same(socket)))?;
        Ok(self.take(input, output))
    }

    fn accept(
        &mut self,
        listener: &Resource<tcp::TcpSocket>,
    ) -> Result<(Resource<tcp::TcpSocket>, DynInputStream, DynOutputStream), ErrorCode> {
        let (socket, input, output) = code(self.view().accept(same(listener)))?;
        let (input, output) = self.take(input, output);
        Ok((socket, input, output))
    }

    fn take(
        &mut self,
        input: Resource<DynInputStream>,
        output: Resource<DynOutputStream>,
    ) -> (DynInputStream, DynOutputStream) {
        (self.table.delete(input).expect("a stream"), self.table.delete(output).expect("a stream"))
    }

    fn ready<T: Pollable>(&mut self, resource: &Resource<T>) -> bool {
        self.table.get_mut(resource).expect("a resource").ready().now_or_never().is_some()
    }
}

fn write(output: &mut DynOutputStream, text: &'static str) {
    assert!(output.check_write().expect("an open stream") >= text.len());
    output.write(Bytes::from_static(text.as_bytes())).expect("permitted");
}

#[tokio::test]
async fn a_connection_carries_bytes_a_half_close_and_what_was_written_before_a_drop() {
    let fabric = fabric();
    let (mut server, mut client) =
        (guest(&fabric, "server", [10, 128, 0, 2]), guest(&fabric, "client", [10, 128, 0, 3]));
    let listener = server.listen("0.0.0.0:80").expect("a free port");
    assert!(!server.ready(&listener), "nobody waits");
    assert!(matches!(server.accept(&listener), Err(ErrorCode::WouldBlock)));

    let socket = client.tcp(Ipv4);
    let (mut from_server, mut to_server) =
        client.connect(&socket, "10.128.0.2:80").expect("a listener");
    assert!(server.ready(&listener));
    let (accepted, mut from_client, mut to_client) = server.accept(&listener).expect("one waits");
    let local = code(HostTcpSocket::local_address(&mut client.view(), same(&socket)));
    let remote = code(HostTcpSocket::remote_address(&mut server.view(), same(&accepted)));
    let (local, remote) = (to_std(local.expect("bound")), to_std(remote.expect("connected")));
    assert_eq!((local, local.ip()), (remote, addr("10.128.0.3:1").ip()));

    assert_eq!(from_client.read(9).expect("open"), Bytes::new());
    write(&mut to_server, "question");
    assert_eq!(from_client.read(3).expect("bytes"), "que");
    code(client.view().shutdown(same(&socket), ShutdownType::Send)).expect("connected");
    assert!(matches!(to_server.check_write(), Err(StreamError::Closed)));
    assert_eq!(from_client.read(99).expect("bytes"), "stion");
    assert!(matches!(from_client.read(9), Err(StreamError::Closed)));

    write(&mut to_client, "answer");
    drop((to_client, from_client));
    HostTcpSocket::drop(&mut server.view(), accepted).expect("no children");
    assert_eq!(from_server.read(99).expect("bytes"), "answer");
    assert!(matches!(from_server.read(9), Err(StreamError::Closed)));
}

#[tokio::test]
async fn closing_with_unread_input_is_a_connection_reset() {
    let fabric = fabric();
    let mut pod = guest(&fabric, "pod", [10, 128, 0, 2]);
    let listener = pod.listen("127.0.0.1:80").expect("a free port");
    let socket = pod.tcp(Ipv4);
    let (mut input, mut output) = pod.connect(&socket, "127.0.0.1:80").expect("a listener");
    write(&mut output, "never read");
    let (accepted, from, to) = pod.accept(&listener).expect("one waits");
    drop((from, to));
    HostTcpSocket::drop(&mut pod.view(), accepted).expect("no children");
    let Err(StreamError::LastOperationFailed(error)) = input.read(9) else { panic!("no reset") };
    let error = pod.table.push(error).expect("room");
    let told = network::Host::network_error_code(&mut pod.view(), error).expect("an error");
    assert_eq!(told, Some(ErrorCode::ConnectionReset));
    assert!(matches!(input.read(9), Err(StreamError::Closed)));
}

#[tokio::test]
async fn operations_in_the_wrong_state_are_refused_as_wasmtime_refuses_them() {
    let fabric = fabric();
    let mut pod = guest(&fabric, "pod", [10, 128, 0, 2]);
    let socket = pod.tcp(Ipv4);
    let finish = code(HostTcpSocket::finish_bind(&mut pod.view(), same(&socket)));
    assert_eq!(finish, Err(ErrorCode::NotInProgress));
    let finish = code(pod.view().finish_connect(same(&socket))).err();
    assert_eq!(finish, Some(ErrorCode::NotInProgress));
    let listen = code(pod.view().start_listen(same(&socket)));
    assert_eq!(listen, Err(ErrorCode::InvalidState), "not bound");
    let local = code(HostTcpSocket::local_address(&mut pod.view(), same(&socket)));
    assert!(matches!(local, Err(ErrorCode::InvalidState)));
    let shut = code(pod.view().shutdown(same(&socket), ShutdownType::Both));
    assert_eq!(shut, Err(ErrorCode::InvalidState), "not connected");

    let network = pod.network();
    let at = to_wit(addr("0.0.0.0:80"), Ipv4);
    code(HostTcpSocket::start_bind(&mut pod.view(), same(&socket), network, at))
        .expect("a free port");
    let listen = code(pod.view().start_listen(same(&socket)));
    assert_eq!(listen, Err(ErrorCode::ConcurrencyConflict), "the binding is not finished");
    code(HostTcpSocket::finish_bind(&mut pod.view(), same(&socket))).expect("begun");
    assert_eq!(pod.bind(&socket, "0.0.0.0:81"), Err(ErrorCode::InvalidState), "bound already");
}

#[tokio::test]
async fn addresses_that_cannot_be_used_are_told_apart() {
    let fabric = fabric();
    let mut pod = guest(&fabric, "pod", [10, 128, 0, 2]);
    let _held = pod.listen("0.0.0.0:80").expect("a free port");
    for (family, at, error) in [
        (Ipv4, "0.0.0.0:80", ErrorCode::AddressInUse),
        (Ipv4, "10.128.0.2:80", ErrorCode::AddressInUse),
        (Ipv4, "10.128.0.9:81", ErrorCode::AddressNotBindable),
        (Ipv4, "224.0.0.1:81", ErrorCode::InvalidArgument),
        (Ipv4, "[::]:81", ErrorCode::InvalidArgument),
        (Ipv6, "0.0.0.0:81", ErrorCode::InvalidArgument),
        (Ipv6, "[::ffff:10.128.0.2]:81", ErrorCode::InvalidArgument),
    ] {
        let socket = pod.tcp(family);
        assert_eq!(pod.bind(&socket, at), Err(error), "bind {at}");
    }
    for (family, to, error) in [
        (Ipv4, "10.128.0.2:81", ErrorCode::ConnectionRefused),
        (Ipv4, "10.128.0.77:80", ErrorCode::RemoteUnreachable),
        (Ipv4, "0.0.0.0:80", ErrorCode::InvalidArgument),
        (Ipv4, "10.128.0.2:0", ErrorCode::InvalidArgument),
        (Ipv4, "255.255.255.255:80", ErrorCode::InvalidArgument),
        (Ipv6, "[::1]:81", ErrorCode::ConnectionRefused),
        (Ipv6, "[::ffff:10.128.0.2]:80", ErrorCode::InvalidArgument),
    ] {
        let socket = pod.tcp(family);
        assert_eq!(pod.connect(&socket, to).err(), Some(error), "connect {to}");
    }
}

#[tokio::test]
async fn an_ipv6_wildcard_listener_is_reached_over_ipv4_and_sees_mapped_peers() {
    let fabric = fabric();
    let mut pod = guest(&fabric, "pod", [10, 128, 0, 2]);
    let listener = pod.listen("[::]:80").expect("a free port");
    let socket = pod.tcp(Ipv4);
    let _streams = pod.connect(&socket, "10.128.0.2:80").expect("a listener");
    let (accepted, ..) = pod.accept(&listener).expect("one waits");
    let remote = code(HostTcpSocket::remote_address(&mut pod.view(), accepted));
    let remote = to_std(remote.expect("connected"));
    assert!(remote.to_string().starts_with("[::ffff:10.128.0.2]:"), "{remote}");
}

#[tokio::test]
async fn options_are_kept_and_inherited_by_accepted_sockets() {
    let fabric = fabric();
    let mut pod = guest(&fabric, "pod", [10, 128, 0, 2]);
    let listener = pod.listen("0.0.0.0:80").expect("a free port");
    code(pod.view().set_hop_limit(same(&listener), 9)).expect("usable");
    assert_eq!(code(pod.view().set_hop_limit(same(&listener), 0)), Err(ErrorCode::InvalidArgument));
    code(pod.view().set_keep_alive_enabled(same(&listener), true)).expect("usable");
    code(pod.view().set_keep_alive_idle_time(same(&listener), 1)).expect("usable");
    let socket = pod.tcp(Ipv4);
    let _streams = pod.connect(&socket, "10.128.0.2:80").expect("a listener");
    let (accepted, ..) = pod.accept(&listener).expect("one waits");
    assert_eq!(code(pod.view().hop_limit(same(&accepted))), Ok(9));
    assert_eq!(code(pod.view().keep_alive_enabled(same(&accepted))), Ok(true));
    assert_eq!(code(pod.view().keep_alive_idle_time(same(&accepted))), Ok(1_000_000_000));
}

#[tokio::test]
async fn listeners_closed_from_outside_wake_their_guest_with_an_error() {
    let fabric = fabric();
    let mut pod = guest(&fabric, "pod", [10, 128, 0, 2]);
    let handle = pod.ctx.handle();
    assert!(!handle.has_listeners());
    let listener = pod.listen("0.0.0.0:80").expect("a free port");
    assert!(handle.has_listeners());
    handle.stop_listening();
    assert!(!handle.has_listeners());
    assert!(pod.ready(&listener));
    assert_eq!(pod.accept(&listener).err(), Some(ErrorCode::InvalidState));
    pod.listen("0.0.0.0:80").expect("free again");
}

impl Guest {
    #[allow(clippy::type_complexity)]
    fn udp(
        &mut self,
        at: &str,
        remote: Option<&str>,
    ) -> Result<(Resource<udp::IncomingDatagrams>, Resource<udp::OutgoingDatagrams>), ErrorCode>
    {
        let socket = self.view().create_udp_socket(Ipv4).expect("a socket");
        let unbound = code(self.view().stream(same(&socket), None)).err();
        assert_eq!(unbound, Some(ErrorCode::InvalidState), "not bound");
        let network = self.network();
        let at = to_wit(addr(at), Ipv4);
        code(HostUdpSocket::start_bind(&mut self.view(), same(&socket), network, at))?;
        code(HostUdpSocket::finish_bind(&mut self.view(), same(&socket)))?;
        let remote = remote.map(|remote| to_wit(addr(remote), Ipv4));
        code(self.view().stream(socket, remote))
    }

    fn send(
        &mut self,
        out: &Resource<udp::OutgoingDatagrams>,
        text: &str,
        to: Option<&str>,
    ) -> Result<u64, ErrorCode> {
        code(self.view().check_send(same(out)))?;
        let remote_address = to.map(|to| to_wit(addr(to), Ipv4));
        let datagram = OutgoingDatagram { data: text.into(), remote_address };
        code(self.view().send(same(out), vec![datagram]))
    }
}

#[tokio::test]
async fn datagrams_are_filtered_by_a_connected_socket_and_checked_before_they_go() {
    let fabric = fabric();
    let mut pod = guest(&fabric, "pod", [10, 128, 0, 2]);
    let (server_in, server_out) = pod.udp("0.0.0.0:53", None).expect("a free port");
    assert!(!pod.ready(&server_in));
    let (client_in, client_out) =
        pod.udp("0.0.0.0:5000", Some("10.128.0.2:53")).expect("a free port");
    let (_other_in, other_out) = pod.udp("0.0.0.0:5001", None).expect("a free port");

    assert_eq!(pod.send(&client_out, "who?", None), Ok(1));
    assert!(pod.ready(&server_in));
    let got = code(pod.view().receive(same(&server_in), 9)).expect("a datagram");
    assert_eq!((got.len(), &got[0].data[..]), (1, &b"who?"[..]));
    assert_eq!(to_std(got[0].remote_address), addr("10.128.0.2:5000"));

    assert_eq!(pod.send(&other_out, "noise", Some("10.128.0.2:5000")), Ok(1));
    assert_eq!(pod.send(&server_out, "me", Some("10.128.0.2:5000")), Ok(1));
    let got = code(pod.view().receive(same(&client_in), 9)).expect("a datagram");
    assert_eq!((got.len(), &got[0].data[..]), (1, &b"me"[..]), "only the connected peer's");

    let invalid = Err(ErrorCode::InvalidArgument);
    assert_eq!(pod.send(&server_out, "x", None), invalid);
    assert_eq!(pod.send(&client_out, "x", Some("10.128.0.2:54")), invalid);
    assert_eq!(pod.send(&server_out, "x", Some("0.0.0.0:54")), invalid);
    let large = "x".repeat(crate::net::DATAGRAM_MAX + 1);
    let sent = pod.send(&server_out, &large, Some("10.128.0.2:5000"));
    assert_eq!(sent, Err(ErrorCode::DatagramTooLarge));
    let unpermitted = pod
        .view()
        .send(same(&server_out), vec![OutgoingDatagram { data: vec![], remote_address: None }]);
    assert!(unpermitted.expect_err("a trap").downcast().is_err(), "no check-send came before");
    assert_eq!(pod.udp("0.0.0.0:53", None).err(), Some(ErrorCode::AddressInUse));
}

#[tokio::test]
async fn a_datagram_server_closed_from_outside_ends_after_what_it_has() {
    let fabric = fabric();
    let mut pod = guest(&fabric, "pod", [10, 128, 0, 2]);
    let (server_in, _server_out) = pod.udp("0.0.0.0:53", None).expect("a free port");
    let (_client_in, client_out) = pod.udp("0.0.0.0:0", None).expect("a free port");
    assert_eq!(pod.send(&client_out, "last", Some("10.128.0.2:53")), Ok(1));
    let handle = pod.ctx.handle();
    assert!(handle.has_listeners());
    handle.stop_listening();
    assert!(!handle.has_listeners(), "a client at a port of no choice is no listener");
    assert_eq!(code(pod.view().receive(same(&server_in), 9)).map(|got| got.len()), Ok(1));
    assert!(pod.ready(&server_in));
    let ended = code(pod.view().receive(same(&server_in), 9)).err();
    assert_eq!(ended, Some(ErrorCode::InvalidState));
}

#[tokio::test]
async fn names_are_looked_up_and_errors_come_at_once_where_they_are_known() {
    let fabric = fabric();
    let mut pod = guest(&fabric, "pod", [10, 128, 0, 2]);
    let network = pod.network();
    let stream = code(pod.view().resolve_addresses(same(&network), "pod".into()));
    let stream = stream.expect("a name of the pod's own");
    let first = code(pod.view().resolve_next_address(same(&stream))).expect("an answer");
    assert!(matches!(first, Some(IpAddress::Ipv4((10, 128, 0, 2)))));
    let end = code(pod.view().resolve_next_address(same(&stream))).expect("an answer");
    assert!(end.is_none());
    for (name, error) in [
        ("nope.default.svc.cluster.local.", ErrorCode::NameUnresolvable),
        ("example.org.", ErrorCode::TemporaryResolverFailure),
        ("no name", ErrorCode::InvalidArgument),
    ] {
        let found = code(pod.view().resolve_addresses(same(&network), name.into()));
        assert_eq!(found.err(), Some(error), "{name}");
    }
}
