//! The serving side of a link: connections and datagrams of another node's pods for ours.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response, StatusCode};

use super::{DESTINATION, ERROR, FRAME, LINK_WINDOW, PeerIo, SOURCE, STREAM_WINDOW, STREAMS};
use crate::net::NetError;
use crate::net::fabric::Fabric;
use crate::net::namespace::Incoming;
use crate::net::queue::Meter;

/// Bytes queued on a link past which its streams hold little.
const PRESSURE_AT: usize = 256 * 1024 * 1024;

/// Serves a connection of `node` until it ends.
pub(crate) async fn serve(fabric: Weak<Fabric>, node: String, io: Box<dyn PeerIo>) {
    let handshake = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(LINK_WINDOW)
        .max_frame_size(FRAME)
        .max_concurrent_streams(STREAMS)
        .max_send_buffer_size(STREAM_WINDOW as usize)
        .handshake::<_, Bytes>(io)
        .await;
    let mut connection = match handshake {
        Ok(connection) => connection,
        Err(error) => {
            tracing::debug!(%node, error = %error, "a node's link did not speak HTTP/2");
            return;
        }
    };
    let silent = connection.ping_pong().map(super::link::stays_silent);
    let mut silent = std::pin::pin!(futures::future::OptionFuture::from(silent));
    let node: Arc<str> = node.into();
    let meter = Meter::new(PRESSURE_AT);
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            Some(()) = silent.as_mut() => None,
        };
        let Some(Ok((request, response))) = accepted else { return };
        let stream = Stream { fabric: fabric.clone(), node: node.clone(), meter: meter.clone() };
        tokio::spawn(stream.serve(request, response));
    }
}

struct Stream {
    fabric: Weak<Fabric>,
    node: Arc<str>,
    meter: Arc<Meter>,
}

impl Stream {
    async fn serve(self, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
        match request.uri().path() {
            "/tcp" => self.tcp(request, respond).await,
            "/udp" => self.udp(request, respond).await,
            _ => refuse(respond, NetError::InvalidArgument),
        }
    }

    async fn tcp(self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        let stream = match self.connect(request.headers()).await {
            Ok(stream) => stream,
            Err(error) => return refuse(respond, error),
        };
        if let Ok(send) = respond.send_response(Response::new(()), false) {
            super::carry(stream, send, request.into_body()).await;
        }
    }

    async fn connect(&self, headers: &HeaderMap) -> Result<crate::net::TcpStream, NetError> {
        let client = address(headers, SOURCE)?;
        let to = address(headers, DESTINATION)?;
        let fabric = self.fabric.upgrade().ok_or(NetError::NetworkDown)?;
        let namespace = {
            let tables = fabric.tables().read();
            if !tables.belongs_to(client.ip(), &self.node) {
                tracing::warn!(node = %self.node, source = %client,
                    "a node spoke for an address that is not its own");
                return Err(NetError::AccessDenied);
            }
            tables.local(to.ip()).ok_or(NetError::HostUnreachable)?
        };
        drop(fabric);
        let client_meter = &self.meter;
        namespace.take_in(Incoming { client, seen: to, to, client_meter, traffic: None }).await
    }

    async fn udp(self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        if respond.send_response(Response::new(()), true).is_err() {
            return;
        }
        let deliver = |from: SocketAddr, to: SocketAddr, data: Bytes| {
            let Some(fabric) = self.fabric.upgrade() else { return };
            let namespace = {
                let tables = fabric.tables().read();
                let honest = tables.belongs_to(from.ip(), &self.node);
                tables.local(to.ip()).filter(|_| honest)
            };
            if let Some(namespace) = namespace {
                namespace.deliver(from, to, data);
            }
        };
        let ended = super::datagram::receive_all(request.into_body(), deliver).await;
        if let Err(error) = ended {
            tracing::debug!(node = %self.node, error = %error, "a node's datagrams ended");
        }
    }
}

fn address(headers: &HeaderMap, name: &str) -> Result<SocketAddr, NetError> {
    let text = headers.get(name).and_then(|value| value.to_str().ok());
    text.and_then(|text| text.parse().ok()).ok_or(NetError::InvalidArgument)
}

fn refuse(mut respond: SendResponse<Bytes>, error: NetError) {
    let response = Response::builder()
        .status(StatusCode::BAD_GATEWAY)
        .header(ERROR, error.token())
        .body(())
        .expect("a response of constants");
    let _ = respond.send_response(response, true);
}
