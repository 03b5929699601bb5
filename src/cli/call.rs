//! Requests to the API server, and what its answers and the failures to reach it mean.

use std::error::Error;
use std::io;
use std::time::Duration;

use futures::{AsyncBufRead, TryStreamExt};
use http::{Method, Request, Response, StatusCode, Uri, header};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::failure::Failure;
use crate::stream::upgrade::{self, Offer, Protocol, Purpose, Transport};

/// Whole objects.
pub const JSON: &str = "application/json";
/// Tables, or whole objects from a server that makes none.
pub const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
/// The largest answer that is read into memory.
const ANSWER_MAX: usize = 512 * 1024 * 1024;

/// A way to the cluster.
pub struct Connection {
    client: kube::Client,
    /// The namespace to work in.
    pub namespace: String,
    /// As `127.0.0.1:6443`.
    address: String,
    /// Where the address comes from.
    origin: String,
    timeout: Duration,
    warned: Mutex<Vec<String>>,
}

impl Connection {
    /// A way to the server at `url`, which `origin` names; `timeout` zero is none.
    pub fn new(
        client: kube::Client,
        namespace: String,
        url: &Uri,
        origin: String,
        timeout: Duration,
    ) -> Self {
        let port =
            url.port_u16().unwrap_or(if url.scheme_str() == Some("http") { 80 } else { 443 });
        let address = format!("{}:{port}", url.host().unwrap_or_default());
        Self { client, namespace, address, origin, timeout, warned: Mutex::default() }
    }

    /// Reads `path` (with its query).
    ///
    /// # Errors
    /// What the server answered, or why it could not be asked.
    pub async fn get(&self, path: &str, accept: &str) -> Result<Value, Failure> {
        self.send(Method::GET, path, accept, JSON, Vec::new()).await
    }

