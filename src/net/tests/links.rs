use super::*;
use rustls::pki_types::CertificateDer;

use crate::link::identity::{Ca, Identity, IdentityRequest, Usage};
use crate::link::peer::{self, Peer, PeerError};
use crate::link::tls::{peer_client_config, peer_server_config};
use parking_lot::Mutex;
use std::collections::HashMap;

/// Joins fabrics of one process by pipes.
#[derive(Default)]
struct Wire {
    nodes: Mutex<HashMap<String, Arc<Fabric>>>,
}

struct From {
    node: &'static str,
    wire: Arc<Wire>,
}

impl PeerDialer for From {
    fn dial(&self, node: &str, address: SocketAddr) -> BoxFuture<'static, Result<Peer, PeerError>> {
        let peer = self.wire.nodes.lock().get(node).cloned();
        let (me, node) = (self.node, node.to_owned());
        Box::pin(async move {
            let address = address.to_string();
            let Some(peer) = peer else {
                return Err(PeerError::Dial { node, address, why: "nobody".into() });
            };
            let (near, far) = tokio::io::duplex(64 * 1024);
            let (incoming, streams) = peer::incoming_queue();
            tokio::spawn(peer.serve_peers(streams));
            tokio::spawn(async move {
                let shutdown = crate::base::shutdown::Shutdown::new();
                let _ = peer::accept_over(me, far, incoming, &shutdown).await;
            });
            let failed = |error: h2::Error| error.to_string();
            let linked = Peer::over(&node, near).await.map_err(failed);
            linked.map_err(|why| PeerError::Dial { node, address, why })
        })
    }
}

fn route(name: &str, cidr: &str) -> NodeRoute {
    NodeRoute {
        name: name.into(),
        pod_cidrs: vec![cidr.parse().expect("a CIDR")],
        peer_addr: Some(addr("127.0.0.1:1")),
    }
}

/// Two nodes that know each other.
fn two_nodes() -> (Arc<Fabric>, Arc<Fabric>) {
    let wire = Arc::new(Wire::default());
    let make = |node: &'static str| {
        let peers: Arc<dyn PeerDialer> = Arc::new(From { node, wire: wire.clone() });
        let config = FabricConfig { peers: Some(peers), ..FabricConfig::new(node) };
        let fabric = Fabric::new(config);
        fabric.set_node(route("a", "10.128.0.0/20"));
        fabric.set_node(route("b", "10.128.16.0/20"));
        wire.nodes.lock().insert(node.into(), fabric.clone());
        fabric
    };
    (make("a"), make("b"))
}

#[tokio::test]
async fn a_pod_reaches_a_pod_of_another_node_and_half_closes_arrive() {
    let (a, b) = two_nodes();
    let client = pod(&a, "client", "10.128.0.2");
    let server = pod(&b, "server", "10.128.16.2");
    let listener = server.listen(addr("0.0.0.0:80"), 4).expect("a free port");
    tokio::spawn(async move {
        let mut stream = listener.accept().await.expect("a connection");
        assert_eq!(stream.peer_addr().ip(), ip("10.128.0.2"));
        let mut asked = String::new();
        stream.read_to_string(&mut asked).await.expect("the client's end");
        stream.write_all(asked.to_uppercase().as_bytes()).await.expect("room");
    });
    let mut stream = client.connect(addr("10.128.16.2:80")).await.expect("the other node");
    stream.write_all(b"across").await.expect("room");
    stream.shutdown_half(Shutdown::Write);
    assert_eq!(hear(stream).await, "ACROSS");
}

#[tokio::test]
async fn resets_and_refusals_cross_the_link() {
    let (a, b) = two_nodes();
    let client = pod(&a, "client", "10.128.0.2");
    let server = pod(&b, "server", "10.128.16.2");
    let refused = client.connect(addr("10.128.16.2:80")).await.err();
    assert_eq!(refused, Some(NetError::ConnectionRefused));
    let nobody = client.connect(addr("10.128.16.9:80")).await.err();
    assert_eq!(nobody, Some(NetError::HostUnreachable));

    let listener = server.listen(addr("0.0.0.0:80"), 4).expect("a free port");
    let stream = client.connect(addr("10.128.16.2:80")).await.expect("a listener");
    listener.accept().await.expect("a connection").reset();
    assert_eq!(stream.read_chunk(9).await, Err(NetError::ConnectionReset));

    let stream = client.connect(addr("10.128.16.2:80")).await.expect("a listener");
    let accepted = listener.accept().await.expect("a connection");
    stream.reset();
    assert_eq!(accepted.read_chunk(9).await, Err(NetError::ConnectionReset));
}

