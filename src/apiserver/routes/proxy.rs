//! `nodes/NAME/proxy/PATH`: the kubelet API of a node, as it answers. `pods/NAME/proxy/PATH` and
//! `services/NAME/proxy/PATH`: what listens in a pod, reached through its node; NAME may be
//! `http:NAME:PORT`.

use std::sync::Arc;

use axum::body::Body;
use futures::future::BoxFuture;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderName, LOCATION, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::stream::admit;
use super::{Answered, Context, not_served};
use crate::api::Object;
use crate::api::status::{ApiError, Reason};
use crate::apiserver::catalog::Resource;
use crate::apiserver::encoding;
use crate::apiserver::nodes::{BoxError, DialError, PodConnector, PodPort};
use crate::apiserver::registry::meta;
use crate::apiserver::registry::update::Target;

const SLICES: (&str, &str) = ("discovery.k8s.io", "endpointslices");
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What belongs to one connection stays behind.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Hands the request on; `below`: the path behind `proxy`. Boxed: what it awaits is large.
pub(super) fn serve<'a>(
    context: &'a Context,
    resource: &'a Resource,
    name: &'a str,
    below: &'a str,
    body: Body,
) -> BoxFuture<'a, Answered> {
    Box::pin(hand_on(context, resource, name, below, body))
}

async fn hand_on(
    context: &Context,
    resource: &Resource,
    name: &str,
    below: &str,
    body: Body,
) -> Answered {
    let asked = Asked::parse(name)?;
    let options = match &*resource.kind.kind {
        "Node" => "NodeProxyOptions",
        "Pod" => "PodProxyOptions",
        "Service" => "ServiceProxyOptions",
        _ => return Err(not_served()),
    };
    admit(context, resource, options, None).await?;
    let namespace = context.namespace(resource);
    let target = Target { resource, namespace, name: &asked.name };
    let entry = context.registry().entry(target).await?;
    let object = encoding::decode(resource, &entry)?;
    if options == "NodeProxyOptions" {
        let request = node_request(context, below, body)?;
        return match context.server.config.nodes.request(&asked.name, request).await {
            Ok(response) => Ok(relay(response)),
            Err(error @ DialError::NoRoute(_)) => Err(unavailable(error.to_string())),
            Err(error) => Err(ApiError::internal(error)),
        };
    }
    asked.check_scheme()?;
    let at = if options == "PodProxyOptions" {
        pod(namespace, &object, &asked)?
    } else {
        let (slices, _) = context.registry().list(SLICES, Some(namespace)).await?;
        let turn = context.registry().clock().monotonic().subsec_nanos() as usize;
        service(&object, &slices, &asked, turn)?
    };
    let request = request(context, &at, below, body)?;
    let upgrade = context.upgrade.lock().take();
    let pods = PodConnector::new(Arc::clone(&context.server.config.nodes));
    let mut answer = forward(&pods, &at, request, upgrade).await?;
    if let Some(location) = answer.headers().get(LOCATION).and_then(|l| moved(context, l)) {
        answer.headers_mut().insert(LOCATION, location);
    }
    Ok(answer)
}

/// `[SCHEME:]NAME[:PORT]`.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    scheme: String,
    name: String,
    /// By number or name; empty where none is said.
    port: String,
}

impl Asked {
    fn parse(text: &str) -> Result<Self, ApiError> {
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match parts.as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme, name, port] => (*scheme, *name, *port),
            _ => return Err(ApiError::bad_request(format!("invalid proxy request {text:?}"))),
        };
        Ok(Self { scheme: scheme.to_owned(), name: name.to_owned(), port: port.to_owned() })
    }

    fn check_scheme(&self) -> Result<(), ApiError> {
        match self.scheme.as_str() {
            "" | "http" => Ok(()),
            "https" => Err(ApiError::bad_request(
                "https is not spoken to what is proxied here: ask for its http port",
            )),
            other => Err(ApiError::bad_request(format!("invalid scheme {other:?}: use http"))),
        }
    }
}

fn unavailable(message: String) -> ApiError {
    ApiError::new(Reason::ServiceUnavailable, message)
}

fn pod(namespace: &str, pod: &Object, asked: &Asked) -> Result<PodPort, ApiError> {
    let port = match asked.port.as_str() {
        "" => first_port(pod).unwrap_or(80),
        text => text
            .parse()
            .map_err(|_| ApiError::bad_request(format!("invalid port {text:?} of a pod")))?,
    };
    let node = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty());
    let node = node.ok_or_else(|| unavailable(format!("pod {} has no node", asked.name)))?;
    Ok(PodPort {
        node: node.to_owned(),
        namespace: namespace.to_owned(),
        pod: asked.name.clone(),
        port,
    })
}

