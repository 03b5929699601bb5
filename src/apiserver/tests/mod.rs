//! The API over the wire: requests through the router, answers as clients see them.

mod apply;
mod custom;
mod validation;

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::auth::{Attributes, Authenticator, Authorizer, Credentials, Decision, UserInfo};
use super::nodes::{DialError, NodeDialer};
use super::{ApiServer, ApiServerConfig, Limits, Registry, RegistryConfig, strategy};
use crate::api::kinds::KindTable;
use crate::api::status::ApiError;
use crate::base::clock::SystemClock;
use crate::base::rng::Rng;
use crate::store::memory::MemoryStore;

struct Anyone;

#[async_trait]
impl Authenticator for Anyone {
    async fn authenticate(&self, _: &Credentials) -> Result<Option<UserInfo>, ApiError> {
        Ok(Some(UserInfo { name: "admin".into(), ..UserInfo::default() }))
    }
}

#[async_trait]
impl Authorizer for Anyone {
    async fn authorize(&self, _: &UserInfo, _: &Attributes) -> Decision {
        Decision::Allow
    }
}

struct NoNodes;

#[async_trait]
impl NodeDialer for NoNodes {
    async fn request(
        &self,
        node: &str,
        _: Request<crate::link::Body>,
    ) -> Result<http::Response<crate::link::Body>, DialError> {
        panic!("nobody dials {node} here")
    }
}

/// A server, asked without a socket.
pub(super) struct Api {
    router: axum::Router,
    pub registry: Arc<Registry>,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub code: u16,
    pub body: Value,
    pub warnings: Vec<String>,
}

impl Answer {
    /// `message` of a `Status`.
    pub fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }

    /// The body of an answer that has this code.
    #[track_caller]
    pub fn is(self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", self.body);
        self.body
    }
}

impl Api {
    pub async fn start() -> Self {
        let registry = Registry::new(RegistryConfig {
            store: Arc::new(MemoryStore::new()),
            kinds: KindTable::builtin(),
            strategies: strategy::strategies(),
            clock: SystemClock::shared(),
            rng: Rng::seeded(1),
        });
        let namespace = json!({"metadata": {"name": "default"}});
        registry.create(("", "namespaces"), "", namespace).await.expect("a namespace");
        let server = ApiServer::new(ApiServerConfig {
            registry: registry.clone(),
            authenticator: Arc::new(Anyone),
            authorizer: Arc::new(Anyone),
            admission: Vec::new(),
            answers: HashMap::new(),
            nodes: Arc::new(NoNodes),
            beside: Vec::new(),
            aggregator: None,
            audit: None,
            limits: Limits::default(),
        });
        let user = UserInfo { name: "admin".into(), ..UserInfo::default() };
        Self { router: server.router().layer(axum::Extension(user)), registry }
    }

    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.into()).expect("a sound request");
        let response = self.router.clone().oneshot(request).await.expect("the router answers");
        let code = response.status().as_u16();
        let warnings = response
            .headers()
            .get_all(http::header::WARNING)
            .iter()
            .filter_map(|value| value.to_str().ok().map(str::to_owned))
            .collect();
        let bytes = response.into_body().collect().await.expect("a whole body").to_bytes();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Answer { code, body, warnings }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, &[], Body::empty()).await
    }

    pub async fn table(&self, path: &str) -> Value {
        let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
        self.ask(Method::GET, path, &accept, Body::empty()).await.is(200)
    }

    pub async fn post(&self, path: &str, object: &Value) -> Answer {
        self.ask(Method::POST, path, &[], object.to_string()).await
    }

    pub async fn put(&self, path: &str, object: &Value) -> Answer {
        self.ask(Method::PUT, path, &[], object.to_string()).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.ask(Method::DELETE, path, &[], Body::empty()).await
    }

    pub async fn merge(&self, path: &str, patch: &Value) -> Answer {
        let headers = [("content-type", "application/merge-patch+json")];
        self.ask(Method::PATCH, path, &headers, patch.to_string()).await
    }

    pub async fn apply(&self, path: &str, config: impl Into<Body>) -> Answer {
        let headers = [("content-type", "application/apply-patch+yaml")];
        self.ask(Method::PATCH, path, &headers, config).await
    }

    /// Ask until an answer has this code.
    pub async fn until(&self, path: &str, code: u16) {
        for _ in 0..100 {
            if self.get(path).await.code == code {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("{path} never answered {code}: {:?}", self.get(path).await);
    }
}

#[tokio::test]
async fn a_plain_answer_comes_back() {
    let api = Api::start().await;
    let namespace = api.get("/api/v1/namespaces/default").await.is(StatusCode::OK.as_u16());
    assert_eq!(namespace["kind"], "Namespace");
}
