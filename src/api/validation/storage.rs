//! Rules for the kinds of `storage.k8s.io`.

use serde_json::Value;

use super::{Errors, judged, not_negative, one_of, required, text};
use crate::api::Object;
use crate::api::field::Path;
use crate::api::meta::list;
use crate::api::names;

/// The rules of a StorageClass.
pub fn storage_class(object: &Object) -> Errors {
    let mut errors = Vec::new();
    let path = Path::new("provisioner");
    match text(&object["provisioner"]) {
        "" => errors.push(path.required("")),
        said => {
            let wrong = names::qualified_name(&said.to_lowercase());
            errors.extend(wrong.iter().map(|why| path.invalid(said, why)));
        }
    }
    let parameters = object["parameters"].as_object();
    if parameters.is_some_and(|parameters| parameters.contains_key("")) {
        errors.push(Path::new("parameters").invalid("", "field can not be empty."));
    }
    let policies = ["Delete", "Retain"];
    one_of(&mut errors, &Path::new("reclaimPolicy"), &object["reclaimPolicy"], &policies);
    let modes = ["Immediate", "WaitForFirstConsumer"];
    one_of(&mut errors, &Path::new("volumeBindingMode"), &object["volumeBindingMode"], &modes);
    errors
}

fn driver_name(errors: &mut Errors, path: &Path, value: &Value) {
    let said = text(value);
    if said.is_empty() {
        errors.push(path.required(""));
        return;
    }
    if said.len() > 63 {
        errors.push(path.too_long(63));
    }
    let wrong = names::dns_subdomain(&said.to_lowercase());
    errors.extend(wrong.iter().map(|why| path.invalid(said, why)));
}

/// The rules of a VolumeAttachment.
pub fn attachment(object: &Object) -> Errors {
    let (mut errors, path, spec) = (Vec::new(), Path::new("spec"), &object["spec"]);
    driver_name(&mut errors, &path.child("attacher"), &spec["attacher"]);
    let (source, at) = (&spec["source"], path.child("source"));
    match (source["persistentVolumeName"].as_str(), source["inlineVolumeSpec"].is_object()) {
        (None, false) => errors.push(
            at.required("must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
        ),
        (Some(_), true) => errors.push(
            at.forbidden("must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
        ),
        (Some(""), false) => errors.push(
            at.child("persistentVolumeName")
                .required("must specify non empty persistentVolumeName"),
        ),
        _ => {}
    }
    judged(&mut errors, &path.child("nodeName"), text(&spec["nodeName"]), names::dns_subdomain);
    errors
}

/// The rules of a CSINode.
pub fn csi_node(object: &Object) -> Errors {
    let mut errors = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for (at, driver) in list(&object["spec"]["drivers"]).iter().enumerate() {
        let path = Path::new("spec.drivers").index(at);
        driver_name(&mut errors, &path.child("name"), &driver["name"]);
        required(&mut errors, &path.child("nodeID"), &driver["nodeID"]);
        let count = path.child("allocatable").child("count");
        not_negative(&mut errors, &count, &driver["allocatable"]["count"]);
        let name = text(&driver["name"]);
        if seen.contains(&name) {
            errors.push(path.child("name").duplicate(name));
        }
        seen.push(name);
    }
    errors
}

/// The rules of a CSIDriver.
pub fn csi_driver(object: &Object) -> Errors {
    let (mut errors, path, spec) = (Vec::new(), Path::new("spec"), &object["spec"]);
    let modes = ["Ephemeral", "Persistent"];
    for mode in list(&spec["volumeLifecycleModes"]) {
        one_of(&mut errors, &path.child("volumeLifecycleModes"), mode, &modes);
    }
    let mut audiences: Vec<&str> = Vec::new();
    for (at, request) in list(&spec["tokenRequests"]).iter().enumerate() {
        let path = path.child("tokenRequests").index(at);
        let audience = text(&request["audience"]);
        if audiences.contains(&audience) {
            errors.push(path.child("audience").duplicate(audience));
        }
        audiences.push(audience);
        if let Some(seconds) = request["expirationSeconds"].as_i64() {
            let path = path.child("expirationSeconds");
            if seconds < 600 {
                let why = "may not specify a duration less than 10 minutes";
                errors.push(path.invalid(seconds, why));
            }
            if seconds > 1 << 32 {
                let why = "may not specify a duration larger than 2^32 seconds";
                errors.push(path.invalid(seconds, why));
            }
        }
    }
    errors
}

/// The rules of a CSIStorageCapacity.
pub fn csi_capacity(object: &Object) -> Errors {
    let mut errors = Vec::new();
    let path = Path::new("storageClassName");
    judged(&mut errors, &path, text(&object["storageClassName"]), names::dns_subdomain);
    errors
}
