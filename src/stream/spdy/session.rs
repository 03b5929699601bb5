//! A SPDY session over a connection: one task that reads, one that writes, and the streams as
//! byte streams.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard, PollSender};

use super::frame::{Decoder, Encoder, Frame, Headers};
pub use super::state::Role;
use super::state::{Came, QUEUED_MAX, State};
use crate::stream::StreamError;

/// The payload of a data frame at most.
const PIECE: usize = 16 * 1024;
/// Data frames of all streams that wait to be written.
const FRAMES_QUEUED: usize = 16;
/// Opened streams that wait to be taken.
const INCOMING: usize = 16;
/// Bytes that are read from, or gathered for, the connection at once.
const GATHER: usize = 64 * 1024;

struct Shared {
    state: Mutex<State>,
    /// There are control frames to write, or the session is to close.
    write: Notify,
    /// There may be room to read more.
    room: Notify,
    ended: CancellationToken,
    abort: CancellationToken,
}

/// A session. It goes on until one end closes it, however many handles there are.
#[derive(Clone)]
pub struct Session {
    shared: Arc<Shared>,
    data: mpsc::Sender<Frame>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("streams", &self.shared.state.lock().streams.len()).finish()
    }
}

/// The streams that the peer opens.
#[derive(Debug)]
pub struct Incoming(mpsc::Receiver<Stream>);

impl Incoming {
    /// The next one; `None` once the session has ended.
    pub async fn next(&mut self) -> Option<Stream> {
        self.0.recv().await
    }
}

impl Session {
    /// Runs a session on `io`.
    pub fn start<Io>(io: Io, role: Role) -> (Self, Incoming)
    where
        Io: AsyncRead + AsyncWrite + Send + 'static,
    {
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(role)),
            write: Notify::new(),
            room: Notify::new(),
            ended: CancellationToken::new(),
            abort: CancellationToken::new(),
        });
        let (data, frames) = mpsc::channel(FRAMES_QUEUED);
        let (opened, incoming) = mpsc::channel(INCOMING);
        let session = Self { shared: Arc::clone(&shared), data };
        let (reader, writer) = tokio::io::split(io);
        tokio::spawn(run(session.clone(), reader, writer, frames, opened));
        (session, Incoming(incoming))
    }

    /// Opens a stream and waits until the peer has taken it.
    ///
    /// # Errors
    /// [`StreamError::Closed`] where the peer refuses it or the session is over.
    pub async fn open(&self, headers: Headers) -> Result<Stream, StreamError> {
        let (reply, replied) = oneshot::channel();
        let id = self.shared.state.lock().open(headers.clone(), reply);
        let id = id.ok_or(StreamError::Closed)?;
        let stream = self.stream(id, headers);
        self.shared.write.notify_one();
        match replied.await {
            Ok(()) => Ok(stream),
            Err(_) => Err(StreamError::Closed),
        }
    }

    fn stream(&self, id: u32, headers: Headers) -> Stream {
        let shared = Arc::clone(&self.shared);
        Stream { id, headers, shared, data: PollSender::new(self.data.clone()) }
    }

    /// Opens nothing more, and closes the connection once both ends have ended all streams.
    pub fn close(&self) {
        self.shared.state.lock().go_away();
        self.shared.write.notify_one();
    }

    /// Drops the connection when the guard is dropped.
    pub fn guard(&self) -> DropGuard {
        self.shared.abort.clone().drop_guard()
    }

    /// Drops the connection, whatever is still on its way.
    pub fn abort(&self) {
        self.shared.abort.cancel();
    }

    /// Waits until the connection has ended.
    pub async fn ended(&self) {
        self.shared.ended.cancelled().await;
    }
}

async fn run<Io>(
    session: Session,
    reader: ReadHalf<Io>,
    writer: WriteHalf<Io>,
    frames: mpsc::Receiver<Frame>,
    opened: mpsc::Sender<Stream>,
) where
    Io: AsyncRead + AsyncWrite,
{
    let shared = Arc::clone(&session.shared);
    let ended = tokio::select! {
        ended = read(&session, reader, &opened) => ended,
        ended = write(&shared, writer, frames) => ended.map_err(Into::into),
        () = shared.abort.cancelled() => Ok(()),
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a SPDY session broke");
    }
    shared.state.lock().end();
    shared.ended.cancel();
}

async fn read<Io: AsyncRead>(
    session: &Session,
    mut reader: ReadHalf<Io>,
    opened: &mpsc::Sender<Stream>,
) -> Result<(), StreamError> {
    let shared = &session.shared;
    let broken = |problem: String| StreamError::Protocol { protocol: "SPDY", problem };
    let mut decoder = Decoder::default();
    loop {
        while let Some(frame) = decoder.decode().map_err(|e| broken(e.to_string()))? {
            let came = shared.state.lock().take(frame).map_err(|e| broken(e.to_owned()))?;
            // An answer may have become due.
            shared.write.notify_one();
            if let Came::Stream(id, headers) = came
                && opened.send(session.stream(id, headers)).await.is_err()
            {
                // Nobody takes streams any more; the one that was not taken is dropped.
                session.close();
            }
        }
        while shared.state.lock().queued > QUEUED_MAX {
            shared.room.notified().await;
        }
        decoder.input().reserve(GATHER);
        if reader.read_buf(decoder.input()).await? == 0 {
            return Ok(());
        }
    }
}

