//! Questions about who somebody is and what they may do, tokens that are handed out, and what a
//! verifier of those tokens reads.

mod access;
mod discovery;
mod identity;
mod rules;
#[cfg(test)]
mod tests;
mod token_request;

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::start::AuthConfig;
use super::{UserInfo, authn, authz};
use crate::apiserver::answers::Answer;

/// Every answer, by what it answers.
pub(super) fn answers(
    config: &AuthConfig,
    authenticator: &Arc<authn::Chain>,
    authorizer: &Arc<authz::Chain>,
) -> HashMap<String, Arc<dyn Answer>> {
    use access::{AccessReview, Form};
    let access = |form| -> Arc<dyn Answer> {
        Arc::new(AccessReview { form, authorizer: authorizer.clone() })
    };
    let rules = rules::RulesReview { authorizer: authorizer.clone() };
    let token = identity::TokenReview { authenticator: authenticator.clone() };
    let all: [(&str, Arc<dyn Answer>); 9] = [
        ("authorization.k8s.io/subjectaccessreviews", access(Form::Of)),
        ("authorization.k8s.io/localsubjectaccessreviews", access(Form::Local)),
        ("authorization.k8s.io/selfsubjectaccessreviews", access(Form::Own)),
        ("authorization.k8s.io/selfsubjectrulesreviews", Arc::new(rules)),
        ("authentication.k8s.io/tokenreviews", Arc::new(token)),
        ("authentication.k8s.io/selfsubjectreviews", Arc::new(identity::SelfReview)),
        ("/serviceaccounts/token", Arc::new(token_request::TokenRequests::new(config))),
        (discovery::CONFIGURATION, Arc::new(discovery::configuration(config))),
        (discovery::KEYS, Arc::new(discovery::keys(config))),
    ];
    all.into_iter().map(|(key, answer)| (key.to_owned(), answer)).collect()
}

/// A user as `authentication.k8s.io` writes it.
fn user_info(user: &UserInfo) -> Value {
    let mut info = json!({});
    if !user.name.is_empty() {
        info["username"] = json!(user.name);
    }
    if !user.uid.is_empty() {
        info["uid"] = json!(user.uid);
    }
    if !user.groups.is_empty() {
        info["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

/// Strings of a list that may be missing.
fn strings(list: &Value) -> Vec<String> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}
