//! `ValidatingAdmissionPolicy`.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;

use super::super::expressions::{Seen, conditions_hold, request_of};
use super::super::{Plugin, Request};
use super::compiled::{Binding, Compilation, Policy, Validation};
use super::{POLICY_STEPS, Told, params};
use crate::api::Object;
use crate::api::cel::{Budget, EvalError, Value};
use crate::api::status::{ApiError, Reason};
use crate::apiserver::auth::Authorizer;
use crate::apiserver::catalog::Resource;
use crate::apiserver::registry::{Derived, Registry};

const GROUP: &str = "admissionregistration.k8s.io";
/// A message is at most so long, in bytes.
const MESSAGE_MAX: usize = 5 * 1024;

/// The plugin.
pub struct ValidatingPolicies {
    registry: Arc<Registry>,
    authorizer: Arc<dyn Authorizer>,
    policies: Derived<Compilation>,
}

/// What a policy found wrong.
struct Failure {
    message: String,
    reason: Reason,
    expression: usize,
}

impl ValidatingPolicies {
    /// Keeps the policies in `registry`; expressions may ask `authorizer`.
    pub fn new(registry: Arc<Registry>, authorizer: Arc<dyn Authorizer>) -> Self {
        let resources =
            [(GROUP, "validatingadmissionpolicies"), (GROUP, "validatingadmissionpolicybindings")];
        let policies = Derived::new(&registry, &resources, Compilation::of);
        Self { registry, authorizer, policies }
    }

    async fn failures(
        &self,
        request: &Request<'_>,
        object: &Object,
        policy: &Policy,
        binding: &Binding,
    ) -> Result<Vec<Failure>, ApiError> {
        let Some(shown) = policy.matcher.matches(&self.registry, request, object).await? else {
            return Ok(Vec::new());
        };
        if let Some(matcher) = &binding.matcher
            && matcher.matches(&self.registry, request, object).await?.is_none()
        {
            return Ok(Vec::new());
        }
        let params = match params::params(&self.registry, request, policy, binding).await? {
            Ok(params) => params,
            Err(message) if policy.fails => {
                return Ok(vec![Failure { message, reason: Reason::Invalid, expression: 0 }]);
            }
            Err(_) => return Ok(Vec::new()),
        };
        let told = Told::of(&self.registry, request, &shown, object).await?;
        Ok(self.evaluate(request, &shown, &told, policy, &params))
    }

    fn evaluate(
        &self,
        request: &Request<'_>,
        shown: &Resource,
        told: &Told,
        policy: &Policy,
        params: &[serde_json::Value],
    ) -> Vec<Failure> {
        let budget = Budget::of(POLICY_STEPS);
        let mut failures = Vec::new();
        for param in params {
            let asked = request_of(request, shown, &told.object);
            let mut seen = Seen::new(&told.object, request, asked, &policy.variables, &budget);
            seen.old = told.old.as_ref();
            seen.namespace = Some(&told.namespace);
            seen.params = Some(param);
            seen.authorizer = Some(&self.authorizer);
            match conditions_hold(&policy.conditions, &seen) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(message) if policy.fails => {
                    failures.push(Failure { message, reason: Reason::Invalid, expression: 0 });
                    continue;
                }
                Err(_) => continue,
            }
            annotate(request, policy, &seen);
            for (index, validation) in policy.validations.iter().enumerate() {
                if let Some((message, reason)) = judge(policy, validation, &seen) {
                    failures.push(Failure { message, reason, expression: index });
                }
            }
        }
        failures
    }

    fn act(
        request: &Request<'_>,
        object: &Object,
        policy: &Policy,
        binding: &Binding,
        failures: &[Failure],
    ) -> Result<(), ApiError> {
        for failure in failures.iter().filter(|_| binding.warns) {
            request.told.warn(format!(
                "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                policy.name, binding.name, failure.message
            ));
        }
        if binding.audits && !failures.is_empty() {
            let all: Vec<serde_json::Value> = failures
                .iter()
                .map(|failure| {
                    json!({
                        "message": failure.message,
                        "policy": policy.name,
                        "binding": binding.name,
                        "expressionIndex": failure.expression,
                        "validationActions": ["Audit"],
                    })
                })
                .collect();
            let key = "validation.policy.admission.k8s.io/validation_failure";
            request.told.annotate(key, serde_json::Value::from(all).to_string());
        }
        let Some(failure) = failures.first().filter(|_| binding.denies) else { return Ok(()) };
        let at = request.attributes;
        let why = format!(
            "ValidatingAdmissionPolicy '{}' with binding '{}' denied request: {}",
            policy.name, binding.name, failure.message
        );
        let mut error = ApiError::forbidden(&at.group, &at.resource, request.name(object), &why);
        error.reason = failure.reason;
        if let Some(details) = &mut error.details {
            let causes = failures.iter().map(|failure| json!({"message": failure.message}));
            details["causes"] = causes.collect::<Vec<_>>().into();
        }
        Err(error)
    }
}

/// What the policy has to say for the audit log.
fn annotate(request: &Request<'_>, policy: &Policy, seen: &Seen<'_>) {
    for (key, program) in &policy.audit_annotations {
        match seen.eval(program) {
            Ok(Value::String(said)) if !said.trim().is_empty() => {
                request.told.annotate(format!("{}/{key}", policy.name), said.to_string());
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(policy = %policy.name, %error, "an audit annotation has no value");
            }
        }
    }
}

/// What is wrong by one validation.
fn judge(policy: &Policy, validation: &Validation, seen: &Seen<'_>) -> Option<(String, Reason)> {
    match seen.eval(&validation.program) {
        Ok(Value::Bool(true)) => None,
        Ok(_) => Some((message(validation, seen), validation.reason)),
        Err(_) if !policy.fails => None,
        Err(EvalError::BudgetExceeded) => Some((
            "validation failed due to running out of cost budget, no further validation rules \
             will be run"
                .into(),
            Reason::Invalid,
        )),
        Err(error) => {
            let why = format!("expression '{}' resulted in error: {error}", validation.source);
            Some((why, Reason::Invalid))
        }
    }
}

fn message(validation: &Validation, seen: &Seen<'_>) -> String {
    if let Some(Ok(Value::String(said))) =
        validation.message_expression.as_ref().map(|expression| seen.eval(expression))
    {
        let said = said.trim();
        if !said.is_empty() && said.len() <= MESSAGE_MAX && !said.contains('\n') {
            return said.to_owned();
        }
    }
    match validation.message.trim() {
        "" => format!("failed expression: {}", validation.source.trim()),
        said => said.to_owned(),
    }
}

#[async_trait]
impl Plugin for ValidatingPolicies {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }

    async fn validate(&self, request: &Request<'_>, object: &Object) -> Result<(), ApiError> {
        let all = self.policies.get().await?;
        for binding in &all.bindings {
            let Some(policy) = binding.policy.map(|index| &all.policies[index]) else { continue };
            let failures = self.failures(request, object, policy, binding).await?;
            Self::act(request, object, policy, binding, &failures)?;
        }
        Ok(())
    }
}
