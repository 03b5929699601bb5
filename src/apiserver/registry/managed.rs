//! `metadata.managedFields` on every write: what a write is known by, and what it makes of the
//! entries that are there.
//!
//! **Invariant:** a write that changes nothing but the times of entries is no change.

use serde_json::{Value, json};

use super::{Call, Registry};
use crate::api::Object;
use crate::api::fields::{self, Managers, Writer};
use crate::apiserver::catalog::Resource;
use crate::apiserver::strategy::Part;
use crate::base::clock::rfc3339_seconds;

/// What an object is managed by, with the stored times.
fn take(object: &mut Object) -> Value {
    let map = object["metadata"].as_object_mut();
    map.and_then(|map| map.remove("managedFields")).unwrap_or_default()
}

fn put(object: &mut Object, managers: Managers) {
    let Some(map) = object["metadata"].as_object_mut() else { return };
    if managers.is_empty() {
        map.remove("managedFields");
    } else {
        map.insert("managedFields".into(), managers.into_value());
    }
}

/// Whether a client asked to forget every manager: `[]` or `[{}]`.
fn is_reset(sent: &Value) -> bool {
    match sent.as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([one]) => one.as_object().is_some_and(serde_json::Map::is_empty),
        _ => false,
    }
}

impl Registry {
    fn writer<'a>(
        call: &'a Call<'_>,
        resource: &'a Resource,
        part: Option<Part>,
        now: &'a str,
    ) -> Writer<'a> {
        let subresource = match part {
            Some(Part::Status) => "status",
            _ => call.attributes.subresource.as_str(),
        };
        Writer {
            manager: &call.manager,
            operation: call.operation,
            api_version: &resource.api_version,
            subresource,
            now,
        }
    }

    /// Who manages the fields of a new object: whoever made it. (An apply has said it already.)
    pub(super) fn manage_new(&self, call: &Call<'_>, resource: &Resource, object: &mut Object) {
        if call.operation == fields::Operation::Apply {
            return;
        }
        let now = rfc3339_seconds(self.clock.now());
        let mut managers = Managers::default();
        let writer = Self::writer(call, resource, None, &now);
        let fields = fields::created(resource.node(), object);
        if !fields.is_empty() {
            managers.create(fields, &writer);
        }
        put(object, managers);
    }

    /// Who manages the fields of a changed object. `sent`: what the client says of it.
    pub(super) fn manage_change(
        &self,
        call: &Call<'_>,
        resource: &Resource,
        part: Option<Part>,
        sent: Value,
        object: &mut Object,
        old: &Object,
    ) {
        let before = take(object);
        let subresource = call.attributes.subresource.as_str();
        if matches!(subresource, "binding" | "eviction") {
            object["metadata"]["managedFields"] = before;
            if object["metadata"]["managedFields"].is_null() {
                take(object);
            }
            return;
        }
        let managers = if call.operation == fields::Operation::Apply {
            Managers::parse(sent).unwrap_or_default()
        } else {
            let now = rfc3339_seconds(self.clock.now());
            let whole = subresource.is_empty() && part != Some(Part::Status);
            let mut managers = match Managers::parse(sent.clone()).filter(|m| !m.is_empty()) {
                _ if whole && is_reset(&sent) => Managers::default(),
                Some(managers) if whole => managers,
                _ => Managers::parse(before).unwrap_or_default(),
            };
            let compared = fields::compare(resource.node(), old, object);
            managers.update(compared, &Self::writer(call, resource, part, &now));
            managers
        };
        put(object, managers);
        keep_times(object, old);
    }
}

/// Where nothing but times would change, the old entries stay.
fn keep_times(object: &mut Object, old: &Object) {
    let (new, was) = (&object["metadata"]["managedFields"], &old["metadata"]["managedFields"]);
    if new == was || !Managers::same_but_times(new, was) {
        return;
    }
    let same = |a: &Object, b: &Object, skip: &str| {
        let members = |o: &Object| {
            let map = o.as_object().cloned().unwrap_or_default();
            map.into_iter().filter(|(key, _)| key != skip).collect::<Vec<_>>()
        };
        members(a) == members(b)
    };
    let unversioned = |o: &Object| {
        let mut metadata = o["metadata"].clone();
        metadata["resourceVersion"] = json!(null);
        metadata
    };
    if same(object, old, "metadata")
        && same(&unversioned(object), &unversioned(old), "managedFields")
    {
        object["metadata"]["managedFields"] = was.clone();
    }
}
