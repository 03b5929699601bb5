//! The way to a node's kubelet API, which logs, exec and proxy take, and through it to the ports of
//! the node's pods. Wired to the link that the agent dialled, or to the node's address.

use std::sync::Arc;

use async_trait::async_trait;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::ext::Protocol;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;

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

/// How much is read of why a node did not connect.
const REASON_BYTES_MAX: usize = 4096;

/// A TCP port of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPort {
    pub node: String,
    pub namespace: String,
    pub pod: String,
    pub port: u16,
}

/// Connects to ports of pods through the nodes that they run on.
#[derive(Clone)]
pub struct PodConnector(Arc<dyn NodeDialer>);

impl PodConnector {
    /// Through these nodes.
    pub fn new(nodes: Arc<dyn NodeDialer>) -> Self {
        Self(nodes)
    }

    /// Connects to a port.
    ///
    /// # Errors
    /// [`DialError`]: the node is not reached, or nothing listens at the port.
    pub async fn dial(&self, at: &PodPort) -> Result<TokioIo<Upgraded>, DialError> {
        let PodPort { node, namespace, pod, port } = at;
        let failed = |why: String| DialError::Failed { node: node.clone(), why };
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri(format!("/podConnect/{namespace}/{pod}/{port}"))
            .extension(Protocol::from_static("connect-tcp"))
            .body(Empty::new().map_err(|never| match never {}).boxed_unsync())
            .map_err(|error| failed(error.to_string()))?;
        let mut answer = self.0.request(node, request).await?;
        if answer.status() != StatusCode::OK {
            // As axum's body: the error of ours keeps the future from being Send in handlers.
            let body = axum::body::Body::new(answer.into_body());
            let read = Limited::new(body, REASON_BYTES_MAX).collect().await;
            let text = read.map(|all| all.to_bytes()).unwrap_or_default();
            return Err(failed(String::from_utf8_lossy(&text).trim().to_owned()));
        }
        let upgraded = hyper::upgrade::on(&mut answer).await;
        upgraded.map(TokioIo::new).map_err(|error| failed(error.to_string()))
    }
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
