//! The serving side: hyper between a byte stream and an [`HttpService`].

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::{HttpService, Request};
use crate::net::ports::Claim;

/// Requests that one HTTP/2 connection may have open.
const H2_STREAMS: u32 = 256;

/// A handler at a port.
pub(crate) struct HttpSlot {
    pub(crate) service: Arc<dyn HttpService>,
    closing: CancellationToken,
}

impl HttpSlot {
    pub(crate) fn new(service: Arc<dyn HttpService>) -> Arc<Self> {
        Arc::new(Self { service, closing: CancellationToken::new() })
    }

    /// Lets open connections finish their requests and end.
    pub(crate) fn close(&self) {
        self.closing.cancel();
    }

    /// Serves one connection to its end; requests are counted in `requests`.
    pub(crate) async fn serve<S>(
        self: Arc<Self>,
        io: S,
        peer: SocketAddr,
        requests: Option<Arc<AtomicU64>>,
    ) where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let service = self.service.clone();
        let answer = service_fn(move |request: Request<Incoming>| {
            if let Some(requests) = &requests {
                requests.fetch_add(1, Ordering::Relaxed);
            }
            let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
            let answer = service.call(request, peer);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().half_close(true).pipeline_flush(true);
        builder.http2().max_concurrent_streams(H2_STREAMS);
        let connection = builder.serve_connection(TokioIo::new(io), answer);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.closing.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, error = %error, "http connection ended early");
        }
    }
}

/// A handler's hold on its port; dropping it closes the port and lets requests in flight finish.
pub struct HttpListener {
    slot: Arc<HttpSlot>,
    claims: [Claim; 2],
}

impl HttpListener {
    pub(crate) fn new(slot: Arc<HttpSlot>, claims: [Claim; 2]) -> Self {
        Self { slot, claims }
    }

    /// The port that is served.
    pub fn port(&self) -> u16 {
        self.claims[0].address().port()
    }
}

impl Drop for HttpListener {
    fn drop(&mut self) {
        for claim in &self.claims {
            claim.release();
        }
        self.slot.close();
    }
}

impl std::fmt::Debug for HttpListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HttpListener({})", self.port())
    }
}
