//! Questions that are answered and not stored: reviews, and subresources that hand something out
//! (`serviceaccounts/token`). The request path authenticates, authorizes, decodes and validates;
//! what answers is handed in with the server's configuration.

use async_trait::async_trait;

use super::auth::{Attributes, UserInfo};
use crate::api::Object;
use crate::api::status::ApiError;

/// Answers one kind of question. Configured under `GROUP/PLURAL` (`/pods` for the core group),
/// with `/SUBRESOURCE` behind it where it is one: `authorization.k8s.io/subjectaccessreviews`,
/// `/serviceaccounts/token`.
#[async_trait]
pub trait Answer: Send + Sync + 'static {
    /// Fills `object` (decoded and defaulted) in. `attributes` say what was asked for: namespace,
    /// and, for a subresource, the name of its parent.
    ///
    /// # Errors
    /// As Kubernetes words them.
    async fn answer(
        &self,
        user: &UserInfo,
        attributes: &Attributes,
        object: Object,
    ) -> Result<Object, ApiError>;
}
