//! The way from the server to what runs in the cluster: a port of a Service (webhooks, API
//! services), found by its endpoints; and to hosts outside.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::net::TcpStream;

use super::registry::Registry;
use crate::api::Object;
use crate::api::meta::{self, list};
pub use crate::link::outbound::Connection;

/// A connection of any kind.
pub type Stream = Box<dyn Connection>;

/// How long a connection may take to be made.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// One endpoint of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub address: String,
    pub port: u16,
    /// Namespace and name, where a pod stands behind it.
    pub pod: Option<(String, String)>,
    pub node: Option<String>,
}

/// Dials pods where only their node can reach them.
#[async_trait]
pub trait PodDialer: Send + Sync + 'static {
    /// # Errors
    /// Where the pod cannot be reached.
    async fn dial(&self, endpoint: &Endpoint) -> io::Result<Stream>;
}

/// Dials Services.
pub struct Reach {
    registry: Arc<Registry>,
    pods: Option<Arc<dyn PodDialer>>,
}

/// Why nothing was reached.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReachError {
    #[error("service {0:?} not found")]
    NoService(String),
    #[error("no service port {port} found for service {service:?}")]
    NoPort { service: String, port: i64 },
    #[error("no endpoints available for service {0:?}")]
    NoEndpoints(String),
    #[error("dial tcp {address}: {why}")]
    Dial { address: String, why: String },
    #[error("{0}")]
    Store(String),
}

impl Reach {
    /// Finds Services in `registry`. Endpoints that are pods are dialled through `pods`, where it
    /// is given.
    pub fn new(registry: Arc<Registry>, pods: Option<Arc<dyn PodDialer>>) -> Self {
        Self { registry, pods }
    }

    /// A connection to a port of a Service.
    ///
    /// # Errors
    /// [`ReachError`].
    pub async fn service(
        &self,
        namespace: &str,
        name: &str,
        port: i64,
    ) -> Result<Stream, ReachError> {
        let found = self.registry.get(("", "services"), namespace, name).await;
        let service = found.map_err(|error| ReachError::Store(error.message))?;
        let service = service.ok_or_else(|| ReachError::NoService(name.to_owned()))?;
        if service["spec"]["type"] == "ExternalName" {
            let host = service["spec"]["externalName"].as_str().unwrap_or_default();
            return self.host(host, u16::try_from(port).unwrap_or_default()).await;
        }
        let slices = self.registry.list(("discovery.k8s.io", "endpointslices"), Some(namespace));
        let (slices, _) = slices.await.map_err(|error| ReachError::Store(error.message))?;
        let endpoints = endpoints(&service, &slices, port)?;
        let mut failed = ReachError::NoEndpoints(name.to_owned());
        for endpoint in endpoints {
            match self.endpoint(&endpoint).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    async fn endpoint(&self, endpoint: &Endpoint) -> Result<Stream, ReachError> {
        let address = format!("{}:{}", endpoint.address, endpoint.port);
        match (&self.pods, &endpoint.pod) {
            (Some(pods), Some(_)) if endpoint.node.is_some() => {
                let dialled = tokio::time::timeout(CONNECT_MAX, pods.dial(endpoint)).await;
                flat(address, dialled)
            }
            _ => self.host(&endpoint.address, endpoint.port).await,
        }
    }

    /// A connection to a host outside of the cluster's network.
    ///
    /// # Errors
    /// [`ReachError::Dial`].
    pub async fn host(&self, host: &str, port: u16) -> Result<Stream, ReachError> {
        let dialled = TcpStream::connect((host, port));
        let dialled = tokio::time::timeout(CONNECT_MAX, dialled).await;
        let dialled = dialled.map(|stream| {
            stream.map(|stream| {
                let _ = stream.set_nodelay(true);
                Box::new(stream) as Stream
            })
        });
        flat(format!("{host}:{port}"), dialled)
    }
}

fn flat(
    address: String,
    dialled: Result<io::Result<Stream>, tokio::time::error::Elapsed>,
) -> Result<Stream, ReachError> {
    match dialled {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(ReachError::Dial { address, why: error.to_string() }),
        Err(_) => Err(ReachError::Dial { address, why: "i/o timeout".into() }),
    }
}

/// The ready endpoints of a port of a Service.
fn endpoints(service: &Object, slices: &[Object], port: i64) -> Result<Vec<Endpoint>, ReachError> {
    let name = meta::name(service);
    let wanted = list(&service["spec"]["ports"]).iter().find(|p| p["port"].as_i64() == Some(port));
    let Some(wanted) = wanted else {
        return Err(ReachError::NoPort { service: name.to_owned(), port });
    };
    let port_name = wanted["name"].as_str().unwrap_or_default();
    let mut found = Vec::new();
    for slice in slices {
        if meta::label(slice, "kubernetes.io/service-name") != Some(name) {
            continue;
        }
        let number = list(&slice["ports"])
            .iter()
            .find(|p| p["name"].as_str().unwrap_or_default() == port_name)
            .and_then(|p| u16::try_from(p["port"].as_u64()?).ok());
        let Some(number) = number else { continue };
        for endpoint in list(&slice["endpoints"]) {
            found.extend(ready(endpoint, number));
        }
    }
    if found.is_empty() {
        return Err(ReachError::NoEndpoints(name.to_owned()));
    }
    Ok(found)
}

fn ready(endpoint: &Value, port: u16) -> Option<Endpoint> {
    if endpoint["conditions"]["ready"] == false {
        return None;
    }
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let target = &endpoint["targetRef"];
    let pod = (target["kind"] == "Pod")
        .then(|| Some((text(&target["namespace"])?, text(&target["name"])?)))
        .flatten();
    Some(Endpoint {
        address: text(list(&endpoint["addresses"]).first()?)?,
        port,
        pod,
        node: text(&endpoint["nodeName"]),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_port_of_a_service_is_found_by_its_name_in_the_slices() {
        let service = json!({"metadata": {"name": "s"},
            "spec": {"ports": [{"name": "https", "port": 443}, {"name": "other", "port": 80}]}});
        let slice = json!({"metadata": {"labels": {"kubernetes.io/service-name": "s"}},
            "ports": [{"name": "other", "port": 1}, {"name": "https", "port": 8443}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": false}},
                {"addresses": ["10.0.0.2"], "nodeName": "n",
                    "targetRef": {"kind": "Pod", "namespace": "d", "name": "p"}}]});
        let found = endpoints(&service, &[slice], 443).expect("one is ready");
        assert_eq!(
            found,
            [Endpoint {
                address: "10.0.0.2".into(),
                port: 8443,
                pod: Some(("d".into(), "p".into())),
                node: Some("n".into()),
            }]
        );
        let none = endpoints(&service, &[], 443).expect_err("there is none");
        assert_eq!(none.to_string(), "no endpoints available for service \"s\"");
        let no_port = endpoints(&service, &[], 7).expect_err("no such port");
        assert_eq!(no_port.to_string(), "no service port 7 found for service \"s\"");
    }
}
