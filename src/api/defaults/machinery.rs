//! Defaults of what extends and steers the API: webhooks, policies, flows.

use serde_json::Value;

use super::{JsonMap, each, inside, set};
use crate::api::Object;

fn empty() -> Value {
    Value::Object(JsonMap::new())
}

/// `ValidatingWebhookConfiguration`.
pub(super) fn validating_webhooks(object: &mut Object) {
    let Some(map) = object.as_object_mut() else { return };
    each(map, "webhooks").for_each(webhook);
}

/// `MutatingWebhookConfiguration`.
pub(super) fn mutating_webhooks(object: &mut Object) {
    let Some(map) = object.as_object_mut() else { return };
    for one in each(map, "webhooks") {
        webhook(one);
        set(one, "reinvocationPolicy", "Never");
    }
}

fn webhook(map: &mut JsonMap) {
    set(map, "failurePolicy", "Fail");
    set(map, "matchPolicy", "Equivalent");
    set(map, "namespaceSelector", empty());
    set(map, "objectSelector", empty());
    set(map, "timeoutSeconds", 10);
    each(map, "rules").for_each(|rule| set(rule, "scope", "*"));
    if let Some(service) = inside(map, "clientConfig").and_then(|c| inside(c, "service")) {
        set(service, "port", 443);
    }
}

/// `ValidatingAdmissionPolicy` and `MutatingAdmissionPolicy`.
pub(super) fn policy(object: &mut Object) {
    let Some(spec) = object.as_object_mut().and_then(|map| inside(map, "spec")) else { return };
    set(spec, "failurePolicy", "Fail");
    if let Some(resources) = inside(spec, "matchConstraints") {
        match_resources(resources);
    }
}

/// Their bindings.
pub(super) fn policy_binding(object: &mut Object) {
    let Some(spec) = object.as_object_mut().and_then(|map| inside(map, "spec")) else { return };
    if let Some(resources) = inside(spec, "matchResources") {
        match_resources(resources);
    }
}

fn match_resources(map: &mut JsonMap) {
    set(map, "matchPolicy", "Equivalent");
    set(map, "namespaceSelector", empty());
    set(map, "objectSelector", empty());
    for rules in ["resourceRules", "excludeResourceRules"] {
        each(map, rules).for_each(|rule| set(rule, "scope", "*"));
    }
}

/// `APIService`.
pub(super) fn api_service(object: &mut Object) {
    let Some(spec) = object.as_object_mut().and_then(|map| inside(map, "spec")) else { return };
    if let Some(service) = inside(spec, "service") {
        set(service, "port", 443);
    }
}

/// `FlowSchema`.
pub(super) fn flow_schema(object: &mut Object) {
    let Some(spec) = object.as_object_mut().and_then(|map| inside(map, "spec")) else { return };
    set(spec, "matchingPrecedence", 1000);
}

/// `PriorityLevelConfiguration`.
pub(super) fn priority_level(object: &mut Object) {
    let Some(spec) = object.as_object_mut().and_then(|map| inside(map, "spec")) else { return };
    if let Some(exempt) = inside(spec, "exempt") {
        set(exempt, "nominalConcurrencyShares", 0);
        set(exempt, "lendablePercent", 0);
    }
    let Some(limited) = inside(spec, "limited") else { return };
    set(limited, "nominalConcurrencyShares", 30);
    set(limited, "lendablePercent", 0);
    if let Some(queuing) = inside(limited, "limitResponse").and_then(|r| inside(r, "queuing")) {
        set(queuing, "queues", 64);
        set(queuing, "handSize", 8);
        set(queuing, "queueLengthLimit", 50);
    }
}
