//! Rules for configuration, access, nodes and what the cluster keeps.

use serde_json::Value;

use super::{Errors, IMMUTABLE, judged, one_of, required, required_name, text};
use crate::api::Object;
use crate::api::field::Path;
use crate::api::meta::list;
use crate::api::names;

/// What the data of a ConfigMap or a Secret may have together.
const DATA_MAX: usize = 1024 * 1024;

/// The rules of a ConfigMap.
pub fn config_map(object: &Object) -> Errors {
    let mut errors = Vec::new();
    let mut size = 0;
    for (key, value) in object["data"].as_object().into_iter().flatten() {
        judged(&mut errors, &Path::new("data").key(key), key, names::config_key);
        if object["binaryData"].get(key).is_some() {
            let why = "duplicate of key present in binaryData";
            errors.push(Path::new("data").key(key).invalid(key.as_str(), why));
        }
        size += text(value).len();
    }
    for (key, value) in object["binaryData"].as_object().into_iter().flatten() {
        judged(&mut errors, &Path::new("binaryData").key(key), key, names::config_key);
        size += text(value).len() / 4 * 3;
    }
    if size > DATA_MAX {
        errors.push(Path::new("").too_long(DATA_MAX));
    }
    errors
}

/// The rules for a change of a ConfigMap.
pub fn config_map_update(new: &Object, old: &Object) -> Errors {
    kept(new, old, &["data", "binaryData"])
}

/// What may not change once `immutable` is set.
fn kept(new: &Object, old: &Object, fields: &[&str]) -> Errors {
    let mut errors = Vec::new();
    if old["immutable"] != true {
        return errors;
    }
    let why = "field is immutable when `immutable` is set";
    if new["immutable"] != true {
        errors.push(Path::new("immutable").forbidden(why));
    }
    for field in fields.iter().filter(|field| new[**field] != old[**field]) {
        errors.push(Path::new(field).forbidden(why));
    }
    errors
}

/// The rules of a Secret, by its type.
pub fn secret(object: &Object) -> Errors {
    let mut errors = Vec::new();
    let path = Path::new("data");
    let data = &object["data"];
    let mut size = 0;
    for (key, value) in data.as_object().into_iter().flatten() {
        judged(&mut errors, &path.key(key), key, names::config_key);
        size += text(value).len() / 4 * 3;
    }
    if size > DATA_MAX {
        errors.push(path.too_long(DATA_MAX));
    }
    let needed: &[&str] = match text(&object["type"]) {
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/service-account-token" => {
            let key = "kubernetes.io/service-account.name";
            if text(&object["metadata"]["annotations"][key]).is_empty() {
                errors.push(Path::new("metadata.annotations").key(key).required(""));
            }
            &[]
        }
        "kubernetes.io/basic-auth" => {
            if data.get("username").is_none() && data.get("password").is_none() {
                errors.push(path.key("username").required(""));
                errors.push(path.key("password").required(""));
            }
            &[]
        }
        _ => &[],
    };
    for key in needed.iter().filter(|key| data.get(**key).is_none()) {
        errors.push(path.key(key).required(""));
    }
    errors
}

/// The rules for a change of a Secret.
pub fn secret_update(new: &Object, old: &Object) -> Errors {
    let mut errors = Vec::new();
    if new["type"] != old["type"] {
        errors.push(Path::new("type").invalid(new["type"].clone(), IMMUTABLE));
    }
    errors.extend(kept(new, old, &["data"]));
    errors
}

