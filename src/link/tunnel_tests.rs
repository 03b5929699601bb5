use std::convert::Infallible;
use std::net::SocketAddr;

use http_body_util::{Empty, Full};
use tokio::net::TcpListener;

use super::*;
use crate::base::clock::SystemClock;
use crate::link::identity::{Ca, Identity, IdentityRequest, JoinToken, ServingCertificate, Usage};
use crate::link::tls::{ALPN_TUNNEL, client_config, fetch_ca, server_config};

fn identity(ca: &Ca, name: &str, group: &str) -> Identity {
    ca.issue(&IdentityRequest {
        common_name: name.into(),
        organizations: vec![group.into()],
        sans: Vec::new(),
        usages: vec![Usage::ClientAuth],
        lifetime: Duration::from_secs(3600),
    })
    .expect("an identity")
}

/// An API server that takes tunnels only.
async fn server(ca: &Arc<Ca>, tunnels: &Arc<Tunnels>, shutdown: &Shutdown) -> SocketAddr {
    let dir = tempfile::tempdir().expect("a folder");
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let serving = ServingCertificate::open(ca.clone(), dir.path(), names, SystemClock::shared());
    let tls = server_config(serving.expect("serving"), ca.certificate(), &[ALPN_TUNNEL]);
    let acceptor = tokio_rustls::TlsAcceptor::from(tls.expect("a configuration"));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (tunnels, shutdown) = (tunnels.clone(), shutdown.clone());
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, tunnels) = (acceptor.clone(), tunnels.clone());
            let shutdown = shutdown.clone();
            tokio::spawn(async move {
                let Ok(io) = acceptor.accept(tcp).await else { return };
                let certificate = io.get_ref().1.peer_certificates().map(|c| c[0].to_vec());
                let _ = tunnels.accept(io, &certificate.unwrap_or_default(), &shutdown).await;
            });
        }
    });
    address
}

fn agent(ca: &Ca, who: Identity, address: SocketAddr, says: &'static str, shutdown: &Shutdown) {
    let tls = client_config(ca.certificate(), Some(&who), &[ALPN_TUNNEL]).expect("configured");
    let config = TunnelConfig {
        address: address.to_string(),
        server_name: "localhost".into(),
        tls: Box::new(move || tls.clone()),
        first_wait: Duration::from_millis(5),
        seed: 1,
    };
    let service = hyper::service::service_fn(move |request: Request<Incoming>| async move {
        let text = format!("{says} {}", request.uri().path_and_query().expect("a path"));
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
    });
    tokio::spawn(serve(config, service, shutdown.clone()));
}

async fn ask(tunnels: &Tunnels, node: &str, path: &str) -> Result<String, TunnelError> {
    let body = Empty::new().map_err(|never: Infallible| match never {}).boxed_unsync();
    let request = Request::get(path).body(body).expect("a request");
    let response = tunnels.request(node, request).await?;
    let bytes = response.into_body().collect().await.expect("a body").to_bytes();
    Ok(String::from_utf8(bytes.to_vec()).expect("text"))
}

/// Asks until the node answers `expected`.
async fn until(tunnels: &Tunnels, node: &str, expected: &str) {
    while ask(tunnels, node, "/logs?tail=1").await.ok().as_deref() != Some(expected) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn cluster() -> (Arc<Ca>, Arc<Tunnels>, Shutdown) {
    (Arc::new(Ca::ephemeral(SystemClock::shared()).expect("a CA")), Tunnels::new(), Shutdown::new())
}

#[tokio::test]
async fn the_server_asks_over_the_connection_that_the_agent_dialled() {
    let (ca, tunnels, shutdown) = cluster();
    let address = server(&ca, &tunnels, &shutdown).await;
    agent(&ca, identity(&ca, "system:node:a", "system:nodes"), address, "a", &shutdown);
    until(&tunnels, "a", "a /logs?tail=1").await;
    assert_eq!(tunnels.connected(), ["a"]);
    let error = ask(&tunnels, "b", "/").await.expect_err("b is not there");
    assert_eq!(error.to_string(), "node \"b\" is not connected");
    shutdown.cancel();
}

#[tokio::test]
async fn a_node_that_connects_again_replaces_its_older_connection() {
    let (ca, tunnels, shutdown) = cluster();
    let address = server(&ca, &tunnels, &shutdown).await;
    let first = Shutdown::new();
    agent(&ca, identity(&ca, "system:node:a", "system:nodes"), address, "old", &first);
    until(&tunnels, "a", "old /logs?tail=1").await;
    // The older agent is told to end first, or the two would take turns for ever.
    first.cancel();
    agent(&ca, identity(&ca, "system:node:a", "system:nodes"), address, "new", &shutdown);
    until(&tunnels, "a", "new /logs?tail=1").await;
    assert_eq!(tunnels.connected(), ["a"]);
}

#[tokio::test]
async fn an_agent_dials_again_after_its_connection_broke() {
    let (ca, tunnels, shutdown) = cluster();
    let address = server(&ca, &tunnels, &shutdown).await;
    agent(&ca, identity(&ca, "system:node:a", "system:nodes"), address, "a", &shutdown);
    until(&tunnels, "a", "a /logs?tail=1").await;
    let before = tunnels.nodes.lock()["a"].generation;
    tunnels.nodes.lock()["a"].cancel.cancel();
    while tunnels.nodes.lock().get("a").is_none_or(|c| c.generation == before) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    until(&tunnels, "a", "a /logs?tail=1").await;
}

#[tokio::test]
async fn who_is_no_node_gets_no_tunnel() {
    let (ca, tunnels, shutdown) = cluster();
    let (_here, there) = tokio::io::duplex(1024);
    let alice = identity(&ca, "alice", "dev").chain().swap_remove(0);
    let error = tunnels.accept(there, &alice, &shutdown).await.expect_err("alice is no node");
    assert!(matches!(error, TunnelError::NotANode), "{error}");
    assert!(tunnels.connected().is_empty());
}

#[tokio::test]
async fn a_join_token_finds_the_ca_of_its_cluster_and_of_no_other() {
    let (ca, tunnels, shutdown) = cluster();
    // The API server offers HTTP/1.1 too; here only the handshake matters.
    let dir = tempfile::tempdir().expect("a folder");
    let names = vec!["127.0.0.1".to_owned()];
    let serving = ServingCertificate::open(ca.clone(), dir.path(), names, SystemClock::shared());
    let tls = server_config(serving.expect("serving"), ca.certificate(), &[b"http/1.1"]);
    let acceptor = tokio_rustls::TlsAcceptor::from(tls.expect("a configuration"));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let _ = acceptor.accept(tcp).await;
        }
    });
    let token = JoinToken::generate(&ca.sha256());
    let found = fetch_ca(&address, "127.0.0.1", &token).await.expect("the CA");
    assert_eq!(&found, ca.certificate());

    let other = JoinToken::generate(&"ab".repeat(32));
    let error = fetch_ca(&address, "127.0.0.1", &other).await.expect_err("another cluster");
    assert!(error.to_string().contains("is for another cluster"), "{error}");

    let error = fetch_ca(&address, "edge.example", &token).await.expect_err("another name");
    assert!(error.to_string().contains("not valid for name"), "{error}");
    drop((tunnels, shutdown));
}
