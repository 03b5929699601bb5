//! Errors in the form of the distribution specification.

use std::io;

use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;

/// Why a request is not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    pub status: StatusCode,
    /// Of the specification's list.
    pub code: &'static str,
    pub message: String,
    /// A header that goes with it.
    pub header: Option<(&'static str, String)>,
}

impl Refusal {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), header: None }
    }

    pub fn bad(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub fn missing(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    /// 405.
    pub fn not_allowed() -> Self {
        let message = "the method is not allowed here";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", message)
    }

    /// 401, with what would help.
    pub fn unauthorized() -> Self {
        let message = "say who you are: a client certificate of the cluster, a token as bearer, or \
                       any user with a token as password";
        let challenge = ("www-authenticate", "Basic realm=\"coracle\"".to_owned());
        let plain = Self::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message);
        Self { header: Some(challenge), ..plain }
    }

    /// 403.
    pub fn denied(why: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "DENIED", why)
    }

    pub fn response(&self) -> Response<Body> {
        let body = json!({"errors": [{"code": self.code, "message": self.message}]}).to_string();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some((name, value)) = &self.header
            && let Ok(value) = HeaderValue::from_str(value)
        {
            headers.insert(*name, value);
        }
        response
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        tracing::warn!(%error, "the registry's disk");
        let status = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                StatusCode::INSUFFICIENT_STORAGE
            }
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, "UNKNOWN", format!("the registry's disk: {error}"))
    }
}
