//! `RuntimeClass`: a pod that names one goes to the nodes that have its runtime, and is charged
//! what that costs (KEP-585, KEP-688).

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Operation, Plugin, Request};
use crate::api::Object;
use crate::api::status::ApiError;
use crate::apiserver::registry::Registry;

const CLASSES: (&str, &str) = ("node.k8s.io", "runtimeclasses");

/// The plugin.
pub struct RuntimeClass {
    registry: Arc<Registry>,
}

impl RuntimeClass {
    /// Looks classes up in `registry`.
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }
}

#[async_trait]
impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    async fn admit(&self, request: &Request<'_>, object: &mut Object) -> Result<(), ApiError> {
        let at = request.attributes;
        let create = request.operation == Operation::Create && at.subresource.is_empty();
        if request.kind != "Pod" || !create || !object["spec"].is_object() {
            return Ok(());
        }
        let refuse = |why: String| Err(ApiError::forbidden("", "pods", &at.name, &why));
        let wanted = object["spec"]["runtimeClassName"].as_str().unwrap_or_default().to_owned();
        if wanted.is_empty() {
            return Ok(());
        }
        let Some(class) = self.registry.get(CLASSES, "", &wanted).await? else {
            return refuse(format!("pod rejected: RuntimeClass \"{wanted}\" not found"));
        };
        let spec = &mut object["spec"];
        apply(spec, &class).or_else(|why| refuse(format!("pod rejected: {why}")))
    }
}

/// Writes into a pod's spec what its class asks for.
fn apply(spec: &mut Value, class: &Value) -> Result<(), String> {
    let fixed = &class["overhead"]["podFixed"];
    let given = spec["overhead"].as_object().is_some_and(|overhead| !overhead.is_empty());
    if given && spec["overhead"] != *fixed {
        return Err("Pod's Overhead doesn't match RuntimeClass's defined Overhead".to_owned());
    }
    if fixed.is_object() {
        spec["overhead"] = fixed.clone();
    }
    let scheduling = &class["scheduling"];
    for (key, value) in scheduling["nodeSelector"].as_object().into_iter().flatten() {
        let own = &spec["nodeSelector"][key.as_str()];
        if !own.is_null() && own != value {
            return Err(format!(
                "conflict: the RuntimeClass's nodeSelector wants {key}={value}, the pod's {key}={own}"
            ));
        }
        if !spec["nodeSelector"].is_object() {
            spec["nodeSelector"] = json!({});
        }
        spec["nodeSelector"][key.as_str()] = value.clone();
    }
    for toleration in scheduling["tolerations"].as_array().into_iter().flatten() {
        let own = spec["tolerations"].as_array().is_some_and(|all| all.contains(toleration));
        if !own {
            if !spec["tolerations"].is_array() {
                spec["tolerations"] = json!([]);
            }
            spec["tolerations"].as_array_mut().expect("made above").push(toleration.clone());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_adds_its_selector_tolerations_and_overhead() {
        let class = json!({
            "handler": "runc",
            "overhead": {"podFixed": {"memory": "10Mi"}},
            "scheduling": {"nodeSelector": {"runc": "true"}, "tolerations": [{"key": "a"}]},
        });
        let mut spec = json!({"nodeSelector": {"zone": "x"}, "tolerations": [{"key": "a"}]});
        apply(&mut spec, &class).expect("no conflict");
        assert_eq!(spec["nodeSelector"], json!({"zone": "x", "runc": "true"}));
        assert_eq!(spec["overhead"], json!({"memory": "10Mi"}));
        assert_eq!(spec["tolerations"].as_array().expect("a list").len(), 1);
        let mut spec = json!({"nodeSelector": {"runc": "false"}});
        assert!(apply(&mut spec, &class).expect_err("a conflict").contains("runc"));
        let mut spec = json!({"overhead": {"memory": "1Mi"}});
        assert!(apply(&mut spec, &class).expect_err("a conflict").contains("Overhead"));
    }
}