/// The rules for a change of a PersistentVolumeClaim.
pub fn claim_update(new: &Object, old: &Object) -> Errors {
    let mut allowed = new["spec"].clone();
    let was = &old["spec"];
    let mut put = |field: &str| {
        if let Some(map) = allowed.as_object_mut() {
            match &was[field] {
                Value::Null => map.remove(field),
                before => map.insert(field.to_owned(), before.clone()),
            };
        }
    };
    if new["status"]["phase"] == "Bound" {
        put("resources");
        put("volumeAttributesClassName");
    }
    if text(&was["volumeName"]).is_empty() {
        put("volumeName");
    }
    if was["storageClassName"].is_null() {
        put("storageClassName");
    }
    if allowed == *was {
        return Vec::new();
    }
    vec![Path::new("spec").forbidden(
        "spec is immutable after creation except resources.requests and volumeAttributesClassName \
         for bound claims",
    )]
}

/// The rules of a Node.
pub fn node(object: &Object) -> Errors {
    let mut errors = Vec::new();
    let effects = ["NoExecute", "NoSchedule", "PreferNoSchedule"];
    let mut seen = Vec::new();
    for (at, taint) in list(&object["spec"]["taints"]).iter().enumerate() {
        let path = Path::new("spec.taints").index(at);
        required_name(&mut errors, &path.child("key"), &taint["key"], names::qualified_name);
        judged(&mut errors, &path.child("value"), text(&taint["value"]), names::label_value);
        match text(&taint["effect"]) {
            "" => errors.push(path.child("effect").required("")),
            said if !effects.contains(&said) => {
                errors.push(path.child("effect").not_supported(said, &effects));
            }
            said => {
                let key = (text(&taint["key"]), said);
                if seen.contains(&key) {
                    errors.push(path.duplicate(taint.clone()));
                }
                seen.push(key);
            }
        }
    }
    errors
}

/// The rules for a change of a Node.
pub fn node_update(new: &Object, old: &Object) -> Errors {
    let mut errors = Vec::new();
    for (field, why) in [
        ("podCIDR", "node updates may not change podCIDR except from \"\" to valid"),
        ("podCIDRs", "node updates may not change podCIDR except from \"\" to valid"),
        ("providerID", "node updates may not change providerID except from \"\" to valid"),
    ] {
        let was = &old["spec"][field];
        let empty = was.is_null() || *was == "" || list(was).is_empty() && was.is_array();
        if !empty && new["spec"][field] != *was {
            errors.push(Path::new("spec").child(field).forbidden(why));
        }
    }
    errors
}

/// The rules of a Lease.
pub fn lease(object: &Object) -> Errors {
    let (mut errors, spec) = (Vec::new(), &object["spec"]);
    let path = Path::new("spec");
    if let Some(seconds) = spec["leaseDurationSeconds"].as_i64().filter(|s| *s <= 0) {
        let at = path.child("leaseDurationSeconds");
        errors.push(at.invalid(seconds, "must be greater than 0"));
    }
    if let Some(count) = spec["leaseTransitions"].as_i64().filter(|c| *c < 0) {
        errors.push(path.child("leaseTransitions").invalid(count, super::NOT_NEGATIVE));
    }
    errors
}

/// The rules of a PriorityClass.
pub fn priority_class(object: &Object) -> Errors {
    let mut errors = Vec::new();
    let name = crate::api::meta::name(object);
    let value = object["value"].as_i64().unwrap_or(0);
    let system = matches!(name, "system-cluster-critical" | "system-node-critical");
    if name.starts_with("system-") && !system {
        let why = "priority class names with 'system-' prefix are reserved for system use only";
        errors.push(Path::new("metadata.name").forbidden(why));
    }
    if !system && value > 1_000_000_000 {
        let why = "maximum allowed value of a user defined priority is 1000000000";
        errors.push(Path::new("value").forbidden(why));
    }
    let policies = ["Never", "PreemptLowerPriority"];
    let path = Path::new("preemptionPolicy");
    one_of(&mut errors, &path, &object["preemptionPolicy"], &policies);
    errors
}

