//! Whether an API service answers, told in its status.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{HeaderMap, Method};
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};

use super::{API_SERVICES, Aggregator, Delegate};
use crate::api::meta;
use crate::api::status::Reason;
use crate::apiserver::auth::UserInfo;
use crate::apiserver::strategy::Part;
use crate::base::clock::rfc3339_seconds;
use crate::base::shutdown::Shutdown;

/// How often services are asked.
const EVERY: Duration = Duration::from_secs(5);
/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(5);
const BODY_MAX: usize = 4 * 1024 * 1024;

/// Asks every API service again and again, until `shutdown`.
pub async fn follow(aggregator: Arc<Aggregator>, shutdown: Shutdown) {
    loop {
        if let Err(error) = aggregator.look().await {
            tracing::warn!(%error, "the API services could not be looked at");
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// What was found of one: a list of its resources, or why there is none.
type Found = Result<Value, (&'static str, String)>;

impl Aggregator {
    async fn look(&self) -> Result<(), crate::api::status::ApiError> {
        let all = self.delegates.get().await?;
        for delegate in all.iter() {
            let found = self.probe(delegate).await;
            match &found {
                Ok(list) => {
                    self.found.write().insert(delegate.name.clone(), list.clone());
                }
                Err(_) => {
                    self.found.write().remove(&delegate.name);
                }
            }
            self.tell(delegate, &found).await?;
        }
        self.found.write().retain(|name, _| all.iter().any(|d| d.name == *name));
        Ok(())
    }

    async fn probe(&self, delegate: &Delegate) -> Found {
        let (namespace, name) = (&delegate.namespace, &delegate.service);
        let service = self.registry.get(("", "services"), namespace, name).await;
        let Ok(Some(_)) = service else {
            let why = format!("service/{name} in {namespace:?} is not present");
            return Err(("ServiceNotFound", why));
        };
        let path = format!("/apis/{}/{}", delegate.group, delegate.version);
        let failed = |why: String| {
            let why = format!("failing or missing response from {path}: {why}");
            ("FailedDiscoveryCheck", why)
        };
        let user = UserInfo {
            name: "system:kube-aggregator".into(),
            groups: vec!["system:masters".into()],
            ..UserInfo::default()
        };
        let uri = path.parse().map_err(|_| failed("no such path".into()))?;
        let headers = HeaderMap::new();
        let asked = self.ask(delegate, &user, (Method::GET, &uri, &headers), Body::empty());
        let answered = tokio::time::timeout(ANSWER_MAX, asked).await;
        let response = answered.map_err(|_| failed("context deadline exceeded".into()))?;
        let response = response.map_err(|error| failed(error.message))?;
        if !response.status().is_success() {
            return Err(failed(format!("bad status: {}", response.status())));
        }
        let body = Limited::new(response.into_body(), BODY_MAX).collect();
        let body = tokio::time::timeout(ANSWER_MAX, body).await;
        let body = body.map_err(|_| failed("context deadline exceeded".into()))?;
        let body = body.map_err(|error| failed(error.to_string()))?.to_bytes();
        serde_json::from_slice(&body).map_err(|error| failed(error.to_string()))
    }

    async fn tell(
        &self,
        delegate: &Delegate,
        found: &Found,
    ) -> Result<(), crate::api::status::ApiError> {
        let Some(mut object) = self.registry.get(API_SERVICES, "", &delegate.name).await? else {
            return Ok(());
        };
        let (status, reason, message) = match found {
            Ok(_) => ("True", "Passed", "all checks passed".to_owned()),
            Err((reason, message)) => ("False", *reason, message.clone()),
        };
        let before = meta::condition(&object, "Available").cloned().unwrap_or_default();
        if before["status"] == status && before["reason"] == reason && before["message"] == message
        {
            return Ok(());
        }
        let since = match before["status"] == status {
            true => before["lastTransitionTime"].clone(),
            false => rfc3339_seconds(self.registry.clock().now()).into(),
        };
        object["status"] = json!({"conditions": [{
            "type": "Available", "status": status, "reason": reason, "message": message,
            "lastTransitionTime": since,
        }]});
        match self.registry.update(API_SERVICES, Part::Status, object).await {
            Err(error) if matches!(error.reason, Reason::Conflict | Reason::NotFound) => Ok(()),
            answer => answer.map(|_| ()),
        }
    }
}
