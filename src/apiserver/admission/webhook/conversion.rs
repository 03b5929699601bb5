//! Conversion webhooks of custom kinds: `ConversionReview`, by the same way as admission's.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Caller, Target};
use crate::api::Object;
use crate::api::custom::Custom;
use crate::api::meta::list;
use crate::apiserver::registry::{Converter, Registry};

/// How long a conversion may take.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Asks the webhooks of definitions.
pub struct ConversionWebhooks {
    caller: Arc<Caller>,
    registry: std::sync::Weak<Registry>,
}

impl ConversionWebhooks {
    /// Asks by `caller`; uids come from `registry`.
    pub fn new(caller: Arc<Caller>, registry: &Arc<Registry>) -> Self {
        Self { caller, registry: Arc::downgrade(registry) }
    }
}

#[async_trait]
impl Converter for ConversionWebhooks {
    async fn convert(
        &self,
        custom: &Custom,
        desired: &str,
        objects: Vec<Object>,
    ) -> Result<Vec<Object>, String> {
        let registry = self.registry.upgrade().ok_or("the server is shutting down")?;
        let uid = registry.new_uid();
        let versions = list(&custom.webhook["conversionReviewVersions"]);
        let known = versions.iter().find(|v| matches!(v.as_str(), Some("v1" | "v1beta1")));
        let version = known.and_then(Value::as_str).unwrap_or("v1");
        let review = json!({
            "kind": "ConversionReview",
            "apiVersion": format!("apiextensions.k8s.io/{version}"),
            "request": {"uid": uid, "desiredAPIVersion": desired, "objects": objects},
        });
        let target = Target::parse(&custom.webhook["clientConfig"]);
        let body = self.caller.call(&target, &review, ANSWER_MAX).await?;
        let answer: Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        let response = &answer["response"];
        if response["uid"] != uid.as_str() {
            return Err("the answer is to another question".into());
        }
        if response["result"]["status"] != "Success" {
            let why = response["result"]["message"].as_str().unwrap_or("no reason was given");
            return Err(why.to_owned());
        }
        Ok(list(&response["convertedObjects"]).to_vec())
    }
}
