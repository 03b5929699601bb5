//! One direction of a stream: a bounded queue of `Bytes` with the close semantics of TCP.
//!
//! A writer end and a reader end share it. What a write accepted is in the reader's hands at
//! once, so it arrives even when the writer goes away.
//!
//! ```text
//!            fin()                        reset()
//!   open ───────────► finished     any ───────────► reset
//!   reader: bytes, then end        reader: bytes, then connection-reset
//!   writer: broken pipe            writer: connection-reset
//! ```
//! The reader may stop listening: *shut* (`shutdown(receive)`: what comes is dropped, the writer
//! never knows) or *gone* (closed: the writer gets a broken pipe).
//!
//! **Invariant:** `len` is the sum of all queued bytes, never more than `capacity`, and charged to
//! the reader's [`Meter`] as long as it is queued.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use super::NetError;

/// Bytes that one direction of a stream holds at most.
pub const STREAM_CAPACITY: usize = 256 * 1024;

/// Bytes that a direction may always hold, also where its pod is over its share.
const CAPACITY_UNDER_PRESSURE: usize = 4 * 1024;

/// Writes up to this size are gathered while the reader lags behind.
const SMALL_WRITE: usize = 2 * 1024;

/// Bytes that wait in the queues of one pod to be read by it.
#[derive(Debug)]
pub struct Meter {
    queued: AtomicUsize,
    pressure_at: usize,
}

impl Meter {
    /// A meter that asks its queues to hold little once `pressure_at` bytes are queued.
    pub fn new(pressure_at: usize) -> Arc<Self> {
        Arc::new(Self { queued: AtomicUsize::new(0), pressure_at })
    }

