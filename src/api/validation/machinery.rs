//! The rules of what extends and steers the API: webhooks, policies, API services, flows,
//! addresses.

use std::net::IpAddr;

use serde_json::Value;

use crate::api::Object;
use crate::api::field::Path;
use crate::api::meta::list;
use crate::api::names;
use crate::api::status::FieldError;

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// One of a few words, where something is said.
fn one_of(value: &Value, field: &str, path: &Path, words: &[&str], errors: &mut Vec<FieldError>) {
    let found = text(value, field);
    if !found.is_empty() && !words.contains(&found) {
        errors.push(path.child(field).not_supported(found, words));
    }
}

/// `ValidatingWebhookConfiguration` and `MutatingWebhookConfiguration`.
pub fn webhooks(object: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for (index, hook) in list(&object["webhooks"]).iter().enumerate() {
        let path = Path::new("webhooks").index(index);
        let name = text(hook, "name");
        let at = path.child("name");
        if name.is_empty() {
            errors.push(at.required(""));
        } else {
            errors.extend(names::dns_subdomain(name).iter().map(|w| at.invalid(name, w)));
            if name.split('.').count() < 3 {
                let why = "should be a domain with at least three segments separated by dots";
                errors.push(at.invalid(name, why));
            }
            if !seen.insert(name) {
                errors.push(at.duplicate(name));
            }
        }
        webhook(hook, &path, &mut errors);
    }
    errors
}

fn webhook(hook: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    if list(&hook["admissionReviewVersions"]).is_empty() {
        let why = "must specify one of v1, v1beta1";
        errors.push(path.child("admissionReviewVersions").required(why));
    }
    match text(hook, "sideEffects") {
        "None" | "NoneOnDryRun" => {}
        "" => {
            let why = "must specify one of None, NoneOnDryRun";
            errors.push(path.child("sideEffects").required(why));
        }
        other => {
            let at = path.child("sideEffects");
            errors.push(at.not_supported(other, &["None", "NoneOnDryRun"]));
        }
    }
    one_of(hook, "failurePolicy", path, &["Fail", "Ignore"], errors);
    one_of(hook, "matchPolicy", path, &["Equivalent", "Exact"], errors);
    one_of(hook, "reinvocationPolicy", path, &["IfNeeded", "Never"], errors);
    if let Some(seconds) = hook["timeoutSeconds"].as_i64().filter(|s| !(1..=30).contains(s)) {
        let why = "the timeout value must be between 1 and 30 seconds";
        errors.push(path.child("timeoutSeconds").invalid(seconds, why));
    }
    let config = &hook["clientConfig"];
    let at = path.child("clientConfig");
    match (config["url"].is_string(), config["service"].is_object()) {
        (true, false) | (false, true) => {}
        _ => errors.push(at.required("exactly one of url or service is required")),
    }
    if let Some(url) = config["url"].as_str().filter(|url| !url.starts_with("https://")) {
        let why = "'https' is the only allowed URL scheme; desired format: https://host[/path]";
        errors.push(at.child("url").invalid(url, why));
    }
    for (index, condition) in list(&hook["matchConditions"]).iter().enumerate() {
        let at = path.child("matchConditions").index(index);
        errors.extend(super::policy::condition(condition, &at));
    }
    for (index, rule) in list(&hook["rules"]).iter().enumerate() {
        rule_rules(rule, &path.child("rules").index(index), errors);
    }
}

fn rule_rules(rule: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    for field in ["operations", "apiGroups", "apiVersions", "resources"] {
        if list(&rule[field]).is_empty() {
            errors.push(path.child(field).required(""));
        }
        let words = list(&rule[field]);
        if words.len() > 1 && words.iter().any(|word| word == "*") && field != "resources" {
            let why = "if '*' is present, must not specify other values";
            errors.push(path.child(field).invalid(rule[field].clone(), why));
        }
    }
    let known = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
    for (index, operation) in list(&rule["operations"]).iter().enumerate() {
        let word = operation.as_str().unwrap_or_default();
        if !known.contains(&word) {
            errors.push(path.child("operations").index(index).not_supported(word, &known));
        }
    }
    one_of(rule, "scope", path, &["*", "Cluster", "Namespaced"], errors);
}

