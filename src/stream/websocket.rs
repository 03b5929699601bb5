//! WebSocket messages as channels (the first byte of a message names one), and as the bytes of
//! one stream.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{Sink, SinkExt, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
pub use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_util::sync::{CancellationToken, PollSender};

use super::{Reader, TerminalSize};

/// The largest message that is read.
const MESSAGE_BYTES_MAX: usize = 8 << 20;
/// The payload of a message that is written.
const PIECE: usize = 32 * 1024;
/// Bytes that wait in one channel to be read.
const CHANNEL_BYTES: usize = 64 * 1024;
/// Messages that wait to be written.
const MESSAGES_QUEUED: usize = 8;
/// Sizes of a terminal that wait to be looked at.
const SIZES_QUEUED: usize = 8;
/// How long the peer may take to answer a close.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);
/// The channel whose messages close others (v5).
const CLOSE_CHANNEL: u8 = 255;

/// A WebSocket on a connection whose handshake is done.
pub async fn websocket<Io>(io: Io, role: Role) -> WebSocketStream<Io>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    WebSocketStream::from_raw_socket(io, role, Some(config)).await
}

/// The message that closes a WebSocket. Clients take one without a code for a failure.
fn goodbye() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}

/// Where what comes on a channel goes.
enum Inlet {
    Bytes(DuplexStream),
    Sizes(mpsc::Sender<TerminalSize>),
}

/// The channels that are read, before the connection is started.
#[derive(Default)]
pub struct Inlets(HashMap<u8, Inlet>);

impl Inlets {
    /// Reads a channel as bytes.
    pub fn bytes(&mut self, channel: u8) -> Reader {
        let (mine, theirs) = tokio::io::duplex(CHANNEL_BYTES);
        self.0.insert(channel, Inlet::Bytes(mine));
        Box::new(theirs)
    }

    /// Reads a channel as sizes of a terminal.
    pub fn sizes(&mut self, channel: u8) -> mpsc::Receiver<TerminalSize> {
        let (sender, receiver) = mpsc::channel(SIZES_QUEUED);
        self.0.insert(channel, Inlet::Sizes(sender));
        receiver
    }
}

/// A WebSocket whose messages belong to channels.
#[derive(Debug, Clone)]
pub struct Channels {
    out: mpsc::Sender<Message>,
    gone: CancellationToken,
    closing: CancellationToken,
}

impl Channels {
    /// Starts to carry messages on `io`.
    pub async fn start<Io>(io: Io, role: Role, inlets: Inlets) -> Self
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sink, stream) = websocket(io, role).await.split();
        let (out, messages) = mpsc::channel(MESSAGES_QUEUED);
        let (gone, closing) = (CancellationToken::new(), CancellationToken::new());
        tokio::spawn(write(sink, messages, gone.clone(), closing.clone()));
        tokio::spawn(read(stream, inlets, gone.clone(), closing.clone()));
        Self { out, gone, closing }
    }

    /// Writes a channel. `tells_end`: its end is told to the peer (v5).
    pub fn writer(&self, channel: u8, tells_end: bool) -> ChannelWriter {
        ChannelWriter { channel, tells_end, ended: false, out: PollSender::new(self.out.clone()) }
    }

    /// Waits until the peer is gone.
    pub async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// Closes the connection behind what was written so far.
    pub async fn close(&self) {
        let _ = self.out.send(goodbye()).await;
        self.closing.cancel();
    }
}

async fn write<Io>(
    mut sink: SplitSink<WebSocketStream<Io>, Message>,
    mut messages: mpsc::Receiver<Message>,
    gone: CancellationToken,
    closing: CancellationToken,
) where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = messages.recv().await {
        let last = matches!(message, Message::Close(_));
        let mut sent = sink.feed(message).await;
        if messages.is_empty() || last {
            sent = match sent {
                Ok(()) => sink.flush().await,
                error => error,
            };
        }
        if let Err(error) = sent {
            tracing::debug!(%error, "a WebSocket broke");
            gone.cancel();
            return;
        }
        if last {
            return;
        }
    }
    // Nobody is left to write: the connection is of no use any more.
    let _ = sink.send(goodbye()).await;
    closing.cancel();
}

