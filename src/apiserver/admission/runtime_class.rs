//! `RuntimeClass`: a pod that names a class gets the overhead and the scheduling of it, and none
//! runs by a class that there is not.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use super::{Operation, Plugin, Request};
use crate::api::Object;
use crate::api::meta::list;
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

fn refuse(request: &Request<'_>, object: &Object, why: &str) -> ApiError {
    let why = format!("pod rejected: {why}");
    ApiError::forbidden("", "pods", request.name(object), &why)
}

/// The overhead of the class, which a pod may say too, but not otherwise.
fn overhead(spec: &mut Value, class: &Value) -> Result<(), String> {
    let fixed = &class["overhead"]["podFixed"];
    if !fixed.is_object() {
        let said = spec["overhead"].as_object().is_some_and(|said| !said.is_empty());
        return match said {
            true => {
                Err("Pod Overhead set without corresponding RuntimeClass defined Overhead".into())
            }
            false => Ok(()),
        };
    }
    if spec["overhead"].is_object() && spec["overhead"] != *fixed {
        return Err("Pod's Overhead doesn't match RuntimeClass's defined Overhead".into());
    }
    spec["overhead"] = fixed.clone();
    Ok(())
}

/// The node selector and the tolerations of the class join those of the pod.
fn scheduling(spec: &mut Value, class: &Value) -> Result<(), String> {
    for (key, value) in class["scheduling"]["nodeSelector"].as_object().into_iter().flatten() {
        match spec["nodeSelector"].get(key) {
            Some(said) if said != value => {
                return Err(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; \
                     pod.spec.nodeSelector[{key}] = {}",
                    value.as_str().unwrap_or_default(),
                    said.as_str().unwrap_or_default()
                ));
            }
            Some(_) => {}
            None => spec["nodeSelector"][key] = value.clone(),
        }
    }
    let more = list(&class["scheduling"]["tolerations"]);
    if !more.is_empty() {
        let mut all = spec["tolerations"].as_array().cloned().unwrap_or_default();
        all.extend(more.iter().filter(|t| !list(&spec["tolerations"]).contains(t)).cloned());
        spec["tolerations"] = all.into();
    }
    Ok(())
}

#[async_trait]
impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    async fn admit(&self, request: &Request<'_>, object: &mut Object) -> Result<(), ApiError> {
        let created = request.operation == Operation::Create && request.is_core("Pod");
        if !created || !object["spec"].is_object() {
            return Ok(());
        }
        let wanted = object["spec"]["runtimeClassName"].as_str().unwrap_or_default().to_owned();
        let class = match wanted.as_str() {
            "" => Value::Null,
            name => match self.registry.get(CLASSES, "", name).await? {
                Some(class) => class,
                None => {
                    let why = format!("RuntimeClass {name:?} not found");
                    return Err(refuse(request, object, &why));
                }
            },
        };
        let spec = &mut object["spec"];
        let done = overhead(spec, &class).and_then(|()| scheduling(spec, &class));
        done.map_err(|why| refuse(request, object, &why))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_class_gives_its_overhead_and_scheduling() {
        let class = json!({"overhead": {"podFixed": {"cpu": "1"}}, "scheduling": {
            "nodeSelector": {"a": "b"}, "tolerations": [{"key": "k"}]}});
        let mut spec = json!({"nodeSelector": {"c": "d"}});
        overhead(&mut spec, &class).expect("none was said");
        scheduling(&mut spec, &class).expect("no conflict");
        assert_eq!(
            spec,
            json!({"nodeSelector": {"a": "b", "c": "d"},
            "tolerations": [{"key": "k"}], "overhead": {"cpu": "1"}})
        );
        let mut other = json!({"nodeSelector": {"a": "x"}, "overhead": {"cpu": "2"}});
        assert!(overhead(&mut other, &class).is_err());
        assert!(scheduling(&mut other, &class).expect_err("a conflict").starts_with("conflict"));
        assert!(overhead(&mut other, &json!({})).is_err(), "no class gives it");
    }
}
