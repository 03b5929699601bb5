//! One connection to the API: TLS, HTTP/2, requests and watches side by side on it.
//!
//! Thousands of these live in one process, so they are as thin as can be: no types, no retries, no
//! pool. Whoever holds one makes a new one when it breaks.

use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use bytes::{Bytes, BytesMut};
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::link::identity::Identity;
use crate::link::tls::{ALPN_H2, client_config};

/// A line of a watch is one object; one larger than this is no object of a simulation.
const LINE_MAX: usize = 4 << 20;

/// How a body is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Json,
    MergePatch,
    StrategicPatch,
}

impl Kind {
    fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::MergePatch => "application/merge-patch+json",
            Self::StrategicPatch => "application/strategic-merge-patch+json",
        }
    }
}

/// Where the API is.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// `HOST:PORT`.
    pub address: String,
    pub ca: CertificateDer<'static>,
}

impl Endpoint {
    /// The endpoint at `url` (`https://HOST:PORT`).
    pub fn new(url: &str, ca: CertificateDer<'static>) -> Self {
        let address = url.trim().trim_start_matches("https://").trim_end_matches('/').to_owned();
        Self { address, ca }
    }

    /// Connects, as whom `identity` says or whom a bearer token stands for.
    ///
    /// # Errors
    /// No connection, or no trust.
    pub async fn connect(
        &self,
        identity: Option<&Identity>,
        bearer: Option<String>,
    ) -> anyhow::Result<Connection> {
        let config = client_config(&self.ca, identity, &[ALPN_H2])?;
        let host = self.address.rsplit_once(':').map_or(self.address.as_str(), |(host, _)| host);
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
        let tcp = TcpStream::connect(&self.address)
            .await
            .with_context(|| format!("no connection to {}", self.address))?;
        tcp.set_nodelay(true)?;
        let tls = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await?;
        let (sender, driver) = http2::Builder::new(TokioExecutor::new())
            .handshake(TokioIo::new(tls))
            .await
            .context("the server speaks no HTTP/2")?;
        let driver = tokio::spawn(async move {
            let _ = driver.await;
        });
        let driver = Arc::new(Driver(driver.abort_handle()));
        let authority = self.address.clone();
        Ok(Connection { sender, authority, bearer, _driver: driver })
    }
}

/// What moves the bytes; it ends with the last user of the connection.
struct Driver(tokio::task::AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A connection; clones share it.
#[derive(Clone)]
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    authority: String,
    bearer: Option<String>,
    _driver: Arc<Driver>,
}

impl Connection {
    async fn send(
        &self,
        method: &str,
        path: &str,
        kind: Kind,
        body: Vec<u8>,
    ) -> anyhow::Result<Response<Incoming>> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("https://{}{path}", self.authority))
            .header(header::CONTENT_TYPE, kind.content_type())
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, "coracle-sim");
        if let Some(bearer) = &self.bearer {
            request = request.header(header::AUTHORIZATION, format!("Bearer {bearer}"));
        }
        let request = request.body(Full::new(Bytes::from(body)))?;
        let mut sender = self.sender.clone();
        sender.ready().await?;
        Ok(sender.send_request(request).await?)
    }

    /// One request, the whole answer.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn ask(
        &self,
        method: &str,
        path: &str,
        kind: Kind,
        body: Option<&Value>,
    ) -> anyhow::Result<(u16, Bytes)> {
        let body = body.map(Value::to_string).unwrap_or_default().into_bytes();
        let answer = self.send(method, path, kind, body).await?;
        let code = answer.status().as_u16();
        Ok((code, answer.into_body().collect().await?.to_bytes()))
    }

    /// One request that must be answered with 2xx, or one of `also`.
    ///
    /// # Errors
    /// The connection broke, or the server refused.
    pub async fn must(
        &self,
        method: &str,
        path: &str,
        kind: Kind,
        body: Option<&Value>,
        also: &[u16],
    ) -> anyhow::Result<Bytes> {
        let (code, answer) = self.ask(method, path, kind, body).await?;
        if (200..300).contains(&code) || also.contains(&code) {
            return Ok(answer);
        }
        let text = String::from_utf8_lossy(&answer);
        let text: String = text.chars().take(500).collect();
        Err(anyhow!("{method} {path} was answered {code}: {text}"))
    }

    /// Reads an object.
    ///
    /// # Errors
    /// As [`Self::must`].
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let answer = self.must("GET", path, Kind::Json, None, &[]).await?;
        serde_json::from_slice(&answer).with_context(|| format!("{path} is no JSON"))
    }

    /// Opens a watch.
    ///
    /// # Errors
    /// As [`Self::must`].
    pub async fn watch(&self, path: &str) -> anyhow::Result<Lines> {
        let answer = self.send("GET", path, Kind::Json, Vec::new()).await?;
        let code = answer.status().as_u16();
        if code != 200 {
            bail!("the watch of {path} was answered {code}");
        }
        Ok(Lines { body: answer.into_body(), rest: BytesMut::new(), looked: 0 })
    }
}

/// The lines of a watch.
pub struct Lines {
    body: Incoming,
    rest: BytesMut,
    /// How far there is no line end in `rest`.
    looked: usize,
}

impl Lines {
    /// The next line; `None` at the end of the watch.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn next(&mut self) -> anyhow::Result<Option<BytesMut>> {
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.rest[self.looked..]) {
                let line = self.rest.split_to(self.looked + at + 1);
                self.looked = 0;
                return Ok(Some(line));
            }
            self.looked = self.rest.len();
            if self.looked > LINE_MAX {
                bail!("a line of the watch is longer than {LINE_MAX} bytes");
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.rest.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}
