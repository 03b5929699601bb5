//! TCP, UDP and names over `wasi:sockets`.

use wasip2::io::poll::Pollable;
use wasip2::io::streams::{InputStream, OutputStream, StreamError};
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::network::{
    ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress,
};
use wasip2::sockets::tcp::{ShutdownType, TcpSocket};
use wasip2::sockets::tcp_create_socket::create_tcp_socket;
use wasip2::sockets::udp::{
    IncomingDatagram, IncomingDatagramStream, OutgoingDatagram, OutgoingDatagramStream, UdpSocket,
};
use wasip2::sockets::udp_create_socket::create_udp_socket;

fn any(port: u16) -> IpSocketAddress {
    IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: (0, 0, 0, 0) })
}

fn said(what: &str, code: ErrorCode) -> String {
    format!("{what}: {}", code.name())
}

/// Waits for the end of what was started.
fn finish<T>(
    pollable: &Pollable,
    mut step: impl FnMut() -> Result<T, ErrorCode>,
) -> Result<T, ErrorCode> {
    loop {
        match step() {
            Err(ErrorCode::WouldBlock) => pollable.block(),
            other => return other,
        }
    }
}

/// A TCP listener on all addresses of the pod.
pub struct Listener(TcpSocket);

impl Listener {
    /// Listens on `port`.
    pub fn bind(port: u16) -> Result<Self, String> {
        let socket =
            create_tcp_socket(IpAddressFamily::Ipv4).map_err(|code| said("socket", code))?;
        let bound = {
            let ready = socket.subscribe();
            socket
                .start_bind(&instance_network(), any(port))
                .and_then(|()| finish(&ready, || socket.finish_bind()))
                .and_then(|()| socket.start_listen())
                .and_then(|()| finish(&ready, || socket.finish_listen()))
        };
        bound.map_err(|code| said(&format!("listen on port {port}"), code))?;
        Ok(Self(socket))
    }

    /// Ready when there is a connection to accept.
    pub fn subscribe(&self) -> Pollable {
        self.0.subscribe()
    }

    /// A connection, if one waits.
    pub fn accept(&self) -> Result<Option<Stream>, String> {
        match self.0.accept() {
            Ok((socket, input, output)) => Ok(Some(Stream { input, output, socket })),
            Err(ErrorCode::WouldBlock) => Ok(None),
            Err(code) => Err(said("accept", code)),
        }
    }
}

/// A TCP connection. The streams are dropped before the socket, whose children they are.
pub struct Stream {
    input: InputStream,
    output: OutputStream,
    socket: TcpSocket,
}

impl Stream {
    /// Connects to the first address of `host` that answers.
    pub fn connect(host: &str, port: u16) -> Result<Self, String> {
        let mut last = format!("{host}: no address");
        for address in resolve(host)? {
            match Self::connect_to(address, port) {
                Ok(stream) => return Ok(stream),
                Err(code) => last = said(&format!("connect to {host} port {port}"), code),
            }
        }
        Err(last)
    }

    fn connect_to(address: IpAddress, port: u16) -> Result<Self, ErrorCode> {
        let (family, remote) = with_port(address, port);
        let socket = create_tcp_socket(family)?;
        let (input, output) = {
            let ready = socket.subscribe();
            socket.start_connect(&instance_network(), remote)?;
            finish(&ready, || socket.finish_connect())?
        };
        Ok(Self { input, output, socket })
    }

    /// Ready when there is something to read, or the end.
    pub fn subscribe(&self) -> Pollable {
        self.input.subscribe()
    }

    /// What has arrived, at most `max` bytes and maybe none; nothing more ever: `None`.
    pub fn read(&self, max: u64) -> Result<Option<Vec<u8>>, String> {
        match self.input.read(max) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StreamError::Closed) => Ok(None),
            Err(StreamError::LastOperationFailed(error)) => Err(error.to_debug_string()),
        }
    }

    /// As [`Self::read`], but waits.
    pub fn read_blocking(&self, max: u64) -> Result<Option<Vec<u8>>, String> {
        self.subscribe().block();
        self.read(max)
    }

    /// Writes all of `bytes`.
    pub fn write_all(&self, bytes: &[u8]) -> Result<(), String> {
        crate::write_all(&self.output, bytes)
    }

    /// Tells the peer that nothing more will come.
    pub fn finish_writing(&self) {
        let _ = self.socket.shutdown(ShutdownType::Send);
    }
}

