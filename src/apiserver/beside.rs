//! What is served on the API's port beside the Kubernetes API, under a path of its own, for users
//! that the API server knows and roles that it judges: the registry of images.

use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, Response};

use super::auth::{Attributes, Authorizer, Credentials, Decision, UserInfo};
use crate::api::status::ApiError;

/// Who asks, and the means to find out what they may do.
pub struct Caller {
    /// Why they are not who they say, where they are not.
    pub user: Result<UserInfo, ApiError>,
    pub authorizer: Arc<dyn Authorizer>,
}

impl Caller {
    /// The user, where one was named and it is true.
    pub fn known(&self) -> Option<&UserInfo> {
        let anonymous =
            |user: &UserInfo| user.groups.iter().any(|group| group == "system:unauthenticated");
        self.user.as_ref().ok().filter(|user| !anonymous(user))
    }

    /// Whether the user may do this; if not, why.
    ///
    /// # Errors
    /// In words for people.
    pub async fn may(&self, attributes: &Attributes) -> Result<(), String> {
        let Ok(user) = &self.user else { return Err("nobody".to_owned()) };
        match self.authorizer.authorize(user, attributes).await {
            Decision::Allow => Ok(()),
            Decision::Deny(reason) => {
                let Attributes { verb, group, resource, namespace, name, .. } = attributes;
                let place = match namespace.as_str() {
                    "" => "at the cluster scope".to_owned(),
                    namespace => format!("in the namespace {namespace:?}"),
                };
                let why = reason.map(|why| format!(": {why}")).unwrap_or_default();
                Err(format!(
                    "User {:?} cannot {verb} resource {resource:?} ({name:?}) in API group \
                     {group:?} {place}{why}",
                    user.name
                ))
            }
        }
    }
}

/// Serves everything below a path.
#[async_trait]
pub trait Beside: Send + Sync + 'static {
    async fn serve(&self, caller: Caller, request: Request<Body>) -> Response<Body>;
}

/// Clients of registries know only users and passwords: a token is the password of any user.
pub(super) fn with_password(request: &mut Request<Body>) {
    let Some(token) = password(request.headers()) else { return };
    let known = request.extensions().get::<Credentials>().cloned().unwrap_or_default();
    request.extensions_mut().insert(Credentials { bearer: Some(token), ..known });
}

fn password(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = text.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (_, password) = decoded.split_once(':')?;
    Some(password.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_the_password_of_any_user() {
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().expect("a header"));
            password(&headers)
        };
        let encoded = STANDARD.encode("x:a.b.c:d");
        assert_eq!(with(&format!("basic {encoded}")).as_deref(), Some("a.b.c:d"));
        assert_eq!(with("Bearer x"), None);
        assert_eq!(with("Basic %"), None);
    }
}
