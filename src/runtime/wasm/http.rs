//! `wasi:http` handlers: an instance a request, none while idle.
//!
//! ```text
//! request ─▶ room in the queue? ─no─▶ 503 Retry-After
//!                 │yes
//!                 ▼
//!            a slot of the workload, then one of the node, within the deadline ─no─▶ 503
//!                 │yes
//!                 ▼
//!            fresh instance ─▶ head of the answer ─▶ body as it is written
//!                 │ trap                     │ growth past the limit
//!                 ▼                          ▼
//!            500, log, event            the workload ends, OOMKilled
//! ```
//!
//! The guest is polled by its caller as long as it is quick ([`super::inline`]), else on the guests'
//! threads. A request that its caller gives up before the head is dropped with its instance.
//!
//! **Invariant:** an instance holds one slot of its workload and one of the node until its store is
//! gone.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use http::header::{CONTENT_TYPE, HOST, RETRY_AFTER};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use wasmtime::Result;
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

use super::artifacts::Code;
use super::inline::{Inline, Trust};
use super::linker::Linked;
use super::outcome::Outcome;
use super::outgoing::CALL_DEPTH;
use super::running::Running;
use crate::net::{Body, BoxError, HttpService};
use crate::runtime::spec::WorkloadEvent;

/// Handlers that call each other, one waiting for the next, each holding an instance.
const CALL_DEPTH_MAX: u32 = 16;

type Answer = std::result::Result<Response<HyperOutgoingBody>, ErrorCode>;

/// Answers the requests of one workload.
pub struct Handler {
    running: Arc<Running>,
    instances: Arc<Semaphore>,
    waiting: AtomicU32,
    waiting_max: u32,
    deadline: Duration,
    trust: Arc<Trust>,
}

/// Room for one instance, in its workload and on the node.
pub struct Slot {
    _workload: OwnedSemaphorePermit,
    _node: OwnedSemaphorePermit,
}

impl Handler {
    pub fn new(running: Arc<Running>) -> Arc<Self> {
        let config = &running.runtime.config;
        Arc::new(Self {
            instances: Arc::new(Semaphore::new(config.instances_per_workload_max as usize)),
            waiting: AtomicU32::new(0),
            waiting_max: config.queue_max,
            deadline: config.queue_timeout,
            trust: Arc::new(Trust::new()),
            running,
        })
    }