async fn read<Io>(
    stream: SplitStream<WebSocketStream<Io>>,
    mut inlets: Inlets,
    gone: CancellationToken,
    closing: CancellationToken,
) where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let patience = async {
        closing.cancelled().await;
        tokio::time::sleep(CLOSE_WITHIN).await;
    };
    tokio::select! {
        () = take_all(stream, &mut inlets) => {}
        () = patience => {}
    }
    // Whoever looks at the end of the input first asks whether the peer is still there.
    gone.cancel();
    drop(inlets);
}

async fn take_all<Io>(mut stream: SplitStream<WebSocketStream<Io>>, inlets: &mut Inlets)
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = stream.next().await {
        let mut data = match message {
            Ok(Message::Binary(data)) => data,
            Ok(Message::Text(text)) => text.into(),
            Ok(Message::Close(_)) | Err(_) => return,
            // Pings are answered below this.
            Ok(_) => continue,
        };
        if data.is_empty() {
            continue;
        }
        let channel = data.get_u8();
        if channel == CLOSE_CHANNEL {
            data.iter().for_each(|closed| drop(inlets.0.remove(closed)));
            continue;
        }
        match inlets.0.get_mut(&channel) {
            Some(Inlet::Bytes(pipe)) => {
                let read = pipe.write_all(&data).await.is_ok();
                // What nobody reads any more is dropped.
                inlets.0.retain(|inlet, _| read || *inlet != channel);
            }
            Some(Inlet::Sizes(sizes)) => {
                if let Ok(size) = serde_json::from_slice(&data) {
                    // Sizes that nobody looked at in time are old ones.
                    let _ = sizes.try_send(size);
                }
            }
            None => {}
        }
    }
}

/// Writes one channel.
pub struct ChannelWriter {
    channel: u8,
    tells_end: bool,
    ended: bool,
    out: PollSender<Message>,
}

impl ChannelWriter {
    /// Sends a message without content, by which a client sees that all is set up.
    pub async fn open(&mut self) {
        if let Some(out) = self.out.get_ref() {
            let _ = out.send(Message::Binary(Bytes::copy_from_slice(&[self.channel]))).await;
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, message: &[&[u8]]) -> Poll<io::Result<()>> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.out.poll_reserve(cx)).map_err(gone)?;
        let data = message.concat();
        Poll::Ready(self.out.send_item(Message::Binary(data.into())).map_err(gone))
    }
}

impl AsyncWrite for ChannelWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let piece = &bytes[..bytes.len().min(PIECE)];
        let channel = [self.channel];
        ready!(self.poll_send(cx, &[&channel, piece]))?;
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.tells_end && !self.ended {
            let channel = [self.channel];
            ready!(self.poll_send(cx, &[&[CLOSE_CHANNEL], &channel]))?;
        }
        self.ended = true;
        Poll::Ready(Ok(()))
    }
}

/// A WebSocket as one stream of bytes, whatever the borders of its messages.
pub struct Bytestream<Io> {
    socket: WebSocketStream<Io>,
    read: BytesMut,
    said_goodbye: bool,
}

impl<Io> Bytestream<Io>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    /// On a connection whose handshake is done.
    pub async fn start(io: Io, role: Role) -> Self {
        let socket = websocket(io, role).await;
        Self { socket, read: BytesMut::new(), said_goodbye: false }
    }
}

fn broken(error: tokio_tungstenite::tungstenite::Error) -> io::Error {
    match error {
        tokio_tungstenite::tungstenite::Error::Io(error) => error,
        other => io::Error::other(other),
    }
}

