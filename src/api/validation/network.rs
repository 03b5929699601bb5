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

const CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
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

/// The rules of an Ingress.
pub fn ingress(object: &Object) -> Errors {
    let (mut errors, path, spec) = (Vec::new(), Path::new("spec"), &object["spec"]);
    let rules = list(&spec["rules"]);
    if rules.is_empty() && !spec["defaultBackend"].is_object() {
        let why = "either `defaultBackend` or `rules` must be specified";
        errors.push(path.invalid(Value::Array(Vec::new()), why));
    }
    if let backend @ Value::Object(_) = &spec["defaultBackend"] {
        ingress_backend(&mut errors, &path.child("defaultBackend"), backend);
    }
    for (at, rule) in rules.iter().enumerate() {
        let path = path.child("rules").index(at);
        ingress_host(&mut errors, &path.child("host"), text(&rule["host"]));
        if rule["http"].is_object() {
            ingress_paths(&mut errors, &path.child("http").child("paths"), &rule["http"]["paths"]);
        }
    }
    for (at, entry) in list(&spec["tls"]).iter().enumerate() {
        let path = path.child("tls").index(at).child("hosts");
        for (at, host) in list(&entry["hosts"]).iter().enumerate() {
            ingress_host(&mut errors, &path.index(at), text(host));
        }
    }
    if let Some(class) = spec["ingressClassName"].as_str() {
        judged(&mut errors, &path.child("ingressClassName"), class, names::dns_subdomain);
    }
    errors
}

/// A name of the DNS, whose first label may be `*`.
fn ingress_host(errors: &mut Errors, path: &Path, host: &str) {
    if host.is_empty() {
        return;
    }
    if host.parse::<IpAddr>().is_ok() {
        errors.push(path.invalid(host, "must be a DNS name, not an IP address"));
        return;
    }
    match host.strip_prefix("*.") {
        Some(below) if names::dns_subdomain(below).is_empty() => {}
        Some(_) | None if host.contains('*') => errors.push(path.invalid(
            host,
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS \
             subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and \
             end with an alphanumeric character (e.g. '*.example.com', regex used for validation \
             is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
        )),
        _ => judged(errors, path, host, names::dns_subdomain),
    }
}

fn ingress_paths(errors: &mut Errors, path: &Path, paths: &Value) {
    const TYPES: [&str; 3] = ["Exact", "ImplementationSpecific", "Prefix"];
    if list(paths).is_empty() {
        errors.push(path.required(""));
    }
    for (at, entry) in list(paths).iter().enumerate() {
        let path = path.index(at);
        let (said, at) = (text(&entry["path"]), path.child("path"));
        match entry["pathType"].as_str() {
            None => errors.push(path.child("pathType").required("pathType must be specified")),
            Some("Exact" | "Prefix") if !said.starts_with('/') => {
                errors.push(at.invalid(said, "must be an absolute path"));
            }
            Some("Exact" | "Prefix") => {
                for odd in ["//", "/./", "/../", "%2f", "%2F"] {
                    if said.contains(odd) {
                        errors.push(at.invalid(said, format!("must not contain '{odd}'")));
                    }
                }
                for odd in ["/..", "/."] {
                    if said.ends_with(odd) {
                        errors.push(at.invalid(said, format!("cannot end with '{odd}'")));
                    }
                }
            }
            Some("ImplementationSpecific") => {
                if !said.is_empty() && !said.starts_with('/') {
                    errors.push(at.invalid(said, "must be an absolute path"));
                }
            }
            Some(odd) => errors.push(path.child("pathType").not_supported(odd, &TYPES)),
        }
        ingress_backend(errors, &path.child("backend"), &entry["backend"]);
    }
}

fn ingress_backend(errors: &mut Errors, path: &Path, backend: &Value) {
    let service = &backend["service"];
    match (service.is_object(), backend["resource"].is_object()) {
        (true, true) => {
            errors.push(path.invalid("", "cannot set both resource and service backends"));
        }
        (false, false) => {
            errors.push(path.invalid("", "resource or service backend is required"));
        }
        (false, true) => {}
        (true, false) => {
            let at = path.child("service").child("name");
            super::required_name(errors, &at, &service["name"], names::dns_1035_label);
            let port = &service["port"];
            let number = port["number"].as_i64().filter(|number| *number != 0);
            let at = path.child("service").child("port");
            match (text(&port["name"]), number) {
                ("", None) => errors.push(path.required("port name or number is required")),
                ("", Some(number)) => {
                    let wrong = names::port_number(number);
                    let at = at.child("number");
                    errors.extend(wrong.iter().map(|why| at.invalid(number, why)));
                }
                (name, None) => judged(errors, &at.child("name"), name, names::port_name),
                _ => errors.push(path.invalid("", "cannot set both port name & port number")),
            }
        }
    }
}

/// The rules of a NetworkPolicy.
pub fn network_policy(object: &Object) -> Errors {
    let (mut errors, path, spec) = (Vec::new(), Path::new("spec"), &object["spec"]);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for (at, rule) in list(&spec[direction]).iter().enumerate() {
            let path = path.child(direction).index(at);
            for (at, port) in list(&rule["ports"]).iter().enumerate() {
                policy_port(&mut errors, &path.child("ports").index(at), port);
            }
            for (at, peer) in list(&rule[peers]).iter().enumerate() {
                policy_peer(&mut errors, &path.child(peers).index(at), peer);
            }
        }
    }
    let types = list(&spec["policyTypes"]);
    let path = path.child("policyTypes");
    if types.len() > 2 {
        errors.push(path.invalid(types.to_vec(), "may not specify more than two policyTypes"));
        return errors;
    }
    for (at, said) in types.iter().enumerate() {
        one_of(&mut errors, &path.index(at), said, &["Egress", "Ingress"]);
    }
    errors
}

