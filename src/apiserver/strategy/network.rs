//! Services, endpoints, ingresses and network policies.

use serde_json::{Value, json};

use super::cells::{self, joined, or, text, wide};
use super::rules::{Generation, PLAIN, Rules, Status, WITH_STATUS};
use super::{AGE, NAME, Part, age};
use crate::api::Object;
use crate::api::meta::{entry, list};
use crate::api::names;
use crate::api::validation;

pub(super) const SERVICE: Rules = Rules {
    name: names::dns_1035_label,
    status: Status::Own,
    create: |o| {
        entry(o, "status").insert("loadBalancer".into(), json!({}));
        addresses(o);
    },
    update: |part, o, old| {
        if part == Part::Main {
            keep_addresses(o, old);
            addresses(o);
        }
    },
    validate: validation::service,
    validate_update: |part, new, old| match part {
        Part::Main => validation::service_update(new, old),
        Part::Status => Vec::new(),
    },
    columns: &[
        NAME,
        text("Type"),
        text("Cluster-IP"),
        text("External-IP"),
        text("Port(s)"),
        AGE,
        wide("Selector"),
    ],
    cells: |o, now| {
        let spec = &o["spec"];
        vec![
            cells::name(o),
            or(&spec["type"], ""),
            cluster_ip(o),
            external_ip(o),
            joined(list(&spec["ports"]).iter().map(port), "<none>"),
            age(o, now),
            cells::labels(&spec["selector"]),
        ]
    },
    ..PLAIN
};

/// `clusterIP` and `clusterIPs` say the same; the families go with them.
fn addresses(service: &mut Object) {
    let spec = entry(service, "spec");
    if spec.get("type").and_then(Value::as_str) == Some("ExternalName") {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            spec.remove(field);
        }
        return;
    }
    let one = spec.get("clusterIP").and_then(Value::as_str).unwrap_or_default().to_owned();
    let first = spec.get("clusterIPs").and_then(|ips| ips[0].as_str()).map(str::to_owned);
    match (one.is_empty(), first) {
        (false, None) => spec.insert("clusterIPs".into(), json!([one])),
        (true, Some(first)) => spec.insert("clusterIP".into(), json!(first)),
        _ => None,
    };
    spec.entry("ipFamilies").or_insert_with(|| json!(["IPv4"]));
    spec.entry("ipFamilyPolicy").or_insert_with(|| json!("SingleStack"));
}

/// What was allocated stays where the update leaves it out.
fn keep_addresses(service: &mut Object, old: &Object) {
    let was = &old["spec"];
    let spec = entry(service, "spec");
    let external = |s: &Value| s["type"] == "ExternalName";
    if external(was) || spec.get("type").and_then(Value::as_str) == Some("ExternalName") {
        return;
    }
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let missing = spec.get(field).is_none_or(|v| v.is_null() || v == "" || v == &json!([]));
        // A changed clusterIP is for validation to refuse, not to be papered over.
        let same_ip = spec.get("clusterIP").is_none_or(|ip| *ip == was["clusterIP"]);
        if missing && !was[field].is_null() && (field == "clusterIP" || same_ip) {
            spec.insert(field.into(), was[field].clone());
        }
    }
    let types = (spec.get("type").cloned().unwrap_or_default(), was["type"].clone());
    let with_ports = |t: &Value| t == "NodePort" || t == "LoadBalancer";
    if !with_ports(&types.0) || !with_ports(&types.1) {
        return;
    }
    let key = |p: &Value| (p["port"].clone(), p["protocol"].clone());
    let taken: Vec<Value> = list(spec.get("ports").unwrap_or(&Value::Null))
        .iter()
        .map(|p| p["nodePort"].clone())
        .collect();
    let Some(ports) = spec.get_mut("ports").and_then(Value::as_array_mut) else { return };
    for port in ports.iter_mut().filter(|p| p["nodePort"].is_null() || p["nodePort"] == 0) {
        let before = list(&was["ports"]).iter().find(|p| key(p) == key(port));
        if let Some(before) = before.map(|p| &p["nodePort"])
            && before.is_i64()
            && !taken.contains(before)
        {
            port["nodePort"] = before.clone();
        }
    }
}

fn cluster_ip(o: &Object) -> Value {
    or(&o["spec"]["clusterIP"], "<none>")
}

