//! Reading and writing what every object has: `metadata`, and the conditions that many have.

use serde_json::{Map, Value, json};

use super::Object;
use super::field::Path;
use super::names;
use super::status::FieldError;

/// All annotations of an object together may have so many bytes.
pub const ANNOTATIONS_MAX: usize = 256 * 1024;

/// `metadata.name`, or nothing.
pub fn name(object: &Object) -> &str {
    text(object, "name")
}

/// `metadata.namespace`, or nothing.
pub fn namespace(object: &Object) -> &str {
    text(object, "namespace")
}

/// `metadata.uid`, or nothing.
pub fn uid(object: &Object) -> &str {
    text(object, "uid")
}

/// `metadata.resourceVersion`, or nothing.
pub fn resource_version(object: &Object) -> &str {
    text(object, "resourceVersion")
}

/// `metadata.generation`, or 0.
pub fn generation(object: &Object) -> i64 {
    object["metadata"]["generation"].as_i64().unwrap_or(0)
}

fn text<'a>(object: &'a Object, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// The value of a label.
pub fn label<'a>(object: &'a Object, key: &str) -> Option<&'a str> {
    object["metadata"]["labels"][key].as_str()
}

/// The value of an annotation.
pub fn annotation<'a>(object: &'a Object, key: &str) -> Option<&'a str> {
    object["metadata"]["annotations"][key].as_str()
}

/// Whether the object is on its way out.
pub fn is_deleting(object: &Object) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

/// `metadata.finalizers`.
pub fn finalizers(object: &Object) -> impl Iterator<Item = &str> {
    list(&object["metadata"]["finalizers"]).iter().filter_map(Value::as_str)
}

/// `metadata.ownerReferences`.
pub fn owners(object: &Object) -> &[Value] {
    list(&object["metadata"]["ownerReferences"])
}

/// The owner that controls the object.
pub fn controller(object: &Object) -> Option<&Value> {
    owners(object).iter().find(|owner| owner["controller"] == true)
}

/// The elements of a list, none where there is no list.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The condition of that type in `status.conditions`.
pub fn condition<'a>(object: &'a Object, kind: &str) -> Option<&'a Value> {
    list(&object["status"]["conditions"]).iter().find(|c| c["type"] == kind)
}

/// The metadata for writing; made where it is missing.
///
/// # Panics
/// When the object is not a JSON object.
pub fn metadata(object: &mut Object) -> &mut Map<String, Value> {
    entry(object, "metadata")
}

/// The object below `field` for writing; made where it is missing or of another type.
///
/// # Panics
/// When `value` is not a JSON object.
pub fn entry<'a>(value: &'a mut Value, field: &str) -> &'a mut Map<String, Value> {
    let map = value.as_object_mut().expect("a decoded object is a JSON object");
    let at = map.entry(field).or_insert_with(|| json!({}));
    if !at.is_object() {
        *at = json!({});
    }
    at.as_object_mut().expect("just made one")
}

/// The rules for the metadata of every object (`ValidateObjectMeta`); `name_rule` judges the
/// name.
pub fn validate(object: &Object, namespaced: bool, name_rule: NameRule) -> Vec<FieldError> {
    let mut errors = validate_any(object, namespaced, name_rule);
    errors.extend(validate_standard_finalizers(object));
    errors
}

/// The same for kinds that are not Kubernetes' own: their finalizers may have any name.
pub fn validate_any(object: &Object, namespaced: bool, name_rule: NameRule) -> Vec<FieldError> {
    let path = Path::new("metadata");
    let mut errors = Vec::new();
    let generate = text(object, "generateName");
    if !generate.is_empty() {
        // The part that is generated always fits.
        let stem = generate.strip_suffix('-').unwrap_or(generate);
        let wrong = name_rule(stem);
        errors.extend(wrong.iter().map(|w| path.child("generateName").invalid(generate, w)));
    }
    let name = name(object);
    if name.is_empty() {
        errors.push(path.child("name").required("name or generateName is required"));
    } else {
        errors.extend(name_rule(name).iter().map(|w| path.child("name").invalid(name, w)));
    }
    let namespace = namespace(object);
    let at = path.child("namespace");
    match (namespaced, namespace) {
        (true, "") => errors.push(at.required("")),
        (true, ns) => errors.extend(names::dns_label(ns).iter().map(|w| at.invalid(ns, w))),
        (false, "") => {}
        (false, _) => errors.push(at.forbidden("not allowed on this type")),
    }
    errors.extend(validate_labels(&object["metadata"]["labels"], &path.child("labels")));
    errors.extend(validate_annotations(object, &path.child("annotations")));
    errors.extend(validate_owners(object, &path.child("ownerReferences")));
    errors.extend(validate_finalizers(object, &path.child("finalizers")));
    errors
}

