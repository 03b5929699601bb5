//! Defaults of volumes, storage classes and limits.

use serde_json::{Value, json};

use super::{each, inside, set};
use crate::api::Object;
use crate::api::meta::entry;

pub(super) fn persistent_volume(object: &mut Object) {
    set(entry(object, "status"), "phase", "Pending");
    let spec = entry(object, "spec");
    set(spec, "persistentVolumeReclaimPolicy", "Retain");
    set(spec, "volumeMode", "Filesystem");
    if let Some(path) = inside(spec, "hostPath") {
        path.entry("type").or_insert(Value::String(String::new()));
    }
}

pub(super) fn claim(object: &mut Object) {
    set(entry(object, "status"), "phase", "Pending");
    set(entry(object, "spec"), "volumeMode", "Filesystem");
}

pub(super) fn class(object: &mut Object) {
    let Some(map) = object.as_object_mut() else { return };
    set(map, "reclaimPolicy", "Delete");
    set(map, "volumeBindingMode", "Immediate");
}

pub(super) fn csi_driver(object: &mut Object) {
    let spec = entry(object, "spec");
    for (field, value) in [
        ("attachRequired", json!(true)),
        ("fsGroupPolicy", json!("ReadWriteOnceWithFSType")),
        ("podInfoOnMount", json!(false)),
        ("requiresRepublish", json!(false)),
        ("seLinuxMount", json!(false)),
        ("storageCapacity", json!(false)),
        ("volumeLifecycleModes", json!(["Persistent"])),
    ] {
        set(spec, field, value);
    }
}

/// What a container limit leaves out follows from what it says.
pub(super) fn limit_range(object: &mut Object) {
    for item in each(entry(object, "spec"), "limits") {
        if item.get("type").and_then(Value::as_str) != Some("Container") {
            continue;
        }
        fill(item, "max", "default");
        fill(item, "default", "defaultRequest");
        fill(item, "min", "defaultRequest");
    }
}

/// Amounts of `from` that `to` lacks.
fn fill(item: &mut super::JsonMap, from: &str, to: &str) {
    let Some(Value::Object(amounts)) = item.get(from).cloned() else { return };
    let target = item.entry(to).or_insert_with(|| json!({}));
    if let Some(target) = target.as_object_mut() {
        for (name, amount) in amounts {
            target.entry(name).or_insert(amount);
        }
    }
}