fn external_ip(o: &Object) -> Value {
    let spec = &o["spec"];
    let texts = |value: &Value| {
        list(value).iter().filter_map(|v| v.as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    match spec["type"].as_str().unwrap_or_default() {
        "ExternalName" => or(&spec["externalName"], "<none>"),
        "LoadBalancer" => {
            let mut all: Vec<String> = list(&o["status"]["loadBalancer"]["ingress"])
                .iter()
                .filter_map(|i| i["ip"].as_str().or(i["hostname"].as_str()).map(str::to_owned))
                .collect();
            all.extend(texts(&spec["externalIPs"]));
            joined(all.iter(), "<pending>")
        }
        _ => joined(texts(&spec["externalIPs"]).iter(), "<none>"),
    }
}

/// `80/TCP` or `80:30080/TCP`.
fn port(port: &Value) -> String {
    let protocol = port["protocol"].as_str().unwrap_or("TCP");
    match port["nodePort"].as_i64().filter(|n| *n > 0) {
        Some(node) => format!("{}:{node}/{protocol}", cells::count(&port["port"])),
        None => format!("{}/{protocol}", cells::count(&port["port"])),
    }
}

pub(super) const ENDPOINTS: Rules = Rules {
    columns: &[NAME, text("Endpoints"), AGE],
    cells: |o, now| {
        let mut all = Vec::new();
        for subset in list(&o["subsets"]) {
            let ips = || list(&subset["addresses"]).iter().filter_map(|a| a["ip"].as_str());
            match list(&subset["ports"]) {
                [] => all.extend(ips().map(str::to_owned)),
                ports => {
                    for port in ports {
                        let port = cells::count(&port["port"]);
                        all.extend(ips().map(|ip| match ip.contains(':') {
                            true => format!("[{ip}]:{port}"),
                            false => format!("{ip}:{port}"),
                        }));
                    }
                }
            }
        }
        vec![cells::name(o), some_of(&all, "<none>"), age(o, now)]
    },
    ..PLAIN
};

/// The first three, and how many more there are.
fn some_of(all: &[String], none: &str) -> Value {
    let more = all.len().saturating_sub(3);
    match joined(all.iter().take(3), none) {
        Value::String(told) if more > 0 => json!(format!("{told} + {more} more...")),
        told => told,
    }
}

pub(super) const ENDPOINT_SLICE: Rules = Rules {
    generation: Generation::Content,
    validate: validation::endpoint_slice,
    validate_update: |_, new, old| validation::immutable(new, old, "addressType"),
    columns: &[NAME, text("AddressType"), text("Ports"), text("Endpoints"), AGE],
    cells: |o, now| {
        let ports: Vec<String> = list(&o["ports"])
            .iter()
            .map(|p| match p["port"].as_i64() {
                Some(port) => port.to_string(),
                None => "*".into(),
            })
            .collect();
        let ips: Vec<String> = list(&o["endpoints"])
            .iter()
            .flat_map(|e| list(&e["addresses"]))
            .filter_map(|a| a.as_str().map(str::to_owned))
            .collect();
        vec![
            cells::name(o),
            or(&o["addressType"], ""),
            some_of(&ports, "<unset>"),
            some_of(&ips, "<unset>"),
            age(o, now),
        ]
    },
    ..PLAIN
};

pub(super) const INGRESS: Rules = Rules {
    validate: validation::ingress,
    create: |o| {
        entry(o, "status").insert("loadBalancer".into(), json!({}));
    },
    columns: &[NAME, text("Class"), text("Hosts"), text("Address"), text("Ports"), AGE],
    cells: |o, now| {
        let spec = &o["spec"];
        let hosts: Vec<String> = list(&spec["rules"])
            .iter()
            .filter_map(|r| r["host"].as_str().filter(|h| !h.is_empty()).map(str::to_owned))
            .collect();
        let balancers = list(&o["status"]["loadBalancer"]["ingress"]).iter();
        let addresses = balancers.filter_map(|i| i["ip"].as_str().or(i["hostname"].as_str()));
        let ports = if list(&spec["tls"]).is_empty() { "80" } else { "80, 443" };
        vec![
            cells::name(o),
            or(&spec["ingressClassName"], "<none>"),
            some_of(&hosts, "*"),
            joined(addresses, ""),
            json!(ports),
            age(o, now),
        ]
    },
    ..WITH_STATUS
};

pub(super) const INGRESS_CLASS: Rules = Rules {
    validate: validation::ingress_class,
    validate_update: |_, new, old| validation::ingress_class_update(new, old),
    generation: Generation::Spec,
    columns: &[NAME, text("Controller"), text("Parameters"), AGE],
    cells: |o, now| {
        let parameters = &o["spec"]["parameters"];
        let told = match parameters["kind"].as_str() {
            None => "<none>".to_owned(),
            Some(kind) => {
                let group = parameters["apiGroup"].as_str().map(|g| format!(".{g}"));
                let name = parameters["name"].as_str().unwrap_or_default();
                format!("{kind}{}/{name}", group.unwrap_or_default())
            }
        };
        vec![cells::name(o), or(&o["spec"]["controller"], ""), json!(told), age(o, now)]
    },
    ..PLAIN
};

pub(super) const NETWORK_POLICY: Rules = Rules {
    validate: validation::network_policy,
    generation: Generation::Spec,
    columns: &[NAME, text("Pod-Selector"), AGE],
    cells: |o, now| vec![cells::name(o), cells::selector(&o["spec"]["podSelector"]), age(o, now)],
    ..PLAIN
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_keeps_its_address_and_ports_where_an_update_leaves_them_out() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.43.0.9",
            "clusterIPs": ["10.43.0.9"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}]}});
        let mut new = json!({"spec": {"type": "NodePort",
            "ports": [{"port": 80, "protocol": "TCP"}, {"port": 81, "protocol": "TCP"}]}});
        keep_addresses(&mut new, &old);
        addresses(&mut new);
        assert_eq!(new["spec"]["clusterIPs"], json!(["10.43.0.9"]));
        assert_eq!(new["spec"]["ports"][0]["nodePort"], 30080);
        assert!(new["spec"]["ports"][1]["nodePort"].is_null());
    }

    #[test]
    fn rows_of_services_say_what_kubectl_says() {
        let now = "2026-01-01T00:01:00Z".parse().expect("a time");
        let service = json!({"metadata": {"name": "s", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"type": "NodePort", "clusterIP": "10.43.0.9", "selector": {"a": "b"},
                "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}]}});
        let row = (SERVICE.cells)(&service, now);
        let want = json!(["s", "NodePort", "10.43.0.9", "<none>", "80:30080/TCP", "60s", "a=b"]);
        assert_eq!(json!(row), want);
    }
}