#[tokio::test]
async fn a_stream_that_nobody_reads_does_not_stop_the_others() {
    let (a, b) = two_nodes();
    let client = pod(&a, "client", "10.128.0.2");
    let server = pod(&b, "server", "10.128.16.2");
    let stuck = server.listen(addr("0.0.0.0:80"), 16).expect("a free port");
    let mut held = Vec::new();
    for _ in 0..8 {
        let mut stream = client.connect(addr("10.128.16.2:80")).await.expect("a listener");
        held.push(stuck.accept().await.expect("a connection"));
        tokio::spawn(async move {
            let _ = stream.write_all(&vec![0; 8 << 20]).await;
        });
    }
    greet(&server, "0.0.0.0:81", "through");
    for _ in 0..5 {
        assert_eq!(ask(&client, "10.128.16.2:81").await.as_deref(), Ok("through"));
    }
}

#[tokio::test]
async fn large_transfers_arrive_whole_both_ways() {
    let (a, b) = two_nodes();
    let client = pod(&a, "client", "10.128.0.2");
    let server = pod(&b, "server", "10.128.16.2");
    let listener = server.listen(addr("0.0.0.0:80"), 4).expect("a free port");
    tokio::spawn(async move {
        let stream = listener.accept().await.expect("a connection");
        while let Some(chunk) = stream.read_chunk(usize::MAX).await.expect("bytes") {
            stream.write_chunk(chunk).await.expect("room");
        }
    });
    let data: Vec<u8> = (0..5_000_000u32).map(|i| (i % 251) as u8).collect();
    let stream = client.connect(addr("10.128.16.2:80")).await.expect("a listener");
    let stream = Arc::new(stream);
    let writer = tokio::spawn({
        let (stream, data) = (stream.clone(), data.clone());
        async move {
            stream.write_chunk(data.into()).await.expect("room");
            stream.shutdown_half(Shutdown::Write);
        }
    });
    let mut back = Vec::new();
    while let Some(chunk) = stream.read_chunk(usize::MAX).await.expect("bytes") {
        back.extend_from_slice(&chunk);
    }
    writer.await.expect("no panic");
    assert!(back == data, "what came back is what was sent");
}

#[tokio::test]
async fn a_node_that_speaks_for_anothers_pod_is_refused() {
    let (a, b) = two_nodes();
    greet(&pod(&b, "server", "10.128.16.2"), "0.0.0.0:80", "secret");
    let forger = pod(&a, "forger", "10.128.16.99");
    let refused = forger.connect(addr("10.128.16.2:80")).await.err();
    assert_eq!(refused, Some(NetError::AccessDenied));
}

#[tokio::test]
async fn datagrams_cross_the_link_and_find_back() {
    let (a, b) = two_nodes();
    let client = pod(&a, "client", "10.128.0.2").bind_udp(addr("0.0.0.0:0")).expect("a port");
    let server = pod(&b, "server", "10.128.16.2").bind_udp(addr("0.0.0.0:53")).expect("a port");
    for word in ["one", "two"] {
        client.send_to(Bytes::from(word), addr("10.128.16.2:53")).expect("sent");
        let asked = server.recv().await.expect("an open socket");
        assert_eq!(asked.data, word);
        server.send_to(asked.data, asked.from).expect("sent");
        let answer = client.recv().await.expect("an open socket");
        assert_eq!((answer.from, answer.data), (addr("10.128.16.2:53"), Bytes::from(word)));
    }
}

#[tokio::test]
async fn a_service_passes_over_a_node_that_is_gone() {
    let (a, b) = two_nodes();
    let client = pod(&a, "client", "10.128.0.2");
    greet(&pod(&a, "near", "10.128.0.3"), "0.0.0.0:8080", "near");
    greet(&pod(&b, "far", "10.128.16.2"), "0.0.0.0:8080", "far");
    let endpoints = vec![endpoint("10.128.0.3:8080", "a"), endpoint("10.128.16.2:8080", "b")];
    a.set_service(tcp_service("web", Some("10.43.0.5"), endpoints));
    let mut heard = Vec::new();
    for _ in 0..4 {
        heard.push(ask(&client, "10.43.0.5:80").await.expect("an endpoint"));
    }
    heard.sort();
    assert_eq!(heard, ["far", "far", "near", "near"]);
    a.remove_node("b");
    for _ in 0..4 {
        assert_eq!(ask(&client, "10.43.0.5:80").await.as_deref(), Ok("near"));
    }
}

