//! The strategy of a built-in kind, as a value: a [`Rules`] says what the kind does differently.
//! A kind that says nothing is stored, named and listed as Kubernetes does with a plain one.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Column, Conversion, Grace, NAME_AND_AGE, Part, Strategy, age};
use crate::api::Object;
use crate::api::kinds::{Kind, Scope};
use crate::api::meta::{self, NameRule};
use crate::api::status::FieldError;
use crate::api::{defaults, names};

/// What a status is when an object is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// The kind has none that it serves apart.
    None,
    /// It is emptied at create, and only writes to `/status` change it.
    Own,
    /// As [`Self::Own`], but what a create says is kept (nodes).
    KeptAtCreate,
}

/// What raises `metadata.generation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Generation {
    None,
    /// A change of `spec`.
    Spec,
    /// A change of `spec` or of the annotations (Deployments).
    SpecAndAnnotations,
    /// A change of anything but the metadata.
    Content,
}

/// What a kind does differently.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    pub name: NameRule,
    pub status: Status,
    pub generation: Generation,
    /// After the status was emptied.
    pub create: fn(&mut Object),
    /// After the parts that are not written were taken over from the old object.
    pub update: fn(Part, &mut Object, &Object),
    pub validate: fn(&Object) -> Vec<FieldError>,
    pub validate_update: fn(Part, &Object, &Object) -> Vec<FieldError>,
    pub grace: fn(&Object, Option<i64>) -> Grace,
    pub prepare_delete: fn(&mut Object),
    pub held: fn(&Object) -> bool,
    pub warnings: fn(&Object) -> Vec<String>,
    pub returns_deleted: bool,
    pub creates_on_update: bool,
    pub updates_unconditionally: bool,
    pub ttl: Option<Duration>,
    pub conversion: Option<&'static dyn Conversion>,
    pub columns: &'static [Column],
    pub cells: fn(&Object, Timestamp) -> Vec<Value>,
}

/// A kind that does nothing differently.
pub(super) const PLAIN: Rules = Rules {
    name: names::dns_subdomain,
    status: Status::None,
    generation: Generation::None,
    create: |_| {},
    update: |_, _, _| {},
    validate: |_| Vec::new(),
    validate_update: |_, _, _| Vec::new(),
    grace: |_, _| Grace::Immediate,
    prepare_delete: |_| {},
    held: |_| false,
    warnings: |_| Vec::new(),
    returns_deleted: false,
    creates_on_update: false,
    updates_unconditionally: true,
    ttl: None,
    conversion: None,
    columns: &NAME_AND_AGE,
    cells: |object, now| vec![object["metadata"]["name"].clone(), age(object, now)],
};

/// A kind with a spec whose changes are counted, and a status of its own.
pub(super) const WITH_STATUS: Rules =
    Rules { status: Status::Own, generation: Generation::Spec, ..PLAIN };

/// The strategy of a built-in kind.
pub(super) struct BuiltIn {
    rules: Rules,
    namespaced: bool,
    stored: bool,
    /// One of Kubernetes' own kinds, not of what extends it.
    core: bool,
    default: fn(&mut Object),
}

impl BuiltIn {
    pub(super) fn new(kind: &Kind, rules: Rules) -> Self {
        Self {
            rules,
            namespaced: kind.scope == Scope::Namespaced,
            stored: kind.access == crate::api::kinds::Access::Stored,
            core: !matches!(&*kind.group, "apiextensions.k8s.io" | "apiregistration.k8s.io"),
            default: defaults::of(kind),
        }
    }
}

/// Everything but the metadata.
fn content(object: &Object) -> impl Iterator<Item = (&String, &Value)> {
    object.as_object().into_iter().flatten().filter(|(key, _)| *key != "metadata")
}

/// Put `value` at `field`, or take the field away where it is null.
fn put(object: &mut Object, field: &str, value: &Value) {
    let Some(map) = object.as_object_mut() else { return };
    if value.is_null() {
        map.remove(field);
    } else {
        map.insert(field.to_owned(), value.clone());
    }
}

impl Strategy for BuiltIn {
    fn default(&self, object: &mut Object) {
        if object.is_object() {
            (self.default)(object);
        }
    }

    fn prepare_create(&self, object: &mut Object) {
        if self.rules.status == Status::Own {
            put(object, "status", &json!({}));
        }
        (self.rules.create)(object);
    }

    fn prepare_update(&self, part: Part, object: &mut Object, old: &Object) {
        match (part, self.rules.status) {
            (_, Status::None) => {}
            (Part::Main, _) => put(object, "status", &old["status"]),
            (Part::Status, _) => {
                // Only the status and the metadata are taken from the write.
                let mut whole = old.clone();
                put(&mut whole, "status", &object["status"]);
                put(&mut whole, "metadata", &object["metadata"]);
                *object = whole;
            }
        }
        (self.rules.update)(part, object, old);
    }

    fn validate(&self, object: &Object) -> Vec<FieldError> {
        let mut errors = match self.stored {
            true if self.core => meta::validate(object, self.namespaced, self.rules.name),
            true => meta::validate_any(object, self.namespaced, self.rules.name),
            false => Vec::new(),
        };
        errors.extend((self.rules.validate)(object));
        errors
    }

    fn validate_update(&self, part: Part, object: &Object, old: &Object) -> Vec<FieldError> {
        (self.rules.validate_update)(part, object, old)
    }

    fn generation_changes(&self, new: &Object, old: &Object) -> Option<bool> {
        let annotations = |o: &Object| o["metadata"]["annotations"].clone();
        match self.rules.generation {
            Generation::None => None,
            Generation::Spec => Some(new["spec"] != old["spec"]),
            Generation::SpecAndAnnotations => {
                Some(new["spec"] != old["spec"] || annotations(new) != annotations(old))
            }
            Generation::Content => Some(!content(new).eq(content(old))),
        }
    }

    fn creates_on_update(&self) -> bool {
        self.rules.creates_on_update
    }

    fn updates_unconditionally(&self) -> bool {
        self.rules.updates_unconditionally
    }

    fn grace(&self, object: &Object, seconds: Option<i64>) -> Grace {
        (self.rules.grace)(object, seconds)
    }

    fn prepare_delete(&self, object: &mut Object) {
        (self.rules.prepare_delete)(object);
    }

    fn held(&self, object: &Object) -> bool {
        (self.rules.held)(object)
    }

    fn returns_deleted(&self) -> bool {
        self.rules.returns_deleted
    }

    fn ttl(&self) -> Option<Duration> {
        self.rules.ttl
    }

    fn conversion(&self) -> Option<&dyn Conversion> {
        self.rules.conversion
    }

    fn warnings(&self, object: &Object) -> Vec<String> {
        (self.rules.warnings)(object)
    }

    fn columns(&self) -> &'static [Column] {
        self.rules.columns
    }

    fn cells(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        (self.rules.cells)(object, now)
    }
}