    /// Reads an object; `None` where there is none.
    ///
    /// # Errors
    /// As [`Self::get`], but for 404.
    pub async fn find(&self, path: &str) -> Result<Option<Value>, Failure> {
        match self.get(path, JSON).await {
            Ok(object) => Ok(Some(object)),
            Err(failure) if failure.is_not_found() => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Sends JSON.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn write(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: &Value,
    ) -> Result<Value, Failure> {
        self.send(method, path, JSON, content_type, body.to_string().into_bytes()).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        content_type: &str,
        body: Vec<u8>,
    ) -> Result<Value, Failure> {
        let answer = async {
            let response = self.open(method, path, accept, content_type, body).await?;
            let bytes = self.collect(response).await?;
            serde_json::from_slice(&bytes).map_err(|error| {
                Failure::other(format!(
                    "the server at {} answered {path} with no JSON ({error}): is it a Kubernetes \
                     API server?",
                    self.address
                ))
            })
        };
        self.in_time(path, answer).await
    }

    async fn in_time<T>(
        &self,
        path: &str,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        if self.timeout.is_zero() {
            return work.await;
        }
        tokio::time::timeout(self.timeout, work).await.unwrap_or_else(|_| {
            Err(Failure::Connection(format!(
                "error: the server at {} did not answer {path} within {}s: is it overloaded? \
                 --request-timeout waits longer",
                self.address,
                self.timeout.as_secs_f64()
            )))
        })
    }

    /// Opens a stream of bytes: a log or a watch.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn stream(
        &self,
        path: &str,
        accept: &str,
    ) -> Result<impl AsyncBufRead + Unpin + Send + use<>, Failure> {
        let opened = self.open(Method::GET, path, accept, JSON, Vec::new());
        let response = self.in_time(path, opened).await?;
        let body = http_body_util::BodyExt::into_data_stream(response.into_body());
        Ok(Box::pin(body.map_err(io::Error::other)).into_async_read())
    }

    async fn open(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        content_type: &str,
        body: Vec<u8>,
    ) -> Result<Response<Body>, Failure> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::ACCEPT, accept)
            .header(header::CONTENT_TYPE, content_type)
            .header(header::USER_AGENT, concat!("coracle/", env!("CARGO_PKG_VERSION")))
            .body(Body::from(body))
            .map_err(|error| Failure::usage(format!("{path} is no path of the API: {error}")))?;
        let response = self.client.send(request).await.map_err(|error| self.explain(&error))?;
        self.tell_warnings(&response);
        let code = response.status();
        if code.is_success() {
            return Ok(response);
        }
        Err(self.refusal(path, response).await)
    }

    /// What an answer says that is no success.
    async fn refusal(&self, path: &str, response: Response<Body>) -> Failure {
        let code = response.status();
        let bytes = match self.collect(response).await {
            Ok(bytes) => bytes,
            Err(failure) => return failure,
        };
        let answer = match serde_json::from_slice::<Value>(&bytes) {
            Ok(status) if status["kind"] == "Status" => status,
            _ => {
                let text = String::from_utf8_lossy(&bytes);
                let reason = match code.as_u16() {
                    401 => "Unauthorized",
                    403 => "Forbidden",
                    404 => "NotFound",
                    _ => "",
                };
                let text = match text.trim() {
                    "" => format!("{code} at {path}"),
                    text => text.chars().take(1000).collect(),
                };
                json!({"code": code.as_u16(), "reason": reason, "message": text})
            }
        };
        Failure::status(answer)
    }

    /// Switches a connection to one of `protocols` over WebSocket.
    ///
    /// # Errors
    /// As [`Self::get`], and a server that does not switch.
    pub async fn upgrade(
        &self,
        path: &str,
        purpose: Purpose,
        protocols: &[&str],
    ) -> Result<(TokioIo<Upgraded>, Protocol), Failure> {
        let mut key = [0; 16];
        let random = ring::rand::SystemRandom::new();
        ring::rand::SecureRandom::fill(&random, &mut key)
            .map_err(|_| Failure::other("this machine gives no random numbers"))?;
        let mut request = Request::builder()
            .uri(path)
            .header(header::USER_AGENT, concat!("coracle/", env!("CARGO_PKG_VERSION")))
            .body(Body::empty())
            .map_err(|error| Failure::usage(format!("{path} is no path of the API: {error}")))?;
        request.headers_mut().extend(upgrade::ask(Transport::WebSocket, protocols, key));
        let asked = async { self.client.send(request).await.map_err(|error| self.explain(&error)) };
        let mut response = self.in_time(path, asked).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(self.refusal(path, response).await);
        }
        let chosen = response.headers().get(header::SEC_WEBSOCKET_PROTOCOL);
        let chosen: Vec<String> =
            chosen.and_then(|v| v.to_str().ok()).map(str::to_owned).into_iter().collect();
        let offer = Offer { transport: Transport::WebSocket, protocols: chosen };
        let protocol = offer.choose(purpose).map_err(|_| {
            Failure::other(format!(
                "the server at {} switched to no protocol that was offered ({})",
                self.address,
                protocols.join(", ")
            ))
        })?;
        let upgraded = hyper::upgrade::on(&mut response).await.map_err(|error| {
            Failure::Connection(format!(
                "error: the connection to the server at {} was not switched: {error}",
                self.address
            ))
        })?;
        Ok((TokioIo::new(upgraded), protocol))
    }

    /// Sends a request as it is; whatever is answered is an answer.
    ///
    /// # Errors
    /// The server could not be asked.
    pub async fn raw(&self, request: Request<Vec<u8>>) -> Result<Response<Body>, Failure> {
        let path = request.uri().path().to_owned();
        let asked = async {
            let sent = self.client.send(request.map(Body::from)).await;
            sent.map_err(|error| self.explain(&error))
        };
        self.in_time(&path, asked).await
    }

    async fn collect(&self, response: Response<Body>) -> Result<bytes::Bytes, Failure> {
        let limited = http_body_util::Limited::new(response.into_body(), ANSWER_MAX);
        let collected = http_body_util::BodyExt::collect(limited).await;
        collected.map(http_body_util::Collected::to_bytes).map_err(|error| {
            Failure::Connection(format!(
                "error: the answer of the server at {} broke off: {error}",
                self.address
            ))
        })
    }

    /// The server's `Warning` headers, each once.
    fn tell_warnings(&self, response: &Response<Body>) {
        for value in response.headers().get_all(header::WARNING) {
            let Some(text) = value.to_str().ok().and_then(warning_text) else { continue };
            let mut warned = self.warned.lock();
            if warned.len() < 1000 && !warned.contains(&text) {
                eprintln!("Warning: {text}");
                warned.push(text);
            }
        }
    }

    /// Why the server could not be asked, in kubectl's words where it has any.
    fn explain(&self, error: &kube::Error) -> Failure {
        let (address, origin) = (&self.address, &self.origin);
        let (mut said, mut refused, mut last) = (String::new(), false, String::new());
        let mut cause: Option<&dyn Error> = Some(error);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<io::Error>() {
                refused |= error.kind() == io::ErrorKind::ConnectionRefused;
            }
            last = error.to_string();
            said.push_str(&last);
            said.push('\n');
            cause = error.source();
        }
        let certificate = said.lines().find_map(|line| {
            line.find("invalid peer certificate: ").map(|at| &line[at + "invalid peer ".len()..])
        });
        Failure::Connection(match certificate {
            _ if refused || said.contains("Connection refused") => format!(
                "The connection to the server {address} was refused - did you specify the right \
                 host or port? (from {origin}; is `coracle server` running?)"
            ),
            Some(why) => format!(
                "error: the server at {address} shows a {why}, which the authority in {origin} \
                 does not vouch for: this kubeconfig is another cluster's, or the server made \
                 new keys since; take the kubeconfig from the server's data directory"
            ),
            None if said.contains("failed to lookup address")
                || said.contains("Name or service not known") =>
            {
                format!(
                    "error: the host of {address} (from {origin}) is unknown: correct it in the \
                     kubeconfig, or look at the network"
                )
            }
            None if said.contains("deadline has elapsed") || said.contains("timed out") => format!(
                "error: no connection to the server {address} (from {origin}) could be made in \
                 time: is the machine up, and is a firewall between?"
            ),
            None => {
                format!("error: the server at {address} (from {origin}) cannot be asked: {last}")
            }
        })
    }
}

