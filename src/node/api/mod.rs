//! The kubelet's HTTP API: `/healthz`, `/pods`, `/containerLogs/…`, `/exec/…`, `/attach/…`,
//! `/portForward/…`, `/stats/summary`, `/metrics`, `/metrics/resource`.
//!
//! It is reached in two ways: over the tunnel that the agent dialled to its API server, where
//! whoever asks is that server; and on the kubelet port over TLS, where a client certificate of
//! the cluster is asked for and the API server is asked whether its user may (as the kubelet's
//! webhook authorization does).

mod forward;
pub mod listen;
mod logs;
mod remote;
mod stats;
mod traffic;
mod upgrade;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Json, Router};
use http::{Method, StatusCode, header};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::agent::Node;
use crate::client::rest;

/// Who asks.
#[derive(Debug, Clone)]
pub enum Caller {
    /// The API server, at the other end of the tunnel.
    ApiServer,
    /// The holder of a client certificate.
    User {
        name: String,
        groups: Vec<String>,
    },
    Nobody,
}

/// The router; [`Caller`] must be among the extensions of every request.
pub fn router(node: Arc<Node>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/pods", get(pods))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(logs::logs))
        .route("/exec/{namespace}/{pod}/{container}", any(remote::exec))
        .route("/exec/{namespace}/{pod}/{uid}/{container}", any(remote::exec_by_uid))
        .route("/attach/{namespace}/{pod}/{container}", any(remote::attach))
        .route("/attach/{namespace}/{pod}/{uid}/{container}", any(remote::attach_by_uid))
        .route("/podConnect/{namespace}/{pod}/{port}", any(forward::connect))
        .route("/portForward/{namespace}/{pod}", any(forward::port_forward))
        .route("/portForward/{namespace}/{pod}/{uid}", any(forward::port_forward_by_uid))
        .route("/stats/summary", get(stats::summary))
        .route("/metrics", get(traffic::metrics))
        .route("/metrics/resource", get(stats::metrics))
        .layer(middleware::from_fn_with_state(Arc::clone(&node), authorize))
        .with_state(node)
}

/// The subresource of nodes that a path is authorized as, as the kubelet maps them.
fn subresource(path: &str) -> &'static str {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    match first {
        "stats" => "stats",
        "metrics" => "metrics",
        "logs" | "containerLogs" => "log",
        "healthz" => "healthz",
        "pods" => "pods",
        _ => "proxy",
    }
}

/// Whether a path is one that runs or reaches something in a pod.
fn streams(path: &str) -> bool {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    matches!(first, "exec" | "attach" | "portForward" | "podConnect")
}

async fn authorize(State(node): State<Arc<Node>>, request: Request, next: Next) -> Response {
    let caller = request.extensions().get::<Caller>().cloned().unwrap_or(Caller::Nobody);
    let (name, groups) = match caller {
        Caller::ApiServer => return next.run(request).await,
        Caller::User { name, groups } => (name, groups),
        Caller::Nobody => return (StatusCode::UNAUTHORIZED, "Unauthorized").into_response(),
    };
    let verb = match *request.method() {
        // Who may only look must not run anything, though a WebSocket asks by GET.
        _ if streams(request.uri().path()) => "create",
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        _ => "update",
    };
    let subresource = subresource(request.uri().path());
    match allowed(&node, &name, &groups, verb, subresource).await {
        Ok(true) => next.run(request).await,
        Ok(false) => {
            let message = format!(
                "Forbidden (user={name}, verb={verb}, resource=nodes, subresource={subresource})"
            );
            (StatusCode::FORBIDDEN, message).into_response()
        }
        Err(error) => {
            tracing::warn!(%error, "the API server could not be asked for authorization");
            (StatusCode::INTERNAL_SERVER_ERROR, "Authorization error").into_response()
        }
    }
}

async fn allowed(
    node: &Node,
    user: &str,
    groups: &[String],
    verb: &str,
    subresource: &str,
) -> Result<bool, kube::Error> {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {
            "user": user, "groups": groups,
            "resourceAttributes": {
                "verb": verb, "group": "", "version": "v1", "resource": "nodes",
                "subresource": subresource, "name": node.config.node_name,
            },
        },
    });
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let answer: Value = rest::create(&node.client, path, &review).await?;
    Ok(answer.pointer("/status/allowed").and_then(Value::as_bool).unwrap_or(false))
}

/// The pods of this node with the status that it knows.
async fn pods(State(node): State<Arc<Node>>) -> Json<Value> {
    let handles: Vec<_> = node.workers.lock().values().cloned().collect();
    let items = handles.iter().map(|handle| {
        let view = handle.view.lock();
        Pod { status: view.status.as_deref().cloned(), ..view.pod.as_ref().clone() }
    });
    let items: Vec<Pod> = items.collect();
    Json(json!({"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": items}))
}

/// A plain-text refusal, as the kubelet answers.
fn refuse(code: StatusCode, message: String) -> Response {
    (code, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], message).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_authorized_as_the_kubelet_maps_them() {
        let table = [
            ("/containerLogs/ns/pod/app", "log"),
            ("/stats/summary", "stats"),
            ("/metrics/resource", "metrics"),
            ("/pods", "pods"),
            ("/exec/ns/pod/app", "proxy"),
        ];
        for (path, expected) in table {
            assert_eq!(subresource(path), expected, "{path}");
        }
    }
}
