//! `nodes/NAME/proxy/PATH`: the kubelet API of a node, as it answers.

use axum::body::Body;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response};
use http_body_util::BodyExt;

use super::{Answered, Context, not_served};
use crate::api::status::{ApiError, Reason};
use crate::apiserver::catalog::Resource;
use crate::apiserver::nodes::{BoxError, DialError};
use crate::apiserver::registry::update::Target;

/// Hands the request to the node; `below`: the path behind `proxy`.
pub(super) async fn node(
    context: &Context,
    resource: &Resource,
    name: &str,
    below: &str,
    body: Body,
) -> Answered {
    if resource.kind.kind != "Node" {
        return Err(not_served());
    }
    context.registry().entry(Target { resource, namespace: "", name }).await?;
    let query = context.query.encode();
    let separator = if query.is_empty() { "" } else { "?" };
    let uri = format!("/{}{separator}{query}", below.trim_start_matches('/'));
    let body = body.map_err(|error| Box::new(error) as BoxError).boxed_unsync();
    let mut request = Request::builder().method(method(context)).uri(uri);
    if let Some(media) = context.headers.get(CONTENT_TYPE) {
        request = request.header(CONTENT_TYPE, media);
    }
    let request = request.body(body).map_err(|error| ApiError::bad_request(error.to_string()))?;
    match context.server.config.nodes.request(name, request).await {
        Ok(response) => Ok(relay(response)),
        Err(error @ DialError::NoRoute(_)) => {
            Err(ApiError::new(Reason::ServiceUnavailable, error.to_string()))
        }
        Err(error) => Err(ApiError::internal(error)),
    }
}

fn method(context: &Context) -> Method {
    match context.attributes.verb.as_str() {
        "create" => Method::POST,
        "update" => Method::PUT,
        "patch" => Method::PATCH,
        "delete" => Method::DELETE,
        _ => Method::GET,
    }
}

/// Status, media type and body; what belongs to one connection stays behind.
fn relay(response: Response<crate::apiserver::nodes::Body>) -> Response<Body> {
    let (parts, body) = response.into_parts();
    let mut answer = Response::new(Body::new(body));
    *answer.status_mut() = parts.status;
    if let Some(media) = parts.headers.get(CONTENT_TYPE) {
        answer.headers_mut().insert(CONTENT_TYPE, media.clone());
    }
    answer
}
