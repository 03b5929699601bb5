//! Outgoing `wasi:http` calls: they leave through the pod's network namespace, never by a socket
//! of the host.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Request, Response};
use http_body_util::BodyExt;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use crate::net::{BoxError, Namespace, NetError, RequestError, RequestTimeouts};

/// How many handlers have called each other to get here. Set by the node on every call of a
/// handler, whatever the guest put there.
pub const CALL_DEPTH: HeaderName = HeaderName::from_static("coracle-call-depth");

type Sent = Result<(Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>), Error>;

/// The outgoing calls of one instance.
pub struct Outgoing {
    network: Arc<Namespace>,
    depth: u32,
}

impl Outgoing {
    pub fn new(network: Arc<Namespace>, depth: u32) -> Self {
        Self { network, depth }
    }
}

impl WasiHttpHooks for Outgoing {
    fn send_request(
        &mut self,
        mut request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _processed: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        request.headers_mut().remove(CALL_DEPTH);
        if self.depth > 0 {
            request.headers_mut().insert(CALL_DEPTH, HeaderValue::from(self.depth));
        }
        let network = self.network.clone();
        let options = options.unwrap_or_default();
        let timeouts = RequestTimeouts {
            connect: options.connect_timeout,
            first_byte: options.first_byte_timeout,
        };
        Box::new(async move {
            let request = request.map(|body| body.map_err(BoxError::from).boxed_unsync());
            let response = network.request_with(request, timeouts).await.map_err(told)?;
            let response = response.map(|body| {
                let broken = |error: BoxError| Error::InternalError(Some(error.to_string()));
                body.map_err(broken).boxed_unsync()
            });
            Ok((response, Box::new(async { Ok(()) }) as Box<dyn Future<Output = _> + Send>))
        })
    }
}

/// The error codes of `wasi:http/types`.
fn told(error: RequestError) -> Error {
    match error {
        RequestError::Uri(_) => Error::HttpRequestUriInvalid,
        RequestError::Resolve { error: NetError::NameNotFound, .. } => {
            Error::DnsError { rcode: Some("NXDOMAIN".to_string()), info_code: None }
        }
        RequestError::Resolve { error, .. } => {
            Error::DnsError { rcode: Some(error.to_string()), info_code: None }
        }
        RequestError::Connect { error: NetError::ConnectionRefused, .. } => {
            Error::ConnectionRefused
        }
        RequestError::Connect { error: NetError::TimedOut, .. } => Error::ConnectionTimeout,
        RequestError::Connect { .. } => Error::DestinationUnavailable,
        RequestError::Tls { .. } => Error::TlsProtocolError,
        RequestError::FirstByteTimeout(_) => Error::HttpResponseTimeout,
        RequestError::Protocol(problem) => Error::InternalError(Some(problem)),
    }
}
