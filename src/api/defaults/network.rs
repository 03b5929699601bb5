//! Defaults of Services, endpoints and network policies.

use serde_json::{Value, json};

use super::{each, set};
use crate::api::Object;
use crate::api::meta::entry;

pub(super) fn service(object: &mut Object) {
    let spec = entry(object, "spec");
    set(spec, "sessionAffinity", "None");
    if spec["sessionAffinity"] == "ClientIP" {
        set(spec, "sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 10800}}));
    }
    set(spec, "type", "ClusterIP");
    for port in each(spec, "ports") {
        set(port, "protocol", "TCP");
        if port.get("targetPort") == Some(&Value::from(0)) {
            port.remove("targetPort");
        }
        if let Some(number) = port.get("port").cloned() {
            set(port, "targetPort", number);
        }
    }
    let kind = spec["type"].as_str().unwrap_or_default().to_owned();
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        set(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind != "ExternalName" {
        set(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        spec.entry("allocateLoadBalancerNodePorts").or_insert(Value::Bool(true));
    }
}

pub(super) fn endpoints(object: &mut Object) {
    let Some(map) = object.as_object_mut() else { return };
    for subset in each(map, "subsets") {
        for port in each(subset, "ports") {
            set(port, "protocol", "TCP");
        }
    }
}

pub(super) fn endpoint_slice(object: &mut Object) {
    let Some(map) = object.as_object_mut() else { return };
    for port in each(map, "ports") {
        port.entry("name").or_insert(Value::String(String::new()));
        set(port, "protocol", "TCP");
    }
}

pub(super) fn network_policy(object: &mut Object) {
    let spec = entry(object, "spec");
    for direction in ["ingress", "egress"] {
        for rule in each(spec, direction) {
            for port in each(rule, "ports") {
                set(port, "protocol", "TCP");
            }
        }
    }
    let types = match spec.contains_key("egress") {
        true => json!(["Ingress", "Egress"]),
        false => json!(["Ingress"]),
    };
    set(spec, "policyTypes", types);
}
