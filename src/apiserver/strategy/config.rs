//! ConfigMaps, Secrets, ServiceAccounts, and the kinds of storage.

use serde_json::{Value, json};

use super::cells::{self, flag, joined, number, or, text, wide};
use super::rules::{Generation, PLAIN, Rules, WITH_STATUS};
use super::{AGE, NAME, age};
use crate::api::Object;
use crate::api::meta::list;
use crate::api::validation;

fn size(value: &Value) -> usize {
    value.as_object().map_or(0, serde_json::Map::len)
}

pub(super) const CONFIG_MAP: Rules = Rules {
    validate: validation::config_map,
    validate_update: |_, new, old| validation::config_map_update(new, old),
    columns: &[NAME, number("Data"), AGE],
    cells: |o, now| {
        vec![cells::name(o), json!(size(&o["data"]) + size(&o["binaryData"])), age(o, now)]
    },
    ..PLAIN
};

pub(super) const SECRET: Rules = Rules {
    validate: validation::secret,
    validate_update: |_, new, old| validation::secret_update(new, old),
    columns: &[NAME, text("Type"), number("Data"), AGE],
    cells: |o, now| vec![cells::name(o), or(&o["type"], ""), json!(size(&o["data"])), age(o, now)],
    ..PLAIN
};

pub(super) const SERVICE_ACCOUNT: Rules = Rules {
    columns: &[NAME, number("Secrets"), AGE],
    cells: |o, now| vec![cells::name(o), json!(list(&o["secrets"]).len()), age(o, now)],
    ..PLAIN
};

/// `RWO,ROX`.
fn access_modes(modes: &Value) -> Value {
    let short = |mode: &Value| match mode.as_str().unwrap_or_default() {
        "ReadWriteOnce" => "RWO",
        "ReadOnlyMany" => "ROX",
        "ReadWriteMany" => "RWX",
        "ReadWriteOncePod" => "RWOP",
        _ => "",
    };
    joined(list(modes).iter().map(short), "")
}

pub(super) const PERSISTENT_VOLUME: Rules = Rules {
    generation: Generation::None,
    create: |o| {
        crate::api::meta::entry(o, "status").insert("phase".into(), json!("Pending"));
    },
    columns: &[
        NAME,
        text("Capacity"),
        text("Access Modes"),
        text("Reclaim Policy"),
        text("Status"),
        text("Claim"),
        text("StorageClass"),
        text("VolumeAttributesClass"),
        text("Reason"),
        AGE,
        wide("VolumeMode"),
    ],
    cells: |o, now| {
        let (spec, status) = (&o["spec"], &o["status"]);
        let claim = match spec["claimRef"]["name"].as_str() {
            Some(name) => {
                format!("{}/{name}", spec["claimRef"]["namespace"].as_str().unwrap_or_default())
            }
            None => String::new(),
        };
        vec![
            cells::name(o),
            or(&spec["capacity"]["storage"], ""),
            access_modes(&spec["accessModes"]),
            or(&spec["persistentVolumeReclaimPolicy"], ""),
            phase(o),
            json!(claim),
            or(&spec["storageClassName"], ""),
            or(&spec["volumeAttributesClassName"], "<unset>"),
            or(&status["reason"], ""),
            age(o, now),
            or(&spec["volumeMode"], "<unset>"),
        ]
    },
    ..WITH_STATUS
};

fn phase(o: &Object) -> Value {
    match crate::api::meta::is_deleting(o) {
        true => json!("Terminating"),
        false => or(&o["status"]["phase"], ""),
    }
}

pub(super) const CLAIM: Rules = Rules {
    generation: Generation::None,
    create: |o| {
        crate::api::meta::entry(o, "status").insert("phase".into(), json!("Pending"));
    },
    validate_update: |part, new, old| match part {
        super::Part::Main => validation::claim_update(new, old),
        super::Part::Status => Vec::new(),
    },
    columns: &[
        NAME,
        text("Status"),
        text("Volume"),
        text("Capacity"),
        text("Access Modes"),
        text("StorageClass"),
        text("VolumeAttributesClass"),
        AGE,
        wide("VolumeMode"),
    ],
    cells: |o, now| {
        let (spec, status) = (&o["spec"], &o["status"]);
        let bound = spec["volumeName"].as_str().is_some_and(|v| !v.is_empty());
        let (capacity, modes) = match bound {
            true => (or(&status["capacity"]["storage"], ""), access_modes(&status["accessModes"])),
            false => (json!(""), json!("")),
        };
        vec![
            cells::name(o),
            phase(o),
            or(&spec["volumeName"], ""),
            capacity,
            modes,
            or(&spec["storageClassName"], ""),
            or(&spec["volumeAttributesClassName"], "<unset>"),
            age(o, now),
            or(&spec["volumeMode"], "<unset>"),
        ]
    },
    ..WITH_STATUS
};