/// The first port that a container declares.
fn first_port(pod: &Object) -> Option<u16> {
    let containers = pod["spec"]["containers"].as_array()?.iter();
    let mut ports = containers.filter_map(|container| container["ports"].as_array()?.first());
    u16::try_from(ports.next()?["containerPort"].as_u64()?).ok()
}

/// One of the ready pods behind a Service: in turn, as far as `turn` is another each time.
fn service(
    service: &Object,
    slices: &[Object],
    asked: &Asked,
    turn: usize,
) -> Result<PodPort, ApiError> {
    let port = service_port(service, &asked.port).ok_or_else(|| {
        unavailable(format!("no service port {:?} found for service {:?}", asked.port, asked.name))
    })?;
    let mut found: Vec<PodPort> = Vec::new();
    for slice in
        slices.iter().filter(|s| s["metadata"]["labels"][SERVICE_NAME] == asked.name.as_str())
    {
        found.extend(endpoints(slice, &port));
    }
    if found.is_empty() {
        let message = format!("no endpoints available for service {:?}", asked.name);
        return Err(unavailable(message));
    }
    Ok(found.swap_remove(turn % found.len()))
}

/// The name of a port of a Service that is given by name or number; the only one where none is.
fn service_port(service: &Object, asked: &str) -> Option<String> {
    let ports = service["spec"]["ports"].as_array()?;
    let named = |port: &Object| port["name"].as_str().unwrap_or_default().to_owned();
    if asked.is_empty() {
        // As Kubernetes: the port without a name.
        return ports.iter().map(named).find(|name| name.is_empty() || ports.len() == 1);
    }
    let fits = |port: &&Object| {
        port["name"] == asked || asked.parse().is_ok_and(|n: u64| port["port"] == n)
    };
    ports.iter().find(fits).map(named)
}

/// The pods of a slice that are ready, at its port of that name.
fn endpoints(slice: &Object, port: &str) -> Vec<PodPort> {
    let ports = slice["ports"].as_array();
    let number = ports
        .into_iter()
        .flatten()
        .find(|p| p["name"].as_str().unwrap_or_default() == port)
        .and_then(|p| u16::try_from(p["port"].as_u64()?).ok());
    let Some(port) = number else { return Vec::new() };
    let endpoints = slice["endpoints"].as_array().into_iter().flatten();
    let text = |value: &Object| value.as_str().map(str::to_owned);
    let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] != false);
    ready
        .filter(|endpoint| endpoint["targetRef"]["kind"] == "Pod")
        .filter_map(|endpoint| {
            let target = &endpoint["targetRef"];
            Some(PodPort {
                node: text(&endpoint["nodeName"])?,
                namespace: text(&target["namespace"])
                    .unwrap_or_else(|| meta::text(slice, "namespace").to_owned()),
                pod: text(&target["name"])?,
                port,
            })
        })
        .collect()
}

/// Hands the request to the port of a pod, and its answer back; where both switch protocols, the
/// connections are joined.
async fn forward(
    pods: &PodConnector,
    at: &PodPort,
    request: Request<Body>,
    upgrade: Option<OnUpgrade>,
) -> Answered {
    let dialed = pods.dial(at).await;
    let io = dialed.map_err(|error| {
        let DialError::Failed { why, .. } = error else { return unavailable(error.to_string()) };
        unavailable(format!("error trying to reach service: {why}"))
    })?;
    let failed =
        |error: hyper::Error| unavailable(format!("error trying to reach service: {error}"));
    // TokioIo twice turns hyper's stream into tokio's and back.
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(io));
    let (mut sender, connection) = handshake.await.map_err(failed)?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a proxied connection ended");
        }
    });
    let mut answer = sender.send_request(request).await.map_err(failed)?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let there = hyper::upgrade::on(&mut answer);
        let here = upgrade.ok_or_else(|| unavailable("the pod switched unasked".to_owned()))?;
        tokio::spawn(async move {
            let Ok((here, there)) = tokio::try_join!(here, there) else { return };
            let (mut here, mut there) = (TokioIo::new(here), TokioIo::new(there));
            if let Err(error) = tokio::io::copy_bidirectional(&mut here, &mut there).await {
                tracing::debug!(%error, "a proxied stream broke");
            }
        });
        return Ok(answer.map(Body::new));
    }
    let (mut parts, body) = answer.into_parts();
    HOP_BY_HOP.iter().for_each(|name| drop(parts.headers.remove(name)));
    Ok(Response::from_parts(parts, Body::new(body)))
}

/// Where this resource is proxied at.
fn prefix(context: &Context) -> String {
    let at = &context.attributes;
    format!("/api/v1/namespaces/{}/{}/{}/proxy", at.namespace, at.resource, at.name)
}

