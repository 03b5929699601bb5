//! Http on the virtual network.
//!
//! A pod whose program is an http handler is an [`HttpService`] at a port. Raw bytes that reach
//! it (from another node, a socket of a guest, a NodePort) are parsed by hyper, HTTP/1.1 and h2c;
//! a request made on the same node is handed over as it is.

mod client;
mod serve;

use std::net::SocketAddr;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;

pub use client::{RequestError, RequestTimeouts};
pub use serve::HttpListener;

pub(crate) use client::Client;
pub(crate) use serve::HttpSlot;

/// Any error of a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request or response on the virtual network.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Answers http requests at a port of a pod.
pub trait HttpService: Send + Sync + 'static {
    /// Answers one request of `peer`. The URI has no authority (`Host` tells it), as on the wire.
    fn call(&self, request: Request<Body>, peer: SocketAddr) -> BoxFuture<'static, Response<Body>>;
}

/// A body of the bytes given.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    use http_body_util::{BodyExt, Full};
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// An empty body.
pub fn empty() -> Body {
    full(Bytes::new())
}

#[cfg(test)]
mod tests;
