//! Forwarded connections at the server's end.
//!
//! Over SPDY a client opens two streams a connection, `error` and `data`, which carry the same
//! `requestid`; over plain WebSocket each port of the request has one connection, on two channels.

use std::collections::HashMap;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinSet;

use super::spdy::{self, Session, Stream};
use super::upgrade::Protocol;
use super::websocket::{Bytestream, Channels, Inlets, Role};
use super::{Connection, StreamError, Writer};

/// Ports of one plain WebSocket request.
pub const PORTS_MAX: usize = 64;
/// How long a client may go on to write to a pod that has ended its side.
const LINGER: Duration = Duration::from_secs(1);
/// Connections whose second stream has not come yet.
const HALVES_MAX: usize = 256;

/// A connection that a client wants forwarded.
pub struct Forward {
    pub port: u16,
    pub data: Box<dyn Connection>,
    /// Why it ended, in words for a person; nothing where it ended well.
    pub error: Writer,
}

/// Hands every connection that a client opens on `io` to `forward`, until the client is gone.
/// `ports` are those that the request named; over SPDY every connection names its own.
///
/// # Errors
/// The connection broke, or `protocol` is not one of port-forward's.
pub async fn serve<Io, F, Fut>(
    io: Io,
    protocol: Protocol,
    ports: &[u16],
    forward: F,
) -> Result<(), StreamError>
where
    Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    F: Fn(Forward) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    match protocol {
        Protocol::ForwardSpdy => spdy(io, forward).await,
        Protocol::ForwardTunnel => spdy(Bytestream::start(io, Role::Server).await, forward).await,
        Protocol::ForwardWebSocket => {
            websocket(io, ports, forward).await;
            Ok(())
        }
        other => Err(StreamError::Protocol {
            protocol: other.name(),
            problem: "it forwards no ports".to_owned(),
        }),
    }
}

async fn spdy<Io, F, Fut>(io: Io, forward: F) -> Result<(), StreamError>
where
    Io: AsyncRead + AsyncWrite + Send + 'static,
    F: Fn(Forward) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let (session, mut incoming) = Session::start(io, spdy::Role::Server);
    let _guard = session.guard();
    let mut halves: HashMap<String, Stream> = HashMap::new();
    // Dropped with this: no forwarded connection outlives the client's.
    let mut running = JoinSet::new();
    loop {
        let stream = tokio::select! {
            stream = incoming.next() => match stream {
                Some(stream) => stream,
                None => return Ok(()),
            },
            Some(_) = running.join_next() => continue,
        };
        let Some(id) = request_id(&stream) else {
            stream.reset();
            continue;
        };
        let Some(other) = halves.remove(&id) else {
            if halves.len() < HALVES_MAX {
                halves.insert(id, stream);
            } else {
                stream.reset();
            }
            continue;
        };
        let is_data = |stream: &Stream| stream.header("streamtype") == Some("data");
        let (data, mut error) = match (is_data(&stream), is_data(&other)) {
            (true, false) => (stream, other),
            (false, true) => (other, stream),
            // Twice the same: neither means anything.
            _ => {
                stream.reset();
                other.reset();
                continue;
            }
        };
        let port = data.header("port").unwrap_or_default().to_owned();
        match port.parse().ok().filter(|port| *port != 0_u16) {
            Some(port) => {
                let connection = Forward { port, data: Box::new(data), error: Box::new(error) };
                running.spawn(forward(connection));
            }
            None => {
                let why = format!("unable to forward: port {port:?} is no port");
                let _ = error.write_all(why.as_bytes()).await;
                data.reset();
            }
        }
    }
}

/// What the two streams of a connection have in common.
fn request_id(stream: &Stream) -> Option<String> {
    let kind = stream.header("streamtype")?;
    match (stream.header("requestid"), kind) {
        (Some(id), "data" | "error") if !id.is_empty() => Some(id.to_owned()),
        // Clients of old open the error stream first, and the data stream right behind it.
        (None, "error") => Some(format!("stream {}", stream.id())),
        (None, "data") => Some(format!("stream {}", stream.id().checked_sub(2)?)),
        _ => None,
    }
}

async fn websocket<Io, F, Fut>(io: Io, ports: &[u16], forward: F)
where
    Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    F: Fn(Forward) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let mut inlets = Inlets::default();
    let numbered = |index: usize| u8::try_from(2 * index).expect("few ports");
    let ports = &ports[..ports.len().min(PORTS_MAX)];
    let readers: Vec<_> = (0..ports.len()).map(|index| inlets.bytes(numbered(index))).collect();
    let channels = Channels::start(io, Role::Server, inlets).await;
    let mut running = JoinSet::new();
    for (index, (port, reader)) in ports.iter().zip(readers).enumerate() {
        let mut data = channels.writer(numbered(index), false);
        let mut error = channels.writer(numbered(index) + 1, false);
        // Each channel begins with its port.
        for writer in [&mut data, &mut error] {
            let _ = writer.write_all(&port.to_le_bytes()).await;
        }
        let data = tokio::io::join(reader, data);
        running.spawn(forward(Forward {
            port: *port,
            data: Box::new(data),
            error: Box::new(error),
        }));
    }
    let all = async { while running.join_next().await.is_some() {} };
    let over = tokio::select! {
        () = all => true,
        () = channels.gone() => false,
    };
    if over {
        channels.close().await;
    }
}

