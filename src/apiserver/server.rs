//! The API server: the registry with what stands around it, as a router.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response};

use super::admission::Plugin;
use super::aggregate::Aggregator;
use super::answers::Answer;
use super::audit::Audit;
use super::auth::{Authenticator, Authorizer};
use super::beside::Beside;
use super::fairness::{Fairness, FairnessConfig};
use super::metrics::Metrics;
use super::nodes::NodeDialer;
use super::registry::Registry;
use super::routes;

/// Bounds on what clients may use.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The largest body that is read, in bytes.
    pub body_bytes_max: usize,
    /// How long a request may take that is no watch and no stream.
    pub request_timeout: Duration,
    /// How many watches may be open.
    pub watchers_max: usize,
    /// A watch that names no timeout ends after this and up to twice as long.
    pub watch_timeout_min: Duration,
    /// How many requests run at once.
    pub fairness: FairnessConfig,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes_max: 3 * 1024 * 1024,
            request_timeout: Duration::from_secs(60),
            watchers_max: 50_000,
            watch_timeout_min: Duration::from_secs(1800),
            fairness: FairnessConfig::default(),
        }
    }
}

/// What a server is made of.
pub struct ApiServerConfig {
    pub registry: Arc<Registry>,
    pub authenticator: Arc<dyn Authenticator>,
    pub authorizer: Arc<dyn Authorizer>,
    /// In the order in which they are asked.
    pub admission: Vec<Arc<dyn Plugin>>,
    /// Who answers what is not stored, by `GROUP/PLURAL` and `GROUP/PLURAL/SUBRESOURCE`.
    pub answers: HashMap<String, Arc<dyn Answer>>,
    pub nodes: Arc<dyn NodeDialer>,
    /// What is served beside the API, by the path that it lies below (`/v2`).
    pub beside: Vec<(&'static str, Arc<dyn Beside>)>,
    /// Has other servers answer for their groups; `None`: there are none.
    pub aggregator: Option<Arc<Aggregator>>,
    /// Where requests are written down; `None`: nowhere.
    pub audit: Option<Arc<Audit>>,
    pub limits: Limits,
}

/// The server.
pub struct ApiServer {
    pub(super) config: ApiServerConfig,
    pub(super) metrics: Metrics,
    pub(super) fairness: Fairness,
    ready: AtomicBool,
    stopping: AtomicBool,
}

impl ApiServer {
    /// A server that answers requests, but is not ready until told so ([`Self::set_ready`]).
    pub fn new(config: ApiServerConfig) -> Arc<Self> {
        let fairness = Fairness::new(&config.registry, config.limits.fairness.clone());
        Arc::new(Self {
            config,
            fairness,
            metrics: Metrics::default(),
            ready: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        })
    }

    /// The registry below.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.config.registry
    }

    /// What the first start creates is there: `/readyz` answers 200 from now on.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// `/readyz` fails from now on, so that clients go elsewhere.
    pub fn set_stopping(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    pub(super) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// The API as a router. A request tells who it comes from by an extension: `UserInfo` from
    /// callers in this process, which is trusted, or `Credentials` from the listener.
    pub fn router(self: &Arc<Self>) -> axum::Router {
        let server = self.clone();
        axum::Router::new().fallback_service(tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<Response<Body>, Infallible>(routes::serve(server, request).await) }
        }))
    }
}
