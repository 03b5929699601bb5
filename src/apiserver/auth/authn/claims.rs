//! The claims of service-account tokens, as Kubernetes writes and judges them
//! (`pkg/serviceaccount/claims.go`; RFC 7519).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Clocks may differ by so much.
pub const LEEWAY_SECONDS: i64 = 60;

/// An object that a token names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRef {
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// What `kubernetes.io` says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kubernetes {
    pub namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<ObjectRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<ObjectRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<ObjectRef>,
    pub serviceaccount: ObjectRef,
    /// When the holder should have had a new token, where this one is valid for longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

/// All of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    pub aud: Vec<String>,
    pub exp: i64,
    pub iat: i64,
    pub iss: String,
    pub jti: String,
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Kubernetes,
    pub nbf: i64,
    pub sub: String,
}

impl Claims {
    /// # Errors
    /// In the words of Kubernetes, when the token is outside its time.
    pub fn check_time(&self, now: Timestamp) -> Result<(), String> {
        let now = now.as_second();
        if now > self.exp.saturating_add(LEEWAY_SECONDS) {
            return Err("service account token has expired".to_owned());
        }
        if now < self.nbf.saturating_sub(LEEWAY_SECONDS) {
            return Err("service account token is not valid yet".to_owned());
        }
        Ok(())
    }

    /// The audiences of the token that are among `wanted`.
    ///
    /// # Errors
    /// In the words of Kubernetes, when there are none.
    pub fn shared_audiences(&self, wanted: &[String]) -> Result<Vec<String>, String> {
        let shared: Vec<String> =
            wanted.iter().filter(|audience| self.aud.contains(audience)).cloned().collect();
        if shared.is_empty() {
            let quoted = crate::apiserver::auth::authz::quoted;
            return Err(format!(
                "token audiences {} is invalid for the target audiences {}",
                quoted(&self.aud),
                quoted(wanted)
            ));
        }
        Ok(shared)
    }
}