    /// Bytes queued now.
    pub fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, bytes: usize) {
        self.queued.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn sub(&self, bytes: usize) {
        self.queued.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn capacity_of(&self, capacity: usize) -> usize {
        if self.queued() < self.pressure_at {
            capacity
        } else {
            capacity.min(CAPACITY_UNDER_PRESSURE)
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    Open,
    Shut,
    Gone,
}

#[derive(Debug)]
struct State {
    chunks: VecDeque<Bytes>,
    /// Small writes, behind all of `chunks`.
    tail: BytesMut,
    len: usize,
    fin: bool,
    reset: bool,
    reader: Reader,
    read_waker: Option<Waker>,
    write_waker: Option<Waker>,
}

/// One direction of a stream.
#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<State>,
    capacity: usize,
    meter: Arc<Meter>,
    /// Where accepted bytes are counted.
    counted: Option<Arc<AtomicU64>>,
}

impl Queue {
    pub(crate) fn new(
        capacity: usize,
        meter: Arc<Meter>,
        counted: Option<Arc<AtomicU64>>,
    ) -> Arc<Self> {
        let state = State {
            chunks: VecDeque::new(),
            tail: BytesMut::new(),
            len: 0,
            fin: false,
            reset: false,
            reader: Reader::Open,
            read_waker: None,
            write_waker: None,
        };
        Arc::new(Self { state: Mutex::new(state), capacity, meter, counted })
    }

    /// Takes up to `max` bytes. `None`: the writer has finished and all is read.
    pub(crate) fn try_read(&self, max: usize) -> Result<Option<Bytes>, NetError> {
        let (bytes, waker) = {
            let mut state = self.state.lock();
            if state.reader != Reader::Open {
                return Ok(None);
            }
            let Some(bytes) = state.take(max) else {
                return if state.reset {
                    Err(NetError::ConnectionReset)
                } else if state.fin {
                    Ok(None)
                } else {
                    Err(NetError::WouldBlock)
                };
            };
            // The writer is woken at half, not at each read: fewer, larger turns.
            let roomy = state.len * 2 <= self.capacity;
            (bytes, if roomy { state.write_waker.take() } else { None })
        };
        self.meter.sub(bytes.len());
        wake(waker);
        Ok(Some(bytes))
    }

    /// Whether a read would give something: bytes, the end, or an error.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.len > 0 || state.fin || state.reset || state.reader != Reader::Open {
            return Poll::Ready(());
        }
        register(&mut state.read_waker, cx);
        Poll::Pending
    }

    /// Takes from the front of `bytes` what there is room for, and says how much.
    pub(crate) fn try_write(&self, bytes: &mut Bytes) -> Result<usize, NetError> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let (taken, waker) = {
            let mut state = self.state.lock();
            let room = self.room(&state)?;
            if state.reader == Reader::Shut {
                let all = bytes.len();
                bytes.clear();
                return Ok(all);
            }
            if room == 0 {
                return Err(NetError::WouldBlock);
            }
            let taken = room.min(bytes.len());
            state.put(bytes.split_to(taken));
            (taken, state.read_waker.take())
        };
        self.meter.add(taken);
        if let Some(counted) = &self.counted {
            counted.fetch_add(taken as u64, Ordering::Relaxed);
        }
        wake(waker);
        Ok(taken)
    }

    /// Takes all of `bytes`, which [`Self::writable`] gave leave for: room promised to the one
    /// writer stays its own, also where the pod has come under pressure since.
    pub(crate) fn write_permitted(&self, bytes: Bytes) -> Result<(), NetError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let len = bytes.len();
        let waker = {
            let mut state = self.state.lock();
            self.room(&state)?;
            if state.reader == Reader::Shut {
                return Ok(());
            }
            state.put(bytes);
            state.read_waker.take()
        };
        self.meter.add(len);
        if let Some(counted) = &self.counted {
            counted.fetch_add(len as u64, Ordering::Relaxed);
        }
        wake(waker);
        Ok(())
    }

    /// How many bytes a write would take now; 0: it has to wait.
    pub(crate) fn writable(&self) -> Result<usize, NetError> {
        self.room(&self.state.lock())
    }

    fn room(&self, state: &State) -> Result<usize, NetError> {
        if state.reset {
            return Err(NetError::ConnectionReset);
        }
        if state.fin || state.reader == Reader::Gone {
            return Err(NetError::BrokenPipe);
        }
        if state.reader == Reader::Shut {
            return Ok(self.capacity);
        }
        Ok(self.meter.capacity_of(self.capacity).saturating_sub(state.len))
    }

    /// Whether a write would do something: take bytes or fail.
    pub(crate) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        match self.room(&state) {
            Ok(0) => {
                register(&mut state.write_waker, cx);
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    /// The writer has said all (FIN).
    pub(crate) fn finish(&self) {
        let wakers = {
            let mut state = self.state.lock();
            state.fin = true;
            state.wakers()
        };
        wakers.into_iter().for_each(wake);
    }

    /// Breaks this direction (RST): the reader gets what is queued, then `connection-reset`.
    pub(crate) fn reset(&self) {
        let wakers = {
            let mut state = self.state.lock();
            // A direction that ended in good order before stays so for its reader.
            if !(state.fin && state.len == 0) {
                state.reset = true;
            }
            state.fin = true;
            state.wakers()
        };
        wakers.into_iter().for_each(wake);
    }

    /// Makes writes fail with `connection-reset`, whatever the reader saw.
    pub(crate) fn reset_writer(&self) {
        let wakers = {
            let mut state = self.state.lock();
            state.reset = true;
            state.wakers()
        };
        wakers.into_iter().for_each(wake);
    }

    /// The reader wants no more (`shutdown(receive)`); what is and will be queued is dropped.
    pub(crate) fn shut_reader(&self) {
        self.stop_reading(Reader::Shut);
    }

    /// The reader is gone. Says whether it left bytes unread.
    pub(crate) fn drop_reader(&self) -> bool {
        self.stop_reading(Reader::Gone)
    }

    fn stop_reading(&self, how: Reader) -> bool {
        let (dropped, wakers) = {
            let mut state = self.state.lock();
            if state.reader != Reader::Gone {
                state.reader = how;
            }
            let dropped = std::mem::take(&mut state.len);
            state.chunks.clear();
            state.tail.clear();
            (dropped, state.wakers())
        };
        self.meter.sub(dropped);
        wakers.into_iter().for_each(wake);
        dropped > 0
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.meter.sub(self.state.get_mut().len);
    }
}

impl State {
    fn put(&mut self, bytes: Bytes) {
        self.len += bytes.len();
        if bytes.len() <= SMALL_WRITE && self.len > bytes.len() {
            self.tail.extend_from_slice(&bytes);
            return;
        }
        if !self.tail.is_empty() {
            let tail = self.tail.split().freeze();
            self.chunks.push_back(tail);
        }
        self.chunks.push_back(bytes);
    }

    fn take(&mut self, max: usize) -> Option<Bytes> {
        if self.len == 0 {
            return None;
        }
        if self.chunks.is_empty() {
            let tail = self.tail.split().freeze();
            self.chunks.push_back(tail);
        }
        let front = self.chunks.front_mut().expect("a queue with bytes has a chunk");
        let bytes = if front.len() > max {
            front.split_to(max)
        } else {
            self.chunks.pop_front().expect("the chunk just seen")
        };
        self.len -= bytes.len();
        Some(bytes)
    }

    fn wakers(&mut self) -> [Option<Waker>; 2] {
        [self.read_waker.take(), self.write_waker.take()]
    }
}

fn register(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        _ => *slot = Some(cx.waker().clone()),
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests;