/// `ValidatingAdmissionPolicy`.
pub fn validating_policy(object: &Object) -> Vec<FieldError> {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    let mut errors = policy(spec, &path);
    let (validations, annotations) = (&spec["validations"], &spec["auditAnnotations"]);
    if list(validations).is_empty() && list(annotations).is_empty() {
        let why = "validations or auditAnnotations must contain at least one item";
        errors.push(path.child("validations").required(why));
        errors.push(path.child("auditAnnotations").required(why));
    }
    for (index, validation) in list(validations).iter().enumerate() {
        let at = path.child("validations").index(index);
        if text(validation, "expression").trim().is_empty() {
            errors.push(at.child("expression").required("expression is not specified"));
        }
        let reasons = ["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];
        one_of(validation, "reason", &at, &reasons, &mut errors);
    }
    errors.extend(super::policy::expressions(object));
    errors
}

/// `MutatingAdmissionPolicy`.
pub fn mutating_policy(object: &Object) -> Vec<FieldError> {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    let mut errors = policy(spec, &path);
    if list(&spec["mutations"]).is_empty() {
        let why = "mutations must contain at least one item";
        errors.push(path.child("mutations").required(why));
    }
    one_of(spec, "reinvocationPolicy", &path, &["IfNeeded", "Never"], &mut errors);
    for (index, mutation) in list(&spec["mutations"]).iter().enumerate() {
        let at = path.child("mutations").index(index);
        let kind = text(mutation, "patchType");
        let (field, other) = match kind {
            "ApplyConfiguration" => ("applyConfiguration", "jsonPatch"),
            "JSONPatch" => ("jsonPatch", "applyConfiguration"),
            _ => {
                let known = ["ApplyConfiguration", "JSONPatch"];
                errors.push(at.child("patchType").not_supported(kind, &known));
                continue;
            }
        };
        if !mutation[field].is_object() {
            let why = format!("must be specified when patchType is {kind}");
            errors.push(at.child(field).required(&why));
        }
        if mutation[other].is_object() {
            let why = format!("must not be specified when patchType is {kind}");
            errors.push(at.child(other).forbidden(why));
        }
    }
    errors.extend(super::policy::expressions(object));
    errors
}

fn policy(spec: &Value, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    one_of(spec, "failurePolicy", path, &["Fail", "Ignore"], &mut errors);
    let at = path.child("matchConstraints");
    if !spec["matchConstraints"].is_object() {
        errors.push(at.required(""));
    } else if list(&spec["matchConstraints"]["resourceRules"]).is_empty() {
        errors.push(at.child("resourceRules").required(""));
    }
    for (index, rule) in list(&spec["matchConstraints"]["resourceRules"]).iter().enumerate() {
        rule_rules(rule, &at.child("resourceRules").index(index), &mut errors);
    }
    for (index, variable) in list(&spec["variables"]).iter().enumerate() {
        let at = path.child("variables").index(index);
        for field in ["name", "expression"] {
            if text(variable, field).trim().is_empty() {
                errors.push(at.child(field).required(&format!("{field} is not specified")));
            }
        }
    }
    errors
}

/// `ValidatingAdmissionPolicyBinding` and `MutatingAdmissionPolicyBinding`.
pub fn policy_binding(object: &Object) -> Vec<FieldError> {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    let mut errors = Vec::new();
    if text(spec, "policyName").is_empty() {
        errors.push(path.child("policyName").required(""));
    }
    let validates = object["kind"] == "ValidatingAdmissionPolicyBinding";
    let actions = list(&spec["validationActions"]);
    let at = path.child("validationActions");
    if validates && actions.is_empty() {
        errors.push(at.required(""));
    }
    let known = ["Audit", "Deny", "Warn"];
    for (index, action) in actions.iter().enumerate() {
        let word = action.as_str().unwrap_or_default();
        if !known.contains(&word) {
            errors.push(at.index(index).not_supported(word, &known));
        }
        if actions[..index].contains(action) {
            errors.push(at.index(index).duplicate(word));
        }
    }
    if actions.iter().any(|a| a == "Deny") && actions.iter().any(|a| a == "Warn") {
        let why = "must not contain both Deny and Warn (repeating the same validation failure \
                   information in the API response and headers serves no purpose)";
        errors.push(at.invalid(spec["validationActions"].clone(), why));
    }
    errors
}

/// `APIService`.
pub fn api_service(object: &Object) -> Vec<FieldError> {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    let mut errors = Vec::new();
    let (group, version) = (text(spec, "group"), text(spec, "version"));
    let name = text(&object["metadata"], "name");
    if name != format!("{version}.{group}") {
        let why = format!("must be `spec.version+\".\"+spec.group`: \"{version}.{group}\"");
        errors.push(Path::new("metadata.name").invalid(name, why));
    }
    errors.extend(
        names::dns_label(version).iter().map(|w| path.child("version").invalid(version, w)),
    );
    for (field, max) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
        let number = spec[field].as_i64().unwrap_or(0);
        if !(1..=max).contains(&number) {
            let why = format!("must be positive and less than {max}");
            errors.push(path.child(field).invalid(number, why));
        }
    }
    if spec["service"].is_object() {
        for field in ["name", "namespace"] {
            if text(&spec["service"], field).is_empty() {
                errors.push(path.child("service").child(field).required(""));
            }
        }
        if spec["insecureSkipTLSVerify"] == true && spec["caBundle"].is_string() {
            let why = "may not be true if caBundle is present";
            errors.push(path.child("insecureSkipTLSVerify").invalid(true, why));
        }
    }
    errors
}