pub(super) const STORAGE_CLASS: Rules = Rules {
    validate: validation::storage_class,
    validate_update: |_, new, old| {
        ["provisioner", "parameters", "reclaimPolicy", "volumeBindingMode"]
            .into_iter()
            .flat_map(|field| {
                validation::forbidden_change(
                    new,
                    old,
                    field,
                    &format!("updates to {field} are forbidden."),
                )
            })
            .collect()
    },
    columns: &[
        NAME,
        text("Provisioner"),
        text("ReclaimPolicy"),
        text("VolumeBindingMode"),
        flag("AllowVolumeExpansion"),
        AGE,
    ],
    cells: |o, now| {
        let annotation = "storageclass.kubernetes.io/is-default-class";
        let name = crate::api::meta::name(o);
        let shown = match crate::api::meta::annotation(o, annotation) {
            Some("true") => format!("{name} (default)"),
            _ => name.to_owned(),
        };
        vec![
            json!(shown),
            or(&o["provisioner"], ""),
            or(&o["reclaimPolicy"], "Delete"),
            or(&o["volumeBindingMode"], "Immediate"),
            json!(o["allowVolumeExpansion"] == true),
            age(o, now),
        ]
    },
    ..PLAIN
};

pub(super) const ATTACHMENT: Rules = Rules {
    validate: validation::attachment,
    validate_update: |_, new, old| validation::immutable(new, old, "spec"),
    generation: Generation::None,
    columns: &[NAME, text("Attacher"), text("PV"), text("Node"), flag("Attached"), AGE],
    cells: |o, now| {
        vec![
            cells::name(o),
            or(&o["spec"]["attacher"], ""),
            or(&o["spec"]["source"]["persistentVolumeName"], ""),
            or(&o["spec"]["nodeName"], ""),
            json!(o["status"]["attached"] == true),
            age(o, now),
        ]
    },
    ..WITH_STATUS
};

pub(super) const CSI_NODE: Rules = Rules {
    validate: validation::csi_node,
    columns: &[NAME, number("Drivers"), AGE],
    cells: |o, now| vec![cells::name(o), json!(list(&o["spec"]["drivers"]).len()), age(o, now)],
    ..PLAIN
};

pub(super) const CSI_CAPACITY: Rules = Rules {
    validate: validation::csi_capacity,
    validate_update: |_, new, old| {
        ["nodeTopology", "storageClassName"]
            .into_iter()
            .flat_map(|field| validation::immutable(new, old, field))
            .collect()
    },
    columns: &[NAME, text("StorageClassName"), text("Capacity"), AGE],
    cells: |o, now| {
        let capacity = or(&o["capacity"], "<unset>");
        vec![cells::name(o), or(&o["storageClassName"], ""), capacity, age(o, now)]
    },
    ..PLAIN
};

pub(super) const CSI_DRIVER: Rules = Rules {
    validate: validation::csi_driver,
    columns: &[
        NAME,
        flag("AttachRequired"),
        flag("PodInfoOnMount"),
        flag("StorageCapacity"),
        text("TokenRequests"),
        flag("RequiresRepublish"),
        text("Modes"),
        AGE,
    ],
    cells: |o, now| {
        let spec = &o["spec"];
        let audiences = list(&spec["tokenRequests"]).iter().filter_map(|t| t["audience"].as_str());
        vec![
            cells::name(o),
            json!(spec["attachRequired"] != false),
            json!(spec["podInfoOnMount"] == true),
            json!(spec["storageCapacity"] == true),
            joined(audiences, "<unset>"),
            json!(spec["requiresRepublish"] == true),
            joined(list(&spec["volumeLifecycleModes"]).iter().filter_map(Value::as_str), "<none>"),
            age(o, now),
        ]
    },
    ..PLAIN
};
