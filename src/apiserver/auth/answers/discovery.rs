//! What a verifier of service-account tokens reads: OpenID Connect Discovery 1.0, and the keys
//! (RFC 7517).

use async_trait::async_trait;
use serde_json::json;

use crate::api::Object;
use crate::api::status::ApiError;
use crate::apiserver::answers::Answer;
use crate::apiserver::auth::start::AuthConfig;
use crate::apiserver::auth::{Attributes, UserInfo};

pub(super) const CONFIGURATION: &str = "/.well-known/openid-configuration";
pub(super) const KEYS: &str = "/openid/v1/jwks";

/// A document that never changes.
pub(super) struct Document(Object);

#[async_trait]
impl Answer for Document {
    async fn answer(&self, _: &UserInfo, _: &Attributes, _: Object) -> Result<Object, ApiError> {
        Ok(self.0.clone())
    }
}

/// Who issues the tokens, and where the keys are.
pub(super) fn configuration(config: &AuthConfig) -> Document {
    Document(json!({
        "issuer": config.issuer,
        "jwks_uri": format!("{}{KEYS}", config.issuer.trim_end_matches('/')),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    }))
}

/// The keys.
pub(super) fn keys(config: &AuthConfig) -> Document {
    Document(config.key.jwks())
}