/// `FlowSchema`.
pub fn flow_schema(object: &Object) -> Vec<FieldError> {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    let mut errors = Vec::new();
    let precedence = spec["matchingPrecedence"].as_i64().unwrap_or(0);
    let at = path.child("matchingPrecedence");
    if precedence < 1 {
        errors.push(at.invalid(precedence, "must be a positive value"));
    } else if precedence > 10_000 {
        errors.push(at.invalid(precedence, "must not be greater than 10000"));
    }
    if text(&spec["priorityLevelConfiguration"], "name").is_empty() {
        let why = "must reference a priority level";
        errors.push(path.child("priorityLevelConfiguration").child("name").required(why));
    }
    let at = path.child("distinguisherMethod");
    one_of(&spec["distinguisherMethod"], "type", &at, &["ByNamespace", "ByUser"], &mut errors);
    for (index, rule) in list(&spec["rules"]).iter().enumerate() {
        let at = path.child("rules").index(index);
        if list(&rule["subjects"]).is_empty() {
            errors.push(at.child("subjects").required("subjects must contain at least one value"));
        }
        let none = |field: &str| list(&rule[field]).is_empty();
        if none("resourceRules") && none("nonResourceRules") {
            let why = "at least one of resourceRules and nonResourceRules has to be non-empty";
            errors.push(at.required(why));
        }
    }
    errors
}

/// `PriorityLevelConfiguration`.
pub fn priority_level(object: &Object) -> Vec<FieldError> {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    let mut errors = Vec::new();
    match text(spec, "type") {
        "Exempt" => {
            if spec["limited"].is_object() {
                let why = "must be nil if the type is not Limited";
                errors.push(path.child("limited").forbidden(why));
            }
        }
        "Limited" => match spec["limited"].as_object() {
            Some(_) => limited(&spec["limited"], &path.child("limited"), &mut errors),
            None => {
                let why = "must not be empty when type is Limited";
                errors.push(path.child("limited").required(why));
            }
        },
        other => errors.push(path.child("type").not_supported(other, &["Exempt", "Limited"])),
    }
    errors
}

fn limited(limited: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let shares = limited["nominalConcurrencyShares"].as_i64().unwrap_or(0);
    if shares < 0 {
        let why = "must be a non-negative integer";
        errors.push(path.child("nominalConcurrencyShares").invalid(shares, why));
    }
    let response = &limited["limitResponse"];
    let at = path.child("limitResponse");
    match text(response, "type") {
        "Queue" if response["queuing"].is_object() => {}
        "Queue" => errors.push(
            at.child("queuing").required("must not be empty if limited queuing is configured"),
        ),
        "Reject" => {}
        other => errors.push(at.child("type").not_supported(other, &["Queue", "Reject"])),
    }
}

/// `IPAddress`.
pub fn ip_address(object: &Object) -> Vec<FieldError> {
    let name = text(&object["metadata"], "name");
    let mut errors = Vec::new();
    if !name.parse::<IpAddr>().is_ok_and(|ip| ip.to_string() == name) {
        let why = "must be a valid IP address in canonical form";
        errors.push(Path::new("metadata.name").invalid(name, why));
    }
    let parent = &object["spec"]["parentRef"];
    let path = Path::new("spec.parentRef");
    if !parent.is_object() {
        errors.push(path.required(""));
        return errors;
    }
    for field in ["name", "resource"] {
        if text(parent, field).is_empty() {
            errors.push(path.child(field).required(""));
        }
    }
    errors
}

/// `ServiceCIDR`.
pub fn service_cidr(object: &Object) -> Vec<FieldError> {
    let cidrs = list(&object["spec"]["cidrs"]);
    let path = Path::new("spec.cidrs");
    let mut errors = Vec::new();
    if cidrs.is_empty() {
        errors.push(path.required("at least one CIDR required"));
    }
    if cidrs.len() > 2 {
        let why = "must only hold up to 2 values";
        errors.push(path.invalid(object["spec"]["cidrs"].clone(), why));
    }
    for (index, cidr) in cidrs.iter().enumerate() {
        let said = cidr.as_str().unwrap_or_default();
        if said.parse::<ipnet::IpNet>().is_err() {
            let why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            errors.push(path.index(index).invalid(said, why));
        }
    }
    errors
}

/// What may not change of a `ServiceCIDR`.
pub fn service_cidr_update(object: &Object, old: &Object) -> Vec<FieldError> {
    match object["spec"]["cidrs"] == old["spec"]["cidrs"] {
        true => Vec::new(),
        false => {
            let path = Path::new("spec.cidrs");
            vec![path.invalid(object["spec"]["cidrs"].clone(), "field is immutable")]
        }
    }
}

/// `VolumeAttributesClass`.
pub fn attributes_class(object: &Object) -> Vec<FieldError> {
    match text(object, "driverName") {
        "" => vec![Path::new("driverName").required("")],
        _ => Vec::new(),
    }
}

/// What may not change of a `VolumeAttributesClass`.
pub fn attributes_class_update(object: &Object, old: &Object) -> Vec<FieldError> {
    let changed = |field: &&&str| object[**field] != old[**field];
    ["driverName", "parameters"]
        .iter()
        .filter(changed)
        .map(|field| Path::new(field).invalid(object[*field].clone(), "field is immutable"))
        .collect()
}
