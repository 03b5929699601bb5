//! `Priority`: a pod's priority is the value of its PriorityClass.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Operation, Plugin, Request};
use crate::api::Object;
use crate::api::status::ApiError;
use crate::apiserver::registry::Registry;

const CLASSES: (&str, &str) = ("scheduling.k8s.io", "priorityclasses");

/// The plugin.
pub struct Priority {
    registry: Arc<Registry>,
}

impl Priority {
    /// Looks classes up in `registry`.
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }

    /// The class of that name, or the one that is everybody's default.
    async fn class(&self, name: &str) -> Result<Option<Value>, ApiError> {
        if !name.is_empty() {
            return self.registry.get(CLASSES, "", name).await;
        }
        let (classes, _) = self.registry.list(CLASSES, None).await?;
        let defaults = classes.into_iter().filter(|c| c["globalDefault"] == true);
        Ok(defaults.min_by_key(|c| c["value"].as_i64()))
    }
}

#[async_trait]
impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    async fn admit(&self, request: &Request<'_>, object: &mut Object) -> Result<(), ApiError> {
        let at = request.attributes;
        let create = request.operation == Operation::Create;
        if !request.is_core("Pod") || !create || !object["spec"].is_object() {
            return Ok(());
        }
        let wanted = object["spec"]["priorityClassName"].as_str().unwrap_or_default().to_owned();
        let class = self.class(&wanted).await?;
        if class.is_none() && !wanted.is_empty() {
            let why = format!("no PriorityClass with name {wanted} was found");
            return Err(ApiError::forbidden("", "pods", &at.name, &why));
        }
        let class = class.unwrap_or(Value::Null);
        let priority = class["value"].as_i64().unwrap_or(0);
        if let Some(given) = object["spec"]["priority"].as_i64()
            && given != priority
        {
            let why = format!(
                "the integer value of priority ({given}) must not be provided in pod spec; \
                 priority admission controller computed {priority} from the given PriorityClass \
                 name"
            );
            return Err(ApiError::forbidden("", "pods", &at.name, &why));
        }
        if wanted.is_empty() && class.is_object() {
            object["spec"]["priorityClassName"] = class["metadata"]["name"].clone();
        }
        object["spec"]["priority"] = json!(priority);
        if object["spec"]["preemptionPolicy"].is_null() {
            let policy = class["preemptionPolicy"].as_str().unwrap_or("PreemptLowerPriority");
            object["spec"]["preemptionPolicy"] = json!(policy);
        }
        Ok(())
    }
}
