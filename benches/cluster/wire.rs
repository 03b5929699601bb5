//! A client as thin as can be: one TLS connection, HTTP/1.1, no types.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::sync::mpsc::UnboundedSender;

/// Where to, and as whom.
#[derive(Clone)]
pub struct Target {
    pub address: SocketAddr,
    pub tls: Arc<rustls::ClientConfig>,
}

pub struct Connection(SendRequest<Full<Bytes>>);

impl Connection {
    pub async fn open(target: &Target) -> Self {
        let tcp = tokio::net::TcpStream::connect(target.address).await.expect("a connection");
        tcp.set_nodelay(true).expect("an option");
        let name = ServerName::try_from("localhost").expect("a name");
        let connector = tokio_rustls::TlsConnector::from(target.tls.clone());
        let tls = connector.connect(name, tcp).await.expect("a handshake");
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.expect("HTTP/1.1");
        tokio::spawn(connection);
        Self(sender)
    }

    async fn send(
        &mut self,
        method: &str,
        path: &str,
        body: Vec<u8>,
    ) -> http::Response<hyper::body::Incoming> {
        let kind = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", kind)
            .body(Full::new(Bytes::from(body)))
            .expect("a request");
        self.0.ready().await.expect("the connection is open");
        self.0.send_request(request).await.expect("an answer")
    }

    /// One request, the whole answer.
    pub async fn ask(&mut self, method: &str, path: &str, body: Vec<u8>) -> (u16, Bytes) {
        let answer = self.send(method, path, body).await;
        let code = answer.status().as_u16();
        (code, answer.into_body().collect().await.expect("a body").to_bytes())
    }

    /// Tells when each event arrived.
    pub async fn watch(mut self, path: String, told: UnboundedSender<Instant>) {
        let mut body = self.send("GET", &path, Vec::new()).await.into_body();
        while let Some(Ok(frame)) = body.frame().await {
            let at = Instant::now();
            let lines =
                frame.data_ref().map_or(0, |data| data.iter().filter(|b| **b == b'\n').count());
            for _ in 0..lines {
                let _ = told.send(at);
            }
        }
    }

    /// Tells the name of each pod the first time it is seen Ready.
    pub async fn watch_ready(mut self, path: String, told: UnboundedSender<String>) {
        let mut body = self.send("GET", &path, Vec::new()).await.into_body();
        let (mut rest, mut seen) = (Vec::new(), std::collections::HashSet::new());
        while let Some(Ok(frame)) = body.frame().await {
            rest.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                let ready = br#""status":"True","type":"Ready""#;
                if !line.windows(ready.len()).any(|part| part == ready) {
                    continue;
                }
                let event: serde_json::Value = serde_json::from_slice(&line).expect("an event");
                let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default();
                if event["type"] != "DELETED" && seen.insert(name.to_owned()) {
                    let _ = told.send(name.to_owned());
                }
            }
        }
    }
}
