//! A running workload.
//!
//! ```text
//!            terminate                       grace over, kill
//!  running ───────────▶ ending ─────────────────────────────────▶ ended 137
//!     │                   │ by itself, or nothing to wait for
//!     │ by itself         ▼
//!     └──────────────▶ ended 0–255 · 134 trap · 137 OOMKilled · 143
//! ```
//!
//! **Invariant:** the first end counts, and when it is told nothing of the workload is polled any
//! more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::executor::Meter;
use super::outcome::{KILLED, Outcome, TERMINATED};
use super::state::Context;
use super::{ArtifactKind, Runtime};
use crate::net::HttpListener;
use crate::runtime::spec::{Exit, ExitReason, Stats, Stdio, WorkloadEvent, WorkloadSpec};

/// Events kept for a slow reader.
const EVENTS_KEPT: usize = 16;

/// How long the end of a workload waits until all of its instances are gone.
const CLEANUP_MAX: Duration = Duration::from_secs(2);

/// A running workload.
pub struct Running {
    pub runtime: Arc<Runtime>,
    pub spec: WorkloadSpec,
    pub kind: ArtifactKind,
    pub context: Context,
    pub meter: Arc<Meter>,
    pub requests: AtomicU64,
    /// Cancelled when nothing of it may run any more.
    pub stop: CancellationToken,
    /// Everything of it that runs.
    pub tasks: TaskTracker,
    pub listeners: Mutex<Vec<HttpListener>>,
    terminating: CancellationToken,
    started_at: Timestamp,
    exit: watch::Sender<Option<Exit>>,
    events: broadcast::Sender<WorkloadEvent>,
}

impl Running {
    pub fn new(
        runtime: Arc<Runtime>,
        spec: WorkloadSpec,
        kind: ArtifactKind,
        context: Context,
    ) -> Arc<Self> {
        let meter = Meter::new(spec.limits.cpu_millis_max);
        Arc::new(Self {
            runtime,
            spec,
            kind,
            context,
            meter,
            requests: AtomicU64::new(0),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            listeners: Mutex::default(),
            terminating: CancellationToken::new(),
            started_at: Timestamp::now(),
            exit: watch::Sender::new(None),
            events: broadcast::Sender::new(EVENTS_KEPT),
        })
    }

    pub fn exit(&self) -> watch::Receiver<Option<Exit>> {
        self.exit.subscribe()
    }

    pub fn has_ended(&self) -> bool {
        self.stop.is_cancelled()
    }

    pub fn events(&self) -> broadcast::Receiver<WorkloadEvent> {
        self.events.subscribe()
    }

    pub fn stats(&self) -> Stats {
        Stats {
            cpu: self.meter.used(),
            memory_bytes: self.context.memory.used(),
            requests: self.requests.load(Ordering::Relaxed),
        }
    }

    /// A line of the runtime's own in the workload's log.
    pub fn log(&self, line: &str) {
        self.context.outputs.write(Stdio::Stderr, format!("{line}\n").as_bytes());
    }

    pub fn tell(&self, event: WorkloadEvent) {
        // Nobody may be listening.
        let _ = self.events.send(event);
    }

    /// Ends it, once: all that runs is dropped, and then the end is told.
    pub fn finish(self: &Arc<Self>, outcome: Outcome) {
        if self.stop.is_cancelled() {
            return;
        }
        self.stop.cancel();
        self.listeners.lock().clear();
        self.context.stdin.end();
        self.tasks.close();
        let this = self.clone();
        let exit = Exit {
            code: outcome.code,
            reason: outcome.reason,
            message: outcome.message,
            started_at: self.started_at,
            finished_at: Timestamp::now(),
        };
        self.runtime.executor.handle().spawn(async move {
            // An instance whose answer nobody reads goes only when its connection does.
            let _ = tokio::time::timeout(CLEANUP_MAX, this.tasks.wait()).await;
            this.context.outputs.finish();
            this.exit.send_if_modified(|now| {
                let first = now.is_none();
                if first {
                    *now = Some(exit);
                }
                first
            });
        });
    }

    /// See [`crate::runtime::Workload::kill`].
    pub fn kill(self: &Arc<Self>) {
        self.finish(Outcome { code: KILLED, reason: ExitReason::Error, message: String::new() });
    }

    /// See [`crate::runtime::Workload::terminate`].
    pub fn terminate(self: &Arc<Self>, grace: Duration) {
        let first = !self.terminating.is_cancelled();
        self.terminating.cancel();
        let listens = first && self.close_listeners();
        self.context.stdin.end();
        match self.kind {
            ArtifactKind::HttpHandler if first => self.drain(),
            ArtifactKind::HttpHandler => {}
            _ if first && !listens && !self.context.stdin.is_used() => {
                // There is nothing by which it could learn that it should end.
                let message = String::new();
                self.finish(Outcome { code: TERMINATED, reason: ExitReason::Error, message });
                return;
            }
            _ => {}
        }
        let this = self.clone();
        self.runtime.executor.handle().spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(grace) => this.kill(),
                () = this.stop.cancelled() => {}
            }
        });
    }

    /// Closes what it listens on; answers whether there was anything.
    fn close_listeners(&self) -> bool {
        if self.kind == ArtifactKind::HttpHandler {
            let listeners = std::mem::take(&mut *self.listeners.lock());
            return !listeners.is_empty();
        }
        let Some(sockets) = self.context.sockets.lock().clone() else { return false };
        let listens = sockets.has_listeners();
        sockets.stop_listening();
        listens
    }

    /// Ends an http handler as soon as no request is in flight.
    fn drain(self: &Arc<Self>) {
        self.tasks.close();
        let this = self.clone();
        self.runtime.executor.handle().spawn(async move {
            tokio::select! {
                () = this.tasks.wait() => this.finish(Outcome::of_code(0)),
                () = this.stop.cancelled() => {}
            }
        });
    }
}
