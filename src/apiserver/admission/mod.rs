//! What stands between an authorized, decoded write and validation: plugins that change or refuse
//! it, in a fixed order.
//!
//! ```text
//! plugins of the server ─▶ mutating policies ─▶ mutating webhooks ─┐ changed by a webhook:
//!         ▲─────────────────── once more ◀─────────────────────────┘
//! validation ─▶ plugins ─▶ validating policies ─▶ validating webhooks ─▶ quota
//! ```

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;

pub mod certificate_requester;
pub mod default_storage_class;
pub mod default_tolerations;
mod expressions;
pub mod limit_ranger;
mod matching;
pub mod namespace_lifecycle;
pub mod pod_security;
pub mod policy;
pub mod priority;
pub mod resource_quota;
pub mod runtime_class;
pub mod service_account;
pub mod taint_nodes;
pub mod webhook;

use super::auth::{Attributes, UserInfo};
use super::catalog::Resource;
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

impl Operation {
    /// As rules and reviews name it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// What is told of a request besides its answer: by plugins, as it goes through them.
#[derive(Debug, Default)]
pub struct Told {
    warnings: Mutex<Vec<String>>,
    annotations: Mutex<Vec<(String, String)>>,
    changed: AtomicBool,
}

impl Told {
    /// Words for the `Warning` header; said once each.
    pub fn warn(&self, warning: impl Into<String>) {
        let warning = warning.into();
        let mut all = self.warnings.lock();
        if !all.contains(&warning) {
            all.push(warning);
        }
    }

    /// A line of the audit log.
    pub fn annotate(&self, key: impl Into<String>, value: impl Into<String>) {
        self.annotations.lock().push((key.into(), value.into()));
    }

    /// What was said for the `Warning` header.
    pub fn warnings(&self) -> Vec<String> {
        self.warnings.lock().clone()
    }

    /// What was said for the audit log.
    pub fn annotations(&self) -> Vec<(String, String)> {
        self.annotations.lock().clone()
    }

    /// Something outside this server has changed the object: the server's own plugins look again.
    pub(super) fn set_changed(&self) {
        self.changed.store(true, Ordering::Relaxed);
    }

    pub(super) fn take_changed(&self) -> bool {
        self.changed.swap(false, Ordering::Relaxed)
    }
}

/// A write on its way in.
#[derive(Debug)]
pub struct Request<'a> {
    pub operation: Operation,
    pub attributes: &'a Attributes,
    pub user: &'a UserInfo,
    /// The kind of the object, as `Pod`.
    pub kind: &'a str,
    /// The resource of the request; of a subresource, its parent's.
    pub resource: &'a Resource,
    /// The state before (update and delete).
    pub old: Option<&'a Object>,
    pub dry_run: bool,
    /// The second time around, after something outside has changed the object.
    pub again: bool,
    pub told: &'a Told,
}

impl Request<'_> {
    /// Whether the request is about a resource itself, of the core group.
    pub fn is_core(&self, kind: &str) -> bool {
        self.attributes.group.is_empty()
            && self.kind == kind
            && self.attributes.subresource.is_empty()
    }

    /// The name of the object: that of the URL, or else the object's own.
    pub fn name<'o>(&'o self, object: &'o Object) -> &'o str {
        let own = crate::api::meta::name(object);
        if own.is_empty() { &self.attributes.name } else { own }
    }
}

/// A plugin. But for webhooks, it does no I/O beyond reading what the server has in memory.
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
