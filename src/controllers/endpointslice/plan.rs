//! Which EndpointSlices a Service should have, with as few writes as possible
//! (`k8s.io/endpointslice/reconciler.go`).
//!
//! Pods that resolve the Service's ports alike share slices of at most [`MAX_ENDPOINTS`]. A pod
//! stays in the slice in which it is; new ones go where slices are written anyway, then where they
//! fit, then into new slices.
//!
//! **Invariant:** every pod is in exactly one slice an address family.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::controllers::context::SERVICE_NAME;
use crate::controllers::selector;
use crate::controllers::view::Pod;

/// `--max-endpoints-per-slice`.
pub const MAX_ENDPOINTS: usize = 100;
/// Who writes the slices of a Service with a selector.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// That is this controller.
pub const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Labels the slices and Endpoints of a headless Service.
pub const HEADLESS: &str = "service.kubernetes.io/headless";

/// What was observed.
pub struct Observed<'a> {
    pub service: &'a Service,
    /// The pods of its namespace.
    pub pods: &'a [Arc<Pod>],
    /// The slices that name the Service.
    pub slices: &'a [Arc<EndpointSlice>],
    /// The zone of a node, where it has one.
    pub zone: &'a dyn Fn(&str) -> Option<String>,
}

/// A thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Make this slice; the name is still missing.
    Create(EndpointSlice),
    /// Put this in the place of the slice of its name.
    Update(EndpointSlice),
    /// Delete the slice of that name and uid.
    Delete { name: String, uid: String },
}

/// A port as it is resolved for a pod: name, protocol, number, application protocol.
pub type Port = (String, String, i32, Option<String>);

/// Whether endpoints are to be kept for the Service at all.
pub fn is_selected(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| {
        spec.type_.as_deref() != Some("ExternalName")
            && spec.selector.as_ref().is_some_and(|selector| !selector.is_empty())
    })
}

/// Whether the Service has no virtual IP.
pub fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

/// The pods that the Service selects and that have an address.
pub fn backends<'a>(service: &Service, pods: &'a [Arc<Pod>]) -> Vec<&'a Pod> {
    let selector = service.spec.as_ref().and_then(|s| s.selector.clone()).unwrap_or_default();
    let serves = |pod: &&Arc<Pod>| {
        !pod.is_terminal() && !pod.ips.is_empty() && selector::has_all(&selector, &pod.labels)
    };
    pods.iter().filter(serves).map(AsRef::as_ref).collect()
}

/// The Service's ports as the pod serves them; a named port that it does not have is left out.
pub fn resolve(service: &Service, pod: &Pod) -> Vec<Port> {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.clone()).unwrap_or_default();
    let one = |port: ServicePort| {
        let protocol = port.protocol.unwrap_or_else(|| "TCP".to_owned());
        let number = match &port.target_port {
            None => port.port,
            Some(IntOrString::Int(0)) => port.port,
            Some(IntOrString::Int(number)) => *number,
            Some(IntOrString::String(name)) => {
                let declared = pod.ports.iter().find(|p| p.name == *name && p.protocol == protocol);
                declared?.port
            }
        };
        Some((port.name.unwrap_or_default(), protocol, number, port.app_protocol))
    };
    ports.into_iter().filter_map(one).collect()
}

/// The host name under which the pod is known below the Service, where it has one.
pub fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let name = service.metadata.name.as_deref().unwrap_or_default();
    (!pod.hostname.is_empty() && pod.subdomain == name).then(|| pod.hostname.clone())
}

fn endpoint(observed: &Observed<'_>, pod: &Pod, ip: String) -> Endpoint {
    let spec = observed.service.spec.as_ref();
    let publish = spec.and_then(|spec| spec.publish_not_ready_addresses) == Some(true);
    let (serving, terminating) = (pod.ready.is_some(), pod.deleting.is_some());
    Endpoint {
        addresses: vec![ip],
        conditions: Some(EndpointConditions {
            ready: Some(publish || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname(observed.service, pod),
        node_name: Some(pod.node.clone()).filter(|node| !node.is_empty()),
        target_ref: Some(pod.reference()),
        zone: (observed.zone)(&pod.node),
        ..Endpoint::default()
    }
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    let name = service.metadata.name.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), name);
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels
}

fn owners(service: &Service) -> Vec<OwnerReference> {
    vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Service".to_owned(),
        name: service.metadata.name.clone().unwrap_or_default(),
        uid: service.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }]
}

