//! EndpointSlices for Endpoints that somebody wrote by hand, for a Service without a selector
//! (`pkg/controller/endpointslicemirroring`).
//!
//! One slice a subset and address family, under a name that follows from both: so that what is
//! there can be compared with what should be, without remembering anything.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::plan::{Action, MANAGED_BY};
use crate::controllers::context::SERVICE_NAME;

/// Who writes these slices.
pub const MIRROR: &str = "endpointslicemirroring-controller.k8s.io";
/// Keeps Endpoints from being mirrored.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// On Endpoints that only elect a leader.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// How many addresses of a subset are mirrored (`--mirroring-max-endpoints-per-subset`).
const ADDRESSES_MAX: usize = 1000;

/// Whether the Endpoints are to be mirrored for the Service.
fn is_mirrored(endpoints: &Endpoints, service: &Service) -> bool {
    let meta = &endpoints.metadata;
    let skipped = meta.labels.iter().flatten().any(|(name, value)| name == SKIP && value == "true");
    let elects = meta.annotations.as_ref().is_some_and(|all| all.contains_key(LEADER));
    let selects = service
        .spec
        .as_ref()
        .and_then(|spec| spec.selector.as_ref())
        .is_some_and(|selector| !selector.is_empty());
    !skipped && !elects && !selects && meta.deletion_timestamp.is_none()
}

/// What to do so that the slices say what the Endpoints do. `slices` are all that name the Service.
pub fn plan(
    endpoints: Option<&Endpoints>,
    service: Option<&Service>,
    slices: &[Arc<EndpointSlice>],
) -> Vec<Action> {
    let mirrored = endpoints.zip(service).filter(|(e, service)| is_mirrored(e, service));
    let mut wanted = mirrored.map(|(endpoints, _)| wanted(endpoints)).unwrap_or_default();
    let mut actions = Vec::new();
    let is_ours = |slice: &&Arc<EndpointSlice>| {
        let labels = slice.metadata.labels.as_ref();
        labels.and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|by| by == MIRROR)
            && slice.metadata.deletion_timestamp.is_none()
    };
    for have in slices.iter().filter(is_ours) {
        let name = have.metadata.name.clone().unwrap_or_default();
        match wanted.remove(&name) {
            Some(mut slice) => {
                let same = slice.endpoints == have.endpoints
                    && slice.ports == have.ports
                    && slice.metadata.labels == have.metadata.labels
                    && slice.metadata.owner_references == have.metadata.owner_references;
                if !same {
                    slice.metadata.resource_version = have.metadata.resource_version.clone();
                    actions.push(Action::Update(slice));
                }
            }
            None => {
                let uid = have.metadata.uid.clone().unwrap_or_default();
                actions.push(Action::Delete { name, uid });
            }
        }
    }
    actions.extend(wanted.into_values().map(Action::Create));
    actions
}

/// The slices that mirror the Endpoints, by name.
fn wanted(endpoints: &Endpoints) -> BTreeMap<String, EndpointSlice> {
    let mut slices = BTreeMap::new();
    for (at, subset) in endpoints.subsets.iter().flatten().enumerate() {
        for family in ["IPv4", "IPv6"] {
            let found = addresses(subset, family);
            if found.is_empty() {
                continue;
            }
            let slice = slice(endpoints, subset, family, found, at);
            slices.insert(slice.metadata.name.clone().unwrap_or_default(), slice);
        }
    }
    slices
}

fn addresses(subset: &EndpointSubset, family: &str) -> Vec<Endpoint> {
    let ready = subset.addresses.iter().flatten().map(|address| (address, true));
    let not_ready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
    let fits = |(address, _): &(&EndpointAddress, bool)| {
        let ip: Option<IpAddr> = address.ip.parse().ok();
        ip.is_some_and(|ip| ip.is_ipv4() == (family == "IPv4"))
    };
    ready.chain(not_ready).filter(fits).take(ADDRESSES_MAX).map(endpoint).collect()
}

fn endpoint((address, ready): (&EndpointAddress, bool)) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: None,
            terminating: None,
        }),
        hostname: address.hostname.clone().filter(|name| !name.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn slice(
    endpoints: &Endpoints,
    subset: &EndpointSubset,
    family: &str,
    found: Vec<Endpoint>,
    at: usize,
) -> EndpointSlice {
    let meta = &endpoints.metadata;
    let name = meta.name.clone().unwrap_or_default();
    let mut labels = meta.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), name.clone());
    labels.insert(MANAGED_BY.to_owned(), MIRROR.to_owned());
    let ports = subset.ports.iter().flatten().map(|port| EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
        app_protocol: port.app_protocol.clone(),
    });
    EndpointSlice {
        address_type: family.to_owned(),
        metadata: ObjectMeta {
            name: Some(format!("{name}-{}-{at}", family.to_lowercase())),
            namespace: meta.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Endpoints".to_owned(),
                name,
                uid: meta.uid.clone().unwrap_or_default(),
                controller: Some(true),
                block_owner_deletion: Some(true),
            }]),
            ..ObjectMeta::default()
        },
        endpoints: Some(found),
        ports: Some(ports.collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn endpoints(labels: Value) -> Endpoints {
        serde_json::from_value(json!({
            "metadata": {"name": "db", "namespace": "default", "uid": "e", "labels": labels},
            "subsets": [{"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
                "notReadyAddresses": [{"ip": "10.0.0.2"}],
                "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}]}]}))
        .expect("Endpoints")
    }

    fn service(selector: Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": "db"}, "spec": {"selector": selector}}))
            .expect("a Service")
    }

    #[test]
    fn each_subset_and_family_has_a_slice_and_nothing_is_written_twice() {
        let (endpoints, service) = (endpoints(json!({"a": "b"})), service(json!(null)));
        let made: Vec<EndpointSlice> = plan(Some(&endpoints), Some(&service), &[])
            .into_iter()
            .map(|action| match action {
                Action::Create(slice) => slice,
                other => panic!("{other:?}"),
            })
            .collect();
        let names: Vec<_> =
            made.iter().filter_map(|slice| slice.metadata.name.as_deref()).collect();
        assert_eq!(names, ["db-ipv4-0", "db-ipv6-0"]);
        let told = serde_json::to_value(&made[0]).expect("a slice is valid JSON");
        assert_eq!(told["endpoints"][1]["conditions"]["ready"], false);
        assert_eq!(told["ports"][0]["port"], 5432);
        assert_eq!(told["metadata"]["labels"][MANAGED_BY], MIRROR);
        assert_eq!(told["metadata"]["labels"]["a"], "b");
        let there: Vec<_> = made.into_iter().map(Arc::new).collect();
        assert!(plan(Some(&endpoints), Some(&service), &there).is_empty());
        let gone = plan(None, Some(&service), &there);
        assert!(gone.iter().all(|action| matches!(action, Action::Delete { .. })));
        assert_eq!(gone.len(), 2);
    }

    #[test]
    fn what_is_selected_or_marked_is_not_mirrored() {
        let marked = endpoints(json!({SKIP: "true"}));
        assert!(plan(Some(&marked), Some(&service(json!(null))), &[]).is_empty());
        let plain = endpoints(json!({}));
        assert!(plan(Some(&plain), Some(&service(json!({"app": "db"}))), &[]).is_empty());
        assert!(plan(Some(&plain), None, &[]).is_empty());
    }
}
