//! Rules for pods and pod templates, and for what of a pod may change.

use std::collections::BTreeSet;

use serde_json::Value;

use super::container::{self, Role};
use super::volume::volumes;
use super::{Errors, judged, not_negative, one_of, text};
use crate::api::Object;
use crate::api::field::Path;
use crate::api::meta::{self, list};
use crate::api::names;

/// The rules of a Pod (`ValidatePodCreate` besides the metadata).
pub fn pod(pod: &Object) -> Errors {
    let mut errors = Vec::new();
    pod_spec(&mut errors, &Path::new("spec"), &pod["spec"]);
    errors
}

const SYSCTL: &str = "^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
const SYSCTL_MAX: usize = 253;

/// Whether a name is made of words of `[-_a-z0-9]`, with `.` or `/` between.
fn is_sysctl(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let word = |word: &str| {
        word.starts_with(plain)
            && word.ends_with(plain)
            && word.chars().all(|c| plain(c) || c == '-' || c == '_')
    };
    name.len() <= SYSCTL_MAX && name.split(['.', '/']).all(word)
}

fn sysctls(errors: &mut Errors, path: &Path, spec: &Value) {
    let mut seen = BTreeSet::new();
    for (index, sysctl) in list(&spec["securityContext"]["sysctls"]).iter().enumerate() {
        let (name, at) = (text(&sysctl["name"]), path.index(index).child("name"));
        if name.is_empty() {
            errors.push(at.required(""));
        } else if !is_sysctl(name) {
            let why = format!("must have at most {SYSCTL_MAX} characters and match regex {SYSCTL}");
            errors.push(at.invalid(name, why));
        } else if !seen.insert(name) {
            errors.push(at.duplicate(name));
        }
    }
}

/// The rules of a pod spec.
pub(super) fn pod_spec(errors: &mut Errors, path: &Path, spec: &Value) {
    let volumes = volumes(errors, &path.child("volumes"), &spec["volumes"]);
    let shared = container::Pod { volumes, restart_policy: text(&spec["restartPolicy"]) };
    let mut taken = BTreeSet::new();
    if list(&spec["containers"]).is_empty() {
        errors.push(path.child("containers").required(""));
    }
    for (field, role) in [
        ("containers", Role::Main),
        ("initContainers", Role::Init),
        ("ephemeralContainers", Role::Ephemeral),
    ] {
        container::containers(errors, &path.child(field), &spec[field], role, &shared, &mut taken);
    }
    sysctls(errors, &path.child("securityContext").child("sysctls"), spec);
    let policies = ["Always", "OnFailure", "Never"];
    if !shared.restart_policy.is_empty() && !policies.contains(&shared.restart_policy) {
        errors.push(path.child("restartPolicy").not_supported(shared.restart_policy, &policies));
    }
    dns(errors, path, spec);
    let at = path.child("terminationGracePeriodSeconds");
    not_negative(errors, &at, &spec["terminationGracePeriodSeconds"]);
    deadline(errors, &path.child("activeDeadlineSeconds"), &spec["activeDeadlineSeconds"]);
    errors.extend(meta::validate_labels(&spec["nodeSelector"], &path.child("nodeSelector")));
    for (field, rule) in [
        ("serviceAccountName", names::dns_subdomain as fn(&str) -> Vec<String>),
        ("hostname", names::dns_label),
        ("subdomain", names::dns_label),
        ("nodeName", names::dns_subdomain),
        ("priorityClassName", names::dns_subdomain),
        ("runtimeClassName", names::dns_subdomain),
    ] {
        if !text(&spec[field]).is_empty() {
            judged(errors, &path.child(field), text(&spec[field]), rule);
        }
    }
    tolerations(errors, &path.child("tolerations"), &spec["tolerations"]);
    affinity(errors, &path.child("affinity"), &spec["affinity"]);
    spread(errors, &path.child("topologySpreadConstraints"), &spec["topologySpreadConstraints"]);
    if !spec["resources"].is_null() {
        container::resources(errors, &path.child("resources"), &spec["resources"]);
    }
}

