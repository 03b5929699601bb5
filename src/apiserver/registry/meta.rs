//! The rules of `metadata` that the server keeps for every kind (Kubernetes' `registry/rest`
//! `BeforeCreate` and `BeforeUpdate`).

use serde_json::{Value, json};

use super::Registry;
use crate::api::Object;
use crate::api::status::{ApiError, FieldError, FieldErrorKind};
use crate::apiserver::catalog::Resource;
use crate::base::clock::rfc3339_seconds;

/// Generated names are cut so that they fit a DNS label with their five random characters.
const GENERATED_BASE_MAX: usize = 58;

/// A string in metadata; empty where it is missing or null.
pub fn text<'a>(object: &'a Object, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// The finalizers of an object.
pub fn finalizers(object: &Object) -> Vec<&str> {
    let list = object["metadata"]["finalizers"].as_array();
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Whether the object is being deleted.
pub fn is_deleting(object: &Object) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

fn metadata(object: &mut Object) -> Result<&mut serde_json::Map<String, Value>, ApiError> {
    let Some(map) = object.as_object_mut() else {
        return Err(ApiError::bad_request("the object provided is not a JSON object"));
    };
    let slot = map.entry("metadata").or_insert_with(|| json!({}));
    if slot.is_null() {
        *slot = json!({});
    }
    slot.as_object_mut().ok_or_else(|| ApiError::bad_request("metadata is not a JSON object"))
}

/// Set or drop a metadata field.
fn put(map: &mut serde_json::Map<String, Value>, field: &str, value: Option<Value>) {
    match value {
        Some(value) if !value.is_null() => {
            map.insert(field.to_owned(), value);
        }
        _ => {
            map.remove(field);
        }
    }
}

/// The namespace of the URL goes into the object.
///
/// # Errors
/// 400 when the object names another.
pub fn match_namespace(
    resource: &Resource,
    namespace: &str,
    object: &mut Object,
) -> Result<(), ApiError> {
    let map = metadata(object)?;
    if !resource.namespaced() {
        map.remove("namespace");
        return Ok(());
    }
    match map.get("namespace").and_then(Value::as_str).unwrap_or_default() {
        "" => {
            map.insert("namespace".to_owned(), namespace.into());
            Ok(())
        }
        same if same == namespace => Ok(()),
        _ => Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        )),
    }
}

impl Registry {
    /// Fill in what the server owns in the metadata of a new object. Answers whether the name was
    /// generated.
    ///
    /// # Errors
    /// 400 for a resourceVersion, 422 without any name.
    pub(super) fn prepare_new(
        &self,
        resource: &Resource,
        namespace: &str,
        object: &mut Object,
    ) -> Result<bool, ApiError> {
        match_namespace(resource, namespace, object)?;
        let map = metadata(object)?;
        let version = map.get("resourceVersion").and_then(Value::as_str).unwrap_or_default();
        if !matches!(version, "" | "0") {
            return Err(ApiError::bad_request(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        for field in [
            "deletionGracePeriodSeconds",
            "deletionTimestamp",
            "generation",
            "managedFields",
            "resourceVersion",
            "selfLink",
        ] {
            map.remove(field);
        }
        map.insert("uid".to_owned(), self.new_uid().into());
        let now = rfc3339_seconds(self.clock.now());
        map.insert("creationTimestamp".to_owned(), now.into());
        self.name_new(resource, object)
    }

    /// Give an object without a name one that begins with its `generateName`.
    pub(super) fn name_new(
        &self,
        resource: &Resource,
        object: &mut Object,
    ) -> Result<bool, ApiError> {
        let map = metadata(object)?;
        let named = |field: &str| map.get(field).and_then(Value::as_str).unwrap_or_default();
        if !named("name").is_empty() {
            return Ok(false);
        }
        let base = named("generateName");
        if base.is_empty() {
            let kind = &resource.kind;
            let error = FieldError {
                kind: FieldErrorKind::Required,
                path: "metadata.name".into(),
                message: "Required value: name or generateName is required".into(),
            };
            return Err(ApiError::invalid(&kind.group, &kind.kind, "", &[error]));
        }
        let end = base.floor_char_boundary(GENERATED_BASE_MAX);
        let name = format!("{}{}", &base[..end], self.name_suffix());
        map.insert("name".to_owned(), name.into());
        Ok(true)
    }
}

/// Before an update: what the server owns is taken over from the old object, so that it survives
/// whatever the client sent, null included.
///
/// # Errors
/// 400 when name or namespace are not those of the URL.
pub fn prepare_change(
    resource: &Resource,
    namespace: &str,
    name: &str,
    object: &mut Object,
    old: &Object,
) -> Result<(), ApiError> {
    match_namespace(resource, namespace, object)?;
    let map = metadata(object)?;
    match map.get("name").and_then(Value::as_str).unwrap_or_default() {
        "" => {
            map.insert("name".to_owned(), name.into());
        }
        same if same == name => {}
        other => {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({other}) does not match the name on the URL ({name})"
            )));
        }
    }
    let before = &old["metadata"];
    for field in [
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "generation",
        "generateName",
        "managedFields",
        "uid",
    ] {
        put(map, field, before.get(field).cloned());
    }
    map.remove("selfLink");
    for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
        let empty = match map.get(field) {
            Some(Value::Null) => true,
            Some(Value::Array(list)) => list.is_empty(),
            Some(Value::Object(members)) => members.is_empty(),
            _ => false,
        };
        if empty {
            map.remove(field);
        }
    }
    Ok(())
}

/// The rules of a metadata change that hold for every kind.
pub fn check_change(object: &Object, old: &Object) -> Vec<FieldError> {
    if !is_deleting(old) {
        return Vec::new();
    }
    let before = finalizers(old);
    let new: Vec<String> = finalizers(object)
        .into_iter()
        .filter(|f| !before.contains(f))
        .map(|f| format!("{f:?}"))
        .collect();
    if new.is_empty() {
        return Vec::new();
    }
    vec![FieldError {
        kind: FieldErrorKind::Forbidden,
        path: "metadata.finalizers".into(),
        message: format!(
            "Forbidden: no new finalizers can be added if the object is being deleted, \
             found new finalizers []string{{{}}}",
            new.join(", ")
        ),
    }]
}
