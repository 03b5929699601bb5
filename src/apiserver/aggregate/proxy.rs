//! A request on its way to another API server, and its answer back.

use axum::body::Body;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};

use super::{Aggregator, Delegate};
use crate::api::status::{ApiError, Reason};
use crate::apiserver::auth::UserInfo;
use crate::link::outbound::{OutboundError, secure, send};

/// What belongs to one connection, or says who asked this server.
const OWN: [&str; 9] = [
    "authorization",
    "connection",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

impl Aggregator {
    /// Has another server answer.
    ///
    /// # Errors
    /// 503 where it cannot be reached.
    pub(in crate::apiserver) async fn ask(
        &self,
        delegate: &Delegate,
        user: &UserInfo,
        (method, uri, headers): (Method, &Uri, &HeaderMap),
        body: Body,
    ) -> Result<Response<Body>, ApiError> {
        let unreachable = |error: &dyn std::fmt::Display| {
            tracing::debug!(api_service = %delegate.name, %error, "an API service gave no answer");
            ApiError::new(
                Reason::ServiceUnavailable,
                format!("error trying to reach service: {error}"),
            )
        };
        let stream = self.reach.service(&delegate.namespace, &delegate.service, delegate.port);
        let stream = stream.await.map_err(|error| unreachable(&error))?;
        let config = delegate.trust.config(self.identity.as_ref());
        let config = config.map_err(|error| unreachable(&error))?;
        let name = format!("{}.{}.svc", delegate.service, delegate.namespace);
        let stream = secure(stream, &name, config).await.map_err(|error| unreachable(&error))?;
        let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let mut request = Request::builder().method(method).uri(path);
        if let Some(own) = request.headers_mut() {
            *own = forwarded(headers, user);
            let host = HeaderValue::from_str(&name).map_err(ApiError::internal)?;
            own.insert(header::HOST, host);
        }
        let request = request.body(body).map_err(ApiError::internal)?;
        let answered: Result<_, OutboundError> = send(stream, request).await;
        let response = answered.map_err(|error| unreachable(&error))?;
        let (mut parts, body) = response.into_parts();
        for name in OWN {
            parts.headers.remove(name);
        }
        Ok(Response::from_parts(parts, Body::new(body)))
    }
}

/// The headers of a request, with who asks in place of how they proved it.
fn forwarded(headers: &HeaderMap, user: &UserInfo) -> HeaderMap {
    let mut all = HeaderMap::new();
    for (name, value) in headers {
        let text = name.as_str();
        let own = OWN.contains(&text)
            || text.starts_with("x-remote-")
            || text.starts_with("impersonate-");
        if !own {
            all.append(name.clone(), value.clone());
        }
    }
    let mut put = |name: &str, value: &str| {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) {
            all.append(name, value);
        }
    };
    put("x-remote-user", &user.name);
    if !user.uid.is_empty() {
        put("x-remote-uid", &user.uid);
    }
    for group in &user.groups {
        put("x-remote-group", group);
    }
    for (key, values) in &user.extra {
        for value in values {
            put(&format!("x-remote-extra-{}", crate::apiserver::request::escaped(key)), value);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_says_who_they_are_but_this_server() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer secret"),
            ("x-remote-user", "root"),
            ("x-remote-group", "system:masters"),
            ("impersonate-user", "root"),
            ("accept", "application/json"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let user = UserInfo {
            name: "ann".into(),
            groups: vec!["a".into(), "b".into()],
            extra: [("scopes/x".to_owned(), vec!["1".to_owned()])].into(),
            ..UserInfo::default()
        };
        let sent = forwarded(&headers, &user);
        assert!(sent.get("authorization").is_none() && sent.get("impersonate-user").is_none());
        assert_eq!(sent["x-remote-user"], "ann");
        let groups: Vec<&HeaderValue> = sent.get_all("x-remote-group").iter().collect();
        assert_eq!(groups, ["a", "b"]);
        assert_eq!(sent["x-remote-extra-scopes%2fx"], "1");
        assert_eq!(sent["accept"], "application/json");
    }
}
