//! `/portForward/NAMESPACE/POD`: connections into the network of a pod; and
//! `/podConnect/NAMESPACE/POD/PORT`: one such connection as it is, for the API server, which asks
//! for it by an extended CONNECT with the protocol `connect-tcp`.

use std::sync::Arc;

use axum::extract::{Path, Query, Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use hyper::ext::Protocol as ConnectProtocol;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::refuse;
use super::upgrade::{Pairs, Switch, no_pod};
use crate::node::agent::Node;
use crate::node::pod::worker::Handle;
use crate::stream::Connection;
use crate::stream::forward;
use crate::stream::upgrade::{Protocol, Purpose};

/// The `:protocol` of a connection that is handed through.
const CONNECT_TCP: &str = "connect-tcp";

pub async fn port_forward(
    State(node): State<Arc<Node>>,
    Path((namespace, pod)): Path<(String, String)>,
    Query(query): Query<Pairs>,
    mut request: Request,
) -> Response {
    let Some(handle) = node.find(&namespace, &pod) else { return no_pod(&namespace, &pod) };
    let ports = match ports(&query) {
        Ok(ports) => ports,
        Err(message) => return refuse(StatusCode::BAD_REQUEST, message),
    };
    let switch = match Switch::of(&mut request) {
        Ok(switch) => switch,
        Err(answer) => return *answer,
    };
    let protocol = match switch.choose(Purpose::PortForward) {
        Ok(protocol) => protocol,
        Err(answer) => return *answer,
    };
    if protocol == Protocol::ForwardWebSocket && ports.is_empty() {
        let message = "query parameter \"port\" is required";
        return refuse(StatusCode::BAD_REQUEST, message.to_owned());
    }
    let shutdown = node.shutdown.clone();
    switch.to(protocol, move |connection| async move {
        let name = format!("{namespace}/{pod}");
        let each = |forwarded: forward::Forward| {
            let (handle, name) = (Arc::clone(&handle), name.clone());
            forward::join(forwarded, move |port| dial(handle, name, port))
        };
        let served = forward::serve(connection, protocol, &ports, each);
        if let Some(Err(error)) = shutdown.run_until_cancelled(served).await {
            tracing::debug!(pod = name, %error, "a port-forward broke");
        }
    })
}

/// As [`port_forward`], with the pod's UID in the path.
pub async fn port_forward_by_uid(
    state: State<Arc<Node>>,
    Path((namespace, pod, _uid)): Path<(String, String, String)>,
    query: Query<Pairs>,
    request: Request,
) -> Response {
    port_forward(state, Path((namespace, pod)), query, request).await
}

/// One connection to a port of a pod. It is made before it is answered, so that the API server
/// learns why it cannot be.
pub async fn connect(
    State(node): State<Arc<Node>>,
    Path((namespace, pod, port)): Path<(String, String, u16)>,
    mut request: Request,
) -> Response {
    let protocol = request.extensions().get::<ConnectProtocol>().map(ConnectProtocol::as_str);
    let wanted = protocol == Some(CONNECT_TCP);
    let on = request.extensions_mut().remove::<OnUpgrade>();
    let Some(on) = on.filter(|_| wanted) else {
        let message = format!("an extended CONNECT with the protocol {CONNECT_TCP} is expected");
        return refuse(StatusCode::BAD_REQUEST, message);
    };
    let Some(handle) = node.find(&namespace, &pod) else { return no_pod(&namespace, &pod) };
    let network = handle.view.lock().ports.clone();
    let Some(network) = network else {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, format!("pod {pod} does not run"));
    };
    let mut dialed = match network.dial(port).await {
        Ok(dialed) => dialed,
        Err(error) => {
            let message = format!("dial tcp {pod}:{port}: connect: {error}");
            return refuse(StatusCode::SERVICE_UNAVAILABLE, message);
        }
    };
    tokio::spawn(node.shutdown.clone().run_until_cancelled_owned(async move {
        match on.await {
            Ok(upgraded) => {
                let mut upgraded = TokioIo::new(upgraded);
                if let Err(error) = tokio::io::copy_bidirectional(&mut upgraded, &mut dialed).await
                {
                    tracing::debug!(%error, "a connection of the API server to a pod broke");
                }
            }
            Err(error) => tracing::debug!(%error, "a connection was not switched"),
        }
    }));
    StatusCode::OK.into_response()
}

/// The ports that the query names, each its own parameter or several divided by commas.
fn ports(query: &Pairs) -> Result<Vec<u16>, String> {
    let values = query.iter().filter(|(key, _)| key == "port" || key == "ports");
    let ports: Result<Vec<u16>, String> = values
        .flat_map(|(_, value)| value.split(','))
        .filter(|text| !text.is_empty())
        .map(|text| match text.trim().parse() {
            Ok(port) if port != 0 => Ok(port),
            _ => Err(format!("unable to parse {text:?} as a port")),
        })
        .collect();
    let ports = ports?;
    if ports.len() > forward::PORTS_MAX {
        return Err(format!("more than {} ports", forward::PORTS_MAX));
    }
    Ok(ports)
}

/// Connects to a port of the pod as it is now.
async fn dial(handle: Arc<Handle>, pod: String, port: u16) -> Result<Box<dyn Connection>, String> {
    let failed = |why: String| format!("error forwarding port {port} to pod {pod}: {why}");
    let network = handle.view.lock().ports.clone();
    let Some(network) = network else { return Err(failed("the pod does not run".to_owned())) };
    let dialed = network.dial(port).await;
    dialed.map_err(|error| failed(format!("dial tcp4 127.0.0.1:{port}: connect: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_in_every_form() {
        let ports = |text: &str| {
            let uri: http::Uri = format!("/x?{text}").parse().expect("a URI");
            ports(&Query::<Pairs>::try_from_uri(&uri).expect("a query").0)
        };
        assert_eq!(ports("port=80&port=81,8080"), Ok(vec![80, 81, 8080]));
        assert_eq!(ports("ports=80"), Ok(vec![80]));
        assert_eq!(ports(""), Ok(Vec::new()));
        assert!(ports("port=0").expect_err("no port").contains("\"0\""));
        assert!(ports("port=70000").is_err());
    }
}
