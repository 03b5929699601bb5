//! Rules for containers: ports, environment, mounts, probes, resources.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Errors, judged, not_negative, one_of, required, required_name, text};
use crate::api::field::Path;
use crate::api::meta::list;
use crate::api::names;
use crate::api::quantity::Quantity;

/// What containers of a pod share.
pub(super) struct Pod<'a> {
    pub volumes: BTreeSet<&'a str>,
    pub restart_policy: &'a str,
}

/// What kind of container it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Main,
    Init,
    Ephemeral,
}

/// All containers of one list; `names` holds the names that are taken.
pub(super) fn containers<'a>(
    errors: &mut Errors,
    path: &Path,
    containers: &'a Value,
    role: Role,
    pod: &Pod<'_>,
    names: &mut BTreeSet<&'a str>,
) {
    for (at, container) in list(containers).iter().enumerate() {
        let path = path.index(at);
        let name = text(&container["name"]);
        required_name(errors, &path.child("name"), &container["name"], names::dns_label);
        if !name.is_empty() && !names.insert(name) {
            errors.push(path.child("name").duplicate(name));
        }
        image(errors, &path.child("image"), &container["image"]);
        ports(errors, &path.child("ports"), &container["ports"]);
        environment(errors, &path, container);
        mounts(errors, &path.child("volumeMounts"), &container["volumeMounts"], pod);
        let restarts = role == Role::Main || container["restartPolicy"] == "Always";
        for field in ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle"] {
            if container[field].is_null() {
                continue;
            }
            let at = path.child(field);
            if role == Role::Ephemeral {
                errors.push(at.forbidden("cannot be set for an Ephemeral Container"));
            } else if !restarts {
                errors.push(
                    at.forbidden("may not be set for init containers without restartPolicy=Always"),
                );
            } else if field == "lifecycle" {
                for hook in ["postStart", "preStop"] {
                    if !container[field][hook].is_null() {
                        handler(errors, &at.child(hook), &container[field][hook]);
                    }
                }
            } else {
                probe(errors, &at, &container[field], field != "readinessProbe");
            }
        }
        resources(errors, &path.child("resources"), &container["resources"]);
        let policies = ["Always", "IfNotPresent", "Never"];
        one_of(errors, &path.child("imagePullPolicy"), &container["imagePullPolicy"], &policies);
        let at = path.child("terminationMessagePolicy");
        let policies = ["FallbackToLogsOnError", "File"];
        one_of(errors, &at, &container["terminationMessagePolicy"], &policies);
        if role == Role::Init {
            let policies = ["Always", "Never", "OnFailure"];
            one_of(errors, &path.child("restartPolicy"), &container["restartPolicy"], &policies);
        }
    }
}

fn image(errors: &mut Errors, path: &Path, image: &Value) {
    let said = text(image);
    if said.is_empty() {
        errors.push(path.required(""));
    } else if said.trim() != said {
        errors.push(path.invalid(said, "must not have leading or trailing whitespace"));
    }
}

fn ports(errors: &mut Errors, path: &Path, ports: &Value) {
    let (mut named, mut on_host) = (BTreeSet::new(), BTreeSet::new());
    for (at, port) in list(ports).iter().enumerate() {
        let path = path.index(at);
        let name = text(&port["name"]);
        if !name.is_empty() {
            judged(errors, &path.child("name"), name, names::port_name);
            if !named.insert(name) {
                errors.push(path.child("name").duplicate(name));
            }
        }
        match port["containerPort"].as_i64().unwrap_or(0) {
            0 => errors.push(path.child("containerPort").required("")),
            number => port_number(errors, &path.child("containerPort"), number),
        }
        let host = port["hostPort"].as_i64().unwrap_or(0);
        if host != 0 {
            port_number(errors, &path.child("hostPort"), host);
            let key = format!("{}/{}/{host}", text(&port["protocol"]), text(&port["hostIP"]));
            if !on_host.insert(key.clone()) {
                errors.push(path.child("hostPort").duplicate(key));
            }
        }
        protocol(errors, &path.child("protocol"), &port["protocol"]);
    }
}

pub(super) fn port_number(errors: &mut Errors, path: &Path, number: i64) {
    errors.extend(names::port_number(number).iter().map(|why| path.invalid(number, why)));
}

