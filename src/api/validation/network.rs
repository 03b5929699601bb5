//! Rules for Services and EndpointSlices.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use super::container::{port_number, port_or_name, protocol};
use super::{Errors, judged, one_of, text};
use crate::api::Object;
use crate::api::field::Path;
use crate::api::meta::{self, list};
use crate::api::names;

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

/// The rules of a Service (`ValidateService`).
pub fn service(object: &Object) -> Errors {
    let (mut errors, spec) = (Vec::new(), &object["spec"]);
    let path = Path::new("spec");
    let kind = text(&spec["type"]);
    let headless = spec["clusterIP"] == "None";
    if list(&spec["ports"]).is_empty() && !headless && kind != "ExternalName" {
        errors.push(path.child("ports").required(""));
    }
    if kind == "LoadBalancer" && headless {
        let at = path.child("clusterIPs").index(0);
        errors.push(at.invalid("None", "may not be set to 'None' for LoadBalancer services"));
    }
    if kind == "NodePort" && headless {
        let at = path.child("clusterIPs").index(0);
        errors.push(at.invalid("None", "may not be set to 'None' for NodePort services"));
    }
    if kind == "ExternalName" {
        match text(&spec["externalName"]).trim_end_matches('.') {
            "" => errors.push(path.child("externalName").required("")),
            said => judged(&mut errors, &path.child("externalName"), said, names::dns_subdomain),
        }
    }
    errors.extend(meta::validate_labels(&spec["selector"], &path.child("selector")));
    one_of(&mut errors, &path.child("type"), &spec["type"], &TYPES);
    let affinities = ["ClientIP", "None"];
    one_of(&mut errors, &path.child("sessionAffinity"), &spec["sessionAffinity"], &affinities);
    let policies = ["Cluster", "Local"];
    for field in ["externalTrafficPolicy", "internalTrafficPolicy"] {
        one_of(&mut errors, &path.child(field), &spec[field], &policies);
    }
    ports(&mut errors, &path.child("ports"), spec);
    addresses(&mut errors, &path, spec);
    errors
}

fn ports(errors: &mut Errors, path: &Path, spec: &Value) {
    let ports = list(&spec["ports"]);
    let with_node_ports = matches!(text(&spec["type"]), "NodePort" | "LoadBalancer");
    let (mut named, mut seen, mut on_node) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (at, port) in ports.iter().enumerate() {
        let path = path.index(at);
        let name = text(&port["name"]);
        if name.is_empty() && ports.len() > 1 {
            errors.push(path.child("name").required(""));
        } else if !name.is_empty() {
            judged(errors, &path.child("name"), name, names::dns_label);
            if !named.insert(name) {
                errors.push(path.child("name").duplicate(name));
            }
        }
        let number = port["port"].as_i64().unwrap_or(0);
        port_number(errors, &path.child("port"), number);
        protocol(errors, &path.child("protocol"), &port["protocol"]);
        port_or_name(errors, &path.child("targetPort"), &port["targetPort"]);
        let key = (number, text(&port["protocol"]));
        if number > 0 && !seen.insert(key) {
            let told = serde_json::json!({"protocol": port["protocol"], "port": number});
            errors.push(path.duplicate(told));
        }
        let node = port["nodePort"].as_i64().unwrap_or(0);
        if node != 0 && !with_node_ports {
            let kind = text(&spec["type"]);
            let why = format!("may not be used when `type` is '{kind}'");
            errors.push(path.child("nodePort").forbidden(why));
        } else if node != 0 && !on_node.insert((node, text(&port["protocol"]))) {
            errors.push(path.child("nodePort").duplicate(node));
        }
    }
}

fn addresses(errors: &mut Errors, path: &Path, spec: &Value) {
    let ips = list(&spec["clusterIPs"]);
    let one = text(&spec["clusterIP"]);
    if spec["type"] == "ExternalName" {
        if !one.is_empty() {
            let why = "may not be set for ExternalName services";
            errors.push(path.child("clusterIP").invalid(one, why));
        }
        return;
    }
    if let Some(first) = ips.first()
        && text(first) != one
    {
        let at = path.child("clusterIPs").index(0);
        errors.push(at.invalid(ips.to_vec(), "first value must match `clusterIP`"));
    }
    for (at, ip) in ips.iter().enumerate() {
        let said = text(ip);
        if said != "None" && !said.is_empty() && said.parse::<IpAddr>().is_err() {
            let at = path.child("clusterIPs").index(at);
            errors.push(
                at.invalid(said, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
            );
        }
    }
    for (at, ip) in list(&spec["externalIPs"]).iter().enumerate() {
        let said = text(ip);
        if said.parse::<IpAddr>().is_err() {
            let at = path.child("externalIPs").index(at);
            errors.push(
                at.invalid(said, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
            );
        }
    }
}

/// The rules for a change of a Service: an address stays once it is set.
pub fn service_update(new: &Object, old: &Object) -> Errors {
    let (spec, was) = (&new["spec"], &old["spec"]);
    let external = |s: &Value| s["type"] == "ExternalName";
    if external(spec) || external(was) || text(&was["clusterIP"]).is_empty() {
        return Vec::new();
    }
    if spec["clusterIP"] == was["clusterIP"] {
        return Vec::new();
    }
    let told = match &spec["clusterIPs"] {
        Value::Array(list) => list.clone(),
        _ => vec![spec["clusterIP"].clone()],
    };
    vec![Path::new("spec.clusterIPs").index(0).invalid(told, "may not change once set")]
}

/// The rules of an EndpointSlice.
pub fn endpoint_slice(object: &Object) -> Errors {
    let mut errors = Vec::new();
    let families = ["FQDN", "IPv4", "IPv6"];
    let path = Path::new("addressType");
    match text(&object["addressType"]) {
        "" => errors.push(path.required("")),
        said if !families.contains(&said) => errors.push(path.not_supported(said, &families)),
        _ => {}
    }
    let endpoints = list(&object["endpoints"]);
    if endpoints.len() > 1000 {
        errors.push(Path::new("endpoints").too_many(endpoints.len(), 1000));
    }
    for (at, endpoint) in endpoints.iter().enumerate() {
        let path = Path::new("endpoints").index(at).child("addresses");
        let addresses = list(&endpoint["addresses"]);
        if addresses.is_empty() {
            errors.push(path.required("must contain at least 1 address"));
        }
        if addresses.len() > 100 {
            errors.push(path.too_many(addresses.len(), 100));
        }
        for (at, address) in addresses.iter().enumerate() {
            let said = text(address);
            let fits = match text(&object["addressType"]) {
                "IPv4" => said.parse::<std::net::Ipv4Addr>().is_ok(),
                "IPv6" => said.parse::<std::net::Ipv6Addr>().is_ok(),
                _ => names::dns_subdomain(said).is_empty(),
            };
            if !fits {
                let family = text(&object["addressType"]);
                errors.push(
                    path.index(at).invalid(said, format!("must be a valid {family} address")),
                );
            }
        }
    }
    let mut named = BTreeSet::new();
    for (at, port) in list(&object["ports"]).iter().enumerate() {
        let path = Path::new("ports").index(at);
        let name = text(&port["name"]);
        if !name.is_empty() {
            judged(&mut errors, &path.child("name"), name, names::dns_label);
        }
        if !named.insert(name) {
            errors.push(path.child("name").duplicate(name));
        }
        protocol(&mut errors, &path.child("protocol"), &port["protocol"]);
    }
    errors
}