/// The rules of a CertificateSigningRequest.
pub fn signing_request(object: &Object) -> Errors {
    let (mut errors, spec) = (Vec::new(), &object["spec"]);
    let path = Path::new("spec");
    if text(&spec["request"]).is_empty() {
        errors
            .push(path.child("request").invalid("", "PEM block type must be CERTIFICATE REQUEST"));
    }
    let usages = list(&spec["usages"]);
    if usages.is_empty() {
        errors.push(path.child("usages").required("usages is required"));
    }
    match text(&spec["signerName"]) {
        "" => errors.push(path.child("signerName").required("")),
        said if !said.contains('/') => {
            let why = "must be a fully qualified domain and path of the form \
                       'example.com/signer-name'";
            errors.push(path.child("signerName").invalid(said, why));
        }
        _ => {}
    }
    if let Some(seconds) = spec["expirationSeconds"].as_i64().filter(|s| *s < 600) {
        let why = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.push(path.child("expirationSeconds").invalid(seconds, why));
    }
    errors
}

/// The rules of a Role or a ClusterRole.
pub fn role(object: &Object) -> Errors {
    let mut errors = Vec::new();
    let namespaced = object["kind"] == "Role";
    for (at, rule) in list(&object["rules"]).iter().enumerate() {
        let path = Path::new("rules").index(at);
        if list(&rule["verbs"]).is_empty() {
            errors.push(path.child("verbs").required("verbs must contain at least one value"));
        }
        let urls = list(&rule["nonResourceURLs"]);
        if !urls.is_empty() {
            let at = path.child("nonResourceURLs");
            if namespaced {
                let why = "namespaced rules cannot apply to non-resource URLs";
                errors.push(at.invalid(urls.to_vec(), why));
            }
            let resources = ["apiGroups", "resources", "resourceNames"];
            if resources.iter().any(|field| !list(&rule[*field]).is_empty()) {
                let why = "rules cannot apply to both regular resources and non-resource URLs";
                errors.push(at.invalid(urls.to_vec(), why));
            }
            continue;
        }
        for (field, why) in [
            ("apiGroups", "resource rules must supply at least one api group"),
            ("resources", "resource rules must supply at least one resource"),
        ] {
            if list(&rule[field]).is_empty() {
                errors.push(path.child(field).required(why));
            }
        }
    }
    errors
}

/// The rules of a RoleBinding or a ClusterRoleBinding.
pub fn role_binding(object: &Object) -> Errors {
    const GROUP: &str = "rbac.authorization.k8s.io";
    let mut errors = Vec::new();
    let (path, role) = (Path::new("roleRef"), &object["roleRef"]);
    if text(&role["apiGroup"]) != GROUP {
        errors.push(path.child("apiGroup").not_supported(text(&role["apiGroup"]), &[GROUP]));
    }
    let kinds: &[&str] = match object["kind"] == "ClusterRoleBinding" {
        true => &["ClusterRole"],
        false => &["ClusterRole", "Role"],
    };
    if !kinds.contains(&text(&role["kind"])) {
        errors.push(path.child("kind").not_supported(text(&role["kind"]), kinds));
    }
    required_name(&mut errors, &path.child("name"), &role["name"], names::path_segment);
    for (at, subject) in list(&object["subjects"]).iter().enumerate() {
        let path = Path::new("subjects").index(at);
        required(&mut errors, &path.child("name"), &subject["name"]);
        let group = text(&subject["apiGroup"]);
        match text(&subject["kind"]) {
            "ServiceAccount" => {
                if !group.is_empty() {
                    errors.push(path.child("apiGroup").not_supported(group, &[""]));
                }
                if object["kind"] == "ClusterRoleBinding" {
                    required(&mut errors, &path.child("namespace"), &subject["namespace"]);
                }
            }
            "User" | "Group" => {
                if group != GROUP {
                    errors.push(path.child("apiGroup").not_supported(group, &[GROUP]));
                }
            }
            other => {
                let kinds = ["ServiceAccount", "User", "Group"];
                errors.push(path.child("kind").not_supported(other, &kinds));
            }
        }
    }
    errors
}
