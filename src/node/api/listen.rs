//! The two ways to the kubelet API: the kubelet port, and the tunnel.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use super::Caller;
use crate::base::shutdown::Shutdown;
use crate::link::identity::Facts;

/// Connections to the kubelet port at once.
const CONNECTIONS_MAX: usize = 512;
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// An agent that cannot listen says so by this, with what would help.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for {what}: {error}; choose another address with {flag}")]
pub struct ListenError {
    what: &'static str,
    flag: &'static str,
    address: SocketAddr,
    error: std::io::Error,
}

/// Opens a listener of the agent.
pub async fn open(
    address: SocketAddr,
    what: &'static str,
    flag: &'static str,
) -> Result<TcpListener, ListenError> {
    let failed = |error| ListenError { what, flag, address, error };
    TcpListener::bind(address).await.map_err(failed)
}

/// The router as a service for one caller.
fn service(
    router: &Router,
    caller: Caller,
) -> impl tower::Service<
    http::Request<hyper::body::Incoming>,
    Response = axum::response::Response,
    Error = std::convert::Infallible,
    Future: Send,
> + Clone
+ Send
+ use<> {
    router.clone().map_request(move |mut request: http::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(caller.clone());
        request.map(axum::body::Body::new)
    })
}

/// The service for the tunnel, whose other end is the API server.
pub fn tunnel_service(
    router: &Router,
) -> impl hyper::service::Service<
    http::Request<hyper::body::Incoming>,
    Response = axum::response::Response,
    Error = std::convert::Infallible,
    Future: Send,
> + Clone
+ Send
+ use<> {
    TowerToHyperService::new(service(router, Caller::ApiServer))
}

fn caller(certificate: Option<&[u8]>) -> Caller {
    let facts = certificate.and_then(|der| Facts::read(der).ok());
    match facts {
        // That it is signed by the cluster's CA was seen in the handshake.
        Some(facts) => Caller::User { name: facts.common_name, groups: facts.organizations },
        None => Caller::Nobody,
    }
}

/// Serves the kubelet port until the shutdown.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    router: Router,
    shutdown: Shutdown,
) {
    let acceptor = TlsAcceptor::from(tls);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the kubelet port accepts no connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let (acceptor, router, shutdown) = (acceptor.clone(), router.clone(), shutdown.clone());
        tokio::spawn(async move {
            shutdown.run_until_cancelled(connection(acceptor, stream, router)).await;
            drop(place);
        });
    }
}

async fn connection(acceptor: TlsAcceptor, stream: TcpStream, router: Router) {
    let shaken = tokio::time::timeout(HANDSHAKE_WITHIN, acceptor.accept(stream)).await;
    let Ok(Ok(stream)) = shaken else { return };
    let shown = stream.get_ref().1.peer_certificates();
    let caller = caller(shown.and_then(|chain| chain.first()).map(AsRef::as_ref));
    let service = TowerToHyperService::new(service(&router, caller));
    let server = auto::Builder::new(TokioExecutor::new());
    if let Err(error) = server.serve_connection_with_upgrades(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection to the kubelet API ended");
    }
}
