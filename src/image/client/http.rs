//! Requests over HTTP/1.1, with a limit on every wait. Redirects are followed by hand, since who is
//! sent elsewhere must not take the credentials along.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig as TlsConfig;

use super::ClientConfig;
use crate::image::problem::Problem;

const USER_AGENT: &str = concat!("coracle/", env!("CARGO_PKG_VERSION"));

/// Connections to hosts that are trusted alike.
pub struct Http {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    idle: Duration,
}

impl Http {
    pub fn new(tls: Arc<TlsConfig>, config: ClientConfig) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(config.connect_timeout));
        let mut tls = tls.as_ref().clone();
        // The connector sets what it speaks.
        tls.alpn_protocols.clear();
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_timer(TokioTimer::new())
            .build(connector);
        Self { client, idle: config.idle_timeout }
    }

    /// Sends one request and waits for the head of its answer.
    ///
    /// # Errors
    /// [`Problem::Unreachable`].
    pub async fn send(
        &self,
        method: Method,
        uri: &Uri,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, Problem> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = headers.clone();
        request
            .headers_mut()
            .insert(header::USER_AGENT, header::HeaderValue::from_static(USER_AGENT));
        let failed = |why: String| {
            let verb = if method == Method::POST { "Post" } else { "Get" };
            Problem::Unreachable(format!("failed to do request: {verb} \"{}\": {why}", shown(uri)))
        };
        match tokio::time::timeout(self.idle, self.client.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(failed(deepest(&error))),
            Err(_) => Err(failed(format!("no answer within {}", seconds(self.idle)))),
        }
    }

    /// The next piece of a body.
    ///
    /// # Errors
    /// [`Problem::Unreachable`] where it breaks off or stands still.
    pub async fn piece(&self, body: &mut Incoming) -> Result<Option<Bytes>, Problem> {
        loop {
            let frame = match tokio::time::timeout(self.idle, body.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => {
                    return Err(Problem::Unreachable(format!(
                        "the answer broke off: {}",
                        deepest(&error)
                    )));
                }
                Err(_) => {
                    return Err(Problem::Unreachable(format!(
                        "the answer stood still for {}",
                        seconds(self.idle)
                    )));
                }
            };
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
    }

    /// All of a body that may have `max` bytes.
    ///
    /// # Errors
    /// It breaks off, or is longer.
    pub async fn whole(&self, mut body: Incoming, max: usize) -> Result<Vec<u8>, Problem> {
        let mut all = Vec::new();
        while let Some(piece) = self.piece(&mut body).await? {
            if all.len() + piece.len() > max {
                return Err(Problem::refused(format!("the answer is longer than {max} bytes")));
            }
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }
}

/// Where an answer sends its reader.
///
/// # Errors
/// Nowhere that may be gone to.
pub fn redirected(from: &Uri, response: &Response<Incoming>) -> Result<Option<Uri>, Problem> {
    let sent = matches!(
        response.status(),
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    );
    if !sent {
        return Ok(None);
    }
    let wrong = |why: &str| Problem::refused(format!("\"{}\" leads {why}", shown(from)));
    let location = response.headers().get(header::LOCATION).and_then(|v| v.to_str().ok());
    let location = location.ok_or_else(|| wrong("nowhere"))?;
    let to: Uri = location.parse().map_err(|_| wrong("to what is no URL"))?;
    let to = if to.scheme().is_some() {
        to
    } else {
        let mut parts = from.clone().into_parts();
        parts.path_and_query = to.path_and_query().cloned();
        Uri::from_parts(parts).map_err(|_| wrong("to what is no URL"))?
    };
    match (from.scheme_str(), to.scheme_str()) {
        (_, Some("https")) | (Some("http"), Some("http")) if to.host().is_some() => Ok(Some(to)),
        _ => Err(wrong("from https to something else")),
    }
}

/// A URL without its query, which may hold a signature.
pub fn shown(uri: &Uri) -> String {
    let scheme = uri.scheme_str().unwrap_or("https");
    let authority = uri.authority().map_or("", |a| a.as_str());
    format!("{scheme}://{}{}", authority.rsplit('@').next().unwrap_or_default(), uri.path())
}

fn seconds(duration: Duration) -> String {
    format!("{}s", duration.as_secs_f64())
}

/// The cause at the bottom: what stands above it says only that something failed.
fn deepest(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    match cause.downcast_ref::<io::Error>() {
        Some(io) if io.kind() == io::ErrorKind::ConnectionRefused => {
            "connection refused".to_owned()
        }
        _ => cause.to_string(),
    }
}
