//! Policies and bindings, read once.

use std::collections::HashMap;

use serde_json::Value;

use super::super::expressions::{Compiled, Variables, compile, conditions, variables};
use super::super::matching::Matcher;
use crate::api::Object;
use crate::api::meta::{self, list};
use crate::api::status::Reason;

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}

/// A validation.
pub(super) struct Validation {
    pub program: Compiled,
    pub source: String,
    pub message: String,
    pub message_expression: Option<Compiled>,
    pub reason: Reason,
}

/// A mutation.
pub(super) enum Mutation {
    /// `ApplyConfiguration`: what the expression answers is applied.
    Apply(Compiled),
    /// `JSONPatch`: the expression answers a list of operations.
    Patch(Compiled),
}

/// A policy of either kind.
pub(super) struct Policy {
    pub name: String,
    /// `failurePolicy: Fail`.
    pub fails: bool,
    pub matcher: Matcher,
    pub conditions: Vec<(String, Compiled)>,
    /// `apiVersion` and `kind`.
    pub param_kind: Option<(String, String)>,
    pub variables: Variables,
    pub validations: Vec<Validation>,
    pub audit_annotations: Vec<(String, Compiled)>,
    pub mutations: Vec<Mutation>,
    /// `reinvocationPolicy: IfNeeded`.
    pub reinvoked: bool,
}

impl Policy {
    fn parse(object: &Object) -> Self {
        let spec = &object["spec"];
        let param_kind = &spec["paramKind"];
        Self {
            name: meta::name(object).to_owned(),
            fails: spec["failurePolicy"] != "Ignore",
            matcher: Matcher::of_constraints(&spec["matchConstraints"]),
            conditions: conditions(&spec["matchConditions"]),
            param_kind: param_kind
                .is_object()
                .then(|| (text(param_kind, "apiVersion"), text(param_kind, "kind"))),
            variables: variables(&spec["variables"]),
            validations: list(&spec["validations"]).iter().map(validation).collect(),
            audit_annotations: list(&spec["auditAnnotations"])
                .iter()
                .map(|one| (text(one, "key"), compile(&one["valueExpression"])))
                .collect(),
            mutations: list(&spec["mutations"]).iter().map(mutation).collect(),
            reinvoked: spec["reinvocationPolicy"] == "IfNeeded",
        }
    }
}

fn validation(source: &Value) -> Validation {
    let expression = &source["messageExpression"];
    Validation {
        program: compile(&source["expression"]),
        source: text(source, "expression"),
        message: text(source, "message"),
        message_expression: expression.is_string().then(|| compile(expression)),
        reason: match source["reason"].as_str().unwrap_or_default() {
            "Unauthorized" => Reason::Unauthorized,
            "Forbidden" => Reason::Forbidden,
            "RequestEntityTooLarge" => Reason::RequestEntityTooLarge,
            _ => Reason::Invalid,
        },
    }
}

fn mutation(source: &Value) -> Mutation {
    match source["patchType"].as_str() {
        Some("JSONPatch") => Mutation::Patch(compile(&source["jsonPatch"]["expression"])),
        _ => Mutation::Apply(compile(&source["applyConfiguration"]["expression"])),
    }
}

/// A binding.
pub(super) struct Binding {
    pub name: String,
    /// `None`: it names no policy that there is.
    pub policy: Option<usize>,
    pub matcher: Option<Matcher>,
    pub param_ref: Value,
    pub denies: bool,
    pub warns: bool,
    pub audits: bool,
}

/// Everything that there is of one kind of policy.
pub(super) struct Compilation {
    pub policies: Vec<Policy>,
    /// By name of the policy.
    pub bindings: Vec<Binding>,
}

impl Compilation {
    /// From the policies and their bindings.
    pub(super) fn of(mut objects: Vec<Vec<Object>>) -> Self {
        let bindings = objects.pop().unwrap_or_default();
        let policies: Vec<Policy> =
            objects.pop().unwrap_or_default().iter().map(Policy::parse).collect();
        let by_name: HashMap<&str, usize> =
            policies.iter().enumerate().map(|(index, p)| (p.name.as_str(), index)).collect();
        let mut bindings: Vec<Binding> = bindings
            .iter()
            .map(|object| {
                let spec = &object["spec"];
                let acts =
                    |action: &str| list(&spec["validationActions"]).iter().any(|a| a == action);
                Binding {
                    name: meta::name(object).to_owned(),
                    policy: by_name.get(text(spec, "policyName").as_str()).copied(),
                    matcher: spec["matchResources"]
                        .is_object()
                        .then(|| Matcher::of_binding(&spec["matchResources"])),
                    param_ref: spec["paramRef"].clone(),
                    denies: acts("Deny"),
                    warns: acts("Warn"),
                    audits: acts("Audit"),
                }
            })
            .collect();
        bindings.sort_by(|a, b| (a.policy, &a.name).cmp(&(b.policy, &b.name)));
        Self { policies, bindings }
    }
}
