//! API priority and fairness (KEP-1040): FlowSchemas sort requests into priority levels, each of
//! which runs so many at once; what is more waits in queues, a few of them a flow, so that one
//! flow that floods leaves the others theirs.
//!
//! ```text
//! request ─ classify ─▶ exempt ─────────────────────────────▶ runs
//!                   └─▶ level ─ a seat is free ─────────────▶ runs ─ done ─▶ next of the queues
//!                          └─ queue (shuffle-sharded) ─▶ waits ┘   └─ full, too long: 429
//! ```
//!
//! Unlike Kubernetes, levels do not borrow each other's seats.

mod classify;
mod level;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Response};
use parking_lot::Mutex;
use serde_json::json;

use classify::Schemas;
pub use level::Seat;
use level::{Level, Refused};

use super::auth::{Attributes, UserInfo};
use super::registry::{Derived, Registry};
use crate::api::Object;
use crate::api::meta;
use crate::api::status::{ApiError, Reason};

const GROUP: &str = "flowcontrol.apiserver.k8s.io";

/// How many requests run at once, over all levels that are not exempt.
#[derive(Debug, Clone)]
pub struct FairnessConfig {
    pub seats: usize,
    /// How long a request may wait for a seat.
    pub wait_max: Duration,
}

impl Default for FairnessConfig {
    fn default() -> Self {
        Self { seats: 600, wait_max: Duration::from_secs(15) }
    }
}

/// Schemas and levels as they are now.
struct Current {
    schemas: Schemas,
    levels: HashMap<String, (String, Option<Arc<Level>>)>,
}

/// Lets requests in.
pub struct Fairness {
    config: FairnessConfig,
    objects: Derived<Objects>,
    current: Mutex<Option<(Arc<Objects>, Arc<Current>)>>,
}

struct Objects {
    schemas: Vec<Object>,
    levels: Vec<Object>,
}

/// What lets a request run, and by what it was let in.
#[derive(Default)]
pub struct Admitted {
    /// Given back when it is dropped.
    pub seat: Option<Seat>,
    schema_uid: String,
    level_uid: String,
}

impl Admitted {
    /// The answer, telling the client by what its request was let in.
    pub fn told<B>(&self, mut response: Response<B>) -> Response<B> {
        for (name, uid) in [
            ("x-kubernetes-pf-flowschema-uid", &self.schema_uid),
            ("x-kubernetes-pf-prioritylevel-uid", &self.level_uid),
        ] {
            if let (false, Ok(value)) = (uid.is_empty(), HeaderValue::from_str(uid)) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }
}

impl Fairness {
    /// Follows the schemas and levels in `registry`.
    pub fn new(registry: &Arc<Registry>, config: FairnessConfig) -> Self {
        let resources = [(GROUP, "flowschemas"), (GROUP, "prioritylevelconfigurations")];
        let objects = Derived::new(registry, &resources, |mut all| {
            let levels = all.pop().unwrap_or_default();
            Objects { schemas: all.pop().unwrap_or_default(), levels }
        });
        Self { config, objects, current: Mutex::new(None) }
    }

    /// Waits until the request may run.
    ///
    /// # Errors
    /// 429 when there is no room for it.
    pub async fn enter(
        &self,
        user: &UserInfo,
        attributes: &Attributes,
        long_running: bool,
    ) -> Result<Admitted, ApiError> {
        let current = self.current().await?;
        let Some(found) = current.schemas.classify(user, attributes) else {
            // Without any schema (before the first start is over) everything runs.
            return Ok(Admitted::default());
        };
        let Some((level_uid, level)) = current.levels.get(found.level) else {
            return Ok(Admitted::default());
        };
        let mut admitted = Admitted {
            seat: None,
            schema_uid: found.schema_uid.to_owned(),
            level_uid: level_uid.clone(),
        };
        let Some(level) = level.as_ref().filter(|_| !long_running) else { return Ok(admitted) };
        let flow = format!("{}\n{}", found.schema, found.distinguisher);
        match level.enter(&flow, self.config.wait_max).await {
            Ok(seat) => {
                admitted.seat = Some(seat);
                Ok(admitted)
            }
            Err(refused) => Err(too_many(&refused)),
        }
    }

    async fn current(&self) -> Result<Arc<Current>, ApiError> {
        let objects = self.objects.get().await?;
        let mut slot = self.current.lock();
        if let Some((made_of, current)) = &*slot
            && Arc::ptr_eq(made_of, &objects)
        {
            return Ok(current.clone());
        }
        let before = slot.as_ref().map(|(_, current)| current.clone());
        let current = Arc::new(self.made(&objects, before.as_deref()));
        *slot = Some((objects, current.clone()));
        Ok(current)
    }

    /// Levels that there were keep who runs and who waits in them.
    fn made(&self, objects: &Objects, before: Option<&Current>) -> Current {
        let shares = |level: &Object| {
            let limited = &level["spec"]["limited"];
            limited["nominalConcurrencyShares"].as_f64().unwrap_or(0.0)
        };
        let total: f64 = objects.levels.iter().map(shares).sum();
        let levels = objects.levels.iter().map(|object| {
            let name = meta::name(object).to_owned();
            let uid = meta::uid(object).to_owned();
            if object["spec"]["type"] == "Exempt" {
                return (name, (uid, None));
            }
            let share = if total > 0.0 { shares(object) / total } else { 0.0 };
            let seats = (self.config.seats as f64 * share).ceil() as usize;
            let known = before.and_then(|b| b.levels.get(&name)).and_then(|(_, l)| l.clone());
            let level = known.unwrap_or_else(|| Arc::new(Level::default()));
            level.configure(seats, &object["spec"]["limited"]["limitResponse"]);
            (name, (uid, Some(level)))
        });
        Current { levels: levels.collect(), schemas: Schemas::of(&objects.schemas) }
    }
}

fn too_many(refused: &Refused) -> ApiError {
    tracing::debug!(%refused, "a request was not let in");
    ApiError::new(Reason::TooManyRequests, "Too many requests, please try again later.")
        .with_details(json!({"retryAfterSeconds": 1}))
}