fn policy_port(errors: &mut Errors, path: &Path, port: &Value) {
    one_of(errors, &path.child("protocol"), &port["protocol"], &["SCTP", "TCP", "UDP"]);
    let end = port["endPort"].as_i64();
    let at = path.child("endPort");
    match (&port["port"], end) {
        (Value::Null, Some(end)) => {
            errors.push(at.invalid(end, "may not be specified when `port` is not specified"));
        }
        (Value::Null, None) => {}
        (said, end) => {
            port_or_name(errors, &path.child("port"), said);
            let Some(end) = end else { return };
            match said.as_i64() {
                Some(port) if port > end => {
                    errors.push(at.invalid(end, "must be greater than or equal to `port`"));
                }
                Some(_) => {
                    let wrong = names::port_number(end);
                    errors.extend(wrong.iter().map(|why| at.invalid(end, why)));
                }
                None => {
                    errors.push(at.invalid(end, "may not be specified when `port` is non-numeric"))
                }
            }
        }
    }
}

fn policy_peer(errors: &mut Errors, path: &Path, peer: &Value) {
    let block = &peer["ipBlock"];
    let selectors = usize::from(peer["podSelector"].is_object())
        + usize::from(peer["namespaceSelector"].is_object());
    if block.is_object() {
        let path = path.child("ipBlock");
        let cidr = text(&block["cidr"]);
        match cidr.parse::<ipnet::IpNet>() {
            _ if cidr.is_empty() => errors.push(path.child("cidr").required("")),
            Err(_) => errors.push(path.child("cidr").invalid(cidr, CIDR)),
            Ok(whole) => {
                for (at, except) in list(&block["except"]).iter().enumerate() {
                    let (said, path) = (text(except), path.child("except").index(at));
                    match said.parse::<ipnet::IpNet>() {
                        Err(_) => errors.push(path.invalid(said, CIDR)),
                        Ok(hole) if !whole.contains(&hole) || whole.trunc() == hole.trunc() => {
                            let why = format!("must be a strict subset of `cidr` ({cidr:?})");
                            errors.push(path.invalid(said, why));
                        }
                        Ok(_) => {}
                    }
                }
            }
        }
    }
    match (selectors, block.is_object()) {
        (0, false) => errors.push(path.required("must specify a peer")),
        (1.., true) => {
            errors.push(path.forbidden("may not specify both ipBlock and another peer"));
        }
        _ => {}
    }
}

/// The rules of an IngressClass.
pub fn ingress_class(object: &Object) -> Errors {
    let mut errors = Vec::new();
    let path = Path::new("spec.controller");
    let controller = text(&object["spec"]["controller"]);
    match controller.split_once('/') {
        _ if controller.is_empty() => errors.push(path.required("")),
        _ if controller.len() > 250 => errors.push(path.too_long(250)),
        Some((domain, rest)) if !domain.is_empty() && !rest.is_empty() => {
            judged(&mut errors, &path, domain, names::dns_subdomain);
        }
        _ => errors.push(
            path.invalid(controller, "must be a domain-prefixed path (such as \"acme.io/foo\")"),
        ),
    }
    errors
}

/// The rules for a change of an IngressClass: its controller stays.
pub fn ingress_class_update(new: &Object, old: &Object) -> Errors {
    let now = &new["spec"]["controller"];
    match *now == old["spec"]["controller"] {
        true => Vec::new(),
        false => vec![Path::new("spec.controller").invalid(now.clone(), super::IMMUTABLE)],
    }
}
