//! CustomResourceDefinitions themselves: defaults, rules, and what their status says.

use serde_json::{Value, json};

use super::jsonpath::JsonPath;
use super::structural::{self, Fault, Place};
use crate::api::Object;
use crate::api::field::Path;
use crate::api::meta::list;
use crate::api::names;
use crate::api::status::FieldError;

/// The finalizer that keeps a definition until its objects are gone.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// A definition may have so many versions.
const VERSIONS_MAX: usize = 100;

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// Set what is left out.
pub fn default(object: &mut Object) {
    let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    if text(spec, "scope").is_empty() {
        spec["scope"] = "Namespaced".into();
    }
    let kind = text(&spec["names"], "kind").to_owned();
    if spec["names"].is_object() && !kind.is_empty() {
        if text(&spec["names"], "singular").is_empty() {
            spec["names"]["singular"] = kind.to_lowercase().into();
        }
        if text(&spec["names"], "listKind").is_empty() {
            spec["names"]["listKind"] = format!("{kind}List").into();
        }
    }
    if !spec["conversion"].is_object() {
        spec["conversion"] = json!({"strategy": "None"});
    }
}

/// The rules of a definition.
pub fn validate(object: &Object) -> Vec<FieldError> {
    let spec = &object["spec"];
    let path = Path::new("spec");
    let mut errors = Vec::new();
    let group = text(spec, "group");
    let plural = text(&spec["names"], "plural");
    let name = text(&object["metadata"], "name");
    if name != format!("{plural}.{group}") {
        let why = r#"must be spec.names.plural+"."+spec.group"#;
        errors.push(Path::new("metadata.name").invalid(name, why));
    }
    if group.is_empty() {
        errors.push(path.child("group").required(""));
    } else {
        let wrong = names::dns_subdomain(group);
        errors.extend(wrong.iter().map(|w| path.child("group").invalid(group, w)));
        if group.split('.').count() < 2 {
            let why = "should be a domain with at least one dot";
            errors.push(path.child("group").invalid(group, why));
        }
    }
    let scope = text(spec, "scope");
    if !matches!(scope, "Cluster" | "Namespaced") {
        errors.push(path.child("scope").not_supported(scope, &["Cluster", "Namespaced"]));
    }
    validate_names(&spec["names"], &path.child("names"), &mut errors);
    validate_versions(spec, &path.child("versions"), &mut errors);
    let strategy = text(&spec["conversion"], "strategy");
    match strategy {
        "None" => {}
        "Webhook" if spec["conversion"]["webhook"].is_object() => {}
        "Webhook" => {
            let why = "required when strategy is set to Webhook";
            errors.push(path.child("conversion").child("webhookClientConfig").required(why));
        }
        other => {
            let at = path.child("conversion").child("strategy");
            errors.push(at.not_supported(other, &["None", "Webhook"]));
        }
    }
    if group.ends_with(".k8s.io") || group.ends_with(".kubernetes.io") {
        let approved = &object["metadata"]["annotations"]["api-approved.kubernetes.io"];
        if !approved.is_string() {
            let why = "protected groups must have approval annotation \
                       \"api-approved.kubernetes.io\", see \
                       https://github.com/kubernetes/enhancements/pull/1111";
            let at = Path::new("metadata.annotations[api-approved.kubernetes.io]");
            errors.push(at.required(why));
        }
    }
    errors
}

fn validate_names(of: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    for field in ["plural", "singular", "kind", "listKind"] {
        let value = text(of, field);
        let at = path.child(field);
        if value.is_empty() {
            if field != "singular" {
                errors.push(at.required(""));
            }
            continue;
        }
        errors.extend(names::dns_label(&value.to_lowercase()).iter().map(|w| at.invalid(value, w)));
        if matches!(field, "plural" | "singular") && value != value.to_lowercase() {
            let wrong = names::dns_label(value);
            errors.extend(wrong.iter().map(|w| at.invalid(value, w)));
        }
    }
    for (index, short) in list(&of["shortNames"]).iter().enumerate() {
        let short = short.as_str().unwrap_or_default();
        let at = path.child("shortNames").index(index);
        errors.extend(names::dns_label(short).iter().map(|w| at.invalid(short, w)));
    }
    if !text(of, "kind").is_empty() && text(of, "kind") == text(of, "listKind") {
        let why = "kind and listKind may not be the same";
        errors.push(path.child("listKind").invalid(text(of, "listKind"), why));
    }
}

