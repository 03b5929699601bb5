//! `TaintNodesByCondition`: a new node takes no pods before it has said that it is ready.

use async_trait::async_trait;
use serde_json::json;

use super::{Operation, Plugin, Request};
use crate::api::Object;
use crate::api::status::ApiError;

const NOT_READY: &str = "node.kubernetes.io/not-ready";

/// The plugin.
#[derive(Debug, Clone, Copy)]
pub struct TaintNodesByCondition;

#[async_trait]
impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    async fn admit(&self, request: &Request<'_>, object: &mut Object) -> Result<(), ApiError> {
        let create = request.operation == Operation::Create;
        if !request.is_core("Node") || !create {
            return Ok(());
        }
        let taint = json!({"key": NOT_READY, "effect": "NoSchedule"});
        if !object["spec"].is_object() {
            object["spec"] = json!({});
        }
        match object["spec"]["taints"].as_array_mut() {
            Some(all) => {
                if !all.iter().any(|t| t["key"] == NOT_READY && t["effect"] == "NoSchedule") {
                    all.push(taint);
                }
            }
            None => object["spec"]["taints"] = json!([taint]),
        }
        Ok(())
    }
}
