//! `NamespaceLifecycle`: nothing is created in a namespace that is missing or being deleted, and
//! the system namespaces stay.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;

use super::{Operation, Plugin, Request};
use crate::api::Object;
use crate::api::status::ApiError;
use crate::apiserver::registry::Registry;

/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// The plugin.
pub struct NamespaceLifecycle {
    registry: Arc<Registry>,
}

impl NamespaceLifecycle {
    /// Looks namespaces up in `registry`.
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }
}

#[async_trait]
impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    async fn validate(&self, request: &Request<'_>, _: &Object) -> Result<(), ApiError> {
        let at = request.attributes;
        let deleted = request.operation == Operation::Delete;
        if request.is_core("Namespace") && deleted && IMMORTAL.contains(&at.name.as_str()) {
            let why = "this namespace may not be deleted";
            return Err(ApiError::forbidden("", "namespaces", &at.name, why));
        }
        Ok(())
    }

    /// Before the other plugins: what they miss in a namespace that is not there is no error of
    /// its own.
    async fn admit(&self, request: &Request<'_>, _: &mut Object) -> Result<(), ApiError> {
        let at = request.attributes;
        let creates = request.operation == Operation::Create && request.kind != "Namespace";
        if at.namespace.is_empty() || !creates || at.group == "authorization.k8s.io" {
            return Ok(());
        }
        let found = self.registry.get(("", "namespaces"), "", &at.namespace).await?;
        let Some(namespace) = found else {
            return Err(ApiError::not_found("", "namespaces", &at.namespace));
        };
        let ending = namespace["metadata"]["deletionTimestamp"].is_string()
            || namespace["status"]["phase"] == "Terminating";
        if ending { Err(terminating(request)) } else { Ok(()) }
    }
}

/// What controllers recognise by its cause, so that they stop trying.
fn terminating(request: &Request<'_>) -> ApiError {
    let at = request.attributes;
    let why = format!(
        "unable to create new content in namespace {} because it is being terminated",
        at.namespace
    );
    let mut error = ApiError::forbidden(&at.group, &at.resource, &at.name, &why);
    if let Some(details) = &mut error.details {
        details["causes"] = json!([{
            "reason": "NamespaceTerminating",
            "message": format!("namespace {} is being terminated", at.namespace),
            "field": "metadata.namespace",
        }]);
    }
    error
}
