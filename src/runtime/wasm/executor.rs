//! Where guests run: a tokio runtime of their own, and a second one on niced threads for those
//! that compute much.
//!
//! ```text
//!          heat > HOT                  heat = 0
//!  fast ──────────────▶ slow    slow ──────────────▶ fast
//! ```
//!
//! Heat is time spent inside `poll`, cooling at a tenth of the wall clock: a guest that takes more
//! than a tenth of a core for long moves to where it delays nobody, and comes back when it is calm.
//! Every poll ends within a millisecond or two, by the epoch.
//!
//! A cpu limit is a token bucket on the same time: who has none left is not polled until there is.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Sleep;

use super::engine::Engines;

const HOT: Duration = Duration::from_millis(5);

/// Heat lost a second of wall clock, in seconds.
const COOLING: f64 = 0.1;

/// The bucket of a cpu limit holds what the limit gives in this time.
const BURST: Duration = Duration::from_millis(100);

/// How much lower the priority of the second runtime's threads is.
const NICENESS: i32 = 10;

const BLOCKING_THREADS_MAX: usize = 32;

/// The runtimes of the guests.
pub struct Executor {
    engines: Arc<Engines>,
    fast: Option<Runtime>,
    slow: Option<Runtime>,
}

/// What the guests of a workload have used, and what they may.
pub struct Meter {
    used_ns: AtomicU64,
    bucket: Option<Mutex<Bucket>>,
}

struct Bucket {
    /// Seconds of processor time a second.
    rate: f64,
    /// Seconds; below zero is a debt.
    tokens: f64,
    filled: Instant,
}

impl Meter {
    /// A meter with a limit in thousandths of a core.
    pub fn new(cpu_millis_max: Option<u64>) -> Arc<Self> {
        let bucket = cpu_millis_max.map(|millis| {
            // No limit below Kubernetes' own smallest, or it would never run at all.
            let rate = (millis.max(1) as f64) / 1000.0;
            Mutex::new(Bucket { rate, tokens: rate * BURST.as_secs_f64(), filled: Instant::now() })
        });
        Arc::new(Self { used_ns: AtomicU64::new(0), bucket })
    }

    /// Time spent in `poll`.
    pub fn used(&self) -> Duration {
        Duration::from_nanos(self.used_ns.load(Ordering::Relaxed))
    }

    fn charge(&self, spent: Duration) {
        self.used_ns.fetch_add(spent.as_nanos() as u64, Ordering::Relaxed);
        if let Some(bucket) = &self.bucket {
            bucket.lock().tokens -= spent.as_secs_f64();
        }
    }

    /// How long until there are tokens; zero: there are.
    fn debt(&self) -> Duration {
        let Some(bucket) = &self.bucket else { return Duration::ZERO };
        let mut bucket = bucket.lock();
        let now = Instant::now();
        let filled = (now - bucket.filled).as_secs_f64() * bucket.rate;
        bucket.tokens = (bucket.tokens + filled).min(bucket.rate * BURST.as_secs_f64());
        bucket.filled = now;
        if bucket.tokens > 0.0 {
            return Duration::ZERO;
        }
        Duration::from_secs_f64(-bucket.tokens / bucket.rate).max(Duration::from_millis(1))
    }
}

impl Executor {
    /// Starts the threads.
    ///
    /// # Errors
    /// When there can be no threads.
    pub fn new(engines: Arc<Engines>, threads: Option<usize>) -> io::Result<Self> {
        let threads = threads
            .or_else(|| std::thread::available_parallelism().ok().map(usize::from))
            .unwrap_or(2);
        let builder = |name: &str| {
            let mut builder = Builder::new_multi_thread();
            builder
                .worker_threads(threads)
                .max_blocking_threads(BLOCKING_THREADS_MAX)
                .thread_name(name)
                .enable_all();
            builder
        };
        let fast = builder("wasm").build()?;
        let slow = builder("wasm-slow")
            .on_thread_start(|| {
                // Where it is not allowed, the threads are only as polite as the others.
                let _ = rustix::process::nice(NICENESS);
            })
            .build()?;
        Ok(Self { engines, fast: Some(fast), slow: Some(slow) })
    }

    /// Where tasks belong that serve guests but are none.
    pub fn handle(&self) -> &Handle {
        self.fast.as_ref().expect("there until dropped").handle()
    }

