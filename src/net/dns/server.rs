//! The DNS server inside the network: UDP and TCP port 53 of the cluster's DNS address.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use hickory_proto::op::{Message, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::upstream;
use super::wire::{Question, encode};
use super::zone::{Answer, Kind, Record, Zone};
use crate::net::fabric::Fabric;
use crate::net::namespace::NamespaceSpec;
use crate::net::{TcpListener, TcpStream, UdpSocket};

/// Questions that wait for resolvers outside at once.
const FORWARDS: usize = 256;

/// Starts the server as a namespace of its own.
pub(crate) fn serve(fabric: &Arc<Fabric>) {
    let config = fabric.config();
    let spec = NamespaceSpec::new("cluster-dns", config.dns_ip, "kube-system", "cluster-dns");
    let namespace = fabric.attach(spec);
    let at = SocketAddr::new(config.dns_ip, 53);
    let socket = namespace.bind_udp(at).expect("an empty namespace has all its ports");
    let listener = namespace.listen(at, 128).expect("an empty namespace has all its ports");
    let weak = Arc::downgrade(fabric);
    config.runtime.spawn(serve_udp(weak.clone(), socket));
    config.runtime.spawn(serve_tcp(weak, listener));
}

async fn serve_udp(fabric: Weak<Fabric>, socket: UdpSocket) {
    let socket = Arc::new(socket);
    let forwards = Arc::new(tokio::sync::Semaphore::new(FORWARDS));
    loop {
        let datagram = socket.recv().await;
        let Some(fabric) = fabric.upgrade() else { return };
        let Some(asked) = Asked::read(&fabric, &datagram.data) else { continue };
        let limit = asked.udp_limit();
        match asked {
            Asked::Answered(message, _) => reply(&socket, datagram.from, &message, limit),
            Asked::Outside(question) => {
                let Ok(seat) = forwards.clone().try_acquire_owned() else {
                    reply(&socket, datagram.from, &question.reply(ResponseCode::ServFail), limit);
                    continue;
                };
                let socket = socket.clone();
                tokio::spawn(async move {
                    let answer = forward(&fabric, &question, &datagram.data).await;
                    match answer {
                        Ok(bytes) => {
                            let _ = socket.send_to(bytes.into(), datagram.from);
                        }
                        Err(message) => reply(&socket, datagram.from, &message, limit),
                    }
                    drop(seat);
                });
            }
        }
    }
}

fn reply(socket: &UdpSocket, to: SocketAddr, message: &Message, limit: usize) {
    if let Some(bytes) = encode(message, Some(limit)) {
        let _ = socket.send_to(Bytes::from(bytes), to);
    }
}

async fn serve_tcp(fabric: Weak<Fabric>, listener: TcpListener) {
    while let Ok(stream) = listener.accept().await {
        tokio::spawn(serve_stream(fabric.clone(), stream));
    }
}

async fn serve_stream(fabric: Weak<Fabric>, mut stream: TcpStream) -> std::io::Result<()> {
    loop {
        let len = stream.read_u16().await?;
        let mut bytes = vec![0u8; usize::from(len)];
        stream.read_exact(&mut bytes).await?;
        let Some(fabric) = fabric.upgrade() else { return Ok(()) };
        let answer = match Asked::read(&fabric, &bytes) {
            None => return Ok(()),
            Some(Asked::Answered(message, _)) => encode(&message, None),
            Some(Asked::Outside(question)) => match forward(&fabric, &question, &bytes).await {
                Ok(bytes) => Some(bytes),
                Err(message) => encode(&message, None),
            },
        };
        let Some(answer) = answer else { return Ok(()) };
        let mut framed = (answer.len() as u16).to_be_bytes().to_vec();
        framed.extend_from_slice(&answer);
        stream.write_all(&framed).await?;
    }
}

/// A message that was read.
enum Asked {
    /// The zone knows; with the bytes that the client takes over UDP.
    Answered(Message, usize),
    /// Somebody else knows.
    Outside(Box<Question>),
}

impl Asked {
    fn read(fabric: &Fabric, bytes: &[u8]) -> Option<Self> {
        let question = match Question::read(bytes)? {
            Ok(question) => question,
            Err(refusal) => return Some(Self::Answered(refusal, 512)),
        };
        let config = fabric.config();
        let tables = fabric.tables().read();
        let zone = Zone { tables: &tables, domain: &config.cluster_domain, dns_ip: config.dns_ip };
        let mut answer = zone.find(&question.name, question.kind);
        follow(&zone, &mut answer, question.kind);
        Some(match question.answer(&zone, &answer) {
            Some(message) => Self::Answered(message, question.udp_limit()),
            None => Self::Outside(Box::new(question)),
        })
    }

    fn udp_limit(&self) -> usize {
        match self {
            Self::Answered(_, limit) => *limit,
            Self::Outside(question) => question.udp_limit(),
        }
    }
}

/// Puts the addresses of an ExternalName that is the zone's own beside it.
fn follow(zone: &Zone<'_>, answer: &mut Answer, kind: Kind) {
    let Answer::Records { records, additional } = answer else { return };
    let [Record::Cname(target)] = records.as_slice() else { return };
    let target = target.trim_end_matches('.').to_ascii_lowercase();
    if let Answer::Records { records: found, .. } = zone.find(&target, kind) {
        additional.extend(found.into_iter().filter_map(|record| match record {
            Record::Address(ip) => Some((target.clone(), ip)),
            _ => None,
        }));
    }
}

async fn forward(fabric: &Fabric, question: &Question, bytes: &[u8]) -> Result<Vec<u8>, Message> {
    let resolvers = upstream::resolvers(fabric.config());
    let answer = upstream::forward(&resolvers, bytes).await;
    answer.ok_or_else(|| question.reply(ResponseCode::ServFail))
}
