//! Datagrams between nodes: frames on one long stream.
//!
//! A frame is the length of what follows (u32, network order), a byte with the address family
//! (4 or 6), the source's address and port, the destination's address and port, the payload.

use std::net::{IpAddr, SocketAddr};
use std::sync::Weak;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::Request;
use tokio::sync::mpsc;

use super::link::PeerLink;
use crate::link::peer::PeerStream;
use crate::net::NetError;
use crate::net::udp::DATAGRAM_MAX;

/// The longest frame after its length: family, two IPv6 addresses with ports, the payload.
const FRAME_MAX: usize = 1 + 2 * 18 + DATAGRAM_MAX;

/// A datagram on its way to another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) data: Bytes,
}

impl Frame {
    fn encode(&self, into: &mut BytesMut) {
        let v4 = self.from.is_ipv4() && self.to.is_ipv4();
        let head = 1 + if v4 { 2 * 6 } else { 2 * 18 };
        into.put_u32((head + self.data.len()) as u32);
        into.put_u8(if v4 { 4 } else { 6 });
        for address in [self.from, self.to] {
            match address.ip() {
                IpAddr::V4(ip) if v4 => into.put_slice(&ip.octets()),
                IpAddr::V4(ip) => into.put_slice(&ip.to_ipv6_mapped().octets()),
                IpAddr::V6(ip) => into.put_slice(&ip.octets()),
            }
            into.put_u16(address.port());
        }
        into.put_slice(&self.data);
    }

    /// Takes one whole frame off the front, if there is one.
    fn decode(from: &mut BytesMut) -> Result<Option<Self>, NetError> {
        let Some(head) = from.get(..4) else { return Ok(None) };
        let len = u32::from_be_bytes(head.try_into().expect("four bytes")) as usize;
        if !(13..=FRAME_MAX).contains(&len) {
            return Err(NetError::InvalidArgument);
        }
        if from.len() < 4 + len {
            return Ok(None);
        }
        from.advance(4);
        let mut frame = from.split_to(len).freeze();
        let family = frame.get_u8();
        let mut address = || -> Result<SocketAddr, NetError> {
            let size = if family == 4 { 4 } else { 16 };
            if frame.remaining() < size + 2 {
                return Err(NetError::InvalidArgument);
            }
            let ip: IpAddr = if family == 4 {
                frame.get_u32().to_be_bytes().into()
            } else {
                IpAddr::from(frame.get_u128().to_be_bytes()).to_canonical()
            };
            Ok(SocketAddr::new(ip, frame.get_u16()))
        };
        let (from, to) = (address()?, address()?);
        Ok(Some(Self { from, to, data: frame }))
    }
}

/// Sends what is queued until the link is gone; what cannot be sent is lost.
pub(super) async fn send_all(link: Weak<PeerLink>, mut frames: mpsc::Receiver<Frame>) {
    let mut stream: Option<PeerStream> = None;
    let mut buffer = BytesMut::new();
    while let Some(frame) = frames.recv().await {
        frame.encode(&mut buffer);
        while buffer.len() < super::CHUNK
            && let Ok(more) = frames.try_recv()
        {
            more.encode(&mut buffer);
        }
        let bytes = buffer.split().freeze();
        if stream.is_none() {
            stream = open(&link).await;
        }
        let Some(open) = &mut stream else { continue };
        if open.send(bytes).await.is_err() {
            stream = None;
        }
    }
}

async fn open(link: &Weak<PeerLink>) -> Option<PeerStream> {
    let peer = link.upgrade()?.peer().await.ok()?;
    let head = Request::post("https://peer/udp").body(()).expect("a request of constants");
    let (_, stream) = peer.open(head).await.ok()?;
    Some(stream)
}

/// Hands every datagram of a stream to `deliver`.
pub(super) async fn receive_all(
    mut stream: PeerStream,
    deliver: impl Fn(SocketAddr, SocketAddr, Bytes),
) -> Result<(), NetError> {
    let mut buffer = BytesMut::new();
    while let Some(chunk) = stream.next().await.map_err(|error| NetError::from(&error))? {
        buffer.extend_from_slice(&chunk);
        while let Some(frame) = Frame::decode(&mut buffer)? {
            deliver(frame.from, frame.to, frame.data);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(from: &str, to: &str, data: &'static [u8]) -> Frame {
        let parse = |text: &str| text.parse().expect("an address");
        Frame { from: parse(from), to: parse(to), data: Bytes::from_static(data) }
    }

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut() {
        let frames = [
            frame("10.128.0.2:5000", "10.128.16.3:53", b"question"),
            frame("[2001:db8::1]:1", "[2001:db8::2]:2", b""),
            frame("10.128.0.2:5000", "10.128.16.3:53", b"again"),
        ];
        let mut wire = BytesMut::new();
        frames.iter().for_each(|f| f.encode(&mut wire));
        let mut got = Vec::new();
        let mut buffer = BytesMut::new();
        for byte in wire {
            buffer.put_u8(byte);
            while let Some(frame) = Frame::decode(&mut buffer).expect("whole frames") {
                got.push(frame);
            }
        }
        assert_eq!(got, frames);
    }

    #[test]
    fn a_frame_that_claims_too_much_is_refused() {
        let mut wire = BytesMut::from(&[0xff, 0xff, 0xff, 0xff, 4][..]);
        assert_eq!(Frame::decode(&mut wire), Err(NetError::InvalidArgument));
    }
}