/// Joins a forwarded connection to one that `dial` makes, until both directions have ended or one
/// breaks; why it could not be made is written to its error stream.
pub async fn join<D, Fut>(forward: Forward, dial: D)
where
    D: FnOnce(u16) -> Fut,
    Fut: Future<Output = Result<Box<dyn Connection>, String>>,
{
    let Forward { port, mut data, mut error } = forward;
    match dial(port).await {
        Ok(connection) => carry(&mut data, connection).await,
        Err(refused) => {
            let _ = error.write_all(refused.as_bytes()).await;
        }
    }
    let _ = data.shutdown().await;
    let _ = error.shutdown().await;
}

/// Carries both directions. A client may end its own and wait for the answer as long as it takes;
/// where the pod has ended, nothing is left to wait for, and clients over plain WebSocket have no
/// way to end theirs.
async fn carry(data: &mut Box<dyn Connection>, connection: Box<dyn Connection>) {
    let (mut from_client, mut to_client) = tokio::io::split(data);
    let (mut from_pod, mut to_pod) = tokio::io::split(connection);
    let mut up = std::pin::pin!(async {
        tokio::io::copy(&mut from_client, &mut to_pod).await?;
        to_pod.shutdown().await
    });
    let down = async {
        tokio::io::copy(&mut from_pod, &mut to_client).await?;
        to_client.shutdown().await
    };
    let mut down = std::pin::pin!(down);
    let ended = tokio::select! {
        ended = &mut down => {
            let _ = tokio::time::timeout(LINGER, up).await;
            ended
        }
        // Also where the pod broke off: what it has sent before is still worth carrying.
        _ = &mut up => down.await,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a forwarded connection broke");
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::stream::client;

    /// Answers every connection with its port and what it said, in upper case.
    async fn shout(mut forward: Forward) {
        if forward.port == 81 {
            let _ = forward.error.write_all(b"nobody listens").await;
            let _ = forward.error.shutdown().await;
            return;
        }
        let mut text = String::new();
        forward.data.read_to_string(&mut text).await.expect("read");
        let answer = format!("{} {}", forward.port, text.to_uppercase());
        forward.data.write_all(answer.as_bytes()).await.expect("written");
        forward.data.shutdown().await.expect("ended");
    }

    #[tokio::test]
    async fn connections_through_a_tunnel_end_each_on_its_own() {
        let (a, b) = tokio::io::duplex(4096);
        let server = tokio::spawn(async move {
            serve(b, Protocol::ForwardTunnel, &[], shout).await.expect("served");
        });
        let forwarder = client::Forwarder::start(a).await;
        let ask = async |port: u16, text: &str| {
            let (mut data, mut error) = forwarder.connect(port).await.expect("opened");
            data.write_all(text.as_bytes()).await.expect("written");
            data.shutdown().await.expect("ended");
            let (mut answer, mut why) = (String::new(), String::new());
            let read =
                tokio::join!(data.read_to_string(&mut answer), error.read_to_string(&mut why));
            read.0.and(read.1).expect("read");
            (answer, why)
        };
        let (one, two, none) = tokio::join!(ask(80, "a"), ask(8080, "b"), ask(81, "c"));
        assert_eq!((one.0.as_str(), two.0.as_str()), ("80 A", "8080 B"));
        assert_eq!(none, (String::new(), "nobody listens".to_owned()));
        forwarder.close();
        server.await.expect("no panic");
    }

    #[tokio::test]
    async fn ports_of_a_plain_websocket_have_two_channels_each() {
        let (a, b) = tokio::io::duplex(4096);
        let server = tokio::spawn(async move {
            serve(b, Protocol::ForwardWebSocket, &[8080, 81], shout).await.expect("served");
        });
        let mut inlets = Inlets::default();
        let mut first = inlets.bytes(0);
        let mut why = inlets.bytes(3);
        let channels = Channels::start(a, Role::Client, inlets).await;
        let mut data = channels.writer(0, true);
        data.write_all(b"hello").await.expect("written");
        data.shutdown().await.expect("ended");
        let (mut answer, mut told) = (Vec::new(), Vec::new());
        first.read_to_end(&mut answer).await.expect("read");
        why.read_to_end(&mut told).await.expect("read");
        assert_eq!(answer, b"\x90\x1f8080 HELLO");
        assert_eq!(told, b"\x51\x00nobody listens");
        server.await.expect("no panic");
    }
}
