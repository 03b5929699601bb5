//! `pods/NAME/exec`, `attach` and `portforward`: the client's connection is switched and joined to
//! one of the node's kubelet API. What is spoken on it the node and the client agree on; here it
//! is bytes.
//!
//! ```text
//!  client ──Upgrade──▶ API server ──extended CONNECT──▶ node
//!         ◀──101─────             ◀──200 or an error───
//!         ◀═══════════ bytes, both ways ══════════════▶
//! ```

use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use axum::body::Body;

use super::pods::{container_of, relay};
use super::{Answered, Context, not_allowed};
use crate::api::Object;
use crate::api::kinds::Subresource;
use crate::api::status::ApiError;
use crate::apiserver::admission;
use crate::apiserver::catalog::Resource;
use crate::apiserver::encoding;
use crate::apiserver::registry::update::Target;
use crate::apiserver::request::escaped;
use crate::stream::upgrade::{BEARER_PREFIX, Offer, Refused, Transport, switch};

/// Switches the connection over to the node of the pod.
pub(super) async fn serve(
    context: &Context,
    resource: &Resource,
    name: &str,
    subresource: Subresource,
) -> Answered {
    if !matches!(context.attributes.verb.as_str(), "get" | "create") {
        return Err(not_allowed());
    }
    let namespace = context.namespace(resource);
    let entry = context.registry().entry(Target { resource, namespace, name }).await?;
    let pod = encoding::decode(resource, &entry)?;
    let kind = match subresource {
        Subresource::Exec => "PodExecOptions",
        Subresource::Attach => "PodAttachOptions",
        _ => "PodPortForwardOptions",
    };
    admit(context, resource, kind, Some(&pod)).await?;
    let path = path(context, &pod, namespace, name, subresource)?;
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if node.is_empty() {
        return Err(ApiError::bad_request(format!("pod {name} does not have a host assigned")));
    }
    let offer = Offer::of(&context.headers, None);
    let upgrade = context.upgrade.lock().take();
    let (Some(offer), Some(upgrade)) = (offer, upgrade) else {
        return Err(ApiError::bad_request(Refused::NoUpgrade.to_string()));
    };
    join(context, node, &path, &offer, upgrade).await
}

/// Plugins may refuse the connection, as they may a write.
pub(super) async fn admit(
    context: &Context,
    resource: &Resource,
    kind: &str,
    old: Option<&Object>,
) -> Result<(), ApiError> {
    let request = admission::Request {
        operation: admission::Operation::Connect,
        attributes: &context.attributes,
        user: &context.user,
        kind,
        resource,
        old,
        dry_run: false,
        again: false,
        told: &context.told,
    };
    let mut options = serde_json::json!({"kind": kind, "apiVersion": "v1"});
    for plugin in &context.server.config.admission {
        plugin.admit(&request, &mut options).await?;
    }
    for plugin in &context.server.config.admission {
        plugin.validate(&request, &options).await?;
    }
    Ok(())
}

/// What the node is asked.
fn path(
    context: &Context,
    pod: &Object,
    namespace: &str,
    name: &str,
    subresource: Subresource,
) -> Result<String, ApiError> {
    let query = &context.query;
    let mut parameters: Vec<String> = Vec::new();
    if subresource == Subresource::PortForward {
        let ports = query.all("ports").chain(query.all("port"));
        parameters.extend(ports.map(|port| format!("port={}", escaped(port))));
        return Ok(format!("/portForward/{namespace}/{name}?{}", parameters.join("&")));
    }
    let container = container_of(pod, name, query.get("container"))?;
    for (ours, theirs) in
        [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")]
    {
        if query.flag(ours) {
            parameters.push(format!("{theirs}=1"));
        }
    }
    if parameters.iter().all(|p| p == "tty=1") {
        let message = "you must specify at least 1 of stdin, stdout, stderr";
        return Err(ApiError::bad_request(message.to_owned()));
    }
    let word = match subresource {
        Subresource::Exec => {
            parameters.extend(query.all("command").map(|c| format!("command={}", escaped(c))));
            if query.all("command").next().is_none() {
                let message = "you must specify at least one command for the container";
                return Err(ApiError::bad_request(message.to_owned()));
            }
            "exec"
        }
        _ => "attach",
    };
    Ok(format!("/{word}/{namespace}/{name}/{container}?{}", parameters.join("&")))
}

/// Asks the node to switch, and joins both connections where it does.
async fn join(
    context: &Context,
    node: &str,
    path: &str,
    offer: &Offer,
    client: OnUpgrade,
) -> Answered {
    let protocol = match offer.transport {
        Transport::WebSocket => Protocol::from_static("websocket"),
        Transport::Spdy => Protocol::from_static("SPDY/3.1"),
    };
    let mut request = Request::builder().method(Method::CONNECT).uri(path).extension(protocol);
    // A token among them was for this server.
    for name in offer.protocols.iter().filter(|name| !name.starts_with(BEARER_PREFIX)) {
        request = request.header(offer.transport.protocol_header(), name);
    }
    let empty = Empty::new().map_err(|never| match never {}).boxed_unsync();
    let request = request.body(empty).map_err(ApiError::internal)?;
    let answer = context.server.config.nodes.request(node, request).await;
    let mut answer = answer.map_err(ApiError::internal)?;
    if answer.status() != StatusCode::OK {
        return relay(answer).await;
    }
    let chosen = answer.headers().get(offer.transport.protocol_header());
    let chosen = chosen.and_then(|value| value.to_str().ok()).map(str::to_owned);
    let node = hyper::upgrade::on(&mut answer);
    tokio::spawn(async move {
        let (client, node) = match tokio::try_join!(client, node) {
            Ok(both) => both,
            Err(error) => return tracing::debug!(%error, "a stream was not switched"),
        };
        let (mut client, mut node) = (TokioIo::new(client), TokioIo::new(node));
        if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut node).await {
            tracing::debug!(%error, "a stream broke");
        }
    });
    let answer: Response<()> = switch(offer.transport, chosen.as_deref(), &context.headers, false);
    Ok(answer.map(|()| Body::empty()))
}
