//! The kinds table: one row says everything generic code needs to know of a kind.
//!
//! [`KindTable`] is the table of one moment; rows of custom resources join and leave it by
//! [`KindTable::with`] and [`KindTable::without`], which make a new one.

mod builtin;
mod subresource;
mod table;

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value;

pub use subresource::{Subresource, SubresourceKind};
pub use table::{GroupVersions, KindTable, group_priority};

use super::custom::Custom;

type Str = Cow<'static, str>;

/// Where objects of a kind live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// In the cluster as a whole.
    Cluster,
    /// In a namespace.
    Namespaced,
}

/// What can be done with a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Stored objects: create, delete, deletecollection, get, list, patch, update, watch.
    Stored,
    /// A question that is answered and not stored (reviews): create.
    Asked,
}

/// A row of the table.
#[derive(Debug, Clone)]
pub struct Kind {
    /// API group; empty for the core group.
    pub group: Str,
    /// API version, as `v1`.
    pub version: Str,
    /// As `Deployment`.
    pub kind: Str,
    /// As `deployments`; also the last element of the URL.
    pub plural: Str,
    /// As `deployment`.
    pub singular: Str,
    /// As `deploy`.
    pub short_names: Cow<'static, [Str]>,
    /// As `all`.
    pub categories: Cow<'static, [Str]>,
    /// Where its objects live.
    pub scope: Scope,
    /// Whether objects are stored.
    pub access: Access,
    /// The subresources it serves.
    pub subresources: Cow<'static, [Subresource]>,
    /// Dotted paths that field selectors may name, besides `metadata.name` and
    /// `metadata.namespace`. A missing value selects as the empty string.
    pub selectable: Cow<'static, [Str]>,
    /// The schema of an object, as `io.k8s.api.apps.v1.Deployment`.
    pub schema: Str,
    /// First element of the keys under which its objects are stored, as `apps/deployments`;
    /// versions of one kind share it.
    pub storage: Str,
    /// `kind` of its lists, where it is not the kind with `List` behind.
    pub list: Str,
    /// What a definition says of it, for a custom kind.
    pub custom: Option<Arc<Custom>>,
}

impl Kind {
    /// `apiVersion` of its objects: `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `kind` of its lists: `DeploymentList`.
    pub fn list_kind(&self) -> String {
        if self.list.is_empty() { format!("{}List", self.kind) } else { self.list.to_string() }
    }

    /// The verbs of the main resource, as discovery tells them.
    pub fn verbs(&self) -> &'static [&'static str] {
        match self.access {
            Access::Stored if &*self.kind == "Namespace" && self.group.is_empty() => {
                &["create", "delete", "get", "list", "patch", "update", "watch"]
            }
            Access::Stored => {
                &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
            }
            Access::Asked => &["create"],
        }
    }

    /// Whether it serves `subresource`.
    pub fn serves(&self, subresource: Subresource) -> bool {
        self.subresources.contains(&subresource)
    }

    /// What a field selector compares with for `label`, which is one of [`Self::selectable`],
    /// `metadata.name` or `metadata.namespace`; `None` for any other label. Fields that are
    /// missing select as the empty string, flags and counters as Go prints their zero.
    pub fn selectable_value(&self, object: &Value, label: &str) -> Option<String> {
        let known = match label {
            "metadata.name" => true,
            "metadata.namespace" => self.scope == Scope::Namespaced,
            _ => self.selectable.iter().any(|s| s == label),
        };
        if !known {
            return None;
        }
        let path = match (&*self.kind, label) {
            ("Event", "source") if self.group.is_empty() => "source.component",
            ("Event", "source") => "deprecatedSource.component",
            ("Job", "status.successful") => "status.succeeded",
            ("Pod", "status.podIPs") => "status.podIP",
            _ => label,
        };
        let mut at = object;
        for part in path.split('.') {
            at = &at[part];
        }
        Some(match at {
            Value::String(text) => text.clone(),
            Value::Bool(flag) => flag.to_string(),
            Value::Number(number) => number.to_string(),
            _ if matches!(label, "spec.unschedulable" | "spec.hostNetwork") => "false".into(),
            _ if matches!(label, "status.replicas" | "status.successful") => "0".into(),
            _ => String::new(),
        })
    }

    /// The key of an object; `namespace` is ignored for cluster-scoped kinds.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        match self.scope {
            Scope::Cluster => format!("/{}/{}", self.storage, name),
            Scope::Namespaced => format!("/{}/{}/{}", self.storage, namespace, name),
        }
    }

    /// What the keys of all its objects, or of those in one namespace, start with.
    pub fn prefix(&self, namespace: Option<&str>) -> String {
        match (self.scope, namespace) {
            (Scope::Namespaced, Some(namespace)) => format!("/{}/{}/", self.storage, namespace),
            _ => format!("/{}/", self.storage),
        }
    }
}