impl<Io> AsyncRead for Bytestream<Io>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.read.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(data))) => self.read.put(data),
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
            }
        }
        let length = self.read.len().min(buffer.remaining());
        buffer.put_slice(&self.read.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl<Io> AsyncWrite for Bytestream<Io>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(broken)?;
        let piece = &bytes[..bytes.len().min(PIECE)];
        let message = Message::Binary(Bytes::copy_from_slice(piece));
        Pin::new(&mut self.socket).start_send(message).map_err(broken)?;
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(broken)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        use tokio_tungstenite::tungstenite::Error::ConnectionClosed;
        let closed = if self.said_goodbye {
            ready!(Pin::new(&mut self.socket).poll_flush(cx))
        } else {
            match ready!(Pin::new(&mut self.socket).poll_ready(cx)) {
                Ok(()) => {
                    self.said_goodbye = true;
                    match Pin::new(&mut self.socket).start_send(goodbye()) {
                        Ok(()) => ready!(Pin::new(&mut self.socket).poll_flush(cx)),
                        error => error,
                    }
                }
                error => error,
            }
        };
        match closed {
            // The peer has closed first.
            Ok(()) | Err(ConnectionClosed) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(broken(error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt;

    use super::*;

    async fn pair() -> (WebSocketStream<DuplexStream>, DuplexStream) {
        let (a, b) = tokio::io::duplex(1 << 16);
        (websocket(a, Role::Client).await, b)
    }

    #[tokio::test]
    async fn messages_reach_the_channel_that_they_name() {
        let (mut client, io) = pair().await;
        let mut inlets = Inlets::default();
        let (mut stdin, mut sizes) = (inlets.bytes(0), inlets.sizes(4));
        let channels = Channels::start(io, Role::Server, inlets).await;
        for message in [
            &b"\x00hello "[..],
            b"\x04{\"Width\":80,\"Height\":25}",
            b"\x04nonsense",
            b"\x09nobody",
            b"",
            b"\x00world",
            b"\xff\x00",
        ] {
            let message = Message::Binary(Bytes::copy_from_slice(message));
            client.send(message).await.expect("sent");
        }
        let mut text = String::new();
        stdin.read_to_string(&mut text).await.expect("closed by the message on 255");
        assert_eq!(text, "hello world");
        assert_eq!(sizes.recv().await, Some(TerminalSize { width: 80, height: 25 }));
        let mut stdout = channels.writer(1, false);
        stdout.write_all(b"out").await.expect("written");
        channels.close().await;
        let got = client.next().await.expect("a message").expect("a good one");
        assert_eq!(got, Message::Binary(Bytes::from_static(b"\x01out")));
        assert!(matches!(client.next().await, Some(Ok(Message::Close(_)))));
        drop(client);
        channels.gone().await;
    }

    #[tokio::test]
    async fn a_client_that_goes_is_noticed() {
        let (client, io) = pair().await;
        let mut inlets = Inlets::default();
        let mut stdin = inlets.bytes(0);
        let channels = Channels::start(io, Role::Server, inlets).await;
        drop(client);
        channels.gone().await;
        assert_eq!(stdin.read_to_end(&mut Vec::new()).await.expect("the end"), 0);
    }

    #[tokio::test]
    async fn bytes_pass_through_messages_unchanged() {
        let (a, b) = tokio::io::duplex(1000);
        let mut client = Bytestream::start(a, Role::Client).await;
        let mut server = Bytestream::start(b, Role::Server).await;
        let all: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
        let sent = all.clone();
        let sender = tokio::spawn(async move {
            client.write_all(&sent).await.expect("written");
            client.flush().await.expect("flushed");
            client.shutdown().await.expect("closed");
            client
        });
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.expect("read");
        assert!(got == all);
        drop(sender);
    }

    proptest! {
        #[test]
        fn no_bytes_of_a_client_make_the_server_panic(
            raw in proptest::collection::vec(any::<u8>(), 0..400),
            messages in proptest::collection::vec(
                proptest::collection::vec(any::<u8>(), 0..60), 0..10),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let (a, b) = tokio::io::duplex(1 << 16);
                let mut inlets = Inlets::default();
                let _streams = (inlets.bytes(0), inlets.sizes(4));
                let channels = Channels::start(b, Role::Server, inlets).await;
                let mut client = websocket(a, Role::Client).await;
                for message in messages {
                    client.send(Message::Binary(message.into())).await.expect("sent");
                }
                let _ = client.get_mut().write_all(&raw).await;
                drop(client);
                channels.gone().await;
            });
        }
    }
}
