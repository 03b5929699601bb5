//! `SelfSubjectRulesReview`: everything that one may do in a namespace, for `kubectl auth can-i
//! --list`.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use crate::api::Object;
use crate::api::status::ApiError;
use crate::apiserver::answers::Answer;
use crate::apiserver::auth::authz::{Chain, NodeIdentity, Rule, identity, is_master};
use crate::apiserver::auth::{Attributes, UserInfo};

/// The answer.
pub(super) struct RulesReview {
    pub authorizer: Arc<Chain>,
}

#[async_trait]
impl Answer for RulesReview {
    async fn answer(
        &self,
        user: &UserInfo,
        _: &Attributes,
        mut object: Object,
    ) -> Result<Object, ApiError> {
        let namespace = object["spec"]["namespace"].as_str().unwrap_or_default();
        if namespace.is_empty() {
            return Err(ApiError::bad_request("no namespace on request"));
        }
        self.authorizer.settle().await;
        let held = self.authorizer.rbac.held(user, namespace);
        let everything = if is_master(user) { Rule::everything().to_vec() } else { Vec::new() };
        let rules: Vec<&Rule> = everything.iter().chain(&held.rules).collect();
        let mut errors = held.errors.clone();
        let is_node = identity(user) != NodeIdentity::No;
        if is_node {
            errors.insert(0, "node authorizer does not support user rule resolution".to_owned());
        }
        let mut status = json!({
            "resourceRules": rules.iter().filter_map(|rule| resource(rule)).collect::<Value>(),
            "nonResourceRules": rules.iter().filter_map(|rule| path(rule)).collect::<Value>(),
            "incomplete": is_node || !held.errors.is_empty(),
        });
        if !errors.is_empty() {
            status["evaluationError"] = json!(errors.join(", "));
        }
        object["status"] = status;
        Ok(object)
    }
}

fn resource(rule: &Rule) -> Option<Value> {
    if rule.resources.is_empty() {
        return None;
    }
    let mut told = json!({
        "verbs": rule.verbs,
        "apiGroups": rule.api_groups,
        "resources": rule.resources,
    });
    if !rule.resource_names.is_empty() {
        told["resourceNames"] = json!(rule.resource_names);
    }
    Some(told)
}

fn path(rule: &Rule) -> Option<Value> {
    let told = || json!({"verbs": rule.verbs, "nonResourceURLs": rule.urls});
    (!rule.urls.is_empty()).then(told)
}