fn slice(
    service: &Service,
    family: &str,
    ports: &[Port],
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    let ports = ports.iter().map(|(name, protocol, port, app)| EndpointPort {
        name: Some(name.clone()),
        protocol: Some(protocol.clone()),
        port: Some(*port),
        app_protocol: app.clone(),
    });
    EndpointSlice {
        metadata: ObjectMeta {
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels(service)),
            owner_references: Some(owners(service)),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: Some(endpoints),
        ports: Some(ports.collect()),
    }
}

fn ports_of(slice: &EndpointSlice) -> Vec<Port> {
    let one = |port: &EndpointPort| {
        (
            port.name.clone().unwrap_or_default(),
            port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            port.port.unwrap_or_default(),
            port.app_protocol.clone(),
        )
    };
    slice.ports.iter().flatten().map(one).collect()
}

fn families(service: &Service) -> Vec<String> {
    let told = service.spec.as_ref().and_then(|spec| spec.ip_families.clone());
    told.filter(|families| !families.is_empty()).unwrap_or_else(|| vec!["IPv4".to_owned()])
}

/// What to do for the Service, which must be selected ([`is_selected`]).
pub fn plan(observed: &Observed<'_>) -> Vec<Action> {
    let mut actions = Vec::new();
    let mine = |slice: &&Arc<EndpointSlice>| {
        let labels = slice.metadata.labels.as_ref();
        labels.and_then(|all| all.get(MANAGED_BY)).map(String::as_str) == Some(MANAGER)
            && slice.metadata.deletion_timestamp.is_none()
    };
    let slices: Vec<&EndpointSlice> =
        observed.slices.iter().filter(mine).map(AsRef::as_ref).collect();
    let families = families(observed.service);
    for slice in slices.iter().filter(|slice| !families.contains(&slice.address_type)) {
        actions.push(delete(slice));
    }
    for family in &families {
        let existing: Vec<&EndpointSlice> =
            slices.iter().copied().filter(|slice| slice.address_type == *family).collect();
        plan_family(observed, family, &existing, &mut actions);
    }
    actions
}

fn delete(slice: &EndpointSlice) -> Action {
    Action::Delete {
        name: slice.metadata.name.clone().unwrap_or_default(),
        uid: slice.metadata.uid.clone().unwrap_or_default(),
    }
}

fn plan_family(
    observed: &Observed<'_>,
    family: &str,
    existing: &[&EndpointSlice],
    actions: &mut Vec<Action>,
) {
    let mut groups: BTreeMap<Vec<Port>, BTreeMap<String, Endpoint>> = BTreeMap::new();
    for pod in backends(observed.service, observed.pods) {
        let ip = pod.ips.iter().find(|ip| {
            let six = ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6());
            six == (family == "IPv6")
        });
        let Some(ip) = ip else { continue };
        let ports = resolve(observed.service, pod);
        let endpoint = endpoint(observed, pod, ip.clone());
        groups.entry(ports).or_default().insert(pod.uid.clone(), endpoint);
    }
    if groups.is_empty() {
        // One empty slice tells that the Service was seen and has no endpoints.
        groups.insert(Vec::new(), BTreeMap::new());
    }
    for slice in existing.iter().filter(|slice| !groups.contains_key(&ports_of(slice))) {
        actions.push(delete(slice));
    }
    for (ports, wanted) in groups {
        let existing: Vec<&EndpointSlice> =
            existing.iter().copied().filter(|slice| ports_of(slice) == ports).collect();
        plan_group(observed, family, &ports, wanted, &existing, actions);
    }
}

/// A slice while endpoints are moved about.
struct Draft<'a> {
    slice: &'a EndpointSlice,
    endpoints: Vec<Endpoint>,
    dirty: bool,
}

fn plan_group(
    observed: &Observed<'_>,
    family: &str,
    ports: &[Port],
    mut wanted: BTreeMap<String, Endpoint>,
    existing: &[&EndpointSlice],
    actions: &mut Vec<Action>,
) {
    let placeholder = wanted.is_empty() && ports.is_empty();
    let (labels, owners) = (labels(observed.service), owners(observed.service));
    let mut drafts: Vec<Draft<'_>> = existing
        .iter()
        .map(|slice| {
            let mut endpoints = Vec::new();
            let mut dirty = slice.metadata.labels.as_ref() != Some(&labels)
                || slice.metadata.owner_references.as_ref() != Some(&owners);
            for old in slice.endpoints.iter().flatten() {
                let uid = old.target_ref.as_ref().and_then(|t| t.uid.clone()).unwrap_or_default();
                match wanted.remove(&uid) {
                    Some(new) => {
                        dirty |= new != *old;
                        endpoints.push(new);
                    }
                    None => dirty = true,
                }
            }
            Draft { slice, endpoints, dirty }
        })
        .collect();
    let mut rest: Vec<Endpoint> = wanted.into_values().collect();
    fill(&mut drafts, &mut rest);
    let mut kept = 0;
    for draft in drafts {
        if draft.endpoints.is_empty() && !(placeholder && kept == 0) {
            actions.push(delete(draft.slice));
            continue;
        }
        kept += 1;
        if draft.dirty {
            let mut update = draft.slice.clone();
            update.metadata.labels = Some(labels.clone());
            update.metadata.owner_references = Some(owners.clone());
            update.endpoints = Some(draft.endpoints);
            actions.push(Action::Update(update));
        }
    }
    for chunk in rest.chunks(MAX_ENDPOINTS) {
        kept += 1;
        actions.push(Action::Create(slice(observed.service, family, ports, chunk.to_vec())));
    }
    if placeholder && kept == 0 {
        actions.push(Action::Create(slice(observed.service, family, ports, Vec::new())));
    }
}

