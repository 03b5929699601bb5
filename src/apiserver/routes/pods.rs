//! What pods serve besides themselves: binding, logs.

use axum::body::Body;
use http::header::CONTENT_TYPE;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use serde_json::{Value, json};

use super::{Answered, Context, not_allowed, subresource, success, write};
use crate::api::Object;
use crate::api::kinds::Subresource;
use crate::api::status::{ApiError, Reason};
use crate::apiserver::catalog::Resource;
use crate::apiserver::encoding;
use crate::apiserver::negotiate::Offer;
use crate::apiserver::registry::meta;
use crate::apiserver::registry::update::Target;
use crate::apiserver::request::escaped;
use crate::apiserver::respond;
use crate::base::clock::rfc3339_seconds;

/// How much of a node's error is read.
const NODE_ERROR_MAX: usize = 16 * 1024;

/// `pods/NAME/binding`.
pub(super) async fn bind(
    context: &Context,
    resource: &Resource,
    name: &str,
    body: Body,
) -> Answered {
    if context.attributes.verb != "create" {
        return Err(not_allowed());
    }
    let expected = subresource::expected(resource, Subresource::Binding);
    let (binding, _) = write::decode(context, expected, body).await?;
    let named = meta::text(&binding, "name");
    if !named.is_empty() && named != name {
        return Err(ApiError::bad_request("name in URL does not match name in Binding object"));
    }
    bind_pod(context, resource, name, &binding).await
}

/// `bindings`: the pod is the one that the object names.
pub(super) async fn bind_object(context: &Context, binding: &Object) -> Answered {
    let catalog = context.registry().catalog();
    let Some(pods) = catalog.resource("", "v1", "pods") else { return Err(super::not_served()) };
    let name = meta::text(binding, "name").to_owned();
    bind_pod(context, pods, &name, binding).await
}

async fn bind_pod(
    context: &Context,
    resource: &Resource,
    name: &str,
    binding: &Object,
) -> Answered {
    let (_, style) = context.accepted(Offer::Plain)?;
    let target = Target { resource, namespace: context.namespace(resource), name };
    let node = binding["target"]["name"].as_str().unwrap_or_default();
    let kind = binding["target"]["kind"].as_str().unwrap_or_default();
    if node.is_empty() || !matches!(kind, "" | "Node") {
        let error = crate::api::status::FieldError {
            kind: crate::api::status::FieldErrorKind::Required,
            path: "target.name".into(),
            message: "Required value: a binding names a Node".into(),
        };
        return Err(ApiError::invalid("", "Binding", name, &[error]));
    }
    let now = rfc3339_seconds(context.registry().clock().now());
    let change = |pod: &Object| assign(target, pod, node, binding, &now);
    let call = context.call(context.dry_run()?);
    context.registry().update_as(&call, target, None, false, &change).await?;
    Ok(respond::value(StatusCode::CREATED, &success(StatusCode::CREATED), style).await)
}

/// The pod on its node.
fn assign(
    target: Target<'_>,
    pod: &Object,
    node: &str,
    binding: &Object,
    now: &str,
) -> Result<Object, ApiError> {
    let uid = meta::text(binding, "uid");
    if !uid.is_empty() && uid != meta::text(pod, "uid") {
        return Err(target.conflict(&format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            meta::text(pod, "uid")
        )));
    }
    if meta::is_deleting(pod) {
        return Err(target.conflict(&format!(
            "pod {} is being deleted, cannot be assigned to a host",
            target.name
        )));
    }
    if let Some(there) = pod["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) {
        return Err(
            target.conflict(&format!("pod {} is already assigned to node {there:?}", target.name))
        );
    }
    if pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
        return Err(
            target.conflict(&format!("pod {} has non-empty .spec.schedulingGates", target.name))
        );
    }
    let mut new = pod.clone();
    new["spec"]["nodeName"] = node.into();
    for (key, value) in binding["metadata"]["annotations"].as_object().into_iter().flatten() {
        new["metadata"]["annotations"][key] = value.clone();
    }
    let condition = json!({
        "type": "PodScheduled",
        "status": "True",
        "lastProbeTime": null,
        "lastTransitionTime": now,
    });
    let mut conditions = new["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.retain(|c| c["type"] != "PodScheduled");
    conditions.push(condition);
    new["status"]["conditions"] = conditions.into();
    Ok(new)
}

/// Query parameters of `log` that the node gets as they are.
const LOG_PARAMETERS: [&str; 9] = [
    "follow",
    "insecureSkipTLSVerifyBackend",
    "limitBytes",
    "previous",
    "sinceSeconds",
    "sinceTime",
    "stream",
    "tailLines",
    "timestamps",
];

