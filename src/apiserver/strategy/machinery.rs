//! Strategies of what extends and steers the API: webhooks, policies, API services, flows,
//! addresses, devices.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::cells::{joined, name, number, or, text};
use super::rules::{Generation, PLAIN, Rules, WITH_STATUS};
use super::{AGE, Column, NAME, Part, age};
use crate::api::Object;
use crate::api::meta::{self, list};
use crate::api::validation::machinery as judge;

/// A kind whose changes are counted, without a status.
const COUNTED: Rules = Rules { generation: Generation::Content, ..PLAIN };

fn count_of(list_of: &Value) -> Value {
    list(list_of).len().into()
}

pub(super) const WEBHOOKS: Rules = Rules {
    validate: judge::webhooks,
    columns: &[NAME, number("Webhooks"), AGE],
    cells: |object, now| vec![name(object), count_of(&object["webhooks"]), age(object, now)],
    ..COUNTED
};

fn param_kind(object: &Object) -> Value {
    let kind = &object["spec"]["paramKind"];
    match (kind["apiVersion"].as_str(), kind["kind"].as_str()) {
        (Some(version), Some(kind)) => format!("{version}/{kind}").into(),
        _ => "<unset>".into(),
    }
}

/// What the types of its expressions tell, as far as kinds are known here, goes into the status at
/// once.
fn type_check(object: &mut Object, generation: i64) {
    if !object["spec"].is_object() {
        return;
    }
    let warnings = crate::api::validation::policy::type_warnings(object);
    object["status"]["observedGeneration"] = generation.into();
    object["status"]["typeChecking"] = match warnings.is_empty() {
        true => json!({}),
        false => json!({"expressionWarnings": warnings}),
    };
}

pub(super) const VALIDATING_POLICY: Rules = Rules {
    validate: judge::validating_policy,
    create: |object| type_check(object, 1),
    update: |part, object, old| match part {
        Part::Status => {
            let keep = ["managedFields", "resourceVersion"];
            super::custom::metadata_stays(object, old, &keep);
        }
        Part::Main if object["spec"] != old["spec"] => {
            type_check(object, meta::generation(old) + 1);
        }
        Part::Main => {}
    },
    columns: &[NAME, number("Validations"), text("ParamKind"), AGE],
    cells: |object, now| {
        let validations = count_of(&object["spec"]["validations"]);
        vec![name(object), validations, param_kind(object), age(object, now)]
    },
    ..WITH_STATUS
};

pub(super) const MUTATING_POLICY: Rules = Rules {
    validate: judge::mutating_policy,
    columns: &[NAME, number("Mutations"), text("ParamKind"), AGE],
    cells: |object, now| {
        let mutations = count_of(&object["spec"]["mutations"]);
        vec![name(object), mutations, param_kind(object), age(object, now)]
    },
    generation: Generation::Spec,
    ..PLAIN
};

pub(super) const POLICY_BINDING: Rules = Rules {
    validate: judge::policy_binding,
    columns: &[NAME, text("PolicyName"), text("ParamRef"), AGE],
    cells: |object, now| {
        let spec = &object["spec"];
        let param =
            match (spec["paramRef"]["namespace"].as_str(), spec["paramRef"]["name"].as_str()) {
                (Some(namespace), Some(name)) => format!("{namespace}/{name}").into(),
                (None, Some(name)) => name.into(),
                _ if spec["paramRef"]["selector"].is_object() => "*".into(),
                _ => Value::from("<unset>"),
            };
        vec![name(object), spec["policyName"].clone(), param, age(object, now)]
    },
    generation: Generation::Spec,
    ..PLAIN
};

/// An API service without a service is served by this server.
fn is_available(object: &mut Object) {
    if object["spec"]["service"].is_object() || !object["spec"].is_object() {
        return;
    }
    object["status"] = json!({"conditions": [{
        "type": "Available", "status": "True", "reason": "Local",
        "message": "Local APIServices are always available",
        "lastTransitionTime": object["metadata"]["creationTimestamp"],
    }]});
}

