//! Links over mTLS with node certificates.

use std::net::SocketAddr;
use std::sync::Arc;

use futures::future::BoxFuture;
use parking_lot::RwLock;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpListener;

use super::PeerDialer;
use crate::base::shutdown::Shutdown;
use crate::link::identity::Identity;
use crate::link::peer::{self, Peer, PeerError};
use crate::link::tls::{peer_client_config, peer_server_config};
use crate::net::fabric::Fabric;

/// Dials and takes links as one node, with a certificate that may be replaced.
pub struct MtlsPeers {
    ca: CertificateDer<'static>,
    identity: RwLock<Arc<Identity>>,
}

impl MtlsPeers {
    /// As the node of `identity`, among nodes whose certificates `ca` has signed.
    pub fn new(ca: CertificateDer<'static>, identity: Identity) -> Arc<Self> {
        Arc::new(Self { ca, identity: RwLock::new(Arc::new(identity)) })
    }

    /// Uses another certificate for links made from now on.
    pub fn renew(&self, identity: Identity) {
        *self.identity.write() = Arc::new(identity);
    }

    /// Takes links of other nodes for `fabric` until `shutdown`.
    pub async fn listen(&self, fabric: &Fabric, listener: TcpListener, shutdown: Shutdown) {
        let (incoming, streams) = peer::incoming_queue();
        let served = fabric.serve_peers(streams);
        let accepted = async {
            loop {
                let Ok((tcp, from)) = listener.accept().await else {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                    continue;
                };
                let _ = tcp.set_nodelay(true);
                let identity = self.identity.read().clone();
                let tls = match peer_server_config(&self.ca, &identity) {
                    Ok(tls) => tls,
                    Err(error) => {
                        tracing::error!(error = %error, "no TLS for links of other nodes");
                        continue;
                    }
                };
                let (incoming, shutdown) = (incoming.clone(), shutdown.clone());
                tokio::spawn(async move {
                    if let Err(error) = peer::accept(tcp, tls, incoming, &shutdown).await {
                        tracing::debug!(%from, error = %error, "a node's link has ended");
                    }
                });
            }
        };
        tokio::select! {
            () = served => {}
            () = accepted => {}
            () = shutdown.cancelled() => {}
        }
    }
}

impl PeerDialer for MtlsPeers {
    fn dial(&self, node: &str, address: SocketAddr) -> BoxFuture<'static, Result<Peer, PeerError>> {
        let identity = self.identity.read().clone();
        let tls = peer_client_config(&self.ca, &identity, node);
        let node = node.to_owned();
        Box::pin(async move {
            let address = address.to_string();
            match tls {
                Ok(tls) => Peer::connect(&node, &address, tls).await,
                Err(error) => Err(PeerError::Dial { node, address, why: error.to_string() }),
            }
        })
    }
}

impl std::fmt::Debug for MtlsPeers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MtlsPeers")
    }
}
