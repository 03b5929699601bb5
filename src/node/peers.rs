//! Links to other nodes: dialling them for the network, and taking theirs.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::access::Access;
use crate::base::shutdown::Shutdown;
use crate::link::identity::node_of;
use crate::link::tls::{peer_client_config, peer_server_config};
use crate::net::{Fabric, PeerDialer, PeerIo};

const WITHIN: Duration = Duration::from_secs(10);
/// Connections of other nodes at once.
const CONNECTIONS_MAX: usize = 4096;

/// Dials other nodes as this one.
pub struct Dialer(pub Arc<Access>);

impl PeerDialer for Dialer {
    fn dial(
        &self,
        node: &str,
        address: SocketAddr,
    ) -> BoxFuture<'static, io::Result<Box<dyn PeerIo>>> {
        let access = Arc::clone(&self.0);
        let node = node.to_owned();
        Box::pin(async move {
            let dialled = tokio::time::timeout(WITHIN, dial(&access, &node, address)).await;
            dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
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

async fn dial(access: &Access, node: &str, address: SocketAddr) -> io::Result<Box<dyn PeerIo>> {
    let (ca, identity) = own(access)?;
    let config = peer_client_config(&ca, &identity, node).map_err(io::Error::other)?;
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    // The name is not looked at: the verifier knows which node's certificate it wants.
    let name = ServerName::from(address.ip());
    let tls = TlsConnector::from(config).connect(name, tcp).await?;
    Ok(Box::new(tls))
}

/// Takes other nodes' links until the shutdown.
pub async fn serve(
    listener: TcpListener,
    access: Arc<Access>,
    fabric: Arc<Fabric>,
    shutdown: Shutdown,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
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
        let (access, fabric, shutdown) =
            (Arc::clone(&access), Arc::clone(&fabric), shutdown.clone());
        tokio::spawn(async move {
            shutdown.run_until_cancelled(connection(stream, &access, &fabric)).await;
            drop(place);
        });
    }
}

async fn connection(stream: TcpStream, access: &Access, fabric: &Fabric) {
    let shaken = async {
        let (ca, identity) = own(access)?;
        let config = peer_server_config(&ca, &identity).map_err(io::Error::other)?;
        stream.set_nodelay(true)?;
        TlsAcceptor::from(config).accept(stream).await
    };
    let stream = match tokio::time::timeout(WITHIN, shaken).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "another node's link was not taken"),
        Err(_) => return,
    };
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    match shown.and_then(|der| node_of(der)) {
        Some(node) => fabric.serve_peer(&node, Box::new(stream)).await,
        None => tracing::warn!("a link was refused, since its certificate is no node's"),
    }
}
