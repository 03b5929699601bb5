//! Who asks, and what they may do: the contract between the request path and the authenticators
//! and authorizers, and everything behind it ([`Auth`]).

mod admission;
mod answers;
mod authn;
mod authz;
mod mirror;
mod start;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use async_trait::async_trait;

pub use start::{Auth, AuthConfig};

use crate::api::status::ApiError;

/// A user, as `authentication.k8s.io` `UserInfo`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserInfo {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

/// What a request brought to tell who sent it.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// The client certificate, DER, already verified against the cluster's client CA by TLS.
    pub certificate: Option<Vec<u8>>,
    /// The token of `Authorization: Bearer …`.
    pub bearer: Option<String>,
}

/// A request as the authorizers see it (`authorization.k8s.io` attributes).
#[derive(Debug, Clone, Default)]
pub struct Attributes {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, …; for
    /// a non-resource request the lower-case HTTP method.
    pub verb: String,
    pub group: String,
    pub version: String,
    /// The plural; empty for a non-resource request.
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    /// The path of a non-resource request.
    pub path: String,
    /// The parsed `fieldSelector` as `(path, value)` of its `=` requirements.
    pub field_selector: Vec<(String, String)>,
}

/// What an authorizer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Allow,
    /// Nobody allowed it; the reason, where there is more to say than that.
    Deny(Option<String>),
}

/// Tells who asks.
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// `Ok(None)`: nothing was brought (an anonymous request).
    ///
    /// # Errors
    /// 401 when what was brought is not valid.
    async fn authenticate(&self, credentials: &Credentials) -> Result<Option<UserInfo>, ApiError>;
}

/// Tells what they may do.
#[async_trait]
pub trait Authorizer: Send + Sync + 'static {
    async fn authorize(&self, user: &UserInfo, attributes: &Attributes) -> Decision;
}
