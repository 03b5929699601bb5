//! The two streams of a connected TCP socket.

use std::sync::Arc;

use bytes::Bytes;
use wasmtime_wasi_io::poll::Pollable;
use wasmtime_wasi_io::streams::{InputStream, OutputStream, StreamError, StreamResult};

use crate::net::{NetError, TcpStream};

/// Bytes that one read or write moves at most.
const CHUNK: usize = 64 * 1024;

/// The receiving half.
pub(super) struct TcpInput {
    stream: Arc<TcpStream>,
    closed: bool,
}

/// The sending half.
pub(super) struct TcpOutput {
    stream: Arc<TcpStream>,
    /// What the last `check-write` allowed.
    permit: usize,
    closed: bool,
}

impl TcpInput {
    pub(super) fn new(stream: Arc<TcpStream>) -> Self {
        Self { stream, closed: false }
    }
}

impl TcpOutput {
    pub(super) fn new(stream: Arc<TcpStream>) -> Self {
        Self { stream, permit: 0, closed: false }
    }

    /// The stream's error for the network's: after it the stream is closed.
    fn fail(&mut self, error: NetError) -> StreamError {
        if std::mem::replace(&mut self.closed, true) || error == NetError::BrokenPipe {
            return StreamError::Closed;
        }
        StreamError::LastOperationFailed(error.into())
    }
}

#[async_trait::async_trait]
impl Pollable for TcpInput {
    async fn ready(&mut self) {
        if !self.closed {
            std::future::poll_fn(|cx| self.stream.poll_readable(cx)).await;
        }
    }
}

impl InputStream for TcpInput {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if self.closed {
            return Err(StreamError::Closed);
        }
        if size == 0 {
            return Ok(Bytes::new());
        }
        match self.stream.try_read(size.min(CHUNK)) {
            Ok(Some(bytes)) => Ok(bytes),
            Err(NetError::WouldBlock) => Ok(Bytes::new()),
            Ok(None) => {
                self.closed = true;
                Err(StreamError::Closed)
            }
            Err(error) => {
                self.closed = true;
                Err(StreamError::LastOperationFailed(error.into()))
            }
        }
    }
}

#[async_trait::async_trait]
impl Pollable for TcpOutput {
    async fn ready(&mut self) {
        if !self.closed {
            std::future::poll_fn(|cx| self.stream.poll_writable(cx)).await;
        }
    }
}

impl OutputStream for TcpOutput {
    fn check_write(&mut self) -> StreamResult<usize> {
        if self.closed {
            return Err(StreamError::Closed);
        }
        match self.stream.writable() {
            Ok(room) => {
                self.permit = room.min(CHUNK);
                Ok(self.permit)
            }
            Err(error) => Err(self.fail(error)),
        }
    }

    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if self.closed {
            return Err(StreamError::Closed);
        }
        if bytes.len() > self.permit {
            let len = bytes.len();
            return Err(StreamError::Trap(wasmtime::format_err!(
                "not permitted to write {len} bytes"
            )));
        }
        self.permit = 0;
        self.stream.write_permitted(bytes).map_err(|error| self.fail(error))
    }

    fn flush(&mut self) -> StreamResult<()> {
        // What was written is with the peer already.
        if self.closed { Err(StreamError::Closed) } else { Ok(()) }
    }
}
