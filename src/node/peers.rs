//! Links to other nodes: dialling them for the network, and taking theirs.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};

use super::access::Access;
use crate::base::shutdown::Shutdown;
use crate::link::peer::{self, Incoming, Peer, PeerError};
use crate::link::tls::{peer_client_config, peer_server_config};
use crate::net::{Fabric, PeerDialer};

/// Connections of other nodes at once.
const CONNECTIONS_MAX: usize = 4096;

/// Dials other nodes as this one.
pub struct Dialer(pub Arc<Access>);

impl PeerDialer for Dialer {
    fn dial(&self, node: &str, address: SocketAddr) -> BoxFuture<'static, Result<Peer, PeerError>> {
        let access = Arc::clone(&self.0);
        let (node, address) = (node.to_owned(), address.to_string());
        Box::pin(async move {
            let config = own(&access).and_then(|(ca, identity)| {
                peer_client_config(&ca, &identity, &node).map_err(io::Error::other)
            });
            match config {
                Ok(config) => Peer::connect(&node, &address, config).await,
                Err(error) => Err(PeerError::Dial { node, address, why: error.to_string() }),
            }
        })
    }
}

fn own(access: &Access) -> io::Result<(CertificateDer<'static>, crate::link::identity::Identity)> {
    let ca = access.ca.clone();
    ca.zip(access.identity()).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::PermissionDenied,
            "this node has no certificate of its own to show to other nodes",
        )
    })
}

/// Takes other nodes' links until the shutdown.
pub async fn serve(
    listener: TcpListener,
    access: Arc<Access>,
    fabric: Arc<Fabric>,
    shutdown: Shutdown,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let (incoming, streams) = peer::incoming_queue();
    tokio::spawn(fabric.serve_peers(streams));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the link for other nodes accepts no connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let (access, incoming, shutdown) =
            (Arc::clone(&access), incoming.clone(), shutdown.clone());
        tokio::spawn(async move {
            connection(stream, &access, incoming, &shutdown).await;
            drop(place);
        });
    }
}

async fn connection(
    stream: TcpStream,
    access: &Access,
    incoming: mpsc::Sender<Incoming>,
    shutdown: &Shutdown,
) {
    let config = own(access).and_then(|(ca, identity)| {
        stream.set_nodelay(true)?;
        peer_server_config(&ca, &identity).map_err(io::Error::other)
    });
    let ended = match config {
        Ok(config) => peer::accept(stream, config, incoming, shutdown).await,
        Err(error) => return tracing::warn!(%error, "another node's link cannot be taken"),
    };
    match ended {
        Err(PeerError::NotANode) => {
            tracing::warn!("a link was refused, since its certificate is no node's");
        }
        Err(error) => tracing::debug!(%error, "another node's link has ended"),
        Ok(()) => {}
    }
}