/// A redirect to a path of the same server leads through the proxy again.
fn moved(context: &Context, location: &HeaderValue) -> Option<HeaderValue> {
    let path = location.to_str().ok().filter(|l| l.starts_with('/') && !l.starts_with("//"))?;
    HeaderValue::from_str(&format!("{}{path}", prefix(context))).ok()
}

/// The client's request as the pod gets it.
fn request(
    context: &Context,
    at: &PodPort,
    below: &str,
    body: Body,
) -> Result<Request<Body>, ApiError> {
    let query = context.query.encode();
    let separator = if query.is_empty() { "" } else { "?" };
    let path: Vec<String> = below.split('/').map(crate::apiserver::request::escaped).collect();
    let uri = format!("/{}{separator}{query}", path.join("/").trim_start_matches('/'));
    let mut headers: HeaderMap = context.headers.clone();
    let switches = context.headers.get(UPGRADE).cloned();
    HOP_BY_HOP.iter().for_each(|name| drop(headers.remove(name)));
    // Who the client is here is none of the pod's business.
    headers.remove(AUTHORIZATION);
    let impersonating: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    impersonating.iter().for_each(|name| drop(headers.remove(name)));
    if let Some(protocol) = switches {
        headers.insert(UPGRADE, protocol);
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    }
    let host = format!("{}:{}", at.pod, at.port);
    let forwarded = headers.remove(HOST);
    if let Ok(host) = HeaderValue::from_str(&host) {
        headers.insert(HOST, host);
    }
    if let Some(host) = forwarded {
        headers.insert(HeaderName::from_static("x-forwarded-host"), host);
    }
    let proto = HeaderName::from_static("x-forwarded-proto");
    headers.insert(proto, HeaderValue::from_static("https"));
    if let Ok(uri) = HeaderValue::from_str(&format!("{}/{below}", prefix(context))) {
        headers.insert(HeaderName::from_static("x-forwarded-uri"), uri);
    }
    let mut request = Request::new(body);
    *request.method_mut() = context.method.clone();
    *request.uri_mut() = uri.parse().map_err(|e| ApiError::bad_request(format!("{uri}: {e}")))?;
    *request.headers_mut() = headers;
    Ok(request)
}

/// The client's request as the node's own API gets it.
fn node_request(
    context: &Context,
    below: &str,
    body: Body,
) -> Result<Request<crate::apiserver::nodes::Body>, ApiError> {
    let query = context.query.encode();
    let separator = if query.is_empty() { "" } else { "?" };
    let uri = format!("/{}{separator}{query}", below.trim_start_matches('/'));
    let body = body.map_err(|error| Box::new(error) as BoxError).boxed_unsync();
    let mut request = Request::builder().method(context.method.clone()).uri(uri);
    if let Some(media) = context.headers.get(CONTENT_TYPE) {
        request = request.header(CONTENT_TYPE, media);
    }
    request.body(body).map_err(|error| ApiError::bad_request(error.to_string()))
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_name_may_carry_a_scheme_and_a_port() {
        let asked = |text| Asked::parse(text).map(|a| (a.name, a.port));
        let pair = |a: &str, b: &str| Ok((a.to_owned(), b.to_owned()));
        assert_eq!(asked("web").map_err(|e| e.message), pair("web", ""));
        assert_eq!(asked("web:8080").map_err(|e| e.message), pair("web", "8080"));
        assert_eq!(asked("http:web:").map_err(|e| e.message), pair("web", ""));
        let https = Asked::parse("https:web:443").expect("for a node it means nothing");
        assert!(https.check_scheme().expect_err("no TLS").message.contains("https"));
        assert!(asked("a:b:c:d").is_err());
    }

    #[test]
    fn a_service_leads_to_its_ready_pods() {
        let service = json!({"spec": {"ports": [{"name": "a", "port": 80}, {"port": 81}]}});
        assert_eq!(service_port(&service, "80").as_deref(), Some("a"));
        assert_eq!(service_port(&service, "a").as_deref(), Some("a"));
        assert_eq!(service_port(&service, "").as_deref(), Some(""));
        assert_eq!(service_port(&service, "82"), None);
        let pod = |name: &str, ready: bool| {
            json!({"conditions": {"ready": ready}, "nodeName": "n",
                "targetRef": {"kind": "Pod", "namespace": "d", "name": name}})
        };
        let slice = json!({"ports": [{"name": "a", "port": 8080}],
            "endpoints": [pod("x", false), pod("y", true)]});
        let found = endpoints(&slice, "a");
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].pod.as_str(), found[0].port), ("y", 8080));
        assert!(endpoints(&slice, "b").is_empty());
    }
}