async fn write<Io: AsyncWrite>(
    shared: &Shared,
    mut writer: WriteHalf<Io>,
    mut frames: mpsc::Receiver<Frame>,
) -> io::Result<()> {
    let mut encoder = Encoder::default();
    let mut out = BytesMut::with_capacity(GATHER);
    loop {
        control(shared, &mut encoder, &mut out);
        while out.len() < GATHER {
            let Ok(frame) = frames.try_recv() else { break };
            // What was said of the stream before goes out before its data.
            control(shared, &mut encoder, &mut out);
            encoder.encode(&frame, &mut out);
        }
        if !out.is_empty() {
            writer.write_all_buf(&mut out).await?;
            writer.flush().await?;
            out.reserve(GATHER);
            continue;
        }
        // Not before: a peer in Go drops what it has not looked at yet once the connection ends.
        let done = {
            let state = shared.state.lock();
            state.closing && state.streams.is_empty()
        };
        if done && frames.is_empty() {
            return writer.shutdown().await;
        }
        tokio::select! {
            () = shared.write.notified() => {}
            frame = frames.recv() => match frame {
                Some(frame) => {
                    control(shared, &mut encoder, &mut out);
                    encoder.encode(&frame, &mut out);
                }
                None => return writer.shutdown().await,
            },
        }
    }
}

fn control(shared: &Shared, encoder: &mut Encoder, out: &mut BytesMut) {
    let frames = std::mem::take(&mut shared.state.lock().control);
    for frame in frames {
        encoder.encode(&frame, out);
    }
}

/// A stream. Its end is told to the peer by a shutdown, or when it is dropped.
pub struct Stream {
    id: u32,
    headers: Headers,
    shared: Arc<Shared>,
    data: PollSender<Frame>,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stream({} {:?})", self.id, self.headers)
    }
}

impl Stream {
    pub fn id(&self) -> u32 {
        self.id
    }

    /// What it was opened with.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The first value of a header, whose name is given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        super::header(&self.headers, name)
    }

    /// Breaks it off: the peer's reads and writes fail.
    pub fn reset(&self) {
        self.shared.state.lock().reset(self.id);
        self.shared.write.notify_one();
    }

    fn fin(&self) -> Frame {
        Frame::Data { stream: self.id, fin: true, data: Bytes::new() }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.shared.state.lock();
        let ended = state.ended;
        let Some(stream) = state.streams.get_mut(&self.id) else { return Poll::Ready(Ok(())) };
        if let Some(chunk) = stream.received.front_mut() {
            let piece = chunk.split_to(chunk.len().min(buffer.remaining()));
            if chunk.is_empty() {
                stream.received.pop_front();
            }
            buffer.put_slice(&piece);
            state.queued -= piece.len();
            state.read(Some(self.id), piece.len());
            drop(state);
            self.shared.room.notify_one();
            self.shared.write.notify_one();
            return Poll::Ready(Ok(()));
        }
        if stream.fin_received {
            return Poll::Ready(Ok(()));
        }
        if stream.reset || ended {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        state.wait_to_read(self.id, cx);
        Poll::Pending
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let (id, shared) = (self.id, Arc::clone(&self.shared));
        let allowed = {
            let mut state = shared.state.lock();
            if !state.writable(id) {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            match state.allowed(id, bytes.len().min(PIECE), cx) {
                Some(allowed) => allowed,
                None => return Poll::Pending,
            }
        };
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.data.poll_reserve(cx)).map_err(gone)?;
        let data = Bytes::copy_from_slice(&bytes[..allowed]);
        shared.state.lock().sent(id, allowed);
        self.data.send_item(Frame::Data { stream: id, fin: false, data }).map_err(gone)?;
        Poll::Ready(Ok(allowed))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.shared.state.lock().writable(self.id) {
            return Poll::Ready(Ok(()));
        }
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.data.poll_reserve(cx)).map_err(gone)?;
        let fin = self.fin();
        self.shared.state.lock().fin_sent(self.id);
        self.data.send_item(fin).map_err(gone)?;
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let fin = {
            let mut state = self.shared.state.lock();
            let fin = state.writable(self.id);
            if fin {
                state.fin_sent(self.id);
            }
            state.detach(self.id);
            fin
        };
        self.shared.room.notify_one();
        if fin && let Some(sender) = self.data.get_ref().cloned() {
            // Behind the data that is queued already.
            if let Err(mpsc::error::TrySendError::Full(fin)) = sender.try_send(self.fin())
                && let Ok(runtime) = tokio::runtime::Handle::try_current()
            {
                runtime.spawn(async move { sender.send(fin).await });
            }
        }
        self.shared.write.notify_one();
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
