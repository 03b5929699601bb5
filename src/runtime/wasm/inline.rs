//! A request's guest, polled by whoever waits for the answer, as long as it is quick.
//!
//! Handing every request to the guests' threads and its answer back costs two wake-ups across
//! threads, more than the whole of a small handler. So the guest is polled right where its caller
//! is: on the threads of the network, which it must not hold up.
//!
//! ```text
//!          hot, or its workload is in disgrace            dropped before the head: ended
//!  here ──────────────────────────────────────▶ away      dropped after it: goes on alone
//!    └── done
//! ```
//!
//! **Invariant:** a guest that was polled for longer than [`QUICK`] is polled here no more, and no
//! guest of its workload is for a while: a workload holds the network up for a few milliseconds
//! at most, and then not for seconds, each time longer.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

use super::Runtime;
use super::executor::{GuestTask, Seat};

/// A guest polled for longer goes to the guests' threads.
const QUICK: Duration = Duration::from_millis(1);

/// The first disgrace; each further one is twice as long.
const DISGRACE: Duration = Duration::from_secs(5);
const DISGRACE_DOUBLINGS_MAX: u32 = 6;

/// Whether the guests of a workload may be polled by their callers.
pub struct Trust {
    start: Instant,
    /// Milliseconds since `start`.
    again_at: AtomicU64,
    lost: AtomicU32,
}

impl Trust {
    pub fn new() -> Self {
        Self { start: Instant::now(), again_at: AtomicU64::new(0), lost: AtomicU32::new(0) }
    }

    fn holds(&self) -> bool {
        match self.again_at.load(Ordering::Relaxed) {
            0 => true,
            again_at => self.start.elapsed().as_millis() as u64 >= again_at,
        }
    }

    fn lose(&self) {
        let times = self.lost.fetch_add(1, Ordering::Relaxed).min(DISGRACE_DOUBLINGS_MAX);
        let until = self.start.elapsed() + DISGRACE * 2u32.pow(times);
        self.again_at.store(until.as_millis() as u64, Ordering::Relaxed);
    }
}

enum Place {
    Here(Seat<()>),
    Away(GuestTask<()>),
    Done,
}

/// A request's guest, wherever it is.
pub struct Inline {
    place: Place,
    runtime: Arc<Runtime>,
    trust: Arc<Trust>,
    answered: bool,
}

impl Inline {
    pub fn new(runtime: Arc<Runtime>, trust: Arc<Trust>, seat: Seat<()>) -> Self {
        Self { place: Place::Here(seat), runtime, trust, answered: false }
    }

    /// Polls the guest if it is here.
    pub fn poll(&mut self, cx: &mut Context<'_>) {
        let Place::Here(seat) = &mut self.place else { return };
        if !self.trust.holds() {
            return self.send_away();
        }
        let polled = self.runtime.executor.poll_here(seat, cx);
        let hot = seat.heat() > QUICK;
        if polled.is_ready() {
            self.place = Place::Done;
        }
        if hot {
            self.trust.lose();
            self.send_away();
        }
    }

    fn send_away(&mut self) {
        match std::mem::replace(&mut self.place, Place::Done) {
            Place::Here(seat) => self.place = Place::Away(self.runtime.executor.run(seat)),
            other => self.place = other,
        }
    }

    /// The head is out: from now on the guest goes on whether anyone waits or not. Its body polls
    /// the guest, if that is still here.
    pub fn answered(mut self, body: HyperOutgoingBody) -> Guided {
        self.answered = true;
        Guided { guest: self, body }
    }
}

impl Drop for Inline {
    fn drop(&mut self) {
        if !self.answered {
            // Nobody waits any more, and nothing was answered: the guest ends.
            return;
        }
        // Most have only to return.
        self.poll(&mut Context::from_waker(Waker::noop()));
        self.send_away();
        if let Place::Away(task) = std::mem::replace(&mut self.place, Place::Done) {
            task.detach();
        }
    }
}

/// The body of an answer, and the guest that writes it.
pub struct Guided {
    guest: Inline,
    body: HyperOutgoingBody,
}

impl Body for Guided {
    type Data = Bytes;
    type Error = wasmtime_wasi_http::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.guest.poll(cx);
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_that_is_lost_stays_lost_for_a_while() {
        let trust = Trust::new();
        assert!(trust.holds());
        trust.lose();
        assert!(!trust.holds());
        let first = trust.again_at.load(Ordering::Relaxed);
        trust.lose();
        assert!(trust.again_at.load(Ordering::Relaxed) >= first + DISGRACE.as_millis() as u64);
    }
}