    async fn serve(
        self: Arc<Self>,
        mut request: Request<Body>,
        peer: SocketAddr,
    ) -> Response<Body> {
        let depth = match request.headers_mut().remove(CALL_DEPTH) {
            Some(depth) => depth.to_str().ok().and_then(|d| d.parse().ok()).unwrap_or(u32::MAX),
            None => 0,
        };
        if depth >= CALL_DEPTH_MAX {
            let text = format!("more than {CALL_DEPTH_MAX} handlers wait for each other\n");
            return plain(StatusCode::LOOP_DETECTED, text);
        }
        let running = self.running.clone();
        if running.has_ended() {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "the container has ended\n".to_string());
        }
        let Some(slot) = self.slot().await else { return overloaded() };
        let code = match running.runtime.code_of(&running.spec).await {
            Ok(code) => code,
            Err(error) => return self.broken(&format!("cannot be loaded: {error}")),
        };
        running.requests.fetch_add(1, Ordering::Relaxed);
        let (head, mut answered) = oneshot::channel();
        let stop = running.stop.clone();
        let guest = self.clone().guest(code, request, peer, depth + 1, slot, head);
        let guest = running.tasks.track_future(async move {
            tokio::select! {
                // First, so that after the workload's end not one more step is taken.
                biased;
                () = stop.cancelled() => {}
                () = guest => {}
            }
        });
        let seat = running.runtime.executor.seat(running.meter.clone(), guest);
        let mut guest = Inline::new(running.runtime.clone(), self.trust.clone(), seat);
        let answer = std::future::poll_fn(|cx| {
            guest.poll(cx);
            Pin::new(&mut answered).poll(cx)
        });
        match answer.await {
            Ok(Ok(response)) => {
                response.map(|body| guest.answered(body).map_err(BoxError::from).boxed_unsync())
            }
            Ok(Err(code)) => {
                plain(StatusCode::BAD_GATEWAY, format!("the handler failed: {code}\n"))
            }
            Err(_) => plain(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the handler ended without an answer\n".to_string(),
            ),
        }
    }

    /// Waits for room; `None` when too many wait, or too long.
    async fn slot(&self) -> Option<Slot> {
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _seat = Waiting(&self.waiting);
        if waiting >= self.waiting_max {
            return None;
        }
        let node = &self.running.runtime.slots;
        let both = async {
            let workload = self.instances.clone().acquire_owned().await.ok()?;
            let node = node.clone().acquire_owned().await.ok()?;
            Some(Slot { _workload: workload, _node: node })
        };
        tokio::time::timeout(self.deadline, both).await.ok().flatten()
    }

    async fn guest(
        self: Arc<Self>,
        code: Arc<Code>,
        request: Request<Body>,
        peer: SocketAddr,
        depth: u32,
        slot: Slot,
        head: oneshot::Sender<Answer>,
    ) {
        let ended = self.call(&code, request, peer, depth, head).await;
        drop(slot);
        let Err(error) = ended else { return };
        let outcome = Outcome::of_error(&error);
        if outcome.oom() {
            self.running.finish(outcome);
        } else if !outcome.message.is_empty() {
            self.running.log(&outcome.message);
            self.running.tell(WorkloadEvent::RequestTrapped { message: outcome.message });
        }
    }

    async fn call(
        &self,
        code: &Code,
        mut request: Request<Body>,
        peer: SocketAddr,
        depth: u32,
        head: oneshot::Sender<Answer>,
    ) -> Result<()> {
        let Linked::Http(pre) = &code.linked else {
            return Err(wasmtime::format_err!("not an http handler"));
        };
        if !request.headers().contains_key(HOST) && request.uri().authority().is_none() {
            // HTTP/1.0 needs none; a guest may ask for it all the same.
            let host = HeaderValue::from_str(&peer.ip().to_string())?;
            request.headers_mut().insert(HOST, host);
        }
        let mut store = self.running.context.store(&code.engine, code.uses_files, depth)?;
        let request = request.map(|body| {
            let broken =
                |error: BoxError| wasmtime_wasi_http::Error::InternalError(Some(error.to_string()));
            body.map_err(broken)
        });
        let request = store.data_mut().http().new_incoming_request(Scheme::Http, request)?;
        let out = store.data_mut().http().new_response_outparam(head)?;
        let proxy = pre.instantiate_async(&mut store).await?;
        proxy.wasi_http_incoming_handler().call_handle(&mut store, request, out).await
    }

    fn broken(&self, problem: &str) -> Response<Body> {
        self.running.log(problem);
        plain(StatusCode::INTERNAL_SERVER_ERROR, "the handler cannot be run\n".to_string())
    }
}

/// The handler as the network knows it.
pub struct Service(pub Arc<Handler>);

impl HttpService for Service {
    fn call(&self, request: Request<Body>, peer: SocketAddr) -> BoxFuture<'static, Response<Body>> {
        Box::pin(self.0.clone().serve(request, peer))
    }
}

struct Waiting<'a>(&'a AtomicU32);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn plain(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(crate::net::full(text));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

fn overloaded() -> Response<Body> {
    let text = "all instances are busy\n".to_string();
    let mut response = plain(StatusCode::SERVICE_UNAVAILABLE, text);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// Makes an instance and drops it, so that a start that traps shows before the first request.
pub async fn try_out(code: &Code, running: &Running) -> Result<()> {
    let Linked::Http(pre) = &code.linked else {
        return Err(wasmtime::format_err!("not an http handler"));
    };
    let mut store = running.context.store(&code.engine, code.uses_files, 0)?;
    pre.instantiate_async(&mut store).await.map(drop)
}
