//! Datagrams through a port of the host: a socket of the node's own namespace a client, so that
//! answers find their way back.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::UdpSocket;
use tokio::task::AbortHandle;

use super::{Port, Target};
use crate::net::fabric::Fabric;
use crate::net::service::Scope;
use crate::net::udp::DATAGRAM_MAX;

/// Clients that one port remembers, and for how long without a datagram.
const CLIENTS: usize = 4096;
const CLIENT_IDLE: Duration = Duration::from_secs(120);

pub(super) fn bind(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

/// What is known of one client.
struct Client {
    inner: Arc<crate::net::UdpSocket>,
    endpoint: SocketAddr,
    used_at: Duration,
    answers: AbortHandle,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.answers.abort();
    }
}

impl Port {
    pub(super) async fn exchange_all(&self, socket: UdpSocket) {
        let socket = Arc::new(socket);
        let mut clients: HashMap<SocketAddr, Client> = HashMap::new();
        let mut buffer = vec![0u8; DATAGRAM_MAX];
        loop {
            let Ok((len, peer)) = socket.recv_from(&mut buffer).await else {
                // An ICMP error of an earlier answer; the socket goes on.
                tokio::task::yield_now().await;
                continue;
            };
            let Some(fabric) = self.fabric.upgrade() else { return };
            let Some(target) = self.target(&fabric) else { continue };
            let now = fabric.config().clock.monotonic();
            let known = clients.get(&peer).map(|c| (c.endpoint, c.used_at));
            let keeps = known.is_some_and(|(endpoint, used_at)| {
                now.saturating_sub(used_at) < CLIENT_IDLE && still_leads_to(&target, endpoint)
            });
            if !keeps {
                expire(&mut clients, now);
                let Some(client) = admit(&fabric, &target, &socket, peer, now) else { continue };
                clients.insert(peer, client);
            }
            let client = clients.get_mut(&peer).expect("known or just admitted");
            client.used_at = now;
            let data = Bytes::copy_from_slice(&buffer[..len]);
            if let Err(error) = client.inner.send_to(data, client.endpoint) {
                tracing::debug!(%peer, error = %error, "a datagram was not forwarded");
            }
        }
    }
}

fn still_leads_to(target: &Target, endpoint: SocketAddr) -> bool {
    match target {
        Target::Pod(address) => *address == endpoint,
        Target::Service(port) => port.is_ready(endpoint),
    }
}

fn expire(clients: &mut HashMap<SocketAddr, Client>, now: Duration) {
    if clients.len() < CLIENTS {
        return;
    }
    clients.retain(|_, client| now.saturating_sub(client.used_at) < CLIENT_IDLE);
    if clients.len() >= CLIENTS {
        clients.clear();
    }
}

fn admit(
    fabric: &Arc<Fabric>,
    target: &Target,
    socket: &Arc<UdpSocket>,
    peer: SocketAddr,
    now: Duration,
) -> Option<Client> {
    let endpoint = match target {
        Target::Pod(address) => *address,
        Target::Service(port) => {
            let picked = port.pick(Scope::External, peer.ip(), &[], now);
            let Some(endpoint) = picked else {
                port.count_refused();
                return None;
            };
            endpoint.traffic.connections.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            endpoint.address
        }
    };
    let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
    let inner = Arc::new(fabric.host().bind_udp(any).ok()?);
    let answers = tokio::spawn({
        let (inner, socket) = (inner.clone(), socket.clone());
        async move {
            while let Ok(answer) = inner.recv().await {
                let _ = socket.send_to(&answer.data, peer).await;
            }
        }
    });
    Some(Client { inner, endpoint, used_at: now, answers: answers.abort_handle() })
}
