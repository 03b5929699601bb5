//! `MutatingAdmissionPolicy`.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value as Json;

use super::super::expressions::{Seen, conditions_hold, request_of};
use super::super::{Operation, Plugin, Request};
use super::compiled::{Binding, Compilation, Mutation, Policy};
use super::{POLICY_STEPS, Told, params};
use crate::api::Object;
use crate::api::cel::{Budget, EvalError, Value, to_json};
use crate::api::fields::{Managers, Operation as FieldOperation, Writer};
use crate::api::patch::{self, Apply, PatchType};
use crate::api::schema::FieldValidation;
use crate::api::status::{ApiError, Reason};
use crate::apiserver::auth::Authorizer;
use crate::apiserver::catalog::Resource;
use crate::apiserver::registry::{Derived, Registry};

const GROUP: &str = "admissionregistration.k8s.io";

/// The plugin.
pub struct MutatingPolicies {
    registry: Arc<Registry>,
    authorizer: Arc<dyn Authorizer>,
    policies: Derived<Compilation>,
}

impl MutatingPolicies {
    /// Keeps the policies in `registry`; expressions may ask `authorizer`.
    pub fn new(registry: Arc<Registry>, authorizer: Arc<dyn Authorizer>) -> Self {
        let resources =
            [(GROUP, "mutatingadmissionpolicies"), (GROUP, "mutatingadmissionpolicybindings")];
        let policies = Derived::new(&registry, &resources, Compilation::of);
        Self { registry, authorizer, policies }
    }

    /// The object as the policy would have it; `None`: as it is.
    async fn mutated(
        &self,
        request: &Request<'_>,
        object: &Object,
        policy: &Policy,
        binding: &Binding,
    ) -> Result<Option<Object>, ApiError> {
        let Some(shown) = policy.matcher.matches(&self.registry, request, object).await? else {
            return Ok(None);
        };
        if let Some(matcher) = &binding.matcher
            && matcher.matches(&self.registry, request, object).await?.is_none()
        {
            return Ok(None);
        }
        let params = match params::params(&self.registry, request, policy, binding).await? {
            Ok(params) => params,
            Err(why) if policy.fails => return Err(denied(request, object, policy, binding, &why)),
            Err(_) => return Ok(None),
        };
        let mut told = Told::of(&self.registry, request, &shown, object).await?;
        for param in &params {
            match self.evaluate(request, &shown, &told, policy, param) {
                Ok(Some(new)) => told.object = new,
                Ok(None) => {}
                Err(why) if policy.fails => {
                    return Err(denied(request, object, policy, binding, &why));
                }
                Err(_) => return Ok(None),
            }
        }
        Ok(Some(super::super::matching::convert(&shown, request.resource, &told.object)))
    }

    fn evaluate(
        &self,
        request: &Request<'_>,
        shown: &Resource,
        told: &Told,
        policy: &Policy,
        param: &Json,
    ) -> Result<Option<Object>, String> {
        let budget = Budget::of(POLICY_STEPS);
        let mut object = told.object.clone();
        for (index, mutation) in policy.mutations.iter().enumerate() {
            let answer = {
                let asked = request_of(request, shown, &object);
                let mut seen = Seen::new(&object, request, asked, &policy.variables, &budget);
                seen.old = told.old.as_ref();
                seen.namespace = Some(&told.namespace);
                seen.params = Some(param);
                seen.authorizer = Some(&self.authorizer);
                if index == 0 && !conditions_hold(&policy.conditions, &seen)? {
                    return Ok(None);
                }
                let (Mutation::Apply(program) | Mutation::Patch(program)) = mutation;
                seen.eval(program).map_err(|error| expression_failed(program, &error))?
            };
            object = mutate(shown, mutation, object, &answer)?;
        }
        Ok(Some(object))
    }
}

fn expression_failed(program: &super::super::expressions::Compiled, error: &EvalError) -> String {
    let source = program.as_ref().map_or("", crate::api::cel::Program::source);
    format!("expression '{source}' resulted in error: {error}")
}

/// The object after one mutation.
fn mutate(
    shown: &Resource,
    mutation: &Mutation,
    object: Object,
    answer: &Value,
) -> Result<Object, String> {
    let json = to_json(answer).ok_or("the expression answers what no object holds")?;
    let patched = match mutation {
        Mutation::Patch(_) => {
            patch::apply(&shown.kind, &object, json.to_string().as_bytes(), PatchType::Json)
                .map_err(|error| error.message)?
        }
        Mutation::Apply(_) => applied(shown, &object, json)?,
    };
    let decoded = patch::decoded(&shown.kind, patched, FieldValidation::Ignore);
    decoded.map(|(object, _)| object).map_err(|error| error.message)
}

/// Merged by the schema, as server-side apply merges; nobody becomes the manager of anything.
fn applied(shown: &Resource, object: &Object, mut config: Json) -> Result<Object, String> {
    if !config.is_object() {
        return Err("the expression must answer an Object{}".into());
    }
    for field in ["apiVersion", "kind", "metadata.managedFields"] {
        if !config[field].is_null() {
            return Err(format!("may not mutate {field}"));
        }
    }
    config["apiVersion"] = shown.api_version.clone().into();
    config["kind"] = shown.kind.kind.to_string().into();
    let writer = Writer {
        manager: "mutating-admission-policy",
        operation: FieldOperation::Apply,
        api_version: &shown.api_version,
        subresource: "",
        now: "1970-01-01T00:00:00Z",
    };
    let mut live = object.clone();
    let managed = live["metadata"].as_object_mut().and_then(|m| m.remove("managedFields"));
    let apply = Apply {
        at: shown.node(),
        config: &config,
        writer,
        force: true,
        about: &|_| true,
        normalize: &|merged| Ok(merged),
    };
    let (mut new, _) = apply.to(&live, Managers::default()).map_err(|error| error.message)?;
    if let (Some(managed), Some(metadata)) = (managed, new["metadata"].as_object_mut()) {
        metadata.insert("managedFields".into(), managed);
    }
    Ok(new)
}

fn denied(
    request: &Request<'_>,
    object: &Object,
    policy: &Policy,
    binding: &Binding,
    why: &str,
) -> ApiError {
    let at = request.attributes;
    let why =
        format!("policy '{}' with binding '{}' denied request: {why}", policy.name, binding.name);
    let mut error = ApiError::forbidden(&at.group, &at.resource, request.name(object), &why);
    error.reason = Reason::Invalid;
    error
}

#[async_trait]
impl Plugin for MutatingPolicies {
    fn name(&self) -> &'static str {
        "MutatingAdmissionPolicy"
    }

    async fn admit(&self, request: &Request<'_>, object: &mut Object) -> Result<(), ApiError> {
        if request.operation == Operation::Delete {
            return Ok(());
        }
        let all = self.policies.get().await?;
        // Policies whose object was changed by others after they saw it may see it once more.
        let mut seen: Vec<Option<Object>> = vec![None; all.bindings.len()];
        for again in [false, true] {
            for (index, binding) in all.bindings.iter().enumerate() {
                let Some(policy) = binding.policy.map(|at| &all.policies[at]) else { continue };
                let unchanged = seen[index].as_ref() == Some(object);
                if again && (!policy.reinvoked || unchanged) || (request.again && !policy.reinvoked)
                {
                    continue;
                }
                if let Some(new) = self.mutated(request, object, policy, binding).await? {
                    *object = new;
                    seen[index] = Some(object.clone());
                }
            }
        }
        Ok(())
    }
}