/// `pods/NAME/log`, streamed from the node.
pub(super) async fn log(context: &Context, resource: &Resource, name: &str) -> Answered {
    if context.attributes.verb != "get" {
        return Err(not_allowed());
    }
    check_counts(context, name)?;
    let namespace = context.namespace(resource);
    let entry = context.registry().entry(Target { resource, namespace, name }).await?;
    let pod = encoding::decode(resource, &entry)?;
    let container = container_of(&pod, name, context.query.get("container"))?;
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if node.is_empty() {
        // As Kubernetes: a pod without a node has logged nothing.
        return Ok(respond::text(StatusCode::OK, "text/plain", ""));
    }
    let node = node.to_owned();
    let request = log_request(context, &format!("{namespace}/{name}/{container}"))?;
    match context.server.config.nodes.request(&node, request).await {
        Ok(response) => relay(response).await,
        Err(error) => Err(ApiError::internal(error)),
    }
}

/// What the node is asked, for `NAMESPACE/POD/CONTAINER`.
fn log_request(
    context: &Context,
    container: &str,
) -> Result<Request<crate::apiserver::nodes::Body>, ApiError> {
    let query: Vec<String> = LOG_PARAMETERS
        .iter()
        .filter(|p| !context.query.get(p).is_empty())
        .map(|p| format!("{p}={}", escaped(context.query.get(p))))
        .collect();
    let path = format!("/containerLogs/{container}?{}", query.join("&"));
    let empty = Empty::new().map_err(|never| match never {}).boxed_unsync();
    Request::get(path).body(empty).map_err(ApiError::internal)
}

fn check_counts(context: &Context, pod: &str) -> Result<(), ApiError> {
    for (parameter, least) in [("limitBytes", 1), ("sinceSeconds", 1), ("tailLines", 0)] {
        let Some(count) = context.query.number(parameter)?.filter(|count| *count < least) else {
            continue;
        };
        let bound = if least == 0 { "greater than or equal to 0" } else { "greater than 0" };
        let error = crate::api::status::FieldError {
            kind: crate::api::status::FieldErrorKind::Invalid,
            path: parameter.into(),
            message: format!("Invalid value: {count}: must be {bound}"),
        };
        return Err(ApiError::invalid("", "PodLogOptions", pod, &[error]));
    }
    Ok(())
}

/// The container that is meant.
pub(super) fn container_of(pod: &Object, name: &str, asked: &str) -> Result<String, ApiError> {
    let names = |field: &str| -> Vec<String> {
        let list = pod["spec"][field].as_array();
        list.into_iter().flatten().filter_map(|c| c["name"].as_str()).map(str::to_owned).collect()
    };
    let (containers, init, ephemeral) =
        (names("containers"), names("initContainers"), names("ephemeralContainers"));
    if asked.is_empty() {
        if let [only] = containers.as_slice() {
            return Ok(only.clone());
        }
        let mut message = format!(
            "a container name must be specified for pod {name}, choose one of: [{}]",
            containers.join(" ")
        );
        if !init.is_empty() {
            message.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
        }
        return Err(ApiError::bad_request(message));
    }
    let known = [&containers, &init, &ephemeral].into_iter().flatten().any(|c| c == asked);
    if known {
        return Ok(asked.to_owned());
    }
    Err(ApiError::bad_request(format!("container {asked} is not valid for pod {name}")))
}

/// What the node answered; its errors become statuses.
pub(super) async fn relay(response: Response<crate::apiserver::nodes::Body>) -> Answered {
    let (parts, body) = response.into_parts();
    let body = Body::new(body);
    if parts.status.is_success() {
        let content_type = parts.headers.get(CONTENT_TYPE).cloned();
        let mut answer = Response::new(body);
        let plain = http::HeaderValue::from_static("text/plain");
        answer.headers_mut().insert(CONTENT_TYPE, content_type.unwrap_or(plain));
        return Ok(answer);
    }
    let read = Limited::new(body, NODE_ERROR_MAX).collect().await;
    let text = read.map(|all| all.to_bytes()).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    let message = match serde_json::from_str::<Value>(&text) {
        Ok(status) if status["kind"] == "Status" => {
            status["message"].as_str().unwrap_or_default().to_owned()
        }
        _ => text,
    };
    Err(match parts.status {
        StatusCode::BAD_REQUEST => ApiError::bad_request(message),
        StatusCode::NOT_FOUND => ApiError::new(Reason::NotFound, message),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            ApiError::internal(format!("the node refused the server: {message}"))
        }
        StatusCode::SERVICE_UNAVAILABLE => ApiError::new(Reason::ServiceUnavailable, message),
        _ => ApiError::internal(message),
    })
}