    /// Runs a guest, charged to `meter`. Dropping the task drops the guest.
    pub fn spawn<T: Send + 'static>(
        &self,
        meter: Arc<Meter>,
        guest: impl Future<Output = T> + Send + 'static,
    ) -> GuestTask<T> {
        let slow = self.slow.as_ref().expect("there until dropped").handle().clone();
        let seat = Seat {
            guest: Box::pin(guest),
            meter,
            engines: self.engines.clone(),
            heat: Duration::ZERO,
            heated: Instant::now(),
            asleep: None,
        };
        GuestTask(Some(self.handle().spawn(travel(seat, slow))))
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        // Waiting for the threads is not allowed where this may be dropped, inside a task.
        for runtime in [self.fast.take(), self.slow.take()].into_iter().flatten() {
            runtime.shutdown_background();
        }
    }
}

/// A guest that runs; dropped, it is ended.
pub struct GuestTask<T>(Option<JoinHandle<T>>);

impl<T> GuestTask<T> {
    /// Lets it run to its own end.
    pub fn detach(mut self) {
        self.0 = None;
    }
}

impl<T> Future for GuestTask<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(self.0.as_mut().expect("there until detached")).poll(cx)
    }
}

impl<T> Drop for GuestTask<T> {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

async fn travel<T: Send + 'static>(seat: Seat<T>, slow: Handle) -> T {
    let mut seat = seat;
    loop {
        seat = match (Stay { seat: Some(seat), until: Until::Hot }).await {
            Left::Finished(output) => return output,
            Left::Moves(seat) => seat,
        };
        let task = GuestTask(Some(slow.spawn(Stay { seat: Some(seat), until: Until::Calm })));
        seat = match task.await {
            Ok(Left::Finished(output)) => return output,
            Ok(Left::Moves(seat)) => seat,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // Only when the runtimes go down.
            Err(_) => std::future::pending().await,
        };
    }
}

/// A guest with its accounts.
struct Seat<T> {
    guest: BoxFuture<'static, T>,
    meter: Arc<Meter>,
    engines: Arc<Engines>,
    heat: Duration,
    heated: Instant,
    asleep: Option<Pin<Box<Sleep>>>,
}

impl<T> Seat<T> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<T> {
        let debt = match &mut self.asleep {
            Some(sleep) => {
                std::task::ready!(sleep.as_mut().poll(cx));
                self.asleep = None;
                self.meter.debt()
            }
            None => self.meter.debt(),
        };
        if !debt.is_zero() {
            let mut sleep = Box::pin(tokio::time::sleep(debt));
            let polled = sleep.as_mut().poll(cx);
            self.asleep = Some(sleep);
            if polled.is_ready() {
                cx.waker().wake_by_ref();
            }
            return Poll::Pending;
        }
        let start = Instant::now();
        let cooled = start.saturating_duration_since(self.heated).mul_f64(COOLING);
        let polled = {
            let _ticking = self.engines.ticker.polled();
            self.guest.as_mut().poll(cx)
        };
        self.heated = Instant::now();
        let spent = self.heated - start;
        self.heat = self.heat.saturating_sub(cooled) + spent;
        self.meter.charge(spent);
        polled
    }

    fn calm(&self) -> bool {
        let idle = self.heated.elapsed().mul_f64(COOLING);
        self.heat.saturating_sub(idle) < HOT / 5
    }
}

#[derive(Clone, Copy)]
enum Until {
    Hot,
    Calm,
}

enum Left<T> {
    Finished(T),
    Moves(Seat<T>),
}

/// A guest on one of the runtimes, until it ends or has to move.
struct Stay<T> {
    seat: Option<Seat<T>>,
    until: Until,
}

impl<T> Future for Stay<T> {
    type Output = Left<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Left<T>> {
        let until = self.until;
        let seat = self.seat.as_mut().expect("not polled after it moved");
        // Judged before the poll, by what it did until now: who waited long is calm.
        let moves = match until {
            Until::Hot => seat.heat > HOT && !seat.calm(),
            Until::Calm => seat.calm(),
        };
        if !moves {
            if let Poll::Ready(output) = seat.poll(cx) {
                return Poll::Ready(Left::Finished(output));
            }
            return Poll::Pending;
        }
        Poll::Ready(Left::Moves(self.seat.take().expect("it was there")))
    }
}