fn dns(errors: &mut Errors, path: &Path, spec: &Value) {
    let policies = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
    one_of(errors, &path.child("dnsPolicy"), &spec["dnsPolicy"], &policies);
    if spec["dnsPolicy"] == "None" && list(&spec["dnsConfig"]["nameservers"]).is_empty() {
        errors.push(
            path.child("dnsConfig")
                .child("nameservers")
                .required("must provide at least one DNS nameserver when `dnsPolicy` is None"),
        );
    }
}

fn deadline(errors: &mut Errors, path: &Path, seconds: &Value) {
    if let Some(seconds) = seconds.as_i64().filter(|s| !(1..=i64::from(i32::MAX)).contains(s)) {
        errors.push(path.invalid(seconds, "must be between 1 and 2147483647, inclusive"));
    }
}

const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "PreferNoSchedule"];

fn tolerations(errors: &mut Errors, path: &Path, tolerations: &Value) {
    for (at, toleration) in list(tolerations).iter().enumerate() {
        let path = path.index(at);
        let (key, operator) = (text(&toleration["key"]), text(&toleration["operator"]));
        if key.is_empty() && operator != "Exists" {
            errors.push(path.child("operator").invalid(
                operator,
                "operator must be Exists when `key` is empty, which means \"match all values and \
                 all keys\"",
            ));
        } else if !key.is_empty() {
            judged(errors, &path.child("key"), key, names::qualified_name);
        }
        if operator == "Exists" && !text(&toleration["value"]).is_empty() {
            let at = path.child("operator");
            errors.push(
                at.invalid(toleration.clone(), "value must be empty when `operator` is 'Exists'"),
            );
        }
        one_of(errors, &path.child("operator"), &toleration["operator"], &["Equal", "Exists"]);
        one_of(errors, &path.child("effect"), &toleration["effect"], &EFFECTS);
        let seconds = !toleration["tolerationSeconds"].is_null();
        if seconds && toleration["effect"] != "NoExecute" {
            let at = path.child("effect");
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(at.invalid(text(&toleration["effect"]), why));
        }
    }
}

const OPERATORS: [&str; 6] = ["DoesNotExist", "Exists", "Gt", "In", "Lt", "NotIn"];

fn affinity(errors: &mut Errors, path: &Path, affinity: &Value) {
    let path = path.child("nodeAffinity");
    let node = &affinity["nodeAffinity"];
    let must = "requiredDuringSchedulingIgnoredDuringExecution";
    if node[must].is_object() {
        let path = path.child(must).child("nodeSelectorTerms");
        let terms = list(&node[must]["nodeSelectorTerms"]);
        if terms.is_empty() {
            errors.push(path.required("must have at least one node selector term"));
        }
        for (at, term) in terms.iter().enumerate() {
            node_term(errors, &path.index(at), term);
        }
    }
    let may = "preferredDuringSchedulingIgnoredDuringExecution";
    for (at, term) in list(&node[may]).iter().enumerate() {
        let path = path.child(may).index(at);
        let weight = term["weight"].as_i64().unwrap_or(0);
        if !(1..=100).contains(&weight) {
            errors.push(path.child("weight").invalid(weight, "must be in the range 1-100"));
        }
        node_term(errors, &path.child("preference"), &term["preference"]);
    }
}

fn node_term(errors: &mut Errors, path: &Path, term: &Value) {
    for (at, expression) in list(&term["matchExpressions"]).iter().enumerate() {
        let path = path.child("matchExpressions").index(at);
        judged(errors, &path.child("key"), text(&expression["key"]), names::qualified_name);
        let values = list(&expression["values"]).len();
        let at = path.child("values");
        match text(&expression["operator"]) {
            "In" | "NotIn" if values == 0 => {
                errors.push(at.required("must be specified when `operator` is 'In' or 'NotIn'"))
            }
            "Exists" | "DoesNotExist" if values > 0 => errors.push(
                at.forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'"),
            ),
            "Gt" | "Lt" if values != 1 => errors.push(
                at.required("must be specified single value when `operator` is 'Lt' or 'Gt'"),
            ),
            operator if !OPERATORS.contains(&operator) => {
                errors.push(
                    path.child("operator").invalid(operator, "not a valid selector operator"),
                );
            }
            _ => {}
        }
    }
}

