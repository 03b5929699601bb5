//! The network as a whole: what reaches what, and what is refused how.

mod dns;
mod hostports;
mod links;
mod routing;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

pub(in crate::net) fn fabric(node: &str) -> Arc<Fabric> {
    Fabric::new(FabricConfig { upstream_dns: Some(Vec::new()), ..FabricConfig::new(node) })
}

pub(in crate::net) fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

pub(in crate::net) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A pod of the namespace `default`.
pub(in crate::net) fn pod(fabric: &Fabric, name: &str, at: &str) -> Arc<Namespace> {
    fabric.attach(NamespaceSpec::new(name, ip(at), "default", name))
}

/// Listens at `at` and greets whoever connects with `text`, then closes.
pub(in crate::net) fn greet(pod: &Namespace, at: &str, text: &'static str) {
    let listener = pod.listen(addr(at), 16).expect("a free port");
    tokio::spawn(async move {
        while let Ok(stream) = listener.accept().await {
            stream.write_chunk(Bytes::from_static(text.as_bytes())).await.expect("room");
        }
    });
}

/// What the other side says until it ends.
pub(in crate::net) async fn hear(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("an orderly end");
    text
}

pub(in crate::net) async fn ask(pod: &Namespace, at: &str) -> Result<String, NetError> {
    Ok(hear(pod.connect(addr(at)).await?).await)
}

/// Answers with its name, the path and who asked.
pub(in crate::net) struct Echo(pub(in crate::net) &'static str);

impl HttpService for Echo {
    fn call(
        &self,
        request: ::http::Request<Body>,
        peer: SocketAddr,
    ) -> BoxFuture<'static, ::http::Response<Body>> {
        let name = self.0;
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.expect("a whole body").to_bytes();
            let host = parts.headers.get("host").map(|h| h.to_str().expect("text").to_owned());
            let text = format!(
                "{name} {} {} host={} peer={} body={}",
                parts.method,
                parts.uri,
                host.unwrap_or_default(),
                peer.ip(),
                String::from_utf8_lossy(&body)
            );
            ::http::Response::new(full(text))
        })
    }
}

pub(in crate::net) fn tcp_service(
    name: &str,
    vip: Option<&str>,
    endpoints: Vec<Endpoint>,
) -> ServiceTable {
    ServiceTable {
        namespace: "default".into(),
        name: name.into(),
        cluster_ips: vip.map(ip).into_iter().collect(),
        headless: vip.is_none(),
        ports: vec![ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
            endpoints,
        }],
        ..ServiceTable::default()
    }
}

pub(in crate::net) fn endpoint(at: &str, node: &str) -> Endpoint {
    let address = addr(at);
    Endpoint {
        ip: address.ip(),
        port: address.port(),
        ready: true,
        hostname: None,
        node: Some(node.into()),
    }
}

/// A port of the host that is free now.
pub(in crate::net) fn free_port() -> u16 {
    let socket = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    socket.local_addr().expect("bound").port()
}

pub(in crate::net) async fn text(response: ::http::Response<Body>) -> String {
    let bytes = response.into_body().collect().await.expect("a whole body").to_bytes();
    String::from_utf8(bytes.to_vec()).expect("text")
}

pub(in crate::net) fn get(uri: &str) -> ::http::Request<Body> {
    ::http::Request::get(uri).body(empty()).expect("a request")
}

/// Speaks to a host socket until it ends.
pub(in crate::net) async fn over_host(at: SocketAddr, say: &str) -> std::io::Result<String> {
    let mut socket = tokio::net::TcpStream::connect(at).await?;
    socket.write_all(say.as_bytes()).await?;
    let mut heard = String::new();
    socket.read_to_string(&mut heard).await?;
    Ok(heard)
}
