//! The Endpoints object of a Service (`pkg/controller/endpoint`): the same addresses as its slices,
//! in one object, of the first address family, at most [`CAPACITY`] of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::plan::{HEADLESS, Port, backends, hostname, is_headless, resolve};
use crate::controllers::view::Pod;

/// How many addresses an Endpoints object holds at most.
pub const CAPACITY: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";

/// Whether this controller wrote the Endpoints.
pub fn is_managed(endpoints: &Endpoints) -> bool {
    endpoints.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(MANAGED_BY))
}

/// The Endpoints object that the Service should have.
pub fn wanted(service: &Service, pods: &[Arc<Pod>]) -> Endpoints {
    let spec = service.spec.clone().unwrap_or_default();
    let publish = spec.publish_not_ready_addresses == Some(true);
    let without_ports = is_headless(service) && spec.ports.iter().flatten().next().is_none();
    let mut subsets: BTreeMap<Vec<Port>, [Vec<EndpointAddress>; 2]> = BTreeMap::new();
    let mut pods = backends(service, pods);
    pods.retain(|pod| publish || pod.deleting.is_none());
    // Where there are too many, those that are ready stay.
    pods.sort_by(|a, b| {
        b.ready.is_some().cmp(&a.ready.is_some()).then_with(|| a.ips[0].cmp(&b.ips[0]))
    });
    let over = pods.len() > CAPACITY;
    pods.truncate(CAPACITY);
    pods.sort_by(|a, b| a.ips[0].cmp(&b.ips[0]).then_with(|| a.uid.cmp(&b.uid)));
    for pod in pods {
        let ports = resolve(service, pod);
        if ports.is_empty() && !without_ports {
            continue;
        }
        let address = EndpointAddress {
            ip: pod.ips[0].clone(),
            hostname: hostname(service, pod),
            node_name: Some(pod.node.clone()).filter(|node| !node.is_empty()),
            target_ref: Some(pod.reference()),
        };
        let ready = publish || pod.ready.is_some();
        subsets.entry(ports).or_default()[usize::from(!ready)].push(address);
    }
    let some = |addresses: Vec<EndpointAddress>| Some(addresses).filter(|all| !all.is_empty());
    let subsets: Vec<EndpointSubset> = subsets
        .into_iter()
        .map(|(ports, [ready, not_ready])| EndpointSubset {
            addresses: some(ready),
            not_ready_addresses: some(not_ready),
            ports: Some(ports.into_iter().map(port).collect::<Vec<_>>())
                .filter(|ports| !ports.is_empty()),
        })
        .collect();
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(MANAGED_BY.to_owned(), "endpoint-controller".to_owned());
    let annotations =
        over.then(|| BTreeMap::from([(OVER_CAPACITY.to_owned(), "truncated".to_owned())]));
    Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            annotations,
            ..ObjectMeta::default()
        },
        subsets: Some(subsets).filter(|subsets| !subsets.is_empty()),
    }
}

fn port((name, protocol, port, app_protocol): Port) -> EndpointPort {
    EndpointPort {
        name: Some(name).filter(|name| !name.is_empty()),
        port,
        protocol: Some(protocol),
        app_protocol,
    }
}

/// Whether `have` says what `wanted` says.
pub fn agrees(have: &Endpoints, wanted: &Endpoints) -> bool {
    let over = |endpoints: &Endpoints| {
        endpoints.metadata.annotations.as_ref().and_then(|all| all.get(OVER_CAPACITY)).cloned()
    };
    have.subsets.clone().unwrap_or_default() == wanted.subsets.clone().unwrap_or_default()
        && have.metadata.labels == wanted.metadata.labels
        && over(have) == over(wanted)
}

#[cfg(test)]
mod tests {
    use super::super::plan::tests::{pod, service};
    use super::*;
    use serde_json::json;

    #[test]
    fn ready_and_unready_addresses_are_told_apart() {
        let pods = [pod(1), Pod { ready: None, ..pod(2) }].map(Arc::new);
        let endpoints = wanted(&service(json!({})), &pods);
        let subsets = endpoints.subsets.clone().expect("subsets");
        assert_eq!(subsets.len(), 1);
        assert_eq!(subsets[0].addresses.as_ref().map(Vec::len), Some(1));
        assert_eq!(subsets[0].not_ready_addresses.as_ref().map(Vec::len), Some(1));
        assert_eq!(subsets[0].ports.as_ref().map(|p| p[0].port), Some(8080));
        assert!(agrees(&endpoints, &endpoints));
    }

    #[test]
    fn no_more_than_a_thousand_are_told() {
        let pods: Vec<_> = (0..1100).map(|n| Arc::new(pod(n))).collect();
        let endpoints = wanted(&service(json!({})), &pods);
        let subsets = endpoints.subsets.expect("subsets");
        assert_eq!(subsets[0].addresses.as_ref().map(Vec::len), Some(CAPACITY));
        let annotations = endpoints.metadata.annotations.expect("annotations");
        assert_eq!(annotations[OVER_CAPACITY], "truncated");
    }
}
