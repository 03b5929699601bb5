//! `ValidatingAdmissionPolicy` and `MutatingAdmissionPolicy`: rules in CEL about every write
//! (KEP-3488, KEP-3962).
//!
//! ```text
//! binding ─▶ policy ─▶ is the request meant? ─▶ matchConditions ─▶ params ─▶ expressions
//! ```

mod compiled;
mod mutating;
mod params;
mod validating;

pub use mutating::MutatingPolicies;
pub use validating::ValidatingPolicies;

use serde_json::Value;

use super::Request;
use super::matching::convert;
use crate::api::Object;
use crate::api::status::ApiError;
use crate::apiserver::catalog::Resource;
use crate::apiserver::registry::Registry;

/// What all expressions of one policy may cost together for one request, in steps.
const POLICY_STEPS: u64 = 10_000_000;

/// The objects of a request in the version that a policy names.
struct Told {
    object: Object,
    old: Option<Object>,
    namespace: Value,
}

impl Told {
    async fn of(
        registry: &Registry,
        request: &Request<'_>,
        shown: &Resource,
        object: &Object,
    ) -> Result<Self, ApiError> {
        let deleted = request.operation == super::Operation::Delete;
        let in_version = |object: &Object| convert(request.resource, shown, object);
        let namespace = match request.resource.namespaced() {
            true => registry.get(("", "namespaces"), "", &request.attributes.namespace).await?,
            false => None,
        };
        Ok(Self {
            object: if deleted { Value::Null } else { in_version(object) },
            old: request.old.map(in_version),
            namespace: namespace.unwrap_or_default(),
        })
    }
}