/// A UDP socket on all addresses of the pod.
pub struct Udp {
    incoming: IncomingDatagramStream,
    outgoing: OutgoingDatagramStream,
    _socket: UdpSocket,
}

impl Udp {
    /// Binds `port`.
    pub fn bind(port: u16) -> Result<Self, String> {
        let socket =
            create_udp_socket(IpAddressFamily::Ipv4).map_err(|code| said("socket", code))?;
        let streams = {
            let ready = socket.subscribe();
            socket
                .start_bind(&instance_network(), any(port))
                .and_then(|()| finish(&ready, || socket.finish_bind()))
                .and_then(|()| socket.stream(None))
        };
        let (incoming, outgoing) =
            streams.map_err(|code| said(&format!("bind udp port {port}"), code))?;
        Ok(Self { incoming, outgoing, _socket: socket })
    }

    /// Sends one datagram to a host and waits for the first that comes back.
    pub fn exchange(data: &[u8], host: &str, port: u16) -> Result<Vec<u8>, String> {
        let [address, ..] = resolve(host)?[..] else { return Err(format!("{host} has no address")) };
        let socket = Self::bind(0)?;
        socket.send(data, with_port(address, port).1)?;
        let answer = socket.receive()?.into_iter().next();
        answer.map(|datagram| datagram.data).ok_or_else(|| format!("{host} sent nothing"))
    }

    /// Waits for datagrams.
    pub fn receive(&self) -> Result<Vec<IncomingDatagram>, String> {
        loop {
            let datagrams = self.incoming.receive(16).map_err(|code| said("receive", code))?;
            if !datagrams.is_empty() {
                return Ok(datagrams);
            }
            self.incoming.subscribe().block();
        }
    }

    /// Sends one datagram.
    pub fn send(&self, data: &[u8], to: IpSocketAddress) -> Result<(), String> {
        while self.outgoing.check_send().map_err(|code| said("send", code))? == 0 {
            self.outgoing.subscribe().block();
        }
        let datagram = OutgoingDatagram { data: data.to_vec(), remote_address: Some(to) };
        self.outgoing.send(&[datagram]).map(|_| ()).map_err(|code| said("send", code))
    }
}

fn with_port(address: IpAddress, port: u16) -> (IpAddressFamily, IpSocketAddress) {
    match address {
        IpAddress::Ipv4(address) => (
            IpAddressFamily::Ipv4,
            IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address }),
        ),
        IpAddress::Ipv6(address) => (
            IpAddressFamily::Ipv6,
            IpSocketAddress::Ipv6(Ipv6SocketAddress { port, flow_info: 0, address, scope_id: 0 }),
        ),
    }
}

/// The addresses of a name (or of an address).
pub fn resolve(name: &str) -> Result<Vec<IpAddress>, String> {
    let stream = wasip2::sockets::ip_name_lookup::resolve_addresses(&instance_network(), name)
        .map_err(|code| said(name, code))?;
    let ready = stream.subscribe();
    let mut addresses = Vec::new();
    loop {
        match finish(&ready, || stream.resolve_next_address()) {
            Ok(Some(address)) => addresses.push(address),
            Ok(None) => return Ok(addresses),
            Err(code) => return Err(said(name, code)),
        }
    }
}

/// An address as people write it.
pub fn display(address: &IpAddress) -> String {
    match address {
        IpAddress::Ipv4((a, b, c, d)) => format!("{a}.{b}.{c}.{d}"),
        IpAddress::Ipv6((a, b, c, d, e, f, g, h)) => {
            std::net::Ipv6Addr::new(*a, *b, *c, *d, *e, *f, *g, *h).to_string()
        }
    }
}