fn validate_versions(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let versions = list(&spec["versions"]);
    if versions.len() > VERSIONS_MAX {
        errors.push(path.too_many(versions.len(), VERSIONS_MAX));
        return;
    }
    let storage = versions.iter().filter(|v| v["storage"] == true).count();
    if storage != 1 {
        let why = "must have exactly one version marked as storage version";
        errors.push(path.invalid(spec["versions"].clone(), why));
    }
    let mut seen = std::collections::HashSet::new();
    for (index, version) in versions.iter().enumerate() {
        let at = path.index(index);
        let name = text(version, "name");
        errors.extend(names::dns_label(name).iter().map(|w| at.child("name").invalid(name, w)));
        if !seen.insert(name) {
            let why = "must contain unique version names";
            errors.push(path.invalid(spec["versions"].clone(), why));
        }
        validate_version(version, &at, errors);
    }
}

fn validate_version(version: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let at = path.child("schema").child("openAPIV3Schema");
    let schema = &version["schema"]["openAPIV3Schema"];
    if !schema.is_object() {
        errors.push(at.required("schemas are required"));
        return;
    }
    let mut wrong = Vec::new();
    structural::check(schema, &at.to_string(), Place::Root, &mut wrong);
    for (path, fault) in wrong {
        let at = Path::new(&path);
        errors.push(match fault {
            Fault::Missing(why) => at.required(why),
            Fault::NotObject(found) => at.invalid(found, "must be object at the root"),
            Fault::Forbidden(why) => at.forbidden(why),
            Fault::Pattern(pattern, why) => {
                let why = format!("must be a valid regular expression, but isn't: {why}");
                at.invalid(pattern, why)
            }
            Fault::ListType(found) => at.not_supported(&found, &["atomic", "map", "set"]),
        });
    }
    let mut broken = Vec::new();
    super::rules::check(schema, &at.to_string(), true, &mut broken);
    for (path, why) in broken {
        let at = Path::new(&path);
        errors.push(match why.as_str() {
            "" => at.required("rule is not specified"),
            why => at.invalid(told_rule(schema, &path), why),
        });
    }
    for (index, column) in list(&version["additionalPrinterColumns"]).iter().enumerate() {
        let at = path.child("additionalPrinterColumns").index(index);
        let json_path = text(column, "jsonPath");
        if text(column, "name").is_empty() {
            errors.push(at.child("name").required(""));
        }
        let kinds = ["boolean", "date", "integer", "number", "string"];
        if !kinds.contains(&text(column, "type")) {
            let why = "must be one of boolean,date,integer,number,string";
            errors.push(at.child("type").invalid(text(column, "type"), why));
        }
        let at = at.child("jsonPath");
        match JsonPath::parse(json_path) {
            _ if json_path.is_empty() => errors.push(at.required("")),
            _ if !json_path.starts_with('.') => {
                errors.push(at.invalid(json_path, "must be a simple json path starting with ."));
            }
            Err(why) => errors.push(at.invalid(json_path, why)),
            Ok(_) => {}
        }
    }
    validate_scale(&version["subresources"]["scale"], &path.child("subresources"), errors);
}

/// The text of the expression at a path.
fn told_rule(schema: &Value, path: &str) -> Value {
    let tail = path.rsplit_once(".schema.openAPIV3Schema").map_or("", |(_, tail)| tail);
    super::ratchet::value_at(schema, tail.trim_start_matches('.')).cloned().unwrap_or_default()
}

fn validate_scale(scale: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    if !scale.is_object() {
        return;
    }
    for (field, below, required) in [
        ("specReplicasPath", ".spec.", true),
        ("statusReplicasPath", ".status.", true),
        ("labelSelectorPath", ".", false),
    ] {
        let at = path.child("scale").child(field);
        let value = text(scale, field);
        if value.is_empty() {
            if required {
                errors.push(at.required(""));
            }
        } else if !value.starts_with(below) || value.contains('[') {
            let why = format!("should be a json path under {}", below.trim_end_matches('.'));
            errors.push(at.invalid(value, why));
        }
    }
}