/// Tells what is wrong with a name.
pub type NameRule = fn(&str) -> Vec<String>;

/// The rules for a change of the metadata (`ValidateObjectMetaUpdate`).
pub fn validate_update(object: &Object, old: &Object) -> Vec<FieldError> {
    let path = Path::new("metadata");
    let mut errors = Vec::new();
    for field in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp"] {
        let (new, was) = (&object["metadata"][field], &old["metadata"][field]);
        let missing = |v: &Value| v.is_null() || v.as_str() == Some("");
        if new != was && !(missing(new) && missing(was)) {
            errors.push(path.child(field).invalid(new.clone(), "field is immutable"));
        }
    }
    if is_deleting(old) {
        let added: Vec<&str> =
            finalizers(object).filter(|f| !finalizers(old).any(|o| o == *f)).collect();
        if !added.is_empty() {
            errors.push(path.child("finalizers").forbidden(format!(
                "no new finalizers can be added if the object is being deleted, found new \
                 finalizers {added:?}"
            )));
        }
    }
    errors
}

/// The rules for a map of labels.
pub fn validate_labels(labels: &Value, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (key, value) in labels.as_object().into_iter().flatten() {
        errors.extend(names::qualified_name(key).iter().map(|w| path.invalid(key.as_str(), w)));
        let value = value.as_str().unwrap_or_default();
        errors.extend(names::label_value(value).iter().map(|w| path.invalid(value, w)));
    }
    errors
}

fn validate_annotations(object: &Object, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut total = 0;
    for (key, value) in object["metadata"]["annotations"].as_object().into_iter().flatten() {
        let lower = key.to_lowercase();
        errors.extend(names::qualified_name(&lower).iter().map(|w| path.invalid(key.as_str(), w)));
        total += key.len() + value.as_str().unwrap_or_default().len();
    }
    if total > ANNOTATIONS_MAX {
        errors.push(path.too_long(ANNOTATIONS_MAX));
    }
    errors
}

fn validate_owners(object: &Object, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut controllers = 0;
    for (at, owner) in owners(object).iter().enumerate() {
        let path = path.index(at);
        for (field, what) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "kind must not be empty"),
            ("name", "name must not be empty"),
            ("uid", "uid must not be empty"),
        ] {
            if owner[field].as_str().unwrap_or_default().is_empty() {
                let named = owner[field].as_str().unwrap_or_default();
                errors.push(path.child(field).invalid(named, what));
            }
        }
        controllers += usize::from(owner["controller"] == true);
    }
    if controllers > 1 {
        errors.push(path.invalid(
            owners(object).to_vec(),
            "Only one reference can have Controller set to true",
        ));
    }
    errors
}

fn validate_finalizers(object: &Object, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (at, finalizer) in finalizers(object).enumerate() {
        let wrong = names::qualified_name(finalizer);
        errors.extend(wrong.iter().map(|w| path.index(at).invalid(finalizer, w)));
    }
    errors
}

fn validate_standard_finalizers(object: &Object) -> Vec<FieldError> {
    let path = Path::new("metadata.finalizers");
    let mut errors = Vec::new();
    for (at, finalizer) in finalizers(object).enumerate() {
        let wrong = names::qualified_name(finalizer);
        let standard = matches!(finalizer, "foregroundDeletion" | "orphan" | "kubernetes");
        if !finalizer.contains('/') && !standard && wrong.is_empty() {
            errors.push(path.index(at).invalid(
                finalizer,
                "name is neither a standard finalizer name nor is it fully qualified",
            ));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_judged_by_the_rules_of_every_object() {
        let object = json!({"metadata": {
            "name": "A b", "namespace": "x",
            "labels": {"a b": "c"}, "finalizers": ["plain"],
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p"}],
        }});
        let errors = validate(&object, true, names::dns_subdomain);
        let paths: Vec<&str> = errors.iter().map(|e| e.path.as_str()).collect();
        let want = [
            "metadata.name",
            "metadata.labels",
            "metadata.ownerReferences[0].uid",
            "metadata.finalizers[0]",
        ];
        assert_eq!(paths, want);
        let missing = validate(&json!({"metadata": {}}), false, names::dns_subdomain);
        let told = format!("{}: {}", missing[0].path, missing[0].message);
        assert_eq!(told, "metadata.name: Required value: name or generateName is required");
    }

    #[test]
    fn a_dying_object_takes_no_new_finalizers() {
        let old = json!({"metadata": {"name": "a", "deletionTimestamp": "x"}});
        let mut new = old.clone();
        new["metadata"]["finalizers"] = json!(["example.com/f"]);
        assert_eq!(validate_update(&new, &old).len(), 1);
        assert_eq!(validate_update(&old, &old).len(), 0);
    }
}