pub(super) const API_SERVICE: Rules = Rules {
    name: crate::api::names::path_segment,
    create: is_available,
    validate: judge::api_service,
    generation: Generation::None,
    columns: &[NAME, text("Service"), text("Available"), AGE],
    cells: |object, now| {
        let service = &object["spec"]["service"];
        let served = match (service["namespace"].as_str(), service["name"].as_str()) {
            (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
            _ => "Local".into(),
        };
        let available = match meta::condition(object, "Available") {
            None => "Unknown".to_owned(),
            Some(found) if found["status"] == "True" => "True".into(),
            Some(found) => format!(
                "{} ({})",
                found["status"].as_str().unwrap_or_default(),
                found["reason"].as_str().unwrap_or_default()
            ),
        };
        vec![name(object), served.into(), available.into(), age(object, now)]
    },
    ..WITH_STATUS
};

const FLOW_COLUMNS: [Column; 6] = [
    NAME,
    text("PriorityLevel"),
    number("MatchingPrecedence"),
    text("DistinguisherMethod"),
    AGE,
    text("MissingPL"),
];

pub(super) const FLOW_SCHEMA: Rules = Rules {
    validate: judge::flow_schema,
    columns: &FLOW_COLUMNS,
    cells: |object, now| {
        let spec = &object["spec"];
        let missing = meta::condition(object, "Dangling").map(|c| c["status"].clone());
        vec![
            name(object),
            spec["priorityLevelConfiguration"]["name"].clone(),
            spec["matchingPrecedence"].clone(),
            or(&spec["distinguisherMethod"]["type"], "<none>"),
            age(object, now),
            missing.unwrap_or_else(|| "?".into()),
        ]
    },
    ..WITH_STATUS
};

pub(super) const PRIORITY_LEVEL: Rules = Rules {
    validate: judge::priority_level,
    columns: &[
        NAME,
        text("Type"),
        text("NominalConcurrencyShares"),
        text("Queues"),
        text("HandSize"),
        text("QueueLengthLimit"),
        AGE,
    ],
    cells: |object, now| {
        let spec = &object["spec"];
        let queuing = &spec["limited"]["limitResponse"]["queuing"];
        let mut cells = vec![
            name(object),
            spec["type"].clone(),
            or(&spec["limited"]["nominalConcurrencyShares"], "<none>"),
        ];
        let fields = ["queues", "handSize", "queueLengthLimit"];
        cells.extend(fields.map(|field| or(&queuing[field], "<none>")));
        cells.push(age(object, now));
        cells
    },
    ..WITH_STATUS
};

pub(super) const IP_ADDRESS: Rules = Rules {
    name: |_| Vec::new(),
    validate: judge::ip_address,
    columns: &[NAME, text("ParentRef"), AGE],
    cells: |object, now| {
        let parent = &object["spec"]["parentRef"];
        let parts = ["resource", "namespace", "name"];
        let shown: Vec<&str> = parts.iter().filter_map(|part| parent[*part].as_str()).collect();
        vec![name(object), shown.join("/").into(), age(object, now)]
    },
    generation: Generation::Content,
    ..PLAIN
};

pub(super) const SERVICE_CIDR: Rules = Rules {
    validate: judge::service_cidr,
    validate_update: |_, object, old| judge::service_cidr_update(object, old),
    columns: &[NAME, text("CIDRs"), AGE],
    cells: |object, now| {
        let cidrs = list(&object["spec"]["cidrs"]).iter().filter_map(Value::as_str);
        vec![name(object), joined(cidrs, "<none>"), age(object, now)]
    },
    ..WITH_STATUS
};

pub(super) const ATTRIBUTES_CLASS: Rules = Rules {
    validate: judge::attributes_class,
    validate_update: |_, object, old| judge::attributes_class_update(object, old),
    columns: &[NAME, text("DriverName"), AGE],
    cells: |object, now| vec![name(object), object["driverName"].clone(), age(object, now)],
    ..PLAIN
};

pub(super) const DEVICE_CLASS: Rules = Rules { generation: Generation::Spec, ..PLAIN };

fn claim_state(object: &Object) -> String {
    let allocated = object["status"]["allocation"].is_object();
    let mut states = Vec::new();
    if meta::is_deleting(object) {
        states.push("deleted");
    }
    states.push(if allocated { "allocated" } else { "pending" });
    if !list(&object["status"]["reservedFor"]).is_empty() {
        states.push("reserved");
    }
    states.join(",")
}

pub(super) const CLAIM: Rules = Rules {
    columns: &[NAME, text("State"), AGE],
    cells: |object, now| vec![name(object), claim_state(object).into(), age(object, now)],
    generation: Generation::None,
    ..WITH_STATUS
};

pub(super) const SLICE: Rules = Rules {
    columns: &[NAME, text("Node"), text("Driver"), text("Pool"), AGE],
    cells: |object: &Object, now: Timestamp| {
        let spec = &object["spec"];
        vec![
            name(object),
            or(&spec["nodeName"], "<unset>"),
            spec["driver"].clone(),
            spec["pool"]["name"].clone(),
            age(object, now),
        ]
    },
    generation: Generation::Spec,
    ..PLAIN
};
