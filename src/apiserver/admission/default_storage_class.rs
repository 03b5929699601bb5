//! `DefaultStorageClass`: a claim that names no class gets the default one.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use super::{Operation, Plugin, Request};
use crate::api::Object;
use crate::api::meta;
use crate::api::status::ApiError;
use crate::apiserver::registry::Registry;

const CLASSES: (&str, &str) = ("storage.k8s.io", "storageclasses");
const IS_DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";
/// How claims named their class before there was a field for it.
const ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// The plugin.
pub struct DefaultStorageClass {
    registry: Arc<Registry>,
}

impl DefaultStorageClass {
    /// Looks classes up in `registry`.
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }
}

/// The newest default, by name where two are as new.
fn default_of(classes: Vec<Object>) -> Option<Value> {
    let created = |class: &Object| {
        class["metadata"]["creationTimestamp"].as_str().unwrap_or_default().to_owned()
    };
    let mut defaults: Vec<Object> = classes
        .into_iter()
        .filter(|class| meta::annotation(class, IS_DEFAULT) == Some("true"))
        .collect();
    defaults.sort_by(|a, b| created(b).cmp(&created(a)).then(meta::name(a).cmp(meta::name(b))));
    defaults.first().map(|class| class["metadata"]["name"].clone())
}

#[async_trait]
impl Plugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    async fn admit(&self, request: &Request<'_>, object: &mut Object) -> Result<(), ApiError> {
        let created =
            request.operation == Operation::Create && request.is_core("PersistentVolumeClaim");
        let named = object["spec"]["storageClassName"].is_string()
            || meta::annotation(object, ANNOTATION).is_some();
        if !created || named || !object["spec"].is_object() {
            return Ok(());
        }
        let (classes, _) = self.registry.list(CLASSES, None).await?;
        if let Some(name) = default_of(classes) {
            object["spec"]["storageClassName"] = name;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_newest_default_is_taken() {
        let class = |name: &str, at: &str, default: &str| {
            json!({"metadata": {"name": name, "creationTimestamp": at,
                "annotations": {IS_DEFAULT: default}}})
        };
        let all = vec![
            class("old", "2024-01-01T00:00:00Z", "true"),
            class("z", "2025-01-01T00:00:00Z", "true"),
            class("a", "2025-01-01T00:00:00Z", "true"),
            class("none", "2026-01-01T00:00:00Z", "false"),
        ];
        assert_eq!(default_of(all), Some(json!("a")));
        assert_eq!(default_of(Vec::new()), None);
    }
}