/// The text in a `Warning` header (RFC 7234, 5.5): `299 - "text"`.
fn warning_text(header: &str) -> Option<String> {
    let quoted = header.strip_prefix("299 ")?.split_once('"')?.1;
    let (mut text, mut chars) = (String::new(), quoted.chars());
    loop {
        match chars.next()? {
            '"' => return Some(text),
            '\\' => text.push(chars.next()?),
            c => text.push(c),
        }
    }
}

/// A query parameter's value, so that it may hold anything.
pub fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

/// `path` with these parameters; those with an empty value are left out.
pub fn with_query(path: &str, parameters: &[(&str, &str)]) -> String {
    let mut full = path.to_owned();
    let mut separator = if path.contains('?') { '&' } else { '?' };
    for (name, value) in parameters.iter().filter(|(_, value)| !value.is_empty()) {
        full.push(separator);
        full.push_str(&format!("{name}={}", escape(value)));
        separator = '&';
    }
    full
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_hold_anything() {
        let selector = "app in (a,b)";
        assert_eq!(
            with_query("/a", &[("x", ""), ("labelSelector", selector), ("watch", "1")]),
            "/a?labelSelector=app%20in%20%28a%2Cb%29&watch=1"
        );
        assert_eq!(with_query("/a?b=1", &[("c", "2")]), "/a?b=1&c=2");
    }

    #[test]
    fn warnings_are_unquoted() {
        assert_eq!(
            warning_text(r#"299 - "unknown field \"a\"""#).as_deref(),
            Some("unknown field \"a\"")
        );
        assert_eq!(warning_text("199 - \"x\""), None);
        assert_eq!(warning_text("299 - \"x"), None);
    }
}
