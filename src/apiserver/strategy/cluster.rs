//! Namespaces, nodes, and what the cluster itself needs: leases, priorities, certificates, quotas.

use serde_json::{Value, json};

use super::cells::{self, joined, number, or, text, wide};
use super::human_duration;
use super::rules::{Generation, PLAIN, Rules, Status, WITH_STATUS};
use super::{AGE, Column, NAME, Part, age};
use crate::api::Object;
use crate::api::meta::{self, entry, list};
use crate::api::names;
use crate::api::validation;

pub(super) const NAMESPACE: Rules = Rules {
    name: names::dns_label,
    status: Status::Own,
    create: |o| {
        entry(o, "status").insert("phase".into(), json!("Active"));
        let spec = entry(o, "spec");
        let mut finalizers = list(spec.get("finalizers").unwrap_or(&Value::Null)).to_vec();
        if !finalizers.iter().any(|f| f == "kubernetes") {
            finalizers.push(json!("kubernetes"));
        }
        spec.insert("finalizers".into(), Value::Array(finalizers));
    },
    // The finalizers of the spec change through the finalize subresource only.
    update: |part, o, old| {
        if part == Part::Main {
            let was = old["spec"]["finalizers"].clone();
            let spec = entry(o, "spec");
            match was {
                Value::Null => spec.remove("finalizers"),
                was => spec.insert("finalizers".into(), was),
            };
        }
    },
    prepare_delete: |o| {
        entry(o, "status").insert("phase".into(), json!("Terminating"));
    },
    held: |o| !list(&o["spec"]["finalizers"]).is_empty(),
    columns: &[NAME, text("Status"), AGE],
    cells: |o, now| vec![cells::name(o), or(&o["status"]["phase"], ""), age(o, now)],
    ..PLAIN
};

pub(super) const NODE: Rules = Rules {
    status: Status::KeptAtCreate,
    validate: validation::node,
    validate_update: |part, new, old| match part {
        Part::Main => validation::node_update(new, old),
        Part::Status => Vec::new(),
    },
    columns: &[
        NAME,
        text("Status"),
        text("Roles"),
        AGE,
        text("Version"),
        wide("Internal-IP"),
        wide("External-IP"),
        wide("OS-Image"),
        wide("Kernel-Version"),
        wide("Container-Runtime"),
    ],
    cells: |o, now| {
        let info = &o["status"]["nodeInfo"];
        let address = |kind: &str| {
            let all = list(&o["status"]["addresses"]);
            let found = all.iter().find(|a| a["type"] == kind).map(|a| a["address"].clone());
            or(&found.unwrap_or_default(), "<none>")
        };
        vec![
            cells::name(o),
            json!(node_status(o)),
            roles(o),
            age(o, now),
            or(&info["kubeletVersion"], ""),
            address("InternalIP"),
            address("ExternalIP"),
            or(&info["osImage"], "<unknown>"),
            or(&info["kernelVersion"], "<unknown>"),
            or(&info["containerRuntimeVersion"], "<unknown>"),
        ]
    },
    ..PLAIN
};

fn node_status(node: &Object) -> String {
    let ready = match meta::condition(node, "Ready") {
        Some(c) if c["status"] == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    match node["spec"]["unschedulable"] == true {
        true => format!("{ready},SchedulingDisabled"),
        false => ready.to_owned(),
    }
}

fn roles(node: &Object) -> Value {
    let labels = node["metadata"]["labels"].as_object().into_iter().flatten();
    let mut roles: Vec<&str> = labels
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => Some(role),
            _ if key == "kubernetes.io/role" => value.as_str().filter(|v| !v.is_empty()),
            _ => None,
        })
        .collect();
    roles.sort_unstable();
    roles.dedup();
    joined(roles.iter(), "<none>")
}

pub(super) const LEASE: Rules = Rules {
    creates_on_update: true,
    updates_unconditionally: false,
    validate: validation::lease,
    columns: &[NAME, text("Holder"), AGE],
    cells: |o, now| vec![cells::name(o), or(&o["spec"]["holderIdentity"], ""), age(o, now)],
    ..PLAIN
};

pub(super) const PRIORITY_CLASS: Rules = Rules {
    generation: Generation::Content,
    validate: validation::priority_class,
    validate_update: |_, new, old| {
        let mut errors =
            validation::forbidden_change(new, old, "value", "may not be changed in an update.");
        errors.extend(validation::immutable(new, old, "preemptionPolicy"));
        errors
    },
    columns: &[
        NAME,
        number("Value"),
        Column { kind: "boolean", ..text("Global-Default") },
        AGE,
        text("PreemptionPolicy"),
    ],
    cells: |o, now| {
        vec![
            cells::name(o),
            json!(cells::count(&o["value"])),
            json!(o["globalDefault"] == true),
            age(o, now),
            or(&o["preemptionPolicy"], ""),
        ]
    },
    ..PLAIN
};

pub(super) const RUNTIME_CLASS: Rules = Rules {
    validate: |object| {
        let handler = object["handler"].as_str().unwrap_or_default();
        let path = crate::api::field::Path::new("handler");
        names::dns_label(handler).iter().map(|why| path.invalid(handler, why)).collect()
    },
    validate_update: |_, new, old| validation::immutable(new, old, "handler"),
    columns: &[NAME, text("Handler"), AGE],
    cells: |o, now| vec![cells::name(o), or(&o["handler"], ""), age(o, now)],
    ..PLAIN
};

/// The part of a request for a certificate that only `/approval` writes.
fn approval(kind: &str) -> bool {
    matches!(kind, "Approved" | "Denied")
}

