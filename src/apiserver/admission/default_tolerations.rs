//! `DefaultTolerationSeconds`: a pod that says nothing else stays this long on a node that is not
//! ready or cannot be reached.

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Operation, Plugin, Request};
use crate::api::Object;
use crate::api::status::ApiError;

/// The plugin.
#[derive(Debug, Clone, Copy)]
pub struct DefaultTolerationSeconds {
    /// `--default-not-ready-toleration-seconds`.
    pub not_ready_seconds: i64,
    /// `--default-unreachable-toleration-seconds`.
    pub unreachable_seconds: i64,
}

impl Default for DefaultTolerationSeconds {
    fn default() -> Self {
        Self { not_ready_seconds: 300, unreachable_seconds: 300 }
    }
}

#[async_trait]
impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    async fn admit(&self, request: &Request<'_>, object: &mut Object) -> Result<(), ApiError> {
        let pod = request.is_core("Pod");
        if !pod || request.operation == Operation::Delete || !object["spec"].is_object() {
            return Ok(());
        }
        let defaults = [
            ("node.kubernetes.io/not-ready", self.not_ready_seconds),
            ("node.kubernetes.io/unreachable", self.unreachable_seconds),
        ];
        for (key, seconds) in defaults {
            let known = object["spec"]["tolerations"].as_array();
            if known.is_some_and(|all| all.iter().any(|t| tolerates(t, key))) {
                continue;
            }
            let added = json!({
                "key": key,
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": seconds,
            });
            match object["spec"]["tolerations"].as_array_mut() {
                Some(all) => all.push(added),
                None => object["spec"]["tolerations"] = json!([added]),
            }
        }
        Ok(())
    }
}

fn tolerates(toleration: &Value, key: &str) -> bool {
    let said = |field: &str| toleration[field].as_str().unwrap_or_default();
    (said("key") == key || said("key").is_empty())
        && (said("effect") == "NoExecute" || said("effect").is_empty())
}
