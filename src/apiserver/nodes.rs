//! The way to a node's kubelet API, which logs (and later exec and proxy) take. Wired to the link
//! that the agent dialled, or to the node's address.

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;

/// What can go wrong in a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A streamed body.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Why a node was not reached.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DialError {
    /// No connection to the node, and no address at which it answers.
    #[error("no route to node {0:?}")]
    NoRoute(String),
    /// The connection failed.
    #[error("dialing node {node:?}: {why}")]
    Failed { node: String, why: String },
}

/// Sends requests to the kubelet API of a node.
#[async_trait]
pub trait NodeDialer: Send + Sync + 'static {
    /// `request` carries path and query only.
    ///
    /// # Errors
    /// [`DialError`] when the node cannot be reached; what the node answers is no error.
    async fn request(
        &self,
        node: &str,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, DialError>;
}