/// Puts `rest` into slices: those that are written anyway, fullest first, then one that takes all.
fn fill(drafts: &mut [Draft<'_>], rest: &mut Vec<Endpoint>) {
    let mut order: Vec<usize> = (0..drafts.len()).filter(|i| drafts[*i].dirty).collect();
    order.sort_by_key(|i| std::cmp::Reverse(drafts[*i].endpoints.len()));
    for index in order {
        let draft = &mut drafts[index];
        // A slice that lost all its endpoints is better deleted, unless it is needed.
        let room = MAX_ENDPOINTS.saturating_sub(draft.endpoints.len()).min(rest.len());
        draft.endpoints.extend(rest.drain(..room));
    }
    if rest.is_empty() {
        return;
    }
    let fits = |draft: &&mut Draft<'_>| {
        !draft.dirty && draft.endpoints.len() + rest.len() <= MAX_ENDPOINTS
    };
    let fullest = drafts.iter_mut().filter(fits).max_by_key(|draft| draft.endpoints.len());
    if let Some(draft) = fullest {
        draft.endpoints.append(rest);
        draft.dirty = true;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::client::meta::Key;
    use crate::controllers::view::{self, Phase};
    use jiff::Timestamp;
    use serde_json::{Value, json};

    pub(in crate::controllers::endpointslice) fn service(spec: Value) -> Service {
        let mut whole = json!({"selector": {"app": "web"}, "clusterIP": "10.43.0.9",
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]});
        for (name, value) in spec.as_object().expect("fields") {
            whole[name] = value.clone();
        }
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "default",
            "uid": "svc", "labels": {"team": "a"}}, "spec": whole}))
        .expect("a Service")
    }

    pub(in crate::controllers::endpointslice) fn pod(n: usize) -> Pod {
        Pod {
            key: Key::new("default", format!("web-{n}")),
            uid: format!("u{n:04}"),
            labels: [("app".to_owned(), "web".to_owned())].into(),
            node: "one".to_owned(),
            phase: Phase::Running,
            ready: Some(Timestamp::UNIX_EPOCH),
            ips: vec![format!("10.128.{}.{}", n / 250, n % 250 + 1)],
            ..Pod::default()
        }
    }

    fn planned(service: &Service, pods: Vec<Pod>, slices: &[EndpointSlice]) -> Vec<Action> {
        let pods: Vec<_> = pods.into_iter().map(Arc::new).collect();
        let slices: Vec<_> = slices.iter().cloned().map(Arc::new).collect();
        let zone = |_: &str| None;
        plan(&Observed { service, pods: &pods, slices: &slices, zone: &zone })
    }

    /// Does what was planned to the slices.
    fn applied(mut slices: Vec<EndpointSlice>, actions: Vec<Action>) -> Vec<EndpointSlice> {
        for action in actions {
            match action {
                Action::Create(mut slice) => {
                    slice.metadata.name = Some(format!("web-{}", slices.len()));
                    slices.push(slice);
                }
                Action::Update(slice) => {
                    let at = slices.iter().position(|s| s.metadata.name == slice.metadata.name);
                    slices[at.expect("it is there")] = slice;
                }
                Action::Delete { name, .. } => {
                    slices.retain(|slice| slice.metadata.name.as_deref() != Some(name.as_str()));
                }
            }
        }
        slices
    }

    fn sizes(slices: &[EndpointSlice]) -> Vec<usize> {
        slices.iter().map(|slice| slice.endpoints.as_ref().map_or(0, Vec::len)).collect()
    }

    #[test]
    fn a_pod_is_told_with_its_conditions() {
        let ready = pod(1);
        let starting = Pod { ready: None, ..pod(2) };
        let leaving = Pod { deleting: Some(Timestamp::UNIX_EPOCH), ..pod(3) };
        let over = Pod { phase: Phase::Failed, ..pod(4) };
        let no_ip = Pod { ips: vec![], ..pod(5) };
        let slices = applied(
            vec![],
            planned(&service(json!({})), vec![ready, starting, leaving, over, no_ip], &[]),
        );
        let told: Vec<_> = slices[0]
            .endpoints
            .iter()
            .flatten()
            .map(|endpoint| {
                let c = endpoint.conditions.clone().unwrap_or_default();
                (c.ready == Some(true), c.serving == Some(true), c.terminating == Some(true))
            })
            .collect();
        assert_eq!(told, [(true, true, false), (false, false, false), (false, true, true)]);
        let labels = slices[0].metadata.labels.clone().unwrap_or_default();
        assert_eq!(labels["team"], "a");
        assert_eq!(labels[SERVICE_NAME], "web");
        let endpoint = &slices[0].endpoints.as_ref().expect("endpoints")[0];
        assert_eq!(endpoint.node_name.as_deref(), Some("one"));
        assert_eq!(endpoint.target_ref.as_ref().and_then(|t| t.name.as_deref()), Some("web-1"));
    }

    #[test]
    fn addresses_that_are_not_ready_are_published_where_asked() {
        let service = service(json!({"publishNotReadyAddresses": true}));
        let slices = applied(vec![], planned(&service, vec![Pod { ready: None, ..pod(1) }], &[]));
        let endpoint = &slices[0].endpoints.as_ref().expect("endpoints")[0];
        let conditions = endpoint.conditions.clone().expect("conditions");
        assert_eq!((conditions.ready, conditions.serving), (Some(true), Some(false)));
    }

    #[test]
    fn slices_hold_a_hundred_and_nothing_is_written_twice() {
        let service = service(json!({}));
        let pods: Vec<Pod> = (0..250).map(pod).collect();
        let slices = applied(vec![], planned(&service, pods.clone(), &[]));
        assert_eq!(sizes(&slices), [100, 100, 50]);
        assert!(planned(&service, pods, &slices).is_empty());
    }

    #[test]
    fn one_new_pod_is_one_write() {
        let service = service(json!({}));
        let pods: Vec<Pod> = (0..150).map(pod).collect();
        let slices = applied(vec![], planned(&service, pods, &[]));
        let actions = planned(&service, (0..151).map(pod).collect(), &slices);
        assert_eq!(actions.len(), 1);
        assert_eq!(sizes(&applied(slices, actions)), [100, 51]);
    }

    #[test]
    fn a_slice_without_endpoints_goes_and_a_service_without_any_keeps_a_placeholder() {
        let service = service(json!({}));
        let slices = applied(vec![], planned(&service, (0..101).map(pod).collect(), &[]));
        assert_eq!(sizes(&slices), [100, 1]);
        let actions = planned(&service, (0..100).map(pod).collect(), &slices);
        let slices = applied(slices, actions);
        assert_eq!(sizes(&slices), [100]);
        let slices = applied(slices.clone(), planned(&service, vec![], &slices));
        assert_eq!(sizes(&slices), [0]);
        assert!(planned(&service, vec![], &slices).is_empty());
    }

    #[test]
    fn named_ports_are_resolved_pod_by_pod() {
        let service =
            service(json!({"ports": [{"name": "http", "port": 80, "targetPort": "web"}]}));
        let with = |n, port| Pod {
            ports: vec![view::Port { name: "web".to_owned(), port, protocol: "TCP".to_owned() }],
            ..pod(n)
        };
        let slices = applied(
            vec![],
            planned(&service, vec![with(1, 8080), with(2, 9090), with(3, 8080)], &[]),
        );
        let told: Vec<_> =
            slices.iter().map(|s| (ports_of(s)[0].2, sizes(std::slice::from_ref(s))[0])).collect();
        assert_eq!(told, [(8080, 2), (9090, 1)]);
    }

    #[test]
    fn pods_of_a_headless_service_are_told_by_host_name() {
        let service = service(json!({"clusterIP": "None", "ports": []}));
        let named = Pod { hostname: "db-0".to_owned(), subdomain: "web".to_owned(), ..pod(1) };
        let slices = applied(vec![], planned(&service, vec![named], &[]));
        let labels = slices[0].metadata.labels.clone().unwrap_or_default();
        assert!(labels.contains_key(HEADLESS));
        let endpoint = &slices[0].endpoints.as_ref().expect("endpoints")[0];
        assert_eq!(endpoint.hostname.as_deref(), Some("db-0"));
    }
}