pub(super) const SIGNING_REQUEST: Rules = Rules {
    name: |_| Vec::new(),
    status: Status::Own,
    update: |part, o, old| {
        o["spec"] = old["spec"].clone();
        if part == Part::Status {
            keep_approval(o, old);
        }
    },
    validate: validation::signing_request,
    columns: &[
        NAME,
        AGE,
        text("SignerName"),
        text("Requestor"),
        text("RequestedDuration"),
        text("Condition"),
    ],
    cells: |o, now| {
        let spec = &o["spec"];
        let duration = match spec["expirationSeconds"].as_i64() {
            Some(seconds) => human_duration(seconds),
            None => "<none>".into(),
        };
        vec![
            cells::name(o),
            age(o, now),
            or(&spec["signerName"], "<none>"),
            or(&spec["username"], ""),
            json!(duration),
            json!(request_state(o)),
        ]
    },
    ..PLAIN
};

fn keep_approval(o: &mut Object, old: &Object) {
    let is_approval = |c: &&Value| approval(c["type"].as_str().unwrap_or_default());
    let kept = list(&old["status"]["conditions"]).iter().filter(is_approval);
    let new = list(&o["status"]["conditions"]).iter().filter(|c| !is_approval(c));
    let all: Vec<Value> = kept.chain(new).cloned().collect();
    if !all.is_empty() {
        entry(o, "status").insert("conditions".into(), Value::Array(all));
    }
}

fn request_state(o: &Object) -> String {
    let has = |kind: &str| meta::condition(o, kind).is_some();
    let mut state = match (has("Approved"), has("Denied")) {
        (_, true) => "Denied".to_owned(),
        (true, false) => "Approved".to_owned(),
        (false, false) => "Pending".to_owned(),
    };
    if has("Failed") {
        state.push_str(",Failed");
    }
    if o["status"]["certificate"].as_str().is_some_and(|c| !c.is_empty()) {
        state.push_str(",Issued");
    }
    state
}

pub(super) const RESOURCE_QUOTA: Rules = Rules {
    generation: Generation::None,
    columns: &[NAME, text("Request"), text("Limit"), AGE],
    cells: |o, now| {
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (name, hard) in o["status"]["hard"].as_object().into_iter().flatten() {
            let used = o["status"]["used"][name].as_str().unwrap_or("0");
            let told = format!("{name}: {used}/{}", hard.as_str().unwrap_or("0"));
            if name.starts_with("limits.") { &mut limits } else { &mut requests }.push(told);
        }
        vec![cells::name(o), json!(requests.join(", ")), json!(limits.join(", ")), age(o, now)]
    },
    ..WITH_STATUS
};

/// A kind of which `kubectl get` shows when it was made.
pub(super) const WITH_CREATED: Rules = Rules {
    columns: &[NAME, Column { kind: "date", ..text("Created At") }],
    cells: |o, _| vec![cells::name(o), o["metadata"]["creationTimestamp"].clone()],
    ..PLAIN
};

pub(super) const ROLE_BINDING: Rules = Rules {
    name: names::path_segment,
    validate: validation::role_binding,
    validate_update: |_, new, old| {
        let mut errors = Vec::new();
        if new["roleRef"] != old["roleRef"] {
            let path = crate::api::field::Path::new("roleRef");
            errors.push(path.invalid(new["roleRef"].clone(), "cannot change roleRef"));
        }
        errors
    },
    columns: &[NAME, text("Role"), AGE, wide("Users"), wide("Groups"), wide("ServiceAccounts")],
    cells: |o, now| {
        let role = &o["roleRef"];
        let part = |field: &str| role[field].as_str().unwrap_or_default().to_owned();
        let named = |kind: &str| -> Vec<String> {
            list(&o["subjects"])
                .iter()
                .filter(|s| s["kind"] == kind)
                .map(|s| {
                    let name = s["name"].as_str().unwrap_or_default();
                    match (kind, s["namespace"].as_str()) {
                        ("ServiceAccount", Some(ns)) => format!("{ns}/{name}"),
                        _ => name.to_owned(),
                    }
                })
                .collect()
        };
        let list = |kind: &str| json!(named(kind).join(", "));
        vec![
            cells::name(o),
            json!(format!("{}/{}", part("kind"), part("name"))),
            age(o, now),
            list("User"),
            list("Group"),
            list("ServiceAccount"),
        ]
    },
    ..PLAIN
};

pub(super) const ROLE: Rules =
    Rules { name: names::path_segment, validate: validation::role, ..WITH_CREATED };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_nodes_say_what_kubectl_says() {
        let now = "2026-01-01T00:01:00Z".parse().expect("a time");
        let node = json!({
            "metadata": {"name": "n", "labels": {"node-role.kubernetes.io/worker": ""}},
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}],
                "nodeInfo": {"kubeletVersion": "v1.37.0"},
                "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]},
        });
        let row = (NODE.cells)(&node, now);
        let want = json!([
            "n",
            "Ready,SchedulingDisabled",
            "worker",
            "<unknown>",
            "v1.37.0",
            "10.0.0.1",
            "<none>",
            "<unknown>",
            "<unknown>",
            "<unknown>"
        ]);
        assert_eq!(json!(row), want);
    }

    #[test]
    fn a_namespace_is_held_by_the_finalizers_of_its_spec() {
        let mut ns = json!({"metadata": {"name": "a"}});
        (NAMESPACE.create)(&mut ns);
        assert_eq!(ns["status"]["phase"], "Active");
        assert!((NAMESPACE.held)(&ns));
        (NAMESPACE.prepare_delete)(&mut ns);
        assert_eq!(ns["status"]["phase"], "Terminating");
    }
}
