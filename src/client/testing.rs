//! A `kube::Client` whose answers a test writes.

use std::future::Future;

use axum::body::Body;
use http::{Request, Response};
use http_body_util::BodyExt;
use serde_json::Value;

/// A request as a test sees it.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub query: String,
    pub body: Value,
}

/// A client each of whose requests is answered by `answer`.
pub fn client<F, Fut>(answer: F) -> kube::Client
where
    F: Fn(Asked) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Response<Body>> + Send + 'static,
{
    let service = tower::service_fn(move |request: Request<kube::client::Body>| {
        let answer = answer.clone();
        async move {
            let (parts, body) = request.into_parts();
            let bytes = body.collect().await.expect("the body is in memory").to_bytes();
            let asked = Asked {
                method: parts.method.to_string(),
                path: parts.uri.path().to_owned(),
                query: parts.uri.query().unwrap_or_default().to_owned(),
                body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
            };
            Ok::<_, std::convert::Infallible>(answer(asked).await)
        }
    });
    kube::Client::new(service, "default")
}

/// An answer in JSON.
pub fn json(code: u16, body: &Value) -> Response<Body> {
    Response::builder().status(code).body(Body::from(body.to_string())).expect("a valid response")
}

/// A `metav1.Status` of a failure.
pub fn failure(code: u16, reason: &str) -> Response<Body> {
    json(
        code,
        &serde_json::json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
            "status": "Failure", "reason": reason, "message": reason, "code": code}),
    )
}
