//! The standard streams of a guest.
//!
//! Output goes to the workload's [`LogSink`] as it is written, and to those who are attached; a
//! guest waits where one of them has not taken enough yet. Standard input holds what those who are
//! attached type. Where nobody may (no `stdin: true`) it says nothing until the workload is asked
//! to end, and then ends: for a wasm program that is what SIGTERM is for others.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use parking_lot::RwLock;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use wasmtime_wasi::cli::{IsTerminal, StdinStream, StdoutStream};
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

use super::pipe::Pipe;
use crate::runtime::spec::{LogSink, Stdio};

/// What one write may carry.
const WRITE_BYTES_MAX: usize = 64 << 10;

/// Standard input.
#[derive(Clone, Default)]
pub struct Stdin {
    pub pipe: Pipe,
    used: Arc<AtomicBool>,
    tty: bool,
}

impl Stdin {
    /// An input that looks like a terminal or not.
    pub fn new(tty: bool) -> Self {
        Self { tty, ..Self::default() }
    }

    /// No more input will come.
    pub fn end(&self) {
        self.pipe.finish();
    }

    /// Whether the guest has ever read from it, or waited for it.
    pub fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    fn mark_used(&self) {
        self.used.store(true, Ordering::Relaxed);
    }
}

impl IsTerminal for Stdin {
    fn is_terminal(&self) -> bool {
        self.tty
    }
}

impl StdinStream for Stdin {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(self.clone())
    }
}

#[async_trait::async_trait]
impl Pollable for Stdin {
    async fn ready(&mut self) {
        self.mark_used();
        std::future::poll_fn(|cx| self.pipe.poll_readable(cx)).await;
    }
}

impl InputStream for Stdin {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.mark_used();
        if size == 0 {
            return Ok(Bytes::new());
        }
        self.pipe.try_read(size).ok_or(StreamError::Closed)
    }
}

impl AsyncRead for Stdin {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.mark_used();
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        ready!(self.pipe.poll_readable(cx));
        if let Some(bytes) = self.pipe.try_read(buffer.remaining()) {
            buffer.put_slice(&bytes);
        }
        Poll::Ready(Ok(()))
    }
}

/// One who is attached to the output of a guest, with the streams that it wants.
#[derive(Clone, Default)]
pub struct Tap {
    pub stdout: Option<Pipe>,
    pub stderr: Option<Pipe>,
}

impl Tap {
    fn of(&self, stream: Stdio) -> Option<&Pipe> {
        match stream {
            Stdio::Stdout => self.stdout.as_ref(),
            Stdio::Stderr => self.stderr.as_ref(),
        }
    }

    /// No more output will come.
    pub fn finish(&self) {
        self.stdout.iter().chain(&self.stderr).for_each(Pipe::finish);
    }

    /// Nobody wants the output any more.
    pub fn abandon(&self) {
        self.stdout.iter().chain(&self.stderr).for_each(Pipe::abandon);
    }
}

/// Where the output of a workload (or of one `exec` in it) goes.
pub struct Outputs {
    log: Option<Arc<dyn LogSink>>,
    taps: RwLock<Vec<Tap>>,
    tty: bool,
}

impl Outputs {
    /// To a log, and to whoever attaches.
    pub fn logged(log: Arc<dyn LogSink>, tty: bool) -> Arc<Self> {
        Arc::new(Self { log: Some(log), taps: RwLock::default(), tty })
    }

    /// To one who asked for it.
    pub fn tapped(tap: Tap, tty: bool) -> Arc<Self> {
        Arc::new(Self { log: None, taps: RwLock::new(vec![tap]), tty })
    }

    /// Hands all further output to `tap` too.
    pub fn attach(&self, tap: Tap) {
        let mut taps = self.taps.write();
        // Those that are gone make room.
        taps.retain(|tap| tap.stdout.iter().chain(&tap.stderr).any(|pipe| pipe.room().is_ok()));
        taps.push(tap);
    }

    /// Nothing more will be written.
    pub fn finish(&self) {
        self.taps.write().drain(..).for_each(|tap| tap.finish());
    }

    /// Writes to all, whether there is room or not.
    pub fn write(&self, stream: Stdio, bytes: &[u8]) {
        if let Some(log) = &self.log {
            log.write(stream, bytes);
        }
        for tap in self.taps.read().iter() {
            if let Some(pipe) = tap.of(stream) {
                pipe.push(Bytes::copy_from_slice(bytes));
            }
        }
    }

    /// What a write may carry now; none: whoever wanted it is gone.
    fn room(&self, stream: Stdio) -> Option<usize> {
        let taps = self.taps.read();
        let mut room = WRITE_BYTES_MAX;
        let mut wanted = self.log.is_some();
        let mut gone = false;
        for pipe in taps.iter().filter_map(|tap| tap.of(stream)) {
            match pipe.room() {
                Ok(left) => {
                    wanted = true;
                    room = room.min(left);
                }
                Err(_) => gone = true,
            }
        }
        // What nobody ever asked for may be written all the same.
        (wanted || !gone).then_some(room)
    }

    fn poll_room(&self, stream: Stdio, cx: &Context<'_>) -> Poll<()> {
        for pipe in self.taps.read().iter().filter_map(|tap| tap.of(stream)) {
            ready!(pipe.poll_writable(cx));
        }
        Poll::Ready(())
    }

    /// Writes once there is room, as fast as those who read take it.
    ///
    /// # Errors
    /// `BrokenPipe` where whoever wanted it is gone.
    pub async fn write_all(&self, stream: Stdio, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(WRITE_BYTES_MAX / 4) {
            std::future::poll_fn(|cx| self.poll_room(stream, cx)).await;
            self.room(stream).ok_or(io::ErrorKind::BrokenPipe)?;
            self.write(stream, piece);
        }
        Ok(())
    }
}

/// Standard output or standard error.
#[derive(Clone)]
pub struct Output {
    pub outputs: Arc<Outputs>,
    pub stream: Stdio,
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        self.outputs.tty
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {
        std::future::poll_fn(|cx| self.outputs.poll_room(self.stream, cx)).await;
    }
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.outputs.write(self.stream, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.outputs.room(self.stream).ok_or(StreamError::Closed)
    }
}

impl AsyncWrite for Output {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.outputs.poll_room(self.stream, cx));
        match self.outputs.room(self.stream) {
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Some(room) => {
                let piece = &bytes[..bytes.len().min(room.max(1))];
                self.outputs.write(self.stream, piece);
                Poll::Ready(Ok(piece.len()))
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