#[tokio::test]
async fn requests_to_a_handler_on_another_node_are_served_there() {
    let (a, b) = two_nodes();
    let client = pod(&a, "client", "10.128.0.2");
    let server = pod(&b, "server", "10.128.16.2");
    let _guard = server.serve_http(8080, Arc::new(Echo("far"))).expect("a free port");
    let endpoints = vec![endpoint("10.128.16.2:8080", "b")];
    a.set_service(tcp_service("web", Some("10.43.0.5"), endpoints));
    for _ in 0..3 {
        let answer = client.request(get("http://web/hi")).await.expect("an answer");
        assert_eq!(text(answer).await, "far GET /hi host=web peer=10.128.0.2 body=");
    }
}

/// Dials over mTLS as one node.
struct Certified {
    ca: CertificateDer<'static>,
    identity: Identity,
}

impl PeerDialer for Certified {
    fn dial(&self, node: &str, address: SocketAddr) -> BoxFuture<'static, Result<Peer, PeerError>> {
        let tls = peer_client_config(&self.ca, &self.identity, node).expect("a configuration");
        let node = node.to_owned();
        Box::pin(async move { Peer::connect(&node, &address.to_string(), tls).await })
    }
}

/// A node with a certificate that listens for others.
async fn certified(ca: &Ca, node: &str) -> (Arc<Fabric>, SocketAddr) {
    let identity = ca.issue(&IdentityRequest {
        common_name: format!("system:node:{node}"),
        organizations: vec!["system:nodes".into()],
        sans: vec!["127.0.0.1".into()],
        usages: vec![Usage::ClientAuth],
        lifetime: std::time::Duration::from_secs(3600),
    });
    let identity = identity.expect("an identity");
    let tls = peer_server_config(ca.certificate(), &identity).expect("a configuration");
    let ca = ca.certificate().clone().into_owned();
    let peers: Arc<dyn PeerDialer> = Arc::new(Certified { ca, identity });
    let fabric = Fabric::new(FabricConfig { peers: Some(peers), ..FabricConfig::new(node) });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (incoming, streams) = peer::incoming_queue();
    tokio::spawn(fabric.serve_peers(streams));
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (tls, incoming) = (tls.clone(), incoming.clone());
            tokio::spawn(async move {
                let shutdown = crate::base::shutdown::Shutdown::new();
                let _ = peer::accept(tcp, tls, incoming, &shutdown).await;
            });
        }
    });
    (fabric, address)
}

#[tokio::test]
async fn nodes_with_certificates_are_joined_over_a_socket() {
    let ca = Ca::ephemeral(crate::base::clock::SystemClock::shared()).expect("a CA");
    let ((a, at_a), (b, at_b)) = (certified(&ca, "a").await, certified(&ca, "b").await);
    for fabric in [&a, &b] {
        for (name, cidr, at) in [("a", "10.128.0.0/20", at_a), ("b", "10.128.16.0/20", at_b)] {
            fabric.set_node(NodeRoute { peer_addr: Some(at), ..route(name, cidr) });
        }
    }
    greet(&pod(&b, "server", "10.128.16.2"), "0.0.0.0:80", "over mTLS");
    let client = pod(&a, "client", "10.128.0.2");
    assert_eq!(ask(&client, "10.128.16.2:80").await.as_deref(), Ok("over mTLS"));
    greet(&pod(&a, "back", "10.128.0.3"), "0.0.0.0:80", "and back");
    let other = pod(&b, "other", "10.128.16.3");
    assert_eq!(ask(&other, "10.128.0.3:80").await.as_deref(), Ok("and back"));

    // At b's address answers no node named c.
    a.set_node(NodeRoute { peer_addr: Some(at_b), ..route("c", "10.128.32.0/20") });
    assert_eq!(ask(&client, "10.128.32.2:80").await, Err(NetError::HostUnreachable));
}
