//! The objects that a binding gives a policy as parameters.

use serde_json::Value;

use super::super::Request;
use super::compiled::{Binding, Policy};
use crate::api::Object;
use crate::api::selector::LabelSelector;
use crate::api::status::ApiError;
use crate::apiserver::registry::Registry;

/// What a policy is evaluated with: once for each, once with null where it has none. An error is
/// a misconfiguration, told in words.
pub(super) async fn params(
    registry: &Registry,
    request: &Request<'_>,
    policy: &Policy,
    binding: &Binding,
) -> Result<Result<Vec<Value>, String>, ApiError> {
    let Some((api_version, kind)) = &policy.param_kind else { return Ok(Ok(vec![Value::Null])) };
    if binding.param_ref.is_null() {
        return Ok(Ok(vec![Value::Null]));
    }
    let catalog = registry.catalog();
    let Some(row) = catalog.table().of(api_version, kind) else {
        return Ok(Err(format!(
            "failed to configure policy: failed to find resource referenced by paramKind: \
             '{api_version}, Kind={kind}'"
        )));
    };
    let namespaced = row.scope == crate::api::kinds::Scope::Namespaced;
    let own = &request.attributes.namespace;
    let said = binding.param_ref["namespace"].as_str().unwrap_or_default();
    if !namespaced && !said.is_empty() {
        return Ok(Err(
            "failed to configure binding: paramRef.namespace must not be provided for \
                       a cluster-scoped `paramKind`"
                .into(),
        ));
    }
    if namespaced && said.is_empty() && (own.is_empty() || !request.resource.namespaced()) {
        return Ok(Err("failed to configure binding: cannot use namespaced paramRef in policy \
                       binding that matches cluster-scoped resources"
            .into()));
    }
    let namespace = if said.is_empty() { own.as_str() } else { said };
    let resource = (row.group.as_ref(), row.plural.as_ref());
    let found: Vec<Object> = match binding.param_ref["name"].as_str() {
        Some(name) => registry.get(resource, namespace, name).await?.into_iter().collect(),
        None => {
            let selector = LabelSelector::from_object(&binding.param_ref["selector"]);
            let selector = selector.unwrap_or_else(|_| LabelSelector::nothing());
            let (all, _) = registry.list(resource, namespaced.then_some(namespace)).await?;
            all.into_iter()
                .filter(|object| selector.matches_labels(&object["metadata"]["labels"]))
                .collect()
        }
    };
    if !found.is_empty() {
        return Ok(Ok(found));
    }
    if binding.param_ref["parameterNotFoundAction"] == "Allow" {
        return Ok(Ok(Vec::new()));
    }
    Ok(Err("failed to configure binding: no params found for policy binding with `Deny` \
            parameterNotFoundAction"
        .into()))
}
