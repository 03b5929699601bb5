//! The strategy of custom resources: what their definition says.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Conversion, Part, Strategy, age, cells};
use crate::api::Object;
use crate::api::custom::Custom;
use crate::api::kinds::{Kind, Scope};
use crate::api::meta;
use crate::api::names;
use crate::api::status::FieldError;

/// The strategy of one version of a custom kind.
pub(super) struct CustomKind {
    custom: Arc<Custom>,
    namespaced: bool,
}

impl CustomKind {
    pub(super) fn new(kind: &Kind, custom: Arc<Custom>) -> Self {
        Self { custom, namespaced: kind.scope == Scope::Namespaced }
    }

    /// What a change of raises the generation.
    fn counted<'a>(&self, object: &'a Object) -> Vec<(&'a String, &'a Value)> {
        let members = object.as_object().into_iter().flatten();
        let skipped =
            |name: &str| name == "metadata" || (self.custom.has_status && name == "status");
        members.filter(|(name, _)| !skipped(name)).collect()
    }

    fn cell(&self, found: &[&Value], kind: &str, now: Timestamp) -> Value {
        let Some(first) = found.first().filter(|value| !value.is_null()) else {
            return Value::Null;
        };
        match (kind, first) {
            ("integer", Value::Number(n)) => n.as_i64().map_or_else(
                || n.as_f64().map_or(Value::Null, |f| Value::from(f as i64)),
                Value::from,
            ),
            ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => (*first).clone(),
            ("date", at @ Value::String(_)) => Value::String(cells::since(at, now)),
            ("string", _) => {
                let shown = found.iter().map(|value| match value {
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                });
                Value::String(shown.collect::<Vec<_>>().join(","))
            }
            _ => Value::Null,
        }
    }
}

impl Strategy for CustomKind {
    fn default(&self, object: &mut Object) {
        self.custom.default(object);
    }

    fn prepare_create(&self, object: &mut Object) {
        if let (true, Some(map)) = (self.custom.has_status, object.as_object_mut()) {
            map.remove("status");
        }
    }

    fn prepare_update(&self, part: Part, object: &mut Object, old: &Object) {
        if !self.custom.has_status {
            return;
        }
        let status = match part {
            Part::Main => old.get("status").cloned(),
            Part::Status => {
                // Of the rest not even the metadata is taken, but for who manages what.
                let status = object.get("status").cloned();
                let managers = object["metadata"]["managedFields"].take();
                *object = old.clone();
                if !managers.is_null() {
                    object["metadata"]["managedFields"] = managers;
                }
                status
            }
        };
        if let Some(map) = object.as_object_mut() {
            match status {
                Some(status) => map.insert("status".into(), status),
                None => map.remove("status"),
            };
        }
    }

    fn validate(&self, object: &Object) -> Vec<FieldError> {
        let mut errors = meta::validate_any(object, self.namespaced, names::dns_subdomain);
        errors.extend(self.custom.validate(object, None));
        errors
    }

    fn validate_change(&self, _: Option<Part>, object: &Object, old: &Object) -> Vec<FieldError> {
        let mut errors = meta::validate_any(object, self.namespaced, names::dns_subdomain);
        errors.extend(self.custom.validate(object, Some(old)));
        errors
    }

    fn generation_changes(&self, new: &Object, old: &Object) -> Option<bool> {
        Some(self.counted(new) != self.counted(old))
    }

    fn updates_unconditionally(&self) -> bool {
        false
    }

    /// What was stored before its definition had a default is read with it; only kinds that have
    /// any are decoded for it.
    fn conversion(&self) -> Option<&dyn Conversion> {
        self.custom.has_defaults.then_some(self as &dyn Conversion)
    }

    fn status_takes_metadata(&self) -> bool {
        false
    }

    fn warnings(&self, _: &Object) -> Vec<String> {
        self.custom.deprecation.iter().cloned().collect()
    }

    fn column_definitions(&self) -> Vec<Value> {
        let mut columns = vec![super::NAME.definition()];
        if self.custom.columns.is_empty() {
            columns.push(super::AGE.definition());
            return columns;
        }
        columns.extend(self.custom.columns.iter().map(|column| {
            json!({
                "name": column.name,
                "type": column.kind,
                "format": column.format,
                "description": column.description,
                "priority": column.priority,
            })
        }));
        columns
    }

    fn cells(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let mut row = vec![object["metadata"]["name"].clone()];
        if self.custom.columns.is_empty() {
            row.push(age(object, now));
            return row;
        }
        let columns = self.custom.columns.iter();
        row.extend(columns.map(|c| self.cell(&c.path.find(object), &c.kind, now)));
        row
    }
}

impl Conversion for CustomKind {
    fn to_served(&self, object: &mut Object) {
        self.custom.default(object);
    }

    fn to_stored(&self, _: &mut Object) {}
}

/// The metadata is the old one again, but for the fields `keep`.
pub(super) fn metadata_stays(object: &mut Object, old: &Object, keep: &[&str]) {
    let (Some(map), Some(before)) =
        (object["metadata"].as_object_mut(), old["metadata"].as_object())
    else {
        return;
    };
    let mut stays = before.clone();
    for field in keep {
        stays.remove(*field);
        if let Some(value) = map.remove(*field) {
            stays.insert((*field).to_owned(), value);
        }
    }
    *map = stays;
}

/// The strategy of definitions themselves, as far as it is more than their rules.
pub(super) const DEFINITION: super::rules::Rules = super::rules::Rules {
    validate: crate::api::custom::definition::validate,
    validate_update: |part, object, old| match part {
        Part::Main => crate::api::custom::definition::validate_update(object, old),
        Part::Status => Vec::new(),
    },
    create: |object| {
        if !object["metadata"].is_object() {
            return;
        }
        let cleanup = crate::api::custom::definition::CLEANUP;
        let mut finalizers =
            object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        if !finalizers.iter().any(|f| f == cleanup) {
            finalizers.push(cleanup.into());
        }
        object["metadata"]["finalizers"] = finalizers.into();
    },
    update: |part, object, old| {
        if part == Part::Status {
            // Definitions take nothing but the status from such a write.
            metadata_stays(object, old, &["managedFields", "resourceVersion"]);
        }
    },
    columns: &[
        super::NAME,
        super::Column {
            name: "Created At",
            kind: "date",
            format: "",
            description: "CreationTimestamp is a timestamp representing the server time when \
                          this object was created.",
            priority: 0,
        },
    ],
    cells: |object, _| {
        vec![object["metadata"]["name"].clone(), object["metadata"]["creationTimestamp"].clone()]
    },
    ..super::rules::WITH_STATUS
};