/// The rules of a change.
pub fn validate_update(object: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let established = has_condition(old, "Established");
    for field in [&["spec", "group"][..], &["spec", "names", "plural"], &["spec", "scope"]] {
        let at = |object: &Object| field.iter().fold(object, |at, name| &at[*name]).clone();
        let mutable = field[1] == "scope" && !established;
        if !mutable && at(object) != at(old) {
            errors.push(Path::new(&field.join(".")).invalid(at(object), "field is immutable"));
        }
    }
    if established && object["spec"]["names"]["kind"] != old["spec"]["names"]["kind"] {
        let kind = object["spec"]["names"]["kind"].clone();
        errors.push(Path::new("spec.names.kind").invalid(kind, "field is immutable"));
    }
    for stored in list(&old["status"]["storedVersions"]) {
        let there = list(&object["spec"]["versions"]).iter().any(|v| v["name"] == *stored);
        if !there {
            let why = format!(
                "must have all versions in storedVersions; missing {}",
                stored.as_str().unwrap_or_default()
            );
            let versions = object["spec"]["versions"].clone();
            errors.push(Path::new("status.storedVersions").invalid(versions, why));
        }
    }
    errors
}

fn has_condition(object: &Object, kind: &str) -> bool {
    crate::api::meta::condition(object, kind).is_some_and(|c| c["status"] == "True")
}

/// Set a condition; its time changes with its status.
pub fn set_condition(object: &mut Object, kind: &str, status: bool, why: (&str, &str), now: &str) {
    let status = if status { "True" } else { "False" };
    let mut conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let before = conditions.iter().position(|c| c["type"] == kind);
    let since = match before.map(|at| &conditions[at]) {
        Some(there) if there["status"] == status => there["lastTransitionTime"].clone(),
        _ => now.into(),
    };
    let condition = json!({
        "type": kind, "status": status, "reason": why.0, "message": why.1,
        "lastTransitionTime": since,
    });
    match before {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
    object["status"]["conditions"] = conditions.into();
}

/// What the status of a definition says once its names are looked at. `taken`: whose names of the
/// group it may not have, with the word for each.
pub fn establish(object: &mut Object, taken: &dyn Fn(&str) -> bool, now: &str) {
    let names = object["spec"]["names"].clone();
    let conflicts: Vec<(&str, String)> = ["plural", "singular", "kind", "listKind"]
        .into_iter()
        .filter_map(|field| {
            let name = text(&names, field);
            let reason = match field {
                "plural" => "PluralConflict",
                "singular" => "SingularConflict",
                "kind" => "KindConflict",
                _ => "ListKindConflict",
            };
            (!name.is_empty() && taken(name)).then(|| (reason, name.to_owned()))
        })
        .collect();
    match conflicts.first() {
        None => {
            object["status"]["acceptedNames"] = names;
            let accepted = ("NoConflicts", "no conflicts found");
            set_condition(object, "NamesAccepted", true, accepted, now);
            let established = ("InitialNamesAccepted", "the initial names have been accepted");
            set_condition(object, "Established", true, established, now);
        }
        Some((reason, name)) => {
            let why = format!("{name:?} is already in use");
            set_condition(object, "NamesAccepted", false, (reason, &why), now);
            if !has_condition(object, "Established") {
                let told = ("NotAccepted", "not all names are accepted");
                set_condition(object, "Established", false, told, now);
            }
            if !object["status"]["acceptedNames"].is_object() {
                object["status"]["acceptedNames"] = json!({"plural": "", "kind": ""});
            }
        }
    }
    let storage = list(&object["spec"]["versions"]).iter().find(|v| v["storage"] == true);
    let storage = storage.map(|v| v["name"].clone()).unwrap_or_default();
    let mut stored = object["status"]["storedVersions"].as_array().cloned().unwrap_or_default();
    if storage.is_string() && !stored.contains(&storage) {
        stored.push(storage);
    }
    object["status"]["storedVersions"] = stored.into();
}

/// Whether its objects are served.
pub fn is_established(object: &Object) -> bool {
    has_condition(object, "Established")
}
