//! Where guests run: a tokio runtime of their own, and a second one on niced threads for those
//! that compute much.
//!
//! ```text
//!          heat > HOT                  heat = 0
//!  fast ──────────────▶ slow    slow ──────────────▶ fast
//! ```
//!
//! Heat is time spent inside `poll`, cooling at a tenth of the time that the guest waits for
//! something: a guest that takes more than a tenth of a core for long moves to where it delays
//! nobody, and comes back when it is calm. Waiting for its turn cools nobody, or a crowd of busy
//! loops would look calm. Every poll ends within a millisecond or two, by the epoch.
//!
//! A cpu limit is a token bucket on the same time: who has none left is not polled until there is.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Sleep;

use super::engine::Engines;

const HOT: Duration = Duration::from_millis(5);

/// No guest gets hotter: what it did long ago does not count for ever.
const HOTTEST: Duration = Duration::from_millis(20);

/// Heat lost in a second of waiting for something, in seconds.
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
        self.run(self.seat(meter, guest))
    }

    /// A guest that is not polled by anyone yet.
    pub fn seat<T>(
        &self,
        meter: Arc<Meter>,
        guest: impl Future<Output = T> + Send + 'static,
    ) -> Seat<T> {
        Seat {
            guest: Box::pin(guest),
            meter,
            engines: self.engines.clone(),
            heat: Duration::ZERO,
            wakes: Arc::new(Wakes::default()),
            asleep: None,
        }
    }

    /// Runs a guest, or what is left of it, on the guests' threads.
    pub fn run<T: Send + 'static>(&self, seat: Seat<T>) -> GuestTask<T> {
        let slow = self.slow.as_ref().expect("there until dropped").handle().clone();
        GuestTask(Some(self.handle().spawn(travel(seat, slow))))
    }

    /// Polls a guest on the caller's thread, as if it were on the guests'.
    pub fn poll_here<T>(&self, seat: &mut Seat<T>, cx: &mut Context<'_>) -> Poll<T> {
        let _timers_and_tasks = self.handle().enter();
        seat.poll(cx)
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

/// Passes wakes on, and notes how long the guest had waited for the first.
#[derive(Default)]
struct Wakes {
    task: AtomicWaker,
    /// When the last poll returned; `None` while polled, and once woken.
    waiting_since: Mutex<Option<Instant>>,
    /// Woken since the last poll began.
    woken: AtomicBool,
    waited_ns: AtomicU64,
}

impl Wakes {
    fn poll_begins(&self, cx: &Context<'_>) -> Duration {
        self.task.register(cx.waker());
        self.woken.store(false, Ordering::SeqCst);
        *self.waiting_since.lock() = None;
        Duration::from_nanos(self.waited_ns.swap(0, Ordering::Relaxed))
    }

    fn poll_ended(&self, at: Instant) {
        let mut since = self.waiting_since.lock();
        // Woken while it was polled, as by every tick of the epoch: it does not wait.
        if !self.woken.load(Ordering::SeqCst) {
            *since = Some(at);
        }
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.woken.swap(true, Ordering::SeqCst)
            && let Some(since) = self.waiting_since.lock().take()
        {
            self.waited_ns.store(since.elapsed().as_nanos() as u64, Ordering::Relaxed);
        }
        self.task.wake();
    }
}

/// A guest with its accounts.
pub struct Seat<T> {
    guest: BoxFuture<'static, T>,
    meter: Arc<Meter>,
    engines: Arc<Engines>,
    heat: Duration,
    wakes: Arc<Wakes>,
    asleep: Option<Pin<Box<Sleep>>>,
}

impl<T> Seat<T> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<T> {
        if let Some(sleep) = &mut self.asleep {
            std::task::ready!(sleep.as_mut().poll(cx));
            self.asleep = None;
        }
        let debt = self.meter.debt();
        if !debt.is_zero() {
            let mut sleep = Box::pin(tokio::time::sleep(debt));
            if sleep.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
            self.asleep = Some(sleep);
            return Poll::Pending;
        }
        let cooled = self.wakes.poll_begins(cx).mul_f64(COOLING);
        let waker = Waker::from(self.wakes.clone());
        let start = Instant::now();
        let polled = {
            let _ticking = self.engines.ticker.polled();
            self.guest.as_mut().poll(&mut Context::from_waker(&waker))
        };
        let end = Instant::now();
        self.wakes.poll_ended(end);
        self.heat = (self.heat.saturating_sub(cooled) + (end - start)).min(HOTTEST);
        self.meter.charge(end - start);
        polled
    }

    /// Time in `poll` that has not cooled off.
    pub fn heat(&self) -> Duration {
        self.heat
    }

    fn calm(&self) -> bool {
        let waited = Duration::from_nanos(self.wakes.waited_ns.load(Ordering::Relaxed));
        self.heat.saturating_sub(waited.mul_f64(COOLING)) < HOT / 5
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::RuntimeConfig;

    fn executor() -> Executor {
        let mut config = RuntimeConfig::new("unused");
        config.instances_max = Some(16);
        let engines = Arc::new(Engines::new(&config).expect("engines"));
        Executor::new(engines, Some(1)).expect("threads")
    }

    fn thread() -> String {
        std::thread::current().name().unwrap_or_default().to_string()
    }

    fn compute(time: Duration) {
        let start = Instant::now();
        while start.elapsed() < time {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn who_computes_much_moves_away_and_who_waited_long_comes_back() {
        let executor = executor();
        let visited = executor.spawn(Meter::new(None), async {
            let mut visited = vec![thread()];
            for _ in 0..8 {
                compute(Duration::from_millis(2));
                tokio::task::yield_now().await;
            }
            visited.push(thread());
            tokio::time::sleep(Duration::from_millis(400)).await;
            visited.push(thread());
            visited
        });
        let visited = executor.handle().block_on(visited).expect("it ended");
        assert_eq!(visited, ["wasm", "wasm-slow", "wasm"]);
    }

    #[test]
    fn a_crowd_of_busy_loops_never_looks_calm() {
        let executor = executor();
        let crowd: Vec<_> = (0..8)
            .map(|_| {
                executor.spawn(Meter::new(None), async {
                    let mut fast = 0;
                    for _ in 0..60 {
                        compute(Duration::from_millis(1));
                        tokio::task::yield_now().await;
                        fast += u32::from(thread() == "wasm");
                    }
                    fast
                })
            })
            .collect();
        for task in crowd {
            let fast = executor.handle().block_on(task).expect("it ended");
            // Those before it was found out, and a few more where the machine itself made it wait.
            assert!(fast < 30, "{fast} of 60 turns were taken on the fast threads");
        }
    }

    #[test]
    fn an_empty_bucket_is_a_debt_in_time() {
        let meter = Meter::new(Some(100));
        assert_eq!(meter.debt(), Duration::ZERO);
        meter.charge(Duration::from_millis(20));
        let debt = meter.debt();
        assert!(debt > Duration::from_millis(50), "{debt:?} for 10 ms at a tenth of a core");
        assert_eq!(meter.used(), Duration::from_millis(20));
        let free = Meter::new(None);
        free.charge(Duration::from_secs(9));
        assert_eq!(free.debt(), Duration::ZERO);
    }
}