pub(super) fn protocol(errors: &mut Errors, path: &Path, protocol: &Value) {
    required(errors, path, protocol);
    one_of(errors, path, protocol, &["SCTP", "TCP", "UDP"]);
}

/// A port by its number or by its name.
pub(super) fn port_or_name(errors: &mut Errors, path: &Path, port: &Value) {
    match port {
        Value::String(name) => judged(errors, path, name, names::port_name),
        other => port_number(errors, path, other.as_i64().unwrap_or(0)),
    }
}

fn environment(errors: &mut Errors, path: &Path, container: &Value) {
    for (at, variable) in list(&container["env"]).iter().enumerate() {
        let path = path.child("env").index(at);
        required_name(errors, &path.child("name"), &variable["name"], names::env_name);
        if let Some(from) = variable["valueFrom"].as_object() {
            let path = path.child("valueFrom");
            if from.is_empty() {
                errors.push(path.invalid(
                    "",
                    "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, \
                     `secretKeyRef` or `fileKeyRef`",
                ));
            } else if !text(&variable["value"]).is_empty() {
                errors.push(path.invalid("", "may not be specified when `value` is not empty"));
            } else if from.len() > 1 {
                errors
                    .push(path.invalid("", "may not have more than one field specified at a time"));
            }
            value_source(errors, &path, &variable["valueFrom"]);
        }
    }
    for (at, from) in list(&container["envFrom"]).iter().enumerate() {
        let path = path.child("envFrom").index(at);
        let sources = ["configMapRef", "secretRef"];
        let said: Vec<&str> = sources.into_iter().filter(|s| from[*s].is_object()).collect();
        match said.as_slice() {
            [] => {
                errors.push(path.invalid("", "must specify one of: `configMapRef` or `secretRef`"))
            }
            [one] => {
                let name = path.child(one).child("name");
                required_name(errors, &name, &from[*one]["name"], names::dns_subdomain);
            }
            _ => errors
                .push(path.invalid("", "may not have more than one field specified at a time")),
        }
        let prefix = text(&from["prefix"]);
        if !prefix.is_empty() {
            judged(errors, &path.child("prefix"), prefix, names::env_name);
        }
    }
}

const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

fn value_source(errors: &mut Errors, path: &Path, from: &Value) {
    if from["fieldRef"].is_object() {
        let at = path.child("fieldRef").child("fieldPath");
        let field = text(&from["fieldRef"]["fieldPath"]);
        let subscript = ["metadata.annotations['", "metadata.labels['"]
            .iter()
            .any(|head| field.starts_with(head) && field.ends_with("']"));
        if field.is_empty() {
            errors.push(at.required(""));
        } else if !subscript && !ENV_FIELDS.contains(&field) {
            let known = field.starts_with("metadata.") || field.starts_with("spec.");
            errors.push(match known {
                true => at.not_supported(field, &ENV_FIELDS),
                false => at.invalid(
                    field,
                    format!("error converting fieldPath: field label not supported: {field}"),
                ),
            });
        }
    }
    for source in ["configMapKeyRef", "secretKeyRef"] {
        if from[source].is_object() {
            let at = path.child(source);
            required(errors, &at.child("name"), &from[source]["name"]);
            required_name(errors, &at.child("key"), &from[source]["key"], names::config_key);
        }
    }
    if from["resourceFieldRef"].is_object() {
        let at = path.child("resourceFieldRef").child("resource");
        required(errors, &at, &from["resourceFieldRef"]["resource"]);
    }
}

fn mounts(errors: &mut Errors, path: &Path, mounts: &Value, pod: &Pod<'_>) {
    let mut paths = BTreeSet::new();
    for (at, mount) in list(mounts).iter().enumerate() {
        let path = path.index(at);
        let name = text(&mount["name"]);
        if name.is_empty() {
            errors.push(path.child("name").required(""));
        } else if !pod.volumes.contains(name) {
            errors.push(path.child("name").not_found(name));
        }
        let target = text(&mount["mountPath"]);
        if target.is_empty() {
            errors.push(path.child("mountPath").required(""));
        } else if !paths.insert(target) {
            errors.push(path.child("mountPath").invalid(target, "must be unique"));
        }
        for field in ["subPath", "subPathExpr"] {
            relative(errors, &path.child(field), text(&mount[field]));
        }
        if !text(&mount["subPath"]).is_empty() && !text(&mount["subPathExpr"]).is_empty() {
            errors.push(path.child("subPathExpr").invalid(
                mount["subPathExpr"].clone(),
                "subPathExpr and subPath are mutually exclusive",
            ));
        }
        let modes = ["Bidirectional", "HostToContainer", "None"];
        one_of(errors, &path.child("mountPropagation"), &mount["mountPropagation"], &modes);
    }
}

