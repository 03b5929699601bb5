//! A `kube::Client` whose requests are handed to a service in this process.

use http::{Request, Response};
use tower::{BoxError, Service, ServiceExt};

/// A client of `service`, as the API server's router.
///
/// `stamp` sees every request first: that is where the identity of the caller is put into the
/// extensions, which the server trusts, since no request from a socket can bring any.
///
/// Must be called inside a tokio runtime. Upgrades (exec, port-forward) do not work on it: there
/// is no connection to upgrade.
pub fn in_process<S, B, F>(service: S, mut stamp: F) -> kube::Client
where
    S: Service<Request<kube::client::Body>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    F: FnMut(&mut http::Extensions) + Send + 'static,
{
    let stamped = service.map_request(move |mut request: Request<kube::client::Body>| {
        stamp(request.extensions_mut());
        request
    });
    kube::Client::new(stamped, "default")
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Extension;
    use axum::routing::get;

    #[derive(Clone)]
    struct Caller(&'static str);

    #[tokio::test]
    async fn requests_reach_the_router_with_the_callers_identity() {
        let router = axum::Router::new().route(
            "/version",
            get(|Extension(caller): Extension<Caller>| async move {
                format!("{{\"major\":\"1\",\"minor\":\"{}\"}}", caller.0)
            }),
        );
        let client = in_process(router, |extensions| {
            extensions.insert(Caller("me"));
        });
        let answer: serde_json::Value =
            crate::client::rest::get(&client, "/version").await.expect("the router answers");
        assert_eq!(answer["minor"], "me");
    }
}
