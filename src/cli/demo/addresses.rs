//! Every worker of the demo has a loopback address of its own, as every node of a cluster has its
//! own address: so each can open the same NodePorts, although all are processes of one machine.
//!
//! Two demos at a time must not take the same addresses. A demo *claims* an address by binding (not
//! listening on) one port of it; the kernel lets go of the claim with the process.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

use super::manifests::NodePort;

/// Below the range of NodePorts (30000–32767) and of what Linux gives out itself.
const CLAIM: u16 = 29_999;
/// `127.0.0.1` to `127.0.0.250` are tried.
const LAST: u8 = 250;

/// Addresses that no other demo takes while this lives.
#[derive(Debug)]
pub struct Addresses {
    pub all: Vec<IpAddr>,
    _claims: Vec<Socket>,
}

/// Claims `count` loopback addresses on which all of `ports` are free.
///
/// # Errors
/// There are not enough. (A system whose loopback has one address only, as macOS', has room for
/// one worker.)
pub fn claim(count: usize, ports: &[NodePort]) -> io::Result<Addresses> {
    let mut claimed = Addresses { all: Vec::new(), _claims: Vec::new() };
    for last in 1..=LAST {
        if claimed.all.len() == count {
            break;
        }
        let address = IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
        let Ok(socket) = bind(SocketAddr::new(address, CLAIM), false) else { continue };
        if ports.iter().all(|p| bind(SocketAddr::new(address, p.port), p.udp).is_ok()) {
            claimed.all.push(address);
            claimed._claims.push(socket);
        }
    }
    if claimed.all.len() < count {
        let told = format!(
            "only {} loopback addresses have the NodePorts {} free, and {count} workers need one \
             each: stop what holds these ports, or ask for fewer --workers",
            claimed.all.len(),
            ports.iter().map(|p| p.port.to_string()).collect::<Vec<_>>().join(", "),
        );
        return Err(io::Error::new(io::ErrorKind::AddrInUse, told));
    }
    Ok(claimed)
}

fn bind(address: SocketAddr, udp: bool) -> io::Result<Socket> {
    let (kind, protocol) =
        if udp { (Type::DGRAM, Protocol::UDP) } else { (Type::STREAM, Protocol::TCP) };
    let socket = Socket::new(Domain::IPV4, kind, Some(protocol))?;
    // A NodePort whose last connections linger is free, as it is for the agent. The claim is not
    // to be shared.
    socket.set_reuse_address(!udp && address.port() != CLAIM)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_demos_get_different_addresses() {
        let first = claim(2, &[]).expect("there are many");
        let second = claim(2, &[]).expect("there are many");
        assert!(first.all.iter().all(|address| !second.all.contains(address)), "{first:?}");
    }

    #[test]
    fn an_address_whose_node_port_is_taken_is_left_out() {
        let held = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = held.local_addr().expect("bound").port();
        let ports = [NodePort { service: "web".to_owned(), port, udp: false }];
        let claimed = claim(1, &ports).expect("there are others");
        assert_ne!(claimed.all[0], IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
}