/// A path that stays below where it starts; empty is fine.
pub(super) fn relative(errors: &mut Errors, path: &Path, said: &str) {
    if said.starts_with('/') {
        errors.push(path.invalid(said, "must be a relative path"));
    }
    if said.split('/').any(|part| part == "..") {
        errors.push(path.invalid(said, "must not contain '..'"));
    }
}

fn probe(errors: &mut Errors, path: &Path, probe: &Value, once: bool) {
    handler(errors, path, probe);
    for field in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        not_negative(errors, &path.child(field), &probe[field]);
    }
    let threshold = probe["successThreshold"].as_i64().unwrap_or(1);
    if once && threshold > 1 {
        errors.push(path.child("successThreshold").invalid(threshold, "must be 1"));
    }
    if let Some(grace) = probe["terminationGracePeriodSeconds"].as_i64().filter(|g| *g <= 0) {
        let at = path.child("terminationGracePeriodSeconds");
        errors.push(at.invalid(grace, "must be greater than 0"));
    }
}

fn handler(errors: &mut Errors, path: &Path, handler: &Value) {
    let kinds = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];
    let mut said = kinds.into_iter().filter(|kind| handler[*kind].is_object());
    let Some(kind) = said.next() else {
        errors.push(path.required("must specify a handler type"));
        return;
    };
    for more in said {
        errors.push(path.child(more).forbidden("may not specify more than 1 handler type"));
    }
    let (path, handler) = (path.child(kind), &handler[kind]);
    match kind {
        "exec" if list(&handler["command"]).is_empty() => {
            errors.push(path.child("command").required(""));
        }
        "httpGet" => {
            required(errors, &path.child("path"), &handler["path"]);
            port_or_name(errors, &path.child("port"), &handler["port"]);
            one_of(errors, &path.child("scheme"), &handler["scheme"], &["HTTP", "HTTPS"]);
        }
        "tcpSocket" => port_or_name(errors, &path.child("port"), &handler["port"]),
        "grpc" => {
            let port = handler["port"].as_i64().unwrap_or(0);
            port_number(errors, &path.child("port"), port);
        }
        "sleep" => not_negative(errors, &path.child("seconds"), &handler["seconds"]),
        _ => {}
    }
}

/// Requests and limits of a container or of a pod.
pub(super) fn resources(errors: &mut Errors, path: &Path, resources: &Value) {
    let amount = |value: &Value| text(value).parse::<Quantity>().ok();
    for which in ["limits", "requests"] {
        for (name, value) in resources[which].as_object().into_iter().flatten() {
            let at = path.child(which).key(name);
            judged(errors, &path.child(which), name, names::qualified_name);
            let standard = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage")
                || name.starts_with("hugepages-")
                || name.contains('/');
            if !standard {
                let path = path.child(which);
                errors.push(
                    path.invalid(name.as_str(), "must be a standard resource for containers"),
                );
            }
            let Some(value) = amount(value) else { continue };
            if value.sign() < 0 {
                errors.push(at.invalid(value.to_string(), super::NOT_NEGATIVE));
            }
            let whole = name.contains('/') && !name.starts_with("kubernetes.io/");
            if whole && !value.is_whole() {
                errors.push(at.invalid(value.to_string(), "must be an integer"));
            }
        }
    }
    for (name, request) in resources["requests"].as_object().into_iter().flatten() {
        if let (Some(request), Some(limit)) = (amount(request), amount(&resources["limits"][name]))
            && request > limit
        {
            errors.push(path.child("requests").invalid(
                json!(request.to_string()),
                format!("must be less than or equal to {name} limit of {limit}"),
            ));
        }
    }
}
