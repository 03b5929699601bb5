//! Addresses between WIT and std, and which of them an operation takes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use super::bindings::wasi::sockets::network::{
    IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress,
};

pub(super) fn to_std(address: IpSocketAddress) -> SocketAddr {
    match address {
        IpSocketAddress::Ipv4(v4) => {
            let (a, b, c, d) = v4.address;
            SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), v4.port)
        }
        IpSocketAddress::Ipv6(v6) => {
            let (a, b, c, d, e, f, g, h) = v6.address;
            let ip = Ipv6Addr::new(a, b, c, d, e, f, g, h);
            SocketAddr::V6(SocketAddrV6::new(ip, v6.port, v6.flow_info, v6.scope_id))
        }
    }
}

fn v4_tuple(ip: Ipv4Addr) -> (u8, u8, u8, u8) {
    let [a, b, c, d] = ip.octets();
    (a, b, c, d)
}

fn v6_tuple(ip: Ipv6Addr) -> (u16, u16, u16, u16, u16, u16, u16, u16) {
    let [a, b, c, d, e, f, g, h] = ip.segments();
    (a, b, c, d, e, f, g, h)
}

pub(super) fn ip_to_wit(ip: IpAddr) -> IpAddress {
    match ip {
        IpAddr::V4(v4) => IpAddress::Ipv4(v4_tuple(v4)),
        IpAddr::V6(v6) => IpAddress::Ipv6(v6_tuple(v6)),
    }
}

/// An address as a socket of the family sees it: an IPv4 peer of an IPv6 socket is mapped.
pub(super) fn to_wit(address: SocketAddr, family: IpAddressFamily) -> IpSocketAddress {
    let port = address.port();
    match (address, family) {
        (SocketAddr::V4(v4), IpAddressFamily::Ipv4) => {
            IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: v4_tuple(*v4.ip()) })
        }
        (SocketAddr::V4(v4), IpAddressFamily::Ipv6) => ipv6(v4.ip().to_ipv6_mapped(), port, 0, 0),
        (SocketAddr::V6(v6), _) => ipv6(*v6.ip(), port, v6.flowinfo(), v6.scope_id()),
    }
}

fn ipv6(ip: Ipv6Addr, port: u16, flow_info: u32, scope_id: u32) -> IpSocketAddress {
    let address = v6_tuple(ip);
    IpSocketAddress::Ipv6(Ipv6SocketAddress { port, flow_info, address, scope_id })
}

/// Whether a socket of the family takes the address. IPv6 sockets take neither IPv4-mapped nor
/// the deprecated IPv4-compatible addresses.
pub(super) fn is_of_family(ip: IpAddr, family: IpAddressFamily) -> bool {
    match (ip, family) {
        (IpAddr::V4(_), IpAddressFamily::Ipv4) => true,
        (IpAddr::V6(v6), IpAddressFamily::Ipv6) => {
            let compatible = matches!(v6.segments(), [0, 0, 0, 0, 0, 0, _, _])
                && !v6.is_unspecified()
                && !v6.is_loopback();
            !compatible && v6.to_ipv4_mapped().is_none()
        }
        _ => false,
    }
}

/// Whether something can be sent to the address.
pub(super) fn is_remote(address: SocketAddr) -> bool {
    !address.ip().to_canonical().is_unspecified() && address.port() != 0
}

pub(super) fn is_unicast(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => !v4.is_multicast() && !v4.is_broadcast(),
        IpAddr::V6(v6) => !v6.is_multicast(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_family_takes_only_its_own_addresses() {
        use IpAddressFamily::{Ipv4, Ipv6};
        for (ip, family, taken) in [
            ("10.0.0.1", Ipv4, true),
            ("10.0.0.1", Ipv6, false),
            ("::1", Ipv6, true),
            ("::", Ipv6, true),
            ("::1", Ipv4, false),
            ("::ffff:10.0.0.1", Ipv6, false),
            ("::10.0.0.1", Ipv6, false),
            ("2001:db8::1", Ipv6, true),
        ] {
            let ip: IpAddr = ip.parse().expect("an address");
            assert_eq!(is_of_family(ip, family), taken, "{ip}");
        }
    }

    #[test]
    fn an_ipv4_peer_of_an_ipv6_socket_is_mapped() {
        let peer: SocketAddr = "10.0.0.1:80".parse().expect("an address");
        let seen = to_std(to_wit(peer, IpAddressFamily::Ipv6));
        assert_eq!(seen, "[::ffff:10.0.0.1]:80".parse().expect("an address"));
        assert_eq!(to_std(to_wit(peer, IpAddressFamily::Ipv4)), peer);
    }
}
