use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::base::clock::SystemClock;
use crate::link::identity::{Ca, Identity, IdentityRequest, Usage};
use crate::link::tls::{peer_client_config, peer_server_config};

fn ca() -> Ca {
    Ca::ephemeral(SystemClock::shared()).expect("a CA")
}

fn identity(ca: &Ca, name: &str, group: &str) -> Identity {
    let request = IdentityRequest {
        common_name: name.into(),
        organizations: vec![group.into()],
        sans: vec!["127.0.0.1".into()],
        usages: vec![Usage::ClientAuth],
        lifetime: Duration::from_secs(3600),
    };
    ca.issue(&request).expect("an identity")
}

fn node(ca: &Ca, name: &str) -> Identity {
    identity(ca, &format!("system:node:{name}"), "system:nodes")
}

/// A node `b` that listens, and what it takes.
async fn listening(ca: &Ca, shutdown: &Shutdown) -> (SocketAddr, mpsc::Receiver<Incoming>) {
    let tls = peer_server_config(ca.certificate(), &node(ca, "b")).expect("a configuration");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (sender, receiver) = incoming_queue();
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (tls, sender, shutdown) = (tls.clone(), sender.clone(), shutdown.clone());
            tokio::spawn(async move {
                let _ = accept(tcp, tls, sender, &shutdown).await;
            });
        }
    });
    (address, receiver)
}

fn post() -> Request<()> {
    Request::post("https://b/stream").header("x-port", "80").body(()).expect("a head")
}

async fn connected(
    ca: &Ca,
    shutdown: &Shutdown,
) -> (PeerStream, PeerStream, Peer, mpsc::Receiver<Incoming>) {
    let (address, mut incoming) = listening(ca, shutdown).await;
    let tls = peer_client_config(ca.certificate(), &node(ca, "a"), "b").expect("a configuration");
    let peer = Peer::connect("b", &address.to_string(), tls).await.expect("a link");
    let taken = async {
        let stream = incoming.recv().await.expect("a stream");
        assert_eq!(stream.node(), "a");
        assert_eq!(stream.head().headers()["x-port"], "80");
        stream.accept(Response::new(())).expect("taken")
    };
    let (opened, taken) = tokio::join!(peer.open(post()), taken);
    (opened.expect("a stream").1, taken, peer, incoming)
}

#[tokio::test]
async fn a_stream_carries_bytes_both_ways_and_half_closes() {
    let (ca, shutdown) = (ca(), Shutdown::new());
    let (mut here, mut there, _peer, _incoming) = connected(&ca, &shutdown).await;
    here.write_all(b"ping").await.expect("sent");
    here.shutdown().await.expect("half-closed");
    let mut asked = Vec::new();
    there.read_to_end(&mut asked).await.expect("read to the half-close");
    assert_eq!(asked, b"ping");
    there.write_all(b"pong").await.expect("the other way is still open");
    there.finish().expect("ended");
    drop(there);
    let mut answer = Vec::new();
    here.read_to_end(&mut answer).await.expect("read to the end");
    assert_eq!(answer, b"pong", "what was sent before the drop arrives");
}

#[tokio::test]
async fn many_megabytes_pass_the_windows() {
    let (ca, shutdown) = (ca(), Shutdown::new());
    let (mut here, mut there, _peer, _incoming) = connected(&ca, &shutdown).await;
    let block = Bytes::from(vec![7u8; 1 << 20]);
    let sender = tokio::spawn(async move {
        for _ in 0..8 {
            here.send(block.clone()).await.expect("sent");
        }
        here.finish().expect("ended");
        here
    });
    let mut total = 0;
    while let Some(bytes) = there.next().await.expect("read") {
        total += bytes.len();
    }
    assert_eq!(total, 8 << 20);
    drop(sender.await.expect("the sender ended"));
}

#[tokio::test]
async fn a_reset_reads_as_connection_reset() {
    let (ca, shutdown) = (ca(), Shutdown::new());
    let (here, mut there, _peer, _incoming) = connected(&ca, &shutdown).await;
    here.reset();
    let error = there.next().await.expect_err("a reset");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let error = loop {
        if let Err(error) = there.send(Bytes::from_static(b"late")).await {
            break error;
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_stream_that_is_dropped_without_an_end_is_reset() {
    let (ca, shutdown) = (ca(), Shutdown::new());
    let (here, mut there, _peer, _incoming) = connected(&ca, &shutdown).await;
    drop(here);
    let error = there.next().await.expect_err("a reset");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_refused_stream_answers_its_status() {
    let (ca, shutdown) = (ca(), Shutdown::new());
    let (_here, _there, peer, mut incoming) = connected(&ca, &shutdown).await;
    let refuse = async {
        incoming.recv().await.expect("a stream").refuse(StatusCode::NOT_FOUND);
    };
    let (opened, ()) = tokio::join!(peer.open(post()), refuse);
    let error = opened.expect_err("refused");
    assert!(matches!(error, PeerError::Refused { status: StatusCode::NOT_FOUND, .. }), "{error}");
}

#[tokio::test]
async fn another_nodes_certificate_is_refused() {
    let (ca, shutdown) = (ca(), Shutdown::new());
    let (address, _incoming) = listening(&ca, &shutdown).await;
    let tls = peer_client_config(ca.certificate(), &node(&ca, "a"), "c").expect("a configuration");
    let error = Peer::connect("c", &address.to_string(), tls).await.expect_err("b is not c");
    assert!(error.to_string().contains("expected node \"c\", found node \"b\""), "{error}");
}

#[tokio::test]
async fn who_is_no_node_opens_no_stream() {
    let (ca, shutdown) = (ca(), Shutdown::new());
    let (address, mut incoming) = listening(&ca, &shutdown).await;
    let alice = identity(&ca, "system:node:a", "dev");
    let tls = peer_client_config(ca.certificate(), &alice, "b").expect("a configuration");
    // The handshake itself succeeds for the client: the other end closes after it.
    if let Ok(peer) = Peer::connect("b", &address.to_string(), tls).await {
        peer.open(post()).await.expect_err("no node");
    }
    assert!(incoming.try_recv().is_err());
}

#[tokio::test]
async fn a_link_that_ends_is_noticed() {
    let (ca, shutdown) = (ca(), Shutdown::new());
    let (mut here, _there, peer, _incoming) = connected(&ca, &shutdown).await;
    shutdown.cancel();
    here.next().await.expect_err("the link is gone");
    while peer.is_alive() {
        tokio::task::yield_now().await;
    }
    assert!(peer.open(post()).await.is_err());
}
