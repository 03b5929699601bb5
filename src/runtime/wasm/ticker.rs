//! The clock that makes guests yield: a thread that advances the engines' epoch every
//! millisecond while a guest is being polled, and sleeps while none is.
//!
//! ```text
//! ticking ── no guest polled for IDLE_TICKS ──▶ parked
//!    ▲                                            │
//!    └───────────── a guest is polled ────────────┘
//! ```
//!
//! **Invariant:** while the count of guests in `poll` is above zero the thread is not parked, or
//! about to be unparked by the guest that raised it: the guest raises the count and then looks
//! at `parked`, the thread sets `parked` and then looks at the count.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

use wasmtime::{Engine, EngineWeak};

const TICK: Duration = Duration::from_millis(1);

/// Ticks without a guest before the thread sleeps; waking it costs a system call.
const IDLE_TICKS: u32 = 20;

struct State {
    polled: AtomicUsize,
    parked: AtomicBool,
    stop: AtomicBool,
}

/// The clock of the engines.
pub struct Ticker {
    state: Arc<State>,
    thread: Thread,
}

/// A guest is being polled until this is dropped.
pub struct Polled<'a>(&'a State);

impl Ticker {
    /// Starts the thread, which ends with the `Ticker`.
    pub fn start(engines: &[Engine]) -> io::Result<Self> {
        let state = Arc::new(State {
            polled: AtomicUsize::new(0),
            parked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let engines: Vec<EngineWeak> = engines.iter().map(Engine::weak).collect();
        let shared = state.clone();
        let handle = thread::Builder::new()
            .name("wasm-epoch".to_string())
            .spawn(move || tick(&shared, &engines))?;
        Ok(Self { state, thread: handle.thread().clone() })
    }

    /// Marks that a guest is polled, so that the clock runs.
    pub fn polled(&self) -> Polled<'_> {
        self.state.polled.fetch_add(1, Ordering::SeqCst);
        if self.state.parked.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
        Polled(&self.state)
    }
}

impl Drop for Polled<'_> {
    fn drop(&mut self) {
        self.0.polled.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}

fn tick(state: &State, engines: &[EngineWeak]) {
    let mut idle = 0;
    while !state.stop.load(Ordering::SeqCst) {
        if idle < IDLE_TICKS {
            thread::sleep(TICK);
        } else {
            state.parked.store(true, Ordering::SeqCst);
            while state.polled.load(Ordering::SeqCst) == 0 && !state.stop.load(Ordering::SeqCst) {
                thread::park();
            }
            state.parked.store(false, Ordering::SeqCst);
            idle = 0;
            continue;
        }
        idle = if state.polled.load(Ordering::SeqCst) == 0 { idle + 1 } else { 0 };
        for engine in engines {
            match engine.upgrade() {
                Some(engine) => engine.increment_epoch(),
                None => return,
            }
        }
    }
}
