//! Connections to pods, through the kubelet API of their nodes: a port of a pod is reached as
//! `kubectl port-forward` reaches it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::ext::Protocol;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::nodes::NodeDialer;
use super::reach::{Endpoint, PodDialer, Stream};
use crate::stream::client::Forwarder;
use crate::stream::spdy;
use crate::stream::upgrade::{TUNNELED_PORT_FORWARD, Transport};

/// Dials pods through their nodes.
pub struct Forwarded {
    nodes: Arc<dyn NodeDialer>,
}

impl Forwarded {
    /// Asks nodes over `nodes`.
    pub fn new(nodes: Arc<dyn NodeDialer>) -> Self {
        Self { nodes }
    }
}

#[async_trait]
impl PodDialer for Forwarded {
    async fn dial(&self, endpoint: &Endpoint) -> io::Result<Stream> {
        let (Some((namespace, pod)), Some(node)) = (&endpoint.pod, &endpoint.node) else {
            return Err(io::Error::other("the endpoint is no pod of a node"));
        };
        let path = format!("/portForward/{namespace}/{pod}");
        let empty = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri(path)
            .extension(Protocol::from_static("websocket"))
            .header(Transport::WebSocket.protocol_header(), TUNNELED_PORT_FORWARD)
            .body(empty)
            .map_err(io::Error::other)?;
        let mut answer = self.nodes.request(node, request).await.map_err(io::Error::other)?;
        if answer.status() != StatusCode::OK {
            return Err(io::Error::other(format!("the node answered {}", answer.status())));
        }
        let switched = hyper::upgrade::on(&mut answer).await.map_err(io::Error::other)?;
        let session = Forwarder::start(TokioIo::new(switched)).await;
        let (data, error) = session.connect(endpoint.port).await.map_err(io::Error::other)?;
        Ok(Box::new(Connection { data, _error: error, session }))
    }
}

/// The bytes of a port, and what keeps them flowing.
struct Connection {
    data: spdy::Stream,
    _error: spdy::Stream,
    session: Forwarder,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.session.close();
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.data).poll_read(context, into)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.data).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.data).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.data).poll_shutdown(context)
    }
}
