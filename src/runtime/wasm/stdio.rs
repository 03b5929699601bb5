//! The standard streams of a guest. Output goes to the workload's [`LogSink`] as it is written;
//! standard input says nothing until the workload is asked to end, and then ends: for a wasm
//! program that is what SIGTERM is for others.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use wasmtime_wasi::cli::{IsTerminal, StdinStream, StdoutStream};
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

use crate::runtime::spec::{LogSink, Stdio};

/// What one write may carry.
const WRITE_BYTES_MAX: usize = 64 << 10;

/// Standard input.
#[derive(Clone, Default)]
pub struct Stdin {
    ended: CancellationToken,
    used: Arc<AtomicBool>,
}

impl Stdin {
    /// No more input will come.
    pub fn end(&self) {
        self.ended.cancel();
    }

    /// Whether the guest has ever read from it, or waited for it.
    pub fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }
}

impl IsTerminal for Stdin {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdinStream for Stdin {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        let ended = Box::pin(self.ended.clone().cancelled_owned());
        Box::new(StdinReader { stdin: self.clone(), ended })
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(self.clone())
    }
}

#[async_trait::async_trait]
impl Pollable for Stdin {
    async fn ready(&mut self) {
        self.used.store(true, Ordering::Relaxed);
        self.ended.cancelled().await;
    }
}

impl InputStream for Stdin {
    fn read(&mut self, _size: usize) -> StreamResult<Bytes> {
        self.used.store(true, Ordering::Relaxed);
        if self.ended.is_cancelled() { Err(StreamError::Closed) } else { Ok(Bytes::new()) }
    }
}

struct StdinReader {
    stdin: Stdin,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl AsyncRead for StdinReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        _buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stdin.used.store(true, Ordering::Relaxed);
        self.ended.as_mut().poll(cx).map(Ok)
    }
}

/// Standard output or standard error.
#[derive(Clone)]
pub struct Output {
    pub sink: Arc<dyn LogSink>,
    pub stream: Stdio,
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
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
    async fn ready(&mut self) {}
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.sink.write(self.stream, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES_MAX)
    }
}

impl AsyncWrite for Output {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.sink.write(self.stream, bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
