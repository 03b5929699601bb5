//! The DNS server inside the network: UDP and TCP port 53 of the cluster's DNS address.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use hickory_proto::op::{Message, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::wire::{Question, encode};
use super::zone::{Answer, Kind, Record, Zone};
use super::{upstream, wire};
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
    while let Ok(datagram) = socket.recv().await {
        let Some(fabric) = fabric.upgrade() else { return };
        let Some(asked) = Asked::read(&fabric, &datagram.data) else { continue };
        let limit = asked.udp_limit();
        match asked {
            Asked::Answered(message, _) => reply(&socket, datagram.from, &message, limit),
            Asked::Outside(outside) => {
                let Ok(seat) = forwards.clone().try_acquire_owned() else {
                    let failed = outside.question.reply(ResponseCode::ServFail);
                    reply(&socket, datagram.from, &failed, limit);
                    continue;
                };
                let socket = socket.clone();
                tokio::spawn(async move {
                    match outside.forward(&fabric, &datagram.data).await {
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
            Some(Asked::Outside(outside)) => match outside.forward(&fabric, &bytes).await {
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
    Outside(Box<Outside>),
}

/// A question for the node's resolvers.
struct Outside {
    question: Question,
    /// The zone's part of the answer where an ExternalName leads out, and the name that it gives.
    alias: Option<(Message, String)>,
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
        answer.rotate(fabric.next_turn());
        let leads_out = follow(&zone, &mut answer, question.kind);
        let known = question.answer(&zone, &answer);
        let alias = match (known, leads_out) {
            (Some(message), None) => {
                return Some(Self::Answered(message, question.udp_limit()));
            }
            (Some(message), Some(target)) => Some((message, target)),
            (None, _) => None,
        };
        Some(Self::Outside(Box::new(Outside { question, alias })))
    }

    fn udp_limit(&self) -> usize {
        match self {
            Self::Answered(_, limit) => *limit,
            Self::Outside(outside) => outside.question.udp_limit(),
        }
    }
}

/// Puts the addresses of an ExternalName that is the zone's own into the answer; gives the name
/// where it is not.
fn follow(zone: &Zone<'_>, answer: &mut Answer, kind: Kind) -> Option<String> {
    let Answer::Records { records, additional } = answer else { return None };
    let [Record::Cname(target)] = records.as_slice() else { return None };
    if !matches!(kind, Kind::A | Kind::Aaaa) {
        return None;
    }
    let target = target.trim_end_matches('.').to_ascii_lowercase();
    match zone.find(&target, kind) {
        Answer::NotOurs => return Some(target),
        Answer::NoSuchName => {}
        Answer::Records { records: found, .. } => {
            additional.extend(found.into_iter().filter_map(|record| match record {
                Record::Address(ip) => Some((target.clone(), ip)),
                _ => None,
            }));
        }
    }
    None
}

impl Outside {
    /// The resolvers' answer as bytes, or one of our own.
    async fn forward(&self, fabric: &Fabric, bytes: &[u8]) -> Result<Vec<u8>, Message> {
        let resolvers = upstream::resolvers(fabric.config());
        let Some((message, target)) = &self.alias else {
            let answer = upstream::forward(&resolvers, bytes).await;
            return answer.ok_or_else(|| self.question.reply(ResponseCode::ServFail));
        };
        let record_type = self.question.record_type();
        let id = self.question.message.metadata.id;
        let mut message = message.clone();
        if let Some(asked) = wire::ask(target, record_type, id)
            && let Some(answer) = upstream::forward(&resolvers, &asked).await
        {
            wire::append(&mut message, &answer);
        }
        Err(message)
    }
}
