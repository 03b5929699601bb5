//! The serving side of a link: connections and datagrams of another node's pods for ours.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use http::{HeaderMap, Response};
use tokio::sync::mpsc;

use super::{DESTINATION, SOURCE};
use crate::link::peer::Incoming;
use crate::net::fabric::Fabric;
use crate::net::namespace;
use crate::net::queue::Meter;
use crate::net::{NetError, TcpStream};

/// Bytes queued for other nodes past which their streams hold little.
const PRESSURE_AT: usize = 256 * 1024 * 1024;

/// Serves the streams that other nodes open until there will be no more.
pub(crate) async fn serve(fabric: Weak<Fabric>, mut streams: mpsc::Receiver<Incoming>) {
    let meter = Meter::new(PRESSURE_AT);
    while let Some(stream) = streams.recv().await {
        tokio::spawn(serve_stream(fabric.clone(), meter.clone(), stream));
    }
}

async fn serve_stream(fabric: Weak<Fabric>, meter: Arc<Meter>, stream: Incoming) {
    let node = stream.node().to_owned();
    match stream.head().uri().path() {
        "/tcp" => match connect(&fabric, &node, &meter, stream.head().headers()).await {
            Ok(connected) => {
                if let Ok(on_link) = stream.accept(Response::new(())) {
                    super::carry(connected, on_link).await;
                }
            }
            Err(error) => stream.refuse(super::status_of(error)),
        },
        "/udp" => {
            let Ok(on_link) = stream.accept(Response::new(())) else { return };
            let deliver = |from, to, data| deliver(&fabric, &node, from, to, data);
            if let Err(error) = super::datagram::receive_all(on_link, deliver).await {
                tracing::debug!(%node, error = %error, "a node's datagrams ended");
            }
        }
        _ => stream.refuse(super::status_of(NetError::InvalidArgument)),
    }
}

async fn connect(
    fabric: &Weak<Fabric>,
    node: &str,
    client_meter: &Arc<Meter>,
    headers: &HeaderMap,
) -> Result<TcpStream, NetError> {
    let client = address(headers, SOURCE)?;
    let to = address(headers, DESTINATION)?;
    let namespace = {
        let fabric = fabric.upgrade().ok_or(NetError::NetworkDown)?;
        let tables = fabric.tables().read();
        if !tables.belongs_to(client.ip(), node) {
            tracing::warn!(%node, source = %client,
                "a node spoke for an address that is not its own");
            return Err(NetError::AccessDenied);
        }
        tables.local(to.ip()).ok_or(NetError::HostUnreachable)?
    };
    let incoming = namespace::Incoming { client, seen: to, to, client_meter, traffic: None };
    namespace.take_in(incoming).await
}

fn deliver(fabric: &Weak<Fabric>, node: &str, from: SocketAddr, to: SocketAddr, data: Bytes) {
    let Some(fabric) = fabric.upgrade() else { return };
    let namespace = {
        let tables = fabric.tables().read();
        let honest = tables.belongs_to(from.ip(), node);
        tables.local(to.ip()).filter(|_| honest)
    };
    if let Some(namespace) = namespace {
        namespace.deliver(from, to, data);
    }
}

fn address(headers: &HeaderMap, name: &str) -> Result<SocketAddr, NetError> {
    let text = headers.get(name).and_then(|value| value.to_str().ok());
    text.and_then(|text| text.parse().ok()).ok_or(NetError::InvalidArgument)
}
