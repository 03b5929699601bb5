//! What stands between an authorized, decoded write and validation: plugins that change or refuse
//! it, in a fixed order.

use async_trait::async_trait;

pub mod certificate_requester;
pub mod default_tolerations;
pub mod limit_ranger;
pub mod namespace_lifecycle;
pub mod priority;
pub mod resource_quota;
pub mod runtime_class;
pub mod service_account;
pub mod taint_nodes;

use super::auth::{Attributes, UserInfo};
use crate::api::Object;
use crate::api::status::ApiError;

/// What is about to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// A write on its way in.
#[derive(Debug)]
pub struct Request<'a> {
    pub operation: Operation,
    pub attributes: &'a Attributes,
    pub user: &'a UserInfo,
    /// The kind of the object, as `Pod`.
    pub kind: &'a str,
    /// The state before (update and delete).
    pub old: Option<&'a Object>,
    pub dry_run: bool,
}

/// A plugin. It does not do I/O beyond reading what the server has in memory.
#[async_trait]
pub trait Plugin: Send + Sync + 'static {
    /// As Kubernetes names it, `NamespaceLifecycle`.
    fn name(&self) -> &'static str;

    /// Change the object of a create or update, or refuse the request.
    ///
    /// # Errors
    /// 403 as Kubernetes words it.
    async fn admit(&self, request: &Request<'_>, object: &mut Object) -> Result<(), ApiError> {
        let _ = (request, object);
        Ok(())
    }

    /// Refuse the request, once every plugin has changed the object.
    ///
    /// # Errors
    /// 403 as Kubernetes words it.
    async fn validate(&self, request: &Request<'_>, object: &Object) -> Result<(), ApiError> {
        let _ = (request, object);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
