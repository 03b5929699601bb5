//! The way to a node's kubelet API, which logs (and later exec and proxy) take. Wired to the link
//! that the agent dialled, or to the node's address.

use async_trait::async_trait;

use crate::link::tunnel::{TunnelError, Tunnels};
pub use crate::link::{Body, BoxError};

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

/// Through the connections that the agents dialled.
#[async_trait]
impl NodeDialer for Tunnels {
    async fn request(
        &self,
        node: &str,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, DialError> {
        Tunnels::request(self, node, request).await.map_err(|error| match error {
            TunnelError::NotConnected(node) => DialError::NoRoute(node),
            other => DialError::Failed { node: node.to_owned(), why: other.to_string() },
        })
    }
}