fn spread(errors: &mut Errors, path: &Path, constraints: &Value) {
    for (at, constraint) in list(constraints).iter().enumerate() {
        let path = path.index(at);
        let skew = constraint["maxSkew"].as_i64().unwrap_or(0);
        if skew <= 0 {
            errors.push(path.child("maxSkew").invalid(skew, "must be greater than zero"));
        }
        if text(&constraint["topologyKey"]).is_empty() {
            errors.push(path.child("topologyKey").required("can not be empty"));
        }
        let actions = ["DoNotSchedule", "ScheduleAnyway"];
        let at = path.child("whenUnsatisfiable");
        let said = text(&constraint["whenUnsatisfiable"]);
        if !actions.contains(&said) {
            errors.push(at.not_supported(said, &actions));
        }
    }
}

const FORBIDDEN: &str = "pod updates may not change fields other than \
    `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
    `spec.tolerations` (only additions to existing tolerations),\
    `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// The rules for a change of a Pod (`ValidatePodUpdate`). A pod without a node may be given one,
/// which is how a Binding is written.
pub fn pod_update(new: &Object, old: &Object) -> Errors {
    let (path, spec, was) = (Path::new("spec"), &new["spec"], &old["spec"]);
    let mut errors = Vec::new();
    for (field, what) in [("containers", "containers"), ("initContainers", "init containers")] {
        if list(&spec[field]).len() != list(&was[field]).len() {
            let why = format!("pod updates may not add or remove {what}");
            errors.push(path.child(field).forbidden(why));
        }
    }
    if !errors.is_empty() {
        return errors;
    }
    let mut allowed = spec.clone();
    for field in ["containers", "initContainers"] {
        for (at, before) in list(&was[field]).iter().enumerate() {
            put(&mut allowed[field][at], "image", &before["image"]);
        }
    }
    shorter_deadline(&mut errors, &path.child("activeDeadlineSeconds"), spec, was);
    put(&mut allowed, "activeDeadlineSeconds", &was["activeDeadlineSeconds"]);
    let (now, before) = (list(&spec["tolerations"]), list(&was["tolerations"]));
    if before.iter().all(|t| now.iter().any(|n| same_toleration(n, t))) {
        put(&mut allowed, "tolerations", &was["tolerations"]);
    }
    let gates = |s: &Value| list(&s["schedulingGates"]).to_vec();
    if gates(spec).iter().all(|g| gates(was).contains(g)) {
        put(&mut allowed, "schedulingGates", &was["schedulingGates"]);
    }
    if was["terminationGracePeriodSeconds"].as_i64().is_some_and(|s| s < 0)
        && spec["terminationGracePeriodSeconds"] == 1
    {
        let before = &was["terminationGracePeriodSeconds"];
        put(&mut allowed, "terminationGracePeriodSeconds", before);
    }
    if text(&was["nodeName"]).is_empty() {
        put(&mut allowed, "nodeName", &was["nodeName"]);
    }
    if allowed != *was {
        errors.push(path.forbidden(FORBIDDEN));
    }
    errors
}

/// The seconds of a toleration may change.
fn same_toleration(a: &Value, b: &Value) -> bool {
    ["key", "operator", "value", "effect"].iter().all(|field| a[*field] == b[*field])
}

fn shorter_deadline(errors: &mut Errors, path: &Path, spec: &Value, was: &Value) {
    let (now, before) = (&spec["activeDeadlineSeconds"], &was["activeDeadlineSeconds"]);
    match (now.as_i64(), before.as_i64()) {
        (Some(now), Some(before)) if now > before => {
            let why = "must be less than or equal to previous value";
            errors.push(path.invalid(now, why));
        }
        (None, Some(_)) => {
            errors.push(
                path.invalid(Value::Null, "must not update from a positive integer to nil value"),
            );
        }
        _ => {}
    }
}

fn put(map: &mut Value, field: &str, value: &Value) {
    let Some(map) = map.as_object_mut() else { return };
    if value.is_null() {
        map.remove(field);
    } else {
        map.insert(field.to_owned(), value.clone());
    }
}
