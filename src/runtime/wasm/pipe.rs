//! A bounded queue of bytes between a guest and who attends to it from outside: what is typed for
//! it, or what it prints.
//!
//! ```text
//!   writer ──▶ [ at most CAPACITY bytes wait ] ──▶ reader
//!     finish: the reader gets what waits, then the end
//!     abandon: the reader is gone, the writer gets a broken pipe
//! ```
//!
//! Several may read and write; all of them are woken when something changes.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::Mutex;

/// Bytes that may wait.
pub const CAPACITY: usize = 64 << 10;

#[derive(Default)]
struct State {
    chunks: VecDeque<Bytes>,
    length: usize,
    finished: bool,
    abandoned: bool,
    waiting: Vec<Waker>,
}

impl State {
    fn wake(&mut self) {
        self.waiting.drain(..).for_each(Waker::wake);
    }

    fn wait(&mut self, cx: &Context<'_>) {
        if !self.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            self.waiting.push(cx.waker().clone());
        }
    }
}

/// The queue; a clone is another handle on it.
#[derive(Clone, Default)]
pub struct Pipe(Arc<Mutex<State>>);

impl Pipe {
    /// No more will be written.
    pub fn finish(&self) {
        let mut state = self.0.lock();
        state.finished = true;
        state.wake();
    }

    /// Nobody reads any more.
    pub fn abandon(&self) {
        let mut state = self.0.lock();
        state.abandoned = true;
        state.chunks.clear();
        state.length = 0;
        state.wake();
    }

    /// How much may be written now.
    ///
    /// # Errors
    /// `BrokenPipe`: nobody reads any more.
    pub fn room(&self) -> io::Result<usize> {
        let state = self.0.lock();
        if state.abandoned || state.finished {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(CAPACITY.saturating_sub(state.length))
    }

    /// Appends all of `bytes`; who wants the bound kept asks for [`Self::room`] before.
    pub fn push(&self, bytes: Bytes) {
        let mut state = self.0.lock();
        if !bytes.is_empty() && !state.abandoned && !state.finished {
            state.length += bytes.len();
            state.chunks.push_back(bytes);
            state.wake();
        }
    }

    /// Up to `max` bytes. `None`: the end; empty: nothing is there yet.
    pub fn try_read(&self, max: usize) -> Option<Bytes> {
        let mut state = self.0.lock();
        let Some(first) = state.chunks.front_mut() else {
            return (!state.finished && !state.abandoned).then(Bytes::new);
        };
        let bytes = first.split_to(first.len().min(max));
        if first.is_empty() {
            state.chunks.pop_front();
        }
        state.length -= bytes.len();
        state.wake();
        Some(bytes)
    }

    /// Ready when [`Self::try_read`] has bytes or the end.
    pub fn poll_readable(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.0.lock();
        if !state.chunks.is_empty() || state.finished || state.abandoned {
            return Poll::Ready(());
        }
        state.wait(cx);
        Poll::Pending
    }

    /// Ready when there is room, or will never be.
    pub fn poll_writable(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.0.lock();
        if state.length < CAPACITY || state.finished || state.abandoned {
            return Poll::Ready(());
        }
        state.wait(cx);
        Poll::Pending
    }

    /// Waits for bytes; `None` is the end.
    pub async fn read(&self, max: usize) -> Option<Bytes> {
        std::future::poll_fn(|cx| self.poll_readable(cx)).await;
        self.try_read(max)
    }

    /// Appends `bytes` once there is room for more.
    ///
    /// # Errors
    /// `BrokenPipe`.
    pub async fn write(&self, bytes: Bytes) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_writable(cx)).await;
        self.room()?;
        self.push(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_come_out_in_order_and_then_the_end() {
        let pipe = Pipe::default();
        assert_eq!(pipe.try_read(9), Some(Bytes::new()));
        let writer = pipe.clone();
        let wrote = tokio::spawn(async move {
            for _ in 0..10 {
                writer.write(Bytes::from(vec![7; CAPACITY / 2])).await.expect("read");
            }
            writer.finish();
        });
        let mut total = 0;
        while let Some(bytes) = pipe.read(1000).await {
            assert!((1..=1000).contains(&bytes.len()));
            total += bytes.len();
        }
        assert_eq!(total, CAPACITY * 5);
        wrote.await.expect("no panic");
    }

    #[tokio::test]
    async fn a_writer_learns_that_nobody_reads() {
        let pipe = Pipe::default();
        pipe.push(Bytes::from(vec![0; CAPACITY]));
        assert_eq!(pipe.room().expect("open"), 0);
        let writer = pipe.clone();
        let waiting = tokio::spawn(async move { writer.write(Bytes::from_static(b"x")).await });
        tokio::task::yield_now().await;
        pipe.abandon();
        let error = waiting.await.expect("no panic").expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(pipe.try_read(9), None);
    }
}
