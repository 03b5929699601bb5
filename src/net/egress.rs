//! The way out of the cluster: a socket of the node, for what lies neither in the cluster's nor
//! in the host's own ranges.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::NetError;
use super::udp::{DATAGRAM_MAX, Datagram, Inbox};

/// How long a connect to the outside may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Whether pods may dial an address outside: not the host's loopback, not link-local ranges
/// (where clouds keep their metadata service), nothing that is not a unicast address.
pub(crate) fn may_leave(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => {
            !(v4.is_loopback()
                || v4.is_link_local()
                || v4.is_unspecified()
                || v4.is_multicast()
                || v4.is_broadcast()
                || v4.octets()[0] == 0)
        }
        IpAddr::V6(v6) => {
            !(v6.is_loopback()
                || v6.is_unicast_link_local()
                || v6.is_unspecified()
                || v6.is_multicast())
        }
    }
}

/// Connects a socket of the host.
pub(crate) async fn connect(to: SocketAddr) -> Result<tokio::net::TcpStream, NetError> {
    let connect = tokio::net::TcpStream::connect(to);
    let stream = match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
        Ok(connected) => connected.map_err(|error| NetError::from(&error))?,
        Err(_) => return Err(NetError::TimedOut),
    };
    // Small writes of a guest are its own choice; the network adds no delay to them.
    stream.set_nodelay(true).map_err(|error| NetError::from(&error))?;
    Ok(stream)
}

/// The host socket behind a pod's UDP socket; closed with it.
pub(crate) struct EgressUdp {
    socket: Arc<tokio::net::UdpSocket>,
    v4: bool,
    reader: AbortHandle,
}

impl EgressUdp {
    pub(crate) fn open(
        handle: &Handle,
        to: SocketAddr,
        inbox: Weak<Inbox>,
    ) -> Result<Self, NetError> {
        let v4 = to.is_ipv4();
        let any: SocketAddr = if v4 { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
        let socket = std::net::UdpSocket::bind(any)
            .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
            .and_then(|socket| {
                let _inside = handle.enter();
                tokio::net::UdpSocket::from_std(socket)
            })
            .map_err(|error| NetError::from(&error))?;
        let socket = Arc::new(socket);
        let reader = handle.spawn(receive(socket.clone(), inbox)).abort_handle();
        Ok(Self { socket, v4, reader })
    }

    pub(crate) fn serves(&self, to: SocketAddr) -> bool {
        self.v4 == to.is_ipv4()
    }

    pub(crate) fn send(&self, data: Bytes, to: SocketAddr) -> Result<(), NetError> {
        match self.socket.try_send_to(&data, to) {
            Ok(_) => Ok(()),
            // A full socket buffer loses datagrams, as it may.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(NetError::from(&error)),
        }
    }
}

impl Drop for EgressUdp {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn receive(socket: Arc<tokio::net::UdpSocket>, inbox: Weak<Inbox>) {
    let mut buffer = vec![0u8; DATAGRAM_MAX];
    while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
        let Some(inbox) = inbox.upgrade() else { return };
        inbox.push(Datagram { from, data: Bytes::copy_from_slice(&buffer[..len]) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_own_ranges_stay_closed() {
        for (ip, open) in [
            ("127.0.0.1", false),
            ("127.9.9.9", false),
            ("::1", false),
            ("::ffff:127.0.0.1", false),
            ("169.254.169.254", false),
            ("fe80::1", false),
            ("0.0.0.0", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("192.0.2.7", true),
            ("2001:db8::1", true),
        ] {
            assert_eq!(may_leave(ip.parse().expect("an address")), open, "{ip}");
        }
    }
}
