//! `TokenReview` and `SelfSubjectReview`: who is it?

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;

use super::{strings, user_info};
use crate::api::Object;
use crate::api::status::ApiError;
use crate::apiserver::answers::Answer;
use crate::apiserver::auth::authn::Chain;
use crate::apiserver::auth::{Attributes, UserInfo};

const AUTHENTICATED: &str = "system:authenticated";

/// Whose token is it?
pub(super) struct TokenReview {
    pub authenticator: Arc<Chain>,
}

#[async_trait]
impl Answer for TokenReview {
    async fn answer(
        &self,
        _: &UserInfo,
        _: &Attributes,
        mut object: Object,
    ) -> Result<Object, ApiError> {
        let token = object["spec"]["token"].as_str().unwrap_or_default();
        if token.is_empty() {
            let why = "token is required for TokenReview in authentication";
            return Err(ApiError::bad_request(why));
        }
        let wanted = strings(&object["spec"]["audiences"]);
        let status = match self.authenticator.token(token, &wanted).await {
            Ok((mut user, audiences)) => {
                user.groups.push(AUTHENTICATED.to_owned());
                json!({
                    "authenticated": true,
                    "user": user_info(&user),
                    "audiences": audiences,
                })
            }
            Err(error) => json!({
                "user": {},
                "error": error,
            }),
        };
        object["status"] = status;
        Ok(object)
    }
}

/// Who am I?
pub(super) struct SelfReview;

#[async_trait]
impl Answer for SelfReview {
    async fn answer(
        &self,
        user: &UserInfo,
        _: &Attributes,
        mut object: Object,
    ) -> Result<Object, ApiError> {
        object["status"] = json!({"userInfo": user_info(user)});
        Ok(object)
    }
}
