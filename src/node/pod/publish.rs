//! The pod's status on its way to the API: one write at a time, only what changed, the newest
//! wins, again later where the server cannot be reached; and the deletion of the Pod once its
//! last status has arrived.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};

use super::state::Event;
use super::status;
use super::worker::{Answer, Worker};
use crate::client::rest;

const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// See the module.
pub struct Publisher {
    wanted: Option<Arc<PodStatus>>,
    /// Mostly the same allocation as `wanted`.
    written: Option<Arc<PodStatus>>,
    busy: bool,
    failures: u32,
    retry_at: Option<Duration>,
    /// The Pod is to be deleted after its status.
    remove: bool,
}

impl Publisher {
    /// `known` is the status that the API shows.
    pub fn new(known: Option<PodStatus>) -> Self {
        Self {
            wanted: known.map(Arc::new),
            written: None,
            busy: false,
            failures: 0,
            retry_at: None,
            remove: false,
        }
    }

    pub fn wanted(&self) -> Option<&PodStatus> {
        self.wanted.as_deref()
    }

    pub fn written(&self) -> Option<&PodStatus> {
        self.written.as_deref()
    }

    pub fn retry_at(&self) -> Option<Duration> {
        self.retry_at.filter(|_| !self.busy)
    }

    pub fn want(&mut self, status: Arc<PodStatus>) {
        self.wanted = Some(status);
    }

    /// Writes the whole status though nothing changed here.
    pub fn write_again(&mut self) {
        self.written = None;
    }

    pub fn remove(&mut self) {
        self.remove = true;
    }

    /// Does what is next, if anything.
    pub fn drive(worker: &mut Worker) {
        let now = worker.now().mono;
        let publisher = &mut worker.publisher;
        let waits = publisher.retry_at.is_some_and(|at| at > now);
        if publisher.busy || waits || worker.state.is_gone() {
            return;
        }
        if publisher.wanted.is_some() && publisher.wanted != publisher.written {
            publisher.busy = true;
            publisher.retry_at = None;
            write(worker);
        } else if publisher.remove {
            publisher.busy = true;
            publisher.retry_at = None;
            delete(worker);
        }
    }

    fn failed(&mut self, now: Duration) {
        let delay = RETRY.0.saturating_mul(1u32 << self.failures.min(10)).min(RETRY.1);
        self.failures += 1;
        self.retry_at = Some(now + delay);
    }
}

fn write(worker: &Worker) {
    let Some(wanted) = worker.publisher.wanted.clone() else { return };
    let plan = &worker.plan;
    let written = worker.publisher.written.clone();
    let uid = plan.uid.clone();
    let path = format!("{}/status", rest::object::<Pod>(&plan.namespace, &plan.name));
    let node = Arc::clone(&worker.node);
    worker.aside(async move {
        let permit = node.writes.acquire().await;
        // Thousands may wait for their turn at once: what a write needs is made when it comes.
        let body = status::patch(&uid, written.as_deref(), &wanted);
        let request = rest::patch(&node.client, &path, rest::Patch::Strategic, &body);
        let result: Result<rest::Ignored, _> = Box::pin(request).await;
        drop(permit);
        let answer: Answer = Box::new(move |worker| {
            let now = worker.now().mono;
            let publisher = &mut worker.publisher;
            publisher.busy = false;
            match result {
                Ok(_) => {
                    publisher.failures = 0;
                    publisher.written = Some(wanted);
                }
                // The Pod is gone, or its name is another's now: the watch will tell.
                Err(error) if rest::is_not_found(&error) || rest::is_conflict(&error) => {
                    publisher.written = Some(wanted);
                }
                Err(error) => {
                    tracing::debug!(%error, "a pod's status could not be written");
                    publisher.failed(now);
                }
            }
            None
        });
        answer
    });
}

fn delete(worker: &Worker) {
    let plan = &worker.plan;
    let path = rest::object::<Pod>(&plan.namespace, &plan.name);
    let options =
        rest::Delete { grace_period_seconds: Some(0), ..rest::Delete::uid(plan.uid.clone()) };
    let node = Arc::clone(&worker.node);
    worker.aside(async move {
        let result = rest::delete(&node.client, &path, &options).await;
        let answer: Answer = Box::new(move |worker| {
            let now = worker.now().mono;
            worker.publisher.busy = false;
            match result {
                Ok(()) => {
                    worker.publisher.remove = false;
                    Some(Event::Vanished)
                }
                Err(error) if rest::is_not_found(&error) || rest::is_conflict(&error) => {
                    worker.publisher.remove = false;
                    Some(Event::Vanished)
                }
                Err(error) => {
                    tracing::debug!(%error, "a pod could not be deleted");
                    worker.publisher.failed(now);
                    None
                }
            }
        });
        answer
    });
}
